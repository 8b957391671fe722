//! `rm`, and the healing of what killed processes left.

use super::cli::{Global, Rm};
use super::record::{self, Exit, Record};
use super::remove_tree::remove_tree;
use super::runtime_cli::Runtime;
use super::state_dirs::{MONITOR_LOCK, State, short};
use super::{events, names, record_file, stop, volume};
use crate::cgroup::{Cgroup, Host};
use crate::error::{self, ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// `mydocker rm`
pub fn rm(state: &State, _: &Global, args: &Rm) -> Result<i32> {
    if args.force && args.containers.len() > 1 {
        kill_all(state, &args.containers);
    }
    super::for_each(&args.containers, |name| {
        match one(state, name, args.force, args.volumes) {
            // With -f what is not there is no error, if it is a name at all.
            Err(error) if args.force && is_missing(&error) && names::check(name).is_ok() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => super::say(name),
        }
    })
}

/// No container is meant by the name.
fn is_missing(error: &anyhow::Error) -> bool {
    error::message(error).starts_with("no such container")
}

/// Kills what is to be removed by force, so that all end together. What stands in the way is told when
/// each is removed.
fn kill_all(state: &State, names: &[String]) {
    for name in names {
        if let Ok(record) = record::find(state, name) {
            let _ = stop::send_kill(state, &record);
        }
    }
}

/// Removes the container that is meant by a name, perhaps with its anonymous volumes.
pub(super) fn one(state: &State, name: &str, force: bool, volumes: bool) -> Result<()> {
    let id = record::find_id(state, name)?;
    // Whoever is just starting or changing it is waited for, and from here on nobody starts it.
    let _one = match state.lock_container(&id) {
        Ok(lock) => lock,
        Err(_) if !state.has_record(&id) => return Ok(()),
        Err(error) => return Err(error),
    };
    let record = match record::load_named(state, &id, name) {
        Ok(record) => record,
        // What cannot be read is removed by what its directory says.
        Err(error) if force && !is_missing(&error) => return remove_damaged(state, &id, volumes),
        Err(error) => return Err(error),
    };
    if heal(state, &record) {
        return Ok(());
    }
    let record = record::load_named(state, &id, name)?;
    match force {
        true => stop::kill_now(state, &record)?,
        false => refuse_alive(state, &record)?,
    }
    let _monitor = match state.take_monitor_lock_within(&id, stop::END_PATIENCE) {
        // With --rm its monitor has removed it.
        _ if !state.has_record(&id) => return Ok(()),
        lock => lock.exit_code(1)?,
    };
    let record = record::load(state, &id).unwrap_or(record);
    volume::keep(state, &id, !volumes && !record.remove).exit_code(1)?;
    clear_cgroup(state, &id);
    remove(state, &id, Some(&record)).exit_code(1)
}

/// What runs, or is about to, is removed by force only.
fn refuse_alive(state: &State, record: &Record) -> Result<()> {
    stop::not_between_lives(state, record, &record.status(state))?;
    // One that `run` or `start -a` is just beginning counts as what it comes to.
    let (record, pidfd) = stop::decided(state, record)?;
    if pidfd.is_none() {
        return Ok(());
    }
    let name = &record.name;
    let error = anyhow!("{name} is running; stop it first or use rm -f");
    Err(with_exit_code(
        with_hint(error, format!("mydocker rm -f {name}")),
        1,
    ))
}

/// Removes a container whose record says nothing: its runtime state by the default runtime.
fn remove_damaged(state: &State, id: &str, volumes: bool) -> Result<()> {
    let _monitor = state.take_monitor_lock(id).exit_code(1)?;
    volume::keep(state, id, !volumes).exit_code(1)?;
    if state.runtime_root().join(id).exists() {
        let runtime = super::runtime_cli::choose(None).exit_code(1)?;
        Runtime::new(state, &runtime).delete(id).exit_code(1)?;
    }
    clear_cgroup(state, id);
    remove(state, id, None).exit_code(1)
}

/// What is to be done with a container that nobody watches.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing: it was never started, or its end is known.
    Stays,
    /// Nobody wants it: never confirmed by its `run`, or ended with --rm.
    Goes,
    /// It runs, or is to run again by its policy: it gets another monitor.
    Watched,
    /// A later start was cut short: it is as before.
    StartUndone,
    /// It ended unseen.
    EndNoted,
}

