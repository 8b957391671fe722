//! The front-end: flags, images, supervision. It talks to the runtime only as a program.

pub mod attach;
pub mod background;
pub mod boot;
pub mod build;
pub mod bundle;
pub mod check;
pub mod cli;
mod cli_build;
mod cli_images;
mod cli_more;
mod cli_registry;
mod cli_run;
mod cli_volume;
pub mod commit;
mod copy;
mod copy_tar;
pub mod cp;
mod create;
pub mod credentials;
mod detach_keys;
mod devices;
pub mod df;
mod df_verbose;
mod dockerfile;
pub mod doctor;
mod doctor_checks;
mod door;
mod etc;
pub mod events;
pub mod exec;
mod exit;
pub mod export;
pub mod flags;
mod foreign;
mod format;
mod heading;
pub mod health;
pub mod history;
mod identity;
mod idmap_flag;
mod ids;
pub mod image;
pub mod images;
pub mod import;
pub mod info;
pub mod init;
mod input;
pub mod inspect;
mod keep_id;
mod leaving;
pub mod load;
pub mod log;
pub mod login;
pub mod logs;
mod machine;
pub mod monitor;
mod monitor_lock;
mod mount_flag;
mod mount_table;
mod mounts;
mod names;
mod output;
mod overlay;
mod passwd;
pub mod pause;
mod platform;
mod process;
pub mod progress;
mod propagation;
pub mod prune;
pub mod ps;
mod ps_filter;
mod reach;
pub mod record;
mod record_file;
pub mod registry;
mod relay;
mod remove_tree;
pub mod rename;
mod report;
mod rights;
pub mod rm;
pub mod rootless;
pub mod run;
pub mod runtime_cli;
mod seccomp_default;
mod sha256;
pub mod shown;
mod signals;
pub mod start;
pub mod state_dirs;
pub mod stats;
pub mod stop;
mod template;
mod template_functions;
mod template_ranges;
mod told;
pub mod top;
pub mod umask;
pub mod update;
pub mod values;
pub mod volume;
pub mod wait;
mod whole_file;
pub mod why;
mod wires;

use crate::error::{self, ResultExt, exit_code};
use anyhow::{Context, Result};
use std::io::Write;
use time::OffsetDateTime;

/// Does the same for each of several containers or images. One that fails does not keep the others
/// from it: its error is printed, and the worst exit code returned. A single failure is the caller's
/// to print.
fn for_each<T>(
    items: impl IntoIterator<Item = T>,
    mut action: impl FnMut(T) -> Result<()>,
) -> Result<i32> {
    let mut failures = Vec::new();
    for item in items {
        if let Err(failure) = action(item) {
            failures.push(failure);
        }
    }
    let worst = failures.iter().filter_map(exit_code).max();
    let Some(last) = failures.pop() else {
        return Ok(0);
    };
    for failure in failures {
        report(&failure);
    }
    Err(error::with_exit_code(last, worst.unwrap_or(1)))
}

/// Whether this process may do what only the machine's root may.
pub fn is_superuser() -> bool {
    nix::unistd::geteuid().is_root() && !ids::are_mapped()
}

/// What an ordinary user may not do is told to be so, if nothing better is known.
pub fn for_whom(failure: anyhow::Error, is_root: bool) -> anyhow::Error {
    use nix::errno::Errno;
    use std::io::{Error, ErrorKind};
    let denied = failure.chain().any(|link| {
        let kind = link.downcast_ref().map(Error::kind);
        let errno = link.downcast_ref();
        kind == Some(ErrorKind::PermissionDenied)
            || matches!(errno, Some(Errno::EACCES | Errno::EPERM))
    });
    if !denied || is_root || error::hint_of(&failure).is_some() {
        return failure;
    }
    let hint = "a user's containers may do what the user may; `mydocker doctor` tells what is missing for \
                more, and root may do all";
    error::with_hint(failure, hint)
}

/// Prints a line for the user, beside what the container says.
fn note(line: &str) {
    // Nothing can be told to whoever has closed it.
    let _ = writeln!(std::io::stderr(), "mydocker: {}", error::plain(line));
}

/// Prints an error that does not end the program.
fn report(failure: &anyhow::Error) {
    let text = error::render("mydocker", failure);
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// A name for a message: an empty one in quotes, so that it is seen.
fn visible(name: &str) -> &str {
    if name.is_empty() { "\"\"" } else { name }
}

/// Writes to standard output. Whoever stops reading has seen enough.
fn print(text: &str) -> Result<i32> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output").exit_code(1)
        }
        _ => Ok(0),
    }
}

/// The same with one line: what has been made or done, by its name.
fn say(line: &str) -> Result<()> {
    print(&format!("{line}\n")).map(drop)
}

/// `5 s ago`, `3 minutes ago`: how long since.
fn ago(then: OffsetDateTime) -> String {
    let seconds = (OffsetDateTime::now_utc() - then).whole_seconds().max(0);
    let many = |count: i64, unit: &str| match count {
        1 => format!("1 {unit} ago"),
        _ => format!("{count} {unit}s ago"),
    };
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7200 => many(seconds / 60, "minute"),
        7200..172_800 => many(seconds / 3600, "hour"),
        _ => many(seconds / 86_400, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ordinary_users_are_sent_to_root() {
        let denied = || {
            let error = std::io::Error::from_raw_os_error(libc::EACCES);
            anyhow::Error::from(error).context("list /x")
        };
        let hint = |error: &anyhow::Error| error::hint_of(error).map(str::to_owned);
        assert!(hint(&for_whom(denied(), false)).unwrap().contains("root"));
        assert_eq!(hint(&for_whom(denied(), true)), None);
        assert_eq!(hint(&for_whom(anyhow::anyhow!("x"), false)), None);
        let known = error::with_hint(denied(), "this");
        assert_eq!(hint(&for_whom(known, false)).as_deref(), Some("this"));
    }

    #[test]
    fn an_empty_name_is_seen() {
        assert_eq!((visible(""), visible("a")), ("\"\"", "a"));
    }
}
