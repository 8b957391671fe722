//! `update`: other limits for a container that lives.

use super::check::{self, Checked};
use super::store::{Container, Lock, Status, Store};
use super::{cli, log};
use crate::cgroup::{self, limit};
use crate::error::{ResultExt, with_hint};
use crate::linux::rdt::{self, Rdt};
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxIntelRdt, LinuxMemory, LinuxPids,
    LinuxResources, Spec,
};
use serde_json::Value;
use std::path::Path;

/// Sets the limits that are named, and keeps them with the container's spec. Where the kernel refuses
/// one, all are as before.
pub fn update(store: &Store, args: &cli::Update) -> Result<()> {
    let shares = shares(args)?;
    let wanted = match &args.resources {
        Some(path) => from_file(path)?,
        None => from_flags(args)?,
    };
    let container = store.load(&args.id)?;
    let _lock = Lock::take(container.dir())?;
    if container.status()? == Status::Stopped {
        return Err(anyhow!("container {} is not running", args.id))
            .hint("limits of a stopped container are those of its config.json");
    }
    for problem in limit::ignored(&wanted) {
        log::warn(&problem.to_string());
    }
    let mut spec = container.spec()?;
    let resctrl = shares
        .as_ref()
        .map(|_| resctrl_of(&container))
        .transpose()?;
    let old = resources(&spec);
    let wanted = with_whole_memory(wanted, old);
    let devices = Devices::of(&wanted, old);
    if let Some(Devices { new, .. }) = &devices {
        log::debug(&cgroup::devices::describe(new)?);
    }
    let shares_then = spec.linux().as_ref().and_then(|l| l.intel_rdt().clone());
    let cgroup = container.cgroup();
    let share = |shares: Option<&LinuxIntelRdt>| match (shares, &resctrl) {
        (Some(shares), Some((resctrl, group))) => resctrl.update(group, shares),
        _ => Ok(()),
    };
    let limit = || {
        let Some(Devices { old, new }) = &devices else {
            return cgroup.update(&wanted);
        };
        cgroup.update_devices(old, new)?;
        let limited = cgroup.update(&wanted);
        limited.inspect_err(|_| drop(cgroup.update_devices(new, old)))
    };
    // What is taken back may fail too, but the first error is the one to tell.
    share(shares.as_ref())?;
    limit().inspect_err(|_| drop(share(shares_then.as_ref())))?;
    let mut merged = merge(old, &wanted)?;
    if let Some(Devices { new, .. }) = devices {
        merged.set_devices(Some(new.to_vec()));
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(Some(merged));
        if let Some(shares) = &shares {
            linux.set_intel_rdt(Some(merge_shares(linux.intel_rdt(), shares)));
        }
    }
    container.save_spec(&spec)
}

/// `--l3-cache-schema` and `--mem-bw-schema`.
fn shares(args: &cli::Update) -> Result<Option<LinuxIntelRdt>> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (cache, bandwidth) = (given(&args.l3_cache_schema), given(&args.mem_bw_schema));
    if cache.is_none() && bandwidth.is_none() {
        return Ok(None);
    }
    let mut shares = LinuxIntelRdt::default();
    shares.set_l3_cache_schema(cache);
    shares.set_mem_bw_schema(bandwidth);
    match rdt::problems(&shares).first() {
        None => Ok(Some(shares)),
        Some(problem) => Err(anyhow!("{problem}")).hint("such as MB:0=20;1=70"),
    }
}

fn resctrl_of(container: &Container) -> Result<(Rdt, &rdt::Group)> {
    let group = container
        .saved
        .rdt
        .as_ref()
        .context("the container has no linux.intelRdt")
        .hint("leave --l3-cache-schema and --mem-bw-schema out")?;
    Ok((Rdt::open()?, group))
}

/// The old shares with what was set anew.
fn merge_shares(old: &Option<LinuxIntelRdt>, new: &LinuxIntelRdt) -> LinuxIntelRdt {
    let mut merged = old.clone().unwrap_or_default();
    if new.l3_cache_schema().is_some() {
        merged.set_l3_cache_schema(new.l3_cache_schema().clone());
    }
    if new.mem_bw_schema().is_some() {
        merged.set_mem_bw_schema(new.mem_bw_schema().clone());
    }
    merged
}

fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref()?.resources().as_ref()
}

/// A LinuxResources object in JSON, from a file or standard input.
fn from_file(path: &Path) -> Result<LinuxResources> {
    let checked = Checked::of_file(path, check::resources).hint(
        "it is the object linux.resources of a config.json, such as {\"pids\":{\"limit\":10}}",
    )?;
    // Docker sends zeroes for what it does not change.
    Ok(without_zero_pids(checked.value))
}

