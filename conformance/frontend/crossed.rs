//! Two commands that meet at one container. Whoever comes second waits for the first, and then does
//! what it is asked for. Who is first is no matter of luck: the row itself holds the lock that both wait
//! for.

use super::Row;
use super::halfway::{Going, caller, halting, halting_after, waits};
use super::kit::{Desk, Done, Place, is_in, opened, wait_for};
use super::survive::strike;
use anyhow::{Context, Result, anyhow, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "crossed: rm -f behind a start or a restart removes",
        run: removed_behind_a_start,
    },
    Row {
        name: "crossed: start and restart behind rm -f find no container",
        run: started_behind_a_removal,
    },
    Row {
        name: "crossed: who waits for a killed rm -f or start goes on",
        run: killed_first,
    },
    Row {
        name: "crossed: rm waits for a start, and then finds that it runs",
        run: plain_rm_behind_a_start,
    },
    Row {
        name: "crossed: stop ends what a restart that was there before begins",
        run: stopped_behind_a_restart,
    },
    Row {
        name: "crossed: stop hastens a restart that waits for a deaf program",
        run: stop_hastens,
    },
    Row {
        name: "crossed: kill waits for a start and a restart",
        run: killed_behind_a_restart,
    },
    Row {
        name: "crossed: rm -f and stop of what is paused at that moment",
        run: frozen_again,
    },
    Row {
        name: "crossed: cp from what is just being started",
        run: copied_behind_a_start,
    },
    Row {
        name: "crossed: a program runs, and its start is not noted yet",
        run: asked_in_a_start,
    },
    Row {
        name: "crossed: a name is taken while its owner is being removed",
        run: named_behind_a_removal,
    },
];

/// The lock under which containers are started and removed, held as by a command that takes its time.
fn hold(desk: &Desk, id: &str) -> Result<Flock<File>> {
    let path = desk.root().join("containers").join(id).join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| anyhow!("lock: {errno}"))
}

/// A command that waits for the lock of this name.
fn waiting(desk: &Desk, args: &[&str], lock: &str) -> Result<Going> {
    let going = Going::run(desk, args)?;
    let pid = going.0.id() as i32;
    wait_for(&format!("{args:?} waits for {lock}"), || {
        let in_flock = is_in(pid, nix::libc::SYS_flock)?;
        Ok((in_flock && has_open(pid, lock)?).then_some(()))
    })?;
    Ok(going)
}

fn has_open(pid: i32, name: &str) -> Result<bool> {
    let opened = opened(pid)?;
    Ok(opened
        .iter()
        .any(|path| path.file_name() == Some(name.as_ref())))
}

/// The `start` of a container z, which is held up before its program runs.
fn halted_start(desk: &Desk) -> Result<Going> {
    let runtime = halting(desk, "run", &waits(desk))?;
    let create = ["create", "--runtime", &runtime, "--name", "z"];
    desk.go(&[&create[..], &["busybox", "top"]].concat())?
        .ok()?;
    let start = Going::run(desk, &["start", "z"])?;
    caller(desk)?;
    Ok(start)
}

fn asked_in_a_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let row: &[&str] = &["ps", "-a", "--format", "{{.Status}}", "--filter", "name=z"];
    let status: &[&str] = &["inspect", "-f", "{{.State.Status}}", "z"];
    for lived in [false, true] {
        for (program, command, says) in [
            ("top", row, "running"),
            ("top", status, "running"),
            ("top", &["exec", "z", "echo", "here"], "here"),
            ("top", &["kill", "-s", "CHLD", "z"], "z"),
            ("true", row, "exited (0)"),
            ("true", status, "exited"),
        ] {
            let runtime = halting_after(&desk, "run", &waits(&desk))?;
            let create = ["create", "--runtime", &runtime, "--name", "z", "busybox"];
            let id = desk.go(&[&create[..], &[program]].concat())?.ok()?;
            if lived {
                std::fs::remove_file(desk.path("halt"))?;
                desk.go(&["start", "z"])?.ok()?;
                desk.go(&["stop", "-t", "0", "z"])?.ok()?;
                desk.write("halt", "")?;
            }
            let start = Going::run(&desk, &["start", "z"])?;
            caller(&desk)?;
            if program == "true" {
                has_ended(&desk, id.line())?;
            }
            let asks = Going::run(&desk, command)?;
            let pid = asks.0.id() as i32;
            wait_for(&format!("{command:?} waits for the monitor"), || {
                let waits = is_in(pid, nix::libc::SYS_clock_nanosleep)?;
                Ok(waits.then_some(()))
            })?;
            std::fs::remove_file(desk.path("halt"))?;
            asks.done(&command.join(" "))?.ok()?.says(says)?;
            start.done("start")?.ok()?;
            std::fs::remove_file(desk.path("caller"))?;
            desk.go(&["rm", "-f", "z"])?.ok()?;
        }
    }
    Ok(())
}

