//! The upper directory of an overlay as a layer: archived and hashed in one pass, and then moved into
//! the store instead of being copied.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::super::remove_tree::remove_tree;
use super::blob::Digester;
use super::changes::{self, Item, Kind};
use super::draft::Draft;
use super::layer::LayerWriter;
use super::merged::{is_whiteout, opaque_mark};
use super::publish::NewLayer;
use crate::sys::xattr;

/// Makes a layer of an upper directory over `layers` (top first), to which nobody writes any more: it
/// is gone afterwards. `None`: nothing has changed. `placeholders`: see [`changes::walk`].
pub(super) fn take(
    upper: &Path,
    layers: &[PathBuf],
    placeholders: Option<&[PathBuf]>,
    draft: &Draft,
) -> Result<Option<(NewLayer, Vec<String>)>> {
    let mut items = changes::walk(&[upper.to_owned()], layers, placeholders)?;
    let notes = leave_out_false_whiteouts(&mut items);
    let root = changes::root(&[upper.to_owned()])?;
    if root.is_other_root(layers)? {
        items.insert(0, root);
    }
    if items.is_empty() {
        return Ok(None);
    }
    let path = draft.path().join("blob");
    let mut writer = LayerWriter::new(Digester::storing(&path)?);
    writer.notes = notes;
    write(&mut writer, &items)?;
    let (blob, notes) = writer.finish()?;
    let blob = blob.finish()?.at(path);
    tidy(upper, &items)?;
    let dir = draft.path().join("layer");
    std::fs::rename(upper, &dir).with_context(|| format!("move {}", upper.display()))?;
    Ok(Some((NewLayer::plain(blob, dir), notes)))
}

/// Takes out the files whose names would say in an archive that others are gone (image-spec:
/// layer.md). A line for each.
pub(super) fn leave_out_false_whiteouts(items: &mut Vec<Item>) -> Vec<String> {
    let mut notes = Vec::new();
    items.retain(|item| {
        let is_false = |part: &OsStr| part.as_bytes().starts_with(b".wh.");
        let keeps = !item.path.iter().any(is_false);
        if !keeps && item.path.file_name().is_some_and(is_false) && item.now.is_some() {
            let path = item.path.display();
            notes.push(format!("/{path}: left out, its name is that of a whiteout"));
        }
        keeps
    });
    notes
}

/// Writes changes as an archive. What is gone since they were found is left out.
pub(super) fn write(writer: &mut LayerWriter<Digester>, items: &[Item]) -> Result<()> {
    for item in items {
        match (&item.now, item.kind) {
            (Some((from, meta)), _) => {
                if writer.add(&item.path, from, meta)? && item.opaque {
                    writer.opaque(&item.path)?;
                }
            }
            (None, Kind::Deleted) if !item.implied => writer.whiteout(&item.path)?,
            (None, _) => {}
        }
    }
    Ok(())
}

/// Takes away what the archive does not have, so that the directory is what unpacking it would give:
/// mount points, marks of overlayfs that mean nothing here, sockets, and attributes that no archive can
/// have. Times stay.
pub(super) fn tidy(upper: &Path, items: &[Item]) -> Result<()> {
    let kept = items.iter().map(|item| (item.path.as_path(), item));
    tidy_in(upper, Path::new(""), &kept.collect())
}

fn tidy_in(dir: &Path, path: &Path, kept: &HashMap<&Path, &Item>) -> Result<()> {
    let look = || format!("tidy {}", dir.display());
    let before = dir.symlink_metadata().with_context(look)?;
    plain(dir, kept.get(path).is_some_and(|item| item.opaque)).with_context(look)?;
    // Names alone: an entry holds its directory open.
    let names = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    let names: Vec<OsString> = names.with_context(look)?;
    for name in names {
        let (from, path) = (dir.join(&name), path.join(&name));
        let meta = from.symlink_metadata().with_context(look)?;
        match (kept.contains_key(path.as_path()), meta.is_dir()) {
            (true, true) => tidy_in(&from, &path, kept)?,
            (true, false) if is_whiteout(&meta) => {}
            (true, false) if !meta.file_type().is_socket() => {
                plain(&from, false).with_context(look)?
            }
            (_, true) => remove_tree(&from).with_context(look)?,
            (_, false) => std::fs::remove_file(&from).with_context(look)?,
        }
    }
    let times = |seconds, nanos| TimeSpec::new(seconds, nanos);
    use std::os::unix::fs::MetadataExt;
    let accessed = times(before.atime(), before.atime_nsec());
    let modified = times(before.mtime(), before.mtime_nsec());
    let flag = UtimensatFlags::NoFollowSymlink;
    utimensat(AT_FDCWD, dir, &accessed, &modified, flag).with_context(look)
}

/// Leaves of overlayfs' own attributes only the mark that hides what is below, and none with a `=` in its
/// name.
fn plain(path: &Path, opaque: bool) -> Result<()> {
    for name in xattr::list(path)? {
        let text = name.to_string_lossy();
        let keep = opaque && name == opaque_mark();
        let is_overlays = ["trusted.overlay.", "user.overlay."];
        let is_overlays = is_overlays.iter().any(|start| text.starts_with(start));
        if (is_overlays && !keep) || text.contains('=') {
            xattr::remove(path, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_vanishes_meanwhile_is_left_out() {
        let name = format!("upper-{}", std::process::id());
        let base = std::env::temp_dir().join(name);
        let upper = base.join("upper");
        std::fs::create_dir_all(upper.join("dir")).unwrap();
        std::fs::write(upper.join("dir/file"), "x").unwrap();
        std::fs::write(upper.join("a"), "linked").unwrap();
        std::fs::hard_link(upper.join("a"), upper.join("b")).unwrap();
        std::os::unix::fs::symlink("a", upper.join("link")).unwrap();
        let mut items = changes::walk(std::slice::from_ref(&upper), &[], None).unwrap();
        for item in &mut items {
            item.opaque = item.path == Path::new("dir");
        }

        std::fs::remove_dir_all(upper.join("dir")).unwrap();
        std::fs::remove_file(upper.join("a")).unwrap();
        std::fs::remove_file(upper.join("link")).unwrap();
        let path = base.join("archive");
        let mut writer = LayerWriter::new(Digester::storing(&path).unwrap());
        write(&mut writer, &items).unwrap();
        writer.finish().unwrap().0.finish().unwrap();

        let mut archive = tar::Archive::new(std::fs::File::open(path).unwrap());
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().into_owned(), text)
            })
            .collect();
        assert_eq!(found, [(PathBuf::from("b"), "linked".to_owned())]);
        std::fs::remove_dir_all(base).unwrap();
    }
}
