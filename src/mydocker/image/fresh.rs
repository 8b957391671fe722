//! Layers that the disk may not have yet. Before an image is published, the archives of its layers are
//! on the disk; nobody waits for what they unpack to. A link in `images/fresh` names each such layer
//! and the boot it was made in. Should the power fail before the kernel has written it out, the next
//! command unpacks it again.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, FlockArg, RenameFlags, renameat2};
use serde_json::from_slice;

use super::super::whole_file::sync_dir;
use super::Store;
use super::draft::Draft;
use super::implied::dress_again;
use super::ready::{open, unpack_archive};
use super::store::{Unpacked, entries};
use crate::error::ResultExt;
use crate::sys::process::boot_id;

/// After this time the kernel has begun to write everything out (vm.dirty_expire_centisecs is half a
/// minute), so that waiting for it costs little.
const SETTLED: Duration = Duration::from_secs(60);

/// A layer that the disk may not have.
struct Fresh {
    link: PathBuf,
    /// The boot it was made in.
    boot: PathBuf,
    is_settled: bool,
}

impl Store {
    fn fresh(&self) -> PathBuf {
        self.images().join("fresh")
    }

    /// Says of layers that are about to be published that the disk may not have them. The caller holds
    /// the exclusive lock.
    pub(super) fn note_fresh<'a>(&self, layers: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let (dir, boot) = (self.fresh(), boot_id().context("read the boot id")?);
        let mut any = false;
        for hex in layers {
            std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            let link = dir.join(hex);
            let _ = std::fs::remove_file(&link);
            symlink(boot, &link).with_context(|| format!("make {}", link.display()))?;
            any = true;
        }
        match any {
            true => sync_dir(&dir),
            false => Ok(()),
        }
    }

    /// Forgets that a layer was fresh, which is gone.
    pub(super) fn forget_fresh(&self, hex: &Path) {
        let _ = std::fs::remove_file(self.fresh().join(hex));
    }

    /// Unpacks again what another boot has made and the disk may not have, and sees to it that the disk
    /// has the rest once that is quick. A failure is told and left to the next command.
    pub(super) fn settle(&self) {
        let all = self.all_fresh();
        let (false, Ok(boot)) = (all.is_empty(), boot_id()) else {
            return;
        };
        let is_due = |fresh: &Fresh| fresh.is_settled || fresh.boot != Path::new(&boot);
        if !all.iter().any(is_due) {
            return;
        }
        let settle = || -> Result<()> {
            let _lock = self.lock(FlockArg::LockExclusive)?;
            let due: Vec<Fresh> = self.all_fresh().into_iter().filter(is_due).collect();
            // Somebody was faster.
            if due.is_empty() {
                return Ok(());
            }
            // One that is damaged does not stand in the way of the others.
            let is_whole = |fresh: &Fresh| {
                let hex = fresh.link.file_name().unwrap_or_default().to_string_lossy();
                let again = match fresh.boot == Path::new(&boot) {
                    true => Ok(()),
                    false => self.unpack_again(&hex),
                };
                again
                    .with_context(|| format!("unpack the layer {hex} again"))
                    .hint("`mydocker rmi` removes its image, `mydocker pull` brings it again")
                    .inspect_err(super::super::report)
                    .is_ok()
            };
            let due: Vec<Fresh> = due.into_iter().filter(is_whole).collect();
            let root = File::open(self.layers()).context("open the directory of layers")?;
            nix::unistd::syncfs(root).context("write the layers to the disk")?;
            for fresh in due {
                let _ = std::fs::remove_file(fresh.link);
            }
            Ok(())
        };
        if let Err(error) = settle() {
            super::super::report(&error);
        }
    }

    fn all_fresh(&self) -> Vec<Fresh> {
        let read = |entry: std::fs::DirEntry| {
            let link = entry.path();
            let made = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            Some(Fresh {
                boot: std::fs::read_link(&link).ok()?,
                is_settled: made.elapsed().is_ok_and(|age| age > SETTLED),
                link,
            })
        };
        let entries = entries(&self.fresh()).unwrap_or_default();
        entries.into_iter().filter_map(read).collect()
    }

    /// Unpacks a layer of the store anew. Nobody uses it: the machine was booted since. Without its
    /// archive (no image has it, only a container that was cut off in a commit) it stays as it is.
    fn unpack_again(&self, hex: &str) -> Result<()> {
        let layer = self.layers().join(hex);
        let (true, Some(archive)) = (layer.is_dir(), self.archive_of(hex)?) else {
            return Ok(());
        };
        let draft = Draft::new(&self.drafts())?;
        let new = draft.path().join("layer");
        let unpacked = unpack_archive(open(&archive)?, hex, &new, None)?;
        // An archive need not hold the root directory, whose attributes are there.
        dress_again(&layer, &new, unpacked.implied)?;
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &new, AT_FDCWD, &layer, flags)
            .with_context(|| format!("replace {}", layer.display()))
    }

    /// The archive in the store that unpacks to this layer.
    fn archive_of(&self, hex: &str) -> Result<Option<PathBuf>> {
        let plain = self.blobs().join(hex);
        if plain.exists() {
            return Ok(Some(plain));
        }
        for note in entries(&self.unpacked()).unwrap_or_default() {
            let bytes = match std::fs::read(note.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.with_context(|| format!("read {}", note.path().display()))?,
            };
            let blob = self.blobs().join(note.file_name());
            let is_it = from_slice(&bytes)
                .is_ok_and(|note: Unpacked| note.diff_id == format!("sha256:{hex}"));
            if is_it && blob.exists() {
                return Ok(Some(blob));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Image, ImportOptions, Source};
    use super::*;
    use crate::mydocker::state_dirs::new_id;
    use std::io::Cursor;
    use std::os::unix::fs::PermissionsExt;

    fn scratch() -> (PathBuf, Store) {
        let id = new_id().unwrap();
        let place = std::env::temp_dir().join(format!("fresh-{}", &id[..12]));
        let store = Store::open(&place).unwrap();
        (place, store)
    }

    /// An image with one file.
    fn import(store: &Store, content: &str) -> Image {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, "file", content.as_bytes())
            .unwrap();
        let source = Source::Archive(Box::new(Cursor::new(tar.into_inner().unwrap())));
        let made = store.import(source, &ImportOptions::default()).unwrap();
        made.image
    }

    /// As if the layer had been made before the machine was booted.
    fn age(store: &Store, layer: &Path) -> PathBuf {
        let link = store.fresh().join(layer.file_name().unwrap());
        std::fs::remove_file(&link).unwrap();
        symlink("another boot", &link).unwrap();
        link
    }

    #[test]
    fn one_damaged_layer_does_not_stand_in_the_way() {
        let (place, store) = scratch();
        let images = ["one", "two"].map(|content| import(&store, content));
        let [good, bad] = images.map(|image| {
            let layer = image.layers[0].clone();
            std::fs::write(layer.join("file"), "").unwrap();
            (age(&store, &layer), layer)
        });
        std::fs::write(store.blobs().join(bad.1.file_name().unwrap()), "no tar").unwrap();
        Store::open(&place).unwrap();
        let file = std::fs::read_to_string(good.1.join("file")).unwrap();
        assert_eq!(file, "one");
        assert!(good.0.symlink_metadata().is_err());
        assert!(bad.0.symlink_metadata().is_ok(), "tried again");
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn what_a_power_failure_cut_off_is_unpacked_again() {
        let (place, store) = scratch();
        let image = import(&store, "content");
        let layer = &image.layers[0];
        // A commit's layer may have another root than its archive says.
        std::fs::set_permissions(layer, std::fs::Permissions::from_mode(0o711)).unwrap();
        std::fs::write(layer.join("file"), "").unwrap();
        let file = || std::fs::read_to_string(layer.join("file")).unwrap();
        let link = store.fresh().join(layer.file_name().unwrap());
        assert_eq!(
            std::fs::read_link(&link).unwrap(),
            Path::new(&boot_id().unwrap())
        );

        Store::open(&place).unwrap();
        assert_eq!(file(), "", "the same boot");
        age(&store, layer);
        Store::open(&place).unwrap();
        assert_eq!(file(), "content");
        assert_eq!(
            layer.metadata().unwrap().permissions().mode() & 0o7777,
            0o711
        );
        assert!(link.symlink_metadata().is_err());

        let id = image.id;
        store
            .note_fresh([layer.file_name().unwrap().to_str().unwrap()])
            .unwrap();
        store.remove(&id, false).unwrap();
        assert!(link.symlink_metadata().is_err(), "gone with its layer");
        std::fs::remove_dir_all(place).unwrap();
    }
}
