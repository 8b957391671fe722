//! Layers that are unpacked when they are needed.

use super::{Desk, Place, Row};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "commit of a running container: unpacked at the first use",
        run: lazily,
    },
    Row {
        name: "commit of a running container: at once by several",
        run: at_once,
    },
    Row {
        name: "a layer whose directory is gone is unpacked again",
        run: healed,
    },
    Row {
        name: "a layer that is gone with its archive is told of",
        run: lost,
    },
    Row {
        name: "commit: the root directory's mode and owner, also in archives",
        run: root,
    },
    Row {
        name: "build: on an image that is not unpacked",
        run: below_a_build,
    },
    Row {
        name: "build: a kept step whose layer is gone is made again",
        run: step_is_gone,
    },
    Row {
        name: "build: a file copied to the root makes the same layer each time",
        run: root_of_a_copy,
    },
    Row {
        name: "load: on layers that are not unpacked",
        run: below_a_load,
    },
];

/// The directories of unpacked layers.
fn unpacked(desk: &Desk) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(desk.root().join("layers")).context("the layers")?;
    let mut dirs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    dirs.sort();
    Ok(dirs)
}

/// Commits `made` while its container runs; its layer is not unpacked, as it is where files cannot share
/// content or the container is not frozen.
fn commit_running(desk: &Desk) -> Result<()> {
    let script =
        "mkdir -m 1777 /new; echo content >/new/file; ln /new/file /new/link; rm /etc/hostname;
        chmod 751 /; echo ready; exec sleep 1000";
    desk.start(&["--name", "live", "busybox", "sh", "-c", script])?;
    desk.logged("live", "ready")?;
    let before = unpacked(desk)?;
    desk.go(&["commit", "--pause=false", "live", "made"])?
        .ok()?;
    ensure!(unpacked(desk)? == before, "it is unpacked already");
    // With its root: who unpacks it may know nothing of the layers below.
    let layer = desk.inspect("made", "{{index .RootFS.Layers 1}}")?;
    let blob = desk
        .root()
        .join("images/blobs/sha256")
        .join(layer.trim_start_matches("sha256:"));
    let mut archive = tar::Archive::new(std::fs::File::open(blob)?);
    let first = archive.entries()?.next().context("an empty layer")??;
    ensure!(first.path_bytes().as_ref() == b"./", "{:?}", first.path());
    Ok(())
}

const LOOK: &str =
    "cat /new/link; stat -c %a%u /new / | tr '\\n' ' '; stat -c %a%h%u /new/file | tr '\\n' ' '";

fn looks_right(desk: &Desk, image: &str) -> Result<()> {
    let done = desk.go(&["run", image, "sh", "-c", LOOK])?.ok()?;
    let words: Vec<&str> = done.out.split_whitespace().collect();
    let has = words == ["content", "17770", "7510", "64420"];
    ensure!(has, "{image}: {done:?}");
    Ok(())
}

fn lazily(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    let before = unpacked(desk)?;
    looks_right(desk, "made")?;
    ensure!(
        unpacked(desk)?.len() == before.len() + 1,
        "{:?}",
        unpacked(desk)?
    );
    looks_right(desk, "made")?;
    desk.go(&["rm", "-f", "live"])?.ok()?;
    desk.go(&["rmi", "made"])?.ok()?;
    ensure!(unpacked(desk)? == before, "{:?}", unpacked(desk)?);
    Ok(())
}

fn at_once(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| looks_right(desk, "made")))
            .collect();
        runs.into_iter()
            .try_for_each(|run| run.join().map_err(|_| anyhow::anyhow!("a panic"))?)
    })?;
    let drafts = std::fs::read_dir(desk.root().join("drafts"))?.count();
    ensure!(drafts == 0, "{drafts} drafts are left");
    Ok(())
}

fn healed(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    looks_right(desk, "made")?;
    for layer in unpacked(desk)? {
        // That of a container that runs stays as it is: its files are in use.
        desk.go(&["rm", "-f", "live"])?;
        std::fs::remove_dir_all(layer)?;
    }
    looks_right(desk, "made")
}

