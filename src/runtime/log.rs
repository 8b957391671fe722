//! The log that engines read (`--log`, `--log-format`): errors and warnings, besides what goes to
//! standard error.

use super::cli::{LogFormat, LogLevel};
use crate::error::{self, plain};
use anyhow::{Context, Result};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where messages go besides standard error.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: LogFormat,
    level: LogLevel,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log, once, at the start of the program.
pub fn open(path: Option<&Path>, format: LogFormat, level: LogLevel) -> Result<()> {
    let file = path
        .filter(|path| !path.as_os_str().is_empty())
        .map(|path| {
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("open the log {}", path.display()))
        })
        .transpose()?;
    // Set twice only by a second `open`, which there is not.
    let _ = LOG.set(Log {
        file,
        format,
        level,
    });
    Ok(())
}

/// Reports the error that ends the program: to the log, and always to standard error.
pub fn error(error: &anyhow::Error) {
    write(
        LogLevel::Error,
        &error::message(error),
        error::hint_of(error),
    );
    // The word by which scripts tell an error from a program's output; warnings have theirs.
    print(&error::render("runtime: error", error));
}

/// Reports something that does not stop the program.
pub fn warn(message: &str) {
    if level() >= LogLevel::Warn && !write(LogLevel::Warn, message, None) {
        print(&format!("runtime: warning: {}\n", plain(message)));
    }
}

/// Reports something that need not concern anybody, with `--log-level info`.
pub fn info(message: &str) {
    if level() >= LogLevel::Info && !write(LogLevel::Info, message, None) {
        print(&format!("runtime: info: {}\n", plain(message)));
    }
}

/// Reports a step, with --debug.
pub fn debug(message: &str) {
    if level() >= LogLevel::Debug && !write(LogLevel::Debug, message, None) {
        print(&format!("runtime: debug: {}\n", plain(message)));
    }
}

fn level() -> LogLevel {
    LOG.get().map_or(LogLevel::Warn, |log| log.level)
}

/// Writes to the log file. `false`: there is none.
fn write(level: LogLevel, message: &str, hint: Option<&str>) -> bool {
    let message = plain(message);
    let Some((log, mut file)) = LOG.get().and_then(|log| Some((log, log.file.as_ref()?))) else {
        return false;
    };
    let name = match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warning",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
    };
    let time = OffsetDateTime::now_utc()
        .format(&Rfc3339)
        .unwrap_or_default();
    let mut line = match log.format {
        LogFormat::Json => {
            let mut entry = json!({"level": name, "msg": message, "time": time});
            if let Some(hint) = hint {
                entry["hint"] = json!(hint);
            }
            entry.to_string()
        }
        LogFormat::Text => {
            let hint = hint
                .map(|hint| format!(" hint={hint:?}"))
                .unwrap_or_default();
            format!("time={time:?} level={name} msg={message:?}{hint}")
        }
    };
    line.push('\n');
    // A full disk must not hide the error itself, which goes to standard error as well.
    file.write_all(line.as_bytes()).is_ok()
}

/// Standard error may be closed: there is nobody to tell then.
fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
