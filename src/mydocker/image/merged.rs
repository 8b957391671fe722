//! Reading layers as the overlay shows them, without a mount.

use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::super::ids::are_mapped;
use crate::sys::xattr;

/// The mark of a directory that hides what lower layers have below it, as overlayfs is told to write it
/// (Documentation/filesystems/overlayfs.rst, `userxattr`).
pub(super) fn opaque_mark() -> &'static OsStr {
    OsStr::new(match are_mapped() {
        false => "trusted.overlay.opaque",
        true => "user.overlay.opaque",
    })
}

/// A directory as several layers together show it.
#[derive(Debug, Clone, Default)]
pub(super) struct Merged {
    /// The directories that contribute to it, top first.
    dirs: Vec<PathBuf>,
}

/// What a name of a merged directory stands for.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it really is.
    pub(super) path: PathBuf,
    /// Its own attributes; a symbolic link is not followed.
    pub(super) meta: Metadata,
    /// When it is a directory: what it shows.
    pub(super) below: Merged,
}

impl Merged {
    /// The root directory of these layers, top first.
    pub(super) fn new(layers: &[PathBuf]) -> Merged {
        Merged {
            dirs: layers.to_vec(),
        }
    }

    /// What `name` stands for here. `name` must be one component.
    pub(super) fn child(&self, name: &OsStr) -> Option<Found> {
        let mut found: Option<Found> = None;
        for dir in &self.dirs {
            let path = dir.join(name);
            let Ok(meta) = path.symlink_metadata() else {
                continue;
            };
            if is_whiteout(&meta) {
                break;
            }
            let is_dir = meta.is_dir();
            match &mut found {
                None => {
                    let below = Merged {
                        dirs: if is_dir { vec![path.clone()] } else { vec![] },
                    };
                    found = Some(Found {
                        path: path.clone(),
                        meta,
                        below,
                    });
                }
                Some(found) if is_dir => found.below.dirs.push(path.clone()),
                Some(_) => break,
            }
            if !is_dir || is_opaque(&path) {
                break;
            }
        }
        found
    }

    /// The names here, sorted.
    pub(super) fn names(&self) -> Vec<OsString> {
        let mut names: Vec<OsString> = self
            .dirs
            .iter()
            .filter_map(|dir| std::fs::read_dir(dir).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.file_name()))
            .collect();
        names.sort();
        names.dedup();
        names.retain(|name| self.child(name).is_some());
        names
    }
}

/// Whether this is overlayfs' mark of a deleted name: a character device 0:0.
pub(super) fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == 0
}

/// Whether the directory hides what is below it.
pub(super) fn is_opaque(dir: &Path) -> bool {
    matches!(xattr::get(dir, opaque_mark()), Ok(Some(value)) if value == b"y")
}

/// What `path` of an image stands for, symbolic links followed inside the image, as in a container
/// (`..` above the root is the root). `None` when there is nothing, or after 40 links.
pub(super) fn lookup(layers: &[PathBuf], path: &Path) -> Option<Found> {
    let root = || -> Option<Found> {
        let top = layers.first()?;
        Some(Found {
            path: top.clone(),
            meta: top.symlink_metadata().ok()?,
            below: Merged::new(layers),
        })
    };
    let mut todo: Vec<OsString> = components(path);
    let mut at: Vec<Found> = vec![root()?];
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let found = at.last()?.below.child(&name)?;
        if found.meta.is_symlink() {
            links += 1;
            if links > 40 {
                return None;
            }
            let target = std::fs::read_link(&found.path).ok()?;
            if target.is_absolute() {
                at.truncate(1);
            }
            todo.extend(components(&target));
        } else {
            at.push(found);
        }
    }
    at.pop()
}

/// The components of a path, last first; the root and `.` left out.
fn components(path: &Path) -> Vec<OsString> {
    let mut all: Vec<OsString> = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| part.as_os_str().to_owned())
        .collect();
    all.reverse();
    all
}
