//! Reads a config.json: all that is wrong with it is told at once, each mistake with its place.
//! First the types, by the table in `schema.rs`; then what the specification says of the values
//! (`values.rs`).

use super::log;
use super::schema::{FOREIGN_ARCHITECTURES, Field, Kind, MOUNTS, PROCESS, RESOURCES, SPEC};
use super::values::{self, list, text};
use crate::error::{Problem, with_hint};
use crate::linux::caps;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{LinuxResources, Mount, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::Path;

/// A document that has the right form.
#[derive(Debug)]
pub struct Checked<T> {
    /// What it says.
    pub value: T,
    /// What is odd and does no harm: unknown capabilities, fields for other systems.
    pub warnings: Vec<Problem>,
    /// Unknown fields, by which others extend the format (config.md, "Extensibility": a runtime may
    /// log them, and ignores them otherwise).
    pub notes: Vec<Problem>,
    /// What is wrong with it all the same; told together with what the plan finds.
    pub problems: Vec<Problem>,
}

/// What a document says, or all that is wrong with it.
pub type Verdict<T> = Result<Checked<T>, Vec<Problem>>;

impl<T> Checked<T> {
    /// Reads a file that the command line names, `-` being standard input, and judges it by one of
    /// the functions below. What is odd in it is told in the log.
    ///
    /// # Errors
    /// It cannot be read, is no JSON, or has values of wrong types: all of them are told.
    pub fn of_file(path: &Path, parse: impl FnOnce(&[u8]) -> Verdict<T>) -> Result<Checked<T>> {
        let file = path.display();
        let checked =
            parse(&read(path)?).map_err(|problems| error_of(&file.to_string(), &problems))?;
        for warning in &checked.warnings {
            log::warn(&format!("{file}: {warning}"));
        }
        for note in &checked.notes {
            log::info(&format!("{file}: {note}"));
        }
        Ok(checked)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path != Path::new("-") {
        return std::fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.context("read standard input").map(|_| bytes)
}

/// A config.json.
pub fn config(bytes: &[u8]) -> Verdict<Spec> {
    let mut document = Document::read(bytes, &SPEC, |spec| {
        leave_out_console_size(spec.get_mut("process"));
    })?;
    if let Some(process) = document.value.get_mut("process") {
        prepare_process(process, "process", &mut document.warnings);
    }
    leave_out_pids(document.value.pointer_mut("/linux/resources"));
    leave_out_architectures(document.value.pointer_mut("/linux/seccomp/architectures"));
    destinations(&document.value, &mut document.warnings);
    let mut problems = Vec::new();
    values::spec(&document.value, &mut problems);
    document.into(problems)
}

/// The file of `exec --process`.
pub fn process(bytes: &[u8]) -> Verdict<Process> {
    let mut document = Document::read(bytes, &PROCESS, |process| {
        leave_out_console_size(Some(process));
    })?;
    prepare_process(&mut document.value, "", &mut document.warnings);
    let mut problems = Vec::new();
    values::process(&document.value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    document.into(problems)
}

/// The mounts that a file names.
#[derive(Debug, serde::Deserialize)]
pub struct MountList {
    /// In their order.
    pub mounts: Vec<Mount>,
}

/// The file of `mounts add` and `mounts remove`: an array, or an object that has it as `mounts`.
pub fn mounts(bytes: &[u8]) -> Verdict<MountList> {
    let mut document = Document::read(bytes, &MOUNTS, |value| {
        if value.is_array() {
            *value = json!({"mounts": value.take()});
        }
    })?;
    destinations(&document.value, &mut document.warnings);
    document.into(Vec::new())
}

/// The file of `update --resources`.
pub fn resources(bytes: &[u8]) -> Verdict<LinuxResources> {
    let mut document = Document::read(bytes, &RESOURCES, |_| {})?;
    // Nobody extends this format, so that it is a slip.
    document.warnings.append(&mut document.notes);
    leave_out_pids(Some(&mut document.value));
    let mut problems = Vec::new();
    values::resources(&document.value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    document.into(problems)
}

/// The same of limits that no file has named.
///
/// # Errors
/// All values that the specification or the kernel has no meaning for.
pub fn values_of_resources(resources: &LinuxResources) -> Result<()> {
    let mut problems = Vec::new();
    values::resources(&serde_json::to_value(resources)?, "", &mut problems);
    match problems.as_slice() {
        [] => Ok(()),
        some => Err(error_of("update", some)),
    }
}

/// One error for all problems of a file, a line each when there are several.
pub fn error_of(file: &str, problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let error = match lines.as_slice() {
        [one] => anyhow!("{file}: {one}"),
        many => anyhow!("{file}: {} problems:\n  {}", many.len(), many.join("\n  ")),
    };
    with_hint(
        error,
        "each place is named as in config.md of the runtime-spec",
    )
}

/// A JSON document whose types are right.
struct Document {
    value: Value,
    warnings: Vec<Problem>,
    notes: Vec<Problem>,
}

impl Document {
    /// `before` changes what is read before anybody judges it.
    fn read(
        bytes: &[u8],
        kind: &'static Kind,
        before: impl FnOnce(&mut Value),
    ) -> Result<Document, Vec<Problem>> {
        let whole = |what: String| vec![problem("", what)];
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(whole("it is empty".to_owned()));
        }
        let no_json = |error: &dyn fmt::Display| whole(format!("it is no JSON: {error}"));
        // At once, and not each string by itself.
        let text = std::str::from_utf8(bytes).map_err(|error| no_json(&error))?;
        let mut value: Value = serde_json::from_str(text).map_err(|error| no_json(&error))?;
        before(&mut value);
        let mut findings = Findings::default();
        findings.look(&mut value, kind, Place::Top);
        if findings.problems.is_empty() {
            Ok(Document {
                value,
                warnings: findings.warnings,
                notes: findings.notes,
            })
        } else {
            Err(findings.problems)
        }
    }

    fn into<T: DeserializeOwned>(self, problems: Vec<Problem>) -> Verdict<T> {
        match serde_json::from_value(self.value) {
            Ok(value) => Ok(Checked {
                value,
                warnings: self.warnings,
                notes: self.notes,
                problems,
            }),
            // The table and the types of oci-spec do not agree.
            Err(error) => Err(vec![problem("", error.to_string())]),
        }
    }
}

pub(super) fn problem(path: &str, what: impl Into<String>) -> Problem {
    Problem {
        path: path.to_owned(),
        what: what.into(),
    }
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    notes: Vec<Problem>,
}

impl Findings {
    /// Compares a value with its kind. What is null counts as not there, as for every other runtime.
    fn look(&mut self, value: &mut Value, kind: &'static Kind, place: Place<'_>) {
        match (kind, value) {
            (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) => {}
            (Kind::Int(least, most), Value::Number(number)) => {
                let found = number.as_i128().filter(|_| !number.is_f64());
                if !found.is_some_and(|n| (*least..=*most).contains(&n)) {
                    let what = format!("{number} is not a whole number from {least} to {most}");
                    self.problems.push(place.problem(what));
                }
            }
            (Kind::Word(words), Value::String(text)) => {
                if !words.contains(&text.as_str()) {
                    let words: Vec<_> = words
                        .iter()
                        .filter(|word| !word.is_empty())
                        .copied()
                        .collect();
                    let what = format!("unknown value {text:?}; there are {}", words.join(", "));
                    self.problems.push(place.problem(what));
                }
            }
            (Kind::List(kind), Value::Array(list)) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.look(value, kind, Place::Item(&place, index));
                }
            }
            (Kind::Map(kind), Value::Object(map)) => {
                map.retain(|_, value| !value.is_null());
                for (key, value) in map {
                    self.look(value, kind, Place::Field(&place, key));
                }
            }
            (Kind::Object(fields), Value::Object(map)) => self.object(map, fields, place),
            (Kind::Foreign, _) => {
                let what = "it is for other systems or obsolete, and ignored";
                self.warnings.push(place.problem(what));
            }
            (kind, value) => {
                let what = format!("it must be {}, not {}", name_of(kind), kind_of(value));
                self.problems.push(place.problem(what));
            }
        }
    }

    fn object(
        &mut self,
        map: &mut serde_json::Map<String, Value>,
        fields: &'static [Field],
        place: Place<'_>,
    ) {
        map.retain(|_, value| !value.is_null());
        for field in fields {
            let place = Place::Field(&place, field.name);
            match map.get_mut(field.name) {
                Some(value) => self.look(value, &field.kind, place),
                None if field.required => self.problems.push(place.problem("it is required")),
                None => {}
            }
        }
        // oci-spec would look at it all the same.
        map.retain(|key, _| {
            let field = fields.iter().find(|field| field.name == key);
            !field.is_some_and(|field| matches!(field.kind, Kind::Foreign))
        });
        let known = |key: &str| fields.iter().any(|field| field.name == key);
        for key in map.keys().filter(|key| !known(key)) {
            let place = Place::Field(&place, key);
            self.notes.push(place.problem("unknown field, ignored"));
        }
    }
}

/// Where a value is in a document. It is put into words only for what is wrong there: a spec has many
/// hundreds of values.
#[derive(Clone, Copy)]
enum Place<'a> {
    Top,
    Field(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn problem(&self, what: impl Into<String>) -> Problem {
        problem(&self.to_string(), what)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Top => Ok(()),
            Place::Field(Place::Top, name) => f.write_str(name),
            Place::Field(above, name) => write!(f, "{above}.{name}"),
            Place::Item(above, index) => write!(f, "{above}[{index}]"),
        }
    }
}

fn name_of(kind: &Kind) -> &'static str {
    match kind {
        Kind::Bool => "true or false",
        Kind::Int(..) => "a number",
        Kind::Text | Kind::Word(_) => "a string",
        Kind::List(_) => "a list",
        Kind::Map(_) | Kind::Object(_) | Kind::Foreign => "an object",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Without a terminal its size must be ignored, whatever it is (config.md, "Process").
fn leave_out_console_size(process: Option<&mut Value>) {
    if let Some(Value::Object(process)) = process
        && process.get("terminal") != Some(&Value::Bool(true))
    {
        process.remove("consoleSize");
    }
}

/// Without a limit there is none; oci-spec would make it 0.
fn leave_out_pids(resources: Option<&mut Value>) {
    if let Some(Value::Object(resources)) = resources
        && resources
            .get("pids")
            .is_some_and(|pids| pids.get("limit").is_none())
    {
        resources.remove("pids");
    }
}

/// Leaves out the architectures of machines that this program is not for.
fn leave_out_architectures(list: Option<&mut Value>) {
    if let Some(Value::Array(names)) = list {
        names.retain(|name| !FOREIGN_ARCHITECTURES.contains(&name.as_str().unwrap_or_default()));
    }
}

/// Says in oci-spec's words what it has other words for than config.md, and leaves out what is empty
/// where that means nothing (config.md, "execCPUAffinity").
fn in_words_of_oci_spec(process: &mut Value) {
    if let Some(Value::Array(flags)) = process.pointer_mut("/scheduler/flags") {
        for flag in flags {
            match flag.as_str() {
                Some("SCHED_FLAG_RESET_ON_FORK") => *flag = json!("SCHED_RESET_ON_FORK"),
                Some("SCHED_FLAG_DL_OVERRUN") => *flag = json!("SCHED_FLAG_D_L_OVERRUN"),
                _ => {}
            }
        }
    }
    if let Some(Value::Object(affinity)) = process.get_mut("execCPUAffinity") {
        affinity.retain(|_, list| list.as_str() != Some(""));
    }
}

/// Fills in what oci-spec wants to be there, and leaves unknown capabilities out (config.md: "Any
/// value which cannot be mapped to a relevant kernel interface … a warning").
fn prepare_process(process: &mut Value, path: &str, warnings: &mut Vec<Problem>) {
    if process.get("user").is_none() {
        process["user"] = json!({"uid": 0, "gid": 0});
    }
    in_words_of_oci_spec(process);
    let Some(Value::Object(sets)) = process.get_mut("capabilities") else {
        return;
    };
    for (set, list) in sets {
        let Value::Array(names) = list else { continue };
        let mut unknown = BTreeSet::new();
        names.retain(|name| {
            let name = name.as_str().unwrap_or_default();
            let known = name.starts_with("CAP_") && caps::known(name);
            if !known {
                unknown.insert(name.to_owned());
            }
            known
        });
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.into_iter().collect();
            // Those who search logs know these words from runc.
            let what = format!(
                "ignoring unknown or unavailable capabilities: [{}]",
                names.join(" ")
            );
            let above = match path {
                "" => Place::Top,
                path => Place::Field(&Place::Top, path),
            };
            let list = Place::Field(&above, "capabilities");
            warnings.push(Place::Field(&list, set).problem(what));
        }
    }
}

/// A relative destination is still allowed, and no longer wanted (config.md, "Mounts").
fn destinations(spec: &Value, warnings: &mut Vec<Problem>) {
    for (index, mount) in list(&spec["mounts"]).iter().enumerate() {
        let destination = text(&mount["destination"]);
        if !destination.starts_with('/') {
            let at = format!("mounts[{index}].destination");
            let what = format!("{destination:?} is not absolute, and taken from the root");
            warnings.push(problem(&at, what));
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
