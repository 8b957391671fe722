//! The JSON documents of the layout: index, manifest, configuration
//! (image-spec: image-layout.md, manifest.md, config.md).

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::super::platform::Platform;
use super::super::sha256::Sha256;
use super::Reference;
use crate::error::ResultExt;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Docker's name for the same.
pub(super) const DOCKER_MANIFEST_TYPE: &str =
    "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// Docker's name for the same.
const DOCKER_LIST_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The annotation that holds a name for containerd and Docker: those write only a tag into OCI's.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The annotation that holds an entry's name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// index.json: the names of the store. An entry without a name is a dangling image. Also an index
/// from outside, of the images of several platforms (image-spec: image-index.md).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    #[serde(default)]
    schema_version: u32,
    #[serde(default = "index_type")]
    media_type: String,
    /// What it lists.
    pub manifests: Vec<Descriptor>,
}

/// What a document refers to by its digest (image-spec: descriptor.md). Fields of other tools are
/// kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is; empty if that is not said.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:<hex>`, once it is checked.
    pub digest: String,
    /// Bytes.
    pub size: u64,
    /// What an image is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Further words about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn index_type() -> String {
    INDEX_TYPE.to_owned()
}

impl Default for Index {
    fn default() -> Index {
        Index {
            schema_version: 2,
            media_type: index_type(),
            manifests: Vec::new(),
        }
    }
}

impl Descriptor {
    /// One of these three facts only.
    pub fn new(media_type: &str, digest: &str, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.to_owned(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        }
    }

    /// The digest without its algorithm.
    ///
    /// # Errors
    /// It is not a sha256 digest.
    pub(super) fn hex(&self) -> Result<&str> {
        hex_of(&self.digest)
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.annotations.get(NAME).map(String::as_str)
    }

    pub(super) fn set_name(&mut self, name: &str) {
        self.annotations.insert(NAME.to_owned(), name.to_owned());
    }

    /// The image's name in an archive of another tool, which may have only a tag where the store has
    /// a name. It may be none.
    pub(super) fn image_name(&self) -> Option<Result<Reference>> {
        let oci = self.name().filter(|name| name.contains([':', '/']));
        let name = self.annotations.get(CONTAINERD_NAME).map(String::as_str);
        Some(Reference::parse(name.or(oci)?))
    }

    /// Whether it is a list of images for several platforms.
    pub fn is_index(&self) -> bool {
        [INDEX_TYPE, DOCKER_LIST_TYPE].contains(&self.media_type.as_str())
    }

    /// Whether it may be an image, or a list of them.
    fn may_be_image(&self) -> bool {
        let is_manifest = ["", MANIFEST_TYPE, DOCKER_MANIFEST_TYPE];
        let is_attestation = self.annotations.contains_key("vnd.docker.reference.type");
        (self.is_index() || is_manifest.contains(&self.media_type.as_str())) && !is_attestation
    }
}

impl Index {
    /// Reads the bytes of an index, or of Docker's manifest list.
    pub fn parse(bytes: &[u8]) -> Result<Index> {
        let index: Index = serde_json::from_slice(bytes).context("it is not a list of images")?;
        ensure!(
            [INDEX_TYPE, DOCKER_LIST_TYPE].contains(&index.media_type.as_str()),
            "{:?} is not a list of images",
            index.media_type
        );
        for entry in &index.manifests {
            hex_of(&entry.digest)?;
        }
        Ok(index)
    }

    /// What is an image, or a list of images, in it: no signatures and attestations.
    pub fn images(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().filter(|entry| entry.may_be_image())
    }

