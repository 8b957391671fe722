//! `LinuxResources` as writes to cgroup v1 files (config-linux.md, "Control groups"; the kernel's
//! Documentation/admin-guide/cgroup-v1). Pure.

use super::limit::Write;
use anyhow::{Result, bail};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxRdma,
    LinuxResources, LinuxThrottleDevice,
};
use std::collections::HashMap;

/// The writes in a good order for a new cgroup. Zero leaves a limit as it is, but for
/// `pids.limit`, `memory.swappiness`, `cpu.burst` and `cpu.idle`, where it is a value.
///
/// # Errors
/// A value that no v1 file can take.
pub fn writes(resources: &LinuxResources) -> Result<Vec<Write>> {
    if resources.unified().as_ref().is_some_and(|u| !u.is_empty()) {
        bail!(
            "linux.resources.unified: this machine's controllers are on cgroup v1, where there are no such files"
        );
    }
    let mut writes = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_writes(memory, &mut writes)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_writes(cpu, &mut writes);
    }
    if let Some(pids) = resources.pids() {
        writes.push(Write::new("pids", "pids.max", number_or_max(pids.limit())));
    }
    if let Some(block_io) = resources.block_io() {
        block_io_writes(block_io, &mut writes);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugetlb_writes(limit, &mut writes);
    }
    if let Some(network) = resources.network() {
        network_writes(network, &mut writes);
    }
    if let Some(rdma) = resources.rdma() {
        writes.extend(rdma_writes("rdma", rdma));
    }
    Ok(writes)
}

/// `max` for what means no limit: a negative number.
pub(super) fn number_or_max(value: i64) -> String {
    if value < 0 {
        return String::from("max");
    }
    value.to_string()
}

/// A value of zero means "not set".
pub(super) fn set<T: PartialEq + Default>(value: Option<T>) -> Option<T> {
    value.filter(|v| *v != T::default())
}

fn memory_writes(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    let mut add = |file: &str, value: String| writes.push(Write::new("memory", file, value));
    let limit = set(memory.limit());
    let mut swap = set(memory.swap());
    if limit == Some(-1) && swap.is_none() {
        // A swap limit left from before would be below the new one of memory, which cannot be.
        swap = Some(-1);
    }
    if let (Some(limit), Some(swap)) = (limit, swap)
        && swap > 0
        && (limit > swap || limit < 0)
    {
        bail!(
            "linux.resources.memory.swap: {swap} is below memory.limit {limit}, which it includes"
        );
    }
    if let Some(limit) = limit {
        add("memory.limit_in_bytes", limit.to_string());
    }
    if let Some(swap) = swap {
        let write = Write::new("memory", "memory.memsw.limit_in_bytes", swap);
        // Without swap accounting there is nothing that would limit.
        writes.push(if swap < 0 { write.optional() } else { write });
    }
    let mut add = |file: &str, value: String| writes.push(Write::new("memory", file, value));
    if let Some(reservation) = set(memory.reservation()) {
        add("memory.soft_limit_in_bytes", reservation.to_string());
    }
    if let Some(tcp) = set(memory.kernel_tcp()) {
        add("memory.kmem.tcp.limit_in_bytes", tcp.to_string());
    }
    if let Some(swappiness) = memory.swappiness() {
        if swappiness > 100 {
            bail!("linux.resources.memory.swappiness: {swappiness} is not within 0 to 100");
        }
        add("memory.swappiness", swappiness.to_string());
    }
    if let Some(disable) = memory.disable_oom_killer() {
        add("memory.oom_control", u8::from(disable).to_string());
    }
    if memory.use_hierarchy() == Some(true) {
        writes.push(Write::new("memory", "memory.use_hierarchy", 1).optional());
    }
    Ok(())
}

fn cpu_writes(cpu: &LinuxCpu, writes: &mut Vec<Write>) {
    // The kernel keeps an idle group's shares at the minimum and refuses others, so that leaving
    // idle comes before the shares, and with idle they mean nothing.
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu", "cpu.idle", idle));
    }
    if let Some(shares) = set(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        writes.push(Write::new("cpu", "cpu.shares", shares));
    }
    if let Some(period) = set(cpu.period()) {
        writes.push(Write::new("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = set(cpu.quota()) {
        writes.push(Write::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(burst) = cpu.burst() {
        let write = Write::new("cpu", "cpu.cfs_burst_us", burst);
        writes.push(if burst == 0 { write.optional() } else { write });
    }
    if let Some(period) = set(cpu.realtime_period()) {
        writes.push(Write::new("cpu", "cpu.rt_period_us", period));
    }
    if let Some(runtime) = set(cpu.realtime_runtime()) {
        writes.push(Write::new("cpu", "cpu.rt_runtime_us", runtime));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
            writes.push(Write::new("cpuset", file, list));
        }
    }
}

fn block_io_writes(block_io: &LinuxBlockIo, writes: &mut Vec<Write>) {
    if let Some(weight) = set(block_io.weight()) {
        writes.push(Write::new("blkio", "blkio.weight", weight).or("blkio.bfq.weight", weight));
    }
    if let Some(weight) = set(block_io.leaf_weight()) {
        writes.push(Write::new("blkio", "blkio.leaf_weight", weight));
    }
    for device in block_io.weight_device().iter().flatten() {
        let of = |weight| format!("{}:{} {weight}", device.major(), device.minor());
        if let Some(weight) = set(device.weight()) {
            let value = of(weight);
            writes.push(
                Write::new("blkio", "blkio.weight_device", &value)
                    .or("blkio.bfq.weight_device", &value),
            );
        }
        if let Some(weight) = set(device.leaf_weight()) {
            writes.push(Write::new("blkio", "blkio.leaf_weight_device", of(weight)));
        }
    }
    let throttles: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (
            "blkio.throttle.read_bps_device",
            block_io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            block_io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            block_io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            block_io.throttle_write_iops_device(),
        ),
    ];
    for (file, devices) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            writes.push(Write::new("blkio", file, value));
        }
    }
}

