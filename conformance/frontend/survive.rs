//! A51, A53–A56: what the seed's author could not get right. Containers and monitors are killed
//! behind mydocker's back, and it tells the truth all the same.

use super::Row;
use super::kit::{Desk, Place, ended, finish, skip, wait_for};
use super::world::{World, cgroups_of, kernel_is};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A51 a container in the background keeps its layer",
        run: layer_stays,
    },
    Row {
        name: "A53 kill PID: ps tells the truth",
        run: killed,
    },
    Row {
        name: "A54 the monitor is killed, then the container",
        run: monitor_first,
    },
    Row {
        name: "A54 a killed monitor gets a successor that keeps the log and the exit code",
        run: successor,
    },
    Row {
        name: "A54 the container is killed while its monitor is stopped",
        run: container_first,
    },
    Row {
        name: "a monitor at rest keeps little of the program in memory",
        run: at_rest,
    },
    Row {
        name: "A55 another process gets the pid",
        run: pid_reused,
    },
    Row {
        name: "A56 /run is empty after a reboot",
        run: rebooted,
    },
    Row {
        name: "a damaged record is reported and removed by rm -f",
        run: damaged,
    },
];

fn layer_stays(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk
        .go(&["run", "-d", "--name", "bg", "busybox", "top"])?
        .ok()?;
    let err = done.err.to_lowercase();
    ensure!(
        !err.contains("busy\n") && !err.contains("remove"),
        "{done:?}"
    );
    desk.go(&["exec", "bg", "touch", "/ok"])?.ok()?;
    desk.go(&["exec", "bg", "ls", "/ok"])?.ok()?.says("/ok")?;
    Ok(())
}

/// Kills a process behind mydocker's back and waits until the kernel is done with it.
pub(crate) fn strike(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))?;
    ended(pid, "a killed process")
}

/// The parent of a container's first process.
pub(crate) fn monitor_of(pid: i32) -> Result<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let parent = stat
        .rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().nth(1));
    let monitor: i32 = parent.context("no parent")?.parse()?;
    ensure!(monitor > 1, "{pid} has no monitor");
    Ok(monitor)
}

/// Exited in `ps` at once, and everything works without force.
fn is_dead(desk: &Desk, id: &str, before: &World) -> Result<()> {
    let row = desk.row("z")?.context("no row")?;
    ensure!(
        row.contains("exited") && row.split_whitespace().nth(2) == Some("-"),
        "{row:?}"
    );
    wait_for("its cgroups are gone", || {
        Ok(cgroups_of(id)?.is_empty().then_some(()))
    })?;
    desk.go(&["logs", "z"])?.ok()?.says("hello")?;
    let done = desk.go(&["exec", "z", "true"])?.code(1)?;
    ensure!(done.err.contains("not running"), "{done:?}");
    desk.go(&["stop", "z"])?.ok()?;
    desk.go(&["rm", "z"])?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    before.is_back(desk)
}

/// A container `z` that has logged `hello`; what was there before it; its id and pid.
fn victim(desk: &Desk) -> Result<(World, String, i32)> {
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(desk)?;
    let id = desk.start(&[
        "--name",
        "z",
        "busybox",
        "sh",
        "-c",
        "echo hello; exec sleep 1000",
    ])?;
    desk.logged("z", "hello")?;
    let pid = desk.pid("z")?;
    Ok((before, id, pid))
}

fn killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (before, id, pid) = victim(&desk)?;
    strike(pid)?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(!row.contains("running"), "{row:?}");
    ensure!(desk.wait("z")? == 137);
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited (137)"), "{row:?}");
    is_dead(&desk, &id, &before)
}

fn monitor_first(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (before, id, pid) = victim(&desk)?;
    strike(monitor_of(pid)?)?;
    // The container goes on without it.
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    desk.go(&["exec", "z", "touch", "/alive"])?.ok()?;
    strike(pid)?;
    is_dead(&desk, &id, &before)
}

fn successor(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    // It writes while nobody reads, and goes on when its output is read again.
    let script = "echo one; while [ ! -e /go ]; do sleep 0.1; done; echo two; echo err >&2; \
                  while [ ! -e /end ]; do sleep 0.1; done; exit 7";
    desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    desk.logged("z", "one")?;
    let pid = desk.pid("z")?;
    strike(monitor_of(pid)?)?;
    std::fs::File::create(format!("/proc/{pid}/root/go")).context("tell it to go on")?;
    // Any command starts the next monitor.
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    desk.logged("z", "two")?;
    desk.logged("z", "err")?;
    desk.go(&["exec", "z", "touch", "/end"])?.ok()?;
    let row = wait_for("its end is noted", || {
        let row = desk.row("z")?.context("no row")?;
        Ok(row.contains("exited").then_some(row))
    })?;
    // Before Linux 6.15 it is told by a zombie only, which may be gone before anybody looks.
    let known = row.contains("exited (7)");
    ensure!(
        known || (!kernel_tells_exits()? && row.contains("unknown")),
        "{row:?}"
    );
    if known {
        ensure!(desk.wait("z")? == 7);
    }
    // `stop` itself starts the successor, and waits for what it notes.
    desk.start(&["--name", "y", "busybox", "top"])?;
    strike(monitor_of(desk.pid("y")?)?)?;
    desk.go(&["stop", "y"])?.ok()?;
    desk.go(&["rm", "y", "z"])?.ok()?;
    before.is_back(&desk)
}

