//! Statistics of a cgroup, v1 and v2 alike: what it uses, how often it hit a limit, how long it
//! waited. Serialized, [`Stats`] has the form of the `data` in `runc events`, which engines read.
//!
//! A file that a kernel or a hierarchy lacks leaves its numbers at zero: statistics inform.

use super::{Cgroup, Dir, Host};
use crate::sys::fds::read_to_string;
use anyhow::Result;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// All statistics.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: Cpu,
    /// Memory, swap and the kernel's share.
    pub memory: Memory,
    /// Number of processes.
    pub pids: Pids,
    /// Block I/O.
    pub blkio: Blkio,
    /// By page size.
    pub hugetlb: BTreeMap<String, Counter>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// What was used.
    pub usage: CpuUsage,
    /// What the quota took away.
    pub throttling: Throttling,
    /// Time spent waiting for a CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// In the kernel and outside.
    pub total: u64,
    /// For each CPU; empty on v2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// For each CPU, in the kernel; empty on v2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// For each CPU, outside the kernel; empty on v2.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// Outside the kernel.
    pub user: u64,
}

/// Enforcement of the quota.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods in which something ran.
    pub periods: u64,
    /// Those in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent throttled in nanoseconds.
    pub throttled_time: u64,
}

/// A use and its limit, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Counter {
    /// The limit; a number near the largest when there is none.
    pub limit: u64,
    /// In use now.
    pub usage: u64,
    /// The most that was in use.
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Memory {
    /// The part that caches files.
    pub cache: u64,
    /// Memory.
    pub usage: Counter,
    /// Memory and swap on v1, swap alone on v2.
    pub swap: Counter,
    /// The kernel's, v1 only.
    pub kernel: Counter,
    /// The kernel's TCP buffers, v1 only.
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: Counter,
    /// `memory.stat`.
    pub raw: BTreeMap<String, u64>,
    /// Time spent waiting for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Number of processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// At most; 0 when there is no limit.
    pub limit: u64,
}

/// Block I/O by device and operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Time spent waiting for devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One count of block I/O.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// `Read`, `Write` and others of the kernel's.
    pub op: String,
    /// The count.
    pub value: u64,
}

/// Pressure stall information (the kernel's Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// At least one task waited.
    pub some: Stall,
    /// All tasks waited.
    pub full: Stall,
}

/// Shares of time in percent, and their sum in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stall {
    /// Over 10 seconds.
    pub avg10: f64,
    /// Over a minute.
    pub avg60: f64,
    /// Over five minutes.
    pub avg300: f64,
    /// Since the beginning.
    pub total: u64,
}

/// The statistics of `cgroup`.
pub fn stats(cgroup: &Cgroup) -> Stats {
    let dir = |controller: &str| cgroup.v1_dir(controller).map(Dir::full);
    let v2 = cgroup.v2_dir().map(Dir::full);
    let pressure = |name: &str| v2.as_deref().and_then(|dir| pressure_of(dir, name));
    let only_v2 = if cgroup.layout == super::Layout::V2 {
        v2.as_deref()
    } else {
        None
    };
    let mut stats = match only_v2 {
        Some(dir) => v2_stats(dir),
        None => Stats {
            cpu: v1_cpu(dir("cpuacct"), dir("cpu")),
            memory: dir("memory").map(|d| v1_memory(&d)).unwrap_or_default(),
            pids: dir("pids").map(|d| pids_of(&d)).unwrap_or_default(),
            blkio: dir("blkio").map(|d| v1_blkio(&d)).unwrap_or_default(),
            hugetlb: dir("hugetlb")
                .map(|d| hugetlb(&d, "usage_in_bytes"))
                .unwrap_or_default(),
        },
    };
    stats.cpu.psi = pressure("cpu.pressure");
    stats.memory.psi = pressure("memory.pressure");
    stats.blkio.psi = pressure("io.pressure");
    stats
}

/// The statistics of the cgroup that holds `pid`.
pub fn stats_of_pid(host: &Host, pid: i32) -> Result<Stats> {
    Ok(stats(&Cgroup::of_pid(host, pid)?))
}

/// The cgroup that holds `pid`, to be read.
pub fn cgroup_of_pid(pid: i32) -> Result<Cgroup> {
    Cgroup::of_pid(&Host::probe()?, pid)
}

/// How many processes the kernel killed for want of memory; `None` without a memory controller.
pub fn oom_kills(cgroup: &Cgroup) -> Option<u64> {
    let text = read_to_string(oom_file(cgroup)?).ok()?;
    table(&text).get("oom_kill").copied()
}

/// The file that counts them and that can be watched.
pub(super) fn oom_file(cgroup: &Cgroup) -> Option<PathBuf> {
    if let Some(dir) = cgroup.v1_dir("memory") {
        return Some(dir.full().join("memory.oom_control"));
    }
    let file = cgroup.v2_dir()?.full().join("memory.events");
    (cgroup.layout == super::Layout::V2).then_some(file)
}

