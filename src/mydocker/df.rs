//! `system df`: where the room on the disk is. Every block below the state directory is in one of
//! the rows, and in one only.

use super::cli::{Df, Global};
use super::image::Store;
use super::record::{self, Entry, Record};
use super::state_dirs::State;
use super::{df_verbose, format, print, volume};
use crate::error::ResultExt;
use anyhow::Result;
use serde_json::json;
use std::collections::HashSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A row: its name, how many there are, how many of them in use, bytes, and bytes that could go.
struct Row(&'static str, usize, usize, u64, u64);

/// `mydocker system df`
pub fn df(state: &State, _: &Global, args: &Df) -> Result<i32> {
    if args.verbose {
        return print(&df_verbose::tables(state).exit_code(1)?);
    }
    let mut seen = HashSet::new();
    let mut of = |names: &[&str]| -> u64 {
        let paths = names.iter().map(|name| state.root.join(name));
        paths.map(|path| walk(&path, &mut seen)).sum()
    };
    let images_size = of(&["images", "layers", "images.lock", "images.spare"]);
    let volumes_size = of(&["volumes"]);
    let containers_size = of(&["containers"]);
    let builds_size = of(&["build"]);
    let steps = std::fs::read_dir(state.root.join("build/steps"));
    let steps = steps.map_or(0, |entries| entries.flatten().count());
    // What is left: drafts, names, events.
    let other = walk(&state.root, &mut seen);
    let rows = [
        images(state, images_size)?,
        containers(state, containers_size)?,
        volumes(state, volumes_size)?,
        // The layers that it keeps are among the images'.
        Row("Build Cache", steps, 0, builds_size, builds_size),
        Row("Other", 0, 0, other, 0),
    ];
    let text = |row: &Row| {
        let share = (100 * row.4).checked_div(row.3).unwrap_or(0);
        [
            row.0.to_owned(),
            row.1.to_string(),
            row.2.to_string(),
            format::size(row.3),
            format!("{} ({share}%)", format::size(row.4)),
        ]
    };
    let objects: Vec<_> = rows
        .iter()
        .map(|row| {
            let [kind, total, active, size, reclaimable] = text(row);
            json!({
                "Type": kind, "TotalCount": total, "Active": active, "Size": size,
                "Reclaimable": reclaimable,
            })
        })
        .collect();
    let table = || {
        let header = ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        table.extend(rows.iter().map(|row| text(row).to_vec()));
        table
    };
    let shown = format::list(args.format.as_deref(), &objects, table).exit_code(1)?;
    print(&shown)
}

fn images(state: &State, size: u64) -> Result<Row> {
    if !state.root.join("images").exists() {
        return Ok(Row("Images", 0, 0, size, 0));
    }
    let store = Store::open(&state.root)?;
    let images = store.list()?;
    // What an image without a container has for itself would go with it.
    let mut kept: HashSet<PathBuf> = HashSet::new();
    let mut active = 0;
    let parts = |image: &super::image::Image| -> Vec<PathBuf> {
        let blobs = state.root.join("images/blobs/sha256");
        let hex = image.blobs.iter();
        let hex = hex.filter_map(|blob| blob.digest.strip_prefix("sha256:"));
        let blobs = hex.map(|hex| blobs.join(hex));
        image.layers.iter().cloned().chain(blobs).collect()
    };
    for image in &images {
        if !store.users(&image.id)?.is_empty() {
            active += 1;
            kept.extend(parts(image));
        }
    }
    let spare: HashSet<PathBuf> = images.iter().flat_map(&parts).collect();
    let spare = spare.difference(&kept).map(|path| size_of(path)).sum();
    Ok(Row("Images", images.len(), active, size, spare))
}

fn containers(state: &State, size: u64) -> Result<Row> {
    let (mut total, mut active, mut spare) = (0, 0, 0);
    for entry in record::all(state)? {
        total += 1;
        match entry {
            Entry::Known(_, status) if status.is_alive() => active += 1,
            Entry::Known(record, _) => spare += size_of(&state.container(&record.id)),
            Entry::Damaged { id, .. } => spare += size_of(&state.container(&id)),
        }
    }
    Ok(Row("Containers", total, active, size, spare))
}

fn volumes(state: &State, size: u64) -> Result<Row> {
    let used = volume::used(state)?;
    let all = volume::all(state)?;
    let (active, idle): (Vec<_>, Vec<_>) = all
        .iter()
        .partition(|volume| used.contains_key(&volume.name));
    let spare = idle
        .iter()
        .map(|volume| size_of(&volume::home(state, &volume.name)))
        .sum();
    Ok(Row("Local Volumes", all.len(), active.len(), size, spare))
}

/// How much room everything below a path takes; what has several names is counted once.
pub(super) fn size_of(path: &Path) -> u64 {
    walk(path, &mut HashSet::new())
}

/// How much a container has written, and the same together with its image: the content of files, as
/// Docker counts it.
pub(super) fn written(state: &State, store: &Store, record: &Record) -> (u64, u64) {
    let mut seen = HashSet::new();
    let content = |meta: &Metadata| if meta.is_dir() { 0 } else { meta.len() };
    let uppers = record.uppers(state);
    let own = uppers.iter().map(|upper| sum(upper, &mut seen, &content));
    let own = own.sum();
    let image = store.image_of(&state.container(&record.id));
    (own, own + image.map_or(0, |image| image.size))
}

/// [`size_of`] without what has been `seen` already.
fn walk(path: &Path, seen: &mut HashSet<(u64, u64)>) -> u64 {
    sum(path, seen, &|meta| meta.blocks() * 512)
}

fn sum(path: &Path, seen: &mut HashSet<(u64, u64)>, of: &dyn Fn(&Metadata) -> u64) -> u64 {
    let mut bytes = 0;
    // By hand, since what containers make may be deep.
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        // It may be gone at any moment.
        let Ok(meta) = std::fs::symlink_metadata(&path) else {
            continue;
        };
        if seen.insert((meta.dev(), meta.ino())) {
            bytes += of(&meta);
        } else if !meta.is_dir() {
            continue;
        }
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            todo.extend(entries.map(|entry| entry.path()));
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_counted_once() {
        let id = super::super::state_dirs::new_id().unwrap();
        let dir = std::env::temp_dir().join(format!("acts-df-{}", &id[..12]));
        std::fs::create_dir_all(dir.join("a")).unwrap();
        std::fs::write(dir.join("a/file"), vec![1; 100_000]).unwrap();
        let once = size_of(&dir);
        assert!(once >= 100_000);
        std::fs::hard_link(dir.join("a/file"), dir.join("link")).unwrap();
        assert!(
            size_of(&dir) < once + 50_000,
            "a second name is no second file"
        );
        let mut seen = HashSet::new();
        let a = walk(&dir.join("a"), &mut seen);
        let rest = walk(&dir, &mut seen);
        assert_eq!(a + rest, size_of(&dir));
        assert_eq!(size_of(&dir.join("nosuch")), 0);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
