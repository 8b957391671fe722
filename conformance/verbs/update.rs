//! `update`, and what the command line and config.json ask for that cannot be: it is told, not passed over.

use super::life::create;
use super::{Row, Trial};
use crate::frontend::world::cgroup_file;
use crate::frontend::{Done, finish};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub(super) const ROWS: &[Row] = &[
    ("update: an unknown field is told of", unknown_field),
    (
        "update: device rules are changed, and stay when an engine only repeats them",
        device_rules,
    ),
    (
        "update: no processes is a limit, zero in a file is not",
        pids,
    ),
    ("update: shares beyond the most are refused", shares),
    ("kill: signal 0 asks whether it is there", signal_zero),
    ("ps: without a column of pids it says what is needed", ps),
    ("options: the last one counts", last_counts),
    (
        "options: the log is told of a command line that is none",
        usage,
    ),
    (
        "exec --process: other options beside it are refused",
        beside_file,
    ),
    ("exec --user: what is no id is refused", no_id),
    ("create: without a process all else is applied", bare),
    ("readonlyPaths: the root", read_only_root),
    (
        "maskedPaths: what leads to the root is refused",
        hidden_root,
    ),
    ("namespaces: an empty path is none", empty_path),
    (
        "mounts: a file on a directory is refused in words",
        file_on_directory,
    ),
    ("mounts: tmpcopyup of a bind mount is refused", copy_up),
    (
        "cgroup-manager disabled: what comes to nothing is told",
        disabled,
    ),
    ("resources: what no kernel does any more is told", obsolete),
    (
        "features and spec: without a place for containers",
        placeless,
    ),
    (
        "namespaces: offsets for a joined time namespace are refused",
        offsets,
    ),
    (
        "namespaces: other maps than the joined one's are told of",
        maps,
    ),
    (
        "hugepageLimits: a size that there is not is refused by name",
        page_size,
    ),
];

fn sleeper(trial: &Trial) -> Result<()> {
    create(trial, &trial.config(&["sleep", "1000"]))?;
    trial.go(&["start", &trial.id])?.ok().map(drop)
}

/// `update --resources -` with this on standard input.
fn update(trial: &Trial, resources: &Value) -> Result<Done> {
    let mut command = trial.command(&["update", "--resources", "-", &trial.id]);
    finish(&mut command, "update", &resources.to_string())
}

fn told(done: &Done, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(done.err.contains(word), "not {word:?}: {done:?}");
    }
    Ok(())
}

/// Refused with an error that holds these words.
fn refused(done: &Done, words: &[&str]) -> Result<()> {
    ensure!(done.code == 1, "{done:?}");
    told(done, words)?;
    told(done, &["error: ", "\nhint: "])
}

fn unknown_field(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    let done = update(trial, &json!({"pidz": {"limit": 9}}))?;
    ensure!(done.code == 0, "{done:?}");
    told(&done, &["warning", "pidz: unknown field"])
}

