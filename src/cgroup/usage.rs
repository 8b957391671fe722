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

/// Reads it, and only the files that it takes: statistics are forty. What a kernel or a hierarchy lacks
/// is left out.
pub fn usage(cgroup: &Cgroup) -> Usage {
    let v2 = cgroup.v2_dir().map(Dir::full);
    let is_v2 = cgroup.layout == Layout::V2;
    let dir = |controller: &str| match is_v2 {
        true => v2.clone(),
        false => cgroup.v1_dir(controller).map(Dir::full),
    };
    let number = |controller: &str, [v1_name, v2_name]: [&str; 2]| {
        let name = if is_v2 { v2_name } else { v1_name };
        dir(controller).map_or(0, |dir| read::number(&dir, name))
    };
    let waited = ["cpu.pressure", "memory.pressure", "io.pressure"].map(|name| {
        let pressure = v2.as_deref().and_then(|dir| read::pressure_of(dir, name));
        pressure.map(|psi| psi.some.total)
    });
    Usage {
        cpu: match &v2 {
            Some(dir) if is_v2 => read::v2_cpu_time(dir),
            _ => number("cpuacct", ["cpuacct.usage", ""]),
        },
        memory: number("memory", ["memory.max_usage_in_bytes", "memory.peak"]),
        memory_limit: number("memory", ["memory.limit_in_bytes", "memory.max"]),
        pids: number("pids", ["pids.peak"; 2]),
        pids_limit: dir("pids").map_or(0, |dir| read::pids_of(&dir).limit),
        waited: match waited {
            [Some(cpu), Some(memory), Some(io)] => Some([cpu, memory, io]),
            _ => None,
        },
    }
}
