//! Commands that are met, stopped or killed halfway. A runtime that waits where it is told to makes
//! "halfway" a place, not a matter of luck.

use super::Row;
use super::kit::{Desk, Done, Place, code, ended, finish, is_in, opened, skip, wait_for};
use super::survive::strike;
use super::world::{World, cgroup_file, processes};
use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "halfway: the monitor is killed between create and start",
        run: killed_before_start,
    },
    Row {
        name: "halfway: the monitor is killed between create and a later start",
        run: killed_before_later_start,
    },
    Row {
        name: "halfway: an exec is killed",
        run: killed_exec,
    },
    Row {
        name: "halfway: stop during a start",
        run: stop_during_start,
    },
    Row {
        name: "halfway: the monitor is killed while it waits to start the program again",
        run: killed_in_pause,
    },
    Row {
        name: "halfway: Ctrl-C while a program in the foreground is to be started again",
        run: interrupted_pause,
    },
    Row {
        name: "halfway: a restart that is killed does not keep a container with --rm",
        run: killed_restart_of_rm,
    },
    Row {
        name: "halfway: restart of a container with a terminal",
        run: restart_of_tty,
    },
    Row {
        name: "halfway: a clean-up that fails leaves the exit code as it was",
        run: clean_up_fails,
    },
    Row {
        name: "halfway: a commit that is interrupted or killed leaves nothing frozen",
        run: cut_commit,
    },
    Row {
        name: "halfway: what would end a commit's pause waits for it",
        run: crossed_commit,
    },
    Row {
        name: "halfway: update while the restart policy starts it",
        run: update_in_start,
    },
    Row {
        name: "halfway: who reads no output keeps no signal from the program",
        run: slow_reader,
    },
    Row {
        name: "halfway: output that cannot be written is told",
        run: output_lost,
    },
    Row {
        name: "halfway: a program has ended, whoever reads its output when",
        run: late_reader,
    },
    Row {
        name: "halfway: wait goes on when the monitor is killed",
        run: wait_goes_on,
    },
];

/// A runtime that does `halt` before a verb, as long as there is a file `halt`, and is the one under test
/// otherwise.
pub(super) fn halting(desk: &Desk, verb: &str, halt: &str) -> Result<String> {
    at_verb(desk, verb, halt)
}

/// The same behind the verb, if that succeeds.
pub(super) fn halting_after(desk: &Desk, verb: &str, halt: &str) -> Result<String> {
    let real = desk.runtime();
    let then = format!("{} \"$@\" || exit\n{halt}\nexit", real.display());
    at_verb(desk, verb, &then)
}

fn at_verb(desk: &Desk, verb: &str, then: &str) -> Result<String> {
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *' {verb} '*) if [ -e {dir}/halt ]; then\n{then}\nfi;; esac\n\
         exec {real} \"$@\"\n",
        dir = desk.text(""),
        real = desk.runtime().display(),
    );
    let path = desk.script("halting", &script)?;
    desk.write("halt", "")?;
    Ok(path.display().to_string())
}

/// Tells who runs it, and waits until the file `halt` is gone.
pub(super) fn waits(desk: &Desk) -> String {
    let dir = desk.text("");
    format!(
        "echo $PPID > {dir}/caller.new; mv {dir}/caller.new {dir}/caller\n\
         while [ -e {dir}/halt ]; do sleep 0.02; done"
    )
}

/// The process that waits for the halted runtime.
pub(super) fn caller(desk: &Desk) -> Result<i32> {
    wait_for("the runtime is halted", || {
        let text = std::fs::read_to_string(desk.path("caller")).unwrap_or_default();
        Ok(text.trim().parse().ok())
    })
}

/// mydocker, while it goes on.
pub(super) struct Going(pub(super) Child);

impl Going {
    pub(super) fn start(mut command: Command) -> Result<Going> {
        command
            .process_group(0)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(Going(command.spawn().context("start mydocker")?))
    }

