//! `tmpcopyup`: a tmpfs that begins with what the directory below it held.

use super::mount_options::Options;
use super::root::Root;
use crate::sys::mount as sys;
use anyhow::{Context, Result, bail};
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid};
use std::ffi::CString;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Mounts a tmpfs on `point` with a copy of its contents. The copy is made before the mount is
/// attached, so that both can be seen.
pub fn mount(root: &Root, point: &OwnedFd, target: &Path, options: &Options) -> Result<()> {
    let fs = sys::fsopen(c"tmpfs").context("fsopen tmpfs")?;
    let has_mode = options.data.iter().any(|word| word.starts_with("mode="));
    for word in &options.data {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        let (key, value) = (CString::new(key)?, CString::new(value)?);
        if value.is_empty() {
            sys::fsconfig_flag(fs.as_fd(), &key)
        } else {
            sys::fsconfig_string(fs.as_fd(), &key, &value)
        }
        .with_context(|| format!("option {word:?}"))?;
    }
    let made = sys::fsmount(fs.as_fd(), 0).context("fsmount tmpfs")?;
    let (from, to) = (proc_path(point), proc_path(&made));
    copy_contents(Path::new(&from), Path::new(&to))
        .with_context(|| format!("copy up {}", root.name(target)))?;
    let found = fstat(point).context("stat the directory")?;
    if !has_mode {
        fs::set_permissions(&to, fs::Permissions::from_mode(found.st_mode & 0o7777))?;
        nix::unistd::chown(
            to.as_str(),
            Some(Uid::from_raw(found.st_uid)),
            Some(Gid::from_raw(found.st_gid)),
        )?;
    }
    super::mounts::set_options(made.as_fd(), options)?;
    sys::move_mount(made.as_fd(), point.as_fd()).context("attach the tmpfs")
}

/// A name for a descriptor that std::fs takes. The trailing dot makes the kernel follow it.
fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/.", fd.as_raw_fd())
}

fn copy_contents(from: &Path, to: &Path) -> Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.with_context(|| format!("read {}", from.display()))?,
    };
    for entry in entries {
        let entry = entry?;
        let (source, copy) = (entry.path(), to.join(entry.file_name()));
        copy_one(&source, &copy, &entry.metadata()?)
            .with_context(|| entry.file_name().to_string_lossy().into_owned())?;
    }
    Ok(())
}

fn copy_one(source: &Path, copy: &Path, found: &Metadata) -> Result<()> {
    let kind = found.file_type();
    let (uid, gid) = (
        Some(Uid::from_raw(found.uid())),
        Some(Gid::from_raw(found.gid())),
    );
    if kind.is_symlink() {
        symlink(fs::read_link(source)?, copy)?;
        std::os::unix::fs::lchown(copy, Some(found.uid()), Some(found.gid()))?;
        return Ok(());
    }
    if kind.is_dir() {
        fs::create_dir(copy)?;
        copy_contents(source, copy)?;
    } else if kind.is_file() {
        fs::copy(source, copy)?;
    } else {
        bail!("it is neither a file, a directory nor a symbolic link");
    }
    nix::unistd::chown(copy, uid, gid)?;
    // After the owner: a change of owner clears set-user-id.
    fs::set_permissions(copy, found.permissions())?;
    Ok(())
}
