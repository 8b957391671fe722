//! The root of a container, seen from outside. Every path inside is resolved from it by the kernel,
//! which keeps symbolic links and `..` within (openat2(2), `RESOLVE_IN_ROOT`), and is acted on by
//! descriptor: a path could be exchanged between two looks at it (CVE-2021-30465).

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::Permissions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
        self.resolve_with(path, ResolveFlag::empty())
    }

    /// As [`Root::resolve`], but a symbolic link anywhere on the way is an error (ELOOP).
    pub fn resolve_without_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.resolve_with(path, ResolveFlag::RESOLVE_NO_SYMLINKS)
    }

    fn resolve_with(&self, path: &Path, extra: ResolveFlag) -> nix::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS | extra;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
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
            .mkdir_all(path, &Permissions::from_mode(mode))
            .with_context(|| format!("make the directory {}", self.name(path)))?;
        Ok(handle.into())
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
        let (parent, name) = self.parent(path)?;
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
