//! The JSON documents of the layout: index, manifest, configuration
//! (image-spec: image-layout.md, manifest.md, config.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// The annotation that holds an entry's name.
const NAME: &str = "org.opencontainers.image.ref.name";

/// index.json: the names of the store. An entry without a name is a dangling image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    schema_version: u32,
    #[serde(default = "index_type")]
    media_type: String,
    pub(super) manifests: Vec<Entry>,
}

/// One name of one manifest. Fields of other tools are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
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

impl Entry {
    pub(super) fn name(&self) -> Option<&str> {
        self.annotations.get(NAME).map(String::as_str)
    }
}

impl Index {
    /// Gives `name` to the manifest; what had the name before stays as a dangling image unless it
    /// has other names. Without a name the manifest becomes a dangling image unless it is known.
    pub(super) fn put(&mut self, digest: &str, size: u64, name: Option<&str>) {
        if let Some(name) = name {
            for entry in &mut self.manifests {
                if entry.name() == Some(name) {
                    entry.annotations.remove(NAME);
                }
            }
        }
        let annotations = name
            .map(|name| (NAME.to_owned(), name.to_owned()))
            .into_iter()
            .collect();
        self.manifests.push(Entry {
            media_type: MANIFEST_TYPE.to_owned(),
            digest: digest.to_owned(),
            size,
            annotations,
            rest: Map::new(),
        });
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

/// A manifest, as far as the store needs it.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Described,
    pub(super) layers: Vec<Described>,
}

/// A descriptor, as far as the store needs it.
#[derive(Debug, Deserialize)]
pub(super) struct Described {
    pub(super) digest: String,
}

/// The bytes of a manifest of uncompressed layers, given as (digest, size), bottom first.
pub(super) fn manifest(config: &[u8], layers: &[(String, u64)]) -> Vec<u8> {
    let layers: Vec<Value> = layers
        .iter()
        .map(|(digest, size)| json!({"mediaType": LAYER_TYPE, "digest": digest, "size": size}))
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": config.len()},
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}

/// `sha256:<hex>` of these bytes.
pub(super) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", super::draft::hex(&Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_moves_and_leaves_its_image_dangling() {
        let mut index = Index::default();
        index.put("sha256:a", 1, Some("x:latest"));
        index.put("sha256:b", 1, Some("x:latest"));
        let state = |index: &Index| -> Vec<(String, Option<String>)> {
            let pair = |e: &Entry| (e.digest.clone(), e.name().map(str::to_owned));
            index.manifests.iter().map(pair).collect()
        };
        let named = |d: &str| (format!("sha256:{d}"), Some("x:latest".to_owned()));
        assert_eq!(state(&index), [("sha256:a".to_owned(), None), named("b")]);
        index.put("sha256:a", 1, Some("x:latest"));
        assert_eq!(state(&index), [("sha256:b".to_owned(), None), named("a")]);
        index.put("sha256:a", 1, None);
        assert_eq!(index.manifests.len(), 2);
    }
}
