//! The store: what is there, under which name, and who uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::super::state_dirs::lock_file;
use super::super::whole_file::{keep_spare, replace, replace_on_full_disk, temporary};
use super::draft::{self, Draft};
use super::manifest::{Descriptor, Index, Manifest, diff_ids, digest_of, hex_of};
use super::{Image, Reference};
use crate::error::ResultExt;

/// The images below one state directory.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// What an archive is without its compression: a note beside the blobs, as lasting as its digest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unpacked {
    /// `sha256:<hex>` of it.
    pub(super) diff_id: String,
    /// Bytes of it.
    pub(super) size: u64,
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
        if store.is_made() {
            store.sweep_leftovers();
            store.settle();
            return Ok(store);
        }
        for dir in [store.blobs(), store.layers(), store.drafts()] {
            // Layers hold set-user-id programs that the host's users must not reach.
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .with_context(|| format!("make {}", dir.display()))
                .hint("the state directory must be writable; MYDOCKER_ROOT names another")?;
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

    fn is_made(&self) -> bool {
        self.images().join("oci-layout").exists() && self.layers().exists()
    }

    /// Removes what commands that were killed have left below `root`: their drafts, and what they had
    /// put into the store and not into the index. What cannot be removed is left to the next command.
    pub(in crate::mydocker) fn clear_leftovers(root: &Path) {
        let store = Store {
            root: root.to_owned(),
        };
        store.sweep_leftovers();
    }

    fn sweep_leftovers(&self) {
        let drafts = draft::ownerless(&self.drafts());
        if drafts.is_empty() {
            return;
        }
        let sweep = |_lock| {
            let _ = std::fs::remove_file(temporary(&self.index_path()));
            self.sweep(&self.read_index()?)
        };
        let swept = match self.is_made() {
            true => self.lock(FlockArg::LockExclusive).and_then(sweep),
            false => Ok(Vec::new()),
        };
        // Gone before the drafts, which are the sign that there may be some.
        match swept {
            Ok(garbage) => drop(garbage),
            Err(_) => drafts.iter().for_each(Draft::leave),
        }
    }

    /// Does what may make garbage. Should it be cut short or fail, the next command sees by a draft
    /// that there is some. On a full disk there is no such sign.
    pub(super) fn with_sign<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        let sign = Draft::new(&self.drafts()).ok();
        change().inspect_err(|_| sign.iter().for_each(Draft::leave))
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("images/blobs/sha256")
    }

    /// What compressed blobs unpack to, a file each.
    pub(super) fn unpacked(&self) -> PathBuf {
        self.root.join("images/unpacked")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn drafts(&self) -> PathBuf {
        self.root.join("drafts")
    }

    pub(super) fn steps(&self) -> PathBuf {
        self.root.join("build/steps")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.root.join("containers")
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
        lock_file(file, kind).with_context(|| format!("lock {}", path.display()))
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
        let path = self.blobs().join(hex_of(digest)?);
        std::fs::read(&path).with_context(|| format!("read {}", path.display()))
    }

    pub(super) fn manifest(&self, digest: &str) -> Result<Manifest> {
        Manifest::parse(&self.read_blob(digest)?).with_context(|| format!("manifest {digest}"))
    }

    /// The bytes of the archive `blob` without its compression, if it is there and known to unpack
    /// to `diff_id`.
    pub(super) fn plain_size(&self, blob: &str, diff_id: &str) -> Option<u64> {
        let hex = hex_of(blob).ok()?;
        let meta = self.blobs().join(hex).metadata().ok()?;
        if blob == diff_id {
            return Some(meta.len());
        }
        let note = std::fs::read(self.unpacked().join(hex)).ok()?;
        let note: Unpacked = serde_json::from_slice(&note).ok()?;
        (note.diff_id == diff_id).then_some(note.size)
    }

    /// The bytes of an image's manifest, unless it was removed meanwhile.
    pub(super) fn manifest_of(&self, image: &Image) -> Result<Option<Vec<u8>>> {
        let _lock = self.lock(FlockArg::LockShared)?;
        match self.has_documents(&image.digest, &image.id)? {
            true => self.read_blob(&image.digest).map(Some),
            false => Ok(None),
        }
    }

    /// Whether the archive `blob` is there and known to unpack to `diff_id`.
    pub(super) fn has_layer(&self, blob: &str, diff_id: &str) -> bool {
        self.plain_size(blob, diff_id).is_some()
    }

    /// Whether an image's manifest and its configuration, whose digest is its id, are there.
    pub(super) fn has_documents(&self, manifest: &str, id: &str) -> Result<bool> {
        for digest in [manifest, id] {
            let path = self.blobs().join(hex_of(digest)?);
            let is_there = path.try_exists();
            if !is_there.with_context(|| format!("look at {}", path.display()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The image of a manifest; without names.
    fn load(&self, digest: &str) -> Result<Image> {
        let manifest = self.manifest(digest)?;
        let bytes = self.read_blob(&manifest.config.digest)?;
        Ok(Image {
            digest: digest.to_owned(),
            ..self.assemble(&bytes, manifest.layers)?
        })
    }

    /// The image of a configuration and the archives of its layers, bottom first; without names and
    /// manifest.
    pub(super) fn assemble(&self, config: &[u8], blobs: Vec<Descriptor>) -> Result<Image> {
        let bytes = config;
        let id = digest_of(bytes);
        let not_one = || format!("{id} is not an image configuration");
        let raw_config: Value = serde_json::from_slice(bytes).with_context(not_one)?;
        let config: oci_spec::image::ImageConfiguration =
            serde_json::from_slice(bytes).with_context(not_one)?;
        let diff_ids = diff_ids(&config, blobs.len(), "the manifest")?;
        let mut layers = Vec::with_capacity(diff_ids.len());
        let mut sizes = Vec::with_capacity(diff_ids.len());
        for (diff_id, blob) in diff_ids.iter().zip(&blobs) {
            layers.push(self.layers().join(hex_of(diff_id)?));
            sizes.push(self.plain_size(&blob.digest, diff_id).unwrap_or(0));
        }
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
            id,
            digest: String::new(),
            names: Vec::new(),
            digests: BTreeMap::new(),
            config,
            raw_config,
            layers,
            diff_ids,
            blobs,
            size: sizes.iter().sum(),
            layer_sizes: sizes,
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

    pub(super) fn load_all(&self, index: &Index) -> Result<Vec<Image>> {
        let mut images: BTreeMap<String, Image> = BTreeMap::new();
        for entry in &index.manifests {
            let id = self.manifest(&entry.digest)?.config.digest;
            if !images.contains_key(&id) {
                images.insert(id.clone(), self.load(&entry.digest)?);
            }
            if let (Some(image), Some(name)) = (images.get_mut(&id), entry.name()) {
                image.names.push(name.to_owned());
                image.digests.insert(name.to_owned(), entry.digest.clone());
            }
        }
        for image in images.values_mut() {
            image.names.sort();
        }
        Ok(images.into_values().collect())
    }

    /// The image called `name`: a name (`busybox`, `busybox:1`, with or without `@digest`), a
    /// digest, or an id of which at least the first 4 digits are given. What begins with `sha256:` is
    /// never a name. `None` when there is none; an error when the digits fit several images.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let _lock = self.lock(FlockArg::LockShared)?;
        self.find_in(&self.read_index()?, name)
    }

    pub(super) fn find_in(&self, index: &Index, name: &str) -> Result<Option<Image>> {
        if let Ok(reference) = Reference::parse(name) {
            let (key, digest) = (reference.key(), reference.digest.as_ref());
            let of_repository = |name: &str| {
                Reference::parse(name).is_ok_and(|r| r.repository() == reference.repository())
            };
            let named = |e: &&Descriptor| {
                let has_digest = digest == Some(&e.digest) && e.name().is_some_and(of_repository);
                e.name() == Some(key.as_str()) || has_digest
            };
            if let Some(entry) = index.manifests.iter().find(named) {
                return self.image_at(index, &entry.digest).map(Some);
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

    /// The image of this manifest, which the index has, with all its names.
    pub(super) fn image_at(&self, index: &Index, digest: &str) -> Result<Image> {
        let mut image = self.load(digest)?;
        for entry in &index.manifests {
            if let Some(name) = entry.name()
                && self.manifest(&entry.digest)?.config.digest == image.id
            {
                image.names.push(name.to_owned());
                image.digests.insert(name.to_owned(), entry.digest.clone());
            }
        }
        image.names.sort();
        Ok(image)
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
        let media_type = self.manifest(&image.digest)?.media_type().to_owned();
        let entry = Descriptor::new(&media_type, &image.digest, size);
        index.put(entry, Some(&reference.key()));
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
        let key = Reference::parse(name).ok().map(|r| r.key());
        let by_name = key.filter(|key| image.names.contains(key));
        let mut removed = Vec::new();
        let going = match by_name.as_ref().or(image.names.first()) {
            Some(name) => image.going_with(name),
            None => Vec::new(),
        };
        if by_name.is_some() && going.len() < image.names.len() {
            let is_going = |entry: &Descriptor| {
                let mut names = going.iter();
                names.any(|name| entry.name() == Some(name))
            };
            index.manifests.retain(|entry| !is_going(entry));
            removed.extend(going.into_iter().map(Removed::Untagged));
            // The name may have been the last of one manifest of several.
            return self.shrink(lock, &index).map(|()| removed);
        }
        if by_name.is_none() && going.len() < image.names.len() && !force {
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
        let of_image = self.digests_of(&index, &image.id)?;
        index
            .manifests
            .retain(|entry| !of_image.contains(&entry.digest));
        removed.extend(image.names.iter().cloned().map(Removed::Untagged));
        if users.is_empty() {
            removed.push(Removed::Deleted(image.id.clone()));
        }
        self.shrink(lock, &index).map(|()| removed)
    }

    /// Replaces the index by one of less, and removes what nothing refers to then.
    fn shrink(&self, lock: Flock<File>, index: &Index) -> Result<()> {
        self.with_sign(|| {
            self.write_index(index)?;
            let garbage = self.sweep(index)?;
            drop(lock);
            drop(garbage);
            Ok(())
        })
    }

    /// The manifests of an image.
    pub(super) fn digests_of(&self, index: &Index, id: &str) -> Result<BTreeSet<String>> {
        let mut digests = BTreeSet::new();
        for entry in &index.manifests {
            if self.manifest(&entry.digest)?.config.digest == id {
                digests.insert(entry.digest.clone());
            }
        }
        Ok(digests)
    }

    /// Removes what nothing refers to.
    pub(super) fn tidy(&self) -> Result<()> {
        self.with_sign(|| {
            let lock = self.lock(FlockArg::LockExclusive)?;
            let garbage = self.sweep(&self.read_index()?)?;
            drop(lock);
            drop(garbage);
            Ok(())
        })
    }

    /// Takes what neither the index nor a container refers to out of the store; the caller holds
    /// the exclusive lock, and drops the result after it.
    fn sweep(&self, index: &Index) -> Result<Vec<Draft>> {
        let mut blobs: BTreeSet<String> = draft::pinned(&self.drafts()).into_iter().collect();
        blobs.extend(self.layers_of_steps()?);
        let mut layers = blobs.clone();
        let mut uses = self.uses()?;
        for (_, uses) in &mut uses {
            // What one container has lost must not stand in the way of all the others.
            if let Some(digest) = &uses.manifest
                && !self.has_documents(digest, &uses.image)?
            {
                uses.manifest = None;
            }
        }
        let of_containers = uses.iter().filter_map(|(_, uses)| uses.manifest.as_ref());
        let of_index = index.manifests.iter().map(|entry| &entry.digest);
        for digest in of_containers.chain(of_index).collect::<BTreeSet<_>>() {
            let image = self.load(digest)?;
            blobs.extend(image.blobs.into_iter().map(|blob| blob.digest));
            blobs.extend([image.digest, image.id]);
            layers.extend(image.diff_ids);
        }
        for (_, uses) in uses {
            if uses.manifest.is_none() {
                blobs.extend(uses.layers.iter().cloned());
                blobs.insert(uses.image);
            }
            layers.extend(uses.layers);
        }
        let is_in = |kept: &BTreeSet<String>, name: &std::ffi::OsStr| {
            // Behind a dot: for which containers a layer is.
            let hex = name.to_str().and_then(|name| name.split('.').next());
            hex.is_some_and(|hex| kept.contains(&format!("sha256:{hex}")))
        };
        let notes = entries(&self.unpacked()).unwrap_or_default();
        for file in entries(&self.blobs())?.iter().chain(&notes) {
            if !is_in(&blobs, &file.file_name()) {
                std::fs::remove_file(file.path())
                    .with_context(|| format!("remove {}", file.path().display()))?;
            }
        }
        let mut garbage = Vec::new();
        for layer in entries(&self.layers())? {
            if !is_in(&layers, &layer.file_name()) {
                self.forget_fresh(Path::new(&layer.file_name()));
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

pub(super) fn entries(dir: &Path) -> Result<Vec<std::fs::DirEntry>> {
    std::fs::read_dir(dir)
        .and_then(|entries| entries.collect())
        .with_context(|| format!("list {}", dir.display()))
}
