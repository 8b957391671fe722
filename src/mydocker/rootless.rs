//! mydocker for an ordinary user: it runs in a user namespace in which he is root, and so does
//! everything that it starts. Whether it may then do what root may is the kernel's to say.
//!
//! All containers of a user that run at one time are in the same user namespace, for only from within
//! can one of their processes be signalled or joined. No process is kept to hold it: whoever comes
//! enters that of somebody who is there (`keepers`, a file in the run directory), and makes a new one
//! if nobody is. The ids on disk are the same in each, since each has the same map.

use super::ids::{self, Ids};
use super::passwd::User;
use super::reach;
use super::record::{self, Process};
use super::report::Report;
use super::state_dirs::{State, lock_file, make_dir};
use super::umask;
use crate::error::{ResultExt, with_hint};
use crate::sys::process::{
    Cloned, clone_single_threaded, exit_now, parent_namespace, setns, unshare, wait,
};
use anyhow::{Context, Result, anyhow};
use nix::fcntl::{Flock, FlockArg};
use std::convert::Infallible;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// What was told when a user namespace cannot be made.
const ASK_DOCTOR: &str = "`mydocker doctor` tells what this user can do, and what is missing";

/// Becomes mydocker in a user namespace, with the same arguments. The directories of state go with it
/// in the environment: there it is root, and would take root's. `makes_processes`: it makes some in
/// containers, which it can only from where cgroups are delegated.
pub fn enter(state: &State, makes_processes: bool) -> Result<Infallible> {
    if makes_processes {
        reach::go_in().context("get where cgroups are delegated to this user")?;
    }
    let user = User::caller();
    own_directory(&state.run, user.uid)?;
    let fewer = match state.root.exists() {
        true => Fewer::Accept,
        false => Fewer::Tell,
    };
    let mut keepers = Keepers::lock(state)?;
    if keepers.join() || join_one_by_record(state) {
        own_mounts()?;
    } else {
        become_root_of_namespace(&user, fewer)?;
    }
    keepers.add(std::process::id())?;
    drop(keepers);
    let program = std::env::current_exe().context("find mydocker's own file")?;
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    command.arg0(args.next().unwrap_or_default());
    umask::restore();
    let failed = command
        .args(args)
        .env("MYDOCKER_ROOT", &state.root)
        .env("MYDOCKER_RUN", &state.run)
        .exec();
    Err(failed).context("run mydocker in a user namespace")
}

/// Notes that this process keeps its user namespace, for one that was not there when the command that
/// started it came.
pub(super) fn stay(state: &State) -> Result<()> {
    if !ids::are_mapped() {
        return Ok(());
    }
    // Where the user namespace is of others' making, nobody has made the directory yet.
    make_dir(&state.run)?;
    Keepers::lock(state)?.add(std::process::id())
}

/// The run directory: the user's own, and closed to others, who could lead him to another namespace.
pub(super) fn own_directory(dir: &Path, uid: u32) -> Result<()> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    let facts = made.and_then(|()| dir.symlink_metadata());
    let hint = "set XDG_RUNTIME_DIR or MYDOCKER_RUN to a directory of your own";
    let facts = facts
        .with_context(|| format!("make the run directory {}", dir.display()))
        .hint(hint)?;
    if facts.is_dir() && facts.uid() == uid && facts.mode() & 0o022 == 0 {
        return Ok(());
    }
    let error = anyhow!("the run directory {} is open to others", dir.display());
    Err(with_hint(error, hint))
}

/// The processes that are in the user namespace of the containers, by which it is found. Locked, so
/// that of two that come at once the second one enters what the first one makes.
struct Keepers {
    file: Flock<File>,
    alive: Vec<Process>,
}

impl Keepers {
    fn lock(state: &State) -> Result<Keepers> {
        let path = state.run.join("keepers");
        let what = || format!("lock {}", path.display());
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(what)?;
        let mut file = lock_file(file, FlockArg::LockExclusive).with_context(what)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).with_context(what)?;
        // One that was cut short names nobody; the records do.
        let mut alive: Vec<Process> = serde_json::from_slice(&text).unwrap_or_default();
        alive.retain(Process::is_alive);
        Ok(Keepers { file, alive })
    }

    /// Enters their user namespace, if there is anybody.
    fn join(&self) -> bool {
        self.alive.iter().any(enter_that_of)
    }

    fn add(&mut self, pid: u32) -> Result<()> {
        let me = Process::of(i32::try_from(pid)?)?;
        self.alive.retain(|other| *other != me);
        self.alive.push(me);
        let text = serde_json::to_vec(&self.alive)?;
        let file = &mut *self.file;
        let write = |file: &mut File| {
            file.rewind()?;
            file.write_all(&text)?;
            file.set_len(text.len() as u64)
        };
        write(file).context("note who is in the user namespace")
    }
}

/// Enters the user namespace of a process of ours: its owner may.
fn enter_that_of(process: &Process) -> bool {
    let pidfd: Option<OwnedFd> = process.open();
    pidfd.is_some_and(|pidfd| setns(pidfd.as_fd(), libc::CLONE_NEWUSER).is_ok())
}

