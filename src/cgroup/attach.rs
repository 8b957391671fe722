//! Putting processes into the cgroup and finding them there.

use super::create::{children, pids_in};
use super::{Cgroup, Dir, Host, Layout};
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

/// Open files through which a single-threaded process puts *itself* into the v1 hierarchies.
///
/// Moving another process makes the kernel wait for a grace period (about 5 ms seen on 6.18);
/// a thread that moves itself through `tasks` takes a few microseconds. With a clone into the v2
/// directory ([`Cgroup::clone_fd`]) no such wait is left.
#[derive(Debug)]
pub struct Doors {
    files: Vec<File>,
}

impl Doors {
    /// None, for a process that is put into its cgroup by somebody else.
    pub fn none() -> Doors {
        Doors { files: Vec::new() }
    }

    /// The descriptors, for a process that closes others.
    pub fn numbers(&self) -> impl Iterator<Item = RawFd> {
        self.files.iter().map(AsRawFd::as_raw_fd)
    }

    /// Moves the calling thread, which must be the only one of its process, through all of them.
    /// Allocates nothing, so that it may run right after a clone.
    pub fn enter(&self) -> io::Result<()> {
        for mut file in &self.files {
            file.write_all(b"0")?;
        }
        Ok(())
    }
}

impl Cgroup {
    /// Opens the way in for a process that is about to be cloned. With `v2` the v2 directory is
    /// among them too, for a process that was not cloned into it; that one is the slow kind.
    pub fn doors(&self, v2: bool) -> Result<Doors> {
        let mut files = Vec::with_capacity(self.dirs.len());
        for dir in self.dirs.iter().filter(|d| v2 || !d.is_v2()) {
            let name = if dir.is_v2() { "cgroup.procs" } else { "tasks" };
            files.push(open_for_write(&dir.full().join(name))?);
        }
        Ok(Doors { files })
    }

    /// What is left of it without the directories whose path does not hold `part`.
    pub fn only_with(mut self, part: &str) -> Cgroup {
        let holds = |dir: &Dir| dir.path.to_string_lossy().contains(part);
        self.dirs.retain(holds);
        self
    }

    /// The cgroup as it is for a process beside `init`, which may have been moved, with a line for each
    /// directory that is another: on v1, when systemd sets up one of its units, it takes every process of
    /// the unit out of the hierarchies of controllers that the unit does not use, those in cgroups below
    /// it too, and removes the empty directories there.
    ///
    /// # Errors
    /// It was taken from the rules for its devices: a program beside it would have all there are.
    pub fn beside(&self, init: i32) -> Result<(Cgroup, Vec<String>)> {
        let of_init = Cgroup::of_pid(&Host::probe()?, init)?;
        let (mut found, mut moves) = (self.clone(), Vec::new());
        for dir in found.dirs.iter_mut().filter(|dir| !dir.full().exists()) {
            let same = |other: &&Dir| other.controllers == dir.controllers;
            let Some(other) = of_init.dirs.iter().find(same) else {
                continue;
            };
            let what = format!("{} is gone, and the container", dir.full().display());
            if dir.has("devices") || self.layout == Layout::V2 {
                return Err(anyhow!("{what} without rules for its devices"))
                    .hint("end it, and start it anew where nobody moves it to other cgroups");
            }
            let place = other.full();
            moves.push(format!("{what} in {}, without its limits", place.display()));
            dir.path.clone_from(&other.path);
        }
        Ok((found, moves))
    }

    /// Where another process of the container goes in. That is the cgroup itself, or on v2, when it
    /// has handed controllers down and can hold no process any more (cgroup-v2.rst, "No Internal
    /// Process Constraint"; a systemd in the container does so), the one below it that holds `init`.
    pub fn entrance(&self, init: i32) -> Result<Cgroup> {
        if self.layout != Layout::V2 {
            return Ok(self.clone());
        }
        let Some(dir) = self.v2_dir() else {
            return Ok(self.clone());
        };
        let file = dir.full().join("cgroup.subtree_control");
        if std::fs::read_to_string(&file).is_ok_and(|text| text.trim().is_empty()) {
            return Ok(self.clone());
        }
        let of_init = Cgroup::of_pid(&Host::probe()?, init)?;
        match of_init.v2_dir() {
            // In the same unit, if it is one.
            Some(below) if below.full().starts_with(dir.full()) => Ok(Cgroup {
                manager: self.manager,
                unit: self.unit.clone(),
                ..of_init
            }),
            _ => Ok(self.clone()),
        }
    }

    /// The v2 directory for `CLONE_INTO_CGROUP` (clone(2)): on v2 and on hybrid, when it is there.
    pub fn clone_fd(&self) -> Option<OwnedFd> {
        let dir = self.v2_dir()?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(&dir.full(), flags, Mode::empty()).ok()
    }

    /// Puts `pid`, with all its threads, into the directory of each hierarchy.
    pub fn add(&self, pid: i32) -> Result<()> {
        let text = pid.to_string();
        for dir in &self.dirs {
            let file = dir.full().join("cgroup.procs");
            super::limit::put(&file, &text)?;
        }
        Ok(())
    }

    /// As [`Cgroup::add`] with a directory below it in some hierarchies; see [`Cgroup::sub`].
    pub fn add_sub(&self, pid: i32, sub: &[String]) -> Result<()> {
        let below = self.sub(sub)?;
        for dir in &below.dirs {
            let path = dir.full();
            if !path.is_dir() {
                bail!("cgroup {} does not exist in the container", path.display());
            }
        }
        below.add(pid)
    }

    /// The processes in the container's own directory, not below it.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self.roll() {
            Some(dir) => pids_in(&dir.full()),
            None => Ok(Vec::new()),
        }
    }

    /// The processes in the container's directory and in all below it, sorted.
    pub fn pids_recursive(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        if let Some(dir) = self.roll() {
            collect(&dir.full(), &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The hierarchy that is asked who is in the container. On v1 the devices one, as long as it is
    /// there: no container may be moved out of it unnoticed, for it guards the devices.
    pub(super) fn roll(&self) -> Option<&Dir> {
        ["devices", "pids", "freezer", "memory"]
            .iter()
            .find_map(|controller| self.v1_dir(controller).filter(|dir| dir.full().exists()))
            .or_else(|| self.v2_dir())
            .or_else(|| self.dirs.first())
    }
}

fn collect(path: &Path, pids: &mut Vec<i32>) -> Result<()> {
    pids.extend(pids_in(path)?);
    for child in children(path) {
        collect(&child, pids)?;
    }
    Ok(())
}

fn open_for_write(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}
