//! What a container changed: its upper directory against the layers below it.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layer::kept_xattrs;
use super::merged::{Found, Merged, is_opaque, is_whiteout};

/// What happened to a path, in Docker's letters (A, C, D).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is new.
    Added,
    /// It is different; of a directory: itself or something below it.
    Changed,
    /// It is gone.
    Deleted,
}

impl Kind {
    /// The letter that `diff` prints.
    pub fn letter(self) -> char {
        match self {
            Kind::Added => 'A',
            Kind::Changed => 'C',
            Kind::Deleted => 'D',
        }
    }
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute, as the container sees it.
    pub path: PathBuf,
    /// What happened to it.
    pub kind: Kind,
}

/// What the upper directory changes of `layers` (top first), sorted by path. `placeholders` are
/// the container's mount points and devices: where the runtime only made an empty file or
/// directory to mount on, that is no change.
pub fn changes(upper: &Path, layers: &[PathBuf], placeholders: &[PathBuf]) -> Result<Vec<Change>> {
    let items = walk(upper, layers, Some(placeholders))?;
    Ok(items
        .into_iter()
        .map(|item| Change {
            path: Path::new("/").join(item.path),
            kind: item.kind,
        })
        .collect())
}

/// A changed path and where its new state is.
#[derive(Debug)]
pub(super) struct Item {
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// What it is now; nothing when it was deleted.
    pub(super) now: Option<(PathBuf, Metadata)>,
    /// A directory that hides what the layers have in it.
    pub(super) opaque: bool,
    /// Deleted together with all else in an opaque directory: needs no whiteout of its own.
    pub(super) implied: bool,
}

/// Every change, a directory before what is in it, names in byte order. Without `placeholders` no
/// runtime has put anything there, and everything counts.
pub(super) fn walk(
    upper: &Path,
    layers: &[PathBuf],
    placeholders: Option<&[PathBuf]>,
) -> Result<Vec<Item>> {
    let walk = placeholders.map_or_else(Walk::default, Walk::new);
    let mut items = Vec::new();
    walk.directory(upper, Path::new(""), Some(&Merged::new(layers)), &mut items)?;
    Ok(items)
}

/// What the runtime makes in every container for the default mounts and devices.
const ALWAYS: [&str; 14] = [
    "proc",
    "sys",
    "dev/null",
    "dev/zero",
    "dev/full",
    "dev/random",
    "dev/urandom",
    "dev/tty",
    "dev/console",
    "dev/ptmx",
    "dev/fd",
    "dev/stdin",
    "dev/stdout",
    "dev/stderr",
];

#[derive(Default)]
struct Walk {
    /// Mount points and devices, relative.
    points: BTreeSet<PathBuf>,
    /// The directories above them.
    above: BTreeSet<PathBuf>,
}

impl Walk {
    fn new(placeholders: &[PathBuf]) -> Walk {
        let relative = |path: &PathBuf| -> PathBuf {
            path.components()
                .filter(|c| matches!(c, std::path::Component::Normal(_)))
                .collect()
        };
        let mut points: BTreeSet<PathBuf> = placeholders.iter().map(relative).collect();
        points.extend(ALWAYS.iter().map(PathBuf::from));
        let above = points
            .iter()
            .flat_map(|point| point.ancestors().skip(1))
            .filter(|path| !path.as_os_str().is_empty())
            .map(Path::to_owned)
            .collect();
        Walk { points, above }
    }

    fn directory(
        &self,
        dir: &Path,
        path: &Path,
        lower: Option<&Merged>,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let listed = std::fs::read_dir(dir)
            .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect())
            .with_context(|| format!("list {}", dir.display()));
        let mut names: Vec<std::ffi::OsString> = listed?;
        names.sort();
        for name in names {
            let from = dir.join(&name);
            let meta = from
                .symlink_metadata()
                .with_context(|| format!("look at {}", from.display()))?;
            let old = lower.and_then(|lower| lower.child(&name));
            let path = path.join(&name);
            if is_whiteout(&meta) {
                if old.is_some() {
                    items.push(Item::deleted(path, false));
                }
            } else if meta.is_dir() {
                self.subdirectory(from, meta, path, old, items)?;
            } else if old.is_some() || !self.is_placeholder(&path, &meta) {
                let kind = if old.is_some() {
                    Kind::Changed
                } else {
                    Kind::Added
                };
                let now = Some((from, meta));
                items.push(Item {
                    path,
                    kind,
                    now,
                    opaque: false,
                    implied: false,
                });
            }
        }
        Ok(())
    }

    fn subdirectory(
        &self,
        from: PathBuf,
        meta: Metadata,
        path: PathBuf,
        old: Option<Found>,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let old_dir = old.as_ref().filter(|old| old.meta.is_dir());
        let opaque = old_dir.is_some() && is_opaque(&from);
        let mut below = Vec::new();
        self.directory(&from, &path, old_dir.map(|old| &old.below), &mut below)?;
        if let Some(old) = old_dir.filter(|_| opaque) {
            let gone = old.below.names().into_iter().filter(|name| {
                from.join(name)
                    .symlink_metadata()
                    .map_or(true, |meta| is_whiteout(&meta))
            });
            // A whiteout in an opaque directory is already listed.
            let known: BTreeSet<PathBuf> = below.iter().map(|item| item.path.clone()).collect();
            below.extend(
                gone.map(|name| path.join(name))
                    .filter(|path| !known.contains(path))
                    .map(|path| Item::deleted(path, true)),
            );
            below.sort_by(|a, b| a.path.cmp(&b.path));
        }
        let same = match (&old, old_dir) {
            (None, _) => self.is_placeholder(&path, &meta),
            (Some(_), None) => false,
            (Some(_), Some(old)) => !opaque && same_attributes(&from, &meta, old)?,
        };
        if below.is_empty() && same {
            return Ok(());
        }
        let kind = if old.is_some() {
            Kind::Changed
        } else {
            Kind::Added
        };
        items.push(Item {
            path,
            kind,
            now: Some((from, meta)),
            opaque,
            implied: false,
        });
        items.append(&mut below);
        Ok(())
    }

    /// Whether a path that the image does not have is only there to be mounted on. A directory is
    /// asked about after what is in it was found to be nothing.
    fn is_placeholder(&self, path: &Path, meta: &Metadata) -> bool {
        if meta.is_dir() {
            return self.points.contains(path) || self.above.contains(path);
        }
        if !self.points.contains(path) {
            return false;
        }
        let kind = meta.file_type();
        let is_node = path.starts_with("dev") && (kind.is_char_device() || kind.is_symlink());
        is_node || (kind.is_file() && meta.len() == 0)
    }
}

impl Item {
    fn deleted(path: PathBuf, implied: bool) -> Item {
        Item {
            path,
            kind: Kind::Deleted,
            now: None,
            opaque: false,
            implied,
        }
    }
}

/// Whether a directory is as it was; its time does not count, since any change below moves it.
fn same_attributes(from: &Path, meta: &Metadata, old: &Found) -> Result<bool> {
    Ok(meta.mode() == old.meta.mode()
        && (meta.uid(), meta.gid()) == (old.meta.uid(), old.meta.gid())
        && kept_xattrs(from)? == kept_xattrs(&old.path)?)
}
