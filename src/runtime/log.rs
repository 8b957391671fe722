//! The log that engines read (`--log`, `--log-format`): errors and warnings, besides what goes to
//! standard error. It is a file, or a place in systemd's journal or the system log (crun's
//! `journald:NAME` and `syslog:NAME`).

use super::cli::{Cli, LogFormat, LogLevel};
use crate::error::{self, ResultExt, plain};
use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use serde_json::json;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where messages go besides standard error.
#[derive(Debug)]
pub struct Log {
    sink: Option<Sink>,
    format: LogFormat,
    level: LogLevel,
}

/// What takes the messages.
#[derive(Debug)]
enum Sink {
    /// A line each.
    File(File),
    /// systemd's journal (systemd.journal-fields(7)), under this name.
    Journal(UnixDatagram, String),
    /// Whoever reads /dev/log (syslog(3)), under this name.
    Syslog(UnixDatagram, String),
}

/// Where the journal takes datagrams of fields.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// Where the system log does in that of syslog(3).
const SYSLOG: &str = "/dev/log";

static LOG: OnceLock<Log> = OnceLock::new();

/// Its descriptor was closed in this process.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Writes nothing more: the caller closes the descriptor of the log.
pub fn close() {
    IS_CLOSED.store(true, Ordering::Relaxed);
}

/// Opens the log, once, at the start of the program.
pub fn open(target: Option<&OsStr>, format: LogFormat, level: LogLevel) -> Result<()> {
    let sink = target
        .filter(|target| !target.is_empty())
        .map(Sink::open)
        .transpose()?;
    // Set twice only by a second `open`, which there is not.
    let _ = LOG.set(Log {
        sink,
        format,
        level,
    });
    Ok(())
}

impl Sink {
    /// Opens `PATH`, `file:PATH`, `journald:NAME` or `syslog:NAME`.
    fn open(target: &OsStr) -> Result<Sink> {
        let after = |kind: &str| target.as_bytes().strip_prefix(kind.as_bytes());
        if let Some(name) = after("journald:") {
            return Ok(Sink::Journal(connect(JOURNAL)?, identifier(name)?));
        }
        if let Some(name) = after("syslog:") {
            return Ok(Sink::Syslog(connect(SYSLOG)?, identifier(name)?));
        }
        let path = Path::new(after("file:").map_or(target, OsStr::from_bytes));
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Sink::File(file.with_context(|| {
            format!("open the log {}", path.display())
        })?))
    }

    fn write(&self, entry: &Entry<'_>, format: LogFormat) -> io::Result<()> {
        match self {
            Sink::File(file) => (&*file).write_all((entry.line(format) + "\n").as_bytes()),
            Sink::Journal(socket, name) => {
                let (text, priority) = (entry.brief(format), entry.priority());
                // With its length, since it may have several lines.
                let mut fields = b"MESSAGE\n".to_vec();
                fields.extend((text.len() as u64).to_le_bytes());
                fields.extend(text.into_bytes());
                fields.extend(
                    format!("\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={name}\n").into_bytes(),
                );
                socket.send(&fields).map(drop)
            }
            Sink::Syslog(socket, name) => {
                /// LOG_USER of syslog(3).
                const FACILITY: u8 = 1;
                let priority = FACILITY << 3 | entry.priority();
                let (pid, text) = (std::process::id(), entry.brief(format));
                // Its reader knows the time.
                let packet = format!("<{priority}>{name}[{pid}]: {text}");
                socket.send(packet.as_bytes()).map(drop)
            }
        }
    }
}

fn connect(path: &str) -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound().context("make a socket")?;
    socket
        .connect(path)
        .with_context(|| format!("--log: connect to {path}"))
        .hint("nobody listens there; name a file with --log PATH")?;
    Ok(socket)
}

/// The name of a program, on one line.
fn identifier(bytes: &[u8]) -> Result<String> {
    let name = String::from_utf8_lossy(bytes);
    if name.is_empty() || name.chars().any(char::is_control) {
        bail!("--log: {name:?} is no name for the messages");
    }
    Ok(name.into_owned())
}

/// Reports the error that ends the program: to the log, and always to standard error.
pub fn error(error: anyhow::Error) {
    let advice = error::errno(&error).and_then(advice);
    let otherwise = "with --debug it says more of what it does";
    let error = &error::with_fallback_hint(error, advice.unwrap_or(otherwise));
    write(
        LogLevel::Error,
        &error::message(error),
        error::hint_of(error),
    );
    // The word by which scripts tell an error from a program's output; warnings have theirs.
    print(&error::render("runtime: error", error));
}

/// What can be done about an error of which nobody has said so.
pub(super) fn advice(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::ENOENT => "there is nothing of that name: check the path",
        libc::ENOTDIR => "a part of that path is no directory",
        libc::EEXIST => "something of that name is there: take another name, or remove it",
        libc::EACCES | libc::EPERM if nix::unistd::geteuid().is_root() => {
            "not even root may do that here: a mount, a capability or a security module is in the way"
        }
        libc::EACCES | libc::EPERM => "this user may not do that: root may",
        libc::EINVAL | libc::ERANGE => {
            "the kernel does not take that value: see the place in config.md or config-linux.md of \
             the runtime-spec"
        }
        libc::ENODEV | libc::ENXIO | libc::EOPNOTSUPP | libc::ENOSYS => {
            "this kernel or file system cannot do that: leave it out"
        }
        libc::ENOSPC | libc::EDQUOT => "make room on the file system",
        libc::EBUSY => "somebody uses it: end that first",
        libc::E2BIG => "arguments and environment must be shorter (execve(2))",
        libc::EMFILE | libc::ENFILE => "raise the limit on open files (ulimit -n)",
        libc::ENAMETOOLONG => "take a shorter name",
        libc::ECONNREFUSED => "nobody listens there",
        _ => return None,
    })
}

