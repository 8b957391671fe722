//! The signals of whoever stands beside a program: held back, looked at one by one, passed on or not.

use crate::sys::fds::poll_timeout;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Signals are held back from the moment this exists, so that none is lost before the loop runs.
/// Programs that are started get the mask of before.
#[derive(Debug)]
pub(super) struct Signals(SignalFd);

impl Signals {
    pub(super) fn hold() -> Result<Signals> {
        let mut set = SigSet::all();
        for fault in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
        ] {
            set.remove(fault);
        }
        set.thread_block().context("hold back signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals(
            SignalFd::with_flags(&set, flags).context("signalfd")?,
        ))
    }

    /// One that has come, if any has.
    pub(super) fn next(&self) -> Result<Option<i32>> {
        let info = self.0.read_signal().context("read a signal")?;
        Ok(info.map(|info| info.ssi_signo as i32))
    }

    /// As [`Signals::next`], of those only that a process has sent. What the kernel sends for a
    /// terminal, all that belong to it get.
    pub(super) fn next_sent(&self) -> Result<Option<i32>> {
        while let Some(info) = self.0.read_signal().context("read a signal")? {
            if info.ssi_code <= 0 {
                return Ok(Some(info.ssi_signo as i32));
            }
        }
        Ok(None)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for a signal, at most so long. `None`: the time is up.
    pub(super) fn wait(&self, limit: Duration) -> Result<Option<i32>> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, poll_timeout(Some(limit))) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            other => other.context("poll")?,
        };
        self.next()
    }
}

/// As an error: it was not the work that failed, somebody had it end by this signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interrupted(pub(super) i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Signals by which the caller asks a program in the foreground to end.
pub(super) fn asks_to_end(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGINT | libc::SIGTERM | libc::SIGHUP | libc::SIGQUIT
    )
}

/// Signals that are about us, and never passed on: stopping us must not stop the container, and our
/// pipes and children are our own business.
pub(super) fn is_ours(signal: i32) -> bool {
    matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGPIPE
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGURG
    )
}
