//! Terminals: a pty in the container, and its master handed over a socket.

use crate::sys::fds::{self, standard};
use crate::sys::tty::{self, Size};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown, isatty, setsid};
use oci_spec::runtime::User;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of whoever plays the terminal.
    pub master: OwnedFd,
    /// The end of the program.
    pub slave: OwnedFd,
    /// Its number below /dev/pts.
    pub number: u32,
}

/// Whether somebody sits at a terminal of ours: it is one of the standard streams, or the one that
/// belongs to the session (tty(4)).
pub fn is_at_hand() -> bool {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    (0..3).any(|number| isatty(standard(number)).unwrap_or(false))
        || open("/dev/tty", flags, Mode::empty()).is_ok()
}

/// `DEVPTS_SUPER_MAGIC` (linux/magic.h)
const DEVPTS: FsType = FsType(0x1cd1);

/// Makes a pty in the devpts mounted at dev/pts below `root` (`/` after pivot_root). The slave is
/// opened through its master, never by name (CVE-2025-52565).
pub fn open_pty(root: BorrowedFd<'_>) -> Result<Pty> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let dir =
        openat2(root, "dev/pts", how).context("open /dev/pts (is a devpts mounted there?)")?;
    // To open a device is to use it: the image must not choose which.
    if fstatfs(&dir).context("statfs /dev/pts")?.filesystem_type() != DEVPTS {
        bail!("/dev/pts is not a devpts: mount one there for the terminal");
    }
    let how = OpenHow::new()
        .flags(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_XDEV
                | ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
    let master = openat2(&dir, "ptmx", how).context("open /dev/pts/ptmx")?;
    tty::unlock(master.as_fd()).context("unlock the pty")?;
    let slave = tty::peer(master.as_fd()).context("open the pty's slave")?;
    let number = tty::number(master.as_fd()).context("number of the pty")?;
    Ok(Pty {
        master,
        slave,
        number,
    })
}

/// Connects to the socket that shall receive a descriptor, with the caller's rights and paths.
pub fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).with_context(|| format!("connect to the socket {}", path.display()))
}

/// The descriptor in a message with `SCM_RIGHTS`.
pub fn receive_fd(socket: &UnixStream) -> Result<OwnedFd> {
    let mut buffer = [0; 64];
    let (_, fd) = fds::receive(socket.as_fd(), &mut buffer).context("receive a descriptor")?;
    fd.context("the message has no descriptor in it")
}

/// Sends a descriptor as runc does: one message with its name and `SCM_RIGHTS`.
pub fn send_fd(socket: &UnixStream, name: &str, fd: BorrowedFd<'_>) -> Result<()> {
    let fds = [fd.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let text = [IoSlice::new(name.as_bytes())];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &text,
        &rights,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .with_context(|| format!("send {name} over the socket"))?;
    Ok(())
}

/// Gives the slave to the program's user, so that /dev/stdout and its kin can be opened by name.
pub fn give_to_user(pty: &Pty, user: &User) -> Result<()> {
    let uid = Uid::from_raw(user.uid());
    fchown(&pty.slave, Some(uid), None).with_context(|| format!("give the terminal to user {uid}"))
}

/// Gives the standard streams to the program's user, whose number outside is `uid`, as far as nobody but
/// the container has them, as pipes and sockets: what is opened as /dev/stdout must be the opener's
/// (proc_pid_fd(5)). Files, fifos and terminals of the host keep their owners, and so does what is not
/// the caller's to give.
pub fn give_streams(uid: u32) {
    if uid == 0 {
        return;
    }
    for stream in (0..=2).map(standard) {
        let kind = fstat(stream).map_or(0, |stat| stat.st_mode & libc::S_IFMT);
        let is_nameless = fstatfs(stream).is_ok_and(|found| found.filesystem_type() == PIPEFS);
        if kind == libc::S_IFSOCK || (kind == libc::S_IFIFO && is_nameless) {
            let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
        }
    }
}

/// PIPEFS_MAGIC of linux/magic.h.
const PIPEFS: FsType = FsType(0x5049_5045);

/// Makes the slave the controlling terminal and the standard streams of the calling process, which
/// becomes the leader of a session for it.
pub fn adopt(slave: OwnedFd, size: Option<Size>) -> Result<()> {
    // EPERM: it leads a session already.
    let _ = setsid();
    tty::set_controlling(slave.as_fd()).context("make the pty the controlling terminal")?;
    if let Some(size) = size {
        tty::set_size(slave.as_fd(), size).context("set the size of the terminal")?;
    }
    super::fds::become_stdio(&slave)
}

/// A terminal in raw mode, which is put back when this is dropped.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    saved: Termios,
}

impl RawMode {
    /// Puts `terminal` into raw mode: each byte is passed on as typed, signals included.
    pub fn enter(terminal: BorrowedFd<'_>) -> Result<RawMode> {
        let terminal = terminal
            .try_clone_to_owned()
            .context("duplicate the terminal")?;
        let saved = tcgetattr(&terminal).context("read the terminal's settings")?;
        let mut raw = saved.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&terminal, SetArg::TCSANOW, &raw).context("put the terminal into raw mode")?;
        Ok(RawMode { terminal, saved })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone: then there is nothing to put back.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.saved);
    }
}
