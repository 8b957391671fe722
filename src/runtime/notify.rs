//! sd_notify(3): when `NOTIFY_SOCKET` names a socket of the caller's service manager, the container's
//! program gets a socket of ours instead, at the place where it has it under runc. Of what it says
//! only its readiness goes to the host: the rest (another main process, descriptors to keep, a
//! watchdog to turn off) is not for a container to decide.

use super::log;
use super::store::short_path;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use oci_spec::runtime::{LinuxNamespaceType as Kind, MountBuilder, Process, Spec};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

const VARIABLE: &str = "NOTIFY_SOCKET";
/// In the container's directory of the store: what is mounted into the container.
const DIR: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where it is mounted.
const INSIDE: &str = "/run/notify";
/// How long the service manager may take to read what it was told.
const PATIENCE: u16 = 30_000;

/// The address in `NOTIFY_SOCKET`, if it is set.
fn host() -> Option<SocketAddr> {
    let text = std::env::var_os(VARIABLE).filter(|text| !text.is_empty())?;
    let address = match text.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None if text.as_bytes().starts_with(b"/") => SocketAddr::from_pathname(&text),
        None => Err(std::io::Error::other("it is neither a path nor @NAME")),
    };
    address
        .inspect_err(|error| log::warn(&format!("{VARIABLE}={}: {error}", text.display())))
        .ok()
}

/// Adds the mount for the socket, when there is a service manager to notify. Returns whether it did.
pub fn add_mount(spec: &mut Spec, dir: &Path) -> Result<bool> {
    if host().is_none() {
        return Ok(false);
    }
    if !mounts_are_its_own(spec) {
        log::warn(&format!(
            "{VARIABLE}: not passed on, since config.json has no mount namespace to put a socket in"
        ));
        return Ok(false);
    }
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned);
    let mount = MountBuilder::default()
        .destination(INSIDE)
        .source(dir.join(DIR))
        .typ("bind")
        .options(options)
        .build()?;
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.push(mount);
    spec.set_mounts(Some(mounts));
    Ok(true)
}

fn mounts_are_its_own(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
    namespaces.is_some_and(|list| list.iter().any(|n| n.typ() == Kind::Mount))
}

/// Tells the program where its socket is.
pub fn add_variable(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    env.retain(|entry| entry.split('=').next() != Some(VARIABLE));
    env.push(format!("{VARIABLE}={INSIDE}/{SOCKET}"));
    process.set_env(Some(env));
}

/// Makes the directory that [`add_mount`] mounts. Everybody in the container may look into it.
pub fn make_dir(dir: &Path) -> Result<()> {
    let path = dir.join(DIR);
    let make = || {
        DirBuilder::new().mode(0o755).create(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))
    };
    make().with_context(|| format!("make {}", path.display()))
}

/// Where [`add_mount`] puts it in the container, and the directory itself.
pub fn mount_in(dir: &Path) -> (PathBuf, PathBuf) {
    (PathBuf::from(INSIDE), dir.join(DIR))
}

/// Stands between the container's program and the service manager.
#[derive(Debug)]
pub struct Proxy {
    /// `None` when it cannot be reached.
    host: Option<UnixDatagram>,
    told: bool,
    socket: UnixDatagram,
}

impl Proxy {
    /// Listens for the program of the container in `dir`; `None` without a service manager, and for
    /// a container that was created without one.
    pub fn listen(dir: &Path) -> Result<Option<Proxy>> {
        let inside = dir.join(DIR);
        let (Some(address), true) = (host(), inside.is_dir()) else {
            return Ok(None);
        };
        let socket = bind(&inside).context("make the socket for sd_notify")?;
        // The program does not need it in order to run, and its socket is there.
        let host = connect(&address).inspect_err(warn).ok();
        Ok(Some(Proxy {
            host,
            told: false,
            socket,
        }))
    }

