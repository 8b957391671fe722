//! Where a container is put: namespaces, devices, cgroups (config-linux.md), and what of the caller
//! stays with it.

use super::life::create;
use super::{Row, Trial, add_user_namespace};
use crate::bundles::hierarchies;
use crate::frontend::finish;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

pub(super) const ROWS: &[Row] = &[
    ("namespaces: a pid namespace by its path", |trial| {
        joined(trial, "pid")
    }),
    ("namespaces: a network namespace by its path", |trial| {
        joined(trial, "network")
    }),
    ("namespaces: a mount namespace by its path", |trial| {
        joined(trial, "mount")
    }),
    ("namespaces: an ipc namespace by its path", |trial| {
        joined(trial, "ipc")
    }),
    ("namespaces: a uts namespace by its path", |trial| {
        joined(trial, "uts")
    }),
    ("namespaces: a user namespace by its path", |trial| {
        joined(trial, "user")
    }),
    ("namespaces: a cgroup namespace by its path", |trial| {
        joined(trial, "cgroup")
    }),
    ("namespaces: a time namespace by its path", |trial| {
        joined(trial, "time")
    }),
    (
        "namespaces: those without an entry are the runtime's",
        inherited,
    ),
    ("namespaces: maps change no owner on disk", owners_kept),
    ("devices: of each type, anywhere", devices),
    ("devices: rules in the listed order", rules),
    (
        "spec: the file systems that programs expect",
        default_filesystems,
    ),
    ("process: without oomScoreAdj the caller's stays", oom_score),
    (
        "process: HOME, PATH and nothing else is added to env",
        environment,
    ),
    ("cgroupsPath: the same path is the same place", same_place),
    ("cgroupsPath: a relative one is one place", relative_place),
    ("cgroups: one that holds processes is refused", occupied),
    ("cgroups: one that is frozen is refused", frozen),
    ("cgroups: on v1 the owner stays", owner_of_v1),
    ("cgroups: on v2 the program's user gets it", owner_of_v2),
    ("cgroups: on v2 only one that can be written", owner_stays),
    ("memory: a limit below the use is refused", limit_below_use),
];

/// `linux.namespaces[].type` and the file below /proc/PID/ns.
fn file_of(kind: &str) -> &str {
    match kind {
        "network" => "net",
        "mount" => "mnt",
        other => other,
    }
}

