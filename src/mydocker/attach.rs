//! `attach`: the caller's terminal or streams at a container that runs already. Input goes straight
//! into the container's terminal or pipe, which its monitor hands out; output comes from the log.

use super::cli::{Attach, Global};
use super::detach_keys::DetachKeys;
use super::input::Input;
use super::logs::{Follow, Printer, Reader};
use super::record::{self, Record};
use super::relay::{Signals, asks_to_end, is_ours, size_of_ours};
use super::run::is_terminal;
use super::state_dirs::State;
use super::wait::{self, Ending};
use super::{door, stop};
use crate::error::{ResultExt, with_exit_code, with_fallback_hint, with_hint};
use crate::linux::console::RawMode;
use crate::sys::process::pidfd_send_signal;
use crate::sys::{fds, tty};
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// `mydocker attach`
pub fn attach(state: &State, _: &Global, args: &Attach) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    let name = &record.name;
    let pidfd = stop::awake(state, &record)?;
    if record.log.none {
        let error = anyhow!("{name} was made with --log-driver none: nobody keeps what it prints");
        let hint = "attach reads the log; leave that option out";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let keys = DetachKeys::parse(&args.detach_keys).exit_code(125)?;
    // What comes from elsewhere has an end, which would be the end of its shell.
    if record.tty && !args.no_stdin && !is_terminal(0) {
        let error = anyhow!("{name} has a terminal, and stdin is not one (\"not a TTY\")");
        let hint =
            format!("leave out the pipe, or look on only: mydocker attach --no-stdin {name}");
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let way_in = way_in(state, &record)?;
    if way_in.is_none() && record.tty && !wait::until_readable(pidfd.as_fd(), Some(Duration::ZERO))
    {
        super::note(&format!(
            "{name}: its terminal went with a monitor that was killed; there is its log only"
        ));
    }
    let signals = Signals::hold()?;
    let terminal = way_in.as_ref().filter(|_| record.tty);
    let terminal = terminal.map(OwnedFd::try_clone).transpose()?;
    let input = match way_in {
        // As into a pipe: that we have no more input is nothing to tell the container.
        Some(way) if record.interactive && !args.no_stdin => {
            let input = Input::new(way, false)?;
            Some(match record.tty {
                true => input.until(keys),
                false => input,
            })
        }
        _ => None,
    };
    let mut session = Session {
        state,
        record: &record,
        ending: Some(Ending::of(state, &record).exit_code(1)?),
        pidfd,
        gone: false,
        signals,
        terminal,
        input,
        proxy: args.sig_proxy,
    };
    session.attend()
}

/// The container's input or terminal. Its monitor may have just been started by us, in the place of
/// one that was killed, and not listen yet.
fn way_in(state: &State, record: &Record) -> Result<Option<OwnedFd>> {
    let end = Instant::now() + PATIENCE;
    loop {
        // Asked first: what is closed by the end of a monitor is then known to be closed for good.
        let watched = state.is_monitored(&record.id);
        let error = match door::knock(state, &record.id) {
            Ok(way) => return Ok(way),
            Err(error) => error,
        };
        // It may have ended meanwhile, and be removed.
        match record::load(state, &record.id) {
            Ok(now) => drop(stop::alive(state, &now)?),
            Err(_) if !state.has_record(&record.id) => {
                let error = anyhow!("{} has just ended", record.name);
                return Err(with_exit_code(error, 1));
            }
            Err(error) => return Err(with_exit_code(error, 1)),
        }
        if !watched || Instant::now() > end {
            let hint = "its monitor is just beginning or was killed; try again";
            let error = with_fallback_hint(error, hint);
            return Err(with_exit_code(error, 1));
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// What a terminal that is gone answers.
fn is_hang_up(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.and_then(std::io::Error::raw_os_error) == Some(libc::EIO)
}

/// How long a monitor may take to listen.
const PATIENCE: Duration = Duration::from_secs(5);

struct Session<'a> {
    state: &'a State,
    /// As it was when we came: of the life that we see.
    record: &'a Record,
    ending: Option<Ending<'a>>,
    pidfd: OwnedFd,
    /// The program has ended.
    gone: bool,
    signals: Signals,
    /// The container's terminal.
    terminal: Option<OwnedFd>,
    input: Option<Input>,
    proxy: bool,
}

impl Session<'_> {
    fn attend(&mut self) -> Result<i32> {
        let dir = self.state.container(&self.record.id);
        let mut reader = Reader::new(&dir);
        reader.skip_to_last(0)?;
        let mut printer = Printer::new(None);
        let follow = Follow::new(self.state, &self.record.id)?;
        let raw = match self.input.is_some() && self.terminal.is_some() {
            true => RawMode::enter(fds::standard(0)).ok(),
            false => None,
        };
        self.follow_size();
        let window = is_terminal(1) || is_terminal(2);
        loop {
            // Asked before reading: what was written before the end is then read after it.
            let over = self.is_over();
            match printer.print_all(&mut reader) {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                // It was closed; the signal that says so comes in the same moment.
                Err(error) if window && is_hang_up(&error) => return Ok(0),
                Err(error) => return Err(error),
            }
            if over {
                drop(raw);
                return self.exit_code();
            }
            if !self.turn(&follow)? {
                drop(raw);
                super::note(&format!("detached from {}", self.record.name));
                return Ok(0);
            }
        }
    }

    /// Whether the life that we have seen is over, and all that it printed is in the log: the monitor
    /// notes the exit after that. The next life, by a restart policy, is not ours to attend.
    fn is_over(&self) -> bool {
        if !self.gone {
            return false;
        }
        let watched = self.state.is_monitored(&self.record.id);
        let now = record::load(self.state, &self.record.id);
        !watched || now.is_ok_and(|now| now.exit.is_some() || now.process != self.record.process)
    }

    /// Waits for something to happen, and passes on what comes from the caller. `false`: the caller
    /// wants to leave.
    fn turn(&mut self, follow: &Follow<'_>) -> Result<bool> {
        let mut watched = vec![
            PollFd::new(follow.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        watched.extend(self.input.as_ref().and_then(Input::interest));
        let last = watched.len();
        // Once readable, it is so for ever.
        let alive = (!self.gone).then(|| PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN));
        watched.extend(alive);
        // The last acts of a monitor give no event of their own.
        match poll(&mut watched, PollTimeout::from(250u16)) {
            Err(Errno::EINTR) => return Ok(true),
            other => other.context("poll")?,
        };
        let any = |number: usize| watched.get(number).is_some_and(|fd| fd.any() == Some(true));
        let (log, signal, input, gone) = (any(0), any(1), last > 2 && any(2), any(last));
        self.gone |= gone;
        if log {
            follow.clear();
        }
        // First: a terminal that hangs up tells so by a signal, and by the end of the input.
        if signal && !self.pass_signals()? {
            return Ok(false);
        }
        if let (true, Some(input)) = (input, &mut self.input) {
            input.go_on();
            // A terminal in raw mode has no end but its own.
            let hung_up = input.is_over() && self.terminal.is_some();
            return Ok(!input.wants_out() && !hung_up);
        }
        Ok(true)
    }

    fn pass_signals(&self) -> Result<bool> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                libc::SIGWINCH => self.follow_size(),
                signal if is_ours(signal) => {}
                // The caller's terminal is gone: the container goes on.
                libc::SIGHUP => return Ok(false),
                signal if self.proxy && self.terminal.is_none() => {
                    let sent = pidfd_send_signal(self.pidfd.as_fd(), signal).is_ok();
                    // Nobody is there to take it.
                    if (self.gone || !sent) && asks_to_end(signal) {
                        return Ok(false);
                    }
                }
                signal if asks_to_end(signal) => return Ok(false),
                _ => {}
            }
        }
        Ok(true)
    }

    fn follow_size(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, size_of_ours()) {
            let _ = tty::set_size(terminal.as_fd(), size);
        }
    }

    fn exit_code(&mut self) -> Result<i32> {
        let exit = match record::load(self.state, &self.record.id) {
            Ok(now) if now.process != self.record.process => None,
            Ok(now) if now.is_restarting(self.state, &now.status(self.state)) => now.exit,
            // With its monitor's last acts done, it is removed if it is to be.
            _ => {
                let ending = self.ending.take().map(Ending::wait);
                ending.transpose().exit_code(1)?.flatten()
            }
        };
        exit.and_then(|exit| exit.code)
            .with_context(|| format!("nobody saw how {} ended", self.record.name))
            .hint("its monitor was killed")
            .exit_code(1)
    }
}
