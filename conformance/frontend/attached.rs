//! `attach`: sitting down at a container that runs.

use super::Row;
use super::kit::{Desk, Place, finish, wait_for};
use anyhow::{Context, Result, ensure};
use std::process::Stdio;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "attach: a shell of run -itd, its size, the keys to leave, and back",
        run: shell,
    },
    Row {
        name: "attach: output and input without a terminal, and the exit code",
        run: streams,
    },
    Row {
        name: "attach: signals go to the program, or do not",
        run: signals,
    },
    Row {
        name: "attach: what cannot be attached to",
        run: refused,
    },
    Row {
        name: "attach: somebody who does not read keeps nobody waiting",
        run: slow,
    },
];

fn shell(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "-itd", "--name", "z", "busybox", "sh"])?
        .ok()?;
    let mut terminal = desk.terminal(&["attach", "z"])?;
    terminal.send("stty size; a=$((40 + 2)); echo v$a\n")?;
    terminal.expect("33 111")?;
    terminal.expect("v42")?;
    terminal.resize(41, 97)?;
    wait_for("the container's terminal has the new size", || {
        let done = desk.go(&["exec", "z", "sh", "-c", "stty size < /proc/1/fd/0"])?;
        Ok((done.line() == "41 97").then_some(()))
    })?;
    terminal.send("\x10\x11")?;
    let done = terminal.finish()?.ok()?;
    ensure!(done.out.contains("detached from z"), "{done:?}");
    // It is the same shell, in another window, with other keys to leave.
    let mut terminal = desk.terminal(&["attach", "--detach-keys", "ctrl-x,d", "z"])?;
    terminal.send("echo again$a\n")?;
    terminal.expect("again42")?;
    terminal.send("\x18d")?;
    terminal.finish()?.ok()?;
    let mut terminal = desk.terminal(&["attach", "z"])?;
    terminal.send("exit 5\n")?;
    terminal.finish()?.code(5)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (5)"), "{row:?}");
    // All of it is in the log.
    let done = desk.go(&["logs", "z"])?.ok()?;
    ensure!(
        done.out.contains("v42") && done.out.contains("again42"),
        "{done:?}"
    );
    Ok(())
}

fn streams(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "while read line; do case $line in end) exit 3;; *) echo got $line; \
                  echo err $line >&2;; esac; done";
    desk.start(&["-i", "--name", "z", "busybox", "sh", "-c", script])?;
    // The end of our input is not the end of the container's.
    let first = desk.go_with(&["exec", "-i", "z", "true"], "")?;
    first.ok()?;
    let mut command = desk.command(desk.program());
    command.args(["attach", "z"]).stdin(Stdio::piped());
    let done = finish(&mut command, "attach z", "one\ntwo\nend\n")?.code(3)?;
    ensure!(done.out == "got one\ngot two\n", "{done:?}");
    ensure!(done.err.contains("err one\nerr two\n"), "{done:?}");
    Ok(())
}

fn signals(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.1; done";
    desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    desk.logged("z", "ready")?;
    let mut timed = desk.command(std::path::Path::new("timeout"));
    timed.arg("0.5").arg(desk.program());
    timed.args(["attach", "--sig-proxy=false", "z"]);
    // `timeout` says that it had to send the signal.
    finish(&mut timed, "timeout attach", "")?.code(124)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    let mut timed = desk.command(std::path::Path::new("timeout"));
    timed.args(["--preserve-status", "0.5"]).arg(desk.program());
    timed.args(["attach", "z"]);
    let done = finish(&mut timed, "timeout attach", "")?.code(4)?;
    ensure!(done.out == "term\n", "{done:?}");
    Ok(())
}

fn refused(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["attach", "nobody"])?
        .fails(1, &["no such container"])?;
    desk.start(&["--name", "over", "busybox", "true"])?;
    desk.wait("over")?;
    desk.go(&["attach", "over"])?.fails(1, &["not running"])?;
    desk.start(&["--name", "quiet", "--log-driver", "none", "busybox", "top"])?;
    desk.go(&["attach", "quiet"])?
        .fails(1, &["--log-driver none"])?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    desk.go(&["attach", "--detach-keys", "F1", "z"])?
        .fails(125, &["F1"])?;
    desk.go(&["pause", "z"])?.ok()?;
    desk.go(&["attach", "z"])?.fails(1, &["paused"])?;
    desk.go(&["unpause", "z"])?.ok()?;
    Ok(())
}

fn slow(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "while [ ! -e /go ]; do sleep 0.1; done; yes | head -c 1000000; echo; echo done; \
                  exec sleep 1000";
    desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    let mut command = desk.command(desk.program());
    command.args(["attach", "z"]).stdout(Stdio::piped());
    let mut idle = command.spawn().context("attach")?;
    desk.go(&["exec", "z", "touch", "/go"])?.ok()?;
    let logged = desk.logged("z", "done");
    idle.kill().context("end the one who does not read")?;
    idle.wait()?;
    logged
}
