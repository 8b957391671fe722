//! What systemd is asked for: the name and place of a container's scope, and its properties
//! (systemd.resource-control(5), org.freedesktop.systemd1(5)). Pure.

use super::dbus_value::Value;
use super::v1::set;
use super::{Layout, gvariant, v2};
use crate::error::{Problem, ResultExt};
use anyhow::{Result, anyhow, bail};
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A scope by its name and the slice that it is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) slice: String,
}

impl Unit {
    /// `linux.cgroupsPath` is `SLICE:PREFIX:NAME` here, as for runc: the scope PREFIX-NAME.scope in
    /// SLICE. Without a path it is runtime-ID.scope in `default_slice`.
    pub(super) fn parse(path: Option<&Path>, id: &str, default_slice: &str) -> Result<Unit> {
        let text = path.map(|p| p.to_string_lossy()).unwrap_or_default();
        let parts: Vec<&str> = match text.as_ref() {
            "" => vec!["", "runtime", id],
            text => text.split(':').collect(),
        };
        let [slice, prefix, name] = parts.as_slice() else {
            return Err(anyhow!(
                "linux.cgroupsPath {text:?}: with --systemd-cgroup it is SLICE:PREFIX:NAME"
            ))
            .hint(
                "write it as \"system.slice:runtime:my-container\", or leave --systemd-cgroup out",
            );
        };
        if name.ends_with(".slice") {
            bail!("linux.cgroupsPath {text:?}: a container is a scope, and {name} names a slice");
        }
        let name = match *prefix {
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        let slice = if slice.is_empty() {
            default_slice
        } else {
            slice
        };
        for (what, part) in [("unit", name.as_str()), ("slice", slice)] {
            let fits = part.len() < 256
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
            if !fits {
                bail!("linux.cgroupsPath {text:?}: {part:?} is not the name of a {what}");
            }
        }
        let unit = Unit {
            name,
            slice: slice.to_owned(),
        };
        unit.place()?;
        Ok(unit)
    }

    /// Where systemd keeps it, below the cgroup of the systemd that is asked: `a-b.slice` is in
    /// `a.slice` (systemd.slice(5)).
    pub(super) fn place(&self) -> Result<PathBuf> {
        let mut path = PathBuf::from("/");
        let bad = || {
            anyhow!(
                "linux.cgroupsPath: {:?} is not the name of a slice",
                self.slice
            )
        };
        let stem = self.slice.strip_suffix(".slice").ok_or_else(bad)?;
        if stem != "-" {
            let mut so_far = String::new();
            for part in stem.split('-') {
                if part.is_empty() {
                    return Err(bad());
                }
                if !so_far.is_empty() {
                    so_far.push('-');
                }
                so_far.push_str(part);
                path.push(format!("{so_far}.slice"));
            }
        }
        path.push(&self.name);
        Ok(path)
    }
}

/// Properties of a unit in order; of one that is named twice, the last wins.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Properties(Vec<(String, Value)>);

/// The version of systemd that a property came with, for those that are newer than 2016.
fn since(name: &str, value: &Value) -> u32 {
    match name {
        "CollectMode" => 236,
        "CPUQuotaPeriodUSec" => 242,
        "AllowedCPUs" | "AllowedMemoryNodes" => 244,
        // Zero stands for cpu.idle.
        "CPUWeight" if *value == Value::U64(0) => 252,
        _ => 0,
    }
}

impl Properties {
    /// Those of every container.
    pub(super) fn of_scope(unit: &Unit, id: &str, pid: i32, layout: Layout) -> Result<Properties> {
        let mut new = Properties::of_process(&format!("container {id}"), u32::try_from(pid)?);
        new.add("Slice", Value::text(&unit.slice));
        // What is below the scope is ours and the container's.
        for name in [
            "Delegate",
            "MemoryAccounting",
            "CPUAccounting",
            "TasksAccounting",
        ] {
            new.add(name, Value::Bool(true));
        }
        let io = match layout {
            Layout::V2 => "IOAccounting",
            _ => "BlockIOAccounting",
        };
        new.add(io, Value::Bool(true));
        // Containers end before their engine when the machine goes down, not with a default order.
        new.add("DefaultDependencies", Value::Bool(false));
        Ok(new)
    }

    /// Those of a scope around a process of ours.
    pub(super) fn of_process(description: &str, pid: u32) -> Properties {
        let mut new = Properties::default();
        new.add("Description", Value::text(description));
        new.add("PIDs", Value::Array("u".into(), vec![Value::U32(pid)]));
        // One that failed (killed for want of memory) is forgotten as well.
        new.add("CollectMode", Value::text("inactive-or-failed"));
        new
    }

    fn add(&mut self, name: &str, value: Value) {
        self.0.push((name.to_owned(), value));
    }

