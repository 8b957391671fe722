//! Hooks (config.md, "POSIX-platform Hooks"; runtime.md, "Lifecycle"): when each kind is called, where,
//! with what state, and what its failure does.

use super::life::{create, stopped};
use super::{Row, Trial};
use crate::frontend::wait_for;
use crate::place::write_program;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub(super) const ROWS: &[Row] = &[
    ("hooks: those of one kind in the listed order", listed),
    ("hooks: create calls three kinds, in their order", of_create),
    ("hooks: start calls startContainer hooks", of_start),
    (
        "hooks: run has not started while startContainer hooks work",
        of_run,
    ),
    ("hooks: poststart when the program runs", of_poststart),
    ("hooks: delete calls poststop hooks", of_delete),
    ("hooks: the state on standard input", states),
    ("hooks: the pid as the hook's namespace counts", pids),
    ("hooks: in the runtime's namespaces", in_runtime),
    ("hooks: in the container's namespaces", in_container),
    ("hooks: before the root is changed", before_pivot),
    ("hooks: paths of the runtime's namespace", paths),
    ("hooks: args and env are theirs alone", arguments),
    ("hooks: annotations take their output", output),
    ("hooks prestart: a failure ends the container", |trial| {
        create_fails(trial, "prestart")
    }),
    (
        "hooks createRuntime: a failure ends the container",
        |trial| create_fails(trial, "createRuntime"),
    ),
    (
        "hooks createContainer: a failure ends the container",
        |trial| create_fails(trial, "createContainer"),
    ),
    (
        "hooks startContainer: a failure ends the container",
        |trial| start_fails(trial, "startContainer"),
    ),
    ("hooks poststart: a failure ends the container", |trial| {
        trial.skip_for("runc", "it calls them in create")?;
        trial.skip_for("crun", "its container goes on")?;
        start_fails(trial, "poststart")
    }),
    (
        "hooks poststop: called after another kind has failed",
        afterwards,
    ),
    (
        "hooks poststop: called after createContainer alone has failed",
        after_create_container,
    ),
    (
        "hooks createContainer: run once, though it moves the container",
        moving,
    ),
    ("hooks poststop: a failure is a warning", poststop_fails),
    ("hooks poststop: called once when `run` fails", after_run),
];

const KINDS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// hook DIR NAME: notes the order, the state, the namespaces, what it sees of the root and of the
/// first process.
const SCRIPT: &str = r#"#!/bin/sh
echo "$2" >>"$1/order"
cat >"$1/$2.state"
pid=$(grep -o '"pid": *[0-9]*' "$1/$2.state" | grep -o '[0-9]*$')
for kind in pid mnt ipc uts net; do readlink "/proc/self/ns/$kind"; done >"$1/$2.ns" 2>/dev/null
for kind in pid mnt ipc uts net; do readlink "/proc/$pid/ns/$kind"; done >"$1/$2.of" 2>/dev/null
cat "/proc/$pid/comm" >"$1/$2.comm" 2>/dev/null
if [ -e /bin/probe ]; then echo inside; else echo outside; fi >"$1/$2.root"
if [ -e "/proc/$pid/root/bin/probe" ]; then echo inside; else echo outside; fi >"$1/$2.pivot"
env >"$1/$2.env"
exit 0
"#;

/// A hook that notes what it sees under a name.
fn noting(trial: &Trial, kind: &str, name: &str) -> Value {
    match kind {
        "startContainer" => json!({"path": "/mnt/hook", "args": ["hook", "/mnt", name],
            "env": ["PATH=/bin"]}),
        _ => {
            let dir = trial.path("shared");
            json!({"path": dir.join("hook"), "args": ["hook", dir, name],
                "env": ["PATH=/usr/bin:/bin"]})
        }
    }
}

/// A config with a noting hook of every kind.
fn config(trial: &Trial) -> Result<Value> {
    let script = trial.path("shared/hook");
    write_program(&script, SCRIPT)?;
    let mut config = trial.config(&["sleep", "1000"]);
    config["annotations"] = json!({"org.example.key": "value"});
    for kind in KINDS {
        config["hooks"][kind] = json!([noting(trial, kind, kind)]);
    }
    Ok(config)
}

fn noted(trial: &Trial, file: &str) -> Result<String> {
    let path = trial.path("shared").join(file);
    let text = std::fs::read_to_string(&path);
    text.with_context(|| format!("no hook has written {file}"))
}

