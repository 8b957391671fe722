//! The crash matrix: each command is run once to find the system calls by which it changes
//! something, and then once for each of them, killed right before it. mydocker, its monitor, the
//! runtime and the container's first process until it runs the user's program are all meant.
//! Afterwards `ps` must tell the truth, and the next commands must leave the world as it was.

pub(crate) mod tracer;

use crate::frontend::kit::{finish, wait_for};
use crate::frontend::world::{World, cgroups_of, processes};
use crate::frontend::{Desk, Place, Row};
use anyhow::{Context, Result, bail, ensure};
use std::path::Path;
use std::sync::Mutex;
use tracer::Point;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A58 crash: run",
        run: |place| matrix(place, &RUN),
    },
    Row {
        name: "A58 crash: run -d",
        run: |place| matrix(place, &RUN_DETACHED),
    },
    Row {
        name: "A58 crash: start",
        run: |place| matrix(place, &START),
    },
    Row {
        name: "A58 crash: exec",
        run: |place| matrix(place, &EXEC),
    },
    Row {
        name: "A58 crash: stop",
        run: |place| matrix(place, &STOP),
    },
    Row {
        name: "A58 crash: rm",
        run: |place| matrix(place, &RM),
    },
    Row {
        name: "A58 crash: rm -f",
        run: |place| matrix(place, &RM_FORCE),
    },
    Row {
        name: "A58 crash: commit",
        run: |place| matrix(place, &COMMIT),
    },
    Row {
        name: "A58 crash: commit of a stopped container",
        run: |place| matrix(place, &COMMIT_STOPPED),
    },
    Row {
        name: "A58 crash: build",
        run: |place| matrix(place, &BUILD),
    },
    Row {
        name: "A58 crash: import",
        run: |place| matrix(place, &IMPORT),
    },
    Row {
        name: "A58 crash: rmi",
        run: |place| matrix(place, &RMI),
    },
    Row {
        name: "A58 crash: rename",
        run: |place| matrix(place, &RENAME),
    },
    Row {
        name: "A58 crash: update",
        run: |place| matrix(place, &UPDATE),
    },
    Row {
        name: "A58 crash: cp",
        run: |place| matrix(place, &CP),
    },
    Row {
        name: "A58 crash: create with volumes",
        run: |place| matrix(place, &CREATE_VOLUMES),
    },
    Row {
        name: "A58 crash: rm -v",
        run: |place| matrix(place, &RM_VOLUMES),
    },
    Row {
        name: "A58 crash: volume create",
        run: |place| matrix(place, &VOLUME_CREATE),
    },
    Row {
        name: "A58 crash: volume rm",
        run: |place| matrix(place, &VOLUME_RM),
    },
    Row {
        name: "A58 crash: runtime create",
        run: |place| bare::matrix(place, "create"),
    },
    Row {
        name: "A58 crash: runtime start",
        run: |place| bare::matrix(place, "start"),
    },
    Row {
        name: "A58 crash: runtime delete",
        run: |place| bare::matrix(place, "delete"),
    },
];

mod bare;

/// What the rows have to say for the summary.
pub(crate) static REMARKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn remark(text: String) {
    if let Ok(mut remarks) = REMARKS.lock() {
        remarks.push(text);
    }
}

struct Scenario {
    /// What must hold of the container while it is still there.
    standing: fn(&Desk) -> Result<()>,
    prepare: fn(&Desk) -> Result<()>,
    args: &'static [&'static str],
    /// What else must hold afterwards, and its clearing away.
    after: fn(&Desk) -> Result<()>,
}

const NOTHING: fn(&Desk) -> Result<()> = |_| Ok(());

const RUN: Scenario = Scenario {
    standing: NOTHING,
    prepare: NOTHING,
    args: &["run", "--name", "z", "busybox", "true"],
    after: NOTHING,
};

