//! The same for the runtime alone.

use super::tracer::COMMAND;
use super::{inject, text, trace};
use crate::frontend::kit::{finish, skip, wait_for};
use crate::frontend::world::processes;
use crate::frontend::{Desk, Done, Place};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Stdio;

struct Bench {
    desk: Desk,
    runtime: PathBuf,
    root: String,
    bundle: String,
    id: String,
}

impl Bench {
    fn go(&self, args: &[&str]) -> Result<Done> {
        let mut command = self.desk.command(&self.runtime);
        command.args(["--root", &self.root]).args(args);
        finish(&mut command, &args.join(" "), "")
    }

    /// What is left of the container.
    fn left(&self) -> Result<Vec<PathBuf>> {
        let mut dirs = vec![PathBuf::from(&self.root)];
        dirs.extend(crate::bundles::hierarchies()?);
        let found = dirs.into_iter().map(|dir| dir.join(&self.id));
        Ok(found.filter(|path| path.exists()).collect())
    }

    fn prepare(&self, verb: &str) -> Result<()> {
        if verb != "create" {
            // The container has its standard streams.
            let mut command = self.desk.command(&self.runtime);
            command.args(["--root", &self.root, "create", "-b", &self.bundle, &self.id]);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let status = command.status().context("run the runtime")?;
            ensure!(status.success(), "create: {status}");
        }
        if verb == "delete" {
            self.go(&["kill", &self.id, "KILL"])?.ok()?;
            wait_for("it has stopped", || {
                let state = self.go(&["state", &self.id])?.ok()?;
                Ok(state.out.contains("\"stopped\"").then_some(()))
            })?;
        }
        Ok(())
    }

    /// The state is readable and true, and `delete --force` takes everything away.
    fn check(&self) -> Result<()> {
        self.go(&["list"])?.ok()?;
        let state = self.go(&["state", &self.id])?;
        if state.code == 0 {
            let state: serde_json::Value = serde_json::from_str(&state.out)?;
            let pid = state["pid"].as_i64().unwrap_or(0);
            let lives = std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| !e.is_empty());
            let status = state["status"].as_str().context("no status")?;
            let alive = matches!(status, "created" | "running" | "paused");
            // A program that ends by itself may do so between the two.
            ensure!(
                !alive || lives || self.go(&["state", &self.id])?.out.contains("stopped"),
                "{status}, and {pid} does not live"
            );
        }
        self.go(&["delete", "--force", &self.id])?.ok()?;
        wait_for("no process is left", || {
            Ok(processes(&self.desk).is_empty().then_some(()))
        })?;
        let left = self.left()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}

/// All points of `runtime VERB`.
pub(super) fn matrix(place: &Place, verb: &str) -> Result<()> {
    if place.runtime.is_some() {
        return skip("it is meant for `runtime`: how others bear it is their own affair");
    }
    let desk = Desk::new(place)?;
    let bench = Bench {
        runtime: desk.runtime(),
        root: desk.text("state"),
        bundle: desk.bundle(&["sleep", "1000"])?.display().to_string(),
        id: format!("conf-{}-crash-{verb}", std::process::id()),
        desk,
    };
    let mut args = vec!["--root", &bench.root, verb];
    if verb == "create" {
        args.extend(["-b", &bench.bundle]);
    }
    args.push(&bench.id);
    let once = |point: Option<&_>| {
        bench.prepare(verb)?;
        let points = trace(&bench.desk, &bench.runtime, &args, &text(point, COMMAND))?;
        bench.check()?;
        Ok(points)
    };
    inject(&format!("runtime {verb}"), once)
}
