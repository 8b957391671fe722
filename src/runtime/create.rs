//! `create`: the parent's story, top to bottom. `run` is this and `start`.

use super::check::{self, Checked};
use super::cli::{CgroupManager, Creation, Making};
use super::host::Host;
use super::init::{self, Luggage};
use super::plan::{Options, Plan};
use super::spawn::{self, Spawned, Wish};
use super::store::{self, Container, Lock, Process, Saved, Status, Store};
use super::sync::{Channel, Favour, FromInit, Go};
use super::undo::{self, Undo};
use super::{hooks, log, notify};
use crate::cgroup::{self, Cgroup, Doors};
use crate::error::{self, ResultExt, with_hint};
use crate::linux::rdt::Rdt;
use crate::linux::sources::Sources;
use crate::linux::{console, cover::Cover, netdev, rlimits, seccomp};
use crate::sys::process::{self, prctl};
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxNamespaceType as Kind;
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A container whose init waits for `start`.
#[derive(Debug)]
pub struct Created {
    /// As it is stored.
    pub container: Container,
    /// Its first process, a child of this program.
    pub pidfd: OwnedFd,
    /// Held until this is dropped.
    pub lock: Lock,
}

/// `runtime create`
pub fn create(store: &Store, args: &Creation, id: &str, manager: CgroupManager) -> Result<Created> {
    let plan = kept_plan(store, args, id, manager)?;
    let console = console_socket(&plan, args.making.console_socket.as_deref())?;
    let (created, _) = build(store, args, &plan, console, Starter::Anybody)?;
    Ok(created)
}

/// As [`create`], but init waits for the caller's word alone, on this channel.
pub fn create_to_start(
    store: &Store,
    args: &Creation,
    id: &str,
    manager: CgroupManager,
) -> Result<(Created, Channel)> {
    let plan = kept_plan(store, args, id, manager)?;
    let console = console_socket(&plan, args.making.console_socket.as_deref())?;
    build(store, args, &plan, console, Starter::Caller)
}

/// As [`create_to_start`], with the terminal given to the caller. The third value is the socket that will
/// receive it.
pub fn create_attached(
    store: &Store,
    args: &Creation,
    id: &str,
    manager: CgroupManager,
) -> Result<(Created, Channel, Option<UnixStream>)> {
    let plan = kept_plan(store, args, id, manager)?;
    let (ours, theirs) = own_console(&plan, args.making.console_socket.as_deref())?;
    let (created, channel) = build(store, args, &plan, theirs, Starter::Caller)?;
    Ok((created, channel, ours))
}

/// Who lets the program run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Starter {
    /// `start`, by a socket in the container's directory.
    Anybody,
    /// The command that creates it, by the socket that it has to init already. It holds the lock of the
    /// container until then, so that nobody else could start it anyway.
    Caller,
}

/// A socket for the terminal when it is the caller's own: our end, and the one to send it to.
pub(super) fn own_console(
    plan: &Plan,
    path: Option<&Path>,
) -> Result<(Option<UnixStream>, Option<UnixStream>)> {
    if path.is_some() {
        return Err(anyhow!(
            "--console-socket: the terminal is the caller's own here"
        ))
        .hint("leave it out, or add --detach");
    }
    if !plan.terminal() {
        return Ok((None, None));
    }
    if !console::is_at_hand() {
        return Err(nobody_receives("call it at a terminal"));
    }
    let (ours, theirs) = UnixStream::pair().context("make a socket for the terminal")?;
    Ok((Some(ours), Some(theirs)))
}

/// A plan that is never freed: the container would wait for that, and the command ends with it.
fn kept_plan(
    store: &Store,
    args: &Creation,
    id: &str,
    manager: CgroupManager,
) -> Result<ManuallyDrop<Plan>> {
    let plan = make_plan(store, &args.making, id, options(args, manager))?;
    Ok(ManuallyDrop::new(plan))
}

fn options(args: &Creation, manager: CgroupManager) -> Options {
    Options {
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: args.preserve_fds,
        manager,
        ..Options::default()
    }
}

