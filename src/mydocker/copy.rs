//! Copying trees of files by descriptors: a name is used once, below a directory that is held open,
//! and a symbolic link is never followed on the way down. So whoever owns either tree cannot lead
//! the copy out of it.

use super::ids;
use super::remove_tree::remove_tree;
use crate::sys::fds;
use anyhow::{Context, Result, anyhow, bail};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, mkdirat,
    mknodat, utimensat,
};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Something to be copied: an `O_PATH` descriptor, which may be of a symbolic link.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) fd: OwnedFd,
    pub(super) stat: FileStat,
}

impl Node {
    pub(super) fn new(fd: OwnedFd) -> Result<Node> {
        let stat = fstat(&fd).context("look at it")?;
        Ok(Node { fd, stat })
    }

    /// What a directory holds under a name; a link itself.
    pub(super) fn child(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<Node> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        let stat = fstat(&fd)?;
        Ok(Node { fd, stat })
    }

    pub(super) fn kind(&self) -> SFlag {
        SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind() == SFlag::S_IFDIR
    }

    pub(super) fn id(&self) -> Id {
        (self.stat.st_dev, self.stat.st_ino)
    }

    /// The names in a directory, in order.
    pub(super) fn entries(&self) -> Result<Vec<OsString>> {
        if is_kernels(self.fd.as_fd()) {
            return Ok(Vec::new());
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut dir = Dir::openat(&self.fd, ".", flags, Mode::empty()).context("list it")?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.context("list it")?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// A regular file, to be read.
    pub(super) fn open(&self) -> Result<File> {
        // What the descriptor stands for, whatever its name is now.
        let path = fds::path(&self.fd);
        File::open(path).context("open it")
    }

    pub(super) fn link(&self) -> Result<OsString> {
        readlinkat(&self.fd, "").context("read the link")
    }

    pub(super) fn meta(&self) -> Meta {
        Meta {
            mode: self.stat.st_mode & 0o7777,
            owner: (self.stat.st_uid, self.stat.st_gid),
            modified: TimeSpec::new(self.stat.st_mtime, self.stat.st_mtime_nsec),
        }
    }
}

/// Mounts whose files are the kernel's: they are no content of a container.
fn is_kernels(fd: BorrowedFd<'_>) -> bool {
    const DEVPTS: i64 = 0x1cd1;
    const MQUEUE: i64 = 0x1980_0202;
    const CGROUP: i64 = 0x0027_e0eb;
    const CGROUP2: i64 = 0x6367_7270;
    const SYSFS: i64 = 0x6265_6572;
    const PROC: i64 = 0x9fa0;
    let kinds = [DEVPTS, MQUEUE, CGROUP, CGROUP2, SYSFS, PROC];
    fstatfs(fd).is_ok_and(|fs| {
        kinds
            .iter()
            .any(|kind| fs.filesystem_type() == FsType(*kind))
    })
}

/// What is kept of a file besides its content.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meta {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) modified: TimeSpec,
}

/// What a file is.
pub(super) enum Content<'a> {
    Bytes(&'a mut dyn Read),
    /// That of a file: shared with it where the file system can do so.
    File(&'a File),
    /// What somebody else writes.
    Written(&'a mut dyn FnMut(&mut File) -> Result<()>),
    Link(&'a OsStr),
    /// Another name of a file that was copied before: its descriptor.
    Again(BorrowedFd<'a>),
    /// A device, a pipe.
    Special(SFlag, u64),
}

/// How things are copied.
#[derive(Debug, Default)]
pub(super) struct Copier {
    /// Owners are kept; else everything is the caller's.
    owners: bool,
    /// How many bytes of content have been copied.
    pub(super) bytes: u64,
    /// The directory that is being filled first: met in the source, it would never end.
    target: Option<(u64, u64)>,
    /// What is in the way goes, also a directory in the place of a file.
    replaces: bool,
    /// Files with several names, in the tree that is being copied.
    links: Option<Links>,
    /// Where that is at present.
    at: PathBuf,
    /// The file system, or the two of them, can share no content: nobody asks again.
    is_apart: bool,
}

impl Copier {
    pub(super) fn new(owners: bool) -> Copier {
        Copier {
            owners,
            ..Copier::default()
        }
    }

    /// The same, where what is in the way goes, also a directory in the place of a file. Nobody else
    /// may be at work there.
    pub(super) fn replacing(owners: bool) -> Copier {
        Copier {
            owners,
            replaces: true,
            ..Copier::default()
        }
    }

    /// Copies a tree into a directory, under a name. Directories that are there are filled, other
    /// things replaced. A file with several names in it stays one.
    pub(super) fn copy(&mut self, from: &Node, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.keep_links(dir)?;
        self.copy_named(from, dir, name)
    }

    fn copy_named(&mut self, from: &Node, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        self.at.push(name);
        let done = self.copy_one(from, dir, name);
        self.at.pop();
        done.with_context(|| Path::new(name).display().to_string())
    }

    fn copy_one(&mut self, from: &Node, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let meta = from.meta();
        match from.kind() {
            SFlag::S_IFDIR => {
                let (to, is_new) = self.directory(dir, name)?;
                self.fill(from, to.as_fd())?;
                if is_new {
                    self.finish_directory(to.as_fd(), &meta)?;
                }
                Ok(())
            }
            _ => {
                let at = std::mem::take(&mut self.at);
                let done = self.leaf(from, &meta, &at, (dir, name));
                self.at = at;
                done.map(drop)
            }
        }
    }

    /// Copies anything but a directory under a name. One that was copied before gets another name of
    /// the copy: not `true`. `at`: where it goes below the directory that links are kept for.
    pub(super) fn leaf(
        &mut self,
        from: &Node,
        meta: &Meta,
        at: &Path,
        (dir, name): (BorrowedFd<'_>, &OsStr),
    ) -> Result<bool> {
        let first = self.links.as_ref().and_then(|links| links.find(from));
        // Links do not reach over the edge of a mount.
        if let Some(first) = first
            && let Ok(()) = self.put(dir, name, meta, Content::Again(first.as_fd()))
        {
            return Ok(false);
        }
        match from.kind() {
            SFlag::S_IFREG => {
                let file = from.open()?;
                self.put(dir, name, meta, Content::File(&file))?;
            }
            SFlag::S_IFLNK => {
                let target = from.link()?;
                self.put(dir, name, meta, Content::Link(&target))?;
            }
            // A socket is nothing without its process.
            SFlag::S_IFSOCK => return Ok(false),
            kind => {
                let content = Content::Special(kind, from.stat.st_rdev);
                self.put(dir, name, meta, content)?;
            }
        }
        if let Some(links) = &mut self.links {
            links.note(from, at, dir, name)?;
        }
        Ok(true)
    }

    /// From now on a file with several names stays one, of what is copied below this directory.
    pub(super) fn keep_links(&mut self, below: BorrowedFd<'_>) -> Result<()> {
        self.links = Some(Links::below(below)?);
        Ok(())
    }

    /// Copies what is in a directory into another.
    pub(super) fn copy_entries(&mut self, from: &Node, to: BorrowedFd<'_>) -> Result<()> {
        self.keep_links(to)?;
        self.fill(from, to)
    }

    fn fill(&mut self, from: &Node, to: BorrowedFd<'_>) -> Result<()> {
        let there = fstat(to).context("look at the directory")?;
        let target = *self.target.get_or_insert((there.st_dev, there.st_ino));
        if from.id() == target {
            bail!("a directory cannot be copied into itself");
        }
        for name in from.entries()? {
            match Node::child(from.fd.as_fd(), &name) {
                Ok(child) => self.copy_named(&child, to, &name)?,
                // Removed meanwhile.
                Err(Errno::ENOENT) => {}
                Err(error) => {
                    return Err(error).with_context(|| Path::new(&name).display().to_string());
                }
            }
        }
        Ok(())
    }

    /// A directory that is there, or a new one; `true` if it is new.
    pub(super) fn directory(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(OwnedFd, bool)> {
        let is_new = match mkdirat(dir, name, Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) if self.replaces && !is_directory(dir, name) => {
                unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).context("replace it")?;
                mkdirat(dir, name, Mode::S_IRWXU).context("make the directory")?;
                true
            }
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error).context("make the directory"),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(dir, name, flags, Mode::empty()) {
            Ok(fd) => Ok((fd, is_new)),
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                bail!("there is a file of this name in the place of a directory")
            }
            Err(error) => Err(error).context("open the directory"),
        }
    }

    pub(super) fn finish_directory(&self, dir: BorrowedFd<'_>, meta: &Meta) -> Result<()> {
        self.own(dir, OsStr::new("."), meta)?;
        fchmod(dir, Mode::from_bits_truncate(meta.mode)).context("set its mode")?;
        set_time(dir, OsStr::new("."), meta)
    }

    /// Makes a file of any kind but a directory, in place of what is there.
    pub(super) fn put(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        meta: &Meta,
        content: Content<'_>,
    ) -> Result<()> {
        let busy = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => false,
            // A mount point, such as a container's /etc/hosts.
            Err(Errno::EBUSY) => true,
            Err(Errno::EISDIR | Errno::EPERM) if is_directory(dir, name) => {
                if self.replaces {
                    remove_tree(&fds::path(&dir).join(name)).context("replace it")?;
                    return self.put(dir, name, meta, content);
                }
                bail!("there is a directory of this name in the place of a file")
            }
            Err(error) => return Err(error).context("replace it"),
        };
        match content {
            Content::Bytes(_) | Content::File(_) | Content::Written(_) => {
                let mut to = match busy {
                    true => overwritten(dir, name)?,
                    false => made(dir, name)?,
                };
                match content {
                    Content::Bytes(from) => {
                        self.bytes += std::io::copy(from, &mut to).context("copy its content")?;
                    }
                    Content::File(from) => self.content(from, &mut to)?,
                    Content::Written(write) => {
                        write(&mut to)?;
                        self.bytes += to.metadata().context("look at it")?.len();
                    }
                    _ => {}
                }
                self.own(dir, name, meta)?;
                fchmod(&to, Mode::from_bits_truncate(meta.mode)).context("set its mode")?;
                return set_time(dir, name, meta);
            }
            Content::Link(target) => {
                symlinkat(target, dir, name).context("make the link")?;
            }
            Content::Again(file) => {
                let (file, flags) = (fds::path(&file), AtFlags::AT_SYMLINK_FOLLOW);
                // It has its owner and mode: a new owner would take its set-user-id bit away.
                return linkat(AT_FDCWD, &file, dir, name, flags).context("make the hard link");
            }
            Content::Special(kind, device) => {
                let mode = Mode::from_bits_truncate(meta.mode);
                mknodat(dir, name, kind, mode, device).context("make the special file")?;
                self.own(dir, name, meta)?;
                // It was made with what the umask leaves.
                fchmodat(dir, name, mode, FchmodatFlags::NoFollowSymlink)
                    .context("set its mode")?;
                return set_time(dir, name, meta);
            }
        }
        self.own(dir, name, meta)?;
        set_time(dir, name, meta)
    }

    fn content(&mut self, mut from: &File, to: &mut File) -> Result<()> {
        if !self.is_apart {
            match fds::clone_content(from.as_fd(), to.as_fd()) {
                Ok(()) => {
                    self.bytes += to.metadata().context("look at it")?.len();
                    return Ok(());
                }
                Err(error) => {
                    const NEVER: [Errno; 3] = [Errno::EOPNOTSUPP, Errno::EXDEV, Errno::ENOTTY];
                    let why = error.raw_os_error().map(Errno::from_raw);
                    self.is_apart = why.is_some_and(|why| NEVER.contains(&why));
                }
            }
        }
        let from: &mut dyn Read = &mut from;
        self.bytes += std::io::copy(from, to).context("copy its content")?;
        Ok(())
    }

    fn own(&self, dir: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> Result<()> {
        if !self.owners {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(meta.owner.0), Gid::from_raw(meta.owner.1));
        fchownat(
            dir,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )
        .context("set its owner (-a)")
        .map_err(ids::explain)
    }
}

/// Whether the files below a directory can share content. It is tried with two that have no name, so
/// that nothing can be left of it.
pub(super) fn can_share(dir: &Path) -> bool {
    let nameless = || {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        nix::fcntl::open(dir, flags, Mode::S_IRUSR | Mode::S_IWUSR)
    };
    match (nameless(), nameless()) {
        (Ok(from), Ok(to)) => fds::clone_content(from.as_fd(), to.as_fd()).is_ok(),
        _ => false,
    }
}

/// Files with several names that were copied: where the first name went.
#[derive(Debug)]
struct Links {
    top: OwnedFd,
    /// By what they were copied from: where they are below the top, and what they are there.
    first: HashMap<Id, (PathBuf, Id)>,
}

/// The device and inode of a file.
type Id = (u64, u64);

impl Links {
    /// None yet, of a copy into a directory.
    fn below(dir: BorrowedFd<'_>) -> Result<Links> {
        Ok(Links {
            top: dir.try_clone_to_owned().context("duplicate a descriptor")?,
            first: HashMap::new(),
        })
    }

    /// What `from` was copied to under its first name, if that is still there: whoever owns the tree
    /// may have put something else in its place.
    fn find(&self, from: &Node) -> Option<OwnedFd> {
        let (path, id) = self.first.get(&from.id())?;
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(resolve);
        let node = Node::new(openat2(&self.top, path, how).ok()?).ok()?;
        (node.id() == *id).then_some(node.fd)
    }

    /// Remembers what was copied to `name` in `dir`, which is `at` below the top.
    fn note(&mut self, from: &Node, at: &Path, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        if from.stat.st_nlink > 1 {
            let made = Node::child(dir, name).context("look at the copy")?;
            self.first.insert(from.id(), (at.to_owned(), made.id()));
        }
        Ok(())
    }
}

fn set_time(dir: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> Result<()> {
    let flag = UtimensatFlags::NoFollowSymlink;
    utimensat(dir, name, &meta.modified, &meta.modified, flag).context("set its time")
}

fn is_directory(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    Node::child(dir, name).is_ok_and(|node| node.is_dir())
}

fn made(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .map(File::from)
        .context("make the file")
}

/// One that cannot be replaced gets other content.
fn overwritten(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File> {
    // Not to be held up by a pipe.
    let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())
        .map(File::from)
        .context("open what is mounted there")?;
    if !file.metadata().context("look at it")?.is_file() {
        return Err(anyhow!("what is mounted there is no regular file"));
    }
    file.set_len(0).context("empty it")?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch() -> PathBuf {
        let id = super::super::state_dirs::new_id().unwrap();
        let dir = std::env::temp_dir().join(format!("acts-copy-{}", &id[..12]));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    #[test]
    fn a_tree_is_copied_and_no_link_followed() {
        let dir = scratch();
        for path in ["from/sub", "outside", "to/from"] {
            std::fs::create_dir_all(dir.join(path)).unwrap();
        }
        std::fs::write(dir.join("from/sub/file"), "content").unwrap();
        let mode = std::fs::Permissions::from_mode(0o4751);
        std::fs::set_permissions(dir.join("from/sub/file"), mode).unwrap();
        symlink("/nowhere", dir.join("from/link")).unwrap();
        // In the way: a link out of the tree where a directory is to be.
        symlink(dir.join("outside"), dir.join("to/from/sub")).unwrap();
        let here = File::open(&dir).unwrap();
        let from = Node::child(here.as_fd(), OsStr::new("from")).unwrap();
        let to = File::open(dir.join("to")).unwrap();
        let mut copier = Copier::default();
        let error = copier
            .copy(&from, to.as_fd(), OsStr::new("from"))
            .unwrap_err();
        assert!(format!("{error:#}").contains("in the place of a directory"));
        assert!(!dir.join("outside/file").exists());
        std::fs::remove_file(dir.join("to/from/sub")).unwrap();
        // And one where a file is to be: it is replaced.
        std::fs::remove_file(dir.join("to/from/link")).unwrap();
        symlink(dir.join("outside/x"), dir.join("to/from/link")).unwrap();
        let mut copier = Copier::default();
        copier.copy(&from, to.as_fd(), OsStr::new("from")).unwrap();
        assert_eq!(copier.bytes, 7);
        let file = dir.join("to/from/sub/file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o7777,
            0o4751
        );
        let link = std::fs::read_link(dir.join("to/from/link")).unwrap();
        assert_eq!(link, Path::new("/nowhere"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_file_with_several_names_stays_one() {
        let dir = scratch();
        std::fs::create_dir_all(dir.join("from/sub")).unwrap();
        std::fs::create_dir(dir.join("to")).unwrap();
        std::fs::write(dir.join("from/one"), "x").unwrap();
        let mode = std::fs::Permissions::from_mode(0o4755);
        std::fs::set_permissions(dir.join("from/one"), mode).unwrap();
        std::fs::hard_link(dir.join("from/one"), dir.join("from/sub/two")).unwrap();
        symlink("one", dir.join("from/link")).unwrap();
        std::fs::hard_link(dir.join("from/link"), dir.join("from/sub/link")).unwrap();
        let from = Node::new(File::open(dir.join("from")).unwrap().into()).unwrap();
        let to = File::open(dir.join("to")).unwrap();
        let mut copier = Copier::new(true);
        copier.copy_entries(&from, to.as_fd()).unwrap();
        copier.copy(&from, to.as_fd(), OsStr::new("again")).unwrap();
        let id = |name: &str| {
            let node = Node::child(to.as_fd(), OsStr::new(name)).unwrap();
            let is_link = node.kind() == SFlag::S_IFLNK;
            assert_eq!(is_link, name.ends_with("link"));
            assert!(is_link || node.meta().mode == 0o4755);
            node.id()
        };
        assert_eq!(id("link"), id("sub/link"));
        assert_eq!(id("one"), id("sub/two"));
        assert_eq!(id("again/one"), id("again/sub/two"));
        assert_ne!(id("one"), id("again/one"));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_is_not_copied_into_itself() {
        let dir = scratch();
        std::fs::create_dir_all(dir.join("a/b")).unwrap();
        let from = Node::new(File::open(&dir).unwrap().into()).unwrap();
        let to = File::open(dir.join("a/b")).unwrap();
        let copied = Copier::default().copy_entries(&from, to.as_fd());
        let error = format!("{:#}", copied.unwrap_err());
        assert!(error.contains("into itself"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
