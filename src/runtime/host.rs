//! What the runtime needs to know of the machine and of its caller, read once.

use crate::cgroup;
use crate::sys::user::capget;
use anyhow::Result;

/// The caller's rights and the machine's cgroups.
#[derive(Debug)]
pub struct Host {
    /// The caller is root of the user namespace that it is in.
    pub root: bool,
    /// That user namespace is not the machine's first one (user_namespaces(7)).
    pub nested: bool,
    /// The mounted hierarchies.
    pub cgroups: cgroup::Host,
}

impl Host {
    /// Reads it.
    pub fn probe() -> Result<Host> {
        Ok(Host {
            root: nix::unistd::geteuid().is_root(),
            nested: in_nested_user_namespace(),
            cgroups: cgroup::Host::probe()?,
        })
    }

    /// The caller may write to any directory, whoever owns it (capabilities(7), CAP_DAC_OVERRIDE).
    pub fn may_write(&self) -> bool {
        const CAP_DAC_OVERRIDE: u64 = 1 << 1;
        let holds = || capget().is_ok_and(|caps| caps.effective & CAP_DAC_OVERRIDE != 0);
        self.superuser() && holds()
    }

    /// The caller may do what only the machine's root may.
    pub fn superuser(&self) -> bool {
        self.root && !self.nested
    }
}

// The first user namespace maps every id to itself.
/// Whether the user namespace of this program is not the machine's first one.
pub fn in_nested_user_namespace() -> bool {
    crate::sys::fds::read_to_string("/proc/self/uid_map").is_ok_and(|map| {
        let first: Vec<_> = map.split_whitespace().take(3).collect();
        first != ["0", "0", "4294967295"]
    })
}
