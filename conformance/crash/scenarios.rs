//! The commands of the matrix.

use super::matrix_of;
use crate::frontend::Desk;
use crate::frontend::false_registry::{FalseRegistry, Fixture};
use crate::frontend::kit::{Place, finish, wait_for};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// A command, and what must hold however far it came.
pub(super) struct Scenario {
    /// What must hold of the container while it is still there.
    pub(super) standing: fn(&Desk) -> Result<()>,
    pub(super) prepare: fn(&Desk) -> Result<()>,
    pub(super) args: &'static [&'static str],
    /// What else must hold afterwards, and its clearing away.
    pub(super) after: fn(&Desk) -> Result<()>,
}

const NOTHING: fn(&Desk) -> Result<()> = |_| Ok(());

pub(super) const RUN: Scenario = Scenario {
    standing: NOTHING,
    prepare: NOTHING,
    args: &["run", "--name", "z", "busybox", "true"],
    after: NOTHING,
};

pub(super) const RUN_DETACHED: Scenario = Scenario {
    standing: NOTHING,
    prepare: NOTHING,
    args: &["run", "-d", "--name", "z", "busybox", "true"],
    after: NOTHING,
};

pub(super) const START: Scenario = Scenario {
    standing: NOTHING,
    prepare: ended,
    args: &["start", "z"],
    after: NOTHING,
};

pub(super) const EXEC: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["exec", "z", "true"],
    after: NOTHING,
};

pub(super) const STOP: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["stop", "-s", "KILL", "z"],
    after: NOTHING,
};

pub(super) const RM: Scenario = Scenario {
    standing: NOTHING,
    prepare: ended,
    args: &["rm", "z"],
    after: NOTHING,
};

pub(super) const RM_FORCE: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["rm", "-f", "z"],
    after: NOTHING,
};

pub(super) const COMMIT: Scenario = Scenario {
    standing: NOTHING,
    prepare: changed,
    args: &["commit", "z", "made"],
    after: |desk| whole_or_not(desk, &["cat", "/new"], "text"),
};

pub(super) const COMMIT_STOPPED: Scenario = Scenario {
    // Whatever has become of the image, it has lost nothing.
    standing: |desk| {
        let done = desk.go(&["start", "-a", "z"])?.ok()?;
        ensure!(done.out == "text\n", "{done:?}");
        let done = desk.go(&["diff", "z"])?.ok()?;
        done.says("C /bin\nD /bin/wget\nA /new").map(drop)
    },
    prepare: |desk| {
        let script = "test -e /new || { echo text > /new; rm /bin/wget; }; cat /new";
        desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
        desk.wait("z").map(drop)
    },
    args: &["commit", "z", "made"],
    after: |desk| whole_or_not(desk, &["cat", "/new"], "text"),
};

pub(super) const BUILD: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        desk.write("context/text", "text\n")?;
        desk.write(
            "context/Dockerfile",
            "FROM busybox\nCOPY text /\nRUN mv text new\n",
        )
        .map(drop)
    },
    args: &["build", "-q", "-t", "made", "context"],
    after: |desk| {
        whole_or_not(desk, &["cat", "/new"], "text")?;
        desk.go(&["image", "prune", "-f"])?.ok()?;
        // What a step has made is kept for the next build, whatever became of this one.
        desk.go(&["builder", "prune", "-f"])?.ok().map(drop)
    },
};

pub(super) const IMPORT: Scenario = Scenario {
    standing: NOTHING,
    prepare: archive,
    args: &["import", "made.tar", "made"],
    after: |desk| whole_or_not(desk, &["/busybox", "cat", "/new"], "text"),
};

pub(super) const LOAD: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        if desk.path("saved.tar").exists() {
            return Ok(());
        }
        imported(desk)?;
        desk.go(&["save", "-o", "saved.tar", "made"])?.ok()?;
        desk.go(&["rmi", "made"])?.ok().map(drop)
    },
    args: &["load", "-q", "-i", "saved.tar"],
    after: |desk| whole_or_not(desk, &["/busybox", "cat", "/new"], "text"),
};