    pub(super) fn run(desk: &Desk, args: &[&str]) -> Result<Going> {
        let mut command = desk.command(desk.program());
        command.args(args);
        Going::start(command)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.0.id() as i32), signal).context("signal mydocker")
    }

    pub(super) fn done(mut self, what: &str) -> Result<Done> {
        ended(self.0.id() as i32, what)?;
        let (mut out, mut err) = (String::new(), String::new());
        if let Some(pipe) = &mut self.0.stdout {
            pipe.read_to_string(&mut out)?;
        }
        if let Some(pipe) = &mut self.0.stderr {
            pipe.read_to_string(&mut err)?;
        }
        Ok(Done {
            what: what.to_owned(),
            code: code(self.0.wait()?),
            out,
            err,
        })
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // For a test that has failed; it is a child, so the number is still its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn killed_before_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // With a terminal it is made first and started then.
    for option in ["-d", "-dt"] {
        let runtime = match option {
            "-dt" => halting(&desk, "start", &waits(&desk))?,
            _ => halting_after(&desk, "run", &waits(&desk))?,
        };
        let before = World::of(&desk)?;
        let args = ["run", option, "--runtime", &runtime, "--name", "z", "top"];
        let run = Going::run(&desk, &args)?;
        strike(caller(&desk)?)?;
        run.done("run -d")?.fails(125, &["monitor was killed"])?;
        // Nobody wants it, though its first process lives.
        ensure!(desk.rows()?.is_empty(), "{option}: {:?}", desk.rows());
        before.is_back(&desk)?;
        std::fs::remove_file(desk.path("caller"))?;
    }
    Ok(())
}

fn killed_before_later_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let runtime = halting_after(&desk, "run", &waits(&desk))?;
    std::fs::remove_file(desk.path("halt"))?;
    let words = ["--name", "z", "busybox", "sh", "-c", "exit 6"];
    desk.start(&[&["--runtime", &runtime], &words[..]].concat())?;
    ensure!(desk.wait("z")? == 6);
    desk.go(&["start", "z"])?.ok()?;
    ensure!(desk.wait("z")? == 6);
    let before = World::of(&desk)?;
    desk.write("halt", "")?;
    let start = Going::run(&desk, &["start", "z"])?;
    strike(caller(&desk)?)?;
    start.done("start")?.code(1)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (6)"), "{row:?}");
    before.is_back(&desk)?;
    std::fs::remove_file(desk.path("halt"))?;
    desk.go(&["start", "z"])?.ok()?;
    ensure!(desk.wait("z")? == 6);
    Ok(())
}

fn killed_exec(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let runtime = halting(&desk, "exec", &waits(&desk))?;
    desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
    let before = World::of(&desk)?;
    let exec = Going::run(&desk, &["exec", "z", "true"])?;
    strike(caller(&desk)?)?;
    exec.done("exec")?.code(137)?;
    std::fs::remove_file(desk.path("halt"))?;
    desk.go(&["exec", "z", "true"])?.ok()?;
    before.is_back(&desk)
}

fn stop_during_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let runtime = halting_after(&desk, "run", &waits(&desk))?;
    let words = [
        "busybox",
        "sh",
        "-c",
        "trap 'exit 3' TERM; while :; do sleep 0.1; done",
    ];
    let run = ["run", "-d", "--runtime", &runtime, "--name", "z"];
    let run = Going::run(&desk, &[&run, &words[..]].concat())?;
    caller(&desk)?;
    let stop = Going::run(&desk, &["stop", "-t", "3", "z"])?;
    // Either order of what follows must do; the longer they overlap, the better.
    wait_for("stop looks at it", || {
        Ok((processes(&desk).len() >= 3).then_some(()))
    })?;
    std::fs::remove_file(desk.path("halt"))?;
    run.done("run -d")?.ok()?;
    stop.done("stop")?.ok()?;
    let row = desk.row("z")?.context("no row")?;
    // A first process takes no signal that it has no trap for yet: then SIGKILL follows.
    ensure!(
        row.contains("exited (3)") || row.contains("exited (137)"),
        "{row:?}"
    );
    Ok(())
}

