//! The one executor of the writes that [`super::v1`], [`super::v2`] and [`super::devices`] plan.

use super::{Cgroup, Layout, devices, v1, v2};
use crate::error::{Problem, ResultExt, errno, with_hint};
use anyhow::{Result, anyhow, bail};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxResources};
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

/// One value for one file of one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The v1 controller, or empty for the v2 directory.
    pub controller: String,
    /// The name of the file.
    pub file: String,
    /// What is written.
    pub value: String,
    /// What is written instead when `file` does not exist.
    pub or: Option<(String, String)>,
    /// Whether a kernel without the file (and the alternative) is fine.
    pub optional: bool,
}

impl Write {
    /// A write that must succeed.
    pub fn new(controller: &str, file: impl Into<String>, value: impl ToString) -> Write {
        Write {
            controller: controller.to_string(),
            file: file.into(),
            value: value.to_string(),
            or: None,
            optional: false,
        }
    }

    /// The file and value to take on a kernel that lacks the first.
    pub fn or(mut self, file: impl Into<String>, value: impl ToString) -> Write {
        self.or = Some((file.into(), value.to_string()));
        self
    }

    /// On a kernel without the file, nothing is lost.
    pub fn optional(mut self) -> Write {
        self.optional = true;
        self
    }
}

impl Cgroup {
    /// Sets every limit of a new container, the device rules included. To be called before any
    /// process is inside.
    ///
    /// # Errors
    /// Names the file and the value. What was asked and cannot be applied is an error.
    pub fn limit(&self, resources: Option<&LinuxResources>) -> Result<()> {
        if self.is_none() {
            return refuse_limits(resources);
        }
        let rules = resources.and_then(|r| r.devices().as_deref());
        devices::apply(self, rules.unwrap_or_default())?;
        match resources {
            Some(resources) => {
                let writes = self.writes(resources)?;
                self.require_controllers(&writes)?;
                self.execute(writes)
            }
            None => Ok(()),
        }
    }

