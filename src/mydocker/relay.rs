//! Standing beside a program until it ends: its output goes to the log and to the caller, the
//! caller's input, signals and window size go to it. One thread, one poll(2), buffers of a fixed
//! size.

use super::door::Door;
use super::health::Pulse;
use super::input::Input;
use super::leaving::Caller;
use super::log::{Log, Stream};
pub(super) use super::signals::{Interrupted, Signals, asks_to_end, is_ours};
use super::told::Told;
use crate::linux::console::RawMode;
use crate::sys::fds::{self, poll_timeout};
use crate::sys::process::{self, Ended, pidfd_send_signal};
use crate::sys::{memory, tty};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{read, write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Where the program's output comes from, and where it goes besides the log.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) from: OwnedFd,
    pub(super) stream: Stream,
    /// Our own standard output or error.
    pub(super) to: Option<BorrowedFd<'static>>,
    /// What has been read and not been written there yet.
    waiting: Vec<u8>,
}

impl Output {
    pub(super) fn new(from: OwnedFd, stream: Stream, to: Option<BorrowedFd<'static>>) -> Output {
        Output {
            from,
            stream,
            to,
            waiting: Vec::new(),
        }
    }

    /// Reads once. No more is taken from the program than our own reader takes from us: its pipe
    /// fills, and it waits.
    fn pass(&mut self, log: Option<&mut Log>) -> Passed {
        if !self.waiting.is_empty() {
            return self.push();
        }
        match (self.take(log), self.to) {
            (Passed::Some, Some(_)) => match self.push() {
                Passed::Nothing => Passed::Some,
                other => other,
            },
            (taken, _) => taken,
        }
    }

    /// Reads once and keeps what is to be written, however much it is.
    fn take(&mut self, log: Option<&mut Log>) -> Passed {
        let mut buffer = [0; BUFFER];
        let count = match read(&self.from, &mut buffer) {
            // EIO: nobody has the terminal open any more.
            Ok(0) | Err(Errno::EIO) => return Passed::End,
            Ok(count) => count,
            Err(_) => return Passed::Nothing,
        };
        if let Some(log) = log {
            // A full disk loses log, not containers.
            let _ = log.write(self.stream, &buffer[..count]);
        }
        if self.to.is_some() {
            self.waiting.extend_from_slice(&buffer[..count]);
        }
        Passed::Some
    }

    /// Writes as much as is taken without waiting, so that a reader that has stopped reading keeps us
    /// from nothing. Our streams are others' too, whom `O_NONBLOCK` would surprise: poll(2) promises
    /// room for one small write.
    fn push(&mut self) -> Passed {
        let mut passed = Passed::Nothing;
        while let (Some(to), false) = (self.to, self.waiting.is_empty()) {
            if !is_writable(to) {
                break;
            }
            let some = self.waiting.len().min(PIECE);
            match write(to, &self.waiting[..some]) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    passed = Passed::Some;
                }
                Err(Errno::EINTR | Errno::EAGAIN) => break,
                Err(error) => {
                    // That a reader has gone away is its own business.
                    if error != Errno::EPIPE {
                        let stream = self.stream.of_the_caller();
                        super::note(&format!(
                            "output is lost: write to {stream}: {}",
                            error.desc()
                        ));
                    }
                    self.forget();
                    return Passed::Deaf;
                }
            }
        }
        passed
    }

    /// Nobody is to get it any more.
    fn forget(&mut self) {
        self.to = None;
        self.waiting = Vec::new();
    }

    /// What to wait for.
    fn interest(&self) -> PollFd<'_> {
        match self.to {
            Some(to) if !self.waiting.is_empty() => PollFd::new(to, PollFlags::POLLOUT),
            _ => PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
        }
    }
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    // Any event will do: of a closed pipe the write tells more.
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// Everything that is passed on.
pub(super) struct Relay<'a> {
    pub(super) signals: &'a Signals,
    pub(super) outputs: Vec<Output>,
    pub(super) input: Option<Input>,
    /// The master of the program's terminal, whose size follows ours.
    pub(super) terminal: Option<OwnedFd>,
    pub(super) log: Option<Log>,
    /// Where others attach.
    pub(super) door: Option<Door>,
    /// The checks of its health.
    pub(super) pulse: Option<Pulse>,
    /// The process that was called, if it is another one.
    pub(super) caller: Option<Caller>,
    /// Signals that we get are the program's.
    pub(super) proxy: bool,
    /// One that asks us to end kills it.
    pub(super) is_step: bool,
    /// The signal by which a step was killed so.
    pub(super) interrupted: Option<i32>,
    /// Of a container's monitor: what that does when it is told to end, or has passed that on.
    pub(super) told: Option<Told>,
}

