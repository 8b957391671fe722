//! `checkpoint` and `restore`. Those that need a criu that works here are for the VM of scripts/vm;
//! with programs in criu's place the others show what becomes of a container when it fails.

use super::{Row, Trial, give_terminal};
use crate::frontend::{Done, finish, pty, skip, wait_for};
use crate::place::write_program;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub(super) const ROWS: &[Row] = &[
    ("checkpoint: what cannot be is refused", refused),
    (
        "checkpoint: a criu that fails leaves the container as it was",
        failing_dump,
    ),
    (
        "checkpoint: killed, it leaves the container as it was",
        killed_dump,
    ),
    ("restore: what cannot be is refused", not_restored),
    ("restore: a criu that fails leaves nothing", failing_restore),
    ("restore: killed, it is cleared away", killed_restore),
    (
        "restore: a program goes on where it was, in another container",
        goes_on,
    ),
    (
        "restore: in the foreground, with a terminal, for the exit code",
        terminal,
    ),
    (
        "restore: a network that a hook has made is made again",
        network_of_a_hook,
    ),
    ("checkpoint --pre-dump, then --leave-running", iterated),
    ("checkpoint: criu's own words are the error", told),
    (
        "restore: killed in the middle, the next one succeeds",
        killed_in_the_middle,
    ),
];

/// Says what it was told before, once it is asked.
const PROGRAM: &str = "x=$(cat /mnt/secret); echo up >/mnt/up
while [ ! -e /mnt/go ]; do sleep 0.1; done
echo $x >/mnt/said; exit 7";

impl Trial {
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Starts a container of [`PROGRAM`], and waits until it has heard the secret, which is then gone.
    fn start_program(&self, config: &Value) -> Result<()> {
        fs::write(self.path("shared/secret"), "kept")?;
        self.write(config)?;
        self.finish(self.spawn(&mut self.command(&["run", "--detach", &self.id]))?)?;
        wait_for("the program is up", || {
            Ok((self.text("shared/up") == "up\n").then_some(()))
        })?;
        fs::remove_file(self.path("shared/secret")).context("remove the secret")
    }

    /// Asks it. What it says it can know from before only.
    fn ask_program(&self) -> Result<()> {
        fs::write(self.path("shared/go"), "")?;
        wait_for("the program answers", || {
            Ok((self.text("shared/said") == "kept\n").then_some(()))
        })
    }

    /// `restore --detach`, with streams that may be kept.
    fn restore(&self, images: &str) -> Result<()> {
        let pid_file = self.path("pid");
        let args = ["restore", "--detach", "--image-path", images, "--pid-file"];
        let mut command = self.command(&args);
        command.arg(pid_file).arg(&self.id);
        self.finish(self.spawn(&mut command)?)
    }

    /// A program in criu's place.
    fn fake(&self, script: &str) -> Result<String> {
        let path = self.path("fake-criu");
        write_program(&path, &format!("#!/bin/sh\n{script}\n"))?;
        Ok(path.display().to_string())
    }

    /// A container that sleeps.
    fn start_sleep(&self) -> Result<()> {
        self.write(&self.config(&["sleep", "1000"]))?;
        self.finish(self.spawn(&mut self.command(&["run", "--detach", &self.id]))?)
    }

    fn is(&self, status: &str) -> Result<()> {
        let state = self.state()?;
        ensure!(state["status"] == status, "{state}");
        Ok(())
    }

    /// What has the form of a checkpoint, and is none.
    fn images_of_nothing(&self) -> Result<()> {
        fs::create_dir(self.path("bundle/img"))?;
        fs::write(self.path("bundle/img/inventory.img"), "").context("write an image")
    }

    fn ours_only(&self) -> Result<()> {
        self.skip_for("runc", "its words and options are others")?;
        self.skip_for("crun", "its words and options are others")
    }
}

trait Refused {
    /// An error that holds all these words.
    fn refused(self, words: &[&str]) -> Result<()>;
}

impl Refused for Done {
    fn refused(self, words: &[&str]) -> Result<()> {
        let missing = words.iter().find(|word| !self.err.contains(**word));
        ensure!(self.code == 1 && missing.is_none(), "{missing:?}: {self:?}");
        Ok(())
    }
}

