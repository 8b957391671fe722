//! What is known of containers after a power cut.

use super::Row;
use super::kit::{Desk, Place, wait_for};
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[Row {
    name: "a power cut: each life that began is known to have begun",
    run: each_life,
}];

/// What the next boot finds of a container.
fn lasting(desk: &Desk, id: &str) -> PathBuf {
    desk.root().join("containers").join(id).join("record.json")
}

/// Takes the processes of a container away, what it has in /run, and what is known of it in this boot alone.
pub(super) fn fails_for(desk: &Desk, name: &str) -> Result<()> {
    let (pid, id) = (desk.pid(name)?, desk.inspect(name, "{{.Id}}")?);
    strike(monitor_of(pid)?)?;
    strike(pid)?;
    std::fs::remove_dir_all(desk.run_dir().join("containers").join(&id))?;
    let (record, lasting) = (desk.record(&id)?, lasting(desk, &id));
    if record != lasting {
        std::fs::rename(&record, record.with_file_name("record.another.json"))?;
    }
    let mut record: Value = serde_json::from_slice(&std::fs::read(&lasting)?)?;
    for process in ["process", "monitor"] {
        if let Some(process) = record[process].as_object_mut() {
            process.insert("boot_id".to_owned(), "another".into());
        }
    }
    std::fs::write(lasting, serde_json::to_vec(&record)?)?;
    Ok(())
}

/// Waits until the disk knows that a container runs: nobody waits for that after a start by its policy.
fn known(desk: &Desk, name: &str) -> Result<()> {
    let id = desk.inspect(name, "{{.Id}}")?;
    wait_for("the disk knows of it", || {
        let Ok(record) = std::fs::read(lasting(desk, &id)) else {
            return Ok(None);
        };
        let record: Value = serde_json::from_slice(&record).context("read what lasts")?;
        let runs = record["exit"].is_null() && !record["started"].is_null();
        Ok(runs.then_some(()))
    })
}

fn each_life(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // At once: whoever was told that it runs may rely on it.
    desk.start(&["--name", "first", "busybox", "top"])?;
    fails_for(&desk, "first")?;
    // One that goes at its end has ended.
    desk.go(&["create", "--rm", "--name", "gone", "busybox", "top"])?
        .ok()?;
    desk.go(&["start", "gone"])?.ok()?;
    fails_for(&desk, "gone")?;
    // It was stopped once, and started again.
    let policy = ["--restart", "unless-stopped", "--name", "again"];
    desk.start(&[&policy[..], &["busybox", "top"]].concat())?;
    desk.go(&["stop", "-t", "0", "again"])?.ok()?;
    desk.go(&["start", "again"])?.ok()?;
    fails_for(&desk, "again")?;
    // Its policy has started it.
    let script = "if [ -e /was ]; then exec sleep 1000; fi; touch /was; exit 7";
    let policy = ["--restart", "on-failure", "--name", "second"];
    desk.start(&[&policy[..], &["busybox", "sh", "-c", script]].concat())?;
    wait_for("its second life", || {
        let state = desk.inspect("second", "{{.RestartCount}} {{.State.Status}}")?;
        Ok((state == "1 running").then_some(()))
    })?;
    known(&desk, "second")?;
    fails_for(&desk, "second")?;
    for name in ["first", "again", "second"] {
        let row = desk
            .row(name)?
            .with_context(|| format!("no row of {name}"))?;
        ensure!(row.contains("code unknown"), "{row:?}");
    }
    ensure!(desk.row("gone")?.is_none(), "it is there");
    let done = desk.go(&["boot"])?.ok()?;
    ensure!(done.out == "again\n", "{done:?}");
    Ok(())
}
