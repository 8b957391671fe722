//! A process that is itself and no other: its number counts only together with its start and the boot.

use crate::sys::process::Ended;
use anyhow::{Context, Result};
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
            start_time: stat.start_time,
            boot_id: boot_id()?,
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
                .is_some_and(|stat| stat.start_time == self.start_time && !stat.has_ended())
    }

    /// How it ended, as long as nobody has reaped it.
    pub fn status(&self) -> Option<Ended> {
        let stat = stat(self.pid)?;
        let zombie = stat.start_time == self.start_time && stat.state == b'Z' && stat.has_ended();
        (zombie && self.is_of_this_boot()).then(|| Ended::of_status(stat.exit_status))
    }

    /// A pidfd of this very process, or `None` when it has ended: the number is compared after the
    /// descriptor was opened, so that a stranger is never signalled.
    pub fn open(&self) -> Option<OwnedFd> {
        let fd = crate::sys::process::pidfd_open(self.pid).ok()?;
        self.is_alive().then_some(fd)
    }
}

/// What proc_pid_stat(5) says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// The state's letter: that of its first thread.
    state: u8,
    /// How many threads it has.
    threads: u32,
    start_time: u64,
    /// As wait(2) would give it; of use for a zombie only.
    exit_status: i32,
}

impl Stat {
    /// A process whose first thread alone has ended (pthread_exit(3) in main) goes on.
    fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }
}

fn stat(pid: i32) -> Option<Stat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&bytes)
}

/// The name of a program, in parentheses, may hold anything: fields are counted after the last `)`.
fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    let end = bytes.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(bytes.get(end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    // The manual counts from 1, and the first of these is its third.
    let field = |number: usize| fields.get(number - 3);
    Some(Stat {
        state: field(3)?.bytes().next()?,
        threads: field(20)?.parse().ok()?,
        start_time: field(22)?.parse().ok()?,
        exit_status: field(52)?.parse().ok()?,
    })
}

/// Which boot of the machine this is.
pub(super) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    Ok(text.trim().to_owned())
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
        let stat = parse_stat(line.as_bytes()).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'Z', 4711));
        assert!(stat.has_ended());
        let others = line.replacen("1 0 4711", "2 0 4711", 1);
        assert!(!parse_stat(others.as_bytes()).unwrap().has_ended());
        assert_eq!(Ended::of_status(stat.exit_status), Ended::Exited(6));
        assert_eq!(parse_stat(b"12 (a"), None);
        assert_eq!(parse_stat(b""), None);
    }
}