fn hugetlb_writes(limit: &LinuxHugepageLimit, writes: &mut Vec<Write>) {
    let size = limit.page_size();
    writes.push(Write::new(
        "hugetlb",
        format!("hugetlb.{size}.limit_in_bytes"),
        limit.limit(),
    ));
    // Reservations are a file of their own since Linux 5.7; before, the first one caught them.
    writes.push(
        Write::new(
            "hugetlb",
            format!("hugetlb.{size}.rsvd.limit_in_bytes"),
            limit.limit(),
        )
        .optional(),
    );
}

fn network_writes(network: &LinuxNetwork, writes: &mut Vec<Write>) {
    if let Some(class) = set(network.class_id()) {
        writes.push(Write::new("net_cls", "net_cls.classid", class));
    }
    for interface in network.priorities().iter().flatten() {
        let value = format!("{} {}", interface.name(), interface.priority());
        writes.push(Write::new("net_prio", "net_prio.ifpriomap", value));
    }
}

/// The same on v1 and v2, sorted by device.
pub(super) fn rdma_writes(controller: &str, rdma: &HashMap<String, LinuxRdma>) -> Vec<Write> {
    let mut devices: Vec<_> = rdma.iter().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    devices
        .into_iter()
        .filter_map(|(name, limits)| {
            let handles = limits.hca_handles().map(|n| format!(" hca_handle={n}"));
            let objects = limits.hca_objects().map(|n| format!(" hca_object={n}"));
            if handles.is_none() && objects.is_none() {
                return None;
            }
            let value = [Some(name.clone()), handles, objects];
            let value: String = value.into_iter().flatten().collect();
            Some(Write::new(controller, "rdma.max", value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<String>> {
        let resources: LinuxResources = serde_json::from_str(json).expect("resources");
        Ok(writes(&resources)?
            .iter()
            .map(|w| {
                let optional = if w.optional { "?" } else { "" };
                let or =
                    w.or.as_ref()
                        .map(|(f, _)| format!("|{f}"))
                        .unwrap_or_default();
                format!("{}{or}{optional}={}", w.file, w.value)
            })
            .collect())
    }

    #[test]
    fn table() {
        let cases: &[(&str, &[&str])] = &[
            ("{}", &[]),
            (r#"{"memory":{"limit":0,"swap":0,"reservation":0}}"#, &[]),
            (
                r#"{"memory":{"limit":100,"swap":200,"reservation":50,"kernel":9,"swappiness":0,"disableOOMKiller":false,"useHierarchy":true}}"#,
                &[
                    "memory.limit_in_bytes=100",
                    "memory.memsw.limit_in_bytes=200",
                    "memory.soft_limit_in_bytes=50",
                    "memory.swappiness=0",
                    "memory.oom_control=0",
                    "memory.use_hierarchy?=1",
                ],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                &[
                    "memory.limit_in_bytes=-1",
                    "memory.memsw.limit_in_bytes?=-1",
                ],
            ),
            (
                r#"{"cpu":{"shares":512,"quota":-1,"period":1000,"burst":0,"idle":0,"cpus":"0-1","mems":""}}"#,
                &[
                    "cpu.idle=0",
                    "cpu.shares=512",
                    "cpu.cfs_period_us=1000",
                    "cpu.cfs_quota_us=-1",
                    "cpu.cfs_burst_us?=0",
                    "cpuset.cpus=0-1",
                ],
            ),
            (r#"{"cpu":{"shares":512,"idle":1}}"#, &["cpu.idle=1"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
            (r#"{"pids":{"limit":0}}"#, &["pids.max=0"]),
            (
                r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}]}}"#,
                &[
                    "blkio.weight|blkio.bfq.weight=500",
                    "blkio.weight_device|blkio.bfq.weight_device=8:0 10",
                    "blkio.throttle.read_bps_device=8:0 600",
                ],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                &[
                    "hugetlb.2MB.limit_in_bytes=0",
                    "hugetlb.2MB.rsvd.limit_in_bytes?=0",
                ],
            ),
            (
                r#"{"network":{"classID":16,"priorities":[{"name":"lo","priority":5}]}}"#,
                &["net_cls.classid=16", "net_prio.ifpriomap=lo 5"],
            ),
            (
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"b":{}}}"#,
                &["rdma.max=mlx5_1 hca_handle=3 hca_object=10"],
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(of(json).expect("writes"), *expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be() {
        for json in [
            r#"{"unified":{"memory.high":"1"}}"#,
            r#"{"memory":{"swappiness":101}}"#,
            r#"{"memory":{"limit":200,"swap":100}}"#,
        ] {
            assert!(of(json).is_err(), "{json}");
        }
    }
}
