//! `exec`: another program in a running container.

use super::annotations;
use super::cli::Exec;
use super::create::{set_oom_score, write_pid_file};
use super::exec_process;
use super::init;
use super::log;
use super::program::{Program, Ready};
use super::relay::Relay;
use super::store::{self, Container, Status, Store};
use super::sync::{Channel, Failure, Favour, FromInit, Go};
use crate::cgroup::{Cgroup, Doors};
use crate::error::{ResultExt, with_exit_code};
use crate::linux::console::{self, Pty};
use crate::linux::idmap::IdMaps;
use crate::linux::namespaces::Namespaces;
use crate::linux::{lsm, rlimits, sched, seccomp, user};
use crate::runtime::spawn::{self, Spawned, Wish};
use crate::sys::process::{self, prctl};
use crate::sys::tty::Size;
use crate::sys::{fds, mount};
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::setsid;
use oci_spec::runtime::{
    LinuxMemoryPolicy, LinuxNamespaceType as Kind, LinuxPersonality, Process, Spec,
};
use std::cell::RefCell;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The kinds of namespaces in which a program can differ from its creator.
const KINDS: [Kind; 8] = [
    Kind::User,
    Kind::Mount,
    Kind::Uts,
    Kind::Ipc,
    Kind::Network,
    Kind::Cgroup,
    Kind::Pid,
    Kind::Time,
];

/// What the new process brings along from its parent.
struct Luggage {
    process: Process,
    doors: RefCell<Doors>,
    /// The runtime has it put into the cgroup, and it waits for that.
    is_placed: bool,
    seccomp: Option<seccomp::Filter>,
    console: Option<UnixStream>,
    in_user_namespace: bool,
    joins_mounts: bool,
    preserve_fds: u32,
    /// The container's.
    personality: Option<LinuxPersonality>,
    memory_policy: Option<LinuxMemoryPolicy>,
    keeps_groups: bool,
}

/// `runtime exec`. Returns the exit code of the program, or 0 with --detach.
pub fn exec(store: &Store, args: &Exec) -> Result<i32> {
    let container = store.load(&args.id)?;
    // Before the spec: that of one that is being created may not be there yet.
    check_status(&container, args)?;
    let spec = container.spec()?;
    let process = exec_process::process(&spec, args)?;
    lsm::check(&process)?;
    let (console, ours) = terminal(&process, args)?;
    if !args.detach {
        process::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become a subreaper")?;
    }
    let spawned = start(store, &container, &spec, process, console, args)?;
    if let Some(path) = &args.pid_file
        && let Err(error) = write_pid_file(path, spawned.pid)
    {
        kill(&spawned);
        return Err(error);
    }
    if args.detach {
        return go(&spawned).map(|()| 0);
    }
    let relay = match Relay::prepare(ours, None) {
        Ok(relay) => relay,
        Err(error) => {
            kill(&spawned);
            return Err(error);
        }
    };
    go(&spawned)?;
    relay.until_end(spawned.pidfd.as_fd())
}

/// A process that nobody will look after must not stay.
fn kill(spawned: &Spawned) {
    let _ = process::pidfd_send_signal(spawned.pidfd.as_fd(), libc::SIGKILL);
    let _ = process::wait(spawned.pidfd.as_fd());
}

fn check_status(container: &Container, args: &Exec) -> Result<()> {
    let id = container.id();
    match container.status()? {
        Status::Created | Status::Running => Ok(()),
        Status::Paused if args.ignore_paused => Ok(()),
        Status::Paused => Err(anyhow!("container {id:?} is paused"))
            .hint("resume it first, or use --ignore-paused: the program then waits for that"),
        status => Err(anyhow!("container {id:?} is {status}, not running"))
            .hint("only a created or running container can run another program"),
    }
}

