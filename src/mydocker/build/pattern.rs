//! Patterns of names: those of COPY and ADD, which are Go's filepath.Match, and those of
//! .dockerignore, which know `**` besides.

use anyhow::{Context, Error, Result, anyhow};
use std::iter::Peekable;
use std::path::{Component, Path};
use std::str::Chars;

/// A pattern, read.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Vec<Token>);

#[derive(Debug, Clone)]
enum Token {
    Is(char),
    /// `?`: anything but a slash.
    One,
    /// `*`: any number of those.
    Some,
    /// `**`: anything.
    All,
    /// `**/`: nothing, or what [`Token::Dirs`] is, which follows.
    MayBeDirs,
    /// Anything that ends in a slash.
    Dirs,
    /// `[a-z]`, `[^a-z]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Whether a name is a pattern, and not just a name.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

impl Pattern {
    /// As filepath.Match reads it.
    pub(super) fn of_name(text: &str) -> Result<Pattern> {
        Pattern::read(text, false)
    }

    fn read(text: &str, deep: bool) -> Result<Pattern> {
        let mut tokens = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let token = match c {
                '*' if deep && chars.next_if_eq(&'*').is_some() => match chars.next_if_eq(&'/') {
                    Some(_) => {
                        tokens.push(Token::MayBeDirs);
                        Token::Dirs
                    }
                    None => Token::All,
                },
                '*' => Token::Some,
                '?' => Token::One,
                '[' => class(&mut chars).ok_or_else(|| bad(text))?,
                '\\' => Token::Is(chars.next().ok_or_else(|| bad(text))?),
                c => Token::Is(c),
            };
            tokens.push(token);
        }
        Ok(Pattern(tokens))
    }

    /// Whether it fits all of `text`.
    pub(super) fn fits(&self, text: &str) -> bool {
        // Which beginnings of the pattern fit what has been read so far.
        let mut at = vec![false; self.0.len() + 1];
        at[0] = true;
        self.skip(&mut at);
        for c in text.chars() {
            let mut next = vec![false; at.len()];
            for (i, token) in self.0.iter().enumerate().filter(|(i, _)| at[*i]) {
                match token {
                    Token::Is(wanted) => next[i + 1] |= *wanted == c,
                    Token::One => next[i + 1] |= c != '/',
                    Token::Class { negated, ranges } => {
                        let inside = ranges.iter().any(|(from, to)| (*from..=*to).contains(&c));
                        next[i + 1] |= c != '/' && inside != *negated;
                    }
                    Token::Some => next[i] |= c != '/',
                    Token::All => next[i] = true,
                    Token::Dirs => {
                        next[i] = true;
                        next[i + 1] |= c == '/';
                    }
                    Token::MayBeDirs => {}
                }
            }
            at = next;
            self.skip(&mut at);
        }
        at[self.0.len()]
    }

    /// Goes past what may be nothing.
    fn skip(&self, at: &mut [bool]) {
        for (i, token) in self.0.iter().enumerate() {
            at[i + 1] |= at[i] && matches!(token, Token::Some | Token::All | Token::MayBeDirs);
            if at[i] && matches!(token, Token::MayBeDirs) {
                at[i + 2] = true;
            }
        }
    }
}

fn bad(text: &str) -> Error {
    anyhow!("{text:?} is not a pattern: a bracket or a backslash is not finished")
}

/// What follows a `[`.
fn class(chars: &mut Peekable<Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut Peekable<Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    };
    while ranges.is_empty() || chars.next_if_eq(&']').is_none() {
        if ranges.is_empty() && chars.peek() == Some(&']') {
            return None;
        }
        let from = one(chars)?;
        let to = match chars.next_if_eq(&'-') {
            Some(_) => one(chars)?,
            None => from,
        };
        ranges.push((from, to));
    }
    Some(Token::Class { negated, ranges })
}

/// The patterns of a .dockerignore file. The last one that fits a path, or a directory that it is
/// in, decides.
#[derive(Debug, Default)]
pub(super) struct Ignore(Vec<(bool, Pattern)>);

impl Ignore {
    /// Reads the file's text.
    pub(super) fn parse(text: &str) -> Result<Ignore> {
        let mut patterns = Vec::new();
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            let what = || format!(".dockerignore, line {}", at + 1);
            if pattern.is_empty() {
                return Err(anyhow!("nothing follows the !")).with_context(what);
            }
            let pattern = Pattern::read(&clean(pattern), true).with_context(what)?;
            patterns.push((back, pattern));
        }
        Ok(Ignore(patterns))
    }

    /// Whether the path, relative to the context, is left out.
    pub(super) fn excludes(&self, path: &Path) -> bool {
        let with_parents: Vec<String> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        let fitting = |(_, pattern): &&(bool, Pattern)| {
            let fits = |path: &String| pattern.fits(path);
            with_parents.iter().any(fits)
        };
        self.0.iter().rfind(fitting).is_some_and(|(back, _)| !back)
    }

    /// Whether something below a directory that is left out may not be.
    pub(super) fn has_exceptions(&self) -> bool {
        self.0.iter().any(|(back, _)| *back)
    }
}

/// A path by its words alone, without a slash in front: Go's filepath.Clean.
fn clean(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::ParentDir if parts.last().is_some_and(|last| last != "..") => {
                parts.pop();
            }
            Component::ParentDir if text.starts_with('/') => {}
            Component::ParentDir => parts.push("..".to_owned()),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    match parts.is_empty() {
        true => ".".to_owned(),
        false => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("a[^a]b", "a/b", false),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("**", "a/b", false),
            ("a{b,c}", "ab", false),
            ("", "", true),
            ("*.txt", ".txt", true),
        ] {
            let read = Pattern::of_name(pattern).unwrap();
            assert_eq!(read.fits(text), expected, "{pattern} {text}");
        }
        for pattern in ["[", "[a", "[]a]", "a\\", "[a-", "[^]"] {
            assert!(Pattern::of_name(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn ignored_paths() {
        let excludes = |text: &str, path: &str| {
            let ignore = Ignore::parse(text).unwrap();
            ignore.excludes(Path::new(path))
        };
        for (text, path, expected) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("/a/", "a/b", true),
            ("./a/../b", "b", true),
            ("*/temp*", "some/temporary.txt", true),
            ("*/temp*", "some/dir/temp", false),
            ("*/*/temp*", "some/dir/temp", true),
            ("temp?", "tempa", true),
            ("**/*.go", "a.go", true),
            ("**/*.go", "x/y/a.go", true),
            ("**/foo", "xfoo", false),
            ("**/foo", "bar/xfoo", false),
            ("foo/**", "foo/a/b", true),
            ("foo/**", "foo", false),
            ("foo/**/bar", "foo/bar", true),
            ("foo/**/bar", "foo/x/y/bar", true),
            ("foo/**/bar", "foo/xbar", false),
            ("**", "anything/at/all", true),
            ("*.md\n!README.md", "README.md", false),
            ("*.md\n!README.md", "OTHER.md", true),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                "README-secret.md",
                true,
            ),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                "README-secret.md",
                false,
            ),
            ("*\n!src", "src/deep/x", false),
            ("*\n!src\nsrc/deep", "src/deep/x", true),
            ("# a\n\n  b  \n", "b", true),
            ("# a", "# a", false),
            (".", "x", false),
        ] {
            assert_eq!(excludes(text, path), expected, "{text:?} {path}");
        }
        assert!(Ignore::parse("a\n!\n").is_err() && Ignore::parse("[").is_err());
        assert!(Ignore::parse("a\n!b").unwrap().has_exceptions());
    }
}
