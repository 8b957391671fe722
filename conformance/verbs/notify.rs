//! sd_notify(3) through the runtime, with a service manager of our own.

use super::{Row, Trial};
use crate::frontend::{DEADLINE, wait_for};
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

pub(super) const ROWS: &[Row] = &[
    ("run: the program's readiness reaches the host", foreground),
    (
        "run --detach: it waits for the program's readiness",
        detached,
    ),
    ("start: it waits for the program's readiness", started),
    (
        "run --detach: it does not wait for a program that has ended",
        ended,
    ),
    (
        "run: a service manager that is gone is no reason to fail",
        nobody,
    ),
];

/// Says more than its readiness, once it is told to.
const PROGRAM: [&str; 3] = [
    "sh",
    "-c",
    "read x </mnt/go; probe send STATUS=x MAINPID=1 READY=1 && cat /mnt/end",
];

/// A service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn at(address: &SocketAddr) -> Result<Manager> {
        let socket = UnixDatagram::bind_addr(address).context("bind the host's socket")?;
        socket.set_read_timeout(Some(DEADLINE))?;
        Ok(Manager(socket))
    }

    /// It must be told these lines, in one message or in several, and nothing else before them.
    fn hears(&self, lines: &[String]) -> Result<()> {
        let mut heard: Vec<String> = Vec::new();
        while heard.len() < lines.len() {
            let mut buffer = [0; 4096];
            let length = self
                .0
                .recv(&mut buffer)
                .with_context(|| format!("heard only {heard:?}"))?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            heard.extend(text.lines().map(str::to_owned));
        }
        ensure!(heard == lines, "heard {heard:?}, not {lines:?}");
        Ok(())
    }

    /// Nothing more has come, but for a barrier.
    fn hears_no_more(&self) -> Result<()> {
        self.0.set_nonblocking(true)?;
        let mut buffer = [0; 4096];
        while let Ok(length) = self.0.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            ensure!(text == "BARRIER=1", "heard {text:?} as well");
        }
        Ok(())
    }
}

fn ready(pid: impl std::fmt::Display) -> [String; 2] {
    ["READY=1".to_owned(), format!("MAINPID={pid}")]
}

/// Makes the two pipes that the program waits for. With one for both it could meet at the second the
/// writer of the first.
fn fifos(trial: &Trial) -> Result<[PathBuf; 2]> {
    let paths = ["go", "end"].map(|name| trial.path(&format!("shared/{name}")));
    for path in &paths {
        nix::unistd::mkfifo(path, Mode::S_IRWXU)?;
    }
    Ok(paths)
}

/// Lets the program go on, once it waits for that.
fn go_on(fifo: &Path) -> Result<()> {
    let mut writer = wait_for("the program waits at the pipe", || {
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match open(fifo, flags, Mode::empty()) {
            Ok(writer) => Ok(Some(File::from(writer))),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error).context("open the pipe"),
        }
    })?;
    writer.write_all(b"\n").context("write to the pipe")
}

fn foreground(trial: &Trial) -> Result<()> {
    let manager = Manager::at(&SocketAddr::from_pathname(trial.path("host"))?)?;
    let [go, end] = fifos(trial)?;
    trial.write(&trial.config(&PROGRAM))?;
    let mut run = trial.command(&["run", &trial.id]);
    let child = trial.spawn(run.env("NOTIFY_SOCKET", trial.path("host")))?;
    let pid = child.id();
    go_on(&go)?;
    manager.hears(&ready(pid))?;
    go_on(&end)?;
    trial.finish(child)?;
    manager.hears_no_more()
}

fn detached(trial: &Trial) -> Result<()> {
    let manager = Manager::at(&SocketAddr::from_pathname(trial.path("host"))?)?;
    let [go, end] = fifos(trial)?;
    let mut config = trial.config(&PROGRAM);
    config["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    for path in [&go, &end] {
        std::os::unix::fs::chown(path, Some(1000), Some(1000))?;
    }
    trial.write(&config)?;
    let mut run = trial.command(&["run", "--detach", &trial.id]);
    let mut child = trial.spawn(run.env("NOTIFY_SOCKET", trial.path("host")))?;
    wait_for("the container runs", || {
        let state = trial.go(&["state", &trial.id])?;
        Ok(state.out.contains("\"running\"").then_some(()))
    })?;
    ensure!(child.try_wait()?.is_none(), "it did not wait");
    go_on(&go)?;
    manager.hears(&ready(&trial.state()?["pid"]))?;
    drop(manager);
    trial.finish(child)?;
    go_on(&end)
}

fn started(trial: &Trial) -> Result<()> {
    let name = format!("conformance/{}", trial.id);
    let manager = Manager::at(&SocketAddr::from_abstract_name(&name)?)?;
    let [go, end] = fifos(trial)?;
    trial.write(&trial.config(&PROGRAM))?;
    let variable = format!("@{name}");
    let mut create = trial.command(&["create", &trial.id]);
    let child = trial.spawn(create.env("NOTIFY_SOCKET", &variable))?;
    trial.finish(child)?;
    let pid = trial.state()?["pid"].clone();
    let mut start = trial.command(&["start", &trial.id]);
    let child = trial.spawn(start.env("NOTIFY_SOCKET", &variable))?;
    go_on(&go)?;
    manager.hears(&ready(pid))?;
    drop(manager);
    trial.finish(child)?;
    go_on(&end)
}

fn ended(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "it waits for ever")?;
    let manager = Manager::at(&SocketAddr::from_pathname(trial.path("host"))?)?;
    trial.write(&trial.config(&["probe", "send", "STATUS=x"]))?;
    let mut run = trial.command(&["run", "--detach", &trial.id]);
    let child = trial.spawn(run.env("NOTIFY_SOCKET", trial.path("host")))?;
    trial.finish(child)?;
    manager.hears_no_more()
}

fn nobody(trial: &Trial) -> Result<()> {
    trial.write(&trial.config(&["probe", "send", "READY=1"]))?;
    let mut run = trial.command(&["run", &trial.id]);
    let child = trial.spawn(run.env("NOTIFY_SOCKET", trial.path("host")))?;
    trial.finish(child)
}
