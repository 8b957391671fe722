use super::*;
use crate::error::{hint_of, message};
use crate::mydocker::cli::Verb;
use crate::mydocker::flags::{self, Parsed};

/// An image with one layer, a directory of this test's own.
struct Bench {
    dir: PathBuf,
    image: Image,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Bench {
    fn new(name: &str, config: Value) -> Bench {
        let dir = std::env::temp_dir().join(format!("bundle-{name}-{}", std::process::id()));
        let etc = dir.join("layer/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(
            etc.join("passwd"),
            "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:\n",
        )
        .unwrap();
        std::fs::write(etc.join("group"), "root:x:0:\nwheel:x:10:web\nwww:x:34:\n").unwrap();
        let raw = json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
        });
        let image = Image {
            id: String::new(),
            digest: String::new(),
            digests: Default::default(),
            blobs: Vec::new(),
            names: Vec::new(),
            config: serde_json::from_value(raw.clone()).unwrap(),
            raw_config: raw,
            layers: vec![dir.join("layer")],
            diff_ids: Vec::new(),
            size: 0,
            layer_sizes: Vec::new(),
            created: time::OffsetDateTime::UNIX_EPOCH,
        };
        Bench { dir, image }
    }

    /// The bundle of a command line as people type it: `run … IMAGE COMMAND…`.
    fn build(&self, line: &str) -> Result<Bundle> {
        let words = line.split_whitespace().map(Into::into).collect();
        let parsed = flags::parse(words).map_err(|refused| refused.error)?;
        let Parsed::Run(cli) = parsed else {
            panic!("{line}: help");
        };
        let Verb::Run(run) = cli.verb else {
            panic!("{line}: another verb");
        };
        build(&Request {
            reach: None,
            keep_id: None,
            id: ID,
            state: &State {
                root: self.dir.join("root"),
                run: self.dir.join("run"),
            },
            image: &self.image,
            command: run.words.get(1..).unwrap_or_default(),
            flags: &run,
            rootfs: Path::new("/run/rootfs"),
            caller_env: &|name| (name == "CALLERS").then(|| "yes".to_owned()),
            bounding: u64::MAX,
        })
    }

    fn spec(&self, line: &str) -> Value {
        let bundle = self.build(line).map_err(|error| message(&error));
        serde_json::to_value(
            bundle
                .unwrap_or_else(|error| panic!("{line}: {error}"))
                .spec,
        )
        .unwrap()
    }

    fn error(&self, line: &str) -> String {
        let error = self.build(line).unwrap_err();
        assert_eq!(crate::error::exit_code(&error), Some(125), "{line}");
        assert!(hint_of(&error).is_some(), "{line}");
        message(&error)
    }
}

fn plain(name: &str) -> Bench {
    Bench::new(
        name,
        json!({"Env": ["PATH=/bin", "A=image"], "Cmd": ["sh"]}),
    )
}

/// The mount at a place.
fn at<'a>(spec: &'a Value, place: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().unwrap();
    let found = mounts.iter().find(|mount| mount["destination"] == place);
    found.unwrap_or(&Value::Null)
}

#[test]
fn what_every_container_gets() {
    let spec = plain("plain").spec("run -d busybox top");
    for (place, expected) in [
        ("/ociVersion", json!("1.0.2")),
        ("/root", json!({"path": "/run/rootfs", "readonly": false})),
        ("/hostname", json!("0123456789ab")),
        ("/process/terminal", json!(false)),
        ("/process/args", json!(["top"])),
        ("/process/cwd", json!("/")),
        (
            "/process/env",
            json!(["PATH=/bin", "HOSTNAME=0123456789ab", "A=image"]),
        ),
        (
            "/process/user",
            json!({"uid": 0, "gid": 0, "additionalGids": [0]}),
        ),
        ("/process/noNewPrivileges", json!(false)),
        ("/process/capabilities/ambient", json!([])),
        ("/process/capabilities/inheritable", json!([])),
        ("/linux/cgroupsPath", json!(format!("/mydocker/{ID}"))),
        ("/linux/devices", json!([])),
        (
            "/linux/resources/devices",
            json!([{"allow": false, "access": "rwm"}]),
        ),
        ("/linux/resources/memory", json!({})),
        ("/linux/resources/cpu", json!({})),
        ("/linux/resources/pids", Value::Null),
        ("/linux/rootfsPropagation", Value::Null),
        ("/linux/seccomp/defaultAction", json!("SCMP_ACT_ERRNO")),
        (
            "/linux/namespaces",
            json!(
                ["mount", "pid", "ipc", "uts", "network", "cgroup"]
                    .map(|kind| json!({"type": kind}))
            ),
        ),
    ] {
        let found = spec.pointer(place).unwrap_or(&Value::Null);
        assert_eq!(*found, expected, "{place}");
    }
    let places: Vec<&str> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|mount| mount["destination"].as_str())
        .collect();
    assert_eq!(
        places,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/shm",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
        ]
    );
    for (place, last) in [
        ("/proc", "nodev"),
        ("/dev/pts", "gid=5"),
        ("/sys", "ro"),
        ("/sys/fs/cgroup", "ro"),
    ] {
        let options = at(&spec, place)["options"].as_array().unwrap();
        assert_eq!(options.last().unwrap(), last, "{place}");
    }
    let masked = spec["linux"]["maskedPaths"].as_array().unwrap();
    assert!(masked.contains(&json!("/proc/kcore")));
}

