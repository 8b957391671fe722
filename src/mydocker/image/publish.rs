//! Putting a finished draft into the store: all under one lock, all by rename.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::FlockArg;
use oci_spec::image::ImageConfiguration;

use super::super::progress::Progress;
use super::super::whole_file::{sync_dir, sync_file};
use super::blob::{Blob, Digested};
use super::draft::Draft;
use super::intake::NewImage;
use super::manifest::{
    Descriptor, Index, LAYER_TYPE, Manifest, diff_ids, digest_of, hex_of, plain_layer,
};
use super::store::Unpacked;
use super::{Compression, Image, Store};

/// A layer in a draft.
#[derive(Debug)]
pub(super) struct NewLayer {
    /// Its archive, as it came.
    pub(super) blob: Blob,
    pub(super) compression: Option<Compression>,
    /// The same without compression.
    pub(super) plain: Digested,
    /// What it unpacks to; nothing where the store has it.
    pub(super) dir: Option<PathBuf>,
    /// Directories in it that are to be as the layers below have them.
    pub(super) implied: BTreeSet<PathBuf>,
}

impl NewLayer {
    /// A layer whose archive is not compressed.
    pub(super) fn plain(blob: Blob, dir: impl Into<Option<PathBuf>>) -> NewLayer {
        NewLayer {
            plain: blob.digested(),
            blob,
            compression: None,
            dir: dir.into(),
            implied: BTreeSet::new(),
        }
    }

    /// Its archive as a manifest describes it.
    pub(super) fn descriptor(&self) -> Descriptor {
        let (digest, size) = (self.blob.digest(), self.blob.size);
        let kind = match self.compression {
            None => return plain_layer(&digest, size),
            Some(Compression::Gzip) => "gzip",
            Some(Compression::Zstd) => "zstd",
        };
        Descriptor::new(&format!("{LAYER_TYPE}+{kind}"), &digest, size)
    }

    /// Whether it is this one.
    pub(super) fn is(&self, layer: &Descriptor, diff_id: &str) -> bool {
        self.blob.digest() == layer.digest && format!("sha256:{}", self.plain.hex) == diff_id
    }
}

/// An image whose documents fit each other.
struct Checked<'a> {
    manifest: Manifest,
    diff_ids: Vec<String>,
    image: &'a NewImage,
}

impl Checked<'_> {
    /// Its manifest as an index describes it.
    fn descriptor(&self) -> Descriptor {
        let bytes = &self.image.manifest;
        let digest = digest_of(bytes);
        Descriptor::new(self.manifest.media_type(), &digest, bytes.len() as u64)
    }
}

impl Store {
    /// Publishes images. Each of their layers is in `layers` or in the store.
    pub(super) fn publish(
        &self,
        draft: &Draft,
        layers: &[NewLayer],
        images: &[NewImage],
    ) -> Result<Vec<Image>> {
        let checked: Vec<Checked<'_>> = images.iter().map(check).collect::<Result<_>>()?;
        for one in &checked {
            self.unpack_below(layers, one)?;
            self.dress_implied(layers, &one.diff_ids)?;
        }
        let files = write_files(draft, layers, images)?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        for one in &checked {
            self.ensure_layers(one, layers)?;
        }
        self.put(layers, &files, &checked)
            .inspect_err(|_| draft.leave())
    }

    /// Unpacks what the store has of an image's layers, if new ones are to be compared with them.
    fn unpack_below(&self, new: &[NewLayer], one: &Checked<'_>) -> Result<()> {
        let is_new = |diff_id: &str| {
            new.iter()
                .find(|new| format!("sha256:{}", new.plain.hex) == diff_id)
        };
        let mut found = one.diff_ids.iter().filter_map(|id| is_new(id));
        let compares = found.any(|new| new.dir.is_some() && !new.implied.is_empty());
        if !compares {
            return Ok(());
        }
        let layers = one.manifest.layers.iter().zip(&one.diff_ids);
        let old = layers.filter(|(_, id)| is_new(id).is_none());
        let (blobs, diff_ids): (Vec<_>, Vec<_>) = old.map(|(blob, id)| (blob, id.clone())).unzip();
        self.unpack_missing(blobs, &diff_ids, &Progress::silent())
    }

    /// Publishes an image in the place of the manifest `old`, which describes the same image with other
    /// archives of its layers: it gets the names that `old` has by now, and its own. Whether it did: an
    /// image of which the store has no manifest any more was removed, and stays so.
    pub(super) fn put_instead(
        &self,
        draft: &Draft,
        layers: &[NewLayer],
        image: &NewImage,
        old: &str,
    ) -> Result<bool> {
        let one = check(image)?;
        let files = write_files(draft, layers, std::slice::from_ref(image))?;
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let mut index = self.read_index()?;
        if self
            .digests_of(&index, &one.manifest.config.digest)?
            .is_empty()
        {
            return Ok(false);
        }
        self.ensure_layers(&one, layers)?;
        let put = || {
            self.put_files(layers, &files)?;
            index.replace(old, &one.descriptor());
            self.put_names(&mut index, &[one])
        };
        put().inspect_err(|_| draft.leave()).map(|()| true)
    }

