//! criu(8) at work. `criu swrk FD` serves requests of the process that started it, over a
//! `SOCK_SEQPACKET` pair, in protobuf ([`super::criu_messages`]).
//!
//! That and not its command line, since only by this protocol does a restore hand over the master of
//! a new terminal, wait for us where hooks run and where the state is stored, and make the restored
//! process our child, whose exit status we then have.
//!
//! ```text
//! runtime                              criu
//!   Version               ────▶
//!                         ◀────        version
//!   Dump, PreDump, Restore ───▶
//!                         ◀────        Notify{what, pid} + descriptor     any number of them
//!   Notify{success}       ────▶        goes on, or takes all back
//!                         ◀────        the same kind, with success, pid, errno
//! ```
//!
//! An end of file instead of our answer makes criu take back what it has done: a killed runtime
//! leaves the container running (dump) or nothing (restore).

use super::criu_messages::{Kind, Request, Response};
use super::spawn::{self, Wish};
use super::sync::FromInit;
use crate::cgroup::View;
use crate::error::{ResultExt, with_hint};
use crate::linux::console;
use crate::linux::criu_mounts;
use crate::linux::namespaces::Namespaces;
use crate::sys::fds;
use crate::sys::process::{self, CStrings, Ended};
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::{Pid, setpgid};
use prost::Message;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The oldest criu that knows all that is asked of it: pid namespaces that are joined, and the
/// notification that lazy pages are ready.
const OLDEST: (i32, i32) = (3, 15);
/// Room for an answer.
const PACKET: usize = 64 * 1024;
/// As many failing lines of criu's log as an error shows.
const LINES: usize = 6;

/// A criu that waits for requests.
#[derive(Debug)]
pub struct Criu {
    socket: OwnedFd,
    /// Its number.
    pub pid: i32,
    /// Its descriptor. It is a child of this program.
    pub pidfd: OwnedFd,
}

/// Where criu sees the cgroup hierarchies, below the container's directory of the store.
pub fn yard(dir: &Path) -> PathBuf {
    dir.join("yard")
}

/// criu's program: what `--criu` names, or what `PATH` has.
pub fn find(named: Option<&Path>) -> Result<PathBuf> {
    let name = named.unwrap_or(Path::new("criu"));
    let is_program = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let found = if name.components().count() > 1 {
        Some(name.to_owned()).filter(is_program)
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|dir| dir.join(name))
            .find(is_program)
    };
    found
        .with_context(|| format!("{}: there is no such program", name.display()))
        .hint("apt-get install criu iptables, or name it with --criu")
}

/// In the process that becomes criu: what a terminal sends to us must not hit it, for a criu that
/// dies in the middle can leave the container's processes damaged. We end, and it takes all back.
/// Only with --shell-job does it need to be with us: the job is restored into the same group.
pub fn stand_alone(shell_job: bool) -> Result<()> {
    if shell_job {
        return Ok(());
    }
    let me = Pid::from_raw(0);
    setpgid(me, me).context("make a process group for criu")
}

/// Where criu works.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// Its directories. They are opened anew.
    pub files: &'a mut Directories,
    /// The hierarchies of cgroups.
    pub view: &'a View,
    /// The container's directory of the store.
    pub dir: &'a Path,
    /// A v2 cgroup to be born in.
    pub cgroup: Option<OwnedFd>,
    /// Descriptors that it has under the same numbers.
    pub kept: &'a [BorrowedFd<'a>],
}

