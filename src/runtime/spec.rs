//! `spec`: an example config.json.

use super::cli;
use crate::cgroup::{Host, Layout};
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::get_default_mounts;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// The parts of the example in the order of the specification, for who reads it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Example {
    oci_version: Value,
    process: Value,
    root: Value,
    hostname: Value,
    mounts: Value,
    linux: Value,
}

/// Writes config.json, or what `--file` names, into the bundle; one that is there is not touched.
pub fn spec(args: &cli::Spec) -> Result<()> {
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    let path = bundle.join(args.file.as_deref().unwrap_or(Path::new("config.json")));
    let example: Example = serde_json::from_value(example(args.rootless)).context("encode")?;
    let mut text = serde_json::to_string_pretty(&example).context("encode")?;
    text.push('\n');
    match File::create_new(&path) {
        Ok(mut file) => file
            .write_all(text.as_bytes())
            .with_context(|| format!("write {}", path.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(anyhow!("{} exists already", path.display()))
                .hint("remove it first, or name another one with --bundle or --file")
        }
        Err(error) => Err(error)
            .with_context(|| format!("write {}", path.display()))
            .hint("--bundle names a directory that is there, and that you may write"),
    }
}

/// A shell on the root filesystem `rootfs`: the same container that runc's example describes, so
/// that both can be compared.
fn example(rootless: bool) -> Value {
    let caps = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
    let mut mounts: Vec<Value> = get_default_mounts().iter().map(|m| json!(m)).collect();
    let mut namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
        .iter()
        .map(|kind| json!({"type": kind}))
        .collect();
    // On v1 the view of the cgroups is made by mounts alone.
    if Host::probe().is_ok_and(|host| host.layout() == Layout::V2) {
        namespaces.push(json!({"type": "cgroup"}));
    }
    let mut linux = json!({
        "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
            "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    });
    if rootless {
        // The caller's own id is all that an ordinary user can map, and the network stays the host's.
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({"type": "user"}));
        let map = |id: u32| json!([{"containerID": 0, "hostID": id, "size": 1}]);
        linux["uidMappings"] = map(nix::unistd::geteuid().as_raw());
        linux["gidMappings"] = map(nix::unistd::getegid().as_raw());
        linux["resources"] = json!({});
        for mount in &mut mounts {
            adapt(mount);
        }
    }
    linux["namespaces"] = namespaces.into();
    json!({
        "ociVersion": "1.3.0",
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "container",
        "mounts": mounts,
        "linux": linux,
    })
}

/// Without root there is no group 5, and a new sysfs only with a new network namespace.
fn adapt(mount: &mut Value) {
    if mount["destination"] == "/dev/pts"
        && let Some(Value::Array(options)) = mount.get_mut("options")
    {
        options.retain(|option| option != "gid=5");
    }
    if mount["destination"] == "/sys" {
        *mount = json!({
            "destination": "/sys", "type": "none", "source": "/sys",
            "options": ["rbind", "nosuid", "noexec", "nodev", "ro"],
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_valid() {
        for rootless in [false, true] {
            let checked = super::super::check::config(example(rootless).to_string().as_bytes());
            let checked = checked.unwrap();
            assert!(checked.problems.is_empty(), "{:?}", checked.problems);
            assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
            let ordered: Example = serde_json::from_value(example(rootless)).unwrap();
            let text = serde_json::to_string(&ordered).unwrap();
            assert!(text.starts_with("{\"ociVersion\":"), "{text}");
            let back: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(back, example(rootless));
        }
    }
}
