//! Reads a config.json: all that is wrong with it is told at once, each mistake with its place.
//! First the types, by the table in `schema.rs`; then what the specification says of the values.

use super::schema::{Field, Kind, PROCESS, RESOURCES, SPEC};
use crate::error::{Problem, ResultExt, with_hint};
use crate::linux::caps;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;
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

/// Reads a config.json.
///
/// # Errors
/// It cannot be read, is no JSON, or has values of wrong types: all of them are told.
pub fn load(path: &Path) -> Result<Checked<Spec>> {
    let bytes = std::fs::read(path)
        .with_context(|| format!("read {}", path.display()))
        .hint("--bundle names the directory that holds config.json; `runtime spec` writes one")?;
    parse(&bytes).map_err(|problems| error_of(&path.display().to_string(), &problems))
}

/// The same of its text.
pub fn parse(bytes: &[u8]) -> Result<Checked<Spec>, Vec<Problem>> {
    let mut document = Document::read(bytes, &SPEC)?;
    let process = &mut document.value["process"];
    prepare_process(process, "process", &mut document.warnings);
    destinations(&document.value, &mut document.warnings);
    let mut problems = Vec::new();
    spec(&document.value, &mut problems);
    document.into(problems)
}

/// The file of `exec --process`.
pub fn parse_process(bytes: &[u8]) -> Result<Checked<Process>, Vec<Problem>> {
    let mut document = Document::read(bytes, &PROCESS)?;
    prepare_process(&mut document.value, "", &mut document.warnings);
    let mut problems = Vec::new();
    process(&document.value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    document.into(problems)
}

/// The file of `update --resources`.
pub fn parse_resources(bytes: &[u8]) -> Result<Checked<LinuxResources>, Vec<Problem>> {
    let document = Document::read(bytes, &RESOURCES)?;
    let mut problems = Vec::new();
    resources(&document.value, "", &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    document.into(problems)
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
    fn read(bytes: &[u8], kind: &'static Kind) -> Result<Document, Vec<Problem>> {
        let whole = |what: String| vec![problem("", what)];
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(whole("it is empty".to_owned()));
        }
        let mut value: Value = serde_json::from_slice(bytes)
            .map_err(|error| whole(format!("it is no JSON: {error}")))?;
        let mut findings = Findings::default();
        findings.look(&mut value, kind, &mut String::new());
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

    fn into<T: DeserializeOwned>(self, problems: Vec<Problem>) -> Result<Checked<T>, Vec<Problem>> {
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

fn problem(path: &str, what: impl Into<String>) -> Problem {
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
    fn look(&mut self, value: &mut Value, kind: &'static Kind, path: &mut String) {
        match (kind, value) {
            (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::String(_)) => {}
            (Kind::Int(least, most), Value::Number(number)) => {
                let found = number.as_i128().filter(|_| !number.is_f64());
                if !found.is_some_and(|n| (*least..=*most).contains(&n)) {
                    let what = format!("{number} is not a whole number from {least} to {most}");
                    self.problems.push(problem(path, what));
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
                    self.problems.push(problem(path, what));
                }
            }
            (Kind::List(kind), Value::Array(list)) => {
                for (index, value) in list.iter_mut().enumerate() {
                    self.below(path, &format!("[{index}]"), |me, path| {
                        me.look(value, kind, path)
                    });
                }
            }
            (Kind::Map(kind), Value::Object(map)) => {
                map.retain(|_, value| !value.is_null());
                for (key, value) in map {
                    self.below(path, &format!(".{key}"), |me, path| {
                        me.look(value, kind, path)
                    });
                }
            }
            (Kind::Object(fields), Value::Object(map)) => self.object(map, fields, path),
            (Kind::Foreign, _) => {
                let what = "it is for other systems or obsolete, and ignored";
                self.warnings.push(problem(path, what));
            }
            (kind, value) => {
                let what = format!("it must be {}, not {}", name_of(kind), kind_of(value));
                self.problems.push(problem(path, what));
            }
        }
    }

    fn object(
        &mut self,
        map: &mut serde_json::Map<String, Value>,
        fields: &'static [Field],
        path: &mut String,
    ) {
        map.retain(|_, value| !value.is_null());
        for field in fields {
            let name = separated(path, field.name);
            match map.get_mut(field.name) {
                Some(value) => {
                    self.below(path, &name, |me, path| me.look(value, &field.kind, path))
                }
                None if field.required => self.below(path, &name, |me, path| {
                    me.problems.push(problem(path, "it is required"));
                }),
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
            let name = separated(path, key);
            self.below(path, &name, |me, path| {
                me.notes.push(problem(path, "unknown field, ignored"));
            });
        }
    }

    /// Does something one step further down.
    fn below(
        &mut self,
        path: &mut String,
        step: &str,
        action: impl FnOnce(&mut Self, &mut String),
    ) {
        let length = path.len();
        path.push_str(step);
        action(self, path);
        path.truncate(length);
    }
}

fn separated(path: &str, name: &str) -> String {
    match path.is_empty() {
        true => name.to_owned(),
        false => format!(".{name}"),
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

/// Fills in what oci-spec wants to be there, and leaves unknown capabilities out (config.md: "Any
/// value which cannot be mapped to a relevant kernel interface … a warning").
fn prepare_process(process: &mut Value, path: &str, warnings: &mut Vec<Problem>) {
    if process.get("user").is_none() {
        process["user"] = json!({});
    }
    for id in ["uid", "gid"] {
        let user = &mut process["user"];
        if user.get(id).is_none() {
            user[id] = 0.into();
        }
    }
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
            warnings.push(problem(
                &separated_from(path, &format!("capabilities.{set}")),
                what,
            ));
        }
    }
}

/// `field` below `path`.
fn separated_from(path: &str, field: &str) -> String {
    format!("{path}{}", separated(path, field))
}

/// What config.md and config-linux.md demand of the values.
fn spec(spec: &Value, problems: &mut Vec<Problem>) {
    let mut wrong = |path: &str, what: String| problems.push(problem(path, what));
    let version = text(&spec["ociVersion"]);
    if !is_version_one(version) {
        let what = format!("{version:?} is not a version 1.x.y of the runtime-spec");
        wrong("ociVersion", what);
    }
    let namespaces = list(&spec["linux"]["namespaces"]);
    let kinds: Vec<&str> = namespaces.iter().map(|n| text(&n["type"])).collect();
    for (index, kind) in kinds.iter().enumerate() {
        if kinds[..index].contains(kind) {
            wrong("linux.namespaces", format!("{kind} is there twice"));
        }
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let path = text(&namespace["path"]);
        if !path.is_empty() && !path.starts_with('/') {
            let at = format!("linux.namespaces[{index}].path");
            wrong(&at, format!("{path:?} is not absolute"));
        }
    }
    for (field, kind) in [
        ("hostname", "uts"),
        ("domainname", "uts"),
        ("linux.uidMappings", "user"),
        ("linux.gidMappings", "user"),
        ("linux.timeOffsets", "time"),
    ] {
        let value = spec.pointer(&format!("/{}", field.replace('.', "/")));
        let given = value.is_some_and(|value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => false,
        });
        if given && !kinds.contains(&kind) {
            let what = format!("it needs a {kind} namespace in linux.namespaces");
            wrong(field, what);
        }
    }
    mappings(spec, problems);
    hooks(&spec["hooks"], problems);
    sysctl(&spec["linux"]["sysctl"], &kinds, problems);
    process(&spec["process"], "process", problems);
    resources(&spec["linux"]["resources"], "linux.resources", problems);
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

/// What the kernel would take for something else, or refuse without a reason.
fn resources(resources: &Value, path: &str, problems: &mut Vec<Problem>) {
    let at = |field: &str| match path.is_empty() {
        true => field.to_owned(),
        false => format!("{path}.{field}"),
    };
    for field in ["limit", "reservation", "swap"] {
        let bytes = resources["memory"][field].as_i64().unwrap_or(0);
        if bytes < -1 {
            let what = format!("{bytes} is no number of bytes, nor -1 for no limit");
            problems.push(problem(&at(&format!("memory.{field}")), what));
        }
    }
    // The kernel makes the greatest weight of a greater one.
    if let Some(shares) = resources["cpu"]["shares"]
        .as_u64()
        .filter(|n| *n > MOST_SHARES)
    {
        let what = format!("{shares} is more than {MOST_SHARES}, the most that there is");
        problems.push(problem(&at("cpu.shares"), what));
    }
}

const MOST_SHARES: u64 = 262_144;

fn mappings(spec: &Value, problems: &mut Vec<Problem>) {
    for field in ["uidMappings", "gidMappings"] {
        for (index, mapping) in list(&spec["linux"][field]).iter().enumerate() {
            if mapping["size"] == 0 {
                let at = format!("linux.{field}[{index}].size");
                problems.push(problem(&at, "a mapping of no ids"));
            }
        }
    }
}

fn hooks(hooks: &Value, problems: &mut Vec<Problem>) {
    for (kind, hooks) in hooks.as_object().into_iter().flatten() {
        for (index, hook) in list(hooks).iter().enumerate() {
            let path = text(&hook["path"]);
            if !path.starts_with('/') {
                let at = format!("hooks.{kind}[{index}].path");
                problems.push(problem(&at, format!("{path:?} is not absolute")));
            }
        }
    }
}

/// Parameters that belong to a namespace; all others are the whole machine's.
fn sysctl(parameters: &Value, kinds: &[&str], problems: &mut Vec<Problem>) {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for name in parameters
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        let dotted = match (name.find('/'), name.find('.')) {
            (Some(slash), Some(dot)) if slash < dot => name.replace('/', "."),
            (Some(_), None) => name.replace('/', "."),
            _ => name.clone(),
        };
        let kind = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            "ipc"
        } else if dotted.starts_with("net.") {
            "network"
        } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
            "uts"
        } else if dotted.starts_with("user.") {
            "user"
        } else {
            let what = format!("{name} is a parameter of the whole machine, not of a container");
            problems.push(problem("linux.sysctl", what));
            continue;
        };
        if !kinds.contains(&kind) {
            let what = format!("{name} needs a {kind} namespace in linux.namespaces");
            problems.push(problem("linux.sysctl", what));
        }
    }
}

fn process(process: &Value, path: &str, problems: &mut Vec<Problem>) {
    let at = |name: &str| match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    let mut wrong = |path: String, what: String| problems.push(problem(&path, what));
    let args = list(&process["args"]);
    if args.first().is_none_or(|first| text(first).is_empty()) {
        wrong(at("args"), "there is no program to run".to_owned());
    }
    let cwd = text(&process["cwd"]);
    if !cwd.starts_with('/') {
        wrong(at("cwd"), format!("{cwd:?} is not absolute"));
    }
    for (field, values) in [("args", args), ("env", list(&process["env"]))] {
        for (index, value) in values.iter().enumerate() {
            if text(value).contains('\0') {
                wrong(
                    at(&format!("{field}[{index}]")),
                    "it holds a null byte".to_owned(),
                );
            }
        }
    }
    for (index, variable) in list(&process["env"]).iter().enumerate() {
        let variable = text(variable);
        if !variable.contains('=') {
            let what = format!("{variable:?} is not of the form NAME=VALUE");
            wrong(at(&format!("env[{index}]")), what);
        }
    }
    let mut seen = BTreeSet::new();
    for limit in list(&process["rlimits"]) {
        let kind = text(&limit["type"]);
        if !seen.insert(kind) {
            wrong(at("rlimits"), format!("{kind} is there twice"));
        }
        if limit["soft"].as_u64() > limit["hard"].as_u64() {
            wrong(
                at("rlimits"),
                format!("{kind}: the soft limit is above the hard one"),
            );
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Semantic Versioning 2.0.0, major version 1.
fn is_version_one(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    matches!(numbers.as_slice(), [Some(1), Some(_), Some(_)])
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