impl Criu {
    /// Starts it in a mount namespace of its own. `prepare` runs there before criu does.
    pub fn start(
        program: &Path,
        surroundings: Surroundings<'_>,
        prepare: impl FnOnce() -> Result<()>,
    ) -> Result<Criu> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .context("make the socket to criu")?;
        let path = CString::new(program.as_os_str().as_bytes())?;
        let number = CString::new(theirs.as_raw_fd().to_string())?;
        let args = CStrings::new(vec![c"criu".to_owned(), c"swrk".to_owned(), number]);
        let env = CStrings::of_environment()?;
        let Surroundings {
            files,
            view,
            dir,
            cgroup,
            kept,
        } = surroundings;
        let yard = yard(dir);
        match fs::create_dir(&yard) {
            // Of one that was killed.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => other.with_context(|| format!("make {}", yard.display()))?,
        }
        let (socket, its_socket) = UnixStream::pair().context("make a socket for directories")?;
        let wish = Wish {
            namespaces: &Namespaces::default(),
            joined: Vec::new(),
            cgroup,
            keeps: None,
        };
        let spawned = spawn::spawn(&wish, |_| {
            criu_mounts::enter()?;
            prepare()?;
            criu_mounts::make_yard(view, &yard)?;
            files.send_anew(&its_socket)?;
            for fd in kept.iter().copied().chain([theirs.as_fd()]) {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).context("keep a descriptor open")?;
            }
            process::reset_signals();
            Err(process::execve(&path, &args, &env))
                .with_context(|| format!("run {}", program.display()))
        })?;
        // The end of file is the successful execve.
        match spawned.channel.receive::<FromInit>()? {
            None => {}
            Some((FromInit::Failed(why), _)) => {
                process::wait(spawned.pidfd.as_fd()).context("wait for criu")?;
                return Err(why.error());
            }
            Some((other, _)) => bail!("unexpected message before criu: {other:?}"),
        }
        files.receive(&socket)?;
        Ok(Criu {
            socket: ours,
            pid: spawned.pid,
            pidfd: spawned.pidfd,
        })
    }

    /// An error when it is too old.
    pub fn check_version(&self) -> Result<()> {
        self.send(&Request {
            kind: Kind::Version.into(),
            keep_open: Some(true),
            ..Request::default()
        });
        let version = match self.receive()? {
            Some((response, _)) => response.version.unwrap_or_default(),
            None => {
                let ended = process::wait(self.pidfd.as_fd()).context("wait for criu")?;
                return Err(silent(ended));
            }
        };
        let (major, minor) = (version.major_number, version.minor_number);
        if (major, minor) < OLDEST {
            return Err(anyhow!("criu {major}.{minor} is too old")).hint(format!(
                "criu {}.{} or a later one is needed",
                OLDEST.0, OLDEST.1
            ));
        }
        Ok(())
    }

    /// How it has ended, if it has before it was asked for anything.
    pub fn silence(&self) -> Option<anyhow::Error> {
        let pidfd = self.pidfd.as_fd();
        let ended = spawn::ends_soon(pidfd).then(|| process::wait(pidfd));
        ended?.ok().map(silent)
    }

    /// Has it serve one request, to its end. `on` hears what happens meanwhile: what it is, which
    /// process it is about, and the descriptor that comes along. Its error makes criu take back what
    /// it has done, and is the error of the whole.
    ///
    /// # Errors
    /// Those of `on`; else the failing lines of criu's log, the file `log` in `--work-path`.
    pub fn serve(
        self,
        mut request: Request,
        files: &Directories,
        log: &str,
        mut on: impl FnMut(&str, i32, Option<OwnedFd>) -> Result<()>,
    ) -> Result<Response> {
        let opts = request.opts.get_or_insert_default();
        (opts.images_dir_fd, opts.work_dir_fd) = files.numbers();
        opts.log_file = Some(log.to_owned());
        let log = &files.work.join(log);
        // What is there is of an earlier time.
        match fs::remove_file(log) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", log.display()));
            }
            _ => {}
        }
        self.send(&request);
        let mut failed = None;
        let answer = loop {
            match self.receive()? {
                Some((response, fd)) if response.kind() == Kind::Notify => {
                    let notify = response.notify.unwrap_or_default();
                    let result = on(notify.script(), notify.pid(), fd);
                    self.send(&Request {
                        kind: Kind::Notify.into(),
                        notify_success: Some(result.is_ok()),
                        ..Request::default()
                    });
                    failed = failed.or(result.err());
                }
                other => break other,
            }
        };
        if request.kind() == Kind::PreDump && answer.is_some() {
            // All is done, but it waits for another one, and would complain that none comes.
            let _ = process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        }
        drop(self.socket);
        let ended = process::wait(self.pidfd.as_fd()).context("wait for criu")?;
        if let Some(error) = failed {
            return Err(error);
        }
        match answer {
            Some((response, _)) if response.success => Ok(response),
            Some((response, _)) => Err(failure(log, reason(&response))),
            None if log.exists() => Err(failure(log, format!("it {ended}"))),
            None => Err(silent(ended)),
        }
    }

    /// Whoever is dead cannot be told; its end is noticed when its answer does not come.
    fn send(&self, request: &Request) {
        let bytes = request.encode_to_vec();
        while send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL) == Err(Errno::EINTR) {}
    }

    /// The next message with its descriptor, if any; `None` when criu has ended.
    fn receive(&self) -> Result<Option<(Response, Option<OwnedFd>)>> {
        let mut buffer = vec![0; PACKET];
        let received = fds::receive(self.socket.as_fd(), &mut buffer);
        let (length, fd) = received.context("receive an answer of criu")?;
        if length == 0 {
            return Ok(None);
        }
        let response = Response::decode(&buffer[..length]).context("read an answer of criu")?;
        Ok(Some((response, fd)))
    }
}