/// A device that is none of the defaults, and whether the rules let the container open it: if they do,
/// there may still be no driver.
fn device_rules(trial: &Trial) -> Result<()> {
    let rule = |minor: i32| json!({"allow": true, "type": "c", "major": 10, "minor": minor, "access": "rw"});
    let nothing = json!({"allow": false, "access": "rwm"});
    let mut config = trial.config(&["sleep", "1000"]);
    config["linux"]["resources"] = json!({"devices": [nothing, rule(237)]});
    config["linux"]["devices"] =
        [237, 229].map(|minor| json!({"path": format!("/dev/{minor}"), "type": "c", "major": 10, "minor": minor})).into();
    create(trial, &config)?;
    trial.go(&["start", &trial.id])?.ok()?;
    let may = || -> Result<[bool; 3]> {
        let mut all = [true; 3];
        for (may, device) in all.iter_mut().zip(["237", "229", "null"]) {
            let open = format!("exec 3<>/dev/{device}");
            let done = trial.go(&["exec", &trial.id, "sh", "-c", &open])?;
            *may = !done.err.contains("not permitted");
        }
        Ok(all)
    };
    ensure!(may()? == [true, false, true], "{:?}", may()?);
    // An engine sends what it knows, without what was added to its config.json: no wish.
    let done = update(trial, &json!({"devices": [nothing]}))?;
    ensure!(done.code == 0, "{done:?}");
    told(
        &done,
        &["warning: linux.resources.devices", "which all stay"],
    )?;
    ensure!(may()? == [true, false, true], "{:?}", may()?);
    let done = update(trial, &json!({"devices": [nothing, rule(229)]}))?;
    if trial.systemd && crate::bundles::v2_root()?.is_none() {
        return refused(&done, &["systemd on cgroup v1"]);
    }
    ensure!(done.code == 0 && done.err.is_empty(), "{done:?}");
    ensure!(may()? == [false, true, true], "{:?}", may()?);
    // One that is refused for another value leaves them.
    let wanted = json!({"devices": [{"allow": true, "access": "rwm"}], "cpu": {"cpus": "4000"}});
    refused(&update(trial, &wanted)?, &["cpuset.cpus"])?;
    ensure!(may()? == [false, true, true], "{:?}", may()?);
    let debug = trial.path("debug");
    let debug = debug.to_str().context("a path that is text")?;
    let all = json!({"devices": [{"allow": true, "access": "rwm"}]}).to_string();
    let words = [
        "--debug",
        "--log",
        debug,
        "update",
        "--resources",
        "-",
        &trial.id,
    ];
    let done = finish(&mut trial.command(&words), "update", &all)?;
    ensure!(done.code == 0, "{done:?}");
    ensure!(may()? == [true; 3], "{:?}", may()?);
    let told = std::fs::read_to_string(debug).context("read the log")?;
    ensure!(
        told.contains("device rules, the last that matches wins: "),
        "{told}"
    );
    Ok(())
}

fn pids(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    let pid: i32 = trial.state()?["pid"].to_string().parse()?;
    let limit = || cgroup_file(pid, "pids", "pids.max", "pids.max");
    if limit()?.is_none() {
        return crate::frontend::skip("no pids controller is mounted");
    }
    // On v2 a program is born in the cgroup, which with 0 it could not be: 1 allows no other either.
    let least = match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => "1",
        false => "0",
    };
    for (args, wanted) in [(["--pids-limit", "7"], "7"), (["--pids-limit", "0"], least)] {
        trial.go(&["update", args[0], args[1], &trial.id])?.ok()?;
        ensure!(
            limit()?.as_deref() == Some(wanted),
            "{args:?}: {:?}",
            limit()
        );
    }
    trial
        .go(&["update", "--pids-limit", "9", &trial.id])?
        .ok()?;
    update(trial, &json!({"pids": {"limit": 0}}))?.ok()?;
    ensure!(limit()?.as_deref() == Some("9"), "{:?}", limit());
    Ok(())
}

fn shares(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    let done = trial.go(&["update", "--cpu-share", "262145", &trial.id])?;
    refused(&done, &["cpu.shares: 262145"])
}

fn signal_zero(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    trial.go(&["kill", &trial.id, "0"])?.ok()?;
    ensure!(trial.state()?["status"] == "running", "it has ended");
    trial.go(&["kill", &trial.id, "KILL"])?.ok()?;
    super::life::stopped(trial)?;
    refused(
        &trial.go(&["kill", &trial.id, "0"])?,
        &["container not running"],
    )
}

fn ps(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    refused(
        &trial.go(&["ps", &trial.id, "-o", "comm"])?,
        &["PID", "name pid too"],
    )?;
    let done = trial.go(&["ps", &trial.id, "-o", "pid,comm"])?.ok()?;
    ensure!(done.out.contains("sleep"), "{done:?}");
    Ok(())
}