/// Builds with each line of options, and looks at a place of the spec.
fn each_has_its_place(name: &str, table: &[(&str, &str, Value)]) {
    let bench = plain(name);
    for (line, place, expected) in table {
        let spec = bench.spec(&format!("run {line} busybox top -b"));
        let found = spec.pointer(place).unwrap_or(&Value::Null);
        assert_eq!(found, expected, "{line}: {place}");
    }
}

#[test]
fn limits_of_resources() {
    each_has_its_place(
        "limits",
        &[
            (
                "-m 100m",
                "/linux/resources/memory",
                json!({"limit": 104_857_600}),
            ),
            (
                "-m 100m --memory-swap 200m",
                "/linux/resources/memory/swap",
                json!(209_715_200),
            ),
            (
                "-m 1g --memory-swap=-1",
                "/linux/resources/memory/swap",
                json!(-1),
            ),
            (
                "--memory-reservation 64m",
                "/linux/resources/memory",
                json!({"reservation": 64 << 20}),
            ),
            (
                "-cpushare 512",
                "/linux/resources/cpu",
                json!({"shares": 512}),
            ),
            (
                "-cpuset 0-1",
                "/linux/resources/cpu",
                json!({"cpus": "0-1"}),
            ),
            (
                "--cpuset-mems 0",
                "/linux/resources/cpu",
                json!({"mems": "0"}),
            ),
            (
                "--cpus 1.5",
                "/linux/resources/cpu",
                json!({"quota": 150_000, "period": 100_000}),
            ),
            (
                "--cpu-quota 5000 --cpu-period=10000",
                "/linux/resources/cpu",
                json!({"quota": 5000, "period": 10_000}),
            ),
            (
                "--pids-limit 20",
                "/linux/resources/pids",
                json!({"limit": 20}),
            ),
            (
                "--blkio-weight 300",
                "/linux/resources/blockIO/weight",
                json!(300),
            ),
            ("--oom-score-adj -500", "/process/oomScoreAdj", json!(-500)),
        ],
    );
}

#[test]
fn what_is_run_and_as_whom() {
    each_has_its_place(
        "process",
        &[
            (
                "-e B=x=y -e A= -e CALLERS -e NOBODYS",
                "/process/env",
                json!([
                    "PATH=/bin",
                    "HOSTNAME=0123456789ab",
                    "A=",
                    "B=x=y",
                    "CALLERS=yes"
                ]),
            ),
            ("-ti", "/process/terminal", json!(true)),
            ("-ti", "/process/env/2", json!("TERM=xterm")),
            (
                "--user web",
                "/process/user",
                json!({"uid": 33, "gid": 34, "additionalGids": [10, 34]}),
            ),
            (
                "-u 1000:www",
                "/process/user",
                json!({"uid": 1000, "gid": 34, "additionalGids": [34]}),
            ),
            ("-u web", "/process/capabilities/effective", json!([])),
            (
                "--group-add wheel",
                "/process/user/additionalGids",
                json!([0, 10]),
            ),
            ("-w /srv", "/process/cwd", json!("/srv")),
            ("--read-only", "/root/readonly", json!(true)),
            ("-h web1", "/hostname", json!("web1")),
            (
                "--domainname lan",
                "/linux/sysctl/kernel.domainname",
                json!("lan"),
            ),
            ("--uts host", "/hostname", Value::Null),
            (
                "--entrypoint echo",
                "/process/args",
                json!(["echo", "top", "-b"]),
            ),
            (
                "--init",
                "/process/args",
                json!(["/sbin/docker-init", "--", "top", "-b"]),
            ),
        ],
    );
}