fn v1_cpu(cpuacct: Option<PathBuf>, cpu: Option<PathBuf>) -> Cpu {
    let mut result = Cpu::default();
    if let Some(dir) = cpuacct {
        let percpu = |name: &str| -> Vec<u64> {
            let text = read_to_string(dir.join(name)).unwrap_or_default();
            text.split_whitespace()
                .filter_map(|n| n.parse().ok())
                .collect()
        };
        result.usage = CpuUsage {
            total: number(&dir, "cpuacct.usage"),
            percpu: percpu("cpuacct.usage_percpu"),
            percpu_kernel: percpu("cpuacct.usage_percpu_sys"),
            percpu_user: percpu("cpuacct.usage_percpu_user"),
            kernel: number(&dir, "cpuacct.usage_sys"),
            user: number(&dir, "cpuacct.usage_user"),
        };
    }
    if let Some(dir) = cpu {
        let stat = table(&read_to_string(dir.join("cpu.stat")).unwrap_or_default());
        result.throttling = throttling(&stat, "throttled_time", 1);
    }
    result
}

fn throttling(stat: &BTreeMap<String, u64>, time: &str, nanoseconds: u64) -> Throttling {
    let get = |name: &str| stat.get(name).copied().unwrap_or_default();
    Throttling {
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled_time: get(time).saturating_mul(nanoseconds),
    }
}

fn v1_memory(dir: &Path) -> Memory {
    let counter = |kind: &str| Counter {
        limit: number(dir, &format!("memory.{kind}limit_in_bytes")),
        usage: number(dir, &format!("memory.{kind}usage_in_bytes")),
        max: number(dir, &format!("memory.{kind}max_usage_in_bytes")),
        failcnt: number(dir, &format!("memory.{kind}failcnt")),
    };
    let raw = table(&read_to_string(dir.join("memory.stat")).unwrap_or_default());
    Memory {
        // With use_hierarchy, what counts is the sum over the subtree.
        cache: raw
            .get("total_cache")
            .or(raw.get("cache"))
            .copied()
            .unwrap_or_default(),
        usage: counter(""),
        swap: counter("memsw."),
        kernel: counter("kmem."),
        kernel_tcp: counter("kmem.tcp."),
        raw,
        psi: None,
    }
}

pub(super) fn pids_of(dir: &Path) -> Pids {
    Pids {
        current: number(dir, "pids.current"),
        // "max" is no number: 0.
        limit: read_to_string(dir.join("pids.max"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or_default(),
    }
}

fn v1_blkio(dir: &Path) -> Blkio {
    // The scheduler's counters know more operations, but only under bfq.
    let entries = |names: [&str; 2]| {
        names
            .iter()
            .map(|name| v1_blkio_entries(&read_to_string(dir.join(name)).unwrap_or_default()))
            .find(|entries| !entries.is_empty())
            .unwrap_or_default()
    };
    Blkio {
        io_service_bytes_recursive: entries([
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ]),
        io_serviced_recursive: entries([
            "blkio.bfq.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
        ]),
        psi: None,
    }
}

/// Lines of `8:0 Read 4096`; a line of the grand total has no device.
fn v1_blkio_entries(text: &str) -> Vec<BlkioEntry> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            let (major, minor) = parts.next()?.split_once(':')?;
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: parts.next()?.to_string(),
                value: parts.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Page sizes are read off the names of the files `hugetlb.<size>.<usage>`.
fn hugetlb(dir: &Path, usage: &str) -> BTreeMap<String, Counter> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return BTreeMap::new();
    };
    let suffix = format!(".{usage}");
    let v2 = usage == "current";
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.strip_suffix(&suffix)?;
            if size.contains('.') {
                return None; // the reservations
            }
            let get = |what: &str| number(dir, &format!("hugetlb.{size}.{what}"));
            let counter = if v2 {
                let events = read_to_string(dir.join(format!("hugetlb.{size}.events")));
                Counter {
                    limit: get("max"),
                    usage: get(usage),
                    max: 0,
                    failcnt: table(&events.unwrap_or_default())
                        .get("max")
                        .copied()
                        .unwrap_or_default(),
                }
            } else {
                Counter {
                    limit: get("limit_in_bytes"),
                    usage: get(usage),
                    max: get("max_usage_in_bytes"),
                    failcnt: get("failcnt"),
                }
            };
            Some((size.to_string(), counter))
        })
        .collect()
}

/// CPU time in nanoseconds, of a v2 directory.
pub(super) fn v2_cpu_time(dir: &Path) -> u64 {
    let text = read_to_string(dir.join("cpu.stat")).unwrap_or_default();
    nanoseconds(&table(&text), "usage_usec")
}

