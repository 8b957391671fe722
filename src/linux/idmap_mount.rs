//! Id-mapped mounts (mount_setattr(2), `MOUNT_ATTR_IDMAP`): the kernel takes the map from a user
//! namespace, so one is made for the purpose.

use super::idmap::IdMaps;
use crate::error::ResultExt;
use crate::sys::mount::{self as sys, Attributes};
use crate::sys::process::{self, Cloned};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use procfs::FromRead;
use procfs::process::MountInfos;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Maps the ids of a detached mount, and with `recursive` of those below it.
pub fn apply(tree: BorrowedFd<'_>, recursive: bool, maps: &IdMaps) -> Result<()> {
    if maps.uid.is_empty() || maps.gid.is_empty() {
        bail!(
            "idmap without uidMappings and gidMappings, and without a user namespace to take them from"
        );
    }
    let userns = user_namespace(maps)?;
    let attributes = Attributes {
        set: sys::MOUNT_ATTR_IDMAP,
        userns: userns.as_raw_fd() as u64,
        ..Attributes::default()
    };
    sys::set_attr(tree, recursive, &attributes).or_else(|error| {
        let hint = hint(error.raw_os_error());
        let what = match kind(tree) {
            Some(kind) => format!("mount_setattr on {kind}"),
            None => "mount_setattr".to_owned(),
        };
        Err(error).context(what).hint(hint)
    })
}

/// What the kernel's refusal means (mount_setattr(2), "ERRORS").
fn hint(error: Option<i32>) -> &'static str {
    match error {
        Some(libc::EINVAL) => {
            "this kernel can map no ids on that file system; keep the files on ext4, XFS, Btrfs or tmpfs, \
             or let them have the owners that the container wants"
        }
        Some(libc::EPERM) => {
            "only root of the user namespace that a file system was mounted in, mostly the machine's, may \
             map ids on it, and only once on a mount: do it as that root, or without idmap"
        }
        Some(libc::ENOSYS) => "it takes Linux 5.12 or later",
        _ => "it can do without idmap",
    }
}

/// The name of the file system, if the mount table has it: the mount itself is in none.
fn kind(tree: BorrowedFd<'_>) -> Option<String> {
    let device = nix::sys::stat::fstat(tree).ok()?.st_dev;
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = MountInfos::from_file("/proc/self/mountinfo").ok()?;
    let mount = mounts.into_iter().find(|mount| mount.majmin == device)?;
    Some(mount.fs_type)
}

/// A user namespace with these maps, held by its descriptor alone.
fn user_namespace(maps: &IdMaps) -> Result<OwnedFd> {
    let (ours, theirs) = nix::unistd::pipe2(OFlag::O_CLOEXEC).context("make a pipe")?;
    let made = process::clone_single_threaded(libc::CLONE_NEWUSER, None)
        .context("make a user namespace for the map")?;
    let (pid, pidfd) = match made {
        Cloned::Child => {
            // Lives until the parent lets go of the pipe.
            drop(theirs);
            let _ = nix::unistd::read(&ours, &mut [0]);
            process::exit_now(0)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    let path = format!("/proc/{pid}/ns/user");
    let result = maps
        .write(pid, nix::unistd::geteuid().is_root())
        .and_then(|()| {
            open(
                path.as_str(),
                OFlag::O_RDONLY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
            .with_context(|| format!("open {path}"))
        });
    drop(theirs);
    drop(ours);
    process::wait(pidfd.as_fd()).context("wait for the holder of the user namespace")?;
    result
}
