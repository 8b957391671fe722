//! `kill`, `pause` and `resume`: what is done to the processes of a container from outside.

use super::cli::Kill;
use super::store::{Lock, Status, Store};
use crate::error::ResultExt;
use anyhow::{Result, anyhow};
use nix::sys::signal::Signal;
use std::str::FromStr;

/// `runtime kill [--all] ID [SIGNAL]`
pub fn kill(store: &Store, args: &Kill) -> Result<()> {
    let signal = parse_signal(&args.signal)?;
    let container = store.load(&args.id)?;
    let status = container.status()?;
    if args.all {
        // Processes may be left when init is dead: without a pid namespace nothing ends them.
        return container.cgroup().signal_all(signal);
    }
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(anyhow!(
            "container {:?} is not running: it is {status}",
            args.id
        ))
        .hint("only a created or running container can be signalled");
    }
    let alive = match &container.saved.init {
        Some(init) => init.signal(signal)?,
        None => false,
    };
    if !alive {
        return Err(
            anyhow!("container {:?} is not running: it has just ended", args.id).context("kill"),
        )
        .hint("`runtime delete` removes it");
    }
    // A frozen process takes the signal when it thaws; death must not wait for that.
    if signal == libc::SIGKILL && status == Status::Paused {
        container.cgroup().thaw()?;
    }
    Ok(())
}

/// A signal by its number, or by its name with or without `SIG`, in any case.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || anyhow!("unknown signal {text:?}");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=libc::SIGRTMAX()).contains(&number) {
            Ok(number)
        } else {
            Err(unknown()).hint(format!("numbers go from 1 to {}", libc::SIGRTMAX()))
        };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(bare) {
        return Ok(number);
    }
    Signal::from_str(&format!("SIG{bare}"))
        .map(|signal| signal as i32)
        .map_err(|_| unknown())
        .hint("use a number or a name such as TERM or SIGKILL")
}

/// `RTMIN`, `RTMIN+n`, `RTMAX`, `RTMAX-n` of signal(7).
fn real_time(bare: &str) -> Option<i32> {
    let (min, max) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = match bare.split_at_checked(5)? {
        ("RTMIN", "") => min,
        ("RTMAX", "") => max,
        ("RTMIN", rest) => min + rest.strip_prefix('+')?.parse::<i32>().ok()?,
        ("RTMAX", rest) => max - rest.strip_prefix('-')?.parse::<i32>().ok()?,
        _ => return None,
    };
    (min..=max).contains(&number).then_some(number)
}

/// `runtime pause ID`
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let _lock = Lock::take(container.dir())?;
    match container.status()? {
        Status::Created | Status::Running => container.cgroup().freeze(),
        status => Err(anyhow!("container {id:?} is {status}"))
            .hint("only a created or running container can be paused"),
    }
}

/// `runtime resume ID`
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let _lock = Lock::take(container.dir())?;
    match container.status()? {
        Status::Paused => container.cgroup().thaw(),
        status => Err(anyhow!("container {id:?} is {status}"))
            .hint("only a paused container can be resumed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_as_people_name_them() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGUSR1", 10),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("rtmax-1", 63),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "NOPE", "RTMIN+99"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
    }
}
