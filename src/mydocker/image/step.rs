//! What builds keep: the layers of their steps, each under a key that says what it was made of and
//! how. The next build with the same key has it from here. `builder prune` lets go of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::whole_file::{replace, sync_file};
use super::author;
use super::draft::Draft;
use super::intake::NewImage;
use super::manifest::{Descriptor, manifest, plain_layer};
use super::store::entries;
use super::upper;
use super::{Image, Reference, Store};

/// An image that is being made: its configuration, and the archives of its layers, bottom first.
#[derive(Debug, Clone)]
pub(in crate::mydocker) struct Parts {
    pub(in crate::mydocker) config: Value,
    pub(in crate::mydocker) layers: Vec<Descriptor>,
}

impl Parts {
    /// Nothing yet.
    pub(in crate::mydocker) fn scratch() -> Parts {
        Parts {
            config: author::blank(),
            layers: Vec::new(),
        }
    }
}

/// What a step has made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::mydocker) struct Step {
    /// When, as RFC 3339 has it.
    pub(in crate::mydocker) created: String,
    /// Its layer, whose archive is not compressed; `None` when it has changed no file.
    pub(in crate::mydocker) layer: Option<Descriptor>,
}

impl Store {
    /// A directory for work in progress, which can hold on to layers.
    pub(in crate::mydocker) fn draft(&self) -> Result<Draft> {
        Draft::new(&self.drafts())
    }

    /// The parts of a published image, which stay there as long as the draft does.
    pub(in crate::mydocker) fn parts(&self, image: &Image, holder: &Draft) -> Result<Parts> {
        let _lock = self.lock(FlockArg::LockShared)?;
        for (blob, diff_id) in image.blobs.iter().zip(&image.diff_ids) {
            ensure!(self.has_layer(&blob.digest, diff_id), "the image is gone");
            holder.pin([blob.digest.as_str(), diff_id])?;
        }
        Ok(Parts {
            config: image.raw_config.clone(),
            layers: image.blobs.clone(),
        })
    }

    /// The image that these parts would be. There must be a layer.
    pub(in crate::mydocker) fn image_of_parts(&self, parts: &Parts) -> Result<Image> {
        let bytes = serde_json::to_vec(&parts.config)?;
        self.assemble(&bytes, parts.layers.clone())
    }

    /// The directories of the layers, top first.
    pub(in crate::mydocker) fn directories(&self, parts: &Parts) -> Result<Vec<PathBuf>> {
        match parts.layers.is_empty() {
            true => Ok(Vec::new()),
            false => self.image_of_parts(parts).map(|image| image.layers),
        }
    }

    /// What is kept under a key, if its layer is; that stays as long as the draft does.
    pub(in crate::mydocker) fn kept_step(&self, key: &str, holder: &Draft) -> Result<Option<Step>> {
        let _lock = self.lock(FlockArg::LockShared)?;
        let Ok(bytes) = std::fs::read(self.steps().join(key)) else {
            return Ok(None);
        };
        let Ok(step) = serde_json::from_slice::<Step>(&bytes) else {
            return Ok(None);
        };
        if let Some(layer) = &step.layer {
            let is_unpacked = self.layers().join(layer.hex()?).is_dir();
            if !is_unpacked || !self.has_layer(&layer.digest, &layer.digest) {
                return Ok(None);
            }
            holder.pin([layer.digest.as_str()])?;
        }
        Ok(Some(step))
    }

    /// Makes a layer of the directory `upper` over `below` and keeps it under a key. The directory is
    /// gone afterwards if there is a layer. With `placeholders`, a container was run in it.
    pub(in crate::mydocker) fn keep_step(
        &self,
        (key, holder): (&str, &Draft),
        below: &Parts,
        (upper, placeholders): (&Path, Option<&[PathBuf]>),
        created: String,
    ) -> Result<(Step, Vec<String>)> {
        let draft = self.draft()?;
        let layers = self.directories(below)?;
        let taken = upper::take(upper, &layers, placeholders, &draft)?;
        let step = Step {
            created,
            layer: taken
                .as_ref()
                .map(|(layer, _)| plain_layer(&layer.blob.digest(), layer.blob.size)),
        };
        if let Some((layer, _)) = &taken {
            sync_file(&layer.blob.path)?;
        }
        let _lock = self.lock(FlockArg::LockExclusive)?;
        let put = || -> Result<()> {
            if let Some((layer, _)) = &taken {
                holder.pin([layer.blob.digest().as_str()])?;
                self.put_layer(layer)?;
            }
            self.put_step(key, &step, true)
        };
        put().inspect_err(|_| draft.leave())?;
        Ok((step, taken.map(|(_, notes)| notes).unwrap_or_default()))
    }

