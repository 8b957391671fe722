//! Unpacking a layer: a tar archive becomes a directory that overlayfs can use as a lower one.
//!
//! The archive is hostile. Every name is resolved from a descriptor of the directory with
//! `openat2(RESOLVE_BENEATH)`; `..` and links that lead out are errors. OCI whiteouts (image-spec,
//! layer.md) become overlayfs' own marks: a character device 0:0, `trusted.overlay.opaque` or
//! `user.overlay.opaque`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, makedev, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use tar::EntryType;

use super::super::ids;
use super::super::keep_id::KeepId;
use super::super::remove_tree::remove_tree;
use super::blob::write_sparse;
use super::headers::{Attributes, Headers, entries};
use super::merged::opaque_mark;
use super::sparse;
use crate::error::ResultExt;
use crate::sys::xattr;

/// What files inherit from the directory that they are made in (acl(5)).
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// What there is to know of a layer that was unpacked.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// What could not be kept, a line each.
    pub(super) notes: Vec<String>,
    /// How many entries there were.
    pub(super) entries: u64,
    /// Directories of which the archive does not speak, though there are files in them: what they are
    /// is said by the layers below. The empty path is the root.
    pub(super) implied: BTreeSet<PathBuf>,
}

/// Unpacks the archive, read to its end, into the empty directory `root`, for containers with
/// `--userns keep-id` or for all others.
pub(super) fn unpack(archive: impl Read, root: &Path, keep: Option<&KeepId>) -> Result<Unpacked> {
    let mut unpacker = Unpacker::new(root, keep)?;
    let entries = entries(archive, |entry, headers| unpacker.entry(entry, headers))?;
    unpacker.finish()?;
    Ok(Unpacked {
        notes: unpacker.notes,
        entries,
        implied: unpacker.implied,
    })
}

struct Unpacker {
    root: OwnedFd,
    keep: Option<KeepId>,
    /// The directory of the last entry: the next one is mostly there too.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times at the end, when nothing is made in them any more.
    times: Vec<(PathBuf, TimeSpec)>,
    /// And what files that are made in them would inherit.
    defaults: Vec<(PathBuf, Vec<u8>)>,
    notes: Vec<String>,
    /// Directories that were made for what is in them.
    implied: BTreeSet<PathBuf>,
    buffer: Vec<u8>,
}

/// How much of a file is written at a time.
pub(in crate::mydocker) const BUFFER: usize = 256 << 10;