/// The same where it has one of its own (`--userns keep-id`): that is inside of ours.
fn enter_that_around(process: &Process) -> bool {
    let inner = File::open(format!("/proc/{}/ns/user", process.pid));
    let Ok(inner) = inner.and_then(|inner| parent_namespace(inner.as_fd())) else {
        return false;
    };
    // The descriptor is of this very process, if that still lives.
    process.is_alive() && setns(inner.as_fd(), libc::CLONE_NEWUSER).is_ok()
}

/// The same by the containers that run, for when all else was killed.
fn join_one_by_record(state: &State) -> bool {
    let entries = std::fs::read_dir(state.containers()).into_iter().flatten();
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let record = name.to_str().map(|id| record::load(state, id));
        let Some(Ok(record)) = record else {
            return false;
        };
        let (monitor, process) = (record.monitor.iter(), record.process.iter());
        let enter = match record.keep_id {
            None => enter_that_of,
            Some(_) => enter_that_around,
        };
        monitor.clone().any(enter_that_of) || process.clone().any(enter)
    })
}

/// What becomes of a user namespace that can have the user's own id alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fewer {
    /// It is told.
    Tell,
    /// It has been told, or shall not be.
    Accept,
    /// What the tables promise and newuidmap(1) does not give is an error.
    Refuse,
}

/// Becomes root of a user namespace with mounts of its own, made for this process.
pub(super) fn become_root_of_namespace(user: &User, fewer: Fewer) -> Result<()> {
    make(user, fewer)?;
    own_mounts()
}

/// Mounts are made in a mount namespace that belongs to the user namespace, or not at all.
fn own_mounts() -> Result<()> {
    unshare(libc::CLONE_NEWNS)
        .context("make a mount namespace")
        .hint(ASK_DOCTOR)
}

/// Makes a user namespace and enters it. That there is only one id is told at the first use, and from
/// then on by `mydocker doctor`. The maps are written by a process that stays outside, where
/// newuidmap(1) has its rights.
fn make(user: &User, fewer: Fewer) -> Result<()> {
    let (mut go, mut to_writer) = std::io::pipe().context("make a pipe")?;
    let (mut from_writer, told) = std::io::pipe().context("make a pipe")?;
    let me = i32::try_from(std::process::id())?;
    let writer = match clone_single_threaded(0, None).context("make a process")? {
        Cloned::Child => {
            drop((to_writer, from_writer));
            if go.read_exact(&mut [0]).is_ok() {
                let report = match write_maps(me, user, fewer) {
                    Ok(()) => Report::Started,
                    Err(error) => Report::failed(&error),
                };
                report.send(File::from(OwnedFd::from(told)));
            }
            exit_now(0);
        }
        Cloned::Parent { pidfd, .. } => pidfd,
    };
    drop((go, told));
    let made = unshare(libc::CLONE_NEWUSER);
    if made.is_ok() {
        to_writer.write_all(&[0]).context("ask for the id maps")?;
    }
    drop(to_writer);
    let mut text = Vec::new();
    let _ = from_writer.read_to_end(&mut text);
    let _ = wait(writer.as_fd());
    made.map_err(cannot_make)?;
    Report::read(&text)
        .context("the process that was to write the id maps was killed")
        .hint("try again")?
        .context("give the user namespace its ids")
        .fallback_hint(ASK_DOCTOR)
}

/// Writes the maps of the process `pid`: all ids of the user, or else the one.
fn write_maps(pid: i32, user: &User, fewer: Fewer) -> Result<()> {
    let tell = |what: &str, fix: &str| {
        if fewer == Fewer::Tell {
            super::note(&format!(
                "containers have one id, which is yours: {what}; for more: {fix}"
            ));
        }
    };
    let ids = Ids::of(user);
    if let Some((what, fix)) = &ids.lack {
        tell(what, fix);
        return ids.maps.write(pid, false);
    }
    let Err(refused) = ids.maps.write(pid, false) else {
        return Ok(());
    };
    if fewer == Fewer::Refuse {
        return Err(refused);
    }
    // As where newuidmap(1) has lost its rights. One map can be written once.
    Ids::single(user).write(pid, false).map_err(|_| refused)?;
    tell("newuidmap could not give you more", "mydocker doctor");
    Ok(())
}

/// The switches by which machines keep users from namespaces, and what opens each.
fn cannot_make(error: std::io::Error) -> anyhow::Error {
    let says = |file: &str, value: &str| {
        std::fs::read_to_string(Path::new("/proc/sys").join(file))
            .is_ok_and(|text| text.trim() == value)
    };
    let hint = if says("kernel/unprivileged_userns_clone", "0") {
        "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    } else if says("user/max_user_namespaces", "0") || error.raw_os_error() == Some(libc::ENOSPC) {
        "sudo sysctl -w user.max_user_namespaces=15000"
    } else {
        ASK_DOCTOR
    };
    with_hint(
        anyhow::Error::new(error).context("make a user namespace"),
        hint,
    )
}