/// A process that holds namespaces open until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(options: &[&str]) -> Result<Holder> {
        let mut command = Command::new("unshare");
        command
            .args(options)
            .args(["sh", "-c", "echo ready; exec sleep 1000"]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("run unshare")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output")?;
        let holder = Holder(child);
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        ensure!(line == "ready\n", "unshare {options:?} did not start");
        Ok(holder)
    }

    fn path(&self, kind: &str) -> PathBuf {
        let name = match kind {
            // Its first process is the child of the one that unshares.
            "pid" => "pid_for_children",
            "time" => "time_for_children",
            other => file_of(other),
        };
        PathBuf::from(format!("/proc/{}/ns/{name}", self.0.id()))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The namespaces that the probe sees in a container.
fn seen(trial: &Trial, config: &Value) -> Result<Value> {
    trial.write(config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let facts: Value = serde_json::from_str(&done.out).context("the probe's output")?;
    Ok(facts["namespaces"].clone())
}

fn joined(trial: &Trial, kind: &str) -> Result<()> {
    if kind == "time" {
        trial.skip_for("runc", "1.1 does not know time namespaces")?;
        trial.skip_for("crun", "1.8 does not know time namespaces")?;
    }
    let options: &[&str] = match kind {
        "pid" => &["--fork", "--pid", "--kill-child"],
        "network" => &["--net"],
        "mount" => &["--mount"],
        "user" => &["--user", "--map-root-user"],
        "cgroup" => &["--cgroup"],
        "time" => &["--fork", "--time", "--kill-child"],
        "ipc" => &["--ipc"],
        _ => &["--uts"],
    };
    let holder = Holder::new(options)?;
    let wanted = std::fs::read_link(holder.path(kind))?;
    let mut config = trial.config(&["probe"]);
    config["mounts"]
        .as_array_mut()
        .context("mounts")?
        .truncate(2);
    let path = holder.path(kind);
    let entry = json!({"type": kind, "path": path});
    let namespaces = &mut config["linux"]["namespaces"];
    *namespaces = match kind {
        "user" => json!([{"type": "mount"}, {"type": "pid"}, entry]),
        "mount" => json!([{"type": "pid"}, entry]),
        _ => json!([{"type": "mount"}, entry]),
    };
    let found = seen(trial, &config)?[file_of(kind)].clone();
    ensure!(
        found == wanted.display().to_string(),
        "{found}, not {}",
        wanted.display()
    );
    Ok(())
}

fn inherited(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["probe"]);
    config["linux"]["namespaces"] = json!([{"type": "mount"}]);
    let found = seen(trial, &config)?;
    for kind in ["pid", "net", "ipc", "uts", "user", "cgroup", "time"] {
        let own = std::fs::read_link(format!("/proc/thread-self/ns/{kind}"))?;
        ensure!(found[kind] == own.display().to_string(), "{kind}: {found}");
    }
    Ok(())
}

fn owners_kept(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["true"]);
    add_user_namespace(&mut config);
    trial.write(&config)?;
    trial.go(&["run", &trial.id])?.ok()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles/rootfs");
    for path in [
        root.join("bin/busybox"),
        root.join("etc"),
        trial.path("shared"),
    ] {
        let found = std::fs::metadata(&path)?;
        let owner = (found.uid(), found.gid());
        ensure!(owner == (0, 0), "{}: {owner:?}", path.display());
    }
    Ok(())
}

fn devices(trial: &Trial) -> Result<()> {
    let show = "stat -c '%n %F %t:%T %a %u:%g' /mnt/c /mnt/b /mnt/u /mnt/p /dev/x";
    let mut config = trial.config(&["sh", "-c", show]);
    config["linux"]["devices"] = json!([
        {"path": "/mnt/c", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7},
        {"path": "/mnt/b", "type": "b", "major": 7, "minor": 99, "fileMode": 0o600, "gid": 8},
        {"path": "/mnt/u", "type": "u", "major": 1, "minor": 5, "fileMode": 0o666},
        {"path": "/mnt/p", "type": "p", "fileMode": 0o622},
        {"path": "/dev/x", "type": "c", "major": 1, "minor": 9, "fileMode": 0o644}]);
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let wanted = "/mnt/c character special file 1:3 640 7:0
/mnt/b block special file 7:63 600 0:8
/mnt/u character special file 1:5 666 0:0
/mnt/p fifo 0:0 622 0:0
/dev/x character special file 1:9 644 0:0
";
    ensure!(done.out == wanted, "{done:?}");
    Ok(())
}

fn rules(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["probe", "open", "/dev/fuse"]);
    config["linux"]["devices"] =
        json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]);
    let allow = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    let deny = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"});
    let none = json!({"allow": false, "access": "rwm"});
    for (rules, errno) in [
        (json!([none, allow]), "0"),
        (json!([none, allow, deny]), "1"),
        (json!([none, deny, allow]), "0"),
        (json!([allow, none]), "1"),
    ] {
        config["linux"]["resources"]["devices"] = rules.clone();
        trial.write(&config)?;
        let done = trial.go(&["run", &trial.id])?.ok()?;
        ensure!(done.line() == errno, "{rules}: {done:?}");
    }
    Ok(())
}

/// The config that `spec` writes has them.
fn default_filesystems(trial: &Trial) -> Result<()> {
    trial.go(&["spec"])?.ok()?;
    let text = std::fs::read_to_string(trial.path("bundle/config.json"))?;
    let mut config: Value = serde_json::from_str(&text)?;
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = json!(["/bin/probe"]);
    config["root"] = trial.config(&[])["root"].clone();
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let facts: Value = serde_json::from_str(&done.out).context("the probe's output")?;
    for (place, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
    ] {
        ensure!(
            facts["mounts"][place]["type"] == kind,
            "{place}: {}",
            facts["mounts"]
        );
    }
    Ok(())
}

