//! The crash matrix: each command is run once to find the system calls by which it changes
//! something, and then once for each of them, killed right before it. mydocker, its monitor, the
//! runtime and the container's first process until it runs the user's program are all meant.
//! Afterwards `ps` must tell the truth, and the next commands must leave the world as it was.

pub(crate) mod tracer;

use crate::frontend::kit::{finish, wait_for};
use crate::frontend::world::{World, cgroups_of, processes};
use crate::frontend::{Desk, Place, Row};
use anyhow::{Context, Result, bail, ensure};
use scenarios::*;
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
        name: "A58 crash: load",
        run: |place| matrix(place, &LOAD),
    },
    Row {
        name: "A58 crash: save -o",
        run: |place| matrix(place, &SAVE),
    },
    Row {
        name: "A58 crash: pull",
        run: pull,
    },
    Row {
        name: "A58 crash: pause",
        run: |place| matrix(place, &PAUSE),
    },
    Row {
        name: "A58 crash: unpause",
        run: |place| matrix(place, &UNPAUSE),
    },
    Row {
        name: "A58 crash: restart",
        // What it starts then is that of `start`.
        run: |place| matrix_of(place, &RESTART, RESTART.args, |point| point.process == "0"),
    },
    Row {
        name: "A58 crash: system prune",
        run: |place| matrix(place, &PRUNE),
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
        run: |place| bare::matrix(place, "create", false),
    },
    Row {
        name: "A58 crash: runtime create, whose empty cgroup is removed",
        run: swept::matrix,
    },
    Row {
        name: "A58 crash: runtime start",
        run: |place| bare::matrix(place, "start", false),
    },
    Row {
        name: "A58 crash: runtime delete",
        run: |place| bare::matrix(place, "delete", false),
    },
    Row {
        name: "systemd: create that is killed at any step",
        run: |place| bare::matrix(place, "create", true),
    },
    Row {
        name: "systemd: delete that is killed at any step",
        run: |place| bare::matrix(place, "delete", true),
    },
];

mod bare;
mod scenarios;
mod swept;

/// What the rows have to say for the summary.
pub(crate) static REMARKS: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub(crate) fn remark(text: String) {
    if let Ok(mut remarks) = REMARKS.lock() {
        remarks.push(text);
    }
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
    matrix_of(place, scenario, scenario.args, |_| true)
}

/// The same with other arguments, and for some of the points only.
fn matrix_of(
    place: &Place,
    scenario: &Scenario,
    args: &[&str],
    keep: fn(&Point) -> bool,
) -> Result<()> {
    let desk = Desk::new(place)?;
    // What is made once stays: the image, the directories of volumes.
    desk.go(&["run", "-v", "/warm", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let program = desk.program().to_owned();
    let once = |point: Option<&Point>| -> Result<Vec<Point>> {
        (scenario.prepare)(&desk)?;
        let mut points = trace(&desk, &program, args, &text(point, tracer::ALL))?;
        points.retain(keep);
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
    inject(&args.join(" "), once)
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
    let life = || inspect(desk, "{{.State.Status}} {{.State.StartedAt}}");
    let (Some(id), Some(was)) = (inspect(desk, "{{.Id}}")?, life()?) else {
        return Ok(false);
    };
    let (status, began) = was.split_once(' ').unwrap_or_default();
    match status {
        "running" if desk.go(&["exec", "z", "true"])?.code == 0 => {
            desk.go(&["logs", "z"])?.ok()?;
        }
        "paused" => {
            desk.go(&["exec", "z", "true"])?.fails(1, &["paused"])?;
            desk.go(&["unpause", "z"])?.ok()?;
            desk.go(&["exec", "z", "true"])?.ok()?;
        }
        // It may end between two questions, so the first answer counts only with the second.
        "running" | "exited" | "created" => {
            let Some(now) = life()? else {
                return Ok(false);
            };
            let (status_now, begins) = now.split_once(' ').unwrap_or_default();
            if status != "running" && status_now == "running" {
                // Its monitor was about to start it, whatever has become of who wanted that.
                ensure!(begins != began, "{was}, and then {now}: {row:?}");
                return is_true_of(desk, row);
            }
            ensure!(status_now != "running", "it does not run: {row:?}");
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
