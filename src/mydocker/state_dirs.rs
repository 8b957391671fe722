//! Where containers are kept: the state directory, names, locks, ids.
//!
//! A container is published by the rename of its record (`record_file`) and gone with the unlinking of it.
//! A directory without a record whose `monitor` lock is free belongs to nobody: any command may
//! remove it. Locks are of flock(2) or, the monitor's, of fcntl(2) on the open file, so they go with
//! their holders.

use super::image::hex;
use super::monitor_lock::MonitorLock;
use super::record::PATIENCE;
use super::record_file::{self, load};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The name of the monitor's lock in a container's directory.
pub(super) const MONITOR_LOCK: &str = "monitor";

/// The two directories of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What survives a reboot: images and containers. `MYDOCKER_ROOT`, or root's `/var/lib/mydocker`, or
    /// a user's `$XDG_DATA_HOME/mydocker`.
    pub root: PathBuf,
    /// What does not: mount points, pipes, the runtime's state. `MYDOCKER_RUN`, or root's
    /// `/run/mydocker`, or a user's `$XDG_RUNTIME_DIR/mydocker`.
    pub run: PathBuf,
}

impl State {
    /// As the environment says. Nothing is created here. Both paths are absolute.
    pub fn from_env() -> Result<State> {
        let uid = nix::unistd::geteuid();
        if uid.is_root() {
            return Ok(State {
                root: directory("MYDOCKER_ROOT", || Some("/var/lib/mydocker".into()))?,
                run: directory("MYDOCKER_RUN", || Some("/run/mydocker".into()))?,
            });
        }
        Ok(State {
            root: directory("MYDOCKER_ROOT", users_data)?,
            run: directory("MYDOCKER_RUN", || Some(users_run(uid.as_raw())))?,
        })
    }

