//! Volumes whose mounts are passed on: with `:rslave` what the host mounts below the source appears in
//! the container, with `:rshared` also the other way round (mount_namespaces(7), "Shared subtrees").

use crate::error::{with_exit_code, with_hint};
use crate::sys::fds;
use crate::sys::mount as sys;
use anyhow::{Context, Result, anyhow};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
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
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    let mount =
        Mount::find(&mounts, &id.to_string()).context("find its mount in /proc/self/mountinfo")?;
    if mount.shared || (mount.slave && !goes_out(propagation)) {
        return Ok(());
    }
    let error = anyhow!("it lies on the mount {}, which is not shared", mount.point);
    let hint = format!("mount --make-rshared {}", mount.point);
    Err(with_exit_code(with_hint(error, hint), 125))
}

/// What a line of proc_pid_mountinfo(5) says of propagation.
#[derive(Debug, PartialEq)]
struct Mount<'a> {
    point: &'a str,
    shared: bool,
    slave: bool,
}

impl<'a> Mount<'a> {
    fn find(mounts: &'a str, id: &str) -> Option<Mount<'a>> {
        let mut fields = mounts
            .lines()
            .map(|line| line.split(' '))
            .find(|fields| fields.clone().next() == Some(id))?
            .skip(4);
        let point = fields.next()?;
        let tags: Vec<&str> = fields.skip(1).take_while(|tag| *tag != "-").collect();
        let has = |prefix: &str| tags.iter().any(|tag| tag.starts_with(prefix));
        Some(Mount {
            point,
            shared: has("shared:"),
            slave: has("master:"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tags_of_a_mount() {
        let mounts = "\
            20 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
            2 20 8:2 / /a rw - tmpfs shared:9 rw\n\
            21 20 8:2 / /b rw,noatime master:3 propagate_from:1 - tmpfs t rw\n\
            22 20 8:2 / /c rw shared:4 master:3 - tmpfs t rw\n";
        for (id, point, shared, slave) in [
            ("20", "/", true, false),
            ("2", "/a", false, false),
            ("21", "/b", false, true),
            ("22", "/c", true, true),
        ] {
            let expected = Mount {
                point,
                shared,
                slave,
            };
            assert_eq!(Mount::find(mounts, id), Some(expected), "{id}");
        }
        assert_eq!(Mount::find(mounts, "9"), None);
    }
}
