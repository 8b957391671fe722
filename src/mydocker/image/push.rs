//! Giving an image to a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::thread::ScopedJoinHandle;

use anyhow::{Result, ensure};

use super::super::credentials::Keeper;
use super::super::progress::{Bar, Counted, Progress};
use super::manifest::Descriptor;
use super::outgoing::Outgoing;
use super::pull::{AT_ONCE, Transfer, in_parallel, short};
use super::registry::{Access, Registry};
use super::upload::Arrival;
use super::{Image, Reference, Store};

/// In how many other repositories a layer is looked for.
const OTHERS: usize = 3;

/// What the registry has now.
#[derive(Debug)]
pub struct Pushed {
    /// The image's id.
    pub id: String,
    /// The manifest's digest.
    pub digest: String,
    /// The manifest's bytes.
    pub size: u64,
}

impl Store {
    /// Pushes the image of this name: as it came if it came from a registry, else with those layers
    /// compressed that get smaller by it. It then also has the name `NAME@DIGEST`.
    pub fn push(&self, reference: &Reference, transfer: &Transfer<'_>) -> Result<Pushed> {
        let image = self.get(&reference.key())?;
        let mut out = self.outgoing(&image)?;
        let images = self.list()?;
        let known = known_at(&images, &reference.domain);
        let relatives = relatives(images, reference);
        let others: Vec<String> = of_all(relatives.iter(), reference).collect();
        let credentials = Keeper::of_caller().get(&reference.domain)?;
        let trust = transfer.trust;
        let registry = Registry::open(reference, Access::Push, &others, trust, credentials)?;
        for diff_id in &image.diff_ids {
            (transfer.tell)(&format!("{}: Preparing", short(diff_id)));
        }
        let came = format!("@{}", image.digest);
        let sent = match image.names.iter().any(|name| name.ends_with(&came)) {
            true => BTreeMap::new(),
            false => compress(&mut out, &registry, &known, transfer.progress)?,
        };
        let push = Push {
            registry,
            out: &out,
            relatives,
            sent,
            reference,
            transfer,
        };
        push.layers()?;
        push.documents()?;
        let manifest = out.descriptor();
        out.keep(Reference {
            tag: None,
            digest: Some(manifest.digest.clone()),
            ..reference.clone()
        })?;
        Ok(Pushed {
            id: image.id,
            digest: manifest.digest,
            size: manifest.size,
        })
    }
}

/// The diff ids of the layers that a registry has in any repository, as far as is known here.
fn known_at(images: &[Image], domain: &str) -> BTreeSet<String> {
    let is_there = |image: &&Image| {
        let mut names = image
            .names
            .iter()
            .filter_map(|name| Reference::parse(name).ok());
        names.any(|name| name.digest.is_some() && name.domain == domain)
    };
    let images = images.iter().filter(is_there);
    images
        .flat_map(|image| image.diff_ids.iter().cloned())
        .collect()
}

/// Images that the same registry has in other repositories, as far as is known here.
fn relatives(mut images: Vec<Image>, reference: &Reference) -> Vec<Image> {
    images.retain(|image| of_all(std::iter::once(image), reference).next().is_some());
    images
}

/// Compresses the layers of an image. The registry gets each while it is made, unless it is known to
/// have it, or has enough to do: where they are there, by their diff ids.
fn compress(
    out: &mut Outgoing<'_>,
    registry: &Registry,
    known: &BTreeSet<String>,
    progress: &Progress,
) -> Result<BTreeMap<String, String>> {
    std::thread::scope(|scope| {
        let mut senders = BTreeMap::new();
        out.compress_what_shrinks(progress, |layer, stored| {
            let busy = senders
                .values()
                .filter(|sender: &&ScopedJoinHandle<_>| !sender.is_finished());
            if known.contains(&layer.digest) || busy.count() >= AT_ONCE {
                return;
            }
            if let Ok(from) = stored.follow() {
                let bar = progress.bar(short(&layer.digest), "Pushing", None);
                let send = move || registry.send_ahead(Counted { from, bar });
                senders
                    .entry(layer.digest.clone())
                    .or_insert_with(|| scope.spawn(send));
            }
        })?;
        let ends = senders.into_iter();
        Ok(ends
            .filter_map(|(diff_id, sender)| Some((diff_id, sender.join().ok()??)))
            .collect())
    })
}