/// The socket for init, and ours when the terminal is the caller's own.
fn terminal(process: &Process, args: &Exec) -> Result<(Option<UnixStream>, Option<UnixStream>)> {
    let wanted = process.terminal().unwrap_or(false);
    match (wanted, &args.console_socket) {
        (false, None) => Ok((None, None)),
        (false, Some(_)) => Err(anyhow!("--console-socket: the process has no terminal"))
            .hint("add --tty, or leave the socket out"),
        (true, Some(path)) => Ok((Some(console::connect(path)?), None)),
        (true, None) if args.detach => {
            Err(anyhow!("--tty with --detach: nobody receives the terminal"))
                .hint("name a listening socket with --console-socket")
        }
        (true, None) => {
            let (ours, theirs) = UnixStream::pair().context("make a socket for the terminal")?;
            Ok((Some(theirs), Some(ours)))
        }
    }
}

/// Makes the process and brings it to the point before execve(2).
fn start(
    store: &Store,
    container: &Container,
    spec: &Spec,
    process: Process,
    console: Option<UnixStream>,
    args: &Exec,
) -> Result<Spawned> {
    let init = container
        .saved
        .init
        .as_ref()
        .context("the container has no process")?;
    let joined = namespaces_of(container, init)?;
    let pidfd_socket = args
        .pidfd_socket
        .as_deref()
        .map(console::connect)
        .transpose()?;
    let joins_user = joined.iter().any(|(kind, _)| *kind == Kind::User);
    let cgroup = target_cgroup(container, init.pid, args)?;
    let linux = spec.linux().as_ref();
    let profile = linux.and_then(|linux| linux.seccomp().as_ref());
    let cache = store.root().join(".seccomp");
    let none = Namespaces::default();
    let into_cgroup = match joins_user {
        true => None,
        false => cgroup.clone_fd().as_ref().and_then(dead_end),
    };
    // In a session beside the user's systemd, only that can put it into the scope.
    let is_placed = joins_user && cgroup.is_of_user_systemd();
    let doors = match is_placed {
        true => Doors::none(),
        false => doors(&cgroup, init, into_cgroup.is_none(), args)?,
    };
    let preserved = fds::of_caller(args.preserve_fds)?;
    let preserved = preserved.into_iter().chain(doors.numbers());
    let wish = Wish {
        namespaces: &none,
        keeps: Some(
            preserved
                .chain(console.iter().map(AsRawFd::as_raw_fd))
                .collect(),
        ),
        cgroup: into_cgroup,
        joined,
    };
    let luggage = Luggage {
        doors: RefCell::new(doors),
        is_placed,
        seccomp: profile
            .map(|p| seccomp::compile(p, Some(&cache)))
            .transpose()?,
        console,
        in_user_namespace: joins_user,
        joins_mounts: wish.joined.iter().any(|(kind, _)| *kind == Kind::Mount),
        preserve_fds: args.preserve_fds,
        process,
        personality: linux.and_then(|linux| linux.personality().clone()),
        memory_policy: linux.and_then(|linux| linux.memory_policy().clone()),
        keeps_groups: annotations::keeps_groups(spec),
    };
    if nix::unistd::geteuid().is_root() {
        prctl(libc::PR_SET_DUMPABLE, 0, 0).context("forbid others to trace the process")?;
    }
    let maps = spec.linux().as_ref().map(IdMaps::new).unwrap_or_default();
    if let Some(uid) = maps.outside(luggage.process.user().uid()) {
        console::give_streams(uid);
    }
    begin_on(&luggage.process)?;
    let rootfs = container.saved.rootfs.clone();
    let spawned = spawn::spawn(&wish, |channel| run(&luggage, &rootfs, channel))?;
    let attended = place(is_placed.then_some(&cgroup), &spawned)
        .and_then(|()| container.enter_rdt(spawned.pid))
        .and_then(|()| attend(&luggage, container, profile, &spawned))
        .and_then(|()| match &pidfd_socket {
            Some(socket) => console::send_fd(socket, "pidfd", spawned.pidfd.as_fd()),
            None => Ok(()),
        });
    if let Err(error) = attended {
        kill(&spawned);
        return Err(error);
    }
    Ok(spawned)
}

/// Puts the process into the cgroup, if it waits for that.
fn place(cgroup: Option<&Cgroup>, spawned: &Spawned) -> Result<()> {
    let Some(cgroup) = cgroup else { return Ok(()) };
    cgroup.take_in(spawned.pid)?;
    spawned.channel.tell(&Go::Placed)
}

