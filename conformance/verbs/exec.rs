//! `exec`, `ps`, `list` and `kill` on a container that runs.

use super::life::create;
use super::{Row, Trial};
use crate::frontend::kit::skip;
use crate::frontend::{finish, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;

pub(super) const ROWS: &[Row] = &[
    ("exec: groups are added to those of config.json", groups),
    ("exec: a failure of its own is 255", failure),
    ("exec --cgroup: only below the container's cgroup", cgroup),
    ("exec: where systemd has moved the container to", moved),
    ("exec --ignore-paused: it waits for resume", paused),
    ("exec --pidfd-socket: the program's pidfd arrives", pidfd),
    ("exec: execCPUAffinity is applied", affinity),
    (
        "exec: who may trace it finds nothing of the host in it",
        watched,
    ),
    ("exec and run: the standard streams are the user's", streams),
    ("exec: a lost capability is told of", lost_capability),
    ("exec: one place below pids.max is enough", last_place),
    (
        "exec: a terminal where the root is read-only",
        terminal_on_read_only,
    ),
    ("spec --file: config.json under another name", spec_file),
    ("ps and list: as engines read them", tables),
    (
        "kill --all: every process, with and without a pid namespace",
        all,
    ),
    (
        "run: sockets of systemd's come first, then --preserve-fds",
        descriptors,
    ),
    (
        "run and exec --preserve-fds: of those numbers, what the caller has open, and nothing else",
        open_ones,
    ),
    (
        "run --no-new-keyring: the caller's session keyring stays",
        keyring,
    ),
];

/// Starts a container that waits for its end.
fn waiting(trial: &Trial, change: impl FnOnce(&mut Value)) -> Result<()> {
    let mut config = trial.config(&["sh", "-c", "sleep 1000 & exec sleep 1000"]);
    change(&mut config);
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["run", "--detach", &trial.id]))?;
    trial.finish(child)
}

fn groups(trial: &Trial) -> Result<()> {
    waiting(trial, |config| {
        config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7]});
    })?;
    let exec = ["exec", "-g", "10", "-g", "20", "-u", "1000:1001", &trial.id];
    let done = trial.go(&[&exec[..], &["id"]].concat())?.ok()?;
    ensure!(done.out.contains("gid=1001 groups=7,10,20"), "{done:?}");
    Ok(())
}

fn failure(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "it says 1")?;
    trial.go(&["exec", &trial.id, "true"])?.code(255)?;
    waiting(trial, |_| {})?;
    trial
        .go(&["exec", "--cwd", "x", &trial.id, "true"])?
        .code(255)?;
    trial
        .go(&["exec", &trial.id, "sh", "-c", "exit 1"])?
        .code(1)?;
    trial
        .go(&["exec", &trial.id, "sh", "-c", "kill -9 $$"])?
        .code(137)?;
    Ok(())
}

fn cgroup(trial: &Trial) -> Result<()> {
    waiting(trial, |_| {})?;
    let pid = trial.state()?["pid"].to_string();
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let Some(path) = text.lines().find_map(|line| line.split_once(":pids:")) else {
        return crate::frontend::skip("this machine has no cgroup v1 controller pids");
    };
    let path = path.1.trim_start_matches('/');
    let sub = std::path::Path::new("/sys/fs/cgroup/pids")
        .join(path)
        .join("sub");
    std::fs::create_dir(&sub).with_context(|| format!("{}", sub.display()))?;
    let show = ["cat", "/proc/self/cgroup"];
    let exec = ["exec", "--cgroup", "pids:sub", &trial.id];
    let done = trial.go(&[&exec[..], &show].concat())?.ok()?;
    let wanted = format!(":pids:/{path}/sub");
    ensure!(
        done.out.lines().any(|line| line.ends_with(&wanted)),
        "{done:?}"
    );
    for bad in ["pids:../..", "pids:none", "nosuch:sub"] {
        let exec = ["exec", "--cgroup", bad, &trial.id];
        let done = trial.go(&[&exec[..], &show].concat())?;
        ensure!(done.code != 0 && done.out.is_empty(), "{bad}: {done:?}");
    }
    Ok(())
}