#[test]
fn rights_and_namespaces() {
    each_has_its_place(
        "rights",
        &[
            (
                "--cap-drop all --cap-add net_admin",
                "/process/capabilities/bounding",
                json!(["CAP_NET_ADMIN"]),
            ),
            (
                "--security-opt no-new-privileges",
                "/process/noNewPrivileges",
                json!(true),
            ),
            (
                "--security-opt seccomp=unconfined",
                "/linux/seccomp",
                Value::Null,
            ),
            (
                "--security-opt apparmor=mine",
                "/process/apparmorProfile",
                json!("mine"),
            ),
            (
                "--security-opt systempaths=unconfined",
                "/linux/maskedPaths",
                Value::Null,
            ),
            (
                "--ulimit nofile=64:128",
                "/process/rlimits",
                json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}]),
            ),
            (
                "--sysctl net.ipv4.ip_unprivileged_port_start=80",
                "/linux/sysctl",
                json!({"net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.ping_group_range": "0 2147483647"}),
            ),
            ("--network host", "/linux/sysctl", json!({})),
            ("--annotation a=b", "/annotations", json!({"a": "b"})),
            (
                "--device /dev/null:/dev/nothing:r",
                "/linux/devices/0/path",
                json!("/dev/nothing"),
            ),
            (
                "--device /dev/null:/dev/nothing:r",
                "/linux/resources/devices/1",
                json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}),
            ),
            (
                "--privileged",
                "/linux/resources/devices/0/allow",
                json!(true),
            ),
            ("--privileged", "/linux/maskedPaths", Value::Null),
            ("-net host", "/linux/namespaces/4/type", json!("cgroup")),
            ("--pid host", "/linux/namespaces/1/type", json!("ipc")),
        ],
    );
}

#[test]
fn each_mount_has_its_options() {
    let bench = plain("mounts");
    let hosts = bench.dir.join("run/containers").join(ID).join("etc/hosts");
    for (line, place, expected) in [
        (
            "-v /root/from1:/to1",
            "/to1",
            json!({"destination": "/to1", "type": "bind", "source": "/root/from1", "options": ["rbind", "rprivate"]}),
        ),
        (
            "-v /a:/b/../c:ro,rslave",
            "/c",
            json!({"destination": "/c", "type": "bind", "source": "/a", "options": ["rbind", "ro", "rslave"]}),
        ),
        (
            "--mount type=bind,src=/,dst=/host,readonly",
            "/host",
            json!({"destination": "/host", "type": "bind", "source": "/", "options": ["rbind", "ro", "rprivate"]}),
        ),
        (
            "--tmpfs /run:size=64m",
            "/run",
            json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs",
                   "options": ["rw", "nosuid", "nodev", "noexec", "size=64m"]}),
        ),
        (
            "--shm-size 2m",
            "/dev/shm",
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                   "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=2097152"]}),
        ),
        (
            "--shm-size 0",
            "/dev/shm",
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
                   "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]}),
        ),
        (
            "--mount type=tmpfs,dst=/t,tmpfs-size=1mb,tmpfs-mode=1770",
            "/t",
            json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs",
                   "options": ["size=1048576", "mode=1770", "nosuid", "nodev", "noexec", "rw"]}),
        ),
        (
            r#"--mount type=bind,"src=/",dst=/h"#,
            "/h",
            json!({"destination": "/h", "type": "bind", "source": "/", "options": ["rbind", "rw", "rprivate"]}),
        ),
        (
            "--ipc host",
            "/dev/shm",
            json!({"destination": "/dev/shm", "type": "bind", "source": "/dev/shm", "options": ["rbind", "rw"]}),
        ),
        (
            "--privileged",
            "/sys",
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                   "options": ["nosuid", "noexec", "nodev", "rw"]}),
        ),
        (
            "-v /my/hosts:/etc/hosts",
            "/etc/hosts",
            json!({"destination": "/etc/hosts", "type": "bind", "source": "/my/hosts", "options": ["rbind", "rprivate"]}),
        ),
        // A mount on /dev takes the place of ours inside it.
        ("-v /dev:/dev", "/dev/pts", Value::Null),
        (
            "-d",
            "/etc/hosts",
            json!({"destination": "/etc/hosts", "type": "bind", "source": hosts,
                   "options": ["bind", "rprivate"]}),
        ),
    ] {
        let spec = bench.spec(&format!("run {line} busybox top"));
        assert_eq!(*at(&spec, place), expected, "{line}");
    }
}

#[test]
fn a_shared_volume_needs_a_shared_tree() {
    let bench = plain("shared");
    for (line, expected) in [
        ("-v /a:/b:rshared", json!("rshared")),
        ("-v /a:/b:ro,shared", json!("rshared")),
        (
            "--mount type=bind,src=/,dst=/b,bind-propagation=shared",
            json!("rshared"),
        ),
        ("-v /a:/b:rslave", Value::Null),
        ("-v /a:/b", Value::Null),
    ] {
        let spec = bench.spec(&format!("run {line} busybox top"));
        let found = spec
            .pointer("/linux/rootfsPropagation")
            .unwrap_or(&Value::Null);
        assert_eq!(*found, expected, "{line}");
    }
}

