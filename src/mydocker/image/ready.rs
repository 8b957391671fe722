//! Layers are unpacked when they are needed: the commit of a running container leaves an archive alone,
//! and a layer whose directory is gone is made anew.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{copy, sink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;

use super::super::progress::Progress;
use super::super::whole_file::sync_dir;
use super::blob::{Blob, Digester, Tee};
use super::compression::decompressed;
use super::manifest::{Descriptor, hex_of};
use super::publish::NewLayer;
use super::unpack::{Unpacked, unpack};
use super::{Image, Store};
use crate::error::{errno, with_hint};

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
            let unpacked = unpack_archive(&archive, hex, &dir, |bytes| bar.add(bytes));
            let unpacked = unpacked
                .with_context(|| format!("unpack the layer {diff_id}"))
                .map_err(|error| match errno(&error) {
                    Some(libc::ENOSPC | libc::EDQUOT) => {
                        with_hint(error, "make room in its file system")
                    }
                    _ => with_hint(
                        error,
                        "`mydocker rmi` removes its image; make or pull it again",
                    ),
                })?;
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

/// Unpacks an archive of the store, compressed or not, whose content has the digest `hex`, to the new
/// directory `dir`. `tell` hears of the bytes that were read.
pub(super) fn unpack_archive(
    archive: &Path,
    hex: &str,
    dir: &Path,
    tell: impl Fn(u64),
) -> Result<Unpacked> {
    std::fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    let from = File::open(archive).with_context(|| format!("open {}", archive.display()))?;
    let mut plain = Tee {
        from: decompressed(Told { from, tell })?,
        to: Digester::hashing(),
    };
    let unpacked = unpack(&mut plain, dir)?;
    copy(&mut plain, &mut sink()).context("read the archive")?;
    ensure!(plain.to.finish()?.hex == hex, "its archive is damaged");
    Ok(unpacked)
}

/// A reader that tells how much was read.
struct Told<F> {
    from: File,
    tell: F,
}

impl<F: Fn(u64)> std::io::Read for Told<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.from.read(buffer)?;
        (self.tell)(count as u64);
        Ok(count)
    }
}
