//! Writing images as an archive that every tool reads: an OCI image layout (image-spec:
//! image-layout.md) with Docker's manifest.json beside its index, both of the same blobs. The same
//! images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use super::super::progress::{Counted, Progress};
use super::manifest::{CONTAINERD_NAME, Descriptor, INDEX_TYPE, digest_of, hex_of};
use super::{Outgoing, Reference};

/// Images to be written, with the names they are to have.
pub type Parcel<'a> = (Outgoing<'a>, Vec<Reference>);

/// Writes the archive.
pub fn write_archive(parcels: &[Parcel<'_>], to: impl Write, progress: &Progress) -> Result<()> {
    let mut tar = Builder::new(to);
    for dir in ["blobs/", "blobs/sha256/"] {
        add(&mut tar, EntryType::Directory, dir, 0, std::io::empty())?;
    }
    let mut written = BTreeSet::new();
    for (out, _) in parcels {
        for layer in out.layers() {
            if !written.insert(layer.digest.clone()) {
                continue;
            }
            let hex = layer.hex()?;
            let bar = progress.bar(&hex[..12], "saving", Some(layer.size));
            let from = Counted {
                from: out.open(layer)?,
                bar: &bar,
            };
            add(
                &mut tar,
                EntryType::Regular,
                &blob(layer)?,
                layer.size,
                from,
            )?;
            bar.done("saved");
        }
        for bytes in [out.config(), out.manifest()] {
            let digest = digest_of(bytes);
            if written.insert(digest.clone()) {
                let path = format!("blobs/sha256/{}", hex_of(&digest)?);
                add_document(&mut tar, &path, bytes)?;
            }
        }
    }
    let index = serde_json::to_vec(&index(parcels))?;
    add_document(&mut tar, "index.json", &index)?;
    let docker = serde_json::to_vec(&docker_list(parcels)?)?;
    add_document(&mut tar, "manifest.json", &docker)?;
    add_document(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    tar.into_inner()
        .and_then(|mut to| to.flush())
        .context("write the archive")
}

fn blob(of: &Descriptor) -> Result<String> {
    Ok(format!("blobs/sha256/{}", of.hex()?))
}

/// index.json: an entry for each name, in both of the spellings that tools look for.
fn index(parcels: &[Parcel<'_>]) -> Value {
    let mut entries = Vec::new();
    for (out, names) in parcels {
        let mut entry = out.descriptor();
        for name in names {
            entry.set_name(&name.key());
            let full = format!("{}/{}:{}", name.domain, name.path, name.tag_or_latest());
            entry.annotations.insert(CONTAINERD_NAME.to_owned(), full);
            entries.push(entry.clone());
        }
        if names.is_empty() {
            entries.push(entry);
        }
    }
    json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries})
}

fn docker_list(parcels: &[Parcel<'_>]) -> Result<Value> {
    let mut images: BTreeMap<String, Value> = BTreeMap::new();
    let mut order = Vec::new();
    for (out, names) in parcels {
        let config = format!("blobs/sha256/{}", hex_of(&digest_of(out.config()))?);
        let layers: Vec<String> = out.layers().iter().map(blob).collect::<Result<_>>()?;
        let tags: Vec<String> = names.iter().map(Reference::key).collect();
        let tags = match tags.is_empty() {
            true => Value::Null,
            false => json!(tags),
        };
        let image = json!({"Config": config, "RepoTags": tags, "Layers": layers});
        if images.insert(config.clone(), image).is_none() {
            order.push(config);
        }
    }
    let list: Vec<Value> = order
        .iter()
        .filter_map(|config| images.remove(config))
        .collect();
    Ok(Value::Array(list))
}

fn add_document<W: Write>(tar: &mut Builder<W>, path: &str, bytes: &[u8]) -> Result<()> {
    add(tar, EntryType::Regular, path, bytes.len() as u64, bytes)
}

fn add<W: Write>(
    tar: &mut Builder<W>,
    kind: EntryType,
    path: &str,
    size: u64,
    content: impl Read,
) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    tar.append_data(&mut header, path, content.take(size))
        .context("write the archive")
}
