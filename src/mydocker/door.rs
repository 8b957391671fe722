//! The monitor's side of `attach`: a socket in the container's run directory. Whoever connects is
//! given a descriptor of the container's input, or of its terminal, and is on its own: what the
//! container prints it reads in the log. So no one who is attached keeps anybody waiting, and the
//! monitor needs no memory for them.

use super::runtime_cli;
use super::state_dirs::State;
use super::wait::until_readable;
use crate::error::ResultExt;
use crate::linux::console;
use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags};
use std::cell::Cell;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

/// The name of the socket.
const NAME: &str = "attach";

/// How long the monitor may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The listening socket.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    /// Who waits cannot be let in now: there is no descriptor left. To ask again at once would take
    /// all of a CPU.
    resting: Cell<bool>,
}

impl Door {
    /// Opens it; one of an earlier life is replaced.
    pub(super) fn open(state: &State, id: &str) -> Result<Door> {
        let (listener, _) = runtime_cli::listen(&state.run_dir(id), NAME)?;
        listener
            .set_nonblocking(true)
            .context("prepare the socket for attach")?;
        Ok(Door {
            listener,
            resting: Cell::new(false),
        })
    }

    /// Hands out a descriptor to each who waits. That somebody goes away again is their own
    /// business.
    pub(super) fn serve(&self, way_in: Option<&OwnedFd>) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(way_in) = way_in {
                        let _ = console::send_fd(&stream, NAME, way_in.as_fd());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Whoever it was has gone again.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return self.resting.set(true),
            }
        }
    }

    /// What to wait for. After somebody could not be let in: nothing, until something else happens.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        let listens = !self.resting.take();
        listens.then(|| PollFd::new(self.listener.as_fd(), PollFlags::POLLIN))
    }
}

/// The other side: the container's input or terminal, if its monitor has one.
pub(super) fn knock(state: &State, id: &str) -> Result<Option<OwnedFd>> {
    let dir = state.run_dir(id);
    let path = dir.join(NAME);
    let what = || format!("reach the monitor at {}", path.display());
    let dir = std::fs::File::open(&dir).with_context(what)?;
    let short = runtime_cli::path_of(dir.as_fd()).join(NAME);
    let stream = UnixStream::connect(short).with_context(what)?;
    if !until_readable(stream.as_fd(), Some(PATIENCE)) {
        return Err(anyhow!("the monitor does not answer"))
            .with_context(what)
            .hint("it may be stopped, or have no file descriptor left");
    }
    // It closes the connection when it has nothing to hand out.
    Ok(console::receive_fd(&stream).ok())
}
