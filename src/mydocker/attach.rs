//! `attach`: the caller's terminal or streams at a container that runs already. Input goes straight
//! into the container's terminal or pipe, which its monitor hands out; output comes from the log.

use super::cli::{Attach, Global};
use super::detach_keys::DetachKeys;
use super::logs::{Follow, Printer, Reader};
use super::record::{self, Record};
use super::relay::{Input, Signals, asks_to_end, size_of_ours};
use super::state_dirs::State;
use super::wait::Ending;
use super::{door, stop};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::linux::console::RawMode;
use crate::sys::process::pidfd_send_signal;
use crate::sys::{fds, tty};
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};

/// `mydocker attach`
pub fn attach(state: &State, _: &Global, args: &Attach) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    let name = &record.name;
    let pidfd = stop::alive(state, &record)?;
    if matches!(record.status(state), record::Status::Paused { .. }) {
        let error = anyhow!("{name} is paused");
        return Err(with_exit_code(
            with_hint(error, format!("mydocker unpause {name}")),
            1,
        ));
    }
    if record.log.none {
        let error = anyhow!("{name} was made with --log-driver none: nobody keeps what it prints");
        let hint = "attach reads the log; leave that option out";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let keys = DetachKeys::parse(&args.detach_keys).exit_code(125)?;
    let way_in = door::knock(state, &record.id).exit_code(1)?;
    if way_in.is_none() && record.tty {
        super::note(&format!(
            "{name}: its terminal went with a monitor that was killed; there is its log only"
        ));
    }
    let signals = Signals::hold()?;
    let terminal = way_in.as_ref().filter(|_| record.tty);
    let terminal = terminal.map(OwnedFd::try_clone).transpose()?;
    let input = match way_in {
        Some(way) if record.interactive && !args.no_stdin => {
            Some(Input::new(way, record.tty)?.until(keys))
        }
        _ => None,
    };
    let mut session = Session {
        state,
        record: &record,
        ending: Some(Ending::of(state, &record).exit_code(1)?),
        pidfd,
        signals,
        terminal,
        input,
        proxy: args.sig_proxy,
    };
    session.attend()
}

struct Session<'a> {
    state: &'a State,
    record: &'a Record,
    ending: Option<Ending<'a>>,
    pidfd: OwnedFd,
    signals: Signals,
    /// The container's terminal.
    terminal: Option<OwnedFd>,
    input: Option<Input>,
    proxy: bool,
}

impl Session<'_> {
    fn attend(&mut self) -> Result<i32> {
        let dir = self.state.log_dir(&self.record.id);
        let mut reader = Reader::new(&dir);
        reader.skip_to_last(0)?;
        let mut printer = Printer::new(None);
        let follow = Follow::new(self.state, &self.record.id, &dir)?;
        let raw = match self.input.is_some() && self.terminal.is_some() {
            true => RawMode::enter(fds::standard(0)).ok(),
            false => None,
        };
        self.follow_size();
        loop {
            let over = follow.is_over();
            if !printer.print_all(&mut reader)? {
                return Ok(0);
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

    /// Waits for something to happen, and passes on what comes from the caller. `false`: the caller
    /// wants to leave.
    fn turn(&mut self, follow: &Follow<'_>) -> Result<bool> {
        let mut watched = vec![
            PollFd::new(follow.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        watched.extend(self.input.as_ref().and_then(Input::interest));
        // The last acts of a monitor give no event of their own.
        match poll(&mut watched, PollTimeout::from(250u16)) {
            Err(Errno::EINTR) => return Ok(true),
            other => other.context("poll")?,
        };
        let any = |number: usize| watched.get(number).is_some_and(|fd| fd.any() == Some(true));
        let (log, signal, input) = (any(0), any(1), any(2));
        if log {
            follow.clear();
        }
        if let (true, Some(input)) = (input, &mut self.input) {
            input.go_on();
            if input.wants_out() {
                return Ok(false);
            }
        }
        match signal {
            true => self.pass_signals(),
            false => Ok(true),
        }
    }

    fn pass_signals(&self) -> Result<bool> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                libc::SIGWINCH => self.follow_size(),
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG => {}
                // The caller's terminal is gone: the container goes on.
                libc::SIGHUP => return Ok(false),
                signal if self.proxy && self.terminal.is_none() => {
                    let _ = pidfd_send_signal(self.pidfd.as_fd(), signal);
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
        let ending = self.ending.take().map(Ending::wait);
        let exit = ending.transpose().exit_code(1)?.flatten();
        exit.and_then(|exit| exit.code)
            .with_context(|| format!("nobody saw how {} ended", self.record.name))
            .hint("its monitor was killed")
            .exit_code(1)
    }
}
