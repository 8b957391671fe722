//! Images: an OCI image layout on disk whose layers are unpacked once and shared.
//!
//! ```text
//! <root>/images/            oci-layout, index.json, blobs/sha256/*: any OCI tool reads it
//! <root>/images/unpacked/*  for each compressed blob: its diff id and size without compression
//! <root>/images/fresh/<hex> a layer that the disk may not have yet
//! <root>/layers/<hex>/      the unpacked layer of that diff id, an overlay lower directory; made
//!                           when it is needed, if not before
//! <root>/build/steps/<key>  what a step of a build has made: a layer that may be no image's yet
//! <root>/drafts/<random>/   work in progress, owned by a live lock; reaped when the lock is free
//! <root>/images.lock        held shared to read and use, exclusive to publish and remove
//! ```
//!
//! Layers made here are kept uncompressed: the blob's digest is the diff id. Those from outside are
//! kept as they came, so that digests stay what they were. Everything slow (reading, hashing, unpacking) happens in a draft without the lock; publishing is
//! a few renames under it. What no name, no container and no step refers to is swept by the next removal.

pub(super) mod author;
mod blob;
mod changes;
mod commit;
mod compression;
mod contents;
mod default;
pub(super) mod draft;
mod fresh;
mod gzip;
mod headers;
mod implied;
mod import;
mod incoming;
mod intake;
mod kept;
mod layer;
mod load;
mod manifest;
mod merged;
mod outgoing;
mod proxy;
mod publish;
mod pull;
mod push;
mod ready;
mod reference;
mod registry;
mod registry_auth;
mod resume;
mod save;
mod snapshot;
mod sparse;
mod step;
mod store;
mod transport;
mod tree;
mod unpack;
mod upload;
mod upper;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use time::OffsetDateTime;

use super::platform::Platform;

pub use changes::{Change, Kind, changes};
pub use commit::{CommitOptions, Committing};
pub use compression::Compression;
pub(super) use compression::{bounded, decompressed, is_compressed};
pub(super) use draft::{Draft, hex};
pub(super) use headers::{Attributes, Entry, Headers, entries, set_mtime};
pub use import::{ImportOptions, Source};
pub use incoming::Limits;
pub use intake::{Intake, NewImage};
pub(super) use layer::write_tree;
pub use load::Loaded;
pub use manifest::{Descriptor, Index, Manifest};
pub use outgoing::Outgoing;
pub use pull::{Pulled, Transfer};
pub use push::Pushed;
pub use reference::Reference;
pub use registry::login;
pub use save::{Parcel, write_archive};
pub use snapshot::Snapshot;
pub(super) use step::{Parts, Step};
pub use store::{Removed, Store};
pub use transport::Trust;
pub(super) use tree::{copy_directory, dress};
pub(super) use unpack::{BUFFER, contained, set_xattr, write_content};

/// The options an overlay of these layers must be mounted with besides its directories: layers hold
/// whole files and directories only, so that each can be read without the others.
/// Within a user namespace the marks of overlayfs are attributes that users may set, and the first two
/// options are implied and may not be named.
pub(super) fn overlay_options() -> &'static str {
    match super::ids::are_mapped() {
        false => "redirect_dir=off,metacopy=off,index=off",
        true => "index=off,userxattr",
    }
}

/// The search path of an image that sets none, as Docker's.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image of the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// The digest of its configuration, `sha256:<hex>`: what Docker calls the image id.
    pub id: String,
    /// The digest of its manifest, `sha256:<hex>`.
    pub digest: String,
    /// Its names, `repository:tag` in the short form (`busybox:latest`); none when it is dangling.
    pub names: Vec<String>,
    /// The digest of the manifest that each name stands for. They differ where one image came with
    /// different compression.
    pub digests: BTreeMap<String, String>,
    /// Its configuration.
    pub config: oci_spec::image::ImageConfiguration,
    /// The configuration as it was written, with fields that `config` does not know (Healthcheck).
    pub raw_config: serde_json::Value,
    /// The unpacked layers, top first, ready for `lowerdir=`. An image without layers cannot
    /// be run, but may be the base of one.
    pub layers: Vec<PathBuf>,
    /// The layers' digests, `sha256:<hex>`, bottom first as in the configuration.
    pub diff_ids: Vec<String>,
    /// The layers' archives as the manifest describes them, bottom first.
    pub blobs: Vec<Descriptor>,
    /// Bytes of all its layers as uncompressed archives.
    pub size: u64,
    /// The same of each layer, bottom first.
    pub layer_sizes: Vec<u64>,
    /// When it was made; the epoch when the configuration does not say.
    pub created: OffsetDateTime,
}

