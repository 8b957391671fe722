//! The root of a container, seen from outside. Every path inside is resolved from it by the kernel,
//! which keeps symbolic links and `..` within (openat2(2), `RESOLVE_IN_ROOT`), and is acted on by
//! descriptor: a path could be exchanged between two looks at it (CVE-2021-30465).

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

/// As many links are followed on one way (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// What [`Root::parent_again`] has found last: a path and the directory there.
#[derive(Debug, Default)]
pub struct LastDir(Option<(PathBuf, OwnedFd)>);

/// A handle of a root directory.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory as a root.
    pub fn open(path: &Path) -> Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path, flags, Mode::empty())
            .with_context(|| format!("open the root {}", path.display()))?;
        Ok(Root {
            fd,
            path: path.to_owned(),
        })
    }

    /// The directory.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What is at `path` inside, with symbolic links followed. An `O_PATH` descriptor.
    pub fn resolve(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.resolve_with(path, OFlag::empty(), ResolveFlag::empty())
    }

    /// As [`Root::resolve`], but a symbolic link anywhere on the way is an error (ELOOP).
    pub fn resolve_without_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.resolve_with(path, OFlag::empty(), ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn resolve_with(&self, path: &Path, flags: OFlag, extra: ResolveFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | extra;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
            .resolve(resolve);
        loop {
            match openat2(&self.fd, relative(path), how) {
                // A rename somewhere in the tree made the kernel unsure; it says to try again.
                Err(Errno::EAGAIN) => continue,
                other => return other,
            }
        }
    }

    /// The directory at `path` inside, made with its parents when it is missing.
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        match self.resolve(path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| self.name(path)),
        }
        if let Ok(fd) = self.mkdir(path, mode) {
            return Ok(fd);
        }
        let handle = self
            .pathrs()?
            .mkdir_all(self.destination(path)?, &Permissions::from_mode(mode))
            .with_context(|| format!("make the directory {}", self.name(path)))?;
        Ok(handle.into())
    }

    /// Where `path` leads, whether or not anything is there: a path inside without links. Whoever
    /// makes something there must not trust that it is still so.
    fn destination(&self, path: &Path) -> Result<PathBuf> {
        let parts = |path: &Path| -> Vec<_> {
            path.components()
                .rev()
                .map(|part| part.as_os_str().to_owned())
                .collect()
        };
        let mut left = parts(path);
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match Path::new(&part).components().next() {
                Some(Component::Normal(name)) => done.push(name),
                Some(Component::ParentDir) => drop(done.pop()),
                Some(Component::RootDir) => done.clear(),
                _ => {}
            }
            if let Some(target) = self.link(&done).with_context(|| self.name(path))? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP).with_context(|| self.name(path));
                }
                done.pop();
                left.extend(parts(&target));
            }
        }
        let done = Path::new("/").join(done);
        if done.starts_with("/proc") && !Path::new("/").join(path).starts_with("/proc") {
            bail!("{} leads into /proc", self.name(path));
        }
        Ok(done)
    }

    /// The target of the link at `path`, which has no other; `None`: no link is there.
    fn link(&self, path: &Path) -> Result<Option<PathBuf>> {
        let fd = match self.resolve_with(path, OFlag::O_NOFOLLOW, ResolveFlag::RESOLVE_NO_SYMLINKS)
        {
            Err(Errno::ENOENT) => return Ok(None),
            other => other?,
        };
        match readlinkat(&fd, "") {
            // readlinkat(2): what the descriptor refers to is no link.
            Err(Errno::ENOENT) => Ok(None),
            // It may lead elsewhere than its text says.
            Ok(_) if fstatfs(&fd)?.filesystem_type() == PROC_SUPER_MAGIC => {
                bail!("{} is a link of a procfs", path.display())
            }
            other => Ok(Some(other?.into())),
        }
    }

    /// A new directory in one that is there: the usual case, without pathrs' care for the whole way
    /// (60 system calls).
    fn mkdir(&self, path: &Path, mode: u32) -> nix::Result<OwnedFd> {
        let (Some(name), Some(parent)) = (path.file_name(), path.parent()) else {
            return Err(Errno::EINVAL);
        };
        let parent = self.resolve(parent)?;
        mkdirat(&parent, name, Mode::from_bits_truncate(mode))?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&parent, name, flags, Mode::empty())
    }

    /// The file at `path` inside, made empty with its parents when it is missing.
    pub fn create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        match self.resolve(path) {
            Ok(fd) => return Ok(fd),
            Err(Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| self.name(path)),
        }
        let destination = self.destination(path)?;
        let (parent, name) = self.parent(&destination)?;
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_WRONLY;
        match openat(&parent, name, flags, Mode::from_bits_truncate(mode)) {
            // Another container with the same volume was faster.
            Err(Errno::EEXIST) => self.resolve(path),
            made => made,
        }
        .with_context(|| format!("make the file {}", self.name(path)))
    }

    /// The directory that holds `path`, made when it is missing, and the last part of `path`.
    pub fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a Path)> {
        let name = path
            .file_name()
            .with_context(|| format!("{}: it has no name", path.display()))?;
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.mkdir_all(parent, 0o755)?, Path::new(name)))
    }

    /// As [`Root::parent`], but the directory of the last call serves again if it has the same path, as
    /// /dev for each device. It is the caller's to know that no mount has been made on it meanwhile.
    pub fn parent_again<'a, 'b>(
        &self,
        path: &'a Path,
        last: &'b mut LastDir,
    ) -> Result<(&'b OwnedFd, &'a Path)> {
        let LastDir(last) = last;
        let (dir, name) = match (last.take(), path.file_name()) {
            (Some((known, dir)), Some(name)) if Some(known.as_path()) == path.parent() => {
                (dir, Path::new(name))
            }
            _ => self.parent(path)?,
        };
        let known = path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok((&last.insert((known, dir)).1, name))
    }

    /// `path` as a message names it.
    pub fn name(&self, path: &Path) -> String {
        if self.path == Path::new("/") {
            return path.display().to_string();
        }
        format!("{} in {}", path.display(), self.path.display())
    }

    fn pathrs(&self) -> Result<pathrs::Root> {
        let fd = self.fd.try_clone().context("duplicate a descriptor")?;
        Ok(pathrs::Root::from_fd(fd))
    }
}

