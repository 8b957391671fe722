//! What those who come from runc and crun count on, beyond the letter of the specification.

use super::{Row, Trial, add_user_namespace};
use crate::frontend::skip;
use anyhow::{Context, Result, ensure};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub(super) const ROWS: &[Row] = &[
    (
        "run, exec, hooks: a caller that ignores SIGCHLD",
        without_sigchld,
    ),
    ("mounts: a read-only /dev has its devices", read_only_dev),
    (
        "mounts: a read-only tmpfs takes mounts first",
        read_only_tmpfs,
    ),
    (
        "mounts: a read-only sysfs is nobody else's affair",
        read_only_sysfs,
    ),
    (
        "mounts: a read-only sysfs where the machine's is one, in a user namespace",
        locked_sysfs,
    ),
    (
        "mounts: a tmpfs has the mode of what it covers",
        mode_of_tmpfs,
    ),
    ("mounts: tmpcopyup copies every kind of file", copied_up),
    ("mounts: idmap=uids=…;gids=…", mapped_by_option),
    (
        "exec: --process leaves open what the container says",
        left_open,
    ),
    ("exec: the memory policy is the container's", memory_policy),
    ("run, exec: an empty HOME is none", empty_home),
    ("annotations: the caller's groups are kept", kept_groups),
    ("devices: a tunnel may be opened", tunnel),
];

fn output(trial: &Trial, config: &Value) -> Result<String> {
    trial.write(config)?;
    Ok(trial.go(&["run", &trial.id])?.ok()?.out)
}

fn tmpfs(place: &str, options: &[&str]) -> Value {
    json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// Starts what goes on until the row ends.
fn sleeping(trial: &Trial, config: &mut Value) -> Result<()> {
    config["process"]["args"] = json!(["sleep", "1000"]);
    trial.write(config)?;
    let child = trial.spawn(&mut trial.command(&["run", "--detach", &trial.id]))?;
    trial.finish(child)
}

fn without_sigchld(trial: &Trial) -> Result<()> {
    let ignoring = ["bash", "-c", "trap '' CHLD; exec \"$@\"", "bash"];
    let mut config = trial.config(&["sh", "-c", "exit 5"]);
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/true"}]});
    trial.write(&config)?;
    let go = |args: &[&str]| {
        let mut command = trial.wrapped(&ignoring, args);
        crate::frontend::finish(&mut command, &args.join(" "), "")
    };
    go(&["run", &trial.id])?.code(5)?;
    sleeping(trial, &mut config)?;
    go(&["exec", &trial.id, "sh", "-c", "exit 6"])?
        .code(6)
        .map(drop)
}

fn read_only_dev(trial: &Trial) -> Result<()> {
    let script = "echo x >/dev/null && ls -d /dev/pts /dev/fd && ! touch /dev/new 2>/dev/null";
    let mut config = trial.config(&["sh", "-c", script]);
    config["mounts"][1]["options"] = json!(["mode=755", "ro"]);
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts"});
    config["mounts"]
        .as_array_mut()
        .context("mounts")?
        .insert(2, pts);
    let seen = output(trial, &config)?;
    ensure!(seen == "/dev/fd\n/dev/pts\n", "{seen:?}");
    // The terminal comes last of all.
    config["process"]["args"] = json!(["sh", "-c", "tty && ! touch /dev/new 2>/dev/null"]);
    config["process"]["terminal"] = true.into();
    trial.write(&config)?;
    let run = format!(
        "{} --root {} {} run {}",
        trial.runtime.display(),
        trial.path("root").display(),
        if trial.systemd {
            "--systemd-cgroup"
        } else {
            ""
        },
        trial.id
    );
    let mut command = std::process::Command::new("script");
    command
        .args(["-qec", &run, "/dev/null"])
        .current_dir(trial.path("bundle"))
        .stdin(std::process::Stdio::null());
    let done = crate::frontend::finish(&mut command, "run at a terminal", "")?;
    let done = done.ok()?;
    ensure!(done.out.contains("/dev/pts/0"), "{done:?}");
    Ok(())
}

fn read_only_tmpfs(trial: &Trial) -> Result<()> {
    std::fs::write(trial.path("shared/file"), "content\n")?;
    let script = "cat /run/a/b/file; touch /run/c/new && ! touch /run/new 2>/dev/null && \
                  ! touch /run/d/new 2>/dev/null && touch /run/e/new && \
                  ! touch /run/f/new 2>/dev/null";
    let mut config = trial.config(&["sh", "-c", script]);
    let shared = config["mounts"][3]["source"].clone();
    config["mounts"][2] = tmpfs("/run", &["ro"]);
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.extend([
        json!({"destination": "/run/a/b", "type": "bind", "source": shared, "options": ["bind"]}),
        tmpfs("/run/c", &[]),
        tmpfs("/run/d", &["rro"]),
        // What is said later counts, as far as it says something of that.
        tmpfs("/run/e", &["ro"]),
        tmpfs("/run/e", &["remount", "rw"]),
        tmpfs("/run/f", &["ro"]),
        tmpfs("/run/f", &["remount", "bind", "nosuid"]),
    ]);
    let seen = output(trial, &config)?;
    ensure!(seen == "content\n", "{seen:?}");
    Ok(())
}

/// Whoever mounts a sysfs for the same network namespace has the same file system.
fn read_only_sysfs(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it makes the file system read-only")?;
    let sysfs = |options: &[&str]| json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options});
    let script = "echo 5000 > /mnt/class/net/lo/tx_queue_len && \
                  ! echo 6000 2>/dev/null > /sys/class/net/lo/tx_queue_len && \
                  cat /sys/class/net/lo/tx_queue_len";
    let mut config = trial.config(&["sh", "-c", script]);
    let admin = json!(["CAP_NET_ADMIN"]);
    config["process"]["capabilities"] =
        json!({"bounding": admin, "permitted": admin, "effective": admin});
    let mut writable = sysfs(&[]);
    writable["destination"] = "/mnt".into();
    config["mounts"][3] = sysfs(&["ro"]);
    config["mounts"]
        .as_array_mut()
        .context("mounts")?
        .push(writable);
    let seen = output(trial, &config)?;
    ensure!(seen == "5000\n", "{seen:?}");
    Ok(())
}

