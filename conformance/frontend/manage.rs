//! A32–A34, A44: `stop`, `rm`, whole life cycles; `kill`, `start`, `restart`, `wait`, `top`.

use super::Row;
use super::kit::{Desk, Place, ended, wait_for};
use super::world::{World, cgroups_of};
use anyhow::{Context, Result, bail, ensure};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A32 stop: TERM, a grace, KILL",
        run: stop,
    },
    Row {
        name: "stop of two asks both before it waits",
        run: stop_together,
    },
    Row {
        name: "A33 stop of a stopped container",
        run: stop_again,
    },
    Row {
        name: "A34 rm removes a stopped container and all of it",
        run: rm,
    },
    Row {
        name: "A44 50 life cycles, 8 at a time",
        run: life_cycles,
    },
    Row {
        name: "kill sends the signal that it is given",
        run: kill_signal,
    },
    Row {
        name: "stop, kill and --stop-signal take every signal and nothing else",
        run: signal_names,
    },
    Row {
        name: "stop says only of a first process that it ignores a signal",
        run: stop_of_the_hosts,
    },
    Row {
        name: "start and restart run a container again with its files",
        run: start_again,
    },
    Row {
        name: "wait prints the exit codes",
        run: wait,
    },
    Row {
        name: "top lists a container's processes",
        run: top,
    },
    Row {
        name: "run --rm and rm -f",
        run: removals,
    },
    Row {
        name: "run -d --restart on-failure:2",
        run: restart_policy,
    },
];

fn stop(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // As the first process, sleep ignores TERM.
    desk.start(&["--name", "s", "busybox", "sleep", "1000"])?;
    let pid = desk.pid("s")?;
    desk.go(&["stop", "-t", "1", "s"])?.ok()?.says("s")?;
    ended(pid, "the container's process")?;
    let row = desk.row("s")?.context("no row")?;
    ensure!(
        row.contains("exited (137)") && row.split_whitespace().nth(2) == Some("-"),
        "{row:?}"
    );
    // One that listens ends by itself.
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    desk.start(&["--name", "polite", "busybox", "sh", "-c", script])?;
    desk.logged("polite", "ready")?;
    desk.go(&["stop", "-t", "100", "polite"])?.ok()?;
    let row = desk.row("polite")?.context("no row")?;
    ensure!(row.contains("exited (5)"), "{row:?}");
    desk.logged("polite", "bye")
}

fn stop_together(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/mnt", desk.text("shared"));
    std::fs::create_dir(desk.path("shared"))?;
    // Each ends well when the other was asked to.
    for (mine, others) in [("a", "b"), ("b", "a")] {
        let script = format!(
            "trap 'touch /mnt/{mine}; until [ -e /mnt/{others} ]; do sleep 0.1; done; exit 5' TERM
             touch /mnt/{mine}.up; while :; do sleep 0.1; done"
        );
        desk.start(&[
            "--name", mine, "-v", &volume, "busybox", "sh", "-c", &script,
        ])?;
        wait_for("it listens", || {
            let up = desk.path(&format!("shared/{mine}.up"));
            Ok(up.exists().then_some(()))
        })?;
    }
    desk.go(&["stop", "-t", "100", "a", "b"])?
        .ok()?
        .says("a\nb")?;
    for name in ["a", "b"] {
        ensure!(desk.inspect(name, "{{.State.ExitCode}}")? == "5", "{name}");
    }
    let done = desk.go(&["stop", "nosuch", "a"])?.code(1)?;
    ensure!(done.out == "a\n" && done.err.contains("nosuch"), "{done:?}");
    Ok(())
}

fn stop_again(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "s", "busybox", "top"])?;
    desk.go(&["stop", "s"])?.ok()?;
    desk.go(&["stop", "s"])?.ok()?;
    Ok(())
}

fn rm(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let volume = format!("{}:/to1", desk.text("from1"));
    let id = desk.start(&["--name", "r", "-v", &volume, "busybox", "top"])?;
    desk.go(&["exec", "r", "touch", "/to1/kept"])?.ok()?;
    ensure!(!cgroups_of(&id)?.is_empty(), "no cgroup");
    let done = desk.go(&["rm", "r"])?.code(1)?;
    ensure!(
        done.err.contains("r is running") && done.err.contains("rm -f"),
        "{done:?}"
    );
    ensure!(desk.row("r")?.is_some_and(|row| row.contains("running")));
    desk.go(&["stop", "r"])?.ok()?;
    desk.go(&["rm", "r"])?.ok()?.says("r")?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    ensure!(cgroups_of(&id)?.is_empty(), "{:?}", cgroups_of(&id));
    ensure!(
        desk.path("from1/kept").exists(),
        "the volume's data is gone"
    );
    before.is_back(&desk)
}

