//! What a whole run leaves behind: mounts, cgroups, processes.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is there of ours.
#[derive(Debug)]
pub(crate) struct World {
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<PathBuf>,
}

impl World {
    pub(crate) fn look() -> Result<World> {
        Ok(World {
            mounts: mounts()?,
            cgroups: cgroups()?,
        })
    }

    /// Everything must be as it was. Processes and cgroups may take the kernel a moment.
    pub(crate) fn compare(&self, room: &Path) -> Result<()> {
        let new: Vec<_> = mounts()?.difference(&self.mounts).cloned().collect();
        ensure!(new.is_empty(), "mounts are left: {new:?}");
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let processes = processes(room);
            // Others run containers on this machine too; theirs hold processes, or go.
            let cgroups: Vec<_> = cgroups()?
                .difference(&self.cgroups)
                .filter(|dir| is_ours(dir))
                .cloned()
                .collect();
            if processes.is_empty() && cgroups.is_empty() {
                return Ok(());
            }
            ensure!(
                Instant::now() < end,
                "processes are left: {processes:?}; cgroups are left: {cgroups:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn mounts() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// The cgroups that our containers get: mydocker's, and those of bundle tests.
fn cgroups() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for base in crate::bundles::hierarchies()? {
        for dir in [base.clone(), base.join("mydocker")] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    found.insert(entry.path());
                }
            }
        }
    }
    Ok(found)
}

fn is_ours(dir: &Path) -> bool {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let empty = std::fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|text| text.is_empty());
    let of_mydocker = dir
        .parent()
        .is_some_and(|parent| parent.ends_with("mydocker"));
    empty && (of_mydocker || name.starts_with(&format!("conf-{}-", std::process::id())))
}

/// Processes that have something of the run's directory in their environment, with their command
/// lines. (Orphans go to the machine's first process: we would not reap them in time, and zombies
/// hold up the end of pid namespaces.)
fn processes(room: &Path) -> Vec<String> {
    let mark = room.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if pid != std::process::id() && String::from_utf8_lossy(&environment).contains(&mark) {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push(format!(
                "{pid} {}",
                String::from_utf8_lossy(&line).replace('\0', " ")
            ));
        }
    }
    found
}