/// `left`: it has something in the run directory, which every monitor clears away at its end.
fn fate(record: &Record, left: bool) -> Fate {
    let process = record.process.as_ref();
    let ended = match (process, &record.started) {
        // Even if it is alive: whoever ran it was told nothing, or that it failed, or is gone.
        _ if record.starting || record.is_left_of_build() => return Fate::Goes,
        (Some(_), None) => return Fate::StartUndone,
        (Some(process), _) if process.is_alive() => return Fate::Watched,
        (_, started) => process.is_some() || started.is_some() || record.exit.is_some(),
    };
    let again = |exit: &Exit| record.wants_another_life(exit) && !record.stopping;
    let this_boot = record
        .monitor
        .as_ref()
        .is_some_and(record::Process::is_of_this_boot);
    match &record.exit {
        _ if !ended && left => Fate::StartUndone,
        _ if !ended => Fate::Stays,
        Some(exit) if again(exit) && this_boot => Fate::Watched,
        _ if record.goes() => Fate::Goes,
        None => Fate::EndNoted,
        Some(_) if left => Fate::StartUndone,
        Some(_) => Fate::Stays,
    }
}

/// What [`heal`] will do with a container, in words.
pub(super) fn what_to_heal(state: &State, record: &Record) -> Option<&'static str> {
    if super::commit::is_left_frozen(record) {
        return Some("a commit of it was killed: it is thawed");
    }
    // Looked at before the lock: a monitor clears it away and then lets go.
    let left = state.run_dir(&record.id).exists();
    if state.is_monitored(&record.id) {
        return None;
    }
    match fate(record, left) {
        Fate::Stays if record.other_name.is_some() => {
            Some("a rename was cut short: the name that does not count is free again")
        }
        Fate::Stays => None,
        Fate::Goes => Some("nobody wants it any more (its start was cut short, or --rm): removed"),
        Fate::Watched => Some("it has no monitor: it gets another one"),
        Fate::StartUndone => Some("what a killed mydocker or runtime left of it is cleared away"),
        Fate::EndNoted => Some("it ended while nobody watched: its end is noted"),
    }
}

/// Whether there is nothing for [`heal`] to do, as is the rule.
pub(super) fn is_sound(state: &State, record: &Record) -> bool {
    // Looked at before the lock: a monitor clears it away and then lets go.
    let left = state.run_dir(&record.id).exists();
    record.other_name.is_none()
        && record.committing.is_none()
        && (state.is_monitored(&record.id) || fate(record, left) == Fate::Stays)
}

/// Notes what happened to a container while nobody watched, gives a monitor to one that runs, and
/// removes one that nobody wants. `true`: it is gone.
pub fn heal(state: &State, record: &Record) -> bool {
    let id = &record.id;
    if record.other_name.is_some() {
        let _ = super::rename::heal(state, record);
    }
    super::commit::heal(state, record);
    let left = state.run_dir(id).exists();
    if state.is_monitored(id) || fate(record, left) == Fate::Stays {
        return false;
    }
    let Ok(lock) = state.take_monitor_lock(id) else {
        return false;
    };
    // Somebody may have been faster.
    let Ok(mut record) = record::load(state, id) else {
        return !state.has_record(id);
    };
    let exit = match fate(&record, left) {
        Fate::Stays => return false,
        Fate::Goes => {
            clear_cgroup(state, id);
            return remove(state, id, Some(&record)).is_ok();
        }
        Fate::Watched => {
            super::background::adopt(&record, lock);
            return false;
        }
        Fate::StartUndone => None,
        Fate::EndNoted => Some(Exit {
            unwatched: true,
            stopped: record.stopping,
            ..Exit::in_cgroup(record.unnoted(), configured_cgroup(state, id).as_ref())
        }),
    };
    let note = |record: &mut Record| match &exit {
        None => record.process = None,
        Some(exit) => record.exit = Some(exit.clone()),
    };
    // What the runtime still keeps (the cgroup, with processes that outlived the first) goes first:
    // a record that says "exited" must be true.
    if Runtime::new(state, &record.runtime).delete(id).is_ok() {
        let _ = std::fs::remove_dir_all(state.run_dir(id));
        if record.update(state, true, note).is_ok()
            && let Some(exit) = &exit
        {
            events::of_end(state, &record, exit);
            // Its policy may want it to go on, or --rm to go.
            drop(lock);
            return heal(state, &record);
        }
    }
    false
}

