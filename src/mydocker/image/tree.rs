//! Copying a directory out of an image, as a container would see it.

use crate::sys::fds;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::super::copy::{Copier, Node};
use super::Image;
use super::layer::kept_xattrs;
use super::merged::{Found, lookup};
use crate::sys::xattr;

/// Copies what an image has at `path`, a directory, into the new directory `to`: files with their
/// owners, modes, times, attributes and further names, and the same of the directory itself. What an
/// upper layer has deleted is not there.
pub(in crate::mydocker) fn copy_directory(
    image: &Image,
    path: &Path,
    to: BorrowedFd<'_>,
) -> Result<()> {
    let found = lookup(&image.layers, path)
        .filter(|found| found.meta.is_dir())
        .with_context(|| format!("the image has no directory {}", path.display()))?;
    let mut tree = Tree {
        copier: Copier::new(true),
    };
    tree.copier.keep_links(to)?;
    tree.directory(&found, to, Path::new(""))
        .with_context(|| format!("copy {} of the image", path.display()))
}

/// Gives a directory the owner, mode, time and attributes of another.
pub(in crate::mydocker) fn dress(from: &Node, to: BorrowedFd<'_>) -> Result<()> {
    copy_xattrs(&fds::path(&from.fd).join("."), &fds::path(&to).join("."))?;
    Copier::new(true).finish_directory(to, &from.meta())
}

struct Tree {
    copier: Copier,
}

impl Tree {
    /// `at` is the path of `to` below the top.
    fn directory(&mut self, from: &Found, to: BorrowedFd<'_>, at: &Path) -> Result<()> {
        for name in from.below.names() {
            if let Some(child) = from.below.child(&name) {
                self.child(&child, to, &name, &at.join(&name))
                    .with_context(|| Path::new(&name).display().to_string())?;
            }
        }
        let here = fds::path(&to).join(".");
        copy_xattrs(&from.path, &here)?;
        self.copier.finish_directory(to, &open(&from.path)?.meta())
    }

    fn child(&mut self, from: &Found, dir: BorrowedFd<'_>, name: &OsStr, at: &Path) -> Result<()> {
        if from.meta.is_dir() {
            let (to, _) = self.copier.directory(dir, name)?;
            return self.directory(from, to.as_fd(), at);
        }
        let node = open(&from.path)?;
        let is_new = self.copier.leaf(&node, &node.meta(), at, (dir, name))?;
        match is_new {
            true => copy_xattrs(&from.path, &fds::path(&dir).join(name)),
            false => Ok(()),
        }
    }
}

fn open(path: &Path) -> Result<Node> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = nix::fcntl::open(path, flags, Mode::empty()).context("open it")?;
    Node::new(fd)
}

/// Gives a file the attributes that belong to another.
pub(super) fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    for (name, value) in kept_xattrs(from)? {
        let name = OsStr::from_bytes(&name);
        xattr::set(to, name, &value)
            .with_context(|| format!("set its attribute {}", name.display()))?;
    }
    Ok(())
}
