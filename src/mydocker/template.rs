//! Go templates as Docker's users write them, on the crate `gtmpl`.

use super::template_functions::{FUNCTIONS, Function, HEADINGS};
use super::template_ranges::in_order;
use crate::error::{ResultExt, with_hint};
use anyhow::{Context, Result, anyhow};
use gtmpl::{Template, Value as Go};
use serde_json::Value;
use std::collections::BTreeMap;

/// A template that has been read.
pub(super) struct Compiled {
    template: Template,
    text: String,
}

impl Compiled {
    pub(super) fn new(text: &str) -> Result<Compiled> {
        Compiled::with(text, &[])
    }

    /// For texts that are names of values: what changes values leaves them as they are.
    pub(super) fn of_names(text: &str) -> Result<Compiled> {
        Compiled::with(text, &HEADINGS)
    }

    fn with(text: &str, functions: &[(&str, Function)]) -> Result<Compiled> {
        if !is_closed(text) {
            return Err(anyhow!("--format {text:?}: a {{{{ without its }}}}"))
                .hint("it is a Go template, such as '{{.Id}}' or '{{json .Config}}'");
        }
        let mut template = Template::default();
        template.add_funcs(&FUNCTIONS);
        template.add_funcs(functions);
        template
            .parse(shown(&in_order(text)))
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("--format {text:?}"))
            .hint("it is a Go template, such as '{{.Id}}' or '{{json .Config}}'")?;
        Ok(Compiled {
            template,
            text: text.to_owned(),
        })
    }

    pub(super) fn render(&self, object: &Value) -> Result<String> {
        let text = with_json(&self.text, object);
        match text == self.text {
            true => self.render_as_is(object),
            false => Compiled::new(&text)?.render_as_is(object),
        }
    }

    fn render_as_is(&self, object: &Value) -> Result<String> {
        let context = gtmpl::Context::from(go("", object));
        self.template
            .render(&context)
            .map_err(|error| anyhow!("{}", shortened(&error.to_string())))
            .with_context(|| format!("--format {:?}", self.text))
            .map_err(|error| {
                let hint = self.known_fields(&crate::error::message(&error), object);
                with_hint(error, hint)
            })
    }

    /// The fields beside the one that is not there.
    fn known_fields(&self, message: &str, object: &Value) -> String {
        let missing = message.rsplit("no field ").next().unwrap_or_default();
        // `.State.Nope`: how the template gets there, if that is plain to see.
        let end = self.text.find(&format!(".{missing}"));
        let before = end.map_or("", |end| &self.text[..end]);
        let start = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '.')
            .map_or(0, |at| at + 1);
        let path = before[start..].replace('.', "/");
        match object.pointer(&path).unwrap_or(object) {
            Value::Object(map) if message.contains("no field ") => {
                let names: Vec<&str> = map.keys().map(String::as_str).collect();
                format!("there are {}", names.join(", "))
            }
            _ => "`--format json` shows the fields that there are".to_owned(),
        }
    }
}

/// Whether each action has its end.
fn is_closed(template: &str) -> bool {
    let mut rest = template;
    while let Some((_, after)) = rest.split_once("{{") {
        rest = &after[action_end(after)..];
        if rest.is_empty() {
            return false;
        }
    }
    true
}

/// The template with its actions changed.
pub(super) fn rewritten(template: &str, mut change: impl FnMut(&str) -> String) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, behind) = after.split_at(action_end(after));
        text.push_str(before);
        text.push_str("{{");
        text.push_str(&change(action));
        rest = behind;
    }
    text.push_str(rest);
    text
}

/// What an action does, and the mark at its end that takes blanks away.
pub(super) fn parts(action: &str) -> (&str, &str) {
    let body = action.trim_end();
    match body.strip_suffix('-') {
        Some(body) if body.ends_with(char::is_whitespace) => (body, " -"),
        _ => (body, ""),
    }
}

/// Its words without the mark at its beginning, and the first of them.
pub(super) fn words(body: &str) -> (&str, &str) {
    let start = body.strip_prefix('-').unwrap_or(body).trim_start();
    let word = start.split([' ', '\t', '\n']).next().unwrap_or_default();
    (start, word)
}

