//! What a container changed: its upper directory against the layers below it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layer::{is_gone, is_missing, kept_xattrs};
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

/// What the upper directories (top first) change of `layers` (top first), sorted by path. There are
/// several where a commit has made a layer of one. `placeholders` are the container's mount points and
/// devices: where the runtime only made an empty file or directory to mount on, that is no change.
pub fn changes(
    uppers: &[PathBuf],
    layers: &[PathBuf],
    placeholders: &[PathBuf],
) -> Result<Vec<Change>> {
    let items = walk(uppers, layers, Some(placeholders))?;
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
    /// Deleted together with all else in an opaque directory: needs no whiteout of its own, which a
    /// container that sees nothing else of that directory would find when it lists it.
    pub(super) implied: bool,
}

/// Every change, a directory before what is in it, names in byte order. Without `placeholders` no
/// runtime has put anything there, and everything counts.
pub(super) fn walk(
    uppers: &[PathBuf],
    layers: &[PathBuf],
    placeholders: Option<&[PathBuf]>,
) -> Result<Vec<Item>> {
    let walk = placeholders.map_or_else(Walk::default, Walk::new);
    let mut items = Vec::new();
    let own = Own {
        dirs: uppers.to_vec(),
        opaque: false,
    };
    let lower = Merged::new(layers);
    walk.directory(&own, Path::new(""), Some(&lower), false, &mut items)?;
    Ok(items)
}

/// The root directory as a change.
pub(super) fn root(uppers: &[PathBuf]) -> Result<Item> {
    let upper = uppers.first().context("it has written nowhere")?;
    let meta = upper.symlink_metadata();
    let meta = meta.with_context(|| format!("look at {}", upper.display()))?;
    Ok(Item {
        path: PathBuf::new(),
        kind: Kind::Changed,
        now: Some((upper.clone(), meta)),
        opaque: false,
        implied: false,
    })
}

impl Item {
    /// Whether this, the root directory, is another than that of the layers (top first). Its time does not
    /// count: every mount point that is made moves it.
    pub(super) fn is_other_root(&self, layers: &[PathBuf]) -> Result<bool> {
        let (from, meta) = self.now.as_ref().context("the root is gone")?;
        let Some(layer) = layers.first() else {
            return Ok(meta.mode() & 0o7777 != 0o755 || (meta.uid(), meta.gid()) != (0, 0));
        };
        let old = layer.symlink_metadata();
        let old = old.with_context(|| format!("look at {}", layer.display()))?;
        Ok(!same_attributes((from, meta), (layer, &old))?)
    }
}

/// A directory as the container wrote it: what its upper directories have of it, top first.
struct Own {
    dirs: Vec<PathBuf>,
    /// It hides what the layers have in it.
    opaque: bool,
}

/// What the container wrote under a name; it may be a whiteout.
struct Written {
    from: PathBuf,
    meta: Metadata,
    /// When it is a directory.
    below: Own,
}

impl Own {
    /// The names, sorted. There are none in a directory that is gone by now.
    fn names(&self) -> Result<Vec<OsString>> {
        let mut names = BTreeSet::new();
        for dir in &self.dirs {
            let mut list = || -> std::io::Result<()> {
                for entry in std::fs::read_dir(dir)? {
                    names.insert(entry?.file_name());
                }
                Ok(())
            };
            match list() {
                Err(error) if is_gone(&error) => {}
                done => done.with_context(|| format!("list {}", dir.display()))?,
            }
        }
        Ok(names.into_iter().collect())
    }

