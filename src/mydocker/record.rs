//! What is known of a container: its record (see `record_file`), and the status, which is asked of the
//! kernel each time.

pub use super::exit::Exit;
pub use super::identity::Process;
use super::keep_id::KeepId;
pub use super::record_file::load;
use super::state_dirs::{State, short};
use super::values::Restart;
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::sys::fds;
use crate::sys::process::Ended;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// Everything that is known of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Unique among containers.
    pub name: String,
    /// While it is renamed: the name that does not count, the new one first, then the old one.
    #[serde(default)]
    pub other_name: Option<String>,
    /// The image as it was named at `run`.
    pub image: String,
    /// The image's id, `sha256:<hex>`.
    pub image_id: String,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// The unpacked layers of the image, top first.
    pub layers: Vec<PathBuf>,
    /// Whose ids it keeps (--userns keep-id): `layers` are for such containers then.
    #[serde(default)]
    pub keep_id: Option<KeepId>,
    /// Upper directories of before, of which commits have made layers, top first. They lie above
    /// `layers`. One that is not there is still the upper directory: its commit was cut short.
    #[serde(default)]
    pub committed: Vec<PathBuf>,
    /// Whether it has a terminal.
    #[serde(default)]
    pub tty: bool,
    /// Whether its standard input was asked for (-i).
    #[serde(default)]
    pub interactive: bool,
    /// Whether it is removed at its end.
    #[serde(default)]
    pub remove: bool,
    /// Whether the disk need not know of it: `run` made it, and it is removed at its end. What is left
    /// of it after a power cut goes by itself.
    #[serde(default)]
    pub fleeting: bool,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is mounted over files of its /etc while it runs.
    #[serde(default)]
    pub(super) etc: super::etc::Etc,
    /// The signal that asks it to end; SIGTERM if `None`.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits after it; 10 if `None`.
    #[serde(default)]
    pub stop_timeout: Option<i64>,
    /// The bounds of the log.
    #[serde(default)]
    pub log: super::log::Bounds,
    /// The memory limit in bytes and as the user wrote it.
    #[serde(default)]
    pub memory: Option<(i64, String)>,
    /// Who owns the pipes of its output: the user that it runs as.
    #[serde(default)]
    pub uid: u32,
    /// The runtime that made it.
    pub runtime: PathBuf,
    /// The container in Docker's words, for `inspect`, `commit` and `diff`.
    #[serde(default)]
    pub shown: super::shown::Shown,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// How its health is checked.
    #[serde(default)]
    pub health_check: Option<super::health::Check>,
    /// What that has told since the last start.
    #[serde(default)]
    pub health: Option<super::health::Health>,
    /// The process beside it.
    #[serde(default)]
    pub monitor: Option<Process>,
    /// Somebody wants it to end: it is not started again.
    #[serde(default)]
    pub stopping: bool,
    /// It was the machine, or systemd, that wanted it to end: the next `boot` does not mind.
    #[serde(default)]
    pub is_shut_down: bool,
    /// While `run` or `start` has not confirmed the start. With nobody at it, a first start that
    /// failed unseen: the container is removed.
    #[serde(default)]
    pub starting: bool,
    /// Its first process, from the last start on.
    #[serde(default)]
    pub process: Option<Process>,
    /// When that was started. `None` while the runtime has not confirmed it: with nobody at it, its
    /// program does not run and never will. Without a process: the machine went down while it ran.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub started: Option<OffsetDateTime>,
    /// How it ended; `None` from the next confirmed start on.
    #[serde(default)]
    pub exit: Option<Exit>,
    /// Why its last start failed; `None` from the next confirmed start on.
    #[serde(default)]
    pub failed: Option<String>,
    /// The `restart` whose stop is not its end, as long as that lives.
    #[serde(default)]
    pub restarting: Option<Process>,
    /// The `build` whose step it is: it stays after its end as long as that lives, and goes with it.
    #[serde(default)]
    pub build: Option<Process>,
    /// The `commit` for which it is frozen.
    #[serde(default)]
    pub committing: Option<Process>,
    /// How often its monitor has started it again.
    #[serde(default)]
    pub restarts: u32,
}

/// What a container does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not started, or just being started.
    Created,
    /// Its first process lives.
    Running {
        /// By the host's count.
        pid: i32,
    },
    /// As running, and frozen.
    Paused {
        /// By the host's count.
        pid: i32,
    },
    /// It ended.
    Exited(Exit),
    /// It ended, and went with that (--rm).
    Removed,
    /// Its record cannot be read: why.
    Damaged(String),
}

