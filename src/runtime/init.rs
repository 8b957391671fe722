//! Init's story: what the first process of a container does between its birth and execve(2). Here
//! is the order and the reason for it; each step's body is in `linux`.

use super::annotations;
use super::hooks::{self, Surroundings};
use super::plan::Plan;
use super::program::{Program, Ready};
use super::spawn;
use super::store::Status;
use super::sync::{Channel, Failure, Favour, FromInit, Go};
use crate::cgroup::Doors;
use crate::linux::console::{self, Pty};
use crate::linux::mounts;
use crate::linux::root::Root;
use crate::linux::sources::Sources;
use crate::linux::sysctl::{self, Procfs};
use crate::linux::{cover, devices, keyring, pivot, seccomp, user};
use crate::sys::process::{prctl, unshare};
use anyhow::{Context, Result};
use nix::unistd::{sethostname, setsid};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// What init brings along from its parent.
#[derive(Debug)]
pub struct Luggage<'a> {
    /// The ways into the container's cgroups.
    pub doors: RefCell<Doors>,
    /// The cgroup is made around init, which waits for that.
    pub is_placed: bool,
    /// Mounts that were opened with the caller's rights.
    pub sources: Sources,
    /// The compiled seccomp profile.
    pub seccomp: Option<seccomp::Filter>,
    /// The socket that gets the terminal's master.
    pub console: Option<&'a UnixStream>,
    /// The socket on which init waits for `start`; without one it waits for its parent's word.
    pub start: Option<UnixListener>,
    /// The state as createContainer and startContainer hooks get it, but for the pid.
    pub state: serde_json::Value,
    /// Where the output of those hooks goes, opened with the caller's rights.
    pub surroundings: Surroundings,
}

/// Becomes the container's program. Every error on the way goes to the parent, or to `start`.
pub fn init(plan: &Plan, luggage: &Luggage<'_>, channel: &Channel) -> Result<Infallible> {
    // Limits first: all that follows counts against them.
    if luggage.is_placed {
        channel.expect(Go::Placed)?;
    }
    // They are closed with that: a low RLIMIT_NOFILE must leave numbers for what comes.
    let doors = luggage.doors.replace(Doors::none());
    spawn::enter(&doors)?;
    drop(doors);
    live_no_longer_than_parent()?;
    take_root_of_user_namespace(plan, channel)?;
    // A session of its own, without the caller's terminal (a program could type into it: TIOCSTI).
    setsid().context("setsid")?;
    if !plan.options.no_new_keyring {
        keyring::join_new(&plan.id)?;
    }
    if plan.namespaces.makes(Kind::Cgroup) {
        // Its root is the cgroup of this moment.
        unshare(libc::CLONE_NEWCGROUP).context("make a cgroup namespace")?;
    }
    if plan.namespaces.makes(Kind::Network) {
        // Every runtime does, and programs count on it.
        crate::sys::net::loopback_up().context("bring up lo in the new network namespace")?;
    }
    if plan.net_devices() {
        // Before any hook, which may go on to configure them.
        channel.ask(Favour::NetDevices)?;
    }
    let terminal = set_up_root(plan, luggage, channel)?;
    // After pivot_root, where /proc is the container's, and before the rights to it go.
    set_names(plan)?;
    if let Some(parameters) = plan.linux().sysctl().as_ref().filter(|map| !map.is_empty()) {
        sysctl::apply(&Procfs::open(Path::new("/proc"))?, parameters)?;
    }
    // Masked and read-only paths would be in the way of the sysctls.
    apply_late_mounts(plan)?;
    if let Some(pty) = terminal {
        console::adopt(pty.slave, plan.console_size())?;
    }
    let ready = Program {
        process: &plan.process,
        seccomp: luggage.seccomp.as_ref(),
        personality: plan.linux().personality().as_ref(),
        memory_policy: plan.linux().memory_policy().as_ref(),
        in_user_namespace: plan.namespaces.has(Kind::User),
        preserve_fds: plan.options.preserve_fds,
        listen_fds: plan.options.listen_fds,
        keeps_groups: annotations::keeps_groups(&plan.spec),
    }
    .take_on(channel)?;
    // From here on `start` decides, and the parent goes: unless it was killed before anybody could
    // know of us.
    prctl(libc::PR_SET_PDEATHSIG, 0, 0).context("outlive the runtime")?;
    channel.send(&FromInit::Ready)?;
    let starter = match &luggage.start {
        Some(socket) => {
            channel.expect(Go::Stored)?;
            Some(wait_for_start(socket)?)
        }
        None => {
            channel.expect(Go::Start)?;
            None
        }
    };
    start(plan, luggage, &ready, channel, starter)
}