/// The other repositories of the registry that have one of these images, known by the digests that
/// these have there.
fn of_all<'a>(
    images: impl Iterator<Item = &'a Image>,
    reference: &Reference,
) -> impl Iterator<Item = String> {
    let mut paths: Vec<String> = images
        .flat_map(|image| &image.names)
        .filter_map(|name| Reference::parse(name).ok())
        .filter(|name| name.digest.is_some() && name.domain == reference.domain)
        .map(|name| name.path)
        .filter(|path| *path != reference.path)
        .collect();
    paths.sort();
    paths.dedup();
    paths.into_iter().take(OTHERS)
}

/// An image on its way.
struct Push<'a> {
    registry: Registry,
    out: &'a Outgoing<'a>,
    relatives: Vec<Image>,
    /// Where the registry has what was sent ahead, by diff id.
    sent: BTreeMap<String, String>,
    reference: &'a Reference,
    transfer: &'a Transfer<'a>,
}

impl Push<'_> {
    fn layers(&self) -> Result<()> {
        let diff_ids = &self.out.image().diff_ids;
        let mut layers: Vec<(&Descriptor, &String)> = Vec::new();
        for (layer, diff_id) in self.out.layers().iter().zip(diff_ids) {
            if !layers.iter().any(|(other, _)| other.digest == layer.digest) {
                layers.push((layer, diff_id));
            }
        }
        in_parallel(&layers, AT_ONCE, |(layer, diff_id), _| {
            let name = short(diff_id);
            let bar = self.transfer.progress;
            let bar = bar.bar(name, "Pushing", Some(layer.size));
            let with_it = self.relatives.iter();
            let with_it = with_it.filter(|image| image.diff_ids.contains(diff_id));
            let others: Vec<String> = of_all(with_it, self.reference).collect();
            let sent = self.sent.get(diff_id.as_str()).map(String::as_str);
            let word = match self.layer(layer, &others, sent, &bar)? {
                Arrival::Known => "Layer already exists".to_owned(),
                Arrival::Mounted(from) => format!("Mounted from {from}"),
                Arrival::Sent => "Pushed".to_owned(),
            };
            bar.done(&word);
            (self.transfer.tell)(&format!("{name}: {word}"));
            Ok(())
        })
    }

    fn layer(
        &self,
        layer: &Descriptor,
        others: &[String],
        sent: Option<&str>,
        bar: &Bar,
    ) -> Result<Arrival> {
        let open = || -> Result<Box<dyn Read + '_>> {
            let from = self.out.open(layer)?;
            let size = from.metadata()?.len();
            ensure!(
                size == layer.size,
                "the layer has {size} bytes, not {}",
                layer.size
            );
            Ok(Box::new(Counted { from, bar }))
        };
        self.registry.put_blob(layer, others, sent, &open)
    }

    /// The configuration, and the manifest, by which the registry learns of all of it.
    fn documents(&self) -> Result<()> {
        let (config, id) = (self.out.config(), &self.out.image().id);
        let open = || -> Result<Box<dyn Read + '_>> { Ok(Box::new(config)) };
        let described = Descriptor::new("", id, config.len() as u64);
        self.registry.put_blob(&described, &[], None, &open)?;
        let (tag, kind) = (
            self.reference.tag_or_latest(),
            self.out.descriptor().media_type,
        );
        self.registry.put_manifest(tag, &kind, self.out.manifest())
    }
}
