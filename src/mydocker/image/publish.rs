//! Putting a finished draft into the store: all under one lock, all by rename.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::FlockArg;

use super::super::whole_file::sync_dir;
use super::draft::Draft;
use super::layer::Blob;
use super::manifest::{digest_of, manifest};
use super::{Image, Reference, Store};

/// A layer in a draft: its archive and what that unpacks to.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) blob: Blob,
    pub(super) dir: PathBuf,
}

impl Store {
    /// Publishes an image whose last layer is new. `layers` are the digests and sizes of the layers
    /// below it, bottom first, and must be in the store.
    pub(super) fn publish(
        &self,
        draft: &Draft,
        mut layers: Vec<(String, u64)>,
        new: NewLayer,
        config: &[u8],
        name: Option<&Reference>,
    ) -> Result<Image> {
        let below = layers.clone();
        layers.push((format!("sha256:{}", new.blob.hex), new.blob.size));
        let manifest = manifest(config, &layers);
        let (id, digest) = (digest_of(config), digest_of(&manifest));
        let mut blobs = vec![(new.blob.path.clone(), new.blob.hex.clone())];
        for (at, (digest, bytes)) in [(&id, config), (&digest, manifest.as_slice())]
            .iter()
            .enumerate()
        {
            let path = draft.path().join(format!("document-{at}"));
            std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            blobs.push((path, digest.trim_start_matches("sha256:").to_owned()));
        }
        draft.sync()?;

        let _lock = self.lock(FlockArg::LockExclusive)?;
        for (digest, _) in &below {
            let dir = self.layers().join(digest.trim_start_matches("sha256:"));
            if !dir.is_dir() {
                bail!("a layer of the image below is gone: {}", dir.display());
            }
        }
        put_directory(&new.dir, &self.layers().join(&new.blob.hex))?;
        for (from, hex) in &blobs {
            let to = self.blobs().join(hex);
            std::fs::rename(from, &to).with_context(|| format!("publish {}", to.display()))?;
        }
        sync_dir(&self.layers())?;
        sync_dir(&self.blobs())?;
        let mut index = self.read_index()?;
        index.put(
            &digest,
            manifest.len() as u64,
            name.map(Reference::key).as_deref(),
        );
        self.write_index(&index)?;
        self.find_in(&index, &id)?
            .context("the image that was just made is gone")
    }
}

/// Publishes an unpacked layer, unless somebody did so already.
fn put_directory(from: &Path, to: &Path) -> Result<()> {
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