/// Device rules to change, from and to.
struct Devices<'a> {
    old: &'a [LinuxDeviceCgroup],
    new: &'a [LinuxDeviceCgroup],
}

impl<'a> Devices<'a> {
    /// `None` when no others are wished. Engines send the whole of linux.resources as they know it, and
    /// not with the rules that wrappers have added to their config.json since: a container must not lose
    /// its devices to an update of its memory. So rules that are all among those in force, in their
    /// order, are no wish.
    fn of(wanted: &'a LinuxResources, old: Option<&'a LinuxResources>) -> Option<Devices<'a>> {
        let new = wanted.devices().as_deref().unwrap_or_default();
        let old = old
            .and_then(|old| old.devices().as_deref())
            .unwrap_or_default();
        let mut rest = old.iter();
        if !new.iter().all(|rule| rest.any(|known| known == rule)) {
            return Some(Devices { old, new });
        }
        if !new.is_empty() && new != old {
            log::warn(
                "linux.resources.devices: these rules are some of those in force, which all stay; \
                 to take devices away, deny them",
            );
        }
        None
    }
}

/// `memory.swap` is the sum of memory and swap, where cgroup v2 has a limit for each: when only the
/// sum or only the memory is to change, the other one is needed as it is. And what config.json says
/// of `checkBeforeUpdate` is for updates that say nothing.
fn with_whole_memory(mut wanted: LinuxResources, old: Option<&LinuxResources>) -> LinuxResources {
    let old = old.and_then(|old| old.memory().as_ref());
    if let (Some(memory), Some(old)) = (wanted.memory_mut(), old) {
        let set = |value: Option<i64>| value.filter(|value| *value != 0);
        match (set(memory.limit()), set(memory.swap())) {
            (None, Some(_)) => _ = memory.set_limit(old.limit()),
            (Some(1..), None) => _ = memory.set_swap(old.swap()),
            _ => {}
        }
        if memory.check_before_update().is_none() {
            memory.set_check_before_update(old.check_before_update());
        }
    }
    wanted
}

/// Zero is "not set" in an update, but a limit in a config.json.
fn without_zero_pids(mut resources: LinuxResources) -> LinuxResources {
    if resources.pids().is_some_and(|p| p.limit() == 0) {
        resources.set_pids(None);
    }
    resources
}

fn from_flags(args: &cli::Update) -> Result<LinuxResources> {
    let mut memory = LinuxMemory::default();
    memory.set_limit(bytes("--memory", args.memory.as_deref())?);
    memory.set_reservation(bytes(
        "--memory-reservation",
        args.memory_reservation.as_deref(),
    )?);
    memory.set_swap(bytes("--memory-swap", args.memory_swap.as_deref())?);
    memory.set_kernel(bytes("--kernel-memory", args.kernel_memory.as_deref())?);
    memory.set_kernel_tcp(bytes(
        "--kernel-memory-tcp",
        args.kernel_memory_tcp.as_deref(),
    )?);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(args.cpu_share);
    cpu.set_period(args.cpu_period);
    cpu.set_quota(args.cpu_quota);
    cpu.set_burst(args.cpu_burst);
    cpu.set_realtime_period(args.cpu_rt_period);
    cpu.set_realtime_runtime(args.cpu_rt_runtime);
    cpu.set_cpus(args.cpuset_cpus.clone());
    cpu.set_mems(args.cpuset_mems.clone());
    cpu.set_idle(args.cpu_idle);
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    resources.set_memory(Some(memory));
    resources.set_cpu(Some(cpu));
    if let Some(weight) = args.blkio_weight {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        resources.set_block_io(Some(block_io));
    }
    if let Some(limit) = args.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    check::values_of_resources(&resources)?;
    Ok(resources)
}

/// `1073741824`, `1g`, `1.5GiB`; -1 for no limit.
fn bytes(flag: &str, text: Option<&str>) -> Result<Option<i64>> {
    let Some(text) = text.map(str::trim).filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let bad = || {
        with_hint(
            anyhow!("{flag}: {text:?} is not a size"),
            "give bytes, or a number with k, m, g, t or p; -1 for no limit",
        )
    };
    if let Ok(number) = text.parse::<i64>() {
        if number < -1 {
            return Err(bad());
        }
        return Ok(Some(number));
    }
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .ok_or_else(bad)?;
    let number: f64 = text[..at].parse().map_err(|_| bad())?;
    let power = match text[at..].trim().to_ascii_lowercase().as_str() {
        "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return Err(bad()),
    };
    Ok(Some((number * 1024f64.powi(power)) as i64))
}

