//! The functions of templates: Go's that the crate lacks or has otherwise, and Docker's.

use gtmpl::{FuncError, Value as Go};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

pub(super) type Function = fn(&[Go]) -> Result<Go, FuncError>;

/// What Docker adds to Go's own functions, and those of Go's. The first three are for the templates that
/// are made of people's.
pub(super) const FUNCTIONS: [(&str, Function); 16] = [
    ("show", |args| Ok(Go::from(show(first(args)?)))),
    ("sortedKeys", |args| Ok(keys(first(args)?))),
    ("sortedValues", |args| Ok(values(first(args)?))),
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
    ("slice", slice),
    ("printf", printf),
    ("html", |args| Ok(Go::from(html(&text(args))))),
    ("urlquery", |args| Ok(Go::from(urlquery(&text(args))))),
];

const SAME: Function = |args| first(args).cloned();

/// In headers there are names in the place of the values. What changes values leaves these as they are.
pub(super) const HEADINGS: [(&str, Function); 9] = [
    ("json", SAME),
    ("lower", SAME),
    ("upper", SAME),
    ("title", SAME),
    ("join", SAME),
    ("split", SAME),
    ("truncate", SAME),
    ("index", SAME),
    ("slice", SAME),
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

/// Part of a text, in bytes, or of a list: `slice x 1 2` is what Go calls `x[1:2]`.
fn slice(args: &[Go]) -> Result<Go, FuncError> {
    let wrong = |why: String| FuncError::Generic(format!("slice: {why}"));
    let (whole, bounds) = args
        .split_first()
        .ok_or_else(|| FuncError::AtLeastXArgs("slice".into(), 1))?;
    let length = match whole {
        Go::String(text) => text.len(),
        Go::Array(list) => list.len(),
        _ => return Err(wrong("it is neither a text nor a list".into())),
    };
    let bound = |at: usize, default: usize| match bounds.get(at) {
        None => Ok(default),
        Some(bound) => match bound.to_string().parse() {
            Ok(number) if number <= length => Ok(number),
            _ => Err(wrong(format!("{bound} is not within 0 to {length}"))),
        },
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to || bounds.len() > 2 {
        return Err(wrong("it takes a beginning, and an end behind it".into()));
    }
    match whole {
        Go::Array(list) => Ok(Go::Array(list[from..to].to_vec())),
        _ => {
            let text = whole.to_string();
            let part = text.get(from..to).map(Go::from);
            part.ok_or_else(|| wrong(format!("{from} to {to} cuts a character of {text:?}")))
        }
    }
}

/// The crate's, one verb at a time: it has no `%%`, no `%q` of texts, and shows lists and maps otherwise.
fn printf(args: &[Go]) -> Result<Go, FuncError> {
    let Some((Go::String(format), args)) = args.split_first() else {
        return Err(FuncError::AtLeastXArgs("printf".into(), 1));
    };
    let mut text = String::new();
    let mut rest = format.as_str();
    let mut at = 0;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let end = after.find(|c: char| c == '%' || c.is_alphabetic());
        let end = end.ok_or_else(|| FuncError::Generic(format!("printf: %{after}: no verb")))?;
        let (flags, verb) = after.split_at(end);
        let (verb, after) = verb.split_at(verb.chars().next().map_or(0, char::len_utf8));
        rest = after;
        if verb == "%" {
            text.push('%');
            continue;
        }
        // `%[2]s` is the second one.
        let (flags, number) = match flags.split_once('[') {
            Some((flags, number)) => (flags, number.trim_end_matches(']').parse::<usize>().ok()),
            None => (flags, None),
        };
        at = number.map_or(at, |number| number.saturating_sub(1));
        let end = at + 1 + flags.matches('*').count();
        let mut all = args.get(at..end).unwrap_or_default().to_vec();
        at = end;
        let value = all
            .pop()
            .ok_or_else(|| FuncError::Generic(format!("printf: nothing is given for %{verb}")))?;
        let (verb, value) = for_verb(verb, value);
        all.insert(0, Go::from(format!("%{flags}{verb}")));
        all.push(value);
        text.push_str(&gtmpl::funcs::printf(&all)?.to_string());
    }
    Ok(Go::from(text + rest))
}

/// What the crate prints as Go prints this.
fn for_verb(verb: &str, value: Go) -> (&str, Go) {
    match (verb, &value) {
        ("q", Go::Number(_)) => (verb, value),
        ("q", _) => ("s", Go::from(quoted(&value))),
        ("s" | "v", Go::Number(_) | Go::Bool(_) | Go::String(_)) => (verb, value),
        ("s" | "v", _) => ("s", Go::from(show(&value))),
        _ => (verb, value),
    }
}

/// Texts in double quotes, with Go's escapes.
fn quoted(value: &Go) -> String {
    let text = match value {
        Go::String(text) => text,
        Go::Array(list) => {
            let words: Vec<String> = list.iter().map(quoted).collect();
            return format!("[{}]", words.join(" "));
        }
        Go::Map(map) | Go::Object(map) => {
            let pairs = sorted(map).into_iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| {
                    format!("{}:{}", quoted(&Go::from(key.as_str())), quoted(value))
                })
                .collect();
            return format!("map[{}]", pairs.join(" "));
        }
        other => return show(other),
    };
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// What is given to a function of texts.
fn text(args: &[Go]) -> String {
    args.iter().map(show).collect()
}

fn html(text: &str) -> String {
    let mut safe = String::new();
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&#34;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// As the value of a query's field in a URL.
fn urlquery(text: &str) -> String {
    let mut safe = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => safe.push('+'),
            b'-' | b'_' | b'.' | b'~' => safe.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => safe.push(char::from(byte)),
            byte => safe.push_str(&format!("%{byte:02X}")),
        }
    }
    safe
}

