//! Mounts that come into a container while it runs, and go. They are made detached, with the names
//! and devices of the host, and attached in the container's mount namespace by descriptor: what the
//! container has put on the way leads nowhere else.

use super::Problem;
use super::filesystem::detached;
use super::mounts::{MountStep, attach, propagate};
use super::root::Root;
use super::sources::Sources;
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::unistd::fchdir;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Flags of mount(2) that fsconfig(2) has no name for.
const UNKNOWN: MsFlags = MsFlags::MS_I_VERSION
    .union(MsFlags::MS_SILENT)
    .union(MsFlags::MS_POSIXACL);

/// What cannot be mounted into a container that runs.
pub fn check(steps: &[MountStep]) -> Vec<Problem> {
    let why = |step: &MountStep| match step {
        MountStep::Bind { .. } => None,
        MountStep::Fs { options, .. } if options.tmpcopyup => Some("options: tmpcopyup"),
        MountStep::Fs { options, .. } if options.flags & UNKNOWN.bits() != 0 => {
            Some("options: iversion, silent and acl")
        }
        MountStep::Fs { .. } => None,
        MountStep::Remount { .. } => Some("options: remount"),
        _ => Some("a mount of this type"),
    };
    let wrong = steps.iter().enumerate().filter_map(|(index, step)| {
        Some(Problem {
            path: format!("mounts[{index}]"),
            what: format!("{} is only for a container that is created", why(step)?),
        })
    });
    wrong.collect()
}

/// The mount of a step, attached nowhere yet.
pub fn make(index: usize, step: &MountStep, sources: &Sources) -> Result<OwnedFd> {
    match step {
        MountStep::Bind { .. } => {
            let tree = sources.get(index).context("its source is not open")?;
            // What is mounted below it in the container must not come to the host.
            propagate(tree, (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits())?;
            tree.try_clone_to_owned().context("duplicate a descriptor")
        }
        MountStep::Fs {
            kind,
            source,
            options,
            ..
        } => detached(kind, source, options)
            .with_context(|| format!("make a mount of type {kind}"))
            .hint("/proc/filesystems lists what there is"),
        _ => bail!("{step:?} is no mount"),
    }
    .with_context(|| format!("mounts[{index}]"))
}

/// In the container's mount namespace: attaches all of them, or none.
pub fn attach_all(root: &Root, steps: &[MountStep], trees: &[OwnedFd]) -> Result<()> {
    for (index, (step, tree)) in steps.iter().zip(trees).enumerate() {
        let (MountStep::Bind {
            target, options, ..
        }
        | MountStep::Fs {
            target, options, ..
        }) = step
        else {
            bail!("{step:?} is no mount");
        };
        let result = attach(root, tree.as_fd(), target, options)
            .with_context(|| format!("mounts[{index}]: mount on {}", target.display()));
        if let Err(error) = result {
            for done in steps[..index].iter().rev() {
                if let MountStep::Bind { target, .. } | MountStep::Fs { target, .. } = done {
                    // The first error is the one to tell.
                    let _ = Place::find(root, target).and_then(|place| place.unmount());
                }
            }
            return Err(error);
        }
    }
    Ok(())
}

/// In the container's mount namespace: unmounts what is on top of each of these, the last one first.
/// Nothing is unmounted if one of them is no mount.
pub fn detach_all(root: &Root, targets: &[impl AsRef<Path>]) -> Result<()> {
    let what = |index: usize, target: &Path| format!("mounts[{index}]: {}", target.display());
    let mut places = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let target = target.as_ref();
        let place = Place::find(root, target).with_context(|| what(index, target))?;
        places.push((index, target, place));
    }
    for (index, target, place) in places.iter().rev() {
        place.unmount().with_context(|| what(*index, target))?;
    }
    Ok(())
}

/// A mount point: its name in an open directory.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a OsStr,
}

impl<'a> Place<'a> {
    /// An error if nothing is mounted there.
    fn find(root: &Root, target: &'a Path) -> Result<Place<'a>> {
        let nothing = || {
            Err(anyhow!("nothing is mounted there"))
                .hint("name the destination of a mount, without symbolic links at its end")
        };
        let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
            return nothing();
        };
        let parent = root.resolve(parent)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_XDEV);
        match openat2(&parent, name, how) {
            // The way to it crosses a mount.
            Err(Errno::EXDEV) => Ok(Place { parent, name }),
            Ok(_) | Err(Errno::ENOENT) => nothing(),
            Err(error) => Err(error).context("open it"),
        }
    }

    /// Takes it away from the tree; what is in use goes on until it is no more.
    fn unmount(&self) -> Result<()> {
        fchdir(&self.parent).context("enter its directory")?;
        umount2(self.name, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).context("unmount it")
    }
}
