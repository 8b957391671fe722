//! What a monitor is told while its container lives.
//!
//! SIGTERM to one in the background. Nobody of ours sends it: it comes from who ends all that was
//! started in some place, such as systemd a unit that called `run -d`, or the machine. To a monitor the
//! container is what it has to end, as `stop` does; and as long as that lasts it stays beside it.
//!
//! `monitor::LOOK` by a `commit` that is about to freeze the container: should that be killed, it is the
//! monitor that lets the container go on.

use super::commit;
use super::record::{self, Record};
use super::state_dirs::State;
use super::stop::listens;
use crate::error::ResultExt;
use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};

/// What a monitor does when it is told to end.
#[derive(Debug)]
pub(super) struct Told {
    state: State,
    id: String,
    /// Nobody has the container in the foreground, whose signals are the program's.
    pub(super) in_background: bool,
    is_stopping: bool,
    /// How often the caller's Ctrl-C has gone to the program.
    interrupts: u32,
    /// The process that has frozen the container, or will.
    committer: Option<OwnedFd>,
}

impl Told {
    pub(super) fn new(state: &State, id: &str, in_background: bool) -> Told {
        Told {
            state: state.clone(),
            id: id.to_owned(),
            in_background,
            is_stopping: false,
            interrupts: 0,
            committer: None,
        }
    }

    /// Somebody has noted something in the record.
    pub(super) fn look(&mut self) {
        self.committer = None;
        let Ok(record) = record::load(&self.state, &self.id) else {
            return;
        };
        self.committer = commit::committer(&record);
        if self.committer.is_none() {
            commit::heal(&self.state, &record);
        }
    }

    /// Readable when the commit has ended (pidfd_open(2)).
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        let committer = self.committer.as_ref()?;
        Some(PollFd::new(committer.as_fd(), PollFlags::POLLIN))
    }

    /// Has a `stop` run beside us, once. It waits for the monitor, which waits for the container.
    pub(super) fn stop(&mut self) {
        if !self.in_background || self.is_stopping {
            return;
        }
        let started = mark(&self.state, &self.id).and_then(|()| self.start_stop());
        match started {
            Ok(()) => self.is_stopping = true,
            // Whoever sent the signal may send it again, or another one.
            Err(error) => super::report(&error),
        }
    }

    /// A signal of the caller's has gone to the program. Whoever presses Ctrl-C once more is told if the
    /// program will not hear it.
    pub(super) fn passed(&mut self, signal: i32) {
        if signal != libc::SIGINT {
            return;
        }
        self.interrupts += 1;
        if self.interrupts == 2
            && let Ok(record) = record::load(&self.state, &self.id)
            && !listens(&record, signal)
        {
            super::note(&format!(
                "{0}: its first process ignores INT; `mydocker stop {0}` ends it (with run --init the \
                 signal is passed on)",
                record.name
            ));
        }
    }

    fn start_stop(&self) -> Result<()> {
        let program = std::env::current_exe().context("find mydocker's own file")?;
        let stop = Command::new(program)
            .args(["stop", &self.id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        stop.map(drop)
            .context("run mydocker stop")
            .hint("try again")
    }
}

/// Notes that the container is not started again by its policy, but by the next `boot`.
fn mark(state: &State, id: &str) -> Result<()> {
    record::load(state, id)?.update(state, true, shut_down)
}

/// The same in a record.
pub(super) fn shut_down(record: &mut Record) {
    record.is_shut_down |= !record.stopping;
    record.stopping = true;
}
