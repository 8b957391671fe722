//! `rename`: another name for a container. A name is a link to an id, and the record says which one
//! counts. Both change under the lock of the names; the record knows the other name meanwhile, so
//! that whatever a killed `rename` leaves is taken back by the next command.

use super::cli::Global;
use super::cli::Rename;
use super::names;
use super::record::{self, Record};
use super::state_dirs::State;
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Result, anyhow};

/// `mydocker rename`
pub fn rename(state: &State, _: &Global, args: &Rename) -> Result<i32> {
    let mut record = record::find(state, &args.container)?;
    let new = args.name.trim_start_matches('/');
    if names::check(new).is_err() {
        let error = anyhow!("rename: invalid name '{}'", args.name);
        return Err(with_exit_code(with_hint(error, names::RULE), 1));
    }
    let given = give(state, &mut record, new).exit_code(1);
    state.unless_removed(&record.id, given)?;
    Ok(0)
}

fn give(state: &State, record: &mut Record, new: &str) -> Result<()> {
    let _one = state.lock_container(&record.id)?;
    let names = state.lock_names()?;
    *record = record::load(state, &record.id)?;
    // Of one that was killed just now: its name would be forgotten.
    if record.other_name.is_some() {
        clear(state, record, &names)?;
    }
    if record.name == new {
        let error = anyhow!("{new} is its name already");
        return Err(with_hint(error, "choose another"));
    }
    let id = record.id.clone();
    record.update(state, true, |record| {
        record.other_name = Some(new.to_owned());
    })?;
    if let Err(error) = state.reserve_locked(new, &id, &names) {
        record.update(state, false, |record| record.other_name = None)?;
        // Whose it is says more than what `--name` could be.
        return Err(crate::error::with_exit_code(error, 1));
    }
    let swap = |record: &mut Record| {
        record.other_name = Some(std::mem::replace(&mut record.name, new.to_owned()));
    };
    let changed = record.update(state, true, swap);
    if changed.is_err() {
        // It was removed meanwhile (--rm), or there is no room: it keeps its old name.
        state.release_locked(new, &id, &names)?;
    }
    changed?;
    let old = record.other_name.clone().unwrap_or_default();
    super::events::of_container(state, record, "rename", &[("oldName", &old)]);
    clear(state, record, &names)
}

/// Takes back what a rename that was killed has left.
pub(super) fn heal(state: &State, record: &Record) -> Result<()> {
    let names = state.lock_names()?;
    let mut record = record::load(state, &record.id)?;
    clear(state, &mut record, &names)
}

/// Frees the name that does not count.
fn clear(state: &State, record: &mut Record, names: &super::state_dirs::NamesLock) -> Result<()> {
    if let Some(other) = record.other_name.take()
        && other != record.name
    {
        state.release_locked(&other, &record.id, names)?;
    }
    record.update(state, false, |record| record.other_name = None)
}

#[cfg(test)]
mod tests {
    use super::super::record::sample;
    use super::super::state_dirs::new_id;
    use super::*;

    /// A state with the container `a` and, named `b`, another.
    fn scratch() -> (State, [Record; 2]) {
        let base = std::env::temp_dir().join(format!("acts-rename-{}", &new_id().unwrap()[..12]));
        let state = State {
            root: base.join("root"),
            run: base.join("run"),
        };
        let records = ["old", "other"].map(|name| {
            let id = new_id().unwrap();
            let _lock = state.create_container(&id).unwrap();
            state.reserve_name(name, &id).unwrap();
            let mut record = sample(&id);
            record.name = name.to_owned();
            record.save_for_now(&state).unwrap();
            record
        });
        (state, records)
    }

    #[test]
    fn one_name_counts_at_any_time() {
        let (state, [mut a, b]) = scratch();
        let error = give(&state, &mut a, "other").unwrap_err();
        assert!(error.to_string().contains("already used"), "{error}");
        assert_eq!(record::load(&state, &a.id).unwrap().other_name, None);
        give(&state, &mut a, "new").unwrap();
        assert_eq!(state.named("old"), None);
        assert_eq!(record::find_id(&state, "new").unwrap(), a.id);
        assert_eq!(record::find_id(&state, "other").unwrap(), b.id);
        assert!(give(&state, &mut a, "new").is_err(), "the same");
        std::fs::remove_dir_all(state.root.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_killed_rename_leaves_no_name() {
        let (state, [mut a, mut b]) = scratch();
        // Killed before the record changed: the new name is no name yet, and free for others.
        a.update(&state, false, |a| a.other_name = Some("new".into()))
            .unwrap();
        state.reserve_name("new", &a.id).unwrap();
        assert!(record::find_id(&state, "new").is_err());
        assert_eq!(record::find_id(&state, "old").unwrap(), a.id);
        give(&state, &mut b, "new").unwrap();
        assert_eq!(state.named("new"), Some(b.id.clone()));
        heal(&state, &a).unwrap();
        assert_eq!(
            state.named("new"),
            Some(b.id.clone()),
            "it is another's now"
        );
        // Killed after: the old one is a name no more.
        state.reserve_name("newer", &a.id).unwrap();
        a.update(&state, false, |a| {
            a.other_name = Some(std::mem::replace(&mut a.name, "newer".into()));
        })
        .unwrap();
        assert!(record::find_id(&state, "old").is_err());
        // Healed by the next rename as well as by any other command.
        give(&state, &mut a, "newest").unwrap();
        assert_eq!((state.named("old"), state.named("newer")), (None, None));
        assert_eq!(state.named("newest"), Some(a.id));
        std::fs::remove_dir_all(state.root.parent().unwrap()).unwrap();
    }
}
