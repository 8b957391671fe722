//! SIGTERM to a monitor in the background. Nobody of ours sends it: it comes from who ends all that was
//! started in some place, such as systemd a unit that called `run -d`, or the machine. To a monitor the
//! container is what it has to end, as `stop` does; and as long as that lasts it stays beside it.

use super::record::{self, Record};
use super::state_dirs::State;
use crate::error::ResultExt;
use anyhow::{Context, Result};
use std::process::{Command, Stdio};

/// What a monitor does when it is told to end.
#[derive(Debug)]
pub(super) struct Told {
    state: State,
    id: String,
    /// Nobody has the container in the foreground, whose signals are the program's.
    pub(super) in_background: bool,
    is_stopping: bool,
}

impl Told {
    pub(super) fn new(state: &State, id: &str, in_background: bool) -> Told {
        Told {
            state: state.clone(),
            id: id.to_owned(),
            in_background,
            is_stopping: false,
        }
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
