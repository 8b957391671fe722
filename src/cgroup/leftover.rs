//! Cgroups that nobody knows of any more.

use super::host::Host;
use std::path::Path;

/// rmdir(2) of a cgroup in every hierarchy: of what a runtime has made and has no state of any more.
/// The kernel removes none that has a process or another cgroup in it, and those stay. `path` is
/// `linux.cgroupsPath`, absolute.
pub fn remove_if_empty(path: &Path) {
    let Ok(host) = Host::probe() else {
        return;
    };
    for hierarchy in &host.hierarchies {
        // Mostly it is not there.
        let _ = std::fs::remove_dir(super::join(&hierarchy.mount_point, path));
    }
}
