//! Which process is meant: a number alone is used again.

use crate::sys::fds;
use crate::sys::process::{boot_id, pidfd_open, pidfd_send_signal};
use anyhow::{Context, Result, bail};
use procfs::FromRead;
use procfs::process::Status as Signals;
use serde::{Deserialize, Serialize};
use std::os::fd::{AsFd, OwnedFd};

/// A process that cannot be mistaken for another: a number alone is used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// The number that the runtime saw.
    pub pid: i32,
    /// Field 22 of /proc/PID/stat (proc_pid_stat(5)), in clock ticks since boot.
    pub start_time: u64,
    /// /proc/sys/kernel/random/boot_id of that boot.
    pub boot_id: String,
}

impl Process {
    /// Describes a process that certainly lives, as an unreaped child does.
    pub fn of(pid: i32) -> Result<Process> {
        let found = stat(pid)?.with_context(|| format!("process {pid} is gone"))?;
        Ok(Process {
            pid,
            start_time: found.start_time,
            boot_id: boot_id().context("read the boot id")?.to_owned(),
        })
    }

    /// Whether this very process is alive. One that is on its way out is dead: a zombie, of which
    /// only the exit status is left, and the first process of a pid namespace that waits for the
    /// zombies in it to be reaped (pid_namespaces(7)).
    pub fn is_alive(&self) -> bool {
        self.found().is_some_and(|found| found.is_alive)
    }

    /// Whether it has executed a program since it was forked. One that criu has restored has not.
    pub fn has_executed(&self) -> bool {
        self.found().is_some_and(|found| found.has_executed)
    }

    fn found(&self) -> Option<Found> {
        let is_of_this_boot = boot_id().is_ok_and(|id| id == self.boot_id);
        let found = stat(self.pid).ok().flatten();
        found.filter(|found| is_of_this_boot && found.start_time == self.start_time)
    }

    /// Whether it has been sent a signal that it has not taken yet (proc_pid_status(5)).
    pub fn has_pending(&self, signal: i32) -> bool {
        let bit = 1 << (signal - 1);
        let status = Signals::from_file(format!("/proc/{}/status", self.pid));
        self.is_alive() && status.is_ok_and(|status| (status.sigpnd | status.shdpnd) & bit != 0)
    }

    /// A descriptor of this very process; `None` when it is dead.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        match pidfd_open(self.pid) {
            // The descriptor is of whoever has the number now: only after it is held can the start
            // time tell who that is.
            Ok(pidfd) => Ok(self.is_alive().then_some(pidfd)),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(error) => Err(error).context("pidfd_open"),
        }
    }

    /// Sends it a signal. `false`: it is dead.
    pub fn signal(&self, signal: i32) -> Result<bool> {
        let Some(pidfd) = self.open()? else {
            return Ok(false);
        };
        match pidfd_send_signal(pidfd.as_fd(), signal) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
            Err(error) => {
                Err(error).with_context(|| format!("send signal {signal} to process {}", self.pid))
            }
        }
    }
}

/// What /proc/PID/stat tells (proc_pid_stat(5)).
struct Found {
    is_alive: bool,
    has_executed: bool,
    start_time: u64,
}

/// What there is to tell of the process of that number; `None` when there is none.
fn stat(pid: i32) -> Result<Option<Found>> {
    // include/linux/sched.h: it has begun to exit; it has been forked, and has not executed anything.
    const PF_EXITING: u64 = 0x4;
    const PF_FORKNOEXEC: u64 = 0x40;
    let text = match fds::read(format!("/proc/{pid}/stat")) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
            return Ok(None);
        }
        other => other.with_context(|| format!("read /proc/{pid}/stat"))?,
    };
    let text = String::from_utf8_lossy(&text);
    // The name before may hold anything, parentheses too.
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<u64>().ok();
    let (Some(state), Some(flags), Some(threads), Some(start)) =
        (fields.first(), number(9), number(20), number(22))
    else {
        bail!("cannot understand /proc/{pid}/stat: {text:?}");
    };
    // All this is of the first thread: if it has ended alone (pthread_exit(3)), the process goes on.
    let ended = matches!(*state, "Z" | "X") || flags & PF_EXITING != 0;
    Ok(Some(Found {
        is_alive: !(ended && threads <= 1),
        has_executed: flags & PF_FORKNOEXEC == 0,
        start_time: start,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        let other = Process {
            start_time: me.start_time + 1,
            ..me.clone()
        };
        assert!(!other.is_alive());
        assert!(other.open().unwrap().is_none());
        assert!(!other.signal(0).unwrap());
        let other_boot = Process {
            boot_id: "x".into(),
            ..me
        };
        assert!(!other_boot.is_alive());
    }

    #[test]
    fn a_child_executes_its_program() {
        // Rust has waited for the execve(2).
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        assert!(process.is_alive() && process.has_executed());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive() && !process.has_executed());
        // A thread of a fork is the fork's: this one has been executed by cargo.
        assert!(
            Process::of(std::process::id() as i32)
                .unwrap()
                .has_executed()
        );
    }
}
