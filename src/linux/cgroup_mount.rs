//! Mounts of type `cgroup`: on v2 the container's own cgroup; on v1 and hybrid a directory with
//! each hierarchy, of which the container sees its own part.

use super::mount_options::Options;
use super::mounts::{check_point, set_options};
use super::root::Root;
use crate::cgroup::{HierarchyView, View};
use crate::sys::mount as sys;
use anyhow::{Context, Result};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mounts what the container may see of the cgroup hierarchies.
pub fn apply(root: &Root, target: &Path, view: &View, options: &Options) -> Result<()> {
    let point = root.mkdir_all(target, 0o755)?;
    check_point(&point, target)?;
    if let [only] = view.hierarchies.as_slice()
        && only.v2
    {
        let tree = own(only, options)?;
        return sys::move_mount(tree.as_fd(), point.as_fd()).context("attach the hierarchy");
    }
    let fs = sys::fsopen(c"tmpfs").context("fsopen tmpfs")?;
    sys::fsconfig_string(fs.as_fd(), c"source", c"tmpfs").context("fsconfig source")?;
    sys::fsconfig_string(fs.as_fd(), c"mode", c"755").context("fsconfig mode")?;
    let attributes = sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV | sys::MOUNT_ATTR_NOEXEC;
    let dir = sys::fsmount(fs.as_fd(), attributes).context("fsmount tmpfs")?;
    sys::move_mount(dir.as_fd(), point.as_fd()).context("attach the tmpfs")?;
    for hierarchy in &view.hierarchies {
        let name = hierarchy.name.as_str();
        mkdirat(&dir, name, Mode::from_bits_truncate(0o755))
            .with_context(|| format!("make the directory {name}"))?;
        let attach = || -> Result<()> {
            let tree = own(hierarchy, options)?;
            // We have just made the directory; a link in its place would not be followed.
            sys::move_mount_at(tree.as_fd(), dir.as_fd(), &CString::new(name)?)
                .context("attach the hierarchy")
        };
        attach().with_context(|| name.to_owned())?;
        link_controllers(&dir, hierarchy)?;
    }
    // Last: the directories had to be made in it.
    set_options(dir.as_fd(), options)
}

/// A mount that shows the container's directory of a hierarchy. In a cgroup namespace that directory is
/// the root of the hierarchy.
fn own(hierarchy: &HierarchyView, options: &Options) -> Result<OwnedFd> {
    let source = CString::new(hierarchy.source.as_os_str().as_bytes())?;
    let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC;
    let tree = sys::open_tree(None, &source, flags)
        .with_context(|| format!("open {}", hierarchy.source.display()))?;
    set_options(tree.as_fd(), options)?;
    Ok(tree)
}

/// `cpu` leads to `cpu,cpuacct`, as on the host.
fn link_controllers(dir: &OwnedFd, hierarchy: &HierarchyView) -> Result<()> {
    let names: Vec<_> = hierarchy.name.split(',').collect();
    if names.len() < 2 {
        return Ok(());
    }
    for name in names {
        symlinkat(hierarchy.name.as_str(), dir, name).with_context(|| format!("link {name}"))?;
    }
    Ok(())
}
