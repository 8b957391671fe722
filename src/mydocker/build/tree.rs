//! Copying into an image: which files, with which owner and mode, and a digest of it all by which a
//! later build tells whether they are the same. Times do not count.

use super::pattern::Ignore;
use crate::error::ResultExt;
use crate::linux::root::Root;
use crate::mydocker::copy::{Copier, Meta, Node};
use crate::mydocker::sha256::Sha256;
use crate::sys::fds;
use crate::sys::xattr;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::stat::SFlag;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A file or a directory to be copied. It is not kept open: a pattern may stand for more files than
/// a process may have open.
#[derive(Debug)]
pub(super) struct Source {
    /// Where it is, below what is copied from. Without a slash in front.
    pub(super) path: PathBuf,
    pub(super) is_dir: bool,
}

/// How files change on their way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Change {
    /// Whose they are; without it whose they were.
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<u32>,
}

impl Change {
    fn of(&self, node: &Node) -> Meta {
        let mut meta = node.meta();
        meta.owner = self.owner.unwrap_or(meta.owner);
        if node.kind() != SFlag::S_IFLNK {
            meta.mode = self.mode.unwrap_or(meta.mode);
        }
        meta
    }
}

/// What is copied from, and what of it is left out.
pub(super) struct Tree<'a> {
    pub(super) root: Option<&'a Root>,
    /// By their path below `root`.
    pub(super) ignore: Option<&'a Ignore>,
    /// By their path below what is copied (--exclude).
    pub(super) exclude: Ignore,
}

impl Tree<'_> {
    /// What is at a path, symbolic links followed.
    pub(super) fn find(&self, path: &Path) -> Result<Option<Source>> {
        let Some(node) = self.node(path)? else {
            return Ok(None);
        };
        let below = match (node.is_dir(), path.file_name()) {
            (false, Some(name)) => Path::new(name),
            _ => Path::new(""),
        };
        let is_wanted = self.is_wanted(&node, path, below)?;
        Ok(is_wanted.then(|| Source {
            path: path.to_owned(),
            is_dir: node.is_dir(),
        }))
    }

    /// Opens a source.
    pub(super) fn open(&self, source: &Source) -> Result<Node> {
        let node = self.node(&source.path)?;
        node.with_context(|| format!("{} is gone", source.path.display()))
    }

    fn node(&self, path: &Path) -> Result<Option<Node>> {
        match self.root()?.resolve(path) {
            Ok(fd) => Node::new(fd).map(Some),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("open {}", path.display())),
        }
    }

    fn root(&self) -> Result<&Root> {
        self.root
            .context("there is no context to copy from: the Dockerfile came from standard input")
            .hint("give the directory: mydocker build -f - DIR")
    }

    /// The names in a directory that are not left out.
    pub(super) fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let Some(dir) = self.find(path)?.filter(|source| source.is_dir) else {
            return Ok(Vec::new());
        };
        let dir = self.open(&dir)?;
        let children = self.children(&dir, path, Path::new(""))?;
        children.map(|child| child.map(|(name, _)| name)).collect()
    }

    fn has_exceptions(&self) -> bool {
        self.ignore.is_some_and(Ignore::has_exceptions) || self.exclude.has_exceptions()
    }

    /// `below`: the path below what is copied.
    fn is_left_out(&self, path: &Path, below: &Path) -> bool {
        self.ignore.is_some_and(|ignore| ignore.excludes(path)) || self.exclude.excludes(below)
    }

    /// What of a directory is copied: names and what they stand for, which is open only until the
    /// next one.
    fn children(
        &self,
        dir: &Node,
        path: &Path,
        below: &Path,
    ) -> Result<impl Iterator<Item = Result<(OsString, Node)>>> {
        let child = move |name: OsString| -> Result<Option<(OsString, Node)>> {
            let child = Node::child(dir.fd.as_fd(), &name)
                .with_context(|| format!("open {}", path.join(&name).display()))?;
            let is_wanted = self.is_wanted(&child, &path.join(&name), &below.join(&name))?;
            Ok(is_wanted.then_some((name, child)))
        };
        let names = dir.entries()?.into_iter();
        Ok(names.filter_map(move |name| child(name).transpose()))
    }

    /// A directory that is left out is wanted for the sake of what is in it.
    fn is_wanted(&self, node: &Node, path: &Path, below: &Path) -> Result<bool> {
        if !self.is_left_out(path, below) {
            return Ok(true);
        }
        if !node.is_dir() || !self.has_exceptions() {
            return Ok(false);
        }
        let first = self.children(node, path, below)?.next();
        Ok(first.transpose()?.is_some())
    }

    /// Adds to a digest what would be copied.
    pub(super) fn digest(&self, source: &Source, change: &Change, to: &mut Sha256) -> Result<()> {
        let node = self.open(source)?;
        self.digest_one(&node, &source.path, Path::new(""), change, to)
    }

    fn digest_one(
        &self,
        node: &Node,
        path: &Path,
        below: &Path,
        change: &Change,
        to: &mut Sha256,
    ) -> Result<()> {
        let read = || format!("read {}", path.display());
        let meta = change.of(node);
        let kind = node.kind();
        put(to, below.as_os_str().as_bytes());
        put(
            to,
            format!("{} {:o} {:?}", kind.bits(), meta.mode, meta.owner).as_bytes(),
        );
        let mut file = match kind {
            SFlag::S_IFREG => Some(node.open().with_context(read)?),
            _ => None,
        };
        for (name, value) in xattrs(node, file.as_ref()) {
            put(to, name.as_bytes());
            put(to, &value);
        }
        if let Some(file) = &mut file {
            return put_content(to, file).with_context(read);
        }
        match kind {
            SFlag::S_IFDIR => {
                for child in self.children(node, path, below)? {
                    let (name, child) = child?;
                    let (path, below) = (path.join(&name), below.join(&name));
                    self.digest_one(&child, &path, &below, change, to)?;
                }
                put(to, b"/");
            }
            SFlag::S_IFLNK => put(to, node.link().with_context(read)?.as_bytes()),
            _ => put(to, &node.stat.st_rdev.to_le_bytes()),
        }
        Ok(())
    }

    /// Copies a file, or a directory under this name.
    pub(super) fn copy(
        &self,
        source: &Source,
        change: &Change,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<()> {
        let mut writer = Writer::new(self, change, dir, Path::new(name))?;
        let node = self.open(source)?;
        writer.copy(&node, &source.path, Path::new(""), dir, name)
    }

    /// Copies what is in a directory.
    pub(super) fn copy_entries(
        &self,
        source: &Source,
        change: &Change,
        dir: BorrowedFd<'_>,
    ) -> Result<()> {
        let mut writer = Writer::new(self, change, dir, Path::new(""))?;
        let node = self.open(source)?;
        writer.entries(&node, &source.path, Path::new(""), dir)
    }
}

