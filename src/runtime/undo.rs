//! Takes back what `create` or `restore` has made when something fails on the way.

use super::hooks::{self, Surroundings};
use super::log;
use super::plan::Plan;
use super::store::{Lock, Store};
use crate::cgroup;
use crate::error::{ResultExt, message};
use crate::linux::cover::Cover;
use crate::linux::rdt;
use crate::sys::process;
use anyhow::Result;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What has been made so far. Dropping it takes all of that back, unless it was disarmed.
#[derive(Debug)]
pub struct Undo<'a> {
    plan: &'a Plan,
    dir: PathBuf,
    /// The cgroup's directories.
    pub cgroup: Option<cgroup::Created>,
    /// The mount over the root filesystem.
    pub cover: Option<Cover>,
    /// The container's first process, a child of this program.
    pub init: Option<OwnedFd>,
    /// Hooks of a container that exists have run.
    pub hooks_ran: bool,
    /// The first process has got into its cgroup, for all that is known: this cannot be done once more.
    pub at_work: bool,
    /// The directories in resctrl.
    pub rdt: Option<rdt::Group>,
    armed: bool,
}

/// Reserves the container's directory and has `make` do the rest. When that fails what it has made is
/// taken back; and when it fails because somebody removed the cgroup before a process was in it, all is
/// done again. The lock is that of the directory.
pub fn attempt<'a, T>(
    store: &Store,
    plan: &'a Plan,
    mut make: impl FnMut(&mut Undo<'a>, &Lock) -> Result<T>,
) -> Result<(T, Lock)> {
    let mut left = cgroup::ATTEMPTS;
    loop {
        let (dir, lock) = store.reserve(&plan.id)?;
        let mut undo = Undo::new(plan, &dir);
        left -= 1;
        match make(&mut undo, &lock) {
            Ok(made) => {
                undo.disarm();
                return Ok((made, lock));
            }
            Err(error) if !undo.has_lost_its_cgroup() => return Err(error),
            Err(error) if left == 0 => {
                return Err(error).hint(cgroup::KEEPS_VANISHING);
            }
            Err(error) => log::debug(&format!("once more: {}", message(&error))),
        }
    }
}

/// The error to tell: how the process has ended comes before what failed by that.
pub fn cause(error: anyhow::Error, end: Option<anyhow::Error>) -> anyhow::Error {
    let Some(end) = end else { return error };
    log::debug(&message(&error));
    end
}

impl<'a> Undo<'a> {
    /// Nothing but the container's directory is there yet.
    fn new(plan: &'a Plan, dir: &Path) -> Undo<'a> {
        Undo {
            plan,
            dir: dir.to_owned(),
            cgroup: None,
            cover: None,
            init: None,
            hooks_ran: false,
            at_work: false,
            rdt: None,
            armed: true,
        }
    }

    fn has_lost_its_cgroup(&self) -> bool {
        // A scope goes with its process.
        let cgroup = &self.plan.cgroup;
        let had_one = self.cgroup.is_some() && !cgroup.needs_a_process();
        had_one && !self.at_work && cgroup.has_vanished()
    }

    /// Its directory in the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is being made.
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// All is well: everything stays.
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        if let Some(pidfd) = &self.init {
            // It may have ended by itself, and may have been reaped.
            let _ = process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(pidfd.as_fd());
        }
        if let Some(cgroup) = self.cgroup.take() {
            // What the program's hooks or init left in it.
            if let Err(error) = self.plan.cgroup.signal_all(libc::SIGKILL) {
                log::warn(&format!("undo: {error:#}"));
            }
            cgroup.undo();
            if self.plan.cgroup.needs_a_process()
                && let Err(error) = self.plan.cgroup.destroy()
            {
                log::warn(&format!("undo: {error:#}"));
            }
        }
        if let Some(Err(error)) = self.cover.as_ref().map(Cover::remove) {
            log::warn(&format!("undo: {}", crate::error::message(&error)));
        }
        if let Some(group) = &self.rdt
            && let Err(error) = group.remove()
        {
            log::warn(&format!("undo: {error:#}"));
        }
        if self.hooks_ran {
            // A container that failed to be created is deleted (runtime.md, "Lifecycle", 13).
            let state = serde_json::json!({
                "ociVersion": self.plan.spec.version(), "id": self.plan.id,
                "status": "stopped", "pid": 0, "bundle": self.plan.bundle,
            });
            let bytes = state.to_string().into_bytes();
            // That it cannot be opened is the error that has led here.
            let annotations = self.plan.spec.annotations().clone().unwrap_or_default();
            let output = Surroundings::open(&annotations, &self.plan.bundle).unwrap_or_default();
            let hooks = self.plan.hooks();
            for error in hooks::run_all("poststop", hooks.poststop(), &bytes, &output) {
                log::warn(&crate::error::message(&error));
            }
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                log::warn(&format!("undo: remove {}: {error}", self.dir.display()));
            }
            _ => {}
        }
    }
}
