//! `mounts add` and `mounts remove`: mounts of a container that runs.

use super::life::create;
use super::{Row, Trial, add_user_namespace};
use crate::frontend::{Done, finish};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

pub(super) const ROWS: &[Row] = &[
    ("mounts add: what is mounted is there, and goes", |trial| {
        come_and_go(trial, false)
    }),
    ("mounts add: in a user namespace too", |trial| {
        come_and_go(trial, true)
    }),
    ("mounts add: all of them or none", all_or_none),
    ("mounts add: not behind the container's links", no_links_out),
    ("mounts add: what only create can mount is refused", refused),
    ("mounts remove: what is no mount stays", no_mount),
    (
        "mounts remove: of two in one place the last goes",
        one_of_two,
    ),
    ("mounts: a container without mounts of its own", shared),
];

/// Starts a container. Its /run is a tmpfs.
fn start(trial: &Trial, change: impl FnOnce(&mut Value)) -> Result<()> {
    trial.skip_for("runc", "it has no verb `mounts`")?;
    trial.skip_for("crun", "Debian's is older than the verb `mounts`")?;
    let mut config = trial.config(&["sleep", "1000"]);
    change(&mut config);
    create(trial, &config)?;
    trial.go(&["start", &trial.id])?.ok().map(drop)
}

/// The verb with this list on standard input.
fn mounts(trial: &Trial, verb: &str, list: &Value) -> Result<Done> {
    let mut command = trial.command(&["mounts", verb, &trial.id, "-"]);
    finish(&mut command, verb, &list.to_string())
}

fn inside(trial: &Trial, script: &str) -> Result<Done> {
    trial.go(&["exec", &trial.id, "sh", "-c", script])
}

fn come_and_go(trial: &Trial, in_user_namespace: bool) -> Result<()> {
    std::fs::create_dir(trial.path("data"))?;
    std::fs::write(trial.path("data/file"), "of the host\n")?;
    start(trial, |config| {
        if in_user_namespace {
            add_user_namespace(config);
        }
    })?;
    let list = json!([
        {"destination": "/run/data", "source": trial.path("data"), "options": ["bind", "ro"]},
        {"destination": "/run/tmp", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "noexec", "size=1m", "mode=700"]},
        {"destination": "/run/one", "source": trial.path("data/file"), "options": ["bind"]},
    ]);
    mounts(trial, "add", &list)?.ok()?;
    let look = "cat /run/data/file /run/one; touch /run/data/x 2>/dev/null || echo read-only; \
                grep -E ' /run/(data|tmp|one) ' /proc/mounts | cut -d' ' -f2-4 | sed 's/,relatime//'";
    let seen = inside(trial, look)?.ok()?;
    ensure!(
        seen.out
            .starts_with("of the host\nof the host\nread-only\n"),
        "{seen:?}"
    );
    let tmp = seen.out.lines().find(|line| line.starts_with("/run/tmp"));
    let tmp = tmp.with_context(|| format!("no tmpfs: {seen:?}"))?;
    for word in ["tmpfs", "nosuid", "noexec", "size=1024k", "mode=700"] {
        ensure!(tmp.contains(word), "{word}: {seen:?}");
    }
    mounts(trial, "remove", &list)?.ok()?;
    let seen = inside(trial, "grep -c '/run/' /proc/mounts; ls /run/data /run/tmp")?;
    ensure!(
        seen.out.starts_with("0\n") && !seen.out.contains("file"),
        "{seen:?}"
    );
    // The host has none of them.
    let here = std::fs::read_to_string("/proc/self/mounts")?;
    let ours = here.lines().find(|line| {
        ["/run/data ", "/run/tmp ", "/run/one "]
            .iter()
            .any(|place| line.contains(place))
    });
    ensure!(ours.is_none(), "on the host: {ours:?}");
    Ok(())
}

