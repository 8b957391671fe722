//! The lines of a Dockerfile: parser directives, comments, continued lines, here-documents. What an
//! instruction means is said in `instruction.rs`.
//!
//! By the Dockerfile reference of Docker. The crate `parse-dockerfile` knows a here-document only as
//! the first word of RUN, and only one, so `RUN cat <<EOF > /file` would be lost with it.

use super::words;
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, bail};

/// A Dockerfile, line by logical line.
#[derive(Debug)]
pub(in crate::mydocker) struct Dockerfile {
    pub(in crate::mydocker) lines: Vec<Line>,
    /// What keeps the next character from its meaning: `\`, or a backtick (`# escape=`).
    pub(in crate::mydocker) escape: char,
}

/// An instruction as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mydocker) struct Line {
    /// Where it begins, from 1.
    pub(in crate::mydocker) number: usize,
    /// In capital letters.
    pub(in crate::mydocker) keyword: String,
    /// `--name[=value]` before the arguments.
    pub(in crate::mydocker) flags: Vec<Flag>,
    /// The arguments.
    pub(in crate::mydocker) rest: String,
    /// All of it in one line, for people.
    pub(in crate::mydocker) text: String,
    pub(in crate::mydocker) heredocs: Vec<Heredoc>,
}

/// `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mydocker) struct Flag {
    pub(in crate::mydocker) name: String,
    pub(in crate::mydocker) value: Option<String>,
}

/// Lines that stand below an instruction and belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::mydocker) struct Heredoc {
    pub(in crate::mydocker) name: String,
    /// Variables in it are replaced: its name is not in quotes.
    pub(in crate::mydocker) expand: bool,
    /// Tabs at the beginning of its lines do not count (`<<-`).
    pub(in crate::mydocker) chomp: bool,
    pub(in crate::mydocker) content: String,
}

