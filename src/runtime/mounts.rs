//! `mounts add` and `mounts remove`, as crun has them: other mounts for a container that runs.

use super::check::{self, Checked};
use super::cli::Mounts;
use super::exec::namespaces_of;
use super::host::Host;
use super::spawn::{self, Wish};
use super::store::{Container, Lock, Status, Store};
use super::sync::{Channel, FromInit};
use super::{init, plan};
use crate::error::ResultExt;
use crate::linux::idmap::IdMaps;
use crate::linux::mounts::{self, MountStep};
use crate::linux::namespaces::{self, Namespaces};
use crate::linux::root::Root;
use crate::linux::sources::Sources;
use crate::linux::{hot_mount, user};
use crate::sys::process::{self, prctl};
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount, Spec};
use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// `runtime mounts add|remove ID FILE`. What has been done is kept with the container's spec, from
/// which a checkpoint knows its mounts.
pub fn mounts(store: &Store, args: &Mounts) -> Result<()> {
    let (Mounts::Add(of) | Mounts::Remove(of)) = args;
    let entries = entries(&of.file)?;
    let container = store.load(&of.id)?;
    let _lock = Lock::take(container.dir())?;
    let adds_proc = matches!(args, Mounts::Add(_))
        && entries
            .iter()
            .any(|entry| entry.typ().as_deref() == Some("proc"));
    let inside = Inside::of(&container, adds_proc)?;
    let mut spec = container.spec()?;
    let mut kept = spec.mounts().clone().unwrap_or_default();
    match args {
        Mounts::Add(_) => {
            add(&container, &spec, &entries, inside)?;
            kept.extend(entries);
        }
        Mounts::Remove(_) => {
            let gone: Vec<PathBuf> = entries
                .iter()
                .map(|entry| mounts::clean(entry.destination()))
                .collect();
            inside.run(|root| hot_mount::detach_all(root, &gone))?;
            for target in &gone {
                // What is on top is the last one.
                let is_it = |mount: &Mount| mounts::clean(mount.destination()) == *target;
                if let Some(at) = kept.iter().rposition(is_it) {
                    kept.remove(at);
                }
            }
        }
    }
    spec.set_mounts(Some(kept));
    container.save_spec(&spec)
}

/// The mounts in a file: an array as in config.json, or an object that has one.
fn entries(file: &Path) -> Result<Vec<Mount>> {
    let entries = Checked::of_file(file, check::mounts)?.value.mounts;
    if entries.is_empty() {
        bail!("{}: there are no mounts in it", file.display());
    }
    Ok(entries)
}

fn add(container: &Container, spec: &Spec, entries: &[Mount], inside: Inside) -> Result<()> {
    let linux = spec.linux().clone().unwrap_or_default();
    let namespaces = Namespaces::new(&linux);
    let (bundle, host) = (&container.saved.bundle, Host::probe()?);
    let (steps, mut problems) = plan::added_mounts(
        entries,
        spec,
        bundle,
        &namespaces,
        &host,
        container.cgroup(),
    );
    if problems.is_empty() {
        // Only now is each step an entry.
        problems = hot_mount::check(&steps);
    }
    if !problems.is_empty() {
        return Err(check::error_of("mounts", &problems));
    }
    // With the caller's rights and paths.
    let sources = Sources::of_all(&steps, &IdMaps::new(&linux))?;
    inside.run_with(
        || make(&steps, &sources),
        |root, trees| hot_mount::attach_all(root, &steps, &trees),
    )
}

fn make(steps: &[MountStep], sources: &Sources) -> Result<Vec<OwnedFd>> {
    let all = steps.iter().enumerate();
    all.map(|(index, step)| hot_mount::make(index, step, sources))
        .collect()
}

/// The way into a container: its mount namespace, and the others that a new file system belongs to.
struct Inside {
    mounts: OwnedFd,
    others: Vec<(Kind, OwnedFd)>,
}

impl Inside {
    /// `with_pids`: a new procfs shows the processes of whoever mounts it. Otherwise this stays out of
    /// the pid namespace, where the container's processes could look into one that has the host's files.
    fn of(container: &Container, with_pids: bool) -> Result<Inside> {
        let id = container.id();
        let status = container.status()?;
        let init = match (&container.saved.init, status) {
            (Some(init), Status::Created | Status::Running | Status::Paused) => init,
            _ => {
                return Err(anyhow!("container {id:?} is {status}"))
                    .hint("mounts come and go while a container is created or running");
            }
        };
        let mut others = namespaces_of(container, init)?;
        let of_mounts = others.iter().position(|(kind, _)| *kind == Kind::Mount);
        let (_, mounts) = of_mounts
            .map(|at| others.swap_remove(at))
            .with_context(|| format!("container {id:?} has no mount namespace of its own"))
            .hint("its mounts are the host's: mount and unmount there")?;
        others.retain(|(kind, _)| with_pids || *kind != Kind::Pid);
        Ok(Inside { mounts, others })
    }

    /// Has `act` run in the container's mount namespace, with its root.
    fn run(self, act: impl FnOnce(&Root) -> Result<()>) -> Result<()> {
        self.run_with(|| Ok(()), |root, ()| act(root))
    }

    /// The same after `before`, which runs in the other namespaces; with the host's files, unless
    /// there is a user namespace, which has no rights to mount anything among those.
    fn run_with<T>(
        self,
        before: impl FnOnce() -> Result<T>,
        act: impl FnOnce(&Root, T) -> Result<()>,
    ) -> Result<()> {
        let in_user_namespace = self.others.iter().any(|(kind, _)| *kind == Kind::User);
        let mounts = self.mounts;
        let enter = || {
            process::setns(mounts.as_fd(), namespaces::flag(Kind::Mount))
                .context("join the mount namespace")
        };
        let story = |channel: &Channel| -> Result<Infallible> {
            // The container's processes can see this one.
            init::live_no_longer_than_parent()?;
            let made = if in_user_namespace {
                user::become_root_of_namespace()?;
                init::live_no_longer_than_parent()?;
                enter()?;
                before()?
            } else {
                let made = before()?;
                enter()?;
                made
            };
            act(&Root::open(Path::new("/"))?, made)?;
            channel.send(&FromInit::Ready)?;
            process::exit_now(0)
        };
        // The child is born with it: nobody in the container can trace it.
        if nix::unistd::geteuid().is_root() {
            prctl(libc::PR_SET_DUMPABLE, 0, 0).context("forbid others to trace the process")?;
        }
        let wish = Wish {
            namespaces: &Namespaces::default(),
            joined: self.others,
            cgroup: None,
            keeps: None,
        };
        let spawned = spawn::spawn(&wish, story)?;
        let answer = spawned.channel.receive::<FromInit>()?;
        let ended = process::wait(spawned.pidfd.as_fd()).context("wait for the process inside")?;
        match answer {
            Some((FromInit::Ready, _)) => Ok(()),
            Some((FromInit::Failed(why), _)) => Err(why.error()),
            _ => bail!("the process inside {ended}"),
        }
    }
}