fn all_or_none(trial: &Trial) -> Result<()> {
    start(trial, |_| {})?;
    let done = mounts(
        trial,
        "add",
        &json!([
            {"destination": "/run/a", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/proc/version", "source": "/dev/null", "options": ["bind"]},
        ]),
    )?;
    ensure!(done.code != 0 && done.err.contains("mounts[1]"), "{done:?}");
    // One whose place turns out to be bad only inside.
    inside(trial, "ln -s /proc/sys /run/b")?.ok()?;
    let done = mounts(
        trial,
        "add",
        &json!([
            {"destination": "/run/a", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/run/b", "type": "tmpfs", "source": "tmpfs"},
        ]),
    )?;
    ensure!(done.code != 0 && done.err.contains("mounts[1]"), "{done:?}");
    let seen = inside(trial, "grep -c '/run/' /proc/mounts")?;
    ensure!(seen.line() == "0", "{seen:?}");
    Ok(())
}

fn no_links_out(trial: &Trial) -> Result<()> {
    start(trial, |_| {})?;
    let dir = trial.path("outside");
    std::fs::create_dir(&dir)?;
    let link = format!("ln -s {} /run/link", dir.display());
    inside(trial, &link)?.ok()?;
    let list = json!([{"destination": "/run/link/x", "type": "tmpfs", "source": "tmpfs"}]);
    // The link leads nowhere within the container, whose root is read-only.
    let done = mounts(trial, "add", &list)?;
    ensure!(done.code != 0, "{done:?}");
    ensure!(
        std::fs::read_dir(&dir)?.next().is_none(),
        "the host was reached"
    );
    Ok(())
}

fn refused(trial: &Trial) -> Result<()> {
    start(trial, |_| {})?;
    for entry in [
        json!({"destination": "/run/c", "type": "cgroup", "source": "cgroup"}),
        json!({"destination": "/run/c", "type": "tmpfs", "options": ["tmpcopyup"]}),
        json!({"destination": "/run", "options": ["remount", "ro"]}),
        json!({"destination": "/run/c", "type": "tmpfs", "options": ["iversion"]}),
        json!({"destination": "/run/c", "type": "tmpfs", "options": ["acl"]}),
        json!({"destination": "/run/c", "type": "nosuchfs"}),
        json!({"destination": "/run/c", "type": "tmpfs", "options": ["nosuchword"]}),
        json!({"destination": "/run/c", "source": "/no/such/source", "options": ["bind"]}),
    ] {
        let done = mounts(trial, "add", &json!([entry]))?;
        ensure!(
            done.code != 0 && done.err.contains("mounts[0]"),
            "{entry}: {done:?}"
        );
    }
    for (list, what) in [
        (json!([]), "no mounts"),
        (json!({}), "mounts"),
        (json!([{}]), "destination"),
        (
            json!([
                {"destination": "/proc/stats", "type": "tmpfs"},
                {"destination": "/run/c", "type": "tmpfs"},
                {"destination": "/run/c", "type": "cgroup"},
            ]),
            "mounts: mounts[0]: ",
        ),
    ] {
        let done = mounts(trial, "add", &list)?;
        ensure!(
            done.code != 0 && done.err.contains(what),
            "{list}: {done:?}"
        );
    }
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    super::life::stopped(trial)?;
    let list = json!([{"destination": "/run/c", "type": "tmpfs"}]);
    let done = mounts(trial, "add", &list)?;
    ensure!(done.code != 0 && done.err.contains("stopped"), "{done:?}");
    Ok(())
}

fn no_mount(trial: &Trial) -> Result<()> {
    start(trial, |_| {})?;
    let list = json!({"mounts": [{"destination": "/run"}, {"destination": "/run/none"}]});
    let done = mounts(trial, "remove", &list)?;
    ensure!(done.code != 0 && done.err.contains("mounts[1]"), "{done:?}");
    let seen = inside(trial, "grep -c ' /run ' /proc/mounts")?;
    ensure!(seen.line() == "1", "{seen:?}");
    mounts(trial, "remove", &json!([{"destination": "/run"}]))?.ok()?;
    let seen = inside(trial, "grep -c ' /run ' /proc/mounts")?;
    ensure!(seen.line() == "0", "{seen:?}");
    Ok(())
}

fn one_of_two(trial: &Trial) -> Result<()> {
    start(trial, |_| {})?;
    for size in ["1m", "2m"] {
        let size = format!("size={size}");
        let one = json!({"destination": "/run/a", "type": "tmpfs", "options": [size]});
        mounts(trial, "add", &json!([one]))?.ok()?;
    }
    mounts(trial, "remove", &json!([{"destination": "/run/a"}]))?.ok()?;
    let seen = inside(trial, "grep ' /run/a ' /proc/mounts")?.ok()?;
    ensure!(seen.line().contains("size=1024k"), "{seen:?}");
    // And the same in what a checkpoint goes by.
    let spec = std::fs::read(trial.path("root").join(&trial.id).join("config.json"))?;
    let spec: Value = serde_json::from_slice(&spec)?;
    let all = spec["mounts"].as_array().context("mounts")?;
    let kept: Vec<_> = all
        .iter()
        .filter(|m| m["destination"] == "/run/a")
        .collect();
    ensure!(
        kept.len() == 1 && kept[0]["options"] == json!(["size=1m"]),
        "{kept:?}"
    );
    Ok(())
}

fn shared(trial: &Trial) -> Result<()> {
    // A root of its own, since others would see the mounts below theirs.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/rootfs");
    let own = trial.path("rootfs");
    let copied = Command::new("cp").arg("-a").arg(root).arg(&own).status()?;
    ensure!(copied.success());
    start(trial, |config| {
        config["root"]["path"] = json!(own);
        config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    })?;
    let list = json!([{"destination": "/run/c", "type": "tmpfs"}]);
    let done = mounts(trial, "add", &list)?;
    ensure!(
        done.code != 0 && done.err.contains("mount namespace"),
        "{done:?}"
    );
    Ok(())
}
