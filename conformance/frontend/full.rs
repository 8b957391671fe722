//! A full disk: nothing that runs is harmed by it, and what ends, is stopped or removed does so.

use super::Row;
use super::halfway::Going;
use super::images_made::Entry;
use super::kit::{Desk, Place, wait_for};
use super::survive::{monitor_of, strike};
use super::world::{cgroup_file, kernel_is};
use crate::place::SMALL_DISKS;
use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "full disk: a container whose monitor is killed goes on and is watched",
        run: watched,
    },
    Row {
        name: "full disk: stop and rm -f work, whatever the policy",
        run: stopped,
    },
    Row {
        name: "full disk: the exit code is the program's",
        run: ended,
    },
    Row {
        name: "full disk: rmi and the prunes work, and what they free can be used",
        run: images,
    },
];

/// mydocker's directory on a small file system of its own.
struct Disk(PathBuf);

impl Disk {
    fn under(desk: &Desk, name: &str) -> Result<Disk> {
        let disk = desk.path("..").join(name);
        symlink(&disk, desk.root()).context("put mydocker's directory on a small disk")?;
        Ok(Disk(disk))
    }

    fn fill(&self) -> Result<()> {
        let mut file = std::fs::File::create(self.0.join("fill"))?;
        let block = [1; 4096];
        while file.write_all(&block).is_ok() {}
        // The last page may have room for a part of it.
        while file.write_all(&block[..1]).is_ok() {}
        Ok(())
    }

    fn free(&self) -> Result<()> {
        std::fs::remove_file(self.0.join("fill")).context("free the disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // For a row that has failed: its containers can be removed.
        let _ = self.free();
    }
}

const TRAP: &str = "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done";

fn watched(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let disk = Disk::under(&desk, SMALL_DISKS[0])?;
    desk.start(&["--name", "z", "busybox", "sh", "-c", TRAP])?;
    desk.logged("z", "ready")?;
    let pid = desk.pid("z")?;
    disk.fill()?;
    strike(monitor_of(pid)?)?;
    let limit = || cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max");
    let before = limit()?;
    desk.go(&["update", "-m", "50m", "z"])?
        .fails(1, &["No space"])?;
    ensure!(limit()? == before, "the kernel was told");
    for _ in 0..3 {
        let row = desk.row("z")?.context("no row")?;
        ensure!(row.contains("running"), "{row:?}");
    }
    ensure!(desk.pid("z")? == pid, "it is another process");
    desk.go(&["kill", "-s", "TERM", "z"])?.ok()?;
    wait_for("its end is seen", || {
        let row = desk.row("z")?.context("no row")?;
        Ok((!row.contains("running")).then_some(()))
    })?;
    let row = desk.row("z")?.context("no row")?;
    // Before that the kernel tells an exit code to the parent alone, and others as long as that does not look.
    let missed = !kernel_is(6, 15)? && row.contains("exited (code unknown");
    ensure!(missed || row.contains("exited (7)"), "{row:?}");
    desk.go(&["rm", "z"])?.ok()?;
    disk.free()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn stopped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let disk = Disk::under(&desk, SMALL_DISKS[1])?;
    for name in ["stop-me", "remove-me"] {
        let policy = ["--restart", "always", "--name", name];
        desk.start(&[&policy[..], &["busybox", "sh", "-c", TRAP]].concat())?;
        desk.logged(name, "ready")?;
    }
    for name in ["stop-me-too", "kill-me"] {
        desk.start(&["--rm", "--name", name, "busybox", "top"])?;
    }
    disk.fill()?;
    desk.go(&["kill", "kill-me"])?.ok()?;
    desk.go(&["stop", "stop-me-too"])?.ok()?;
    disk.fill()?;
    desk.go(&["stop", "stop-me"])?.ok()?;
    let row = desk.row("stop-me")?.context("no row")?;
    ensure!(row.contains("exited (7)"), "{row:?}");
    disk.fill()?;
    desk.go(&["rm", "-f", "remove-me"])?.ok()?;
    desk.go(&["rm", "stop-me"])?.ok()?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    disk.free()?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    Ok(())
}

fn ended(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let disk = Disk::under(&desk, SMALL_DISKS[2])?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let script = "echo ready; read line; exit 3";
    let mut command = desk.command(desk.program());
    command.args(["run", "-i", "busybox", "sh", "-c", script]);
    command.stdin(Stdio::piped());
    let mut run = Going::start(command)?;
    let mut out = BufReader::new(run.0.stdout.take().context("no pipe")?);
    let mut line = String::new();
    out.read_line(&mut line)?;
    ensure!(line == "ready\n", "{line:?}");
    disk.fill()?;
    let mut input = run.0.stdin.take().context("no pipe")?;
    input.write_all(b"go\n")?;
    run.done("run")?.code(3)?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    disk.free()
}

fn images(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let disk = Disk::under(&desk, SMALL_DISKS[3])?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    for name in ["one", "two"] {
        desk.import(name, vec![Entry::File("name", 0o644, name.as_bytes())], &[])?;
    }
    desk.go(&["tag", "two", "second"])?.ok()?;
    desk.write("context/Dockerfile", "FROM busybox\nRUN echo 3 > /three\n")?;
    desk.go(&["build", "-q", "context"])?.ok()?;
    let names = || -> Result<Vec<String>> {
        let list = ["images", "--format", "{{.Repository}}"];
        let mut names: Vec<String> = desk
            .go(&list)?
            .ok()?
            .out
            .lines()
            .map(String::from)
            .collect();
        names.sort();
        Ok(names)
    };
    let left = |expected: &[&str]| -> Result<()> {
        let found = names()?;
        ensure!(found == expected, "{found:?}, should be {expected:?}");
        Ok(())
    };
    left(&["<none>", "busybox", "one", "second", "two"])?;
    disk.fill()?;
    // The disk is in fact full.
    let import = ["import", "one.tar", "three"];
    desk.go(&import)?.fails(1, &["No space"])?;
    desk.go(&["rmi", "one"])?.ok()?;
    left(&["<none>", "busybox", "second", "two"])?;
    for (command, expected) in [
        (&["rmi", "two"][..], &["<none>", "busybox", "second"][..]),
        (&["image", "prune", "-f"], &["busybox", "second"]),
        (&["builder", "prune", "-af"], &["busybox", "second"]),
        (&["image", "prune", "-af"], &[]),
    ] {
        disk.fill()?;
        desk.go(command)?.ok()?;
        left(expected).with_context(|| command.join(" "))?;
    }
    for dir in ["drafts", "layers", "images/blobs/sha256"] {
        let mut entries = std::fs::read_dir(desk.root().join(dir))?;
        ensure!(entries.next().is_none(), "something is left in {dir}");
    }
    // What was filled again is now free without anybody's help.
    desk.go(&import)?.ok()?;
    desk.go(&["run", "three", "cat", "/name"])?.ok()?;
    disk.free()?;
    desk.go(&["run", "busybox", "true"])?.ok().map(drop)
}