impl Unpacker {
    fn new(root: &Path, keep: Option<&KeepId>) -> Result<Unpacker> {
        let root: OwnedFd = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(root)
            .with_context(|| format!("open {}", root.display()))?
            .into();
        fchmodat(
            &root,
            ".",
            Mode::from_bits_truncate(0o755),
            FchmodatFlags::FollowSymlink,
        )?;
        // Who else would have it is the user.
        if let Some((uid, gid)) = keep.and_then(|keep| keep.outside((0, 0))) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchown(&root, Some(uid), Some(gid)).context("give the root its owner")?;
        }
        let times = vec![(PathBuf::new(), TimeSpec::new(0, 0))];
        Ok(Unpacker {
            root,
            keep: keep.copied(),
            parent: None,
            times,
            defaults: Vec::new(),
            notes: Vec::new(),
            implied: BTreeSet::from([PathBuf::new()]),
            buffer: vec![0; BUFFER],
        })
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, headers: &Headers) -> Result<()> {
        let mut kind = entry.header().entry_type();
        let (attributes, raw) = (headers.attributes()?, headers.name());
        if kind.is_file() && raw.ends_with(b"/") {
            kind = EntryType::Directory;
        }
        let path = contained(&raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            anyhow::ensure!(kind.is_dir(), "the root is not a directory");
            return self.set_directory(&path, &attributes);
        };
        let at = path.parent().unwrap_or(Path::new("")).to_owned();
        let parent = self.enter(&at)?;
        let result = self.place(&parent, &name, &path, kind, entry, &attributes);
        // Kept for the next entry, unless what was replaced may have been it or have led to it.
        match result {
            Ok(true) => self.parent = Some((at, parent)),
            Ok(false) => self.parent = None,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Makes the entry; false when a directory or link was replaced.
    fn place<R: Read>(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        kind: EntryType,
        entry: &mut tar::Entry<'_, R>,
        attributes: &Attributes,
    ) -> Result<bool> {
        if let Some(rest) = name.as_bytes().strip_prefix(b".wh.") {
            let rest = OsStr::from_bytes(rest);
            self.implied.remove(&path.with_file_name(rest));
            self.whiteout(parent, rest)?;
            return Ok(true);
        }
        if kind.is_dir() {
            let kept = make_directory(parent, name)?;
            self.set_directory_in(parent, name, path, attributes)?;
            return Ok(kept);
        }
        if kind == EntryType::Link {
            return self.hard_link(parent, name, path, attributes);
        }
        let kept = clear(parent, name)?;
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let fd = openat(parent, name, flags, Mode::from_bits_truncate(0o600))?;
                write_content(entry, attributes, &mut File::from(fd), &mut self.buffer)?;
            }
            EntryType::Symlink => {
                let target = attributes.link.as_ref().context("a link to nowhere")?;
                symlinkat(OsStr::from_bytes(target), parent, name)?;
            }
            EntryType::Fifo => mknodat(parent, name, SFlag::S_IFIFO, attributes.mode, 0)?,
            EntryType::Char | EntryType::Block => {
                let header = entry.header();
                let major = header.device_major()?.unwrap_or(0).into();
                let minor = header.device_minor()?.unwrap_or(0).into();
                let is_char = kind == EntryType::Char;
                let sort = if is_char {
                    SFlag::S_IFCHR
                } else {
                    SFlag::S_IFBLK
                };
                let made = mknodat(parent, name, sort, attributes.mode, makedev(major, minor));
                if made == Err(Errno::EPERM) && ids::are_mapped() {
                    // A container has the usual ones anyway; those of an image would be dead.
                    let path = path.display();
                    let note = format!("/{path}: left out, only root may make devices");
                    self.notes.push(note);
                    return Ok(kept);
                }
                made.hint("making device nodes needs the right CAP_MKNOD on this machine")?;
            }
            other => {
                let letter = char::from(other.as_byte()).escape_default().to_string();
                bail!("its type '{letter}' is not supported");
            }
        }
        self.set(parent, name, attributes, kind == EntryType::Symlink)?;
        Ok(kept)
    }

    fn hard_link(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<bool> {
        let target = attributes.link.as_ref().context("a link to nowhere")?;
        let target = contained(target)?;
        if target == path {
            return Ok(true);
        }
        let missing = || format!("a hard link to {target:?}, which is not in the archive");
        let target_name = target.file_name().with_context(missing)?;
        let target_parent = self
            .open(target.parent().unwrap_or(Path::new("")))
            .with_context(missing)?;
        let stat = stat(&target_parent, target_name)?.with_context(missing)?;
        anyhow::ensure!(
            !is_kind(&stat, SFlag::S_IFDIR),
            "a hard link to a directory"
        );
        let kept = clear(parent, name)?;
        linkat(&target_parent, target_name, parent, name, AtFlags::empty())
            .with_context(missing)?;
        Ok(kept)
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<()> {
        if name == ".wh..opq" {
            return set_opaque(parent, OsStr::new("."));
        }
        if name.as_bytes().starts_with(b".wh.") {
            return Ok(()); // aufs' own notes
        }
        anyhow::ensure!(
            !matches!(name.as_bytes(), b"" | b"." | b".."),
            "a whiteout of nothing"
        );
        match stat(parent, name)? {
            // The same layer has it anew: only what lower layers have of it is gone.
            Some(stat) if is_kind(&stat, SFlag::S_IFDIR) => set_opaque(parent, name),
            Some(_) => Ok(()),
            None => Ok(mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), 0)?),
        }
    }

    /// A descriptor of the directory `path`, made with its parents where missing.
    fn enter(&mut self, path: &Path) -> Result<OwnedFd> {
        if let Some((_, fd)) = self.parent.take().filter(|(at, _)| at == path) {
            return Ok(fd);
        }
        match self.open(path) {
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::ENOENT) => {}
            Err(error) if error.downcast_ref::<Errno>() == Some(&Errno::ENOTDIR) => {}
            done => return done,
        }
        let mut at = PathBuf::new();
        let mut dir = self.open(&at)?;
        for name in path {
            at.push(name);
            dir = match self.open(&at) {
                Ok(next) => next,
                Err(error) => {
                    let is_whiteout = stat(&dir, name)?.is_some_and(|stat| is_mark(&stat));
                    let missing = error.downcast_ref::<Errno>() == Some(&Errno::ENOENT);
                    if !missing && !is_whiteout {
                        return Err(error);
                    }
                    make_directory(&dir, name)?;
                    self.times.push((at.clone(), TimeSpec::new(0, 0)));
                    // What lower layers have there is gone otherwise.
                    if !is_whiteout {
                        self.implied.insert(at.clone());
                    }
                    self.open(&at)?
                }
            };
        }
        Ok(dir)
    }

    fn open(&self, path: &Path) -> Result<OwnedFd> {
        resolve(self.root.as_fd(), path)
    }

    fn set_directory(&mut self, path: &Path, attributes: &Attributes) -> Result<()> {
        let dir = self.open(path)?;
        self.set_directory_in(&dir, OsStr::new("."), path, attributes)
    }

    fn set_directory_in(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        attributes: &Attributes,
    ) -> Result<()> {
        self.implied.remove(path);
        self.times.push((path.to_owned(), attributes.mtime));
        let mut acls = attributes
            .xattrs
            .iter()
            .filter(|(key, _)| key == DEFAULT_ACL);
        if let Some((_, acl)) = acls.next() {
            self.defaults.push((path.to_owned(), acl.clone()));
        }
        self.set(parent, name, attributes, false)
    }

    /// A user who has but one id has all files himself.
    fn set_owner(&mut self, at: &OwnedFd, name: &OsStr, a: &Attributes) -> Result<()> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let own = (a.uid.as_raw(), a.gid.as_raw());
        let owner = self.keep.map_or(Some(own), |keep| keep.outside(own));
        let set = |(uid, gid)| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(at, name, Some(uid), Some(gid), flags)
        };
        match owner.map_or(Err(Errno::EINVAL), set) {
            Err(Errno::EINVAL) if ids::are_single() => {
                let note = "files of other owners are root's: this user has one id";
                if !self.notes.iter().any(|told| told == note) {
                    self.notes.push(note.to_owned());
                }
                Ok(())
            }
            Err(Errno::EINVAL) => {
                Err(anyhow!("its owner is {}:{}", a.uid, a.gid)).hint(ids::hint())
            }
            other => other.context("change its owner"),
        }
    }

    /// Owner first: changing it clears the set-id bits and the capabilities.
    fn set(&mut self, at: &OwnedFd, name: &OsStr, a: &Attributes, is_link: bool) -> Result<()> {
        self.set_owner(at, name, a)?;
        if !is_link {
            // Not a link: it was made here, by us, a moment ago.
            fchmodat(at, name, a.mode, FchmodatFlags::FollowSymlink)?;
        }
        for (key, value) in a.xattrs.iter().filter(|(key, _)| key != DEFAULT_ACL) {
            let path = through(at, name);
            self.notes.extend(set_xattr(&path, name, key, value)?);
        }
        utimensat(
            at,
            name,
            &a.mtime,
            &a.mtime,
            UtimensatFlags::NoFollowSymlink,
        )?;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for (path, acl) in std::mem::take(&mut self.defaults) {
            // It may have been replaced since.
            if let Ok(dir) = self.open(&path) {
                let here = through(&dir, OsStr::new("."));
                let note = set_xattr(&here, path.as_os_str(), OsStr::new(DEFAULT_ACL), &acl)?;
                self.notes.extend(note);
            }
        }
        for (path, time) in std::mem::take(&mut self.times) {
            if let Ok(dir) = self.open(&path) {
                utimensat(&dir, ".", &time, &time, UtimensatFlags::FollowSymlink)?;
            }
        }
        Ok(())
    }
}