#[test]
fn a_mount_comes_after_the_one_that_it_is_inside_of() {
    let bench = plain("nested");
    let spec = bench.spec(
        "run --tmpfs /x/y/z -v /a:/x/y -v /b:/x --mount type=bind,src=/,dst=/dev/shm/in busybox top",
    );
    let mounts = spec["mounts"].as_array().unwrap();
    let place = |target: &str| {
        let found = mounts
            .iter()
            .position(|mount| mount["destination"] == target);
        found.unwrap_or_else(|| panic!("no mount at {target}"))
    };
    for (outer, inner) in [
        ("/x", "/x/y"),
        ("/x/y", "/x/y/z"),
        ("/dev", "/dev/shm"),
        ("/dev/shm", "/dev/shm/in"),
        ("/sys", "/sys/fs/cgroup"),
    ] {
        assert!(place(outer) < place(inner), "{outer} {inner}");
    }
}

#[test]
fn the_image_says_what_the_flags_do_not() {
    let bench = Bench::new(
        "image",
        json!({
            "Entrypoint": ["prog"], "Cmd": ["arg"], "Env": ["PATH=/opt"], "User": "web:wheel",
            "WorkingDir": "/work", "StopSignal": "RTMIN+3", "Labels": {"a": "1", "b": "1"},
        }),
    );
    let spec = bench.spec("run image");
    let process = &spec["process"];
    assert_eq!(process["args"], json!(["prog", "arg"]));
    assert_eq!(
        process["user"],
        json!({"uid": 33, "gid": 10, "additionalGids": [10]})
    );
    assert_eq!(process["cwd"], "/work");
    assert_eq!(process["env"][0], "PATH=/opt");
    for (line, args) in [
        ("run image x y", json!(["prog", "x", "y"])),
        ("run --entrypoint e image", json!(["e"])),
        ("run --entrypoint= image", json!(["sh"])),
    ] {
        assert_eq!(bench.spec(line)["process"]["args"], args, "{line}");
    }
    let bundle = bench.build("run -l b=2 -v /root/from1:/to1 image").unwrap();
    assert_eq!(bundle.labels["a"], "1");
    assert_eq!(bundle.labels["b"], "2");
    assert_eq!(bundle.stop_signal.as_deref(), Some("SIGRTMIN+3"));
    assert_eq!(bundle.host_dirs, [Path::new("/root/from1")]);
    let bundle = bench.build("run --stop-signal 2 image").unwrap();
    assert_eq!(bundle.stop_signal.as_deref(), Some("SIGINT"));
}

#[test]
fn what_cannot_be_is_an_error() {
    let bench = plain("errors");
    for (line, words) in [
        ("-p 80:80", "not supported yet"),
        ("-P", "not supported yet"),
        ("--network bridge", "not supported yet"),
        ("--pid container:x", "not supported yet"),
        ("--cpus 1 --cpu-quota 5", "--cpus"),
        ("-m 100m --memory-swap 50m", "--memory-swap"),
        ("--memory-swap 50m", "-m"),
        ("-h a/b", "--hostname"),
        ("--uts host -h x", "--uts host"),
        ("--add-host x", "--add-host"),
        ("--add-host x:host-gateway", "--add-host"),
        ("--dns nobody", "--dns"),
        ("--log-driver syslog", "--log-driver"),
        ("--log-opt max-size=1q", "--log-opt"),
        ("--log-opt max-size=0", "--log-opt"),
        ("-v /a:/x --tmpfs /x", "/x"),
        ("-u nosuch", "nosuch"),
        ("-w rel", "-w"),
        ("-e =x", "environment"),
    ] {
        let error = bench.error(&format!("run {line} image"));
        assert!(error.contains(words), "{line}: {error}");
    }
    let bad = Bench::new("bad", json!({"StopSignal": "999"}));
    let error = bad.error("run image");
    assert!(error.contains("StopSignal \"999\""), "{error}");
    bad.build("run --stop-signal TERM image").unwrap();
}

#[test]
fn files_of_the_host_are_looked_at_when_it_is_started() {
    let bench = plain("etc");
    let of = |line: &str| {
        let bundle = bench.build(&format!("run {line} busybox top"));
        serde_json::to_value(bundle.unwrap().etc).unwrap()
    };
    let etc = of("--network host --add-host db:10.0.0.2 --add-host six=[::2] --hostname box");
    assert_eq!(
        etc,
        json!({"hostname": "box", "hosts": "10.0.0.2\tdb\n::2\tsix\n", "with_hosts_of_host": true,
               "resolv": null})
    );
    let etc = of("--dns 9.9.9.9 --dns-search a --dns-search b --hostname box");
    assert_eq!(etc["resolv"], "nameserver 9.9.9.9\nsearch a b\n");
    let hosts = "127.0.0.1\tlocalhost box\n::1\tlocalhost ip6-localhost ip6-loopback\n";
    assert_eq!(
        (&etc["hosts"], &etc["with_hosts_of_host"]),
        (&json!(hosts), &json!(false))
    );
}
