//! The caller's standard input on its way to a program.

use super::detach_keys::DetachKeys;
use super::relay::nonblocking;
use crate::sys::fds;
use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{read, write};
use std::os::fd::{AsFd, OwnedFd};

/// Our standard input on its way to the program.
#[derive(Debug)]
pub(super) struct Input {
    /// Nothing once the end has been passed on.
    to: Option<OwnedFd>,
    /// A terminal is told of the end by ^D, and is not closed.
    terminal: bool,
    waiting: Vec<u8>,
    over: bool,
    /// Nothing is to come from our standard input.
    silent: bool,
    /// What the caller types to leave.
    keys: Option<DetachKeys>,
    wants_out: bool,
}

impl Input {
    /// From our standard input into a pipe, or into the master of a terminal that is told of its end.
    pub(super) fn new(to: OwnedFd, terminal: bool) -> Result<Input> {
        nonblocking(to.as_fd())?;
        Ok(Input {
            to: Some(to),
            terminal,
            waiting: Vec::new(),
            over: false,
            silent: false,
            keys: None,
            wants_out: false,
        })
    }

    /// The same, with keys by which the caller leaves.
    pub(super) fn until(self, keys: DetachKeys) -> Input {
        Input {
            keys: Some(keys),
            ..self
        }
    }

    /// Where it goes.
    pub(super) fn way(&self) -> Option<&OwnedFd> {
        self.to.as_ref()
    }

    /// Whether nothing more comes, and all that came is passed on.
    pub(super) fn is_over(&self) -> bool {
        self.over && self.waiting.is_empty()
    }

    /// Whether those keys were typed.
    pub(super) fn wants_out(&self) -> bool {
        self.wants_out
    }

    /// What to wait for: more of ours, or room for it.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        if self.wants_more() {
            return Some(PollFd::new(fds::standard(0), PollFlags::POLLIN));
        }
        let to = self.to.as_ref().filter(|_| !self.waiting.is_empty())?;
        Some(PollFd::new(to.as_fd(), PollFlags::POLLOUT))
    }

    /// Does what [`Input::interest`] has waited for.
    pub(super) fn go_on(&mut self) {
        match self.wants_more() {
            true => self.fill(),
            false => self.flush(),
        }
    }

    /// One that is open and says nothing.
    pub(super) fn silent(to: OwnedFd) -> Input {
        Input {
            to: Some(to),
            terminal: false,
            waiting: Vec::new(),
            over: false,
            silent: true,
            keys: None,
            wants_out: false,
        }
    }

    pub(super) fn wants_more(&self) -> bool {
        self.to.is_some() && self.waiting.is_empty() && !self.over && !self.silent
    }

    /// Reads once, and passes on.
    pub(super) fn fill(&mut self) {
        let mut buffer = [0; 4096];
        match read(fds::standard(0), &mut buffer) {
            Ok(count @ 1..) => {
                let typed = &buffer[..count];
                match &mut self.keys {
                    None => self.waiting.extend_from_slice(typed),
                    Some(keys) => {
                        let (through, all) = keys.filter(typed);
                        self.waiting.extend_from_slice(&through);
                        self.wants_out |= all;
                    }
                }
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // The end, or a terminal that has hung up.
            _ => {
                self.over = true;
                if let Some(keys) = &mut self.keys {
                    self.waiting.extend_from_slice(keys.held());
                }
                if self.terminal {
                    self.waiting.push(4);
                }
            }
        }
        self.flush();
    }

    /// Passes on what the program takes.
    pub(super) fn flush(&mut self) {
        while let (Some(to), false) = (&self.to, self.waiting.is_empty()) {
            match write(to, &self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // It reads no more.
                Err(_) => {
                    self.waiting.clear();
                    self.to = None;
                }
            }
        }
        if self.over && !self.terminal {
            self.to = None;
        }
    }
}
