//! What is told of a container must be true in the corners too: why it ended, who saw it, and what
//! it does between two lives.

use super::Row;
use super::halfway::Going;
use super::kit::{Desk, Place, ended, opened, wait_for};
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "why and ps: what was killed for memory in it is not why it ended",
        run: another_killed,
    },
    Row {
        name: "why and ps: out of memory without a monitor",
        run: unwatched,
    },
    Row {
        name: "ps: a monitor that does not answer hides no exit code",
        run: deaf_monitor,
    },
    Row {
        name: "one ps brings back what its policy wants, after monitor and container were killed",
        run: both_killed,
    },
    Row {
        name: "start twice at once runs the program once",
        run: started_once,
    },
    Row {
        name: "a container between two lives says so at once",
        run: between_lives,
    },
    Row {
        name: "a policy counts in the foreground too, where it goes at its end",
        run: lives_in_front,
    },
    Row {
        name: "the name of one that nobody wants any more is free",
        run: left_name,
    },
    Row {
        name: "create -ti needs no terminal",
        run: created_anywhere,
    },
];

/// Takes all memory there is.
const HOG: &str = "a=xx; while :; do a=$a$a; done";

fn another_killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "o", "-m", "20m", "busybox", "sleep", "1000"])?;
    desk.go(&["exec", "o", "sh", "-c", HOG])?.code(137)?;
    desk.go(&["kill", "o"])?.ok()?;
    ensure!(desk.wait("o")? == 137, "another code");
    let row = desk.row("o")?.context("no row")?;
    ensure!(
        row.contains("exited (137)") && !row.contains("memory"),
        "{row:?}"
    );
    let done = desk.go(&["why", "o"])?.ok()?;
    ensure!(done.out.contains("not why it ended"), "{done:?}");
    // One that got over it.
    let script = format!("sh -c '{HOG}'; exit 0");
    let done = desk.go(&["run", "-m", "20m", "busybox", "sh", "-c", &script])?;
    let done = done.ok()?;
    ensure!(!done.err.contains("memory limit"), "{done:?}");
    Ok(())
}

/// A script that waits for the file /c/go of a volume, and the option for that.
fn on_a_word(desk: &Desk, then: &str) -> Result<(String, String)> {
    let dir = desk.path("c");
    std::fs::create_dir(&dir).context("mkdir")?;
    let script = format!("while [ ! -e /c/go ]; do sleep 0.05; done; {then}");
    Ok((script, format!("{}:/c", dir.display())))
}

fn unwatched(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (script, volume) = on_a_word(&desk, HOG)?;
    let args = [
        "--name", "o", "-m", "20m", "-v", &volume, "busybox", "sh", "-c",
    ];
    desk.start(&[&args[..], &[script.as_str()]].concat())?;
    let pid = desk.pid("o")?;
    strike(monitor_of(pid)?)?;
    desk.write("c/go", "")?;
    ended(pid, "the program")?;
    let row = desk.row("o")?.context("no row")?;
    ensure!(row.contains("out of memory: limit 20m"), "{row:?}");
    let done = desk.go(&["why", "o"])?.ok()?;
    for words in ["nobody watched it end", "memory limit of 20m", "cpu time"] {
        ensure!(done.out.contains(words), "{words:?}: {done:?}");
    }
    Ok(())
}

fn deaf_monitor(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    let pid = desk.pid("z")?;
    let monitor = Pid::from_raw(monitor_of(pid)?);
    kill(monitor, Signal::SIGSTOP).context("stop the monitor")?;
    strike(pid)?;
    let row = desk.row("z");
    kill(monitor, Signal::SIGCONT).context("let the monitor go on")?;
    let row = row?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row:?}");
    ensure!(desk.wait("z")? == 137, "another code");
    Ok(())
}

