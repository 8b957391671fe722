//! `start`: lets the init of a created container run its program, and `run`: all of it in one.

use super::cli::{CgroupManager, Run};
use super::create::{self, Created};
use super::notify::Proxy;
use super::store::{Container, Lock, Process, Status, Store};
use super::sync::{Channel, FromInit, Go};
use super::{delete, hooks, log, relay};
use crate::error::{ResultExt, message};
use crate::sys::process;
use anyhow::{Context, Result, anyhow};
use std::io::{Read, Write};
use std::os::fd::AsFd;

/// `runtime start ID`
pub fn start(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let lock = Lock::take(container.dir())?;
    let status = container.status()?;
    if status != Status::Created {
        return Err(anyhow!("container {id:?} is {status}, not created")).hint(match status {
            Status::Running | Status::Paused => "it has been started already",
            _ => "delete it and create it anew to run it once more",
        });
    }
    let proxy = Proxy::listen(container.dir())?;
    start_created(&container)?;
    // Whoever waits for the program must not keep others from ending it.
    drop(lock);
    match (proxy, &container.saved.init) {
        (Some(proxy), Some(init)) => until_ready(proxy, init),
        _ => Ok(()),
    }
}

fn until_ready(proxy: Proxy, init: &Process) -> Result<()> {
    match init.open()? {
        Some(pidfd) => proxy.until_ready(pidfd.as_fd(), init.pid),
        None => Ok(()),
    }
}

/// Tells init to go on, and waits until the program runs or cannot.
fn start_created(container: &Container) -> Result<()> {
    check_program(container)?;
    let mut init = container.knock()?;
    init.write_all(b"g").context("tell init to go on")?;
    // A descriptor that closes at execve(2): the end of file is the success.
    let mut answer = Vec::new();
    init.read_to_end(&mut answer)
        .context("wait for the program to start")?;
    if !answer.is_empty() {
        return Err(failure(container, serde_json::from_slice(&answer)?));
    }
    // Best effort: the status does not depend on whether the file is there.
    let _ = std::fs::remove_file(container.dir().join(super::store::START_SOCKET));
    poststart(container)
}

/// The same with the init that this very command has made.
fn start_own(container: &Container, init: Channel) -> Result<()> {
    check_program(container)?;
    init.tell(&Go::Start)?;
    match init.receive::<FromInit>()? {
        None => poststart(container),
        Some((answer, _)) => Err(failure(container, answer)),
    }
}

fn check_program(container: &Container) -> Result<()> {
    if container.saved.has_no_process {
        return Err(anyhow!(
            "container {:?} has no program to start: its config.json has no process",
            container.id()
        ))
        .hint("`runtime exec` runs one in it; or delete it, and add process to config.json");
    }
    Ok(())
}

/// What init says instead of running the program.
fn failure(container: &Container, answer: FromInit) -> anyhow::Error {
    match answer {
        FromInit::Failed(why) => why.error(),
        FromInit::HookFailed(why) => {
            destroy_after("startContainer", container);
            why.error()
        }
        other => anyhow!("unexpected message from init: {other:?}"),
    }
}

/// The hooks after the program's start. If one fails, the container is stopped and deleted
/// (runtime.md, "Lifecycle", 9: the runtime must generate an error and go on at the deletion).
fn poststart(container: &Container) -> Result<()> {
    let hooks = &container.saved.poststart;
    if !hooks::any(hooks) {
        return Ok(());
    }
    let state = container.state_for_hooks(Status::Running);
    container
        .surroundings()
        .and_then(|output| hooks::run("poststart", hooks, &state, &output))
        .inspect_err(|_| destroy_after("poststart", container))
}

/// Deletes the container because one of these hooks has failed.
fn destroy_after(kind: &str, container: &Container) {
    if let Err(error) = delete::destroy(container) {
        log::warn(&format!(
            "after the failed {kind} hook: {}",
            message(&error)
        ));
    }
}

/// `runtime run`. Returns the exit code of the program, or 0 with --detach.
pub fn run(store: &Store, args: &Run, manager: CgroupManager) -> Result<i32> {
    if args.detach {
        let (created, init) = create::create_to_start(store, &args.creation, &args.id.id, manager)?;
        let proxy = or_delete(&created, Proxy::listen(created.container.dir()))?;
        or_delete(&created, start_own(&created.container, init))?;
        let Created {
            container, lock, ..
        } = created;
        drop(lock);
        if let (Some(proxy), Some(init)) = (proxy, &container.saved.init) {
            until_ready(proxy, init)?;
        }
        return Ok(0);
    }
    if !args.creation.no_subreaper {
        process::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0).context("become a subreaper")?;
    }
    let (created, init, terminal) =
        create::create_attached(store, &args.creation, &args.id.id, manager)?;
    let proxy = or_delete(&created, Proxy::listen(created.container.dir()))?;
    let relay = or_delete(&created, relay::Relay::prepare(terminal, proxy))?;
    or_delete(&created, start_own(&created.container, init))?;
    let Created {
        container,
        pidfd,
        lock,
    } = created;
    drop(lock);
    let code = relay.until_end(pidfd.as_fd());
    if !args.keep {
        delete::after_end(&container)?;
    }
    code
}

/// Deletes the container if that is the result of what was to be done with it, unless a hook that has
/// failed has led to that already.
fn or_delete<T>(created: &Created, result: Result<T>) -> Result<T> {
    result.inspect_err(|_| {
        if created.container.dir().exists()
            && let Err(error) = delete::destroy(&created.container)
        {
            log::warn(&format!("after the failed start: {}", message(&error)));
        }
    })
}
