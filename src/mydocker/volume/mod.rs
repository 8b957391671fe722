//! Volumes: directories with a name that outlive the containers that use them.
//!
//! ```text
//! <root>/volumes/<name>/_data           what containers see
//! <root>/volumes/<name>/volume.json     when it was made, its labels and options; never changed
//! <root>/volumes/<name>/copying         what is on its way from an image to _data (fill.rs)
//! <root>/containers/<id>/volumes        those that a container uses (uses.rs): it keeps them
//! ```
//!
//! A volume is made in a draft and published by one rename, and removed by one rename into a draft, so
//! that it is there as a whole or not at all. The lock of the directory `volumes` is held shared from
//! a look at a volume until a container is noted as its user, and exclusive to remove one.

mod fill;
mod local;
mod mounted;
mod uses;
mod verbs;

use super::events;
use super::image::Store;
use super::image::draft::Draft;
use super::state_dirs::{State, lock_file};
use super::whole_file::sync_dir;
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

pub(super) use fill::heal;
pub(super) use local::{Kind, Options};
pub(super) use mounted::{clear_places, mount_all, mount_subpaths};
pub(super) use uses::*;
pub(super) use verbs::{check_name, described};
pub use verbs::{create, inspect, ls, rm};

/// The only driver: directories of this machine.
pub(super) const DRIVER: &str = "local";

/// The label by which Docker knows volumes that nobody gave a name.
pub(super) const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// A volume, as it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) created: OffsetDateTime,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) options: Options,
}

impl Volume {
    /// A new one.
    pub(super) fn new(name: &str, labels: BTreeMap<String, String>, options: Options) -> Volume {
        Volume {
            name: name.to_owned(),
            created: OffsetDateTime::now_utc(),
            labels,
            options,
        }
    }

    /// Whether nobody gave it a name.
    pub(super) fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }
}

/// The label of a volume that nobody gave a name.
pub(super) fn anonymous_label() -> BTreeMap<String, String> {
    BTreeMap::from([(ANONYMOUS.to_owned(), String::new())])
}

/// Docker's rule: a letter or digit, then at least one letter, digit, `_`, `.` or `-`.
pub(super) fn is_name(name: &str) -> bool {
    name.len() > 1 && super::names::is_name(name)
}

fn directory(state: &State) -> PathBuf {
    state.root.join("volumes")
}

fn drafts(state: &State) -> PathBuf {
    state.root.join("drafts")
}

/// Everything that is kept of a volume.
pub(super) fn home(state: &State, name: &str) -> PathBuf {
    directory(state).join(name)
}

/// Where the files of a volume without options are.
pub(super) fn data(state: &State, name: &str) -> PathBuf {
    home(state, name).join("_data")
}

/// Where the files of a volume are: a directory of the host, or its own.
pub(super) fn files(state: &State, volume: &Volume) -> Result<PathBuf> {
    Ok(match volume.options.kind()? {
        Kind::Bind(device, _) => device,
        Kind::Plain | Kind::Tmpfs(_) => data(state, &volume.name),
    })
}