const RUN_DETACHED: Scenario = Scenario {
    standing: NOTHING,
    prepare: NOTHING,
    args: &["run", "-d", "--name", "z", "busybox", "true"],
    after: NOTHING,
};

const START: Scenario = Scenario {
    standing: NOTHING,
    prepare: ended,
    args: &["start", "z"],
    after: NOTHING,
};

const EXEC: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["exec", "z", "true"],
    after: NOTHING,
};

const STOP: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["stop", "-s", "KILL", "z"],
    after: NOTHING,
};

const RM: Scenario = Scenario {
    standing: NOTHING,
    prepare: ended,
    args: &["rm", "z"],
    after: NOTHING,
};

const RM_FORCE: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["rm", "-f", "z"],
    after: NOTHING,
};

const COMMIT: Scenario = Scenario {
    standing: NOTHING,
    prepare: changed,
    args: &["commit", "z", "made"],
    after: |desk| whole_or_not(desk, &["cat", "/new"], "text"),
};

const COMMIT_STOPPED: Scenario = Scenario {
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

const BUILD: Scenario = Scenario {
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

const IMPORT: Scenario = Scenario {
    standing: NOTHING,
    prepare: archive,
    args: &["import", "made.tar", "made"],
    after: |desk| whole_or_not(desk, &["/busybox", "cat", "/new"], "text"),
};

const RMI: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        archive(desk)?;
        desk.go(&["import", "made.tar", "made"])?.ok().map(drop)
    },
    args: &["rmi", "made"],
    after: |desk| whole_or_not(desk, &["/busybox", "cat", "/new"], "text"),
};

