//! The life of a container (runtime.md): what each verb does, and when it must be refused.

use super::{Row, Trial, give_terminal};
use crate::bundles::hierarchies;
use crate::frontend::{ended, finish, skip, wait_for};
use anyhow::{Context, Result, ensure};
use procfs::FromRead;
use procfs::process::Status;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

pub(super) const ROWS: &[Row] = &[
    ("life: from create to delete", whole),
    ("life: without an id every verb is refused", without_id),
    ("life: what is not there is refused", absent),
    ("state: what it says", state),
    ("state: paused is its only further status", paused),
    ("create: the program waits in its environment", waits),
    ("create: config.json is read once", read_once),
    ("run: a terminal that nobody sees is refused", unseen),
    ("create: an id is taken once", taken),
    ("create: an id that leads elsewhere is refused", bad_ids),
    ("create: without a config.json it is refused", no_config),
    ("create: what fails leaves nothing", leaves_nothing),
    ("start: a container that runs stays as it is", started_twice),
    ("start: a container that has ended is refused", started_late),
    (
        "start: without a process there is nothing to start",
        no_process,
    ),
    ("kill: the signal reaches the first process", signalled),
    ("kill: a created container is signalled too", created_killed),
    ("kill: a container that has ended is refused", killed_late),
    ("kill: by the annotation if no signal is named", stop_signal),
    ("delete: a container that runs stays as it is", running_kept),
    (
        "delete: a container that was only created stays as it is",
        created_kept,
    ),
    ("delete: what create made is gone, the id free", gone),
    ("delete: what others made stays", others_kept),
    ("delete: a cgroup of others stays", cgroup_kept),
    ("delete: by force, with a damaged state", damaged),
    (
        "create: what a killed one has only named is not its own",
        only_named,
    ),
    ("delete: right after the kill", at_once),
    ("run: the memory that it takes", memory_of_run),
];

