//! The keys by which the caller leaves a container that goes on: Docker's `--detach-keys`.

use crate::error::ResultExt;
use anyhow::{Context, Result};

/// What is typed, key after key, and how much of it has been.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    typed: usize,
}

impl DetachKeys {
    /// A list as Docker has it, `ctrl-p,ctrl-q`: letters, and `ctrl-` with a letter or one of
    /// `@[\]^_`. Empty: there are none.
    pub(super) fn parse(text: &str) -> Result<DetachKeys> {
        let keys = text.split(',').filter(|_| !text.is_empty());
        Ok(DetachKeys {
            keys: keys
                .map(|key| {
                    byte_of(key)
                        .with_context(|| format!("--detach-keys {text:?}: {key:?} is no key"))
                        .hint("for example ctrl-p,ctrl-q or ctrl-x,d")
                })
                .collect::<Result<_>>()?,
            typed: 0,
        })
    }

    /// Whether there are none, as by default: there is no leaving.
    pub(super) fn is_none(&self) -> bool {
        self.keys.is_empty()
    }

    /// Takes what was typed, and gives back what is for the container: what may be the beginning of
    /// the keys is held back. `true`: all of them were typed.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut through = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.typed) != Some(byte) {
                through.extend_from_slice(&self.keys[..self.typed]);
                self.typed = 0;
            }
            if self.keys.get(self.typed) != Some(byte) {
                through.push(*byte);
                continue;
            }
            self.typed += 1;
            if self.typed == self.keys.len() {
                self.typed = 0;
                return (through, true);
            }
        }
        (through, false)
    }

    /// What is held back. Nothing more is typed, so it is for the container.
    pub(super) fn held(&mut self) -> &[u8] {
        let typed = std::mem::take(&mut self.typed);
        &self.keys[..typed]
    }
}

fn byte_of(key: &str) -> Option<u8> {
    if let Some(name) = key.strip_prefix("ctrl-") {
        let [byte] = name.as_bytes() else { return None };
        let upper = byte.to_ascii_uppercase();
        return (b'@'..=b'_').contains(&upper).then(|| upper - b'@');
    }
    match key.as_bytes() {
        [byte] => Some(*byte),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_the_reads_end() {
        let fresh = || DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(fresh().filter(b"ls\n"), (b"ls\n".to_vec(), false));
        assert_eq!(fresh().filter(b"ls\x10\x11more"), (b"ls".to_vec(), true));
        let mut keys = fresh();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (Vec::new(), false));
        assert_eq!(keys.filter(b"\x11"), (Vec::new(), true));
        assert_eq!(keys.filter(b"c\x10"), (b"c".to_vec(), false));
        assert_eq!(keys.held(), b"\x10");
        assert_eq!(keys.held(), b"");
        let mut none = DetachKeys::parse("").unwrap();
        assert_eq!(none.filter(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn names_of_keys_are_dockers() {
        let parsed = |text| DetachKeys::parse(text).unwrap().keys;
        assert_eq!(parsed("ctrl-a,b"), [1, b'b']);
        assert_eq!(parsed("ctrl-@,ctrl-["), [0, 27]);
        for bad in ["ctrl-", "ctrl-pq", "F1", "a,", "ctrl-1"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad}");
        }
    }
}