/// Ends the row as skipped where criu cannot do its work.
fn needs_criu(trial: &Trial) -> Result<()> {
    trial.skip_for("crun", "Debian's is made without criu")?;
    let checked = Command::new("criu")
        .arg("check")
        .stdin(Stdio::null())
        .output();
    match checked {
        Err(error) => skip(format!("criu: {error}")),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let errors: Vec<_> = text.lines().filter(|l| l.contains("Error")).collect();
            skip(format!("criu check: {}", errors.join("; ")))
        }
    }
}

fn refused(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    let id = trial.id.as_str();
    trial.write(&trial.config(&["sleep", "1000"]))?;
    trial
        .go(&["checkpoint", id])?
        .refused(&["does not exist"])?;
    trial.finish(trial.spawn(&mut trial.command(&["create", id]))?)?;
    trial
        .go(&["checkpoint", id])?
        .refused(&["is created", "hint: "])?;
    trial.go(&["start", id])?.ok()?;
    trial
        .go(&["--criu", "/no/criu", "checkpoint", id])?
        .refused(&["/no/criu", "no such program", "apt-get install criu"])?;
    let nobody = trial.fake("exit 1")?;
    fs::write(trial.path("bundle/file"), "")?;
    for (args, words) in [
        (&["--image-path", "file"][..], &["--image-path", "file"][..]),
        (
            &["--image-path", "img", "--parent-path", "/tmp"],
            &["--parent-path", "relative"],
        ),
        (
            &["--image-path", "img", "--parent-path", "../no"],
            &["--parent-path", "no directory"],
        ),
        (&["--status-fd", "77"], &["--status-fd 77"]),
    ] {
        let all = [&["--criu", &nobody, "checkpoint"], args, &[id]].concat();
        trial.go(&all)?.refused(words)?;
    }
    for args in [
        ["--manage-cgroups-mode", "hard"],
        ["--page-server", "nowhere"],
        ["--empty-ns", "pid"],
    ] {
        let done = trial.go(&[&["checkpoint"], &args[..], &[id]].concat())?;
        ensure!(done.code != 0 && done.err.contains(args[0]), "{done:?}");
    }
    trial.is("running")?;
    ensure!(!trial.path("bundle/img").exists(), "a directory is left");
    trial.go(&["kill", id, "KILL"])?.ok()?;
    wait_for("the container stops", || {
        Ok((trial.state()?["status"] == "stopped").then_some(()))
    })?;
    trial.go(&["checkpoint", id])?.refused(&["is stopped"])?;
    Ok(())
}

fn failing_dump(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    trial.start_sleep()?;
    let fake = trial.fake("exit 3")?;
    trial
        .go(&[
            "--criu",
            &fake,
            "checkpoint",
            "--image-path",
            "img",
            &trial.id,
        ])?
        .refused(&["criu exited with status 3 without an answer", "hint: "])?;
    trial.is("running")?;
    ensure!(
        !trial.path("bundle/img").exists(),
        "half a checkpoint is left"
    );
    Ok(())
}

fn killed_dump(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    trial.start_sleep()?;
    let fake = trial.fake("kill -9 $PPID")?;
    let done = trial.go(&[
        "--criu",
        &fake,
        "checkpoint",
        "--image-path",
        "img",
        &trial.id,
    ])?;
    ensure!(done.code == 137, "{done:?}");
    // It waits for the lock that the program in criu's place has until it ends.
    trial.go(&["pause", &trial.id])?.ok()?;
    trial.go(&["resume", &trial.id])?.ok()?;
    trial.is("running")
}

fn not_restored(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    let id = trial.id.as_str();
    let mut config = trial.config(&["sleep", "1000"]);
    trial.write(&config)?;
    let restore = ["restore", "--image-path"];
    let go = |path: &str| trial.go(&[&restore[..], &[path, id]].concat());
    trial
        .go(&["restore", "--no-pivot", id])?
        .refused(&["--no-pivot", "hint: "])?;
    go("nowhere")?.refused(&["--image-path", "nowhere"])?;
    go(".")?.refused(&["there is no checkpoint in .", "hint: "])?;
    trial.images_of_nothing()?;
    trial
        .go(&["--criu", "/no/criu", "restore", "--image-path", "img", id])?
        .refused(&["no such program", "apt-get install criu"])?;
    config["linux"]["namespaces"] = json!([{"type": "pid"}]);
    config["mounts"] = json!([]);
    trial.write(&config)?;
    go("img")?.refused(&["mount namespace"])?;
    trial.start_sleep()?;
    let fake = trial.fake("exit 1")?;
    trial
        .go(&["--criu", &fake, "restore", "--image-path", "img", id])?
        .refused(&["already exists"])?;
    trial.is("running")
}

