//! Bringing an image from a registry into the store.

use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use anyhow::{Context, Result, anyhow, bail, ensure};
use oci_spec::image::ImageConfiguration;

use super::super::credentials::Keeper;
use super::super::platform::Platform;
use super::super::progress::Progress;
use super::incoming::Limits;
use super::manifest::{Descriptor, Index, Manifest, diff_ids, digest_of};
use super::registry::{Access, Document, INDEX_TYPES, Registry};
use super::resume::BlobReader;
use super::transport::Trust;
use super::{Image, Intake, NewImage, Reference, Store};
use crate::error::{ResultExt, with_fallback_hint};

/// How many layers come or go at once, as with Docker.
pub(super) const AT_ONCE: usize = 3;
/// The largest configuration of an image.
const LARGEST_CONFIG: u64 = 8 << 20;

/// How to pull or push.
pub struct Transfer<'a> {
    /// The platform of the image; the machine's if none is asked for.
    pub platform: Option<&'a Platform>,
    pub trust: Trust,
    /// How much a layer may unpack to.
    pub limits: Limits,
    /// The bars.
    pub progress: &'a Progress,
    /// Told a line for each thing that happens to a layer.
    pub tell: &'a (dyn Fn(&str) + Sync),
}

/// An image that was asked for.
#[derive(Debug)]
pub struct Pulled {
    pub image: Image,
    /// The digest under which the registry has it.
    pub digest: String,
    /// Whether it was not there before.
    pub is_new: bool,
    /// What could not be kept of it, a line each.
    pub notes: Vec<String>,
}

impl Store {
    /// Pulls an image. Its names are then the tag asked for, if it was one, and the digest. On an
    /// error the store is as it was.
    pub fn pull(&self, reference: &Reference, transfer: &Transfer<'_>) -> Result<Pulled> {
        // What is known by its digest is known.
        if let Some(digest) = &reference.digest
            && let Some(image) = self.find(&reference.key())?
            && transfer.platform.is_none()
        {
            return Ok(Pulled {
                image,
                digest: digest.clone(),
                is_new: false,
                notes: Vec::new(),
            });
        }
        let credentials = Keeper::of_caller().get(&reference.domain)?;
        let registry = Registry::open(reference, Access::Pull, &[], transfer.trust, credentials)?;
        let wanted = match &reference.digest {
            Some(digest) => digest.as_str(),
            None => reference.tag_or_latest(),
        };
        let top = registry
            .manifest(wanted)
            .map_err(|error| error.context(format!("manifest of {reference}")))?;
        let by_digest = Reference {
            tag: None,
            digest: Some(top.digest.clone()),
            ..reference.clone()
        };
        let known = self.known(reference, &by_digest)?;
        if let Some(image) = known.filter(|_| transfer.platform.is_none()) {
            return Ok(Pulled {
                image,
                digest: top.digest,
                is_new: false,
                notes: Vec::new(),
            });
        }
        let mut names = vec![by_digest];
        if reference.digest.is_none() {
            names.push(reference.clone());
        }
        let digest = top.digest.clone();
        let (image, notes) = one_image(&registry, top, transfer.platform)
            .and_then(|document| {
                // An index says more of platforms than the configurations do.
                let asked = transfer.platform.filter(|_| document.digest == digest);
                self.fetch(&registry, document, names, asked, transfer)
            })
            .map_err(at_fault)?;
        Ok(Pulled {
            image,
            digest,
            is_new: true,
            notes,
        })
    }

    /// The image, if it has both names already.
    fn known(&self, reference: &Reference, by_digest: &Reference) -> Result<Option<Image>> {
        let found = self.find(&by_digest.key())?;
        Ok(found
            .filter(|image| image.names.contains(&reference.key()) || reference.digest.is_some()))
    }