fn one_life(desk: &Desk, name: &str) -> Result<()> {
    let volume = format!("{}:/to1", desk.text(name));
    let id = desk.start(&["--name", name, "-v", &volume, "busybox", "top"])?;
    let done = desk
        .go(&["exec", name, "sh", "-c", "hostname; exit 3"])?
        .code(3)?;
    ensure!(id.starts_with(done.line()), "{done:?}");
    desk.go(&["logs", name])?.ok()?;
    desk.go(&["stop", name])?.ok()?;
    desk.go(&["rm", name])?.ok()?;
    ensure!(cgroups_of(&id)?.is_empty(), "{:?}", cgroups_of(&id));
    Ok(())
}

fn life_cycles(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    one_life(&desk, "first")?;
    let before = World::of(&desk)?;
    let next = AtomicUsize::new(0);
    let errors = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= 50 {
                        return;
                    }
                    if let Err(error) = one_life(&desk, &format!("life{number}"))
                        && let Ok(mut errors) = errors.lock()
                    {
                        errors.push(format!("life {number}: {error:#}"));
                    }
                }
            });
        }
    });
    match errors.into_inner() {
        Ok(errors) if errors.is_empty() => {}
        Ok(errors) => bail!("{}", errors.join("\n")),
        Err(_) => bail!("a thread panicked"),
    }
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    before.is_back(&desk)
}

fn kill_signal(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script =
        "trap 'echo usr1' USR1; trap 'exit 6' HUP; echo ready; while :; do sleep 0.1; done";
    desk.start(&["--name", "k", "busybox", "sh", "-c", script])?;
    desk.logged("k", "ready")?;
    desk.go(&["kill", "-s", "USR1", "k"])?.ok()?;
    desk.logged("k", "usr1")?;
    desk.go(&["kill", "--signal=SIGHUP", "k"])?.ok()?;
    ensure!(desk.wait("k")? == 6);
    desk.go(&["kill", "k"])?.fails(1, &["not running"])?;
    desk.start(&["--name", "k9", "busybox", "sleep", "1000"])?;
    desk.go(&["kill", "-s", "NOSUCH", "k9"])?
        .fails(125, &["NOSUCH"])?;
    desk.go(&["kill", "k9"])?.ok()?;
    ensure!(desk.wait("k9")? == 137);
    Ok(())
}

fn signal_names(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // SIGRTMIN+3 and SIGRTMAX-1 by number, as this shell knows them.
    let script =
        "trap 'echo got; exit 7' 37; trap 'echo last' 63; echo ready; while :; do sleep 0.1; done";
    let run = |name: &str, options: &[&str]| -> Result<()> {
        let mut args = vec!["--name", name];
        args.extend(options);
        args.extend(["busybox", "sh", "-c", script]);
        desk.start(&args)?;
        desk.logged(name, "ready")
    };
    run("r", &["--stop-signal", "SIGRTMIN+3"])?;
    ensure!(desk.inspect("r", "{{.Config.StopSignal}}")? == "SIGRTMIN+3");
    desk.go(&["kill", "-s", "RTMAX-1", "r"])?.ok()?;
    desk.logged("r", "last")?;
    for signal in ["0", "65", "999", "-1", "RTMIN+99"] {
        for verb in ["stop", "kill"] {
            let signal = format!("--signal={signal}");
            desk.go(&[verb, &signal, "r"])?.fails(125, &["1 to 64"])?;
        }
    }
    desk.go(&["run", "--stop-signal=0", "busybox", "true"])?
        .fails(125, &["--stop-signal"])?;
    let done = desk.go(&["stop", "-t", "100", "r"])?.ok()?;
    ensure!(!done.err.contains("ignores"), "{done:?}");
    ensure!(desk.wait("r")? == 7);
    run("s", &[])?;
    desk.go(&["stop", "-t", "100", "-s", "rtmin+3", "s"])?
        .ok()?;
    ensure!(desk.wait("s")? == 7);
    Ok(())
}