pub(super) const SAVE: Scenario = Scenario {
    standing: NOTHING,
    prepare: imported,
    args: &["save", "-q", "-o", "out.tar", "made"],
    after: |desk| {
        // There is all of it, or none.
        if desk.path("out.tar").exists() {
            desk.go(&["load", "-i", "out.tar"])?.ok()?;
        }
        // The next one leaves nothing of this one.
        desk.go(&["save", "-o", "out.tar", "made"])?.ok()?;
        for entry in std::fs::read_dir(desk.path("."))? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            ensure!(!name.starts_with(".out.tar"), "{name} is left");
        }
        std::fs::remove_file(desk.path("out.tar")).context("remove the file")?;
        whole_or_not(desk, &["/busybox", "cat", "/new"], "text")
    },
};

/// Its registry has a port of its own.
pub(super) fn pull(place: &Place) -> Result<()> {
    let fixture = Fixture::new(1000)?;
    let registry = FalseRegistry::start(move |heard| fixture.honest(heard))?;
    let name = format!("{}/made", registry.host());
    matrix_of(place, &PULL, &["pull", "-q", &name], |_| true)
}

const PULL: Scenario = Scenario {
    standing: NOTHING,
    prepare: NOTHING,
    args: &[],
    after: |desk| {
        let images = desk.go(&["images", "-q", "*/made"])?.ok()?;
        if images.out.is_empty() {
            return Ok(());
        }
        desk.go(&["create", "--name", "y", images.line()])?.ok()?;
        desk.go(&["cp", "y:/noise", "noise"])?.ok()?;
        let size = desk.path("noise").metadata()?.len();
        ensure!(size == 1000, "{size} bytes of the file");
        desk.go(&["rm", "y"])?.ok()?;
        desk.go(&["rmi", "-f", images.line()])?.ok().map(drop)
    },
};

pub(super) const PAUSE: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["pause", "z"],
    after: NOTHING,
};

pub(super) const UNPAUSE: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        running(desk)?;
        desk.go(&["pause", "z"])?.ok().map(drop)
    },
    args: &["unpause", "z"],
    after: NOTHING,
};

pub(super) const RESTART: Scenario = Scenario {
    standing: NOTHING,
    // What is traced must come to an end.
    prepare: |desk| {
        let script = "test -e /ran && exit; touch /ran; exec sleep 1000";
        desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
        let look = ["exec", "z", "test", "-e", "/ran"];
        wait_for("the program has begun", || {
            Ok((desk.go(&look)?.code == 0).then_some(()))
        })
    },
    args: &["restart", "-t", "0", "z"],
    after: NOTHING,
};

pub(super) const PRUNE: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        desk.start(&["--name", "z", "busybox", "touch", "/new"])?;
        desk.wait("z")?;
        desk.go(&["commit", "z"])?.ok().map(drop)
    },
    args: &["system", "prune", "-f"],
    after: |desk| desk.go(&["system", "prune", "-f"])?.ok().map(drop),
};

pub(super) const RMI: Scenario = Scenario {
    standing: NOTHING,
    prepare: imported,
    args: &["rmi", "made"],
    after: |desk| whole_or_not(desk, &["/busybox", "cat", "/new"], "text"),
};

pub(super) const RENAME: Scenario = Scenario {
    standing: NOTHING,
    prepare: ended,
    args: &["rename", "z", "new-name"],
    after: |desk| {
        // It has one of the two names, and the other is free for another container.
        let rows = desk.rows()?;
        let [row] = rows.as_slice() else {
            return ensure_none(&rows);
        };
        ensure!(row.contains("new-name"), "{row:?}");
        desk.start(&["--name", "z", "busybox", "true"])?;
        desk.wait("z")?;
        desk.go(&["rm", "z", "new-name"])?.ok().map(drop)
    },
};

fn ensure_none(rows: &[String]) -> Result<()> {
    ensure!(rows.is_empty(), "{rows:?}");
    Ok(())
}

pub(super) const UPDATE: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["update", "--pids-limit", "50", "z"],
    after: NOTHING,
};

