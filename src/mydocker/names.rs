//! Names of containers, and the rule for names.

use crate::error::{with_exit_code, with_hint};
use anyhow::{Result, anyhow};

/// Docker's rule: a letter or digit, then letters, digits, `_`, `.` and `-`.
pub(super) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        && name.len() <= 200
}

/// The same for a container, or exit code 125.
pub(super) fn check(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    let error = anyhow!("invalid --name value '{name}'");
    Err(with_exit_code(with_hint(error, RULE), 125))
}

/// The same in words.
pub(super) const RULE: &str =
    "a name has letters, digits, _ . and -, and begins with a letter or digit";

const ADJECTIVES: [&str; 32] = [
    "able", "brave", "brisk", "calm", "clear", "clever", "curious", "eager", "early", "fair",
    "fond", "gentle", "glad", "happy", "honest", "jolly", "keen", "kind", "lively", "lucky",
    "mellow", "merry", "modest", "neat", "patient", "polite", "quick", "quiet", "steady", "sunny",
    "tidy", "wise",
];
const NOUNS: [&str; 32] = [
    "acorn", "anchor", "badger", "beacon", "birch", "brook", "canoe", "cedar", "comet", "crane",
    "falcon", "fern", "finch", "harbor", "hazel", "heron", "juniper", "kettle", "lantern", "maple",
    "meadow", "otter", "pebble", "pine", "raven", "river", "saddle", "sparrow", "thistle",
    "valley", "walnut", "willow",
];

/// `adjective_noun` from the digits of the id; from the second attempt on with a number.
pub(super) fn invent(id: &str, attempt: usize) -> String {
    let digits = |from: usize| {
        let text = id.get(from..from + 4).unwrap_or("0");
        usize::from_str_radix(text, 16).unwrap_or(0)
    };
    let adjective = ADJECTIVES[digits(0) % ADJECTIVES.len()];
    let noun = NOUNS[digits(4) % NOUNS.len()];
    match attempt {
        0 => format!("{adjective}_{noun}"),
        n => format!("{adjective}_{noun}{}", digits(8 + n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["a", "web-1", "A_b.c"] {
            assert!(check(name).is_ok(), "{name}");
        }
        for name in ["", "-x", "a/b", "..", "a b", "é"] {
            assert!(check(name).is_err(), "{name}");
        }
        let id = "0001002012345678";
        assert_eq!(invent(id, 0), "brave_acorn");
        assert!(check(&invent(id, 3)).is_ok() && invent(id, 1) != invent(id, 2));
    }
}