impl Relay<'_> {
    /// Serves until the program has ended, and until all that it has written is passed on. `child`:
    /// it is one of ours and is waited for; how another's ended is the caller's to find out.
    pub(super) fn until_end(
        &mut self,
        pidfd: BorrowedFd<'_>,
        child: bool,
    ) -> Result<Option<Ended>> {
        for output in &self.outputs {
            nonblocking(output.from.as_fd())?;
        }
        let mut raw = self.raw_mode()?;
        loop {
            let ready = self.wait(pidfd)?;
            if ready.input
                && let Some(input) = &mut self.input
            {
                input.fill();
                if input.wants_out() {
                    drop(raw.take());
                    self.let_caller_go();
                }
            }
            if let Some(input) = &mut self.input {
                input.flush();
            }
            let heard = pass_ready(&mut self.outputs, ready.outputs, self.log.as_mut());
            if !heard && self.proxy {
                // Nobody reads what it prints. Alone in a pipe it would die of SIGPIPE.
                let _ = pidfd_send_signal(pidfd, libc::SIGKILL);
            }
            if ready.caller {
                self.hang_up();
            }
            if ready.told {
                self.told.iter_mut().for_each(Told::look);
            }
            if ready.signal {
                self.pass_signals(pidfd)?;
            }
            if let (true, Some(door)) = (ready.door, &self.door) {
                let input = self.input.as_ref().and_then(Input::way);
                door.serve(input.or(self.terminal.as_ref()));
            }
            if let Some(pulse) = &mut self.pulse {
                pulse.beat();
            }
            if ready.end {
                self.pulse = None;
                self.collect();
                let ended = child.then(|| process::wait(pidfd)).transpose();
                return ended.context("wait for the program");
            }
        }
    }

    /// The caller has nothing to do with it any more. Its terminal stays open, for others.
    fn let_caller_go(&mut self) {
        self.outputs.iter_mut().for_each(Output::forget);
        self.input = None;
        self.proxy = false;
        if let Some(told) = &mut self.told {
            told.in_background = true;
        }
        if let Some(caller) = self.caller.take() {
            caller.leave();
        }
    }

    /// The caller was killed, and the program's terminal goes: the kernel tells it so (SIGHUP).
    fn hang_up(&mut self) {
        self.let_caller_go();
        self.collect();
        self.outputs.clear();
        self.terminal = None;
    }

    /// Takes what is left in the pipes, however it got there: no more than they can hold. Nobody is
    /// waited for, so that the end of the program can be told.
    pub(super) fn collect(&mut self) {
        for output in &mut self.outputs {
            for _ in 0..LARGEST_PIPE / BUFFER {
                if !matches!(output.take(self.log.as_mut()), Passed::Some) {
                    break;
                }
            }
        }
    }

    /// Writes what has been collected.
    pub(super) fn deliver(&mut self) {
        deliver(&mut self.outputs, self.signals);
    }

    /// What has been collected, for [`deliver`] or for another life.
    pub(super) fn into_outputs(self) -> Vec<Output> {
        self.outputs
    }

    fn raw_mode(&self) -> Result<Option<RawMode>> {
        let stdin = fds::standard(0);
        let ours = self.terminal.is_some() && self.input.is_some();
        if ours && nix::unistd::isatty(stdin).unwrap_or(false) {
            return RawMode::enter(stdin).map(Some);
        }
        Ok(None)
    }

    /// Gives the program's terminal the size of ours.
    pub(super) fn follow_size(&self) {
        if let (Some(terminal), Some(size)) = (&self.terminal, size_of_ours()) {
            let _ = tty::set_size(terminal.as_fd(), size);
        }
    }

    fn wait(&self, pidfd: BorrowedFd<'_>) -> Result<Ready> {
        // At most: pidfd, signals, the door, two outputs, our input, the caller, a commit, a health check.
        let mut fds = Vec::with_capacity(9);
        fds.push(PollFd::new(pidfd, PollFlags::POLLIN));
        fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        let at_door = self.door.as_ref().and_then(Door::interest);
        let listens = at_door.is_some();
        fds.extend(at_door);
        let first = fds.len();
        for output in &self.outputs {
            fds.push(output.interest());
        }
        let outputs = fds.len();
        fds.extend(self.input.as_ref().and_then(Input::interest));
        let inputs = fds.len();
        fds.extend(self.caller.as_ref().map(Caller::interest));
        let callers = fds.len();
        fds.extend(self.told.as_ref().and_then(Told::interest));
        let tellers = fds.len();
        // Last, so that the others keep their places.
        let (probe, limit) = match &self.pulse {
            Some(pulse) => pulse.waits_for(),
            None => (None, None),
        };
        fds.extend(probe.map(|probe| PollFd::new(probe, PollFlags::POLLIN)));
        match rest(&mut fds, limit) {
            Err(Errno::EINTR) => return Ok(Ready::default()),
            other => other.context("poll")?,
        };
        let any = |fd: &PollFd<'_>| fd.any() == Some(true);
        Ok(Ready {
            end: any(&fds[0]),
            signal: any(&fds[1]),
            door: listens && any(&fds[2]),
            outputs: std::array::from_fn(|n| fds[first..outputs].get(n).is_some_and(any)),
            caller: fds[inputs..callers].iter().any(any),
            told: fds[callers..tellers].iter().any(any),
            input: outputs < inputs
                && any(&fds[outputs])
                && self.input.as_ref().is_some_and(Input::wants_more),
        })
    }

    fn pass_signals(&mut self, pidfd: BorrowedFd<'_>) -> Result<()> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                libc::SIGCHLD => reap_others(pidfd),
                // The size of a terminal, or `monitor::LOOK`.
                libc::SIGWINCH => {
                    self.follow_size();
                    self.told.iter_mut().for_each(Told::look);
                }
                signal if is_ours(signal) => {}
                signal if self.is_step && asks_to_end(signal) => {
                    self.interrupted = Some(signal);
                    let _ = pidfd_send_signal(pidfd, libc::SIGKILL);
                }
                signal if self.proxy => {
                    let _ = pidfd_send_signal(pidfd, signal);
                    self.told.iter_mut().for_each(|told| told.passed(signal));
                }
                libc::SIGTERM => self.told.iter_mut().for_each(Told::stop),
                _ => {}
            }
        }
        Ok(())
    }
}

