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
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// File systems of which only the mount is made read-only, and last of all: their devices and mount
/// points come first, and a sysfs is shared by all who mount it for the same network namespace.
pub(super) const READ_ONLY_LAST: [&str; 5] = ["tmpfs", "ramfs", "sysfs", "proc", "mqueue"];

/// A mount that is to be read-only once all is in it.
#[derive(Debug)]
struct Late {
    target: PathBuf,
    mount: OwnedFd,
    /// `rro`: what is mounted below it as well.
    recursive: bool,
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
            sys::set_attr(late.mount.as_fd(), late.recursive, &attributes)
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

/// Mounts a new file system, read-only at the end only if it is of [`READ_ONLY_LAST`].
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
    let read_only = READ_ONLY_LAST
        .contains(&kind)
        .then(|| options.take_read_only())
        .flatten();
    if kind == "tmpfs" && !options.tmpcopyup {
        options
            .data
            .extend(mode_of_directory(root, target, &options)?);
    }
    let options = &options;
    let point = if matches!(kind, "proc" | "sysfs") {
        plain_directory(root, kind, target)?
    } else {
        let point = root.mkdir_all(target, 0o755)?;
        check_point(&point, target)?;
        point
    };
    if options.tmpcopyup {
        tmpcopyup::mount(root, &point, target, options)?;
    } else {
        mount_fs(&point, kind, source, options, in_user_namespace)?;
    }
    let later = !options.tmpcopyup && options.recursive_set | options.recursive_clear != 0;
    if read_only.is_none() && !later && options.propagation.is_empty() {
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
    if let Some(recursive) = read_only {
        late.0.push(Late {
            target: target.to_owned(),
            mount: mounted,
            recursive,
        });
    }
    Ok(())
}

/// A tmpfs for which no mode is given has that of the directory that it covers: one that was closed to
/// others stays closed. `None`: there is none yet, and the kernel's default is 1777 (tmpfs(5)).
fn mode_of_directory(root: &Root, target: &Path, options: &Options) -> Result<Option<String>> {
    if options.data.iter().any(|word| word.starts_with("mode=")) {
        return Ok(None);
    }
    match root.resolve(target) {
        Err(Errno::ENOENT) => Ok(None),
        found => {
            let mode = fstat(found?).context("stat the directory")?.st_mode & 0o7777;
            Ok(Some(format!("mode={mode:o}")))
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
