//! `start` and `restart`.

use super::attach;
use super::background::Background;
use super::cli::{Attach, Global, Restart, Start};
use super::detach_keys::DetachKeys;
use super::image::Store;
use super::monitor;
use super::monitor_lock::MonitorLock;
use super::record::{self, Process, Record, Status};
use super::state_dirs::{State, make_dir};
use super::wires::Attached;
use super::{events, record_file, stop};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Result, anyhow};

/// `mydocker start`
pub fn start(state: &State, global: &Global, args: &Start) -> Result<i32> {
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            let error = anyhow!("start: -a and -i are for one container");
            return Err(with_exit_code(with_hint(error, "name one"), 125));
        };
        return in_front(state, global, args, name);
    }
    super::for_each(&args.containers, |name| {
        let record = record::find(state, name)?;
        if matches!(record.status(state), Status::Paused { .. }) {
            let error = anyhow!("{name} is paused");
            let hint = format!("mydocker unpause {name} lets it go on");
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        begin(state, &record)?;
        super::say(name)
    })
}

/// Starts a container in the foreground. One that runs already is attached to.
fn in_front(state: &State, global: &Global, args: &Start, name: &str) -> Result<i32> {
    let keys = DetachKeys::parse(&args.detach_keys).exit_code(125)?;
    let id = record::find_id(state, name)?;
    let one = state.lock_container(&id)?;
    let prepared = prepare(state, &record::find(state, &id)?)?;
    drop(one);
    let Some((record, lock)) = prepared else {
        let attach = Attach {
            no_stdin: !args.interactive,
            sig_proxy: true,
            detach_keys: args.detach_keys.clone(),
            container: name.to_owned(),
        };
        return attach::attach(state, global, &attach);
    };
    let attached = Attached::new(args.interactive, true, keys);
    monitor::foreground(state, record, lock, attached)
}

/// `mydocker restart`
pub fn restart(state: &State, _: &Global, args: &Restart) -> Result<i32> {
    super::for_each(&args.containers, |name| {
        // One after the other: each stops what the one before has started.
        let _one = state.lock_restart(&record::find_id(state, name)?)?;
        let mut record = record::find(state, name)?;
        // With --rm its end would be the end of it.
        let me = Process::of(std::process::id() as i32)?;
        record.update(state, false, |record| record.restarting = Some(me))?;
        let stopped = stop::end(state, &record, args.signal.as_deref(), args.time);
        if stopped.is_err() {
            record.update(state, false, |record| record.restarting = None)?;
        }
        stopped?;
        begin(state, &record)?;
        events::of_container(state, &record, "restart", &[]);
        super::say(name)
    })
}

/// Starts a container that does not run, in the background.
pub(super) fn begin(state: &State, record: &Record) -> Result<()> {
    let _one = state.lock_container(&record.id)?;
    match prepare(state, &record::find(state, &record.id)?)? {
        Some((record, lock)) => Background::start(&record.id)
            .and_then(|monitor| monitor.watch(state, &record, lock))
            .exit_code(1),
        None => Ok(()),
    }
}

/// Takes the monitor lock of a container that does not run, and clears what is known of its last
/// life. `None`: it runs, or its policy is about to start it again. The caller has the container's lock.
fn prepare(state: &State, record: &Record) -> Result<Option<(Record, MonitorLock)>> {
    let status = record.status(state);
    if status.is_alive() || record.is_restarting(state, &status) {
        return Ok(None);
    }
    // The monitor of a container that has just ended is about to let go. Or somebody was faster and
    // begins another life, which may be over before we look again.
    let before = record.started;
    let lives_anew = |record: &Record| record.started.is_some() && record.started != before;
    let (record, pidfd) = stop::decided(state, record)?;
    if pidfd.is_some() || lives_anew(&record) {
        return Ok(None);
    }
    let lock = state.take_monitor_lock_within(&record.id, stop::END_PATIENCE);
    // With --rm its monitor may have removed it.
    let lock = state.unless_removed(&record.id, lock.exit_code(1))?;
    let mut record = record::load_named(state, &record.id, &record.name)?;
    if lives_anew(&record) {
        return Ok(None);
    }
    // After a power failure its layers are seen to here.
    Store::open(&state.root).exit_code(1)?;
    make_dir(&state.run)?;
    record_file::forget_past(state, &record.id);
    let clear = |record: &mut Record| {
        record.stopping = false;
        record.is_shut_down = false;
        record.restarts = 0;
        record.process = None;
        record.started = None;
        record.restarting = None;
    };
    record.update(state, false, clear).exit_code(1)?;
    Ok(Some((record, lock)))
}
