//! `stop` and `kill`. A signal goes to a process that is proven to be the container's, by its pidfd.

use super::cli::{Global, Kill, Stop};
use super::record::{self, Record, Status};
use super::state_dirs::State;
use super::{events, monitor, pause, wait};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::linux::signals;
use crate::sys::process::pidfd_send_signal;
use anyhow::{Context, Result, anyhow, bail};
use procfs::FromRead;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// `mydocker stop`
pub fn stop(state: &State, _: &Global, args: &Stop) -> Result<i32> {
    // All are asked before the first is waited for, so that they take no longer than the slowest.
    let ask = |name: &String| {
        let record = record::find(state, name)?;
        ask(state, &record, args.signal.as_deref(), args.time)
    };
    let mut asked: Vec<_> = args
        .containers
        .iter()
        .map(|name| (name, ask(name)))
        .collect();
    // One that ends at SIGKILL keeps no other from its own.
    let deadline = |asked: &Result<Asked>| asked.as_ref().ok().and_then(|asked| asked.deadline);
    asked.sort_by_key(|(_, asked)| (deadline(asked).is_none(), deadline(asked)));
    super::for_each(asked, |(name, asked)| {
        let asked = asked?;
        let restart = being_restarted(&asked.record).then(|| asked.record.clone());
        asked.finish(state)?;
        // A `restart` that was there before us has one more life to begin, which is to end too.
        if let Some(record) = restart {
            // It may be removed meanwhile.
            let _one = state.lock_restart(&record.id).ok();
            end(state, &record, args.signal.as_deref(), args.time)?;
        }
        super::say(name)
    })
}

/// Whether a `restart` is at work that has not come to the start yet.
fn being_restarted(record: &Record) -> bool {
    let by = record.restarting.as_ref();
    by.is_some_and(record::Process::is_alive)
}

/// `mydocker kill`
pub fn kill(state: &State, _: &Global, args: &Kill) -> Result<i32> {
    super::for_each(&args.containers, |name| {
        let number = signal_number(&args.signal)?;
        let record = begun(state, record::find(state, name)?)?;
        let pidfd = alive(state, &record)?;
        if number == libc::SIGKILL {
            mark_stopping(state, &record)?;
        }
        // Ended meanwhile, it may be a zombie or be gone: to the first, that is no error either.
        send(&pidfd, number).exit_code(1)?;
        tell_kill(state, &record, number);
        // A frozen process gets it when it goes on.
        if matches!(record.status(state), Status::Paused { .. }) {
            wake(state, &record).exit_code(1)?;
        }
        super::say(name)
    })
}

/// The record of a container whose start is waited for, if one is under way: by `start`, `run`, or a
/// `restart` that has ended it.
fn begun(state: &State, record: Record) -> Result<Record> {
    let status = record.status(state);
    if status.is_alive() || record.is_restarting(state, &status) {
        return Ok(record);
    }
    if being_restarted(&record) {
        state.lock_restart(&record.id)?;
    }
    drop(state.lock_container(&record.id)?);
    record::load_named(state, &record.id, &record.name)
}

