//! The two ends of `cp` that are streams: a tree as a tar archive, and an archive as a tree.

use super::copy::{Content, Copier, Meta, Node};
use super::image::{
    Attributes, BUFFER, Entry, Headers, contained, entries, set_mtime, set_xattr, write_content,
};
use super::keep_id::KeepId;
use crate::linux::root::Root;
use crate::sys::fds;
use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, major, makedev, minor};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// The owner of no file: in no map of ids.
const NOBODY: u32 = u32::MAX - 1;

/// Writes a tree as an archive in which its top has this name. `keep`: of the container that it is in,
/// whose owners go into the archive.
pub(super) fn write(
    from: &Node,
    name: &OsStr,
    keep: Option<&KeepId>,
    to: impl Write,
) -> Result<u64> {
    let mut writer = Writer {
        keep,
        tar: Builder::new(to),
        bytes: 0,
        first: HashMap::new(),
    };
    writer.add(from, Path::new(name))?;
    let done = writer.tar.into_inner().and_then(|mut to| to.flush());
    done.context("write the archive")?;
    Ok(writer.bytes)
}

struct Writer<'a, W: Write> {
    keep: Option<&'a KeepId>,
    tar: Builder<W>,
    /// Of all files.
    bytes: u64,
    /// Files with several names, by device and inode: the first one.
    first: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Writer<'_, W> {
    fn add(&mut self, from: &Node, path: &Path) -> Result<()> {
        self.add_one(from, path)
            .with_context(|| format!("archive {}", path.display()))?;
        if from.is_dir() {
            for name in from.entries()? {
                // What is gone meanwhile is not copied.
                if let Ok(child) = Node::child(from.fd.as_fd(), &name) {
                    self.add(&child, &path.join(&name))?;
                }
            }
        }
        Ok(())
    }

    fn add_one(&mut self, from: &Node, path: &Path) -> Result<()> {
        let meta = from.meta();
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode);
        let inside = |keep: &KeepId| keep.inside(meta.owner);
        let (uid, gid) = self.keep.map_or(meta.owner, inside);
        header.set_uid(uid.into());
        header.set_gid(gid.into());
        set_mtime(&mut header, meta.modified.tv_sec());
        header.set_size(0);
        match from.kind() {
            SFlag::S_IFREG => self.add_file(from, path, &mut header)?,
            SFlag::S_IFLNK => {
                header.set_entry_type(EntryType::Symlink);
                let target = from.link()?;
                self.tar
                    .append_link(&mut header, path, Path::new(&target))?;
            }
            SFlag::S_IFSOCK => {}
            kind => {
                header.set_entry_type(match kind {
                    SFlag::S_IFDIR => EntryType::Directory,
                    SFlag::S_IFCHR => EntryType::Char,
                    SFlag::S_IFBLK => EntryType::Block,
                    _ => EntryType::Fifo,
                });
                let device = from.stat.st_rdev;
                header.set_device_major(u32::try_from(major(device))?)?;
                header.set_device_minor(u32::try_from(minor(device))?)?;
                self.tar.append_data(&mut header, path, std::io::empty())?;
            }
        }
        Ok(())
    }

    fn add_file(&mut self, from: &Node, path: &Path, header: &mut Header) -> Result<()> {
        if let Some(first) = self.first.get(&from.id()) {
            header.set_entry_type(EntryType::Link);
            return Ok(self.tar.append_link(header, path, first)?);
        }
        let size = u64::try_from(from.stat.st_size).unwrap_or(0);
        header.set_entry_type(EntryType::Regular);
        header.set_size(size);
        // As long as announced, whatever happens to the file meanwhile.
        let content = from.open()?.chain(std::io::repeat(0)).take(size);
        self.tar.append_data(header, path, content)?;
        self.bytes += size;
        if from.stat.st_nlink > 1 {
            self.first.insert(from.id(), path.to_owned());
        }
        Ok(())
    }
}

/// Unpacks an archive below a directory of `root`. Every name is resolved within that root, so that
/// no entry, and no link that is there, leads out of it. `keep`: of the container whose root it is, which
/// has other numbers for the owners. Returns what could not be kept, a line each.
pub(super) fn read(
    copier: &mut Copier,
    from: impl Read,
    root: &Root,
    base: &Path,
    keep: Option<&KeepId>,
) -> Result<Vec<String>> {
    let mut reader = Reader {
        keep,
        copier,
        root,
        base,
        directories: Vec::new(),
        notes: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    entries(from, |entry, headers| reader.take(entry, headers))?;
    reader.finish()?;
    Ok(reader.notes)
}

struct Reader<'a> {
    keep: Option<&'a KeepId>,
    copier: &'a mut Copier,
    root: &'a Root,
    base: &'a Path,
    /// A directory gets its mode and time when nothing more comes into it. Not open until then, for
    /// there may be many.
    directories: Vec<Directory>,
    notes: Vec<String>,
    buffer: Vec<u8>,
}

struct Directory {
    path: PathBuf,
    /// Its device and inode: another may have taken its place since.
    id: (u64, u64),
    attributes: Attributes,
}

