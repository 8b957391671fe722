//! The process beside a container: it mounts the root, has the runtime make the container, keeps
//! its log, notes how it ended, starts it again if that is wanted, and clears away. In the
//! foreground mydocker itself is it; a detached container has a mydocker of its own (`background`). It
//! holds the container's monitor lock for as long as it lives.

use super::background::{self, handed};
use super::health::{Health, Pulse};
use super::leaving::{Caller, Part, leave_session, stand_beside};
use super::monitor_lock::MonitorLock;
use super::reach::cgroup_of;
use super::record::{self, Exit, Process, Record};
use super::relay::{self, Interrupted, Output, Relay, Signals};
use super::report::Report;
use super::runtime_cli::{Call, Runtime, code_of};
use super::state_dirs::{State, make_dir};
use super::told::{self, Told};
use super::update::Limits;
use super::wires::{Attached, Wires};
use super::{etc, events, foreign, overlay, record_file, rm, rootless, volume};
use crate::cgroup::Cgroup;
use crate::error::{self, with_exit_code, with_fallback_hint, with_hint};
use crate::sys::process::{self as sys, Ended, pidfd_send_signal, prctl};
use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, umount2};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// The signal by which a monitor is told to look at the record: while it waits to start its container
/// again, somebody may want it stopped, and while that runs, to commit it (`told`). It is the one that is
/// never passed on to a program.
pub(super) const LOOK: i32 = libc::SIGWINCH;

/// The main of a monitor that takes the place of one that was killed: `mydocker adopt ID` with the lock
/// as standard input.
pub fn adopted(id: &str) -> Result<()> {
    let lock = MonitorLock::handed(handed()?);
    // As seen from where the caller was.
    let state = State::from_env()?;
    leave_session()?;
    let record = record::load(&state, id)?;
    let mut watch = Watch::new(&state, record, lock);
    let result = watch.second_half();
    let lives = watch.record.process.as_ref();
    if result.is_err() && lives.is_some_and(Process::is_alive) {
        // It goes on, and the next command tries again.
        return result.map(drop);
    }
    watch.finish(result).map(drop)
}

/// The monitor's main: `mydocker monitor ID` with a socket as standard input.
pub fn main(id: &str) -> Result<()> {
    let socket = handed()?;
    // As seen from where the caller was.
    let state = State::from_env()?;
    leave_session()?;
    let Some(lock) = background::called(&socket)? else {
        return Ok(());
    };
    let record = record::load(&state, id)?;
    let mut watch = Watch {
        report: Some(socket),
        ..Watch::new(&state, record, lock)
    };
    match watch.supervise() {
        Ok(_) => Ok(()),
        Err(error) => {
            watch.tell(&Report::failed(&error));
            Err(error)
        }
    }
}

/// Is the monitor of a container in the foreground, to its end. Returns its exit code; of a step that
/// the caller had end, the error [`Interrupted`].
pub(super) fn foreground(
    state: &State,
    record: Record,
    mut lock: MonitorLock,
    attached: Attached,
) -> Result<i32> {
    let mut caller = None;
    if record.tty && attached.can_be_left() {
        match stand_beside(Some(lock.file().as_fd()))? {
            Part::Called(called) => {
                drop(lock);
                return called.attend(&record.name);
            }
            Part::Beside(the) => caller = Some(the),
        }
    }
    let mut watch = Watch {
        attached: Some(attached),
        caller,
        ..Watch::new(state, record, lock)
    };
    let result = watch.supervise();
    let Watch {
        lock,
        record,
        mut pending,
        interrupted,
        ..
    } = watch;
    // Whoever reads what the program printed may take their time: it is over for all others.
    drop(lock);
    relay::deliver(&mut pending, &Signals::hold()?);
    let exit = result?;
    if let Some(signal) = interrupted {
        return Err(Interrupted(signal).into());
    }
    if exit.is_out_of_memory() {
        let limit = record.memory.as_ref().map(|(_, text)| text.as_str());
        let limit = limit.map_or_else(String::new, |text| format!(": memory limit {text} reached"));
        super::note(&format!("killed by the kernel{limit}"));
    }
    Ok(exit.code.unwrap_or(125))
}