/// The kernel tells how a process ended that was not a child's.
pub(super) fn kernel_tells_exits() -> Result<bool> {
    kernel_is(6, 15)
}

fn container_first(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (before, id, pid) = victim(&desk)?;
    let monitor = monitor_of(pid)?;
    kill(Pid::from_raw(monitor), Signal::SIGSTOP)?;
    strike(pid)?;
    strike(monitor)?;
    is_dead(&desk, &id, &before)
}

/// In a pid namespace of its own, where numbers can be chosen without disturbing anybody. Prints
/// `reused` when a stranger has got the number, and then what mydocker makes of it.
const REUSE: &str = r#"
set -e
mydocker=$1
$mydocker run -d --name z busybox top > id
number() { case $1 in '' | 0 | 1 | *[!0-9]*) echo "no pid: $1"; exit 1;; esac; }
pid=$($mydocker inspect -f '{{.State.Pid}}' z)
number "$pid"
monitor=$(sed 's/.*) //' /proc/$pid/stat | cut -d' ' -f2)
number "$monitor"
kill -9 $monitor; kill -9 $pid
while [ -d /proc/$pid ]; do true & wait; done
tries=0
while :; do
    echo $((pid - 1)) > /proc/sys/kernel/ns_last_pid || { echo cannot; exit 0; }
    sleep 1000 < /dev/null > /dev/null 2>&1 &
    [ $! != $pid ] || break
    kill $!
    tries=$((tries + 1))
    [ $tries -lt 1000 ] || { echo cannot; exit 0; }
done
echo reused
$mydocker ps
$mydocker stop z
$mydocker rm -f z
kill -0 $pid && echo stranger lives
"#;

fn at_rest(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "z", "busybox", "top"])?;
    let monitor = monitor_of(desk.pid("z")?)?;
    let program = std::fs::metadata(desk.program())?.len();
    // After a start that is a fifth of it.
    wait_for("the monitor gives back the pages of the program", || {
        let text = std::fs::read_to_string(format!("/proc/{monitor}/smaps_rollup"))?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let all = kib("Rss:").context("no Rss")?;
        let own = kib("Anonymous:").context("no Anonymous")?;
        Ok((((all - own) << 10) < program / 20).then_some(()))
    })?;
    // And does its work again.
    desk.go(&["kill", "z"])?.ok()?;
    ensure!(desk.wait("z")? == 137, "another exit code");
    desk.go(&["rm", "z"])?.ok()?;
    Ok(())
}

fn pid_reused(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let mut command = desk.command(Path::new("unshare"));
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--mount-proc",
            "sh",
            "-c",
            REUSE,
        ])
        .arg("sh")
        .arg(desk.program());
    let done = finish(&mut command, "(in a pid namespace)", "")?.ok()?;
    if done.out.contains("cannot") {
        return skip("no pid can be chosen here");
    }
    ensure!(
        done.out.contains("reused") && done.out.contains("exited"),
        "{done:?}"
    );
    ensure!(!done.out.contains("running"), "{done:?}");
    ensure!(done.out.contains("stranger lives"), "{done:?}");
    Ok(())
}

fn rebooted(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (_, _, pid) = victim(&desk)?;
    let monitor = monitor_of(pid)?;
    kill(Pid::from_raw(monitor), Signal::SIGSTOP)?;
    strike(pid)?;
    strike(monitor)?;
    std::fs::remove_dir_all(desk.run_dir()).context("remove the run directory")?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("exited"), "{row:?}");
    desk.go(&["start", "z"])?.ok()?;
    let row = desk.row("z")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    desk.go(&["exec", "z", "true"])?.ok()?;
    desk.go(&["rm", "-f", "z"])?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn damaged(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    desk.start(&["--name", "whole", "busybox", "top"])?;
    for (name, text) in [("empty", ""), ("torn", "{\"id\":"), ("other", "[]")] {
        let id = desk.start(&["--name", name, "busybox", "true"])?;
        desk.wait(name)?;
        let path = desk.root().join("containers").join(&id).join("record.json");
        std::fs::write(&path, text)?;
        let list = desk.go(&["ps"])?;
        ensure!(
            list.out.contains("whole") && list.out.contains(&id[..12]),
            "{name}: {list:?}"
        );
        ensure!(!list.err.contains("panic"), "{name}: {list:?}");
        let done = desk.go(&["start", &id])?;
        if done.code == 0 || done.err.contains("panic") {
            bail!("{name}: {done:?}");
        }
        desk.go(&["rm", "-f", &id])?.ok()?;
        ensure!(desk.rows()?.len() == 1, "{:?}", desk.rows());
    }
    desk.go(&["rm", "-f", "whole"])?.ok()?;
    before.is_back(&desk)
}