fn last_counts(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    // The row's own --root comes before.
    let elsewhere = trial.path("elsewhere");
    let elsewhere = elsewhere.to_str().context("a path")?;
    let done = trial.go(&["--root", elsewhere, "list", "-q"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    // What may be given several times is not taken for the same.
    let args = [
        "exec",
        "-e",
        "A=1",
        "-e",
        "B=2",
        &trial.id,
        "sh",
        "-c",
        "echo $A$B",
    ];
    let done = trial.go(&args)?.ok()?;
    ensure!(done.out.trim() == "12", "{done:?}");
    Ok(())
}

fn usage(trial: &Trial) -> Result<()> {
    let log = trial.path("log");
    let name = log.to_str().context("a path")?;
    let done = trial.go(&["--log", name, "--log-format=json", "create", "--bogus", "x"])?;
    ensure!(done.code != 0, "{done:?}");
    let entry: Value = serde_json::from_str(&std::fs::read_to_string(&log)?)?;
    let message = entry["msg"].as_str().unwrap_or_default();
    ensure!(
        entry["level"] == "error" && message.contains("--bogus"),
        "{entry}"
    );
    Ok(())
}

fn beside_file(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    let file = trial.path("process.json");
    let process = json!({"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}});
    std::fs::write(&file, process.to_string())?;
    let file = file.to_str().context("a path")?;
    trial.go(&["exec", "--process", file, &trial.id])?.ok()?;
    for extra in [
        &["--cwd", "/tmp"][..],
        &["--user", "7"],
        &["--env", "A=B"],
        &["--no-new-privs"],
    ] {
        let args = [&["exec", "--process", file], extra, &[trial.id.as_str()]].concat();
        let done = trial.go(&args)?;
        ensure!(done.code == 255, "{done:?}");
        told(&done, &[extra[0], "--process", "\nhint: "])?;
    }
    Ok(())
}

fn no_id(trial: &Trial) -> Result<()> {
    sleeper(trial)?;
    for user in ["4294967295", "7:4294967295", "7:", "root"] {
        let done = trial.go(&["exec", "--user", user, &trial.id, "id", "-u"])?;
        ensure!(done.code == 255, "{done:?}");
        told(&done, &[user, "\nhint: "])?;
    }
    Ok(())
}

fn bare(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&[]);
    config
        .as_object_mut()
        .context("an object")?
        .remove("process");
    config["hostname"] = "bare".into();
    create(trial, &config)?;
    refused(&trial.go(&["start", &trial.id])?, &["no program to start"])?;
    ensure!(trial.state()?["status"] == "created", "{}", trial.state()?);
    let done = trial.go(&["exec", &trial.id, "/bin/hostname"])?.ok()?;
    ensure!(done.out == "bare\n", "{done:?}");
    trial.go(&["delete", "--force", &trial.id])?.ok()?;
    refused(&trial.go(&["run", &trial.id])?, &["no program to start"])?;
    ensure!(trial.state().is_err(), "it is still there");
    Ok(())
}

fn read_only_root(trial: &Trial) -> Result<()> {
    for path in ["/", "/.", "/tmp/.."] {
        let script = "touch /etc/new && echo written; touch /mnt/new && echo below; exit 0";
        let mut config = trial.config(&["sh", "-c", script]);
        config["root"]["readonly"] = false.into();
        config["linux"]["readonlyPaths"] = json!([path]);
        trial.write(&config)?;
        let done = trial.go(&["run", &trial.id])?.ok()?;
        ensure!(done.out == "below\n", "{path}: {done:?}");
    }
    Ok(())
}

fn hidden_root(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["linux"]["maskedPaths"] = json!(["/mnt/.."]);
    trial.write(&config)?;
    refused(
        &trial.go(&["run", &trial.id])?,
        &["linux.maskedPaths", "the root"],
    )
}

fn empty_path(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["readlink", "/proc/self/ns/uts"]);
    for namespace in config["linux"]["namespaces"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        namespace["path"] = "".into();
    }
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let own = std::fs::read_link("/proc/self/ns/uts")?;
    ensure!(done.out.trim() != own.to_string_lossy(), "{done:?}");
    Ok(())
}

fn file_on_directory(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    let mount = json!({"destination": "/run", "source": "/etc/passwd", "options": ["bind"]});
    push(&mut config["mounts"], mount);
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?;
    refused(
        &done,
        &["the source is a file, and the destination a directory"],
    )
}

fn copy_up(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["mounts"][3]["options"] = json!(["bind", "tmpcopyup"]);
    trial.write(&config)?;
    refused(&trial.go(&["run", &trial.id])?, &["mounts[3]", "tmpcopyup"])
}

fn disabled(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["linux"]["cgroupsPath"] = "/elsewhere".into();
    config["linux"]["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    trial.write(&config)?;
    let done = trial
        .go(&["--cgroup-manager", "disabled", "run", &trial.id])?
        .ok()?;
    told(
        &done,
        &[
            "warning: linux.cgroupsPath",
            "warning: linux.resources.devices",
        ],
    )
}

fn obsolete(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["linux"]["resources"]["memory"] = json!({"kernel": 5_000_000, "useHierarchy": false});
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    told(
        &done,
        &[
            "warning: linux.resources.memory.kernel",
            "memory.useHierarchy",
        ],
    )
}

fn placeless(trial: &Trial) -> Result<()> {
    // A root that cannot be made.
    for args in [
        &["features"][..],
        &["completion", "bash"],
        &["spec", "--file", "new.json"],
    ] {
        let args = [&["--root", "/proc/nowhere"], args].concat();
        trial.go(&args)?.ok()?;
    }
    Ok(())
}

/// A process in a new user namespace, for as long as this lives.
struct Holder(Child);

impl Holder {
    fn new() -> Result<Holder> {
        let mut command = Command::new("unshare");
        command.args(["--user", "sh", "-c", "echo made; exec sleep 1000"]);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut holder = Holder(child.context("run unshare")?);
        let mut said = String::new();
        let output = holder.0.stdout.take().context("its output")?;
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "made\n", "no user namespace: {said:?}");
        Ok(holder)
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn offsets(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    let joined = json!({"type": "time", "path": "/proc/self/ns/time"});
    push(&mut config["linux"]["namespaces"], joined);
    config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 7}});
    trial.write(&config)?;
    refused(
        &trial.go(&["run", &trial.id])?,
        &["linux.timeOffsets", "joined"],
    )
}

fn maps(trial: &Trial) -> Result<()> {
    let holder = Holder::new()?;
    let number = holder.0.id();
    for file in ["uid_map", "gid_map"] {
        std::fs::write(
            format!("/proc/{number}/{file}"),
            "0 100000 1000\n1000 101000 500\n",
        )?;
    }
    let mut config = trial.config(&["true"]);
    let joined = json!({"type": "user", "path": holder.path("user")});
    push(&mut config["linux"]["namespaces"], joined);
    // The same in one piece, and one that ends elsewhere.
    for (size, is_same) in [(1500, true), (1400, false)] {
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": size}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
        trial.write(&config)?;
        let done = trial.go(&["run", &trial.id])?;
        ensure!(done.code == 0, "{done:?}");
        match is_same {
            true => ensure!(done.err.is_empty(), "{done:?}"),
            false => told(
                &done,
                &[
                    "warning: linux.uidMappings",
                    "0 100000 1000 1000 101000 500",
                ],
            )?,
        }
    }
    // What Podman writes where it knows of none.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    ensure!(done.err.is_empty(), "{done:?}");
    Ok(())
}

fn page_size(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]});
    trial.write(&config)?;
    refused(&trial.go(&["run", &trial.id])?, &["no pages of 3MB"])
}

fn push(list: &mut Value, value: Value) {
    if let Value::Array(list) = list {
        list.push(value);
    }
}