    /// Takes in the layers that are not there, and publishes the image.
    fn fetch(
        &self,
        registry: &Registry,
        document: Document,
        names: Vec<Reference>,
        platform: Option<&Platform>,
        transfer: &Transfer<'_>,
    ) -> Result<(Image, Vec<String>)> {
        let manifest = Manifest::parse(&document.bytes)
            .map_err(|error| error.context(format!("manifest {}", document.digest)))?;
        let config = configuration(registry, &manifest)?;
        let parsed: ImageConfiguration = serde_json::from_slice(&config)
            .with_context(|| {
                format!(
                    "{} is not the configuration of an image",
                    manifest.config.digest
                )
            })
            .hint("it is something else that the registry keeps: it cannot be run")?;
        Platform::check(platform, &Platform::of_config(&parsed), "the image")?;
        let diff_ids = diff_ids(&parsed, manifest.layers.len(), "the manifest")?;
        let intake = Intake::new(self, transfer.limits)?;
        let mut layers: Vec<(&Descriptor, String)> = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            // An empty one is often there twice.
            if !layers.iter().any(|(other, _)| other.digest == layer.digest) {
                layers.push((layer, diff_id));
            }
        }
        let notes = Mutex::new(Vec::new());
        in_parallel(&layers, AT_ONCE, |(layer, diff_id), stop| {
            let name = short(&layer.digest);
            if intake.has_layer(layer, diff_id)? {
                (transfer.tell)(&format!("{name}: Already exists"));
                return Ok(());
            }
            (transfer.tell)(&format!("{name}: Pulling fs layer"));
            let bar = transfer.progress.bar(name, "Downloading", Some(layer.size));
            let mut reader = BlobReader::new(registry, layer, stop);
            let taken = intake.layer(layer, diff_id, &mut reader, &bar);
            let more = taken.map_err(|error| reader.or(error))?;
            bar.done("Pull complete");
            (transfer.tell)(&format!("{name}: Pull complete"));
            notes
                .lock()
                .map_err(|_| anyhow!("another layer failed"))?
                .extend(more);
            Ok(())
        })?;
        let new = NewImage {
            manifest: document.bytes,
            config,
            names,
        };
        let mut images = intake.publish(&[new])?;
        let image = images
            .pop()
            .context("the image that was just pulled is gone")?;
        Ok((image, notes.into_inner().unwrap_or_default()))
    }
}

/// What is not as it should be is the registry's mistake, unless this machine failed or something
/// else is known.
fn at_fault(error: anyhow::Error) -> anyhow::Error {
    let is_here = error.chain().any(|link| {
        let link = link.downcast_ref::<std::io::Error>();
        link.is_some_and(|error| error.raw_os_error().is_some())
    });
    let hint = match is_here {
        true => "nothing was kept; `mydocker system df` tells of the room",
        false => "the registry is at fault, or somebody on the way to it: nothing was kept",
    };
    with_fallback_hint(error, hint)
}

/// The beginning of a digest by which people know it.
pub(super) fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    &hex[..hex.len().min(12)]
}

/// Does the work for each item, so many at once. The first failure ends it: it sets the flag that the
/// others are given.
pub(super) fn in_parallel<T: Sync>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T, &AtomicBool) -> Result<()> + Sync,
) -> Result<()> {
    let (next, stop, failure) = (
        AtomicUsize::new(0),
        AtomicBool::new(false),
        Mutex::new(None),
    );
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Err(error) = work(item, &stop) {
                        if let Ok(mut first) = failure.lock() {
                            first.get_or_insert(error);
                        }
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    match failure.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(error),
        Err(_) => bail!("a layer failed"),
    }
}

/// The manifest of one image: the document itself, or the one for this platform of those it lists.
fn one_image(
    registry: &Registry,
    document: Document,
    platform: Option<&Platform>,
) -> Result<Document> {
    if !INDEX_TYPES.contains(&document.media_type.as_str()) {
        return Ok(document);
    }
    let index = Index::parse(&document.bytes)?;
    let entry = index.choose(platform)?;
    let chosen = registry.manifest(&entry.digest)?;
    ensure!(
        chosen.bytes.len() as u64 == entry.size,
        "the manifest {} has {} bytes, not {} as the index says",
        chosen.digest,
        chosen.bytes.len(),
        entry.size
    );
    ensure!(
        !INDEX_TYPES.contains(&chosen.media_type.as_str()),
        "{}: an index in an index is not supported",
        chosen.digest
    );
    Ok(chosen)
}

/// The bytes of the image's configuration, checked.
fn configuration(registry: &Registry, manifest: &Manifest) -> Result<Vec<u8>> {
    let (config, stop) = (&manifest.config, AtomicBool::new(false));
    ensure!(
        config.size <= LARGEST_CONFIG,
        "a configuration of {} bytes, which is more than {LARGEST_CONFIG}",
        config.size
    );
    let mut reader = BlobReader::new(registry, config, &stop);
    let mut bytes = Vec::new();
    let read = (&mut reader).take(config.size + 1).read_to_end(&mut bytes);
    read.map_err(|error| reader.or(error.into()))
        .with_context(|| format!("configuration {}", config.digest))?;
    let (digest, size) = (digest_of(&bytes), bytes.len() as u64);
    if digest != config.digest || size != config.size {
        bail!(
            "the configuration {} has the digest {digest} and {size} bytes, not {}",
            config.digest,
            config.size
        );
    }
    Ok(bytes)
}
