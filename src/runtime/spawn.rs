//! Making a process in its namespaces: one clone3(2) whenever that can be enough.
//!
//! Joining a pid or time namespace, and setting clock offsets, change where the *children* of the
//! caller go, so the caller does that for itself, clones, and takes it back. Only a joined user
//! namespace, or a caller that could not take it back, needs a set-up process in between. Its
//! child is made a sibling (`CLONE_PARENT`), so that the caller is init's parent all the same. An
//! ordinary user can set clocks in its new user namespace alone, which the set-up process is then in.
//!
//! Whoever is in a pid namespace sees a new process there at once, and with CAP_SYS_PTRACE, which
//! `PR_SET_DUMPABLE` does not stop, goes where its root, its directory and its descriptors lead. A
//! program that is added to a container is therefore made by a set-up process as well, out of their
//! sight: it has left the host's mounts and descriptors behind when it makes the program's.

use super::host::in_nested_user_namespace;
use super::log;
use super::sync::{self, Channel, Entering, FromInit};
use crate::cgroup::Doors;
use crate::error::with_hint;
use crate::linux::namespaces::{self, Namespaces};
use crate::sys::process::{self, Cloned};
use crate::sys::{alloc, fds};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::geteuid;
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// A process that was made, and the parent's end of the socket to it.
#[derive(Debug)]
pub struct Spawned {
    /// Its number, as the caller sees it.
    pub pid: i32,
    /// Its descriptor.
    pub pidfd: OwnedFd,
    /// The socket to it.
    pub channel: Channel,
}

/// Which namespaces the process is to be in.
#[derive(Debug)]
pub struct Wish<'a> {
    /// Those to be made, and the clocks' offsets.
    pub namespaces: &'a Namespaces,
    /// Those to be joined.
    pub joined: Vec<(Kind, OwnedFd)>,
    /// A v2 cgroup to be born in.
    pub cgroup: Option<OwnedFd>,
    /// The new process is among strangers, who must find nothing of the host in it: the descriptors
    /// that it keeps besides the standard streams.
    pub keeps: Option<Vec<RawFd>>,
}

/// Whether a child has ended, or is about to: others may have noticed before its pidfd tells.
pub(super) fn ends_soon(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(100u8)) == Ok(1)
}

/// Makes the process and runs `body` in it. What `body` returns, an error, goes to the parent, and
/// the process ends: no destructor of the caller's runs in it.
pub fn spawn(
    wish: &Wish<'_>,
    body: impl FnOnce(&Channel) -> Result<Infallible>,
) -> Result<Spawned> {
    let (ours, theirs) = sync::pair()?;
    if needs_set_up_process(wish) {
        return through_set_up_process(wish, ours, theirs, body);
    }
    let back = enter_for_children(wish)?;
    let flags = wish.namespaces.clone_flags();
    let cloned = clone(flags, wish.cgroup.as_ref().map(AsFd::as_fd));
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Child) => {
            drop(ours);
            let joined = join_here(&wish.joined, |kind| !namespaces::is_for_children(kind));
            end(&theirs, joined.and_then(|()| body(&theirs)))
        }
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(error) => {
            return_to(&back)?;
            return Err(error);
        }
    };
    return_to(&back)?;
    Ok(Spawned {
        pid,
        pidfd,
        channel: ours,
    })
}

/// A joined user namespace would take the caller's rights; and a caller without rights in the
/// machine's first one, as under rootless Podman, could not return to where its children went
/// before (setns(2) asks for CAP_SYS_ADMIN there).
fn needs_set_up_process(wish: &Wish<'_>) -> bool {
    let joins = |test: fn(Kind) -> bool| wish.joined.iter().any(|(kind, _)| test(*kind));
    let moves_children = joins(namespaces::is_for_children) || wish.namespaces.has_offsets();
    joins(|kind| kind == Kind::User)
        || (wish.keeps.is_some() && joins(|kind| kind == Kind::Pid))
        || (moves_children && (in_nested_user_namespace() || !geteuid().is_root()))
}

/// Runs `result`'s error to the parent and ends this process.
fn end(channel: &Channel, result: Result<Infallible>) -> ! {
    match result {
        Ok(never) => match never {},
        Err(error) => channel.fail(&error),
    }
    process::exit_now(1)
}

/// A process in a cgroup that its maker may write to, but not to what is above both.
const OUT_OF_REACH: &str = "the cgroup can be entered only by who may write to the first one above both: \
    call it from where cgroups are delegated, as by systemd-run --user --scope";

/// Takes this process through the doors of the container's cgroup.
pub(super) fn enter(doors: &Doors) -> Result<()> {
    doors.enter().map_err(|error| {
        let is_forbidden = error.kind() == io::ErrorKind::PermissionDenied;
        let error = anyhow::Error::new(error).context(Entering);
        match is_forbidden {
            true => with_hint(error, OUT_OF_REACH),
            false => error,
        }
    })
}

