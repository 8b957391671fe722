//! What config.md and config-linux.md say of the values of a config.json whose types are right.

use super::check::problem;
use crate::error::Problem;
use serde_json::Value;
use std::collections::BTreeSet;

/// What config.md and config-linux.md demand of the values.
pub(super) fn spec(spec: &Value, problems: &mut Vec<Problem>) {
    let mut wrong = |path: &str, what: String| problems.push(problem(path, what));
    let version = text(&spec["ociVersion"]);
    if !is_version_one(version) {
        let what = format!("{version:?} is not a version 1.x.y of the runtime-spec");
        wrong("ociVersion", what);
    }
    let namespaces = list(&spec["linux"]["namespaces"]);
    let kinds: Vec<&str> = namespaces.iter().map(|n| text(&n["type"])).collect();
    for (index, kind) in kinds.iter().enumerate() {
        if kinds[..index].contains(kind) {
            wrong("linux.namespaces", format!("{kind} is there twice"));
        }
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let path = text(&namespace["path"]);
        if !path.is_empty() && !path.starts_with('/') {
            let at = format!("linux.namespaces[{index}].path");
            wrong(&at, format!("{path:?} is not absolute"));
        }
    }
    for (field, kind) in [
        ("hostname", "uts"),
        ("domainname", "uts"),
        ("linux.uidMappings", "user"),
        ("linux.gidMappings", "user"),
        ("linux.timeOffsets", "time"),
    ] {
        let value = spec.pointer(&format!("/{}", field.replace('.', "/")));
        let given = value.is_some_and(|value| match value {
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => false,
        });
        if given && !kinds.contains(&kind) {
            let what = format!("it needs a {kind} namespace in linux.namespaces");
            wrong(field, what);
        }
    }
    names(spec, problems);
    namespace_settings(&spec["linux"], problems);
    if spec["root"]["path"] == "" {
        problems.push(problem("root.path", "it is required"));
    }
    mappings(spec, problems);
    annotations(&spec["annotations"], problems);
    hooks(&spec["hooks"], problems);
    devices(&spec["linux"]["devices"], problems);
    hidden(&spec["linux"], problems);
    seccomp(&spec["linux"]["seccomp"], problems);
    sysctl(&spec["linux"]["sysctl"], &kinds, problems);
    // Without one the container can be created, and not started (runtime.md, "Create").
    if spec.get("process").is_some() {
        process(&spec["process"], "process", problems);
    }
    resources(&spec["linux"]["resources"], "linux.resources", problems);
}

/// What the kernel would take for something else, or refuse without a reason.
pub(super) fn resources(resources: &Value, path: &str, problems: &mut Vec<Problem>) {
    let at = |field: &str| match path.is_empty() {
        true => field.to_owned(),
        false => format!("{path}.{field}"),
    };
    for field in ["limit", "reservation", "swap"] {
        let bytes = resources["memory"][field].as_i64().unwrap_or(0);
        if bytes < -1 {
            let what = format!("{bytes} is no number of bytes, nor -1 for no limit");
            problems.push(problem(&at(&format!("memory.{field}")), what));
        }
    }
    let processes = resources["pids"]["limit"].as_i64().unwrap_or(0);
    if processes < -1 {
        let what = format!("{processes} is no number of processes, nor -1 for no limit");
        problems.push(problem(&at("pids.limit"), what));
    }
    for field in ["weight", "leafWeight"] {
        let weight = resources["blockIO"][field].as_u64().unwrap_or(0);
        if weight != 0 && !(10..=1000).contains(&weight) {
            let what = format!("{weight} is not from 10 to 1000");
            problems.push(problem(&at(&format!("blockIO.{field}")), what));
        }
    }
    let devices = list(&resources["blockIO"]["weightDevice"]);
    for (index, device) in devices.iter().enumerate() {
        if device["weight"].is_null() && device["leafWeight"].is_null() {
            let at = at(&format!("blockIO.weightDevice[{index}]"));
            problems.push(problem(&at, "neither weight nor leafWeight"));
        }
    }
    for (name, limits) in resources["rdma"].as_object().into_iter().flatten() {
        if limits["hcaHandles"].is_null() && limits["hcaObjects"].is_null() {
            let at = at(&format!("rdma.{name}"));
            problems.push(problem(&at, "neither hcaHandles nor hcaObjects"));
        }
    }
    // The kernel makes the greatest weight of a greater one.
    if let Some(shares) = resources["cpu"]["shares"]
        .as_u64()
        .filter(|n| *n > MOST_SHARES)
    {
        let what = format!("{shares} is more than {MOST_SHARES}, the most that there is");
        problems.push(problem(&at("cpu.shares"), what));
    }
}

const MOST_SHARES: u64 = 262_144;

