//! Volumes whose mounts are passed on: with `:rslave` what the host mounts below the source appears in
//! the container, with `:rshared` also the other way round (mount_namespaces(7), "Shared subtrees").

use crate::error::{with_exit_code, with_hint};
use crate::sys::fds;
use crate::sys::mount as sys;
use anyhow::{Context, Result, anyhow};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use procfs::FromRead;
use procfs::process::{MountInfo, MountInfos, MountOptFields as Tag};
use serde_json::Value;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Whether this propagation lets mounts out of the container.
pub(super) fn goes_out(propagation: &str) -> bool {
    matches!(propagation, "shared" | "rshared")
}

/// The sources of shared volumes, taken from the host's mount namespace as its peers.
#[derive(Debug)]
pub(super) struct Peers(Vec<(PathBuf, OwnedFd)>);

impl Peers {
    /// Takes them. `mounts` are those that `inspect` shows. What has nobody to propagate from is an
    /// error.
    pub(super) fn take(mounts: &[Value]) -> Result<Peers> {
        let mut peers = Vec::new();
        for mount in mounts {
            let propagation = mount["Propagation"].as_str().unwrap_or_default();
            if matches!(propagation, "" | "private" | "rprivate") {
                continue;
            }
            let source = Path::new(mount["Source"].as_str().unwrap_or_default());
            let what = || format!("the volume {} ({propagation})", source.display());
            let place = open_path(source).with_context(what)?;
            check(place.as_fd(), propagation).with_context(what)?;
            if goes_out(propagation) {
                let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC | sys::AT_RECURSIVE;
                let path = CString::new(source.as_os_str().as_bytes())?;
                let tree = sys::open_tree(None, &path, flags).with_context(what)?;
                peers.push((source.to_owned(), tree));
            }
        }
        Ok(Peers(peers))
    }

    /// Puts each over its own source in this process's namespace, where that is a slave only: the
    /// runtime finds it there.
    pub(super) fn put(self) -> Result<()> {
        for (source, tree) in self.0 {
            open_path(&source)
                .and_then(|place| Ok(sys::move_mount(tree.as_fd(), place.as_fd())?))
                .with_context(|| format!("put the volume {} in place", source.display()))?;
        }
        Ok(())
    }
}

fn open_path(path: &Path) -> Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn check(place: BorrowedFd<'_>, propagation: &str) -> Result<()> {
    let id = fds::mount_id("self", place.as_raw_fd()).context("look for its mount")?;
    let mounts = MountInfos::from_file("/proc/self/mountinfo").context("read mountinfo")?;
    let mount = find(&mounts, id).context("find its mount in /proc/self/mountinfo")?;
    if propagates(mount, propagation) {
        return Ok(());
    }
    let point = mount.mount_point.display();
    let error = anyhow!("it lies on the mount {point}, which is not shared");
    let hint = format!("mount --make-rshared {point}");
    Err(with_exit_code(with_hint(error, hint), 125))
}

fn find(mounts: &MountInfos, id: u64) -> Option<&MountInfo> {
    let is_it = |mount: &&MountInfo| u64::try_from(mount.mnt_id) == Ok(id);
    mounts.iter().find(is_it)
}

/// Whether what is mounted below it is passed on as asked (mount_namespaces(7)).
fn propagates(mount: &MountInfo, propagation: &str) -> bool {
    let has = |wanted: fn(&Tag) -> bool| mount.opt_fields.iter().any(wanted);
    has(|tag| matches!(tag, Tag::Shared(_)))
        || (!goes_out(propagation) && has(|tag| matches!(tag, Tag::Master(_))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_mount_passes_on() {
        let mounts = "\
            20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
            2 20 8:2 / /a rw - tmpfs shared:9 rw\n\
            21 20 8:2 / /b rw,noatime master:3 propagate_from:1 - tmpfs t rw\n\
            22 20 8:2 / /c rw shared:4 master:3 - tmpfs t rw\n";
        let mounts = MountInfos::from_read(mounts.as_bytes()).unwrap();
        for (id, point, comes_in, goes_out) in [
            (20, "/", true, true),
            (2, "/a", false, false),
            (21, "/b", true, false),
            (22, "/c", true, true),
        ] {
            let mount = find(&mounts, id).unwrap();
            assert_eq!(mount.mount_point, Path::new(point));
            assert_eq!(propagates(mount, "rslave"), comes_in, "{id}");
            assert_eq!(propagates(mount, "rshared"), goes_out, "{id}");
        }
        assert!(find(&mounts, 9).is_none());
    }
}