/// How often the log of `z` says `x`.
fn lives(desk: &Desk) -> Result<usize> {
    let done = desk.go(&["logs", "z"])?.ok()?;
    Ok(done.out.lines().filter(|line| *line == "x").count())
}

fn killed_in_pause(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let words = ["busybox", "sh", "-c", "echo x; exit 1"];
    desk.start(&[&["--name", "z", "--restart", "always"], &words[..]].concat())?;
    // The pauses grow: most of the time nothing of it runs.
    wait_for("three lives", || Ok((lives(&desk)? >= 3).then_some(())))?;
    for monitor in processes(&desk) {
        strike(monitor)?;
    }
    let so_far = lives(&desk)?;
    wait_for("more lives", || Ok((lives(&desk)? > so_far).then_some(())))?;
    desk.go(&["stop", "z"])?.ok()?;
    let so_far = lives(&desk)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (1)"), "{row:?}");
    ensure!(lives(&desk)? == so_far, "it was stopped");
    Ok(())
}

fn interrupted_pause(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let args = [
        "run",
        "--keep",
        "--name",
        "z",
        "--restart",
        "always",
        "busybox",
    ];
    let script = ["sh", "-c", "echo x; exit 4"];
    let mut run = Going::run(&desk, &[&args[..], &script].concat())?;
    let mut out = BufReader::new(run.0.stdout.take().context("no pipe")?);
    let mut line = String::new();
    for _ in 0..3 {
        out.read_line(&mut line)?;
    }
    ensure!(line == "x\nx\nx\n", "{line:?}");
    // One that comes during a life is the program's, which does not care for it.
    wait_for("mydocker ends", || {
        run.signal(Signal::SIGINT)?;
        Ok(run.0.try_wait()?)
    })?;
    let done = run.done("run")?;
    // With runc it may meet what is not the program yet, and end that.
    ensure!([4, 130].contains(&done.code), "{done:?}");
    let row = desk.row("z")?.context("no row")?;
    ensure!(
        row.contains(&format!("exited ({})", done.code)),
        "it goes on: {row:?}"
    );
    Ok(())
}

fn killed_restart_of_rm(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let file = desk.text("restarter");
    let halt = format!("read pid <{file}; kill -KILL $pid");
    // Killed when it has stopped the container, before the start.
    let runtime = halting(&desk, "delete", &halt)?;
    desk.start(&[
        "--rm",
        "--runtime",
        &runtime,
        "--name",
        "z",
        "busybox",
        "top",
    ])?;
    let mut command = desk.command(Path::new("sh"));
    let script = format!("echo $$ >{file}; exec \"$0\" restart -t 0 z");
    command.args(["-c", &script]).arg(desk.program());
    finish(&mut command, "restart", "")?.code(137)?;
    wait_for("it goes at its end", || {
        Ok(desk.rows()?.is_empty().then_some(()))
    })
}