/// A time that cpu.stat of v2 has in microseconds.
fn nanoseconds(stat: &BTreeMap<String, u64>, name: &str) -> u64 {
    stat.get(name)
        .copied()
        .unwrap_or_default()
        .saturating_mul(1000)
}

fn v2_stats(dir: &Path) -> Stats {
    let file = |name: &str| read_to_string(dir.join(name)).unwrap_or_default();
    let cpu = table(&file("cpu.stat"));
    let time = |name: &str| nanoseconds(&cpu, name);
    let raw = table(&file("memory.stat"));
    let hits = |name: &str| table(&file(name)).get("max").copied().unwrap_or_default();
    let counter = |kind: &str| Counter {
        limit: number(dir, &format!("memory.{kind}max")),
        usage: number(dir, &format!("memory.{kind}current")),
        max: number(dir, &format!("memory.{kind}peak")),
        failcnt: hits(&format!("memory.{kind}events")),
    };
    let io = file("io.stat");
    Stats {
        cpu: Cpu {
            usage: CpuUsage {
                total: time("usage_usec"),
                kernel: time("system_usec"),
                user: time("user_usec"),
                ..CpuUsage::default()
            },
            throttling: throttling(&cpu, "throttled_usec", 1000),
            psi: None,
        },
        memory: Memory {
            cache: raw.get("file").copied().unwrap_or_default(),
            usage: counter(""),
            swap: counter("swap."),
            raw,
            ..Memory::default()
        },
        pids: pids_of(dir),
        blkio: Blkio {
            io_service_bytes_recursive: v2_io(&io, [("rbytes", "Read"), ("wbytes", "Write")]),
            io_serviced_recursive: v2_io(&io, [("rios", "Read"), ("wios", "Write")]),
            psi: None,
        },
        hugetlb: hugetlb(dir, "current"),
    }
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 …`.
fn v2_io(text: &str, keys: [(&str, &str); 2]) -> Vec<BlkioEntry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let device = parts.next().and_then(|id| id.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(a, b)| (a.parse(), b.parse())) else {
            continue;
        };
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                continue;
            };
            if let Some((_, op)) = keys.iter().find(|(k, _)| *k == key) {
                entries.push(BlkioEntry {
                    major,
                    minor,
                    op: (*op).to_string(),
                    value: value.parse().unwrap_or_default(),
                });
            }
        }
    }
    entries
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same for `full`.
pub(super) fn pressure_of(dir: &Path, name: &str) -> Option<Pressure> {
    // Without CONFIG_PSI or when it is off, opening or reading fails.
    parse_pressure(&read_to_string(dir.join(name)).ok()?)
}

fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut parts = line.split_whitespace();
        let stall = match parts.next()? {
            "some" => &mut pressure.some,
            "full" => &mut pressure.full,
            _ => continue,
        };
        for part in parts {
            let (key, value) = part.split_once('=')?;
            match key {
                "avg10" => stall.avg10 = value.parse().ok()?,
                "avg60" => stall.avg60 = value.parse().ok()?,
                "avg300" => stall.avg300 = value.parse().ok()?,
                "total" => stall.total = value.parse().ok()?,
                _ => {}
            }
        }
    }
    Some(pressure)
}

/// Lines of `name number`.
fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(' ')?;
            Some((name.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

/// The number in a file; `max` is the largest there is, a missing file 0.
pub(super) fn number(dir: &Path, name: &str) -> u64 {
    let text = read_to_string(dir.join(name)).unwrap_or_default();
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_of_both_versions() {
        let v1 = v1_blkio_entries("8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n");
        assert_eq!(v1.len(), 2);
        assert_eq!(
            (v1[0].major, v1[0].op.as_str(), v1[0].value),
            (8, "Read", 4096)
        );
        let v2 = v2_io(
            "8:1 rbytes=5 wbytes=6 rios=7\n",
            [("rbytes", "Read"), ("wbytes", "Write")],
        );
        assert_eq!(v2.len(), 2);
        assert_eq!((v2[1].minor, v2[1].value), (1, 6));
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse_pressure(text).expect("pressure");
        assert_eq!(
            (
                pressure.some.avg10,
                pressure.some.total,
                pressure.full.total
            ),
            (1.5, 42, 7)
        );
    }

    #[test]
    fn the_form_is_that_of_runc_events() {
        let value = serde_json::to_value(Stats::default()).expect("json");
        for pointer in [
            "/cpu/usage/total",
            "/cpu/throttling/throttledPeriods",
            "/memory/usage/limit",
            "/memory/swap/failcnt",
            "/memory/kernelTCP/max",
            "/memory/raw",
            "/pids/current",
            "/pids/limit",
            "/blkio",
            "/hugetlb",
        ] {
            assert!(value.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
