//! What the processes of a cgroup have used up, to be noted before the cgroup goes.

use super::{Cgroup, Dir, Layout, read};
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

/// Reads it, and only the files that it takes: all statistics are in forty. What a kernel or a hierarchy
/// lacks is left out.
pub fn usage(cgroup: &Cgroup) -> Usage {
    let v2 = cgroup.v2_dir().map(Dir::full);
    let is_v2 = cgroup.layout == Layout::V2;
    let dir = |controller: &str| {
        let v1 = cgroup.v1_dir(controller).map(Dir::full);
        v1.or_else(|| v2.clone())
    };
    let number =
        |controller: &str, name: &str| dir(controller).map_or(0, |dir| read::number(&dir, name));
    let (peak, limit) = match is_v2 {
        true => ("memory.peak", "memory.max"),
        false => ("memory.max_usage_in_bytes", "memory.limit_in_bytes"),
    };
    let waited = ["cpu.pressure", "memory.pressure", "io.pressure"].map(|name| {
        let pressure = v2.as_deref().and_then(|dir| read::pressure_of(dir, name));
        pressure.map(|psi| psi.some.total)
    });
    Usage {
        cpu: match is_v2 {
            true => v2.as_deref().map_or(0, read::v2_cpu_time),
            false => number("cpuacct", "cpuacct.usage"),
        },
        memory: number("memory", peak),
        memory_limit: number("memory", limit),
        pids: number("pids", "pids.peak"),
        pids_limit: dir("pids").map_or(0, |dir| read::pids_of(&dir).limit),
        waited: match waited {
            [Some(cpu), Some(memory), Some(io)] => Some([cpu, memory, io]),
            _ => None,
        },
    }
}