/// From create to delete.
fn live(trial: &Trial, config: &Value) -> Result<()> {
    create(trial, config)?;
    trial.go(&["start", &trial.id])?.ok()?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    trial.go(&["delete", &trial.id])?.ok().map(drop)
}

/// The names that hooks have noted, of these kinds.
fn order(trial: &Trial, kinds: &[&str]) -> String {
    let all = noted(trial, "order").unwrap_or_default();
    let lines = all.lines();
    let mine = lines.filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
    mine.collect::<Vec<_>>().join(" ")
}

fn listed(trial: &Trial) -> Result<()> {
    let mut config = config(trial)?;
    for kind in KINDS {
        let two = ["1", "2"].map(|number| noting(trial, kind, &format!("{kind}{number}")));
        config["hooks"][kind] = json!(two);
    }
    live(trial, &config)?;
    for kind in KINDS {
        let found = order(trial, &[kind]);
        ensure!(found == format!("{kind}1 {kind}2"), "{found}");
    }
    Ok(())
}

fn of_create(trial: &Trial) -> Result<()> {
    create(trial, &config(trial)?)?;
    let found = order(trial, &KINDS[..3]);
    ensure!(found == KINDS[..3].join(" "), "{found}");
    Ok(())
}

fn of_start(trial: &Trial) -> Result<()> {
    create(trial, &config(trial)?)?;
    let kind = "startContainer";
    ensure!(order(trial, &[kind]).is_empty(), "before start");
    trial.go(&["start", &trial.id])?.ok()?;
    ensure!(order(trial, &[kind]) == kind, "not after start");
    Ok(())
}

fn of_run(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    // It ends when somebody reads what it has to say.
    let script = "echo here >/mnt/pipe";
    config["hooks"]["startContainer"] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    trial.write(&config)?;
    let pipe = trial.path("shared/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU)?;
    let run = trial.spawn(&mut trial.command(&["run", &trial.id]))?;
    let has_child = |state: &Value| {
        let pid = &state["pid"];
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.is_ok_and(|children| !children.is_empty())
    };
    let state = wait_for("the hook is at work", || {
        Ok(trial.state().ok().filter(has_child))
    })?;
    ensure!(std::fs::read_to_string(pipe)? == "here\n");
    trial.finish(run)?;
    ensure!(state["status"] == "created", "{state}");
    Ok(())
}

fn of_poststart(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it calls them in create")?;
    create(trial, &config(trial)?)?;
    let kind = "poststart";
    ensure!(order(trial, &[kind]).is_empty(), "before start");
    trial.go(&["start", &trial.id])?.ok()?;
    ensure!(order(trial, &[kind]) == kind, "not after start");
    let program = noted(trial, "poststart.comm")?;
    ensure!(program == "sleep\n", "the program is {program:?}");
    Ok(())
}

fn of_delete(trial: &Trial) -> Result<()> {
    create(trial, &config(trial)?)?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    let kind = "poststop";
    ensure!(order(trial, &[kind]).is_empty(), "before delete");
    trial.go(&["delete", &trial.id])?.ok()?;
    ensure!(order(trial, &[kind]) == kind, "not after delete");
    Ok(())
}

fn state_of(trial: &Trial, kind: &str) -> Result<Value> {
    let text = noted(trial, &format!("{kind}.state"))?;
    serde_json::from_str(&text).with_context(|| format!("{kind}: {text}"))
}

fn states(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it tells of a status \"starting\"")?;
    trial.skip_for("runc", "it calls poststart while the status is created")?;
    live(trial, &config(trial)?)?;
    for (kind, statuses) in [
        ("prestart", &["creating", "created"][..]),
        ("createRuntime", &["creating", "created"]),
        ("createContainer", &["creating", "created"]),
        ("startContainer", &["created"]),
        ("poststart", &["running"]),
        ("poststop", &["stopped"]),
    ] {
        let state = state_of(trial, kind)?;
        let status = state["status"].as_str().unwrap_or_default();
        ensure!(statuses.contains(&status), "{kind}: {state}");
        for (key, wanted) in [
            ("id", json!(trial.id)),
            ("bundle", json!(trial.path("bundle"))),
            ("annotations", json!({"org.example.key": "value"})),
        ] {
            ensure!(state[key] == wanted, "{kind}: {key}: {state}");
        }
        ensure!(state["ociVersion"].is_string(), "{kind}: {state}");
    }
    Ok(())
}