/// A pidfd of a container that runs; otherwise an error that says what it does instead.
pub(super) fn alive(state: &State, record: &Record) -> Result<OwnedFd> {
    let status = record.status(state);
    let name = &record.name;
    not_between_lives(state, record, &status)?;
    let hint = format!("start it: mydocker start {name}");
    if status == Status::Removed {
        return Err(state.just_removed(&record.id));
    }
    if !status.is_alive() {
        let error = anyhow!("{name} is not running ({})", describe(&status));
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let pidfd = record.process.as_ref().and_then(record::Process::open);
    pidfd
        .with_context(|| format!("{name} has just ended"))
        .hint(hint)
        .exit_code(1)
}

/// An error if it has ended and its policy is about to start it again.
pub(super) fn not_between_lives(state: &State, record: &Record, status: &Status) -> Result<()> {
    if !record.is_restarting(state, status) {
        return Ok(());
    }
    let name = &record.name;
    let error = anyhow!("{name} is restarting ({})", describe(status));
    let hint = format!("its policy starts it again; mydocker stop {name} ends that");
    Err(with_exit_code(with_hint(error, hint), 1))
}

/// The same of one that is not paused either.
pub(super) fn awake(state: &State, record: &Record) -> Result<OwnedFd> {
    let pidfd = alive(state, record)?;
    if matches!(record.status(state), Status::Paused { .. }) {
        return Err(anyhow!("{} is paused", record.name))
            .hint(format!("mydocker unpause {}", record.name))
            .exit_code(1);
    }
    Ok(pidfd)
}

/// `exited 143, 5 s ago`
fn describe(status: &Status) -> String {
    let Status::Exited(exit) = status else {
        return status.to_string();
    };
    let ago = super::ago(exit.at);
    match exit.code {
        Some(code) => format!("exited {code}, {ago}"),
        None => format!("{status}, {ago}"),
    }
}

/// Stops a container, if it runs: its signal, time to comply, SIGKILL. Returns when its end is noted.
pub(super) fn end(
    state: &State,
    record: &Record,
    signal: Option<&str>,
    seconds: Option<i64>,
) -> Result<()> {
    ask(state, record, signal, seconds)?.finish(state)
}

/// A container that is to stop.
struct Asked {
    record: Record,
    /// Its first process; `None`: it does not run.
    pidfd: Option<OwnedFd>,
    /// When it gets SIGKILL; `None`: never.
    deadline: Option<Instant>,
}

/// Sends its signal to a container, if it runs.
fn ask(
    state: &State,
    record: &Record,
    signal: Option<&str>,
    seconds: Option<i64>,
) -> Result<Asked> {
    let name = &record.name;
    mark_stopping(state, record)?;
    let (record, pidfd) = decided(state, record)?;
    let Some(pidfd) = pidfd else {
        return Ok(Asked {
            record,
            pidfd,
            deadline: None,
        });
    };
    // Somebody may have started it anew between the two.
    mark_stopping(state, &record)?;
    if matches!(record.status(state), Status::Paused { .. }) {
        // A frozen process takes no signal.
        wake(state, &record).exit_code(1)?;
    }
    let signal = signal
        .or(record.stop_signal.as_deref())
        .unwrap_or("SIGTERM");
    let number = signal_number(signal)?;
    let seconds = seconds.or(record.stop_timeout).unwrap_or(10);
    if !listens(&record, number) && seconds != 0 {
        let signal = signal.trim_start_matches("SIG");
        super::note(&format!(
            "{name}: its first process ignores {signal}; SIGKILL follows in {seconds} s (with run \
             --init the signal is passed on)"
        ));
    }
    tell_kill(state, &record, number);
    send(&pidfd, number)?;
    // A negative time is for ever, and so is one that no clock can tell.
    let limit = u64::try_from(seconds).ok().map(Duration::from_secs);
    Ok(Asked {
        record,
        pidfd: Some(pidfd),
        deadline: limit.and_then(|limit| Instant::now().checked_add(limit)),
    })
}

impl Asked {
    /// Waits for its end, which is noted then.
    fn finish(self, state: &State) -> Result<()> {
        let record = &self.record;
        let Some(pidfd) = &self.pidfd else {
            return settle(state, record);
        };
        let left = |end: Instant| end.saturating_duration_since(Instant::now());
        if !wait::until_readable(pidfd.as_fd(), self.deadline.map(left)) {
            tell_kill(state, record, libc::SIGKILL);
            send(pidfd, libc::SIGKILL)?;
            until_dead(state, record, pidfd, None);
        }
        settle(state, record)?;
        events::of_container(state, record, "stop", &[]);
        Ok(())
    }
}

/// Waits until a process that got SIGKILL is gone. One that a `pause` freezes in this very moment dies when
/// it is let go. `false`: the time was up before.
fn until_dead(state: &State, record: &Record, pidfd: &OwnedFd, limit: Option<Duration>) -> bool {
    const LOOK: Duration = Duration::from_millis(100);
    let end = limit.map(|limit| Instant::now() + limit);
    while !wait::until_readable(pidfd.as_fd(), Some(LOOK)) {
        if end.is_some_and(|end| Instant::now() > end) {
            return false;
        }
        if record.is_frozen() {
            // Tried again if it fails.
            let _ = wake(state, record);
        }
    }
    true
}

/// Lets a paused container go on, which somebody else may just have done.
fn wake(state: &State, record: &Record) -> Result<()> {
    match pause::thaw(state, record) {
        Err(_) if !record.is_frozen() => Ok(()),
        other => other,
    }
}

fn tell_kill(state: &State, record: &Record, signal: i32) {
    events::of_container(state, record, "kill", &[("signal", &signal.to_string())]);
}

fn send(pidfd: &OwnedFd, signal: i32) -> Result<()> {
    match pidfd_send_signal(pidfd.as_fd(), signal) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            Err(error).context("send a signal to the container")
        }
        _ => Ok(()),
    }
}