    /// The image for a platform, or else for this machine.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(&self, wanted: Option<&Platform>) -> Result<&Descriptor> {
        let all: Vec<&Descriptor> = self.images().collect();
        // One that does not say what it is for is for everybody.
        if let [only] = all.as_slice()
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let wanted = wanted.cloned().unwrap_or_else(Platform::of_machine);
        let offered = all
            .iter()
            .filter_map(|entry| Some((*entry, entry.platform.as_ref()?)));
        let found = wanted.best(offered.clone());
        found
            .with_context(|| {
                let known = offered.filter(|(_, platform)| platform.os != "unknown");
                let names: Vec<String> = known.map(|(_, platform)| platform.to_string()).collect();
                let names = match names.is_empty() {
                    true => "none".to_owned(),
                    false => names.join(", "),
                };
                format!("there is no image for {wanted}, only for {names}")
            })
            .hint("--platform OS/ARCH takes one of another platform")
    }

    /// Gives `name` to the manifest; what had the name before stays as a dangling image unless it
    /// has other names. Without a name the manifest becomes a dangling image unless it is known.
    pub(super) fn put(&mut self, mut manifest: Descriptor, name: Option<&str>) {
        if let Some(name) = name {
            for entry in &mut self.manifests {
                if entry.name() == Some(name) {
                    entry.annotations.remove(NAME);
                }
            }
            manifest
                .annotations
                .insert(NAME.to_owned(), name.to_owned());
        }
        self.manifests.push(manifest);
        self.tidy();
    }

    /// Puts a manifest in the place of another, with all its names but those that hold its digest.
    pub(super) fn replace(&mut self, old: &str, new: &Descriptor) {
        for entry in &mut self.manifests {
            let name = entry.name().map(str::to_owned);
            let is_fixed = name.as_ref().is_some_and(|name| name.contains('@'));
            if entry.digest == old && !is_fixed {
                *entry = new.clone();
                name.iter().for_each(|name| entry.set_name(name));
            }
        }
        self.tidy();
    }

    /// Drops what says nothing: nameless entries of manifests that have a name or came before.
    fn tidy(&mut self) {
        let all = self.manifests.clone();
        let mut at = 0;
        self.manifests.retain(|entry| {
            let mine = at;
            at += 1;
            entry.name().is_some()
                || !all.iter().enumerate().any(|(other, e)| {
                    e.digest == entry.digest && (e.name().is_some() || other < mine)
                })
        });
    }
}

/// The manifest of one image (image-spec: manifest.md; Docker's schema 2 has the same shape), as far
/// as the store needs it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers' archives, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Reads and checks the bytes of a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).context("it is not the manifest of an image")?;
        ensure!(
            manifest.schema_version == 2,
            "manifests of version {} are not supported",
            manifest.schema_version
        );
        ensure!(
            ["", MANIFEST_TYPE, DOCKER_MANIFEST_TYPE].contains(&manifest.media_type.as_str()),
            "{:?} is not the manifest of an image",
            manifest.media_type
        );
        for part in manifest.layers.iter().chain([&manifest.config]) {
            part.hex()?;
        }
        Ok(manifest)
    }

    /// The media type, OCI's where the document does not say.
    pub fn media_type(&self) -> &str {
        match self.media_type.as_str() {
            "" => MANIFEST_TYPE,
            known => known,
        }
    }
}

/// The hexadecimal digits of a sha256 digest.
pub(super) fn hex_of(digest: &str) -> Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| super::reference::is_hex(hex, 64))
        .with_context(|| format!("{digest:?} is not a sha256 digest"))
}

/// The bytes of a manifest of this configuration and these layers, bottom first.
pub(super) fn manifest(config: &[u8], layers: &[Descriptor]) -> Vec<u8> {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": config.len()},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// The diff ids of a configuration, for each of the layers that `document` names.
pub(super) fn diff_ids(
    config: &ImageConfiguration,
    layers: usize,
    document: impl fmt::Display,
) -> Result<Vec<String>> {
    let ids: Vec<String> = config
        .rootfs()
        .diff_ids()
        .iter()
        .map(ToString::to_string)
        .collect();
    ensure!(
        ids.len() == layers,
        "{document} has {layers} layers, the configuration {}",
        ids.len()
    );
    ids.iter().try_for_each(|id| hex_of(id).map(drop))?;
    Ok(ids)
}

/// A layer as an uncompressed archive.
pub(super) fn plain_layer(digest: &str, size: u64) -> Descriptor {
    Descriptor::new(LAYER_TYPE, digest, size)
}

/// `sha256:<hex>` of these bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", Sha256::of(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_moves_and_leaves_its_image_dangling() {
        let mut index = Index::default();
        let manifest = |digest| Descriptor::new(MANIFEST_TYPE, digest, 1);
        index.put(manifest("sha256:a"), Some("x:latest"));
        index.put(manifest("sha256:b"), Some("x:latest"));
        let state = |index: &Index| -> Vec<(String, Option<String>)> {
            let pair = |e: &Descriptor| (e.digest.clone(), e.name().map(str::to_owned));
            index.manifests.iter().map(pair).collect()
        };
        let named = |d: &str| (format!("sha256:{d}"), Some("x:latest".to_owned()));
        assert_eq!(state(&index), [("sha256:a".to_owned(), None), named("b")]);
        index.put(manifest("sha256:a"), Some("x:latest"));
        assert_eq!(state(&index), [("sha256:b".to_owned(), None), named("a")]);
        index.put(manifest("sha256:a"), None);
        assert_eq!(index.manifests.len(), 2);
    }
}
