//! The same for the runtime alone.

use super::tracer::COMMAND;
use super::{inject, text, trace};
use crate::frontend::kit::{finish, skip, wait_for};
use crate::frontend::world::processes;
use crate::frontend::{Desk, Done, Place};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Stdio;

struct Bench {
    desk: Desk,
    runtime: PathBuf,
    root: String,
    bundle: String,
    id: String,
    /// systemd makes the cgroup.
    systemd: bool,
}

impl Bench {
    /// What every command line begins with.
    fn head(&self) -> Vec<&str> {
        let mut head = vec!["--root", &self.root];
        head.extend(self.systemd.then_some("--systemd-cgroup"));
        head
    }

    fn go(&self, args: &[&str]) -> Result<Done> {
        let mut command = self.desk.command(&self.runtime);
        command.args(self.head()).args(args);
        finish(&mut command, &args.join(" "), "")
    }

    /// What is left of the container.
    fn left(&self) -> Result<Vec<PathBuf>> {
        let mut dirs = vec![PathBuf::from(&self.root)];
        dirs.extend(crate::bundles::hierarchies()?);
        let scope = format!("system.slice/runtime-{}.scope", self.id);
        let found = dirs
            .iter()
            .flat_map(|dir| [dir.join(&self.id), dir.join(&scope)]);
        Ok(found.filter(|path| path.exists()).collect())
    }

    fn prepare(&self, verb: &str) -> Result<()> {
        if verb != "create" {
            // The container has its standard streams.
            let mut command = self.desk.command(&self.runtime);
            command.args(self.head());
            command.args(["create", "-b", &self.bundle, &self.id]);
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
        if self.systemd {
            // When its last process ends, systemd ends the scope in its own time.
            return wait_for("no scope is left", || {
                Ok(self.left()?.is_empty().then_some(()))
            });
        }
        let left = self.left()?;
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    }
}

/// All points of `runtime VERB`, with `systemd` of `runtime --systemd-cgroup VERB`.
pub(super) fn matrix(place: &Place, verb: &str, systemd: bool) -> Result<()> {
    if place.runtime.is_some() {
        return skip("it is meant for `runtime`: how others bear it is their own affair");
    }
    let desk = Desk::new(place)?;
    let bench = Bench {
        runtime: desk.runtime(),
        root: desk.text("state"),
        bundle: desk.bundle(&["sleep", "1000"])?.display().to_string(),
        id: format!("conf-{}-crash-{verb}", std::process::id()),
        systemd,
        desk,
    };
    if systemd && !Path::new("/run/systemd/system").exists() {
        return skip("the first process of this machine is not systemd");
    }
    let mut args = bench.head();
    args.push(verb);
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
    // What is made once stays: the state's directory, and controllers that are handed down.
    once(None)?;
    inject(&format!("runtime {verb}"), once)
}
