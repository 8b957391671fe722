//! `kill`, `pause` and `resume`: what is done to the processes of a container from outside.

use super::cli::Kill;
use super::store::{Container, Lock, Status, Store};
use crate::error::ResultExt;
use crate::linux::signals;
use anyhow::{Context, Result, anyhow};

/// The signal that `kill` sends if it is told none: image-spec, "Conversion to OCI Runtime Configuration".
pub const SIGNAL_ANNOTATION: &str = "org.opencontainers.image.stopSignal";

/// The words by which containerd and dockerd, which read runc's errors, know that there is nobody left to
/// signal.
const NOT_RUNNING: &str = "container not running";

/// `runtime kill [--all] ID [SIGNAL]`
pub fn kill(store: &Store, args: &Kill) -> Result<()> {
    let named = args.signal.as_deref().map(parse_signal).transpose()?;
    let container = store.load(&args.id)?;
    let signal = match named {
        Some(signal) => signal,
        None => stop_signal(&container)?,
    };
    let status = container.status()?;
    if args.all {
        if let (true, libc::SIGKILL, Some(init)) =
            (container.cgroup().is_none(), signal, &container.saved.init)
        {
            // Nobody can tell the others, but they die with the first process of a pid namespace.
            return init.signal(signal).map(drop);
        }
        container.cgroup().needed_for("kill --all")?;
        // Processes may be left when init is dead: without a pid namespace nothing ends them.
        return container.cgroup().signal_all(signal);
    }
    if !matches!(status, Status::Created | Status::Running | Status::Paused) {
        return Err(anyhow!("{NOT_RUNNING}: {:?} is {status}", args.id))
            .hint("only a created or running container can be signalled");
    }
    let alive = match &container.saved.init {
        Some(init) => init.signal(signal)?,
        None => false,
    };
    if !alive {
        return Err(anyhow!("{NOT_RUNNING}: {:?} has just ended", args.id).context("kill"))
            .hint("`runtime delete` removes it");
    }
    // A frozen process takes the signal when it thaws; death must not wait for that.
    if signal == libc::SIGKILL && status == Status::Paused {
        container.cgroup().thaw()?;
    }
    Ok(())
}

/// What ends the container if nobody says how: its image knows best (config.md, "Annotations").
fn stop_signal(container: &Container) -> Result<i32> {
    match container.saved.annotations.get(SIGNAL_ANNOTATION) {
        Some(name) => parse_signal(name).with_context(|| format!("annotation {SIGNAL_ANNOTATION}")),
        None => Ok(libc::SIGTERM),
    }
}

/// Signal 0 is none, and asks whether there is anybody to get one (kill(2)).
fn parse_signal(text: &str) -> Result<i32> {
    if text == "0" {
        return Ok(0);
    }
    signals::parse(text)
        .with_context(|| format!("unknown signal {text:?}"))
        .hint("use a number from 1 to 64 or a name such as TERM, SIGKILL or RTMIN+3")
}

/// `runtime pause ID`
pub fn pause(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let _lock = Lock::take(container.dir())?;
    match container.status()? {
        Status::Created | Status::Running => container.cgroup().freeze(),
        status => Err(anyhow!("container {id:?} is {status}"))
            .hint("only a created or running container can be paused"),
    }
}

/// `runtime resume ID`
pub fn resume(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let _lock = Lock::take(container.dir())?;
    match container.status()? {
        Status::Paused => container.cgroup().thaw(),
        status => Err(anyhow!("container {id:?} is {status}"))
            .hint("only a paused container can be resumed"),
    }
}
