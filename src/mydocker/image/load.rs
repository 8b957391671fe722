//! Taking in images from archives: OCI image layouts (image-spec: image-layout.md) and the archives
//! that `docker save` and `podman save` write (manifest.json).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::super::{platform::Platform, progress::Progress};
use super::contents::Contents;
use super::incoming::Limits;
use super::intake::{Incoming, Intake, NewImage};
use super::manifest::{Descriptor, Index, Manifest, diff_ids, digest_of, manifest};
use super::pull::{in_parallel, short};
use super::{Image, Reference, Store};
use crate::error::ResultExt;

/// An entry of Docker's manifest.json.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// How many layers are read at a time: each keeps a CPU busy, and hashing another.
const THREADS: usize = 2;

/// A layer to be read: what it must be, and the file that it is in.
struct Wanted {
    /// Nothing where the archive does not tell its digest.
    blob: Option<Descriptor>,
    diff_id: String,
    file: String,
}

impl Store {
    /// Takes in all images of an archive, or of a layout in a directory: all of them, or none.
    /// `None` is standard input. Of images for several platforms one is taken: that for `platform`,
    /// or for this machine.
    pub fn load_archive(
        &self,
        from: Option<&Path>,
        platform: Option<&Platform>,
        limits: Limits,
        progress: &Progress,
    ) -> Result<Vec<Loaded>> {
        let intake = Intake::new(self, limits)?;
        let draft = intake.draft_path();
        let contents = match from {
            Some(path) => Contents::open(path, limits, draft, progress)?,
            None => Contents::read(std::io::stdin().lock(), limits, draft, progress)?,
        };
        let load = Load {
            store: self,
            contents: &contents,
            intake: &intake,
            progress,
            platform,
            notes: Mutex::default(),
        };
        let images = load.images()?;
        let mut notes = load.notes.into_inner().unwrap_or_default();
        let made = intake.publish(&images)?;
        let names = images
            .iter()
            .map(|new| new.names.iter().map(Reference::key).collect());
        let loaded = made.into_iter().zip(names).map(|(image, names)| Loaded {
            image,
            names,
            notes: std::mem::take(&mut notes),
        });
        Ok(loaded.collect())
    }
}

/// An image that was taken in.
#[derive(Debug)]
pub struct Loaded {
    /// The image, with all its names.
    pub image: Image,
    /// The names that it came with.
    pub names: Vec<String>,
    /// What could not be kept of its files, a line each.
    pub notes: Vec<String>,
}

struct Load<'a> {
    store: &'a Store,
    contents: &'a Contents,
    intake: &'a Intake<'a>,
    progress: &'a Progress,
    platform: Option<&'a Platform>,
    notes: Mutex<Vec<String>>,
}

/// An image of an archive whose layers are not read yet.
struct Found {
    config: Vec<u8>,
    /// Nothing where the archive has none: it is written once the layers are known.
    manifest: Option<Vec<u8>>,
    names: Vec<Reference>,
    layers: Vec<Wanted>,
}

