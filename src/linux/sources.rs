//! Sources of bind mounts that are opened on the host's side, before the container's namespaces are
//! entered: those that its user might not reach, and those whose ids are mapped. An ordinary user may
//! copy no mount of the host's; its init can, as root of the user namespace that its mounts belong to.

use super::idmap::IdMaps;
use super::idmap_mount;
use super::mount_options::Options;
use super::mounts::MountStep;
use crate::error::ResultExt;
use crate::sys::mount as sys;
use anyhow::{Context, Result};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Detached mounts, by the places of their entries in `mounts`.
#[derive(Debug, Default)]
pub struct Sources(Vec<(usize, OwnedFd)>);

impl Sources {
    /// Opens those that cannot be opened later. `maps` are the container's.
    pub fn of(steps: &[MountStep], maps: &IdMaps) -> Result<Sources> {
        Sources::open(steps, maps, |options| {
            !maps.uid.is_empty() || options.idmap.is_some()
        })
    }

    /// Opens all of them.
    pub fn of_all(steps: &[MountStep], maps: &IdMaps) -> Result<Sources> {
        Sources::open(steps, maps, |_| true)
    }

    fn open(
        steps: &[MountStep],
        maps: &IdMaps,
        wanted: impl Fn(&Options) -> bool,
    ) -> Result<Sources> {
        let mut sources = Sources::default();
        for step in steps {
            let MountStep::Bind {
                index,
                source,
                options,
                uid_maps,
                gid_maps,
                ..
            } = step
            else {
                continue;
            };
            if !wanted(options) {
                continue;
            }
            let tree = match open(source, options) {
                // What init is denied it says itself.
                Err(error) if options.idmap.is_none() && is_denied(&error) => continue,
                other => other.with_context(|| format!("mounts[{index}]"))?,
            };
            if let Some(recursive) = options.idmap {
                let own = IdMaps {
                    uid: uid_maps.clone(),
                    gid: gid_maps.clone(),
                };
                let chosen = if own.uid.is_empty() && own.gid.is_empty() {
                    maps
                } else {
                    &own
                };
                idmap_mount::apply(tree.as_fd(), recursive, chosen).with_context(|| {
                    format!("mounts[{index}]: map the ids of {}", source.display())
                })?;
            }
            sources.0.push((*index, tree));
        }
        Ok(sources)
    }

    pub(super) fn get(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.0
            .iter()
            .find(|(known, _)| *known == index)
            .map(|(_, fd)| fd.as_fd())
    }
}

fn is_denied(error: &anyhow::Error) -> bool {
    let denied = |error: &std::io::Error| error.raw_os_error() == Some(libc::EPERM);
    error.downcast_ref().is_some_and(denied)
}

/// A detached copy of what is at `source`, with what is mounted below it for `rbind`.
pub(super) fn open(source: &Path, options: &Options) -> Result<OwnedFd> {
    let mut flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC;
    if options.bind == Some(true) {
        flags |= sys::AT_RECURSIVE;
    }
    let path = CString::new(source.as_os_str().as_bytes())?;
    let tree = sys::open_tree(None, &path, flags);
    let invalid = matches!(&tree, Err(error) if error.raw_os_error() == Some(libc::EINVAL));
    let tree = tree.with_context(|| format!("bind source {}", source.display()));
    match invalid {
        // What a mount hides, a user namespace must not show.
        true => tree.hint("is something mounted below it? In a user namespace that takes rbind; and an unbindable mount takes none"),
        false => tree,
    }
}
