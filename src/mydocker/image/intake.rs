//! Content from outside on its way into the store: what `load`, `pull` and `build` bring.
//!
//! ```text
//! let intake = Intake::new(&store, limits)?;            // a draft: nobody sees it, a crash leaves nothing
//! for (layer, diff_id) in … {                           // in any order, from several threads
//!     if !intake.has_layer(layer, diff_id)? {           // in the store, and held there from now on
//!         intake.layer(layer, diff_id, reader, &bar)?;  // streamed: checked, stored, unpacked
//!     }
//! }
//! let images = intake.publish(&[NewImage { manifest, config, names }])?;    // all of it, or nothing
//! ```
//!
//! A layer's archive is stored as it comes, compressed or not, and manifests are kept byte for byte:
//! digests stay what the registry or the archive says. An archive is read once: its digest and size
//! are checked, its compression (gzip, zstd, known by its first bytes) undone and bounded, the diff
//! id checked, and it is unpacked, unless the store has what it unpacks to. An intake that is dropped
//! leaves the store as it was.

use std::io::{Read, copy, sink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;

use super::super::progress::Bar;
use super::blob::{Digester, Tee};
use super::compression::opened;
use super::draft::Draft;
use super::incoming::{Announced, Bounded, Cause, Limits};
use super::manifest::{Descriptor, hex_of, plain_layer};
use super::publish::NewLayer;
use super::unpack::{Unpacked, unpack};
use super::{Image, Reference, Store};

/// What comes in. See the module.
pub struct Intake<'a> {
    store: &'a Store,
    draft: Draft,
    limits: Limits,
    layers: Mutex<Vec<NewLayer>>,
    count: AtomicUsize,
}

/// What is known of a layer's archive before it is read.
pub(super) struct Incoming<'a> {
    /// sha256, in hexadecimal, if that is known.
    pub(super) hex: Option<&'a str>,
    /// Bytes.
    pub(super) size: u64,
    /// Where it is in the draft already.
    pub(super) kept: Option<&'a Path>,
}

/// An image whose layers have been taken in.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Its manifest (OCI's, or Docker's schema 2), as it came.
    pub manifest: Vec<u8>,
    /// Its configuration, which the manifest names.
    pub config: Vec<u8>,
    /// What it is to be called: `NAME:TAG`, `NAME@DIGEST` or both. Without a name it is dangling.
    pub names: Vec<Reference>,
}