fn pids(trial: &Trial) -> Result<()> {
    create(trial, &config(trial)?)?;
    let pid = trial.state()?["pid"].clone();
    trial.go(&["start", &trial.id])?.ok()?;
    for kind in KINDS[..5].iter() {
        let found = state_of(trial, kind)?["pid"].clone();
        let wanted = match kind.contains("Container") {
            true => json!(1),
            false => pid.clone(),
        };
        ensure!(found == wanted, "{kind}: {found}, not {wanted}");
    }
    Ok(())
}

fn own_namespaces() -> Result<String> {
    let mut all = String::new();
    for kind in ["pid", "mnt", "ipc", "uts", "net"] {
        let link = std::fs::read_link(format!("/proc/thread-self/ns/{kind}"))?;
        all += &format!("{}\n", link.display());
    }
    Ok(all)
}

fn in_runtime(trial: &Trial) -> Result<()> {
    live(trial, &config(trial)?)?;
    let own = own_namespaces()?;
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let found = noted(trial, &format!("{kind}.ns"))?;
        // A runtime may be called in a mount namespace of its own.
        let differ = |(one, other): (&str, &str)| one != other && !one.starts_with("mnt:");
        let same = !found.lines().zip(own.lines()).any(differ);
        ensure!(same && found.lines().count() == 5, "{kind}: {found}");
    }
    // The environment was there: the first process had namespaces of its own.
    for kind in ["prestart", "createRuntime", "poststart"] {
        let its = noted(trial, &format!("{kind}.of"))?;
        let hook = noted(trial, &format!("{kind}.ns"))?;
        let same = hook.lines().any(|link| its.contains(link));
        ensure!(!same && its.lines().count() == 5, "{kind}: {its}");
    }
    Ok(())
}

fn in_container(trial: &Trial) -> Result<()> {
    live(trial, &config(trial)?)?;
    let wanted = noted(trial, "poststart.of")?;
    let found = noted(trial, "startContainer.ns")?;
    ensure!(found == wanted, "startContainer: {found}, not {wanted}");
    // Before the root is changed, /proc is not yet that of the pid namespace: no link can be read
    // there, or those of another process.
    let found = noted(trial, "createContainer.ns")?;
    let own = own_namespaces()?;
    ensure!(
        !own.lines().any(|link| found.contains(link)),
        "createContainer: {found}"
    );
    Ok(())
}

fn before_pivot(trial: &Trial) -> Result<()> {
    live(trial, &config(trial)?)?;
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let root = noted(trial, &format!("{kind}.root"))?;
        ensure!(root == "outside\n", "{kind}: the root is {root:?}");
    }
    for kind in ["prestart", "createRuntime"] {
        let root = noted(trial, &format!("{kind}.pivot"))?;
        ensure!(root == "outside\n", "{kind}: the first process is {root:?}");
    }
    let root = noted(trial, "startContainer.root")?;
    ensure!(root == "inside\n", "startContainer: the root is {root:?}");
    Ok(())
}

/// The other hooks of [`config`] have paths that only the host has; this one only the container.
fn paths(trial: &Trial) -> Result<()> {
    let mut config = config(trial)?;
    config["hooks"]["startContainer"] =
        json!([{"path": "/bin/probe", "args": ["probe", "call", "39"]}]);
    live(trial, &config)?;
    for kind in KINDS.iter().filter(|kind| **kind != "startContainer") {
        noted(trial, &format!("{kind}.state"))?;
    }
    Ok(())
}

fn arguments(trial: &Trial) -> Result<()> {
    let mut config = config(trial)?;
    let dir = trial.path("shared");
    config["hooks"]["createRuntime"] = json!([{"path": dir.join("hook"),
        "args": ["hook", dir, "a  name"], "env": ["PATH=/usr/bin:/bin", "A=b c"]}]);
    live(trial, &config)?;
    let env = noted(trial, "a  name.env")?;
    let lines: Vec<&str> = env.lines().collect();
    ensure!(lines.contains(&"A=b c") && !env.contains("LISTEN"), "{env}");
    let known = ["A=", "PATH=", "PWD=", "SHLVL=", "_=", "OLDPWD="];
    let strange: Vec<_> = lines
        .iter()
        .filter(|line| !known.iter().any(|name| line.starts_with(name)))
        .collect();
    ensure!(strange.is_empty(), "{strange:?}");
    Ok(())
}

