//! `attach`: sitting down at a container that runs.

use super::Row;
use super::halfway::Going;
use super::kit::{Collected, Desk, Place, code, ended, finish, wait_for};
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "run: who presses Ctrl-C again is told that the program is deaf to it",
        run: deaf,
    },
    Row {
        name: "attach: a shell of run -itd, its size, the keys to leave, and back",
        run: shell,
    },
    Row {
        name: "run -ti: the keys to leave, and back with attach; start -ai too",
        run: left,
    },
    Row {
        name: "exec -ti: the keys to leave",
        run: exec_left,
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
        name: "attach: a window that is closed, or input that is no terminal, ends no shell",
        run: hung_up,
    },
    Row {
        name: "attach: it ends with the life that it saw, whatever the restart policy",
        run: one_life,
    },
    Row {
        name: "attach: a signal that nobody can take is a wish to leave",
        run: undelivered,
    },
    Row {
        name: "attach: as the first command after the monitor was killed",
        run: adopted,
    },
    Row {
        name: "attach: the keys to leave are bytes like others in a pipe",
        run: keys_in_a_pipe,
    },
    Row {
        name: "attach: the socket is its owner's, and costs nothing when nobody can be let in",
        run: crowded,
    },
    Row {
        name: "exec -d -t: a terminal that somebody empties",
        run: exec_alone,
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
    for verb in [&["attach"][..], &["start", "-ai"]] {
        let args = [verb, &["--detach-keys", "ctrl-x,d", "z"]].concat();
        let mut terminal = desk.terminal(&args)?;
        terminal.send("echo again$a\n")?;
        terminal.expect("again42")?;
        terminal.send("\x18d")?;
        terminal.finish()?.ok()?;
    }
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

fn left(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut terminal = desk.terminal(&["run", "-ti", "--keep", "--name", "z", "busybox", "sh"])?;
    terminal.send("a=$((40 + 2)); echo v$a\n")?;
    terminal.expect("v42")?;
    let monitor = monitor_of(desk.pid("z")?)?;
    terminal.send("\x10\x11")?;
    let done = terminal.finish()?.ok()?;
    ensure!(done.out.contains("detached from z"), "{done:?}");
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    ensure!(monitor_of(desk.pid("z")?)? == monitor, "another monitor");
    let stdin = std::fs::read_link(format!("/proc/{monitor}/fd/0"))?;
    ensure!(stdin == Path::new("/dev/null"), "{}", stdin.display());
    ends_with_its_code(&desk, 5)?;
    // Other keys, and an exit of another life.
    let mut terminal = desk.terminal(&["start", "-ai", "--detach-keys", "ctrl-x,d", "z"])?;
    terminal.send("a=$((40 + 2)); echo w$a\n")?;
    terminal.expect("w42")?;
    terminal.send("\x18d")?;
    terminal.finish()?.ok()?;
    ends_with_its_code(&desk, 6)?;
    desk.go(&["rm", "z"])?.ok()?;
    // One that is to go when it ends still does.
    let mut terminal = desk.terminal(&["run", "-ti", "--name", "y", "busybox", "cat"])?;
    terminal.send("word\n")?;
    terminal.expect("word\r\nword")?;
    terminal.send("\x10\x11")?;
    terminal.finish()?.ok()?;
    desk.go(&["kill", "y"])?.ok()?;
    wait_for("it is removed", || {
        Ok(desk.row("y")?.is_none().then_some(()))
    })?;
    desk.go(&["run", "--detach-keys", "F1", "busybox", "true"])?
        .fails(125, &["--detach-keys", "F1", "is no key"])?;
    Ok(())
}

/// The shell that was left goes on in `attach`, and how it ends is known.
fn ends_with_its_code(desk: &Desk, code: i32) -> Result<()> {
    let mut terminal = desk.terminal(&["attach", "z"])?;
    terminal.send("echo again$a\n")?;
    terminal.expect("again42")?;
    terminal.send(&format!("exit {code}\n"))?;
    terminal.finish()?.code(code)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains(&format!("exited ({code})")), "{row:?}");
    Ok(())
}

