//! What the runtime remembers of its containers: a directory each, `<root>/<id>/`, with
//! `state.json`, the spec as it was read, and the socket on which init waits for `start`. The
//! directory is locked (flock(2)) by whoever changes the container.
//!
//! The status comes from the kernel each time: a process by pidfd, start time and boot id; the
//! freezer by the cgroup; "created" by whether init still listens on its socket, or, of a container that
//! its own `run` starts, by whether it has executed its program.

use super::hooks::Surroundings;
pub use super::identity::Process;
use super::log;
use crate::cgroup::Cgroup;
use crate::error::ResultExt;
use crate::linux::cover::Cover;
use crate::linux::rdt::{self, Rdt};
use crate::sys::fds;
use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::{Hook, Spec};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The directory that holds all containers (`--root`).
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
}

/// A container as it was stored.
#[derive(Debug)]
pub struct Container {
    dir: PathBuf,
    /// What is on disk.
    pub saved: Saved,
}

/// The contents of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// The container's id.
    pub id: String,
    /// The spec's `ociVersion`.
    pub oci_version: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root filesystem, absolute.
    pub rootfs: PathBuf,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// The user that created it.
    pub owner: u32,
    /// The spec's annotations.
    #[serde(default)]
    pub annotations: HashMap<String, String>,
    /// The spec's hooks after its start and after its end, for which nobody needs the whole spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poststart: Option<Vec<Hook>>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poststop: Option<Vec<Hook>>,
    /// Its first process; none while it is being created.
    pub init: Option<Process>,
    /// `run` made it, and starts it itself: there is no socket for `start`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starts_itself: bool,
    /// Its config.json has no process, so that it cannot be started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_no_process: bool,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// The mount over its root filesystem, when it has no mount namespace of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cover: Option<Cover>,
    /// Its directories in resctrl.
    #[serde(default)]
    pub rdt: Option<rdt::Group>,
}

/// The states of a container (runtime.md, "State"), and `paused` as every engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `create` is at work.
    Creating,
    /// Init waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// The program is frozen.
    Paused,
    /// The program has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

const STATE: &str = "state.json";
const SPEC: &str = "config.json";
/// The socket on which init waits for `start`.
pub const START_SOCKET: &str = "start.sock";

impl Store {
    /// The store below `root`, which need not exist yet.
    pub fn open(root: &Path) -> Result<Store> {
        let root =
            std::path::absolute(root).with_context(|| format!("--root {}", root.display()))?;
        Ok(Store { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reserves `id`, as one mkdir(2) can, and locks it. What a killed `create` has left under that
    /// id is cleared away first.
    pub fn reserve(&self, id: &str) -> Result<(PathBuf, Lock)> {
        check_id(id)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&self.root)
            .with_context(|| format!("make {}", self.root.display()))
            .hint("choose another directory with --root")?;
        let dir = self.root.join(id);
        for attempt in 0.. {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 3 => {
                    self.clear_leftover(id)?;
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("make {}", dir.display()));
                }
            }
        }
        let lock = Lock::take(&dir)?;
        Ok((dir, lock))
    }

    /// Removes what a `create` that was killed has left; an error when `id` is in use.
    fn clear_leftover(&self, id: &str) -> Result<()> {
        let dir = self.root.join(id);
        let in_use = || {
            Err(anyhow!("container {id:?} already exists"))
                .hint(format!("choose another id, or `runtime delete {id}` first"))
        };
        let Some(_lock) = Lock::try_take(&dir)? else {
            return in_use();
        };
        match self.load(id) {
            Ok(container) if container.saved.init.is_some() => in_use(),
            Ok(container) => {
                container.clear_cgroup()?;
                container.remove_rdt()?;
                container.remove()
            }
            // Nothing was stored before the first file was complete.
            Err(_) if !dir.join(STATE).exists() => remove_dir(&dir),
            Err(error) => Err(error),
        }
    }

