//! `boot`: after a reboot, starts again what its restart policy wants to run always. There is no
//! daemon to do it: a unit of systemd calls this once (scripts/mydocker-boot.service).

use super::cli::{Boot, Global};
use super::record::{self, Entry, Record, Status};
use super::state_dirs::State;
use super::values::Restart;
use super::{report, start};
use anyhow::Result;

/// `mydocker boot`
pub fn boot(state: &State, _: &Global, args: &Boot) -> Result<i32> {
    let mut failed = false;
    // Looking at all of them notes the end of those that the last boot has cut off.
    for entry in record::all(state)? {
        let Entry::Known(record, status) = entry else {
            continue;
        };
        if !wants_to_run(&record, &status) || state.is_monitored(&record.id) {
            continue;
        }
        if !args.dry_run
            && let Err(error) = start::begin(state, &record)
        {
            report(&error.context(format!("start {}", record.name)));
            failed = true;
            continue;
        }
        if let Err(error) = super::say(&record.name) {
            report(&error);
            failed = true;
        }
    }
    Ok(i32::from(failed))
}

/// As Docker at its own start: `always` even after a `stop`, `unless-stopped` not then, and neither
/// if it was never started.
fn wants_to_run(record: &Record, status: &Status) -> bool {
    let Status::Exited(_) = status else {
        return false;
    };
    match record.restart {
        Restart::Always => true,
        Restart::UnlessStopped => !record.stopping || record.is_shut_down,
        Restart::No | Restart::OnFailure(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Exit, sample};
    use super::super::told;
    use super::*;

    #[test]
    fn who_is_started_after_a_reboot() {
        let exited = Status::Exited(Exit::of(None));
        let of = |restart, stopping, status: &Status| {
            let mut record = sample("0");
            (record.restart, record.stopping) = (restart, stopping);
            wants_to_run(&record, status)
        };
        assert!(of(Restart::Always, false, &exited) && of(Restart::Always, true, &exited));
        assert!(of(Restart::UnlessStopped, false, &exited));
        assert!(!of(Restart::UnlessStopped, true, &exited));
        let mut ended_by_systemd = sample("0");
        ended_by_systemd.restart = Restart::UnlessStopped;
        told::shut_down(&mut ended_by_systemd);
        assert!(wants_to_run(&ended_by_systemd, &exited));
        let mut stopped_before = sample("0");
        stopped_before.restart = Restart::UnlessStopped;
        stopped_before.stopping = true;
        told::shut_down(&mut stopped_before);
        assert!(!wants_to_run(&stopped_before, &exited));
        assert!(!of(Restart::OnFailure(None), false, &exited));
        assert!(!of(Restart::No, false, &exited));
        assert!(!of(Restart::Always, false, &Status::Created));
        assert!(!of(Restart::Always, false, &Status::Running { pid: 1 }));
    }
}
