//! What the processes of a cgroup have used up, to be noted before the cgroup goes.

use super::{Cgroup, read};
use crate::sys::fds::read_to_string;
use serde::{Deserialize, Serialize};

/// The use of a whole life.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// CPU time in nanoseconds.
    pub cpu: u64,
    /// The most memory in bytes. 0: the kernel does not tell.
    pub memory: u64,
    /// The memory limit in bytes; a number near the largest when there is none.
    pub memory_limit: u64,
    /// The most processes and threads (Linux 6.6). 0: the kernel does not tell.
    pub pids: u64,
    /// Their limit; 0 when there is none.
    pub pids_limit: u64,
    /// Microseconds in which something waited for a CPU, for memory and for I/O.
    pub waited: Option<[u64; 3]>,
}

/// Reads it. What a kernel or a hierarchy lacks is left out.
pub fn usage(cgroup: &Cgroup) -> Usage {
    let stats = read::stats(cgroup);
    let pids = cgroup.v1_dir("pids").or_else(|| cgroup.v2_dir());
    let peak = pids.and_then(|dir| read_to_string(dir.full().join("pids.peak")).ok());
    let pressure = [&stats.cpu.psi, &stats.memory.psi, &stats.blkio.psi];
    let waited = pressure.map(|psi| psi.as_ref().map(|psi| psi.some.total));
    Usage {
        cpu: stats.cpu.usage.total,
        memory: stats.memory.usage.max,
        memory_limit: stats.memory.usage.limit,
        pids: peak.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        pids_limit: stats.pids.limit,
        waited: match waited {
            [Some(cpu), Some(memory), Some(io)] => Some([cpu, memory, io]),
            _ => None,
        },
    }
}
