//! Output by `--format`: Go templates as Docker's users write them, `json`, and tables.

use super::heading::heading;
use super::template::{Compiled, with_labels};
use crate::error::ResultExt;
use anyhow::{Context, Result};
use serde_json::Value;
use std::collections::BTreeMap;

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
    labelled(format, objects, |_| None, table)
}

/// The same of objects that have labels, which `.Label "name"` stands for.
pub(super) fn labelled<'a>(
    format: Option<&str>,
    objects: &[Value],
    labels: impl Fn(usize) -> Option<&'a BTreeMap<String, String>>,
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
        // What is no header, such as one by a range, is left out.
        lines.push(heading(&text).unwrap_or_default());
    }
    for (at, object) in objects.iter().enumerate() {
        lines.push(match labels(at).filter(|_| text.contains(".Label ")) {
            Some(labels) => Compiled::new(&with_labels(&text, labels))?.render(object)?,
            None => template.render(object)?,
        });
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
            "Config": {"Cmd": ["top", "-b"], "Labels": {"k.x": "v"}, "Env": null,
                "Volumes": null, "Health": null, "ExposedPorts": {"80/tcp": {}}},
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
            ("{{.Config.Env}}{{range .Config.Env}}x{{end}}", "[]"),
            ("{{.Config.Volumes}} {{.Config.Health}}", "map[] <nil>"),
            (
                "x {{- json .Config.Env -}} {{json .Config.Volumes}}",
                "xnullnull",
            ),
            (
                "{{if .Id}}{{json .Config.Env}}{{end}}{{json .Config.Env}}",
                "nullnull",
            ),
            ("{{with .Config}}{{json .Env}}{{end}}", "[]"),
            ("{{json .Config.Labels}}", "{\"k.x\":\"v\"}"),
            ("{{.Config.ExposedPorts}}", "map[80/tcp:{}]"),
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
        for template in [
            "{{.Config.Labels.nosuch}}",
            "{{.Config.Labels.nosuch | json}}",
        ] {
            let expected = if template.contains("json") {
                "null"
            } else {
                "<no value>"
            };
            assert_eq!(one(template, &object).unwrap(), expected, "{template}");
        }
        let error = one("{{.NoSuch}}", &object).unwrap_err();
        let message = crate::error::message(&error);
        assert!(message.ends_with(": no field NoSuch"), "{message}");
        assert_eq!(one("json", &json!({"a": 1})).unwrap(), "{\"a\":1}");
    }

    #[test]
    fn labels_by_their_names() {
        let objects = [json!({"ID": "1"}), json!({"ID": "2"})];
        let of = |text: &str| [("a.b".to_owned(), text.to_owned())].into();
        let all: [BTreeMap<String, String>; 2] = [of("x\"}}y"), BTreeMap::new()];
        let shown = |text| labelled(Some(text), &objects, |at| all.get(at), Vec::new).unwrap();
        assert_eq!(shown("{{.ID}} {{.Label \"a.b\"}}"), "1 x\"}}y\n2 \n");
        let text =
            "{{.ID}}{{if eq (.Label `a.b`) \"\"}} none{{else}} {{$.Label  \"a.b\" | len}}{{end}}";
        assert_eq!(shown(text), "1 5\n2 none\n");
        let text = "table {{.ID}}\\t{{.Label \"com.a-b\"}}";
        assert_eq!(shown(text), "ID   A B\n1\n2\n");
    }

    #[test]
    fn tables() {
        let objects = [
            json!({"ID": "1", "RunningFor": "x"}),
            json!({"ID": "22", "RunningFor": "y"}),
        ];
        let text = list(Some("table {{.ID}}\\t{{.RunningFor}}"), &objects, Vec::new).unwrap();
        assert_eq!(text, "ID   RUNNING FOR\n1    x\n22   y\n");
        let text = list(
            Some("table {{.ID}}:{{.RunningFor}} {{.ID}}"),
            &objects,
            Vec::new,
        );
        assert_eq!(text.unwrap(), "ID:RUNNING FOR ID\n1:x 1\n22:y 22\n");
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