fn output(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it has no such annotations")?;
    let mut config = config(trial)?;
    for stream in ["stdout", "stderr"] {
        let path = trial.path(&format!("hooks.{stream}"));
        config["annotations"][format!("run.oci.hooks.{stream}")] = json!(path);
    }
    for kind in KINDS {
        let script = format!("echo {kind}; echo no {kind} >&2");
        config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    }
    live(trial, &config)?;
    let lines = |start: &str| -> String { KINDS.map(|kind| format!("{start}{kind}\n")).concat() };
    for (stream, wanted) in [("stdout", lines("")), ("stderr", lines("no "))] {
        let found = std::fs::read_to_string(trial.path(&format!("hooks.{stream}")))?;
        ensure!(found == wanted, "{stream}: {found}");
    }
    // One that cannot be written is an error, and nothing stays.
    config["annotations"]["run.oci.hooks.stderr"] = json!(trial.path("no/such"));
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    ensure!(trial.finish(child).is_err(), "create succeeded");
    is_gone(trial)
}

/// After a failure the container is destroyed, as by delete.
fn is_gone(trial: &Trial) -> Result<()> {
    let done = trial.go(&["state", &trial.id])?;
    ensure!(done.code != 0, "it is still there: {done:?}");
    Ok(())
}

fn afterwards(trial: &Trial) -> Result<()> {
    create_fails(trial, "createRuntime")?;
    noted(trial, "poststop.state").map(drop)
}

fn after_create_container(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it calls none then")?;
    let mut config = config(trial)?;
    config["hooks"] = json!({
        "createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}],
        "poststop": [noting(trial, "poststop", "poststop")],
    });
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    ensure!(trial.finish(child).is_err(), "create succeeded");
    is_gone(trial)?;
    noted(trial, "poststop.state").map(drop)
}

/// A cgroup that is gone when `create` fails is no reason to begin again: init was in it.
fn moving(trial: &Trial) -> Result<()> {
    let blkio = trial.v1_hierarchy("blkio")?;
    let mut config = config(trial)?;
    let (top, count) = (blkio.display(), trial.path("shared/count"));
    // As it sees the process: the numbers of the container, whose /proc is not the host's.
    let script = format!(
        "echo x >>{}; place=$(sed -n 's/.*:blkio://p' /proc/self/cgroup); \
         echo 1 >{top}/cgroup.procs && echo 0 >{top}/cgroup.procs && rmdir {top}$place; exit 3",
        count.display(),
    );
    config["hooks"] =
        json!({"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    trial.write(&config)?;
    let done = trial.go(&["create", &trial.id])?;
    ensure!(
        done.code != 0 && !done.err.contains("keeps removing"),
        "{done:?}"
    );
    let count = std::fs::read_to_string(count)?;
    ensure!(count == "x\n", "{count:?}: {done:?}");
    is_gone(trial)
}

fn create_fails(trial: &Trial, kind: &str) -> Result<()> {
    let mut config = config(trial)?;
    config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    ensure!(trial.finish(child).is_err(), "create succeeded");
    is_gone(trial)
}

fn start_fails(trial: &Trial, kind: &str) -> Result<()> {
    let mut config = config(trial)?;
    config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]);
    create(trial, &config)?;
    let done = trial.go(&["start", &trial.id])?;
    ensure!(done.code != 0, "start succeeded: {done:?}");
    is_gone(trial)
}

fn after_run(trial: &Trial) -> Result<()> {
    let ends = trial.path("ends");
    let script = |text: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", text]}]);
    for kind in ["startContainer", "poststart"] {
        let mut config = trial.config(&["true"]);
        config["hooks"] = json!({kind: script("exit 3")});
        config["hooks"]["poststop"] = script(&format!("echo {kind} >>{}", ends.display()));
        trial.write(&config)?;
        let done = trial.go(&["run", &trial.id])?;
        ensure!(done.code != 0, "{done:?}");
        let told = std::fs::read_to_string(&ends).unwrap_or_default();
        ensure!(told == format!("{kind}\n"), "{told}");
        std::fs::remove_file(&ends)?;
    }
    Ok(())
}

fn poststop_fails(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it gives no warning")?;
    let mut config = config(trial)?;
    config["hooks"]["poststop"] = json!([
        {"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]},
        noting(trial, "poststop", "second")
    ]);
    create(trial, &config)?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    let done = trial.go(&["delete", &trial.id])?.ok()?;
    ensure!(!done.err.is_empty(), "no warning: {done:?}");
    noted(trial, "second.state")?;
    let done = trial.go(&["state", &trial.id])?;
    ensure!(done.code != 0, "it is still there: {done:?}");
    Ok(())
}
