//! Words of a Dockerfile by the rules of a shell, as far as Docker has them: quotes, the escape
//! character, variables (`$x`, `${x:-word}`, `${x:+word}`, `${x:?word}`, `${x#pattern}`,
//! `${x%pattern}`, `${x/pattern/text}`, the doubled forms too).

use anyhow::{Result, bail};
use std::iter::Peekable;
use std::str::Chars;

/// Where the first word ends, in bytes. Blanks in quotes and behind the escape character are its.
pub(in crate::mydocker) fn end_of_word(text: &str, escape: char) -> Result<usize> {
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match (c, quote) {
            (c, Some(q)) if c == q => quote = None,
            (c, None | Some('"')) if c == escape => drop(chars.next()),
            ('"' | '\'', None) => quote = Some(c),
            (c, None) if c.is_whitespace() => return Ok(at),
            _ => {}
        }
    }
    match quote {
        Some(quote) => bail!("the quote {quote} is not closed"),
        None => Ok(text.len()),
    }
}

/// The words as they are written, quotes and all.
pub(in crate::mydocker) fn split(text: &str, escape: char) -> Result<Vec<&str>> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(end_of_word(rest, escape)?);
        words.push(word);
        rest = after.trim_start();
    }
    Ok(words)
}

/// A word without its quotes; variables stay.
pub(in crate::mydocker) fn unquoted(text: &str, escape: char) -> Result<String> {
    let as_written = |name: &str| Some(format!("${name}"));
    match text.contains(['"', '\'']) {
        true if !text.contains('$') => Variables::new(escape, &as_written).word(text),
        _ => Ok(text.to_owned()),
    }
}

/// Looks a variable up; `None`: it is not set.
pub(in crate::mydocker) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces variables.
pub(in crate::mydocker) struct Variables<'a> {
    escape: char,
    lookup: Lookup<'a>,
}

impl<'a> Variables<'a> {
    pub(in crate::mydocker) fn new(escape: char, lookup: Lookup<'a>) -> Variables<'a> {
        Variables { escape, lookup }
    }

    /// One word, without its quotes.
    pub(in crate::mydocker) fn word(&self, text: &str) -> Result<String> {
        let mut reader = self.reader(text, false);
        reader.text(None)?;
        Ok(reader.out)
    }

    /// Several words: what a variable holds outside of quotes may be several.
    pub(in crate::mydocker) fn words(&self, text: &str) -> Result<Vec<String>> {
        let mut reader = self.reader(text, true);
        reader.text(None)?;
        reader.end_word();
        Ok(reader.words)
    }

    /// The text of a here-document: quotes are text like any other.
    pub(in crate::mydocker) fn document(&self, text: &str) -> Result<String> {
        let mut reader = self.reader(text, false);
        while let Some(c) = reader.chars.next() {
            match c {
                '$' => {
                    let value = reader.variable()?;
                    reader.out.push_str(&value);
                }
                c if c == self.escape => {
                    let meant = |next: &char| *next == '$' || *next == self.escape;
                    reader.out.push(reader.chars.next_if(meant).unwrap_or(c));
                }
                c => reader.out.push(c),
            }
        }
        Ok(reader.out)
    }

    fn reader<'b>(&'b self, text: &'b str, several: bool) -> Reader<'b> {
        Reader {
            with: self,
            chars: text.chars().peekable(),
            several,
            out: String::new(),
            started: false,
            words: Vec::new(),
        }
    }
}

struct Reader<'a> {
    with: &'a Variables<'a>,
    chars: Peekable<Chars<'a>>,
    /// Blanks outside of quotes end a word.
    several: bool,
    out: String,
    /// There is a word, though it may be empty.
    started: bool,
    words: Vec<String>,
}

