//! What a container may do: capabilities, seccomp, limits of its processes, kernel parameters.

use super::cli::Run;
use super::{devices, ids, seccomp_default};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::linux::caps;
use anyhow::{Context, Error, Result, anyhow};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

/// Docker's fourteen (its documentation, "Runtime privilege and Linux capabilities").
const DEFAULT_CAPS: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Files of /proc and /sys that tell of the host, or change it.
pub(super) const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
/// The same, which may be read.
pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

fn wrong(error: Error, hint: &str) -> Error {
    with_exit_code(with_hint(error, hint), 125)
}

/// `--cap-add`, `--cap-drop`, `--privileged`. What the caller itself may not have is left out of
/// "all": it could not be given.
pub(super) fn capabilities(flags: &Run, bounding: u64) -> Result<Vec<String>> {
    let all: Vec<String> = (0..=caps::last())
        .filter(|number| bounding & (1 << number) != 0)
        .filter_map(caps::name)
        .collect();
    let full = |flag: &str, text: &str| -> Result<String> {
        caps::number(text)
            .and_then(caps::name)
            .with_context(|| format!("{flag}: unknown capability {text:?}"))
            .hint("capabilities(7) lists them: NET_ADMIN, SYS_PTRACE, …, or ALL")
            .exit_code(125)
    };
    let is_all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("all"));
    let mut held: Vec<String> = if flags.privileged || is_all(&flags.cap_add) {
        all
    } else if is_all(&flags.cap_drop) {
        Vec::new()
    } else {
        DEFAULT_CAPS.map(str::to_owned).into()
    };
    for name in flags
        .cap_add
        .iter()
        .filter(|n| !n.eq_ignore_ascii_case("all"))
    {
        let name = full("--cap-add", name)?;
        if !held.contains(&name) {
            held.push(name);
        }
    }
    for name in flags
        .cap_drop
        .iter()
        .filter(|n| !n.eq_ignore_ascii_case("all"))
    {
        let name = full("--cap-drop", name)?;
        held.retain(|held| *held != name);
    }
    held.sort();
    Ok(held)
}

/// The five sets for a user. Only root gets effective capabilities; another user could gain
/// them by a program with file capabilities, up to the bounding set.
pub(super) fn sets(held: &[String], root: bool) -> Value {
    let own = if root { held } else { &[] };
    json!({"bounding": held, "effective": own, "permitted": own, "inheritable": [], "ambient": []})
}

/// What `--security-opt` says.
#[derive(Debug, Default)]
pub(super) struct Security {
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: Option<LinuxSeccomp>,
    pub(super) apparmor: Option<String>,
    pub(super) label: Option<String>,
    pub(super) unmasked: bool,
}

/// Reads `--security-opt` and chooses the seccomp profile.
pub(super) fn security(flags: &Run, capabilities: &[String]) -> Result<Security> {
    const HINT: &str = "it is one of seccomp=FILE, seccomp=unconfined, apparmor=PROFILE, \
                        label=disable, no-new-privileges, systempaths=unconfined";
    let mut security = Security {
        unmasked: flags.privileged,
        ..Security::default()
    };
    let builtin = || seccomp_default::profile(capabilities).map(Some);
    let mut named = None;
    for option in &flags.security_opt {
        let (name, value) = match option.split_once(['=', ':']) {
            Some((name, value)) => (name, value),
            None => (option.as_str(), ""),
        };
        match (name, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => named = Some(None),
            ("seccomp", "builtin") => named = Some(builtin()?),
            ("seccomp", file) if !file.is_empty() => {
                named = Some(Some(profile_file(file, capabilities)?));
            }
            ("apparmor", "unconfined") | ("label", "disable") => {}
            ("apparmor", name) if !name.is_empty() => security.apparmor = Some(name.to_owned()),
            ("label", label) if label.split(':').count() >= 4 => {
                security.label = Some(label.to_owned());
            }
            ("systempaths", "unconfined") => security.unmasked = true,
            _ => {
                return Err(wrong(
                    anyhow!("--security-opt: unknown option {option:?}"),
                    HINT,
                ));
            }
        }
    }
    security.seccomp = match named {
        Some(named) => named,
        None if flags.privileged => None,
        None => builtin()?,
    };
    Ok(security)
}