/// Tells the log of a command line that is none, from which only `--log` and `--log-format` are read:
/// engines look nowhere else. Standard error is told by whoever reads command lines.
pub fn usage(args: impl IntoIterator<Item = OsString>, message: &str) {
    let command = Cli::command();
    let has_value = |name: &str| {
        let mut options = command.get_arguments();
        options.any(|it| it.get_action().takes_values() && it.get_long() == name.strip_prefix("--"))
    };
    let (mut target, mut format) = (None, LogFormat::Text);
    let mut args = args.into_iter().skip(1);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        // What follows the verb may be a program's.
        if !text.starts_with('-') {
            break;
        }
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None if has_value(&text) => (text.as_str(), args.next()),
            None => (text.as_str(), None),
        };
        match (name, value) {
            ("--log", value) => target = value,
            ("--log-format", Some(value)) if value == "json" => format = LogFormat::Json,
            _ => {}
        }
    }
    // The first line says what is wrong.
    let line = message.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    if open(target.as_deref(), format, LogLevel::Error).is_ok() {
        write(LogLevel::Error, line, Some("runtime --help"));
    }
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

/// Whether [`debug`] tells anything: what takes time to put in words need not be otherwise.
pub fn tells_debug() -> bool {
    level() >= LogLevel::Debug
}

fn level() -> LogLevel {
    LOG.get().map_or(LogLevel::Warn, |log| log.level)
}

/// Writes to the log. `false`: there is none.
fn write(level: LogLevel, message: &str, hint: Option<&str>) -> bool {
    if IS_CLOSED.load(Ordering::Relaxed) {
        return true;
    }
    let Some((log, sink)) = LOG.get().and_then(|log| Some((log, log.sink.as_ref()?))) else {
        return false;
    };
    let message = &plain(message);
    let entry = Entry {
        level,
        message,
        hint,
    };
    // A full disk must not hide the error itself, which goes to standard error as well.
    sink.write(&entry, log.format).is_ok()
}

/// One message.
struct Entry<'a> {
    level: LogLevel,
    message: &'a str,
    hint: Option<&'a str>,
}

impl Entry<'_> {
    /// As a file holds it, without the end of the line.
    fn line(&self, format: LogFormat) -> String {
        let name = match self.level {
            LogLevel::Error => "error",
            LogLevel::Warn => "warning",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        };
        let time = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        let message = self.message;
        match format {
            LogFormat::Json => {
                let mut entry = json!({"level": name, "msg": message, "time": time});
                if let Some(hint) = self.hint {
                    entry["hint"] = json!(hint);
                }
                entry.to_string()
            }
            LogFormat::Text => {
                let hint = self
                    .hint
                    .map(|hint| format!(" hint={hint:?}"))
                    .unwrap_or_default();
                format!("time={time:?} level={name} msg={message:?}{hint}")
            }
        }
    }

    /// As text where the reader keeps time and level by itself.
    fn brief(&self, format: LogFormat) -> String {
        match (format, self.hint) {
            (LogFormat::Json, _) => self.line(format),
            (LogFormat::Text, Some(hint)) => format!("{} (hint: {})", self.message, plain(hint)),
            (LogFormat::Text, None) => self.message.to_owned(),
        }
    }

    /// The severity of syslog(3), which the journal has too.
    fn priority(&self) -> u8 {
        match self.level {
            LogLevel::Error => 3,
            LogLevel::Warn => 4,
            LogLevel::Info => 6,
            LogLevel::Debug => 7,
        }
    }
}

/// Standard error may be closed: there is nobody to tell then.
fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(make: fn(UnixDatagram) -> Sink, entry: &Entry<'_>, format: LogFormat) -> String {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        make(theirs).write(entry, format).unwrap();
        let mut buffer = [0; 4096];
        let length = ours.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn errors_of_the_kernel_have_advice() {
        assert!(advice(libc::ENOENT).is_some_and(|text| text.contains("path")));
        assert!(advice(libc::EIO).is_none());
    }

    #[test]
    fn the_journal_gets_fields_and_the_system_log_a_line() {
        let entry = Entry {
            level: LogLevel::Error,
            message: "no\nsuch",
            hint: Some("make one"),
        };
        let journal = |socket| Sink::Journal(socket, "us".into());
        let syslog = |socket| Sink::Syslog(socket, "us".into());
        assert_eq!(
            received(journal, &entry, LogFormat::Text),
            "MESSAGE\n\u{18}\0\0\0\0\0\0\0no\nsuch (hint: make one)\nPRIORITY=3\nSYSLOG_IDENTIFIER=us\n"
        );
        let me = std::process::id();
        assert_eq!(
            received(syslog, &entry, LogFormat::Text),
            format!("<11>us[{me}]: no\nsuch (hint: make one)")
        );
        let text = received(syslog, &entry, LogFormat::Json);
        let (_, object) = text.split_once(": ").unwrap();
        let object: serde_json::Value = serde_json::from_str(object).unwrap();
        assert_eq!(
            (&object["level"], &object["hint"]),
            (&json!("error"), &json!("make one"))
        );
    }

    #[test]
    fn names_are_on_one_line() {
        assert_eq!(identifier(b"us").unwrap(), "us");
        assert!(identifier(b"").is_err());
        assert!(identifier(b"us\nPRIORITY=0").is_err());
    }
}
