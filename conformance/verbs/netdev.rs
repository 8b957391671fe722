//! `linux.netDevices`, with devices in a network namespace of the row's own.

use super::{Row, Trial};
use crate::frontend::{Done, finish, skip};
use anyhow::{Result, ensure};
use serde_json::json;
use std::path::Path;

pub(super) const ROWS: &[Row] = &[
    (
        "run: a network device goes into the container as it was",
        moved,
    ),
    (
        "run: a network device cannot take the place of another",
        in_the_way,
    ),
];

/// Two pairs of devices; one address is not for everybody.
const SETUP: &str = "set -e
ip link add v0 type veth peer name v1
ip link set v0 mtu 1400 address 02:00:00:00:00:07
ip address add 10.1.2.3/24 dev v0
ip address add 10.1.3.1 peer 10.1.3.2/32 dev v0
ip address add fd00:1::5/64 dev v0 nodad
ip address add 169.254.3.3/16 dev v0 scope link
ip link set v0 up
ip link set v1 up
ip link add w0 type veth peer name w1
code=0
\"$@\" || code=$?
ip -br link | sed 's/[ @].*//'
exit $code";

fn run(trial: &Trial, devices: serde_json::Value) -> Result<Done> {
    trial.skip_for("runc", "it is too old")?;
    trial.skip_for("crun", "it is too old")?;
    if !Path::new("/sbin/ip").exists() {
        return skip("there is no ip(8)");
    }
    let mut config = trial.config(&["ip", "address"]);
    config["linux"]["netDevices"] = devices;
    trial.write(&config)?;
    let prefix = ["unshare", "--net", "bash", "-c", SETUP, "bash"];
    let mut command = trial.wrapped(&prefix, &["run", &trial.id]);
    finish(&mut command, "run (with devices)", "")
}

fn moved(trial: &Trial) -> Result<()> {
    let done = run(
        trial,
        json!({"v0": {"name": "eth0"}, "w0": {"name": "net%d"}}),
    )?
    .ok()?;
    for text in [
        "mtu 1400",
        "link/ether 02:00:00:00:00:07",
        "inet 10.1.2.3/24 ",
        "inet 10.1.3.1 peer 10.1.3.2/32 ",
        "inet6 fd00:1::5/64 ",
    ] {
        ensure!(done.out.contains(text), "no {text:?}: {done:?}");
    }
    for name in ["eth0@", "net0@"] {
        // It may not have found its carrier yet.
        let line = done.out.lines().find(|line| line.contains(name));
        ensure!(
            line.is_some_and(|line| line.contains(",UP")),
            "{name}: {done:?}"
        );
    }
    for text in ["169.254.3.3", "v0@", "\nv0\n", "w0@"] {
        ensure!(!done.out.contains(text), "{text:?} is there: {done:?}");
    }
    Ok(())
}

fn in_the_way(trial: &Trial) -> Result<()> {
    let done = run(trial, json!({"v0": {"name": "eth0"}, "w0": {"name": "lo"}}))?;
    ensure!(done.code != 0, "it must be refused: {done:?}");
    ensure!(
        done.err
            .contains("linux.netDevices.w0: the container has a network device lo already"),
        "{done:?}"
    );
    // It was found out before anything was moved.
    for name in ["v0", "w0"] {
        ensure!(
            done.out.lines().any(|line| line == name),
            "{name} is gone: {done:?}"
        );
    }
    Ok(())
}
