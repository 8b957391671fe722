//! The ways between a container's standard streams and its monitor: named pipes, or a terminal.

use super::detach_keys::DetachKeys;
use super::door::Door;
use super::input::Input;
use super::log::{Log, Stream};
use super::record::Record;
use super::relay::{Output, Relay, Signals};
use super::runtime_cli::{Console, Streams};
use super::state_dirs::State;
use super::told::Told;
use crate::sys::fds;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, chown, mkfifo, pipe2};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// How a foreground container is tied to the caller.
#[derive(Debug)]
pub(super) struct Attached {
    /// Our standard input is its.
    pub(super) input: bool,
    /// Our signals are its.
    pub(super) proxy: bool,
    /// Whoever asks us to end has it killed at once: it may be deaf to them.
    pub(super) is_step: bool,
    /// Where its standard output and error go besides the log.
    pub(super) streams: [Option<BorrowedFd<'static>>; 2],
    /// What is typed at a terminal to leave it.
    pub(super) keys: DetachKeys,
}

impl Attached {
    /// A program of the caller's.
    pub(super) fn new(input: bool, proxy: bool, keys: DetachKeys) -> Attached {
        Attached {
            input,
            proxy,
            is_step: false,
            streams: [1, 2].map(|number| Some(fds::standard(number))),
            keys,
        }
    }

    /// Whether there are keys for the caller to leave by.
    pub(super) fn can_be_left(&self) -> bool {
        self.input && !self.keys.is_none()
    }

    /// A step of a build: all that it prints is beside the point, and goes to our standard error.
    pub(super) fn step(quiet: bool) -> Attached {
        Attached {
            input: false,
            proxy: true,
            is_step: true,
            streams: [(!quiet).then(|| fds::standard(2)); 2],
            keys: DetachKeys::default(),
        }
    }
}

/// The ways between the container's standard streams and us.
pub(super) struct Wires {
    pub(super) streams: Option<Streams>,
    pub(super) console: Option<Console>,
    outputs: Vec<(OwnedFd, Stream)>,
    input: Option<OwnedFd>,
    /// The container has the other ends already.
    streams_are_found: bool,
}

impl Wires {
    pub(super) fn lay(
        record: &Record,
        state: &State,
        attached: Option<&Attached>,
    ) -> Result<Wires> {
        let run_dir = state.run_dir(&record.id);
        if record.tty {
            return Ok(Wires {
                streams: Some(Streams::null()),
                console: Some(Console::listen(&run_dir)?),
                outputs: Vec::new(),
                input: None,
                streams_are_found: false,
            });
        }
        let (out, out_end) = named_pipe(&run_dir.join("stdout"), record.uid)?;
        let (err, err_end) = named_pipe(&run_dir.join("stderr"), record.uid)?;
        let (mut stdin, mut input) = (None, None);
        // In the background -i keeps the input open, with nothing in it.
        if attached.map_or(record.interactive, |attached| attached.input) {
            let (theirs, ours) = pipe2(OFlag::O_CLOEXEC).context("make a pipe for the input")?;
            (stdin, input) = (Some(theirs), Some(ours));
        }
        Ok(Wires {
            streams: Some(Streams::of(stdin, out_end, err_end)),
            console: None,
            outputs: vec![(out, Stream::Out), (err, Stream::Err)],
            input,
            streams_are_found: false,
        })
    }

    /// Our ends alone, of pipes that the container has open. The terminal of a container is gone
    /// with the monitor that had its other end.
    pub(super) fn found(record: &Record, state: &State) -> Result<Wires> {
        let run_dir = state.run_dir(&record.id);
        let mut outputs = Vec::new();
        if !record.tty {
            for (name, stream) in [("stdout", Stream::Out), ("stderr", Stream::Err)] {
                let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                // Without /run, as after an accident, there is nothing to read.
                if let Ok(pipe) = nix::fcntl::open(&run_dir.join(name), flags, Mode::empty()) {
                    outputs.push((pipe, stream));
                }
            }
        }
        Ok(Wires {
            streams: None,
            console: None,
            outputs,
            input: None,
            streams_are_found: true,
        })
    }

    pub(super) fn relay<'a>(
        self,
        record: &Record,
        state: &State,
        signals: &'a Signals,
        attached: Option<&Attached>,
    ) -> Result<Relay<'a>> {
        let ours = |stream| {
            attached.and_then(|attached| match stream {
                Stream::Out => attached.streams[0],
                Stream::Err => attached.streams[1],
            })
        };
        let door = Door::open(state, &record.id);
        // Nothing may keep a monitor from a container that runs already.
        let door = match self.streams_are_found {
            true => door.ok(),
            false => Some(door?),
        };
        let mut outputs = self.outputs;
        let (mut terminal, mut input) = (None, None);
        if let Some(console) = self.console {
            let master = console.master()?;
            let copy = || master.try_clone().context("duplicate the terminal");
            outputs.push((copy()?, Stream::Out));
            if let Some(attached) = attached.filter(|attached| attached.input) {
                input = Some(Input::new(copy()?, true)?.until(attached.keys.clone()));
            }
            terminal = Some(master);
        } else if let Some(pipe) = self.input {
            input = Some(match attached {
                Some(_) => Input::new(pipe, false)?,
                None => Input::silent(pipe),
            });
        }
        Ok(Relay {
            signals,
            outputs: outputs
                .into_iter()
                .map(|(from, stream)| Output::new(from, stream, ours(stream)))
                .collect(),
            input,
            terminal,
            log: Some(Log::new(&state.container(&record.id), record.log)),
            door,
            pulse: None,
            caller: None,
            proxy: attached.is_some_and(|attached| attached.proxy),
            is_step: attached.is_some_and(|attached| attached.is_step),
            interrupted: None,
            told: Some(Told::new(state, &record.id, attached.is_none())),
        })
    }
}

/// A named pipe of the container's user: our end for reading, and the container's, which is open for
/// reading too. So the container can go on writing when we are gone, until the pipe is full.
fn named_pipe(path: &Path, uid: u32) -> Result<(OwnedFd, OwnedFd)> {
    let what = || format!("make the pipe {}", path.display());
    match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => chown(path, Some(Uid::from_raw(uid)), None).with_context(what)?,
        Err(Errno::EEXIST) => {}
        Err(error) => return Err(error).with_context(what),
    }
    let end =
        |flags| nix::fcntl::open(path, flags | OFlag::O_CLOEXEC, Mode::empty()).with_context(what);
    Ok((
        end(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?,
        end(OFlag::O_RDWR)?,
    ))
}