/// uname(2) has this much room for a name.
const LONGEST_NAME: usize = 64;

fn names(spec: &Value, problems: &mut Vec<Problem>) {
    for field in ["hostname", "domainname"] {
        let length = text(&spec[field]).len();
        if length > LONGEST_NAME {
            let what =
                format!("{length} bytes are more than the {LONGEST_NAME} that a name may have");
            problems.push(problem(field, what));
        }
        // It would end the name for whoever reads it.
        if text(&spec[field]).contains('\0') {
            problems.push(problem(field, "it has a NUL in it"));
        }
    }
}

/// What is said of a namespace must be possible for one that is made, or for one that is joined.
fn namespace_settings(linux: &Value, problems: &mut Vec<Problem>) {
    let is_empty = |field: &str| match &linux[field] {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => true,
    };
    for namespace in list(&linux["namespaces"]) {
        let is_joined = !text(&namespace["path"]).is_empty();
        match (text(&namespace["type"]), is_joined) {
            ("time", true) if !is_empty("timeOffsets") => {
                let what = "the time namespace is joined, and keeps its own offsets";
                problems.push(problem("linux.timeOffsets", what));
            }
            ("user", false) => {
                for field in ["uidMappings", "gidMappings"] {
                    if is_empty(field) {
                        let what = "a new user namespace needs mappings";
                        problems.push(problem(&format!("linux.{field}"), what));
                    }
                }
            }
            _ => {}
        }
    }
}

fn mappings(spec: &Value, problems: &mut Vec<Problem>) {
    for field in ["uidMappings", "gidMappings"] {
        for (index, mapping) in list(&spec["linux"][field]).iter().enumerate() {
            if mapping["size"] == 0 {
                let at = format!("linux.{field}[{index}].size");
                problems.push(problem(&at, "a mapping of no ids"));
            }
        }
    }
}

fn annotations(annotations: &Value, problems: &mut Vec<Problem>) {
    if annotations.get("").is_some() {
        problems.push(problem("annotations", "a key must not be empty"));
    }
}

/// The kernel has 12 and 20 bits for them, and passes over others (linux/kdev_t.h).
const MOST_MAJOR: i64 = 0xfff;
const MOST_MINOR: i64 = 0xf_ffff;

fn devices(devices: &Value, problems: &mut Vec<Problem>) {
    for (index, device) in list(devices).iter().enumerate() {
        for (field, most) in [("major", MOST_MAJOR), ("minor", MOST_MINOR)] {
            let at = format!("linux.devices[{index}].{field}");
            let what = match &device[field] {
                _ if text(&device["type"]) == "p" => continue,
                Value::Null => "it is required".to_owned(),
                number if number.as_i64().is_some_and(|n| (0..=most).contains(&n)) => continue,
                number => format!("{number} is not from 0 to {most}"),
            };
            problems.push(problem(&at, what));
        }
    }
}

fn hidden(linux: &Value, problems: &mut Vec<Problem>) {
    for field in ["maskedPaths", "readonlyPaths"] {
        for (index, path) in list(&linux[field]).iter().enumerate() {
            let path = text(path);
            let at = format!("linux.{field}[{index}]");
            if !path.starts_with('/') {
                problems.push(problem(&at, format!("{path:?} is not absolute")));
            }
            let is_root = path.split('/').all(|part| matches!(part, "" | "."));
            if is_root && field == "maskedPaths" {
                problems.push(problem(
                    &at,
                    "the root cannot be hidden from those who are in it",
                ));
            }
        }
    }
}

/// MAX_ERRNO of the kernel.
const MOST_ERRNO: u64 = 4095;

fn seccomp(seccomp: &Value, problems: &mut Vec<Problem>) {
    let mut wrong = |at: &str, what: String| {
        problems.push(problem(&format!("linux.seccomp.{at}"), what));
    };
    let bad_errno = |action: &Value, errno: &Value| match text(action) {
        "SCMP_ACT_TRACE" => None,
        "SCMP_ACT_ERRNO" => errno
            .as_u64()
            .filter(|errno| *errno > MOST_ERRNO)
            .map(|errno| format!("{errno} is no errno: they end at {MOST_ERRNO}")),
        action => (!errno.is_null()).then(|| format!("{action} returns no errno")),
    };
    if let Some(what) = bad_errno(&seccomp["defaultAction"], &seccomp["defaultErrnoRet"]) {
        wrong("defaultErrnoRet", what);
    }
    for (index, call) in list(&seccomp["syscalls"]).iter().enumerate() {
        if let Some(what) = bad_errno(&call["action"], &call["errnoRet"]) {
            wrong(&format!("syscalls[{index}].errnoRet"), what);
        }
        if list(&call["names"]).is_empty() {
            let what = "there must be a name".to_owned();
            wrong(&format!("syscalls[{index}].names"), what);
        }
    }
    let given = |field: &str| !text(&seccomp[field]).is_empty();
    if given("listenerMetadata") && !given("listenerPath") {
        wrong("listenerMetadata", "it needs listenerPath".to_owned());
    }
}

