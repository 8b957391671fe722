//! An image on its way out of the store: what `save` and `push` read.
//!
//! ```text
//! let mut out = store.outgoing(&image)?;                 // held in the store from now on
//! out.compress(Compression::Gzip, &progress)?;           // optional
//! for blob in out.layers() { out.open(blob)?; … }        // each digest and size is as described
//! out.manifest(), out.config()                           // byte for byte
//! out.keep(&name)?;                                      // optional: what was compressed becomes
//! ```                                                    // the store's: the same digest next time

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write, copy};

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;

use super::super::progress::{Bar, Counted, Progress};
use super::blob::{Digested, Digester};
use super::draft::Draft;
use super::gzip::{self, gzip};
use super::intake::NewImage;
use super::manifest::{Descriptor, MANIFEST_TYPE, Manifest, digest_of, manifest};
use super::publish::NewLayer;
use super::{Compression, Image, Reference, Store};

/// An image that is held in the store while this exists. See the module.
pub struct Outgoing<'a> {
    store: &'a Store,
    draft: Draft,
    image: Image,
    manifest: Vec<u8>,
    media_type: String,
    config: Vec<u8>,
    layers: Vec<Descriptor>,
    /// The compressed layers that only the draft has, by their digest.
    made: BTreeMap<String, NewLayer>,
}

impl Store {
    /// Holds an image to be read. It may be removed meanwhile: its content stays.
    pub fn outgoing(&self, image: &Image) -> Result<Outgoing<'_>> {
        let draft = Draft::new(&self.drafts())?;
        let _lock = self.lock(FlockArg::LockShared)?;
        ensure!(
            self.has_documents(&image.digest, &image.id)?,
            "the image was removed meanwhile"
        );
        let manifest = self.read_blob(&image.digest)?;
        let read = Manifest::parse(&manifest)?;
        let layers = read.layers.iter().map(|layer| layer.digest.as_str());
        let diff_ids = image.diff_ids.iter().map(String::as_str);
        draft.pin(
            layers
                .chain(diff_ids)
                .chain([image.id.as_str(), &image.digest]),
        )?;
        Ok(Outgoing {
            store: self,
            draft,
            image: image.clone(),
            media_type: read.media_type().to_owned(),
            manifest,
            config: self.read_blob(&image.id)?,
            layers: read.layers,
            made: BTreeMap::new(),
        })
    }
}

impl Outgoing<'_> {
    /// The image as it is in the store.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The bytes of the manifest.
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// The manifest as an index describes it.
    pub fn descriptor(&self) -> Descriptor {
        let digest = digest_of(&self.manifest);
        Descriptor::new(&self.media_type, &digest, self.manifest.len() as u64)
    }

    /// The bytes of the configuration; their digest is the image's id.
    pub fn config(&self) -> &[u8] {
        &self.config
    }

    /// The layers' archives, bottom first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// A layer's archive, to be read from its beginning.
    pub fn open(&self, layer: &Descriptor) -> Result<File> {
        let path = match self.made.get(&layer.digest) {
            Some(made) => made.blob.path.clone(),
            None => self.store.blobs().join(layer.hex()?),
        };
        File::open(&path).with_context(|| format!("open {}", path.display()))
    }

    /// Compresses the layers that are not. If there are some, the manifest is another afterwards.
    pub fn compress(&mut self, with: Compression, progress: &Progress) -> Result<()> {
        self.compress_those(|_, _| Ok(true), with, progress, |_, _| ())
    }

    /// The same for those layers that get smaller by it: what is left as it is needs neither the time nor
    /// a second copy. `beside` is given each layer and what it is stored through, to follow it.
    pub(super) fn compress_what_shrinks(
        &mut self,
        progress: &Progress,
        beside: impl FnMut(&Descriptor, &Digester),
    ) -> Result<()> {
        self.compress_those(gzip::shrinks, Compression::Gzip, progress, beside)
    }

    fn compress_those(
        &mut self,
        which: impl Fn(&File, u64) -> Result<bool>,
        with: Compression,
        progress: &Progress,
        mut beside: impl FnMut(&Descriptor, &Digester),
    ) -> Result<()> {
        for at in 0..self.layers.len() {
            let plain = self.layers[at].clone();
            if plain.digest != self.image.diff_ids[at] || !which(&self.open(&plain)?, plain.size)? {
                continue;
            }
            let path = self.draft.path().join(format!("blob-{at}"));
            let short = &plain.hex()?[..12];
            let bar = progress.bar(short, "compressing", Some(plain.size));
            let to = Digester::storing(&path)?;
            beside(&plain, &to);
            let blob = self.compressed(&plain, with, to, &bar)?.at(path);
            bar.done("compressed");
            let layer = NewLayer {
                plain: Digested {
                    hex: plain.hex()?.to_owned(),
                    size: plain.size,
                },
                blob,
                compression: Some(with),
                dir: None,
                implied: BTreeSet::new(),
            };
            self.layers[at] = layer.descriptor();
            self.made.insert(layer.blob.digest(), layer);
        }
        if !self.made.is_empty() {
            self.manifest = manifest(&self.config, &self.layers);
            self.media_type = MANIFEST_TYPE.to_owned();
        }
        Ok(())
    }

    fn compressed(
        &self,
        layer: &Descriptor,
        with: Compression,
        mut to: Digester,
        bar: &Bar,
    ) -> Result<Digested> {
        let mut from = self.open(layer)?;
        let written = match with {
            Compression::Gzip => gzip(&from, layer.size, &mut to, bar),
            Compression::Zstd => zstd(&mut from, &mut to, bar),
        };
        let what = || format!("compress the layer {}", layer.digest);
        // When it cannot be stored, writing fails too, and says less.
        let stored = to.finish().with_context(what)?;
        written.with_context(what).map(|()| stored)
    }

    /// Makes what was compressed the store's own: the names that the image has by now stand for the new
    /// manifest, and so does `name`. An image that was removed meanwhile stays removed. The uncompressed
    /// archives go, unless another image or a container needs them.
    pub(super) fn keep(self, name: Reference) -> Result<()> {
        let image = NewImage {
            manifest: self.manifest,
            config: self.config,
            names: vec![name],
        };
        let layers: Vec<NewLayer> = self.made.into_values().collect();
        let old = &self.image.digest;
        let is_there = self.store.put_instead(&self.draft, &layers, &image, old)?;
        drop(self.draft);
        // What was held for this may be needed by nobody else.
        match layers.is_empty() && is_there {
            true => Ok(()),
            false => self.store.tidy(),
        }
    }
}

fn zstd(from: &mut File, to: &mut impl Write, bar: &Bar) -> Result<()> {
    let mut encoder = zstd::Encoder::new(to, 3)?;
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    encoder.multithread(threads)?;
    encoder.include_checksum(true)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, &mut encoder);
    copy(&mut Counted { from, bar }, &mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    encoder.finish()?;
    Ok(())
}