impl Reader<'_> {
    /// Up to the character that ends it, which is taken, or to the end.
    fn text(&mut self, stop: Option<char>) -> Result<()> {
        while let Some(c) = self.chars.next() {
            match c {
                c if Some(c) == stop => return Ok(()),
                '\'' => self.single()?,
                '"' => self.double()?,
                '$' => {
                    let value = self.variable()?;
                    self.put_value(&value);
                }
                c if c == self.with.escape => self.out.extend(self.chars.next()),
                c if self.several && c.is_whitespace() => self.end_word(),
                c => self.out.push(c),
            }
        }
        match stop {
            Some(stop) => bail!("{stop:?} is missing"),
            None => Ok(()),
        }
    }

    fn put_value(&mut self, value: &str) {
        if !self.several {
            self.out.push_str(value);
            return;
        }
        for c in value.chars() {
            match c.is_whitespace() {
                true => self.end_word(),
                false => self.out.push(c),
            }
        }
    }

    fn end_word(&mut self) {
        if self.started || !self.out.is_empty() {
            self.words.push(std::mem::take(&mut self.out));
        }
        self.started = false;
    }

    fn single(&mut self) -> Result<()> {
        self.started = true;
        for c in self.chars.by_ref() {
            match c {
                '\'' => return Ok(()),
                c => self.out.push(c),
            }
        }
        bail!("the quote ' is not closed")
    }

    fn double(&mut self) -> Result<()> {
        self.started = true;
        let escape = self.with.escape;
        while let Some(c) = self.chars.next() {
            match c {
                '"' => return Ok(()),
                '$' => {
                    let value = self.variable()?;
                    self.out.push_str(&value);
                }
                c if c == escape => {
                    let meant = |next: &char| *next == '"' || *next == '$' || *next == escape;
                    self.out.push(self.chars.next_if(meant).unwrap_or(c));
                }
                c => self.out.push(c),
            }
        }
        bail!("the quote \" is not closed")
    }

    /// What follows a `$`.
    fn variable(&mut self) -> Result<String> {
        if self.chars.next_if_eq(&'{').is_some() {
            return self.in_braces();
        }
        let name = self.name();
        match name.is_empty() {
            true => Ok("$".to_owned()),
            false => Ok((self.with.lookup)(&name).unwrap_or_default()),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        let fits = |c: &char| *c == '_' || c.is_ascii_alphanumeric();
        while let Some(c) = self.chars.next_if(fits) {
            name.push(c);
            // $1 is a parameter of a shell, which has none here.
            if name.len() == 1 && c.is_ascii_digit() {
                break;
            }
        }
        name
    }

    fn in_braces(&mut self) -> Result<String> {
        let name = self.name();
        if name.is_empty() {
            bail!("${{…}} without a name");
        }
        let value = (self.with.lookup)(&name);
        let Some(operator) = self.chars.next() else {
            bail!("${{{name} is not closed");
        };
        let counts_empty = operator == ':';
        let operator = match (operator, self.chars.peek()) {
            ('}', _) => return Ok(value.unwrap_or_default()),
            (':', Some('-' | '+' | '?')) => self.chars.next().unwrap_or_default(),
            (':', _) => bail!("${{{name}:…}}: it is :-, :+ or :?"),
            (other, _) => other,
        };
        let is_set = value
            .as_ref()
            .is_some_and(|v| !counts_empty || !v.is_empty());
        match operator {
            '-' | '+' | '?' => {
                let word = self.word_in_braces()?;
                match (operator, is_set) {
                    ('-', false) | ('+', true) => Ok(word),
                    ('?', false) if word.is_empty() => bail!("{name}: it is not set"),
                    ('?', false) => bail!("{name}: {word}"),
                    ('+', false) => Ok(String::new()),
                    _ => Ok(value.unwrap_or_default()),
                }
            }
            '#' | '%' => {
                let longest = self.chars.next_if_eq(&operator).is_some();
                let pattern = self.pattern('}')?;
                let value = value.unwrap_or_default();
                Ok(match operator {
                    '#' => without_start(&value, &pattern, longest),
                    _ => without_end(&value, &pattern, longest),
                })
            }
            '/' => {
                let all = self.chars.next_if_eq(&'/').is_some();
                let pattern = self.pattern('/')?;
                let text = self.word_in_braces()?;
                Ok(replaced(&value.unwrap_or_default(), &pattern, &text, all))
            }
            other => bail!("${{{name}{other}…}}: {other:?} is not an operator"),
        }
    }

    /// A word up to the closing brace, by itself.
    fn word_in_braces(&mut self) -> Result<String> {
        let outer = (std::mem::take(&mut self.out), self.several);
        self.several = false;
        let done = self.text(Some('}'));
        let word = std::mem::replace(&mut self.out, outer.0);
        self.several = outer.1;
        done.map(|()| word)
    }

    fn pattern(&mut self, stop: char) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        while let Some(c) = self.chars.next() {
            match c {
                c if c == stop => return Ok(pieces),
                '*' => pieces.push(Piece::Any),
                '?' => pieces.push(Piece::One),
                '$' => pieces.extend(self.variable()?.chars().map(Piece::Is)),
                c if c == self.with.escape => pieces.extend(self.chars.next().map(Piece::Is)),
                c => pieces.push(Piece::Is(c)),
            }
        }
        bail!("{stop:?} is missing")
    }
}

/// A part of the pattern of a substitution.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Piece {
    Is(char),
    One,
    Any,
}

fn fits(pattern: &[Piece], text: &[char]) -> bool {
    // Which beginnings of the pattern fit what has been read.
    let mut at = vec![false; pattern.len() + 1];
    at[0] = true;
    let skip_any = |at: &mut Vec<bool>| {
        for (i, piece) in pattern.iter().enumerate() {
            at[i + 1] |= at[i] && *piece == Piece::Any;
        }
    };
    skip_any(&mut at);
    for c in text {
        let mut next = vec![false; at.len()];
        for (i, piece) in pattern.iter().enumerate().filter(|(i, _)| at[*i]) {
            match piece {
                Piece::Any => next[i] = true,
                Piece::One => next[i + 1] = true,
                Piece::Is(wanted) => next[i + 1] |= wanted == c,
            }
        }
        at = next;
        skip_any(&mut at);
    }
    at[pattern.len()]
}