/// There it is no first process, and ends by signals that it has no handler for.
fn stop_of_the_hosts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "h", "--pid", "host", "busybox", "sleep", "1000"])?;
    let done = desk.go(&["stop", "-t", "100", "h"])?.ok()?;
    ensure!(!done.err.contains("ignores"), "{done:?}");
    ensure!(desk.wait("h")? == 143);
    // Nor does the small init, which waits for signals instead of handling them.
    let script = "echo ready; exec sleep 1000";
    desk.start(&["--name", "init", "--init", "busybox", "sh", "-c", script])?;
    desk.logged("init", "ready")?;
    let done = desk.go(&["stop", "-t", "100", "init"])?.ok()?;
    ensure!(!done.err.contains("ignores"), "{done:?}");
    ensure!(desk.wait("init")? == 143);
    // The same as a first process of its own.
    desk.start(&["--name", "own", "busybox", "sleep", "1000"])?;
    let done = desk.go(&["stop", "-t", "1", "own"])?.ok()?;
    ensure!(done.err.contains("ignores TERM"), "{done:?}");
    ensure!(desk.wait("own")? == 137);
    Ok(())
}

fn start_again(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "test -e /again && echo second || echo first; touch /again; exec top > /dev/null";
    desk.start(&["--name", "a", "busybox", "sh", "-c", script])?;
    desk.logged("a", "first")?;
    desk.go(&["stop", "a"])?.ok()?;
    desk.go(&["start", "a"])?.ok()?.says("a")?;
    desk.logged("a", "second")?;
    let pid = desk.pid("a")?;
    desk.go(&["restart", "-t", "1", "a"])?.ok()?;
    let again = desk.pid("a")?;
    ensure!(pid != again, "it still is {pid}");
    desk.go(&["start", "a"])?.ok()?;
    ensure!(
        desk.pid("a")? == again,
        "start of a running container restarted it"
    );
    Ok(())
}

fn wait(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (name, script) in [
        ("w0", "exit 0"),
        ("w3", "exit 3"),
        ("w9", "sleep 0.2; exit 9"),
    ] {
        desk.start(&["--name", name, "busybox", "sh", "-c", script])?;
    }
    let done = desk.go(&["wait", "w0", "w3", "w9"])?.ok()?;
    ensure!(done.out == "0\n3\n9\n", "{done:?}");
    Ok(())
}

fn top(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name",
        "t",
        "busybox",
        "sh",
        "-c",
        "sleep 1000 & exec top",
    ])?;
    let pid = desk.pid("t")?.to_string();
    wait_for("both processes are listed", || {
        let done = desk.go(&["top", "t"])?.ok()?;
        let both = done.out.contains("sleep 1000") && done.out.contains("top");
        let pid = done.out.split_whitespace().any(|word| word == pid);
        Ok((both && pid).then_some(()))
    })
}

fn removals(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let id = desk.start(&["--rm", "--name", "gone", "busybox", "sleep", "1000"])?;
    let pid = desk.pid("gone")?;
    desk.go(&["kill", "gone"])?.ok()?;
    ended(pid, "the container's process")?;
    wait_for("--rm removes it", || {
        Ok(desk.rows()?.is_empty().then_some(()))
    })?;
    wait_for("its cgroup goes", || {
        Ok(cgroups_of(&id)?.is_empty().then_some(()))
    })?;
    wait_for("its directory goes", || {
        Ok((!desk.root().join("containers").join(&id).exists()).then_some(()))
    })?;
    desk.start(&["--name", "one", "busybox", "top"])?;
    desk.start(&["--name", "two", "busybox", "sleep", "1000"])?;
    let done = desk.go(&["rm", "-f", "one", "two"])?.ok()?;
    ensure!(done.out == "one\ntwo\n", "{done:?}");
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    before.is_back(&desk)
}

fn restart_policy(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo life; exit 1";
    desk.start(&[
        "--name",
        "p",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    wait_for("it has been restarted twice", || {
        let done = desk.go(&["logs", "p"])?.ok()?;
        let ended = desk.row("p")?.is_some_and(|row| row.contains("exited (1)"));
        Ok((ended && done.out == "life\nlife\nlife\n").then_some(()))
    })?;
    ensure!(desk.inspect("p", "{{.RestartCount}}")? == "2");
    for flags in [
        &["--rm", "--restart", "always"][..],
        &["-d", "--rm", "--restart", "always"],
    ] {
        let args = [&["run"], flags, &["busybox", "true"]].concat();
        desk.go(&args)?.fails(125, &["--restart"])?;
    }
    for (flags, removed) in [(&["-d"][..], "false"), (&["-d", "--rm"], "true")] {
        let args = [&["run", "--name", "r"], flags, &["busybox", "top"]].concat();
        desk.go(&args)?.ok()?;
        ensure!(desk.inspect("r", "{{.HostConfig.AutoRemove}}")? == removed);
        desk.go(&["rm", "-f", "r"])?.ok()?;
    }
    desk.go(&["create", "--name", "c", "busybox", "true"])?
        .ok()?;
    ensure!(desk.inspect("c", "{{.HostConfig.AutoRemove}}")? == "false");
    Ok(())
}