/// What is read-only for good around a user namespace, the kernel lets it mount only so.
fn locked_sysfs(trial: &Trial) -> Result<()> {
    for peer in ["runc", "crun"] {
        trial.skip_for(
            peer,
            "it has no --cgroup-manager, or makes cgroups all the same",
        )?;
    }
    if !nix::unistd::geteuid().is_root() {
        return skip("it makes /sys read-only");
    }
    let script = "mount -o remount,bind,ro /sys && exec unshare -U --map-root-user -m \"$@\"";
    let around = ["unshare", "-m", "sh", "-c", script, "sh"];
    let mut config = trial.config(&["sh", "-c", "! mkdir /sys/new 2>/dev/null && echo mounted"]);
    add_user_namespace(&mut config);
    let root = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    config["linux"]["uidMappings"] = root.clone();
    config["linux"]["gidMappings"] = root;
    config["mounts"][3] = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"]});
    trial.write(&config)?;
    let args = ["--cgroup-manager", "disabled", "run", &trial.id];
    let done = crate::frontend::finish(&mut trial.wrapped(&around, &args), "run", "")?;
    done.ok()?.says("mounted").map(drop)
}

/// A root filesystem of the row's own, with what the usual one has in bin.
fn own_root(trial: &Trial, config: &mut Value) -> Result<PathBuf> {
    let root = trial.path("rootfs");
    let usual = PathBuf::from(config["root"]["path"].as_str().context("root")?);
    for name in ["bin", "proc", "dev", "run", "mnt"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.push(
        json!({"destination": "/bin", "type": "bind", "source": usual.join("bin"),
        "options": ["bind", "ro"]}),
    );
    config["root"] = json!({"path": root});
    Ok(root)
}

fn mode_of_tmpfs(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it says 1777")?;
    let script = "stat -c %a /closed /new /told";
    let mut config = trial.config(&["sh", "-c", script]);
    let root = own_root(trial, &mut config)?;
    for name in ["closed", "told"] {
        std::fs::create_dir(root.join(name))?;
        std::fs::set_permissions(root.join(name), Permissions::from_mode(0o2750))?;
    }
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.extend([
        tmpfs("/closed", &["nosuid"]),
        tmpfs("/new", &[]),
        tmpfs("/told", &["mode=711"]),
    ]);
    // Once more: the first time has left a directory where there was none.
    for _ in 0..2 {
        let seen = output(trial, &config)?;
        ensure!(seen == "2750\n1777\n711\n", "{seen:?}");
    }
    Ok(())
}

fn copied_up(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it copies files only")?;
    let script = "stat -c '%F %a %u:%g' /full/fifo /full/socket /full/null /full";
    let mut config = trial.config(&["sh", "-c", script]);
    let root = own_root(trial, &mut config)?;
    let full = root.join("full");
    std::fs::create_dir(&full)?;
    std::fs::set_permissions(&full, Permissions::from_mode(0o1711))?;
    mkfifo(&full.join("fifo"), Mode::from_bits_truncate(0o600))?;
    let make = |name: &str, kind, number| {
        mknod(
            &full.join(name),
            kind,
            Mode::from_bits_truncate(0o600),
            number,
        )
    };
    make("socket", SFlag::S_IFSOCK, 0)?;
    make("null", SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3))?;
    config["mounts"].as_array_mut().context("mounts")?.push(
        json!({"destination": "/full", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "uid=3", "gid=4"]}),
    );
    let seen = output(trial, &config)?;
    ensure!(
        seen == "fifo 600 0:0\nsocket 600 0:0\ncharacter special file 600 0:0\ndirectory 1711 3:4\n",
        "{seen:?}"
    );
    Ok(())
}

