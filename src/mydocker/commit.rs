//! `commit` and `diff`: what a container changed.

use super::cli::{Commit, Diff, Global};
use super::image::{CommitOptions, Image, Made, Store, changes};
use super::monitor_lock::MonitorLock;
use super::progress::{Bar, Progress};
use super::record::{self, Process, Record, Status};
use super::state_dirs::State;
use super::{events, overlay, pause, print, stop, wait};
use crate::error::{ResultExt, exit_code, with_exit_code, with_fallback_hint, with_hint};
use anyhow::{Context, Result};
use nix::fcntl::Flock;
use nix::sys::signal::{SigSet, SigmaskHow};
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, OwnedFd};

/// `mydocker commit`
pub fn commit(state: &State, _: &Global, args: &Commit) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    let make = || -> Result<Made> {
        let store = Store::open(&state.root)?;
        let mut base = store.image_of(&state.container(&record.id))?;
        if record.keep_id.is_some() {
            base.layers.clone_from(&record.layers);
        }
        let options = CommitOptions {
            name: args.image.clone(),
            message: args.message.clone(),
            author: args.author.clone(),
            changes: args.change.clone(),
            placeholders: record.shown.placeholders.clone(),
            config: own_config(&record, &base),
            created_by: record.args.join(" "),
            keep_id: record.keep_id,
        };
        let bar = Progress::new(args.quiet).bar(&record.name, "committing", None);
        if let Some(mut rest) = AtRest::of(state, &record.id)? {
            return rest.commit(&store, &base, options, bar);
        }
        let shares = args.pause && store.can_share();
        // The files stand still while they are read; the rest needs no container.
        let frozen = Frozen::of(state, &record, args.pause)?;
        let uppers = record.uppers(state);
        // Whatever stands in the way of a copy: then they are read where they are.
        if shares
            && frozen.is_some()
            && let Ok(snapshot) = store.snapshot(&base, &uppers)
        {
            drop(frozen);
            return snapshot.commit(&base, options, bar);
        }
        let committing = store.commit(&base, &uppers, options, bar)?;
        drop(frozen);
        committing.finish()
    };
    let made = state
        .unless_removed(&record.id, make())
        .with_context(|| format!("commit {}", record.name))
        .map_err(|error| {
            let error = with_fallback_hint(error, "mydocker commit CONTAINER [NAME[:TAG]]");
            match exit_code(&error) {
                Some(_) => error,
                None => with_exit_code(error, 1),
            }
        })?;
    if !args.quiet {
        for note in &made.notes {
            super::note(note);
        }
    }
    let id = &made.image.id;
    let comment = args.message.as_deref().unwrap_or_default();
    let more = [("comment", comment), ("imageID", id)];
    events::of_container(state, &record, "commit", &more);
    super::say(id).map(|()| 0)
}

/// What the container was made with is the new image's; `null` where it has none of what its image
/// had.
fn own_config(record: &Record, base: &Image) -> Map<String, Value> {
    const OWN: [&str; 7] = [
        "Cmd",
        "Entrypoint",
        "Env",
        "ExposedPorts",
        "User",
        "Volumes",
        "WorkingDir",
    ];
    let config = &record.shown.config;
    let mut own: Map<String, Value> = OWN
        .iter()
        .filter_map(|key| Some(((*key).to_owned(), config.get(*key)?.clone())))
        .collect();
    let health = match &record.health_check {
        Some(check) => json!(check),
        // It was made with --no-healthcheck, and so are those that are made of it.
        None if base.raw_config["config"]["Healthcheck"].is_object() => json!({"Test": ["NONE"]}),
        None => Value::Null,
    };
    own.insert("Healthcheck".into(), health);
    own.insert("Labels".into(), json!(record.labels));
    own.insert("StopSignal".into(), json!(record.stop_signal));
    for value in own.values_mut() {
        let is_empty = match value {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if is_empty {
            *value = Value::Null;
        }
    }
    own
}

/// A container that does not run, and is not started while this exists.
struct AtRest<'a> {
    state: &'a State,
    record: Record,
    _start: Flock<std::fs::File>,
    _monitor: MonitorLock,
}