    pub(super) fn extend(&mut self, others: Vec<(String, Value)>) {
        self.0.extend(others);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The newest version of systemd that one of them needs.
    pub(super) fn newest(&self) -> u32 {
        let versions = self.0.iter().map(|(name, value)| since(name, value));
        versions.max().unwrap_or(0)
    }

    /// Those that a systemd of that version knows.
    pub(super) fn up_to(mut self, version: u32) -> Properties {
        self.0.retain(|(name, value)| since(name, value) <= version);
        self
    }

    /// As `a(sv)`.
    pub(super) fn into_value(self) -> Value {
        let pairs = self
            .0
            .into_iter()
            .map(|(name, value)| Value::Struct(vec![Value::Text(name), Value::variant(value)]));
        Value::Array("(sv)".into(), pairs.collect())
    }

    /// The limits that systemd has properties for; the others are for the files alone.
    pub(super) fn limits(&mut self, of: Option<&LinuxResources>, layout: Layout) -> Result<()> {
        let Some(resources) = of else { return Ok(()) };
        if let Some(memory) = resources.memory() {
            self.memory(memory, layout)?;
        }
        if let Some(cpu) = resources.cpu() {
            self.cpu(cpu, layout)?;
        }
        if let Some(pids) = resources.pids() {
            let limit = match pids.limit() {
                0 => 1,
                other => other,
            };
            self.add("TasksMax", Value::U64(most(limit)));
        }
        if let Some(weight) = resources
            .block_io()
            .as_ref()
            .and_then(|io| set(io.weight()))
        {
            match layout {
                Layout::V2 => self.add("IOWeight", Value::U64(v2::io_weight(weight))),
                _ => self.add("BlockIOWeight", Value::U64(u64::from(weight))),
            }
        }
        if layout == Layout::V2 {
            let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
            unified.sort();
            for (file, value) in unified {
                self.unified(file, value)?;
            }
        }
        Ok(())
    }

    fn memory(&mut self, memory: &LinuxMemory, layout: Layout) -> Result<()> {
        let limit = set(memory.limit());
        if layout != Layout::V2 {
            if let Some(limit) = limit {
                self.add("MemoryLimit", Value::U64(most(limit)));
            }
            return Ok(());
        }
        if let Some(limit) = limit {
            self.add("MemoryMax", Value::U64(most(limit)));
        }
        if let Some(reservation) = set(memory.reservation()) {
            self.add("MemoryLow", Value::U64(most(reservation)));
        }
        if let Some(swap) = v2::swap_alone(limit, set(memory.swap()))? {
            self.add("MemorySwapMax", Value::U64(most(swap)));
        }
        Ok(())
    }

    fn cpu(&mut self, cpu: &LinuxCpu, layout: Layout) -> Result<()> {
        let idle = cpu.idle() == Some(1);
        if layout == Layout::V2 && idle {
            self.add("CPUWeight", Value::U64(0));
        }
        if let Some(shares) = set(cpu.shares()).filter(|_| !idle) {
            match layout {
                Layout::V2 => self.add("CPUWeight", Value::U64(v2::weight_of_shares(shares))),
                _ => self.add("CPUShares", Value::U64(shares)),
            }
        }
        self.quota(set(cpu.quota()), set(cpu.period()));
        if layout == Layout::V2 {
            for (name, list) in [
                ("AllowedCPUs", cpu.cpus()),
                ("AllowedMemoryNodes", cpu.mems()),
            ] {
                if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
                    self.add(name, bits(list)?);
                }
            }
        }
        Ok(())
    }

    /// A period alone changes nothing but itself: the quota per second is what systemd keeps.
    fn quota(&mut self, quota: Option<i64>, period: Option<u64>) {
        if let Some(period) = period {
            self.add("CPUQuotaPeriodUSec", Value::U64(period));
        }
        let Some(quota) = quota else { return };
        let per_second = match u64::try_from(quota) {
            Err(_) => u64::MAX,
            // systemd counts in hundredths of a CPU; rounded up, so that a limit of less is not none.
            Ok(quota) => {
                let exact = u128::from(quota) * 1_000_000 / u128::from(period.unwrap_or(100_000));
                u64::try_from(exact.next_multiple_of(10_000)).unwrap_or(u64::MAX)
            }
        };
        self.add("CPUQuotaPerSecUSec", Value::U64(per_second));
    }