/// The directory of a cgroup without a way to what is above it, and not to be written to: the
/// container's processes may get hold of it, before the program is there.
fn dead_end(dir: &OwnedFd) -> Option<OwnedFd> {
    let flags = mount::OPEN_TREE_CLONE | mount::OPEN_TREE_CLOEXEC | mount::AT_EMPTY_PATH;
    let tree = mount::open_tree(Some(dir.as_fd()), c"", flags).ok()?;
    let attributes = mount::Attributes {
        set: mount::MOUNT_ATTR_RDONLY,
        ..mount::Attributes::default()
    };
    mount::set_attr(tree.as_fd(), false, &attributes).ok()?;
    Some(tree)
}

/// The CPUs on which the process begins.
fn begin_on(process: &Process) -> Result<()> {
    let affinity = process.exec_cpu_affinity();
    if let Some(list) = affinity
        .as_ref()
        .and_then(|affinity| affinity.initial().as_deref())
    {
        sched::set_affinity(0, list).context("process.execCPUAffinity.initial")?;
        log::debug(&format!(
            "exec: initial CPU affinity: {}",
            sched::mask_text(list)?
        ));
    }
    Ok(())
}

/// The namespaces of a container's process that are not the caller's own. Once they are open it is
/// verified that the process is still that one.
pub(super) fn namespaces_of(
    container: &Container,
    init: &store::Process,
) -> Result<Vec<(Kind, OwnedFd)>> {
    let mut found = Vec::new();
    for kind in KINDS {
        let theirs = PathBuf::from(format!("/proc/{}/ns/{kind}", init.pid));
        let link = match std::fs::read_link(&theirs) {
            // A kernel without this kind.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("read {}", theirs.display()))?,
        };
        if std::fs::read_link(format!("/proc/self/ns/{kind}")).is_ok_and(|own| own == link) {
            continue;
        }
        let fd = open(&theirs, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .with_context(|| format!("open {}", theirs.display()))?;
        found.push((kind, fd));
    }
    // Only now: what was opened above belongs to the process that has been verified here.
    if !init.is_alive() {
        bail!("container {:?} has just ended", container.id());
    }
    Ok(found)
}

/// The container's cgroup, or one below it with --cgroup.
fn target_cgroup(container: &Container, init: i32, args: &Exec) -> Result<Cgroup> {
    if args.cgroup.is_empty() {
        return container.cgroup().entrance(init);
    }
    container.cgroup().sub(&args.cgroup)
}

/// The ways into the cgroup. Where the container has been moved to, unless another is asked for.
fn doors(cgroup: &Cgroup, init: &store::Process, v2: bool, args: &Exec) -> Result<Doors> {
    let doors = cgroup.doors(v2);
    if doors.is_ok() || !args.cgroup.is_empty() || !cgroup.has_vanished() {
        return doors;
    }
    let (found, moves) = cgroup.beside(init.pid)?;
    if !init.is_alive() {
        return doors;
    }
    moves.iter().for_each(|text| log::warn(text));
    found.doors(v2)
}

/// The new process's story, up to the program.
fn run(luggage: &Luggage, rootfs: &Path, channel: &Channel) -> Result<Infallible> {
    if luggage.is_placed {
        channel.expect(Go::Placed)?;
    }
    // Closed with that.
    let doors = luggage.doors.replace(Doors::none());
    spawn::enter(&doors)?;
    drop(doors);
    init::live_no_longer_than_parent()?;
    if luggage.in_user_namespace {
        user::become_root_of_namespace()?;
        init::live_no_longer_than_parent()?;
    }
    setsid().context("setsid")?;
    if !luggage.joins_mounts {
        // A container that shares the host's mounts is in a chroot.
        nix::unistd::chroot(rootfs).context("chroot to the root filesystem")?;
    }
    nix::unistd::chdir("/").context("chdir to the container's root")?;
    if let Some(socket) = &luggage.console {
        adopt_terminal(luggage, socket)?;
    }
    let ready: Ready<'_> = Program {
        process: &luggage.process,
        seccomp: luggage.seccomp.as_ref(),
        personality: luggage.personality.as_ref(),
        memory_policy: luggage.memory_policy.as_ref(),
        keeps_groups: luggage.keeps_groups,
        in_user_namespace: luggage.in_user_namespace,
        preserve_fds: luggage.preserve_fds,
        listen_fds: 0,
    }
    .take_on(channel)?;
    if let Some(affinity) = luggage.process.exec_cpu_affinity()
        && let Some(list) = affinity.cpu_affinity_final()
    {
        sched::set_affinity(0, list).context("process.execCPUAffinity.final")?;
    }
    prctl(libc::PR_SET_PDEATHSIG, 0, 0).context("outlive the runtime")?;
    channel.send(&FromInit::Ready)?;
    // The parent may have to write the pid file before the program can end.
    channel.expect(Go::Start)?;
    ready.exec()
}