fn restart_of_tty(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut shell = desk.terminal(&["run", "-ti", "--name", "z", "busybox", "sh"])?;
    shell.expect("# ")?;
    desk.go(&["restart", "-t", "0", "z"])?.ok()?;
    // It has a new terminal, at which nobody sits.
    shell.finish()?.code(137)?;
    let mut shell = desk.terminal(&["attach", "z"])?;
    shell.send("echo $((6 * 7)); exit 9\n")?;
    shell.expect("42")?;
    shell.finish()?.code(9)?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn clean_up_fails(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let halt = "echo cannot >&2; exit 1";
    let runtime = halting(&desk, "delete", halt)?;
    let args = ["run", "--runtime", &runtime, "--name", "z", "busybox"];
    let done = desk.go(&[&args[..], &["sh", "-c", "exit 5"]].concat())?;
    let done = done.code(5)?;
    ensure!(done.err.contains("mydocker: "), "it says nothing: {done:?}");
    let row = desk.row("z")?.context("what is left must be seen")?;
    ensure!(row.contains("exited (5)"), "{row:?}");
    std::fs::remove_file(desk.path("halt"))?;
    ensure!(desk.rows()?.is_empty(), "the next command clears it away");
    Ok(())
}

fn slow_reader(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let script = "trap 'exit 3' TERM; yes & echo ready >&2; while :; do sleep 0.1; done";
    let args = ["run", "--name", "z", "busybox", "sh", "-c", script];
    let mut run = Going::run(&desk, &args)?;
    let mut err = BufReader::new(run.0.stderr.take().context("no pipe")?);
    let mut line = String::new();
    err.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    let pid = desk.pid("z")?;
    // Nobody reads what `yes` says.
    let end = File::options()
        .write(true)
        .open(format!("/proc/{}/fd/1", run.0.id()))?;
    wait_for("the pipe is full", || {
        let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLOUT)];
        Ok((poll(&mut fds, PollTimeout::ZERO)? == 0).then_some(()))
    })?;
    drop(end);
    run.signal(Signal::SIGTERM)?;
    ended(pid, "the program")?;
    let mut out = Vec::new();
    let mut stdout = run.0.stdout.take().context("no pipe")?;
    stdout.read_to_end(&mut out)?;
    if let Some(at) = out.chunks(2).position(|pair| pair != b"y\n") {
        bail!("torn output at {at} of {}", out.len());
    }
    run.done("run")?.code(3)?;
    Ok(())
}

fn cut_commit(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    for (signal, said) in [("INT", 130), ("TERM", 143), ("KILL", 137)] {
        // Frozen, and then struck, before the files are read.
        let halt = format!(
            "{} \"$@\"; kill -{signal} $PPID; exit 0",
            desk.runtime().display()
        );
        let runtime = halting(&desk, "pause", &halt)?;
        desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
        let id = desk.inspect("z", "{{.Id}}")?;
        let before = World::of(&desk)?;
        desk.go(&["commit", "z", "made"])?.code(said)?;
        if said == 137 {
            // Its monitor lets it go on: nobody has to come.
            wait_for("it goes on", || {
                Ok(of_runtime(&desk, &id)?
                    .contains("\"running\"")
                    .then_some(()))
            })?;
            let status = desk.row("z")?.context("no row")?;
            ensure!(!status.contains("paused"), "{status}");
        }
        ensure!(
            desk.inspect("z", "{{.State.Status}}")? == "running",
            "{signal}"
        );
        desk.go(&["exec", "z", "true"])?.ok()?;
        // A pause of one's own stays.
        std::fs::remove_file(desk.path("halt"))?;
        desk.go(&["pause", "z"])?.ok()?;
        ensure!(
            desk.inspect("z", "{{.State.Status}}")? == "paused",
            "{signal}"
        );
        desk.go(&["unpause", "z"])?.ok()?;
        // Also the killed one's draft of an image is taken away by the next that looks at those.
        desk.go(&["images"])?.ok()?;
        before.is_back(&desk)?;
        desk.go(&["rm", "-f", "z"])?.ok()?;
    }
    Ok(())
}

/// What the runtime says of a container, unasked by mydocker.
fn of_runtime(desk: &Desk, id: &str) -> Result<String> {
    let mut command = desk.command(&desk.runtime());
    command
        .arg("--root")
        .arg(desk.run_dir().join("runtime"))
        .args(["state", id]);
    Ok(finish(&mut command, "state", "")?.ok()?.out)
}

