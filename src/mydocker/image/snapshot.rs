//! The upper directories of a running container as they were at one moment: copies whose files share
//! their content with the container's, so that making them takes no longer than making the names.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::FlockArg;
use nix::sys::stat::SFlag;

use super::super::copy::{Content, Copier, Node, can_share};
use super::super::progress::Bar;
use super::draft::Draft;
use super::merged::opaque_mark;
use super::tree::copy_xattrs;
use super::{CommitOptions, Image, Made, Store};
use crate::sys::{fds, xattr};

/// Copies that are a commit's own. The container may go on, and may go.
pub struct Snapshot<'a> {
    store: &'a Store,
    uppers: Vec<PathBuf>,
    /// They are in it.
    _draft: Draft,
}

impl Store {
    /// Whether what is here can share content with what a container has written.
    pub fn can_share(&self) -> bool {
        can_share(&self.drafts())
    }

    /// Copies the upper directories (top first) of a container made from `base`. Nothing may write to
    /// them meanwhile.
    pub fn snapshot(&self, base: &Image, uppers: &[PathBuf]) -> Result<Snapshot<'_>> {
        let draft = Draft::new(&self.drafts())?;
        {
            // Without the container, nobody else may need what it was made from.
            let _lock = self.lock(FlockArg::LockShared)?;
            ensure!(
                self.has_documents(&base.digest, &base.id)?,
                "the image was removed meanwhile"
            );
            let blobs = base.blobs.iter().map(|blob| blob.digest.as_str());
            let others = [&base.id, &base.digest].into_iter().chain(&base.diff_ids);
            draft.pin(blobs.chain(others.map(String::as_str)))?;
        }
        let here = open(draft.path())?;
        let copies = uppers.iter().enumerate().map(|(number, upper)| {
            let name = format!("upper-{number}");
            copy(&open(upper)?, here.fd.as_fd(), name.as_ref())
                .with_context(|| format!("copy {}", upper.display()))?;
            Ok(draft.path().join(name))
        });
        Ok(Snapshot {
            store: self,
            uppers: copies.collect::<Result<_>>()?,
            _draft: draft,
        })
    }
}

impl Snapshot<'_> {
    /// Makes the image. A single copy becomes the layer.
    pub fn commit(self, base: &Image, options: CommitOptions, bar: Bar) -> Result<Made> {
        // The owners in a container with --userns keep-id are those of no layer.
        let keeps_ids = options.keep_id.is_some();
        let committing = self.store.commit(base, &self.uppers, options, bar)?;
        match &self.uppers[..] {
            [upper] if !keeps_ids && committing.has_changes() => committing.finish_with(upper),
            _ => committing.finish(),
        }
    }
}

fn open(dir: &Path) -> Result<Node> {
    let dir = std::fs::File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    Node::new(dir.into())
}

/// Copies an upper directory under a name, with all that a commit looks at.
fn copy(from: &Node, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mut copier = Copier::new(true);
    let (to, _) = copier.directory(dir, name)?;
    copier.keep_links(to.as_fd())?;
    fill(&mut copier, from, to.as_fd(), Path::new(""))
}

/// `at` is the path of `to` below the top.
fn fill(copier: &mut Copier, from: &Node, to: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let (here, there) = (fds::path(&from.fd), fds::path(&to));
    for name in from.entries()? {
        let child = Node::child(from.fd.as_fd(), &name)?;
        let at = at.join(&name);
        if child.is_dir() {
            let (to, _) = copier.directory(to, &name)?;
            fill(copier, &child, to.as_fd(), &at)?;
            continue;
        }
        let meta = child.meta();
        let is_new = match child.kind() {
            // No image has it, which is to be told.
            SFlag::S_IFSOCK => {
                let content = Content::Special(SFlag::S_IFSOCK, 0);
                copier.put(to, &name, &meta, content)?;
                false
            }
            _ => copier.leaf(&child, &meta, &at, (to, &name))?,
        };
        if is_new {
            copy_marked(&here.join(&name), &there.join(&name))?;
        }
    }
    copy_marked(&here.join("."), &there.join("."))?;
    copier.finish_directory(to, &from.meta())
}

/// The attributes that belong to the file, and the mark of a directory that hides what is below it.
fn copy_marked(from: &Path, to: &Path) -> Result<()> {
    copy_xattrs(from, to)?;
    if let Some(value) = xattr::get(from, opaque_mark())? {
        xattr::set(to, opaque_mark(), &value)?;
    }
    Ok(())
}
