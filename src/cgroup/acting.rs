//! Tests of the acting part, on cgroups of their own below `/conformance-cg-…`. They need root
//! and a writable hierarchy, and pass with a note where there is none.

use super::{Cgroup, Host, Manager, read};
use oci_spec::runtime::LinuxResources;
use std::fs::read_to_string;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command};

/// A cgroup that is removed when the test ends, however it ends.
struct Own {
    cgroup: Cgroup,
    top: Cgroup,
}

impl Own {
    fn new(name: &str) -> Option<Own> {
        let host = Host::probe().ok()?;
        let top = format!("/conformance-cg-{}-{name}", std::process::id());
        let plan = |path: &str| {
            Cgroup::plan(&host, Some(Path::new(path)), "x", Manager::Fs).expect("plan")
        };
        let own = Own {
            cgroup: plan(&format!("{top}/c")),
            top: plan(&top),
        };
        own.cgroup.may_be_made().then_some(own)
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let dir = self.cgroup.v1_dir(controller)?.full();
        Some(
            read_to_string(dir.join(file))
                .expect(file)
                .trim()
                .to_string(),
        )
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = self.top.signal_all(libc::SIGKILL);
        // panic = "abort" makes this the path of passed tests only; a leak shows in the suite.
        self.top.destroy().expect("destroy");
        for path in self.top.paths().values() {
            assert!(!path.exists(), "{} is left", path.display());
        }
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().expect("sleep")
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).expect("resources")
}

#[test]
fn a_process_enters_is_frozen_and_is_killed() {
    let Some(own) = Own::new("enter") else { return };
    own.cgroup.create().expect("create");
    let mut child = sleeper();
    let pid = child.id() as i32;
    own.cgroup.add(pid).expect("add");
    assert_eq!(own.cgroup.pids().expect("pids"), [pid]);
    assert_eq!(own.top.pids_recursive().expect("pids"), [pid]);
    let host = Host::probe().expect("host");
    let of_pid = Cgroup::of_pid(&host, pid).expect("of pid");
    assert_eq!(of_pid.paths(), own.cgroup.paths());

    let busy = own.cgroup.create();
    assert!(busy.is_err(), "a cgroup with processes is refused");

    own.cgroup.freeze().expect("freeze");
    assert!(own.cgroup.is_frozen().expect("state"));
    own.cgroup.signal_all(libc::SIGTERM).expect("signal");
    assert!(own.cgroup.is_frozen().expect("state"), "left as it was");
    own.cgroup.signal_all(libc::SIGKILL).expect("kill");
    assert!(!child.wait().expect("wait").success());
    own.cgroup.destroy().expect("destroy");
    own.cgroup.destroy().expect("a second time");
}

#[test]
fn what_exists_is_kept_by_undo() {
    let Some(own) = Own::new("undo") else { return };
    let first = own.top.create().expect("create");
    own.cgroup.create().expect("create").undo();
    for path in own.top.paths().values() {
        assert!(path.is_dir(), "{}", path.display());
    }
    first.undo();
    for path in own.top.paths().values() {
        assert!(!path.exists(), "{}", path.display());
    }
}

