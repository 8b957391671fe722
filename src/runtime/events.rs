//! `events`: statistics and out-of-memory events as lines of JSON.

use super::cli;
use super::store::{Container, Status, Store};
use crate::cgroup::oom::OomWatch;
use crate::cgroup::read::{self, Stats};
use crate::error::{ResultExt, with_hint};
use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// One line, in the form of `runc events`.
#[derive(Debug, Serialize)]
struct Event<'a> {
    /// `stats` or `oom`.
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

/// Prints the statistics, once with `--stats`, otherwise every interval and with each kill for want
/// of memory between, until the container ends or nobody reads any more.
pub fn events(store: &Store, args: &cli::Events) -> Result<()> {
    let interval = duration(&args.interval)?;
    let container = store.load(&args.id)?;
    if matches!(container.status()?, Status::Stopped | Status::Creating) {
        return Err(anyhow!("container {} is not running", args.id))
            .hint("there are statistics only of a container with a process");
    }
    container.cgroup().needed_for("events")?;
    if args.stats {
        print(&stats(&container))?;
        return Ok(());
    }
    let Some(init) = init(&container)? else {
        return Ok(());
    };
    follow(&container, &init, interval)
}

fn init(container: &Container) -> Result<Option<OwnedFd>> {
    match &container.saved.init {
        Some(process) => process.open(),
        None => Ok(None),
    }
}

fn follow(container: &Container, init: &OwnedFd, interval: Duration) -> Result<()> {
    let mut oom = OomWatch::new(container.cgroup()).context("watch for kills")?;
    let mut next = Instant::now() + interval;
    loop {
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, lest the last millisecond be polled away.
        let timeout = left.as_millis() as i32 + i32::from(!left.is_zero());
        let (ended, killed) = wait(init, oom.as_ref(), timeout)?;
        // v1 tells before it counts, so the count is looked at each time that this wakes.
        if killed || ended || Instant::now() >= next {
            let kills = oom.as_mut().map(OomWatch::new_kills).transpose()?;
            for _ in 0..kills.unwrap_or_default() {
                let oom = Event {
                    kind: "oom",
                    id: container.id(),
                    data: None,
                };
                if !print(&oom)? {
                    return Ok(());
                }
            }
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            if !print(&stats(container))? {
                return Ok(());
            }
            next += interval;
        }
    }
}

/// Whether the container ended, and whether something was killed in it.
fn wait(init: &OwnedFd, oom: Option<&OomWatch>, timeout: i32) -> Result<(bool, bool)> {
    let mut fds = vec![PollFd::new(init.as_fd(), PollFlags::POLLIN)];
    if let Some(oom) = oom {
        fds.push(PollFd::new(oom.as_fd(), oom.flags()));
    }
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error).context("wait for an event"),
    }
    let ready = |fd: Option<&PollFd>| fd.and_then(PollFd::any).unwrap_or(false);
    Ok((ready(fds.first()), ready(fds.get(1))))
}

fn stats(container: &Container) -> Event<'_> {
    Event {
        kind: "stats",
        id: container.id(),
        data: Some(read::stats(container.cgroup())),
    }
}

/// `false` when the reader has gone.
fn print(event: &Event<'_>) -> Result<bool> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut out = std::io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("write to standard output"),
    }
}

/// A duration as Go writes it: `5s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration> {
    let bad = || {
        with_hint(
            anyhow!("--interval: {text:?} is not a time above zero"),
            "write it as 5s, 500ms or 1m30s",
        )
    };
    let mut rest = text.trim();
    let mut seconds = 0f64;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        seconds += number
            * match &rest[..end] {
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(bad()),
            };
        rest = &rest[end..];
    }
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
    if duration < Duration::from_millis(1) {
        return Err(bad());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("5s", 5000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5s", 1500),
            ("1h", 3_600_000),
        ];
        for (text, milliseconds) in cases {
            let parsed = duration(text).expect(text);
            assert_eq!(parsed, Duration::from_millis(milliseconds), "{text}");
        }
        for text in ["", "5", "s", "0s", "5x", "-5s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