impl Heredoc {
    /// The content, without the tabs that do not count.
    pub(in crate::mydocker) fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// Reads a Dockerfile.
pub(in crate::mydocker) fn parse(text: &str) -> Result<Dockerfile> {
    let text = text.trim_start_matches('\u{feff}');
    let escape = directives(text)?;
    let mut lines = Vec::new();
    let mut source = Source {
        lines: text.split_inclusive('\n'),
        number: 0,
    };
    while let Some((number, line)) = source.logical(escape) {
        let line = instruction(number, line.trim_end(), escape, &mut source)
            .with_context(|| format!("line {number}"))?;
        lines.push(line);
    }
    Ok(Dockerfile { lines, escape })
}

/// One instruction without here-documents, as ONBUILD keeps them.
pub(in crate::mydocker) fn parse_line(text: &str) -> Result<Line> {
    let mut nothing = Source {
        lines: "".split_inclusive('\n'),
        number: 0,
    };
    instruction(1, text.trim(), '\\', &mut nothing)
}

/// `# name=value` in the first lines. Of those known, `escape` changes how the rest is read; `syntax`
/// names a program that reads it instead of us, and `check` what a linter complains of.
fn directives(text: &str) -> Result<char> {
    let mut seen: Vec<String> = Vec::new();
    let mut escape = '\\';
    for (at, line) in text.lines().enumerate() {
        let Some((name, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|l| l.split_once('='))
        else {
            break;
        };
        let name = name.trim().to_ascii_lowercase();
        if !["escape", "syntax", "check"].contains(&name.as_str()) {
            break;
        }
        if seen.contains(&name) {
            bail!("line {}: the directive {name} is there already", at + 1);
        }
        if name == "escape" {
            escape = match value.trim() {
                "\\" => '\\',
                "`" => '`',
                other => {
                    return Err(anyhow!("line {}: invalid escape {other:?}", at + 1))
                        .hint("it is \\ or a backtick");
                }
            };
        }
        seen.push(name);
    }
    Ok(escape)
}

/// The physical lines that are left.
struct Source<'a> {
    lines: std::str::SplitInclusive<'a, char>,
    number: usize,
}

impl<'a> Source<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.number += 1;
        self.lines.next()
    }

    /// The next line that says something, with those that continue it.
    fn logical(&mut self, escape: char) -> Option<(usize, String)> {
        loop {
            let first = self.next()?;
            let number = self.number;
            if is_comment(first) {
                continue;
            }
            let (mut line, mut goes_on) = continued(first.trim_start(), escape);
            let mut whole = String::new();
            loop {
                whole.push_str(line);
                if !goes_on {
                    break;
                }
                // Comments and empty lines are allowed in between.
                let next = loop {
                    match self.next() {
                        Some(next) if is_comment(next) || next.trim().is_empty() => {}
                        next => break next,
                    }
                };
                let Some(next) = next else { break };
                (line, goes_on) = continued(next, escape);
            }
            if !whole.trim().is_empty() {
                return Some((number, whole));
            }
        }
    }

    /// The lines up to the one that is the name.
    fn heredoc(&mut self, heredoc: &mut Heredoc) -> Result<()> {
        while let Some(line) = self.next() {
            let bare = line.trim_end_matches(['\n', '\r']);
            let bare = match heredoc.chomp {
                true => bare.trim_start_matches('\t'),
                false => bare,
            };
            if bare == heredoc.name {
                return Ok(());
            }
            heredoc.content.push_str(line);
        }
        let name = &heredoc.name;
        Err(anyhow!("the here-document {name} does not end"))
            .hint(format!("a line {name} alone ends it"))
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// A line without its end, and whether the next one belongs to it.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let line = line.trim_end_matches(['\n', '\r']);
    let bare = line.trim_end_matches([' ', '\t']);
    match bare.strip_suffix(escape) {
        // Two of them are one that is meant.
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

fn instruction(number: usize, line: &str, escape: char, source: &mut Source<'_>) -> Result<Line> {
    let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let keyword = keyword.to_ascii_uppercase();
    let (flags, rest) = flags(rest.trim(), escape)?;
    let mut heredocs = Vec::new();
    if ["RUN", "COPY", "ADD"].contains(&keyword.as_str()) && json(rest).is_none() {
        // What only a shell understands, such as `# don't`, has none.
        heredocs = words::split(rest, escape)
            .unwrap_or_default()
            .iter()
            .filter_map(|word| heredoc(word))
            .collect();
    }
    for heredoc in &mut heredocs {
        source.heredoc(heredoc)?;
    }
    Ok(Line {
        number,
        text: format!("{keyword} {}", rest_of(line)).trim_end().to_owned(),
        keyword,
        flags,
        rest: rest.to_owned(),
        heredocs,
    })
}

fn rest_of(line: &str) -> String {
    let rest = line
        .split_once(char::is_whitespace)
        .map_or("", |(_, rest)| rest);
    rest.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The flags in front, and what follows them.
fn flags(text: &str, escape: char) -> Result<(Vec<Flag>, &str)> {
    let mut flags = Vec::new();
    let mut rest = text;
    while rest.starts_with("--") {
        let end = words::end_of_word(rest, escape)?;
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        let word = words::unquoted(&word[2..], escape)?;
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word, None),
        };
        flags.push(Flag { name, value });
    }
    Ok((flags, rest))
}

/// `<<NAME`, `<<-NAME`, `<<"NAME"`, with the number of a descriptor before it or not.
pub(in crate::mydocker) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.strip_prefix("<<")?;
    let (chomp, name) = match rest.strip_prefix('-') {
        Some(name) => (true, name),
        None => (false, rest),
    };
    let bare: String = name.chars().filter(|c| !"\"'".contains(*c)).collect();
    if bare.is_empty() || name.contains('<') {
        return None;
    }
    Some(Heredoc {
        expand: bare == name,
        name: bare,
        chomp,
        content: String::new(),
    })
}