    /// The directory that holds a directory for each container.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// What is kept of the container `id`: its record, config.json (it is the bundle), locks,
    /// `upper` and `work` of the overlay, and the log's files.
    pub fn container(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// What exists of the container `id` only while it runs: `rootfs`, `etc`, `stdout`, `stderr`.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// Where the runtime names a container's first process when it is made, just before its program is
    /// started.
    pub fn pid_file(&self, id: &str) -> PathBuf {
        self.run_dir(id).join("pid")
    }

    /// Where the overlay is mounted, in the mount namespace of the monitor.
    pub fn rootfs(&self, id: &str) -> PathBuf {
        self.run_dir(id).join("rootfs")
    }

    /// What the container wrote above its image.
    pub fn upper(&self, id: &str) -> PathBuf {
        self.container(id).join("upper")
    }

    /// The bundle's configuration, as it was given to the runtime.
    pub fn config(&self, id: &str) -> PathBuf {
        self.container(id).join("config.json")
    }

    /// The runtime's `--root`.
    pub fn runtime_root(&self) -> PathBuf {
        self.run.join("runtime")
    }

    /// The lock that is held while a container is being created, and then by its monitor.
    pub fn monitor_lock(&self, id: &str) -> PathBuf {
        self.container(id).join(MONITOR_LOCK)
    }

    fn names(&self) -> PathBuf {
        self.root.join("names")
    }

    /// Whether somebody creates or monitors the container now.
    pub fn is_monitored(&self, id: &str) -> bool {
        MonitorLock::is_taken(&self.monitor_lock(id))
    }

    /// Makes the directory of a new container and takes its monitor lock. A reaper that comes
    /// between the two takes the lock and removes the directory: it is made anew then.
    pub fn create_container(&self, id: &str) -> Result<MonitorLock> {
        make_dir(&self.containers())?;
        let dir = self.container(id);
        for _ in 0..100 {
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("create {}", dir.display()));
                }
                _ => {}
            }
            match MonitorLock::take(&self.monitor_lock(id)) {
                Ok(held) if held.is_at(&self.monitor_lock(id)) => return Ok(held),
                _ => continue,
            }
        }
        bail!(
            "create {}: another process keeps removing it",
            dir.display()
        )
    }

    /// Takes the monitor lock of a container that exists. Fails when it is held.
    pub fn take_monitor_lock(&self, id: &str) -> Result<MonitorLock> {
        self.take_monitor_lock_within(id, Duration::ZERO)
    }

    /// The same where whoever holds it is about to let go. It is tried every few milliseconds: waiting for
    /// a lock has no time limit.
    pub fn take_monitor_lock_within(&self, id: &str, patience: Duration) -> Result<MonitorLock> {
        let end = Instant::now() + patience;
        loop {
            let lock = MonitorLock::try_take(&self.monitor_lock(id))
                .with_context(|| format!("lock container {}", short(id)))?;
            match lock {
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(3)),
                lock => {
                    return lock
                        .with_context(|| format!("container {} is busy", short(id)))
                        .hint("another mydocker is starting, watching or removing it");
                }
            }
        }
    }

    /// Waits for the lock under which a container's record is read, changed and replaced. It is the
    /// directory's own, and held for no longer than that.
    pub fn lock_record(&self, id: &str) -> Result<Flock<File>> {
        File::open(self.container(id))
            .map_err(anyhow::Error::from)
            .and_then(|dir| lock_file(dir, FlockArg::LockExclusive))
            .map_err(|error| match self.has_record(id) {
                true => error.context(format!("lock the record of {}", short(id))),
                false => self.just_removed(id),
            })
    }

    /// Waits for the lock under which a container is started, changed or removed. Nobody starts it as long
    /// as it is held, but its own monitor by its policy, which [`stop`](super::stop) puts an end to.
    pub fn lock_container(&self, id: &str) -> Result<Flock<File>> {
        self.locked(id, &self.container(id).join("lock"))
    }

    /// The lock of those who restart a container, held from the stop to the start. The container's own is
    /// taken in it, for the start alone: whoever removes the container waits for no stop.
    pub fn lock_restart(&self, id: &str) -> Result<Flock<File>> {
        self.locked(id, &self.container(id).join("restart.lock"))
    }

    fn locked(&self, id: &str, path: &Path) -> Result<Flock<File>> {
        let held = match self.has_record(id) {
            true => lock(path, FlockArg::LockExclusive),
            // Made now, it would be in the way of who removes the directory.
            false => return Err(self.just_removed(id)),
        };
        // It may have been removed while we waited.
        match held {
            _ if !self.has_record(id) => Err(self.just_removed(id)),
            held => held.with_context(|| format!("lock container {}", short(id))),
        }
    }

    /// What was done with a container; its failure, if the container went meanwhile (--rm), is that.
    pub(super) fn unless_removed<T>(&self, id: &str, done: Result<T>) -> Result<T> {
        done.map_err(|error| match self.has_record(id) {
            true => error,
            false => self.just_removed(id),
        })
    }

    /// The error of a container that was there a moment ago.
    pub(super) fn just_removed(&self, id: &str) -> anyhow::Error {
        let error = anyhow!("no such container: {}: it has just been removed", short(id));
        with_exit_code(with_hint(error, "list them: mydocker ps -a"), 1)
    }

    /// Takes `name` for the container `id`, atomically.
    pub fn reserve_name(&self, name: &str, id: &str) -> Result<()> {
        make_dir(&self.names())?;
        let link = self.names().join(name);
        match symlink(target_of(id), &link) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("take the name {name}")),
        }
        // Its owner may be one that nobody wants any more.
        if let Some(record) = self.named(name).and_then(|owner| load(self, &owner).ok()) {
            super::rm::heal(self, &record);
        }
        // Or be gone for all who ask, and be about to free it. One that is being made has no record
        // either, and soon gets it.
        let end = Instant::now() + PATIENCE;
        let is_between = |owner: String| !self.has_record(&owner) && self.is_monitored(&owner);
        while self.named(name).is_some_and(is_between) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let lock = self.lock_names()?;
        self.reserve_locked(name, id, &lock)
    }

    /// The same for who has the names' lock already.
    pub(super) fn reserve_locked(&self, name: &str, id: &str, _: &NamesLock) -> Result<()> {
        let link = self.names().join(name);
        if let Some(owner) = self.named(name)
            && self.exists(&owner)
            && !self.is_left_over(name, &owner)
        {
            return Err(anyhow!("name {name} is already used by {}", short(&owner)))
                .hint(format!(
                    "choose another --name, or remove that container: mydocker rm -f {name}"
                ))
                .exit_code(125);
        }
        // Free, or left by a process that was killed: replaced in one step, so that it is never free.
        let temporary = self.half_made();
        symlink(target_of(id), &temporary)
            .and_then(|()| std::fs::rename(&temporary, &link))
            .with_context(|| format!("take the name {name}"))
    }

    /// Frees `name` if it is still the container's.
    pub fn release_name(&self, name: &str, id: &str) -> Result<()> {
        if self.named(name).as_deref() != Some(id) {
            return Ok(());
        }
        let lock = self.lock_names()?;
        self.release_locked(name, id, &lock)
    }

    /// The same for who has the names' lock already.
    pub(super) fn release_locked(&self, name: &str, id: &str, _: &NamesLock) -> Result<()> {
        if self.named(name).as_deref() == Some(id) {
            std::fs::remove_file(self.names().join(name))
                .with_context(|| format!("free the name {name}"))?;
        }
        Ok(())
    }

    /// The id behind a name, whether or not the container is still there.
    pub fn named(&self, name: &str) -> Option<String> {
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return None;
        }
        let target = std::fs::read_link(self.names().join(name)).ok()?;
        target.to_str().map(id_behind)
    }

    /// All names that lead to a container.
    pub fn names_of(&self, id: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.names()).into_iter().flatten();
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| self.named(name).as_deref() == Some(id))
            .collect()
    }

    /// Whether the container is there, seen from outside: with its record it goes.
    pub fn has_record(&self, id: &str) -> bool {
        record_file::is_in(&self.container(id))
    }

    /// Whether a container is there or being created.
    pub fn exists(&self, id: &str) -> bool {
        self.has_record(id) || self.is_monitored(id)
    }

    /// Whether a `rename` that was killed has left the name with its owner. Asked under the lock of
    /// the names, which one that lives would have.
    fn is_left_over(&self, name: &str, owner: &str) -> bool {
        load(self, owner)
            .is_ok_and(|record| record.name != name && record.other_name.as_deref() == Some(name))
    }

    /// The link that is about to replace another one: one at a time, under the lock.
    fn half_made(&self) -> PathBuf {
        self.names().join(".new")
    }

    /// By the directory itself, so that nothing is left of it.
    pub(super) fn lock_names(&self) -> Result<NamesLock> {
        let dir = File::open(self.names()).context("open the names")?;
        let lock = lock_file(dir, FlockArg::LockExclusive).context("lock the names")?;
        // Whoever was killed before the rename has left it.
        let _ = std::fs::remove_file(self.half_made());
        Ok(NamesLock(lock))
    }
}

