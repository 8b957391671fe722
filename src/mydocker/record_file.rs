//! How a container's record lies on the disk. `record.json` is what the next boot finds: it is written
//! with fsync(2), which takes milliseconds, at the few moments that must outlive a power cut. What is
//! true only until the next boot (which process it is, who is about to restart it) is written beside
//! it, into a file that bears the id of this boot; where that is, it is what counts. Both are replaced as a
//! whole, under the lock of the record.

use super::record::Record;
use super::rm::forgive_missing;
use super::state_dirs::{State, short};
use super::whole_file::{keep_spare, replace_for_now, replace_on_full_disk};
use crate::error::ResultExt;
use crate::sys::process::boot_id;
use anyhow::{Context, Result, anyhow};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// The name of what outlives this boot.
const LASTING: &str = "record.json";

/// The name of the room that is kept for it (`whole_file::keep_spare`).
const SPARE: &str = "spare";

/// Room for a record and its copy.
const ROOM: usize = 16 << 10;

/// Where the record of this boot is, if there is one.
fn of_this_boot(dir: &Path) -> Result<PathBuf> {
    let boot = boot_id().context("read the boot id")?;
    Ok(dir.join(format!("record.{boot}.json")))
}

/// The record of the container with this id.
pub fn load(state: &State, id: &str) -> Result<Record> {
    read(&state.container(id))
}

/// The record of the container whose directory this is.
pub(super) fn read(dir: &Path) -> Result<Record> {
    let mut path = of_this_boot(dir)?;
    let mut bytes = std::fs::read(&path);
    if matches!(&bytes, Err(error) if error.kind() == ErrorKind::NotFound) {
        path = dir.join(LASTING);
        bytes = std::fs::read(&path);
    }
    let bytes = bytes.with_context(|| format!("read {}", path.display()))?;
    let id = dir.file_name().unwrap_or_default().to_string_lossy();
    decode(&bytes)
        .with_context(|| format!("the record {} is damaged", path.display()))
        .hint(format!(
            "remove what is left of it: mydocker rm -f {}",
            short(&id)
        ))
}

fn decode(bytes: &[u8]) -> Result<Record> {
    serde_json::from_slice(bytes).map_err(|error| match bytes.is_empty() {
        true => anyhow!("it is empty"),
        false => error.into(),
    })
}

/// Whether the container whose directory this is has a record.
pub(super) fn is_in(dir: &Path) -> bool {
    // In this order: one that is saved durably is the other file before it is not this one.
    of_this_boot(dir).is_ok_and(|path| path.exists()) || dir.join(LASTING).exists()
}

/// Removes the record of the container whose directory this is: with that it is gone.
pub(super) fn remove_from(dir: &Path) -> Result<()> {
    for path in [dir.join(LASTING), of_this_boot(dir)?] {
        forgive_missing(std::fs::remove_file(&path))
            .with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Removes what counted in other boots. Best effort: it does no harm.
pub(super) fn forget_past(state: &State, id: &str) {
    let dir = state.container(id);
    let Ok(present) = of_this_boot(&dir) else {
        return;
    };
    let is_past = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("record.") && name != LASTING && *path != present
    };
    let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    for path in files.map(|file| file.path()).filter(is_past) {
        let _ = std::fs::remove_file(path);
    }
}

/// Has the disk know, durably, of a container that is being started, or was: that it runs. So whoever
/// waits for the start has the time for it, and it need not be done afterwards. In this boot all is as
/// before.
pub(super) fn outlive_power_cut(state: &State, id: &str) -> Result<()> {
    let _lock = state.lock_record(id)?;
    let dir = state.container(id);
    let lasting = dir.join(LASTING);
    let known = std::fs::read(&lasting).map(|bytes| decode(&bytes));
    let runs =
        |record: &Record| !record.starting && record.started.is_some() && record.exit.is_none();
    if matches!(&known, Ok(Ok(record)) if runs(record)) {
        return Ok(());
    }
    let mut record = load(state, id)?;
    if record.started.is_some() && record.exit.is_some() {
        // It was faster: its end is on the disk.
        return Ok(());
    }
    let present = of_this_boot(&dir)?;
    if !present.exists() {
        record.save_for_now(state)?;
    }
    record.starting = false;
    record.started.get_or_insert_with(OffsetDateTime::now_utc);
    record.exit = None;
    record.failed = None;
    let spare = dir.join(SPARE);
    replace_on_full_disk(&lasting, &encode(&record)?, true, &spare)?;
    record.keep_room(&spare);
    Ok(())
}

fn encode(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).context("encode the record")
}