    /// Keeps, each under its key, when steps were carried out that change no file.
    pub(in crate::mydocker) fn keep_dates(&self, dates: &BTreeMap<String, String>) -> Result<()> {
        if dates.is_empty() {
            return Ok(());
        }
        let _lock = self.lock(FlockArg::LockExclusive)?;
        for (key, created) in dates {
            let created = created.clone();
            let layer = None;
            self.put_step(key, &Step { created, layer }, false)?;
        }
        Ok(())
    }

    /// Under the exclusive lock.
    fn put_step(&self, key: &str, step: &Step, durably: bool) -> Result<()> {
        std::fs::create_dir_all(self.steps()).context("make the directory of steps")?;
        replace(&self.steps().join(key), &serde_json::to_vec(step)?, durably)
    }

    /// Publishes what was made.
    pub(in crate::mydocker) fn publish_parts(
        &self,
        parts: &Parts,
        names: Vec<Reference>,
    ) -> Result<Image> {
        let config = serde_json::to_vec(&parts.config)?;
        let image = NewImage {
            manifest: manifest(&config, &parts.layers),
            config,
            names,
        };
        let made = self.publish(&self.draft()?, &[], &[image])?.pop();
        made.context("the image that was just made is gone")
    }

    /// The digests of the layers that steps keep.
    pub(super) fn layers_of_steps(&self) -> Result<Vec<String>> {
        let steps = self.all_steps()?.into_iter();
        let layers = steps.filter_map(|(_, step)| step?.layer);
        Ok(layers.map(|layer| layer.digest).collect())
    }

    /// The files of all steps, with what each keeps. One that is damaged keeps nothing, and is made
    /// anew.
    fn all_steps(&self) -> Result<Vec<(PathBuf, Option<Step>)>> {
        if !self.steps().exists() {
            return Ok(Vec::new());
        }
        let mut steps = Vec::new();
        for entry in entries(&self.steps())? {
            let bytes = match std::fs::read(entry.path()) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.with_context(|| format!("read {}", entry.path().display()))?,
            };
            steps.push((entry.path(), serde_json::from_slice(&bytes).ok()));
        }
        Ok(steps)
    }

    /// Lets go of what steps have made, and of layers that nothing else uses: of all, or only of what
    /// is no layer of an image, and of dates that are not in the history of one. Builds that are at work
    /// hold on to theirs.
    pub(in crate::mydocker) fn forget_steps(&self, all: bool) -> Result<()> {
        if !self.steps().exists() {
            return Ok(());
        }
        self.with_sign(|| {
            let lock = self.lock(FlockArg::LockExclusive)?;
            let images = match all {
                true => Vec::new(),
                false => self.load_all(&self.read_index()?)?,
            };
            let layers: BTreeSet<&String> = images.iter().flat_map(|it| &it.diff_ids).collect();
            let history = images.iter().map(|image| &image.raw_config["history"]);
            let dates: BTreeSet<&str> = history
                .filter_map(Value::as_array)
                .flatten()
                .filter_map(|step| step["created"].as_str())
                .collect();
            let is_shared = |step: &Step| match &step.layer {
                Some(layer) => layers.contains(&layer.digest),
                None => dates.contains(step.created.as_str()),
            };
            for (path, step) in self.all_steps()? {
                if !step.is_some_and(|step| is_shared(&step)) {
                    std::fs::remove_file(&path)
                        .with_context(|| format!("remove {}", path.display()))?;
                }
            }
            // Unless something stays.
            let _ = std::fs::remove_dir(self.steps());
            drop(lock);
            self.tidy()
        })
    }
}