const RENAME: Scenario = Scenario {
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

const UPDATE: Scenario = Scenario {
    standing: NOTHING,
    prepare: running,
    args: &["update", "--pids-limit", "50", "z"],
    after: NOTHING,
};

const CP: Scenario = Scenario {
    standing: NOTHING,
    prepare: |desk| {
        desk.write("file", "text")?;
        ended(desk)
    },
    args: &["cp", "file", "z:/file"],
    after: |desk| std::fs::remove_file(desk.path("file")).context("remove the file"),
};

const CREATE_VOLUMES: Scenario = Scenario {
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

const RM_VOLUMES: Scenario = Scenario {
    prepare: |desk| {
        desk.start(&["--name", "z", "-v", "/etc", "busybox", "true"])?;
        desk.wait("z").map(drop)
    },
    args: &["rm", "-v", "z"],
    standing: NOTHING,
    // It was there still, and lost its container without -v.
    after: no_volume,
};

const VOLUME_CREATE: Scenario = Scenario {
    prepare: no_volume,
    args: &["volume", "create", "data"],
    standing: NOTHING,
    after: |desk| {
        only_volume(desk, "data")?;
        desk.go(&["volume", "create", "data"])?.ok()?;
        no_volume(desk)
    },
};

const VOLUME_RM: Scenario = Scenario {
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

/// Runs a traced command: its points, or the one that was asked for if it was reached.
fn trace(desk: &Desk, program: &Path, args: &[&str], point: &str) -> Result<Vec<Point>> {
    let file = desk.path("points");
    let _ = std::fs::remove_file(&file);
    let own = std::env::current_exe().context("find the test program")?;
    let mut command = desk.command(&own);
    command.arg(tracer::VERB).arg(&file).arg(point).arg(program);
    command.args(args);
    let done = finish(&mut command, &args.join(" "), "")?;
    let text = std::fs::read_to_string(&file).with_context(|| format!("no points: {done:?}"))?;
    text.lines().map(Point::parse).collect()
}

fn text(point: Option<&Point>, otherwise: &str) -> String {
    point.map_or_else(|| otherwise.to_owned(), Point::to_string)
}

fn matrix(place: &Place, scenario: &Scenario) -> Result<()> {
    let desk = Desk::new(place)?;
    // What is made once stays: the image, the directories of volumes.
    desk.go(&["run", "-v", "/warm", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let program = desk.program().to_owned();
    let once = |point: Option<&Point>| -> Result<Vec<Point>> {
        (scenario.prepare)(&desk)?;
        let points = trace(&desk, &program, scenario.args, &text(point, tracer::ALL))?;
        is_true(&desk)?;
        (scenario.standing)(&desk)?;
        desk.go(&["rm", "-f", "z"])?.ok()?;
        (scenario.after)(&desk)?;
        wait_for("what was left alone ends", || {
            Ok(processes(&desk).is_empty().then_some(()))
        })?;
        desk.go(&["ps"])?.ok()?;
        desk.go(&["images"])?.ok()?;
        before.is_back(&desk)?;
        Ok(points)
    };
    inject(&scenario.args.join(" "), once)
}

/// Runs `once` without a point, and then for each that it has found.
fn inject(what: &str, once: impl Fn(Option<&Point>) -> Result<Vec<Point>>) -> Result<()> {
    let points = once(None)?;
    ensure!(points.len() > 1, "hardly anything was traced: {points:?}");
    let (mut injected, mut failures) = (0, Vec::new());
    // A step that depends on others, as a second try does, is not made each time: it counts only if
    // another recording has it too.
    let reach = |point| -> Result<Vec<Point>> {
        for _ in 0..5 {
            let reached = once(Some(point))?;
            if !reached.is_empty() {
                return Ok(reached);
            }
        }
        Ok(Vec::new())
    };
    let mut found = points.len();
    for point in &points {
        match reach(point) {
            Ok(reached) if reached.is_empty() && !once(None)?.contains(point) => found -= 1,
            Ok(reached) if reached.is_empty() => failures.push(format!("{point}: not reached")),
            Ok(_) => injected += 1,
            Err(error) => {
                failures.push(format!("{point}: {error:#}"));
                // The world is not as it was: what follows would tell nothing.
                break;
            }
        }
    }
    remark(format!(
        "crash: {what}: {found} points found, {injected} injected"
    ));
    if failures.is_empty() {
        return Ok(());
    }
    bail!("{}", failures.join("\n"))
}

/// What `ps` says of `z` is so.
fn is_true(desk: &Desk) -> Result<()> {
    let Some(row) = desk.row("z")? else {
        return Ok(());
    };
    match is_true_of(desk, &row)? {
        true => Ok(()),
        // Its monitor was about to remove it.
        false => {
            ensure!(desk.row("z")?.is_none(), "{row:?}");
            Ok(())
        }
    }
}

/// `inspect -f`, or `None` when the container is gone.
fn inspect(desk: &Desk, template: &str) -> Result<Option<String>> {
    let found = desk.go(&["inspect", "-f", template, "z"])?;
    if found.err.contains("no such container") {
        return Ok(None);
    }
    Ok(Some(found.ok()?.line().to_owned()))
}

/// `false`: it is gone meanwhile.
fn is_true_of(desk: &Desk, row: &str) -> Result<bool> {
    let (Some(id), Some(status)) = (
        inspect(desk, "{{.Id}}")?,
        inspect(desk, "{{.State.Status}}")?,
    ) else {
        return Ok(false);
    };
    match status.as_str() {
        "running" if desk.go(&["exec", "z", "true"])?.code == 0 => {
            desk.go(&["logs", "z"])?.ok()?;
        }
        // It may end between two questions, so the first answer counts only with the second.
        "running" | "exited" | "created" => {
            let Some(status) = inspect(desk, "{{.State.Status}}")? else {
                return Ok(false);
            };
            ensure!(status != "running", "it does not run: {row:?}");
            // What the killed one should have cleared away falls to the next command, once its
            // monitor is gone.
            wait_for("its cgroups are gone", || {
                desk.row("z")?;
                Ok(cgroups_of(&id)?.is_empty().then_some(()))
            })
            .with_context(|| format!("{row:?}"))?;
        }
        other => bail!("{other}: {row:?}"),
    }
    Ok(true)
}
