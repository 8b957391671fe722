//! v2 only: handing controllers down the tree (cgroup-v2.rst, "Enabling and Disabling").

use super::create::pids_in;
use super::limit::{Write, put};
use super::{Cgroup, Dir, Layout};
use crate::error::{errno, with_hint};
use crate::sys::fds::read_to_string;
use anyhow::Result;
use std::path::{Path, PathBuf};

impl Cgroup {
    /// Enables every controller there is in each directory above this one, as far as the kernel
    /// lets: what is not limited is counted at least.
    pub(super) fn enable_controllers(&self) {
        let Some(dir) = self.v2_dir() else {
            return;
        };
        for parent in above(dir) {
            let offered = names(&parent.join("cgroup.controllers"));
            let enabled = names(&parent.join("cgroup.subtree_control"));
            let missing: Vec<String> = offered
                .iter()
                .filter(|name| !enabled.contains(name))
                .map(|name| format!("+{name}"))
                .collect();
            let file = parent.join("cgroup.subtree_control");
            if missing.is_empty() {
                continue;
            }
            if holds_processes(&parent) {
                return;
            }
            if put(&file, &missing.join(" ")).is_ok() {
                continue;
            }
            // All or nothing: one that is refused (cpu, with realtime processes about) must not
            // keep the others away.
            for one in &missing {
                let _ = put(&file, one);
            }
        }
    }

    /// Makes sure on v2 that the controllers of these files are there, or says where they are not.
    pub(super) fn require_controllers(&self, writes: &[Write]) -> Result<()> {
        let Some(dir) = self.v2_dir().filter(|_| self.layout == Layout::V2) else {
            return Ok(());
        };
        let mut needed: Vec<&str> = writes
            .iter()
            .filter_map(|w| w.file.split_once('.').map(|(controller, _)| controller))
            .filter(|c| !matches!(*c, "cgroup" | "irq"))
            .collect();
        needed.sort_unstable();
        needed.dedup();
        if needed.is_empty() {
            return Ok(());
        }
        let have = names(&dir.full().join("cgroup.controllers"));
        for controller in needed {
            if have.iter().any(|h| h == controller) {
                continue;
            }
            for parent in above(dir) {
                let file = parent.join("cgroup.subtree_control");
                if names(&file).iter().any(|name| name == controller) {
                    continue;
                }
                let attempt = if holds_processes(&parent) {
                    let busy = std::io::Error::from_raw_os_error(libc::EBUSY);
                    Err(anyhow::Error::new(busy)
                        .context(format!("write \"+{controller}\" to {}", file.display())))
                } else {
                    put(&file, &format!("+{controller}"))
                };
                attempt.map_err(|error| explain(error, &parent, controller))?;
            }
        }
        Ok(())
    }
}

/// Whether a cgroup, not the root of all, has processes. The kernel lets it hand down cpu, cpuset and
/// pids all the same, but what is below is then for threads only, and no process can enter it.
fn holds_processes(path: &Path) -> bool {
    path.join("cgroup.type").exists() && pids_in(path).is_ok_and(|pids| !pids.is_empty())
}

/// Why a controller cannot be handed down, and what to do.
fn explain(error: anyhow::Error, parent: &Path, controller: &str) -> anyhow::Error {
    let parent = parent.display();
    let hint = match errno(&error) {
        Some(libc::EBUSY) => format!(
            "{parent} holds processes itself, and hands no controller down as long as it does: move them below it, or choose another linux.cgroupsPath"
        ),
        Some(libc::ENOENT) => format!(
            "the {controller} controller is not handed down to {parent}: enable it there, or leave the limit out"
        ),
        // Of a name that this kernel does not know at all.
        Some(libc::EINVAL) => format!(
            "this kernel has no {controller} controller for cgroup v2, or was booted with cgroup_disable={controller}; leave the limit out"
        ),
        Some(libc::EACCES | libc::EPERM) if DELEGABLE.contains(&controller) => format!(
            "the {controller} controller is not delegated to this user: {}",
            delegation()
        ),
        Some(libc::EACCES | libc::EPERM) => {
            format!("systemd delegates the {controller} controller to no user; leave the limit out")
        }
        _ => format!("the {controller} controller must be handed down to this cgroup"),
    };
    with_hint(error, hint)
}

/// The controllers that systemd can delegate to a user (systemd.resource-control(5)).
pub const DELEGABLE: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// The lines by which root has systemd delegate to each user all that it can.
pub fn delegation() -> String {
    format!(
        "sudo mkdir -p /etc/systemd/system/user@.service.d && \
         printf '[Service]\\nDelegate={}\\n' | \
         sudo tee /etc/systemd/system/user@.service.d/delegate.conf && \
         sudo systemctl daemon-reload, and log in again",
        DELEGABLE.join(" ")
    )
}

/// The directories above, from the mount point down to the parent.
fn above(dir: &Dir) -> Vec<PathBuf> {
    let full = dir.full();
    let mut above: Vec<PathBuf> = full
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(&dir.mount_point))
        .map(Path::to_path_buf)
        .collect();
    above.reverse();
    above
}

fn names(file: &Path) -> Vec<String> {
    let text = read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_string).collect()
}