    /// Moves the files of a draft into the store, and then names the images. The caller holds the
    /// exclusive lock; on an error what was moved is garbage.
    fn put(
        &self,
        layers: &[NewLayer],
        files: &[(PathBuf, PathBuf)],
        checked: &[Checked<'_>],
    ) -> Result<Vec<Image>> {
        self.put_files(layers, files)?;
        let mut index = self.read_index()?;
        self.put_names(&mut index, checked)?;
        checked
            .iter()
            .map(|one| self.image_at(&index, &digest_of(&one.image.manifest)))
            .collect()
    }

    fn put_files(&self, layers: &[NewLayer], files: &[(PathBuf, PathBuf)]) -> Result<()> {
        self.put_directories(layers)?;
        std::fs::create_dir_all(self.unpacked()).context("make the directory of notes")?;
        for (from, to) in files {
            let to = self.images().join(to);
            std::fs::rename(from, &to).with_context(|| format!("publish {}", to.display()))?;
        }
        for dir in [self.layers(), self.unpacked(), self.blobs()] {
            sync_dir(&dir)?;
        }
        Ok(())
    }

    fn put_names(&self, index: &mut Index, checked: &[Checked<'_>]) -> Result<()> {
        for one in checked {
            let entry = one.descriptor();
            match one.image.names.as_slice() {
                [] => index.put(entry, None),
                names => names
                    .iter()
                    .for_each(|name| index.put(entry.clone(), Some(&name.key()))),
            }
        }
        self.forget_other_manifests(index)?;
        self.write_index(index)
    }

    /// Drops the manifests without a name of images that have one with a name: the same image came
    /// again, with other compression.
    fn forget_other_manifests(&self, index: &mut Index) -> Result<()> {
        let mut named = BTreeSet::new();
        for entry in index.manifests.iter().filter(|e| e.name().is_some()) {
            named.insert(self.manifest(&entry.digest)?.config.digest);
        }
        let mut kept = Vec::new();
        for entry in std::mem::take(&mut index.manifests) {
            let is_named = entry.name().is_some();
            if is_named || !named.contains(&self.manifest(&entry.digest)?.config.digest) {
                kept.push(entry);
            }
        }
        index.manifests = kept;
        Ok(())
    }

    /// Publishes a layer whose archive is not compressed, without an image. The caller holds the
    /// exclusive lock, keeps it from being swept, and has its archive on the disk.
    pub(super) fn put_layer(&self, layer: &NewLayer) -> Result<()> {
        self.put_directories(std::slice::from_ref(layer))?;
        let to = self.blobs().join(&layer.blob.hex);
        std::fs::rename(&layer.blob.path, &to)
            .with_context(|| format!("publish {}", to.display()))?;
        sync_dir(&self.layers())?;
        sync_dir(&self.blobs())
    }

    pub(super) fn put_directories(&self, layers: &[NewLayer]) -> Result<()> {
        let new = layers.iter().filter(|layer| layer.dir.is_some());
        self.note_fresh(new.map(|layer| layer.plain.hex.as_str()))?;
        for layer in layers {
            if let Some(dir) = &layer.dir {
                put_directory(dir, &self.layers().join(&layer.plain.hex))?;
            }
        }
        Ok(())
    }

    /// Fails unless each layer of the image is at hand, and known to be what its configuration says.
    fn ensure_layers(&self, one: &Checked<'_>, new: &[NewLayer]) -> Result<()> {
        for (layer, diff_id) in one.manifest.layers.iter().zip(&one.diff_ids) {
            let is_new = new.iter().any(|new| new.is(layer, diff_id));
            ensure!(
                is_new || self.has_layer(&layer.digest, diff_id),
                "the layer {} of the image, which unpacks to {diff_id}, is not there",
                layer.digest
            );
        }
        Ok(())
    }
}

fn check(image: &NewImage) -> Result<Checked<'_>> {
    let manifest = Manifest::parse(&image.manifest)?;
    let (digest, size) = (digest_of(&image.config), image.config.len() as u64);
    ensure!(
        manifest.config.digest == digest && manifest.config.size == size,
        "the configuration has the digest {digest} and {size} bytes, the manifest says {} and {}",
        manifest.config.digest,
        manifest.config.size
    );
    let config: ImageConfiguration = serde_json::from_slice(&image.config)
        .with_context(|| format!("{digest} is not the configuration of an image"))?;
    let diff_ids = diff_ids(&config, manifest.layers.len(), "the manifest")?;
    Ok(Checked {
        manifest,
        diff_ids,
        image,
    })
}

/// Writes what is not in the draft yet, and all of it to the disk. The files with where they go,
/// below `images/`.
fn write_files(
    draft: &Draft,
    layers: &[NewLayer],
    images: &[NewImage],
) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut files = Vec::new();
    let write = |name: String, bytes: &[u8]| -> Result<PathBuf> {
        let path = draft.path().join(name);
        std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let blobs = Path::new("blobs/sha256");
    for (at, layer) in layers.iter().enumerate() {
        files.push((layer.blob.path.clone(), blobs.join(&layer.blob.hex)));
        if layer.blob.hex != layer.plain.hex {
            let note = Unpacked {
                diff_id: format!("sha256:{}", layer.plain.hex),
                size: layer.plain.size,
            };
            let path = write(format!("note-{at}"), &serde_json::to_vec(&note)?)?;
            files.push((path, Path::new("unpacked").join(&layer.blob.hex)));
        }
    }
    for (at, image) in images.iter().enumerate() {
        for (what, bytes) in [("config", &image.config), ("manifest", &image.manifest)] {
            let path = write(format!("{what}-{at}"), bytes)?;
            files.push((path, blobs.join(hex_of(&digest_of(bytes))?)));
        }
    }
    for (from, _) in &files {
        sync_file(from)?;
    }
    Ok(files)
}

/// Publishes an unpacked layer, unless somebody did so already.
pub(super) fn put_directory(from: &Path, to: &Path) -> Result<()> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(error)
            if [Errno::ENOTEMPTY as i32, Errno::EEXIST as i32]
                .contains(&error.raw_os_error().unwrap_or(0)) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("publish {}", to.display())),
    }
}