fn exec_left(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    let mut terminal = desk.terminal(&["exec", "-ti", "z", "sh"])?;
    terminal.send("a=$((40 + 2)); echo v$a\n")?;
    terminal.expect("v42")?;
    let script = "while [ ! -e /go ]; do sleep 0.05; done; seq 100000; echo over > /over; exit 7\n";
    terminal.send(script)?;
    terminal.send("\x10\x11")?;
    let done = terminal.finish()?.ok()?;
    ensure!(done.out.contains("detached from sh"), "{done:?}");
    // It goes on, and is not held up by a terminal that nobody reads.
    desk.go(&["exec", "z", "touch", "/go"])?.ok()?;
    wait_for("the program that was left has come to its end", || {
        let done = desk.go(&["exec", "z", "cat", "/over"])?;
        Ok((done.line() == "over").then_some(()))
    })?;
    // Its end is told, with its code: whoever stands beside it is its parent.
    wait_for("the event of its end", || {
        let done = desk
            .go(&["events", "--since", "0", "--until", "0s"])?
            .ok()?;
        let mut ends = done.out.lines().filter(|line| line.contains("exec_die"));
        Ok(ends.any(|line| line.contains("exitCode=7")).then_some(()))
    })?;
    desk.go(&["rm", "-f", "z"])?.ok()?;
    Ok(())
}

fn streams(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "while read line; do case $line in end) exit 3;; *) echo got $line; \
                  echo err $line >&2;; esac; done";
    for args in [&["attach", "z"][..], &["start", "-ai", "z"]] {
        desk.start(&["-i", "--name", "z", "busybox", "sh", "-c", script])?;
        // The end of our input is not the end of the container's.
        let first = desk.go_with(&["exec", "-i", "z", "true"], "")?;
        first.ok()?;
        let done = desk.go_with(args, "one\ntwo\nend\n")?.code(3)?;
        ensure!(done.out == "got one\ngot two\n", "{done:?}");
        ensure!(done.err.contains("err one\nerr two\n"), "{done:?}");
        desk.go(&["rm", "z"])?.ok()?;
    }
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
    // Stopping us does not stop the container.
    let script = "trap 'echo stop' TSTP; trap 'echo one' USR1; echo ready; while :; do sleep 0.1; \
                  done";
    desk.start(&["--name", "y", "busybox", "sh", "-c", script])?;
    desk.logged("y", "ready")?;
    let guest = Guest::new(&desk, &["attach", "y"])?;
    // It is there when a signal gets through; before that, they would be the end of it.
    wait_for("attach holds its signals", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id()))?;
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let bits = u64::from_str_radix(blocked.context("no SigBlk")?.trim(), 16)?;
        Ok((bits & (1 << (libc::SIGUSR1 - 1)) != 0).then_some(()))
    })?;
    guest.signal(Signal::SIGTSTP)?;
    // The lower number would be delivered first, so one after the other.
    wait_for("attach has taken the first signal", || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", guest.child.id()))?;
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let bits = u64::from_str_radix(pending.context("no ShdPnd")?.trim(), 16)?;
        Ok((bits & (1 << (libc::SIGTSTP - 1)) == 0).then_some(()))
    })?;
    guest.signal(Signal::SIGUSR1)?;
    guest.sees("one")?;
    let shown = guest.shown.so_far();
    ensure!(!shown.contains("stop"), "{shown:?}");
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
    desk.go(&["start", "-a", "z"])?.fails(1, &["paused"])?;
    desk.go(&["unpause", "z"])?.ok()?;
    Ok(())
}

fn hung_up(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "-itd", "--name", "z", "busybox", "sh"])?
        .ok()?;
    let typed = "a=$((40 + 2)); echo v$a\n";
    let code = desk.closed_window(&["attach", "z"], typed, "v42")?;
    ensure!(code == 0, "attach in a window that was closed: {code}");
    // In the midst of a lot of output.
    let typed = "yes tick | head -c 1000000\n";
    let code = desk.closed_window(&["attach", "z"], typed, "tick\r\ntick")?;
    ensure!(code == 0, "attach that could not write any more: {code}");
    let mut terminal = desk.terminal(&["attach", "z"])?;
    terminal.send("echo same$a\n")?;
    terminal.expect("same42")?;
    terminal.send("\x10\x11")?;
    terminal.finish()?.ok()?;
    desk.go(&["attach", "z"])?
        .fails(1, &["not a TTY", "--no-stdin"])?;
    desk.go_with(&["attach", "z"], "echo no\n")?
        .fails(1, &["not a TTY", "--no-stdin"])?;
    // It is the same shell.
    let mut terminal = desk.terminal(&["attach", "z"])?;
    terminal.send("echo still$a\n")?;
    terminal.expect("still42")?;
    terminal.send("exit 3\n")?;
    terminal.finish()?.code(3)?;
    let done = desk.go(&["logs", "z"])?.ok()?;
    ensure!(!done.out.contains("echo no"), "{done:?}");
    // Looking on needs no terminal.
    let script = "while [ ! -e /go ]; do echo tick; sleep 0.1; done; exit 6";
    desk.go(&["run", "-itd", "--name", "y", "busybox", "sh", "-c", script])?
        .ok()?;
    let mut guest = Guest::new(&desk, &["attach", "--no-stdin", "y"])?;
    let mut other = Guest::new(&desk, &["start", "-a", "y"])?;
    guest.sees("tick")?;
    other.sees("tick")?;
    desk.go(&["exec", "y", "touch", "/go"])?.ok()?;
    let codes = (guest.code()?, other.code()?);
    ensure!(codes == (6, 6), "attach --no-stdin, start -a: {codes:?}");
    Ok(())
}