fn hooks(hooks: &Value, problems: &mut Vec<Problem>) {
    for (kind, hooks) in hooks.as_object().into_iter().flatten() {
        for (index, hook) in list(hooks).iter().enumerate() {
            let path = text(&hook["path"]);
            if !path.starts_with('/') {
                let at = format!("hooks.{kind}[{index}].path");
                problems.push(problem(&at, format!("{path:?} is not absolute")));
            }
        }
    }
}

/// Parameters that belong to a namespace; all others are the whole machine's.
fn sysctl(parameters: &Value, kinds: &[&str], problems: &mut Vec<Problem>) {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    for name in parameters
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name)
    {
        let dotted = match (name.find('/'), name.find('.')) {
            (Some(slash), Some(dot)) if slash < dot => name.replace('/', "."),
            (Some(_), None) => name.replace('/', "."),
            _ => name.clone(),
        };
        let kind = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            "ipc"
        } else if dotted.starts_with("net.") {
            "network"
        } else if matches!(dotted.as_str(), "kernel.domainname" | "kernel.hostname") {
            "uts"
        } else if dotted.starts_with("user.") {
            "user"
        } else {
            let what = format!("{name} is a parameter of the whole machine, not of a container");
            problems.push(problem("linux.sysctl", what));
            continue;
        };
        if !kinds.contains(&kind) {
            let what = format!("{name} needs a {kind} namespace in linux.namespaces");
            problems.push(problem("linux.sysctl", what));
        }
    }
}

/// -1, with which setresuid(2) leaves an id as it is.
pub(super) const NO_ID: u32 = u32::MAX;

pub(super) fn process(process: &Value, path: &str, problems: &mut Vec<Problem>) {
    let at = |name: &str| match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    let mut wrong = |path: String, what: String| problems.push(problem(&path, what));
    let args = list(&process["args"]);
    if args.first().is_none_or(|first| text(first).is_empty()) {
        wrong(at("args"), "there is no program to run".to_owned());
    }
    let cwd = text(&process["cwd"]);
    if !cwd.starts_with('/') {
        wrong(at("cwd"), format!("{cwd:?} is not absolute"));
    }
    for (field, values) in [("args", args), ("env", list(&process["env"]))] {
        for (index, value) in values.iter().enumerate() {
            if text(value).contains('\0') {
                wrong(
                    at(&format!("{field}[{index}]")),
                    "it holds a null byte".to_owned(),
                );
            }
        }
    }
    for (index, variable) in list(&process["env"]).iter().enumerate() {
        let variable = text(variable);
        if !variable.contains('=') {
            let what = format!("{variable:?} is not of the form NAME=VALUE");
            wrong(at(&format!("env[{index}]")), what);
        }
    }
    let user = &process["user"];
    let groups = list(&user["additionalGids"]).iter().enumerate();
    let ids = [
        ("user.uid".to_owned(), &user["uid"]),
        ("user.gid".to_owned(), &user["gid"]),
    ]
    .into_iter()
    .chain(groups.map(|(index, gid)| (format!("user.additionalGids[{index}]"), gid)));
    for (field, id) in ids {
        if id.as_u64() == Some(u64::from(NO_ID)) {
            let what = format!("{NO_ID} is no id: to the kernel it means none");
            wrong(at(&field), what);
        }
    }
    let umask = user["umask"].as_u64().unwrap_or(0);
    if umask > 0o777 {
        let what =
            format!("{umask} (octal {umask:o}) has more than the permission bits, octal 777");
        wrong(at("user.umask"), what);
    }
    for side in ["height", "width"] {
        let cells = process["consoleSize"][side].as_u64().unwrap_or(0);
        if cells > u64::from(u16::MAX) {
            let what = format!("{cells} is more than {}, the most of a terminal", u16::MAX);
            wrong(at(&format!("consoleSize.{side}")), what);
        }
    }
    let mut seen = BTreeSet::new();
    for limit in list(&process["rlimits"]) {
        let kind = text(&limit["type"]);
        if !seen.insert(kind) {
            wrong(at("rlimits"), format!("{kind} is there twice"));
        }
        if limit["soft"].as_u64() > limit["hard"].as_u64() {
            wrong(
                at("rlimits"),
                format!("{kind}: the soft limit is above the hard one"),
            );
        }
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Semantic Versioning 2.0.0, major version 1.
fn is_version_one(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u64>> = core.split('.').map(|part| part.parse().ok()).collect();
    matches!(numbers.as_slice(), [Some(1), Some(_), Some(_)])
}
