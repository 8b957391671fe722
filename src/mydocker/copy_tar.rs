//! The two ends of `cp` that are streams: a tree as a tar archive, and an archive as a tree.

use super::copy::{Content, Copier, Meta, Node};
use crate::linux::root::Root;
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::AtFlags;
use nix::sys::stat::{SFlag, major, makedev, minor};
use nix::sys::time::TimeSpec;
use nix::unistd::linkat;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use tar::{Archive, Builder, Entry, EntryType, Header};

/// Writes a tree as an archive in which its top has this name.
pub(super) fn write(from: &Node, name: &OsStr, to: impl Write) -> Result<u64> {
    let mut tar = Builder::new(to);
    let mut bytes = 0;
    add(&mut tar, from, Path::new(name), &mut bytes)?;
    tar.into_inner()
        .and_then(|mut to| to.flush())
        .context("write the archive")?;
    Ok(bytes)
}

fn add<W: Write>(tar: &mut Builder<W>, from: &Node, path: &Path, bytes: &mut u64) -> Result<()> {
    add_one(tar, from, path, bytes).with_context(|| format!("archive {}", path.display()))?;
    if from.is_dir() {
        for name in from.entries()? {
            // What is gone meanwhile is not copied.
            if let Ok(child) = Node::child(from.fd.as_fd(), &name) {
                add(tar, &child, &path.join(&name), bytes)?;
            }
        }
    }
    Ok(())
}

fn add_one<W: Write>(
    tar: &mut Builder<W>,
    from: &Node,
    path: &Path,
    bytes: &mut u64,
) -> Result<()> {
    let meta = from.meta();
    let mut header = Header::new_gnu();
    header.set_mode(meta.mode);
    header.set_uid(meta.owner.0.into());
    header.set_gid(meta.owner.1.into());
    header.set_mtime(u64::try_from(meta.modified.tv_sec()).unwrap_or(0));
    header.set_size(0);
    match from.kind() {
        SFlag::S_IFREG => {
            let size = u64::try_from(from.stat.st_size).unwrap_or(0);
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            *bytes += size;
            // As long as announced, whatever happens to the file meanwhile.
            let content = from.open()?.chain(std::io::repeat(0)).take(size);
            tar.append_data(&mut header, path, content)?;
        }
        SFlag::S_IFLNK => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, path, Path::new(&from.link()?))?;
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
            tar.append_data(&mut header, path, std::io::empty())?;
        }
    }
    Ok(())
}

/// Unpacks an archive below a directory of `root`. Every name is resolved within that root, so that
/// no entry, and no link that is there, leads out of it.
pub(super) fn read(copier: &mut Copier, from: impl Read, root: &Root, base: &Path) -> Result<()> {
    let mut archive = Archive::new(from);
    // A directory gets its mode and time when nothing more comes into it.
    let mut dirs: Vec<(OwnedFd, Meta)> = Vec::new();
    let entries = archive.entries().context("read the archive")?;
    for entry in entries {
        let mut entry = entry.context("read the archive: is it a tar archive?")?;
        let path = inside(&entry.path().context("read the archive")?)?;
        let done = take(copier, &mut entry, root, base, &path);
        let dir = done.with_context(|| format!("unpack {}", path.display()))?;
        dirs.extend(dir);
    }
    for (dir, meta) in dirs.iter().rev() {
        copier.finish_directory(dir.as_fd(), meta)?;
    }
    Ok(())
}

fn take<R: Read>(
    copier: &mut Copier,
    entry: &mut Entry<'_, R>,
    root: &Root,
    base: &Path,
    path: &Path,
) -> Result<Option<(OwnedFd, Meta)>> {
    let kind = entry.header().entry_type();
    if matches!(kind, EntryType::XGlobalHeader) || path.as_os_str().is_empty() {
        return Ok(None);
    }
    let meta = meta_of(entry.header())?;
    let full = base.join(path);
    let (dir, name) = root.parent(&full)?;
    let name = name.as_os_str();
    let content = match kind {
        EntryType::Directory => {
            let (made, is_new) = copier.directory(dir.as_fd(), name)?;
            return Ok(is_new.then_some((made, meta)));
        }
        EntryType::Link => {
            let target = entry.link_name()?.context("a link to nothing")?;
            let (from, old) = root
                .parent(&base.join(inside(&target)?))
                .map(|(dir, name)| {
                    let name: OsString = name.as_os_str().to_owned();
                    (dir, name)
                })?;
            let _ = nix::unistd::unlinkat(&dir, name, nix::unistd::UnlinkatFlags::NoRemoveDir);
            linkat(&from, old.as_os_str(), &dir, name, AtFlags::empty())
                .context("make the hard link")?;
            return Ok(None);
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().context("a link to nothing")?;
            let target = OsStr::from_bytes(&target).to_owned();
            copier.put(dir.as_fd(), name, &meta, Content::Link(&target))?;
            return Ok(None);
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Content::Bytes(entry),
        EntryType::Fifo => Content::Special(SFlag::S_IFIFO, 0),
        EntryType::Char => Content::Special(SFlag::S_IFCHR, device(entry.header())?),
        EntryType::Block => Content::Special(SFlag::S_IFBLK, device(entry.header())?),
        other => bail!("an entry of the kind {other:?} is not supported"),
    };
    copier.put(dir.as_fd(), name, &meta, content)?;
    Ok(None)
}

fn device(header: &Header) -> Result<u64> {
    let number =
        |number: std::io::Result<Option<u32>>| -> Result<u64> { Ok(number?.unwrap_or(0).into()) };
    Ok(makedev(
        number(header.device_major())?,
        number(header.device_minor())?,
    ))
}

fn meta_of(header: &Header) -> Result<Meta> {
    let id = |id: u64| u32::try_from(id).context("an owner's number is too large");
    Ok(Meta {
        mode: header.mode()? & 0o7777,
        owner: (id(header.uid()?)?, id(header.gid()?)?),
        modified: TimeSpec::new(i64::try_from(header.mtime()?)?, 0),
    })
}

/// A name of the archive as a path below the directory. `..` has no business in it.
fn inside(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                return Err(anyhow!(
                    "the archive has {}, with `..` in it",
                    path.display()
                ));
            }
            _ => {}
        }
    }
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_archive_stay_below() {
        let of = |text: &str| inside(Path::new(text)).map(|path| path.display().to_string());
        assert_eq!(of("/etc/./passwd").unwrap(), "etc/passwd");
        assert_eq!(of("./").unwrap(), "");
        assert!(of("a/../../x").is_err());
    }
}