fn crossed_commit(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let runtime = halting(&desk, "resume", &waits(&desk))?;
    desk.start(&["--runtime", &runtime, "--name", "z", "busybox", "top"])?;
    // Its files are read, and it is still frozen.
    let first = Going::run(&desk, &["commit", "z", "first"])?;
    let committing = caller(&desk)?;
    let others = [
        Going::run(&desk, &["unpause", "z"])?,
        Going::run(&desk, &["commit", "z", "second"])?,
    ];
    for other in &others {
        wait_for("the others wait for it", || {
            let opened = opened(other.0.id() as i32)?;
            let is_pidfd = |link: &PathBuf| link.to_string_lossy().contains("pidfd");
            Ok(opened.iter().any(is_pidfd).then_some(()))
        })?;
    }
    ensure!(committing == first.0.id() as i32, "{committing}");
    std::fs::remove_file(desk.path("halt"))?;
    first.done("commit")?.ok()?;
    let [unpause, second] = others;
    // What it would have undone was not a pause of anybody's.
    unpause.done("unpause")?.fails(1, &["paused"])?;
    second.done("commit")?.ok()?;
    ensure!(desk.inspect("z", "{{.State.Status}}")? == "running");
    desk.go(&["rm", "-f", "z"])?.ok()?;
    Ok(())
}

fn late_reader(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // More than one pipe holds, and less than two.
    let script = "head -c 100000 /dev/zero; exit 3";
    let args = [
        "run", "--keep", "--name", "z", "busybox", "sh", "-c", script,
    ];
    let mut run = Going::run(&desk, &args)?;
    wait_for("its end is known", || {
        let row = desk.row("z")?.unwrap_or_default();
        Ok(row.contains("exited (3)").then_some(()))
    })?;
    desk.go(&["stop", "z"])?.ok()?;
    desk.go(&["rm", "z"])?.ok()?;
    let mut out = Vec::new();
    let mut stdout = run.0.stdout.take().context("no pipe")?;
    stdout.read_to_end(&mut out)?;
    ensure!(out == vec![0; 100_000], "{} bytes", out.len());
    run.done("run")?.code(3)?;
    Ok(())
}

fn wait_goes_on(place: &Place) -> Result<()> {
    if !super::survive::kernel_tells_exits()? {
        return skip("before Linux 6.15 the kernel tells an exit code to the parent alone");
    }
    let desk = Desk::new(place)?;
    let script = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done";
    desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    desk.logged("z", "ready")?;
    let pid = desk.pid("z")?;
    let monitor = super::survive::monitor_of(pid)?;
    let wait = Going::run(&desk, &["wait", "z"])?;
    let waiting = wait.0.id() as i32;
    wait_for("it waits for the lock", || {
        Ok(is_in(waiting, nix::libc::SYS_fcntl)?.then_some(()))
    })?;
    strike(monitor)?;
    desk.go(&["kill", "-s", "TERM", "z"])?.ok()?;
    wait.done("wait")?.ok()?.says("7")?;
    Ok(())
}

fn output_lost(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let mut command = desk.command(desk.program());
    command.args(["run", "busybox", "echo", "hi"]);
    command.stdout(File::options().write(true).open("/dev/full")?);
    command.stderr(Stdio::piped());
    let done = command.output()?;
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(
        err.contains("output is lost") && err.contains("No space"),
        "{err}"
    );
    Ok(())
}

fn update_in_start(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // It has read its limits when it waits.
    let runtime = halting_after(&desk, "run", &waits(&desk))?;
    std::fs::remove_file(desk.path("halt"))?;
    let words = [
        "--restart",
        "always",
        "--pids-limit",
        "40",
        "busybox",
        "top",
    ];
    desk.start(&[&["--runtime", &runtime, "--name", "z"], &words[..]].concat())?;
    let first = desk.pid("z")?;
    desk.write("halt", "")?;
    kill(Pid::from_raw(first), Signal::SIGKILL)?;
    caller(&desk)?;
    desk.go(&["update", "--pids-limit", "50", "z"])?.ok()?;
    std::fs::remove_file(desk.path("halt"))?;
    let pid = wait_for("it runs again", || {
        Ok(desk.pid("z").ok().filter(|pid| *pid > 0))
    })?;
    wait_for("it has the new limit", || {
        let limit = cgroup_file(pid, "pids", "pids.max", "pids.max")?;
        Ok(limit.is_none_or(|limit| limit.trim() == "50").then_some(()))
    })
}
