//! `delete`: removes what a container has left. It goes on to the end, and reports every failure.

use super::cli::Delete;
use super::hooks::{self, Surroundings};
use super::host::Host;
use super::log;
use super::plan::systemd;
use super::store::{Container, Lock, Process, Status, Store, is_used, spec_in};
use crate::cgroup::{Cgroup, Manager};
use crate::error::{ResultExt, message};
use crate::sys::process::pidfd_send_signal;
use anyhow::{Context, Error, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// `runtime delete [--force] ID`
pub fn delete(store: &Store, args: &Delete) -> Result<()> {
    super::store::check_id(&args.id)?;
    let container = match store.load(&args.id) {
        Ok(container) => container,
        Err(error) => {
            return if args.force {
                delete_remains(store, &args.id, &error)
            } else {
                Err(error)
            };
        }
    };
    if args.force {
        // Before the lock: a `create` or `start` that hangs in a hook would hold it for ever.
        kill_init(&container)?;
    }
    let _lock = match Lock::take(container.dir()) {
        // Somebody else was faster.
        Err(_) if args.force && !container.dir().exists() => return Ok(()),
        other => other?,
    };
    let status = container.status()?;
    if !args.force && status != Status::Stopped && !is_killed(&container) {
        return Err(anyhow!("container {:?} is {status}", args.id)).hint(format!(
            "end it with `runtime kill {} KILL` first, or use --force",
            args.id
        ));
    }
    destroy(&container)
}

/// Whether the container is about to stop: many a caller does not wait between kill and delete.
fn is_killed(container: &Container) -> bool {
    let init = container.saved.init.as_ref();
    init.is_some_and(|init| init.has_pending(libc::SIGKILL))
}

/// With --force, an id of which nothing, or nothing readable (`why`), is left.
fn delete_remains(store: &Store, id: &str, why: &Error) -> Result<()> {
    let dir = store.dir(id);
    if !dir.exists() {
        return Ok(());
    }
    let cleared = match is_used(&dir) {
        true => clear_unknown(id, &dir, &format!("no state ({})", message(why))),
        false => Ok(()),
    };
    let removed = fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()));
    cleared.and(removed)
}

/// Ends what is in the cgroup of a container without a state, if it is where the spec says and marked
/// as the container's, and says what is left.
fn clear_unknown(id: &str, dir: &Path, why: &str) -> Result<()> {
    let host = Host::probe()?;
    let spec = spec_in(dir).ok();
    let linux = spec.as_ref().and_then(|spec| spec.linux().as_ref());
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let mut cgroups = Vec::new();
    for manager in [Manager::Fs, systemd(&host)] {
        match Cgroup::plan(&host.cgroups, path, id, manager) {
            Ok(cgroup) => cgroups.push(cgroup),
            // The path is one of the other's, or the user's systemd cannot be asked.
            Err(error) => log::debug(&format!(
                "not looked for by {manager:?}: {}",
                message(&error)
            )),
        }
    }
    let Some(cgroup) = cgroups.iter().find(|cgroup| cgroup.is_claimed_by_id(id)) else {
        let places: Vec<_> = cgroups
            .iter()
            .filter_map(|cgroup| cgroup.paths().into_values().next())
            .map(|place| place.display().to_string())
            .collect();
        log::warn(&format!(
            "{why}: no cgroup is marked as that of {id:?}, and processes of it may still run: \
             look in its cgroup, which may be {}",
            places.join(" or ")
        ));
        return Ok(());
    };
    log::warn(&format!(
        "{why}: the processes of {id:?} and its cgroup are removed; its poststop hooks do not run"
    ));
    cgroup.end().context("clear its cgroup")
}

/// At the end of a program that somebody has waited for: [`destroy`], unless the container has been
/// deleted meanwhile, as by `checkpoint`.
pub fn after_end(container: &Container) -> Result<()> {
    let lock = Lock::take(container.dir());
    if !container.dir().exists() {
        return Ok(());
    }
    lock.and_then(|_lock| destroy(container))
}

/// Kills whatever is left of the container, removes its cgroup and its directory, and runs its
/// poststop hooks.
pub fn destroy(container: &Container) -> Result<()> {
    let mut failures = Vec::new();
    let mut note = |what: &str, result: Result<()>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {}", message(&error)));
        }
    };
    note("kill init", kill_init(container));
    note("clear its cgroup", container.clear_cgroup());
    if let Some(cover) = &container.saved.cover {
        note("remove its mounts", cover.remove());
    }
    note("remove the class of resctrl", container.remove_rdt());
    note("remove the state", container.remove());
    poststop(container);
    if failures.is_empty() {
        return Ok(());
    }
    bail!("delete {:?}: {}", container.id(), failures.join("; "))
}

/// A failed poststop hook is reported, and changes nothing (runtime.md, "Lifecycle", 13).
fn poststop(container: &Container) {
    let hooks = &container.saved.poststop;
    if !hooks::any(hooks) {
        return;
    }
    let state = container.state_for_hooks(Status::Stopped);
    // The hooks matter more than where they write.
    let output = container.surroundings().unwrap_or_else(|error| {
        log::warn(&message(&error));
        Surroundings::default()
    });
    for error in hooks::run_all("poststop", hooks, &state, &output) {
        log::warn(&message(&error));
    }
}

/// Kills init and waits for its end.
fn kill_init(container: &Container) -> Result<()> {
    let Some(init) = &container.saved.init else {
        return Ok(());
    };
    let Some(pidfd) = init.open()? else {
        return Ok(());
    };
    // A frozen process does not die on v1.
    if container.cgroup().is_frozen().unwrap_or(false) {
        container.cgroup().thaw()?;
    }
    match pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
            return Err(error).context("kill init");
        }
        _ => {}
    }
    wait_for_end(init, pidfd.as_fd())
}

/// Waits until the process is gone, or has nothing left but zombies to wait for.
fn wait_for_end(init: &Process, pidfd: BorrowedFd<'_>) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + PATIENCE;
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    while Instant::now() < deadline {
        // No event tells that a process has begun to exit; that it has ended, this one does.
        match poll(&mut fds, PollTimeout::from(20u8)) {
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error).context("wait for init"),
            Ok(0) if init.is_alive() => continue,
            Ok(_) => return Ok(()),
        }
    }
    bail!(
        "process {} does not end after SIGKILL (is it in uninterruptible sleep?)",
        init.pid
    )
}