    /// The files of `unified` that have a property.
    fn unified(&mut self, file: &str, value: &str) -> Result<()> {
        let number = || -> Result<Value> {
            match value.trim() {
                "max" => Ok(Value::U64(u64::MAX)),
                text => match text.parse() {
                    Ok(number) => Ok(Value::U64(number)),
                    Err(_) => bail!("linux.resources.unified: {file}: {value:?} is not a number"),
                },
            }
        };
        let name = match file {
            "memory.min" => "MemoryMin",
            "memory.low" => "MemoryLow",
            "memory.high" => "MemoryHigh",
            "memory.max" => "MemoryMax",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "cpu.idle" if value.trim() == "1" => {
                self.add("CPUWeight", Value::U64(0));
                return Ok(());
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = match words.next() {
                    Some("max") => Some(-1),
                    other => other.and_then(|word| word.parse().ok()),
                };
                self.quota(quota, words.next().and_then(|word| word.parse().ok()));
                return Ok(());
            }
            "cpuset.cpus" => {
                self.add("AllowedCPUs", bits(value)?);
                return Ok(());
            }
            "cpuset.mems" => {
                self.add("AllowedMemoryNodes", bits(value)?);
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.add(name, number()?);
        Ok(())
    }

    /// Those of annotations `org.systemd.property.NAME`, which have the last word.
    pub(super) fn annotations(&mut self, annotations: &HashMap<String, String>) -> Result<()> {
        match of_annotations(annotations) {
            Ok(properties) => {
                self.0.extend(properties);
                Ok(())
            }
            Err(problems) => match problems.into_iter().next() {
                Some(problem) => Err(anyhow!("{problem}")),
                None => Ok(()),
            },
        }
    }
}

/// How annotations begin that become properties of a unit.
pub const ANNOTATION: &str = "org.systemd.property.";

/// The properties that annotations ask for, or everything that is wrong with them.
pub(super) fn of_annotations(
    annotations: &HashMap<String, String>,
) -> Result<Vec<(String, Value)>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut found = Vec::new();
    let mut all: Vec<_> = annotations
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text)))
        .collect();
    all.sort();
    for (name, text) in all {
        let what = if name.len() < 2 || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            "it is not the name of a property".to_owned()
        } else {
            match gvariant::parse(text).and_then(|value| in_microseconds(name, value)) {
                Ok(pair) => {
                    found.push(pair);
                    continue;
                }
                Err(error) => format!("{text:?} is not a value: {error}"),
            }
        };
        problems.push(Problem {
            path: format!("annotations.{ANNOTATION}{name}"),
            what,
        });
    }
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems)
    }
}

/// In unit files times are in seconds (`TimeoutStopSec`), on the bus in microseconds
/// (`TimeoutStopUSec`).
fn in_microseconds(name: &str, value: Value) -> Result<(String, Value)> {
    let stem = match name.strip_suffix("Sec") {
        Some(stem) if !stem.ends_with('U') => stem,
        _ => return Ok((name.to_owned(), value)),
    };
    let seconds = match value {
        Value::Byte(n) => f64::from(n),
        Value::I16(n) => f64::from(n),
        Value::U16(n) => f64::from(n),
        Value::I32(n) => f64::from(n),
        Value::U32(n) => f64::from(n),
        Value::I64(n) => n as f64,
        Value::U64(n) => n as f64,
        Value::Double(n) => n,
        _ => bail!("a time is a number of seconds"),
    };
    if seconds.is_nan() || seconds < 0.0 {
        bail!("a time is not below zero");
    }
    Ok((format!("{stem}USec"), Value::U64((seconds * 1e6) as u64)))
}

/// `infinity` for what means no limit: a negative number.
fn most(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(u64::MAX)
}

/// A list such as `0-2,5` as bits, the lowest byte first.
fn bits(list: &str) -> Result<Value> {
    let mut bytes: Vec<u8> = Vec::new();
    let bad = || anyhow!("linux.resources.cpu: {list:?} is not a list such as 0-2,5");
    for part in list.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
        let (from, to) = (number(from)?, number(to)?);
        if from > to || to >= 8192 {
            return Err(bad());
        }
        for n in from..=to {
            if bytes.len() <= n / 8 {
                bytes.resize(n / 8 + 1, 0);
            }
            bytes[n / 8] |= 1 << (n % 8);
        }
    }
    Ok(Value::Array(
        "y".into(),
        bytes.into_iter().map(Value::Byte).collect(),
    ))
}