/// The old resources with what was set anew, but for device rules ([`Devices`]).
fn merge(old: Option<&LinuxResources>, new: &LinuxResources) -> Result<LinuxResources> {
    let mut base = serde_json::to_value(old)?;
    if base.is_null() {
        base = Value::Object(serde_json::Map::new());
    }
    let mut over = serde_json::to_value(new)?;
    if let Value::Object(fields) = &mut over {
        fields.remove("devices");
    }
    lay_over(&mut base, over);
    match serde_json::from_value(base) {
        Ok(merged) => Ok(with_pids_of(merged, new)),
        Err(error) => bail!("merge the resources: {error}"),
    }
}

/// Zero is a limit of processes, once it has come so far.
fn with_pids_of(mut merged: LinuxResources, new: &LinuxResources) -> LinuxResources {
    if let Some(pids) = new.pids() {
        merged.set_pids(Some(*pids));
    }
    merged
}

fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                let zero_counts = matches!(name.as_str(), "swappiness" | "burst" | "idle");
                if is_unset(&value) && !zero_counts {
                    continue;
                }
                lay_over(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value.as_str() == Some("") || value.as_i64() == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("1024", Some(1024)),
            ("-1", Some(-1)),
            ("1k", Some(1024)),
            ("1.5M", Some(1_572_864)),
            ("2GiB", Some(2_147_483_648)),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                bytes("--memory", Some(text)).expect(text),
                expected,
                "{text}"
            );
        }
        for text in ["x", "-2", "1x", "1.2.3m", "1.5", "m"] {
            assert!(bytes("--memory", Some(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_and_swap_know_of_each_other() {
        let parse = |json: &str| serde_json::from_str::<LinuxResources>(json).expect("json");
        let old = parse(r#"{"memory": {"limit": 100, "swap": 150, "checkBeforeUpdate": true}}"#);
        for (wanted, limit, swap) in [
            (r#"{"memory": {"swap": 120}}"#, Some(100), Some(120)),
            (
                r#"{"memory": {"limit": 0, "swap": 120}}"#,
                Some(100),
                Some(120),
            ),
            (r#"{"memory": {"limit": 140}}"#, Some(140), Some(150)),
            (r#"{"memory": {"limit": -1}}"#, Some(-1), None),
            (r#"{"memory": {"reservation": 9}}"#, None, None),
        ] {
            let whole = with_whole_memory(parse(wanted), Some(&old));
            let memory = whole.memory().as_ref().expect("memory");
            assert_eq!((memory.limit(), memory.swap()), (limit, swap), "{wanted}");
            assert_eq!(memory.check_before_update(), Some(true));
        }
    }

    #[test]
    fn shares_are_laid_over_the_old_ones() {
        let parse = |json: &str| serde_json::from_str::<LinuxIntelRdt>(json).expect("json");
        let old = parse(r#"{"closID": "c", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=10"}"#);
        let merged = merge_shares(&Some(old), &parse(r#"{"memBwSchema": "MB:0=20"}"#));
        let wanted = r#"{"closID": "c", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"}"#;
        assert_eq!(merged, parse(wanted));
    }

    #[test]
    fn a_limit_of_no_processes_is_kept() {
        let parse = |json: &str| serde_json::from_str::<LinuxResources>(json).expect("json");
        let (old, new) = (r#"{"pids":{"limit":5}}"#, r#"{"pids":{"limit":0}}"#);
        let merged = merge(Some(&parse(old)), &parse(new)).expect("merge");
        assert_eq!(merged, parse(new));
    }

    #[test]
    fn an_update_keeps_what_it_does_not_name() {
        let parse = |json: &str| serde_json::from_str::<LinuxResources>(json).expect("json");
        let old = parse(
            r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":5,"swap":9},
                "cpu":{"shares":512,"quota":100,"cpus":"0"}}"#,
        );
        let new = parse(
            r#"{"memory":{"limit":7,"swap":0},"cpu":{"quota":0,"period":1000,"cpus":"","burst":0},
                "pids":{"limit":-1}}"#,
        );
        let merged = merge(Some(&old), &new).expect("merge");
        let expected = parse(
            r#"{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":7,"swap":9},
                "cpu":{"shares":512,"quota":100,"period":1000,"cpus":"0","burst":0},
                "pids":{"limit":-1}}"#,
        );
        assert_eq!(merged, expected);
    }
}
