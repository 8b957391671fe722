//! `features` (features.md, features-linux.md): every word that it tells of is one that a config.json
//! may hold.

use super::{Row, Trial};
use crate::frontend::{skip, world::kernel_is};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

pub(super) const ROWS: &[Row] = &[
    ("features: both versions are accepted", versions),
    (
        "features: what the specification defines, and no null",
        defined,
    ),
    ("features: every hook is called", hooks),
    ("features: every mount option is taken", mount_options),
    ("features: every namespace is taken", namespaces),
    ("features: every capability is taken", capabilities),
    ("features: every seccomp action is taken", actions),
    ("features: every seccomp operator is taken", operators),
    (
        "features: every seccomp architecture is taken",
        architectures,
    ),
    ("features: every seccomp flag is taken", flags),
    ("features: every memory policy is taken", memory_policies),
    ("features: idmap is told of where maps are read", idmap),
    ("features: who reads no more is told no error", unread),
];

fn features(trial: &Trial) -> Result<Value> {
    let done = trial.go(&["features"])?;
    if done.code != 0 {
        return skip("it has no features structure, which a runtime MAY provide");
    }
    serde_json::from_str(&done.out).context("the features")
}

/// The words of a list, each of which must be taken by a container that is made with it.
fn words(trial: &Trial, pointer: &str) -> Result<Vec<String>> {
    let all = features(trial)?;
    let Some(list) = all.pointer(pointer).and_then(Value::as_array) else {
        return skip(format!("it does not tell of {pointer}"));
    };
    let words = list.iter().filter_map(Value::as_str).map(str::to_owned);
    let words: Vec<String> = words.collect();
    ensure!(!words.is_empty(), "{pointer} is empty");
    Ok(words)
}

fn runs(trial: &Trial, config: &Value, what: &str) -> Result<()> {
    trial.write(config)?;
    let done = trial.go(&["run", &trial.id])?;
    ensure!(done.code == 0, "{what}: {done:?}");
    Ok(())
}

fn versions(trial: &Trial) -> Result<()> {
    let all = features(trial)?;
    let version = |key: &str| -> Result<(String, Vec<u64>)> {
        let text = all[key].as_str().context("a version")?.to_owned();
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let numbers = core
            .split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect();
        Ok((text, numbers))
    };
    let (least, most) = (version("ociVersionMin")?, version("ociVersionMax")?);
    ensure!(least.1 <= most.1, "{least:?} is above {most:?}");
    for text in [least.0, most.0] {
        let mut config = trial.config(&["true"]);
        config["ociVersion"] = text.clone().into();
        runs(trial, &config, &text)?;
    }
    Ok(())
}

fn defined(trial: &Trial) -> Result<()> {
    let all = features(trial)?;
    let keys = |value: &Value, known: &[&str]| -> Result<()> {
        for (key, value) in value.as_object().into_iter().flatten() {
            ensure!(known.contains(&key.as_str()), "{key} is not defined");
            ensure!(!value.is_null(), "{key} is null");
        }
        Ok(())
    };
    keys(
        &all,
        &[
            "ociVersionMin",
            "ociVersionMax",
            "hooks",
            "mountOptions",
            "linux",
            "annotations",
            "potentiallyUnsafeConfigAnnotations",
        ],
    )?;
    keys(
        &all["linux"],
        &[
            "namespaces",
            "capabilities",
            "cgroup",
            "seccomp",
            "apparmor",
            "selinux",
            "intelRdt",
            "memoryPolicy",
            "mountExtensions",
            "netDevices",
        ],
    )?;
    keys(
        &all["linux"]["cgroup"],
        &["v1", "v2", "systemd", "systemdUser", "rdma"],
    )?;
    for (key, value) in all["annotations"].as_object().into_iter().flatten() {
        ensure!(!key.is_empty() && value.is_string(), "annotation {key:?}");
    }
    Ok(())
}

fn hooks(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    let names = words(trial, "/hooks")?;
    for name in &names {
        let (path, dir) = match name.as_str() {
            "startContainer" => ("/bin/sh", "/mnt".to_owned()),
            _ => ("/bin/sh", trial.path("shared").display().to_string()),
        };
        let script = format!("echo called >{dir}/{name}");
        config["hooks"][name] = json!([{"path": path, "args": ["sh", "-c", script]}]);
    }
    runs(trial, &config, "hooks")?;
    for name in names {
        ensure!(
            trial.path("shared").join(&name).exists(),
            "{name} was not called"
        );
    }
    Ok(())
}

/// A tmpfs refuses a word that it is handed and does not know.
fn mount_options(trial: &Trial) -> Result<()> {
    let names = words(trial, "/mountOptions")?;
    for name in names {
        if matches!(
            name.as_str(),
            "bind" | "rbind" | "remount" | "idmap" | "ridmap"
        ) {
            continue;
        }
        let mut config = trial.config(&["true"]);
        config["mounts"][3] = json!({"destination": "/mnt", "type": "tmpfs",
            "source": "tmpfs", "options": [name]});
        runs(trial, &config, &name)?;
    }
    Ok(())
}