/// openat2(2) with `RESOLVE_IN_ROOT` takes `/a` and `a` alike, but not an empty path.
fn relative(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_a_link_leads_to_is_made() {
        let dir = std::env::temp_dir().join(format!("root-link-test-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("inside")).unwrap();
        let link = |to: &str, name: &str| symlink(to, dir.join("inside").join(name)).unwrap();
        link("/dir/two", "absolute");
        link("../../dir/three", "up");
        link("absent/../dir/four", "back");
        for last in 0..MAX_LINKS {
            link(&format!("chain{}", last + 1), &format!("chain{last}"));
        }
        link("proc/absent", "proc-link");
        let root = Root::open(&dir.join("inside")).unwrap();
        let made = |path: &str| dir.join("inside").join(path).symlink_metadata().unwrap();
        root.mkdir_all(Path::new("absolute"), 0o755).unwrap();
        assert!(made("dir/two").is_dir());
        root.create_file(Path::new("/up"), 0o644).unwrap();
        assert!(made("dir/three").is_file());
        root.create_file(Path::new("/back/below"), 0o644).unwrap();
        assert!(made("dir/four/below").is_file());
        root.mkdir_all(Path::new("chain0"), 0o755).unwrap();
        assert!(made(&format!("chain{MAX_LINKS}")).is_dir());
        link("chain0/absent", "one-more");
        assert!(root.mkdir_all(Path::new("one-more"), 0o755).is_err());
        assert!(root.mkdir_all(Path::new("proc-link"), 0o755).is_err());
        assert!(!dir.join("inside/proc").exists() && !dir.join("dir").exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_last_directory_serves_again_for_its_own_path_only() {
        let dir = std::env::temp_dir().join(format!("root-last-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let root = Root::open(&dir).unwrap();
        let mut last = LastDir::default();
        let mut place = |path: &str| {
            let (fd, name) = root.parent_again(Path::new(path), &mut last).unwrap();
            let inode = nix::sys::stat::fstat(fd).unwrap().st_ino;
            (inode, name.to_owned())
        };
        let (first, name) = place("/dev/null");
        assert_eq!(name, Path::new("null"));
        // It is not looked for again: what is there by now is another.
        std::fs::rename(dir.join("dev"), dir.join("old")).unwrap();
        assert_eq!(place("/dev/zero"), (first, "zero".into()));
        assert_ne!(place("/dev/net/tun").0, first);
        assert_ne!(place("/dev/zero").0, first);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn nothing_outside_is_reached() {
        let dir = std::env::temp_dir().join(format!("root-test-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("inside/etc")).unwrap();
        std::fs::create_dir_all(dir.join("outside")).unwrap();
        symlink("/outside", dir.join("inside/absolute")).unwrap();
        symlink("../outside", dir.join("inside/relative")).unwrap();
        symlink("etc", dir.join("inside/good")).unwrap();
        let root = Root::open(&dir.join("inside")).unwrap();
        for bad in ["absolute", "relative"] {
            assert_eq!(root.resolve(Path::new(bad)).unwrap_err(), Errno::ENOENT);
        }
        root.create_file(Path::new("/good/deep/file"), 0o644)
            .unwrap();
        assert!(dir.join("inside/etc/deep/file").exists());
        root.mkdir_all(Path::new("../../up"), 0o755).unwrap();
        assert!(dir.join("inside/up").is_dir());
        assert_eq!(
            root.resolve_without_links(Path::new("good")).unwrap_err(),
            Errno::ELOOP
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