fn clone(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    alloc::leave_to_child();
    process::clone_single_threaded(flags, cgroup).map_err(|error| {
        let what = format!("make a process in new namespaces (clone3 with flags {flags:#x})");
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) => "root, or a user namespace in config.json, is needed",
            Some(libc::ENOSPC) => "a limit below /proc/sys/user (max_*_namespaces) is reached",
            Some(libc::EINVAL) => "the kernel does not know one of these namespaces",
            Some(libc::EACCES) => OUT_OF_REACH,
            Some(libc::EAGAIN) => "the limit on processes (ulimit -u, or pids.max) is reached",
            _ => return anyhow::Error::new(error).context(what),
        };
        with_hint(anyhow::Error::new(error).context(what), hint)
    })
}

/// Points the caller's children at the joined pid and time namespaces, or at a new time namespace
/// with offsets. Returns what [`return_to`] needs.
fn enter_for_children(wish: &Wish<'_>) -> Result<Vec<(Kind, OwnedFd)>> {
    let mut back = Vec::new();
    for (kind, fd) in &wish.joined {
        if namespaces::is_for_children(*kind) {
            back.push((*kind, own(*kind)?));
            if let Err(error) = namespaces::enter(*kind, fd) {
                return_to(&back)?;
                return Err(error);
            }
        }
    }
    if wish.namespaces.has_offsets() {
        back.push((Kind::Time, own(Kind::Time)?));
        if let Err(error) = wish.namespaces.prepare_clocks() {
            return_to(&back)?;
            return Err(error);
        }
    }
    Ok(back)
}

/// Points the caller's children at the caller's own namespaces again: hooks must not run in the
/// container's.
fn return_to(back: &[(Kind, OwnedFd)]) -> Result<()> {
    for (kind, fd) in back {
        process::setns(fd.as_fd(), namespaces::flag(*kind))
            .with_context(|| format!("return to the caller's {kind} namespace"))?;
    }
    Ok(())
}

fn own(kind: Kind) -> Result<OwnedFd> {
    let path = format!("/proc/self/ns/{kind}");
    open(
        path.as_str(),
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("open {path}"))
}

/// In the new process: joins those kinds.
fn join_here(joined: &[(Kind, OwnedFd)], wanted: impl Fn(Kind) -> bool) -> Result<()> {
    for (kind, fd) in joined {
        if wanted(*kind) {
            namespaces::enter(*kind, fd)?;
        }
    }
    Ok(())
}

/// Closes what the new process shall not have. It owns nothing that could close these once more: it
/// ends in execve(2) or _exit(2).
fn leave_host(wish: &Wish<'_>, own: &[RawFd]) {
    let Some(keeps) = &wish.keeps else { return };
    log::close();
    // Which it needs still; the directory of a cgroup must be one that leads nowhere.
    let of_cgroup = wish.joined.iter().filter(|(kind, _)| *kind == Kind::Cgroup);
    let of_cgroup = of_cgroup.map(|(_, fd)| fd).chain(&wish.cgroup);
    let keep: Vec<_> = keeps
        .iter()
        .chain(own)
        .copied()
        .chain(of_cgroup.map(AsRawFd::as_raw_fd))
        .map(Some)
        .collect();
    fds::close_all_but(&keep);
}

fn through_set_up_process(
    wish: &Wish<'_>,
    ours: Channel,
    theirs: Channel,
    body: impl FnOnce(&Channel) -> Result<Infallible>,
) -> Result<Spawned> {
    // A socket of its own: init may be faster with its first message than the process that made it.
    let (made_by, maker) = sync::pair()?;
    let flags = wish.namespaces.clone_flags();
    let first = match geteuid().is_root() {
        true => 0,
        false => flags & libc::CLONE_NEWUSER,
    };
    let pidfd = match clone(first, None)? {
        Cloned::Child => {
            drop((ours, made_by));
            let made = namespaces::join(&wish.joined)
                .and_then(|()| wish.namespaces.prepare_clocks())
                .and_then(|_| {
                    leave_host(wish, &[theirs.as_raw_fd(), maker.as_raw_fd()]);
                    let flags = flags & !first | libc::CLONE_PARENT;
                    clone(flags, wish.cgroup.as_ref().map(AsFd::as_fd))
                });
            match made {
                Ok(Cloned::Child) => {
                    drop(maker);
                    let joined = join_here(&wish.joined, |kind| kind == Kind::Cgroup);
                    end(&theirs, joined.and_then(|()| body(&theirs)))
                }
                Ok(Cloned::Parent { pid, pidfd }) => {
                    match maker.send_with(&FromInit::Cloned(pid), Some(pidfd.as_fd())) {
                        Ok(()) => process::exit_now(0),
                        Err(error) => end(&maker, Err(error)),
                    }
                }
                Err(error) => end(&maker, Err(error)),
            }
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop((theirs, maker));
    let message = made_by.receive::<FromInit>()?;
    let ended = process::wait(pidfd.as_fd()).context("wait for the set-up process")?;
    match message {
        Some((FromInit::Cloned(pid), Some(pidfd))) => Ok(Spawned {
            pid,
            pidfd,
            channel: ours,
        }),
        Some((FromInit::Failed(why), _)) => Err(why.error()),
        _ => bail!("the set-up process {ended}"),
    }
}
