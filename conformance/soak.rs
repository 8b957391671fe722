//! The soak: many containers at a time, and every tenth time somebody kills a container, a monitor
//! or a mydocker. At the end nothing may be left, and every exit code that was noted must be right.
//! Which is killed, and when, comes from a generator with a fixed seed.

use crate::Test;
use crate::frontend::kit::{Done, ended, wait_for};
use crate::frontend::survive::{monitor_of, strike};
use crate::frontend::world::{World, processes};
use crate::frontend::{Desk, Place};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How many are at work at the same time.
const WORKERS: usize = 16;

/// `count` containers.
pub(crate) fn test(count: usize) -> Test {
    Test {
        name: format!("soak: {count} containers, {WORKERS} at a time, every tenth with a kill -9"),
        run: Box::new(move |place| soak(place, count)),
    }
}

fn soak(place: &Place, count: usize) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let next = AtomicUsize::new(0);
    let seen = Mutex::new((BTreeMap::<&str, usize>::new(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= count {
                        return;
                    }
                    let told = one(&desk, number);
                    let Ok(mut seen) = seen.lock() else { return };
                    match told {
                        Ok(what) => *seen.0.entry(what).or_default() += 1,
                        Err(error) => seen.1.push(format!("{number}: {error:#}")),
                    }
                }
            });
        }
    });
    let (told, failures) = seen
        .into_inner()
        .map_err(|_| anyhow::anyhow!("a worker panicked"))?;
    crate::crash::remark(format!("soak: {told:?}"));
    if !failures.is_empty() {
        bail!("{} of {count}:\n{}", failures.len(), failures.join("\n"));
    }
    wait_for("what was left alone ends", || {
        Ok(processes(&desk).is_empty().then_some(()))
    })?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    desk.go(&["images"])?.ok()?;
    before.is_back(&desk)
}

/// A number from the seed, as good as random: splitmix64.
fn random(seed: usize) -> u64 {
    let mut z = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn one(desk: &Desk, number: usize) -> Result<&'static str> {
    let name = format!("s{number}-soak");
    let code = i32::try_from(number % 100)?;
    if number % 10 != 9 {
        return undisturbed(desk, &name, code);
    }
    match random(number) % 3 {
        0 => container_killed(desk, &name),
        1 => monitor_killed(desk, &name, code),
        _ => mydocker_killed(desk, &name, code, number),
    }
}

fn start(desk: &Desk, name: &str, script: &str) -> Result<String> {
    desk.start(&["--name", name, "busybox", "sh", "-c", script])
}

/// The exit code that was noted.
fn noted(desk: &Desk, name: &str, code: i32) -> Result<()> {
    let found = desk.wait(name)?;
    ensure!(found == code, "{name} ended with {found}, not {code}");
    let row = desk.row(name)?.context("no row")?;
    ensure!(row.contains(&format!("exited ({code})")), "{row:?}");
    Ok(())
}

fn undisturbed(desk: &Desk, name: &str, code: i32) -> Result<&'static str> {
    start(desk, name, &format!("echo out {name}; exit {code}"))?;
    noted(desk, name, code)?;
    desk.go(&["logs", name])?
        .ok()?
        .says(&format!("out {name}"))?;
    desk.go(&["rm", name])?.ok()?;
    Ok("undisturbed")
}

fn container_killed(desk: &Desk, name: &str) -> Result<&'static str> {
    start(desk, name, "exec sleep 1000")?;
    strike(desk.pid(name)?)?;
    noted(desk, name, 137)?;
    desk.go(&["rm", name])?.ok()?;
    Ok("container killed")
}

fn monitor_killed(desk: &Desk, name: &str, code: i32) -> Result<&'static str> {
    let script = format!("while [ ! -e /go ]; do sleep 0.05; done; exit {code}");
    start(desk, name, &script)?;
    let pid = desk.pid(name)?;
    // Another command may have given it another monitor by now: that one is struck then.
    strike(monitor_of(pid)?)?;
    let done = desk.go(&["exec", name, "touch", "/go"])?;
    // The program may see the file and end before `touch` does: then the kernel kills that with it.
    ensure!([0, 137].contains(&done.code), "{done:?}");
    ended(pid, "the program")?;
    let row = wait_for("its end is noted", || {
        let row = desk.row(name)?.context("no row")?;
        Ok(row.contains("exited").then_some(row))
    })?;
    let known = row.contains(&format!("exited ({code})"));
    ensure!(known || row.contains("unknown"), "{row:?}");
    desk.go(&["rm", "-f", name])?.ok()?;
    match known {
        true => Ok("monitor killed, code known"),
        false => Ok("monitor killed, code unknown"),
    }
}

fn mydocker_killed(desk: &Desk, name: &str, code: i32, number: usize) -> Result<&'static str> {
    let mut command = desk.command(desk.program());
    let script = format!("exit {code}");
    command
        .args(["run", "-d", "--name", name, "busybox", "sh", "-c", &script])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("start mydocker")?;
    // Somewhere in its life: the point is chosen by time, since the crash matrix has all others.
    let fd = containers::sys::process::pidfd_open(child.id() as i32)?;
    let after = Duration::from_micros(random(number + 1) % 30_000);
    let mut fds = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&fd),
        nix::poll::PollFlags::POLLIN,
    )];
    let timeout = nix::poll::PollTimeout::try_from(after.as_millis() as i32)?;
    nix::poll::poll(&mut fds, timeout)?;
    child.kill().context("kill mydocker")?;
    child.wait()?;
    let row = desk.row(name)?;
    let done: Done = desk.go(&["rm", "-f", name])?.ok()?;
    ensure!(done.code == 0);
    if let Some(row) = row
        && row.contains("exited")
    {
        ensure!(row.contains(&format!("exited ({code})")), "{row:?}");
    }
    Ok("mydocker killed")
}
