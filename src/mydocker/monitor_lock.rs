//! The lock that tells whether somebody is at a container: its creator, then its monitor, or
//! whoever removes it.
//!
//! It is an "open file description lock" of fcntl(2): it belongs to the open file, so it can be
//! handed to another process, and goes with the last descriptor of it, whatever its holders die of.
//! Unlike flock(2) it can be looked at without being taken, so those who only look are in nobody's
//! way. The holder has two bytes of the file, those who wait for the end share the second: whoever
//! takes the first knows at once that nobody is there, and then lets the waiting out.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The lock, held. Dropping it closes this descriptor; the lock goes with the last one.
#[derive(Debug)]
pub struct MonitorLock(File);

/// Who is there.
const SEAT: i64 = 0;
/// Where one waits until nobody is.
const DOOR: i64 = 1;

impl MonitorLock {
    /// Takes the lock of a container that is there. `None`: somebody has it.
    pub(super) fn try_take(path: &Path) -> Result<Option<MonitorLock>> {
        let file = open(path, false)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&range(libc::F_WRLCK, SEAT))) {
            Ok(_) => {}
            Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
            Err(errno) => return Err(errno).context("lock"),
        }
        wait(&file, libc::F_WRLCK, DOOR)?;
        Ok(Some(MonitorLock(file)))
    }

    /// Makes the lock if it is not there, waits for it and takes it.
    pub(super) fn take(path: &Path) -> Result<MonitorLock> {
        let file = open(path, true)?;
        wait(&file, libc::F_WRLCK, SEAT)?;
        wait(&file, libc::F_WRLCK, DOOR)?;
        Ok(MonitorLock(file))
    }

    /// Whether somebody has it.
    pub(super) fn is_taken(path: &Path) -> bool {
        let Ok(file) = File::open(path) else {
            return false;
        };
        let mut seat = range(libc::F_RDLCK, SEAT);
        let asked = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut seat));
        asked.is_ok() && i32::from(seat.l_type) != libc::F_UNLCK
    }

    /// Waits until nobody has it. While what this returns lives, nobody can take it as a whole.
    pub(super) fn wait_free(file: File) -> Result<File> {
        wait(&file, libc::F_RDLCK, DOOR)?;
        Ok(file)
    }

    /// What was handed over by another process, which had taken it.
    pub(super) fn handed(file: File) -> MonitorLock {
        MonitorLock(file)
    }

    /// The locked file. Its content is how the container has ended (see `wait`).
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.0
    }

    /// To hand it over to another process.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// Whether the locked file is the one at `path`: its directory may have been removed while we
    /// waited.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        super::state_dirs::is_at(&self.0, path)
    }
}

fn open(path: &Path, create: bool) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .open(path);
    file.with_context(|| format!("open {}", path.display()))
}

fn wait(file: &File, kind: i32, byte: i64) -> Result<()> {
    loop {
        match fcntl(file.as_fd(), FcntlArg::F_OFD_SETLKW(&range(kind, byte))) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("wait for the lock"),
        }
    }
}

/// One byte of a file, to be locked by fcntl(2) as `F_RDLCK` or `F_WRLCK`.
pub(super) fn range(kind: i32, byte: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        // Must be zero for these locks.
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn scratch() -> std::path::PathBuf {
        let id = super::super::state_dirs::new_id().unwrap();
        std::env::temp_dir().join(format!("acts-lock-{}", &id[..12]))
    }

    #[test]
    fn it_has_one_holder_and_goes_with_the_last_descriptor() {
        let path = scratch();
        assert!(MonitorLock::try_take(&path).is_err(), "none is made");
        drop(MonitorLock::take(&path).unwrap());
        let held = MonitorLock::try_take(&path).unwrap().unwrap();
        assert!(MonitorLock::is_taken(&path));
        assert!(MonitorLock::try_take(&path).unwrap().is_none());
        let handed = MonitorLock::handed(held.0.try_clone().unwrap());
        drop(held);
        assert!(MonitorLock::is_taken(&path), "the other one has it still");
        drop(handed);
        assert!(!MonitorLock::is_taken(&path));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn those_who_look_or_wait_are_in_nobodys_way() {
        let path = scratch();
        drop(MonitorLock::take(&path).unwrap());
        let over = AtomicBool::new(false);
        let looking = || {
            while !over.load(Ordering::Relaxed) {
                MonitorLock::is_taken(&path);
            }
        };
        let waiting = || {
            while !over.load(Ordering::Relaxed) {
                drop(MonitorLock::wait_free(File::open(&path).unwrap()).unwrap());
            }
        };
        let taken = std::thread::scope(|scope| {
            scope.spawn(looking);
            scope.spawn(waiting);
            let tries = (0..2000).map(|_| MonitorLock::try_take(&path).unwrap());
            let taken = tries.filter(Option::is_some).count();
            over.store(true, Ordering::Relaxed);
            taken
        });
        assert_eq!(taken, 2000);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn whoever_waits_is_let_out_before_the_next_holder_goes_on() {
        let path = scratch();
        drop(MonitorLock::take(&path).unwrap());
        let inside = MonitorLock::wait_free(File::open(&path).unwrap()).unwrap();
        let entered = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let held = MonitorLock::try_take(&path).unwrap();
                entered.store(true, Ordering::SeqCst);
                assert!(held.is_some());
            });
            while !MonitorLock::is_taken(&path) {
                std::thread::yield_now();
            }
            assert!(!entered.load(Ordering::SeqCst), "it waits for us");
            drop(inside);
        });
        assert!(entered.load(Ordering::SeqCst));
        std::fs::remove_file(path).unwrap();
    }
}
