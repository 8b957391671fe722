//! What a container must not see, or not write to, although a mount shows it (config-linux.md,
//! "Masked Paths" and "Readonly Paths").

use super::devices;
use super::root::Root;
use crate::error::ResultExt;
use crate::sys::mount::{self as sys, Attributes};
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Makes what is at `path` read-only, with all that is mounted below. What is missing is passed over.
pub fn read_only(root: &Root, path: &Path) -> Result<()> {
    let file = match root.resolve(path) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        other => other?,
    };
    let attributes = Attributes {
        set: sys::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    if place(&stat(&file)?) == place(&stat(&root.as_fd())?) {
        // A mount on the root would be seen by nobody who is in it already.
        // What is mounted below stays as it is: a terminal there is to be given to its user.
        return sys::set_attr(file.as_fd(), false, &attributes).context("make the root read-only");
    }
    let flags =
        sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC | sys::AT_EMPTY_PATH | sys::AT_RECURSIVE;
    let tree = sys::open_tree(Some(file.as_fd()), c"", flags).context("open_tree")?;
    sys::set_attr(tree.as_fd(), true, &attributes).context("make it read-only")?;
    sys::move_mount(tree.as_fd(), file.as_fd()).context("attach the mount")
}

/// Hides files behind /dev/null, and directories behind an empty read-only one, which is one file
/// system for all of them. What is missing needs no hiding.
pub fn mask(root: &Root, paths: &[PathBuf]) -> Result<()> {
    let top = place(&stat(&root.as_fd())?);
    let mut empty: Option<OwnedFd> = None;
    let mut null: Option<OwnedFd> = None;
    for path in paths {
        let what = || format!("linux.maskedPaths: {}", path.display());
        let file = match root.resolve(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            other => other.with_context(what)?,
        };
        let found = stat(&file).with_context(what)?;
        if place(&found) == top {
            return Err(anyhow!(
                "{}: it leads to the root, which cannot be hidden",
                what()
            ))
            .hint("name what is to be hidden in the root");
        }
        let is_dir = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let cover = match (is_dir, &mut empty, &mut null) {
            (true, Some(cover), _) | (false, _, Some(cover)) => cover,
            (false, _, null) => null.insert(devices::null(root).with_context(what)?),
            (true, empty, _) => {
                // The first place gets the mount itself: one that hangs nowhere cannot be cloned
                // before Linux 6.15.
                let made = empty_dir().with_context(what)?;
                sys::move_mount(made.as_fd(), file.as_fd()).with_context(what)?;
                *empty = Some(made);
                continue;
            }
        };
        let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC | sys::AT_EMPTY_PATH;
        sys::open_tree(Some(cover.as_fd()), c"", flags)
            .and_then(|tree| sys::move_mount(tree.as_fd(), file.as_fd()))
            .with_context(what)?;
    }
    Ok(())
}

fn stat(file: &impl AsFd) -> Result<FileStat> {
    fstat(file.as_fd()).context("stat")
}

/// Which file it is.
fn place(stat: &FileStat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn empty_dir() -> Result<OwnedFd> {
    let fs = sys::fsopen(c"tmpfs").context("fsopen tmpfs")?;
    // Nothing will be in it.
    sys::fsconfig_string(fs.as_fd(), c"size", c"0").context("fsconfig size")?;
    sys::fsconfig_string(fs.as_fd(), c"source", c"tmpfs").context("fsconfig source")?;
    sys::fsconfig_string(fs.as_fd(), c"mode", c"755").context("fsconfig mode")?;
    sys::fsconfig_flag(fs.as_fd(), c"ro").context("fsconfig ro")?;
    sys::fsmount(fs.as_fd(), sys::MOUNT_ATTR_RDONLY).context("fsmount tmpfs")
}