    /// Sets the limits that `resources` names on a cgroup in use, without its device rules
    /// ([`Cgroup::update_devices`]). Zero means "leave as it is", as in `runc update`.
    ///
    /// # Errors
    /// As of [`Cgroup::limit`]; the limits are then what they were before.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        if self.is_none() {
            return refuse_limits(Some(resources));
        }
        check_usage(self, resources)?;
        if !self.needs_a_process() {
            return self.all_or_nothing(self.writes(resources)?, || Ok(()));
        }
        // systemd takes quota and period for one thing, and applies them when it likes.
        let whole = self.with_whole_quota(resources);
        let writes = self.writes(&whole)?;
        // It keeps what it is told, and says of few values that they cannot be: the kernel is asked first,
        // and then again, for what systemd rounds.
        self.all_or_nothing(writes.clone(), || {
            self.update_unit(&whole)?;
            self.execute(writes)
        })
    }

    /// Sets other device rules than `old`. What both allow is allowed all the time, but on v1 where
    /// `old` allows everything.
    ///
    /// # Errors
    /// A rule that cannot be, or that v1 cannot express; and systemd on v1 and hybrid, which takes all
    /// devices away for a moment when it is told of others.
    pub fn update_devices(
        &self,
        old: &[LinuxDeviceCgroup],
        new: &[LinuxDeviceCgroup],
    ) -> Result<()> {
        if devices::are_same(old, new)? {
            return Ok(());
        }
        self.needed_for("linux.resources.devices")?;
        if self.needs_a_process() && self.layout != Layout::V2 {
            return Err(anyhow!(
                "linux.resources.devices: systemd on cgroup v1 cannot change the device rules of a container that runs"
            ))
            .hint("create the container anew to change them");
        }
        devices::change(self, Some(old), new)
    }

    /// Does the writes, and then `and_then`. When either fails the files are as before.
    fn all_or_nothing(
        &self,
        writes: Vec<Write>,
        and_then: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        // Before the files are looked at: they come with their controller.
        self.require_controllers(&writes)?;
        let before = self.before(&writes);
        self.execute(writes)
            .and_then(|()| and_then())
            .inspect_err(|_| {
                // The first error is the one to tell.
                self.put_back(before);
            })
    }

    /// Does the writes as far as they go. Some wait for others, as in [`Cgroup::execute`].
    fn put_back(&self, mut writes: Vec<Write>) {
        loop {
            let before = writes.len();
            writes.retain(|write| self.write(write).is_err());
            if writes.is_empty() || writes.len() == before {
                return;
            }
        }
    }

    /// The resources with quota and period as they are, where only one of them is to be changed.
    fn with_whole_quota(&self, resources: &LinuxResources) -> LinuxResources {
        let mut whole = resources.clone();
        let Some(cpu) = whole.cpu_mut() else {
            return whole;
        };
        let (quota, period) = (v1::set(cpu.quota()), v1::set(cpu.period()));
        if quota.is_some() == period.is_some() {
            return whole;
        }
        let read = |dir: Option<&super::Dir>, file: &str| {
            std::fs::read_to_string(dir?.full().join(file)).ok()
        };
        let now = match self.layout {
            Layout::V2 => read(self.v2_dir(), "cpu.max"),
            _ => {
                let dir = self.v1_dir("cpu");
                let files = ["cpu.cfs_quota_us", "cpu.cfs_period_us"];
                let texts: Option<Vec<_>> = files.iter().map(|file| read(dir, file)).collect();
                texts.map(|texts| texts.concat())
            }
        };
        let now = now.unwrap_or_default();
        let mut words = now.split_whitespace();
        let (quota_now, period_now) = (words.next(), words.next());
        cpu.set_quota(quota.or(match quota_now {
            Some("max") => Some(-1),
            other => other.and_then(|word| word.parse().ok()),
        }));
        cpu.set_period(period.or(period_now.and_then(|word| word.parse().ok())));
        whole
    }

    /// The limits as writes to the files, whoever made them.
    fn writes(&self, resources: &LinuxResources) -> Result<Vec<Write>> {
        match self.layout {
            Layout::V2 => v2::writes(resources, self.quota_now(resources).as_deref()),
            _ => v1::writes(resources),
        }
    }

    /// The quota in force, for a period that comes without one: v2 takes them together.
    fn quota_now(&self, resources: &LinuxResources) -> Option<String> {
        let cpu = resources.cpu().as_ref()?;
        if v1::set(cpu.period()).is_none() || v1::set(cpu.quota()).is_some() {
            return None;
        }
        let text = std::fs::read_to_string(self.v2_dir()?.full().join("cpu.max")).ok()?;
        text.split_whitespace().next().map(str::to_string)
    }

    /// Does the writes in order. One that the kernel finds invalid or busy is tried again after
    /// the others: a memory limit above the old swap limit, a quota below the old burst.
    fn execute(&self, writes: Vec<Write>) -> Result<()> {
        let mut pending = writes;
        loop {
            let mut refused = Vec::new();
            let mut first = None;
            let before = pending.len();
            for write in pending {
                match self.write(&write) {
                    Ok(()) => {}
                    Err(error) if may_depend_on_others(&error) => {
                        first.get_or_insert(error);
                        refused.push(write);
                    }
                    Err(error) => return Err(error),
                }
            }
            match first {
                None => return Ok(()),
                Some(error) if refused.len() == before => return Err(error),
                Some(_) => pending = refused,
            }
        }
    }

    pub(super) fn dir_of(&self, write: &Write) -> Option<&super::Dir> {
        match write.controller.as_str() {
            "" => self.v2_dir(),
            controller => self.v1_dir(controller),
        }
    }

    fn write(&self, write: &Write) -> Result<()> {
        check_page_size(&write.file)?;
        let Some(dir) = self.dir_of(write) else {
            return Err(anyhow!(
                "write {:?} to {}: no hierarchy with the {} controller is mounted",
                write.value,
                write.file,
                write.controller
            ))
            .hint("mount it, or leave this limit out");
        };
        let dir = dir.full();
        let error = match put(&dir.join(&write.file), &write.value) {
            Ok(()) => return Ok(()),
            Err(error) if !is_missing(&error) => return Err(name(error, write)),
            Err(error) => error,
        };
        if let Some((file, value)) = &write.or {
            match put(&dir.join(file), value) {
                Ok(()) => return Ok(()),
                Err(error) if !is_missing(&error) => return Err(name(error, write)),
                Err(_) => {}
            }
        }
        if write.optional {
            return Ok(());
        }
        Err(with_hint(
            error,
            "this kernel does not offer that limit; leave it out",
        ))
    }
}

/// Whether nothing is limited, so that a container can do without a cgroup. Device rules do not
/// count: what they would deny, an unprivileged container cannot reach anyway.
pub fn asks_nothing(resources: Option<&LinuxResources>) -> bool {
    let Some(resources) = resources else {
        return true;
    };
    let unified = resources.unified().as_ref().is_some_and(|u| !u.is_empty());
    !unified && v1::writes(resources).is_ok_and(|writes| writes.is_empty())
}