/// Removes a directory that was never published, or whose removal was cut short. `true`: there is
/// no container of this id to show.
pub fn heal_unpublished(state: &State, id: &str) -> bool {
    if state.has_record(id) {
        return false;
    }
    if !state.monitor_lock(id).exists() {
        // Empty: just made, or almost removed. Its creator makes it anew.
        let _ = std::fs::remove_dir(state.container(id));
    } else if !state.is_monitored(id)
        && let Ok(_lock) = state.take_monitor_lock(id)
        && !state.has_record(id)
    {
        let _ = remove(state, id, None);
    }
    true
}

/// Removes everything that a container has; without a record, its names are found by looking at all
/// of them. Its anonymous volumes go with it, unless [`volume::keep`] has said otherwise. The caller
/// holds its monitor lock. The unlinking of the record is the moment at which it is gone.
pub fn remove(state: &State, id: &str, record: Option<&Record>) -> Result<()> {
    if let Some(record) = record {
        Runtime::new(state, &record.runtime)
            .delete(id)
            .with_context(|| format!("remove container {}", short(id)))?;
    }
    let dir = state.container(id);
    let mut names = match record {
        Some(record) => vec![record.name.clone()],
        None => state.names_of(id),
    };
    {
        // Nobody who is about to replace it brings it back.
        let _record = state.lock_record(id).ok();
        // It may have been renamed.
        if let (Some(_), Ok(now)) = (record, record::load(state, id)) {
            names.extend(now.other_name);
            names.push(now.name);
        }
        record_file::remove_from(&dir)
            .with_context(|| format!("remove the record of {}", short(id)))?;
    }
    if record.is_none_or(|record| !record.fleeting) {
        sync(&dir);
    }
    for name in names {
        state.release_name(&name, id)?;
    }
    if !volume::are_kept(state, id) {
        volume::release(state, id)?;
    }
    forgive_missing(std::fs::remove_dir_all(state.run_dir(id)))
        .with_context(|| format!("remove {}", state.run_dir(id).display()))?;
    remove_dir(&dir).with_context(|| format!("remove {}", dir.display()))?;
    if let Some(record) = record {
        events::of_container(state, record, "destroy", &[]);
    }
    Ok(())
}

/// Removes, of a container that goes, what is empty when its overlay is unmounted: all of it, if nothing
/// was written. What takes longer is for [`remove`], which first has it gone for all others.
pub(super) fn remove_emptied(state: &State, id: &str) {
    let _ = remove_tree(&state.container(id).join("work"));
    let _ = std::fs::remove_dir(state.upper(id));
}

/// Removes the cgroup of a container that the runtime has forgotten: its directory, in /run, went
/// without a reboot.
pub(super) fn clear_cgroup(state: &State, id: &str) {
    if state.runtime_root().join(id).exists() {
        return;
    }
    if let Some(cgroup) = configured_cgroup(state, id) {
        cgroup.remove_if_empty();
    }
}

/// The cgroup that a container's configuration names, whether or not it is there. With systemd it
/// names none.
pub(super) fn configured_cgroup(state: &State, id: &str) -> Option<Cgroup> {
    // The rest, of many kilobytes, is passed over.
    #[derive(Deserialize)]
    struct Config {
        linux: Linux,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(rename = "cgroupsPath")]
        cgroups_path: Option<PathBuf>,
    }
    let config = std::fs::read(state.config(id)).ok()?;
    let config: Config = serde_json::from_slice(&config).ok()?;
    let path = config
        .linux
        .cgroups_path
        .filter(|path| path.is_absolute())?;
    Cgroup::at(&Host::probe().ok()?, &path).ok()
}

/// Removes a container's directory, the monitor's lock last: one without it is empty, so whoever
/// comes across it needs no lock, and makes none, to remove it.
fn remove_dir(dir: &Path) -> std::io::Result<()> {
    // Somebody who waits for another lock in it may make that anew.
    for _ in 0..100 {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                _ if entry.file_name() == MONITOR_LOCK => {}
                true => forgive_missing(remove_tree(&entry.path()))?,
                false => forgive_missing(std::fs::remove_file(entry.path()))?,
            }
        }
        forgive_missing(std::fs::remove_file(dir.join(MONITOR_LOCK)))?;
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => {}
            other => return forgive_missing(other),
        }
    }
    Err(ErrorKind::DirectoryNotEmpty.into())
}