/// Reads the bundle and decides everything; changes nothing. `options` need not know of systemd's
/// descriptors and socket.
pub(super) fn make_plan(store: &Store, args: &Making, id: &str, options: Options) -> Result<Plan> {
    store::check_id(id)?;
    let bundle = args
        .bundle
        .canonicalize()
        .with_context(|| format!("bundle {}", args.bundle.display()))
        .hint("--bundle names the directory that holds config.json")?;
    let config = match &args.config {
        Some(path) => path.clone(),
        None => bundle.join("config.json"),
    };
    let mut checked = Checked::of_file(&config, check::config).fallback_hint(
        "--bundle names the directory that holds config.json; `runtime spec` writes one",
    )?;
    let listen_fds = listen_fds();
    let options = Options {
        preserve_fds: options.preserve_fds.saturating_add(listen_fds),
        listen_fds,
        notify: notify::add_mount(&mut checked.value, &store.dir(id))?,
        ..options
    };
    let host = Host::probe()?;
    Plan::new(id, checked, &bundle, &host, options)
}

/// The sockets that systemd has passed to this very process (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// Connects to the console socket before anything is made.
pub(super) fn console_socket(plan: &Plan, path: Option<&Path>) -> Result<Option<UnixStream>> {
    match (plan.terminal(), path) {
        (true, Some(path)) => Ok(Some(console::connect(path)?)),
        (false, None) => Ok(None),
        (true, None) => Err(nobody_receives(
            "name a listening socket with --console-socket",
        )),
        (false, Some(_)) => Err(anyhow!("--console-socket: process.terminal is false"))
            .hint("leave the socket out, or set process.terminal to true"),
    }
}

fn nobody_receives(who_could: &str) -> anyhow::Error {
    with_hint(
        anyhow!("process.terminal is true, but nobody receives the terminal"),
        format!("{who_could}, or set process.terminal to false"),
    )
}

/// Does what the plan says. Whatever fails, what was made is undone.
fn build(
    store: &Store,
    args: &Creation,
    plan: &Plan,
    console: Option<UnixStream>,
    starter: Starter,
) -> Result<(Created, Channel)> {
    let pidfd_socket = args
        .pidfd_socket
        .as_deref()
        .map(console::connect)
        .transpose()?;
    let ((container, spawned), lock) = undo::attempt(store, plan, |undo, lock| {
        let made = make(store, plan, console.as_ref(), starter, undo, lock)?;
        name_process(args, pidfd_socket.as_ref(), &made.1)?;
        if starter == Starter::Anybody {
            made.1.channel.tell(&Go::Stored)?;
        }
        Ok(made)
    })?;
    let created = Created {
        container,
        pidfd: spawned.pidfd,
        lock,
    };
    Ok((created, spawned.channel))
}