/// The lock of the names, held.
pub(super) struct NamesLock(#[allow(dead_code)] Flock<File>);

fn directory(variable: &str, default: impl Fn() -> Option<PathBuf>) -> Result<PathBuf> {
    match variable_of(variable) {
        Some(path) => {
            std::path::absolute(&path).with_context(|| format!("make {variable} absolute"))
        }
        None => default()
            .context("this user has no home directory")
            .hint(format!("set HOME, or {variable} to a directory of yours")),
    }
}

fn variable_of(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Where an ordinary user's programs keep things (XDG Base Directory Specification: a relative path
/// counts as none).
fn users_data() -> Option<PathBuf> {
    let named = variable_of("XDG_DATA_HOME").filter(|path| path.is_absolute());
    let data = named.or_else(|| Some(super::passwd::home()?.join(".local/share")))?;
    Some(data.join("mydocker"))
}

/// A user's directory for the time he is logged in. Without a session (su, cron) there is none, and
/// after su there may be somebody else's.
fn users_run(uid: u32) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let named = variable_of("XDG_RUNTIME_DIR").filter(|path| path.is_absolute());
    let usual = PathBuf::from(format!("/run/user/{uid}"));
    let is_own = |path: &PathBuf| path.metadata().is_ok_and(|facts| facts.uid() == uid);
    match named.into_iter().chain([usual]).find(is_own) {
        Some(dir) => dir.join("mydocker"),
        None => fallback_run(uid),
    }
}

/// Where a user's run directory is without a session.
pub(super) fn fallback_run(uid: u32) -> PathBuf {
    PathBuf::from(format!("/tmp/mydocker-{uid}"))
}

/// Makes a directory (0711: passed through by the users of containers, listed by root alone) and
/// its parents.
pub fn make_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .with_context(|| format!("create {}", path.display()))
}

