//! Work in progress: a directory that is its maker's for as long as its lock is held. One without an
//! owner is a sign that somebody was killed, and may have left garbage in the store: who removes it
//! sweeps that first ([`super::Store::clear_leftovers`]). A crash therefore leaves nothing for longer
//! than until the next command.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::super::remove_tree::remove_tree;
use super::super::report;
use crate::error::with_hint;

/// The file of a draft with the digests that it needs of the store, one a line.
const PINS: &str = "pins";

/// A directory below `drafts/`, removed when dropped.
#[derive(Debug)]
pub(in crate::mydocker) struct Draft {
    path: PathBuf,
    _lock: Flock<File>,
    /// It stays, empty, when dropped.
    is_left: AtomicBool,
}

impl Draft {
    fn of(path: PathBuf, lock: Flock<File>) -> Draft {
        Draft {
            path,
            _lock: lock,
            is_left: AtomicBool::new(false),
        }
    }

    /// Leaves it, ownerless, when it is dropped: the next command sees by it that there may be garbage
    /// in the store.
    pub(super) fn leave(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }

    /// Makes a draft.
    pub(in crate::mydocker) fn new(drafts: &Path) -> Result<Draft> {
        loop {
            let path = drafts.join(random_name()?);
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .with_context(|| format!("make {}", path.display()))?;
            // Another command may have found the directory before it was locked: then it is that
            // command's to remove, and this one takes another.
            if let Some(lock) = own(&path)?
                && path.exists()
            {
                return Ok(Draft::of(path, lock));
            }
        }
    }

    /// Makes a draft of what stands at `from`, by rename: how the store throws things away without
    /// needing space for it.
    pub(in crate::mydocker) fn adopt(drafts: &Path, from: &Path) -> Result<Option<Draft>> {
        let Some(lock) = own(from)? else {
            return Ok(None);
        };
        let path = drafts.join(random_name()?);
        std::fs::rename(from, &path).with_context(|| format!("remove {}", from.display()))?;
        Ok(Some(Draft::of(path, lock)))
    }

    /// The directory.
    pub(in crate::mydocker) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps what the store has under these digests for as long as the draft is there. The caller
    /// holds the store's lock.
    pub(super) fn pin<'a>(&self, digests: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let path = self.path.join(PINS);
        let lines: String = digests.into_iter().map(|d| format!("{d}\n")).collect();
        let file = File::options().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(lines.as_bytes()))
            .with_context(|| format!("write {}", path.display()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let removed = match self.is_left.load(Ordering::Relaxed) {
            true => empty(&self.path),
            false => remove_tree(&self.path),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                let what = format!("remove {}", self.path.display());
                let error = anyhow::Error::new(error).context(what);
                // The lock goes with us.
                report(&with_hint(error, "the next commands try it again"));
            }
            _ => {}
        }
    }
}

/// Removes what is in a directory.
fn empty(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove_tree(&entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The drafts that nobody owns, to be dropped. Failures are left to the next command.
pub(super) fn ownerless(drafts: &Path) -> Vec<Draft> {
    let entries = std::fs::read_dir(drafts).into_iter().flatten().flatten();
    let take = |path: PathBuf| {
        let lock = own(&path).ok()??;
        let _ = std::fs::remove_file(path.join(PINS));
        Some(Draft::of(path, lock))
    };
    entries.filter_map(|entry| take(entry.path())).collect()
}

/// The digests that are pinned by drafts.
pub(super) fn pinned(drafts: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(drafts).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join(PINS)).ok());
    texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

/// The lock of a directory, unless somebody has it or the directory is gone.
fn own(path: &Path) -> Result<Option<Flock<File>>> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

fn random_name() -> Result<String> {
    let mut bytes = [0u8; 12];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(hex(&bytes))
}

/// Lower-case hexadecimal digits of `bytes`.
pub(in crate::mydocker) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_draft_is_reaped_only_when_nobody_owns_it() {
        let dir = std::env::temp_dir().join(format!("drafts-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("left/over")).unwrap();
        let mine = Draft::new(&dir).unwrap();
        assert!(dir.join("left").exists());
        drop(ownerless(&dir));
        assert!(mine.path().exists() && !dir.join("left").exists());
        let path = mine.path().to_owned();
        drop(mine);
        assert!(!path.exists());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_sign_of_garbage_stays_until_it_is_swept() {
        let root = std::env::temp_dir().join(format!("sign-{}", std::process::id()));
        let store = Store::open(&root).unwrap();
        let (sign, blob) = (store.drafts().join("left"), store.blobs().join("0"));
        std::fs::create_dir(&sign).unwrap();
        std::fs::write(&blob, "garbage").unwrap();
        // What this container needs cannot be told.
        let damaged = store.containers().join("damaged/layers");
        std::fs::create_dir_all(&damaged).unwrap();
        Store::open(&root).unwrap();
        assert!(sign.exists() && blob.exists());
        assert!(store.tidy().is_err());
        assert!(sign.exists());
        std::fs::remove_dir(&damaged).unwrap();
        Store::open(&root).unwrap();
        assert!(!sign.exists() && !blob.exists());

        std::fs::create_dir(&damaged).unwrap();
        std::fs::write(&blob, "garbage").unwrap();
        assert!(store.tidy().is_err());
        std::fs::remove_dir(&damaged).unwrap();
        Store::open(&root).unwrap();
        assert!(!blob.exists(), "what failed to be swept has a sign");
        assert_eq!(std::fs::read_dir(store.drafts()).unwrap().count(), 0);
        std::fs::remove_dir_all(root).unwrap();
    }
}