fn lost(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    let inspect = [
        "image",
        "inspect",
        "-f",
        "{{index .RootFS.Layers 1}}",
        "made",
    ];
    let done = desk.go(&inspect)?.ok()?;
    let hex = done.line().trim_start_matches("sha256:").to_owned();
    std::fs::remove_file(desk.root().join("images/blobs/sha256").join(&hex))?;
    let done = desk.go(&["run", "made", "true"])?;
    done.fails(125, &[hex.as_str()])?;
    // Others are not in its way.
    desk.go(&["run", "busybox", "true"])?.ok().map(drop)
}

fn root(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    let change = "chown 7:8 /; chmod 1711 /";
    desk.go(&[
        "run", "--keep", "--name", "ended", "busybox", "sh", "-c", change,
    ])?
    .ok()?;
    desk.go(&["commit", "ended", "changed"])?.ok()?;
    let shows = |image: &str| -> Result<()> {
        desk.go(&["run", image, "stat", "-c", "%a %u %g", "/"])?
            .ok()?
            .says("1711 7 8")
            .map(drop)
    };
    shows("changed")?;
    let file = desk.text("changed.tar");
    desk.go(&["save", "-o", &file, "changed"])?.ok()?;
    desk.go(&["rm", "ended"])?.ok()?;
    desk.go(&["rmi", "changed"])?.ok()?;
    desk.go(&["load", "-i", &file])?.ok()?;
    shows("changed")?;
    desk.write(
        "context/Dockerfile",
        &format!("FROM busybox\nRUN {change}\nRUN touch /tmp/x\n"),
    )?;
    desk.go(&["build", "-t", "built", &desk.text("context")])?
        .ok()?;
    shows("built")
}

fn below_a_build(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    desk.write("context/Dockerfile", "FROM made\nLABEL a=b\n")?;
    desk.go(&["build", "-t", "labelled", &desk.text("context")])?
        .ok()?;
    looks_right(desk, "labelled")?;
    desk.write(
        "context/Dockerfile",
        "FROM made\nRUN touch /more\nCOPY --from=made /new/file /copy\n",
    )?;
    desk.go(&["build", "-t", "built", &desk.text("context")])?
        .ok()?;
    looks_right(desk, "built")
}

fn step_is_gone(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    let build = |last: &str| {
        desk.write(
            "context/Dockerfile",
            &format!("FROM busybox\nRUN touch /one\nRUN touch /{last}\n"),
        )?;
        desk.go(&["build", "-t", "built", &desk.text("context")])?
            .ok()
    };
    desk.go(&["run", "busybox", "true"])?.ok()?;
    build("two")?;
    for layer in unpacked(desk)? {
        std::fs::remove_dir_all(layer)?;
    }
    build("three")?;
    desk.go(&["run", "built", "ls", "/one", "/three"])?
        .ok()
        .map(drop)
}

fn root_of_a_copy(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    desk.write("context/Dockerfile", "FROM busybox\nCOPY a /a\n")?;
    desk.write("context/a", "a")?;
    let context = desk.text("context");
    let args = [
        "build",
        "-q",
        "--no-cache",
        "--build-arg",
        "SOURCE_DATE_EPOCH=1000",
        &context,
    ];
    let ids = [desk.go(&args)?.ok()?, desk.go(&args)?.ok()?];
    ensure!(ids[0].out == ids[1].out, "{ids:?}");
    Ok(())
}

fn below_a_load(place: &Place) -> Result<()> {
    let desk = &Desk::new(place)?;
    commit_running(desk)?;
    desk.write("context/Dockerfile", "FROM made\nRUN touch /new/more\n")?;
    desk.go(&["build", "-t", "built", &desk.text("context")])?
        .ok()?;
    let file = desk.text("built.tar");
    desk.go(&["save", "-o", &file, "built"])?.ok()?;
    desk.go(&["rmi", "built"])?.ok()?;
    desk.go(&["builder", "prune", "-af"])?.ok()?;
    desk.go(&["rm", "-f", "live"])?.ok()?;
    for layer in unpacked(desk)? {
        std::fs::remove_dir_all(layer)?;
    }
    desk.go(&["load", "-i", &file])?.ok()?;
    looks_right(desk, "built")
}