    /// The container of that id. The id of an absent one and of a damaged one give clear errors.
    pub fn load(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let dir = self.root.join(id);
        let path = dir.join(STATE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(anyhow!("container {id:?} does not exist")).hint(format!(
                    "`runtime --root {} list` shows those that do",
                    self.root.display()
                ));
            }
            other => other.with_context(|| format!("read {}", path.display()))?,
        };
        let saved = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} is damaged", path.display()))
            .hint(format!(
                "`runtime delete --force {id}` removes what is left of the container"
            ))?;
        Ok(Container { dir, saved })
    }

    /// The ids below the root, sorted.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.with_context(|| format!("read {}", self.root.display()))?,
        };
        let mut ids: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| check_id(name).is_ok() && self.root.join(name).join(STATE).exists())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The directory of an id, whether or not it is there.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

/// An id names a directory, a cgroup and a keyring: letters, digits and `_+-.`, at most 1024, and
/// not `.` or `..`.
pub fn check_id(id: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(allowed) {
        return Err(anyhow!("invalid container id {id:?}"))
            .hint("use letters, digits and the characters _ + - .");
    }
    Ok(())
}

impl Container {
    /// A container that is about to be created in `dir`.
    pub fn new(dir: PathBuf, saved: Saved) -> Container {
        Container { dir, saved }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.saved.id
    }

    /// Its directory in the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.saved.cgroup
    }

    /// Writes `state.json`, in one piece: a reader sees the old text or the new one.
    pub fn save(&self) -> Result<()> {
        write_whole(&self.dir.join(STATE), &serde_json::to_vec(&self.saved)?)
    }

    /// Keeps the spec as it is while the container is made: the bundle may change. Nobody asks for it before
    /// `state.json` names a process, so that it may be seen half written until then.
    pub fn keep_spec(&self, spec: &Spec) -> Result<()> {
        let path = self.dir.join(SPEC);
        fs::write(&path, serde_json::to_vec(spec)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Replaces it.
    pub fn save_spec(&self, spec: &Spec) -> Result<()> {
        write_whole(&self.dir.join(SPEC), &serde_json::to_vec(spec)?)
    }

    /// The spec of the container.
    pub fn spec(&self) -> Result<Spec> {
        spec_in(&self.dir)
    }

    /// Marks its cgroup, which has just been made, as its own.
    pub fn claim_cgroup(&self) {
        self.cgroup().claim(&self.mark());
    }

    /// Its id and the time of its creation.
    fn mark(&self) -> String {
        format!("{} {}", self.saved.id, self.saved.created)
    }

    /// Ends what is left of it in its cgroup, and removes that. Should the cgroup be another's by now,
    /// or should this one have been killed before it was more than a name, it stays as it is.
    pub fn clear_cgroup(&self) -> Result<()> {
        let cgroup = self.cgroup();
        let was_made = self.saved.init.is_some();
        if !cgroup.is_claimed_by(&self.mark()).unwrap_or(was_made) {
            if !cgroup.destroy_deserted()? {
                let id = self.id();
                log::warn(&format!(
                    "the cgroup of {id:?} is in use by others, and stays"
                ));
            }
            return Ok(());
        }
        cgroup.end()
    }

    /// Where its annotations want the output of hooks.
    pub fn surroundings(&self) -> Result<Surroundings> {
        Surroundings::open(&self.saved.annotations, &self.saved.bundle)
    }

    /// Removes what was made for it in resctrl.
    pub fn remove_rdt(&self) -> Result<()> {
        self.saved.rdt.as_ref().map_or(Ok(()), rdt::Group::remove)
    }

    /// Moves a process into its class of resctrl, if it has one.
    pub fn enter_rdt(&self, pid: i32) -> Result<()> {
        match &self.saved.rdt {
            Some(group) => Rdt::open()?.enter(group, pid),
            None => Ok(()),
        }
    }

    /// Removes the container's directory.
    pub fn remove(&self) -> Result<()> {
        remove_dir(&self.dir)
    }

    /// What the kernel says of it now.
    pub fn status(&self) -> Result<Status> {
        let Some(init) = &self.saved.init else {
            return Ok(match Lock::try_take(&self.dir)? {
                None => Status::Creating,
                // Whoever was creating it has been killed.
                Some(_) => Status::Stopped,
            });
        };
        if !init.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.cgroup().is_frozen().unwrap_or(false) {
            return Ok(Status::Paused);
        }
        let waits = match self.saved.starts_itself {
            true => !init.has_executed(),
            false => self.dir.join(START_SOCKET).exists() && self.knock().is_ok(),
        };
        Ok(match waits {
            true => Status::Created,
            false => Status::Running,
        })
    }

    /// Connects to init's socket; it listens for as long as it waits for `start`. Whoever only
    /// connects and says nothing is ignored.
    pub fn knock(&self) -> Result<UnixStream> {
        let dir = File::open(&self.dir).context("open the container's directory")?;
        UnixStream::connect(short_path(&dir, START_SOCKET)).context("connect to init")
    }

    /// The state as runtime.md has it, with what runc adds (`rootfs`, `created`, `owner`).
    pub fn state(&self, status: Status) -> serde_json::Value {
        let pid = match (status, &self.saved.init) {
            (Status::Stopped, _) | (_, None) => 0,
            (_, Some(init)) => init.pid,
        };
        let mut state = json!({
            "ociVersion": self.saved.oci_version,
            "id": self.saved.id,
            "status": status.to_string(),
            "pid": pid,
            "bundle": self.saved.bundle,
            "rootfs": self.saved.rootfs,
            "created": self.saved.created,
            "owner": owner_name(self.saved.owner),
        });
        if !self.saved.annotations.is_empty() {
            state["annotations"] = json!(self.saved.annotations);
        }
        state
    }

    /// The state that hooks and the seccomp agent get.
    pub fn state_for_hooks(&self, status: Status) -> Vec<u8> {
        self.state(status).to_string().into_bytes()
    }
}

/// A path to `name` in an open directory that fits into a `sockaddr_un`, however long the path of
/// the directory is (unix(7): 108 bytes).
pub fn short_path(dir: &File, name: &str) -> PathBuf {
    fds::path(dir).join(name)
}

/// The spec in the directory of a container.
pub fn spec_in(dir: &Path) -> Result<Spec> {
    let path = dir.join(SPEC);
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))
}