fn oom_score(trial: &Trial) -> Result<()> {
    let prefix = [
        "sh",
        "-c",
        "echo 123 >/proc/self/oom_score_adj; exec \"$@\"",
        "sh",
    ];
    trial.write(&trial.config(&["cat", "/proc/self/oom_score_adj"]))?;
    let mut command = trial.wrapped(&prefix, &["run", &trial.id]);
    finish(&mut command, "run", "")?.ok()?.says("123").map(drop)
}

fn environment(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["env"]);
    config["process"]["env"] = json!(["PATH=/bin", "A=1", "B=two words", "C="]);
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let mut lines: Vec<&str> = done
        .out
        .lines()
        .filter(|line| !line.starts_with("HOME="))
        .collect();
    lines.sort_unstable();
    ensure!(
        lines == ["A=1", "B=two words", "C=", "PATH=/bin"],
        "{done:?}"
    );
    Ok(())
}

/// What /proc/self/cgroup says in a container with this `cgroupsPath`.
fn place_of(trial: &Trial, path: &str) -> Result<String> {
    let mut config = trial.config(&["cat", "/proc/self/cgroup"]);
    config["linux"]["cgroupsPath"] = path.into();
    trial.write(&config)?;
    Ok(trial.go(&["run", &trial.id])?.ok()?.out)
}

fn same_place(trial: &Trial) -> Result<()> {
    let path = format!("/{}/{}", trial.parent(), trial.id);
    let (first, second) = (place_of(trial, &path)?, place_of(trial, &path)?);
    ensure!(
        first == second && first.contains(&format!(":{path}\n")),
        "{first}, then {second}"
    );
    Ok(())
}

fn relative_place(trial: &Trial) -> Result<()> {
    let path = format!("{}/{}", trial.parent(), trial.id);
    let (first, second) = (place_of(trial, &path)?, place_of(trial, &path)?);
    // Its parent is where we are, which need not be the top.
    for line in first.lines() {
        let place = line.rsplit(':').next().unwrap_or_default();
        for base in hierarchies()? {
            let own = base.join(place.trim_start_matches('/'));
            let _ = own.parent().map(std::fs::remove_dir);
        }
    }
    ensure!(
        first == second && first.contains(&format!("/{path}\n")),
        "{first}, then {second}"
    );
    Ok(())
}

/// Another container in the cgroup of this trial's, with the same state directory.
fn second(trial: &Trial, change: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut config = trial.config(&["sleep", "1000"]);
    config["linux"]["cgroupsPath"] = format!("/{}/{}", trial.parent(), trial.id).into();
    create(trial, &config)?;
    change()?;
    let other = format!("{}-other", trial.id);
    let child = trial.spawn(&mut trial.command(&["create", &other]));
    let made = child.and_then(|child| trial.finish(child));
    let _ = trial.go(&["delete", "--force", &other]);
    ensure!(made.is_err(), "it is accepted");
    Ok(())
}

fn occupied(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "1.1 only warns")?;
    trial.skip_for("crun", "it does not look")?;
    second(trial, || Ok(()))
}

fn frozen(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it does not look")?;
    second(trial, || {
        trial.go(&["start", &trial.id])?.ok()?;
        trial.go(&["pause", &trial.id])?.ok().map(drop)
    })
}

fn owner_of_v1(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sleep", "1000"]);
    config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    config["linux"]["cgroupsPath"] = format!("/{}/{}", trial.parent(), trial.id).into();
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    namespaces
        .context("namespaces")?
        .push(json!({"type": "cgroup"}));
    create(trial, &config)?;
    let mut found = 0;
    for base in hierarchies()?
        .iter()
        .filter(|base| !base.join("cgroup.controllers").exists())
    {
        let dir = base.join(trial.parent()).join(&trial.id);
        if let Ok(meta) = std::fs::metadata(&dir) {
            found += 1;
            ensure!(meta.uid() == 0, "{} is of {}", dir.display(), meta.uid());
        }
    }
    match found {
        0 => crate::frontend::skip("this machine has no cgroup v1"),
        _ => Ok(()),
    }
}

