//! Directories that an archive of a layer does not speak of, though it has files in them: `a`, where
//! there is only `a/b`. Such a layer changes nothing of `a`. An overlay shows of a directory what the
//! uppermost layer says, so each is given what the layers below have.
//!
//! A layer that several images share gets it from the first of them. That they have it on other layers,
//! with other owners and modes there, is rare.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::super::copy::Node;
use super::Store;
use super::manifest::hex_of;
use super::merged::{Found, Merged, is_opaque};
use super::publish::NewLayer;
use super::tree::dress;

impl Store {
    /// Sees to the layers of an image, bottom first, as far as they are new.
    pub(super) fn dress_implied(&self, new: &[NewLayer], diff_ids: &[String]) -> Result<()> {
        let mut below: Vec<PathBuf> = Vec::new();
        for diff_id in diff_ids {
            let hex = hex_of(diff_id)?;
            let layer = new.iter().find(|new| new.plain.hex == hex);
            let layer = layer.and_then(|layer| Some((layer.dir.as_ref()?, &layer.implied)));
            if let Some((dir, implied)) = layer {
                dress_above(&below, dir, implied)
                    .with_context(|| format!("the directories of the layer {diff_id}"))?;
            }
            let dir = layer.map_or_else(|| self.layers().join(hex), |(dir, _)| dir.clone());
            below.insert(0, dir);
        }
        Ok(())
    }
}

/// The same for one layer, by those below it, top first.
pub(super) fn dress_above(
    below: &[PathBuf],
    dir: &Path,
    implied: &BTreeSet<PathBuf>,
) -> Result<()> {
    let found = |path: &Path| directory(below, path).map(|found| found.path);
    dress_as(found, dir, implied)
}

/// Gives directories of a layer what others have, which `found` tells of.
fn dress_as(
    found: impl Fn(&Path) -> Option<PathBuf>,
    dir: &Path,
    implied: &BTreeSet<PathBuf>,
) -> Result<()> {
    // Below a directory that hides what others have there nothing is theirs.
    let is_hidden = |path: &Path| {
        path.ancestors()
            .skip(1)
            .any(|above| is_opaque(&dir.join(above)))
    };
    for path in implied.iter().filter(|path| !is_hidden(path)) {
        if let (Some(from), Some(to)) = (found(path), open(dir, path)?) {
            let look = || format!("look at {}", from.display());
            let from = File::open(&from).with_context(look)?;
            dress(&Node::new(from.into())?, to.as_fd())
                .with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The same with what they were when the layer was unpacked before, and its root in any case.
pub(super) fn dress_again(old: &Path, new: &Path, mut implied: BTreeSet<PathBuf>) -> Result<()> {
    implied.insert(PathBuf::new());
    let found = |path: &Path| {
        let is_there = open(old, path).is_ok_and(|dir| dir.is_some());
        is_there.then(|| old.join(path))
    };
    dress_as(found, new, &implied)
}

/// A directory of these layers, top first, if it is one and not behind a link.
fn directory(layers: &[PathBuf], path: &Path) -> Option<Found> {
    let top = layers.first()?;
    let mut found = Found {
        path: top.clone(),
        meta: top.symlink_metadata().ok()?,
        below: Merged::new(layers),
    };
    for name in path {
        found = found
            .below
            .child(name)
            .filter(|found| found.meta.is_dir())?;
    }
    Some(found)
}

/// A directory below another one. What a later entry has replaced is none, and not followed.
fn open(dir: &Path, path: &Path) -> Result<Option<OwnedFd>> {
    let open = || format!("open {} below {}", path.display(), dir.display());
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(File::open(dir).with_context(open)?, path, how) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(error) => Err(error).with_context(open),
    }
}