/// `create` with this config; the container's output goes to [`Trial::said`].
pub(super) fn create(trial: &Trial, config: &Value) -> Result<()> {
    trial.write(config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    trial.finish(child)
}

/// The same for a program of the shell.
fn create_shell(trial: &Trial, script: &str) -> Result<()> {
    create(trial, &trial.config(&["sh", "-c", script]))
}

fn start_shell(trial: &Trial, script: &str) -> Result<()> {
    create_shell(trial, script)?;
    trial.go(&["start", &trial.id])?.ok().map(drop)
}

/// A `create` that is killed early has told the store of a cgroup that may be another container's.
fn only_named(trial: &Trial) -> Result<()> {
    let state = trial.path("root").join(&trial.id).join("state.json");
    start_shell(trial, "exec sleep 1000")?;
    for peer in ["runc", "crun"] {
        trial.skip_for(peer, "its state has another form")?;
    }
    let mut saved: Value = serde_json::from_slice(&std::fs::read(&state)?)?;
    ensure!(!saved["cgroup"]["dirs"].is_null(), "{saved}");
    let other = format!("{}-named", trial.id);
    saved["id"] = json!(other);
    saved["created"] = json!("2020-01-01T00:00:00Z");
    let dead = std::mem::take(&mut saved["init"]);
    let dir = trial.path("root").join(&other);
    for again in [
        &["create", &other][..],
        &["delete", "--force", &other],
        &["delete", &other],
    ] {
        if again.len() == 2 && again[0] == "delete" {
            // One that has run, and whose cgroup another one has entered since.
            saved["init"] = dead.clone();
            saved["init"]["startTime"] = json!(1);
        }
        let _ = std::fs::create_dir(&dir);
        std::fs::write(dir.join("state.json"), saved.to_string())?;
        if again[0] == "create" {
            let child = trial.spawn(&mut trial.command(again))?;
            let created = trial.finish(child);
            trial.go(&["delete", "--force", &other])?.ok()?;
            created?;
        } else {
            trial.go(again)?.ok()?;
        }
        ensure!(!dir.exists(), "{again:?} has left it");
        let status = trial.state()?["status"].clone();
        ensure!(status == "running", "{again:?}: the other one is {status}");
    }
    Ok(())
}

/// The verb must fail.
fn refused(trial: &Trial, args: &[&str]) -> Result<()> {
    let done = trial.go(args)?;
    ensure!(done.code != 0, "it must be refused: {done:?}");
    Ok(())
}

pub(super) fn status_is(trial: &Trial, wanted: &str) -> Result<()> {
    let found = trial.state()?["status"].clone();
    ensure!(found == wanted, "it is {found}, not {wanted}");
    Ok(())
}

pub(super) fn stopped(trial: &Trial) -> Result<()> {
    wait_for("it is stopped", || {
        Ok((trial.state()?["status"] == "stopped").then_some(()))
    })
}

/// Waits for a file in the directory that the container shares.
fn appears(trial: &Trial, name: &str) -> Result<String> {
    let path = trial.path("shared").join(name);
    wait_for(name, || {
        Ok(std::fs::read_to_string(&path)
            .ok()
            .filter(|text| text.ends_with('\n')))
    })
}

fn whole(trial: &Trial) -> Result<()> {
    create_shell(trial, "echo ran >/mnt/ran; exec sleep 1000")?;
    status_is(trial, "created")?;
    trial.go(&["start", &trial.id])?.ok()?;
    appears(trial, "ran")?;
    status_is(trial, "running")?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    trial.go(&["delete", &trial.id])?.ok()?;
    refused(trial, &["state", &trial.id])
}

fn without_id(trial: &Trial) -> Result<()> {
    trial.write(&trial.config(&["true"]))?;
    for verb in ["create", "state", "start", "kill", "delete"] {
        refused(trial, &[verb])?;
    }
    let list = trial.go(&["list", "-q"])?.ok()?;
    ensure!(list.out.trim().is_empty(), "{list:?}");
    Ok(())
}

fn absent(trial: &Trial) -> Result<()> {
    for args in [
        &["state", "nosuch"][..],
        &["start", "nosuch"],
        &["kill", "nosuch", "KILL"],
        &["delete", "nosuch"],
    ] {
        refused(trial, args)?;
    }
    Ok(())
}

/// Each property with its type (schema/state-schema.json), in each status.
fn state(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sleep", "1000"]);
    config["annotations"] = json!({"org.example.key": "value"});
    create(trial, &config)?;
    let look = |status: &str| -> Result<()> {
        let state = trial.state()?;
        for (key, wanted) in [
            ("id", json!(trial.id)),
            ("status", json!(status)),
            ("bundle", json!(trial.path("bundle"))),
            ("annotations", json!({"org.example.key": "value"})),
        ] {
            ensure!(state[key] == wanted, "{key} is {}", state[key]);
        }
        let version = state["ociVersion"].as_str().unwrap_or_default();
        ensure!(version.split('.').count() >= 3, "ociVersion {version:?}");
        let alive = status != "stopped";
        let pid = state["pid"].as_i64().unwrap_or(0);
        ensure!(alive == (pid > 0), "{status} with pid {pid}");
        ensure!(!alive || Path::new(&format!("/proc/{pid}")).exists());
        Ok(())
    };
    look("created")?;
    trial.go(&["start", &trial.id])?.ok()?;
    look("running")?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    look("stopped")
}

fn paused(trial: &Trial) -> Result<()> {
    start_shell(trial, "exec sleep 1000")?;
    trial.go(&["pause", &trial.id])?.ok()?;
    status_is(trial, "paused")?;
    trial.go(&["resume", &trial.id])?.ok()?;
    status_is(trial, "running")
}

fn waits(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sh", "-c", "hostname >/mnt/ran"]);
    config["hostname"] = "box".into();
    config["linux"]["resources"] = json!({"pids": {"limit": 77}});
    create(trial, &config)?;
    let pid = trial.state()?["pid"].as_i64().unwrap_or(0);
    for kind in ["pid", "mnt", "ipc", "uts", "net"] {
        let link = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/{kind}"));
        let (own, its) = (link("thread-self")?, link(&pid.to_string())?);
        ensure!(own != its, "no {kind} namespace yet");
    }
    let limit =
        crate::frontend::world::cgroup_file(pid.try_into()?, "pids", "pids.max", "pids.max")?;
    ensure!(limit.is_none_or(|limit| limit == "77"), "no limit yet");
    let ran = trial.path("shared/ran");
    ensure!(!ran.exists(), "the program ran before start");
    trial.go(&["start", &trial.id])?.ok()?;
    let said = appears(trial, "ran")?;
    ensure!(said == "box\n", "{said:?}");
    Ok(())
}

fn read_once(trial: &Trial) -> Result<()> {
    create_shell(trial, "echo first >/mnt/said")?;
    trial.write(&trial.config(&["sh", "-c", "echo second >/mnt/said"]))?;
    trial.go(&["start", &trial.id])?.ok()?;
    let said = appears(trial, "said")?;
    ensure!(said == "first\n", "{said:?}");
    Ok(())
}

fn taken(trial: &Trial) -> Result<()> {
    create_shell(trial, "exec sleep 1000")?;
    let before = trial.state()?;
    refused(trial, &["create", &trial.id])?;
    ensure!(trial.state()? == before, "{}, not {before}", trial.state()?);
    trial.go(&["start", &trial.id])?.ok()?;
    refused(trial, &["create", &trial.id])?;
    status_is(trial, "running")
}

fn bad_ids(trial: &Trial) -> Result<()> {
    trial.write(&trial.config(&["true"]))?;
    for id in ["", ".", "..", "a/b", "../a"] {
        refused(trial, &["create", id])?;
    }
    Ok(())
}

fn no_config(trial: &Trial) -> Result<()> {
    refused(trial, &["create", &trial.id])?;
    let nowhere = trial.path("nosuch").display().to_string();
    refused(trial, &["create", "--bundle", &nowhere, &trial.id])?;
    refused(trial, &["state", &trial.id])
}

/// What there is of a container: its cgroups, its state, mounts below the trial's directory.
fn remains(trial: &Trial) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for base in hierarchies()? {
        let dir = base.join(&trial.id);
        if dir.exists() {
            found.push(dir.display().to_string());
        }
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts")?;
    let mine = trial.path("").display().to_string();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&mine))
            .map(str::to_owned),
    );
    if trial.path("root").join(&trial.id).exists() {
        found.push("its state".to_owned());
    }
    Ok(found)
}

