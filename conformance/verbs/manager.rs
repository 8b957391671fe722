//! Who makes the cgroups.

use super::{Row, Trial};
use crate::bundles::hierarchies;
use anyhow::{Context, Result, ensure};
use serde_json::json;

pub(super) const ROWS: &[Row] = &[
    (
        "create: one that fails leaves the new cgroup of a neighbour",
        neighbour,
    ),
    ("--cgroup-manager cgroupfs: a cgroup is made", made),
    (
        "--cgroup-manager disabled: none is made, and what needs one is an error",
        disabled,
    ),
];

fn made(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it has no such option")?;
    trial.skip_with_systemd("it names the manager itself")?;
    trial.write(&trial.config(&["cat", "/proc/self/cgroup"]))?;
    let done = trial
        .go(&["--cgroup-manager", "cgroupfs", "run", &trial.id])?
        .ok()?;
    ensure!(done.out.contains(&trial.id), "{done:?}");
    Ok(())
}

fn disabled(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it has no such option")?;
    trial.skip_for("crun", "it ignores limits then")?;
    trial.skip_with_systemd("it names the manager itself")?;
    let disabled = ["--cgroup-manager", "disabled"];
    let mut config = trial.config(&["cat", "/proc/self/cgroup"]);
    trial.write(&config)?;
    let done = trial
        .go(&[&disabled[..], &["run", &trial.id]].concat())?
        .ok()?;
    ensure!(!done.out.contains(&trial.id), "{done:?}");
    config["linux"]["resources"] = json!({"pids": {"limit": 5}});
    trial.write(&config)?;
    let done = trial.go(&[&disabled[..], &["run", &trial.id]].concat())?;
    ensure!(
        done.code != 0 && done.err.contains("no cgroup of its own"),
        "{done:?}"
    );
    trial.write(&trial.config(&["sleep", "1000"]))?;
    let run = [&disabled[..], &["run", "--detach", &trial.id]].concat();
    trial.finish(trial.spawn(&mut trial.command(&run))?)?;
    for verb in [
        &["ps"][..],
        &["events", "--stats"],
        &["pause"],
        &["kill", "--all"],
    ] {
        let done = trial.go(&[verb, &[&trial.id]].concat())?;
        ensure!(
            done.code != 0 && done.err.contains("no cgroup of its own"),
            "{done:?}"
        );
    }
    trial.go(&["exec", &trial.id, "true"])?.ok()?;
    trial.go(&["kill", "--all", &trial.id, "KILL"])?.ok()?;
    Ok(())
}

/// The hook is the neighbour: another runtime that has made a cgroup for a container of its own, in
/// the parent that ours has made, and has not put a process into it yet.
fn neighbour(trial: &Trial) -> Result<()> {
    let bases = hierarchies()?;
    let base = bases.first().context("no cgroups")?;
    let [own, other] = ["own", "other"].map(|name| base.join(trial.parent()).join(name));
    let script = format!("mkdir {}; exit 1", other.display());
    let mut config = trial.config(&["true"]);
    config["linux"]["cgroupsPath"] = json!(format!("/{}/own", trial.parent()));
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    trial.write(&config)?;
    let done = trial.go(&["create", &trial.id])?;
    let stays = std::fs::remove_dir(other).is_ok();
    ensure!(done.code != 0 && !own.exists(), "{done:?}");
    ensure!(stays, "the neighbour's cgroup is gone");
    Ok(())
}