/// The owners of the container's cgroup on v2 and of some of its files, when its program is user 1000,
/// with this `linux.namespaces` entry and these options of the cgroup mount.
fn owners_on_v2(
    trial: &Trial,
    namespace: &Value,
    options: &[&str],
    mapped: bool,
) -> Result<String> {
    let all = hierarchies()?;
    let [base] = all.as_slice() else {
        return crate::frontend::skip("this machine has cgroup v1");
    };
    let mut config = trial.config(&["sleep", "1000"]);
    config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let place = format!("/{}/{}", trial.parent(), trial.id);
    config["linux"]["cgroupsPath"] = place.clone().into();
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    namespaces.context("namespaces")?.push(namespace.clone());
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": options});
    config["mounts"]
        .as_array_mut()
        .context("mounts")?
        .push(mount);
    if mapped {
        add_user_namespace(&mut config);
    }
    create(trial, &config)?;
    let dir = base.join(&place[1..]);
    let mut owners = Vec::new();
    for name in [
        "",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
        "cgroup.events",
        "cgroup.freeze",
        "pids.max",
    ] {
        if let Ok(meta) = std::fs::metadata(dir.join(name)) {
            owners.push(format!("{name}:{}", meta.uid()));
        }
    }
    trial.go(&["delete", "--force", &trial.id])?.ok()?;
    Ok(owners.join(" "))
}

fn owner_of_v2(trial: &Trial) -> Result<()> {
    for (mapped, uid) in [(false, 1000), (true, 101_000)] {
        let owners = owners_on_v2(trial, &json!({"type": "cgroup"}), &["rw", "nosuid"], mapped)?;
        let wanted = format!(
            ":{uid} cgroup.procs:{uid} cgroup.subtree_control:{uid} cgroup.threads:{uid} \
             cgroup.events:0 cgroup.freeze:0"
        );
        ensure!(owners.starts_with(&wanted), "{owners}");
    }
    Ok(())
}

fn owner_stays(trial: &Trial) -> Result<()> {
    let own = json!({"type": "cgroup"});
    let joined = json!({"type": "cgroup", "path": "/proc/self/ns/cgroup"});
    for (namespace, options) in [(&own, &["ro"][..]), (&joined, &["rw"])] {
        let owners = owners_on_v2(trial, namespace, options, false)?;
        let wanted = ":0 cgroup.procs:0 cgroup.subtree_control:0 cgroup.threads:0";
        ensure!(
            owners.starts_with(wanted) && !owners.contains("1000"),
            "{namespace} {options:?}: {owners}"
        );
    }
    Ok(())
}

/// `checkBeforeUpdate`: on v1 the kernel refuses it by itself.
fn limit_below_use(trial: &Trial) -> Result<()> {
    let script = "head -c 30000000 /dev/zero >/run/used; echo ready >/mnt/ready; exec sleep 1000";
    let mut config = trial.config(&["sh", "-c", script]);
    config["linux"]["resources"]["memory"] =
        json!({"limit": 67_108_864, "checkBeforeUpdate": true});
    create(trial, &config)?;
    trial.go(&["start", &trial.id])?.ok()?;
    let ready = trial.path("shared/ready");
    crate::frontend::wait_for("the memory is used", || Ok(ready.exists().then_some(())))?;
    let done = trial.go(&["update", "--memory", "8388608", &trial.id])?;
    ensure!(done.code != 0, "it is accepted: {done:?}");
    let pid: i32 = trial.state()?["pid"].to_string().parse()?;
    let limit =
        crate::frontend::world::cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")?;
    ensure!(
        limit.is_none_or(|limit| limit == "67108864"),
        "the limit has changed"
    );
    Ok(())
}
