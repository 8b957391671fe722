//! What a person reads when something fails: one line that says what and why, and a hint that says
//! what to do. Errors are plain `anyhow` errors; a hint or an exit code rides along without
//! changing the message.

use std::fmt;

/// Something wrong in a config.json: where, as a JSON path like `mounts[3].options`, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The JSON path; empty for the document as a whole.
    pub path: String,
    /// What is wrong with it, in words that name the value.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return write!(f, "{}", self.what);
        }
        write!(f, "{}: {}", self.path, self.what)
    }
}

/// A hint or an exit code attached to an error. It is transparent: it shows and continues the error
/// that it carries, so that it adds nothing to the message.
#[derive(Debug)]
struct Note {
    hint: Option<String>,
    exit_code: Option<i32>,
    inner: anyhow::Error,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

impl std::error::Error for Note {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // A note on a note must be found in the chain, so it is shown as a link of its own and
        // skipped when the chain is rendered.
        if self.inner.downcast_ref::<Note>().is_some() {
            return Some(self.inner.as_ref());
        }
        self.inner.source()
    }
}

/// Attaches what a person or a caller needs to know to an error.
pub trait ResultExt<T> {
    /// Adds what the user can do about it, shown on a `hint:` line of its own.
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T>;
    /// The same unless it has a hint: whoever was nearer to the failure knows more.
    fn fallback_hint(self, hint: impl fmt::Display) -> anyhow::Result<T>;
    /// Sets the exit code of the program should this error end it.
    fn exit_code(self, code: i32) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> ResultExt<T> for Result<T, E> {
    fn hint(self, hint: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| with_hint(error.into(), hint))
    }

    fn fallback_hint(self, hint: impl fmt::Display) -> anyhow::Result<T> {
        self.map_err(|error| with_fallback_hint(error.into(), hint))
    }

    fn exit_code(self, code: i32) -> anyhow::Result<T> {
        self.map_err(|error| with_exit_code(error.into(), code))
    }
}

/// Attaches a hint to an error at hand; see [`ResultExt::hint`].
pub fn with_hint(error: anyhow::Error, hint: impl fmt::Display) -> anyhow::Error {
    anyhow::Error::new(Note {
        hint: Some(hint.to_string()),
        exit_code: None,
        inner: error,
    })
}

/// Attaches a hint to an error at hand that has none; see [`ResultExt::fallback_hint`].
pub fn with_fallback_hint(error: anyhow::Error, hint: impl fmt::Display) -> anyhow::Error {
    match hint_of(&error) {
        Some(_) => error,
        None => with_hint(error, hint),
    }
}

/// Attaches an exit code to an error at hand; see [`ResultExt::exit_code`].
pub fn with_exit_code(error: anyhow::Error, code: i32) -> anyhow::Error {
    anyhow::Error::new(Note {
        hint: None,
        exit_code: Some(code),
        inner: error,
    })
}

/// The exit code attached nearest to the outside of `error`, if any.
pub fn exit_code(error: &anyhow::Error) -> Option<i32> {
    notes(error).find_map(|note| note.exit_code)
}

/// The hint attached nearest to the outside of `error`, if any. One is enough: the outer one knows
/// more of what the user wanted.
pub fn hint_of(error: &anyhow::Error) -> Option<&str> {
    notes(error).find_map(|note| note.hint.as_deref())
}

fn notes(error: &anyhow::Error) -> impl Iterator<Item = &Note> {
    error.chain().filter_map(|link| link.downcast_ref::<Note>())
}

/// The number of the kernel's error that was the cause, if one was (errno(3)).
pub fn errno(error: &anyhow::Error) -> Option<i32> {
    error.chain().find_map(|link| {
        let number = link
            .downcast_ref::<nix::errno::Errno>()
            .map(|errno| *errno as i32);
        number.or_else(|| link.downcast_ref::<std::io::Error>()?.raw_os_error())
    })
}

/// The message alone: the chain of causes joined by `: `, without a link that repeats its
/// predecessor's text.
pub fn message(error: &anyhow::Error) -> String {
    let mut text = String::new();
    let mut last = String::new();
    for link in error.chain() {
        let part = plain(&link.to_string());
        if part == last || (!last.is_empty() && last.ends_with(&format!(": {part}"))) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&part);
        last = part;
    }
    text
}

/// The text without the `(os error 2)` that the standard library puts behind the kernel's words: to a
/// person it says nothing more.
pub fn plain(text: &str) -> String {
    const MARK: &str = " (os error ";
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, after)) = rest.split_once(MARK) {
        kept.push_str(before);
        let number = after.split(')').next().unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        match after.get(number.len() + 1..) {
            Some(behind) if is_number => rest = behind,
            _ => {
                kept.push_str(MARK);
                rest = after;
            }
        }
    }
    kept.push_str(rest);
    kept
}

/// The error as it is printed: `<program>: <what>: <why>`, then `hint: <what to do>` where there
/// is something to do. Ends in a newline.
pub fn render(program: &str, error: &anyhow::Error) -> String {
    let mut text = format!("{program}: {}\n", message(error));
    if let Some(hint) = hint_of(error) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// The error as a line of JSON, with the fields that runc's logs have, and the hint.
pub fn json(program: &str, error: &anyhow::Error) -> String {
    let entry = serde_json::json!({
        "level": "error", "program": program, "msg": message(error), "hint": hint_of(error),
    });
    format!("{entry}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn a_hint_stands_on_its_own_line_and_leaves_the_message() {
        let error = Err::<(), _>(anyhow!("no such file"))
            .context("open a")
            .hint("make it")
            .context("start c1")
            .unwrap_err();
        assert_eq!(
            render("runtime", &error),
            "runtime: start c1: open a: no such file\nhint: make it\n"
        );
    }

    #[test]
    fn the_outer_hint_and_code_win() {
        let error = Err::<(), _>(anyhow!("x"))
            .hint("inner")
            .exit_code(127)
            .hint("outer")
            .unwrap_err();
        assert_eq!(hint_of(&error), Some("outer"));
        assert_eq!(exit_code(&error), Some(127));
        assert_eq!(message(&error), "x");
    }

    #[test]
    fn a_cause_is_not_repeated() {
        let io = std::io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow!("open /a: {io}").context("load");
        assert_eq!(message(&error), "load: open /a: No such file or directory");
        let error = anyhow!("a (os error x) (os error 2) b (os error 5");
        assert_eq!(message(&error), "a (os error x) b (os error 5");
    }

    #[test]
    fn the_nearer_hint_stays() {
        let failed = || Err::<(), _>(anyhow::anyhow!("failed"));
        let error = failed().fallback_hint("far").unwrap_err();
        assert_eq!(hint_of(&error), Some("far"));
        let error = failed().hint("near").fallback_hint("far").unwrap_err();
        assert_eq!(hint_of(&error), Some("near"));
    }
}
