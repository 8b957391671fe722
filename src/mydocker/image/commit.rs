//! Making an image of what a container changed.

use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::FlockArg;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::dockerfile;
use super::super::keep_id::KeepId;
use super::super::progress::Bar;
use super::author::{self, Note};
use super::blob::{Blob, Digester};
use super::changes::{self, Item};
use super::draft::Draft;
use super::import::new_name;
use super::layer::LayerWriter;
use super::manifest::{Descriptor, plain_layer};
use super::publish::{NewLayer, put_directory};
use super::upper::{self, write};
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
    /// The container's own settings, in the configuration's spelling, which replace the image's;
    /// `null` for none.
    pub config: Map<String, Value>,
    /// What the container ran, for the history.
    pub created_by: String,
    /// Whose ids it keeps.
    pub keep_id: Option<KeepId>,
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
    items: Vec<Item>,
    has_changes: bool,
    created: (OffsetDateTime, CommitOptions),
}

impl Store {
    /// Reads the upper directories (top first) of a container made from `base`. Nothing may write to
    /// them meanwhile. The image is made by [`Committing::finish`]; without that the store stays as it
    /// was.
    pub fn commit(
        &self,
        base: &Image,
        uppers: &[PathBuf],
        options: CommitOptions,
        bar: Bar,
    ) -> Result<Committing<'_>> {
        let name = new_name(options.name.as_deref())?;
        let mut config = base.raw_config.clone();
        if !config["config"].is_object() {
            config["config"] = json!({});
        }
        if let Some(config) = config["config"].as_object_mut() {
            config.extend(options.config.clone());
            config.retain(|_, value| !value.is_null());
        }
        dockerfile::apply(&mut config, &options.changes)?;
        let below = base.blobs.clone();
        let draft = Draft::new(&self.drafts())?;
        let path = draft.path().join("blob");
        let mut writer = LayerWriter::new(Digester::storing(&path)?)
            .with_bar(bar)
            .of_container(options.keep_id.as_ref());
        let mut items = changes::walk(uppers, &base.layers, Some(&options.placeholders))?;
        writer.notes = upper::leave_out_false_whiteouts(&mut items);
        let root = changes::root(uppers)?;
        let has_changes = !items.is_empty() || root.is_other_root(&base.layers)?;
        // Always: who unpacks the layer some day may know nothing of those below.
        items.insert(0, root);
        write(&mut writer, &items)?;
        let (blob, notes) = writer.finish()?;
        Ok(Committing {
            store: self,
            blob: blob.finish()?.at(path),
            draft,
            below,
            config,
            name,
            notes,
            items,
            has_changes,
            created: (OffsetDateTime::now_utc(), options),
        })
    }
}

impl Committing<'_> {
    /// What its layer will be called, and where it will be.
    pub fn layer(&self) -> (String, PathBuf) {
        (self.blob.digest(), self.store.layers().join(&self.blob.hex))
    }

    /// Whether the upper directory can be the layer: there is something in it, and all of that is in the
    /// image. What is left out of it is still the container's.
    pub fn may_move(&self) -> bool {
        self.has_changes && self.notes.is_empty()
    }

    /// Whether there is something in the layer.
    pub(super) fn has_changes(&self) -> bool {
        self.has_changes
    }

    /// Publishes the image with the only upper directory that was read, to which nobody will write
    /// again, as its layer: it moves into the store. If the container needs it there, the caller has said
    /// so before (`use_layer`).
    pub fn finish_with(self, upper: &Path) -> Result<Made> {
        upper::tidy(upper, &self.items)?;
        {
            let _lock = self.store.lock(FlockArg::LockExclusive)?;
            self.store.note_fresh([self.blob.hex.as_str()])?;
            put_directory(upper, &self.layer().1)?;
            self.draft.pin([self.blob.digest().as_str()])?;
        }
        self.finish()
    }

    /// Publishes the image. Its layer is the archive, which is unpacked when it is needed.
    pub fn finish(mut self) -> Result<Made> {
        let diff_id = self.blob.digest();
        self.below.push(plain_layer(&diff_id, self.blob.size));
        let (created, options) = &self.created;
        let note = Note {
            created_by: &options.created_by,
            message: options.message.as_deref(),
            author: options.author.as_deref(),
        };
        author::add_layer(&mut self.config, &diff_id, *created, &note)?;
        let config = serde_json::to_vec(&self.config)?;
        let layer = NewLayer::plain(self.blob, None);
        let image = self
            .store
            .publish_one(&self.draft, layer, &self.below, config, self.name)?;
        Ok(Made {
            image,
            notes: self.notes,
        })
    }
}