/// Waits until the first process of a container has ended, which nobody has waited for.
fn has_ended(desk: &Desk, id: &str) -> Result<()> {
    let pid = std::fs::read_to_string(desk.run_dir().join("containers").join(id).join("pid"))?;
    wait_for("the program has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))?;
        Ok(stat.contains(") Z ").then_some(()))
    })
}

fn named_behind_a_removal(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--rm", "--name", "z", "busybox", "top"])?;
    let names = File::open(desk.root().join("names"))?;
    let names = Flock::lock(names, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    desk.go(&["kill", "z"])?.ok()?;
    let record = desk.record(&id)?;
    wait_for("it is gone", || Ok((!record.exists()).then_some(())))?;
    let run = Going::run(&desk, &["run", "--name", "z", "busybox", "true"])?;
    let pid = run.0.id() as i32;
    wait_for("run waits for the name", || {
        Ok(is_in(pid, nix::libc::SYS_clock_nanosleep)?.then_some(()))
    })?;
    drop(names);
    run.done("run")?.ok()?;
    Ok(())
}

/// It did what it is for, or came too late.
fn done_or_gone(done: Done) -> Result<()> {
    match done.code {
        0 => Ok(()),
        _ => done.fails(1, &["no such container"]).map(drop),
    }
}

fn id_of(desk: &Desk, name: &str) -> Result<String> {
    desk.inspect(name, "{{.Id}}")
}

fn removed_behind_a_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (prepare, first) in [
        (&["create"][..], &["start", "z"][..]),
        (&["create", "--rm"], &["start", "z"]),
        (&["run", "-d"], &["restart", "-t", "0", "z"]),
        (&["run", "-d", "--rm"], &["restart", "-t", "0", "z"]),
        (
            &["run", "-d", "--restart", "always"],
            &["restart", "-t", "0", "z"],
        ),
        (&["run", "-d"], &["update", "--restart", "always", "z"]),
        (&["run", "-d"], &["rename", "z", "y"]),
    ] {
        let args = [prepare, &["--name", "z", "busybox", "top"]].concat();
        desk.go(&args)?.ok()?;
        let held = hold(&desk, &id_of(&desk, "z")?)?;
        let first = waiting(&desk, first, "lock")?;
        let rm = waiting(&desk, &["rm", "-f", "z"], "lock")?;
        drop(held);
        rm.done("rm -f")?.ok()?.says("z")?;
        done_or_gone(first.done("the first")?)?;
        ensure!(desk.rows()?.is_empty(), "{args:?}: {:?}", desk.rows());
    }
    Ok(())
}

fn started_behind_a_removal(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // Whoever stands beside it waits before it lets go.
    let runtime = halting(&desk, "delete", &waits(&desk))?;
    for second in [&["start", "z"][..], &["restart", "-t", "0", "z"]] {
        desk.write("halt", "")?;
        desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
        let rm = Going::run(&desk, &["rm", "-f", "z"])?;
        caller(&desk)?;
        let second = Going::run(&desk, second)?;
        std::fs::remove_file(desk.path("halt"))?;
        rm.done("rm -f")?.ok()?.says("z")?;
        second
            .done("the second")?
            .fails(1, &["no such container"])?;
        ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
        std::fs::remove_file(desk.path("caller"))?;
    }
    Ok(())
}