pub(super) const CP: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        desk.write("file", "text")?;
        ended(desk)
    },
    args: &["cp", "file", "z:/file"],
    after: |desk| std::fs::remove_file(desk.path("file")).context("remove the file"),
};

pub(super) const CREATE_VOLUMES: Scenario = Scenario {
    prepare: no_volume,
    args: &[
        "create",
        "--rm",
        "--name",
        "z",
        "-v",
        "data:/etc",
        "-v",
        "/root",
        "busybox",
        "true",
    ],
    standing: NOTHING,
    after: |desk| {
        only_volume(desk, "data")?;
        // Whatever was copied into it by then, it is whole.
        desk.go(&["run", "-v", "data:/etc", "busybox", "cat", "/etc/passwd"])?
            .ok()?;
        no_volume(desk)
    },
};

pub(super) const RM_VOLUMES: Scenario = Scenario {
    prepare: |desk| {
        desk.start(&["--name", "z", "-v", "/etc", "busybox", "true"])?;
        desk.wait("z").map(drop)
    },
    args: &["rm", "-v", "z"],
    standing: NOTHING,
    // It was there still, and lost its container without -v.
    after: no_volume,
};

pub(super) const VOLUME_CREATE: Scenario = Scenario {
    prepare: no_volume,
    args: &["volume", "create", "data"],
    standing: NOTHING,
    after: |desk| {
        only_volume(desk, "data")?;
        desk.go(&["volume", "create", "data"])?.ok()?;
        no_volume(desk)
    },
};

pub(super) const VOLUME_RM: Scenario = Scenario {
    prepare: |desk| {
        let fill = ["run", "-v", "data:/etc", "busybox", "true"];
        desk.go(&fill)?.ok().map(drop)
    },
    args: &["volume", "rm", "data"],
    standing: NOTHING,
    after: |desk| {
        only_volume(desk, "data")?;
        no_volume(desk)
    },
};

/// There is this volume as a whole, or none.
fn only_volume(desk: &Desk, name: &str) -> Result<()> {
    let found = desk.go(&["volume", "ls", "-q"])?.ok()?;
    ensure!(
        found.out.is_empty() || found.line() == name,
        "volumes: {found:?}"
    );
    Ok(())
}

fn no_volume(desk: &Desk) -> Result<()> {
    desk.go(&["volume", "prune", "-af"])?.ok().map(drop)
}

fn running(desk: &Desk) -> Result<()> {
    desk.start(&["--name", "z", "busybox", "sleep", "1000"])
        .map(drop)
}

fn ended(desk: &Desk) -> Result<()> {
    desk.start(&["--name", "z", "busybox", "true"])?;
    desk.wait("z").map(drop)
}

fn changed(desk: &Desk) -> Result<()> {
    let script = "echo text > /new; rm /bin/wget; mkdir /dir; exec sleep 1000";
    desk.start(&["--name", "z", "busybox", "sh", "-c", script])?;
    let look = ["exec", "z", "test", "-d", "/dir"];
    wait_for("the program has made its files", || {
        Ok((desk.go(&look)?.code == 0).then_some(()))
    })
}

fn imported(desk: &Desk) -> Result<()> {
    archive(desk)?;
    desk.go(&["import", "made.tar", "made"])?.ok().map(drop)
}

fn archive(desk: &Desk) -> Result<()> {
    if desk.path("made.tar").exists() {
        return Ok(());
    }
    desk.write("tree/new", "text\n")?;
    std::fs::copy("/bin/busybox", desk.path("tree/busybox"))?;
    let mut tar = desk.command(Path::new("tar"));
    tar.args(["-cf", "made.tar", "-C", "tree", "."]);
    finish(&mut tar, "tar", "")?.ok().map(drop)
}

/// An image is there as a whole, or not at all.
fn whole_or_not(desk: &Desk, command: &[&str], text: &str) -> Result<()> {
    let images = desk.go(&["images", "-q", "made"])?.ok()?;
    if images.out.trim().is_empty() {
        return Ok(());
    }
    desk.go(&[&["run", "made"], command].concat())?
        .ok()?
        .says(text)?;
    desk.go(&["rmi", "made"])?.ok().map(drop)
}