fn adopt_terminal(luggage: &Luggage, socket: &UnixStream) -> Result<()> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).context("open /")?;
    let pty: Pty = console::open_pty(root.as_fd())?;
    console::give_to_user(&pty, luggage.process.user())?;
    console::send_fd(socket, "/dev/pts/ptmx", pty.master.as_fd())?;
    let size = luggage.process.console_size().map(|size| Size {
        rows: u16::try_from(size.height()).unwrap_or(u16::MAX),
        columns: u16::try_from(size.width()).unwrap_or(u16::MAX),
    });
    console::adopt(pty.slave, size)
}

/// Answers the process until it is ready.
fn attend(
    luggage: &Luggage,
    container: &Container,
    profile: Option<&oci_spec::runtime::LinuxSeccomp>,
    spawned: &Spawned,
) -> Result<()> {
    if let Some(score) = luggage.process.oom_score_adj() {
        set_oom_score(spawned.pid, score)?;
    }
    loop {
        match spawned.channel.receive::<FromInit>()? {
            Some((FromInit::Odd(what), _)) => log::warn(&what),
            Some((FromInit::Ready, _)) => return Ok(()),
            Some((FromInit::Please(Favour::Limits), _)) => {
                let limits = luggage.process.rlimits().as_deref().unwrap_or_default();
                rlimits::apply(spawned.pid, limits)?;
                spawned.channel.tell(&Go::Done(Favour::Limits))?;
            }
            Some((FromInit::Listener, Some(fd))) => {
                let profile = profile.context("a listener without a profile")?;
                let state = container.state(Status::Running);
                seccomp::send_listener(profile, fd.as_fd(), spawned.pid, &state)?;
                spawned.channel.tell(&Go::Listener)?;
            }
            Some((FromInit::Failed(why), _)) => return Err(failure(why)),
            Some((other, _)) => bail!("unexpected message from the process: {other:?}"),
            None => {
                let ended = process::wait(spawned.pidfd.as_fd()).context("wait for the process")?;
                bail!("the process {ended} before it could run the program");
            }
        }
    }
}

/// Lets the program run; an error of execve(2) comes back.
fn go(spawned: &Spawned) -> Result<()> {
    spawned.channel.tell(&Go::Start)?;
    match spawned.channel.receive::<FromInit>()? {
        None => Ok(()),
        Some((FromInit::Failed(why), _)) => Err(failure(why)),
        Some((other, _)) => bail!("unexpected message from the process: {other:?}"),
    }
}

/// The error of the process, with the exit code that shells give for such a one.
fn failure(why: Failure) -> anyhow::Error {
    let error = why.error();
    let text = crate::error::message(&error);
    if text.contains("not found in $PATH") || text.contains("no such file or directory") {
        return with_exit_code(error, 127);
    }
    if text.contains("permission denied") || text.contains("exec format error") {
        return with_exit_code(error, 126);
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::namespaces;
    use std::collections::HashSet;

    #[test]
    fn every_kind_is_joined_once() {
        let flags: HashSet<i32> = KINDS.iter().map(|kind| namespaces::flag(*kind)).collect();
        assert_eq!(flags.len(), KINDS.len());
    }
}