/// Waits until a start that is under way has come to something. What the record says then, and the
/// process, if it runs.
pub(super) fn decided(state: &State, record: &Record) -> Result<(Record, Option<OwnedFd>)> {
    let end = Instant::now() + START_PATIENCE;
    let mut seen = record.clone();
    loop {
        // Asked first: its monitor may confirm the start and let go between the two.
        let watched = state.is_monitored(&seen.id);
        seen = match record::load(state, &seen.id) {
            Ok(record) => record,
            // With --rm it is gone with its end.
            Err(_) if !state.has_record(&seen.id) => return Ok((seen, None)),
            Err(error) => return Err(with_exit_code(error, 1)),
        };
        // Confirmed: it runs, or its end is about to be noted.
        if let (Some(process), Some(_), None) = (&seen.process, &seen.started, &seen.exit) {
            let pidfd = process.open();
            return Ok((seen, pidfd));
        }
        if !watched {
            return Ok((seen, None));
        }
        if Instant::now() > end {
            return Err(anyhow!(
                "{} is being started or copied from, and that does not come to an end",
                seen.name
            ))
            .hint("look what its mydocker and the runtime wait for: ps axf")
            .exit_code(1);
        }
        wake_monitor(&seen);
        // A record that is replaced gives no event.
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// How long a start may take before `stop` gives up on it.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a monitor may take to note an end and to clear away.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the end is in the record, whoever notes it, or another life has begun.
fn settle(state: &State, record: &Record) -> Result<()> {
    let id = &record.id;
    let end = Instant::now() + END_PATIENCE;
    let mut pause = Duration::from_micros(300);
    while state.is_monitored(id) {
        if Instant::now() > end {
            let monitor = record.monitor.as_ref().map_or(0, |monitor| monitor.pid);
            let name = &record.name;
            return Err(anyhow!("{name} has ended, and its monitor does not say so"))
                .hint(format!("look what it waits for: ps {monitor}; kill -9 {monitor} has the next command take over"))
                .exit_code(1);
        }
        if let Ok(now) = record::load(state, id)
            && now.started.is_some()
            && now.process.is_some()
            && now.process != record.process
        {
            // What was to end has ended; this is another life, of somebody who came later.
            return Ok(());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
    if let Ok(record) = record::load(state, id) {
        super::rm::heal(state, &record);
    }
    Ok(())
}

/// From now on it is not started again by its policy.
fn mark_stopping(state: &State, record: &Record) -> Result<()> {
    if record.stopping {
        return Ok(());
    }
    // Without a policy it counts only if somebody gives it one meanwhile.
    let durably = record.restart != super::values::Restart::No;
    let mut record = record.clone();
    let mark = |record: &mut Record| record.stopping = true;
    match record.update(state, durably, mark) {
        // With --rm it may be gone.
        Err(_) if !state.has_record(&record.id) => Ok(()),
        // It can be stopped on a full disk too.
        Err(_) if !durably => Ok(()),
        other => other.exit_code(1),
    }
}

/// Has the monitor look at the record.
pub(super) fn wake_monitor(record: &Record) {
    let monitor = record.monitor.as_ref().and_then(record::Process::open);
    if let Some(pidfd) = monitor {
        let _ = pidfd_send_signal(pidfd.as_fd(), monitor::LOOK);
    }
}

/// Whether the first process takes the signal.
pub(super) fn listens(record: &Record, signal: i32) -> bool {
    let Some(process) = &record.process else {
        return true;
    };
    Signals::of(process.pid).is_none_or(|signals| signals.takes(signal))
}

/// What a process does with signals (proc_pid_status(5)): a bit each, the lowest of signal 1.
struct Signals {
    /// It is PID 1 of a pid namespace.
    first: bool,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Signals {
    fn of(pid: i32) -> Option<Signals> {
        let status = procfs::process::Status::from_file(format!("/proc/{pid}/status")).ok()?;
        Some(Signals::in_status(&status))
    }

    fn in_status(status: &procfs::process::Status) -> Signals {
        let pids = status.nspid.as_deref().unwrap_or_default();
        Signals {
            first: pids.last() == Some(&1),
            blocked: status.sigblk,
            ignored: status.sigign,
            caught: status.sigcgt,
        }
    }

    /// PID 1 of a pid namespace gets no signal that it has no handler for (pid_namespaces(7)); any
    /// other process, as with `--pid host`, only has to not ignore it. Either gets what it blocks, to
    /// take it later: sigwait(3), as our init does.
    fn takes(&self, signal: i32) -> bool {
        let bit = 1 << (signal - 1);
        if signal == libc::SIGKILL || self.blocked & bit != 0 {
            true
        } else if self.first {
            self.caught & bit != 0
        } else {
            self.ignored & bit == 0
        }
    }
}

/// The number of a signal whose name was checked when it was read from a command line or an image.
fn signal_number(name: &str) -> Result<i32> {
    signals::parse(name)
        .with_context(|| format!("unknown signal {name:?}"))
        .hint("name another: mydocker stop -s TERM")
        .exit_code(125)
}

/// For `rm -f`: SIGKILL at once.
pub(super) fn kill_now(state: &State, record: &Record) -> Result<()> {
    let (record, pidfd) = send_kill(state, record)?;
    if let Some(pidfd) = pidfd
        && !until_dead(state, &record, &pidfd, Some(Duration::from_secs(30)))
    {
        bail!("{} does not die", record.name);
    }
    settle(state, &record)
}

/// The same without waiting for the end. What the record says then, and the process, if it ran.
pub(super) fn send_kill(state: &State, record: &Record) -> Result<(Record, Option<OwnedFd>)> {
    mark_stopping(state, record)?;
    let (record, pidfd) = decided(state, record)?;
    if let Some(pidfd) = &pidfd {
        mark_stopping(state, &record)?;
        tell_kill(state, &record, libc::SIGKILL);
        send(pidfd, libc::SIGKILL)?;
        // A frozen one dies when it is thawed.
        if matches!(record.status(state), Status::Paused { .. }) {
            let _ = wake(state, &record);
        }
    }
    Ok((record, pidfd))
}

#[cfg(test)]
mod tests {
    use super::super::record::{Process, sample};
    use super::super::state_dirs::new_id;
    use super::*;
    use time::OffsetDateTime;

    #[test]
    fn a_program_that_has_just_ended_is_the_one_that_was_started() {
        let id = new_id().unwrap();
        let base = std::env::temp_dir().join(format!("acts-stop-{}", &id[..12]));
        let state = State {
            root: base.join("root"),
            run: base.join("run"),
        };
        let _monitor = state.create_container(&id).unwrap();
        let stale = sample(&id);
        stale.save_for_now(&state).unwrap();
        // Started and ended since we looked; the monitor has not noted that yet.
        let mut ended = Process::of(std::process::id() as i32).unwrap();
        ended.start_time += 1;
        let start = |record: &mut Record| {
            record.process = Some(ended.clone());
            record.started = Some(OffsetDateTime::UNIX_EPOCH);
        };
        stale.clone().update(&state, false, start).unwrap();
        let (seen, pidfd) = decided(&state, &stale).unwrap();
        // By this process `settle` tells another start from this one.
        assert_eq!(seen.process, Some(ended));
        assert!(pidfd.is_none());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn who_takes_a_signal() {
        // HUP is ignored, INT blocked; QUIT and signal 64 have a handler.
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let of = |pids: &str| {
            let lines = text.lines().map(|line| match line.split_once(':') {
                Some(("NSpid", _)) => format!("NSpid:\t{pids}\n"),
                Some(("SigBlk", _)) => "SigBlk:\t0000000000000002\n".to_owned(),
                Some(("SigIgn", _)) => "SigIgn:\t0000000000000001\n".to_owned(),
                Some(("SigCgt", _)) => "SigCgt:\t8000000000000004\n".to_owned(),
                _ => format!("{line}\n"),
            });
            let status = procfs::process::Status::from_read(lines.collect::<String>().as_bytes());
            Signals::in_status(&status.unwrap())
        };
        let (first, second, hosts) = (of("70\t1"), of("70\t2"), of("70"));
        for (signals, signal, taken) in [
            (&first, libc::SIGTERM, false),
            (&first, libc::SIGINT, true),
            (&first, libc::SIGQUIT, true),
            (&first, libc::SIGKILL, true),
            (&first, libc::SIGHUP, false),
            (&first, 64, true),
            (&second, libc::SIGTERM, true),
            (&hosts, libc::SIGTERM, true),
            (&hosts, libc::SIGHUP, false),
            (&hosts, 64, true),
        ] {
            assert_eq!(signals.takes(signal), taken, "{} {signal}", signals.first);
        }
        // Whoever cannot be asked is sent it.
        assert!(Signals::of(i32::MAX).is_none_or(|signals| signals.takes(libc::SIGTERM)));
    }
}
