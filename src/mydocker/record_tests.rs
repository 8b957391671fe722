use super::*;

#[test]
fn statuses_read_as_documented() {
    let exit = |code| {
        Status::Exited(Exit {
            code,
            signal: None,
            oom: false,
            unwatched: false,
            stopped: false,
            at: OffsetDateTime::UNIX_EPOCH,
            usage: None,
        })
    };
    assert_eq!(exit(Some(137)).to_string(), "exited (137)");
    assert_eq!(
        exit(None).to_string(),
        "exited (code unknown: its monitor was killed)"
    );
    assert_eq!(Status::Running { pid: 1 }.to_string(), "running");
}

/// A directory of the test's own, a state in it, and an id.
fn scratch(name: &str) -> (PathBuf, State, String) {
    let id = super::super::state_dirs::new_id().unwrap();
    let base = std::env::temp_dir().join(format!("acts-{name}-{}", short(&id)));
    let state = State {
        root: base.join("root"),
        run: base.join("run"),
    };
    (base, state, id)
}

#[test]
fn a_power_cut_may_empty_a_record_that_need_not_last() {
    let (base, state, id) = scratch("empty");
    for fleeting in [false, true] {
        let lock = state.create_container(&id).unwrap();
        let record = Record {
            fleeting,
            remove: fleeting,
            ..sample(&id)
        };
        record.save_for_now(&state).unwrap();
        drop(lock);
        std::fs::write(state.container(&id).join(RECORD), "").unwrap();
        assert_eq!(state.has_record(&id), !fleeting);
        assert_eq!(super::super::rm::heal_unpublished(&state, &id), fleeting);
        assert_eq!(state.container(&id).exists(), !fleeting);
        let _ = std::fs::remove_dir_all(&base);
    }
}

#[test]
fn nobodys_change_is_lost() {
    let (base, state, id) = scratch("record");
    let _lock = state.create_container(&id).unwrap();
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
    let path = state.container(&id).join(RECORD);
    std::fs::write(&path, "{").unwrap();
    first.clone().update(&state, false, |_| {}).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
    assert!(first.clone().update(&state, false, |_| {}).is_err());
    assert!(path.is_symlink());
    // What was removed does not come back.
    std::fs::remove_file(state.container(&id).join(RECORD)).unwrap();
    assert!(first.clone().update(&state, false, |_| {}).is_err());
    assert!(load(&state, &id).is_err());
    std::fs::remove_dir_all(base).unwrap();
}
