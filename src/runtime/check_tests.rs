//! Tests of `check`.

use super::*;

fn good() -> Value {
    json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["sh"], "cwd": "/"},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}]},
    })
}

fn told(document: &Value) -> Vec<String> {
    match config(document.to_string().as_bytes()) {
        Ok(checked) => checked.problems.iter().map(ToString::to_string).collect(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn a_good_document_is_read() {
    let checked = config(good().to_string().as_bytes()).unwrap();
    assert!(checked.problems.is_empty() && checked.warnings.is_empty());
    assert_eq!(checked.value.process().as_ref().unwrap().user().uid(), 0);
}

#[test]
fn a_relative_destination_is_odd() {
    let mut document = good();
    document["mounts"] = json!([{"destination": "rel", "type": "tmpfs"}]);
    let checked = config(document.to_string().as_bytes()).unwrap();
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let warnings: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["mounts[0].destination: \"rel\" is not absolute, and taken from the root"]
    );
}

#[test]
fn values_that_the_kernel_takes_for_others_are_mistakes() {
    for (pointer, value, expected) in [
        (
            "/process/env",
            json!(["A=b", "A"]),
            "process.env[1]: \"A\" is not of the form NAME=VALUE",
        ),
        (
            "/linux/resources",
            json!({"memory": {"limit": -5}}),
            "linux.resources.memory.limit: -5 is no number of bytes",
        ),
        (
            "/linux/resources",
            json!({"cpu": {"shares": 99_999_999_999u64}}),
            "linux.resources.cpu.shares: 99999999999 is more than 262144",
        ),
    ] {
        let mut document = good();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        document.pointer_mut(parent).unwrap()[key] = value;
        let told = told(&document);
        assert!(
            told.len() == 1 && told[0].starts_with(expected),
            "{pointer}: {told:?}"
        );
    }
}

#[test]
fn limits_of_an_update_are_checked_too() {
    let problems = resources(br#"{"memory": {"limit": -5}}"#).unwrap_err();
    assert!(problems[0].to_string().starts_with("memory.limit: -5"));
    assert!(resources(br#"{"memory": {"limit": -1}}"#).is_ok());
    let flags = LinuxResources::default();
    assert!(values_of_resources(&flags).is_ok());
    let shares = resources(br#"{"cpu": {"shares": 262144}}"#).unwrap().value;
    assert!(values_of_resources(&shares).is_ok());
}

#[test]
fn an_unknown_field_of_an_update_is_a_slip() {
    let checked = resources(br#"{"pidz": {"limit": 9}}"#).unwrap();
    let warnings: Vec<_> = checked.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["pidz: unknown field, ignored"]);
}

#[test]
fn what_a_namespace_cannot_be_told_is_a_mistake() {
    let joined = json!([{"type": "time", "path": "/proc/self/ns/time"}]);
    let mut document = good();
    document["linux"] = json!({"namespaces": joined, "timeOffsets": {"boottime": {"secs": 7}}});
    let why = "linux.timeOffsets: the time namespace is joined, and keeps its own offsets";
    assert_eq!(told(&document), [why]);
    document["linux"]["timeOffsets"] = json!({});
    assert!(told(&document).is_empty());

    let map = json!([{"containerID": 0, "hostID": 7, "size": 1}]);
    document["linux"] = json!({"namespaces": [{"type": "user"}], "uidMappings": map});
    let why = "linux.gidMappings: a new user namespace needs mappings";
    assert_eq!(told(&document), [why]);
    document["linux"]["gidMappings"] = map;
    assert!(told(&document).is_empty());
    let joined = json!([{"type": "user", "path": "/proc/self/ns/user"}]);
    document["linux"] = json!({"namespaces": joined});
    assert!(told(&document).is_empty());
}

#[test]
fn numbers_that_the_kernel_would_cut_are_mistakes() {
    let mut document = good();
    document["linux"]["namespaces"] = json!([{"type": "uts"}]);
    document["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096,
        "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4095},
                     {"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000},
                     {"names": ["c"], "action": "SCMP_ACT_TRACE", "errnoRet": 5000}]});
    document["process"]["user"] = json!({"uid": 0, "gid": 4_294_967_295u32, "additionalGids": [7, 4_294_967_295u32], "umask": 0o1000});
    document["linux"]["resources"] = json!({"pids": {"limit": -2}, "blockIO": {"weight": 9}});
    document["process"]["terminal"] = true.into();
    document["process"]["consoleSize"] = json!({"height": 65535, "width": 65536});
    document["hostname"] = "h".repeat(64).into();
    document["domainname"] = "d".repeat(65).into();
    let mut told = told(&document);
    told.sort();
    assert_eq!(
        told,
        [
            "domainname: 65 bytes are more than the 64 that a name may have",
            "linux.resources.blockIO.weight: 9 is not from 10 to 1000",
            "linux.resources.pids.limit: -2 is no number of processes, nor -1 for no limit",
            "linux.seccomp.defaultErrnoRet: 4096 is no errno: they end at 4095",
            "linux.seccomp.syscalls[1].errnoRet: 5000 is no errno: they end at 4095",
            "process.consoleSize.width: 65536 is more than 65535, the most of a terminal",
            "process.user.additionalGids[1]: 4294967295 is no id: to the kernel it means none",
            "process.user.gid: 4294967295 is no id: to the kernel it means none",
            "process.user.umask: 512 (octal 1000) has more than the permission bits, octal 777",
        ]
    );
}

/// With that value in that place, this is told.
fn is_told(pointer: &str, value: Value, expected: &str) {
    let mut document = good();
    match document.pointer_mut(pointer) {
        Some(place) => *place = value,
        None => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            document.pointer_mut(parent).unwrap()[key] = value;
        }
    }
    let told = told(&document);
    assert!(
        told.iter().any(|line| line.starts_with(expected)),
        "{pointer}: {told:?}"
    );
}

#[test]
fn mistakes_are_told_with_their_places() {
    for (pointer, value, expected) in [
        ("/root/path", json!(""), "root.path: it is required"),
        (
            "/linux/maskedPaths",
            json!(["/proc/kcore", "/./"]),
            "linux.maskedPaths[1]: the root cannot be hidden",
        ),
        ("/ociVersion", json!("7.0.0"), "ociVersion: \"7.0.0\""),
        ("/ociVersion", Value::Null, "ociVersion: it is required"),
        (
            "/root/path",
            json!(3),
            "root.path: it must be a string, not a number",
        ),
        (
            "/process/args",
            json!([]),
            "process.args: there is no program",
        ),
        (
            "/process/args/0",
            json!(1),
            "process.args[0]: it must be a string",
        ),
        (
            "/process/cwd",
            json!("x"),
            "process.cwd: \"x\" is not absolute",
        ),
        (
            "/linux/namespaces/0/type",
            json!("x"),
            "linux.namespaces[0].type: unknown value \"x\"",
        ),
        (
            "/linux/namespaces/0/type",
            json!("pid"),
            "linux.namespaces: pid is there twice",
        ),
        (
            "/hostname",
            json!("x"),
            "hostname: it needs a uts namespace",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.panic": "1"}),
            "linux.sysctl: kernel.panic",
        ),
        (
            "/linux/sysctl",
            json!({"net.a": "1"}),
            "linux.sysctl: net.a needs a network",
        ),
    ] {
        is_told(pointer, value, expected);
    }
}

#[test]
fn mistakes_in_numbers_and_hooks_are_told_too() {
    for (pointer, value, expected) in [
        (
            "/process/oomScoreAdj",
            json!(2000),
            "process.oomScoreAdj: 2000 is not a whole number",
        ),
        (
            "/process/oomScoreAdj",
            json!(1.5),
            "process.oomScoreAdj: 1.5 is not a whole number",
        ),
        (
            "/linux/resources",
            json!({"cpu": {"shares": -1}}),
            "linux.resources.cpu.shares: -1",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "x"}]}),
            "hooks.poststop[0].path",
        ),
        (
            "/hooks",
            json!({"poststop": [{"path": "/x", "timeout": 0}]}),
            "hooks.poststop[0].timeout",
        ),
    ] {
        is_told(pointer, value, expected);
    }
}