/// What systemd does on v1 to the processes of a unit that does not use a controller, here by hand.
fn moved(trial: &Trial) -> Result<()> {
    for peer in ["runc", "crun"] {
        trial.skip_for(peer, "where its exec goes then is its own affair")?;
    }
    let (blkio, devices) = (trial.v1_hierarchy("blkio")?, trial.v1_hierarchy("devices")?);
    create(trial, &trial.config(&["sleep", "1000"]))?;
    trial.go(&["start", &trial.id])?.ok()?;
    let pid = trial.state()?["pid"].to_string();
    let place = |text: &str| {
        let line = text.lines().find(|line| line.contains(":blkio:"));
        line.and_then(|line| Some(line.split_once(":/")?.1.to_owned()))
    };
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let own = place(&own).context("no place in blkio")?;
    if !own.contains(&trial.id) {
        return skip("systemd has moved it already");
    }
    let own = blkio.join(own);
    let parent = own.parent().context("it has no cgroup of its own")?;
    std::fs::write(parent.join("cgroup.procs"), &pid).context("move it")?;
    match std::fs::remove_dir(&own) {
        // systemd was there before.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.context("remove its directory")?,
    }
    let seen = trial.go(&["exec", &trial.id, "cat", "/proc/self/cgroup"])?;
    let seen = seen.ok()?;
    let place = place(&seen.out).context("no place in blkio")?;
    ensure!(blkio.join(&place) == parent, "{seen:?}");
    ensure!(seen.err.contains("without its limits"), "{seen:?}");
    // Not out of the rules for its devices.
    let before = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let guarded = before
        .lines()
        .find_map(|line| Some(line.split_once(":devices:")?.1));
    let guarded = guarded.context("no place in devices")?;
    std::fs::write(devices.join("cgroup.procs"), &pid).context("move it")?;
    let own = devices.join(guarded.trim_start_matches('/'));
    std::fs::remove_dir(&own).context("remove its directory")?;
    let done = trial.go(&["exec", &trial.id, "true"])?;
    ensure!(
        done.code != 0 && done.err.contains("rules for its devices"),
        "{done:?}"
    );
    Ok(())
}

fn paused(trial: &Trial) -> Result<()> {
    waiting(trial, |_| {})?;
    trial.go(&["pause", &trial.id])?.ok()?;
    let done = trial.go(&["exec", &trial.id, "true"])?;
    ensure!(done.code != 0, "it is paused: {done:?}");
    let args = ["exec", "--ignore-paused", &trial.id, "echo", "after"];
    let child = trial.spawn(&mut trial.command(&args))?;
    trial.go(&["resume", &trial.id])?.ok()?;
    trial.finish(child)?;
    ensure!(trial.said() == "after\n", "{}", trial.said());
    Ok(())
}

/// With CAP_SYS_PTRACE a container sees through every process that it can name (CVE-2016-9962).
fn watched(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["probe", "watch", "/mnt/end"]);
    let all = json!(["CAP_SYS_PTRACE"]);
    config["process"]["capabilities"] =
        json!({"bounding": all, "effective": all, "permitted": all});
    trial.write(&config)?;
    let child = trial.spawn(&mut trial.command(&["run", &trial.id]))?;
    let running = || {
        Ok(trial
            .state()
            .is_ok_and(|state| state["status"] == "running")
            .then_some(()))
    };
    wait_for("the container runs", running)?;
    for _ in 0..40 {
        trial.go(&["exec", &trial.id, "true"])?.ok()?;
    }
    std::fs::write(trial.path("shared/end"), "")?;
    trial.finish(child)?;
    ensure!(trial.said() == "{}\n", "{}", trial.said());
    Ok(())
}

fn lost_capability(trial: &Trial) -> Result<()> {
    waiting(trial, |_| {})?;
    let args = ["exec", "--cap", "CAP_KILL", &trial.id, "true"];
    let dropped = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill"];
    let mut command = trial.wrapped(&dropped, &args);
    let done = finish(&mut command, "exec", "")?.ok()?;
    ensure!(
        done.err.contains("warning") && done.err.contains("CAP_KILL"),
        "{done:?}"
    );
    Ok(())
}

fn last_place(trial: &Trial) -> Result<()> {
    let mut config = trial.config(&["sleep", "1000"]);
    config["linux"]["resources"] = json!({"pids": {"limit": 2}});
    super::life::create(trial, &config)?;
    trial.go(&["start", &trial.id])?.ok()?;
    for _ in 0..5 {
        trial.go(&["exec", &trial.id, "true"])?.ok()?;
    }
    Ok(())
}

fn terminal_on_read_only(trial: &Trial) -> Result<()> {
    waiting(trial, |config| {
        config["linux"]["readonlyPaths"] = json!(["/"]);
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.push(
                json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"]}),
            );
        }
    })?;
    let (program, root) = (trial.runtime.display(), trial.path("root"));
    let line = format!(
        "{program} --root {} exec -t {} tty",
        root.display(),
        trial.id
    );
    let mut command = std::process::Command::new("script");
    let done = finish(command.args(["-qec", &line, "/dev/null"]), "exec -t", "")?.ok()?;
    ensure!(done.out.contains("/dev/pts/0"), "{done:?}");
    Ok(())
}