fn leaves_nothing(trial: &Trial) -> Result<()> {
    let good = trial.config(&["true"]);
    let changes: [fn(&mut Value); 6] = [
        |config| config["root"]["path"] = "/no/such/directory".into(),
        |config| config["mounts"][3]["source"] = "/no/such/directory".into(),
        |config| config["mounts"][2]["type"] = "nosuchfs".into(),
        |config| config["linux"]["namespaces"][4]["path"] = "/no/such/namespace".into(),
        |config| config["linux"]["sysctl"] = json!({"net.no.such": "1"}),
        |config| config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]}),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut config = good.clone();
        change(&mut config);
        trial.write(&config)?;
        refused(trial, &["create", &trial.id])?;
        refused(trial, &["state", &trial.id])?;
        let left = remains(trial)?;
        ensure!(left.is_empty(), "mistake {number} leaves {left:?}");
    }
    Ok(())
}

fn started_twice(trial: &Trial) -> Result<()> {
    start_shell(trial, "echo ran >>/mnt/ran; exec sleep 1000")?;
    appears(trial, "ran")?;
    let before = trial.state()?;
    refused(trial, &["start", &trial.id])?;
    ensure!(trial.state()? == before, "{}, not {before}", trial.state()?);
    let ran = std::fs::read_to_string(trial.path("shared/ran"))?;
    ensure!(ran == "ran\n", "{ran:?}");
    Ok(())
}

fn started_late(trial: &Trial) -> Result<()> {
    start_shell(trial, "echo ran >>/mnt/ran")?;
    stopped(trial)?;
    refused(trial, &["start", &trial.id])?;
    status_is(trial, "stopped")?;
    let ran = std::fs::read_to_string(trial.path("shared/ran"))?;
    ensure!(ran == "ran\n", "{ran:?}");
    Ok(())
}

/// Whether `create` refuses it already is the runtime's choice.
fn no_process(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config
        .as_object_mut()
        .context("an object")?
        .remove("process");
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    if trial.finish(child).is_ok() {
        refused(trial, &["start", &trial.id])?;
        status_is(trial, "created")?;
    }
    Ok(())
}

