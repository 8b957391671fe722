//! Making an image of what a container changed.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Image, Made, Store};

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
    /// The container's mount points and devices: see [`super::changes`].
    pub placeholders: Vec<PathBuf>,
    /// The container's own settings (Cmd, Entrypoint, Env, WorkingDir, User in the configuration's
    /// spelling), which replace the image's.
    pub config: serde_json::Map<String, serde_json::Value>,
}

/// A commit whose container has been read: it may go on while the image is finished.
pub struct Committing<'a> {
    store: &'a Store,
}

impl Store {
    /// Reads the upper directory of a container made from `base`. Nothing may write to it meanwhile.
    pub fn commit<'a>(
        &'a self,
        base: &Image,
        upper: &Path,
        options: &CommitOptions,
    ) -> Result<Committing<'a>> {
        let _ = (base, upper, options);
        anyhow::bail!("commit is still being written")
    }
}

impl Committing<'_> {
    /// Publishes the image.
    pub fn finish(self) -> Result<Made> {
        let _ = self.store;
        anyhow::bail!("commit is still being written")
    }
}