/// The variables that an action or a `range` declares, and what is given to them: `$k, $v := X`.
pub(super) fn declared(start: &str) -> Option<(Vec<&str>, &str)> {
    let (names, pipe) = start.split_once(":=")?;
    let names: Vec<&str> = names.split(',').map(str::trim).collect();
    let is_variable = |name: &&str| {
        let name = name.strip_prefix('$');
        name.is_some_and(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_'))
    };
    names
        .iter()
        .all(is_variable)
        .then_some((names, pipe.trim()))
}

/// The template with `| show` at the end of each action that prints a value: lists and maps look as
/// Go prints them, not as the crate does.
fn shown(template: &str) -> String {
    rewritten(template, |action| {
        let (body, dash) = parts(action);
        let (start, word) = words(body);
        let silent = matches!(
            word,
            "" | "if" | "else" | "end" | "range" | "with" | "define" | "template" | "block"
        );
        let assigns = declared(start).is_some();
        match silent || assigns || start.starts_with("/*") {
            true => action.to_owned(),
            false => format!("{body} | show{dash}"),
        }
    })
}

/// The template with what the object has there in the place of `json .A.B`: for all other functions
/// `null` is an empty list or map.
fn with_json(template: &str, object: &Value) -> String {
    // Whether `.` stands for something else, in each of what has an end: what, is not known here.
    let mut moved: Vec<bool> = Vec::new();
    rewritten(template, |action| {
        let (body, dash) = parts(action);
        let (start, word) = words(body);
        match word {
            "if" => moved.push(false),
            "range" | "with" | "define" | "block" => moved.push(true),
            "end" => drop(moved.pop()),
            _ => {}
        }
        let path = start.strip_prefix("json ").map(str::trim);
        let is_path = |path: &&str| path.starts_with('.') && !path.contains(' ');
        let path = path.filter(is_path).filter(|_| !moved.contains(&true));
        let found = path.and_then(|path| match path {
            "." => Some(object),
            path => object.pointer(&path.replace('.', "/")),
        });
        let mark = &body[..body.len() - start.len()];
        match found {
            Some(found) => format!("{mark}{}{dash}", Value::from(found.to_string())),
            None => action.to_owned(),
        }
    })
}

/// The template with the values of labels in the place of `.Label "name"`, which is a method in
/// Docker's.
pub(super) fn with_labels(template: &str, labels: &BTreeMap<String, String>) -> String {
    rewritten(template, |mut action| {
        let mut text = String::new();
        while let Some((before, name, after)) = label(action) {
            let value = labels.get(&name).map_or("", String::as_str);
            text.push_str(before);
            text.push_str(&Value::from(value).to_string());
            action = after;
        }
        text + action
    })
}

/// The first `.Label "name"` of an action: what is before it, the name, and what is behind it.
pub(super) fn label(action: &str) -> Option<(&str, String, &str)> {
    let (before, rest) = action.split_once(".Label")?;
    let before = before.strip_suffix('$').unwrap_or(before);
    let quoted = rest.trim_start();
    if quoted.len() == rest.len() || !quoted.starts_with(['"', '`']) {
        return None;
    }
    let open = &quoted[..1];
    let mut end = 1;
    while !quoted[end..].starts_with(open) {
        let escapes = open == "\"" && quoted[end..].starts_with('\\');
        let mut chars = quoted[end..].chars();
        end += chars.next()?.len_utf8();
        if escapes {
            end += chars.next()?.len_utf8();
        }
    }
    let name = match open {
        "`" => quoted[1..end].to_owned(),
        _ => serde_json::from_str(&quoted[..=end]).ok()?,
    };
    Some((before, name, &quoted[end + 1..]))
}

/// Where a text of Go's is within quotes, seen character by character.
#[derive(Default)]
pub(super) struct Quotes {
    open: Option<char>,
    is_escaped: bool,
}

impl Quotes {
    /// Goes on by a character: whether that is outside of quotes, and opens none.
    pub(super) fn take(&mut self, c: char) -> bool {
        match self.open {
            Some(_) if self.is_escaped => self.is_escaped = false,
            Some('"') if c == '\\' => self.is_escaped = true,
            Some(open) if c == open => self.open = None,
            Some(_) => {}
            None if c == '"' || c == '`' => self.open = Some(c),
            None => return true,
        }
        false
    }

    pub(super) fn are_open(&self) -> bool {
        self.open.is_some()
    }
}

/// Where the action that `text` begins with ends: at `}}` outside of quotes.
fn action_end(text: &str) -> usize {
    let mut quotes = Quotes::default();
    let mut ends = text
        .char_indices()
        .filter(|(at, c)| quotes.take(*c) && text[*at..].starts_with("}}"));
    ends.next().map_or(text.len(), |(at, _)| at)
}

/// `no field X for {…}`, without the whole object.
fn shortened(error: &str) -> &str {
    match error.split_once(" for ") {
        Some((what, _)) if what.starts_with("no field") => what,
        _ => error,
    }
}

/// The fields of Docker's that are maps: a key that is not there has no value. In the others it is a
/// mistake.
const MAPS: [&str; 11] = [
    "Annotations",
    "Attributes",
    "Data",
    "ExposedPorts",
    "Labels",
    "Networks",
    "Options",
    "Ports",
    "Sysctls",
    "Tmpfs",
    "Volumes",
];

/// Those that are lists.
const LISTS: [&str; 17] = [
    "Args",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExtraHosts",
    "GroupAdd",
    "Mounts",
    "OnBuild",
    "RepoDigests",
    "RepoTags",
    "Shell",
];

/// `name`: the field that it is the value of.
fn go(name: &str, value: &Value) -> Go {
    match value {
        // As Go shows a list or a map that nobody has made.
        Value::Null if LISTS.contains(&name) => Go::Array(Vec::new()),
        Value::Null if MAPS.contains(&name) => Go::Map(Default::default()),
        Value::Null => Go::Nil,
        Value::Bool(value) => Go::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Go::from(number),
            (_, Some(number), _) => Go::from(number),
            (_, _, number) => Go::from(number.unwrap_or(0.0)),
        },
        Value::String(text) => Go::from(text.as_str()),
        Value::Array(list) => Go::Array(list.iter().map(|one| go("", one)).collect()),
        Value::Object(map) => {
            let fields = map.iter().map(|(key, value)| {
                let is_options = (name, key.as_str()) == ("LogConfig", "Config");
                let name = if is_options { "Options" } else { key };
                (key.clone(), go(name, value))
            });
            match MAPS.contains(&name) {
                true => Go::Map(fields.collect()),
                false => Go::Object(fields.collect()),
            }
        }
    }
}