struct Writer<'a> {
    tree: &'a Tree<'a>,
    copier: Copier,
    change: &'a Change,
    /// The name of what is copied where it goes, if it gets one.
    name: &'a Path,
}

impl<'a> Writer<'a> {
    fn new(
        tree: &'a Tree<'a>,
        change: &'a Change,
        top: BorrowedFd<'_>,
        name: &'a Path,
    ) -> Result<Writer<'a>> {
        let mut copier = Copier::new(true);
        copier.keep_links(top)?;
        Ok(Writer {
            tree,
            copier,
            change,
            name,
        })
    }

    fn copy(
        &mut self,
        node: &Node,
        path: &Path,
        below: &Path,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<()> {
        let meta = self.change.of(node);
        let what = || format!("copy {}", path.display());
        let mut file = None;
        if node.is_dir() {
            let (made, _) = self.copier.directory(dir, name).with_context(what)?;
            self.entries(node, path, below, made.as_fd())?;
            let finished = self.copier.finish_directory(made.as_fd(), &meta);
            finished.with_context(what)?;
        } else {
            let at = self.name.join(below);
            let is_new = self.copier.leaf(node, &meta, &at, (dir, name));
            if !is_new.with_context(what)? {
                return Ok(());
            }
            if node.kind() == SFlag::S_IFREG {
                file = Some(node.open().with_context(what)?);
            }
        }
        let to = fds::path(&dir);
        for (key, value) in xattrs(node, file.as_ref()) {
            // Not every file system keeps them.
            let _ = xattr::set(&to.join(name), &key, &value);
        }
        Ok(())
    }

    fn entries(
        &mut self,
        node: &Node,
        path: &Path,
        below: &Path,
        dir: BorrowedFd<'_>,
    ) -> Result<()> {
        for child in self.tree.children(node, path, below)? {
            let (name, child) = child?;
            self.copy(&child, &path.join(&name), &below.join(&name), dir, &name)?;
        }
        Ok(())
    }
}

/// The attributes of a file or directory that go with it: capabilities, and users' own. A file is
/// open for reading.
fn xattrs(node: &Node, file: Option<&File>) -> Vec<(OsString, Vec<u8>)> {
    let dir = fds::path(&node.fd).join(".");
    let names = match file {
        Some(file) => xattr::list_of(file),
        None if node.is_dir() => xattr::list(&dir),
        None => return Vec::new(),
    };
    let mut found = Vec::new();
    for name in names.unwrap_or_default() {
        let is_kept = name == "security.capability" || name.as_bytes().starts_with(b"user.");
        let value = match file {
            _ if !is_kept => continue,
            Some(file) => xattr::get_of(file, &name),
            None => xattr::get(&dir, &name),
        };
        found.extend(value.ok().flatten().map(|value| (name, value)));
    }
    found
}

fn put(to: &mut Sha256, bytes: &[u8]) {
    to.update(&(bytes.len() as u64).to_le_bytes());
    to.update(bytes);
}

fn put_content(to: &mut Sha256, file: &mut File) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0u64;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            to.update(&size.to_le_bytes());
            return Ok(());
        }
        to.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Makes a directory and those above it, as far as they are missing, and gives them an owner.
pub(super) fn make_dirs(root: &Root, path: &Path, owner: (u32, u32)) -> Result<OwnedFd> {
    let copier = Copier::new(true);
    let mut at = PathBuf::from("/");
    let mut dir = root.resolve(&at).context("open the root")?;
    for part in path.components() {
        let std::path::Component::Normal(name) = part else {
            continue;
        };
        at.push(name);
        dir = match root.resolve(&at) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                let what = || format!("make {}", at.display());
                let (made, _) = copier.directory(dir.as_fd(), name).with_context(what)?;
                let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME)?;
                let meta = Meta {
                    mode: 0o755,
                    owner,
                    modified: now,
                };
                copier
                    .finish_directory(made.as_fd(), &meta)
                    .with_context(what)?;
                made
            }
            Err(error) => return Err(error).with_context(|| format!("open {}", at.display())),
        };
    }
    if !Node::new(dir.try_clone()?)?.is_dir() {
        bail!("{} is not a directory", at.display());
    }
    Ok(dir)
}