/// Whether a container has ever been stored there: `state.json` comes first, the spec next.
pub fn is_used(dir: &Path) -> bool {
    dir.join(STATE).exists() || dir.join(SPEC).exists()
}

fn owner_name(uid: u32) -> String {
    // Without looking it up: a static program must not load NSS modules.
    if uid == 0 {
        "root".into()
    } else {
        uid.to_string()
    }
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn remove_dir(dir: &Path) -> Result<()> {
    let remove = || -> std::io::Result<()> {
        // The state goes last: what has one can be deleted again.
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                _ if entry.file_name() == STATE => {}
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        fs::remove_dir_all(dir)
    };
    match remove() {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.with_context(|| format!("remove {}", dir.display())),
    }
}

/// The right to change a container, held until it is dropped or its holder ends.
#[derive(Debug)]
pub struct Lock(Flock<File>);

impl Lock {
    /// Waits for the lock of a container's directory.
    pub fn take(dir: &Path) -> Result<Lock> {
        Self::flock(dir, FlockArg::LockExclusive)?
            .with_context(|| format!("lock {}", dir.display()))
    }

    /// In a new process: closes its descriptor of the lock. The lock belongs to the open file, and
    /// dropping it would unlock it for the parent.
    pub fn leave_to_parent(&self) {
        let _ = nix::unistd::close(self.0.as_raw_fd());
    }

    /// Its descriptor. Whoever holds it open holds the lock as well.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The lock, if nobody has it.
    pub fn try_take(dir: &Path) -> Result<Option<Lock>> {
        Self::flock(dir, FlockArg::LockExclusiveNonblock)
    }

    fn flock(dir: &Path, how: FlockArg) -> Result<Option<Lock>> {
        let file = File::open(dir).with_context(|| format!("open {}", dir.display()))?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error).with_context(|| format!("lock {}", dir.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked() {
        for good in ["a", "a.b-c_d+e", "0"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "é", &"x".repeat(1025)] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
