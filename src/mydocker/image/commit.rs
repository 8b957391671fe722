//! Making an image of what a container changed.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::author::{self, Note};
use super::blob::{Blob, Digester};
use super::changes;
use super::draft::Draft;
use super::import::{from_blob, new_name};
use super::layer::LayerWriter;
use super::manifest::{Descriptor, plain_layer};
use super::publish::NewLayer;
use super::upper::write;
use super::{Image, Made, Reference, Store};

/// What a commit may say.
#[derive(Debug, Default)]
pub struct CommitOptions {
    /// `NAME[:TAG]`; without it the image is dangling and known by its id.
    pub name: Option<String>,
    /// The comment in the history.
    pub message: Option<String>,
    /// Who made it.
    pub author: Option<String>,
    /// Dockerfile instructions applied to the configuration.
    pub changes: Vec<String>,
    /// The container's mount points and devices: see [`super::changes()`].
    pub placeholders: Vec<PathBuf>,
    /// The container's own settings (Cmd, Entrypoint, Env, WorkingDir, User in the configuration's
    /// spelling), which replace the image's.
    pub config: Map<String, Value>,
    /// What the container ran, for the history.
    pub created_by: String,
}

/// A commit whose container has been read: it may go on while the image is finished.
pub struct Committing<'a> {
    store: &'a Store,
    draft: Draft,
    blob: Blob,
    below: Vec<Descriptor>,
    config: Value,
    name: Option<Reference>,
    notes: Vec<String>,
    root: std::fs::Metadata,
    created: (OffsetDateTime, CommitOptions),
}

impl Store {
    /// Reads the upper directory of a container made from `base`. Nothing may write to it meanwhile.
    /// The image is made by [`Committing::finish`]; without that the store stays as it was.
    pub fn commit(
        &self,
        base: &Image,
        upper: &Path,
        options: CommitOptions,
    ) -> Result<Committing<'_>> {
        let name = new_name(options.name.as_deref())?;
        let mut config = base.raw_config.clone();
        if !config["config"].is_object() {
            config["config"] = json!({});
        }
        for (key, value) in &options.config {
            config["config"][key] = value.clone();
        }
        for change in &options.changes {
            author::apply(&mut config, change)?;
        }
        let below = base.blobs.clone();
        let draft = Draft::new(&self.drafts())?;
        let path = draft.path().join("blob");
        let mut writer = LayerWriter::new(Digester::storing(&path)?);
        let items = changes::walk(upper, &base.layers, Some(&options.placeholders))?;
        write(&mut writer, &items)?;
        let root = upper
            .metadata()
            .with_context(|| format!("look at {}", upper.display()))?;
        let (blob, notes) = writer.finish()?;
        Ok(Committing {
            store: self,
            blob: blob.finish()?.at(path),
            draft,
            below,
            config,
            name,
            notes,
            root,
            created: (OffsetDateTime::now_utc(), options),
        })
    }
}

impl Committing<'_> {
    /// Publishes the image.
    pub fn finish(mut self) -> Result<Made> {
        let diff_id = self.blob.digest();
        self.below.push(plain_layer(&diff_id, self.blob.size));
        let (layer, dir, more) = from_blob(self.blob, &self.draft)?;
        self.notes.extend(more);
        // The archive of changes does not hold the root directory itself, but the layer shows it.
        std::os::unix::fs::chown(&dir, Some(self.root.uid()), Some(self.root.gid()))
            .and_then(|()| {
                let mode = std::fs::Permissions::from_mode(self.root.mode() & 0o7777);
                std::fs::set_permissions(&dir, mode)
            })
            .with_context(|| format!("change the mode of {}", dir.display()))?;
        let (created, options) = &self.created;
        let note = Note {
            created_by: &options.created_by,
            message: options.message.as_deref(),
            author: options.author.as_deref(),
        };
        author::add_layer(&mut self.config, &diff_id, *created, &note)?;
        let config = serde_json::to_vec(&self.config)?;
        let layer = NewLayer::plain(layer, dir);
        let image = self
            .store
            .publish_one(&self.draft, layer, &self.below, config, self.name)?;
        Ok(Made {
            image,
            notes: self.notes,
        })
    }
}
