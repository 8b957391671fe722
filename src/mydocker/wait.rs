//! `wait`: until a container has ended, and its exit code.

use super::cli::{Containers, Global};
use super::monitor_lock::MonitorLock;
use super::record::{self, Exit, Record, Status};
use super::state_dirs::State;
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::sys::fds::{self, poll_timeout};
use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// `mydocker wait`
pub fn verb(state: &State, _: &Global, args: &Containers) -> Result<i32> {
    super::for_each(&args.containers, |name| {
        let record = record::find(state, name)?;
        if matches!(record.status(state), Status::Created) && !state.is_monitored(&record.id) {
            let error = anyhow!("{name} was never started");
            let hint = format!("mydocker start {name}");
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        match for_exit(state, &record)
            .exit_code(1)?
            .and_then(|exit| exit.code)
        {
            Some(code) => super::say(&code.to_string()),
            None => {
                let error = anyhow!("{name}: nobody saw how it ended: its monitor was killed");
                let hint = format!("mydocker logs {name} may tell");
                Err(with_exit_code(with_hint(error, hint), 1))
            }
        }
    })
}

/// Waits until a descriptor is readable (a pidfd: until the process has ended). `false`: the time
/// was up before.
pub fn until_readable(fd: BorrowedFd<'_>, limit: Option<Duration>) -> bool {
    let end = limit.map(|limit| Instant::now() + limit);
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(left)) {
            Ok(0) if end.is_some_and(|end| Instant::now() >= end) => return false,
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return true,
            Err(_) => return false,
        }
    }
}

/// Waits for the end of a container and tells how it ended. It may be removed meanwhile (--rm): its
/// monitor leaves the exit in the lock file that we hold open.
pub fn for_exit(state: &State, record: &Record) -> Result<Option<Exit>> {
    Ending::of(state, record)?.wait()
}

/// The end of a container, which may be waited for later: what this holds open outlives it.
pub(super) struct Ending<'a> {
    state: &'a State,
    record: &'a Record,
    lock: File,
    alive: Option<OwnedFd>,
}

impl Ending<'_> {
    pub(super) fn of<'a>(state: &'a State, record: &'a Record) -> Result<Ending<'a>> {
        let lock = File::open(state.monitor_lock(&record.id)).context("open the monitor's lock")?;
        Ok(Ending {
            state,
            record,
            lock,
            alive: record.process.as_ref().and_then(|process| process.open()),
        })
    }

    pub(super) fn wait(self) -> Result<Option<Exit>> {
        let Ending { state, record, .. } = self;
        if record.exit.is_some() && !state.is_monitored(&record.id) {
            return Ok(record.exit.clone());
        }
        loop {
            // Opened anew each time, even if it is removed: the lock lasts as long as an open file.
            let own = fds::path(&self.lock);
            let lock = File::open(own).context("open the monitor's lock")?;
            let mut held = MonitorLock::wait_free(lock).context("wait for the monitor")?;
            let mut text = String::new();
            if held.read_to_string(&mut text).is_ok()
                && let Ok(exit) = serde_json::from_str(&text)
            {
                return Ok(Some(exit));
            }
            drop(held);
            // Its monitor was killed: another one takes over, as long as there is something to watch.
            let now = record::load(state, &record.id);
            let gone = now.is_ok_and(|now| super::rm::heal(state, &now));
            if gone || !state.is_monitored(&record.id) {
                break;
            }
        }
        // Without one the container itself is what is left to wait for.
        if let Some(pidfd) = self.alive {
            until_readable(pidfd.as_fd(), None);
        }
        Ok(record::load(state, &record.id)
            .ok()
            .and_then(|now| now.exit))
    }
}
