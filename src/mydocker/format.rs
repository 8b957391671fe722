//! Output by `--format`: Go templates as Docker's users write them, `json`, and tables.

use crate::error::{ResultExt, with_hint};
use anyhow::{Context, Result, anyhow};
use gtmpl::{FuncError, Template, Value as Go};
use serde_json::Value;

/// How a list is shown.
pub(super) enum Shape {
    /// With the verb's own columns.
    Table,
    /// An object a line.
    Json,
    /// A template for each entry; `table` before it asks for a header.
    Template { text: String, header: bool },
}

impl Shape {
    /// What `--format` says.
    pub(super) fn of(format: Option<&str>) -> Shape {
        match format {
            None | Some("table" | "") => Shape::Table,
            Some("json") => Shape::Json,
            Some(text) => match text.strip_prefix("table ") {
                Some(rest) => Shape::Template {
                    text: rest.to_owned(),
                    header: true,
                },
                None => Shape::Template {
                    text: text.to_owned(),
                    header: false,
                },
            },
        }
    }
}

/// A list of objects as [`Shape`] says. `table`: the verb's columns, as a header and rows.
pub(super) fn list(
    format: Option<&str>,
    objects: &[Value],
    table: impl FnOnce() -> Vec<Vec<String>>,
) -> Result<String> {
    let (text, header) = match Shape::of(format) {
        Shape::Table => return Ok(columns(&table())),
        Shape::Json => return Ok(objects.iter().map(|object| format!("{object}\n")).collect()),
        Shape::Template { text, header } => {
            (text.replace("\\t", "\t").replace("\\n", "\n"), header)
        }
    };
    let template = Compiled::new(&text)?;
    let mut lines = Vec::new();
    if header {
        lines.push(heading(&text));
    }
    for object in objects {
        lines.push(template.render(object)?);
    }
    if !header {
        return Ok(lines.iter().map(|line| format!("{line}\n")).collect());
    }
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|line| line.split('\t').map(str::to_owned).collect())
        .collect();
    Ok(columns(&rows))
}

/// The header of `table {{.ID}}\t{{.RunningFor}}`: the fields' names as words in capitals.
fn heading(template: &str) -> String {
    template
        .split('\t')
        .map(|cell| {
            let name = cell
                .rsplit('.')
                .next()
                .unwrap_or_default()
                .trim_end_matches(|c: char| !c.is_alphanumeric());
            let mut words = String::new();
            let mut last_lower = false;
            for c in name.chars() {
                if c.is_uppercase() && last_lower {
                    words.push(' ');
                }
                last_lower = c.is_lowercase();
                words.extend(c.to_uppercase());
            }
            words
        })
        .collect::<Vec<_>>()
        .join("\t")
}

/// One object by a template, or as JSON with no template.
pub(super) fn one(format: &str, object: &Value) -> Result<String> {
    if format == "json" {
        return Ok(object.to_string());
    }
    Compiled::new(format)?.render(object)
}

/// Prints what an `inspect` has found: by a template a line each, or as one list of JSON.
pub(super) fn objects(format: Option<&str>, found: &[Value]) -> Result<i32> {
    let Some(template) = format else {
        let text = serde_json::to_string_pretty(found).context("encode")?;
        return super::print(&format!("{text}\n"));
    };
    for object in found {
        super::print(&format!("{}\n", one(template, object).exit_code(1)?))?;
    }
    Ok(0)
}

/// Rows with their columns side by side, three spaces apart.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A template that has been read.
struct Compiled {
    template: Template,
    text: String,
}

impl Compiled {
    fn new(text: &str) -> Result<Compiled> {
        if !is_closed(text) {
            return Err(anyhow!("--format {text:?}: a {{{{ without its }}}}"))
                .hint("it is a Go template, such as '{{.Id}}' or '{{json .Config}}'");
        }
        let mut template = Template::default();
        template.add_funcs(&FUNCTIONS);
        template
            .parse(shown(text))
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("--format {text:?}"))
            .hint("it is a Go template, such as '{{.Id}}' or '{{json .Config}}'")?;
        Ok(Compiled {
            template,
            text: text.to_owned(),
        })
    }

    fn render(&self, object: &Value) -> Result<String> {
        let context = gtmpl::Context::from(go(object));
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

/// The template with `| show` at the end of each action that prints a value: lists and maps look as
/// Go prints them, not as the crate does.
fn shown(template: &str) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        text.push_str("{{");
        let end = action_end(after);
        let (action, behind) = after.split_at(end);
        let body = action.trim_end();
        let (body, dash) = match body.strip_suffix('-') {
            Some(body) if body.ends_with(char::is_whitespace) => (body, " -"),
            _ => (body, ""),
        };
        let start = body.strip_prefix('-').unwrap_or(body).trim_start();
        let word = start.split([' ', '\t', '\n']).next().unwrap_or_default();
        let silent = matches!(
            word,
            "" | "if" | "else" | "end" | "range" | "with" | "define" | "template" | "block"
        );
        let assigns = word.starts_with('$')
            && matches!(start[word.len()..].trim_start().get(..1), Some(":" | "="));
        if silent || assigns || start.starts_with("/*") || behind.is_empty() {
            text.push_str(action);
        } else {
            text.push_str(&format!("{body} | show{dash}"));
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

/// Where the action that `text` begins with ends: at `}}` outside of quotes.
fn action_end(text: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return at,
            None => {}
        }
    }
    text.len()
}