/// Opens (creating) and locks a file. The lock goes with the descriptor.
fn lock(path: &Path, how: FlockArg) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    lock_file(file, how)
}

pub(super) fn lock_file(mut file: File, how: FlockArg) -> Result<Flock<File>> {
    loop {
        match Flock::lock(file, how) {
            Ok(held) => return Ok(held),
            Err((again, nix::errno::Errno::EINTR)) => file = again,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Whether the locked file is still the one at `path`: its directory may have been removed while
/// we waited.
pub(super) fn is_at(held: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (held.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// The bytes of an id.
const ID: usize = 32;

/// A new container id: 64 hexadecimal digits.
pub fn new_id() -> Result<String> {
    let mut bytes = [0u8; ID];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("read /dev/urandom")?;
    Ok(hex(&bytes))
}

/// What the link of a name says: the id, in base64, which has 43 characters. Up to 59 lie in the link
/// itself (ext4); the 64 digits would take a block of the disk.
fn target_of(id: &str) -> String {
    let byte = |at| u8::from_str_radix(id.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..id.len()).step_by(2).map(byte).collect();
    bytes.map_or_else(|| id.to_owned(), |bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// The id that [`target_of`] has written.
fn id_behind(target: &str) -> String {
    match URL_SAFE_NO_PAD.decode(target) {
        Ok(bytes) if bytes.len() == ID => hex(&bytes),
        _ => target.to_owned(),
    }
}

/// The first 12 digits of an id, as they are shown.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> State {
        let id = new_id().unwrap();
        let base = std::env::temp_dir().join(format!("acts-{}", short(&id)));
        State {
            root: base.join("root"),
            run: base.join("run"),
        }
    }

    #[test]
    fn a_name_has_one_owner_until_it_is_gone() {
        let state = scratch();
        let (one, two) = (new_id().unwrap(), new_id().unwrap());
        let held = state.create_container(&one).unwrap();
        state.reserve_name("a", &one).unwrap();
        let error = state.reserve_name("a", &two).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("name a is already used by {}", short(&one))
        );
        drop(held);
        // Its creator is dead and it was never published.
        state.reserve_name("a", &two).unwrap();
        state.release_name("a", &one).unwrap();
        assert_eq!(state.named("a"), Some(two.clone()));
        state.release_name("a", &two).unwrap();
        assert_eq!(state.named("a"), None);
        std::fs::remove_dir_all(state.root.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_link_of_a_name_needs_no_block() {
        for id in [new_id().unwrap(), "0".repeat(64), "f".repeat(64)] {
            let target = target_of(&id);
            assert!(target.len() < 60, "{target}");
            assert_eq!(id_behind(&target), id);
        }
        // Of a mydocker that wrote it as it is.
        let id = new_id().unwrap();
        assert_eq!(id_behind(&id), id);
    }

    #[test]
    fn the_monitor_lock_tells_who_is_there() {
        let state = scratch();
        let id = new_id().unwrap();
        assert!(!state.is_monitored(&id));
        let held = state.create_container(&id).unwrap();
        assert!(state.is_monitored(&id));
        assert!(state.take_monitor_lock(&id).is_err());
        drop(held);
        assert!(!state.is_monitored(&id));
        std::fs::remove_dir_all(state.root.parent().unwrap()).unwrap();
    }
}
