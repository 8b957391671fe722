//! Docker's copy-up: an empty volume gets what the image has at its target, with owners, modes, times
//! and all, and the owner and mode of the directory itself.
//!
//! The files are copied beside the volume's own (`copying`), which takes its time; a rename to
//! `copied` says that they are all there, and then each is moved in. Whoever comes across the first
//! removes it, and whoever comes across the second goes on: so a volume never keeps half of an image's
//! directory, and nothing that somebody wrote into it meanwhile is lost.

use super::{Kind, Volume, data, home, lock};
use crate::mydocker::copy::Node;
use crate::mydocker::image::{self, Image};
use crate::mydocker::remove_tree::remove_tree;
use crate::mydocker::state_dirs::{State, lock_file};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags, open, openat, renameat, renameat2};
use nix::sys::stat::{Mode, mkdirat};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A volume whose files are on a disk, locked.
struct Place {
    /// The directory of `copying` and `copied`: on the same file system as `data`.
    dir: OwnedFd,
    data: OwnedFd,
    copying: &'static str,
    copied: &'static str,
    _lock: Flock<File>,
}

impl Place {
    /// `None`: a tmpfs is on no disk.
    fn open(state: &State, volume: &Volume, how: FlockArg) -> Result<Option<Place>> {
        let home = home(state, &volume.name);
        let lock = File::open(&home)
            .map_err(anyhow::Error::from)
            .and_then(|file| lock_file(file, how))
            .with_context(|| format!("lock {}", home.display()))?;
        let (dir, data, names) = match volume.options.kind()? {
            Kind::Plain => (home, data(state, &volume.name), ["copying", "copied"]),
            Kind::Bind(device, _) => (
                device.clone(),
                device,
                [".mydocker-copying", ".mydocker-copied"],
            ),
            Kind::Tmpfs(_) => return Ok(None),
        };
        let [copying, copied] = names;
        Ok(Some(Place {
            dir: directory(&dir)?,
            data: directory(&data)?,
            copying,
            copied,
            _lock: lock,
        }))
    }

    fn is_empty(&self) -> Result<bool> {
        let names = node(&self.data)?.entries()?;
        Ok(names
            .iter()
            .all(|name| name == self.copying || name == self.copied))
    }

    /// Does what a killed command has left to do.
    fn finish(&self) -> Result<()> {
        self.remove(self.copying)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let copied = match openat(&self.dir, self.copied, flags, Mode::empty()) {
            Ok(copied) => copied,
            Err(Errno::ENOENT) => return Ok(()),
            Err(error) => return Err(error).context("open what was copied"),
        };
        let all = node(&copied)?;
        for name in all.entries()? {
            let name = name.as_os_str();
            match renameat2(
                &copied,
                name,
                &self.data,
                name,
                RenameFlags::RENAME_NOREPLACE,
            ) {
                // Somebody who has the volume has made one: it stays.
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => {
                    let what = || format!("move {} into it", name.display());
                    return Err(error).with_context(what);
                }
            }
        }
        image::dress(&all, self.data.as_fd())?;
        self.remove(self.copied)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match remove_tree(&through(&self.dir).join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {name}"))
            }
            _ => Ok(()),
        }
    }

    fn copy(&self, image: &Image, target: &Path) -> Result<()> {
        mkdirat(&self.dir, self.copying, Mode::S_IRWXU).context("make a directory")?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let to = openat(&self.dir, self.copying, flags, Mode::empty())
            .context("open the directory that was made")?;
        image::copy_directory(image, target, to.as_fd())?;
        renameat(&self.dir, self.copying, &self.dir, self.copied).context("publish the copy")
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))
}

fn node(dir: &OwnedFd) -> Result<Node> {
    Node::new(dir.try_clone().context("duplicate a descriptor")?)
}

fn through(dir: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string())
}

/// Fills a volume if it is empty and the image has a directory at `target`. The caller's container is
/// noted as its user.
pub(super) fn fill(state: &State, volume: &Volume, image: &Image, target: &Path) -> Result<()> {
    let Some(place) = Place::open(state, volume, FlockArg::LockExclusive)? else {
        return Ok(());
    };
    place.finish()?;
    if image.is_dir(target) != Some(true) || !place.is_empty()? {
        return Ok(());
    }
    if let Err(error) = place.copy(image, target) {
        // The first error is the one to tell.
        let _ = place.remove(place.copying);
        return Err(error);
    }
    place.finish()
}

/// Finishes what a killed command has left to do with a volume. Best effort: the next command tries
/// again.
pub(in crate::mydocker) fn heal(state: &State, volume: &Volume) {
    let here = |name: &str| home(state, &volume.name).join(name).exists();
    let bound = matches!(volume.options.kind(), Ok(Kind::Bind(..)));
    if !bound && !here("copying") && !here("copied") {
        return;
    }
    // Nobody removes it meanwhile; and whoever has it locked is at it.
    let Ok(_lock) = lock(state, FlockArg::LockShared) else {
        return;
    };
    if let Ok(Some(place)) = Place::open(state, volume, FlockArg::LockExclusiveNonblock) {
        let _ = place.finish();
    }
}