/// What remains after `start`: its hooks, and the program.
fn start(
    plan: &Plan,
    luggage: &Luggage<'_>,
    ready: &Ready<'_>,
    channel: &Channel,
    mut starter: Option<UnixStream>,
) -> Result<Infallible> {
    let state = state(luggage, Status::Created);
    // Without an environment of their own they get the program's, as every runtime does it.
    let env = plan.process.env().as_deref().unwrap_or_default();
    // Whoever started us is told: the parent, or when that is gone, who came by the socket. A successful
    // execve closes both, which tells it as well.
    let mut told = |failure: FromInit| -> Result<()> {
        let _ = match &mut starter {
            Some(socket) => socket
                .write_all(&serde_json::to_vec(&failure)?)
                .map_err(Into::into),
            None => channel.send(&failure),
        };
        Ok(())
    };
    let hooks = plan.hooks();
    let output = &luggage.surroundings;
    if let Err(error) = hooks::run_inside(
        "startContainer",
        hooks.start_container(),
        &state,
        env,
        output,
    ) {
        told(FromInit::HookFailed(Failure::of(&error)))?;
        return Err(error);
    }
    let result = ready.exec();
    if let Err(error) = &result {
        told(FromInit::Failed(Failure::of(error)))?;
    }
    result
}

/// A runtime that is killed takes its child with it, until the child's next change of user.
pub(super) fn live_no_longer_than_parent() -> Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)
        .context("set the parent-death signal")?;
    Ok(())
}

/// In a new user namespace init becomes its root, once the parent has written the maps; in a joined
/// one they are there.
fn take_root_of_user_namespace(plan: &Plan, channel: &Channel) -> Result<()> {
    if plan.namespaces.makes(Kind::User) {
        channel.expect(Go::Mapped)?;
    }
    if plan.namespaces.has(Kind::User) {
        user::become_root_of_namespace()?;
        // The change of user cleared it.
        live_no_longer_than_parent()?;
    }
    // Nobody in the container may look into a process that still holds the host's descriptors
    // (CVE-2016-9962).
    prctl(libc::PR_SET_DUMPABLE, 0, 0).context("forbid others to trace init")?;
    Ok(())
}

/// Everything on the file system up to pivot_root(2). Returns the terminal, if the program gets one.
fn set_up_root(plan: &Plan, luggage: &Luggage<'_>, channel: &Channel) -> Result<Option<Pty>> {
    if plan.namespaces.has(Kind::Mount) {
        pivot::enter_new_mount_tree(&plan.rootfs, plan.linux().rootfs_propagation().as_deref())?;
    } else if plan.covers_root() {
        cover::make(&plan.rootfs)?;
    } else {
        hooks_of_create(plan, luggage, channel)?;
        cover::enter(&plan.rootfs)?;
        return Ok(None);
    }
    let root = Root::open(&plan.rootfs)?;
    let read_only = mounts::apply_all(&root, &plan.mounts, &luggage.sources)?;
    // A working directory that the image lacks is made, as every runtime does.
    if !plan
        .spec
        .root()
        .as_ref()
        .is_some_and(|root| root.readonly().unwrap_or(false))
    {
        let _ = root.mkdir_all(plan.process.cwd(), 0o755);
    }
    let terminal = open_terminal(plan, luggage, &root)?;
    read_only.apply()?;
    // These see the mounts of the container, still at their place in the host's tree.
    hooks_of_create(plan, luggage, channel)?;
    if plan.covers_root() {
        cover::enter(&plan.rootfs)?;
    } else if plan.options.no_pivot {
        pivot::move_root(&plan.rootfs)?;
    } else {
        pivot::pivot(&plan.rootfs)?;
    }
    Ok(terminal)
}