impl Reader<'_> {
    fn take<R: Read>(&mut self, entry: &mut Entry<'_, '_, R>, headers: &Headers) -> Result<()> {
        let (attributes, raw) = (headers.attributes()?, headers.name());
        let path = contained(&raw)?;
        let mut kind = entry.header().entry_type();
        if kind.is_file() && raw.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let full = self.base.join(&path);
        if path.as_os_str().is_empty() {
            ensure!(kind.is_dir(), "a file without a name");
            let here = Node::new(self.root.resolve(self.base)?)?;
            self.later(full, &here, attributes);
            return Ok(());
        }
        let (dir, name) = self.root.parent(&full)?;
        let (dir, name) = (dir.as_fd(), name.as_os_str());
        if kind.is_dir() {
            let (made, _) = self.copier.directory(dir, name)?;
            let made = Node::new(made)?;
            self.later(full, &made, attributes);
            return Ok(());
        }
        let meta = self.meta_of(&attributes);
        let link = || attributes.link.as_deref().context("a link to nothing");
        let content = match kind {
            EntryType::Link => {
                let target = contained(link()?)?;
                if target == path {
                    return Ok(());
                }
                let target = self.find(&target)?;
                let content = Content::Again(target.fd.as_fd());
                return self.copier.put(dir, name, &meta, content);
            }
            EntryType::Symlink => {
                let content = Content::Link(OsStr::from_bytes(link()?));
                return self.copier.put(dir, name, &meta, content);
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let buffer = &mut self.buffer;
                Content::Written(&mut |to| write_content(entry, &attributes, to, buffer))
            }
            EntryType::Fifo => Content::Special(SFlag::S_IFIFO, 0),
            EntryType::Char => Content::Special(SFlag::S_IFCHR, device(entry.header())?),
            EntryType::Block => Content::Special(SFlag::S_IFBLK, device(entry.header())?),
            other => bail!("an entry of the kind {other:?} is not supported"),
        };
        self.copier.put(dir, name, &meta, content)?;
        self.set_xattrs(&fds::path(&dir).join(name), &attributes, &path)
    }

    /// What the archive, or the tree before it, has under a name; a link itself.
    fn find(&self, path: &Path) -> Result<Node> {
        let missing = || format!("a hard link to {}, which is not there", path.display());
        let full = self.base.join(path);
        let name = path.file_name().with_context(missing)?;
        let dir = self.root.resolve(full.parent().unwrap_or(&full));
        Node::child(dir.with_context(missing)?.as_fd(), name).with_context(missing)
    }

    fn later(&mut self, path: PathBuf, made: &Node, attributes: Attributes) {
        self.directories.push(Directory {
            path,
            id: made.id(),
            attributes,
        });
    }

    fn finish(&mut self) -> Result<()> {
        for directory in std::mem::take(&mut self.directories) {
            let found = self.root.resolve(&directory.path).ok();
            let found = found.and_then(|fd| Node::new(fd).ok());
            let Some(found) = found.filter(|found| found.id() == directory.id) else {
                continue;
            };
            let what = || format!("unpack {}", directory.path.display());
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let dir = openat(&found.fd, ".", flags, Mode::empty()).with_context(what)?;
            let (dir, attributes) = (dir.as_fd(), &directory.attributes);
            self.copier
                .finish_directory(dir, &self.meta_of(attributes))
                .and_then(|()| {
                    self.set_xattrs(&fds::path(&dir).join("."), attributes, &directory.path)
                })
                .with_context(what)?;
        }
        Ok(())
    }

    fn meta_of(&self, attributes: &Attributes) -> Meta {
        let owner = (attributes.uid.as_raw(), attributes.gid.as_raw());
        // What nobody is in the container cannot be set, which the kernel says then.
        let outside = |keep: &KeepId| keep.outside(owner).unwrap_or((NOBODY, NOBODY));
        Meta {
            mode: attributes.mode.bits(),
            owner: self.keep.map_or(owner, outside),
            modified: attributes.mtime,
        }
    }

    fn set_xattrs(&mut self, to: &Path, attributes: &Attributes, name: &Path) -> Result<()> {
        for (key, value) in &attributes.xattrs {
            let note = set_xattr(to, name.as_os_str(), key, value)?;
            self.notes.extend(note);
        }
        Ok(())
    }
}

fn device(header: &Header) -> Result<u64> {
    let number =
        |number: std::io::Result<Option<u32>>| -> Result<u64> { Ok(number?.unwrap_or(0).into()) };
    Ok(makedev(
        number(header.device_major())?,
        number(header.device_minor())?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_is_counted() {
        let id = super::super::state_dirs::new_id().unwrap();
        let dir = std::env::temp_dir().join(format!("unpacked-{}", &id[..12]));
        std::fs::create_dir(&dir).unwrap();
        let mut tar = Builder::new(Vec::new());
        let mut header = Header::new_ustar();
        header.set_size(7);
        header.set_mode(0o644);
        tar.append_data(&mut header, "file", &b"content"[..])
            .unwrap();
        let archive = tar.into_inner().unwrap();
        let mut copier = Copier::new(false);
        let root = Root::open(&dir).unwrap();
        read(&mut copier, &archive[..], &root, Path::new("/"), None).unwrap();
        assert_eq!(copier.bytes, 7);
        assert_eq!(std::fs::read(dir.join("file")).unwrap(), b"content");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