fn streams(trial: &Trial) -> Result<()> {
    let script = "echo out >/dev/stdout; echo err >/dev/stderr";
    let mut config = trial.config(&["sh", "-c", script]);
    config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    trial.write(&config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    ensure!(
        (done.out.trim(), done.err.trim()) == ("out", "err"),
        "{done:?}"
    );
    waiting(trial, |_| {})?;
    let done = trial
        .go(&["exec", "--user", "1000:1000", &trial.id, "sh", "-c", script])?
        .ok()?;
    ensure!(
        (done.out.trim(), done.err.trim()) == ("out", "err"),
        "{done:?}"
    );
    // In a user namespace the pipe is not its root's to give.
    trial.go(&["delete", "--force", &trial.id])?.ok()?;
    waiting(trial, super::add_user_namespace)?;
    for user in ["0", "1000"] {
        let args = ["exec", "--user", user, &trial.id, "sh", "-c", script];
        let done = trial.go(&args)?.ok()?;
        ensure!(
            (done.out.trim(), done.err.trim()) == ("out", "err"),
            "{done:?}"
        );
    }
    // A file, a fifo and a terminal of the host keep their owners.
    let (file, fifo) = (trial.path("file"), trial.path("fifo"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let pty = nix::pty::openpty(None, None)?;
    let both = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&fifo)?;
    for output in [
        std::fs::File::create(&file)?,
        both,
        pty.slave.try_clone()?.into(),
    ] {
        let mut command = trial.command(&["exec", "--user", "1000", &trial.id, "echo", "out"]);
        let status = command.stdout(output.try_clone()?).status()?;
        let owner = std::os::unix::fs::MetadataExt::uid(&output.metadata()?);
        ensure!(status.success() && owner == 0, "{status}, owner {owner}");
    }
    Ok(())
}

fn pidfd(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "1.1 has no such option")?;
    trial.skip_for("crun", "it has no such option")?;
    waiting(trial, |_| {})?;
    let path = trial.path("pidfd.sock");
    let listener = UnixListener::bind(&path)?;
    let (socket, file) = (
        path.display().to_string(),
        trial.path("pid").display().to_string(),
    );
    let options = [
        "exec",
        "--detach",
        "--pidfd-socket",
        &socket,
        "--pid-file",
        &file,
    ];
    let args = [&options[..], &[&trial.id, "sleep", "1000"]].concat();
    let child = trial.spawn(&mut trial.command(&args))?;
    let (stream, _) = listener.accept()?;
    let fd = containers::linux::console::receive_fd(&stream)?;
    trial.finish(child)?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let pid = std::fs::read_to_string(&file)?;
    ensure!(
        info.lines().any(|line| line == format!("Pid:\t{pid}")),
        "{info}, not {pid}"
    );
    Ok(())
}

fn affinity(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it does not know it yet")?;
    trial.skip_for("crun", "it does not know it yet")?;
    waiting(trial, |_| {})?;
    let path = trial.path("process.json");
    for (last, seen) in [("0", "0"), ("1", "1"), ("", "0-1")] {
        let process = json!({
            "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/",
            "env": ["PATH=/bin"], "execCPUAffinity": {"initial": "0-1", "final": last},
        });
        std::fs::write(&path, process.to_string())?;
        let file = path.display().to_string();
        let done = trial.go(&["exec", "--process", &file, &trial.id])?;
        if done.err.contains("EINVAL") {
            return crate::frontend::skip("this machine has one CPU");
        }
        ensure!(
            done.line() == format!("Cpus_allowed_list:\t{seen}"),
            "{done:?}"
        );
    }
    Ok(())
}

fn tables(trial: &Trial) -> Result<()> {
    waiting(trial, |config| config["annotations"] = json!({"a": "b"}))?;
    let pid = trial.state()?["pid"].clone();
    // The shell may not have come to its child yet.
    let pids = wait_for("two processes", || {
        let done = trial.go(&["ps", "--format", "json", &trial.id])?.ok()?;
        let pids: Vec<i64> = serde_json::from_str(&done.out)?;
        Ok((pids.len() == 2).then_some(pids))
    })?;
    ensure!(pids.iter().any(|one| pid == *one), "{pids:?}");
    for options in [&[][..], &["-f"], &["-o", "pid,comm"], &["-ef"]] {
        let done = trial.go(&[&["ps", &trial.id], options].concat())?.ok()?;
        ensure!(done.out.lines().count() == 3, "{options:?}: {done:?}");
    }
    trial.go(&["list", "-q"])?.says(&trial.id)?;
    let done = trial.go(&["list", "-f", "json"])?.ok()?;
    let list: Value = serde_json::from_str(&done.out)?;
    let one = &list[0];
    for (key, wanted) in [
        ("id", json!(trial.id)),
        ("pid", pid),
        ("status", json!("running")),
        ("bundle", json!(trial.path("bundle"))),
        ("owner", json!("root")),
        ("annotations", json!({"a": "b"})),
    ] {
        ensure!(one[key] == wanted, "{key}: {done:?}");
    }
    ensure!(
        one["created"]
            .as_str()
            .is_some_and(|time| time.starts_with("20")),
        "{done:?}"
    );
    Ok(())
}

fn all(trial: &Trial) -> Result<()> {
    for own in [true, false] {
        waiting(trial, |config| {
            if !own && let Some(list) = config["linux"]["namespaces"].as_array_mut() {
                list.retain(|namespace| namespace["type"] != "pid");
            }
        })?;
        trial.go(&["kill", "--all", &trial.id, "9"])?.ok()?;
        crate::frontend::wait_for("nothing is left", || {
            let done = trial.go(&["ps", "-f", "json", &trial.id])?.ok()?;
            Ok(matches!(done.line(), "[]" | "null").then_some(()))
        })?;
        crate::frontend::wait_for("it is stopped", || {
            Ok((trial.state()?["status"] == "stopped").then_some(()))
        })?;
        trial.go(&["kill", "--all", &trial.id, "9"])?.ok()?;
        trial.go(&["delete", &trial.id])?.ok()?;
    }
    Ok(())
}

fn spec_file(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it has no such option")?;
    trial.go(&["spec", "--file", "other.json"])?.ok()?;
    let text = std::fs::read(trial.path("bundle/other.json"))?;
    let config: Value = serde_json::from_slice(&text)?;
    ensure!(config["ociVersion"].is_string(), "{config}");
    ensure!(
        !trial.path("bundle/config.json").exists(),
        "both were written"
    );
    Ok(())
}

fn keyring(trial: &Trial) -> Result<()> {
    trial.write(&trial.config(&["cat", "/proc/keys"]))?;
    let name = format!("_ses.{}:", trial.id);
    let kept = trial.go(&["run", "--no-new-keyring", &trial.id])?.ok()?;
    ensure!(!kept.out.contains(&name), "{kept:?}");
    let new = trial.go(&["run", &trial.id])?.ok()?;
    ensure!(new.out.contains(&name), "{new:?}");
    Ok(())
}

fn descriptors(trial: &Trial) -> Result<()> {
    for (name, text) in [
        ("a", "listened\n"),
        ("b", "preserved\n"),
        ("c", "neither\n"),
    ] {
        std::fs::write(trial.path(name), text)?;
    }
    let show = "env | grep LISTEN_ | sort; cat <&3; cat <&4; [ -e /proc/self/fd/5 ] || echo end";
    trial.write(&trial.config(&["sh", "-c", show]))?;
    let open = "exec 3<../a 4<../b 5<../c; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let prefix = ["bash", "-c", open, "bash"];
    let args = ["run", "--preserve-fds", "1", &trial.id];
    let done = finish(&mut trial.wrapped(&prefix, &args), "run", "")?.ok()?;
    let wanted = "LISTEN_FDS=1\nLISTEN_PID=1\nlistened\npreserved\nend\n";
    ensure!(done.out == wanted, "{done:?}");
    Ok(())
}

fn open_ones(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "all of them have to be open")?;
    std::fs::write(trial.path("a"), "passed\n")?;
    let show = "cat <&5; for fd in /proc/self/fd/*; do [ ! -e $fd ] || echo ${fd##*/}; done";
    // The suite's caller may have left others open.
    let open =
        "for fd in /proc/self/fd/*; do [ ${fd##*/} -lt 3 ] || eval exec \"${fd##*/}>&-\"; done
        exec 5<../a; exec \"$@\"";
    let prefix = ["bash", "-c", open, "bash"];
    let shown = |args: &[&str]| -> Result<()> {
        let done = finish(&mut trial.wrapped(&prefix, args), args[0], "")?.ok()?;
        ensure!(done.out == "passed\n0\n1\n2\n5\n", "{done:?}");
        ensure!(done.err.is_empty(), "{done:?}");
        Ok(())
    };
    trial.write(&trial.config(&["sh", "-c", show]))?;
    shown(&["run", "--preserve-fds", "100", &trial.id])?;
    waiting(trial, |_| {})?;
    shown(&["exec", "--preserve-fds", "100", &trial.id, "sh", "-c", show])
}
