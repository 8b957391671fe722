//! Having a monitor in the background: a mydocker of its own, started by a hidden verb.

use super::monitor_lock::MonitorLock;
use super::record::{self, Record};
use super::report::Report;
use super::state_dirs::State;
use super::{record_file, rm, stop};
use crate::error::ResultExt;
use crate::linux::console;
use crate::sys::fds;
use anyhow::{Context, Result, anyhow};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

/// The hidden verb by which mydocker runs itself beside a detached container.
pub const VERB: &str = "monitor";

/// The hidden verb of a monitor that takes the place of one that was killed.
pub const ADOPT: &str = "adopt";

/// A monitor that was started before there is a container, since a program takes a while to come up. It
/// waits until it is called, and goes if it is not.
#[derive(Debug)]
pub(super) struct Background {
    process: Child,
    socket: UnixStream,
    is_called: bool,
}

impl Background {
    /// Starts one for the container `id`.
    pub(super) fn start(id: &str) -> Result<Background> {
        let (ours, theirs) = UnixStream::pair().context("make a socket to the monitor")?;
        Ok(Background {
            process: spawn(VERB, id, OwnedFd::from(theirs).into())?,
            socket: ours,
            is_called: false,
        })
    }

    /// Leaves the container and its lock to it, and waits until the container runs.
    pub(super) fn watch(mut self, state: &State, record: &Record, lock: MonitorLock) -> Result<()> {
        self.is_called = true;
        // Should it be gone, there is no report.
        let _ = console::send_fd(&self.socket, "the lock", lock.into_fd().as_fd());
        // Meanwhile.
        let is_kept = match record.fleeting {
            true => Ok(()),
            false => record_file::outlive_power_cut(state, &record.id),
        };
        let mut text = Vec::new();
        match self.socket.read_to_end(&mut text) {
            // It was killed before it had read the call.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            heard => heard.map(drop).context("wait for the monitor")?,
        }
        let Some(report) = Report::read(&text) else {
            // The disk may say that it runs.
            if let Ok(record) = record::load(state, &record.id) {
                rm::heal(state, &record);
            }
            return Err(anyhow!("the monitor was killed before the container ran"))
                .hint("try again");
        };
        report?;
        match is_kept {
            // One that could be lost is not to run.
            Err(error) if state.has_record(&record.id) => {
                match record.starting {
                    true => rm::one(state, &record.id, true, true)?,
                    false => stop::kill_now(state, record)?,
                }
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Background {
    /// Nothing is left of one that is not needed.
    fn drop(&mut self) {
        if !self.is_called {
            let _ = self.socket.shutdown(Shutdown::Both);
            let _ = self.process.wait();
        }
    }
}

/// The monitor's side: waits until it is called, with the lock. `None`: there is no container for it.
pub(super) fn called(socket: &File) -> Result<Option<MonitorLock>> {
    let heard = fds::receive(socket.as_fd(), &mut [0; 64]).context("wait to be called")?;
    Ok(heard.1.map(|lock| MonitorLock::handed(lock.into())))
}

/// Starts a new monitor for a container that goes on without one, and hands the lock to it. Best
/// effort: the next command tries again.
pub(super) fn adopt(record: &Record, lock: MonitorLock) {
    if let Err(error) = spawn(ADOPT, &record.id, lock.into_fd().into()) {
        super::note(&format!("no monitor for {}: {error:#}", record.name));
    }
}

/// `with` travels as standard input; it puts /dev/null there, and goes to / by itself: told to do so here,
/// the standard library would make a copy of this process first.
fn spawn(verb: &str, id: &str, with: Stdio) -> Result<Child> {
    let program = std::env::current_exe().context("find mydocker's own file")?;
    let spawned = Command::new(program)
        .args([verb, id])
        .stdin(with)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    spawned.context("start the monitor")
}

/// What [`spawn`] handed over.
pub(super) fn handed() -> Result<File> {
    let stream = fds::standard(0).try_clone_to_owned();
    stream
        .map(File::from)
        .context("take what was handed over as standard input")
}
