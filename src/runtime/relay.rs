//! The foreground of `run` and `exec`: signals go to the container, its terminal and the caller's
//! are one, until the program ends.

use super::notify::Proxy;
use crate::linux::console::{self, RawMode};
use crate::sys::process::{self, pidfd_send_signal};
use crate::sys::{fds, tty};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Signals are held back from the moment this exists, so that none is lost before the loop runs.
#[derive(Debug)]
pub struct Relay {
    signals: SignalFd,
    terminal: Option<Terminal>,
    notify: Option<Proxy>,
}

/// What the loop waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    End,
    Signals,
    Output,
    Input,
    Notify,
}

#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    _raw: Option<RawMode>,
    stdin_open: bool,
}

impl Relay {
    /// Takes the terminal's master from the socket that init was given, if it was given one.
    pub fn prepare(socket: Option<UnixStream>, notify: Option<Proxy>) -> Result<Relay> {
        let mut set = SigSet::all();
        for synchronous in [
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGILL,
            Signal::SIGFPE,
        ] {
            set.remove(synchronous);
        }
        set.thread_block().context("hold back signals")?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .context("signalfd")?;
        let terminal = socket.map(|socket| Terminal::new(&socket)).transpose()?;
        Ok(Relay {
            signals,
            terminal,
            notify,
        })
    }

    /// Serves until the process ends. Returns its exit code.
    pub fn until_end(mut self, pidfd: BorrowedFd<'_>) -> Result<i32> {
        loop {
            for source in self.wait(pidfd)? {
                match source {
                    Source::Input => self.pass_input()?,
                    Source::Output => drop(self.pass_output()?),
                    Source::Signals => self.pass_signals(pidfd)?,
                    Source::Notify => {
                        // The main process of the service is this one.
                        let me = std::process::id() as i32;
                        let _ = self.notify.as_mut().map(|proxy| proxy.pass(me));
                    }
                    Source::End => {
                        let ended = process::wait(pidfd).context("wait for the program")?;
                        while self.terminal.is_some() && self.pass_output()? {}
                        return Ok(ended.code());
                    }
                }
            }
        }
    }

    /// Waits until there is something to do; the end of the program is the last of it.
    fn wait(&self, pidfd: BorrowedFd<'_>) -> Result<Vec<Source>> {
        let mut waited = Vec::with_capacity(5);
        if let Some(terminal) = &self.terminal {
            if terminal.stdin_open {
                waited.push((Source::Input, fds::standard(0)));
            }
            waited.push((Source::Output, terminal.master.as_fd()));
        }
        waited.push((Source::Signals, self.signals.as_fd()));
        if let Some(proxy) = &self.notify {
            waited.push((Source::Notify, proxy.as_fd()));
        }
        waited.push((Source::End, pidfd));
        let mut fds: Vec<_> = waited
            .iter()
            .map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Ok(Vec::new()),
            other => other.context("poll")?,
        };
        let ready = waited.iter().zip(&fds);
        Ok(ready
            .filter(|(_, fd)| fd.any() == Some(true))
            .map(|((source, _), _)| *source)
            .collect())
    }

    fn pass_signals(&mut self, pidfd: BorrowedFd<'_>) -> Result<()> {
        while let Some(info) = self.signals.read_signal().context("read a signal")? {
            match info.ssi_signo as i32 {
                libc::SIGCHLD => reap_orphans(pidfd),
                libc::SIGWINCH if self.terminal.is_some() => self.pass_size(),
                // Stopping us must not stop the container, and it does not need to know of our pipes.
                libc::SIGPIPE | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGURG => {}
                // It may have ended meanwhile.
                signal => drop(pidfd_send_signal(pidfd, signal)),
            }
        }
        Ok(())
    }

    fn pass_size(&self) {
        if let (Some(terminal), Ok(size)) = (&self.terminal, tty::size(fds::standard(0))) {
            let _ = tty::set_size(terminal.master.as_fd(), size);
        }
    }

    fn pass_input(&mut self) -> Result<()> {
        let Some(terminal) = &mut self.terminal else {
            return Ok(());
        };
        let mut buffer = [0; 4096];
        match nix::unistd::read(fds::standard(0), &mut buffer) {
            // The end of our input is the end of the terminal's: ^D.
            Ok(0) => {
                terminal.stdin_open = false;
                write_all(terminal.master.as_fd(), &[4])
            }
            Ok(count) => write_all(terminal.master.as_fd(), &buffer[..count]),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
            Err(_) => {
                terminal.stdin_open = false;
                Ok(())
            }
        }
    }

    /// `false`: there is no more output.
    fn pass_output(&mut self) -> Result<bool> {
        let Some(terminal) = &self.terminal else {
            return Ok(false);
        };
        let mut fds = [PollFd::new(terminal.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO).context("poll the terminal")? == 0 {
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        match nix::unistd::read(&terminal.master, &mut buffer) {
            // EIO: nobody has the other end open any more.
            Ok(0) | Err(Errno::EIO) => {
                self.terminal = None;
                Ok(false)
            }
            Ok(count) => {
                write_all(fds::standard(1), &buffer[..count])?;
                Ok(true)
            }
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
            Err(error) => Err(error).context("read from the container's terminal"),
        }
    }
}

impl Terminal {
    fn new(socket: &UnixStream) -> Result<Terminal> {
        let master = console::receive_fd(socket)?;
        let stdin = fds::standard(0);
        if let Ok(size) = tty::size(stdin) {
            let _ = tty::set_size(master.as_fd(), size);
        }
        // Input that is no terminal has no modes to change.
        let _raw = nix::unistd::isatty(stdin)
            .unwrap_or(false)
            .then(|| RawMode::enter(stdin))
            .transpose()?;
        Ok(Terminal {
            master,
            _raw,
            stdin_open: true,
        })
    }
}

/// Orphans of the container come to us, as a subreaper. The program itself is left for its pidfd.
fn reap_orphans(program: BorrowedFd<'_>) {
    use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
    loop {
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
            waitid(Id::All, peek)
        else {
            return;
        };
        let is_program = matches!(
            waitid(Id::PIDFd(program), peek),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        );
        if is_program {
            return;
        }
        let _ = waitpid(pid, None);
    }
}

fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            // The reader is gone. The program is still there, and ends by itself.
            Err(Errno::EPIPE | Errno::EIO) => return Ok(()),
            Err(error) => return Err(error).context("write"),
        }
    }
    Ok(())
}
