//! Copying a directory out of an image, as a container would see it.

use crate::sys::fds;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::AtFlags;
use nix::sys::stat::SFlag;
use nix::sys::time::TimeSpec;
use nix::unistd::linkat;

use super::super::copy::{Content, Copier, Meta, Node};
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
        top: to,
        links: HashMap::new(),
    };
    tree.directory(&found, to, Path::new(""))
        .with_context(|| format!("copy {} of the image", path.display()))
}

/// Gives a directory the owner, mode, time and attributes of another.
pub(in crate::mydocker) fn dress(from: &Node, to: BorrowedFd<'_>) -> Result<()> {
    Dress::of(from)?.put_on(to)
}

/// What a directory has besides its name and its files.
pub(super) struct Dress {
    meta: Meta,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Dress {
    pub(super) fn of(dir: &Node) -> Result<Dress> {
        Ok(Dress {
            meta: dir.meta(),
            xattrs: kept_xattrs(&fds::path(&dir.fd).join("."))?,
        })
    }

    pub(super) fn put_on(&self, dir: BorrowedFd<'_>) -> Result<()> {
        set_xattrs(&fds::path(&dir).join("."), &self.xattrs)?;
        Copier::new(true).finish_directory(dir, &self.meta)
    }
}

struct Tree<'a> {
    copier: Copier,
    top: BorrowedFd<'a>,
    /// Files with several names, by device and inode: where the first one was copied to.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Tree<'_> {
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
        self.copier.finish_directory(to, &meta(from))
    }

    fn child(&mut self, from: &Found, dir: BorrowedFd<'_>, name: &OsStr, at: &Path) -> Result<()> {
        if from.meta.is_dir() {
            let (to, _) = self.copier.directory(dir, name)?;
            return self.directory(from, to.as_fd(), at);
        }
        let id = (from.meta.dev(), from.meta.ino());
        if from.meta.nlink() > 1 {
            if let Some(first) = self.links.get(&id) {
                return linkat(self.top, first, dir, name, AtFlags::empty())
                    .context("make the hard link");
            }
            self.links.insert(id, at.to_owned());
        }
        self.file(from, dir, name)?;
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string());
        copy_xattrs(&from.path, &path.join(name))
    }

    fn file(&mut self, from: &Found, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let meta = meta(from);
        let kind = SFlag::from_bits_truncate(from.meta.mode()) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFREG => {
                let mut file = File::open(&from.path).context("open it")?;
                self.copier.put(dir, name, &meta, Content::Bytes(&mut file))
            }
            SFlag::S_IFLNK => {
                let target = std::fs::read_link(&from.path).context("read the link")?;
                let content = Content::Link(target.as_os_str());
                self.copier.put(dir, name, &meta, content)
            }
            kind => {
                let content = Content::Special(kind, from.meta.rdev());
                self.copier.put(dir, name, &meta, content)
            }
        }
    }
}

fn meta(from: &Found) -> Meta {
    Meta {
        mode: from.meta.mode() & 0o7777,
        owner: (from.meta.uid(), from.meta.gid()),
        modified: TimeSpec::new(from.meta.mtime(), from.meta.mtime_nsec()),
    }
}

fn copy_xattrs(from: &Path, to: &Path) -> Result<()> {
    set_xattrs(to, &kept_xattrs(from)?)
}

fn set_xattrs(to: &Path, xattrs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (name, value) in xattrs {
        let name = OsStr::from_bytes(name);
        xattr::set(to, name, value)
            .with_context(|| format!("set its attribute {}", name.display()))?;
    }
    Ok(())
}