/// A value as Go's fmt prints it.
fn show(value: &Go) -> String {
    match value {
        Go::Array(list) => {
            let words: Vec<String> = list.iter().map(show).collect();
            format!("[{}]", words.join(" "))
        }
        Go::Map(map) | Go::Object(map) => {
            let mut pairs: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", show(value)))
                .collect();
            pairs.sort();
            format!("map[{}]", pairs.join(" "))
        }
        Go::Nil | Go::NoValue => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

/// `no field X for {…}`, without the whole object.
fn shortened(error: &str) -> &str {
    match error.split_once(" for ") {
        Some((what, _)) if what.starts_with("no field") => what,
        _ => error,
    }
}

type Function = fn(&[Go]) -> Result<Go, FuncError>;

/// What Docker adds to Go's own functions.
const FUNCTIONS: [(&str, Function); 10] = [
    ("show", |args| Ok(Go::from(show(first(args)?)))),
    ("json", |args| Ok(Go::from(back(first(args)?).to_string()))),
    ("lower", |args| {
        Ok(Go::from(first(args)?.to_string().to_lowercase()))
    }),
    ("upper", |args| {
        Ok(Go::from(first(args)?.to_string().to_uppercase()))
    }),
    ("title", |args| {
        Ok(Go::from(title(&first(args)?.to_string())))
    }),
    ("join", join),
    ("split", split),
    ("truncate", truncate),
    ("pad", |args| Ok(first(args)?.clone())),
    ("index", index),
];

fn first(args: &[Go]) -> Result<&Go, FuncError> {
    args.first()
        .ok_or_else(|| FuncError::AtLeastXArgs("function".into(), 1))
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|c| c.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

fn join(args: &[Go]) -> Result<Go, FuncError> {
    let (Some(Go::Array(list)), Some(between)) = (args.first(), args.get(1)) else {
        return Err(FuncError::ExactlyXArgs("join".into(), 2));
    };
    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
    Ok(Go::from(words.join(&between.to_string())))
}

fn split(args: &[Go]) -> Result<Go, FuncError> {
    let [text, by] = args else {
        return Err(FuncError::ExactlyXArgs("split".into(), 2));
    };
    let (text, by) = (text.to_string(), by.to_string());
    Ok(Go::Array(text.split(&by).map(Go::from).collect()))
}

fn truncate(args: &[Go]) -> Result<Go, FuncError> {
    let [text, length] = args else {
        return Err(FuncError::ExactlyXArgs("truncate".into(), 2));
    };
    let length = length.to_string().parse().unwrap_or(usize::MAX);
    Ok(Go::from(
        text.to_string().chars().take(length).collect::<String>(),
    ))
}

/// Of a map or list, step by step. A key that is not there gives nothing, as in Go.
fn index(args: &[Go]) -> Result<Go, FuncError> {
    let (mut at, keys) = args
        .split_first()
        .map(|(value, keys)| (value.clone(), keys))
        .ok_or_else(|| FuncError::AtLeastXArgs("index".into(), 1))?;
    for key in keys {
        at = match &at {
            Go::Map(map) | Go::Object(map) => map
                .get(&key.to_string())
                .cloned()
                .unwrap_or_else(|| Go::from("")),
            Go::Array(list) => {
                let number = key.to_string().parse::<usize>().ok();
                number
                    .and_then(|number| list.get(number).cloned())
                    .ok_or_else(|| FuncError::Generic(format!("index: no element {key}")))?
            }
            _ => return Err(FuncError::Generic("index: it has no elements".into())),
        };
    }
    Ok(at)
}

fn go(value: &Value) -> Go {
    match value {
        Value::Null => Go::NoValue,
        Value::Bool(value) => Go::from(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(number), _, _) => Go::from(number),
            (_, Some(number), _) => Go::from(number),
            (_, _, number) => Go::from(number.unwrap_or(0.0)),
        },
        Value::String(text) => Go::from(text.as_str()),
        Value::Array(list) => Go::Array(list.iter().map(go).collect()),
        Value::Object(map) => Go::Object(
            map.iter()
                .map(|(key, value)| (key.clone(), go(value)))
                .collect(),
        ),
    }
}

fn back(value: &Go) -> Value {
    match value {
        Go::NoValue | Go::Nil | Go::Function(_) => Value::Null,
        Go::Bool(value) => Value::Bool(*value),
        Go::String(text) => Value::String(text.clone()),
        Go::Array(list) => Value::Array(list.iter().map(back).collect()),
        Go::Object(map) | Go::Map(map) => {
            let sorted: std::collections::BTreeMap<_, _> = map.iter().collect();
            let entries = sorted
                .into_iter()
                .map(|(key, value)| (key.clone(), back(value)));
            Value::Object(entries.collect())
        }
        Go::Number(number) => {
            let text = number.to_string();
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
    }
}

/// `12.3MB`: three digits, by thousands, as Docker shows sizes.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = match number {
        _ if unit == 0 => 0,
        n if n < 9.995 => 2,
        n if n < 99.95 => 1,
        _ => 0,
    };
    format!("{number:.digits$}{}", UNITS[unit])
}

/// `1.5MiB`: up to four digits, by powers of 1024, as Docker shows memory.
pub(super) fn binary_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let digits = match number {
        n if n < 10.0 => 3,
        n if n < 100.0 => 2,
        n if n < 1000.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => &text,
    };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_as_docker_users_write_them() {
        let object = json!({
            "Id": "abc", "State": {"Pid": 12, "Running": true},
            "Config": {"Cmd": ["top", "-b"], "Labels": {"k.x": "v"}, "Env": null},
        });
        for (template, expected) in [
            ("{{.Id}}", "abc"),
            ("{{.State.Pid}}", "12"),
            ("{{if .State.Running}}yes{{else}}no{{end}}", "yes"),
            ("{{range .Config.Cmd}}<{{.}}>{{end}}", "<top><-b>"),
            ("{{json .Config.Cmd}}", "[\"top\",\"-b\"]"),
            ("{{json .State}}", "{\"Pid\":12,\"Running\":true}"),
            ("{{index .Config.Labels \"k.x\"}}", "v"),
            ("{{index .Config.Labels \"nosuch\"}}", ""),
            ("{{index .Config.Cmd 1}}", "-b"),
            ("{{join .Config.Cmd \" \"}}", "top -b"),
            ("{{upper .Id}} {{len .Config.Cmd}}", "ABC 2"),
            ("{{.Id | printf \"%s!\"}}", "abc!"),
            ("{{.Config.Cmd}} {{.Config.Labels}}", "[top -b] map[k.x:v]"),
            ("{{.State}}", "map[Pid:12 Running:true]"),
            ("{{.Config.Env}}", "<nil>"),
            ("a {{- .Id -}} b", "aabcb"),
            ("{{$x := .Id}}{{$x}}{{/* no */}}", "abc"),
            (
                "{{range $i, $c := .Config.Cmd}}{{$i}}={{$c}},{{end}}",
                "0=top,1=-b,",
            ),
            ("{{with .Config}}{{.Cmd}}{{end}}", "[top -b]"),
            ("{{\"}}\"}}{{printf \"%d\" .State.Pid}}", "}}12"),
            ("{{range .Config.Cmd}}{{println .}}{{end}}", "top\n-b\n"),
        ] {
            assert_eq!(one(template, &object).unwrap(), expected, "{template}");
        }
        let error = one("{{.State", &object).unwrap_err();
        let message = crate::error::message(&error);
        assert!(message.ends_with("a {{ without its }}"), "{message}");
        for (template, known) in [
            ("{{.NoSuch}}", "there are Config, Id, State"),
            ("{{.State.NoSuch}}", "there are Pid, Running"),
            ("{{json .State.NoSuch}}", "there are Pid, Running"),
        ] {
            let error = one(template, &object).unwrap_err();
            assert_eq!(crate::error::hint_of(&error), Some(known), "{template}");
        }
        let error = one("{{.NoSuch}}", &object).unwrap_err();
        let message = crate::error::message(&error);
        assert!(message.ends_with(": no field NoSuch"), "{message}");
        assert_eq!(one("json", &json!({"a": 1})).unwrap(), "{\"a\":1}");
    }

    #[test]
    fn tables() {
        let objects = [
            json!({"ID": "1", "RunningFor": "x"}),
            json!({"ID": "22", "RunningFor": "y"}),
        ];
        let text = list(Some("table {{.ID}}\\t{{.RunningFor}}"), &objects, Vec::new).unwrap();
        assert_eq!(text, "ID   RUNNING FOR\n1    x\n22   y\n");
        let text = list(Some("{{.ID}}"), &objects, Vec::new).unwrap();
        assert_eq!(text, "1\n22\n");
        assert_eq!(size(999), "999B");
        assert_eq!(size(1_230_000), "1.23MB");
        assert_eq!(size(45_600_000_000), "45.6GB");
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (100 << 20, "100MiB"),
            (1 << 30 | 1 << 29, "1.5GiB"),
            (1_234_567, "1.177MiB"),
        ] {
            assert_eq!(binary_size(bytes), text);
        }
    }
}