fn failing_restore(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    trial.images_of_nothing()?;
    trial.write(&trial.config(&["sleep", "1000"]))?;
    let fake = trial.fake("exit 3")?;
    trial
        .go(&["--criu", &fake, "restore", "--image-path", "img", &trial.id])?
        .refused(&["criu exited with status 3 without an answer"])?;
    ensure!(
        trial.go(&["list", "-q"])?.ok()?.out.is_empty(),
        "a container is left"
    );
    ensure!(
        !trial.path("root").join(&trial.id).exists(),
        "its state is left"
    );
    Ok(())
}

fn killed_restore(trial: &Trial) -> Result<()> {
    trial.ours_only()?;
    trial.skip_with_systemd(
        "criu is put into the scope a moment later; it would end with our socket",
    )?;
    trial.images_of_nothing()?;
    trial.write(&trial.config(&["sleep", "1000"]))?;
    let pid = trial.path("fake-pid");
    let fake = trial.fake(&format!(
        "echo $$ >{}; kill -9 $PPID; exec sleep 1000",
        pid.display()
    ))?;
    // Without pipes, which the program in criu's place would hold open.
    let args = ["--criu", &fake, "restore", "--image-path", "img", &trial.id];
    let mut child = trial.spawn(&mut trial.command(&args))?;
    let status = child.wait()?;
    ensure!(!status.success(), "{status}");
    trial.is("stopped")?;
    // As any leftover of that id.
    trial.start_sleep()?;
    trial.is("running")?;
    let pid = fs::read_to_string(pid)?;
    let stat = PathBuf::from(format!("/proc/{}/cmdline", pid.trim()));
    wait_for("what stood in criu's place is gone", || {
        Ok(fs::read(&stat).unwrap_or_default().is_empty().then_some(()))
    })
}

fn goes_on(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    let hook = |name: &str| {
        let script = format!("echo {name} >>{}", trial.path("hooks").display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let mut config = trial.config(&["sh", "-c", PROGRAM]);
    config["hooks"] = json!({"createRuntime": hook("made"), "poststop": hook("gone")});
    trial.start_program(&config)?;
    trial
        .go(&[
            "checkpoint",
            "--image-path",
            "img",
            "--work-path",
            "work",
            &trial.id,
        ])?
        .ok()?;
    trial
        .go(&["state", &trial.id])?
        .refused(&["does not exist"])?;
    ensure!(
        trial.text("hooks") == "made\ngone\n",
        "{}",
        trial.text("hooks")
    );
    // Elsewhere, under a limit, with another directory at /mnt.
    config["linux"]["cgroupsPath"] = format!("/{}-other", trial.id).into();
    config["linux"]["resources"] = json!({"pids": {"limit": 33}});
    fs::rename(trial.path("shared"), trial.path("elsewhere"))?;
    fs::create_dir(trial.path("shared"))?;
    trial.write(&config)?;
    trial.restore("img")?;
    let state = trial.state()?;
    ensure!(state["status"] == "running", "{state}");
    let pid: i64 = trial.text("pid").parse().context("the pid file")?;
    ensure!(state["pid"] == pid, "{state}");
    ensure!(
        trial.text("hooks") == "made\ngone\nmade\n",
        "{}",
        trial.text("hooks")
    );
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let outside = cgroups.lines().find(|line| !line.ends_with("-other"));
    ensure!(outside.is_none(), "{cgroups}");
    trial.go(&["exec", &trial.id, "true"])?.ok()?;
    trial.ask_program()
}

fn terminal(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    let mut config = trial.config(&["sh"]);
    give_terminal(&mut config)?;
    trial.write(&config)?;
    // What is typed at it goes to the container's; the others' outputs are files.
    let (mut typed, end) = pty()?;
    let mut command = trial.command(&["run", &trial.id]);
    let child = trial.spawn(command.stdin(end.try_clone()?))?;
    std::io::Write::write_all(&mut typed, b"x=kept; echo up-$x\n")?;
    wait_for("the shell has heard", || {
        Ok(trial.said().contains("up-kept").then_some(()))
    })?;
    trial
        .go(&["checkpoint", "--image-path", "img", &trial.id])?
        .ok()?;
    let mut child = child;
    let status = child.wait()?;
    ensure!(status.code() == Some(137), "{status}: {}", trial.said());
    let args = ["restore", "--image-path", "img", &trial.id];
    std::io::Write::write_all(&mut typed, b"echo it-is-$x; tty; exit 7\n")?;
    let done = finish(trial.command(&args).stdin(end), "restore", "")?.code(7)?;
    ensure!(
        done.out.contains("it-is-kept") && done.out.contains("/dev/pts/0"),
        "{done:?}"
    );
    trial
        .go(&["state", &trial.id])?
        .refused(&["does not exist"])?;
    Ok(())
}

fn network_of_a_hook(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    trial.skip_for("runc", "it leaves lo down, and parameters unset")?;
    if Command::new("ip").arg("-V").output().is_err() {
        return skip("ip of iproute2 is not installed");
    }
    // The end outside has a name of its own each time: with its namespace it goes in its own time.
    let script = r#"pid=$(sed 's/.*"pid": *\([0-9]*\).*/\1/')
        exec ip link add "at-$pid" type veth peer name eth0 netns "$pid""#;
    let mut config = trial.config(&["sh", "-c", PROGRAM]);
    config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
    ]});
    config["linux"]["sysctl"] = json!({"net.ipv4.conf.eth0.forwarding": "1"});
    trial.start_program(&config)?;
    let look = "ip -o link show; cat /proc/sys/net/ipv4/conf/eth0/forwarding";
    let is_there = || {
        let seen = trial.go(&["exec", &trial.id, "sh", "-c", look])?.ok()?.out;
        let is_up = seen
            .lines()
            .any(|line| line.contains("lo:") && line.contains("UP"));
        let is_set = seen.contains("eth0") && seen.ends_with("\n1\n");
        ensure!(is_up && is_set, "{seen}");
        Ok(())
    };
    is_there()?;
    trial
        .go(&["checkpoint", "--image-path", "img", &trial.id])?
        .ok()?;
    trial.restore("img")?;
    is_there()?;
    trial.ask_program()
}