#[test]
fn limits_are_in_the_files() {
    let Some(own) = Own::new("limits") else {
        return;
    };
    own.cgroup.create().expect("create");
    let first = resources(
        r#"{"memory":{"limit":16777216,"swap":33554432,"swappiness":10},
            "cpu":{"shares":512,"quota":20000,"period":50000,"burst":10000,"cpus":"0"},
            "pids":{"limit":7},
            "devices":[{"allow":false,"access":"rwm"}]}"#,
    );
    if own.cgroup.v1_dir("memory").is_none() {
        return;
    }
    own.cgroup.limit(Some(&first)).expect("limit");
    let value = |controller, file| own.read(controller, file).unwrap_or_default();
    assert_eq!(value("memory", "memory.limit_in_bytes"), "16777216");
    assert_eq!(value("memory", "memory.memsw.limit_in_bytes"), "33554432");
    assert_eq!(value("cpu", "cpu.shares"), "512");
    assert_eq!(value("cpuset", "cpuset.cpus"), "0");
    assert_eq!(value("pids", "pids.max"), "7");
    assert!(value("devices", "devices.list").contains("c 1:3 rwm"));
    assert!(!value("devices", "devices.list").contains("a *:* rwm"));

    // Above the old limits, and below: the order of the files must not matter.
    for (limit, swap, quota, burst) in [
        (67108864, 67108864, 40000, 30000),
        (8388608, 8388608, 5000, 1000),
    ] {
        let next = resources(&format!(
            r#"{{"memory":{{"limit":{limit},"swap":{swap}}},"cpu":{{"quota":{quota},"burst":{burst}}}}}"#
        ));
        own.cgroup.update(&next).expect("update");
        assert_eq!(
            value("memory", "memory.memsw.limit_in_bytes"),
            swap.to_string()
        );
        assert_eq!(value("cpu", "cpu.cfs_burst_us"), burst.to_string());
    }
    own.cgroup
        .update(&resources(r#"{"memory":{"limit":-1},"pids":{"limit":-1}}"#))
        .expect("lift");
    assert_eq!(value("pids", "pids.max"), "max");
    own.cgroup
        .update(&resources(r#"{"cpu":{"idle":1}}"#))
        .expect("idle");
    own.cgroup
        .update(&resources(r#"{"cpu":{"idle":0,"shares":2048}}"#))
        .expect("not idle");
    assert_eq!(value("cpu", "cpu.shares"), "2048");
}

#[test]
fn a_limit_that_cannot_be_names_file_and_value() {
    let Some(own) = Own::new("refused") else {
        return;
    };
    own.cgroup.create().expect("create");
    if own.cgroup.v1_dir("cpuset").is_none() {
        return;
    }
    for (json, needle) in [
        (r#"{"cpu":{"cpus":"4000"}}"#, "\"4000\""),
        (r#"{"cpu":{"cpus":"4000"}}"#, "cpuset.cpus"),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
            "hugetlb.2MB.limit_in_bytes",
        ),
        (r#"{"cpu":{"period":1}}"#, "cpu.cfs_period_us"),
        (r#"{"unified":{"memory.high":"1"}}"#, "unified"),
    ] {
        if needle.starts_with("hugetlb") && own.cgroup.v1_dir("hugetlb").is_some() {
            continue;
        }
        let error = own.cgroup.limit(Some(&resources(json))).expect_err(json);
        let text = crate::error::message(&error);
        assert!(text.contains(needle), "{json}: {text}");
    }
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    let Some(own) = Own::new("refused") else {
        return;
    };
    own.cgroup.create().expect("create");
    if own.cgroup.v1_dir("memory").is_none() {
        return;
    }
    own.cgroup.limit(None).expect("limit");
    let files = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("pids", "pids.max"),
        ("cpu", "cpu.shares"),
        ("cpuset", "cpuset.cpus"),
    ];
    let now = || files.map(|(controller, file)| own.read(controller, file));
    let before = now();
    let wanted = resources(
        r#"{"memory":{"limit":16777216,"swap":16777216},"pids":{"limit":5},
            "cpu":{"shares":512,"cpus":"4000"}}"#,
    );
    let error = own.cgroup.update(&wanted).expect_err("no such CPU");
    assert!(format!("{error:#}").contains("cpuset.cpus"), "{error:#}");
    assert_eq!(now(), before);
}

#[test]
fn statistics_count() {
    let Some(own) = Own::new("stats") else { return };
    own.cgroup.create().expect("create");
    let mut child = sleeper();
    own.cgroup.add(child.id() as i32).expect("add");
    let stats = read::stats(&own.cgroup);
    assert_eq!(stats.pids.current, 1);
    assert!(stats.memory.usage.limit > 0);
    assert!(!stats.memory.raw.is_empty());
    assert_eq!(read::oom_kills(&own.cgroup), Some(0));
    own.cgroup.signal_all(libc::SIGKILL).expect("kill");
    child.wait().expect("wait");
}

#[test]
fn the_device_program_loads() {
    use crate::sys::bpf;
    let Some(own) = Own::new("bpf") else { return };
    own.cgroup.create().expect("create");
    let Some(dir) = own.cgroup.v2_dir() else {
        return;
    };
    let rules = r#"[{"allow":false},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"},
        {"allow":false,"type":"c","major":1,"minor":8,"access":"w"}]"#;
    let program =
        super::devices::program_of(&serde_json::from_str::<Vec<_>>(rules).expect("rules"))
            .expect("program");
    let loaded = match bpf::load_cgroup_device(&program) {
        // A kernel without CONFIG_CGROUP_BPF.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
        other => other.expect("load"),
    };
    let file = std::fs::File::open(dir.full()).expect("open");
    bpf::attach_cgroup_device(file.as_fd(), loaded.as_fd()).expect("attach");
    let count = || {
        bpf::attached_cgroup_device(file.as_fd())
            .expect("query")
            .len()
    };
    assert_eq!(count(), 1);
    if own.cgroup.layout == super::Layout::V2 {
        // Used again, the cgroup has the new rules only.
        for _ in 0..2 {
            own.cgroup.limit(Some(&resources("{}"))).expect("limit");
            assert_eq!(count(), 1);
        }
        let all = resources(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#);
        own.cgroup.limit(Some(&all)).expect("limit");
        assert_eq!(count(), 0);
    }
}

#[test]
fn a_parent_with_processes_hands_nothing_down() {
    let Some(own) = Own::new("internal") else {
        return;
    };
    own.top.create().expect("create");
    if own.top.layout != super::Layout::V2 {
        return;
    }
    let mut child = sleeper();
    own.top.add(child.id() as i32).expect("add");
    own.cgroup.create().expect("create");
    let result = own
        .cgroup
        .limit(Some(&resources(r#"{"pids":{"limit":5}}"#)));
    // Without limits it is a cgroup like any other.
    own.cgroup.add(child.id() as i32).expect("enter");
    own.top.signal_all(libc::SIGKILL).expect("kill");
    child.wait().expect("wait");
    let error = result.expect_err("limit");
    assert!(crate::error::message(&error).contains("+pids"), "{error:#}");
    let hint = crate::error::hint_of(&error).unwrap_or_default();
    assert!(hint.contains("holds processes itself"), "{hint}");
}

#[test]
fn what_is_in_use_is_not_deserted() {
    let Some(own) = Own::new("deserted") else {
        return;
    };
    own.cgroup.create().expect("create");
    let nested = own.cgroup.sub(&["deeper".into()]).expect("sub");
    // Not by create, which would hand controllers down, and leave no place for a process above.
    for path in nested.paths().values() {
        std::fs::create_dir(path).expect("nested");
    }
    let mut child = sleeper();
    own.cgroup.add(child.id() as i32).expect("add");
    assert_eq!(own.cgroup.is_claimed_by("one 1"), None);
    own.cgroup.claim("one 1");
    own.cgroup.claim("other 2");
    let claimed = ["one 1", "other 2"].map(|who| own.cgroup.is_claimed_by(who));
    let left = own.cgroup.destroy_deserted().expect("look");
    let is_alive = child.try_wait().expect("wait").is_none();
    let is_whole = nested.paths().values().all(|path| path.exists());
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert_eq!(claimed, [Some(false), Some(true)]);
    assert!(!left && is_alive && is_whole);
    assert!(own.cgroup.destroy_deserted().expect("destroy"));
    assert!(own.cgroup.paths().values().all(|path| !path.exists()));
}

#[test]
fn where_others_enter_a_cgroup_that_hands_controllers_down() {
    let Some(own) = Own::new("entrance") else {
        return;
    };
    own.cgroup.create().expect("create");
    if own.cgroup.layout != super::Layout::V2 {
        return;
    }
    let below = own.cgroup.sub(&["init".into()]).expect("sub");
    // Not by create, which would hand everything down to it.
    std::fs::create_dir(below.v2_dir().expect("v2").full()).expect("below");
    let mut child = sleeper();
    let pid = child.id() as i32;
    below.add(pid).expect("add");
    let at = own.cgroup.entrance(pid).expect("entrance");
    let before = at.paths() == own.cgroup.paths();
    let file = own.cgroup.v2_dir().expect("v2").full();
    super::limit::put(&file.join("cgroup.subtree_control"), "+pids").expect("hand down");
    let after = own.cgroup.entrance(pid).expect("entrance").paths();
    own.cgroup.signal_all(libc::SIGKILL).expect("kill");
    child.wait().expect("wait");
    assert!(before);
    assert_eq!(after, below.paths());
}

#[test]
fn a_thread_enters_through_the_doors() {
    let Some(own) = Own::new("doors") else { return };
    own.cgroup.create().expect("create");
    if own.cgroup.v1_dir("memory").is_none() {
        return;
    }
    let doors = own.cgroup.doors(false).expect("doors");
    let text = std::thread::spawn(move || {
        doors.enter().expect("enter");
        read_to_string("/proc/thread-self/cgroup").expect("cgroup")
    })
    .join()
    .expect("thread");
    let inside = text
        .lines()
        .filter(|l| l.contains("conformance-cg-") && l.ends_with("-doors/c"));
    let v1 = own.cgroup.dirs.iter().filter(|d| !d.is_v2()).count();
    assert_eq!(inside.count(), v1, "{text}");
    assert!(own.cgroup.clone_fd().is_some() == own.cgroup.v2_dir().is_some());
}

#[test]
fn a_kill_for_want_of_memory_is_told() {
    use nix::poll::{PollFd, PollTimeout, poll};
    use std::io::Write;
    let Some(own) = Own::new("oom") else { return };
    own.cgroup.create().expect("create");
    let limit = r#"{"memory":{"limit":8388608,"swap":8388608}}"#;
    own.cgroup.limit(Some(&resources(limit))).expect("limit");
    let mut watch = super::oom::OomWatch::new(&own.cgroup)
        .expect("watch")
        .expect("memory");
    let mut child = Command::new("sh")
        .args(["-c", "read line; exec tail /dev/zero"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    own.cgroup.add(child.id() as i32).expect("add");
    let mut input = child.stdin.take().expect("stdin");
    input.write_all(b"go\n").expect("go");
    let mut fds = [PollFd::new(watch.as_fd(), watch.flags())];
    let ready = poll(&mut fds, PollTimeout::from(20_000u16)).expect("poll");
    assert_eq!(ready, 1, "no event");
    assert!(!child.wait().expect("wait").success());
    assert_eq!(watch.new_kills().expect("kills"), 1);
    assert_eq!(watch.new_kills().expect("kills"), 0);
}

#[test]
fn a_frozen_parent_is_refused() {
    let Some(own) = Own::new("frozen") else {
        return;
    };
    own.top.create().expect("create");
    own.top.freeze().expect("freeze");
    let error = own.cgroup.create().expect_err("frozen");
    assert!(
        crate::error::message(&error).contains("is frozen"),
        "{error:#}"
    );
    own.top.thaw().expect("thaw");
    own.cgroup.create().expect("create").undo();
}

#[test]
fn nothing_that_forks_outlives_a_kill() {
    let Some(own) = Own::new("forks") else { return };
    own.cgroup.create().expect("create");
    own.cgroup
        .limit(Some(&resources(r#"{"pids":{"limit":40}}"#)))
        .expect("limit");
    let nested = own.cgroup.sub(&["deeper".into()]).expect("sub");
    nested.create().expect("nested");
    let mut child = Command::new("sh")
        // Never as many as the limit: a shell that cannot fork ends.
        .args([
            "-c",
            "read line; while :; do for i in $(seq 20); do sleep 0.02 & done; wait; done",
        ])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("sh");
    nested.add(child.id() as i32).expect("add");
    let mut input = child.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut input, b"go\n").expect("go");
    while own.cgroup.pids_recursive().expect("pids").len() < 10 {
        std::thread::yield_now();
    }
    own.cgroup.freeze().expect("freeze");
    own.cgroup.thaw().expect("thaw");
    own.cgroup.signal_all(libc::SIGKILL).expect("kill");
    child.wait().expect("wait");
    own.cgroup.destroy().expect("destroy");
}

#[test]
fn limits_are_in_the_files_of_v2() {
    let Some(own) = Own::new("limits2") else {
        return;
    };
    own.cgroup.create().expect("create");
    if own.cgroup.layout != super::Layout::V2 {
        return;
    }
    let dir = own.cgroup.v2_dir().expect("v2").full();
    let value = |file: &str| {
        read_to_string(dir.join(file))
            .expect(file)
            .trim()
            .to_string()
    };
    let first = resources(
        r#"{"memory":{"limit":16777216,"swap":33554432,"reservation":8388608},
            "cpu":{"shares":512,"quota":20000,"period":50000,"burst":10000,"cpus":"0"},
            "pids":{"limit":7}, "blockIO":{"weight":20},
            "unified":{"memory.high":"12582912"}}"#,
    );
    own.cgroup.limit(Some(&first)).expect("limit");
    let expected = [
        ("memory.max", "16777216"),
        ("memory.swap.max", "16777216"),
        ("memory.low", "8388608"),
        ("memory.high", "12582912"),
        ("cpu.weight", "59"),
        ("cpu.max", "20000 50000"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "7"),
    ];
    for (file, text) in expected {
        assert_eq!(value(file), text, "{file}");
    }
    for (json, file, text) in [
        (r#"{"cpu":{"period":100000}}"#, "cpu.max", "20000 100000"),
        (
            r#"{"cpu":{"quota":5000,"burst":1000}}"#,
            "cpu.max",
            "5000 100000",
        ),
        (r#"{"cpu":{"quota":-1}}"#, "cpu.max", "max 100000"),
        (r#"{"cpu":{"idle":1}}"#, "cpu.idle", "1"),
        (r#"{"cpu":{"idle":0,"shares":1024}}"#, "cpu.weight", "100"),
        (r#"{"memory":{"limit":-1}}"#, "memory.swap.max", "max"),
        (r#"{"pids":{"limit":-1}}"#, "pids.max", "max"),
    ] {
        own.cgroup.update(&resources(json)).expect(json);
        assert_eq!(value(file), text, "{json}");
    }
    let error = own
        .cgroup
        .update(&resources(r#"{"unified":{"nope.max":"1"}}"#))
        .expect_err("nope");
    assert!(crate::error::message(&error).contains("nope"), "{error:#}");
}

/// The first disk of the machine, as `major:minor`.
fn disk() -> Option<(u64, u64)> {
    let text = read_to_string("/proc/partitions").ok()?;
    let mut fields = text.lines().nth(2)?.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[test]
fn the_rarer_limits_are_in_the_files_of_v1() {
    let Some(own) = Own::new("rare") else { return };
    own.cgroup.create().expect("create");
    let mut cases = vec![
        (
            "memory",
            r#"{"memory":{"disableOOMKiller":true}}"#.to_string(),
            "memory.oom_control",
            "oom_kill_disable 1",
        ),
        (
            "hugetlb",
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#.into(),
            "hugetlb.2MB.limit_in_bytes",
            "4194304",
        ),
        (
            "net_cls",
            r#"{"network":{"classID":1048577}}"#.into(),
            "net_cls.classid",
            "1048577",
        ),
        (
            "net_prio",
            r#"{"network":{"priorities":[{"name":"lo","priority":5}]}}"#.into(),
            "net_prio.ifpriomap",
            "lo 5",
        ),
    ];
    if let Some((major, minor)) = disk() {
        let json = format!(
            r#"{{"blockIO":{{"throttleReadBpsDevice":[{{"major":{major},"minor":{minor},"rate":1048576}}]}}}}"#
        );
        cases.push(("blkio", json, "blkio.throttle.read_bps_device", "1048576"));
    }
    for (controller, json, file, expected) in cases {
        if own.cgroup.v1_dir(controller).is_none() {
            continue;
        }
        own.cgroup.update(&resources(&json)).expect(&json);
        let text = own.read(controller, file).unwrap_or_default();
        assert!(text.contains(expected), "{json}: {text}");
    }
}
