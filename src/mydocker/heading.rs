//! The header of a table by a template: the template itself, with the name of each field in the place of
//! its value. So what is between the fields, and columns of more than one, look as the rows do.

use super::template::{Compiled, Quotes, label, rewritten};
use anyhow::Result;
use serde_json::Value;

/// The header of `table {{.Repository}}:{{.Tag}}\t{{.RunningFor}}`: `REPOSITORY:TAG\tRUNNING FOR`.
pub(super) fn heading(template: &str) -> Result<String> {
    Compiled::of_names(&rewritten(template, named))?.render(&Value::Null)
}

/// An action with the names of its fields, in quotes.
fn named(action: &str) -> String {
    if action.trim_start_matches(['-', ' ']).starts_with("/*") {
        return action.to_owned();
    }
    let mut text = String::new();
    let mut rest = action;
    while let Some((before, name, after)) = label(rest) {
        text.push_str(&fields_named(before));
        // By the last part of a label's name.
        let last = name.rsplit('.').next().unwrap_or_default();
        text.push_str(&quoted(&last.replace(['-', '_'], " ").to_uppercase()));
        rest = after;
    }
    text + &fields_named(rest)
}

/// The same where no labels are asked for by their names.
fn fields_named(action: &str) -> String {
    let mut text = String::new();
    let mut quotes = Quotes::default();
    let mut rest = action;
    while let Some(c) = rest.chars().next() {
        let begins = !quotes.are_open() && !text.ends_with(|c: char| is_of_name(c) || c == ')');
        if begins && let Some((path, after)) = field(rest) {
            let name = path.rsplit('.').next().unwrap_or_default();
            text.push_str(&quoted(&words(name)));
            rest = after;
            continue;
        }
        quotes.take(c);
        text.push(c);
        rest = &rest[c.len_utf8()..];
    }
    text
}

/// `.A.B` or `$.A.B` at the beginning, and what is behind it.
fn field(text: &str) -> Option<(&str, &str)> {
    let path = text.strip_prefix('$').unwrap_or(text);
    let name = path.strip_prefix('.')?;
    if !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
        return None;
    }
    let end = path.find(|c: char| !is_of_name(c) && c != '.');
    Some(path.split_at(end.unwrap_or(path.len())))
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `RunningFor` as words in capitals.
fn words(name: &str) -> String {
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
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_the_values_will_be() {
        for (template, expected) in [
            ("{{.Names}} {{.Image}}", "NAMES IMAGE"),
            (
                "{{.Repository}}:{{.Tag}}\t{{.Size}}",
                "REPOSITORY:TAG\tSIZE",
            ),
            (
                "{{.RunningFor}}\tat {{.CreatedAt -}} .",
                "RUNNING FOR\tat CREATED AT.",
            ),
            ("{{printf \"%s (%s)\" .ID $.Names}}", "ID (NAMES)"),
            (
                "{{json .Ports}}|{{upper .State}}|{{truncate .ID 1}}",
                "PORTS|STATE|ID",
            ),
            ("{{.Names | lower}} {{split .Names \",\"}}", "NAMES NAMES"),
            (
                "{{if eq .State \".Up\"}}up{{else}}{{.Status}}{{end}}",
                "STATUS",
            ),
            ("{{/* .No */}}{{$x := .ID}}{{$x}} {{.Actor.ID}}", "ID ID"),
            ("{{.Label \"com.a-b\"}} {{.ID}}{{.Label `x.Y`}}", "A B IDY"),
        ] {
            assert_eq!(heading(template).unwrap(), expected, "{template}");
        }
    }
}
