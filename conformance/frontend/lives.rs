//! Lives that are not of the usual kind, and those who ask about them at the wrong moment: a process
//! whose first thread has ended, a restart that is under way, a container that is paused or was never
//! started.

use super::Row;
use super::halfway::{Going, caller, halting, halting_after, waits};
use super::kit::{Collected, Desk, Place, ended, finish, opened, skip, wait_for};
use super::options::parent_of;
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "a process whose first thread has ended runs",
        run: leaderless,
    },
    Row {
        name: "ps and exec while the restart policy starts it again",
        run: struck,
    },
    Row {
        name: "a start by the restart policy that fails is told, and nobody's stop",
        run: fails_to_restart,
    },
    Row {
        name: "a monitor is killed when its restart policy has just started the program",
        run: killed_in_another_life,
    },
    Row {
        name: "a monitor has nothing open that its caller had",
        run: clean,
    },
    Row {
        name: "kill of a paused container",
        run: killed_asleep,
    },
    Row {
        name: "wait and start where there is nothing to wait for or to start",
        run: nothing_to_do,
    },
    Row {
        name: "restarts at once come one after the other",
        run: restarts_at_once,
    },
    Row {
        name: "whoever asks about a container with --rm that is just going",
        run: just_going,
    },
    Row {
        name: "a state directory may be named from where the caller is",
        run: relative_state,
    },
    Row {
        name: "restart of a container with --rm keeps it",
        run: restart_of_rm,
    },
    Row {
        name: "rm -f of one container by many",
        run: removed_at_once,
    },
    Row {
        name: "SIGTERM to a monitor in the background stops its container",
        run: told_to_end,
    },
    Row {
        name: "logs -f loses nothing while the log goes from file to file",
        run: rotated,
    },
    Row {
        name: "logs -f --until ends in time, and has a killed monitor replaced",
        run: followed,
    },
];

const LEADERLESS: &str = "
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *go_on(void *none) {
    for (;;) {
        puts(\"tick\");
        fflush(stdout);
        usleep(100000);
    }
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, go_on, 0);
    pthread_exit(0);
}
";

fn leaderless(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let source = desk.write("leaderless.c", LEADERLESS)?;
    let program = desk.path("leaderless");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-pthread", "-o"])
        .arg(&program)
        .arg(source);
    if cc.status().is_err() {
        return skip("there is no C compiler");
    }
    let volume = format!("{}:/leaderless:ro", program.display());
    desk.start(&["--name", "z", "-v", &volume, "busybox", "/leaderless"])?;
    desk.logged("z", "tick")?;
    let pid = desk.pid("z")?;
    wait_for("its first thread has ended", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Ok(stat.contains(") Z ").then_some(()))
    })?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row}");
    strike(monitor_of(pid)?)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "after the monitor's death: {row}");
    ensure!(desk.pid("z")? == pid);
    // It handles no signal.
    desk.go(&["stop", "-t", "0", "z"])?.ok()?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row}");
    Ok(())
}

fn struck(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--restart", "always", "--name", "z", "busybox", "top"])?;
    for _ in 0..5 {
        let pid = wait_for("it runs", || Ok(desk.pid("z").ok()))?;
        strike(pid)?;
        let row = desk.row("z")?.context("no row")?;
        ensure!(
            row.contains("running") || row.contains("restarting (137)"),
            "{row}"
        );
    }
    // The pauses have grown: most of the time it does not run, and that is what is told.
    let pid = wait_for("it runs", || Ok(desk.pid("z").ok()))?;
    strike(pid)?;
    let done = desk.go(&["exec", "z", "true"])?;
    ensure!(
        done.code == 0 || done.err.contains("exited 137"),
        "{done:?}"
    );
    desk.go(&["rm", "-f", "z"])?.ok()?;
    Ok(())
}