/// A container under watch.
struct Watch<'a> {
    state: &'a State,
    record: Record,
    /// The monitor lock; whoever waits for the end reads the exit in it.
    lock: MonitorLock,
    report: Option<File>,
    attached: Option<Attached>,
    /// The process that was called, if it is another one.
    caller: Option<Caller>,
    /// What a program that has ended had printed, and our own reader has not taken yet.
    pending: Vec<Output>,
    /// The signal by which a step of a build was ended.
    interrupted: Option<i32>,
}

impl<'a> Watch<'a> {
    /// In the background, with nobody to report to.
    fn new(state: &'a State, record: Record, lock: MonitorLock) -> Watch<'a> {
        Watch {
            state,
            record,
            lock,
            report: None,
            attached: None,
            caller: None,
            pending: Vec::new(),
            interrupted: None,
        }
    }

    fn tell(&mut self, report: &Report) {
        if let Some(pipe) = self.report.take() {
            report.send(pipe);
        }
    }

    fn runtime(&self) -> Runtime {
        Runtime::new(self.state, &self.record.runtime)
    }

    /// All lives of the container, from the mounting of its root to the clearing away.
    fn supervise(&mut self) -> Result<Exit> {
        let result = self.whole();
        self.finish(result)
    }

    /// Clears away what is not to stay.
    fn finish(&mut self, result: Result<Exit>) -> Result<Exit> {
        if let Err(error) = &result
            && !self.record.starting
        {
            let _ = self.runtime().delete(&self.record.id);
            let mut why = error::message(error);
            if let Some(hint) = error::hint_of(error) {
                why = format!("{why}; {hint}");
            }
            let fail = |record: &mut Record| record.failed = Some(why);
            let _ = self.note(fail, true);
        }
        self.unmount();
        match &result {
            Ok(exit) => self.leave(exit),
            // A first start that failed leaves nothing, not even a row in `ps`.
            Err(_) if self.record.starting => {
                // The first error is the one to tell; what cannot be removed now is nobody's.
                let _ = rm::remove(self.state, &self.record.id, Some(&self.record));
            }
            Err(_) => {}
        }
        result
    }

    fn whole(&mut self) -> Result<Exit> {
        let signals = self.prepare()?;
        self.lives(&signals)
    }

    /// From somewhere in a life that another monitor has begun.
    fn second_half(&mut self) -> Result<Exit> {
        let signals = Signals::hold()?;
        let exit = match self.record.exit.clone() {
            // Killed while it waited to start it again.
            Some(exit) => exit,
            None => self.rest_of_life(&signals)?,
        };
        if !self.is_to_live_again(&exit) || self.is_stopped_within(&signals, FIRST_PAUSE)? {
            return Ok(exit);
        }
        drop(signals);
        self.note(|record| record.restarts += 1, false)?;
        self.whole()
    }

    /// Watches a container that is nobody's child of ours, to its end.
    fn rest_of_life(&mut self, signals: &Signals) -> Result<Exit> {
        // Whatever fails here, the container goes on, and is to be watched.
        let _ = self.forget_exit();
        let process = self
            .record
            .process
            .clone()
            .context("it was never started")?;
        let pidfd = process.open();
        let cgroup = cgroup_of(&self.record.id, process.pid).ok().flatten();
        // Opened first: what the program has written stays in its pipes only as long as somebody has
        // them open.
        let wires = pidfd.map(|pidfd| -> Result<_> {
            let wires = Wires::found(&self.record, self.state)?;
            Ok((pidfd, wires.relay(&self.record, self.state, signals, None)?))
        });
        let wires = wires.transpose()?;
        let _ = self.note(
            |record| record.monitor = Process::of(std::process::id() as i32).ok(),
            false,
        );
        let mut ended = None;
        if let Some((pidfd, mut relay)) = wires {
            relay.pulse = Pulse::of(&self.record, self.state);
            // A commit may have it frozen.
            relay.told.iter_mut().for_each(Told::look);
            relay.until_end(pidfd.as_fd(), false)?;
            relay.collect();
            // Its parent, the machine's first process, may take its time to reap it, and then it may
            // do so between two questions.
            let asked = || sys::exit_of_stranger(pidfd.as_fd());
            ended = asked().or_else(|| process.status()).or_else(asked);
        }
        Ok(self.end(ended, cgroup.as_ref()))
    }

    /// Takes away what the runtime keeps of the container, and then notes how it ended: a record
    /// that says so must be true. What the cgroup tells is read before it goes.
    fn end(&mut self, ended: Option<Ended>, cgroup: Option<&Cgroup>) -> Exit {
        let exit = Exit::in_cgroup(ended, cgroup);
        let is_forgotten = !self.runtime().has(&self.record.id);
        let deleting = self.runtime().begin_delete(&self.record.id);
        // What others have noted in it meanwhile.
        if let Ok(now) = record::load(self.state, &self.record.id) {
            self.record = now;
        }
        if self.record.goes() && !self.is_to_live_again(&exit) {
            // The other half of the work, at the same time.
            self.unmount_root();
            rm::remove_emptied(self.state, &self.record.id);
        }
        if let Err(error) = deleting.and_then(Call::finish) {
            // How the program ended is known all the same.
            super::note(&format!("{}: {error:#}", self.record.name));
        }
        if is_forgotten {
            rm::clear_cgroup(self.state, &self.record.id);
        }
        let exit = Exit {
            stopped: self.record.stopping,
            ..exit
        };
        if self.record.goes() {
            // Nobody reads a record that is removed in a moment (`leave`).
            self.record.exit = Some(exit.clone());
        } else if let Err(error) = self.note(|record| record.exit = Some(exit.clone()), true) {
            // Whoever waits for it is told all the same.
            super::note(&format!("{}: {error:#}", self.record.name));
        }
        events::of_end(self.state, &self.record, &exit);
        exit
    }

    fn forget_exit(&mut self) -> Result<()> {
        let file = self.lock.file();
        file.set_len(0).context("clear the last exit")
    }

    fn prepare(&mut self) -> Result<Signals> {
        prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become a subreaper")?;
        let signals = Signals::hold()?;
        self.forget_exit()?;
        rootless::stay(self.state)?;
        self.record.settle(self.state)?;
        let id = &self.record.id;
        let run_dir = self.state.run_dir(id);
        make_dir(&run_dir)?;
        make_dir(&self.state.rootfs(id))?;
        // What a killed monitor's container has left with the runtime, its processes too: they may still use
        // the directories of the overlay.
        self.runtime().delete(id)?;
        if !self.record.starting {
            rm::clear_cgroup(self.state, id);
        }
        overlay::own_namespace(&run_dir, &self.record.shown.mounts)?;
        etc::make(self.state, &self.record)?;
        volume::mount_subpaths(self.state, id)?;
        overlay::mount_container(self.state, &self.record)?;
        Ok(signals)
    }

    fn unmount_root(&self) {
        let _ = umount2(&self.state.rootfs(&self.record.id), MntFlags::MNT_DETACH);
    }

    /// Takes the mounts away before the directories go that they are in. They would go with us.
    fn unmount(&self) {
        self.unmount_root();
        let run_dir = self.state.run_dir(&self.record.id);
        let _ = umount2(&run_dir, MntFlags::MNT_DETACH);
        // Otherwise it stays, as the sign that there is something to clear away.
        if !self.runtime().has(&self.record.id) {
            let _ = std::fs::remove_dir_all(run_dir);
        }
    }

    /// Leaves the exit for those who wait, and removes what is not to stay.
    fn leave(&mut self, exit: &Exit) {
        // Best effort: the record has it too.
        let text = serde_json::to_vec(exit).unwrap_or_default();
        let file = self.lock.file();
        let _ = file.rewind().and_then(|()| file.write_all(&text));
        if self.record.goes()
            && let Err(error) = rm::remove(self.state, &self.record.id, Some(&self.record))
        {
            // The exit code is the program's; `ps` shows what is left, and how it ended.
            super::note(&format!("{}: {error:#}", self.record.name));
            let _ = self.note(|record| record.exit = Some(exit.clone()), true);
        }
    }

    /// One life after the other, as the restart policy says.
    fn lives(&mut self, signals: &Signals) -> Result<Exit> {
        let mut pause = FIRST_PAUSE;
        loop {
            let born = Instant::now();
            let exit = self.life(signals)?;
            if !self.is_to_live_again(&exit) {
                return Ok(exit);
            }
            if born.elapsed() > LONG_LIFE {
                pause = FIRST_PAUSE;
            }
            if self.is_stopped_within(signals, pause)? {
                return Ok(exit);
            }
            pause = (pause * 2).min(LAST_PAUSE);
            self.note(|record| record.restarts += 1, false)?;
        }
    }

    fn is_to_live_again(&self, exit: &Exit) -> bool {
        self.record.wants_another_life(exit) && !self.is_stopping()
    }

    fn is_stopping(&self) -> bool {
        record::load(self.state, &self.record.id).is_ok_and(|record| record.stopping)
    }

    fn is_stopped_within(&mut self, signals: &Signals, pause: Duration) -> Result<bool> {
        let end = Instant::now() + pause;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.is_stopping() {
                return Ok(true);
            }
            if left.is_zero() {
                return Ok(false);
            }
            // Any signal is a reason to look; the caller's Ctrl-C is one to end.
            let signal = signals.wait(left)?;
            if self.attached.is_none() && signal == Some(libc::SIGTERM) {
                self.note(told::shut_down, true)?;
                return Ok(true);
            }
            if self.attached.is_some() && signal.is_some_and(relay::asks_to_end) {
                self.note(|record| record.stopping = true, true)?;
                return Ok(true);
            }
        }
    }

