//! The protocol between the runtime (the parent) and init, the first process of a container. One
//! `SOCK_SEQPACKET` pair; a message is a packet. Nothing else touches it.
//!
//! ```text
//! init                               parent (create.rs)
//!   Cloned(pid) + pidfd    ────▶     from a set-up process, which then ends; on a socket of its own
//!                          ◀────     Go(Placed)    systemd has made the cgroup, or let it in (only with --systemd-cgroup)
//!                          ◀────     Go(Mapped)    the id maps are written (only with a user namespace)
//!   Please(NetDevices)     ────▶     linux.netDevices, when there are any
//!                          ◀────     Go(NetDevices)
//!   Please(HostHooks)      ────▶     prestart and createRuntime hooks, when there are any
//!                          ◀────     Go(HostHooks)
//!   Hooks                  ────▶     createContainer hooks are next, when there are any: poststop is due
//!   Please(Limits)         ────▶     rlimits of a process in a user namespace
//!                          ◀────     Go(Limits)
//!   Listener + descriptor  ────▶     handed to the seccomp agent
//!                          ◀────     Go(Listener)
//!   Ready                  ────▶     the state "created" is stored
//!                          ◀────     Go(Stored)    init waits for `start`; without it, init ends
//!                          ◀────     Go(Start)     from `run`, instead of that: init runs the program, and
//!                                                  its execve closes the socket
//!   Failed(Failure)        ────▶     undo, report, exit       (at any time)
//!   end of file            ────▶     init died: say how
//! ```
//!
//! Most containers need `Ready` and one word alone: the cgroup is made, with its limits in force,
//! before init is, and init enters it by itself (a process that is moved by another waits for the
//! kernel, see `cgroup::Doors`).

use super::log;
use crate::error;
use crate::sys::fds;
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What init tells its parent.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// A set-up process has made init, with this number; its pidfd comes along.
    Cloned(i32),
    /// Init cannot do this itself.
    Please(Favour),
    /// The seccomp notification descriptor comes along.
    Listener,
    /// Something odd that stops nothing, for the log, which init may have closed.
    Odd(String),
    /// The container is there, and its createContainer hooks are next.
    Hooks,
    /// All is done but for the program itself.
    Ready,
    /// The error that ended it.
    Failed(Failure),
    /// To `start`: the same of a startContainer hook, which ends the container (runtime.md,
    /// "Lifecycle", 7).
    HookFailed(Failure),
}

/// An error on its way to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The chain of causes in one line.
    message: String,
    /// What the user can do.
    hint: Option<String>,
    /// The process was not even in its cgroup: it has done nothing.
    pub outside: bool,
}

/// What a process failed at before all else, as the context of an error.
#[derive(Debug, Clone, Copy)]
pub struct Entering;

impl std::fmt::Display for Entering {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("enter the container's cgroup")
    }
}

/// What only the parent can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Favour {
    /// Run the hooks that belong into the runtime's namespaces.
    HostHooks,
    /// Move network devices of the host into the container.
    NetDevices,
    /// Set resource limits that need rights outside the user namespace.
    Limits,
}

/// What the parent tells init.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Go {
    /// The process is in its cgroup, which was made around it.
    Placed,
    /// uid_map and gid_map are written.
    Mapped,
    /// A favour is done.
    Done(Favour),
    /// The seccomp agent has the descriptor.
    Listener,
    /// The state is stored: any command finds init from now on.
    Stored,
    /// To the process of `run` or `exec`, which has no socket for `start`: run the program.
    Start,
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Room for one packet. An error message with every problem of a long chain fits.
const PACKET: usize = 32 * 1024;

