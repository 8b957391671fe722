//! `LinuxResources` as writes to cgroup v2 files (config-linux.md; the kernel's
//! Documentation/admin-guide/cgroup-v2.rst). Pure.

use super::limit::Write;
use super::v1::{number_or_max, rdma_writes, set};
use anyhow::{Result, anyhow, bail};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources};

/// The writes in a good order for a new cgroup; zero as in [`super::v1::writes`]. `quota_now` is
/// the first word of `cpu.max`, for a period that comes without a quota.
///
/// # Errors
/// A v1 limit that has no counterpart, and values no file can take.
pub fn writes(resources: &LinuxResources, quota_now: Option<&str>) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_writes(memory, &mut writes)?;
    }
    if let Some(cpu) = resources.cpu() {
        cpu_writes(cpu, quota_now, &mut writes)?;
    }
    if let Some(pids) = resources.pids() {
        // With 0 the first process could not be cloned into the cgroup; 1 comes to the same for
        // all that follows, since a fork beyond the first is refused.
        let limit = if pids.limit() == 0 { 1 } else { pids.limit() };
        writes.push(write("pids.max", number_or_max(limit)));
    }
    if let Some(block_io) = resources.block_io() {
        block_io_writes(block_io, &mut writes)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        writes.push(write(&format!("hugetlb.{size}.max"), limit.limit()));
        writes.push(write(&format!("hugetlb.{size}.rsvd.max"), limit.limit()).optional());
    }
    if let Some(network) = resources.network() {
        refuse_network(network)?;
    }
    if let Some(rdma) = resources.rdma() {
        writes.extend(rdma_writes("", rdma));
    }
    // Last, so that it has the final word (config-linux.md, "Unified").
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        if file.contains('/') || !file.contains('.') {
            bail!("linux.resources.unified: {file:?} is not the name of a cgroup file");
        }
        writes.push(write(file, value));
    }
    Ok(writes)
}

fn write(file: &str, value: impl ToString) -> Write {
    Write::new("", file, value)
}

fn missing(field: &str) -> anyhow::Error {
    anyhow!("linux.resources.{field}: cgroup v2 has nothing like it")
}

fn memory_writes(memory: &LinuxMemory, writes: &mut Vec<Write>) -> Result<()> {
    if memory.swappiness().is_some() {
        return Err(missing("memory.swappiness"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(missing("memory.disableOOMKiller"));
    }
    let limit = set(memory.limit());
    if let Some(limit) = limit {
        writes.push(write("memory.max", number_or_max(limit)));
    }
    if let Some(swap) = swap_alone(limit, set(memory.swap()))? {
        let swap_write = write("memory.swap.max", number_or_max(swap));
        writes.push(if swap < 0 {
            swap_write.optional()
        } else {
            swap_write
        });
    }
    if let Some(reservation) = set(memory.reservation()) {
        writes.push(write("memory.low", number_or_max(reservation)));
    }
    Ok(())
}

/// The limit of swap by itself from the OCI's sum of memory and swap.
pub(super) fn swap_alone(limit: Option<i64>, swap: Option<i64>) -> Result<Option<i64>> {
    match (limit, swap) {
        (Some(-1), None) | (_, Some(-1)) => Ok(Some(-1)),
        (_, None) => Ok(None),
        (Some(limit), Some(swap)) if limit > 0 && swap >= limit => Ok(Some(swap - limit)),
        (Some(limit), Some(swap)) if limit > 0 => Err(anyhow!(
            "linux.resources.memory.swap: {swap} is below memory.limit {limit}, which it includes"
        )),
        (_, Some(swap)) => Err(anyhow!(
            "linux.resources.memory.swap: {swap} is the sum of memory and swap and needs memory.limit"
        )),
    }
}

fn cpu_writes(cpu: &LinuxCpu, quota_now: Option<&str>, writes: &mut Vec<Write>) -> Result<()> {
    if set(cpu.realtime_runtime()).is_some() || set(cpu.realtime_period()).is_some() {
        return Err(missing("cpu.realtimeRuntime and realtimePeriod"));
    }
    if let Some(idle) = cpu.idle() {
        writes.push(write("cpu.idle", idle));
    }
    if let Some(shares) = set(cpu.shares()).filter(|_| cpu.idle() != Some(1)) {
        writes.push(write("cpu.weight", weight_of_shares(shares)));
    }
    let (quota, period) = (set(cpu.quota()), set(cpu.period()));
    let max = |quota: String| match period {
        Some(period) => format!("{quota} {period}"),
        None => quota,
    };
    match (quota, period) {
        (None, None) => {}
        (Some(quota), _) => writes.push(write("cpu.max", max(number_or_max(quota)))),
        // The file takes no period alone.
        (None, Some(_)) => {
            let quota = quota_now.unwrap_or("max").to_string();
            writes.push(write("cpu.max", max(quota)));
        }
    }
    if let Some(burst) = cpu.burst() {
        let burst_write = write("cpu.max.burst", burst);
        writes.push(if burst == 0 {
            burst_write.optional()
        } else {
            burst_write
        });
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
            writes.push(write(file, list));
        }
    }
    Ok(())
}

/// v1 shares (2 to 262144, 1024 the default) as a v2 weight (1 to 10000, 100 the default), by the
/// quadratic in the logarithm that meets both defaults and both ends (512 gives 59).
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    let log = (shares as f64).log2();
    // Through (1, 0), (10, 2) and (18, 4) in the logarithms to base 2 and 10.
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

fn block_io_writes(block_io: &LinuxBlockIo, writes: &mut Vec<Write>) -> Result<()> {
    let devices = || block_io.weight_device().iter().flatten();
    if set(block_io.leaf_weight()).is_some() || devices().any(|d| set(d.leaf_weight()).is_some()) {
        return Err(missing("blockIO.leafWeight"));
    }
    if let Some(weight) = set(block_io.weight()) {
        writes.push(
            write("io.bfq.weight", weight)
                .or("io.weight", format!("default {}", io_weight(weight))),
        );
    }
    for device in devices() {
        if let Some(weight) = set(device.weight()) {
            let id = format!("{}:{}", device.major(), device.minor());
            writes.push(
                write("io.bfq.weight", format!("{id} {weight}"))
                    .or("io.weight", format!("{id} {}", io_weight(weight))),
            );
        }
    }
    for (key, devices) in [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = match device.rate() {
                0 => String::from("max"),
                rate => rate.to_string(),
            };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            writes.push(write("io.max", value));
        }
    }
    Ok(())
}

