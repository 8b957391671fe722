//! Which container uses what of the store. Each says in its file `layers` what it needs: in the first
//! line its image's id and the digest of the manifest, then the layers' diff ids, bottom first.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::FlockArg;

use super::super::record_file;
use super::super::state_dirs::short;
use super::super::whole_file::replace;
use super::store::entries;
use super::{Image, Store};

/// What a container keeps in the store.
#[derive(Debug)]
pub(super) struct Uses {
    pub(super) image: String,
    pub(super) manifest: Option<String>,
    pub(super) layers: Vec<String>,
}

impl Store {
    /// Keeps the image's layers for as long as `container_dir` exists. To be called before they are
    /// used. Fails when the image was removed in the meantime.
    pub fn use_layers(&self, image: &Image, container_dir: &Path) -> Result<()> {
        let _lock = self.lock(FlockArg::LockShared)?;
        if let Some(gone) = image.layers.iter().find(|layer| !layer.is_dir()) {
            bail!("a layer of the image is gone: {}", gone.display());
        }
        // Its layers may be those of another image, too. A step of a build is no image yet.
        ensure!(
            image.digest.is_empty() || self.has_documents(&image.digest, &image.id)?,
            "the image was removed meanwhile"
        );
        let diff_ids = image.diff_ids.join("\n");
        let text = format!("{} {}\n{diff_ids}\n", image.id, image.digest);
        replace(&container_dir.join("layers"), text.as_bytes(), false)
    }

    /// Keeps one more layer for as long as `container_dir` exists. It need not be there yet.
    pub fn use_layer(&self, diff_id: &str, container_dir: &Path) -> Result<()> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let path = container_dir.join("layers");
        let mut text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.push_str(&format!("{diff_id}\n"));
        replace(&path, text.as_bytes(), false)
    }

    /// The image that a container was made from, also when it has lost its names since.
    pub fn image_of(&self, container_dir: &Path) -> Result<Image> {
        let _lock = self.lock(FlockArg::LockShared)?;
        let uses = read_uses(container_dir)?
            .with_context(|| format!("{} names no image", container_dir.display()))?;
        let index = self.read_index()?;
        if let Some(manifest) = &uses.manifest {
            return self.image_at(&index, manifest);
        }
        let known = self.load_all(&index)?;
        let mut known = known.into_iter().filter(|image| image.id == uses.image);
        known
            .next()
            .with_context(|| format!("the image {} is gone", uses.image))
    }

    /// The names of the containers made from the image of this id, whatever their state.
    pub fn users(&self, id: &str) -> Result<Vec<String>> {
        let uses = self.uses()?;
        Ok(uses
            .into_iter()
            .filter(|(_, uses)| uses.image == id)
            .map(|(name, _)| name)
            .collect())
    }

    pub(super) fn uses(&self) -> Result<Vec<(String, Uses)>> {
        let containers = self.containers();
        if !containers.exists() {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for entry in entries(&containers)? {
            if let Some(uses) = read_uses(&entry.path())? {
                all.push((container_name(&entry.path()), uses));
            }
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }
}

fn read_uses(container_dir: &Path) -> Result<Option<Uses>> {
    let path = container_dir.join("layers");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        // Gone, or never a container.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut lines = text.lines().map(str::to_owned);
    Ok(lines.next().map(|first| {
        let (image, manifest) = match first.split_once(' ') {
            // A step of a build has none.
            Some((image, "")) => (image.to_owned(), None),
            Some((image, manifest)) => (image.to_owned(), Some(manifest.to_owned())),
            // Of a mydocker that kept one manifest of an image.
            None => (first, None),
        };
        Uses {
            image,
            manifest,
            layers: lines.collect(),
        }
    }))
}

/// The name in the container's record, or the beginning of its id.
fn container_name(container_dir: &Path) -> String {
    let id = container_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    record_file::read(container_dir).map_or_else(|_| short(&id).to_owned(), |record| record.name)
}
