//! Files that are replaced as a whole: a reader sees the old text or the new one, whatever is killed
//! when. And room that is kept for the day on which the disk is full: a file that is removed, so that
//! what must be written then can be. Stopping and removing things must work on a full disk.

use anyhow::{Context, Result};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces a file: another beside it, and a rename; durably: with fsync(2) of the file and of its
/// directory. Whoever writes has a lock for it, so that what a killed one leaves is overwritten.
pub(super) fn replace(path: &Path, bytes: &[u8], durably: bool) -> Result<()> {
    prepare(path, bytes, durably)?.publish()
}

/// The same, durably, with a file that nobody else may read (mode 600).
pub(super) fn replace_private(path: &Path, bytes: &[u8]) -> Result<()> {
    // What a killed one has left could have another mode.
    let _ = std::fs::remove_file(temporary(path));
    prepare_with_mode(path, bytes, true, 0o600)?.publish()
}

/// The first half of [`replace`]: the one that needs room on the disk. Without the second, nothing
/// is changed.
pub(super) fn prepare<'a>(path: &'a Path, bytes: &[u8], durably: bool) -> Result<Prepared<'a>> {
    prepare_with_mode(path, bytes, durably, 0o666)
}

fn prepare_with_mode<'a>(
    path: &'a Path,
    bytes: &[u8],
    durably: bool,
    mode: u32,
) -> Result<Prepared<'a>> {
    let prepared = Prepared {
        path,
        new: temporary(path),
        durably,
        published: false,
    };
    let write = || -> std::io::Result<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file = options.open(&prepared.new)?;
        file.write_all(bytes)?;
        match durably {
            true => file.sync_all(),
            false => Ok(()),
        }
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(prepared)
}

/// A file that is ready to take another one's place. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    path: &'a Path,
    new: PathBuf,
    durably: bool,
    published: bool,
}

impl Prepared<'_> {
    /// Replaces the other.
    pub(super) fn publish(mut self) -> Result<()> {
        let path = self.path;
        std::fs::rename(&self.new, path).with_context(|| format!("write {}", path.display()))?;
        self.published = true;
        match self.durably {
            true => sync_dir(path.parent().context("a file without a directory")?),
            false => Ok(()),
        }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.new);
        }
    }
}

/// [`replace`], when a power cut may take the file along, the old text with the new one.
///
/// A file that takes another's place is given blocks on the disk there and then, so that a power cut
/// leaves one of them whole (`auto_da_alloc`, ext4(5)): most of what a rename costs. Files that change
/// places are not.
pub(super) fn replace_for_now(path: &Path, bytes: &[u8]) -> Result<()> {
    let prepared = prepare(path, bytes, false)?;
    let exchange = RenameFlags::RENAME_EXCHANGE;
    match renameat2(AT_FDCWD, &prepared.new, AT_FDCWD, path, exchange) {
        // It holds the old text now, and goes.
        Ok(()) => Ok(()),
        // There is no other, or the file system cannot.
        Err(_) => prepared.publish(),
    }
}

/// [`replace`], with the room that [`keep_spare`] has kept if there is no other.
pub(super) fn replace_on_full_disk(
    path: &Path,
    bytes: &[u8],
    durably: bool,
    spare: &Path,
) -> Result<()> {
    match replace(path, bytes, durably) {
        Err(_) if std::fs::remove_file(spare).is_ok() => replace(path, bytes, durably),
        done => done,
    }
}

/// Keeps so many bytes, unless they are kept already. Best effort.
pub(super) fn keep_spare(path: &Path, size: usize) {
    if path.exists() {
        return;
    }
    // Not zeros: they must take space on file systems that keep holes or compress.
    let noise: Vec<u8> = (0..size)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect();
    if std::fs::write(path, noise).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

/// Where [`replace`] writes first.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    PathBuf::from(name)
}

/// Waits until the names in a directory are on the disk.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    sync_file(dir)
}

/// Waits until a file is on the disk.
pub(super) fn sync_file(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("flush {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_nothing_is_beside_it() {
        let dir = std::env::temp_dir().join(format!("whole-file-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        // The first has no other to change places with.
        for text in ["one", "two, which is longer", "three"] {
            replace_for_now(&path, text.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "{text}");
        }
        assert!(replace_for_now(&dir.join("none/file"), b"x").is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
