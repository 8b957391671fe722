//! Values as annotations `org.systemd.property.NAME` give them: the text form of GLib's GVariant
//! (GVariant Text Format). Pure.

use super::dbus_value::Value;
use anyhow::{Result, bail};

/// `uint64 5`, `'text'`, `true`, `['a', 'b']`, `@as []`, `('a', uint32 1)`, `<'v'>`.
pub(super) fn parse(text: &str) -> Result<Value> {
    let mut parser = Parser {
        rest: text.trim_start(),
        depth: 0,
    };
    let value = parser.value(None)?;
    if !parser.rest.is_empty() {
        bail!("{:?} is left over", parser.rest);
    }
    Ok(value)
}

struct Parser<'a> {
    rest: &'a str,
    depth: usize,
}

/// The types that have a keyword.
const KEYWORDS: [(&str, &str); 12] = [
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

impl<'a> Parser<'a> {
    /// A value, of the type `wanted` when that is known.
    fn value(&mut self, wanted: Option<&str>) -> Result<Value> {
        self.depth += 1;
        if self.depth > 32 {
            bail!("nested too deeply");
        }
        let value = self.value_inner(wanted)?;
        self.depth -= 1;
        Ok(value)
    }

    fn value_inner(&mut self, wanted: Option<&str>) -> Result<Value> {
        if self.eat('@') {
            let end = self
                .rest
                .find(char::is_whitespace)
                .unwrap_or(self.rest.len());
            let signature = self.take(end);
            return self.value(Some(signature));
        }
        match self.rest.chars().next() {
            None => bail!("a value is missing"),
            Some('\'' | '"') => {
                let text = self.string()?;
                Ok(match wanted {
                    None | Some("s") => Value::Text(text),
                    Some("o") => Value::Path(text),
                    Some("g") => Value::Signature(text),
                    Some(other) => bail!("{text:?} is not of type {other}"),
                })
            }
            Some('[') => self.array(wanted),
            Some('(') => self.tuple(wanted),
            Some('<') => {
                self.eat('<');
                let value = self.value(None)?;
                self.expect('>')?;
                Ok(Value::variant(value))
            }
            Some(_) => self.word(wanted),
        }
    }

    fn word(&mut self, wanted: Option<&str>) -> Result<Value> {
        let end = self
            .rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | '_')))
            .unwrap_or(self.rest.len());
        let word = self.take(end);
        if let Some((_, signature)) = KEYWORDS.iter().find(|(name, _)| *name == word) {
            return self.value(Some(signature));
        }
        match (word, wanted) {
            ("true" | "false", None | Some("b")) => Ok(Value::Bool(word == "true")),
            _ => number(word, wanted),
        }
    }

    fn array(&mut self, wanted: Option<&str>) -> Result<Value> {
        self.eat('[');
        let mut element = match wanted {
            None => None,
            Some(signature) => match signature.strip_prefix('a') {
                Some(element) => Some(element.to_owned()),
                None => bail!("an array is not of type {signature}"),
            },
        };
        let mut items = Vec::new();
        while !self.eat(']') {
            if !items.is_empty() {
                self.expect(',')?;
            }
            let item = self.value(element.as_deref())?;
            // The first says what the others are.
            element.get_or_insert(item.signature());
            if element.as_deref() != Some(&item.signature()) {
                bail!("an array holds values of one type only");
            }
            items.push(item);
        }
        match element {
            Some(element) => Ok(Value::Array(element, items)),
            None => bail!("an empty array needs its type, such as @as []"),
        }
    }

    fn tuple(&mut self, wanted: Option<&str>) -> Result<Value> {
        self.eat('(');
        let mut fields = Vec::new();
        while !self.eat(')') {
            if !fields.is_empty() {
                self.expect(',')?;
                if self.eat(')') {
                    break;
                }
            }
            fields.push(self.value(None)?);
        }
        let value = Value::Struct(fields);
        match wanted {
            Some(signature) if signature != value.signature() => {
                bail!("a tuple {} is not of type {signature}", value.signature())
            }
            _ => Ok(value),
        }
    }

    fn string(&mut self) -> Result<String> {
        let mut chars = self.rest.char_indices();
        let Some((_, quote)) = chars.next() else {
            bail!("a string is missing");
        };
        let mut text = String::new();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"'))) => text.push(c),
                    _ => bail!("an escape that is none of \\n, \\t, \\\\, \\' and \\\""),
                },
                c if c == quote => {
                    self.take(at + 1);
                    return Ok(text);
                }
                c => text.push(c),
            }
        }
        bail!("a string does not end")
    }

    fn take(&mut self, end: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        taken
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.rest.starts_with(c);
        if found {
            self.take(c.len_utf8());
        }
        found
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.eat(c) {
            return Ok(());
        }
        bail!("{c:?} is missing before {:?}", self.rest)
    }
}

/// Without a type a number is an int32, or a double if it has a point.
fn number(word: &str, wanted: Option<&str>) -> Result<Value> {
    let wanted = wanted.unwrap_or(if word.contains('.') { "d" } else { "i" });
    let value = match wanted {
        "y" => word.parse().ok().map(Value::Byte),
        "n" => word.parse().ok().map(Value::I16),
        "q" => word.parse().ok().map(Value::U16),
        "i" => word.parse().ok().map(Value::I32),
        "u" => word.parse().ok().map(Value::U32),
        "x" => word.parse().ok().map(Value::I64),
        "t" => word.parse().ok().map(Value::U64),
        "d" => word.parse().ok().map(Value::Double),
        _ => None,
    };
    match value {
        Some(value) => Ok(value),
        None => bail!("{word:?} is not a value of type {wanted:?} (a string needs quotes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let text = |text: &str| Value::text(text);
        let cases = [
            ("5", Value::I32(5)),
            ("-5", Value::I32(-5)),
            ("uint64 18446744073709551615", Value::U64(u64::MAX)),
            ("@t 7", Value::U64(7)),
            ("byte 9", Value::Byte(9)),
            ("1.5", Value::Double(1.5)),
            (" true ", Value::Bool(true)),
            ("'a\\'b'", text("a'b")),
            ("\"x\"", text("x")),
            (
                "['a', 'b']",
                Value::Array("s".into(), vec![text("a"), text("b")]),
            ),
            ("@as []", Value::Array("s".into(), vec![])),
            (
                "[uint64 1, 2]",
                Value::Array("t".into(), vec![Value::U64(1), Value::U64(2)]),
            ),
            (
                "[('/dev/null', 'rw')]",
                Value::Array(
                    "(ss)".into(),
                    vec![Value::Struct(vec![text("/dev/null"), text("rw")])],
                ),
            ),
            ("<'v'>", Value::variant(text("v"))),
        ];
        for (input, expected) in cases {
            assert_eq!(parse(input).expect(input), expected, "{input}");
        }
    }

    #[test]
    fn what_is_none() {
        let deep = "[".repeat(100);
        for input in [
            "",
            "word",
            "'open",
            "[1, 'a']",
            "[]",
            "5 6",
            "byte 256",
            "(1",
            "@s 5",
            "uint64 -1",
            deep.as_str(),
        ] {
            assert!(parse(input).is_err(), "{input}");
        }
    }
}