/// It has ended, and neither answered nor written a log.
fn silent(ended: Ended) -> anyhow::Error {
    with_hint(
        anyhow!("criu {ended} without an answer"),
        "criu needs root; `criu check` tells what else it misses on this machine",
    )
}

fn reason(response: &Response) -> String {
    match (response.cr_errmsg(), response.cr_errno()) {
        ("", 0) => "it does not say why".to_owned(),
        ("", errno) => Errno::from_raw(errno).desc().to_owned(),
        (text, _) => text.trim().to_owned(),
    }
}

/// The error that the log tells of, or `otherwise`.
fn failure(log: &Path, otherwise: String) -> anyhow::Error {
    let text = fs::read(log).unwrap_or_default();
    let lines = failing_lines(&String::from_utf8_lossy(&text));
    let why = if lines.is_empty() {
        otherwise
    } else {
        lines.join("; ")
    };
    let hint = if why.contains("tables-restore") {
        "criu holds the network still with iptables(8): apt-get install iptables"
    } else {
        "the log tells more; `criu check` tells what criu misses on this machine"
    };
    with_hint(anyhow!("criu: {why} (log file: {})", log.display()), hint)
}

/// What went wrong by criu's log: the text of its lines `… Error (FILE:LINE): TEXT`, the first ones.
fn failing_lines(log: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once("Error (") else {
            continue;
        };
        let text = rest.split_once("): ").map_or(rest, |(_, text)| text).trim();
        // How a helper ended, and that all of it ended so: neither is a reason.
        let is_reason = !text.starts_with("exited, status=") && !text.ends_with("FAILED.");
        if is_reason && lines.len() < LINES && !lines.iter().any(|known| known == text) {
            lines.push(text.to_owned());
        }
    }
    lines
}

/// The directories that criu works in.
#[derive(Debug)]
pub struct Directories {
    /// `--image-path`, absolute.
    pub images: PathBuf,
    images_dir: File,
    /// `--work-path`, absolute.
    pub work: PathBuf,
    work_dir: File,
    /// The first of them was made just now.
    is_new: bool,
}

