//! `run --init`: a first process that reaps orphans and passes signals on, so that the container's
//! program need not. It is mydocker itself, mounted in the container, under another name.

use crate::sys::process::{Ended, pidfd_open, pidfd_send_signal, try_wait};
use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Where it is in the container.
pub(super) const PATH: &str = "/sbin/docker-init";

/// Runs the program that the arguments name, until it ends. Its exit code, 128 + n for signal n.
pub fn run(args: &[std::ffi::OsString]) -> Result<i32> {
    let (program, rest) = args.split_first().context("init: no program")?;
    let all = SigSet::all();
    let old = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK);
    let old = old.context("init: block signals")?;
    let signals = SignalFd::new(&all).context("init: signalfd")?;
    let mut command = Command::new(program);
    command.args(rest).process_group(0);
    crate::sys::process::before_exec(&mut command, move || {
        let _ = old.thread_set_mask();
    });
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let name = program.to_string_lossy().into_owned();
            super::note(&format!("init: {name}: {error}"));
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return Ok(if missing { 127 } else { 126 });
        }
    };
    let pid = child.id() as i32;
    let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::Pid::from_raw(pid));
    let pidfd = pidfd_open(pid).context("init: pidfd_open")?;
    loop {
        let info = signals.read_signal().context("init: read a signal")?;
        let Some(info) = info else { continue };
        if info.ssi_signo as i32 != Signal::SIGCHLD as i32 {
            // It may be gone, or may not take it.
            let _ = pidfd_send_signal(pidfd.as_fd(), info.ssi_signo as i32);
            continue;
        }
        if let Some(ended) = try_wait(pidfd.as_fd()).context("init: wait")? {
            return Ok(Ended::code(ended));
        }
        reap(pid);
    }
}

/// Reaps the orphans, and leaves the program to its pidfd.
fn reap(program: i32) {
    use nix::sys::wait::{Id, waitid};
    loop {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::All, peek) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _))
                if pid.as_raw() != program =>
            {
                let _ = waitpid(pid, None);
            }
            _ => return,
        }
    }
}
