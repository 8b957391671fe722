//! The store: what is there, under which name, and who uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::whole_file::{keep_spare, replace, replace_on_full_disk, temporary};
use super::draft::{self, Draft};
use super::manifest::{Index, Manifest};
use super::{Image, Reference};
use crate::error::ResultExt;

/// The images below one state directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// What a removal did, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The image lost this name.
    Untagged(String),
    /// The image of this id is gone.
    Deleted(String),
}

/// Space that a removal on a full disk gives back first, so that the new index can be written.
const SPARE: usize = 64 << 10;

impl Store {
    /// Opens the store below `root` (`/var/lib/mydocker`) and makes what is missing of it.
    pub fn open(root: &Path) -> Result<Store> {
        let store = Store {
            root: root.to_owned(),
        };
        if store.images().join("oci-layout").exists() && store.layers().exists() {
            store.clear_leftovers();
            return Ok(store);
        }
        for dir in [store.blobs(), store.layers(), store.drafts()] {
            // Layers hold set-user-id programs that the host's users must not reach.
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("make {}", dir.display()))
                .hint("the state directory must be writable: run as root, or set MYDOCKER_ROOT")?;
        }
        let _lock = store.lock(FlockArg::LockExclusive)?;
        if !store.index_path().exists() {
            store.write_index(&Index::default())?;
        }
        replace(
            &store.images().join("oci-layout"),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
            true,
        )?;
        Ok(store)
    }

    /// Removes what commands that were killed have left: their drafts, and what they had put into
    /// the store and not into the index. What cannot be removed is left to the next command.
    fn clear_leftovers(&self) {
        let drafts = draft::ownerless(&self.drafts());
        if drafts.is_empty() {
            return;
        }
        let sweep = |_lock| {
            let _ = std::fs::remove_file(temporary(&self.index_path()));
            self.sweep(&self.read_index()?)
        };
        let garbage = self.lock(FlockArg::LockExclusive).and_then(sweep);
        // Gone before the drafts, which are the sign that there may be some.
        drop(garbage);
        drop(drafts);
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("images/blobs/sha256")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn drafts(&self) -> PathBuf {
        self.root.join("drafts")
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("images/index.json")
    }

    fn spare_path(&self) -> PathBuf {
        self.root.join("images.spare")
    }

    /// Takes the store's lock until the value is dropped.
    pub(super) fn lock(&self, kind: FlockArg) -> Result<Flock<File>> {
        let path = self.root.join("images.lock");
        // A shared lock needs no file of its own making, and a full disk must not stop a removal.
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Flock::lock(file, kind)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock {}", path.display()))
    }

    pub(super) fn read_index(&self) -> Result<Index> {
        let path = self.index_path();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Index::default()),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is not an image index", path.display()))
    }

    /// Replaces the index. When the disk is full it is tried again with the spare space, which is
    /// taken back as soon as there is some.
    pub(super) fn write_index(&self, index: &Index) -> Result<()> {
        let bytes = serde_json::to_vec(index).context("write the image index")?;
        let spare = self.spare_path();
        replace_on_full_disk(&self.index_path(), &bytes, true, &spare)?;
        keep_spare(&spare, SPARE);
        Ok(())
    }

    pub(super) fn read_blob(&self, digest: &str) -> Result<Vec<u8>> {
        let hex = digest
            .strip_prefix("sha256:")
            .filter(|hex| super::reference::is_hex(hex, 64))
            .with_context(|| format!("{digest:?} is not a sha256 digest"))?;
        let path = self.blobs().join(hex);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    fn manifest(&self, digest: &str) -> Result<Manifest> {
        serde_json::from_slice(&self.read_blob(digest)?)
            .with_context(|| format!("{digest} is not an image manifest"))
    }

    /// The image of a configuration; without names and manifest digest.
    pub(super) fn load(&self, id: &str) -> Result<Image> {
        let bytes = self.read_blob(id)?;
        let not_one = || format!("{id} is not an image configuration");
        let raw_config: Value = serde_json::from_slice(&bytes).with_context(not_one)?;
        let config: oci_spec::image::ImageConfiguration =
            serde_json::from_slice(&bytes).with_context(not_one)?;
        let diff_ids: Vec<String> = config
            .rootfs()
            .diff_ids()
            .iter()
            .map(|id| id.to_string())
            .collect();
        let mut layers = Vec::with_capacity(diff_ids.len());
        let mut size = 0;
        for diff_id in &diff_ids {
            let hex = diff_id.strip_prefix("sha256:").with_context(not_one)?;
            layers.push(self.layers().join(hex));
            size += self
                .blobs()
                .join(hex)
                .metadata()
                .map_or(0, |meta| meta.len());
        }
        anyhow::ensure!(!layers.is_empty(), "the image {id} has no layers");
        layers.reverse();
        // Overlayfs refuses a directory twice, and a layer below itself shows nothing of its own.
        let mut seen = BTreeSet::new();
        layers.retain(|layer| seen.insert(layer.clone()));
        let created = config
            .created()
            .as_ref()
            .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Ok(Image {
            id: id.to_owned(),
            digest: String::new(),
            names: Vec::new(),
            config,
            raw_config,
            layers,
            diff_ids,
            size,
            created,
        })
    }

    /// Every image, newest first.
    pub fn list(&self) -> Result<Vec<Image>> {
        let _lock = self.lock(FlockArg::LockShared)?;
        let mut images = self.load_all(&self.read_index()?)?;
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    fn load_all(&self, index: &Index) -> Result<Vec<Image>> {
        let mut images: BTreeMap<String, Image> = BTreeMap::new();
        for entry in &index.manifests {
            let id = self.manifest(&entry.digest)?.config.digest;
            if !images.contains_key(&id) {
                let image = Image {
                    digest: entry.digest.clone(),
                    ..self.load(&id)?
                };
                images.insert(id.clone(), image);
            }
            if let (Some(image), Some(name)) = (images.get_mut(&id), entry.name()) {
                image.names.push(name.to_owned());
            }
        }
        for image in images.values_mut() {
            image.names.sort();
        }
        Ok(images.into_values().collect())
    }

    /// The image called `name`: a name (`busybox`, `busybox:1`, with or without `@digest`), a
    /// digest, or an id of which at least the first 4 digits are given. `None` when there is none;
    /// an error when the digits fit several images.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let _lock = self.lock(FlockArg::LockShared)?;
        self.find_in(&self.read_index()?, name)
    }

    pub(super) fn find_in(&self, index: &Index, name: &str) -> Result<Option<Image>> {
        if let Ok(reference) = Reference::parse(name) {
            let key = reference.key();
            let named = |e: &&super::manifest::Entry| match &reference.digest {
                Some(digest) => e.digest == *digest,
                None => e.name() == Some(key.as_str()),
            };
            if let Some(entry) = index.manifests.iter().find(named) {
                let id = self.manifest(&entry.digest)?.config.digest;
                return Ok(self
                    .load_all(index)?
                    .into_iter()
                    .find(|image| image.id == id));
            }
        }
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if hex.len() < 4 || !super::reference::is_hex(hex, hex.len()) {
            return Ok(None);
        }
        let fits = |digest: &str| {
            digest
                .strip_prefix("sha256:")
                .is_some_and(|d| d.starts_with(hex))
        };
        let mut found: Vec<Image> = self.load_all(index)?;
        found.retain(|image| fits(&image.id) || fits(&image.digest));
        if found.len() > 1 {
            bail!("{name:?} fits {} images", found.len());
        }
        Ok(found.pop())
    }

    /// [`Store::find`], where no image is an error.
    pub fn get(&self, name: &str) -> Result<Image> {
        // A name that could never be one is told as such.
        if !super::reference::is_hex(name, 64) && !name.starts_with("sha256:") {
            Reference::parse(name)?;
        }
        self.find(name)?
            .with_context(|| format!("no such image: {name}"))
            .hint("`mydocker images` lists them; `mydocker import` makes one from a tar archive")
    }

    /// Gives an image one more name.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        let reference = Reference::parse(name)?;
        anyhow::ensure!(
            reference.digest.is_none(),
            "{name:?}: a new name cannot have a digest"
        );
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let mut index = self.read_index()?;
        let image = self
            .find_in(&index, image)?
            .with_context(|| format!("no such image: {image}"))?;
        let size = self.read_blob(&image.digest)?.len() as u64;
        index.put(&image.digest, size, Some(&reference.key()));
        self.write_index(&index)
    }

    /// Takes a name, or all names, from an image, and removes the image with its last name together
    /// with the layers that nothing else uses.
    ///
    /// # Errors
    /// A container was made from it, or an id stands for several names; `force` overrules both (the
    /// layers stay for as long as the containers do).
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removed>> {
        let lock = self.lock(FlockArg::LockExclusive)?;
        let mut index = self.read_index()?;
        let image = self
            .find_in(&index, name)?
            .with_context(|| format!("no such image: {name}"))
            .hint("`mydocker images` lists them")?;
        let key = Reference::parse(name)
            .ok()
            .filter(|r| r.digest.is_none())
            .map(|r| r.key());
        let by_name = key.filter(|key| image.names.contains(key));
        let mut removed = Vec::new();
        if let Some(key) = by_name.as_ref().filter(|_| image.names.len() > 1) {
            index.manifests.retain(|entry| entry.name() != Some(key));
            self.write_index(&index)?;
            removed.push(Removed::Untagged(key.clone()));
            return Ok(removed);
        }
        if by_name.is_none() && image.names.len() > 1 && !force {
            bail_several(name, &image)?;
        }
        let users = self.users(&image.id)?;
        if !users.is_empty() && !force {
            return Err(anyhow::anyhow!(
                "{name} is used by {} {}",
                if users.len() == 1 {
                    "container"
                } else {
                    "containers"
                },
                users.join(", ")
            ))
            .hint("remove them first (mydocker rm), or use rmi -f to take only its name away");
        }
        // Should we be killed, the next command sees by it that there is garbage.
        let _sign = Draft::new(&self.drafts()).ok();
        let of_image = self.digests_of(&index, &image.id)?;
        index
            .manifests
            .retain(|entry| !of_image.contains(&entry.digest));
        self.write_index(&index)?;
        removed.extend(image.names.iter().cloned().map(Removed::Untagged));
        if users.is_empty() {
            removed.push(Removed::Deleted(image.id.clone()));
        }
        let garbage = self.sweep(&index)?;
        drop(lock);
        drop(garbage);
        drop(draft::ownerless(&self.drafts()));
        Ok(removed)
    }

    /// The manifests of an image.
    fn digests_of(&self, index: &Index, id: &str) -> Result<BTreeSet<String>> {
        let mut digests = BTreeSet::new();
        for entry in &index.manifests {
            if self.manifest(&entry.digest)?.config.digest == id {
                digests.insert(entry.digest.clone());
            }
        }
        Ok(digests)
    }

    /// Takes what neither the index nor a container refers to out of the store; the caller holds
    /// the exclusive lock, and drops the result after it.
    fn sweep(&self, index: &Index) -> Result<Vec<Draft>> {
        let mut kept = BTreeSet::new();
        for entry in &index.manifests {
            let manifest = self.manifest(&entry.digest)?;
            kept.insert(entry.digest.clone());
            kept.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
            kept.extend(self.load(&manifest.config.digest)?.diff_ids);
            kept.insert(manifest.config.digest);
        }
        for (_, uses) in self.uses()? {
            kept.extend(uses.layers);
            kept.insert(uses.image);
        }
        let is_kept = |name: &std::ffi::OsStr| {
            name.to_str()
                .is_some_and(|hex| kept.contains(&format!("sha256:{hex}")))
        };
        for blob in entries(&self.blobs())? {
            if !is_kept(&blob.file_name()) {
                std::fs::remove_file(blob.path())
                    .with_context(|| format!("remove {}", blob.path().display()))?;
            }
        }
        let mut garbage = Vec::new();
        for layer in entries(&self.layers())? {
            if !is_kept(&layer.file_name()) {
                garbage.extend(Draft::adopt(&self.drafts(), &layer.path())?);
            }
        }
        Ok(garbage)
    }
}