/// The container in its directory of the store, and its init, which waits to be told.
fn make(
    store: &Store,
    plan: &Plan,
    console: Option<&UnixStream>,
    starter: Starter,
    undo: &mut Undo<'_>,
    lock: &Lock,
) -> Result<(Container, Spawned)> {
    let dir = undo.dir().to_owned();
    let mut container = Container::new(dir.clone(), saved(plan)?);
    container.saved.starts_itself = starter == Starter::Caller;
    // Should we be killed, this tells the next command which cgroup to look at.
    container.save()?;
    if plan.options.notify {
        notify::make_dir(&dir)?;
    }
    undo.cover.clone_from(&container.saved.cover);
    let is_placed = plan.cgroup.needs_a_process();
    set_up_cgroup(plan, &mut container, undo)?;
    set_up_rdt(plan, &mut container, undo)?;
    let start = match starter {
        Starter::Anybody => Some(listen(&dir)?),
        Starter::Caller => None,
    };
    let joined = plan.namespaces.open_joined()?;
    let joins_user = plan.namespaces.joins(Kind::User);
    let wish = Wish {
        namespaces: &plan.namespaces,
        joined,
        cgroup: if joins_user || is_placed {
            None
        } else {
            plan.cgroup.clone_fd()
        },
        keeps: None,
    };
    let luggage = Luggage {
        console,
        start,
        ..pack(store, plan, &container, &wish, is_placed)?
    };
    if let Some(uid) = plan.maps.outside(plan.process.user().uid()) {
        console::give_streams(uid);
    }
    // The child is born with it: nobody in a joined pid namespace can trace it, even at first.
    if nix::unistd::geteuid().is_root() {
        prctl(libc::PR_SET_DUMPABLE, 0, 0).context("forbid others to trace init")?;
    }
    let spawned = spawn::spawn(&wish, |channel| {
        lock.leave_to_parent();
        init::init(plan, &luggage, channel)
    })?;
    undo.init = Some(spawned.pidfd.try_clone().context("duplicate a pidfd")?);
    drop(luggage);
    if joins_user {
        let difference = plan.maps.compare(spawned.pid)?;
        difference.iter().for_each(|text| log::warn(text));
    }
    if is_placed {
        place(plan, &container, spawned.pid, undo)
            .map_err(|error| undo::cause(error, words_of_init(plan, &spawned)))?;
        spawned.channel.tell(&Go::Placed)?;
    }
    container.enter_rdt(spawned.pid)?;
    settle(plan, &spawned)?;
    // While init works. It is there before anybody can ask for it.
    container.keep_spec(&plan.spec)?;
    let process = Process::of(spawned.pid)?;
    attend(plan, &container, &spawned, undo)?;
    if let Some(cover) = &mut container.saved.cover {
        cover.made()?;
    }
    container.saved.init = Some(process);
    container.save()?;
    Ok((container, spawned))
}

/// What init brings along, but for its sockets.
fn pack(
    store: &Store,
    plan: &Plan,
    container: &Container,
    wish: &Wish<'_>,
    is_placed: bool,
) -> Result<Luggage<'static>> {
    let doors = match is_placed {
        true => Doors::none(),
        false => plan.cgroup.doors(wish.cgroup.is_none())?,
    };
    Ok(Luggage {
        doors: RefCell::new(doors),
        is_placed,
        sources: Sources::of(&plan.mounts, &plan.maps)?,
        seccomp: compile_seccomp(store, plan)?,
        console: None,
        start: None,
        state: container.state(Status::Created),
        surroundings: container.surroundings()?,
    })
}

/// Tells the caller which process it is, as it has asked to be told.
fn name_process(args: &Creation, socket: Option<&UnixStream>, spawned: &Spawned) -> Result<()> {
    if let Some(socket) = socket {
        console::send_fd(socket, "pidfd", spawned.pidfd.as_fd())?;
    }
    match &args.making.pid_file {
        Some(path) => write_pid_file(path, spawned.pid),
        None => Ok(()),
    }
}

/// Makes the cgroup with its limits, unless that takes the process.
pub(super) fn set_up_cgroup(
    plan: &Plan,
    container: &mut Container,
    undo: &mut Undo<'_>,
) -> Result<()> {
    let resources = plan.linux().resources().as_ref();
    let rules = resources.and_then(|r| r.devices().as_deref());
    if log::tells_debug() {
        log::debug(&cgroup::devices::describe(rules.unwrap_or_default())?);
    }
    if !plan.cgroup.needs_a_process() {
        let created = undo.cgroup.insert(plan.cgroup.create()?);
        if created.spare_the_rest(&mut container.saved.cgroup) {
            // Should we be killed, the next command must not remove them either.
            container.save()?;
        }
        container.claim_cgroup();
        plan.cgroup.limit(resources)?;
        give_cgroup(plan, &container.saved.cgroup)?;
    }
    Ok(())
}

/// To the user of the program, where it is for that user to divide.
fn give_cgroup(plan: &Plan, cgroup: &Cgroup) -> Result<()> {
    let Some(uid) = plan.cgroup_owner() else {
        return Ok(());
    };
    match cgroup.give_to(uid) {
        // An ordinary user can give nothing away, and has what it owns.
        Err(error) if !nix::unistd::geteuid().is_root() => {
            log::info(&error::message(&error));
            Ok(())
        }
        other => other,
    }
}

