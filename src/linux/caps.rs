//! Capabilities (capabilities(7)): names, numbers, and the five sets of a process.

use crate::sys::fds;
use crate::sys::process::prctl;
use crate::sys::user::{CapSets, capset};
use anyhow::{Context, Result};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

/// The kernel's names in the order of their numbers (include/uapi/linux/capability.h), without
/// `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability by its name, with or without `CAP_`, in any case.
pub fn number(name: &str) -> Option<u32> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == bare)
        .map(|n| n as u32)
}

/// Whether there is a capability of that name.
pub fn known(name: &str) -> bool {
    number(name).is_some()
}

/// The name with `CAP_` of a capability's number.
pub fn name(number: u32) -> Option<String> {
    NAMES.get(number as usize).map(|bare| format!("CAP_{bare}"))
}

/// The highest number that the running kernel knows, from /proc/sys/kernel/cap_last_cap; the
/// highest known here when that file cannot be read.
pub fn last() -> u32 {
    fds::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(NAMES.len() as u32 - 1)
}

/// The five sets of a process, a bit a capability.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// What exec may ever give.
    pub bounding: u64,
    /// The three sets of capset(2).
    pub sets: CapSets,
    /// What exec keeps for a program without capabilities of its own.
    pub ambient: u64,
}

impl Caps {
    /// The sets of `process.capabilities` (config.md). None at all: a process without capabilities.
    pub fn new(spec: Option<&LinuxCapabilities>) -> Caps {
        let Some(spec) = spec else {
            return Caps::default();
        };
        Caps {
            bounding: bits(spec.bounding()),
            sets: CapSets {
                effective: bits(spec.effective()),
                permitted: bits(spec.permitted()),
                inheritable: bits(spec.inheritable()),
            },
            ambient: bits(spec.ambient()),
        }
    }

    /// Drops from the bounding set what is not in it. Needs CAP_SETPCAP, hence before the user
    /// changes.
    pub fn limit_bounding(&self) -> Result<()> {
        for number in 0..64 {
            if self.bounding & (1 << number) != 0 {
                continue;
            }
            match prctl(libc::PR_CAPBSET_DROP, number, 0) {
                Ok(_) => {}
                // Past the kernel's last capability.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("drop {} from the bounding set", label(number as u32))
                    });
                }
            }
        }
        Ok(())
    }

    /// What of them can be granted by a process that holds `held`, and the names of those that
    /// cannot (config.md: a runtime warns of them, and does not fail). Call it after
    /// [`Caps::limit_bounding`].
    pub fn grantable(self, held: CapSets) -> (Caps, Vec<String>) {
        let sets = self.sets;
        let permitted = sets.permitted & held.permitted;
        let bounding = match sets.inheritable {
            0 => 0,
            _ => held_bounding(),
        };
        let granted = CapSets {
            permitted,
            effective: sets.effective & permitted,
            inheritable: sets.inheritable & (held.inheritable | bounding),
        };
        let lost = (sets.permitted & !granted.permitted)
            | (sets.effective & !granted.effective)
            | (sets.inheritable & !granted.inheritable);
        let names = (0..64).filter(|n| lost & (1 << n) != 0).map(label);
        let caps = Caps {
            sets: granted,
            ..self
        };
        (caps, names.collect())
    }

    /// Sets the other four. The process has its user by then, and kept its capabilities over the
    /// change (`PR_SET_KEEPCAPS`).
    pub fn apply(&self) -> Result<()> {
        capset(self.sets).context("capset")?;
        // EINVAL: a kernel before 4.3, which has no ambient set.
        let _ = prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL as u64,
            0,
        );
        // The kernel keeps the ambient set within the permitted and the inheritable one. Well-known
        // configs ask for more (`runc spec` does), and mean what is possible.
        let possible = self.ambient & self.sets.permitted & self.sets.inheritable;
        for number in (0..64).filter(|n| possible & (1 << n) != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE as u64;
            prctl(libc::PR_CAP_AMBIENT, raise, number)
                .with_context(|| format!("raise {} in the ambient set", label(number as u32)))?;
        }
        Ok(())
    }
}

/// The bounding set of this process.
fn held_bounding() -> u64 {
    let holds = |n: &u64| prctl(libc::PR_CAPBSET_READ, *n, 0).is_ok_and(|answer| answer == 1);
    (0..64)
        .take_while(|n| *n <= u64::from(last()))
        .filter(holds)
        .fold(0, |bits, n| bits | 1 << n)
}

fn label(number: u32) -> String {
    name(number).unwrap_or_else(|| format!("capability {number}"))
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter()
        .flatten()
        .filter_map(|capability| number(&capability.to_string()))
        .fold(0, |bits, number| bits | 1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree_with_the_kernel() {
        assert_eq!(number("CAP_CHOWN"), Some(0));
        assert_eq!(number("sys_admin"), Some(21));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("CAP_NONE"), None);
        assert_eq!(name(39).as_deref(), Some("CAP_BPF"));
    }

    #[test]
    fn what_the_caller_lacks_is_left_out_and_named() {
        let held = CapSets {
            permitted: 0b10_0001,
            ..CapSets::default()
        };
        let wanted = Caps {
            sets: CapSets {
                permitted: 0b10_0011,
                effective: 0b1000,
                inheritable: 0,
            },
            ..Caps::default()
        };
        let (caps, lost) = wanted.grantable(held);
        assert_eq!(caps.sets.permitted, 0b10_0001);
        assert_eq!(caps.sets.effective, 0);
        assert_eq!(lost, ["CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        let (caps, lost) = caps.grantable(held);
        assert_eq!((caps.sets.permitted, lost.len()), (0b10_0001, 0));
    }

    #[test]
    fn sets_are_read_from_the_spec() {
        let spec: LinuxCapabilities =
            serde_json::from_str(r#"{"bounding":["CAP_KILL","CAP_CHOWN"],"ambient":["CAP_KILL"]}"#)
                .unwrap();
        let caps = Caps::new(Some(&spec));
        assert_eq!(caps.bounding, 0b10_0001);
        assert_eq!(caps.ambient, 0b10_0000);
        assert_eq!(caps.sets, CapSets::default());
    }
}