/// A profile in Docker's file format: the specification's, with rules that hold only with or without
/// certain capabilities or on certain machines, and `archMap` instead of `architectures`.
fn profile_file(file: &str, capabilities: &[String]) -> Result<LinuxSeccomp> {
    let read = || -> Result<LinuxSeccomp> {
        let bytes = std::fs::read(file).context("read it")?;
        let mut profile: Value = serde_json::from_slice(&bytes).context("it is not JSON")?;
        if let Some(Value::Array(map)) = profile
            .as_object_mut()
            .context("it is no object")?
            .remove("archMap")
        {
            let ours = map
                .iter()
                .find(|entry| entry["architecture"] == "SCMP_ARCH_X86_64");
            if let Some(entry) = ours {
                let mut all = vec![entry["architecture"].clone()];
                all.extend(
                    entry["subArchitectures"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                );
                profile["architectures"] = Value::Array(all);
            }
        }
        if let Some(Value::Array(rules)) = profile.get_mut("syscalls") {
            rules.retain_mut(|rule| applies(rule, capabilities));
        }
        // Every field must be one of the specification's.
        serde_json::from_value(profile).context("it is no seccomp profile")
    };
    read()
        .with_context(|| format!("--security-opt: seccomp profile {file}"))
        .hint("it is a JSON file with defaultAction, architectures and syscalls")
        .exit_code(125)
}

fn applies(rule: &mut Value, capabilities: &[String]) -> bool {
    let Some(rule) = rule.as_object_mut() else {
        return true;
    };
    let strings = |list: &Value| -> Vec<String> {
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    let (includes, excludes) = (rule.remove("includes"), rule.remove("excludes"));
    rule.remove("comment");
    if let Some(name) = rule.remove("name") {
        rule.insert("names".to_owned(), json!([name]));
    }
    let held = |name: &String| capabilities.contains(name);
    let here = |arch: &String| matches!(arch.as_str(), "amd64" | "x86_64" | "x32" | "x86");
    let includes = includes.unwrap_or_default();
    let excludes = excludes.unwrap_or_default();
    let arches = strings(&includes["arches"]);
    strings(&includes["caps"]).iter().all(held)
        && (arches.is_empty() || arches.iter().any(here))
        && !strings(&excludes["caps"]).iter().any(held)
        && !strings(&excludes["arches"]).iter().any(here)
}

/// `--ulimit NAME=SOFT[:HARD]`: getrlimit(2), -1 for no limit.
pub(super) fn ulimit(text: &str) -> Result<Value> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let number = |text: &str| match text {
        "-1" | "unlimited" => Some(u64::MAX),
        text => text.parse::<u64>().ok(),
    };
    let parse = || {
        let (name, limits) = text.split_once('=')?;
        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
        let (soft, hard) = (number(soft)?, number(hard)?);
        let name = NAMES.contains(&name).then(|| name.to_uppercase())?;
        (soft <= hard)
            .then(|| json!({"type": format!("RLIMIT_{name}"), "soft": soft, "hard": hard}))
    };
    parse()
        .with_context(|| format!("invalid --ulimit value '{text}'"))
        .hint(format!(
            "as in --ulimit nofile=1024:2048; the names are {}",
            NAMES.join(", ")
        ))
        .exit_code(125)
}

/// `NAME=VALUE` of `--sysctl` and `--annotation`.
pub(super) fn pair(flag: &str, text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(wrong(
            anyhow!("invalid {flag} value '{text}'"),
            &format!("as in {flag} NAME=VALUE"),
        )),
    }
}

/// Says that the access to devices is filtered for root alone: in a user namespace there are the nodes
/// that the user may open, as the user may.
fn only_roots(flags: &Run, what: &str) -> Result<()> {
    if !ids::are_mapped() {
        return Ok(());
    }
    let why = format!("{what}: only root can have the access to devices filtered");
    if flags.best_effort {
        super::note(&format!("{why}; not applied"));
        return Ok(());
    }
    let hint = "--device alone gives a node with the rights that you have on it; --best-effort does \
                without the rest";
    Err(wrong(anyhow!(why), hint))
}

/// The devices: nodes, and rules for the cgroup.
pub(super) fn devices(flags: &Run) -> Result<(Vec<Value>, Vec<Value>)> {
    if flags.privileged {
        return Ok((
            devices::all_devices(),
            vec![json!({"allow": true, "access": "rwm"})],
        ));
    }
    let mut nodes = Vec::new();
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    if let Some(rule) = flags.device_cgroup_rule.first() {
        only_roots(flags, &format!("--device-cgroup-rule '{rule}'"))?;
    }
    for text in &flags.device {
        for device in devices::device(text)? {
            if device.rule["access"] != "rwm" {
                only_roots(flags, &format!("--device {text}"))?;
            }
            nodes.push(device.node);
            rules.push(device.rule);
        }
    }
    for text in &flags.device_cgroup_rule {
        rules.push(devices::device_rule(text)?);
    }
    Ok((nodes, rules))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        run: Run,
    }

    fn flags(words: &[&str]) -> Run {
        Only::parse_from([&["run"], words].concat()).run
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let of = |words: &[&str]| capabilities(&flags(words), u64::MAX).unwrap();
        assert_eq!(of(&[]).len(), 14);
        assert_eq!(
            of(&["--cap-drop=all", "--cap-add=net_admin"]),
            ["CAP_NET_ADMIN"]
        );
        assert!(!of(&["--cap-drop", "CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert!(of(&["--privileged"]).len() > 37);
        let less = capabilities(&flags(&["--cap-add", "ALL"]), 1).unwrap();
        assert_eq!(less, ["CAP_CHOWN"]);
        assert!(capabilities(&flags(&["--cap-add", "NOSUCH"]), 1).is_err());
    }

    #[test]
    fn options_of_security() {
        let of = |words: &[&str]| security(&flags(words), &[]);
        assert!(of(&[]).unwrap().seccomp.is_some());
        assert!(
            of(&["--security-opt", "seccomp=unconfined"])
                .unwrap()
                .seccomp
                .is_none()
        );
        assert!(
            of(&["--security-opt", "no-new-privileges"])
                .unwrap()
                .no_new_privileges
        );
        assert!(of(&["--security-opt", "nosuch=1"]).is_err());
        assert!(of(&["--security-opt", "seccomp=/nosuch"]).is_err());
    }

    #[test]
    fn limits() {
        let limit = ulimit("nofile=64:128").unwrap();
        assert_eq!(
            limit,
            json!({"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128})
        );
        for text in ["nosuch=1", "nofile=x", "nofile", "nofile=3:2"] {
            assert!(ulimit(text).is_err(), "{text}");
        }
    }
}