    /// From `runtime run`, or `create`, to `runtime delete`.
    fn life(&mut self, signals: &Signals) -> Result<Exit> {
        let id = self.record.id.clone();
        let runtime = self.runtime();
        let mut wires = Wires::lay(&self.record, self.state, self.attached.as_ref())?;
        let pid_file = self.state.pid_file(&id);
        let streams = wires.streams.take().context("no streams")?;
        let limits = Limits::of(self.state, &id);
        let bundle = self.state.container(&id);
        // The terminal is to have its size before the program looks at it.
        let is_to_start = wires.console.is_some();
        if let Some(console) = &wires.console {
            let made = runtime.create(&id, &bundle, &pid_file, console);
            made.map_err(|error| self.explain(error))?;
        }
        let mut relay = wires.relay(&self.record, self.state, signals, self.attached.as_ref())?;
        relay::go_on_from(std::mem::take(&mut self.pending), &mut relay.outputs);
        relay.follow_size();
        if !is_to_start {
            let ran = runtime.run_detached(&id, &bundle, &pid_file, streams);
            ran.map_err(|error| self.explain(error))?;
        }
        match self.made(&runtime, relay, &pid_file, is_to_start, limits) {
            Ok((ended, cgroup)) => Ok(self.end(Some(ended), cgroup.as_ref())),
            Err(error) => {
                // The first error is the one to tell.
                let _ = runtime.delete(&id);
                Err(error)
            }
        }
    }