/// `252` of `252.39-1~deb12u2` or `v252`; a version that cannot be read is taken for a new one.
pub(super) fn version_number(text: &str) -> u32 {
    let digits: String = text
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(path: &str) -> Result<(String, String)> {
        let unit = Unit::parse(Some(Path::new(path)), "id", "system.slice")?;
        Ok((unit.name.clone(), unit.place()?.display().to_string()))
    }

    #[test]
    fn where_scopes_are() {
        for (path, place) in [
            ("", "/system.slice/runtime-id.scope"),
            ("::c", "/system.slice/c.scope"),
            (":docker:c", "/system.slice/docker-c.scope"),
            ("user.slice:p:c", "/user.slice/p-c.scope"),
            ("-.slice:p:c", "/p-c.scope"),
            (
                "kubepods-burstable-pod1_2.slice:cri-containerd:c",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-c.scope",
            ),
        ] {
            assert_eq!(unit(path).expect(path).1, place, "{path}");
        }
        for path in [
            "/a/b",
            "a:b",
            "a:b:c:d",
            "x:p:c",
            "a--b.slice:p:c",
            "-a.slice:p:c",
            ":p:c.slice",
            ":p:c/d",
            "../a.slice:p:c",
        ] {
            assert!(unit(path).is_err(), "{path}");
        }
    }

    fn limits(json: &str, layout: Layout) -> Vec<String> {
        let resources: LinuxResources = serde_json::from_str(json).expect("resources");
        let mut properties = Properties::default();
        properties.limits(Some(&resources), layout).expect(json);
        properties
            .0
            .iter()
            .map(|(name, value)| match value {
                Value::U64(u64::MAX) => format!("{name}=infinity"),
                Value::U64(n) => format!("{name}={n}"),
                Value::Array(_, items) => {
                    let byte = |v: &Value| match v {
                        Value::Byte(n) => *n,
                        _ => 0,
                    };
                    format!("{name}={:?}", items.iter().map(byte).collect::<Vec<_>>())
                }
                other => format!("{name}={other:?}"),
            })
            .collect()
    }

    #[test]
    fn limits_of_v2() {
        for (json, expected) in [
            (
                r#"{"memory":{"limit":100,"swap":150,"reservation":50}}"#,
                &["MemoryMax=100", "MemoryLow=50", "MemorySwapMax=50"][..],
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                &["MemoryMax=infinity", "MemorySwapMax=infinity"],
            ),
            (
                r#"{"cpu":{"shares":512,"quota":33333,"period":100000,"cpus":"0-1,9"}}"#,
                &[
                    "CPUWeight=59",
                    "CPUQuotaPeriodUSec=100000",
                    "CPUQuotaPerSecUSec=340000",
                    "AllowedCPUs=[3, 2]",
                ],
            ),
            (r#"{"cpu":{"quota":-1}}"#, &["CPUQuotaPerSecUSec=infinity"]),
            (r#"{"cpu":{"shares":5,"idle":1}}"#, &["CPUWeight=0"]),
            (r#"{"pids":{"limit":-1}}"#, &["TasksMax=infinity"]),
            (r#"{"blockIO":{"weight":1000}}"#, &["IOWeight=10000"]),
            (
                r#"{"unified":{"memory.high":"max","cpu.max":"5000 10000","io.max":"8:0 rbps=1"}}"#,
                &[
                    "CPUQuotaPeriodUSec=10000",
                    "CPUQuotaPerSecUSec=500000",
                    "MemoryHigh=infinity",
                ],
            ),
        ] {
            assert_eq!(limits(json, Layout::V2), expected, "{json}");
        }
    }

    #[test]
    fn limits_of_v1() {
        let json = r#"{"memory":{"limit":100,"swap":150},"cpu":{"shares":512,"cpus":"0"},
            "pids":{"limit":5},"blockIO":{"weight":500}}"#;
        let expected = [
            "MemoryLimit=100",
            "CPUShares=512",
            "TasksMax=5",
            "BlockIOWeight=500",
        ];
        assert_eq!(limits(json, Layout::Hybrid), expected);
    }

    #[test]
    fn an_old_systemd_gets_what_it_knows() {
        let mut properties = Properties::default();
        let resources = r#"{"cpu":{"quota":1000,"period":1000,"cpus":"0"}}"#;
        let resources = serde_json::from_str(resources).expect("resources");
        properties
            .limits(Some(&resources), Layout::V2)
            .expect("limits");
        assert_eq!(properties.newest(), 244);
        let old = properties.up_to(version_number("v239"));
        let names: Vec<_> = old.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["CPUQuotaPerSecUSec"]);
        assert_eq!(version_number("252.39-1~deb12u2"), 252);
    }

    #[test]
    fn annotations_become_properties() {
        let map = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
            pairs
                .iter()
                .map(|(name, text)| (format!("{ANNOTATION}{name}"), (*text).to_owned()))
                .collect()
        };
        let good = map(&[("TimeoutStopSec", "1.5"), ("CollectMode", "'inactive'")]);
        let found = of_annotations(&good).expect("good");
        assert_eq!(
            found,
            [
                ("CollectMode".to_owned(), Value::text("inactive")),
                ("TimeoutStopUSec".to_owned(), Value::U64(1_500_000)),
            ]
        );
        for (name, text) in [
            ("Bad Name", "1"),
            ("A", "1"),
            ("Name", "nonsense"),
            ("XSec", "'1'"),
        ] {
            assert!(of_annotations(&map(&[(name, text)])).is_err(), "{name}");
        }
        let others = HashMap::from([("org.other".to_owned(), "x".to_owned())]);
        assert!(of_annotations(&others).expect("others").is_empty());
    }
}