impl Status {
    /// Docker's word: created, running, paused, exited, removing, dead.
    pub fn word(&self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running { .. } => "running",
            Status::Paused { .. } => "paused",
            Status::Exited(_) => "exited",
            Status::Removed => "removing",
            Status::Damaged(_) => "dead",
        }
    }

    /// The pid of the first process while it lives.
    pub fn pid(&self) -> Option<i32> {
        match self {
            Status::Running { pid } | Status::Paused { pid } => Some(*pid),
            _ => None,
        }
    }

    /// Whether its first process lives.
    pub fn is_alive(&self) -> bool {
        self.pid().is_some()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(Exit { code: None, .. }) => {
                f.write_str("exited (code unknown: its monitor was killed)")
            }
            Status::Exited(Exit {
                code: Some(code), ..
            }) => write!(f, "exited ({code})"),
            Status::Damaged(_) => f.write_str("damaged"),
            other => f.write_str(other.word()),
        }
    }
}

/// A container as a list shows it.
#[derive(Debug)]
pub enum Entry {
    /// Its record is readable.
    Known(Box<Record>, Status),
    /// It is not.
    Damaged {
        /// The directory's name.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Record {
    /// Changes what is on disk at this moment, under the lock of the record, so that nobody's change
    /// is lost; then this is what is on disk. A record that is damaged is made whole by this one.
    pub fn update(
        &mut self,
        state: &State,
        durably: bool,
        change: impl FnOnce(&mut Record),
    ) -> Result<()> {
        let _lock = state.lock_record(&self.id)?;
        match load(state, &self.id) {
            Ok(now) => *self = now,
            // It was removed, and does not come back; or it may be whole, and newer than this.
            Err(_) if !state.has_record(&self.id) => return Err(state.just_removed(&self.id)),
            Err(error) if error.chain().any(|cause| cause.is::<std::io::Error>()) => {
                return Err(error);
            }
            Err(_) => {}
        }
        change(self);
        match durably {
            true => self.save(state),
            false => self.save_for_now(state),
        }
    }

    /// Whether its restart policy starts it again after this end, if nobody has stopped it.
    pub fn wants_another_life(&self, exit: &Exit) -> bool {
        // A start that failed would fail again and again.
        if self.failed.is_some() {
            return false;
        }
        match self.restart {
            Restart::No => false,
            Restart::OnFailure(None) => exit.code != Some(0),
            Restart::OnFailure(Some(most)) => exit.code != Some(0) && self.restarts < most,
            Restart::Always | Restart::UnlessStopped => true,
        }
    }

    /// What the container does now, by what the kernel says. A container that has just ended and
    /// whose monitor is about to note its exit is waited for.
    pub fn status(&self, state: &State) -> Status {
        now(self).unwrap_or_else(|| catch_up(state, &mut self.clone(), Instant::now() + PATIENCE))
    }

    /// How its process ended, which its monitor has not noted: that was killed, or is stopped itself.
    /// As long as the process is not reaped it can be asked.
    pub(super) fn unnoted(&self) -> Option<Ended> {
        self.process.as_ref().and_then(Process::status)
    }

    /// Whether it has ended and its monitor is about to start it again.
    pub fn is_restarting(&self, state: &State, status: &Status) -> bool {
        matches!(status, Status::Exited(exit) if self.wants_another_life(exit))
            && !self.stopping
            && state.is_monitored(&self.id)
    }

    /// Forgets of `committed` what is not there, before anything is written again.
    pub(super) fn settle(&mut self, state: &State) -> Result<()> {
        if self.committed.iter().all(|layer| layer.is_dir()) {
            return Ok(());
        }
        self.update(state, false, |record| {
            record.committed.retain(|layer| layer.is_dir())
        })
    }

    /// What is below its upper directory, top first.
    pub fn lowers(&self) -> Vec<PathBuf> {
        let own = self.committed.iter().filter(|layer| layer.is_dir());
        let mut lowers: Vec<PathBuf> = own.cloned().collect();
        // Overlayfs refuses a directory twice.
        let new = |layer: &&PathBuf| !self.committed.contains(layer);
        lowers.extend(self.layers.iter().filter(new).cloned());
        lowers
    }

    /// All that it has written above its image, top first.
    pub fn uppers(&self, state: &State) -> Vec<PathBuf> {
        let upper = state.upper(&self.id);
        let all = std::iter::once(&upper).chain(&self.committed);
        all.filter(|dir| dir.is_dir()).cloned().collect()
    }

    /// Whether it goes at its end (--rm): it does not come back by `restart`, and no `build` is about
    /// to make a layer of it.
    pub(super) fn goes(&self) -> bool {
        let mut by = self.restarting.iter().chain(&self.build);
        self.remove && !by.any(Process::is_alive)
    }

    /// Whether nothing that it writes is to outlive a power cut: `run --rm`, unless a `build` makes a
    /// layer of it.
    pub(super) fn is_fleeting(&self) -> bool {
        self.fleeting && self.build.is_none()
    }

    /// Whether it is a step of a build that is gone.
    pub(super) fn is_left_of_build(&self) -> bool {
        self.build.as_ref().is_some_and(|build| !build.is_alive())
    }

    /// Whether its first process lives, and is frozen.
    pub(super) fn is_frozen(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.is_alive() && frozen(process.pid))
    }

