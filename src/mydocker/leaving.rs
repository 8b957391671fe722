//! Standing beside a program whose terminal the caller may leave (Docker's detach keys). Then the
//! process that was called must end and the program's parent must stay, so they are two from the
//! beginning: this one makes the other, passes signals and the exit code on, and does no more.

use super::signals::{Signals, is_ours};
use crate::sys::fds;
use crate::sys::process::{Cloned, Ended, clone_single_threaded, pidfd_send_signal, wait};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Who goes on after [`stand_beside`].
#[derive(Debug)]
pub(super) enum Part {
    /// The process that was called.
    Called(Called),
    /// The one beside the program.
    Beside(Caller),
}

/// What the process that was called has to do.
#[derive(Debug)]
pub(super) struct Called {
    word: PipeReader,
    other: OwnedFd,
    signals: Signals,
}

/// The process that was called, seen by the one beside the program.
#[derive(Debug)]
pub(super) struct Caller(PipeWriter);

/// Makes the process that stands beside a program. It has no descriptor that our
/// caller left open but the standard streams, and `keep` of ours: this is for a process that owns
/// no other.
pub(super) fn stand_beside(keep: Option<BorrowedFd<'_>>) -> Result<Part> {
    let (word, told) = std::io::pipe().context("make a pipe")?;
    // Before there are two, so that no signal ends the one alone.
    let signals = Signals::hold()?;
    match clone_single_threaded(0, None).context("make a process")? {
        Cloned::Child => {
            drop((word, signals));
            let kept = keep.map(|fd| fd.as_raw_fd());
            fds::close_all_but(&[Some(told.as_raw_fd()), kept]);
            std::env::set_current_dir("/").context("leave the working directory")?;
            Ok(Part::Beside(Caller(told)))
        }
        Cloned::Parent { pidfd, .. } => Ok(Part::Called(Called {
            word,
            other: pidfd,
            signals,
        })),
    }
}

impl Called {
    /// Waits until the process beside the program `what` ends, or until the caller has left: the exit
    /// code.
    pub(super) fn attend(mut self, what: &str) -> Result<i32> {
        while !self.is_told()? {
            while let Some(signal) = self.signals.next_sent()? {
                if !is_ours(signal) {
                    let _ = pidfd_send_signal(self.other.as_fd(), signal);
                }
            }
        }
        let heard = self.word.read(&mut [0]);
        if heard.context("wait for the process beside it")? > 0 {
            super::note(&format!("detached from {what}"));
            return Ok(0);
        }
        let ended = wait(self.other.as_fd()).context("wait for the process beside it")?;
        if let Ended::Killed(_) = ended {
            super::note(&format!("the monitor of {what} was killed"));
        }
        Ok(ended.code())
    }

    /// Waits for a word of the other process, or its end, or a signal: `true` if not for that alone.
    fn is_told(&self) -> Result<bool> {
        let mut fds = [
            PollFd::new(self.word.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error).context("poll"),
            Ok(_) => Ok(fds[0].any() == Some(true)),
        }
    }
}

impl Caller {
    /// Readable in the sense of poll(2) when the process that was called is gone.
    pub(super) fn interest(&self) -> PollFd<'_> {
        PollFd::new(self.0.as_fd(), PollFlags::empty())
    }

    /// Lets it end. From here on nothing of it is ours.
    pub(super) fn leave(mut self) {
        // Best effort: what is said to a terminal that we still have is nobody's harm.
        let _ = leave_session();
        let _ = self.0.write_all(b"!");
    }
}

/// Leaves the session, the directory and the standard streams of who started us.
pub(super) fn leave_session() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    fds::duplicate_to_stdio(null.as_raw_fd()).context("dup2")?;
    nix::unistd::setsid().context("setsid")?;
    std::env::set_current_dir("/").context("leave the working directory")
}
