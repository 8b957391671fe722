//! Entering the container's root: a mount tree of its own, and pivot_root(2).

use super::Problem;
use super::mount_options::propagation;
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot, fchdir, pivot_root};
use std::path::Path;

const NONE: Option<&str> = None;

/// In a new mount namespace: cuts its mounts off from the host's, and makes the root filesystem a
/// mount point, as pivot_root(2) wants it.
///
/// `linux.rootfsPropagation` decides whether mounts of the host still come in (`slave`, the
/// default), and whether the container's go out (`shared`).
pub fn enter_new_mount_tree(rootfs: &Path, wanted: Option<&str>) -> Result<()> {
    // From here on modes are exact; the program's own umask is set later.
    umask(Mode::empty());
    let tree = match wanted.and_then(propagation) {
        Some(flags) if flags.contains(MsFlags::MS_SHARED) => MsFlags::MS_SHARED | MsFlags::MS_REC,
        Some(flags) if flags.contains(MsFlags::MS_PRIVATE) => MsFlags::MS_PRIVATE | MsFlags::MS_REC,
        // An unbindable tree could not be bound below; the root becomes so at the end.
        _ => MsFlags::MS_SLAVE | MsFlags::MS_REC,
    };
    mount(NONE, "/", NONE, tree, NONE).context("set the propagation of the mount tree")?;
    if tree.contains(MsFlags::MS_SHARED) {
        make_parent_private(rootfs)?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(rootfs), rootfs, NONE, flags, NONE)
        .with_context(|| format!("bind the root filesystem {} on itself", rootfs.display()))
}

/// pivot_root(2) refuses a new root whose parent mount is shared.
fn make_parent_private(rootfs: &Path) -> Result<()> {
    for candidate in rootfs.ancestors() {
        match mount(NONE, candidate, NONE, MsFlags::MS_PRIVATE, NONE) {
            // Not a mount point: the mount is further up.
            Err(nix::errno::Errno::EINVAL) => continue,
            other => {
                return other
                    .with_context(|| format!("make the mount {} private", candidate.display()));
            }
        }
    }
    Ok(())
}

/// Makes `rootfs` the root directory, and lets go of the old one.
pub fn pivot(rootfs: &Path) -> Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let old = open("/", flags, Mode::empty()).context("open the old root")?;
    chdir(rootfs).with_context(|| format!("enter {}", rootfs.display()))?;
    // The new root on top of the old one: no directory for the old one is needed.
    pivot_root(".", ".")
        .context("pivot_root")
        .map_err(|error| {
            crate::error::with_hint(
                error,
                "on a ramdisk, where there is nothing to pivot, use --no-pivot",
            )
        })?;
    fchdir(&old).context("enter the old root")?;
    // Unmounting must not reach the host.
    mount(NONE, ".", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE)
        .context("cut the old root off from the host")?;
    umount2(".", MntFlags::MNT_DETACH).context("let go of the old root")?;
    chdir("/").context("enter the new root")
}

/// For --no-pivot: moves the mount of the root filesystem onto `/`, and changes the root to it. The
/// host's /proc and /sys would stay reachable below, unmasked, so they go first.
pub fn move_root(rootfs: &Path) -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let point = Path::new(point);
        let of_host =
            (point.starts_with("/proc") || point.starts_with("/sys")) && !point.starts_with(rootfs);
        if of_host {
            // Best effort: a mount below one that is gone is gone too.
            let _ = umount2(point, MntFlags::MNT_DETACH);
        }
    }
    chdir(rootfs).with_context(|| format!("enter {}", rootfs.display()))?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context("move the root filesystem to /")?;
    chroot(".").context("chroot")?;
    chdir("/").context("enter the new root")
}

/// What is wrong with `linux.rootfsPropagation`.
pub fn check(wanted: Option<&str>) -> Option<Problem> {
    let word = wanted.filter(|word| !word.is_empty())?;
    propagation(word).is_none().then(|| Problem {
        path: "linux.rootfsPropagation".into(),
        what: format!("unknown value {word:?}: it is shared, slave, private or unbindable"),
    })
}