fn namespaces(trial: &Trial) -> Result<()> {
    for name in words(trial, "/linux/namespaces")? {
        let mut config = trial.config(&["true"]);
        let maps = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        let linux = &mut config["linux"];
        linux["namespaces"] = match name.as_str() {
            "mount" => json!([{"type": "mount"}]),
            "user" => {
                linux["uidMappings"] = maps.clone();
                linux["gidMappings"] = maps;
                json!([{"type": "mount"}, {"type": "user"}, {"type": "pid"}, {"type": "ipc"}])
            }
            _ => json!([{"type": "mount"}, {"type": name}]),
        };
        runs(trial, &config, &name)?;
    }
    Ok(())
}

fn capabilities(trial: &Trial) -> Result<()> {
    let names = words(trial, "/linux/capabilities")?;
    let mut config = trial.config(&["true"]);
    config["process"]["capabilities"] = json!({"bounding": names});
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    ensure!(done.err.is_empty(), "{done:?}");
    Ok(())
}

fn profile(trial: &Trial, profile: Value, what: &str) -> Result<()> {
    let mut config = trial.config(&["true"]);
    config["linux"]["seccomp"] = profile;
    runs(trial, &config, what)
}

fn actions(trial: &Trial) -> Result<()> {
    for name in words(trial, "/linux/seccomp/actions")? {
        // It needs an agent, which it gets in another test.
        if name == "SCMP_ACT_NOTIFY" {
            continue;
        }
        let rule = json!([{"names": ["acct"], "action": name}]);
        let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule});
        profile(trial, text, &name)?;
    }
    Ok(())
}

fn operators(trial: &Trial) -> Result<()> {
    for name in words(trial, "/linux/seccomp/operators")? {
        let args = json!([{"index": 0, "value": 7, "valueTwo": 7, "op": name}]);
        let rule = json!([{"names": ["acct"], "action": "SCMP_ACT_ERRNO", "args": args}]);
        let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule});
        profile(trial, text, &name)?;
    }
    Ok(())
}

fn architectures(trial: &Trial) -> Result<()> {
    for name in words(trial, "/linux/seccomp/archs")? {
        let rule = json!([{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]);
        // The machine's own is always in the filter (config-linux.md: the example of seccomp is of
        // two others).
        for list in [vec![name.as_str()], vec!["SCMP_ARCH_X86_64", &name]] {
            let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": list,
                "syscalls": rule});
            profile(trial, text, &name)?;
        }
    }
    Ok(())
}

fn flags(trial: &Trial) -> Result<()> {
    let known = words(trial, "/linux/seccomp/knownFlags")?;
    for name in words(trial, "/linux/seccomp/supportedFlags")? {
        ensure!(known.contains(&name), "{name} is supported, and not known");
        // It goes with a listener only (seccomp(2)).
        if name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" {
            continue;
        }
        let rule = json!([{"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]);
        let text = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": [name], "syscalls": rule});
        profile(trial, text, &name)?;
    }
    Ok(())
}

fn memory_policies(trial: &Trial) -> Result<()> {
    for name in words(trial, "/linux/memoryPolicy/modes")? {
        let mut config = trial.config(&["true"]);
        config["linux"]["memoryPolicy"] = match name.as_str() {
            "MPOL_DEFAULT" | "MPOL_LOCAL" => json!({"mode": name}),
            _ => json!({"mode": name, "nodes": "0"}),
        };
        // It is known to the runtime, whatever the kernel knows.
        if name == "MPOL_WEIGHTED_INTERLEAVE" && !kernel_is(6, 9)? {
            continue;
        }
        runs(trial, &config, &name)?;
    }
    for name in words(trial, "/linux/memoryPolicy/flags")? {
        let mut config = trial.config(&["true"]);
        let policy = json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [name]});
        config["linux"]["memoryPolicy"] = policy;
        runs(trial, &config, &name)?;
    }
    Ok(())
}

fn idmap(trial: &Trial) -> Result<()> {
    let all = features(trial)?;
    let told = &all["linux"]["mountExtensions"]["idmap"]["enabled"];
    let maps = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let mut config = trial.config(&["stat", "-c", "%u", "/mnt"]);
    config["mounts"][3]["options"] = json!(["bind", "idmap"]);
    config["mounts"][3]["uidMappings"] = maps.clone();
    config["mounts"][3]["gidMappings"] = maps;
    trial.write(&config)?;
    let reads = trial.go(&["run", &trial.id])?.line() == "1000";
    ensure!(!reads || *told == true, "it maps ids, and tells {told}");
    Ok(())
}

fn unread(trial: &Trial) -> Result<()> {
    features(trial)?;
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let mut command = trial.command(&["features"]);
    let done = command.stdout(writer).output()?;
    let code = crate::frontend::code(done.status);
    // As of a program that the kernel ends then (SIGPIPE), or as if all were read.
    ensure!([0, 128 + 13].contains(&code), "{done:?}");
    ensure!(done.stderr.is_empty(), "{done:?}");
    Ok(())
}