fn without_start(value: &str, pattern: &[Piece], longest: bool) -> String {
    let text: Vec<char> = value.chars().collect();
    let mut ends = 0..=text.len();
    let found = match longest {
        true => ends.rfind(|end| fits(pattern, &text[..*end])),
        false => ends.find(|end| fits(pattern, &text[..*end])),
    };
    text[found.unwrap_or(0)..].iter().collect()
}

fn without_end(value: &str, pattern: &[Piece], longest: bool) -> String {
    let text: Vec<char> = value.chars().collect();
    let mut starts = 0..=text.len();
    let found = match longest {
        true => starts.find(|start| fits(pattern, &text[*start..])),
        false => starts.rfind(|start| fits(pattern, &text[*start..])),
    };
    text[..found.unwrap_or(text.len())].iter().collect()
}

fn replaced(value: &str, pattern: &[Piece], by: &str, all: bool) -> String {
    let text: Vec<char> = value.chars().collect();
    let (mut out, mut at, mut done) = (String::new(), 0, false);
    while at < text.len() {
        let found = (at + 1..=text.len()).rfind(|end| fits(pattern, &text[at..*end]));
        match found.filter(|_| all || !done) {
            Some(end) => {
                out.push_str(by);
                (at, done) = (end, true);
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let value = match name {
            "a" => "1",
            "two" => "x  y",
            "empty" => "",
            "path" => "/usr/lib/libx.so.6",
            _ => return None,
        };
        Some(value.to_owned())
    }

    #[test]
    fn variables_are_replaced() {
        let with = Variables::new('\\', &lookup);
        for (text, expected) in [
            ("plain", "plain"),
            ("$a$a", "11"),
            ("${a}b$ab", "1b"),
            ("\\$a", "$a"),
            ("'$a'", "$a"),
            ("\"$a b\"", "1 b"),
            ("\"\\$a \\x \\\"\"", "$a \\x \""),
            ("a\\ b", "a b"),
            ("$", "$"),
            ("$-", "$-"),
            ("$1", ""),
            ("${a:-z}", "1"),
            ("${empty:-z}", "z"),
            ("${empty-z}", ""),
            ("${none-z}", "z"),
            ("${none:-${a}x}", "1x"),
            ("${none:-'}'}", "}"),
            ("${a:+z}", "z"),
            ("${empty:+z}", ""),
            ("${empty+z}", "z"),
            ("${none:+z}", ""),
            ("${a:?no}", "1"),
            ("${path#*/}", "usr/lib/libx.so.6"),
            ("${path##*/}", "libx.so.6"),
            ("${path%.*}", "/usr/lib/libx.so"),
            ("${path%%.*}", "/usr/lib/libx"),
            ("${path#x}", "/usr/lib/libx.so.6"),
            ("${path/lib/LIB}", "/usr/LIB/libx.so.6"),
            ("${path//lib/L}", "/usr/L/Lx.so.6"),
            ("${path//\\//-}", "-usr-lib-libx.so.6"),
            ("${path/l?b/}", "/usr//libx.so.6"),
            ("$two", "x  y"),
        ] {
            assert_eq!(with.word(text).unwrap(), expected, "{text}");
        }
        for bad in [
            "${",
            "${a",
            "${a:",
            "${a:x}",
            "${none:?gone}",
            "${}",
            "'a",
            "\"a",
            "${a!}",
            "${a/x}",
        ] {
            assert!(with.word(bad).is_err(), "{bad}");
        }
        let tick = Variables::new('`', &lookup);
        assert_eq!(tick.word("c:\\$a`$a").unwrap(), "c:\\1$a");
    }

    #[test]
    fn a_variable_may_be_several_words() {
        let with = Variables::new('\\', &lookup);
        let words = with.words("a $two \"$two\" '' $none ${none:-p q}").unwrap();
        assert_eq!(words, ["a", "x", "y", "x  y", "", "p", "q"]);
    }

    #[test]
    fn quotes_in_a_document_are_text() {
        let with = Variables::new('\\', &lookup);
        let text = with.document("it's \"$a\" \\$a \\n ${none:-x}\n").unwrap();
        assert_eq!(text, "it's \"1\" $a \\n x\n");
    }

    #[test]
    fn words_are_found_in_quotes() {
        assert_eq!(
            split(" a 'b c' d\\ e ", '\\').unwrap(),
            ["a", "'b c'", "d\\ e"]
        );
        assert!(split("a 'b", '\\').is_err());
    }
}