fn mapped_by_option(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it has no such option")?;
    let mut config = trial.config(&["stat", "-c", "%u:%g", "/mnt/file"]);
    std::fs::write(trial.path("shared/file"), "")?;
    config["mounts"][3]["options"] = json!(["bind", "idmap=uids=0-1000-1;gids=0-1001-1"]);
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?;
    if done.err.contains("can map no ids on that file system") {
        return skip("the tests' directory is on a file system whose ids cannot be mapped");
    }
    done.ok()?.says("1000:1001").map(drop)
}

fn left_open(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sleep", "1000"]);
    let kill = json!(["CAP_KILL"]);
    config["process"]["capabilities"] =
        json!({"bounding": kill, "permitted": kill, "effective": kill});
    config["process"]["oomScoreAdj"] = 77.into();
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 33, "hard": 44}]);
    sleeping(trial, &mut config)?;
    let script = "grep CapEff /proc/self/status; cat /proc/self/oom_score_adj; \
                  ulimit -Sn; ulimit -Hn";
    let process = json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0}});
    let file = trial.path("process.json");
    std::fs::write(&file, process.to_string())?;
    let file = file.display().to_string();
    let done = trial.go(&["exec", "--process", &file, &trial.id])?.ok()?;
    ensure!(
        done.out == "CapEff:\t0000000000000020\n77\n33\n44\n",
        "{done:?}"
    );
    Ok(())
}

fn memory_policy(trial: &Trial) -> Result<()> {
    for peer in ["runc", "crun"] {
        trial.skip_for(peer, "Debian's does not know it yet")?;
    }
    let mut config = trial.config(&[]);
    config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0",
        "flags": ["MPOL_F_STATIC_NODES"]});
    sleeping(trial, &mut config)?;
    let args = ["exec", &trial.id, "head", "-n1", "/proc/self/numa_maps"];
    let done = trial.go(&args)?;
    if done.err.contains("No such file") {
        return skip("this kernel has no numa_maps");
    }
    let done = done.ok()?;
    ensure!(done.out.contains(" bind=static:0 "), "{done:?}");
    Ok(())
}

fn empty_home(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sh", "-c", "echo $HOME"]);
    config["process"]["env"] = json!(["PATH=/bin", "HOME="]);
    let seen = output(trial, &config)?;
    ensure!(!seen.trim().is_empty(), "it is empty");
    Ok(())
}

fn kept_groups(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it is crun's annotation")?;
    let grouped = ["setpriv", "--groups", "33,44"];
    let groups = |kept: &str, user_namespace: bool| -> Result<Vec<String>> {
        let mut config = trial.config(&["grep", "Groups", "/proc/self/status"]);
        config["annotations"] = json!({"run.oci.keep_original_groups": kept});
        if user_namespace {
            add_user_namespace(&mut config);
        }
        trial.write(&config)?;
        let mut command = trial.wrapped(&grouped, &["run", &trial.id]);
        let done = crate::frontend::finish(&mut command, "run", "")?.ok()?;
        Ok(done
            .out
            .split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect())
    };
    ensure!(groups("1", false)? == ["33", "44"]);
    ensure!(groups("0", false)?.is_empty());
    // They are nobody's in there, but they count.
    ensure!(groups("1", true)? == ["65534", "65534"]);
    Ok(())
}

fn tunnel(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "not in all of its versions")?;
    let mut config = trial.config(&["sh", "-c", "mknod /run/tun c 10 200; : </run/tun"]);
    let mknod = json!(["CAP_MKNOD", "CAP_NET_ADMIN"]);
    config["process"]["capabilities"] =
        json!({"bounding": mknod, "permitted": mknod, "effective": mknod});
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?;
    // A kernel without tunnels.
    let is_none = done.err.contains("No such device");
    ensure!(done.code == 0 || is_none, "{done:?}");
    Ok(())
}