fn hooks_of_create(plan: &Plan, luggage: &Luggage<'_>, channel: &Channel) -> Result<()> {
    host_hooks(plan, channel)?;
    let all = plan.hooks();
    let hooks = all.create_container();
    if hooks::any(hooks) {
        channel.send(&FromInit::Hooks)?;
    }
    hooks::run(
        "createContainer",
        hooks,
        &state(luggage, Status::Created),
        &luggage.surroundings,
    )
}

fn host_hooks(plan: &Plan, channel: &Channel) -> Result<()> {
    let hooks = plan.hooks();
    #[allow(deprecated)]
    if hooks::any(hooks.prestart()) || hooks::any(hooks.create_runtime()) {
        channel.ask(Favour::HostHooks)?;
    }
    Ok(())
}

/// Makes the pty in the container's own devpts, and sends its master to whoever asked for it.
fn open_terminal(plan: &Plan, luggage: &Luggage<'_>, root: &Root) -> Result<Option<Pty>> {
    let Some(socket) = luggage.console else {
        return Ok(None);
    };
    let pty = console::open_pty(root.as_fd())?;
    console::give_to_user(&pty, plan.process.user())?;
    devices::bind_console(root, pty.slave.as_fd())?;
    console::send_fd(socket, "/dev/pts/ptmx", pty.master.as_fd())?;
    Ok(Some(pty))
}

fn set_names(plan: &Plan) -> Result<()> {
    if let Some(name) = plan.spec.hostname() {
        sethostname(name).with_context(|| format!("hostname: set it to {name:?}"))?;
    }
    if let Some(name) = plan.spec.domainname() {
        crate::sys::process::setdomainname(name)
            .with_context(|| format!("domainname: set it to {name:?}"))?;
    }
    Ok(())
}

fn apply_late_mounts(plan: &Plan) -> Result<()> {
    if plan.late_mounts.is_empty() {
        return Ok(());
    }
    let root = Root::open(Path::new("/"))?;
    mounts::apply_all(&root, &plan.late_mounts, &Sources::default())?.apply()
}

/// The state for hooks that run in the container; its pid is the one that they can see.
fn state(luggage: &Luggage<'_>, status: Status) -> Vec<u8> {
    state_here(luggage.state.clone(), status)
}

fn state_here(mut state: serde_json::Value, status: Status) -> Vec<u8> {
    state["pid"] = std::process::id().into();
    state["status"] = status.to_string().into();
    state.to_string().into_bytes()
}

/// Waits until somebody says `start` on the socket. Whoever connects and says nothing only wanted
/// to know whether init is here.
fn wait_for_start(socket: &UnixListener) -> Result<UnixStream> {
    loop {
        let (mut stream, _) = match socket.accept() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.context("wait for start")?,
        };
        let mut word = [0];
        if stream.read(&mut word).is_ok_and(|count| count == 1) {
            return Ok(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;

    /// A socket with a name of this test's own, and its name.
    fn socket() -> (UnixListener, SocketAddr) {
        let name = format!("init-tests-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name).unwrap();
        (UnixListener::bind_addr(&address).unwrap(), address)
    }

    #[test]
    fn only_who_speaks_starts_the_container() {
        let (listener, address) = socket();
        // Whoever looks whether init is there says nothing, and comes first.
        drop(UnixStream::connect_addr(&address).unwrap());
        let mut starter = UnixStream::connect_addr(&address).unwrap();
        starter.write_all(b"s").unwrap();
        let mut taken = wait_for_start(&listener).unwrap();
        // It is the starter's: an error of the start arrives there.
        taken.write_all(b"failed").unwrap();
        drop(taken);
        let mut text = String::new();
        starter.read_to_string(&mut text).unwrap();
        assert_eq!(text, "failed");
    }

    #[test]
    fn hooks_in_the_container_get_a_state_that_fits_there() {
        let outside = serde_json::json!({"id": "c", "pid": 7, "status": "creating"});
        let state: serde_json::Value =
            serde_json::from_slice(&state_here(outside, Status::Created)).unwrap();
        assert_eq!(
            state,
            serde_json::json!({"id": "c", "pid": std::process::id(), "status": "created"})
        );
    }
}
