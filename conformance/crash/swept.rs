//! `runtime create` beside somebody who removes empty cgroups, as systemd does on v1.

use super::{Point, inject, text, trace, tracer};
use crate::bundles::hierarchies;
use crate::frontend::kit::{finish, skip};
use crate::frontend::{Desk, Place};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::PathBuf;

/// At each step of it the cgroup is removed as far as it is there and empty. It is made again, whole.
pub(super) fn matrix(place: &Place) -> Result<()> {
    if place.runtime.is_some() {
        return skip("it is meant for `runtime`: how others bear it is their own affair");
    }
    let desk = Desk::new(place)?;
    let id = format!("conf-{}-swept", std::process::id());
    let bundle = desk.bundle(&["sleep", "1000"])?;
    let file = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    config["linux"]["resources"] = json!({"pids": {"limit": 77}});
    let count = desk.text("count");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo x >>{count}")]}]);
    config["hooks"] = json!({"createRuntime": hook, "createContainer": hook});
    std::fs::write(&file, config.to_string())?;
    let runtime = desk.runtime();
    let (root, bundle) = (desk.text("state"), bundle.display().to_string());
    let go = |args: &[&str]| {
        let mut command = desk.command(&runtime);
        command.args(["--root", &root]).args(args);
        finish(&mut command, &args.join(" "), "")
    };
    let places: Vec<PathBuf> = hierarchies()?.iter().map(|dir| dir.join(&id)).collect();
    // In how many hierarchies it is.
    let usual = Cell::new(0);
    let once = |point: Option<&Point>| {
        let point = match point {
            Some(_) => format!("{id}{}{}", tracer::SWEEP, text(point, "")),
            None => tracer::COMMAND.to_owned(),
        };
        let args = ["--root", &root, "create", "-b", &bundle, &id];
        let points = trace(&desk, &runtime, &args, &point)?;
        let state: Value = serde_json::from_str(&go(&["state", &id])?.ok()?.out)?;
        ensure!(state["status"] == "created", "{state}");
        let pid = format!("{}\n", state["pid"]);
        let there: Vec<_> = places.iter().filter(|place| place.exists()).collect();
        if point == tracer::COMMAND {
            usual.set(there.len());
        }
        ensure!(there.len() == usual.get(), "only {there:?}");
        for place in there {
            let inside = std::fs::read_to_string(place.join("cgroup.procs"))?;
            ensure!(inside == pid, "{}: {inside:?}", place.display());
        }
        let limits = places.iter().map(|place| place.join("pids.max"));
        let mut limits = limits.filter_map(|file| std::fs::read_to_string(file).ok());
        let limit = limits.next().context("no limit")?;
        ensure!(limit == "77\n", "{limit:?}");
        let hooks = std::fs::read_to_string(&count)?;
        ensure!(hooks == "x\nx\n", "not once each: {hooks:?}");
        std::fs::remove_file(&count)?;
        go(&["delete", "--force", &id])?.ok()?;
        let left: Vec<_> = places.iter().filter(|place| place.exists()).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(points)
    };
    inject("runtime create, swept", once)
}
