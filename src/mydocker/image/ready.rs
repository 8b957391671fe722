//! Layers are unpacked when they are needed: the commit of a running container leaves an archive alone,
//! and a layer whose directory is gone is made anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, copy, sink};
use std::path::Path;

use anyhow::{Context, Error, Result, ensure};
use nix::fcntl::FlockArg;

use super::super::keep_id::KeepId;
use super::super::progress::{Counted, Progress};
use super::super::whole_file::sync_dir;
use super::blob::{Blob, Digester, Tee};
use super::compression::decompressed;
use super::manifest::{Descriptor, hex_of};
use super::publish::NewLayer;
use super::unpack::{Unpacked, unpack};
use super::{Image, Store};
use crate::error::{errno, with_fallback_hint, with_hint};

impl Store {
    /// Sees to it that the layers of an image are unpacked. To be called before they are looked at; they
    /// stay as [`Store::use_layers`] or a draft's pins say.
    ///
    /// # Errors
    /// An archive is gone, because the image was removed meanwhile, or it is damaged.
    pub(in crate::mydocker) fn unpack_layers(
        &self,
        image: &Image,
        progress: &Progress,
    ) -> Result<()> {
        self.unpack_missing(&image.blobs, &image.diff_ids, progress)
    }

    /// The same for some of an image's layers, bottom first.
    pub(super) fn unpack_missing<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Descriptor>,
        diff_ids: &[String],
        progress: &Progress,
    ) -> Result<()> {
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        for (blob, diff_id) in blobs.into_iter().zip(diff_ids) {
            if !self.layers().join(hex_of(diff_id)?).is_dir() && seen.insert(diff_id) {
                missing.push((self.blobs().join(blob.hex()?), blob.size, diff_id));
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let draft = self.draft()?;
        let mut made = Vec::new();
        for (at, (archive, size, diff_id)) in missing.into_iter().enumerate() {
            let hex = hex_of(diff_id)?;
            let bar = progress.bar(&hex[..12], "unpacking", Some(size));
            let dir = draft.path().join(format!("layer-{at}"));
            let unpacked = open(&archive)
                .and_then(|from| unpack_archive(Counted { from, bar }, hex, &dir, None))
                .map_err(|error| cannot_unpack(error, diff_id))?;
            unpacked.notes.iter().for_each(|note| progress.note(note));
            let blob = Blob {
                path: archive,
                hex: hex.to_owned(),
                size,
            };
            made.push(NewLayer {
                implied: unpacked.implied,
                ..NewLayer::plain(blob, dir)
            });
        }
        self.dress_implied(&made, diff_ids)?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        for layer in &made {
            let is_there = layer.blob.path.exists();
            ensure!(is_there, "the image was removed meanwhile");
        }
        self.put_directories(&made)?;
        sync_dir(&self.layers())
    }
}

/// Opens an archive of the store.
pub(super) fn open(archive: &Path) -> Result<File> {
    File::open(archive).with_context(|| format!("open {}", archive.display()))
}

/// What there is to do about a layer that cannot be unpacked.
pub(super) fn cannot_unpack(error: Error, diff_id: &str) -> Error {
    let error = error.context(format!("unpack the layer {diff_id}"));
    match errno(&error) {
        Some(libc::ENOSPC | libc::EDQUOT) => with_hint(error, "make room in its file system"),
        _ => with_fallback_hint(
            error,
            "`mydocker rmi` removes its image; make or pull it again",
        ),
    }
}

/// Unpacks an archive, compressed or not, whose content has the digest `hex`, to the new directory `dir`.
pub(super) fn unpack_archive(
    from: impl Read,
    hex: &str,
    dir: &Path,
    keep: Option<&KeepId>,
) -> Result<Unpacked> {
    std::fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    let mut plain = Tee {
        from: decompressed(from)?,
        to: Digester::hashing(),
    };
    let unpacked = unpack(&mut plain, dir, keep)?;
    copy(&mut plain, &mut sink()).context("read the archive")?;
    ensure!(plain.to.finish()?.hex == hex, "its archive is damaged");
    Ok(unpacked)
}