impl Load<'_> {
    fn images(&self) -> Result<Vec<NewImage>> {
        let is_layout = self.contents.has("oci-layout") && self.contents.has("index.json");
        let mut found = if is_layout {
            self.of_layout()?
        } else if self.contents.has("manifest.json") {
            self.of_docker()?
        } else {
            return Err(anyhow!("there are no images in it")).hint(
                "an archive of images has an index.json or a manifest.json; `mydocker import` makes \
                 an image of the files in an archive",
            );
        };
        ensure!(!found.is_empty(), "there are no images in it");
        self.take_layers(&found)?;
        let mut seen = BTreeSet::new();
        for image in &mut found {
            image.names.retain(|name| seen.insert(name.key()));
        }
        found.into_iter().map(|found| self.image(found)).collect()
    }

    fn of_layout(&self) -> Result<Vec<Found>> {
        let index = Index::parse(&self.contents.document("index.json")?).context("index.json")?;
        // The archive may hold Docker's list beside the index: for the names.
        let docker = match self.contents.has("manifest.json") {
            true => self.docker_list()?,
            false => Vec::new(),
        };
        let mut all: Vec<Found> = Vec::new();
        for entry in index.images() {
            let manifest = self.chosen(entry, 0)?;
            // An image with several names may be there once for each.
            let is_known = |found: &&mut Found| {
                let bytes = found.manifest.as_deref();
                bytes.is_some_and(|bytes| digest_of(bytes) == manifest.digest)
            };
            if let Some(known) = all.iter_mut().find(is_known) {
                known.names.extend(self.name_of(entry, &manifest));
                continue;
            }
            let bytes = self.blob(&manifest)?;
            let read =
                Manifest::parse(&bytes).with_context(|| format!("manifest {}", manifest.digest))?;
            let config = self.blob(&read.config)?;
            let document = format!("the manifest {}", manifest.digest);
            let diff_ids = self.diff_ids(&config, read.layers.len(), &document)?;
            let mut names: Vec<Reference> = self.name_of(entry, &manifest).into_iter().collect();
            for image in &docker {
                if image.config == blob_path(&read.config)? {
                    names.extend(self.tags(image, &[&manifest.digest]));
                }
            }
            let layers = read.layers.into_iter().zip(diff_ids);
            let layers = layers.map(|(blob, diff_id)| {
                Ok(Wanted {
                    file: blob_path(&blob)?,
                    blob: Some(blob),
                    diff_id,
                })
            });
            all.push(Found {
                config,
                manifest: Some(bytes),
                names,
                layers: layers.collect::<Result<_>>()?,
            });
        }
        Ok(all)
    }

    /// The manifest that an entry stands for: of an index that for the right platform.
    fn chosen(&self, entry: &Descriptor, depth: usize) -> Result<Descriptor> {
        if !entry.is_index() {
            return Ok(entry.clone());
        }
        ensure!(depth < 4, "the indexes are nested too deep");
        let index =
            Index::parse(&self.blob(entry)?).with_context(|| format!("index {}", entry.digest))?;
        self.chosen(index.choose(self.platform)?, depth + 1)
    }

    /// A document of a layout, which is what its descriptor says.
    fn blob(&self, described: &Descriptor) -> Result<Vec<u8>> {
        let bytes = self.contents.document(&blob_path(described)?)?;
        ensure!(
            digest_of(&bytes) == described.digest && bytes.len() as u64 == described.size,
            "{} is damaged: {} bytes with the digest {}",
            described.digest,
            bytes.len(),
            digest_of(&bytes)
        );
        Ok(bytes)
    }

    fn docker_list(&self) -> Result<Vec<DockerImage>> {
        serde_json::from_slice(&self.contents.document("manifest.json")?)
            .context("manifest.json is not a list of images")
    }

    fn of_docker(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for image in self.docker_list()? {
            let config = self.contents.document(&image.config)?;
            let diff_ids = self.diff_ids(&config, image.layers.len(), "manifest.json");
            let diff_ids = diff_ids.with_context(|| image.config.clone())?;
            // An image that is here already came with a manifest, perhaps.
            let known = self.store.find(&digest_of(&config))?;
            let manifest = match known {
                Some(known) if self.intake.hold(&known)? => self.store.manifest_of(&known)?,
                _ => None,
            };
            let digest = manifest.as_deref().map(digest_of);
            let names = self.tags(&image, digest.as_deref().as_slice());
            let layers = image.layers.into_iter().zip(diff_ids);
            let layers = match manifest {
                Some(_) => Vec::new(),
                None => layers
                    .map(|(file, diff_id)| Wanted {
                        blob: None,
                        diff_id,
                        file,
                    })
                    .collect(),
            };
            all.push(Found {
                config,
                manifest,
                names,
                layers,
            });
        }
        Ok(all)
    }

    /// The names in Docker's list.
    fn tags(&self, image: &DockerImage, digests: &[&str]) -> Vec<Reference> {
        let tags = image.repo_tags.iter().flatten();
        tags.filter_map(|tag| self.checked(Reference::parse(tag), digests))
            .collect()
    }

    /// The name of an entry of the index, which is `manifest` or an index with that in it.
    fn name_of(&self, entry: &Descriptor, manifest: &Descriptor) -> Option<Reference> {
        self.checked(entry.image_name()?, &[&entry.digest, &manifest.digest])
    }

    /// A name, unless it is none, or has a digest that is not the image's: whoever runs an image by a
    /// digest relies on it. What is left out is told.
    fn checked(&self, name: Result<Reference>, digests: &[&str]) -> Option<Reference> {
        let checked = name.and_then(|name| match &name.digest {
            Some(digest) if !digests.contains(&digest.as_str()) => {
                bail!("the image is not what its name says: {name}")
            }
            _ => Ok(name),
        });
        checked
            .inspect_err(|error| self.note(crate::error::message(error)))
            .ok()
    }

    fn note(&self, line: String) {
        if let Ok(mut notes) = self.notes.lock() {
            notes.push(line);
        }
    }

    /// The diff ids of a configuration; it must be for the platform that is asked for.
    fn diff_ids(&self, config: &[u8], layers: usize, document: &str) -> Result<Vec<String>> {
        let config: ImageConfiguration =
            serde_json::from_slice(config).context("it is not the configuration of an image")?;
        Platform::check(self.platform, &Platform::of_config(&config), "the image")?;
        diff_ids(&config, layers, document)
    }

    /// Reads all layers that are not here yet, some at a time.
    fn take_layers(&self, found: &[Found]) -> Result<()> {
        let mut wanted: Vec<&Wanted> = found.iter().flat_map(|image| &image.layers).collect();
        let mut seen = BTreeSet::new();
        let digest = |layer: &Wanted| layer.blob.as_ref().map(|blob| blob.digest.clone());
        wanted.retain(|layer| seen.insert((digest(layer), &layer.diff_id)));
        in_parallel(&wanted, THREADS, |layer, _| self.take_layer(layer))
    }

    fn take_layer(&self, layer: &Wanted) -> Result<()> {
        let known = match &layer.blob {
            Some(blob) => self.intake.has_layer(blob, &layer.diff_id)?,
            None => self.intake.layer_of(&layer.diff_id)?.is_some(),
        };
        if known {
            return Ok(());
        }
        let (from, found) = self.contents.get(&layer.file)?;
        let size = layer.blob.as_ref().map_or(found, |blob| blob.size);
        let bar = self
            .progress
            .bar(short(&layer.diff_id), "loading", Some(size));
        let incoming = Incoming {
            hex: layer.blob.as_ref().map(Descriptor::hex).transpose()?,
            size,
            kept: self.contents.kept(&layer.file),
        };
        let notes = self.intake.take(incoming, &layer.diff_id, from, &bar)?;
        bar.done("loaded");
        notes.into_iter().for_each(|note| self.note(note));
        Ok(())
    }

    fn image(&self, found: Found) -> Result<NewImage> {
        let manifest = match found.manifest {
            Some(manifest) => manifest,
            None => {
                let layers = found.layers.iter().map(|layer| {
                    let known = self.intake.layer_of(&layer.diff_id)?;
                    known.with_context(|| format!("{} was not read", layer.diff_id))
                });
                manifest(&found.config, &layers.collect::<Result<Vec<_>>>()?)
            }
        };
        Ok(NewImage {
            manifest,
            config: found.config,
            names: found.names,
        })
    }
}

/// Where a layout has a blob.
fn blob_path(blob: &Descriptor) -> Result<String> {
    Ok(format!("blobs/sha256/{}", blob.hex()?))
}