fn iterated(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    trial.start_program(&trial.config(&["sh", "-c", PROGRAM]))?;
    fs::create_dir(trial.path("bundle/img"))?;
    let id = trial.id.as_str();
    trial
        .go(&["checkpoint", "--pre-dump", "--image-path", "img/1", id])?
        .ok()?;
    trial.is("running")?;
    let args = [
        "checkpoint",
        "--leave-running",
        "--image-path",
        "img/2",
        "--parent-path",
        "../1",
    ];
    trial.go(&[&args[..], &[id]].concat())?.ok()?;
    trial.is("running")?;
    trial.go(&["delete", "--force", id])?.ok()?;
    trial.restore("img/2")?;
    trial.ask_program()
}

fn told(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    trial.ours_only()?;
    // A file that is open, and has lost this name but not another.
    let script =
        "echo >/run/a; ln /run/a /run/b; exec 3</run/a; rm /run/a; echo up >/mnt/up; sleep 1000";
    trial.write(&trial.config(&["sh", "-c", script]))?;
    trial.finish(trial.spawn(&mut trial.command(&["run", "--detach", &trial.id]))?)?;
    wait_for("the file is removed", || {
        Ok((trial.text("shared/up") == "up\n").then_some(()))
    })?;
    let args = ["checkpoint", "--image-path", "img", "--work-path", "work"];
    let log = trial.path("bundle/work/dump.log").display().to_string();
    trial
        .go(&[&args[..], &[&trial.id]].concat())?
        .refused(&["link-remap", &log, "hint: "])?;
    trial.is("running")?;
    ensure!(
        !trial.path("bundle/img").exists(),
        "half a checkpoint is left"
    );
    trial
        .go(&[&args[..], &["--link-remap", &trial.id]].concat())?
        .ok()?;
    trial.restore("img")?;
    trial.is("running")
}

fn killed_in_the_middle(trial: &Trial) -> Result<()> {
    needs_criu(trial)?;
    let mut config = trial.config(&["sh", "-c", PROGRAM]);
    // The hook kills its parent, the runtime, once: when criu has made the namespaces.
    let armed = trial.path("armed").display().to_string();
    let script = format!("[ ! -e {armed} ] || {{ rm {armed}; kill -9 $PPID; }}");
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    trial.start_program(&config)?;
    trial
        .go(&["checkpoint", "--image-path", "img", &trial.id])?
        .ok()?;
    fs::write(&armed, "")?;
    ensure!(trial.restore("img").is_err(), "the hook has not killed it");
    trial.restore("img")?;
    trial.is("running")?;
    trial.ask_program()
}