    fn child(&self, name: &OsStr) -> Result<Option<Written>> {
        let mut found: Option<Written> = None;
        for dir in &self.dirs {
            let from = dir.join(name);
            let meta = match from.symlink_metadata() {
                Err(error) if is_gone(&error) => continue,
                meta => meta.with_context(|| format!("look at {}", from.display()))?,
            };
            let (is_dir, opaque) = (meta.is_dir(), meta.is_dir() && is_opaque(&from));
            match &mut found {
                None => {
                    let dirs = if is_dir { vec![from.clone()] } else { vec![] };
                    let below = Own { dirs, opaque };
                    found = Some(Written { from, meta, below });
                }
                Some(found) if is_dir => {
                    found.below.dirs.push(from);
                    found.below.opaque |= opaque;
                }
                // A new directory in the place of a file, or of what was deleted.
                Some(found) => found.below.opaque = true,
            }
            if !is_dir || opaque {
                break;
            }
        }
        Ok(found)
    }
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
        own: &Own,
        path: &Path,
        lower: Option<&Merged>,
        hidden: bool,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        for name in own.names()? {
            let Some(Written { from, meta, below }) = own.child(&name)? else {
                continue;
            };
            let old = lower.and_then(|lower| lower.child(&name));
            let path = path.join(&name);
            if is_whiteout(&meta) {
                if old.is_some() {
                    items.push(Item::deleted(path, hidden));
                }
            } else if meta.is_dir() {
                self.subdirectory((from, meta, below), path, old, hidden, items)?;
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
        (from, meta, own): (PathBuf, Metadata, Own),
        path: PathBuf,
        old: Option<Found>,
        hidden: bool,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let old_dir = old.as_ref().filter(|old| old.meta.is_dir());
        let opaque = old_dir.is_some() && own.opaque;
        let mut below = Vec::new();
        // What the layers have below an opaque directory is gone, also where the same is there anew.
        let hidden = hidden || opaque;
        let lower = old_dir.map(|old| &old.below);
        self.directory(&own, &path, lower, hidden, &mut below)?;
        if let Some(old) = old_dir.filter(|_| opaque) {
            let is_there = |name: &OsString| {
                let written = own.child(name).ok().flatten();
                written.is_some_and(|written| !is_whiteout(&written.meta))
            };
            let names = old.below.names().into_iter();
            let gone = names.filter(|name| !is_there(name));
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
            (Some(_), Some(_)) if hidden => false,
            (Some(_), Some(old)) => {
                match same_attributes((&from, &meta), (&old.path, &old.meta)) {
                    // It is gone meanwhile.
                    Err(error) if is_missing(&error) => return Ok(()),
                    same => same?,
                }
            }
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
fn same_attributes(new: (&Path, &Metadata), old: (&Path, &Metadata)) -> Result<bool> {
    Ok(new.1.mode() == old.1.mode()
        && (new.1.uid(), new.1.gid()) == (old.1.uid(), old.1.gid())
        && kept_xattrs(new.0)? == kept_xattrs(old.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::xattr;
    use nix::sys::stat::{Mode, SFlag, mknod};

    #[test]
    fn several_upper_directories_count_as_one() {
        let name = format!("changes-{}", std::process::id());
        let base = std::env::temp_dir().join(name);
        let make = |path: &str| {
            let path = base.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for file in [
            "image/a",
            "image/dir/old",
            "image/dir/kept",
            "image/gone/x",
            "image/gone/y",
        ] {
            make(file);
        }
        // First a file was changed and one made; then that was deleted, a directory replaced.
        for file in ["first/a", "first/new", "first/dir/one", "first/file"] {
            make(file);
        }
        for file in [
            "second/dir/two",
            "second/gone/y",
            "second/file/now-a-directory",
        ] {
            make(file);
        }
        let whiteouts = [
            "second/new",
            "second/dir/old",
            "second/dir/one",
            "first/gone",
        ];
        for path in whiteouts {
            mknod(&base.join(path), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        }
        xattr::set(
            &base.join("second/gone"),
            "trusted.overlay.opaque".as_ref(),
            b"y",
        )
        .unwrap();
        let dirs =
            |names: &[&str]| -> Vec<PathBuf> { names.iter().map(|n| base.join(n)).collect() };
        let found = changes(&dirs(&["second", "first"]), &dirs(&["image"]), &[]).unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|change| format!("{} {}", change.kind.letter(), change.path.display()))
            .collect();
        let expected = [
            "C /a",
            "C /dir",
            "D /dir/old",
            "A /dir/two",
            "A /file",
            "A /file/now-a-directory",
            "C /gone",
            "D /gone/x",
            "C /gone/y",
        ];
        assert_eq!(found, expected);
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn there_is_no_whiteout_below_what_hides_all() {
        let base = std::env::temp_dir().join(format!("hidden-{}", std::process::id()));
        for file in ["image/dir/sub/a", "second/dir/sub/a", "first/dir/sub/b"] {
            let path = base.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let mark = "trusted.overlay.opaque".as_ref();
        xattr::set(&base.join("first/dir"), mark, b"y").unwrap();
        let gone = base.join("second/dir/sub/a");
        std::fs::remove_file(&gone).unwrap();
        mknod(&gone, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        let uppers = [base.join("second"), base.join("first")];
        let items = walk(&uppers, &[base.join("image")], None).unwrap();
        let deleted: Vec<_> = items
            .iter()
            .filter(|item| item.kind == Kind::Deleted)
            .map(|item| (item.path.to_str().unwrap(), item.implied))
            .collect();
        assert_eq!(deleted, [("dir/sub/a", true)]);
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_directory_that_vanishes_meanwhile_is_no_change() {
        let name = format!("vanished-{}", std::process::id());
        let base = std::env::temp_dir().join(name);
        for file in ["image/dir/old", "upper/dir/new", "upper/other"] {
            let path = base.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let (own, name) = (
            Own {
                dirs: vec![base.join("upper")],
                opaque: false,
            },
            OsStr::new("dir"),
        );
        let Written { from, meta, below } = own.child(name).unwrap().unwrap();
        let old = Merged::new(&[base.join("image")]).child(name);
        std::fs::remove_dir_all(base.join("upper/dir")).unwrap();
        let mut items = Vec::new();
        Walk::default()
            .subdirectory((from, meta, below), "dir".into(), old, false, &mut items)
            .unwrap();
        assert!(items.is_empty(), "{items:?}");
        // And where a file is in its place by now.
        std::fs::write(base.join("upper/dir"), "x").unwrap();
        let in_file = Own {
            dirs: vec![base.join("upper/dir")],
            opaque: false,
        };
        assert!(in_file.names().unwrap().is_empty());
        assert!(in_file.child(name).unwrap().is_none());
        std::fs::remove_dir_all(base).unwrap();
    }
}
