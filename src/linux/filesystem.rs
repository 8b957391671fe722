//! New file systems in the tree of a container: mount(2) by descriptor, and when they become read-only.

use super::mount_options::Options;
use super::mounts::{check_point, propagate, set_options};
use super::root::Root;
use super::tmpcopyup;
use crate::sys::fds;
use crate::sys::mount::{self as sys, Attributes};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::fstat;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// File systems of which only the mount is made read-only. A sysfs or procfs is shared by all who mount
/// it for the same namespace.
const READ_ONLY_MOUNTS: [&str; 4] = ["tmpfs", "ramfs", "sysfs", "proc"];

/// Whether `ro` goes for the mount alone.
pub(super) fn is_read_only_by_mount(kind: &str) -> bool {
    READ_ONLY_MOUNTS.contains(&kind)
}

/// A mount that is to be read-only once all is in it: what has its files in memory, and of which the spec
/// wants devices and mount points first.
#[derive(Debug)]
struct Late {
    target: PathBuf,
    mount: OwnedFd,
}

/// What [`super::mounts::apply_all`] has left to be done when nothing more comes into the mounts.
#[derive(Debug, Default)]
#[must_use]
pub struct ReadOnlyLast(Vec<Late>);

impl ReadOnlyLast {
    /// Something later tells how `target` is to be.
    pub(super) fn forget(&mut self, target: &Path) {
        self.0.retain(|late| late.target != target);
    }

    /// Makes them read-only.
    pub fn apply(self) -> Result<()> {
        for late in self.0 {
            let attributes = Attributes {
                set: sys::MOUNT_ATTR_RDONLY,
                ..Attributes::default()
            };
            sys::set_attr(late.mount.as_fd(), false, &attributes)
                .with_context(|| format!("make {} read-only", late.target.display()))?;
        }
        Ok(())
    }
}

/// The image must not choose where these go: what follows trusts them at their place
/// (CVE-2019-19921).
fn plain_directory(root: &Root, kind: &str, target: &Path) -> Result<OwnedFd> {
    let what = || {
        let name = root.name(target);
        format!("{kind} must be mounted on ordinary directory, not on or behind a link: {name}")
    };
    match root.resolve_without_links(target) {
        Err(Errno::ENOENT) => {
            root.mkdir_all(target, 0o755)?;
            root.resolve_without_links(target).with_context(what)
        }
        other => other.with_context(what),
    }
}

/// Mounts a new file system.
pub(super) fn new_fs(
    root: &Root,
    kind: &str,
    source: &str,
    target: &Path,
    options: &Options,
    in_user_namespace: bool,
    late: &mut ReadOnlyLast,
) -> Result<()> {
    let mut options = options.clone();
    let is_late = matches!(kind, "tmpfs" | "ramfs") && options.take_read_only();
    let point = match kind {
        "proc" | "sysfs" => plain_directory(root, kind, target)?,
        "tmpfs" if !options.tmpcopyup => point_of_tmpfs(root, target, &mut options)?,
        _ => root.mkdir_all(target, 0o755)?,
    };
    if !matches!(kind, "proc" | "sysfs") {
        check_point(&point, target)?;
    }
    let options = &options;
    if options.tmpcopyup {
        tmpcopyup::mount(root, &point, target, options)?;
    } else if options.read_only() && is_read_only_by_mount(kind) {
        let made = detached(kind, source, options)?;
        set_options(made.as_fd(), options)?;
        sys::move_mount(made.as_fd(), point.as_fd()).context("attach the mount")?;
    } else {
        mount_fs(&point, kind, source, options, in_user_namespace)?;
    }
    let later = !options.tmpcopyup && options.recursive_set | options.recursive_clear != 0;
    if !is_late && !later && options.propagation.is_empty() {
        return Ok(());
    }
    let mounted = root.resolve(target)?;
    if later {
        let only_recursive = Options {
            set: 0,
            clear: 0,
            ..options.clone()
        };
        set_options(mounted.as_fd(), &only_recursive)?;
    }
    for flags in &options.propagation {
        propagate(mounted.as_fd(), *flags)?;
    }
    if is_late {
        late.0.push(Late {
            target: target.to_owned(),
            mount: mounted,
        });
    }
    Ok(())
}

/// Flags of mount(2) that are the file system's, by their names for fsconfig(2).
const OF_FILE_SYSTEM: [(MsFlags, &CStr); 3] = [
    (MsFlags::MS_SYNCHRONOUS, c"sync"),
    (MsFlags::MS_DIRSYNC, c"dirsync"),
    (MsFlags::MS_LAZYTIME, c"lazytime"),
];

/// A mount of a new file system, attached nowhere yet. It has the attributes of its options from the
/// beginning: where those of the host's are locked, a user namespace may have no other.
pub(super) fn detached(kind: &str, source: &str, options: &Options) -> Result<OwnedFd> {
    let fs = sys::fsopen(&CString::new(kind)?).context("fsopen")?;
    sys::fsconfig_string(fs.as_fd(), c"source", &CString::new(source)?)
        .with_context(|| format!("source {source:?}"))?;
    let read_only = (MsFlags::MS_RDONLY, c"ro");
    let of_whole = (!is_read_only_by_mount(kind)).then_some(read_only);
    for (flag, name) in OF_FILE_SYSTEM.into_iter().chain(of_whole) {
        if options.flags & flag.bits() != 0 {
            sys::fsconfig_flag(fs.as_fd(), name).with_context(|| format!("option {name:?}"))?;
        }
    }
    tmpcopyup::configure(fs.as_fd(), &options.data)?;
    sys::fsmount(fs.as_fd(), options.set).context("fsmount")
}

/// The directory for a tmpfs. One for which no mode is given has that of the directory that it covers: what
/// was closed to others stays closed. Where there is none yet, it is made with the kernel's default
/// (tmpfs(5)), which another start will find.
fn point_of_tmpfs(root: &Root, target: &Path, options: &mut Options) -> Result<OwnedFd> {
    if options.data.iter().any(|word| word.starts_with("mode=")) {
        return root.mkdir_all(target, 0o755);
    }
    match root.resolve(target) {
        Err(Errno::ENOENT) => {
            root.mkdir_all(target.parent().unwrap_or(target), 0o755)?;
            root.mkdir_all(target, 0o1777)
        }
        found => {
            let found = found?;
            let mode = fstat(&found).context("stat the directory")?.st_mode & 0o7777;
            options.data.push(format!("mode={mode:o}"));
            Ok(found)
        }
    }
}

/// mount(2) of a new file system.
fn mount_fs(
    point: &OwnedFd,
    kind: &str,
    source: &str,
    options: &Options,
    in_user_namespace: bool,
) -> Result<()> {
    let place = fds::path(point);
    let flags = MsFlags::from_bits_retain(options.flags);
    let data = options.data.join(",");
    let attempt = |data: &str| {
        let data = (!data.is_empty()).then_some(data);
        mount(Some(source), place.as_path(), Some(kind), flags, data)
    };
    let result = match attempt(&data) {
        Err(Errno::EINVAL) if kind == "devpts" && in_user_namespace => {
            let kept: Vec<_> = options
                .data
                .iter()
                .filter(|word| !word.starts_with("gid="))
                .cloned()
                .collect();
            attempt(&kept.join(","))
        }
        other => other,
    };
    result.with_context(|| match data.as_str() {
        "" => "mount".to_owned(),
        data => format!("mount with {data:?}"),
    })
}