fn signalled(trial: &Trial) -> Result<()> {
    let script = "trap 'echo got >/mnt/got' USR1; echo ready >/mnt/ready
        while :; do sleep 0.05; done";
    start_shell(trial, script)?;
    appears(trial, "ready")?;
    trial.go(&["kill", &trial.id, "USR1"])?.ok()?;
    appears(trial, "got")?;
    status_is(trial, "running")
}

fn created_killed(trial: &Trial) -> Result<()> {
    create_shell(trial, "echo ran >/mnt/ran")?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    stopped(trial)?;
    ensure!(!trial.path("shared/ran").exists(), "the program ran");
    Ok(())
}

fn killed_late(trial: &Trial) -> Result<()> {
    start_shell(trial, "true")?;
    stopped(trial)?;
    let before = trial.state()?;
    refused(trial, &["kill", &trial.id, "TERM"])?;
    refused(trial, &["kill", &trial.id, "KILL"])?;
    ensure!(trial.state()? == before, "{}, not {before}", trial.state()?);
    Ok(())
}

fn stop_signal(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it sends SIGTERM")?;
    trial.skip_for("crun", "it sends SIGTERM")?;
    let script = "trap 'echo usr2 >/mnt/got' USR2; trap 'echo term >/mnt/got' TERM
        echo ready >/mnt/ready; while :; do sleep 0.05; done";
    let mut config = trial.config(&["sh", "-c", script]);
    config["annotations"] = json!({"org.opencontainers.image.stopSignal": "SIGUSR2"});
    create(trial, &config)?;
    trial.go(&["start", &trial.id])?.ok()?;
    appears(trial, "ready")?;
    trial.go(&["kill", &trial.id])?.ok()?;
    let got = appears(trial, "got")?;
    ensure!(got == "usr2\n", "{got:?}");
    Ok(())
}

fn running_kept(trial: &Trial) -> Result<()> {
    start_shell(trial, "exec sleep 1000")?;
    let before = trial.state()?;
    refused(trial, &["delete", &trial.id])?;
    ensure!(trial.state()? == before, "{}, not {before}", trial.state()?);
    Ok(())
}

fn created_kept(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it deletes it")?;
    trial.skip_for("crun", "it deletes it")?;
    create_shell(trial, "echo ran >/mnt/ran")?;
    refused(trial, &["delete", &trial.id])?;
    status_is(trial, "created")?;
    trial.go(&["start", &trial.id])?.ok()?;
    appears(trial, "ran").map(drop)
}

fn gone(trial: &Trial) -> Result<()> {
    for _ in 0..2 {
        start_shell(trial, "true")?;
        stopped(trial)?;
        trial.go(&["delete", &trial.id])?.ok()?;
        let left = remains(trial)?;
        ensure!(left.is_empty(), "{left:?} are left");
        refused(trial, &["state", &trial.id])?;
    }
    Ok(())
}

fn others_kept(trial: &Trial) -> Result<()> {
    start_shell(trial, "echo content >/mnt/file")?;
    stopped(trial)?;
    trial.go(&["delete", &trial.id])?.ok()?;
    let said = std::fs::read_to_string(trial.path("shared/file"))?;
    ensure!(said == "content\n", "{said:?}");
    ensure!(
        trial.path("bundle/config.json").exists(),
        "the bundle is gone"
    );
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/rootfs/bin/busybox");
    ensure!(root.exists(), "the root filesystem is gone");
    Ok(())
}

/// A cgroup that an engine has made for the container, and looks at afterwards.
fn cgroup_kept(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it removes it")?;
    trial.skip_for("crun", "it removes it")?;
    let dirs: Vec<_> = hierarchies()?
        .iter()
        .map(|base| base.join(trial.parent()).join(&trial.id))
        .collect();
    let result = dirs
        .iter()
        .try_for_each(std::fs::create_dir_all)
        .context("make the cgroups")
        .and_then(|()| {
            let mut config = trial.config(&["true"]);
            config["linux"]["cgroupsPath"] = format!("/{}/{}", trial.parent(), trial.id).into();
            trial.write(&config)?;
            trial.go(&["run", &trial.id])?.ok()?;
            let lost: Vec<_> = dirs.iter().filter(|dir| !dir.exists()).collect();
            ensure!(lost.is_empty(), "{lost:?} are gone");
            Ok(())
        });
    for dir in &dirs {
        let _ = std::fs::remove_dir(dir);
    }
    result
}