/// The entry's name as a path below the root: absolute names lose their slash, `..` is refused.
pub(in crate::mydocker) fn contained(raw: &[u8]) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for part in raw.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => bail!("the name {:?} leads out", String::from_utf8_lossy(raw)),
            part if part.contains(&0) => bail!("the name holds a NUL"),
            part => path.push(OsStr::from_bytes(part)),
        }
    }
    Ok(path)
}

fn resolve(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(root, path, how) {
            Ok(fd) => return Ok(fd),
            // A rename somewhere on the machine while `..` was being resolved.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(Errno::EXDEV | Errno::ELOOP) => {
                bail!("{path:?} leads out of the image through a symbolic link")
            }
            Err(error) => {
                return Err(anyhow::Error::new(error).context(format!("open {path:?}")));
            }
        }
    }
}

fn stat(at: &OwnedFd, name: &OsStr) -> Result<Option<FileStat>> {
    match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_kind(stat: &FileStat, kind: SFlag) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == kind.bits()
}

fn is_mark(stat: &FileStat) -> bool {
    is_kind(stat, SFlag::S_IFCHR) && stat.st_rdev == 0
}

/// Makes the directory or keeps the one that is there; false when something was replaced.
fn make_directory(parent: &OwnedFd, name: &OsStr) -> Result<bool> {
    let mode = Mode::from_bits_truncate(0o755);
    match stat(parent, name)? {
        None => mkdirat(parent, name, mode)?,
        Some(stat) if is_kind(&stat, SFlag::S_IFDIR) => {}
        Some(stat) => {
            clear(parent, name)?;
            mkdirat(parent, name, mode)?;
            if is_mark(&stat) {
                set_opaque(parent, name)?;
            }
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what has the name already (the last entry of a name counts); false when that was a
/// directory or a link, through which descriptors at hand may have been reached.
fn clear(parent: &OwnedFd, name: &OsStr) -> Result<bool> {
    let Some(stat) = stat(parent, name)? else {
        return Ok(true);
    };
    if is_kind(&stat, SFlag::S_IFDIR) {
        // The draft is ours alone, so nothing can change below the name meanwhile.
        remove_tree(&through(parent, name))?;
        return Ok(false);
    }
    unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
    Ok(!is_kind(&stat, SFlag::S_IFLNK))
}

/// Sets an attribute, or says that it was not kept.
///
/// # Errors
/// Without it a program would not have its capabilities.
pub(in crate::mydocker) fn set_xattr(
    path: &Path,
    name: &OsStr,
    key: &OsStr,
    value: &[u8],
) -> Result<Option<String>> {
    let Err(error) = xattr::set(path, key, value) else {
        return Ok(None);
    };
    let what = format!("{name:?}: attribute {key:?} was not kept: {error}");
    ensure!(key != "security.capability", "{what}");
    Ok(Some(what))
}

fn set_opaque(parent: &OwnedFd, name: &OsStr) -> Result<()> {
    xattr::set(&through(parent, name), opaque_mark(), b"y").context("mark it opaque")
}

/// A path of `name` in the directory of the descriptor, for calls that take no descriptor. The
/// last component is a plain name, so it is never followed further than that.
fn through(parent: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(name)
}

/// Writes a file's content; runs of zeros become holes.
pub(in crate::mydocker) fn write_content<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    attributes: &Attributes,
    to: &mut File,
    buffer: &mut [u8],
) -> Result<()> {
    if let Some(sparse) = &attributes.sparse {
        return sparse.extract(entry, to);
    }
    let size = entry.size();
    ensure!(
        size <= sparse::LARGEST || !entry.header().entry_type().is_gnu_sparse(),
        "a sparse file of {size} bytes is too large"
    );
    write_whole(entry, size, to, buffer)
}

/// Writes a stream of this size; runs of zeros become holes.
pub(super) fn write_whole(
    from: &mut impl Read,
    size: u64,
    to: &mut File,
    buffer: &mut [u8],
) -> Result<()> {
    let mut done = 0u64;
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match from
                .read(&mut buffer[filled..])
                .context("read the archive")?
            {
                0 => break,
                n => filled += n,
            }
        }
        if filled == 0 {
            break;
        }
        write_sparse(to, &buffer[..filled])?;
        done += filled as u64;
    }
    ensure!(done == size, "the archive is cut short");
    Ok(to.set_len(size)?)
}