pub(super) fn forgive_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(())
        }
        other => other,
    }
}

/// Best effort: after a power cut the container would be there again, whole.
fn sync(dir: &Path) {
    let _ = File::open(dir).and_then(|dir| dir.sync_all());
}

#[cfg(test)]
mod tests {
    use super::super::record::{Process, sample};
    use super::super::values::Restart;
    use super::*;
    use time::OffsetDateTime;

    #[test]
    fn what_nobody_watches_is_told_by_its_record() {
        let alive = Process::of(std::process::id() as i32).unwrap();
        let mut dead = alive.clone();
        dead.start_time += 1;
        let exit = Exit {
            code: Some(0),
            signal: None,
            oom: false,
            unwatched: false,
            stopped: false,
            at: OffsetDateTime::UNIX_EPOCH,
            usage: None,
        };
        let of = |change: &dyn Fn(&mut Record)| {
            let mut record = sample("0");
            record.monitor = Some(dead.clone());
            change(&mut record);
            fate(&record, false)
        };
        let started = |record: &mut Record, process: &Process| {
            record.process = Some(process.clone());
            record.started = Some(OffsetDateTime::UNIX_EPOCH);
        };
        assert_eq!(of(&|_| {}), Fate::Stays, "only created");
        assert_eq!(of(&|r| r.remove = true), Fate::Stays, "create --rm");
        assert_eq!(of(&|r| started(r, &alive)), Fate::Watched);
        assert_eq!(of(&|r| started(r, &dead)), Fate::EndNoted);
        let ended = |r: &mut Record| {
            started(r, &dead);
            r.exit = Some(exit.clone());
        };
        assert_eq!(of(&ended), Fate::Stays);
        let removed = |r: &mut Record| {
            ended(r);
            r.remove = true;
        };
        assert_eq!(of(&removed), Fate::Goes);
        let by = |process: &Process| {
            of(&|r: &mut Record| {
                removed(r);
                r.restarting = Some(process.clone());
            })
        };
        assert_eq!(by(&alive), Fate::Stays, "`restart` brings it back");
        assert_eq!(by(&dead), Fate::Goes, "nobody does");
        // A monitor that was killed between `runtime create` and `runtime start` leaves a process
        // that waits for ever: it is not the program.
        let first = |r: &mut Record| {
            r.starting = true;
            r.process = Some(alive.clone());
        };
        assert_eq!(of(&first), Fate::Goes);
        let later = |r: &mut Record| {
            r.process = Some(alive.clone());
            r.exit = Some(exit.clone());
        };
        assert_eq!(of(&later), Fate::StartUndone);
        // Killed in `runtime create`, of which the record says nothing yet.
        let mut record = sample("0");
        assert_eq!(fate(&record, true), Fate::StartUndone);
        ended(&mut record);
        assert_eq!(fate(&record, true), Fate::StartUndone);
        // Killed while it waited to start the program again.
        let between = |r: &mut Record| {
            ended(r);
            r.restart = Restart::Always;
        };
        assert_eq!(of(&between), Fate::Watched);
        let stopped = |r: &mut Record| {
            between(r);
            r.stopping = true;
        };
        assert_eq!(of(&stopped), Fate::Stays);
        let rebooted = |r: &mut Record| {
            between(r);
            r.monitor.as_mut().unwrap().boot_id.push('x');
        };
        assert_eq!(of(&rebooted), Fate::Stays, "`boot` starts it");
    }

    #[test]
    fn a_step_goes_with_its_build() {
        let alive = Process::of(std::process::id() as i32).unwrap();
        let mut dead = alive.clone();
        dead.start_time += 1;
        let fate_with = |build: &Process, process: &Process| {
            let mut record = sample("0");
            record.remove = true;
            record.build = Some(build.clone());
            record.process = Some(process.clone());
            record.started = Some(OffsetDateTime::UNIX_EPOCH);
            record.exit = (!process.is_alive()).then(|| Exit::of(None));
            fate(&record, false)
        };
        assert_eq!(
            fate_with(&alive, &dead),
            Fate::Stays,
            "it is about to be read"
        );
        assert_eq!(fate_with(&dead, &dead), Fate::Goes);
        assert_eq!(fate_with(&dead, &alive), Fate::Goes, "nobody waits for it");
    }
}