/// Makes both ends: the parent's, then init's.
pub fn pair() -> Result<(Channel, Channel)> {
    let (parent, init) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .context("make the socket to init")?;
    Ok((Channel(parent), Channel(init)))
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Channel {
    /// Sends a message.
    pub fn send(&self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, None)
    }

    /// The parent's message. If init has ended meanwhile, it has said why, and that is the error.
    pub fn tell(&self, message: &Go) -> Result<()> {
        let Err(error) = self.send(message) else {
            return Ok(());
        };
        // The latter if it has left words of ours unread.
        let is_alone = [Errno::EPIPE, Errno::ECONNRESET]
            .iter()
            .any(|errno| error.root_cause().downcast_ref() == Some(errno));
        match is_alone.then(|| self.receive::<FromInit>()) {
            Some(Ok(Some((FromInit::Failed(why), _)))) => Err(why.error()),
            _ => Err(error),
        }
    }

    /// Sends a message with a descriptor.
    pub fn send_with(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let sent = match fd {
            // Every seccomp profile allows write(2), and one may be in force already.
            None => nix::unistd::write(&self.0, &bytes),
            Some(fd) => sendmsg::<()>(
                self.0.as_raw_fd(),
                &[IoSlice::new(&bytes)],
                &[ControlMessage::ScmRights(&[fd.as_raw_fd()])],
                MsgFlags::MSG_NOSIGNAL,
                None,
            ),
        };
        sent.map(drop)
            .context("send a message between parent and init")
    }

    /// The next message with its descriptor, if any; `None` when the other end is closed.
    pub fn receive<T: for<'a> Deserialize<'a>>(&self) -> Result<Option<(T, Option<OwnedFd>)>> {
        // Most are a word.
        let size = fds::next_packet(self.0.as_fd());
        let mut buffer = vec![0; size.context("wait for a message from the other end")?];
        let received = fds::receive(self.0.as_fd(), &mut buffer);
        let (length, fd) = received.context("receive a message from the other end")?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..length])?, fd)))
    }

    /// In init: waits for one particular word of the parent. No descriptor comes with one, and plain
    /// read(2) is what every seccomp profile allows; one may be in force already.
    pub fn expect(&self, wanted: Go) -> Result<()> {
        let mut buffer = [0; 256];
        let length = loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Err(Errno::EINTR) => continue,
                Err(Errno::ECONNRESET) => break 0,
                other => break other.context("receive a word from the parent")?,
            }
        };
        if length == 0 {
            bail!("the runtime ended before the container was created");
        }
        match serde_json::from_slice::<Go>(&buffer[..length])? {
            go if go == wanted => Ok(()),
            other => bail!("expected {wanted:?} from the parent, got {other:?}"),
        }
    }

    /// In init: asks a favour and waits until it is done.
    pub fn ask(&self, favour: Favour) -> Result<()> {
        self.send(&FromInit::Please(favour))?;
        self.expect(Go::Done(favour))
    }

    /// In init: tells the parent what went wrong. If that fails too, the end of file tells it.
    pub fn fail(&self, error: &anyhow::Error) {
        let _ = self.send(&FromInit::Failed(Failure::of(error)));
    }
}

impl Failure {
    /// As much of an error as a packet holds.
    pub fn of(error: &anyhow::Error) -> Failure {
        let mut message = error::message(error);
        let mut end = message.len().min(PACKET / 4);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Failure {
            message,
            // Its number does not come along.
            hint: error::hint_of(error)
                .or_else(|| error::errno(error).and_then(log::advice))
                .map(str::to_owned),
            outside: error.downcast_ref::<Entering>().is_some(),
        }
    }

    /// The error again.
    pub fn error(self) -> anyhow::Error {
        let error = anyhow!(self.message);
        match self.hint {
            Some(hint) => error::with_hint(error, hint),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (parent, init) = pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        init.send_with(&FromInit::Cloned(7), Some(file.as_fd()))
            .unwrap();
        let (message, fd) = parent.receive::<FromInit>().unwrap().unwrap();
        assert!(matches!(message, FromInit::Cloned(7)));
        assert!(fd.is_some());
        parent.send(&Go::Mapped).unwrap();
        init.expect(Go::Mapped).unwrap();
        drop(init);
        assert!(parent.receive::<FromInit>().unwrap().is_none());
    }

    #[test]
    fn who_cannot_be_told_has_said_why() {
        let (parent, init) = pair().unwrap();
        init.fail(&anyhow!("no such namespace"));
        drop(init);
        let error = parent.tell(&Go::Mapped).unwrap_err();
        assert_eq!(error::message(&error), "no such namespace");
        let error = parent.tell(&Go::Mapped).unwrap_err();
        assert!(error::message(&error).contains("EPIPE"), "{error:?}");
    }

    #[test]
    fn an_error_keeps_its_hint_and_fits_into_a_packet() {
        let (parent, init) = pair().unwrap();
        let error = error::with_hint(anyhow!("é".repeat(PACKET)), "less");
        init.fail(&error);
        let Some((FromInit::Failed(why), None)) = parent.receive().unwrap() else {
            panic!("expected a failure");
        };
        let error = why.error();
        assert!(error::message(&error).starts_with('é'));
        assert_eq!(error::hint_of(&error), Some("less"));
    }
}
