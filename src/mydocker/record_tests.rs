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
