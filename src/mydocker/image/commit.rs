//! Making an image of what a container changed.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::FlockArg;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::super::copy::Node;
use super::super::dockerfile;
use super::super::progress::Bar;
use super::author::{self, Note};
use super::blob::{Blob, Digester};
use super::changes::{self, Item};
use super::draft::Draft;
use super::import::{Unpacking, new_name};
use super::layer::LayerWriter;
use super::manifest::{Descriptor, plain_layer};
use super::publish::{NewLayer, put_directory};
use super::tree::Dress;
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
}

/// A commit whose container has been read: it may go on while the image is finished.
pub struct Committing<'a> {
    store: &'a Store,
    /// Ends before the draft goes.
    unpacking: Option<Unpacking>,
    draft: Draft,
    blob: Blob,
    below: Vec<Descriptor>,
    config: Value,
    name: Option<Reference>,
    notes: Vec<String>,
    items: Vec<Item>,
    root: Dress,
    created: (OffsetDateTime, CommitOptions),
}

impl Store {
    /// Reads the upper directories (top first) of a container made from `base`. Nothing may write to
    /// them meanwhile. The image is made by [`Committing::finish`]; without that the store stays as it
    /// was. `copies`: the directories will not be the layer, and copying them begins now.
    pub fn commit(
        &self,
        base: &Image,
        (uppers, copies): (&[PathBuf], bool),
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
        let to = Digester::storing(&path)?;
        let unpacking = match copies {
            true => Some(Unpacking::start(to.follow()?, &draft)?),
            false => None,
        };
        let mut writer = LayerWriter::new(to).with_bar(bar);
        let mut items = changes::walk(uppers, &base.layers, Some(&options.placeholders))?;
        writer.notes = upper::leave_out_false_whiteouts(&mut items);
        write(&mut writer, &items)?;
        let top = uppers.first().context("it has written nowhere")?;
        let root = File::open(top)
            .map_err(anyhow::Error::new)
            .and_then(|top| Dress::of(&Node::new(top.into())?))
            .with_context(|| format!("look at {}", top.display()))?;
        let (blob, notes) = writer.finish()?;
        Ok(Committing {
            store: self,
            blob: blob.finish()?.at(path),
            unpacking,
            draft,
            below,
            config,
            name,
            notes,
            items,
            root,
            created: (OffsetDateTime::now_utc(), options),
        })
    }
}

impl Committing<'_> {
    /// What its layer will be called, and where it will be.
    pub fn layer(&self) -> (String, PathBuf) {
        (self.blob.digest(), self.store.layers().join(&self.blob.hex))
    }

    /// Whether the container has changed anything.
    pub fn has_changes(&self) -> bool {
        !self.items.is_empty()
    }

    /// Publishes the image. Its layer is a copy, unless the store has it.
    pub fn finish(mut self) -> Result<Made> {
        if self.holds_layer()? {
            return self.publish(None);
        }
        let unpacking = match self.unpacking.take() {
            Some(unpacking) => unpacking,
            None => Unpacking::start(self.open_blob()?, &self.draft)?,
        };
        let (dir, more) = unpacking.finish()?;
        self.notes.extend(more);
        // The archive of changes does not hold the root directory itself, but the layer shows it.
        File::open(&dir)
            .map_err(anyhow::Error::new)
            .and_then(|dir| self.root.put_on(dir.as_fd()))
            .with_context(|| format!("change the mode of {}", dir.display()))?;
        self.publish(Some(dir))
    }

    /// Publishes the image with the only upper directory that was read, to which nobody will write
    /// again, as its layer: it moves into the store. The caller has said before that the container
    /// needs it there (`use_layer`).
    pub fn finish_with(self, upper: &Path) -> Result<Made> {
        upper::tidy(upper, &self.items)?;
        {
            let _lock = self.store.lock(FlockArg::LockExclusive)?;
            self.store.note_fresh([self.blob.hex.as_str()])?;
            put_directory(upper, &self.layer().1)?;
            self.draft.pin([self.blob.digest().as_str()])?;
        }
        self.publish(None)
    }

    fn open_blob(&self) -> Result<File> {
        let path = &self.blob.path;
        File::open(path).with_context(|| format!("open {}", path.display()))
    }

    /// Whether the layer is there already, where it stays as long as we do.
    fn holds_layer(&self) -> Result<bool> {
        let _lock = self.store.lock(FlockArg::LockShared)?;
        let (digest, dir) = self.layer();
        let is_there = dir.is_dir();
        if is_there {
            self.draft.pin([digest.as_str()])?;
        }
        Ok(is_there)
    }

    /// `dir`: what the layer unpacks to, if that is not in the store.
    fn publish(mut self, dir: Option<PathBuf>) -> Result<Made> {
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
        let layer = NewLayer::plain(self.blob, dir);
        let image = self
            .store
            .publish_one(&self.draft, layer, &self.below, config, self.name)?;
        Ok(Made {
            image,
            notes: self.notes,
        })
    }
}