impl<'a> Intake<'a> {
    /// Begins.
    pub fn new(store: &'a Store, limits: Limits) -> Result<Intake<'a>> {
        Ok(Intake {
            store,
            draft: Draft::new(&store.drafts())?,
            limits,
            layers: Mutex::default(),
            count: AtomicUsize::new(0),
        })
    }

    /// Whether the store has this archive, known to unpack to `diff_id`, and what it unpacks to; or
    /// whether it has been taken in. It stays there for as long as the intake does.
    pub fn has_layer(&self, layer: &Descriptor, diff_id: &str) -> Result<bool> {
        if self.taken()?.iter().any(|new| new.is(layer, diff_id)) {
            return Ok(true);
        }
        let _lock = self.store.lock(FlockArg::LockShared)?;
        let has = self.store.has_layer(&layer.digest, diff_id);
        if has {
            self.draft.pin([layer.digest.as_str(), diff_id])?;
        }
        Ok(has)
    }

    /// The archive of the layer that unpacks to `diff_id`, if one has been taken in, or if the store
    /// has it uncompressed, where it then stays.
    pub(super) fn layer_of(&self, diff_id: &str) -> Result<Option<Descriptor>> {
        let hex = hex_of(diff_id)?;
        if let Some(new) = self.taken()?.iter().find(|new| new.plain.hex == hex) {
            return Ok(Some(new.descriptor()));
        }
        let _lock = self.store.lock(FlockArg::LockShared)?;
        if !self.store.has_layer(diff_id, diff_id) {
            return Ok(None);
        }
        self.draft.pin([diff_id])?;
        Ok(self
            .store
            .plain_size(diff_id, diff_id)
            .map(|size| plain_layer(diff_id, size)))
    }

    /// Whether all layers of an image are in the store, where they then stay.
    pub(super) fn hold(&self, image: &Image) -> Result<bool> {
        for (layer, diff_id) in image.blobs.iter().zip(&image.diff_ids) {
            if !self.has_layer(layer, diff_id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A directory for what is needed until the end.
    pub(super) fn draft_path(&self) -> &Path {
        self.draft.path()
    }

    /// Takes in a layer: `from` is its archive from beginning to end, as `layer` describes it. Only
    /// the digest and the size of `layer` count. Returns what could not be kept of the files, a line
    /// each. `bar` is told of each byte read.
    ///
    /// # Errors
    /// The stream fails, or is not what `layer` and `diff_id` say; it is not a tar archive, or one
    /// that leads out of its directory; the compression is not supported, or a bomb.
    pub fn layer(
        &self,
        layer: &Descriptor,
        diff_id: &str,
        from: impl Read,
        bar: &Bar,
    ) -> Result<Vec<String>> {
        let incoming = Incoming {
            hex: Some(layer.hex()?),
            size: layer.size,
            kept: None,
        };
        self.take(incoming, diff_id, from, bar)
    }

    /// The same with a layer of which less is known.
    pub(super) fn take(
        &self,
        incoming: Incoming<'_>,
        diff_id: &str,
        from: impl Read,
        bar: &Bar,
    ) -> Result<Vec<String>> {
        self.take_in(incoming, hex_of(diff_id)?, from, bar)
            .with_context(|| format!("layer {diff_id}"))
    }

    fn take_in(
        &self,
        incoming: Incoming<'_>,
        diff_id: &str,
        from: impl Read,
        bar: &Bar,
    ) -> Result<Vec<String>> {
        let cause = Cause::default();
        let from = Announced::new(from, Some(incoming.size), bar, &cause);
        let seen = from.seen();
        let (blob_path, to) = match incoming.kept {
            Some(path) => (path.to_owned(), Digester::hashing()),
            None => {
                let path = self.path("blob");
                let to = Digester::storing(&path)?;
                (path, to)
            }
        };
        let mut archive = Tee { from, to };
        // Unpacked once: what is there is only compared.
        let dir = (!self.holds(diff_id)?).then(|| self.path("layer"));
        let read = opened(&mut archive).and_then(|(plain, compression)| {
            let from = Bounded::new(plain, seen, self.limits, &cause);
            let Some(compression) = compression else {
                return Ok((unpack_to(dir.as_deref(), from)?, None));
            };
            let to = Digester::hashing();
            let mut plain = Tee { from, to };
            let unpacked = unpack_to(dir.as_deref(), &mut plain)?;
            Ok((unpacked, Some((compression, plain.to.finish()?))))
        });
        // What follows the compressed stream belongs to the archive too.
        let rest = copy(&mut archive, &mut sink()).context("read the archive");
        // When it cannot be stored, reading fails too, and says less.
        let blob = archive.to.finish()?.at(blob_path);
        let ((unpacked, compressed), _) = read
            .and_then(|read| Ok((read, rest?)))
            .map_err(|e| cause.or(e))?;
        let (compression, plain) = match compressed {
            Some((compression, plain)) => (Some(compression), plain),
            None => (None, blob.digested()),
        };
        if let Some(hex) = incoming.hex {
            ensure!(
                blob.hex == hex,
                "its digest is sha256:{}, not what was announced",
                blob.hex
            );
        }
        ensure!(
            plain.hex == diff_id,
            "it unpacks to sha256:{}, not to sha256:{diff_id} as the image's configuration says",
            plain.hex
        );
        self.taken()?.push(NewLayer {
            blob,
            compression,
            plain,
            dir,
            implied: unpacked.implied,
        });
        Ok(unpacked.notes)
    }

    /// Whether the layer is unpacked in the store, where it then stays.
    fn holds(&self, hex: &str) -> Result<bool> {
        let _lock = self.store.lock(FlockArg::LockShared)?;
        let holds = self.store.layers().join(hex).is_dir();
        if holds {
            self.draft.pin([format!("sha256:{hex}").as_str()])?;
        }
        Ok(holds)
    }

    /// A new path in the draft.
    fn path(&self, what: &str) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.draft.path().join(format!("{what}-{number}"))
    }

    fn taken(&self) -> Result<std::sync::MutexGuard<'_, Vec<NewLayer>>> {
        let taken = self.layers.lock();
        taken.map_err(|_| anyhow::anyhow!("another layer failed"))
    }

    /// Makes the images, all under one lock, and gives them their names. Whoever has such a name
    /// loses it.
    ///
    /// # Errors
    /// A manifest is not one, its configuration is another, or a layer was not taken in.
    pub fn publish(self, images: &[NewImage]) -> Result<Vec<Image>> {
        let layers = self.layers.into_inner();
        let layers = layers.map_err(|_| anyhow::anyhow!("a layer failed"))?;
        self.store.publish(&self.draft, &layers, images)
    }
}

/// Unpacks an archive, or only reads it.
fn unpack_to(dir: Option<&Path>, mut from: impl Read) -> Result<Unpacked> {
    let Some(dir) = dir else {
        copy(&mut from, &mut sink()).context("read the archive")?;
        return Ok(Unpacked::default());
    };
    std::fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    unpack(from, dir, None)
}

#[cfg(test)]
#[path = "intake_tests.rs"]
mod tests;