/// What was asked and has no effect, for warnings.
pub fn ignored(resources: &LinuxResources) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: &str, what: &str| {
        problems.push(Problem {
            path: format!("linux.resources.{path}"),
            what: what.to_string(),
        });
    };
    if let Some(memory) = resources.memory() {
        if memory.kernel().is_some_and(|k| k > 0) {
            add(
                "memory.kernel",
                "is ignored: kernels from 5.16 on have no limit of kernel memory",
            );
        }
        if memory.use_hierarchy() == Some(false) {
            add(
                "memory.useHierarchy",
                "is ignored: kernels from 5.11 on always account hierarchically",
            );
        }
    }
    problems
}

fn refuse_limits(resources: Option<&LinuxResources>) -> Result<()> {
    if asks_nothing(resources) {
        return Ok(());
    }
    Err(anyhow!(
        "limits are asked, but the container has no cgroup of its own"
    ))
    .hint("allow a cgroup manager, or leave the limits out")
}

/// `memory.checkBeforeUpdate`: a limit below what is in use is refused instead of reclaimed.
fn check_usage(cgroup: &Cgroup, resources: &LinuxResources) -> Result<()> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let (Some(true), Some(limit)) = (memory.check_before_update(), memory.limit()) else {
        return Ok(());
    };
    let (dir, file) = match cgroup.layout {
        Layout::V2 => (cgroup.v2_dir(), "memory.current"),
        _ => (cgroup.v1_dir("memory"), "memory.usage_in_bytes"),
    };
    let usage = dir
        .and_then(|d| std::fs::read_to_string(d.full().join(file)).ok())
        .and_then(|text| text.trim().parse::<i64>().ok());
    match usage {
        Some(usage) if limit > 0 && usage > limit => bail!(
            "linux.resources.memory.limit: {limit} is below the {usage} bytes in use, and checkBeforeUpdate is set"
        ),
        _ => Ok(()),
    }
}

fn may_depend_on_others(error: &anyhow::Error) -> bool {
    matches!(
        errno(error),
        Some(libc::EINVAL | libc::EBUSY | libc::ERANGE)
    )
}

fn is_missing(error: &anyhow::Error) -> bool {
    errno(error) == Some(libc::ENOENT)
}

/// A limit of huge pages (`hugetlb.2MB.max`) is for a size that the kernel has.
fn check_page_size(file: &str) -> Result<()> {
    let Some((size, _)) = file
        .strip_prefix("hugetlb.")
        .and_then(|f| f.split_once('.'))
    else {
        return Ok(());
    };
    let known: Vec<String> = std::fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(in_largest_unit(
                name.strip_prefix("hugepages-")?
                    .strip_suffix("kB")?
                    .parse()
                    .ok()?,
            ))
        })
        .collect();
    if known.is_empty() || known.iter().any(|known| known == size) {
        return Ok(());
    }
    Err(anyhow!(
        "linux.resources.hugepageLimits: this machine has no pages of {size}"
    ))
    .hint(format!("it has {}", known.join(", ")))
}

/// As the hugetlb controller names a size (config-linux.md, "Huge page limits").
fn in_largest_unit(kilobytes: u64) -> String {
    match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    }
}

/// Says what the refused value was about.
fn name(error: anyhow::Error, write: &Write) -> anyhow::Error {
    let hint = match (errno(&error), write.file.as_str()) {
        (Some(libc::EBUSY), file) if file.starts_with("memory.") => {
            "the processes inside use more than that; raise the limit or end some"
        }
        (Some(libc::EINVAL), "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes") => {
            "the limit of memory and swap together is never below that of memory; set both"
        }
        (Some(libc::EINVAL | libc::ERANGE), file) if file.starts_with("cpuset.") => {
            "name CPUs and memory nodes that this machine and the parent cgroup have"
        }
        (Some(libc::EINVAL), "cpu.shares" | "cpu.weight") => {
            "an idle cgroup has no shares: set cpu.idle to 0 first"
        }
        (Some(libc::EINVAL), file) if file.starts_with("cpu.rt_") => {
            "every cgroup above needs realtime time to give: set cpu.rt_runtime_us there first"
        }
        (Some(libc::EACCES | libc::EPERM), _) => {
            "the cgroup must be delegated to this user with this file"
        }
        _ => return error,
    };
    with_hint(error, hint)
}

/// One write(2) of `value` into an existing file.
///
/// # Errors
/// `write "VALUE" to PATH: errno`.
pub(super) fn put(path: &Path, value: &str) -> Result<()> {
    let attempt = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        // One call: the kernel parses each write on its own.
        let n = file.write(value.as_bytes())?;
        if n != value.len() {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    };
    attempt().map_err(|error| {
        anyhow::Error::new(error).context(format!("write {value:?} to {}", path.display()))
    })
}
