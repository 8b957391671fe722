//! Values of a config.json that must be refused (config.md, "Valid values"): one that is REQUIRED and
//! missing, and one that cannot be. A test changes one place of a config that is fine.

use super::{Trial, add_user_namespace};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// A test by its name; the function changes a good config into a bad one.
type Change = (&'static str, fn(&Trial, &mut Value));

/// The tests of this file.
pub(super) fn tests() -> Vec<(String, Box<super::Body>)> {
    let required = REQUIRED.iter().map(|pointer| {
        let name = format!("required {}", pointer[1..].replace('/', "."));
        let run: Box<super::Body> = Box::new(move |trial| missing(trial, pointer));
        (name, run)
    });
    let invalid = INVALID.iter().map(|(name, change)| {
        let run: Box<super::Body> = Box::new(move |trial| {
            let mut config = full(trial);
            change(trial, &mut config);
            refused(trial, &config)
        });
        (format!("invalid {name}"), run)
    });
    let valid = VALID.iter().map(|(name, run)| {
        let run: Box<super::Body> = Box::new(run);
        (format!("valid {name}"), run)
    });
    required.chain(invalid).chain(valid).collect()
}

/// What must be there, in [`full`].
const REQUIRED: &[&str] = &[
    "/ociVersion",
    "/root",
    "/root/path",
    "/mounts/0/destination",
    "/process/consoleSize/height",
    "/process/consoleSize/width",
    "/process/cwd",
    "/process/args",
    "/process/args/0",
    "/process/user/uid",
    "/process/user/gid",
    "/process/rlimits/0/type",
    "/process/rlimits/0/soft",
    "/process/rlimits/0/hard",
    "/process/scheduler/policy",
    "/process/ioPriority/class",
    "/process/ioPriority/priority",
    "/hooks/poststop/0/path",
    "/linux/namespaces/0/type",
    "/linux/uidMappings/0/containerID",
    "/linux/uidMappings/0/hostID",
    "/linux/uidMappings/0/size",
    "/linux/devices/0/type",
    "/linux/devices/0/path",
    "/linux/devices/0/major",
    "/linux/devices/0/minor",
    "/linux/resources/devices/0/allow",
    "/linux/resources/blockIO/weightDevice/0/major",
    "/linux/resources/blockIO/weightDevice/0/minor",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/major",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/minor",
    "/linux/resources/blockIO/throttleReadBpsDevice/0/rate",
    "/linux/resources/blockIO/throttleReadIOPSDevice/0/major",
    "/linux/resources/blockIO/throttleReadIOPSDevice/0/minor",
    "/linux/resources/blockIO/throttleReadIOPSDevice/0/rate",
    "/linux/resources/hugepageLimits/0/pageSize",
    "/linux/resources/hugepageLimits/0/limit",
    "/linux/resources/network/priorities/0/name",
    "/linux/resources/network/priorities/0/priority",
    "/linux/memoryPolicy/mode",
    "/linux/seccomp/defaultAction",
    "/linux/seccomp/syscalls/0/names",
    "/linux/seccomp/syscalls/0/names/0",
    "/linux/seccomp/syscalls/0/action",
    "/linux/seccomp/syscalls/0/args/0/index",
    "/linux/seccomp/syscalls/0/args/0/value",
    "/linux/seccomp/syscalls/0/args/0/op",
    "/linux/personality/domain",
];

/// What cannot be.
const INVALID: &[Change] = &[
    ("ociVersion: not SemVer", |_, config| {
        config["ociVersion"] = "one".into();
    }),
    ("root.path: nothing there", |_, config| {
        config["root"]["path"] = "/no/such/directory".into();
    }),
    ("root.path: a file", |_, config| {
        config["root"]["path"] = "/etc/passwd".into();
    }),
    (
        "mounts: uidMappings without gidMappings",
        |trial, config| {
            config["mounts"][3] = mapped(trial);
            drop_at(&mut config["mounts"][3], "gidMappings");
        },
    ),
    (
        "mounts: gidMappings without uidMappings",
        |trial, config| {
            config["mounts"][3] = mapped(trial);
            drop_at(&mut config["mounts"][3], "uidMappings");
        },
    ),
    ("mounts: idmap without mappings", |_, config| {
        config["mounts"][3]["options"] = json!(["bind", "idmap"]);
    }),
    ("mounts: ridmap without mappings", |_, config| {
        config["mounts"][3]["options"] = json!(["rbind", "ridmap"]);
    }),
    ("mounts: remount of nothing", |_, config| {
        config["mounts"][3] = json!({"destination": "/mnt", "options": ["remount", "ro"]});
    }),
    ("hostname: a NUL in it", |_, config| {
        config["hostname"] = "a\0b".into();
    }),
    ("domainname: a NUL in it", |_, config| {
        config["domainname"] = "a\0b".into();
    }),
    (
        "devices: a major number of more than 12 bits",
        |_, config| {
            config["linux"]["devices"][0]["major"] = 4097.into();
        },
    ),
    (
        "devices: a minor number of more than 20 bits",
        |_, config| {
            config["linux"]["devices"][0]["minor"] = 4_294_967_304_i64.into();
        },
    ),
    ("process.cwd: relative", |_, config| {
        config["process"]["cwd"] = "tmp".into();
    }),
    ("process.args: empty", |_, config| {
        config["process"]["args"] = json!([]);
    }),
    ("rlimits: an unknown type", |_, config| {
        config["process"]["rlimits"][0]["type"] = "RLIMIT_NOSUCH".into();
    }),
    ("rlimits: a type twice", |_, config| {
        let one = config["process"]["rlimits"][0].clone();
        config["process"]["rlimits"] = json!([one, one]);
    }),
    ("scheduler: an unknown policy", |_, config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_NOSUCH"});
    }),
    ("ioPriority: an unknown class", |_, config| {
        config["process"]["ioPriority"]["class"] = "IOPRIO_CLASS_NOSUCH".into();
    }),
    ("ioPriority: no such priority", |_, config| {
        config["process"]["ioPriority"]["priority"] = 8.into();
    }),
    ("hooks: a relative path", |_, config| {
        config["hooks"]["createRuntime"] = json!([{"path": "true"}]);
    }),
    ("hooks: a timeout of zero", |_, config| {
        config["hooks"]["createRuntime"] = json!([{"path": "/bin/true", "timeout": 0}]);
    }),
    ("annotations: an empty key", |_, config| {
        config["annotations"] = json!({"": "value"});
    }),
    ("annotations: a value that is no string", |_, config| {
        config["annotations"] = json!({"org.example": 7});
    }),
    ("annotations: not a map", |_, config| {
        config["annotations"] = json!(["org.example"]);
    }),
    ("namespaces: an unknown type", |_, config| {
        config["linux"]["namespaces"][0]["type"] = "nosuch".into();
    }),
    ("namespaces: a type twice", |_, config| {
        let one = config["linux"]["namespaces"][0].clone();
        if let Some(list) = config["linux"]["namespaces"].as_array_mut() {
            list.push(one);
        }
    }),
    ("namespaces: a relative path", |_, config| {
        config["linux"]["namespaces"][0]["path"] = "self/ns/pid".into();
    }),
    ("namespaces: a path of another type", |_, config| {
        config["linux"]["namespaces"][4]["path"] = "/proc/self/ns/uts".into();
    }),
    ("namespaces: a path that is none", |_, config| {
        config["linux"]["namespaces"][4]["path"] = "/etc/passwd".into();
    }),
    ("devices: an unknown type", |_, config| {
        config["linux"]["devices"][0]["type"] = "x".into();
    }),
    ("devices: another file is in its place", |_, config| {
        config["linux"]["devices"][0]["path"] = "/etc/passwd".into();
    }),
    ("cgroupsPath: the root of the hierarchies", |_, config| {
        config["linux"]["cgroupsPath"] = "/".into();
    }),
    ("unified: a controller that is not there", |_, config| {
        config["linux"]["resources"] = json!({"unified": {"nosuch.max": "1"}});
    }),
    ("blockIO: a device without a weight", |_, config| {
        let device = json!([{"major": 8, "minor": 0}]);
        config["linux"]["resources"]["blockIO"] = json!({"weightDevice": device});
    }),
    ("rdma: a device without a limit", |_, config| {
        config["linux"]["resources"] = json!({"rdma": {"mlx5_1": {}}});
    }),
    ("cpu: a burst above the quota", |_, config| {
        config["linux"]["resources"] =
            json!({"cpu": {"quota": 10000, "period": 100_000, "burst": 20000}});
    }),
    ("intelRdt: where there is no resctrl", |_, config| {
        config["linux"]["intelRdt"] = json!({"closID": "guaranteed"});
    }),
    ("memoryPolicy: an unknown mode", |_, config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_NOSUCH"});
    }),
    ("seccomp: an unknown action", |_, config| {
        config["linux"]["seccomp"]["defaultAction"] = "SCMP_ACT_NOSUCH".into();
    }),
    ("seccomp: errnoRet of an action without", |_, config| {
        config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_KILL".into();
        config["linux"]["seccomp"]["syscalls"][0]["errnoRet"] = 7.into();
    }),
    (
        "seccomp: defaultErrnoRet of an action without",
        |_, config| {
            config["linux"]["seccomp"]["defaultErrnoRet"] = 7.into();
        },
    ),
    (
        "seccomp: listenerMetadata without listenerPath",
        |_, config| {
            config["linux"]["seccomp"]["listenerMetadata"] = "text".into();
        },
    ),
    ("maskedPaths: relative", |_, config| {
        config["linux"]["maskedPaths"] = json!(["proc/kcore"]);
    }),
    ("readonlyPaths: relative", |_, config| {
        config["linux"]["readonlyPaths"] = json!(["proc/sys"]);
    }),
    ("personality: an unknown domain", |_, config| {
        config["linux"]["personality"]["domain"] = "NOSUCH".into();
    }),
    ("rootfsPropagation: an unknown word", |_, config| {
        config["linux"]["rootfsPropagation"] = "nosuch".into();
    }),
];