/// An image that was just made, and what the user should be told about it.
#[derive(Debug)]
pub struct Made {
    /// The image, published.
    pub image: Image,
    /// What was left out and why, a line each.
    pub notes: Vec<String>,
}

impl Image {
    /// Whether it has a tag. The digests under which registries have it are names, too.
    pub fn is_tagged(&self) -> bool {
        self.names.iter().any(|name| !name.contains('@'))
    }

    /// Its names as pairs of a repository and a digest there: what registries have it as, and, in
    /// repositories where that is not known, the manifests that its tags stand for.
    pub fn repo_digests(&self) -> BTreeSet<(&str, &str)> {
        let known = || self.names.iter().filter_map(|name| name.split_once('@'));
        let tags = self.digests.iter().filter(|(name, _)| !name.contains('@'));
        let of_tags = tags.filter_map(|(name, digest)| Some((name.rsplit_once(':')?.0, &**digest)));
        let is_unknown =
            |(repository, _): &(&str, &str)| !known().any(|(one, _)| one == *repository);
        known().chain(of_tags.filter(is_unknown)).collect()
    }

    /// The names that go with `name`: itself; for the last tag in a repository, also the digests
    /// there.
    fn going_with(&self, name: &str) -> Vec<String> {
        let repository = |name: &str| Reference::parse(name).map(|r| r.repository()).ok();
        let mine = repository(name);
        let is_tag = |name: &str| !name.contains('@');
        let beside: Vec<&String> = self
            .names
            .iter()
            .filter(|other| *other != name && repository(other) == mine)
            .collect();
        let is_last = is_tag(name) && !beside.iter().any(|other| is_tag(other));
        let rest = beside.into_iter().filter(|_| is_last);
        std::iter::once(name.to_owned())
            .chain(rest.cloned())
            .collect()
    }

    /// The id without its algorithm, cut to Docker's 12 digits.
    pub fn short_id(&self) -> &str {
        pull::short(&self.id)
    }

    /// What it is made for.
    pub fn platform(&self) -> Platform {
        Platform::of_config(&self.config)
    }

    /// Whether `name` is a program of the image: an absolute path, or a name found on its `PATH`.
    pub fn holds_command(&self, name: &str) -> bool {
        self.command_path(name).is_some()
    }

    /// Where in the image the program `name` is; see [`Image::holds_command`].
    pub fn command_path(&self, name: &str) -> Option<PathBuf> {
        let is_program = |path: &Path| {
            merged::lookup(&self.layers, path).is_some_and(|found| {
                found.meta.is_file() && found.meta.permissions().mode() & 0o111 != 0
            })
        };
        if name.is_empty() {
            return None;
        }
        if name.contains('/') {
            let path = Path::new(name);
            return (path.is_absolute() && is_program(path)).then(|| path.to_owned());
        }
        let env = self.config.config().as_ref().and_then(|c| c.env().as_ref());
        let path = env
            .and_then(|env| env.iter().find_map(|line| line.strip_prefix("PATH=")))
            .unwrap_or(DEFAULT_PATH);
        path.split(':')
            .filter(|dir| dir.starts_with('/'))
            .map(|dir| Path::new(dir).join(name))
            .find(|path| is_program(path))
    }

    /// The content of the regular file `path` of the image, symbolic links followed inside it;
    /// `None` when there is none. For small files such as /etc/passwd: at most 16 MiB.
    pub fn read_file(&self, path: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let path = Path::new(path.as_ref());
        let Some(found) = merged::lookup(&self.layers, path) else {
            return Ok(None);
        };
        if !found.meta.is_file() {
            return Ok(None);
        }
        anyhow::ensure!(
            found.meta.len() <= 16 << 20,
            "{} of the image is larger than 16 MiB",
            path.display()
        );
        let bytes = std::fs::read(&found.path)
            .with_context(|| format!("read {} of the image", path.display()))?;
        Ok(Some(bytes))
    }

    /// Whether the image holds anything at `path`, symbolic links followed inside it, and whether
    /// that is a directory.
    pub fn is_dir(&self, path: &Path) -> Option<bool> {
        merged::lookup(&self.layers, path).map(|found| found.meta.is_dir())
    }
}
