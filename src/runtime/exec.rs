//! `exec`: another program in a running container.

use super::check::{self, Checked};
use super::cli::Exec;
use super::create::{set_oom_score, write_pid_file};
use super::init;
use super::log;
use super::plan::no_process;
use super::program::{Program, Ready};
use super::relay::Relay;
use super::store::{self, Container, Status, Store};
use super::sync::{Channel, Failure, Favour, FromInit, Go};
use super::values::NO_ID;
use crate::cgroup::{Cgroup, Doors};
use crate::error::{ResultExt, with_exit_code};
use crate::linux::console::{self, Pty};
use crate::linux::idmap::IdMaps;
use crate::linux::namespaces::Namespaces;
use crate::linux::{caps, lsm, rlimits, sched, seccomp, user};
use crate::runtime::spawn::{self, Spawned, Wish};
use crate::sys::process::{self, prctl};
use crate::sys::tty::Size;
use crate::sys::{fds, mount};
use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::setsid;
use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxNamespaceType as Kind, LinuxPersonality, Process, Spec,
    User,
};
use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

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
}

/// `runtime exec`. Returns the exit code of the program, or 0 with --detach.
pub fn exec(store: &Store, args: &Exec) -> Result<i32> {
    let container = store.load(&args.id)?;
    // Before the spec: that of one that is being created may not be there yet.
    check_status(&container, args)?;
    let spec = container.spec()?;
    let process = process(&spec, args)?;
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

/// The process to run: the file of --process, or the container's own process with the options of
/// the command line.
fn process(spec: &Spec, args: &Exec) -> Result<Process> {
    if let Some(path) = &args.process {
        refuse_options_beside_file(args)?;
        return Ok(Checked::of_file(path, check::process)
            .context("--process")?
            .value);
    }
    if args.command.is_empty() {
        return Err(anyhow!("exec: no command"))
            .hint("runtime exec ID COMMAND [ARGUMENT...], or --process FILE");
    }
    let base = spec.process().clone();
    let mut process = base.map_or_else(no_process, Ok)?;
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if let Some(cwd) = &args.cwd {
        if !cwd.starts_with('/') {
            bail!("--cwd {cwd}: it is not absolute");
        }
        process.set_cwd(PathBuf::from(cwd));
    }
    let mut env = process.env().clone().unwrap_or_default();
    for entry in &args.env {
        let (name, _) = entry
            .split_once('=')
            .with_context(|| format!("--env {entry}: it is not NAME=VALUE"))?;
        env.retain(|old| old.split('=').next() != Some(name));
        env.push(entry.clone());
    }
    process.set_env(Some(env));
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    process.set_user(user(process.user(), args)?);
    if !args.cap.is_empty() {
        let sets = with_caps(
            process.capabilities().clone().unwrap_or_default(),
            &args.cap,
        )?;
        process.set_capabilities(Some(sets));
    }
    Ok(process)
}

/// What the file of --process says of the process, the command line cannot say once more.
fn refuse_options_beside_file(args: &Exec) -> Result<()> {
    let given = [
        ("COMMAND", !args.command.is_empty()),
        ("--user", args.user.is_some()),
        ("--additional-gids", !args.additional_gids.is_empty()),
        ("--cwd", args.cwd.is_some()),
        ("--env", !args.env.is_empty()),
        ("--cap", !args.cap.is_empty()),
        ("--no-new-privs", args.no_new_privs),
        ("--apparmor", args.apparmor.is_some()),
        ("--process-label", args.process_label.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        Some((name, _)) => Err(anyhow!("{name}: not together with --process"))
            .hint("say it in the file, or leave --process out"),
        None => Ok(()),
    }
}

/// `--user UID[:GID]` and `--additional-gids`.
fn user(base: &User, args: &Exec) -> Result<User> {
    let mut user = base.clone();
    if let Some(text) = &args.user {
        let (uid, gid) = text.split_once(':').unwrap_or((text, "0"));
        let number = |part: &str| {
            let number = part.parse().ok().filter(|number| *number != NO_ID);
            number
                .with_context(|| {
                    format!("--user {text}: {part:?} is not a number of a user or group")
                })
                .hint("UID or UID:GID; names are known in the container only")
        };
        user.set_uid(number(uid)?);
        user.set_gid(number(gid)?);
        user.set_username(None);
    }
    if !args.additional_gids.is_empty() {
        let mut groups = user.additional_gids().clone().unwrap_or_default();
        groups.extend(&args.additional_gids);
        user.set_additional_gids(Some(groups));
    }
    Ok(user)
}

/// Adds capabilities to the sets that exec(2) makes root's from. As with runc, the inheritable and
/// ambient sets stay as the config has them.
fn with_caps(mut sets: LinuxCapabilities, names: &[String]) -> Result<LinuxCapabilities> {
    let mut wanted = HashSet::new();
    for name in names {
        let full = caps::number(name).and_then(caps::name);
        let full = full.with_context(|| format!("--cap {name}: unknown capability"))?;
        let capability = Capability::from_str(full.trim_start_matches("CAP_"))
            .map_err(|_| anyhow!("--cap {name}: unknown capability"))?;
        wanted.insert(capability);
    }
    let add = |set: &Option<HashSet<Capability>>| -> Option<HashSet<Capability>> {
        Some(
            set.iter()
                .flatten()
                .copied()
                .chain(wanted.iter().copied())
                .collect(),
        )
    };
    let (bounding, permitted, effective) = (
        add(sets.bounding()),
        add(sets.permitted()),
        add(sets.effective()),
    );
    sets.set_bounding(bounding);
    sets.set_permitted(permitted);
    sets.set_effective(effective);
    Ok(sets)
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
    let profile = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
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
        personality: spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.personality().clone()),
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
        memory_policy: None,
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

    #[test]
    fn cap_leaves_what_other_users_inherit_alone() {
        let spec = r#"{"bounding": ["CAP_KILL"], "effective": [], "permitted": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]}"#;
        let spec: LinuxCapabilities = serde_json::from_str(spec).unwrap();
        let sets = with_caps(spec, &["CAP_SYSLOG".to_owned()]).unwrap();
        let both = HashSet::from([Capability::Kill, Capability::Syslog]);
        let kill = HashSet::from([Capability::Kill]);
        assert_eq!(sets.bounding(), &Some(both.clone()));
        assert_eq!(sets.permitted(), &Some(both));
        assert_eq!(sets.effective(), &Some(HashSet::from([Capability::Syslog])));
        assert_eq!(sets.inheritable(), &Some(kill.clone()));
        assert_eq!(sets.ambient(), &Some(kill));
    }

    #[test]
    fn every_kind_is_joined_once() {
        let flags: HashSet<i32> = KINDS.iter().map(|kind| namespaces::flag(*kind)).collect();
        assert_eq!(flags.len(), KINDS.len());
    }
}
