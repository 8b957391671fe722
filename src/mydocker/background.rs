//! Having a monitor in the background: a mydocker of its own, started by a hidden verb, which gets the
//! monitor lock of its container as standard input.

use super::monitor_lock::MonitorLock;
use super::record::Record;
use super::report::Report;
use super::state_dirs::State;
use super::{record_file, rm};
use crate::error::ResultExt;
use crate::sys::fds;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// The hidden verb by which mydocker runs itself beside a detached container.
pub const VERB: &str = "monitor";

/// The hidden verb of a monitor that takes the place of one that was killed.
pub const ADOPT: &str = "adopt";

/// A monitor that was started while its container is still being made, since a program takes a while to
/// come up. It waits until it is called, and goes if it is not.
#[derive(Debug)]
pub(super) struct Background(UnixStream);

impl Background {
    /// Starts one for the container `id`. It holds the lock, too.
    pub(super) fn start(id: &str, lock: &MonitorLock) -> Result<Background> {
        let (ours, theirs) = UnixStream::pair().context("make a socket to the monitor")?;
        spawn(VERB, id, lock.copy()?, OwnedFd::from(theirs).into())?;
        Ok(Background(ours))
    }

    /// Leaves the container and its lock to it, and waits until the container runs.
    pub(super) fn watch(mut self, state: &State, record: &Record, lock: MonitorLock) -> Result<()> {
        drop(lock);
        // Should it be gone, there is no report.
        let _ = self.0.write_all(b"!");
        // Meanwhile. Of a later start the monitor tells the disk.
        let is_kept = match record.starting && !record.remove {
            true => record_file::outlive_power_cut(state, &record.id),
            false => Ok(()),
        };
        let mut text = Vec::new();
        let heard = self.0.read_to_end(&mut text);
        heard.context("wait for the monitor")?;
        Report::read(&text)
            .context("the monitor was killed before the container ran")
            .hint("the next command clears away what is left; try again")??;
        match is_kept {
            // One that could be lost is not to run.
            Err(error) if state.has_record(&record.id) => {
                rm::one(state, &record.id, true, true)?;
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// The monitor's side: waits until it is called. `false`: there is no container for it.
pub(super) fn is_called(socket: &mut File) -> Result<bool> {
    let heard = socket.read(&mut [0]).context("wait to be called")?;
    Ok(heard > 0)
}

/// Starts a new monitor for a container that goes on without one, and hands the lock to it. Best
/// effort: the next command tries again.
pub(super) fn adopt(record: &Record, lock: MonitorLock) {
    if let Err(error) = spawn(ADOPT, &record.id, lock.into_fd(), Stdio::null()) {
        super::note(&format!("no monitor for {}: {error:#}", record.name));
    }
}

/// The descriptors travel as standard streams; it puts /dev/null there, and goes to / by itself: told
/// to do so here, the standard library would make a copy of this process first.
fn spawn(verb: &str, id: &str, lock: OwnedFd, stdout: Stdio) -> Result<()> {
    let program = std::env::current_exe().context("find mydocker's own file")?;
    let spawned = Command::new(program)
        .args([verb, id])
        .stdin(Stdio::from(lock))
        .stdout(stdout)
        .stderr(Stdio::null())
        .spawn();
    spawned.context("start the monitor").map(drop)
}

/// What [`spawn`] handed over as a standard stream.
pub(super) fn handed(number: i32, what: &str) -> Result<File> {
    let stream = fds::standard(number).try_clone_to_owned();
    stream
        .map(File::from)
        .with_context(|| format!("take the {what}"))
}
