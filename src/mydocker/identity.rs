//! A process that is itself and no other: its number counts only together with its start and the boot.

use crate::sys::process::{Ended, boot_id};
use anyhow::{Context, Result};
use procfs::FromRead;
use procfs::process::Stat;
use serde::{Deserialize, Serialize};
use std::os::fd::OwnedFd;

/// A process, named so that a later one with the same number is told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The number in the host's pid namespace.
    pub pid: i32,
    /// Field 22 of proc_pid_stat(5): clock ticks after boot.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id` at the time.
    pub boot_id: String,
}

impl Process {
    /// Names a process that lives now.
    pub fn of(pid: i32) -> Result<Process> {
        let stat = stat(pid).with_context(|| format!("no process {pid}"))?;
        Ok(Process {
            pid,
            start_time: stat.starttime,
            boot_id: boot_id().context("read the boot id")?.to_owned(),
        })
    }

    /// Whether it has lived since the machine was booted.
    pub fn is_of_this_boot(&self) -> bool {
        boot_id().is_ok_and(|boot| boot == self.boot_id)
    }

    /// Whether it lives: same boot, same start, and no zombie.
    pub fn is_alive(&self) -> bool {
        self.is_of_this_boot()
            && stat(self.pid)
                .is_some_and(|stat| stat.starttime == self.start_time && !has_ended(&stat))
    }

    /// How it ended, as long as nobody has reaped it.
    pub fn status(&self) -> Option<Ended> {
        let stat = stat(self.pid)?;
        let zombie = stat.starttime == self.start_time && stat.state == 'Z' && has_ended(&stat);
        let status = stat.exit_code.filter(|_| zombie && self.is_of_this_boot());
        status.map(Ended::of_status)
    }

    /// A pidfd of this very process, or `None` when it has ended: the number is compared after the
    /// descriptor was opened, so that a stranger is never signalled.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = crate::sys::process::pidfd_open(self.pid).ok()?;
        self.is_alive().then_some(fd)
    }
}

/// What proc_pid_stat(5) says of a process.
fn stat(pid: i32) -> Option<Stat> {
    Stat::from_file(format!("/proc/{pid}/stat")).ok()
}

/// A process whose first thread alone has ended (pthread_exit(3) in main) goes on.
fn has_ended(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X' | 'x') && stat.num_threads <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let mut me = Process::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive() && me.open().is_some());
        me.start_time += 1;
        assert!(!me.is_alive() && me.open().is_none());
        me.start_time -= 1;
        me.boot_id.push('x');
        assert!(!me.is_alive(), "another boot");
    }

    #[test]
    fn a_program_may_be_called_anything() {
        let rest = "1 ".repeat(29);
        let line = format!("12 (a) S 1) Z 1 1 1 0 -1 1 1 1 1 1 1 1 1 1 1 1 1 0 4711 {rest}1536");
        let stat = |line: &str| Stat::from_read(line.as_bytes()).unwrap();
        let alone = stat(&line);
        assert_eq!((alone.state, alone.starttime), ('Z', 4711));
        assert!(has_ended(&alone));
        assert_eq!(
            alone.exit_code.map(Ended::of_status),
            Some(Ended::Exited(6))
        );
        assert!(!has_ended(&stat(&line.replacen("1 0 4711", "2 0 4711", 1))));
        assert!(Stat::from_read(&b"12 (a"[..]).is_err());
        assert!(Stat::from_read(&b""[..]).is_err());
    }
}