/// `["a", "b"]`
pub(in crate::mydocker) fn json(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    fn lines(text: &str) -> Vec<(usize, String)> {
        let file = parse(text).unwrap();
        let short = |line: &Line| (line.number, format!("{} {}", line.keyword, line.rest));
        file.lines.iter().map(short).collect()
    }

    #[test]
    fn lines_are_joined() {
        let text = "\u{feff}# syntax=docker/dockerfile:1\n\n# a comment\nfrom a\nRUN one \\\n  # between\n\n  \
                    two \\ \n\tthree\n  \nRUN a\\\\\nEXPOSE 1\r\nRUN x \\";
        assert_eq!(
            lines(text),
            [
                (4, "FROM a".to_owned()),
                (5, "RUN one   two \tthree".to_owned()),
                (11, "RUN a\\\\".to_owned()),
                (12, "EXPOSE 1".to_owned()),
                (13, "RUN x".to_owned()),
            ]
        );
    }

    #[test]
    fn directives_stand_at_the_top() {
        let of = |text: &str| parse(text).map(|file| file.escape);
        assert_eq!(of("# escape=`\nFROM a").unwrap(), '`');
        assert_eq!(of("#Escape = `\n# syntax=x\nFROM a").unwrap(), '`');
        assert_eq!(of("# hello\n# escape=`\nFROM a").unwrap(), '\\');
        assert_eq!(of("\n# escape=`\nFROM a").unwrap(), '\\');
        assert_eq!(of("# unknown=1\n# escape=`\nFROM a").unwrap(), '\\');
        for bad in ["# escape=x\n", "# escape=`\n# escape=`\n"] {
            assert!(of(bad).is_err(), "{bad}");
        }
        let text = "# escape=`\nFROM a\nRUN one `\n two\nRUN c:\\";
        assert_eq!(
            lines(text)[1..],
            [(3, "RUN one  two".to_owned()), (5, "RUN c:\\".to_owned())]
        );
    }

    #[test]
    fn flags_come_first() {
        let file = parse("COPY --from=x --link --chown=\"a b\":c -- --odd /to").unwrap();
        let line = &file.lines[0];
        let flags: Vec<_> = line
            .flags
            .iter()
            .map(|flag| (flag.name.as_str(), flag.value.as_deref()))
            .collect();
        assert_eq!(
            flags,
            [
                ("from", Some("x")),
                ("link", None),
                ("chown", Some("a b:c"))
            ]
        );
        assert_eq!(line.rest, "--odd /to");
    }

    #[test]
    fn here_documents_follow_their_instruction() {
        let text = "RUN cat <<EOF > /f && cat <<-'two' >/g\n# no comment\n$a \\\nEOF\n\t\tx\n\ttwo\nUSER u";
        let file = parse(text).unwrap();
        assert_eq!(file.lines.len(), 2);
        assert_eq!(file.lines[1].number, 7);
        let [one, two] = file.lines[0].heredocs.as_slice() else {
            panic!("{file:?}");
        };
        assert_eq!((one.name.as_str(), one.expand), ("EOF", true));
        assert_eq!(one.content, "# no comment\n$a \\\n");
        assert_eq!((two.name.as_str(), two.expand), ("two", false));
        assert_eq!(
            (two.content.as_str(), two.text().as_str()),
            ("\t\tx\n", "x\n")
        );
        let error = parse("FROM a\nCOPY <<E /x\nabc\n").unwrap_err();
        assert!(message(&error).contains("line 2: the here-document E"));
        for none in [
            "RUN [\"<<EOF\"]",
            "RUN a <<< b",
            "ENV a <<EOF",
            "RUN '<<EOF'",
            "RUN echo hi # don't <<EOF",
        ] {
            assert!(parse(none).unwrap().lines[0].heredocs.is_empty(), "{none}");
        }
    }
}