pub(super) fn set_up_rdt(
    plan: &Plan,
    container: &mut Container,
    undo: &mut Undo<'_>,
) -> Result<()> {
    if let Some(rdt) = plan.linux().intel_rdt() {
        undo.rdt = Some(Rdt::open()?.set_up(rdt, &plan.id)?);
        container.saved.rdt = undo.rdt.clone();
        container.save()?;
    }
    Ok(())
}

pub(super) fn saved(plan: &Plan) -> Result<Saved> {
    let mut cgroup = plan.cgroup.clone();
    cgroup.spare_what_is_there();
    let hooks = plan.spec.hooks().as_ref();
    Ok(Saved {
        id: plan.id.clone(),
        oci_version: plan.spec.version().clone(),
        bundle: plan.bundle.clone(),
        rootfs: plan.rootfs.clone(),
        created: OffsetDateTime::now_utc().format(&Rfc3339)?,
        owner: nix::unistd::getuid().as_raw(),
        annotations: plan.spec.annotations().clone().unwrap_or_default(),
        poststart: hooks.and_then(|hooks| hooks.poststart().clone()),
        poststop: hooks.and_then(|hooks| hooks.poststop().clone()),
        init: None,
        starts_itself: false,
        has_no_process: plan.spec.process().is_none(),
        cgroup,
        cover: plan
            .covers_root()
            .then(|| Cover::before(&plan.rootfs))
            .transpose()?,
        rdt: None,
    })
}

/// Has systemd make the cgroup around a process.
pub(super) fn place(
    plan: &Plan,
    container: &Container,
    pid: i32,
    undo: &mut Undo<'_>,
) -> Result<()> {
    let resources = plan.linux().resources().as_ref();
    let annotations = plan.spec.annotations().clone().unwrap_or_default();
    let adopted = plan.cgroup.adopt(pid, &plan.id, resources, &annotations)?;
    undo.cgroup = Some(adopted);
    container.claim_cgroup();
    plan.cgroup.limit(resources)?;
    give_cgroup(plan, &plan.cgroup)
}

/// The socket on which init will wait for `start`.
fn listen(dir: &Path) -> Result<UnixListener> {
    let dir = File::open(dir).context("open the container's directory")?;
    UnixListener::bind(store::short_path(&dir, store::START_SOCKET)).context("make init's socket")
}

fn compile_seccomp(store: &Store, plan: &Plan) -> Result<Option<seccomp::Filter>> {
    let cache = store.root().join(".seccomp");
    plan.linux()
        .seccomp()
        .as_ref()
        .map(|profile| seccomp::compile(profile, Some(&cache)))
        .transpose()
}

/// What init has from outside before it can do anything.
fn settle(plan: &Plan, spawned: &Spawned) -> Result<()> {
    let superuser = nix::unistd::geteuid().is_root();
    if let Some(score) = plan.process.oom_score_adj() {
        set_oom_score(spawned.pid, score)?;
    }
    if plan.namespaces.makes(Kind::User) {
        plan.maps.write(spawned.pid, superuser)?;
        spawned.channel.tell(&Go::Mapped)?;
    }
    Ok(())
}

/// Answers init until it is ready. An end of its messages before that is its death.
fn attend(
    plan: &Plan,
    container: &Container,
    spawned: &Spawned,
    undo: &mut Undo<'_>,
) -> Result<()> {
    undo.at_work = true;
    loop {
        match spawned.channel.receive::<FromInit>()? {
            Some((FromInit::Please(Favour::HostHooks), _)) => {
                undo.hooks_ran = true;
                host_hooks(plan, container, spawned.pid)?;
                spawned.channel.tell(&Go::Done(Favour::HostHooks))?;
            }
            Some((FromInit::Please(Favour::NetDevices), _)) => {
                move_net_devices(plan, spawned.pid)?;
                spawned.channel.tell(&Go::Done(Favour::NetDevices))?;
            }
            Some((FromInit::Please(Favour::Limits), _)) => {
                let limits = plan.process.rlimits().as_deref().unwrap_or_default();
                rlimits::apply(spawned.pid, limits)?;
                spawned.channel.tell(&Go::Done(Favour::Limits))?;
            }
            Some((FromInit::Listener, Some(fd))) => {
                hand_over_listener(plan, container, spawned.pid, fd)?;
                spawned.channel.tell(&Go::Listener)?;
            }
            Some((FromInit::Odd(what), _)) => log::warn(&what),
            Some((FromInit::Ready, _)) => return Ok(()),
            Some((FromInit::Hooks, _)) => undo.hooks_ran = true,
            Some((FromInit::Failed(why), _)) => {
                undo.at_work = !why.outside;
                return Err(why.error());
            }
            Some((other, _)) => bail!("unexpected message from init: {other:?}"),
            None => return Err(death_of_init(plan, spawned)),
        }
    }
}

