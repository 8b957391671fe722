//! Making a container on disk: everything up to its first start. What fails on the way is undone;
//! what is killed on the way belongs to nobody and is removed by the next command.

use super::background::Background;
use super::bundle::{self, Bundle, Request};
use super::cli::{Global, Run};
use super::image::{Image, Store};
use super::keep_id::KeepId;
use super::monitor_lock::MonitorLock;
use super::reach::Reach;
use super::record::Record;
use super::state_dirs::{State, new_id};
use super::umask::write_for_caller;
use super::values::Bytes;
use super::whole_file::replace;
use super::{events, health, machine, names, overlay, rm, runtime_cli, volume};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use procfs::FromRead;
use procfs::process::Status;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use time::OffsetDateTime;

/// What is to be made.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) image: &'a Image,
    /// As the user named it.
    pub(super) image_name: &'a str,
    pub(super) command: &'a [String],
    pub(super) flags: &'a Run,
    /// Whose ids it keeps: the image has layers for such containers then.
    pub(super) keep_id: Option<KeepId>,
    /// Removed at its end.
    pub(super) remove: bool,
    /// Not started yet by whoever makes it: it stays if nobody starts it.
    pub(super) only_created: bool,
    /// To be watched in the background.
    pub(super) in_background: bool,
}

/// A container that was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) record: Record,
    /// Its monitor lock, held.
    pub(super) lock: MonitorLock,
    /// The monitor in the background, which is to be called.
    pub(super) monitor: Option<Background>,
}

/// Makes a container.
pub(super) fn create(
    state: &State,
    store: &Store,
    global: &Global,
    wish: &Wish<'_>,
) -> Result<Made> {
    let runtime = runtime_cli::choose(global.runtime.as_deref()).exit_code(125)?;
    let reach = Reach::if_limited(wish.flags.best_effort)?;
    let mut flags = settled(wish.flags);
    if let Some(reach) = &reach {
        let resources = bundle::resources(&flags, Vec::new())?;
        let lacking = reach.lacking(&resources, flags.best_effort)?;
        lacking.iter().for_each(|name| flags.leave_out(name));
    }
    let wish = &Wish {
        flags: &flags,
        ..*wish
    };
    let id = new_id()?;
    let monitor = wish.in_background.then(|| Background::start(&id));
    let monitor = monitor.transpose()?;
    let rootfs = state.rootfs(&id);
    let request = Request {
        id: &id,
        image: wish.image,
        command: wish.command,
        flags: wish.flags,
        rootfs: &rootfs,
        state,
        caller_env: &|name| std::env::var(name).ok(),
        bounding: bounding()?,
        reach: reach.as_ref(),
        keep_id: wish.keep_id.as_ref(),
    };
    // Nothing is changed before all flags are known to be right.
    let bundle = bundle::build(&request)?;
    machine::check(&machine::Wanted {
        cpus: wish.flags.cpus,
        cpuset_cpus: wish.flags.cpuset_cpus.as_deref(),
        cpuset_mems: wish.flags.cpuset_mems.as_deref(),
        sysctl: &wish.flags.sysctl,
    })?;
    let health = health::wanted(wish.flags, wish.image)?;
    if let Some(name) = &wish.flags.name {
        names::check(name)?;
    }
    if let Some(path) = wish.flags.cidfile.as_deref().filter(|path| path.exists()) {
        let error = anyhow!("--cidfile {}: it exists already", path.display());
        return Err(with_exit_code(
            with_hint(error, "remove it, or name another file"),
            125,
        ));
    }
    let lock = state.create_container(&id)?;
    let result = fill(state, store, wish, &request, (bundle, health), runtime);
    match result {
        Ok(record) => Ok(Made {
            record,
            lock,
            monitor,
        }),
        Err(error) => {
            if let Some(name) = &wish.flags.name {
                let _ = state.release_name(name, &id);
            }
            if let Err(left) = rm::remove(state, &id, None) {
                return Err(error.context(format!("(and not all is undone: {left:#})")));
            }
            Err(error)
        }
    }
}

/// What the flags come to. As with Docker, 0 of `--cpus` and `--memory-swap` asks for nothing; and memory
/// and swap together are twice `-m` if nothing else is asked for: a limit that all of the swap could be
/// used to get around would be none.
fn settled(flags: &Run) -> Run {
    let mut flags = flags.clone();
    flags.cpus = flags.cpus.filter(|cpus| *cpus > 0.0);
    flags.memory_swap = flags.memory_swap.filter(|swap| swap.count != 0);
    if let (Some(memory), None) = (&flags.memory, &flags.memory_swap)
        && memory.count > 0
        && machine::counts_swap()
    {
        flags.memory_swap = Some(Bytes {
            count: memory.count.saturating_mul(2),
            text: format!("twice -m {}", memory.text),
        });
    }
    flags
}