fn sorted(map: &HashMap<String, Go>) -> BTreeMap<&String, &Go> {
    map.iter().collect()
}

/// The keys of a map in their order, or the numbers of a list's elements.
fn keys(value: &Go) -> Go {
    match value {
        Go::Map(map) | Go::Object(map) => {
            let keys = sorted(map).into_keys();
            Go::Array(keys.map(|key| Go::from(key.as_str())).collect())
        }
        Go::Array(list) => Go::Array((0..list.len()).map(Go::from).collect()),
        other => values(other),
    }
}

/// The values in the order of their keys. Of nothing there are none; what else has none is left to the
/// crate to refuse.
fn values(value: &Go) -> Go {
    match value {
        Go::Map(map) | Go::Object(map) => Go::Array(sorted(map).into_values().cloned().collect()),
        Go::Nil | Go::NoValue => Go::Array(Vec::new()),
        other => other.clone(),
    }
}

/// A value as Go's fmt prints it.
fn show(value: &Go) -> String {
    match value {
        Go::Array(list) => {
            let words: Vec<String> = list.iter().map(show).collect();
            format!("[{}]", words.join(" "))
        }
        // An object of a set, such as ExposedPorts.
        Go::Object(map) if map.is_empty() => "{}".to_owned(),
        Go::Map(map) | Go::Object(map) => {
            let pairs = sorted(map).into_iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{key}:{}", show(value)))
                .collect();
            format!("map[{}]", pairs.join(" "))
        }
        Go::NoValue => "<no value>".to_owned(),
        Go::Nil => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

fn back(value: &Go) -> Value {
    match value {
        Go::NoValue | Go::Nil | Go::Function(_) => Value::Null,
        Go::Bool(value) => Value::Bool(*value),
        Go::String(text) => Value::String(text.clone()),
        Go::Array(list) => Value::Array(list.iter().map(back).collect()),
        Go::Object(map) | Go::Map(map) => {
            let entries = sorted(map)
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

#[cfg(test)]
mod tests {
    use super::super::format::one;
    use serde_json::json;

    #[test]
    fn functions_of_go() {
        let object = json!({
            "Id": "abc", "State": {"Pid": 12},
            "Config": {"Cmd": ["top", "-b"], "Labels": {"k.x": "v"}},
        });
        for (template, expected) in [
            (
                "{{slice .Id 0 2}} {{slice .Id 1}} {{slice .Config.Cmd 1 2}}",
                "ab bc [-b]",
            ),
            (
                "{{printf \"%q %-6q| %5.1f%%\" .Id .Id 2.5}}",
                "\"abc\" \"abc\" |   2.5%",
            ),
            (
                "{{printf \"%[2]d %q\" \"a\\n\\\"\" .State.Pid \"\\x01é\"}}",
                "12 \"\\x01é\"",
            ),
            (
                "{{printf \"%v %s %q %q\" .Config.Labels .Config.Cmd .Config.Cmd .Config.Labels}}",
                "map[k.x:v] [top -b] [\"top\" \"-b\"] map[\"k.x\":\"v\"]",
            ),
            (
                "{{html \"<a href='x'>&\"}}",
                "&lt;a href=&#39;x&#39;&gt;&amp;",
            ),
            ("{{urlquery \"a b&c=/é~\"}}", "a+b%26c%3D%2F%C3%A9~"),
        ] {
            assert_eq!(one(template, &object).unwrap(), expected, "{template}");
        }
        for (template, why) in [
            ("{{slice .Id 0 12}}", "slice: 12 is not within 0 to 3"),
            ("{{slice .Id 2 1}}", "an end behind it"),
            ("{{slice .State 0}}", "neither a text nor a list"),
            ("{{printf \"%s %s\" .Id}}", "nothing is given for %s"),
            ("{{printf \"100%\"}}", "no verb"),
        ] {
            let message = crate::error::message(&one(template, &object).unwrap_err());
            assert!(message.contains(why), "{message}");
        }
    }
}
