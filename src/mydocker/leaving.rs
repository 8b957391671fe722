//! Leaving a program that goes on: what Docker's detach keys do in the foreground.

use super::report::Report;
use crate::sys::fds;
use crate::sys::process::{Cloned, clone_single_threaded, exit_now};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};

/// Goes on as a process of its own, in the background: without the caller's session, terminal and
/// streams. The process that was called ends when that one is `ready`; its children, whom nobody
/// hands over, are the init's then. A failure is told before anything has changed.
pub(super) fn leave_caller(what: &str, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let (mut ours, theirs) = std::io::pipe().context("make a pipe")?;
    if let Cloned::Child = clone_single_threaded(0, None).context("make a process")? {
        drop(ours);
        let report = File::from(OwnedFd::from(theirs));
        let result = leave_session().and_then(|()| ready());
        return match result {
            Ok(()) => {
                Report::Started.send(report);
                Ok(())
            }
            Err(error) => {
                Report::failed(&error).send(report);
                exit_now(1)
            }
        };
    }
    drop(theirs);
    let mut text = Vec::new();
    ours.read_to_end(&mut text)
        .context("wait for the process")?;
    match Report::read(&text) {
        Some(Ok(())) => {
            super::note(&format!("detached from {what}"));
            exit_now(0)
        }
        Some(Err(error)) => Err(error),
        None => bail!("the process that goes on beside {what} was killed"),
    }
}

/// Leaves the session and the standard streams of who started us.
pub(super) fn leave_session() -> Result<()> {
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    fds::duplicate_to_stdio(null.as_raw_fd()).context("dup2")?;
    nix::unistd::setsid().context("setsid")?;
    Ok(())
}
