//! `start` and `restart`.

use super::cli::{Global, Restart, Start};
use super::detach_keys::DetachKeys;
use super::image::Store;
use super::monitor;
use super::monitor_lock::MonitorLock;
use super::record::{self, Process, Record, Status};
use super::state_dirs::{State, make_dir};
use super::wires::Attached;
use super::{events, stop, wait};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Result, anyhow};

/// `mydocker start`
pub fn start(state: &State, _: &Global, args: &Start) -> Result<i32> {
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            let error = anyhow!("start: -a and -i are for one container");
            return Err(with_exit_code(with_hint(error, "name one"), 125));
        };
        let record = record::find(state, name)?;
        if record.status(state).is_alive() {
            let error = anyhow!("{name} runs already");
            let hint = format!("mydocker logs -f {name} shows its output");
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        let keys = DetachKeys::parse(&args.detach_keys).exit_code(125)?;
        let (record, lock) = prepare(state, &record)?;
        let attached = Attached::new(args.interactive, true, keys);
        return monitor::foreground(state, record, lock, attached);
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
    let record = record::find(state, &record.id)?;
    if record.status(state).is_alive() {
        return Ok(());
    }
    let (record, lock) = prepare(state, &record)?;
    monitor::detach(&record.id, lock).exit_code(1)
}

/// Takes the monitor lock, and clears what is known of the last life.
fn prepare(state: &State, record: &Record) -> Result<(Record, MonitorLock)> {
    // The monitor of a container that has just ended is about to let go.
    wait::until_unmonitored(state, &record.id, std::time::Duration::from_secs(10));
    let lock = state.take_monitor_lock(&record.id).exit_code(1)?;
    // After a power failure its layers are seen to here.
    Store::open(&state.root).exit_code(1)?;
    make_dir(&state.run)?;
    let mut record = record.clone();
    let clear = |record: &mut Record| {
        record.stopping = false;
        record.restarts = 0;
        record.process = None;
        record.started = None;
        record.restarting = None;
    };
    record.update(state, false, clear).exit_code(1)?;
    Ok((record, lock))
}