/// The environment is there, and step 2 of the life cycle over: the state is `created`.
pub(super) fn host_hooks(plan: &Plan, container: &Container, pid: i32) -> Result<()> {
    let mut state = container.state(Status::Created);
    state["pid"] = pid.into();
    let state = state.to_string().into_bytes();
    let all = plan.hooks();
    let output = container.surroundings()?;
    hooks::run("prestart", all.prestart(), &state, &output)?;
    hooks::run("createRuntime", all.create_runtime(), &state, &output)
}

/// The network namespace of a process.
pub(super) fn network_of(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path).with_context(|| format!("open {path}"))
}

pub(super) fn move_net_devices(plan: &Plan, pid: i32) -> Result<()> {
    let namespace = network_of(pid)?;
    match plan.linux().net_devices() {
        Some(devices) => netdev::move_all(devices, namespace.as_fd()),
        None => Ok(()),
    }
}

fn hand_over_listener(plan: &Plan, container: &Container, pid: i32, fd: OwnedFd) -> Result<()> {
    let profile = plan
        .linux()
        .seccomp()
        .as_ref()
        .context("a listener without a profile")?;
    let mut state = container.state(Status::Creating);
    state["pid"] = pid.into();
    seccomp::send_listener(profile, fd.as_fd(), pid, &state)
}

/// oom_score_adj of proc(5), from outside: lowering it takes rights that a container may lack.
pub fn set_oom_score(pid: i32, score: i32) -> Result<()> {
    fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string())
        .with_context(|| format!("process.oomScoreAdj: set {score}"))
        .hint("a score below the caller's own needs CAP_SYS_RESOURCE")
}

/// What ended init, if it has ended while it was to wait for its cgroup.
fn words_of_init(plan: &Plan, spawned: &Spawned) -> Option<anyhow::Error> {
    if !spawn::ends_soon(spawned.pidfd.as_fd()) {
        return None;
    }
    match spawned.channel.receive::<FromInit>().ok()? {
        Some((FromInit::Failed(why), _)) => Some(why.error()),
        _ => Some(death_of_init(plan, spawned)),
    }
}

/// How init died, when it could not say so itself.
fn death_of_init(plan: &Plan, spawned: &Spawned) -> anyhow::Error {
    let ended = match process::wait(spawned.pidfd.as_fd()) {
        Ok(ended) => ended,
        Err(error) => return anyhow::Error::new(error).context("wait for init"),
    };
    let error = anyhow!("init {ended} before the container was created");
    let limited = plan
        .linux()
        .resources()
        .as_ref()
        .and_then(|resources| resources.memory().as_ref()?.limit())
        .filter(|limit| *limit > 0);
    match (ended, limited) {
        (process::Ended::Killed(libc::SIGKILL), Some(limit)) => with_hint(
            error,
            format!("the memory limit of {limit} bytes may be too low to start in"),
        ),
        _ => error,
    }
}

/// Writes the pid file in one piece. It is not there before the container is.
pub fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let name = path
        .file_name()
        .with_context(|| format!("--pid-file {}", path.display()))?;
    let temporary = path.with_file_name(format!(".{}.{pid}", name.to_string_lossy()));
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o644);
        options
            .open(&temporary)?
            .write_all(pid.to_string().as_bytes())?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("--pid-file: write {}", path.display()))
}