#[test]
fn several_are_told_at_once_and_oddities_only_warned_of() {
    let mut document = good();
    document["process"]["args"] = json!("sh");
    document["process"]["cwd"] = json!(7);
    document["mounts"] = json!([{"source": "x"}]);
    assert_eq!(told(&document).len(), 3);
    let mut document = good();
    document["vm"] = json!({"kernel": 1});
    document["novel"] = json!(1);
    document["process"]["capabilities"] = json!({"bounding": ["CAP_KILL", "CAP_NO_SUCH"]});
    document["process"]["rlimits"] = Value::Null;
    let checked = config(document.to_string().as_bytes()).unwrap();
    let paths = |list: &[Problem]| list.iter().map(|w| w.path.clone()).collect::<Vec<_>>();
    let warned = ["vm", "process.capabilities.bounding"];
    assert_eq!(paths(&checked.warnings), warned);
    assert_eq!(paths(&checked.notes), ["novel"]);
}

#[test]
fn what_is_no_document_is_told_as_such() {
    let text = |bytes: &[u8]| config(bytes).unwrap_err()[0].to_string();
    assert_eq!(text(b" \n"), "it is empty");
    assert!(text(b"{\"\xff\": 1}").starts_with("it is no JSON: "));
    assert!(text(b"{\"a\":").contains("line 1"));
    assert!(text(b"[]").contains("an object, not a list"));
}