/// `attach` with its streams in pipes.
struct Guest {
    child: Child,
    input: Option<ChildStdin>,
    shown: Collected,
}

impl Guest {
    fn new(desk: &Desk, args: &[&str]) -> Result<Guest> {
        let mut command = desk.command(desk.program());
        let (output, end) = std::io::pipe()?;
        command.args(args).stdin(Stdio::piped());
        command.stdout(end.try_clone()?).stderr(end);
        let mut child = command.spawn().context("attach")?;
        Ok(Guest {
            input: child.stdin.take(),
            child,
            shown: Collected::from(output),
        })
    }

    fn says(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("no input")?;
        input.write_all(text.as_bytes()).context("write")
    }

    fn sees(&self, text: &str) -> Result<()> {
        wait_for(&format!("attach shows {text:?}"), || {
            let over = self.shown.is_over();
            let shown = self.shown.so_far();
            let found = shown.contains(text);
            ensure!(found || !over, "attach has ended: {shown:?}");
            Ok(found.then_some(()))
        })
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).context("signal attach")
    }

    fn code(&mut self) -> Result<i32> {
        ended(self.child.id() as i32, "attach")?;
        Ok(code(self.child.wait()?))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Without effect after `code`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn one_life(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo ready; read line; echo bye $line; exit 7";
    desk.start(&[
        "-i",
        "--restart",
        "always",
        "--name",
        "z",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    for life in 0..3 {
        wait_for("the next life", || {
            let row = desk.row("z")?.context("no row")?;
            let restarts = desk.inspect("z", "{{.RestartCount}}")?;
            Ok((row.contains("running") && restarts == life.to_string()).then_some(()))
        })?;
        let mut guest = Guest::new(&desk, &["attach", "z"])?;
        guest.says("now\n")?;
        let code = guest.code()?;
        let shown = guest.shown.all()?;
        ensure!(code == 7, "attach: {code}, {shown:?}");
        ensure!(shown.ends_with("bye now\n"), "{shown:?}");
    }
    Ok(())
}

fn undelivered(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["-i", "--name", "z", "busybox", "cat"])?;
    let mut guest = Guest::new(&desk, &["attach", "z"])?;
    guest.says("hello\n")?;
    guest.sees("hello")?;
    let pid = desk.pid("z")?;
    let monitor = Pid::from_raw(monitor_of(pid)?);
    // Nobody notes the end now.
    kill(monitor, Signal::SIGSTOP)?;
    let left = (|| {
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        wait_for("the program is a zombie", || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            Ok(stat.contains(") Z ").then_some(()))
        })?;
        guest.signal(Signal::SIGTERM)?;
        guest.code()
    })();
    kill(monitor, Signal::SIGCONT)?;
    ensure!(left? == 0, "attach: {:?}", guest.shown.all());
    guest.sees("detached from z")
}

fn adopted(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "while :; do echo tick; sleep 0.1; done";
    let id = desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    for _ in 0..3 {
        let record = std::fs::read(desk.record(&id)?)?;
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        let monitor = record["monitor"]["pid"].as_i64().context("no monitor")?;
        strike(monitor as i32)?;
        let mut guest = Guest::new(&desk, &["attach", "--sig-proxy=false", "z"])?;
        guest.sees("tick")?;
        guest.signal(Signal::SIGTERM)?;
        ensure!(guest.code()? == 0, "{:?}", guest.shown.all());
    }
    Ok(())
}

fn keys_in_a_pipe(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "read line; echo \"got $line\"; exit 3";
    desk.start(&["-i", "--name", "z", "busybox", "sh", "-c", script])?;
    let done = desk.go_with(&["attach", "z"], "a\x10\x11b\n")?.code(3)?;
    ensure!(done.out == "got a\x10\x11b\n", "{done:?}");
    Ok(())
}

fn crowded(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let args = ["run", "-itd", "--name", "z", "busybox", "sh"];
    let id = desk.go_after("umask 0", &args)?.ok()?.line().to_owned();
    let socket = desk.run_dir().join("containers").join(&id).join("attach");
    let socket = std::fs::symlink_metadata(&socket)
        .with_context(|| format!("look at {}", socket.display()))?;
    let mode = socket.permissions().mode() & 0o7777;
    ensure!(mode == 0o600, "the socket has mode {mode:o}");
    let monitor = monitor_of(desk.pid("z")?)?;
    // The monitor has no descriptor left: the next one has a number beyond the limit.
    let free = (0..)
        .find(|number| !std::path::Path::new(&format!("/proc/{monitor}/fd/{number}")).exists())
        .context("no number is free")?;
    let limit = |limit: i32| {
        let mut command = desk.command(std::path::Path::new("prlimit"));
        let pid = monitor.to_string();
        command.args(["--pid", &pid, &format!("--nofile={limit}:1024")]);
        finish(&mut command, "prlimit", "")?.ok()
    };
    limit(free)?;
    let mut terminal = desk.terminal(&["attach", "z"])?;
    let ours = format!(" 0 /proc/{monitor}/fd/");
    wait_for("somebody knocks at the door", || {
        // A connection that nobody has accepted has the name of the socket, and no inode.
        let sockets = std::fs::read_to_string("/proc/net/unix")?;
        let knocks = |line: &str| line.ends_with("/attach") && line.contains(&ours);
        Ok(sockets.lines().any(knocks).then_some(()))
    })?;
    let before = turns(monitor)?;
    std::thread::sleep(Duration::from_millis(500));
    let spent = turns(monitor)? - before;
    ensure!(
        spent < 5,
        "the monitor has used {spent} hundredths of a second of 50"
    );
    limit(1024)?;
    // Something happens: whoever waits is let in.
    desk.go(&["exec", "z", "sh", "-c", "echo hi > /proc/1/fd/1"])?
        .ok()?;
    terminal.send("echo v$((40 + 2))\n")?;
    terminal.expect("v42")?;
    terminal.send("\x10\x11")?;
    terminal.finish()?.ok()?;
    Ok(())
}

/// The time of a CPU that a process has used, in hundredths of a second.
fn turns(pid: i32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().context("no fields")?;
    let used = fields.split_whitespace().skip(11).take(2);
    used.map(|number| number.parse::<u64>().context("no number"))
        .sum()
}

fn exec_alone(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    // More than a terminal holds.
    let script = "test -t 0 && test -t 1 && yes | head -c 200000 && echo done > /told";
    desk.go(&["exec", "-d", "-t", "z", "sh", "-c", script])?
        .ok()?;
    wait_for("the program has written all", || {
        let done = desk.go(&["exec", "z", "cat", "/told"])?;
        Ok((done.code == 0 && done.line() == "done").then_some(()))
    })
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

fn deaf(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let until = |script: &str, word: &str, count: usize| -> Result<String> {
        let args = ["run", "--name", "z", "busybox", "sh", "-c", script];
        let mut run = Going::run(&desk, &args)?;
        let out = Collected::from(run.0.stdout.take().context("no pipe")?);
        let err = Collected::from(run.0.stderr.take().context("no pipe")?);
        let said = || out.so_far() + &err.so_far();
        wait_for("it is ready", || Ok(said().contains("ready").then_some(())))?;
        wait_for(word, || {
            run.signal(Signal::SIGINT)?;
            Ok((said().matches(word).count() >= count).then_some(()))
        })?;
        desk.go(&["stop", "-t", "0", "z"])?.ok()?;
        run.done("run")?.code(137)?;
        err.all()
    };
    let note = "mydocker: z: its first process ignores INT; `mydocker stop z` ends it (with run --init \
                the signal is passed on)\n";
    let said = until("echo ready >/file; exec tail -f /file", "ignores INT", 1)?;
    ensure!(said == note, "{said}");
    // One that hears it does as it likes.
    let script = "trap 'echo heard' INT; echo ready; while :; do sleep 0.1; done";
    let said = until(script, "heard", 3)?;
    ensure!(said.is_empty(), "{said}");
    Ok(())
}