/// poll(2). One that lasts gives back memory: a monitor that is alone on the machine would otherwise
/// keep 2 MB of the program mapped.
fn rest(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<i32> {
    if limit.is_some_and(|limit| limit <= SHORT_REST) {
        return poll(fds, poll_timeout(limit));
    }
    match poll(fds, poll_timeout(Some(SHORT_REST)))? {
        0 => memory::poll_without_program(fds, limit.map(|limit| limit - SHORT_REST)),
        ready => Ok(ready),
    }
}

/// Reads once from each output that has something. From no other: what comes there meanwhile is later
/// than what comes here meanwhile, and would be told first. `false`: our own reader has gone.
fn pass_ready(
    outputs: &mut Vec<Output>,
    ready: [bool; STREAMS],
    mut log: Option<&mut Log>,
) -> bool {
    let mut heard = true;
    let mut ready = ready.into_iter();
    outputs.retain_mut(|output| {
        if ready.next() != Some(true) {
            return true;
        }
        let passed = output.pass(log.as_deref_mut());
        heard &= !matches!(passed, Passed::Deaf);
        !matches!(passed, Passed::End)
    });
    heard
}

/// What another life of the container has left to write comes before anything of this one. A stream
/// that the program closed in that life has left nothing.
pub(super) fn go_on_from(before: Vec<Output>, outputs: &mut [Output]) {
    for before in before {
        let same = outputs.iter_mut().find(|now| now.stream == before.stream);
        if let Some(output) = same {
            (output.to, output.waiting) = (before.to, before.waiting);
        }
    }
}

/// Writes what is left to write. A slow reader is waited for, until the caller has had enough.
pub(super) fn deliver(outputs: &mut [Output], signals: &Signals) {
    loop {
        for output in outputs.iter_mut() {
            output.push();
        }
        let slow = |output: &&Output| output.to.is_some() && !output.waiting.is_empty();
        let slow = outputs.iter().filter(slow).map(Output::interest);
        let mut fds: Vec<_> = slow.collect();
        if fds.is_empty() {
            return;
        }
        fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        let _ = poll(&mut fds, PollTimeout::NONE);
        drop(fds);
        if let Ok(Some(signal)) = signals.next()
            && asks_to_end(signal)
        {
            outputs.iter_mut().for_each(Output::forget);
        }
    }
}

/// The size of the caller's terminal, if there is one.
pub(super) fn size_of_ours() -> Option<tty::Size> {
    let sizes = [0, 1].map(|number| tty::size(fds::standard(number)));
    sizes.into_iter().flatten().next()
}

#[derive(Debug, Default)]
struct Ready {
    end: bool,
    signal: bool,
    door: bool,
    outputs: [bool; STREAMS],
    input: bool,
    caller: bool,
    told: bool,
}

/// How long a wait has to be to be a long one.
const SHORT_REST: Duration = Duration::from_secs(1);
const BUFFER: usize = 16 * 1024;
/// Standard output and standard error.
const STREAMS: usize = 2;
/// What a pipe that is writable takes at once (PIPE_BUF of pipe(7)).
const PIECE: usize = 4096;
/// What a user without rights may make of a pipe (pipe(7), "pipe-max-size").
const LARGEST_PIPE: usize = 1 << 20;

enum Passed {
    /// Some of what is there.
    Some,
    /// Nothing is there now.
    Nothing,
    /// Nothing can come any more.
    End,
    /// As `Some`, but our own end is closed.
    Deaf,
}

/// Makes reads and writes return at once.
pub(super) fn nonblocking(fd: BorrowedFd<'_>) -> Result<()> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).context("fcntl")?;
    let flags = OFlag::from_bits_truncate(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).context("fcntl")?;
    Ok(())
}

/// Orphans of the container come to us, as a subreaper. The program itself is left to its pidfd.
fn reap_others(program: BorrowedFd<'_>) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) =
        waitid(Id::All, peek)
    {
        let of_program = waitid(Id::PIDFd(program), peek);
        if matches!(
            of_program,
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
        ) {
            return;
        }
        let _ = waitpid(pid, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::pipe;

    #[test]
    fn what_a_life_has_left_stays_in_its_stream() {
        let of = |stream, waiting: &[u8]| {
            let null = std::fs::File::open("/dev/null").unwrap();
            let mut output = Output::new(null.into(), stream, None);
            output.waiting = waiting.to_vec();
            output
        };
        // It had closed its standard output.
        let before = vec![of(Stream::Err, b"left")];
        let mut now = [of(Stream::Out, b""), of(Stream::Err, b"")];
        go_on_from(before, &mut now);
        assert_eq!(now[0].waiting, b"");
        assert_eq!(now[1].waiting, b"left");
    }

    #[test]
    fn what_comes_while_another_stream_is_read_waits_for_its_turn() {
        let ((out, out_end), (err, err_end)) = (pipe().unwrap(), pipe().unwrap());
        let output = |from: &OwnedFd, stream| {
            let from = from.try_clone().unwrap();
            nonblocking(from.as_fd()).unwrap();
            Output::new(from, stream, None)
        };
        let mut outputs = vec![output(&out, Stream::Out), output(&err, Stream::Err)];
        write(&out_end, b"first").unwrap();
        write(&err_end, b"second").unwrap();
        assert!(pass_ready(&mut outputs, [true, false], None));
        let mut buffer = [0; 9];
        let mut left = |from| read(from, &mut buffer).map(|count| buffer[..count].to_vec());
        assert_eq!(left(&out), Err(Errno::EAGAIN), "it is read");
        assert_eq!(left(&err).unwrap(), b"second");
        // One that has ended goes, and the other one with its place.
        drop(out_end);
        assert!(pass_ready(&mut outputs, [true, false], None));
        let streams: Vec<_> = outputs.iter().map(|output| output.stream).collect();
        assert_eq!(streams, [Stream::Err]);
    }
}