impl Record {
    /// Replaces the record, durably.
    pub fn save(&self, state: &State) -> Result<()> {
        let dir = state.container(&self.id);
        let (bytes, present) = (encode(self)?, of_this_boot(&dir)?);
        let spare = dir.join(SPARE);
        let before = std::fs::read(&present).ok();
        if before.is_some() {
            // First, so that no older one counts if we are killed between the two. On a full disk there may
            // be room for one alone.
            let _ = replace_for_now(&present, &bytes);
        }
        let saved = replace_on_full_disk(&dir.join(LASTING), &bytes, true, &spare);
        if let (Err(_), Some(before)) = (&saved, before) {
            let _ = replace_for_now(&present, &before);
        }
        saved?;
        forgive_missing(std::fs::remove_file(&present))
            .with_context(|| format!("remove {}", present.display()))?;
        self.keep_room(&spare);
        Ok(())
    }

    /// Replaces the record with what is true only until the next boot.
    pub fn save_for_now(&self, state: &State) -> Result<()> {
        let dir = state.container(&self.id);
        let (bytes, present) = (encode(self)?, of_this_boot(&dir)?);
        if replace_for_now(&present, &bytes).is_ok() {
            return Ok(());
        }
        let spare = dir.join(SPARE);
        replace_on_full_disk(&present, &bytes, false, &spare)?;
        self.keep_room(&spare);
        Ok(())
    }