    /// Changes the record, on top of what others have changed in it meanwhile.
    fn note(&mut self, change: impl FnOnce(&mut Record), durably: bool) -> Result<()> {
        let durably = durably && !self.record.fleeting;
        self.record.update(self.state, durably, change)
    }

    /// To the end of a program that has been made; with a terminal it is started first.
    fn made(
        &mut self,
        runtime: &Runtime,
        mut relay: Relay<'_>,
        pid_file: &Path,
        is_to_start: bool,
        limits: Limits,
    ) -> Result<(Ended, Option<Cgroup>)> {
        let text = std::fs::read_to_string(pid_file).context("read the pid of the container")?;
        let pid: i32 = text
            .trim()
            .parse()
            .context("read the pid of the container")?;
        // It is our child from here on, and its number nobody else's, though it may have ended already.
        let process = Process::of(pid)?;
        let pidfd = sys::pidfd_open(pid).context("pidfd_open")?;
        let monitor = Process::of(std::process::id() as i32).ok();
        let begin = |record: &mut Record| {
            record.process = Some(process);
            record.monitor = monitor;
            record.started = None;
        };
        if is_to_start {
            self.note(begin.clone(), false)?;
            if let Err(error) = runtime.start(&self.record.id) {
                let error = self.explain(error);
                let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                let _ = sys::wait(pidfd.as_fd());
                self.note(|record| record.process = None, false)?;
                return Err(error);
            }
        }
        self.note(
            |record| {
                begin(record);
                record.starting = false;
                record.started = Some(OffsetDateTime::now_utc());
                record.exit = None;
                record.failed = None;
                record.health = record.health_check.as_ref().map(|_| Health::default());
            },
            false,
        )?;
        limits.catch_up(self.state, &self.record);
        events::of_container(self.state, &self.record, "start", &[]);
        self.tell(&Report::Started);
        if !self.record.fleeting {
            // Unless it was told while the start was waited for (`Background::watch`). The container runs,
            // whatever the disk knows.
            let _ = record_file::outlive_power_cut(self.state, &self.record.id);
        }
        // For its end; nobody waits for this. Only systemd chooses one that is not in the configuration,
        // and that goes with the last process.
        let cgroup = rm::configured_cgroup(self.state, &self.record.id)
            .or_else(|| cgroup_of(&self.record.id, pid).ok().flatten());
        relay.pulse = Pulse::of(&self.record, self.state);
        relay.caller = self.caller.take();
        let is_ours = relay.caller.is_some();
        let ended = relay.until_end(pidfd.as_fd(), true)?;
        let ended = ended.context("nobody knows how the container ended")?;
        self.caller = relay.caller.take();
        self.interrupted = relay.interrupted;
        if is_ours && self.caller.is_none() {
            // From here on it is a container in the background.
            self.attached = None;
        }
        // Those that a shared pid namespace has kept alive write no more than the pipes hold.
        relay.collect();
        self.pending = relay.into_outputs();
        Ok((ended, cgroup))
    }

    /// A program that is not there is told with the image, and with its exit code.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let message = error::message(&error);
        let code = code_of(&message).unwrap_or(125);
        if let Some((_, limit)) = &self.record.memory
            && message.contains("killed by SIGKILL before")
        {
            let error = anyhow!("-m {limit}: too little memory to start in");
            let hint = "half a megabyte is the least for most programs; Docker asks for 6m";
            return with_exit_code(with_hint(error, hint), code);
        }
        let error = match code {
            127 => {
                let name = self.record.args.first().map_or("", String::as_str);
                foreign::no_program(name, &self.record.image, error)
            }
            125 => error.context(format!("start with {}", self.record.runtime.display())),
            _ => error,
        };
        let error = with_fallback_hint(
            error,
            format!(
                "look what the image holds: mydocker run {} ls",
                self.record.image
            ),
        );
        with_exit_code(error, code)
    }
}

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(60);
/// A container that ran for so long is not failing at once again and again.
const LONG_LIFE: Duration = Duration::from_secs(10);
