use super::*;

#[test]
fn a_process_is_itself_and_no_other() {
    let mut me = Process::of(std::process::id() as i32).unwrap();
    assert!(me.is_alive() && me.open().is_some());
    me.start_time += 1;
    assert!(!me.is_alive() && me.open().is_none());
    me.start_time -= 1;
    me.boot_id.push('x');
    assert!(!me.is_alive(), "another boot");
}

#[test]
fn a_program_may_be_called_anything() {
    let rest = "1 ".repeat(29);
    let line = format!("12 (a) S 1) Z 1 1 1 0 -1 1 1 1 1 1 1 1 1 1 1 1 1 0 4711 {rest}1536");
    let stat = parse_stat(line.as_bytes()).unwrap();
    assert_eq!((stat.state, stat.start_time), (b'Z', 4711));
    assert_eq!(Ended::of_status(stat.exit_status), Ended::Exited(6));
    assert_eq!(parse_stat(b"12 (a"), None);
    assert_eq!(parse_stat(b""), None);
}

#[test]
fn statuses_read_as_documented() {
    let exit = |code| {
        Status::Exited(Exit {
            code,
            signal: None,
            oom: false,
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

#[test]
fn nobodys_change_is_lost() {
    let id = super::super::state_dirs::new_id().unwrap();
    let base = std::env::temp_dir().join(format!("acts-record-{}", short(&id)));
    let state = State {
        root: base.join("root"),
        run: base.join("run"),
    };
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
    let path = state.container(&id).join("record.json");
    std::fs::write(&path, "{").unwrap();
    first.clone().update(&state, false, |_| {}).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &path).unwrap();
    assert!(first.clone().update(&state, false, |_| {}).is_err());
    assert!(path.is_symlink());
    // What was removed does not come back.
    std::fs::remove_file(state.container(&id).join("record.json")).unwrap();
    assert!(first.clone().update(&state, false, |_| {}).is_err());
    assert!(load(&state, &id).is_err());
    std::fs::remove_dir_all(base).unwrap();
}