    /// The first 12 digits of the id.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }
}

/// All containers, oldest first; those that cannot be read come last. What belongs to nobody any
/// more is removed on the way.
pub fn all(state: &State) -> Result<Vec<Entry>> {
    let mut known = Vec::new();
    let mut damaged = Vec::new();
    // However many monitors are late.
    let mut end = None;
    for id in ids(state)? {
        match load(state, &id) {
            Ok(mut record) => {
                if !super::rm::is_sound(state, &record) {
                    if super::rm::heal(state, &record) {
                        continue;
                    }
                    // Healing may have noted an exit.
                    record = load(state, &id).unwrap_or(record);
                }
                let told = now(&record).filter(|_| !has_just_begun(state, &record));
                let status = told.unwrap_or_else(|| {
                    let end = *end.get_or_insert_with(|| Instant::now() + PATIENCE);
                    catch_up(state, &mut record, end)
                });
                if status != Status::Removed {
                    known.push((record, status));
                }
            }
            Err(error) if is_unrecorded(&error) => {
                super::rm::heal_unpublished(state, &id);
            }
            Err(error) => damaged.push(Entry::Damaged {
                id,
                why: crate::error::message(&error),
            }),
        }
    }
    known.sort_by(|a, b| (a.0.created, &a.0.id).cmp(&(b.0.created, &b.0.id)));
    let mut entries: Vec<_> = known
        .into_iter()
        .map(|(record, status)| Entry::Known(Box::new(record), status))
        .collect();
    entries.append(&mut damaged);
    Ok(entries)
}

/// The ids of all container directories. None when there is no state yet.
pub fn ids(state: &State) -> Result<Vec<String>> {
    let dir = state.containers();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {}", dir.display())),
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", dir.display()))?;
        if let Ok(name) = entry.file_name().into_string() {
            ids.push(name);
        }
    }
    ids.sort();
    Ok(ids)
}

/// The id of the container that the user means: a name, an id, or the start of one. Exit code 1
/// when there is none.
pub fn find_id(state: &State, wanted: &str) -> Result<String> {
    let counts = |id: &str| load(state, id).is_ok_and(|record| record.name == wanted);
    let damaged = |id: &str| state.has_record(id) && load(state, id).is_err();
    if let Some(id) = state.named(wanted)
        && (counts(&id) || damaged(&id))
    {
        return Ok(id);
    }
    let hex = !wanted.is_empty() && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut found = Vec::new();
    if hex {
        found = ids(state)?;
        found.retain(|id| id.starts_with(wanted));
        found.retain(|id| state.has_record(id));
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(no_such(wanted)),
        n => Err(anyhow!("{wanted} is the start of {n} container ids"))
            .hint("give more digits, or the name")
            .exit_code(1),
    }
}

/// The record of a container that the user means, which somebody may remove at this moment.
pub fn load_named(state: &State, id: &str, wanted: &str) -> Result<Record> {
    load(state, id).map_err(|error| match is_unrecorded(&error) {
        true => no_such(wanted),
        false => with_exit_code(error, 1),
    })
}

/// Whether there was no record when it was looked for, though there may be one by now: somebody is just
/// making the container, or has just removed it.
pub(super) fn is_unrecorded(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    causes.any(|cause: &std::io::Error| matches!(cause.kind(), NotFound | NotADirectory))
}

fn no_such(wanted: &str) -> anyhow::Error {
    let error = anyhow!("no such container: {}", super::visible(wanted));
    with_exit_code(with_hint(error, "list them: mydocker ps -a"), 1)
}

