//! `pause` and `unpause`.

use super::cli::{Containers, Global};
use super::reach::cgroup_of;
use super::record::{self, Record, Status};
use super::runtime_cli::Runtime;
use super::state_dirs::State;
use super::stop;
use super::{commit, events};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Result, anyhow};

/// `mydocker pause`
pub fn pause(state: &State, _: &Global, args: &Containers) -> Result<i32> {
    super::for_each(&args.containers, |name| {
        let record = standing(state, name)?;
        stop::alive(state, &record)?;
        if matches!(record.status(state), Status::Paused { .. }) {
            let error = anyhow!("{name} is paused already");
            let hint = format!("mydocker unpause {name} lets it go on");
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        state.unless_removed(&record.id, freeze(state, &record))?;
        events::of_container(state, &record, "pause", &[]);
        super::say(name)
    })
}

/// `mydocker unpause`
pub fn unpause(state: &State, _: &Global, args: &Containers) -> Result<i32> {
    super::for_each(&args.containers, |name| {
        let record = standing(state, name)?;
        stop::alive(state, &record)?;
        if !matches!(record.status(state), Status::Paused { .. }) {
            let error = anyhow!("{name} is not paused");
            let hint = format!("mydocker pause {name} freezes it");
            return Err(with_exit_code(with_hint(error, hint), 1));
        }
        state.unless_removed(&record.id, thaw(state, &record))?;
        events::of_container(state, &record, "unpause", &[]);
        super::say(name)
    })
}

/// The container, when no commit has it frozen.
fn standing(state: &State, name: &str) -> Result<Record> {
    loop {
        let record = record::find(state, name)?;
        // After one there may be another.
        if !commit::until_nobody_commits(&record) {
            return Ok(record);
        }
    }
}

/// Whether there is a cgroup to freeze it by.
pub(super) fn can_freeze(record: &Record) -> bool {
    let process = record.process.as_ref();
    process.is_none_or(|process| !matches!(cgroup_of(&record.id, process.pid), Ok(None)))
}

/// Freezes all processes of a container.
pub(super) fn freeze(state: &State, record: &Record) -> Result<()> {
    if !can_freeze(record) {
        let error = anyhow!(
            "{} has no cgroup of its own, by which it could be frozen",
            record.name
        );
        let hint = "`mydocker doctor` tells how this user can have cgroups";
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    let runtime = Runtime::new(state, &record.runtime);
    runtime.simple("pause", &record.id).exit_code(1)
}

/// Lets them go on.
pub(super) fn thaw(state: &State, record: &Record) -> Result<()> {
    let runtime = Runtime::new(state, &record.runtime);
    runtime.simple("resume", &record.id).exit_code(1)
}