/// The volume of this name, or `None`.
pub(super) fn load(state: &State, name: &str) -> Result<Option<Volume>> {
    if !is_name(name) {
        return Ok(None);
    }
    let path = home(state, name).join("volume.json");
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .with_context(|| format!("the volume's record {} is damaged", path.display()))
            .hint(format!(
                "its files are in {}; `mydocker volume rm {name}` removes it",
                data(state, name).display()
            )),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// The same, where none is an error.
pub(super) fn get(state: &State, name: &str) -> Result<Volume> {
    load(state, name)?.ok_or_else(|| no_such(name))
}

fn no_such(name: &str) -> anyhow::Error {
    let error = anyhow!("no such volume: {}", super::visible(name));
    with_exit_code(with_hint(error, "`mydocker volume ls` lists them"), 1)
}

/// All volumes by name. One whose record is damaged is reported, and not among them. What was cut
/// short is finished or removed on the way.
pub(super) fn all(state: &State) -> Result<Vec<Volume>> {
    let dir = directory(state);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    Store::clear_leftovers(&state.root);
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let mut volumes = Vec::new();
    for name in names {
        match load(state, &name) {
            Ok(Some(volume)) => {
                heal(state, &volume);
                volumes.push(volume);
            }
            // Removed meanwhile.
            Ok(None) => {}
            Err(error) => super::report(&error),
        }
    }
    Ok(volumes)
}

/// The lock of all volumes, which makes their directory. What a container sees of a volume may hold
/// set-user-id programs: no user of the host comes by here.
pub(super) fn lock(state: &State, how: FlockArg) -> Result<Flock<File>> {
    let dir = directory(state);
    for dir in [&dir, &drafts(state)] {
        make(dir, 0o700)?;
    }
    File::open(&dir)
        .map_err(anyhow::Error::from)
        .and_then(|file| lock_file(file, how))
        .context("lock the volumes")
}

fn make(dir: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(dir)
        .with_context(|| format!("make {}", dir.display()))
        .hint("the state directory must be writable; MYDOCKER_ROOT names another")
}

/// Makes a volume if there is none of this name; `true`: it is new. One that is there must have been
/// made with the same options. The caller has the lock.
pub(super) fn ensure(state: &State, volume: &Volume, _: &Flock<File>) -> Result<bool> {
    if let Some(there) = load(state, &volume.name)? {
        return is_same(&there, volume).map(|()| false);
    }
    let draft = Draft::new(&drafts(state))?;
    let new = draft.path().join("volume");
    let data = new.join("_data");
    for (dir, mode) in [(&new, 0o700), (&data, 0o755)] {
        make(dir, mode)?;
        // Whatever the umask is.
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .with_context(|| format!("make {}", dir.display()))?;
    }
    let bytes = serde_json::to_vec_pretty(volume).context("encode the volume's record")?;
    let path = new.join("volume.json");
    File::create_new(&path)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .with_context(|| format!("write {}", path.display()))?;
    sync_dir(&new)?;
    let home = home(state, &volume.name);
    match renameat2(
        AT_FDCWD,
        &new,
        AT_FDCWD,
        &home,
        RenameFlags::RENAME_NOREPLACE,
    ) {
        Ok(()) => {}
        // Somebody was faster.
        Err(Errno::EEXIST) => {
            return is_same(&get(state, &volume.name)?, volume).map(|()| false);
        }
        Err(error) => return Err(error).with_context(|| format!("make {}", home.display())),
    }
    sync_dir(&directory(state))?;
    events::of_volume(state, "create", &volume.name);
    Ok(true)
}

fn is_same(there: &Volume, wanted: &Volume) -> Result<()> {
    if there.options == wanted.options {
        return Ok(());
    }
    let error = anyhow!("the volume {} was made with other options", there.name);
    let hint = format!("`mydocker volume inspect {}` shows them", there.name);
    Err(with_exit_code(with_hint(error, hint), 1))
}

/// Takes volumes that no container uses out of the store, and then removes their files.
///
/// # Errors
/// There is none of a name, or a container uses it, whether or not that runs.
pub(super) fn remove(state: &State, name: &str) -> Result<()> {
    let garbage = {
        let _lock = lock(state, FlockArg::LockExclusive)?;
        let users = users(state, name)?;
        if !users.is_empty() {
            let error = anyhow!("the volume {name} is in use by {}", users.join(", "));
            let hint = format!(
                "remove the containers first: mydocker rm {}",
                users.join(" ")
            );
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        take_out(state, name)?
    };
    drop(garbage);
    events::of_volume(state, "destroy", name);
    Ok(())
}

/// By one rename; the caller has the exclusive lock, and drops the result after it.
fn take_out(state: &State, name: &str) -> Result<Draft> {
    if !is_name(name) {
        return Err(no_such(name));
    }
    let home = home(state, name);
    if !home.exists() {
        return Err(no_such(name));
    }
    Draft::adopt(&drafts(state), &home)?
        .with_context(|| format!("the volume {name} is busy"))
        .hint("another mydocker is filling it; try again")
        .exit_code(1)
}