fn both_killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let dir = desk.path("c");
    std::fs::create_dir(&dir)?;
    let volume = format!("{}:/c", dir.display());
    let script = "echo life >> /c/lives; exec sleep 1000";
    let args = [
        "--restart",
        "always",
        "--name",
        "z",
        "-v",
        &volume,
        "busybox",
    ];
    desk.start(&[&args[..], &["sh", "-c", script]].concat())?;
    let pid = desk.pid("z")?;
    strike(monitor_of(pid)?)?;
    strike(pid)?;
    desk.go(&["ps"])?.ok()?;
    wait_for("it lives again", || {
        let lives = std::fs::read_to_string(dir.join("lives"))?;
        Ok((lives.lines().count() == 2).then_some(()))
    })
}

fn started_once(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (script, volume) = on_a_word(&desk, "exit 6")?;
    let script = format!("echo life >> /c/lives; {script}");
    let args = [
        "create", "--name", "s", "-v", &volume, "busybox", "sh", "-c",
    ];
    desk.go(&[&args[..], &[script.as_str()]].concat())?.ok()?;
    let lives = desk.path("c").join("lives");
    let first = Going::run(&desk, &["start", "-a", "s"])?;
    // It comes before, in the midst of, or after the other's beginning.
    desk.go(&["start", "s"])?;
    wait_for("a life", || Ok(lives.exists().then_some(())))?;
    let second = Going::run(&desk, &["start", "-a", "s"])?;
    let pid = second.0.id();
    // What a container does is followed by inotify(7).
    wait_for("it attends", || {
        let opened = opened(pid as i32)?;
        let is_inotify = |path: &PathBuf| path.to_string_lossy().contains("inotify");
        Ok(opened.iter().any(is_inotify).then_some(()))
    })?;
    desk.write("c/go", "")?;
    ensure!(desk.wait("s")? == 6, "another code");
    first.done("start -a s")?.code(6)?;
    second.done("start -a s")?.code(6)?;
    let lives = std::fs::read_to_string(lives)?;
    ensure!(lives == "life\n", "{lives:?}");
    Ok(())
}

fn between_lives(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo life; exit 1";
    let policy = ["--restart", "always", "--name", "r"];
    desk.start(&[&policy[..], &["busybox", "sh", "-c", script]].concat())?;
    // The pauses get longer: the sixth has 3.2 s. The count goes up a moment before the life begins.
    wait_for("a long pause", || {
        let lives = desk.go(&["logs", "r"])?.ok()?.out.lines().count();
        let state = desk.inspect("r", "{{.RestartCount}} {{.State.Restarting}}")?;
        Ok((lives == 6 && state == "5 true").then_some(()))
    })?;
    desk.go(&["rm", "r"])?.fails(1, &["restarting", "stop"])?;
    desk.go(&["cp", "r:/etc/hosts", &desk.text("out")])?
        .fails(1, &["restarting"])?;
    desk.go(&["exec", "r", "true"])?.fails(1, &["restarting"])?;
    // It is about to be.
    desk.go(&["start", "r"])?.ok()?;
    desk.go(&["rm", "-f", "r"])?.ok()?;
    Ok(())
}

fn lives_in_front(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo life; exit 3";
    let policy = ["run", "--restart", "on-failure:2", "--name", "z"];
    let done = desk
        .go(&[&policy[..], &["busybox", "sh", "-c", script]].concat())?
        .code(3)?;
    ensure!(done.out == "life\n".repeat(3), "{done:?}");
    ensure!(desk.rows()?.is_empty(), "it is still there");
    Ok(())
}

fn left_name(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--rm", "--name", "z", "busybox", "top"])?;
    let pid = desk.pid("z")?;
    strike(monitor_of(pid)?)?;
    strike(pid)?;
    desk.go(&["create", "--name", "z", "busybox", "true"])?
        .ok()
        .map(drop)
}

fn created_anywhere(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["create", "-ti", "--name", "z", "busybox"])?
        .ok()
        .map(drop)
}