/// The container that the user means; see [`find_id`]. What has happened to it unseen is noted
/// first.
pub fn find(state: &State, wanted: &str) -> Result<Record> {
    let id = find_id(state, wanted)?;
    let record = load_named(state, &id, wanted)?;
    if super::rm::heal(state, &record) {
        return Err(no_such(wanted));
    }
    let record = load_named(state, &id, wanted)?;
    match is_behind(state, &record) {
        true => noted(state, &record, Instant::now() + PATIENCE).ok_or_else(|| no_such(wanted)),
        false => Ok(record),
    }
}

/// What the container does now; `None` if its process has ended and its monitor has not noted that.
fn now(record: &Record) -> Option<Status> {
    if has_just_ended(record) {
        return None;
    }
    Some(match (&record.exit, &record.process, &record.started) {
        (Some(exit), ..) => Status::Exited(exit.clone()),
        (None, Some(Process { pid, .. }), Some(_)) => match frozen(*pid) {
            true => Status::Paused { pid: *pid },
            false => Status::Running { pid: *pid },
        },
        // While the runtime has not confirmed the start, its process is not the program yet.
        _ => Status::Created,
    })
}

/// How long a monitor is waited for that is to note what has happened.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the monitor has noted a start or an end that has happened already.
fn catch_up(state: &State, record: &mut Record, end: Instant) -> Status {
    let Some(then) = noted(state, record, end) else {
        return Status::Removed;
    };
    *record = then;
    now(record).unwrap_or_else(|| Status::Exited(Exit::of(record.unnoted())))
}

/// The record of a container that has just begun or ended, when its monitor has noted that. With a
/// restart policy it may have begun another life by then. `None`: with --rm it is gone with its end.
fn noted(state: &State, record: &Record, end: Instant) -> Option<Record> {
    loop {
        // Asked first: the monitor notes the exit before it lets go of its lock.
        let watched = state.is_monitored(&record.id);
        let now = match load(state, &record.id) {
            Ok(now) => now,
            Err(_) if !state.has_record(&record.id) => return None,
            Err(_) => return Some(record.clone()),
        };
        if !is_behind(state, &now) || !watched || Instant::now() >= end {
            return Some(now);
        }
        // A record that is replaced gives no event.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether something has happened to it that its monitor has not noted.
fn is_behind(state: &State, record: &Record) -> bool {
    has_just_ended(record) || has_just_begun(state, record)
}

/// Whether the monitor is about to note that its process has ended.
fn has_just_ended(record: &Record) -> bool {
    let lives = record.process.as_ref().is_some_and(Process::is_alive);
    record.started.is_some() && record.exit.is_none() && !lives
}

/// Whether the runtime has named a process that is not noted as the one that runs: its monitor is
/// about to do that, or to say that it could not be started.
fn has_just_begun(state: &State, record: &Record) -> bool {
    let noted = match (&record.started, &record.process) {
        (Some(_), Some(process)) => Some(process.pid),
        _ => None,
    };
    let runs = noted.is_some() && record.exit.is_none();
    !runs
        && std::fs::read_to_string(state.pid_file(&record.id))
            .is_ok_and(|named| named.trim().parse().ok() != noted)
}

/// Whether the freezer holds the process, by its own cgroup.
fn frozen(pid: i32) -> bool {
    let Ok(text) = fds::read_to_string(format!("/proc/{pid}/cgroup")) else {
        return false;
    };
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next(), parts.next());
        let Some((controllers, path)) = controllers.zip(path) else {
            continue;
        };
        let path = path.trim_start_matches('/');
        if controllers == "freezer" {
            let file = Path::new("/sys/fs/cgroup/freezer")
                .join(path)
                .join("freezer.state");
            if fds::read_to_string(file).is_ok_and(|state| state.trim() != "THAWED") {
                return true;
            }
        }
        if controllers.is_empty() {
            for base in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                let file = Path::new(base).join(path).join("cgroup.freeze");
                if fds::read_to_string(file).is_ok_and(|state| state.trim() == "1") {
                    return true;
                }
            }
        }
    }
    false
}

/// A record of a container that was created and not started.
#[cfg(test)]
pub(super) fn sample(id: &str) -> Record {
    let value = serde_json::json!({
        "id": id, "name": "a", "image": "busybox", "image_id": "sha256:0",
        "created": "2026-01-01T00:00:00Z", "args": ["top"], "layers": [], "runtime": "/runtime",
    });
    serde_json::from_value(value).unwrap()
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
