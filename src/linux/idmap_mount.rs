//! Id-mapped mounts (mount_setattr(2), `MOUNT_ATTR_IDMAP`): the kernel takes the map from a user
//! namespace, so one is made for the purpose.

use super::idmap::IdMaps;
use crate::error::ResultExt;
use crate::sys::mount::{self as sys, Attributes};
use crate::sys::process::{self, Cloned};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
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
    sys::set_attr(tree, recursive, &attributes)
        .context("mount_setattr")
        .hint(
            "the kernel can map ids only on file systems that support it, and only once on a mount",
        )
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