impl Directories {
    /// Opens them for a dump, and makes them when they are missing.
    pub fn make(images: &Path, work: Option<&Path>) -> Result<Directories> {
        let make = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.with_context(|| format!("make {}", path.display()))
        };
        let is_new = !images.exists();
        make(images).context("--image-path")?;
        if let Some(work) = work {
            make(work).context("--work-path")?;
        }
        Directories::open(images, work, is_new)
    }

    /// Opens those of a checkpoint.
    pub fn of_checkpoint(images: &Path, work: Option<&Path>) -> Result<Directories> {
        let found = Directories::open(images, work, false)?;
        if !found.images.join("inventory.img").exists() {
            return Err(anyhow!(
                "--image-path: there is no checkpoint in {}",
                images.display()
            ))
            .hint("name the directory that `checkpoint --image-path` had");
        }
        Ok(found)
    }

    fn open(images: &Path, work: Option<&Path>, is_new: bool) -> Result<Directories> {
        let open = |option: &str, path: &Path| -> Result<(PathBuf, File)> {
            let what = || format!("{option}: {}", path.display());
            let real = path.canonicalize().with_context(what)?;
            let dir = File::open(&real).with_context(what)?;
            if !dir.metadata().with_context(what)?.is_dir() {
                bail!("{}: it is not a directory", what());
            }
            Ok((real, dir))
        };
        let (images, images_dir) = open("--image-path", images)?;
        let (work, work_dir) = match work {
            Some(work) => open("--work-path", work)?,
            None => (images.clone(), images_dir.try_clone()?),
        };
        Ok(Directories {
            images,
            images_dir,
            work,
            work_dir,
            is_new,
        })
    }

    /// In a process with a mount namespace of its own: opens them there, and sends them. criu mounts
    /// below its working directory, which must be reached through a mount that is in its namespace.
    fn send_anew(&self, socket: &UnixStream) -> Result<()> {
        for path in [&self.images, &self.work] {
            let dir = File::open(path).with_context(|| format!("open {}", path.display()))?;
            console::send_fd(socket, "a directory", dir.as_fd())?;
        }
        Ok(())
    }

    /// On the other side of [`Directories::send_anew`].
    fn receive(&mut self, socket: &UnixStream) -> Result<()> {
        self.images_dir = console::receive_fd(socket)?.into();
        self.work_dir = console::receive_fd(socket)?.into();
        Ok(())
    }

    /// As criu gets them: it opens the descriptors of whoever has made the socket.
    fn numbers(&self) -> (i32, Option<i32>) {
        (self.images_dir.as_raw_fd(), Some(self.work_dir.as_raw_fd()))
    }

    /// After a failed dump: half of a checkpoint must not look like one. The log stays.
    pub fn discard(&self) {
        if !self.is_new {
            return;
        }
        for entry in fs::read_dir(&self.images).into_iter().flatten().flatten() {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|kind| kind == "img" || kind == "json")
            {
                let _ = fs::remove_file(path);
            }
        }
        // It stays when the log is in it.
        let _ = fs::remove_dir(&self.images);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_its_reasons() {
        let log = "\
(00.001) Version: 3.17.1
(01.581) Error (criu/util.c:642): exited, status=1
Error (criu/util.c:627): execvp(\"iptables-restore\", ...) failed: No such file or directory
(04.693)      1: Error (criu/net.c:3071): Locking network failed
(04.793)      1: Error (criu/net.c:3071): Locking network failed
(05.009) Error (criu/cr-dump.c:2053): Dumping FAILED.
";
        assert_eq!(
            failing_lines(log),
            [
                "execvp(\"iptables-restore\", ...) failed: No such file or directory",
                "Locking network failed"
            ]
        );
        assert!(failing_lines("(00.1) fine\n").is_empty());
    }

    #[test]
    fn a_log_of_many_errors_is_cut() {
        let log: String = (0..99).map(|n| format!("Error (x:1): {n}\n")).collect();
        assert_eq!(failing_lines(&log).len(), LINES);
    }

    #[test]
    fn an_answer_without_a_log_gives_its_own_reason() {
        let error = failure(
            Path::new("/nowhere/dump.log"),
            reason(&Response {
                cr_errno: Some(libc::ENOENT),
                ..Response::default()
            }),
        );
        let text = crate::error::message(&error);
        assert_eq!(
            text,
            "criu: No such file or directory (log file: /nowhere/dump.log)"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = find(Some(Path::new("no-such-criu"))).unwrap_err();
        assert!(crate::error::message(&error).contains("no-such-criu"));
        assert!(crate::error::hint_of(&error).unwrap().contains("apt-get"));
        // A directory is no program.
        assert!(find(Some(Path::new("/tmp"))).is_err());
        assert_eq!(
            find(Some(Path::new("sh"))).unwrap().file_name().unwrap(),
            "sh"
        );
    }
}