/// A v1 weight (10 to 1000) as an `io.weight` (1 to 10000), linearly.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn refuse_network(network: &LinuxNetwork) -> Result<()> {
    if set(network.class_id()).is_some() {
        return Err(missing("network.classID"));
    }
    if network.priorities().as_ref().is_some_and(|p| !p.is_empty()) {
        return Err(missing("network.priorities"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Vec<String>> {
        let resources: LinuxResources = serde_json::from_str(json).expect("resources");
        Ok(writes(&resources, None)?
            .iter()
            .map(|w| {
                let or =
                    w.or.as_ref()
                        .map(|(f, v)| format!("|{f}={v}"))
                        .unwrap_or_default();
                format!("{}={}{or}", w.file, w.value)
            })
            .collect())
    }

    #[test]
    fn table() {
        let cases: &[(&str, &[&str])] = &[
            ("{}", &[]),
            (
                r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#,
                &["memory.max=100", "memory.swap.max=50", "memory.low=50"],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                &["memory.max=max", "memory.swap.max=max"],
            ),
            (
                r#"{"memory":{"limit":100,"swap":100}}"#,
                &["memory.max=100", "memory.swap.max=0"],
            ),
            (r#"{"cpu":{"quota":5000}}"#, &["cpu.max=5000"]),
            (
                r#"{"cpu":{"quota":-1,"period":1000}}"#,
                &["cpu.max=max 1000"],
            ),
            (r#"{"pids":{"limit":0}}"#, &["pids.max=1"]),
            (
                r#"{"blockIO":{"weight":1000,"throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":7}]}}"#,
                &[
                    "io.bfq.weight=1000|io.weight=default 10000",
                    "io.max=8:1 wiops=7",
                ],
            ),
            (
                r#"{"memory":{"limit":1},"unified":{"memory.max":"2","cpu.weight":"3"}}"#,
                &["memory.max=1", "cpu.weight=3", "memory.max=2"],
            ),
        ];
        for (json, expected) in cases {
            assert_eq!(of(json).expect("writes"), *expected, "{json}");
        }
    }

    #[test]
    fn what_cannot_be() {
        for json in [
            r#"{"memory":{"swappiness":10}}"#,
            r#"{"memory":{"disableOOMKiller":true}}"#,
            r#"{"memory":{"swap":100}}"#,
            r#"{"memory":{"limit":200,"swap":100}}"#,
            r#"{"cpu":{"realtimeRuntime":5}}"#,
            r#"{"network":{"classID":5}}"#,
            r#"{"unified":{"../memory.max":"5"}}"#,
        ] {
            assert!(of(json).is_err(), "{json}");
        }
    }

    #[test]
    fn shares_become_weights() {
        for (shares, weight) in [(2, 1), (512, 59), (1024, 100), (262_144, 10_000), (1, 1)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
