//! A container without a mount namespace of its own inherits the runtime's (config-linux.md,
//! "Namespaces"), and its mounts are made there. They all lie below one mount of the root filesystem
//! on itself, so that taking this one away takes them all.

use crate::sys::fds;
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use serde::{Deserialize, Serialize};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The mount on top of a root filesystem, as the container's state keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cover {
    rootfs: PathBuf,
    /// The mount that the directory was in before.
    before: u64,
    /// Ours, once it is there.
    ours: Option<u64>,
}

impl Cover {
    /// Notes what there is, before anything is made.
    pub fn before(rootfs: &Path) -> Result<Cover> {
        Ok(Cover {
            rootfs: rootfs.to_owned(),
            before: mount_of(rootfs)?,
            ours: None,
        })
    }

    /// Notes the mount that has been made.
    pub fn made(&mut self) -> Result<()> {
        self.ours = Some(mount_of(&self.rootfs)?);
        Ok(())
    }

    /// Takes the mount away with all that is below it. What somebody else has mounted there
    /// meanwhile, or unmounted, is left alone.
    pub fn remove(&self) -> Result<()> {
        let Ok(now) = mount_of(&self.rootfs) else {
            // The directory is gone, and with it what was mounted there.
            return Ok(());
        };
        let ours = self.ours.map_or(now != self.before, |ours| now == ours);
        if !ours {
            return Ok(());
        }
        umount2(
            &self.rootfs,
            MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW,
        )
        .with_context(|| format!("unmount {}", self.rootfs.display()))
    }
}

/// Mounts the root filesystem on itself. What is mounted below is to be seen by the runtime's mount
/// namespace, and does not spread from there.
pub fn make(rootfs: &Path) -> Result<()> {
    // From here on modes are exact; the program's own umask is set later.
    umask(Mode::empty());
    const NONE: Option<&str> = None;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(Some(rootfs), rootfs, NONE, bind, NONE)
        .and_then(|()| mount(NONE, rootfs, NONE, private, NONE))
        .with_context(|| format!("bind the root filesystem {} on itself", rootfs.display()))
}

/// Makes `rootfs` the root directory of this process alone.
pub fn enter(rootfs: &Path) -> Result<()> {
    chroot(rootfs).context("chroot to the root filesystem")?;
    chdir("/").context("chdir to the container's root")
}

/// The number of the mount that a path is in.
fn mount_of(path: &Path) -> Result<u64> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = open(path, flags, Mode::empty()).with_context(|| path.display().to_string())?;
    fds::mount_id("self", fd.as_raw_fd()).context("look for its mount")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_stays() {
        // Nothing is mounted between the two looks: were it not noticed, /tmp's mount would go, or
        // the call fail for want of rights.
        let cover = Cover::before(Path::new("/tmp")).unwrap();
        cover.remove().unwrap();
        let other = Cover {
            ours: Some(cover.before + 1_000_000),
            ..cover
        };
        other.remove().unwrap();
        assert_eq!(mount_of(Path::new("/tmp")).unwrap(), other.before);
        let gone = Cover {
            rootfs: PathBuf::from("/no/such/root"),
            ..other
        };
        gone.remove().unwrap();
    }
}