fn fill(
    state: &State,
    store: &Store,
    wish: &Wish<'_>,
    request: &Request<'_>,
    (bundle, health_check): (Bundle, Option<health::Check>),
    runtime: std::path::PathBuf,
) -> Result<Record> {
    let id = request.id;
    let dir = state.container(id);
    let name = take_name(state, wish.flags.name.as_deref(), id)?;
    store.use_layers(wish.image, &dir)?;
    directories(state, id, wish.image)?;
    wish.image
        .extend_etc(&bundle.accounts, &state.upper(id))
        .context("add the user to /etc/passwd")?;
    volume::attach(state, id, &bundle.volumes, wish.image)?;
    write(state, request, &bundle)?;
    let process = bundle.spec.process().as_ref();
    let user = process.map_or(0, |process| process.user().uid());
    let keep = wish.keep_id;
    let user = keep.map_or(Some(user), |keep| Some(keep.outside((user, 0))?.0));
    let record = Record {
        id: id.to_owned(),
        name,
        other_name: None,
        image: wish.image_name.to_owned(),
        image_id: wish.image.id.clone(),
        created: OffsetDateTime::now_utc(),
        args: bundle.args,
        layers: wish.image.layers.clone(),
        keep_id: wish.keep_id,
        committed: Vec::new(),
        tty: wish.flags.tty,
        interactive: wish.flags.interactive,
        remove: wish.remove,
        fleeting: wish.remove && !wish.only_created,
        labels: bundle.labels,
        etc: bundle.etc,
        stop_signal: bundle.stop_signal,
        stop_timeout: wish.flags.stop_timeout,
        log: bundle.log,
        memory: wish
            .flags
            .memory
            .as_ref()
            .map(|m| (m.count, m.text.clone())),
        uid: user.unwrap_or(0),
        runtime,
        shown: bundle.shown,
        restart: bundle.restart,
        health_check,
        health: None,
        monitor: None,
        stopping: false,
        is_shut_down: false,
        starting: !wish.only_created,
        process: None,
        started: None,
        exit: None,
        failed: None,
        restarting: None,
        build: None,
        committing: None,
        restarts: 0,
    };
    if let Some(path) = &wish.flags.cidfile {
        write_for_caller(path, id)
            .with_context(|| format!("--cidfile: write {}", path.display()))?;
    }
    if wish.only_created {
        record.save(state)?;
    } else {
        record.save_for_now(state)?;
    }
    events::of_container(state, &record, "create", &[]);
    Ok(record)
}

/// What the bundle is, and the directories of the host that it needs.
fn write(state: &State, request: &Request<'_>, bundle: &Bundle) -> Result<()> {
    let mut spec = serde_json::to_vec(&bundle.spec).context("encode config.json")?;
    spec.push(b'\n');
    replace(&state.config(request.id), &spec, false)?;
    for host in &bundle.host_dirs {
        if !host.exists() {
            make_host_dir(host)?;
        }
    }
    Ok(())
}

/// The overlay's own directories.
fn directories(state: &State, id: &str, image: &Image) -> Result<()> {
    let work = state.container(id).join("work");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&work)
        .with_context(|| format!("make {}", work.display()))?;
    let top = image.layers.first().context("the image has no layers")?;
    overlay::make_upper(&state.upper(id), top)
}

fn make_host_dir(path: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .with_context(|| format!("-v: make {}", path.display()))
        .hint("make the directory yourself, or name another")
        .exit_code(125)
}

fn take_name(state: &State, wanted: Option<&str>, id: &str) -> Result<String> {
    if let Some(name) = wanted {
        state.reserve_name(name, id)?;
        return Ok(name.to_owned());
    }
    for attempt in 0.. {
        let name = names::invent(id, attempt);
        match state.reserve_name(&name, id) {
            Err(error) if attempt > 20 => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(name),
        }
    }
    unreachable!("the loop ends by itself")
}

/// CapBnd of proc_pid_status(5).
pub(super) fn bounding() -> Result<u64> {
    let status = Status::from_file("/proc/self/status").context("read /proc/self/status")?;
    status.capbnd.context("find CapBnd in /proc/self/status")
}