    /// Keeps room for the next time, or again what a full disk has just taken of it. One that is removed
    /// at its end is gone before it could be in need of it.
    fn keep_room(&self, spare: &Path) {
        if !self.remove {
            keep_spare(spare, ROOM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{self, Entry, Status, is_unrecorded, sample};
    use super::super::rm::heal_unpublished;
    use super::*;

    /// A directory of the test's own, a state in it, and the id of a container that has a directory.
    fn scratch(name: &str) -> (PathBuf, State, String) {
        let id = super::super::state_dirs::new_id().unwrap();
        let base = std::env::temp_dir().join(format!("acts-{name}-{}", short(&id)));
        let state = State {
            root: base.join("root"),
            run: base.join("run"),
        };
        drop(state.create_container(&id).unwrap());
        (base, state, id)
    }

    /// What counts in this boot counts no more.
    fn reboot(dir: &Path) {
        let present = of_this_boot(dir).unwrap();
        if present.exists() {
            std::fs::rename(present, dir.join("record.another-boot.json")).unwrap();
        }
    }

    #[test]
    fn what_is_true_for_now_is_forgotten_by_the_next_boot() {
        let (base, state, id) = scratch("boots");
        let dir = state.container(&id);
        let mut record = sample(&id);
        record.save(&state).unwrap();
        record
            .update(&state, false, |record| record.restarts = 1)
            .unwrap();
        assert_eq!(load(&state, &id).unwrap().restarts, 1);
        reboot(&dir);
        assert_eq!(load(&state, &id).unwrap().restarts, 0);
        // What is said durably counts in both.
        record
            .update(&state, false, |record| record.restarts = 2)
            .unwrap();
        record
            .update(&state, true, |record| record.name = "b".to_owned())
            .unwrap();
        assert!(!of_this_boot(&dir).unwrap().exists());
        let found = load(&state, &id).unwrap();
        assert_eq!((found.restarts, found.name.as_str()), (2, "b"));
        forget_past(&state, &id);
        let names = std::fs::read_dir(&dir).unwrap().flatten();
        let names = names.map(|file| file.file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        assert_eq!(names, ["monitor", LASTING, SPARE]);
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_could_not_be_saved_does_not_count() {
        let (base, state, id) = scratch("unsaved");
        let mut record = sample(&id);
        record.save_for_now(&state).unwrap();
        let in_the_way = state.container(&id).join("record.json.new");
        std::fs::create_dir(&in_the_way).unwrap();
        let renamed = record.update(&state, true, |record| record.name = "b".to_owned());
        assert!(renamed.is_err());
        assert_eq!(load(&state, &id).unwrap(), sample(&id));
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn what_the_disk_need_not_know_goes_by_itself() {
        let (base, state, id) = scratch("fleeting");
        let record = Record {
            fleeting: true,
            remove: true,
            ..sample(&id)
        };
        record.save_for_now(&state).unwrap();
        assert!(state.has_record(&id) && !heal_unpublished(&state, &id));
        reboot(&state.container(&id));
        assert!(!state.has_record(&id) && heal_unpublished(&state, &id));
        assert!(!state.container(&id).exists());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn one_that_is_published_after_the_look_is_not_damaged() {
        let (base, state, id) = scratch("published");
        let unseen = load(&state, &id).unwrap_err();
        sample(&id).save_for_now(&state).unwrap();
        assert!(state.has_record(&id) && is_unrecorded(&unseen));
        std::fs::write(of_this_boot(&state.container(&id)).unwrap(), "").unwrap();
        assert!(!is_unrecorded(&load(&state, &id).unwrap_err()));
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn one_that_was_started_outlives_a_power_cut() {
        let (base, state, id) = scratch("started");
        let starting = Record {
            starting: true,
            ..sample(&id)
        };
        starting.save_for_now(&state).unwrap();
        outlive_power_cut(&state, &id).unwrap();
        assert_eq!(load(&state, &id).unwrap(), starting, "in this boot");
        reboot(&state.container(&id));
        let found = record::all(&state).unwrap();
        let [Entry::Known(record, Status::Exited(exit))] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(exit.unwatched && !record.starting, "{record:?}");
        // What the disk knows already is newer.
        let noted = load(&state, &id).unwrap();
        outlive_power_cut(&state, &id).unwrap();
        assert_eq!(load(&state, &id).unwrap(), noted);
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_start_that_was_noted_as_under_way_is_told_too() {
        let (base, state, id) = scratch("under-way");
        let mut record = Record {
            starting: true,
            ..sample(&id)
        };
        record.save_for_now(&state).unwrap();
        // As `stop` does where there is a restart policy.
        record
            .update(&state, true, |record| record.stopping = true)
            .unwrap();
        outlive_power_cut(&state, &id).unwrap();
        assert!(load(&state, &id).unwrap().starting, "in this boot");
        reboot(&state.container(&id));
        let found = load(&state, &id).unwrap();
        assert!(found.stopping && !found.starting && found.started.is_some());
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn nobodys_change_is_lost() {
        let (base, state, id) = scratch("record");
        let first = sample(&id);
        first.save_for_now(&state).unwrap();
        let hundred_times = |change: fn(&mut Record)| {
            let mut mine = first.clone();
            for _ in 0..100 {
                mine.update(&state, false, change).unwrap();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| hundred_times(|record| record.restarts += 1));
            scope.spawn(|| hundred_times(|record| record.restarts += 1));
        });
        assert_eq!(load(&state, &id).unwrap().restarts, 200);
        // What is damaged is made whole, and what cannot be read is left alone.
        let path = of_this_boot(&state.container(&id)).unwrap();
        std::fs::write(&path, "{").unwrap();
        first.clone().update(&state, false, |_| {}).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
        assert!(first.clone().update(&state, false, |_| {}).is_err());
        assert!(path.is_symlink());
        // What was removed does not come back.
        std::fs::remove_file(&path).unwrap();
        assert!(first.clone().update(&state, false, |_| {}).is_err());
        assert!(load(&state, &id).is_err());
        std::fs::remove_dir_all(base).unwrap();
    }
}