    /// Takes one message of the program. When it says that it is ready, the service manager is told,
    /// and that its main process is `pid`. Returns whether that has happened now.
    pub fn pass(&mut self, pid: i32) -> bool {
        // Later messages are taken as well: the program would wait for room in the socket.
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).unwrap_or(0);
        if self.told || !says_ready(&buffer[..length]) {
            return false;
        }
        self.told = true;
        let text = format!("READY=1\nMAINPID={pid}\n");
        if let Some(host) = &self.host
            && let Err(error) = host.send(text.as_bytes())
        {
            warn(&error);
        }
        true
    }

    /// Waits until the program is ready, or has ended.
    pub fn until_ready(mut self, init: BorrowedFd<'_>, pid: i32) -> Result<()> {
        if self.host.is_none() {
            return Ok(());
        }
        loop {
            let mut fds = [
                PollFd::new(self.as_fd(), PollFlags::POLLIN),
                PollFd::new(init, PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.context("wait for the program to be ready")?,
            };
            let [spoke, ended] = fds.map(|fd| fd.any() == Some(true));
            if spoke && self.pass(pid) {
                self.barrier().unwrap_or_else(|error| warn(&error));
                return Ok(());
            }
            // What it said at its end is heard first.
            if ended && !spoke {
                return Ok(());
            }
        }
    }

    /// A service manager looks up by whom it was told; we must not be gone before it has
    /// (sd_notify_barrier(3)).
    fn barrier(&self) -> std::io::Result<()> {
        let Some(host) = &self.host else {
            return Ok(());
        };
        let (ours, theirs) = std::io::pipe()?;
        let fds = [theirs.as_raw_fd()];
        sendmsg::<()>(
            host.as_raw_fd(),
            &[IoSlice::new(b"BARRIER=1")],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        drop(theirs);
        // POLLHUP comes unasked when the other end is closed.
        let mut fds = [PollFd::new(ours.as_fd(), PollFlags::empty())];
        while poll(&mut fds, PollTimeout::from(PATIENCE)) == Err(Errno::EINTR) {}
        Ok(())
    }
}

impl AsFd for Proxy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn warn(error: &std::io::Error) {
    log::warn(&format!("{VARIABLE}: the service manager: {error}"));
}

fn connect(address: &SocketAddr) -> std::io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(address)?;
    Ok(socket)
}

/// The socket in the directory that the container sees, for whichever user its program becomes.
fn bind(inside: &Path) -> std::io::Result<UnixDatagram> {
    let dir = File::open(inside)?;
    let path = short_path(&dir, SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o777))?;
    Ok(socket)
}

/// A message is a list of assignments, one a line.
fn says_ready(message: &[u8]) -> bool {
    message
        .split(|byte| *byte == b'\n')
        .any(|line| line == b"READY=1")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy whose service manager and program are at hand.
    fn proxy() -> (Proxy, UnixDatagram, UnixDatagram) {
        let (host, manager) = UnixDatagram::pair().unwrap();
        let (socket, program) = UnixDatagram::pair().unwrap();
        let proxy = Proxy {
            host: Some(host),
            told: false,
            socket,
        };
        (proxy, manager, program)
    }

    #[test]
    fn only_readiness_passes_and_only_once() {
        let (mut proxy, manager, program) = proxy();
        manager.set_nonblocking(true).unwrap();
        for (text, passes) in [
            ("STATUS=READY=1", false),
            ("MAINPID=1", false),
            ("READY=0", false),
            ("", false),
            ("STATUS=x\nMAINPID=1\nREADY=1\nFDSTORE=1", true),
            ("READY=1", false),
        ] {
            program.send(text.as_bytes()).unwrap();
            assert_eq!(proxy.pass(7), passes, "{text}");
        }
        let mut buffer = [0; 99];
        let length = manager.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\nMAINPID=7\n");
        assert!(manager.recv(&mut buffer).is_err());
    }

    #[test]
    fn a_program_that_ends_is_not_waited_for() {
        let (proxy, manager, program) = proxy();
        program.send(b"STATUS=x").unwrap();
        // Readable at its end, as a pidfd.
        let (ended, end) = UnixDatagram::pair().unwrap();
        end.send(b"x").unwrap();
        proxy.until_ready(ended.as_fd(), 7).unwrap();
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 9]).is_err());
    }

    #[test]
    fn whoever_is_ready_is_waited_for_until_the_manager_knows() {
        let (proxy, manager, program) = proxy();
        program.send(b"READY=1").unwrap();
        let (running, _end) = UnixDatagram::pair().unwrap();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 99];
            let texts: Vec<String> = (0..2)
                .map(|_| {
                    // Without room for descriptors: the kernel closes the one of the barrier.
                    let length = manager.recv(&mut buffer).unwrap();
                    String::from_utf8_lossy(&buffer[..length]).into_owned()
                })
                .collect();
            texts
        });
        proxy.until_ready(running.as_fd(), 9).unwrap();
        assert_eq!(
            reader.join().unwrap(),
            ["READY=1\nMAINPID=9\n", "BARRIER=1"]
        );
    }
}
