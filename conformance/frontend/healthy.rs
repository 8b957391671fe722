//! Health checks.

use super::Row;
use super::kit::{Desk, Place, wait_for};
use super::knowing::actions;
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "health: starting, healthy, unhealthy, and healthy again",
        run: life,
    },
    Row {
        name: "health: a check that hangs, or cannot be run, is a failure",
        run: hangs,
    },
    Row {
        name: "health: another monitor goes on checking",
        run: adopted,
    },
    Row {
        name: "health: options",
        run: options,
    },
];

/// Waits until `inspect` says so.
fn is(desk: &Desk, name: &str, wanted: &str) -> Result<()> {
    wait_for(&format!("{name} is {wanted}"), || {
        let status = desk.inspect(name, "{{.State.Health.Status}}")?;
        Ok((status == wanted).then_some(()))
    })
}

fn life(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let check = "echo looked; test -e /well";
    let every = ["--health-interval", "50ms", "--health-retries", "2"];
    let patience = [
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "50ms",
    ];
    let named = ["--name", "h", "--health-cmd", check];
    let id = desk.start(&[&named[..], &every, &patience, &["busybox", "top"]].concat())?;
    // In its start period failures do not count.
    let log = "{{len .State.Health.Log}}";
    wait_for("five checks", || {
        Ok((desk.inspect("h", log)? == "5").then_some(()))
    })?;
    let streak = "{{.State.Health.Status}} {{.State.Health.FailingStreak}}";
    ensure!(desk.inspect("h", streak)? == "starting 0");
    let row = desk.row("h")?.context("no row")?;
    ensure!(row.contains("running (health: starting)"), "{row}");
    desk.go(&["exec", "h", "touch", "/well"])?.ok()?;
    is(&desk, "h", "healthy")?;
    let row = desk.row("h")?.context("no row")?;
    ensure!(row.contains("running (healthy)"), "{row}");
    desk.go(&["exec", "h", "rm", "/well"])?.ok()?;
    is(&desk, "h", "unhealthy")?;
    let ids = ["ps", "-q", "--no-trunc", "--filter", "health=unhealthy"];
    desk.go(&ids)?.ok()?.says(&id)?;
    let last: Value = serde_json::from_str(&desk.inspect("h", "{{json .State.Health}}")?)?;
    let last = last["Log"]
        .as_array()
        .and_then(|log| log.last())
        .context("no log")?;
    ensure!(
        last["ExitCode"] == 1 && last["Output"] == "looked\n",
        "{last}"
    );
    desk.go(&["exec", "h", "touch", "/well"])?.ok()?;
    is(&desk, "h", "healthy")?;
    let found = actions(&desk, &["-f", "event=health_status"])?;
    let wanted = ["healthy", "unhealthy", "healthy"].map(|word| format!("health_status: {word}"));
    ensure!(found == wanted, "{found:?}");
    // A new life begins anew, and an end is no row of health.
    desk.go(&["exec", "h", "rm", "/well"])?.ok()?;
    desk.go(&["restart", "-t", "0", "h"])?.ok()?;
    ensure!(desk.inspect("h", "{{.State.Health.Status}}")? == "starting");
    desk.go(&["stop", "-t", "0", "h"])?.ok()?;
    let row = desk.row("h")?.context("no row")?;
    ensure!(!row.contains("health"), "{row}");
    Ok(())
}

fn hangs(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let every = [
        "--health-interval=50ms",
        "--health-timeout=100ms",
        "--health-retries=1",
    ];
    let slow = ["--name", "slow", "--health-cmd", "sleep 1000"];
    desk.start(&[&slow[..], &every, &["busybox", "top"]].concat())?;
    is(&desk, "slow", "unhealthy")?;
    let log = desk.inspect("slow", "{{json .State.Health.Log}}")?;
    ensure!(
        log.contains("exceeded its timeout") && log.contains("-1"),
        "{log}"
    );
    // Nothing of the checks is left in it.
    desk.go(&["exec", "slow", "sh", "-c", "rm /bin/sh; true"])?
        .ok()?;
    wait_for("the shell is missed", || {
        let log = desk.inspect("slow", "{{json .State.Health.Log}}")?;
        Ok((log.contains("127") && log.contains("/bin/sh")).then_some(()))
    })?;
    desk.go(&["rm", "-f", "slow"])?.ok()?;
    Ok(())
}

fn adopted(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let check = ["--health-cmd", "test -e /well", "--health-interval", "50ms"];
    let more = ["--health-retries", "1", "--name", "a", "busybox", "top"];
    desk.start(&[&check[..], &more].concat())?;
    is(&desk, "a", "unhealthy")?;
    strike(monitor_of(desk.pid("a")?)?)?;
    desk.go(&["exec", "a", "touch", "/well"])?.ok()?;
    is(&desk, "a", "healthy")?;
    desk.go(&["pause", "a"])?.ok()?;
    let row = desk.row("a")?.context("no row")?;
    ensure!(row.contains("paused (healthy)"), "{row}");
    desk.go(&["unpause", "a"])?.ok()?;
    desk.go(&["rm", "-f", "a"])?.ok()?;
    Ok(())
}

fn options(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (option, words) in [
        ("--health-retries=3", "needs --health-cmd"),
        ("--health-interval=soon", "try 30s"),
        ("--health-timeout=1us", "at least 1ms"),
    ] {
        desk.go(&["run", option, "busybox", "true"])?
            .fails(125, &[words])?;
    }
    desk.go(&[
        "run",
        "--no-healthcheck",
        "--health-cmd",
        "x",
        "busybox",
        "true",
    ])?
    .fails(125, &["does not go with"])?;
    // What an image says.
    desk.start(&["--name", "base", "busybox", "top"])?;
    let line = "HEALTHCHECK --interval=50ms CMD test -e /etc/passwd";
    desk.go(&["commit", "-c", line, "base", "checked"])?.ok()?;
    desk.start(&["--name", "image", "checked", "top"])?;
    is(&desk, "image", "healthy")?;
    desk.start(&["--name", "none", "--no-healthcheck", "checked", "top"])?;
    let ids = [
        "ps",
        "--filter",
        "health=none",
        "--filter",
        "name=none",
        "--format",
        "{{.Names}}",
    ];
    desk.go(&ids)?.ok()?.says("none")?;
    let make = [
        "create",
        "--name",
        "c",
        "--health-cmd",
        "exit 0",
        "--health-interval",
        "2s",
    ];
    desk.go(&[&make[..], &["busybox", "top"]].concat())?.ok()?;
    let check = desk.inspect("c", "{{json .Config.Healthcheck}}")?;
    let wanted = "{\"Interval\":2000000000,\"Test\":[\"CMD-SHELL\",\"exit 0\"]}";
    ensure!(check == wanted, "{check}");
    Ok(())
}