/// As systemd tells all that is left of a unit.
fn told_to_end(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let ends = |name: &str, code: &str| -> Result<()> {
        let shown = format!("exited {code}");
        wait_for("it has ended", || {
            let now = desk.inspect(name, "{{.State.Status}} {{.State.ExitCode}}")?;
            Ok((now == shown).then_some(()))
        })?;
        // No command starts it again.
        let row = desk.row(name)?.context("no row")?;
        ensure!(row.contains(&format!("exited ({code})")), "{row}");
        Ok(())
    };
    let tell = |name: &str| -> Result<()> {
        let monitor = monitor_of(desk.pid(name)?)?;
        kill(Pid::from_raw(monitor), Signal::SIGTERM).context("tell the monitor to end")?;
        ended(monitor, "the monitor")
    };
    let policy = ["--restart", "unless-stopped", "--name"];
    let script = "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.1; done";
    desk.start(&[&policy[..], &["a", "busybox", "sh", "-c", script]].concat())?;
    wait_for("it is up", || {
        Ok((desk.go(&["logs", "a"])?.ok()?.line() == "up").then_some(()))
    })?;
    tell("a")?;
    ends("a", "9")?;
    desk.go(&["logs", "a"])?.ok()?.says("up\nbye")?;
    // The machine goes down and comes up again: nobody has stopped it.
    desk.go(&["boot", "--dry-run"])?.ok()?.says("a")?;
    desk.go(&["start", "a"])?.ok()?;
    desk.go(&["stop", "-t", "0", "a"])?.ok()?;
    let done = desk.go(&["boot", "--dry-run"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    // One that does not listen, and is not kept.
    desk.start(&[
        "--rm",
        "--stop-timeout",
        "0",
        "--name",
        "b",
        "busybox",
        "sleep",
        "1000",
    ])?;
    tell("b")?;
    wait_for("it is gone", || Ok(desk.row("b")?.is_none().then_some(())))?;
    // Between two lives.
    let script = "[ ! -e /twice ] || exit 1; touch /twice; sleep 1000";
    desk.start(&[
        "--restart",
        "always",
        "--name",
        "c",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    let pid = desk.pid("c")?;
    let monitor = monitor_of(pid)?;
    strike(pid)?;
    wait_for("the pauses grow", || {
        let count: u32 = desk.inspect("c", "{{.RestartCount}}")?.parse()?;
        Ok((count > 2).then_some(()))
    })?;
    kill(Pid::from_raw(monitor), Signal::SIGTERM).context("tell the monitor to end")?;
    ended(monitor, "the monitor")?;
    ends("c", "1")?;
    desk.go(&["rm", "a", "c"])?.ok()?;
    Ok(())
}

fn fails_to_restart(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // A runtime that can make no container any more once the file `halt` is there.
    let runtime = halting(&desk, "run", "echo no more >&2; exit 1")?;
    let halt = desk.path("halt");
    std::fs::remove_file(&halt)?;
    let policy = ["--restart", "unless-stopped", "--name", "z"];
    let args = [&["--runtime", &runtime][..], &policy, &["busybox", "top"]].concat();
    desk.start(&args)?;
    desk.write("halt", "")?;
    strike(desk.pid("z")?)?;
    wait_for("the start has failed", || {
        let error = desk.inspect("z", "{{.State.Error}}")?;
        Ok(error.contains("halting").then_some(()))
    })?;
    let done = desk.go(&["why", "z"])?.ok()?;
    ensure!(done.out.contains("halting"), "{done:?}");
    ensure!(!done.out.contains("somebody stopped it"), "{done:?}");
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row}");
    wait_for("its monitor has let go, and boot would start it", || {
        let done = desk.go(&["boot", "--dry-run"])?.ok()?;
        Ok(done.out.contains('z').then_some(()))
    })?;
    std::fs::remove_file(&halt)?;
    desk.go(&["start", "z"])?.ok()?;
    desk.go(&["rm", "-f", "z"])?.ok()?;
    Ok(())
}

fn clean(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let held = desk.path("held");
    let script = format!("exec 9> {}; exec \"$0\" \"$@\"", held.display());
    let has_it = |pid: i32| Ok::<_, anyhow::Error>(opened(pid)?.contains(&held));
    let mut command = desk.command("sh".as_ref());
    command.args(["-c", &script]).arg(desk.program());
    command.args(["run", "-d", "--name", "z", "busybox", "top"]);
    finish(&mut command, "run -d", "")?.ok()?;
    let (pid, id) = (desk.pid("z")?, desk.inspect("z", "{{.Id}}")?);
    ensure!(!has_it(monitor_of(pid)?)?, "the monitor has it");
    let first = monitor_of(pid)?;
    strike(first)?;
    let mut command = desk.command("sh".as_ref());
    command.args(["-c", &script]).arg(desk.program()).arg("ps");
    finish(&mut command, "ps", "")?.ok()?;
    let second = successor_of(&desk, &id, first)?;
    ensure!(!has_it(second)?, "the second monitor has it");
    // Nor has the one beside a program of `exec -d`.
    let mut command = desk.command("sh".as_ref());
    command.args(["-c", &script]).arg(desk.program());
    command.args(["exec", "-d", "z", "sleep", "1001"]);
    finish(&mut command, "exec -d", "")?.ok()?;
    let beside = wait_for("the program runs", || parent_of("sleep 1001"))?;
    ensure!(!has_it(beside)?, "the one beside `exec -d` has it");
    let cwd = std::fs::read_link(format!("/proc/{beside}/cwd"))?;
    ensure!(cwd == Path::new("/"), "it is in {}", cwd.display());
    Ok(())
}

/// The monitor that has taken the place of one that was killed. No command is run for it: that would
/// start one.
fn successor_of(desk: &Desk, id: &str, first: i32) -> Result<i32> {
    wait_for("another monitor", || {
        let record = std::fs::read(desk.record(id)?)?;
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        let pid = record["monitor"]["pid"].as_i64().unwrap_or(0) as i32;
        Ok((pid != first).then_some(pid))
    })
}

fn killed_asleep(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    desk.go(&["pause", "z"])?.ok()?;
    desk.go(&["start", "z"])?.fails(1, &["z is paused"])?;
    desk.go(&["kill", "z"])?.ok()?;
    ensure!(desk.wait("z")? == 137);
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row}");
    Ok(())
}

fn nothing_to_do(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["create", "--name", "z", "busybox", "true"])?
        .ok()?;
    desk.go(&["wait", "z"])?
        .fails(1, &["z was never started", "mydocker start z"])?;
    Ok(())
}

fn restarts_at_once(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    let first = desk.pid("z")?;
    let all: Vec<Going> = (0..4)
        .map(|_| Going::run(&desk, &["restart", "-t", "0", "z"]))
        .collect::<Result<_>>()?;
    for one in all {
        one.done("restart")?.ok()?;
    }
    ensure!(desk.pid("z")? != first, "it is the same process");
    Ok(())
}

fn removed_at_once(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for _ in 0..5 {
        desk.start(&["--name", "z", "busybox", "top"])?;
        let all: Vec<Going> = (0..6)
            .map(|_| Going::run(&desk, &["rm", "-f", "z"]))
            .collect::<Result<_>>()?;
        for one in all {
            one.done("rm -f")?.ok()?;
        }
    }
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

/// The log keeps two files of a thousand, and the follower misses nothing of what was in them.
fn rotated(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let log = ["--log-opt", "max-size=4k", "--log-opt", "max-file=2"];
    let script = "echo 0; read go < /feed; seq 1 60000";
    let feed = desk.path("feed");
    nix::unistd::mkfifo(&feed, nix::sys::stat::Mode::S_IRWXU)?;
    let volume = format!("{}:/feed", feed.display());
    let id = desk.start(
        &[
            &log[..],
            &["--name", "z", "-v", &volume, "busybox", "sh", "-c", script],
        ]
        .concat(),
    )?;
    let mut follower = Going::run(&desk, &["logs", "-f", "z"])?;
    let dir = desk.root().join("containers").join(&id);
    wait_for("it follows", || {
        let opened = opened(follower.0.id() as i32)?;
        let is_log =
            |path: &PathBuf| path.starts_with(&dir) && path.extension() == Some("log".as_ref());
        Ok(opened.iter().any(is_log).then_some(()))
    })?;
    let out = Collected::from(follower.0.stdout.take().context("no pipe")?);
    std::fs::write(&feed, "go\n")?;
    let out = out.all()?;
    let wanted: String = (0..=60_000).map(|n| format!("{n}\n")).collect();
    ensure!(out == wanted, "{} bytes of {}", out.len(), wanted.len());
    follower.done("logs -f")?.ok()?;
    let last = std::fs::read_dir(&dir)?.flatten().filter_map(|file| {
        let name = file.file_name().into_string().ok()?;
        name.strip_suffix(".log")?.parse::<u32>().ok()
    });
    let last = last.max().context("no log")?;
    ensure!(last > 500, "{last} files only");
    Ok(())
}

fn followed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo ready; while read line; do echo $line; done < /feed";
    let feed = desk.path("feed");
    nix::unistd::mkfifo(&feed, nix::sys::stat::Mode::S_IRWXU)?;
    let volume = format!("{}:/feed", feed.display());
    let id = desk.start(&["--name", "z", "-v", &volume, "busybox", "sh", "-c", script])?;
    desk.logged("z", "ready")?;
    let until = ["logs", "-f", "--until", "0s", "z"];
    desk.go(&until)?.ok()?.says("ready")?;
    // As Docker's: any negative number is all.
    desk.go(&["logs", "--tail", "-1", "z"])?
        .ok()?
        .says("ready")?;
    let mut follower = Going::run(&desk, &["logs", "-f", "z"])?;
    let mut out = follower.0.stdout.take().context("no pipe")?;
    let mut text = [0; 6];
    out.read_exact(&mut text)?;
    let first = monitor_of(desk.pid("z")?)?;
    strike(first)?;
    successor_of(&desk, &id, first)?;
    std::fs::write(&feed, "after\n")?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    ensure!(rest == "after\n", "{rest:?}");
    follower.done("logs -f")?.ok()?;
    Ok(())
}

fn restart_of_rm(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Nothing of it is to outlive a power cut: the kernel need not write it when it is unmounted.
    let is_volatile = |name: &str| -> Result<bool> {
        let script = "grep '^overlay / ' /proc/mounts";
        let done = desk.go(&["exec", name, "sh", "-c", script])?.ok()?;
        Ok(done.out.contains("volatile"))
    };
    let id = desk.start(&["--rm", "--name", "z", "busybox", "top"])?;
    desk.start(&["--name", "stays", "busybox", "top"])?;
    ensure!(is_volatile("z")? && !is_volatile("stays")?, "volatile");
    desk.go(&["rm", "-f", "stays"])?.ok()?;
    let pid = desk.pid("z")?;
    desk.go(&["exec", "z", "touch", "/kept"])?.ok()?;
    desk.go(&["restart", "-t", "0", "z"])?.ok()?.says("z")?;
    desk.go(&["exec", "z", "test", "-e", "/kept"])?.ok()?;
    ensure!(desk.inspect("z", "{{.Id}}")? == id);
    ensure!(desk.pid("z")? != pid, "it was not restarted");
    desk.go(&["stop", "-t", "0", "z"])?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn killed_in_another_life(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let runtime = halting_after(&desk, "run", &waits(&desk))?;
    std::fs::remove_file(desk.path("halt"))?;
    let words = ["--restart", "always", "--name", "z", "busybox", "top"];
    desk.start(&[&["--runtime", &runtime], &words[..]].concat())?;
    let first = desk.pid("z")?;
    desk.write("halt", "")?;
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    // The new one runs, and nobody has noted it.
    strike(caller(&desk)?)?;
    std::fs::remove_file(desk.path("halt"))?;
    let pid = wait_for("it runs again", || {
        Ok(desk.pid("z").ok().filter(|pid| *pid > 0 && *pid != first))
    })?;
    let done = desk.go(&["top", "z", "-o", "pid"])?.ok()?;
    let pids: Vec<_> = done.out.lines().skip(1).map(str::trim).collect();
    ensure!(pids == [pid.to_string()], "{pids:?}");
    Ok(())
}

fn just_going(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let commands: [&[&str]; 12] = [
        &["ps", "-a"],
        &["ps", "-a"],
        &["inspect", "z"],
        &["why", "z"],
        &["exec", "z", "true"],
        &["top", "z"],
        &["pause", "z"],
        &["logs", "z"],
        &["rename", "z", "y"],
        &["export", "-o", "made", "z"],
        &["commit", "z", "made"],
        &["cp", "z:/etc/hosts", "made"],
    ];
    // They meet it at different moments of its end; each may succeed, or say that it is gone.
    for command in commands.iter().cycle().take(120) {
        desk.start(&["--rm", "--name", "z", "busybox", "true"])?;
        let done = desk.go(command)?;
        let text = format!("{}{}", done.out, done.err);
        ensure!(
            !text.contains("killed") && !done.err.contains("/containers/"),
            "{done:?}"
        );
        let is_told = done.err.is_empty() || done.err.contains("hint: ");
        ensure!(done.code == 0 || is_told, "{done:?}");
        // Frozen before its end, it would stay for ever.
        if command[0] == "pause" && done.code == 0 {
            desk.go(&["unpause", "z"])?.ok()?;
        }
        wait_for("it is gone", || Ok(desk.rows()?.is_empty().then_some(())))?;
        // Its monitor may still be clearing away.
        wait_for("it leaves nothing", || {
            let mut left = std::fs::read_dir(desk.run_dir().join("containers"))?;
            Ok(left.next().is_none().then_some(()))
        })?;
    }
    Ok(())
}

fn relative_state(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let below = |command: &mut Command| {
        for (name, path) in [
            ("MYDOCKER_ROOT", desk.root()),
            ("MYDOCKER_RUN", desk.run_dir()),
        ] {
            let path = path.strip_prefix(desk.path("")).map(Path::to_owned);
            command.env(name, path.unwrap_or_default());
        }
    };
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let mut command = desk.command(desk.program());
    below(command.args(["run", "-d", "--name", "z", "busybox", "top"]));
    finish(&mut command, "run -d", "")?.ok()?;
    ensure!(desk.pid("z")? > 0);
    Ok(())
}