impl AtRest<'_> {
    fn of<'a>(state: &'a State, id: &str) -> Result<Option<AtRest<'a>>> {
        // Somebody stands beside it: it runs, or is to run again.
        if state.is_monitored(id) {
            return Ok(None);
        }
        let start = state.lock_container(id)?;
        let Ok(monitor) = state.take_monitor_lock(id) else {
            return Ok(None);
        };
        let record = record::load(state, id)?;
        let lives = record.process.as_ref().is_some_and(Process::is_alive);
        Ok((!lives).then_some(AtRest {
            state,
            record,
            _start: start,
            _monitor: monitor,
        }))
    }

    /// Its upper directory becomes the layer by moving, and it goes on above that. The record says so
    /// before, so that whenever this is cut short nothing it has written is lost.
    fn commit(
        &mut self,
        store: &Store,
        base: &Image,
        options: CommitOptions,
        bar: Bar,
    ) -> Result<Made> {
        let uppers = self.record.uppers(self.state);
        let upper = self.state.upper(&self.record.id);
        // The owners of one with --userns keep-id are those of no layer.
        let moves = uppers == [upper.clone()] && self.record.keep_id.is_none();
        let committing = store.commit(base, &uppers, options, bar)?;
        if !moves || !committing.may_move() {
            return committing.finish();
        }
        let (diff_id, layer) = committing.layer();
        store.use_layer(&diff_id, &self.state.container(&self.record.id))?;
        let top = layer.clone();
        let note = |record: &mut Record| record.committed.insert(0, top);
        self.record.update(self.state, true, note)?;
        let made = committing.finish_with(&upper);
        if !upper.exists() {
            overlay::make_upper(&upper, &layer)?;
        }
        made
    }
}

/// A container that stands still while this exists. Signals wait meanwhile: one that ended us would
/// leave it so. After a kill -9 its monitor lets it go on, or if it has none the next command: the record
/// tells them.
struct Frozen<'a> {
    state: &'a State,
    record: Record,
    /// The signal mask of before.
    mask: SigSet,
}

impl Frozen<'_> {
    fn of<'a>(state: &'a State, record: &Record, wanted: bool) -> Result<Option<Frozen<'a>>> {
        if !wanted {
            return Ok(None);
        }
        if !pause::can_freeze(record) {
            super::note(&format!(
                "{} goes on meanwhile: it has no cgroup of its own, by which it could be frozen",
                record.name
            ));
            return Ok(None);
        }
        let me = Process::of(std::process::id() as i32)?;
        let mut record = record.clone();
        let mask = loop {
            // To us it would look paused by the user.
            until_nobody_commits(&record);
            if !matches!(record.status(state), Status::Running { .. }) {
                return Ok(None);
            }
            let mask = SigSet::all()
                .thread_swap_mask(SigmaskHow::SIG_BLOCK)
                .context("hold back signals")?;
            let mut is_ours = false;
            record.update(state, false, |record| {
                is_ours = committer(record).is_none();
                if is_ours {
                    record.committing = Some(me.clone());
                }
            })?;
            if is_ours {
                break mask;
            }
            let _ = mask.thread_set_mask();
        };
        let frozen = Frozen {
            state,
            record,
            mask,
        };
        stop::wake_monitor(&frozen.record);
        pause::freeze(state, &frozen.record)?;
        Ok(Some(frozen))
    }
}

/// Who freezes the container for a commit at present.
pub(super) fn committer(record: &Record) -> Option<OwnedFd> {
    record.committing.as_ref().and_then(Process::open)
}

/// Waits until nobody has frozen the container for a commit: what a second one, or `unpause`, did
/// meanwhile would let it go on under the eyes of the first. Whether there was one.
pub(super) fn until_nobody_commits(record: &Record) -> bool {
    let other = committer(record);
    if let Some(other) = &other {
        wait::until_readable(other.as_fd(), None);
    }
    other.is_some()
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        match pause::thaw(self.state, &self.record) {
            // With the note left, the next command tries again.
            Err(error) if self.record.is_frozen() => {
                let error = error.context(format!("let {} go on", self.record.name));
                let hint = format!("mydocker unpause {}", self.record.name);
                super::report(&with_hint(error, hint));
            }
            _ => {
                let note = |record: &mut Record| record.committing = None;
                // It may have been removed.
                let _ = self.record.update(self.state, false, note);
            }
        }
        let _ = self.mask.thread_set_mask();
    }
}

/// Whether it may be frozen for a commit that was killed.
pub(super) fn is_left_frozen(record: &Record) -> bool {
    let by = record.committing.as_ref();
    by.is_some_and(|process| !process.is_alive())
}

/// Lets a container go on that was frozen for a commit which was killed.
pub(super) fn heal(state: &State, record: &Record) {
    if !is_left_frozen(record) {
        return;
    }
    let mut record = record.clone();
    // Under the lock of the record, so that nobody's `pause` after this is undone.
    let _ = record.update(state, false, |record| {
        if is_left_frozen(record) {
            // Also where it does not look frozen: what the killed one has begun is waited for.
            let thawed = pause::thaw(state, record);
            match thawed {
                Err(error) if record.is_frozen() => super::report(&error),
                _ => record.committing = None,
            }
        }
    });
}

/// `mydocker diff`
pub fn diff(state: &State, _: &Global, args: &Diff) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    let uppers = record.uppers(state);
    let list = changes(&uppers, &record.layers, &record.shown.placeholders)
        .with_context(|| format!("compare {} with its image", record.name))
        .hint("its directory (mydocker info has StateDir) may be damaged")
        .exit_code(1)?;
    let text: String = list
        .iter()
        .map(|change| format!("{} {}\n", change.kind.letter(), change.path.display()))
        .collect();
    print(&text)
}
