//! `tmpcopyup`: a tmpfs that begins with what the directory below it held.

use super::mount_options::Options;
use super::root::Root;
use crate::sys::fds;
use crate::sys::mount as sys;
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mknod};
use nix::unistd::{Gid, Uid};
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Mounts a tmpfs on `point` with a copy of its contents. The copy is made before the mount is
/// attached, so that both can be seen.
pub fn mount(root: &Root, point: &OwnedFd, target: &Path, options: &Options) -> Result<()> {
    let fs = sys::fsopen(c"tmpfs").context("fsopen tmpfs")?;
    let has = |key: &str| options.data.iter().any(|word| word.starts_with(key));
    configure(fs.as_fd(), &options.data)?;
    let made = sys::fsmount(fs.as_fd(), 0).context("fsmount tmpfs")?;
    copy_contents(point, &proc_path(&made))
        .with_context(|| format!("copy up {}", root.name(target)))?;
    let to = proc_path(&made);
    let found = fstat(point).context("stat the directory")?;
    if !has("mode=") {
        fs::set_permissions(&to, fs::Permissions::from_mode(found.st_mode & 0o7777))?;
        let uid = (!has("uid=")).then(|| Uid::from_raw(found.st_uid));
        let gid = (!has("gid=")).then(|| Gid::from_raw(found.st_gid));
        nix::unistd::chown(&to, uid, gid)?;
    }
    super::mounts::set_options(made.as_fd(), options)?;
    sys::move_mount(made.as_fd(), point.as_fd()).context("attach the tmpfs")
}

/// Gives a new file system its own options, such as `size=1m`.
pub(super) fn configure(fs: BorrowedFd<'_>, data: &[String]) -> Result<()> {
    for word in data {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        // Quotes keep the commas of a label together for mount(2); here nothing is to be told apart.
        let value = value.trim_matches('"');
        let (key, value) = (CString::new(key)?, CString::new(value)?);
        if value.is_empty() {
            sys::fsconfig_flag(fs, &key)
        } else {
            sys::fsconfig_string(fs, &key, &value)
        }
        .with_context(|| format!("option {word:?}"))?;
    }
    Ok(())
}

/// A name for a directory that is followed even where links are not.
fn proc_path(fd: &OwnedFd) -> PathBuf {
    fds::path(fd).join(".")
}

/// Copies what is in the directory `from`. Whoever shares the image may exchange what is in it while
/// we look: each entry is opened once, without following links, and read by its descriptor.
fn copy_contents(from: &OwnedFd, to: &Path) -> Result<()> {
    let entries = match fs::read_dir(proc_path(from)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.context("read the directory")?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let what = || name.to_string_lossy().into_owned();
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let source = openat(from, name.as_os_str(), flags, Mode::empty()).with_context(what)?;
        copy_one(&source, &to.join(&name)).with_context(what)?;
    }
    Ok(())
}

fn copy_one(source: &OwnedFd, copy: &Path) -> Result<()> {
    let found = fstat(source)?;
    let (uid, gid) = (found.st_uid, found.st_gid);
    match found.st_mode & libc::S_IFMT {
        libc::S_IFLNK => {
            symlink(readlinkat(source, "")?, copy)?;
            std::os::unix::fs::lchown(copy, Some(uid), Some(gid))?;
            return Ok(());
        }
        libc::S_IFDIR => {
            fs::create_dir(copy)?;
            copy_contents(source, copy)?;
        }
        libc::S_IFREG => {
            let place = fds::path(&source);
            fs::copy(place, copy)?;
        }
        // A fifo, a socket nobody listens at, a device.
        kind => {
            let kind = SFlag::from_bits_truncate(kind);
            mknod(copy, kind, Mode::empty(), found.st_rdev)?;
        }
    }
    nix::unistd::chown(copy, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    // After the owner: a change of owner clears set-user-id.
    let mode = fs::Permissions::from_mode(found.st_mode & 0o7777);
    fs::set_permissions(copy, mode)?;
    Ok(())
}
