//! `-o FILE`: what a command writes for people has its name only once it is whole.

use super::state_dirs::{is_at, lock_file};
use super::umask::callers_file;
use crate::error::ResultExt;
use crate::sys::fds;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// Writes a file. What is no regular file is written to as it is. Where the file system knows of
/// files without a name (O_TMPFILE of open(2)), a kill leaves nothing; elsewhere (vfat, NFS) it
/// leaves `.NAME.new`, which the next one replaces.
pub(super) fn to_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T>,
) -> Result<T> {
    if path.metadata().is_ok_and(|meta| !meta.is_file()) {
        let file = File::options().write(true).open(path)?;
        return fill(&file, write);
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().context("it has no name")?);
    name.push(".new");
    let new = dir.join(name);
    let mut options = File::options();
    options.write(true).mode(callers_file());
    match options.custom_flags(libc::O_TMPFILE).open(dir) {
        Ok(file) => {
            let result = fill(&file, write)?;
            // One at a time has this name. It is not waited for: our caller may have the lock.
            let lock = Flock::lock(File::open(dir)?, FlockArg::LockExclusiveNonblock);
            let new = match &lock {
                Ok(_) => new,
                Err(_) => new.with_extension(std::process::id().to_string()),
            };
            forget(&new)?;
            let open = fds::path(&file);
            let flags = AtFlags::AT_SYMLINK_FOLLOW;
            nix::unistd::linkat(AT_FDCWD, &open, AT_FDCWD, &new, flags)?;
            publish(&new, path).map(|()| result)
        }
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let file = reserved(&new)?;
            let result = fill(&file, write).inspect_err(|_| drop(std::fs::remove_file(&new)))?;
            publish(&new, path).map(|()| result)
        }
        Err(error) => Err(error).hint("the directory must exist, and be one to write to"),
    }
}

fn fill<T>(file: &File, write: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut to = BufWriter::with_capacity(BUFFER, file);
    let result = write(&mut to)?;
    to.flush()?;
    Ok(result)
}

fn publish(new: &Path, path: &Path) -> Result<()> {
    std::fs::rename(new, path).inspect_err(|_| drop(std::fs::remove_file(new)))?;
    Ok(())
}

/// A new file of this name, locked: a killed command's is replaced, nobody else's.
fn reserved(new: &Path) -> Result<Flock<File>> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(callers_file());
    loop {
        match options.open(new) {
            Ok(file) => {
                let file = lock_file(file, FlockArg::LockExclusive)?;
                // Between the two it was taken for a killed command's.
                if is_at(&file, new) {
                    return Ok(file);
                }
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let mut look = File::options();
                look.read(true)
                    .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
                let there = look.open(new).map(|file| {
                    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
                });
                if let Ok(Err(Errno::EWOULDBLOCK)) = there {
                    bail!("another command is writing it");
                }
                forget(new)?;
            }
            Err(error) => return Err(error).hint("it must be a directory to write to"),
        }
    }
}

/// Removes what may not be there.
fn forget(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}
