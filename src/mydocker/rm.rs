//! `rm`, and the healing of what killed processes left.

use super::record::{self, Exit, Record};
use super::runtime_cli::Runtime;
use super::state_dirs::{State, short};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use time::OffsetDateTime;

/// Notes what happened to a container while nobody watched, and removes one that nobody wants:
/// never confirmed by its `run`, or ended with --rm. `true`: it is gone.
pub fn heal(state: &State, record: &Record) -> bool {
    let id = &record.id;
    let alive = record
        .process
        .as_ref()
        .is_some_and(|process| process.is_alive());
    if alive || state.is_monitored(id) {
        return false;
    }
    let unconfirmed = record.starting && record.process.is_none();
    let unseen = record.process.is_some() && record.exit.is_none();
    let unwanted = record.remove && (record.exit.is_some() || unseen);
    if !(unconfirmed || unseen || unwanted) {
        return false;
    }
    let Ok(_lock) = state.take_monitor_lock(id) else {
        return false;
    };
    // Somebody may have been faster.
    let Ok(mut record) = record::load(state, id) else {
        return !state.container(id).join("record.json").exists();
    };
    if record
        .process
        .as_ref()
        .is_some_and(|process| process.is_alive())
    {
        return false;
    }
    if (record.starting && record.process.is_none()) || record.remove {
        return remove(state, &record.id, Some(&record)).is_ok();
    }
    if record.process.is_some() && record.exit.is_none() {
        // What the runtime still keeps (the cgroup, with processes that outlived the first) goes
        // first: a record that says "exited" must be true.
        let _ = Runtime::new(state, &record.runtime).delete(id);
        record.exit = Some(Exit {
            code: None,
            signal: None,
            oom: false,
            at: OffsetDateTime::now_utc(),
        });
        let _ = record.save(state);
    }
    false
}

/// Removes a directory that was never published, or whose removal was cut short. `true`: there is
/// no container of this id to show.
pub fn heal_unpublished(state: &State, id: &str) -> bool {
    if state.container(id).join("record.json").exists() {
        return false;
    }
    if !state.is_monitored(id) {
        if let Ok(_lock) = state.take_monitor_lock(id) {
            if !state.container(id).join("record.json").exists() {
                let _ = remove(state, id, None);
            }
        }
    }
    true
}

/// Removes everything that a container has. The caller holds its monitor lock. The unlinking of the
/// record is the moment at which it is gone.
pub fn remove(state: &State, id: &str, record: Option<&Record>) -> Result<()> {
    if let Some(record) = record {
        Runtime::new(state, &record.runtime)
            .delete(id)
            .with_context(|| format!("remove container {}", short(id)))?;
    }
    let dir = state.container(id);
    forgive_missing(std::fs::remove_file(dir.join("record.json")))
        .with_context(|| format!("remove the record of {}", short(id)))?;
    sync(&dir);
    if let Some(record) = record {
        state.release_name(&record.name, id)?;
    }
    forgive_missing(std::fs::remove_dir_all(state.run_dir(id)))
        .with_context(|| format!("remove {}", state.run_dir(id).display()))?;
    forgive_missing(std::fs::remove_dir_all(&dir))
        .with_context(|| format!("remove {}", dir.display()))
}

fn forgive_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Best effort: after a power cut the container would be there again, whole.
fn sync(dir: &Path) {
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}