/// What is fine.
const VALID: &[super::Row] = &[
    ("all that is required", accepted),
    ("unknown properties are ignored", unknown),
    ("consoleSize is ignored without a terminal", console_size),
    ("pids without a limit is none", no_limit),
    ("pids: a limit of 0 is one", limit_of_zero),
];

fn mapped(trial: &Trial) -> Value {
    let maps = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    json!({"destination": "/mnt", "type": "bind", "source": trial.path("shared"),
        "options": ["bind", "idmap"], "uidMappings": maps, "gidMappings": maps})
}

/// A config that is fine, with much in it.
fn full(trial: &Trial) -> Value {
    let mut config = trial.config(&["true"]);
    let process = &mut config["process"];
    process["user"] = json!({"uid": 0, "gid": 0});
    process["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    process["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 4});
    config["hooks"] = json!({"poststop": [{"path": "/bin/true"}]});
    let linux = &mut config["linux"];
    linux["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]);
    linux["resources"] = json!({"devices": [{"allow": true, "access": "rwm"}]});
    linux["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
         "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]}]});
    linux["personality"] = json!({"domain": "LINUX"});
    config
}

/// What not every machine or container can have, for the tests that take a part of it away.
fn add_what_is_rare(config: &mut Value, pointer: &str) {
    let throttle = json!([{"major": 8, "minor": 0, "rate": 1_000_000}]);
    let linux = &mut config["linux"];
    match pointer.split('/').nth(2).unwrap_or_default() {
        "consoleSize" => {
            config["process"]["terminal"] = true.into();
            config["process"]["consoleSize"] = json!({"height": 24, "width": 80});
        }
        "scheduler" => {
            config["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 0});
        }
        "uidMappings" => add_user_namespace(config),
        "memoryPolicy" => linux["memoryPolicy"] = json!({"mode": "MPOL_DEFAULT"}),
        "resources" if pointer.contains("blockIO") => {
            linux["resources"]["blockIO"] = json!({
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500}],
                "throttleReadBpsDevice": throttle, "throttleReadIOPSDevice": throttle});
        }
        "resources" if pointer.contains("hugepage") => {
            linux["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 2_097_152}]);
        }
        "resources" if pointer.contains("network") => {
            linux["resources"]["network"]["priorities"] = json!([{"name": "lo", "priority": 1}]);
        }
        _ => {}
    }
}

fn drop_at(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => drop(map.remove(key)),
        Value::Array(list) => drop(list.remove(key.parse().unwrap_or(0))),
        _ => {}
    }
}

