//! The monitor's side of `attach`: a socket in the container's run directory. Whoever connects is
//! given a descriptor of the container's input, or of its terminal, and is on its own: what the
//! container prints it reads in the log. So no one who is attached keeps anybody waiting, and the
//! monitor needs no memory for them.

use super::runtime_cli;
use super::state_dirs::State;
use crate::linux::console;
use anyhow::{Context, Result};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

/// The name of the socket.
const NAME: &str = "attach";

/// The listening socket.
#[derive(Debug)]
pub(super) struct Door(UnixListener);

impl Door {
    /// Opens it; one of an earlier life is replaced.
    pub(super) fn open(state: &State, id: &str) -> Result<Door> {
        let (listener, _) = runtime_cli::listen(&state.run_dir(id), NAME)?;
        listener
            .set_nonblocking(true)
            .context("prepare the socket for attach")?;
        Ok(Door(listener))
    }

    /// Hands out a descriptor to each who waits. That somebody goes away again is their own
    /// business.
    pub(super) fn serve(&self, way_in: Option<&OwnedFd>) {
        while let Ok((stream, _)) = self.0.accept() {
            if let Some(way_in) = way_in {
                let _ = console::send_fd(&stream, NAME, way_in.as_fd());
            }
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
    // It closes the connection when it has nothing to hand out.
    Ok(console::receive_fd(&stream).ok())
}
