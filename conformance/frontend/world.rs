//! What a command may leave behind: directories, mounts, cgroups and processes, before and after.

use super::kit::{Desk, wait_for};
use crate::bundles::hierarchies;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What is there that belongs to one desk, besides cgroups, which are named by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct World {
    paths: BTreeSet<PathBuf>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<i32>,
    cgroups: BTreeSet<PathBuf>,
}

impl World {
    /// Looks around.
    pub(crate) fn of(desk: &Desk) -> Result<World> {
        let mut paths = BTreeSet::new();
        for dir in [desk.root(), desk.run_dir()] {
            walk(&dir, &mut paths);
        }
        let mine = desk.text("");
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        let mounts = mounts
            .lines()
            .filter(|line| line.contains(&mine))
            .map(str::to_owned)
            .collect();
        Ok(World {
            paths,
            mounts,
            processes: processes(desk),
            cgroups: cgroups()?,
        })
    }

    /// Everything must become as it was: at once for directories and mounts; processes and cgroups
    /// may take the kernel a moment. Cgroups that hold processes, after those of this desk are
    /// gone, are somebody else's.
    pub(crate) fn is_back(&self, desk: &Desk) -> Result<()> {
        let now = World::of(desk)?;
        let left: Vec<_> = now.paths.symmetric_difference(&self.paths).collect();
        ensure!(left.is_empty(), "directories or files differ: {left:?}");
        let left: Vec<_> = now.mounts.symmetric_difference(&self.mounts).collect();
        ensure!(left.is_empty(), "mounts differ: {left:?}");
        wait_for("no process is left", || {
            let left: Vec<_> = processes(desk)
                .difference(&self.processes)
                .copied()
                .collect();
            Ok(left.is_empty().then_some(()))
        })?;
        wait_for("no cgroup is left", || {
            let left = cgroups()?
                .difference(&self.cgroups)
                .any(|dir| is_empty(dir));
            Ok((!left).then_some(()))
        })
        .with_context(|| match cgroups() {
            Ok(now) => format!("new: {:?}", now.difference(&self.cgroups)),
            Err(error) => error.to_string(),
        })
    }
}

fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // What has happened stays known, and what is not on the disk yet will be.
        if ["events", "images/fresh"]
            .iter()
            .any(|name| path.ends_with(name))
        {
            continue;
        }
        // A container's log begins when the program prints something.
        let of_container = dir
            .parent()
            .is_some_and(|dir| dir.ends_with("lib/containers"));
        if of_container && path.extension().is_some_and(|kind| kind == "log") {
            continue;
        }
        // The content of layers is the images' business.
        let layers = path.file_name().is_some_and(|name| name == "layers");
        if !layers && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&path, found);
        }
        found.insert(path);
    }
}

/// The processes whose environment names the state of this desk: mydocker and its monitors.
pub(crate) fn processes(desk: &Desk) -> BTreeSet<i32> {
    let mark = format!("MYDOCKER_ROOT={}", desk.root().display());
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse() else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment
            .split(|byte| *byte == 0)
            .any(|part| part == mark.as_bytes())
        {
            found.insert(pid);
        }
    }
    found
}

/// The directories of containers, in every hierarchy.
pub(crate) fn cgroups() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for base in hierarchies()? {
        let dir = base.join("mydocker");
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
            }
        }
    }
    Ok(found)
}

/// The cgroup directories of one container that are there.
pub(crate) fn cgroups_of(id: &str) -> Result<Vec<PathBuf>> {
    Ok(cgroups()?
        .into_iter()
        .filter(|dir| dir.ends_with(id))
        .collect())
}

fn is_empty(cgroup: &Path) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|text| text.is_empty())
}

/// A file of the cgroup of a process: `v1` below the hierarchy of `controller`, or `v2`. `None`:
/// this machine has no such controller.
pub(crate) fn cgroup_file(
    pid: i32,
    controller: &str,
    v1: &str,
    v2: &str,
) -> Result<Option<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .with_context(|| format!("read the cgroups of {pid}"))?;
    let mut unified = None;
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(names), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        if names.is_empty() {
            unified = Some(path.to_owned());
        }
        if names.split(',').any(|name| name == controller) {
            return read_below(controller, path, v1).map(Some);
        }
    }
    match unified {
        Some(path) if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() => {
            let file = format!("/sys/fs/cgroup{path}/{v2}");
            match std::fs::read_to_string(&file) {
                Ok(text) => Ok(Some(text.trim().to_owned())),
                Err(_) => Ok(None),
            }
        }
        _ => Ok(None),
    }
}

fn read_below(controller: &str, path: &str, file: &str) -> Result<String> {
    for base in hierarchies()? {
        let names = base
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let mine = names.is_some_and(|names| names.split(',').any(|name| name == controller));
        if mine {
            let file = base.join(path.trim_start_matches('/')).join(file);
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("read {}", file.display()))?;
            return Ok(text.trim().to_owned());
        }
    }
    anyhow::bail!("the hierarchy {controller} is not mounted")
}

/// Whether the kernel is this version or a newer one.
pub(crate) fn kernel_is(major: u32, minor: u32) -> Result<bool> {
    let release = nix::sys::utsname::uname()?
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
    Ok((numbers.next(), numbers.next()) >= (Some(major), Some(minor)))
}