/// What is in the container's cgroup is its own by the mark on that, and only then.
fn damaged(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it leaves the container running")?;
    trial.skip_for("crun", "it leaves the container running")?;
    let mut config = trial.config(&["sleep", "1000"]);
    config["linux"]["cgroupsPath"] = format!("/{}", trial.parent()).into();
    create(trial, &config)?;
    let pid = trial.state()?["pid"].as_i64().context("no pid")?;
    let root = trial.path("root");
    let other = format!("{}-other", trial.id);
    for spec in [Some(config.to_string()), Some("{".to_owned()), None] {
        std::fs::create_dir(root.join(&other))?;
        std::fs::write(root.join(&other).join("state.json"), "")?;
        if let Some(spec) = &spec {
            std::fs::write(root.join(&other).join("config.json"), spec)?;
        }
        let done = trial.go(&["delete", "--force", &other])?.ok()?;
        ensure!(
            done.err.contains("may still run") && done.err.contains(&other),
            "{spec:?}: nothing is said of what may be left: {done:?}"
        );
        ensure!(!root.join(&other).exists(), "{spec:?}: it is left");
        let status = trial.state()?["status"].clone();
        ensure!(status == "created", "the owner of the cgroup is {status}");
    }
    std::fs::write(root.join(&trial.id).join("state.json"), "")?;
    let done = trial.go(&["delete", "--force", &trial.id])?.ok()?;
    // Whoever has inherited it takes its status.
    let process = format!("/proc/{pid}");
    wait_for(&format!("its process is gone, after {done:?}"), || {
        Ok((!Path::new(&process).exists()).then_some(()))
    })?;
    let left = remains(trial)?;
    ensure!(left.is_empty(), "{left:?} are left");
    for base in hierarchies()? {
        let dir = base.join(trial.parent());
        ensure!(!dir.exists(), "{} is left", dir.display());
    }
    create(trial, &config)
}

/// Engines that do not wait for the end of what they have killed.
fn at_once(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "its delete does not wait for the end")?;
    trial.skip_for("crun", "its delete does not wait for the end")?;
    for _ in 0..5 {
        create_shell(trial, "exec sleep 1000")?;
        trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
        trial.go(&["delete", &trial.id])?.ok()?;
    }
    Ok(())
}

/// Most of what a short program keeps in memory are the pages of its file, and how many those are
/// depends on how its functions lie (scripts/order).
fn memory_of_run(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it is measured in scripts/bench")?;
    trial.skip_for("crun", "it is measured in scripts/bench")?;
    if cfg!(debug_assertions) {
        return skip("a program for debugging is larger");
    }
    let list = include_str!("../../scripts/order.d/runtime");
    let made_with = list.lines().next().and_then(|line| line.strip_prefix("# "));
    let made_with = made_with.context("scripts/order.d/runtime names no compiler")?;
    let compiler = Command::new("rustc").arg("-V").output();
    if !compiler.is_ok_and(|it| String::from_utf8_lossy(&it.stdout).trim() == made_with) {
        return skip(format!("scripts/order.d is for {made_with}"));
    }
    trial.write(&trial.config(&["sleep", "1000"]))?;
    let mut child = trial.spawn(&mut trial.command(&["run", &trial.id]))?;
    wait_for("the container runs", || {
        let state = trial.state();
        Ok(state
            .is_ok_and(|it| it["status"] == "running")
            .then_some(()))
    })?;
    let status = Status::from_file(format!("/proc/{}/status", child.id()))?;
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    ended(child.id() as i32, "the runtime")?;
    child.wait()?;
    let largest = status.vmhwm.context("no VmHWM")?;
    ensure!(
        largest <= 2560,
        "{largest} KiB: does scripts/order.d name functions that are there? make it anew"
    );
    Ok(())
}

fn unseen(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sh"]);
    give_terminal(&mut config)?;
    trial.write(&config)?;
    // In a session without a terminal.
    let mut run = trial.wrapped(&["setsid", "--wait"], &["run", &trial.id]);
    let done = finish(&mut run, "run", "")?;
    ensure!(done.code != 0 && done.err.contains("terminal"), "{done:?}");
    ensure!(trial.go(&["state", &trial.id])?.code != 0, "it is there");
    Ok(())
}