fn killed_first(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let runtime = halting(&desk, "delete", &waits(&desk))?;
    desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
    let rm = Going::run(&desk, &["rm", "-f", "z"])?;
    caller(&desk)?;
    let second = waiting(&desk, &["rm", "-f", "z"], "lock")?;
    strike(rm.0.id() as i32)?;
    std::fs::remove_file(desk.path("halt"))?;
    second.done("rm -f")?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());

    std::fs::remove_file(desk.path("caller"))?;
    let start = halted_start(&desk)?;
    let rm = waiting(&desk, &["rm", "-f", "z"], "lock")?;
    // Its monitor goes on.
    strike(start.0.id() as i32)?;
    std::fs::remove_file(desk.path("halt"))?;
    rm.done("rm -f")?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn plain_rm_behind_a_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let start = halted_start(&desk)?;
    let rm = waiting(&desk, &["rm", "z"], "lock")?;
    std::fs::remove_file(desk.path("halt"))?;
    rm.done("rm")?.fails(1, &["z is running"])?;
    start.done("start")?.ok()?;
    Ok(())
}

fn stopped_behind_a_restart(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for flags in [&[][..], &["--restart", "always"], &["--rm"]] {
        let id = desk.start(&[flags, &["--name", "z", "busybox", "top"]].concat())?;
        let held = hold(&desk, &id)?;
        // It has stopped it, and is about to start it.
        let restart = waiting(&desk, &["restart", "-t", "0", "z"], "lock")?;
        let stop = waiting(&desk, &["stop", "-t", "0", "z"], "restart.lock")?;
        drop(held);
        restart.done("restart")?.ok()?;
        stop.done("stop")?.ok()?.says("z")?;
        match flags {
            ["--rm"] => ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows()),
            _ => {
                let row = desk.row("z")?.context("no row")?;
                ensure!(row.contains("exited"), "{flags:?}: {row}");
                desk.go(&["rm", "z"])?.ok()?;
            }
        }
    }
    Ok(())
}

fn stop_hastens(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "z", "busybox", "sleep", "1000"])?;
    let restart = Going::run(&desk, &["restart", "-t", "1000", "z"])?;
    wait_for("the restart is under way", || {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(desk.record(&id)?)?)?;
        Ok((!record["restarting"].is_null()).then_some(()))
    })?;
    desk.go(&["stop", "-t", "0", "z"])?.ok()?.says("z")?;
    restart.done("restart")?.ok()?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row}");
    Ok(())
}

fn killed_behind_a_restart(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "z", "busybox", "top"])?;
    let held = hold(&desk, &id)?;
    let restart = waiting(&desk, &["restart", "-t", "0", "z"], "lock")?;
    let kill = waiting(&desk, &["kill", "z"], "restart.lock")?;
    drop(held);
    restart.done("restart")?.ok()?;
    kill.done("kill")?.ok()?.says("z")?;
    ensure!(desk.wait("z")? == 137);
    desk.go(&["kill", "z"])?.fails(1, &["z is not running"])?;
    desk.go(&["rm", "z"])?.ok()?;

    let start = halted_start(&desk)?;
    let kill = Going::run(&desk, &["kill", "z"])?;
    // Either it sees the start under way, or what came of it.
    std::fs::remove_file(desk.path("halt"))?;
    start.done("start")?.ok()?;
    kill.done("kill")?.ok()?;
    ensure!(desk.wait("z")? == 137);
    Ok(())
}

fn frozen_again(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // The first time nothing comes of it, as if another `pause` followed at once.
    let halt = format!("rm {}/halt; exit 0", desk.text(""));
    let runtime = halting(&desk, "resume", &halt)?;
    for end in [&["rm", "-f", "z"][..], &["stop", "-t", "0", "z"]] {
        desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
        desk.go(&["pause", "z"])?.ok()?;
        desk.write("halt", "")?;
        desk.go(end)?.ok()?.says("z")?;
        ensure!(!desk.path("halt").exists(), "it was not let go");
    }
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited"), "{row}");
    Ok(())
}

fn copied_behind_a_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let start = halted_start(&desk)?;
    let cp = waiting(&desk, &["cp", "z:/etc/hosts", "hosts"], "lock")?;
    std::fs::remove_file(desk.path("halt"))?;
    start.done("start")?.ok()?;
    cp.done("cp")?.ok()?;
    ensure!(desk.path("hosts").exists(), "nothing was copied");
    Ok(())
}