fn bail_several(name: &str, image: &Image) -> Result<()> {
    Err(anyhow::anyhow!(
        "{name} has several names: {}",
        image.names.join(", ")
    ))
    .hint("remove them by name, or all at once with rmi -f")
}

fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(dir)
        .and_then(|entries| entries.collect())
        .with_context(|| format!("list {}", dir.display()))
}

/// What a container keeps in the store.
#[derive(Debug)]
struct Uses {
    image: String,
    layers: Vec<String>,
}

/// Containers: each says in a file `layers` what it needs: its image's id in the first line, then
/// the layers' digests, bottom first.
impl Store {
    /// Keeps the image's layers for as long as `container_dir` exists. To be called before they are
    /// used. Fails when the image was removed in the meantime.
    pub fn use_layers(&self, image: &Image, container_dir: &Path) -> Result<()> {
        let _lock = self.lock(FlockArg::LockShared)?;
        if let Some(gone) = image.layers.iter().find(|layer| !layer.is_dir()) {
            bail!("a layer of the image is gone: {}", gone.display());
        }
        let text = format!("{}\n{}\n", image.id, image.diff_ids.join("\n"));
        let path = container_dir.join("layers");
        let new = container_dir.join("layers.new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, &path))
            .with_context(|| format!("write {}", path.display()))
    }

    /// The image that a container was made from, also when it has lost its names since.
    pub fn image_of(&self, container_dir: &Path) -> Result<Image> {
        let _lock = self.lock(FlockArg::LockShared)?;
        let uses = read_uses(container_dir)?
            .with_context(|| format!("{} names no image", container_dir.display()))?;
        let known = self.load_all(&self.read_index()?)?;
        match known.into_iter().find(|image| image.id == uses.image) {
            Some(image) => Ok(image),
            None => self.load(&uses.image),
        }
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

    fn uses(&self) -> Result<Vec<(String, Uses)>> {
        let containers = self.root.join("containers");
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
    Ok(lines.next().map(|image| Uses {
        image,
        layers: lines.collect(),
    }))
}

/// The name in the container's record, or the beginning of its id.
fn container_name(container_dir: &Path) -> String {
    let record: Option<Value> = std::fs::read(container_dir.join("record.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let name = record
        .as_ref()
        .and_then(|record| record.get("name")?.as_str());
    let id = container_dir
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    name.map_or_else(|| id.chars().take(12).collect(), str::to_owned)
}
