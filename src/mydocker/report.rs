//! What a process in the background tells the command that started it, before that ends.

use crate::error::{exit_code, hint_of, message, with_exit_code, with_hint};
use anyhow::{Error, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::fs::File;

/// One message through a pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It runs.
    Started,
    /// It does not: the error with its hint and its exit code.
    Failed {
        message: String,
        hint: Option<String>,
        code: Option<i32>,
    },
}

impl Report {
    pub(super) fn failed(error: &Error) -> Report {
        Report::Failed {
            message: message(error),
            hint: hint_of(error).map(str::to_owned),
            code: exit_code(error),
        }
    }

    /// Whoever waits for it may be gone.
    pub(super) fn send(&self, mut pipe: File) {
        let _ = serde_json::to_writer(&mut pipe, self);
    }

    /// What was sent, as the result it stands for. `None`: the sender was killed before.
    pub(super) fn read(text: &[u8]) -> Option<Result<()>> {
        let (message, hint, code) = match serde_json::from_slice(text).ok()? {
            Report::Started => return Some(Ok(())),
            Report::Failed {
                message,
                hint,
                code,
            } => (message, hint, code),
        };
        let mut error = anyhow!(message);
        if let Some(hint) = hint {
            error = with_hint(error, hint);
        }
        Some(Err(match code {
            Some(code) => with_exit_code(error, code),
            None => error,
        }))
    }
}
