//! The files of an image as a container would see them, mounted in a mount namespace of our own: it
//! goes with us, however we go.

use crate::linux::root::Root;
use crate::mydocker::image::{Draft, Parts, Store};
use crate::mydocker::overlay::{self, Writable};
use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// A mounted image. What is written goes to an upper directory of its own.
pub(super) struct View {
    /// Open as long as it is mounted.
    root: Option<Root>,
    draft: Draft,
}

impl View {
    /// Mounts what has been made so far.
    pub(super) fn open(store: &Store, parts: &Parts) -> Result<View> {
        let mut view = View {
            root: None,
            draft: store.draft()?,
        };
        // Two directories below are the least that a kernel before 6.5 takes, and of nothing there is
        // none: an empty one is at the bottom.
        let mut layers = store.directories(parts)?;
        layers.push(view.make("empty", 0o755)?);
        let (upper, work) = (view.draft.path().join("upper"), view.make("work", 0o700)?);
        if let Some(top) = layers.first() {
            overlay::make_upper(&upper, top)?;
        }
        let mounts = view.make("mounts", 0o700)?;
        let target = view.make("mounts/root", 0o755)?;
        overlay::own_namespace(&mounts, &[])?;
        let writable = Writable {
            upper: &upper,
            work: &work,
            volatile: false,
        };
        overlay::mount_root(&layers, writable, &target)?;
        view.root = Some(Root::open(&target)?);
        Ok(view)
    }

    fn make(&self, name: &str, mode: u32) -> Result<PathBuf> {
        let path = self.draft.path().join(name);
        std::fs::DirBuilder::new()
            .mode(mode)
            .create(&path)
            .with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// Its root directory.
    pub(super) fn root(&self) -> Result<&Root> {
        self.root.as_ref().context("it is not mounted any more")
    }

    /// Unmounts it; what was written is there.
    pub(super) fn close(&mut self) -> PathBuf {
        if self.root.take().is_some() {
            let mounts = self.draft.path().join("mounts");
            for path in [mounts.join("root"), mounts] {
                // With our mount namespace it goes anyhow.
                let _ = umount2(&path, MntFlags::MNT_DETACH);
            }
        }
        self.draft.path().join("upper")
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}