fn missing(trial: &Trial, pointer: &str) -> Result<()> {
    let mut config = full(trial);
    add_what_is_rare(&mut config, pointer);
    let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", pointer));
    let parent = config.pointer_mut(parent).context("no such place")?;
    drop_at(parent, key);
    refused(trial, &config)
}

/// An error, before or after the container is made, and nothing is left of it.
fn refused(trial: &Trial, config: &Value) -> Result<()> {
    if serde_json::to_string(config)?.contains("\"consoleSize\"") {
        trial.skip_for("runc", "it takes a missing number for 0")?;
    }
    trial.write(config)?;
    let child = trial.spawn(&mut trial.command(&["create", &trial.id]))?;
    ensure!(trial.finish(child).is_err(), "it is accepted");
    let done = trial.go(&["state", &trial.id])?;
    ensure!(done.code != 0, "it is refused, and there: {done:?}");
    Ok(())
}

fn accepted(trial: &Trial) -> Result<()> {
    trial.write(&full(trial))?;
    trial.go(&["run", &trial.id])?.ok().map(drop)
}

fn unknown(trial: &Trial) -> Result<()> {
    let mut config = full(trial);
    config["process"]["args"] = json!(["echo", "fine"]);
    for pointer in [
        "",
        "/root",
        "/mounts/0",
        "/process",
        "/process/user",
        "/process/rlimits/0",
        "/hooks",
        "/hooks/poststop/0",
        "/linux",
        "/linux/namespaces/0",
        "/linux/devices/0",
        "/linux/resources",
        "/linux/resources/devices/0",
        "/linux/seccomp",
        "/linux/seccomp/syscalls/0",
        "/linux/personality",
    ] {
        let place = config.pointer_mut(pointer).context("no such place")?;
        place["novelProperty"] = json!({"deep": [1, null]});
    }
    config["annotations"] = json!({"org.opencontainers.novel": "value"});
    trial.write(&config)?;
    trial.go(&["run", &trial.id])?.ok()?.says("fine").map(drop)
}

fn console_size(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["echo", "fine"]);
    config["process"]["consoleSize"] = json!({"height": 24});
    trial.write(&config)?;
    trial.go(&["run", &trial.id])?.ok()?.says("fine").map(drop)
}

fn no_limit(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it takes it for a limit of 0")?;
    let mut config = trial.config(&["sh", "-c", "echo fine & wait"]);
    config["linux"]["resources"]["pids"] = json!({});
    trial.write(&config)?;
    trial.go(&["run", &trial.id])?.ok()?.says("fine").map(drop)
}

/// The program runs, and can make no other process.
fn limit_of_zero(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sh", "-c", "echo more | cat; true"]);
    config["linux"]["resources"]["pids"] = json!({"limit": 0});
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?;
    ensure!(done.code != 0 && done.out.is_empty(), "{done:?}");
    ensure!(
        done.err.contains("fork"),
        "it did not come so far: {done:?}"
    );
    Ok(())
}
