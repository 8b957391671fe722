//! `--log`: where an error goes besides standard error.

use super::{Row, Trial};
use crate::frontend::{Done, finish};
use anyhow::{Context, Result, ensure};
use std::os::unix::net::UnixDatagram;

pub(super) const ROWS: &[Row] = &[
    ("log: file:PATH is a file", file),
    ("log: journald:NAME is the journal", |trial| {
        let text = logged(trial, "journald", "/run/systemd/journal/socket")?;
        ensure!(text.contains("SYSLOG_IDENTIFIER=us\n"), "{text}");
        ensure!(text.contains("PRIORITY=3\n"), "{text}");
        Ok(())
    }),
    ("log: syslog:NAME is the system log", |trial| {
        let text = logged(trial, "syslog", "/dev/log")?;
        ensure!(text.starts_with("<11>") && text.contains("us["), "{text}");
        Ok(())
    }),
    ("log: without a reader there is an error", |trial| {
        trial.skip_for("runc", "it logs to files only")?;
        let _socket = UnixDatagram::bind(trial.path("socket"))?;
        let done = log_in_own_run(trial, "journald", "/run/other")?;
        ensure!(done.code != 0, "{done:?}");
        ensure!(done.err.contains("/run/systemd/journal/socket"), "{done:?}");
        Ok(())
    }),
];

/// What every row asks for is an error that names this.
const ABSENT: &str = "no-such-container";

fn file(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it takes the whole for a path")?;
    let path = trial.path("log");
    let target = format!("file:{}", path.display());
    let done = trial.go(&["--log", &target, "state", ABSENT])?;
    ensure!(done.code != 0, "{done:?}");
    let text = std::fs::read_to_string(&path).context("the log")?;
    ensure!(text.contains(ABSENT), "{text}");
    Ok(())
}

/// Runs the failing verb where the test's socket is at `place`, with a /run of its own.
fn log_in_own_run(trial: &Trial, kind: &str, place: &str) -> Result<Done> {
    let script = r#"
        set -e
        mount -t tmpfs tmpfs /run
        mkdir -p "${2%/*}"
        touch "$2"
        mount --bind "$1" "$2"
        shift 2
        exec "$@""#;
    let socket = trial.path("socket");
    let socket = socket.to_str().context("a path")?;
    let prefix = ["unshare", "-m", "sh", "-c", script, "sh", socket, place];
    let target = format!("{kind}:us");
    let mut command = trial.wrapped(&prefix, &["--log", &target, "state", ABSENT]);
    let result = finish(&mut command, "state", "");
    if place.starts_with("/dev") {
        // The mount point, in the room's own /dev.
        std::fs::remove_file(place).context("remove the mount point")?;
    }
    result
}

/// What the reader of this kind of log gets.
fn logged(trial: &Trial, kind: &str, place: &str) -> Result<String> {
    trial.skip_for("runc", "it logs to files only")?;
    let socket = UnixDatagram::bind(trial.path("socket"))?;
    let done = log_in_own_run(trial, kind, place)?;
    ensure!(done.code != 0, "{done:?}");
    socket.set_nonblocking(true)?;
    let mut buffer = vec![0; 4096];
    let length = socket
        .recv(&mut buffer)
        .with_context(|| format!("nothing was logged: {done:?}"))?;
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    ensure!(text.contains(ABSENT), "{text}");
    Ok(text)
}
