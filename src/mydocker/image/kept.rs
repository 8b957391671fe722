//! Layers for containers with `--userns keep-id`, whose numbers of owners stand for others on the disk:
//! such a layer is unpacked once more, beside the usual one, and stays as long as that may.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;

use super::super::copy::{Content, Copier, Node};
use super::super::keep_id::KeepId;
use super::super::progress::{Counted, Progress};
use super::super::whole_file::sync_dir;
use super::implied::dress_above;
use super::manifest::hex_of;
use super::merged::Merged;
use super::publish::put_directory;
use super::ready::{cannot_unpack, open, unpack_archive};
use super::tree::dress;
use super::{Image, Store};

impl Store {
    /// An image as such containers need it: with layers of their own, which are unpacked if they are
    /// not there.
    pub(in crate::mydocker) fn layers_for(
        &self,
        image: &Image,
        keep: &KeepId,
        progress: &Progress,
    ) -> Result<Image> {
        let place = |diff_id: &String| -> Result<PathBuf> {
            Ok(self.layers().join(keep.name_of_layer(hex_of(diff_id)?)))
        };
        let mut below: Vec<PathBuf> = Vec::new();
        for (blob, diff_id) in image.blobs.iter().zip(&image.diff_ids) {
            let (layer, hex) = (place(diff_id)?, hex_of(diff_id)?);
            if !layer.is_dir() {
                let archive = self.blobs().join(blob.hex()?);
                let draft = self.draft()?;
                let dir = draft.path().join("layer");
                let bar = progress.bar(&hex[..12], "unpacking", Some(blob.size));
                let unpacked = open(&archive)
                    .and_then(|from| unpack_archive(Counted { from, bar }, hex, &dir, Some(keep)))
                    .map_err(|error| cannot_unpack(error, diff_id))?;
                unpacked.notes.iter().for_each(|note| progress.note(note));
                dress_above(&below, &dir, &unpacked.implied)
                    .with_context(|| format!("the directories of the layer {diff_id}"))?;
                // Nobody unpacks it again after a loss of power.
                let made = File::open(&dir).context("open the layer")?;
                nix::unistd::syncfs(made).context("write the layer to the disk")?;
                let _lock = self.lock(FlockArg::LockExclusive)?;
                ensure!(archive.exists(), "the image was removed meanwhile");
                put_directory(&dir, &layer)?;
                sync_dir(&self.layers())?;
            }
            below.insert(0, layer);
        }
        Ok(Image {
            layers: below,
            ..image.clone()
        })
    }
}

impl Image {
    /// Adds lines to files of /etc, in the new upper directory of a container of this image. Where there
    /// is no such file in the image, nobody looks for it.
    pub(in crate::mydocker) fn extend_etc(
        &self,
        lines: &[(&'static str, String)],
        upper: &Path,
    ) -> Result<()> {
        let etc = Merged::new(&self.layers).child(OsStr::new("etc"));
        let Some(etc) = etc.filter(|etc| etc.meta.is_dir()) else {
            return Ok(());
        };
        let is_file = |(name, line): &(&'static str, String)| {
            let found = etc.below.child(OsStr::new(name))?;
            let content = self.read_file(Path::new("/etc").join(name));
            found
                .meta
                .is_file()
                .then(|| (*name, found, content, line.clone()))
        };
        let files: Vec<_> = lines.iter().filter_map(is_file).collect();
        if files.is_empty() {
            return Ok(());
        }
        let open = |dir: &Path| File::open(dir).with_context(|| format!("open {}", dir.display()));
        let mut copier = Copier::new(true);
        let (to, _) = copier.directory(open(upper)?.as_fd(), OsStr::new("etc"))?;
        for (name, found, content, line) in files {
            let mut content = content?.unwrap_or_default();
            if !content.is_empty() && !content.ends_with(b"\n") {
                content.push(b'\n');
            }
            content.extend(line.as_bytes());
            let meta = Node::new(open(&found.path)?.into())?.meta();
            let content = Content::Bytes(&mut content.as_slice());
            copier.put(to.as_fd(), OsStr::new(name), &meta, content)?;
        }
        dress(&Node::new(open(&etc.path)?.into())?, to.as_fd())
    }
}
