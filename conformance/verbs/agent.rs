//! seccomp with an agent (config-linux.md, "Seccomp" and "The Container Process State").

use super::{Row, Trial};
use anyhow::{Context, Result, ensure};
use containers::sys::fds::received;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::{Value, json};
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

pub(super) const ROWS: &[Row] = &[
    (
        "seccomp: the agent gets one state, with the descriptor",
        told,
    ),
    ("seccomp: the state that the agent gets", state),
    ("seccomp: an agent that is not there is an error", no_agent),
    (
        "seccomp: without SCMP_ACT_NOTIFY the agent is not asked",
        not_asked,
    ),
];

/// What a call with SCMP_ACT_NOTIFY does to nobody: the program does not make it.
fn config(trial: &Trial, action: &str) -> Value {
    let mut config = trial.config(&["true"]);
    config["annotations"] = json!({"org.example.key": "value"});
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": trial.path("agent.sock"),
        "listenerMetadata": "of the agent",
        "syscalls": [{"names": ["acct"], "action": action}]});
    config
}

/// The bytes of a connection until its end, and the descriptors of its first message and later ones.
fn read_all(stream: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>, usize)> {
    let (mut bytes, mut first, mut later) = (Vec::new(), Vec::new(), 0);
    loop {
        let mut buffer = vec![0; 16384];
        let mut space = nix::cmsg_space!([i32; 8]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)
            .context("read from the runtime")?;
        let mut fds = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(list) = control {
                fds.extend(list.into_iter().map(received));
            }
        }
        let length = message.bytes;
        if bytes.is_empty() {
            first = fds;
        } else {
            later += fds.len();
        }
        if length == 0 {
            return Ok((bytes, first, later));
        }
        bytes.extend_from_slice(&buffer[..length]);
    }
}

/// Runs the container with an agent: what the agent has read.
fn with_agent(trial: &Trial) -> Result<(Value, Vec<OwnedFd>, usize)> {
    let listener = UnixListener::bind(trial.path("agent.sock"))?;
    trial.write(&config(trial, "SCMP_ACT_NOTIFY"))?;
    let agent = std::thread::spawn(move || -> Result<_> {
        let (stream, _) = listener.accept()?;
        let read = read_all(&stream)?;
        listener.set_nonblocking(true)?;
        let more = listener.accept().is_ok();
        ensure!(!more, "a second connection");
        Ok(read)
    });
    let done = trial.go(&["run", &trial.id])?;
    if done.code != 0 {
        // The agent would wait for ever.
        drop(UnixStream::connect(trial.path("agent.sock")));
    }
    let read = agent
        .join()
        .map_err(|_| anyhow::anyhow!("the agent panicked"))?;
    done.ok()?;
    let (bytes, fds, later) = read?;
    let mut values = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
    let state = values.next().context("no state")??;
    ensure!(values.next().is_none(), "more than one state");
    Ok((state, fds, later))
}

/// The connection ends after it, by the runtime's closing it.
fn told(trial: &Trial) -> Result<()> {
    let (state, fds, later) = with_agent(trial)?;
    ensure!(state["fds"] == json!(["seccompFd"]), "{state}");
    ensure!(
        fds.len() == 1 && later == 0,
        "{} descriptors, later {later}",
        fds.len()
    );
    let link = std::fs::read_link(format!("/proc/self/fd/{}", fds[0].as_raw_fd()))?;
    let link = link.display().to_string();
    ensure!(link.contains("seccomp"), "{link}");
    Ok(())
}

fn state(trial: &Trial) -> Result<()> {
    let (all, _, _) = with_agent(trial)?;
    let state = &all["state"];
    for (found, wanted) in [
        (&all["metadata"], json!("of the agent")),
        (&state["id"], json!(trial.id)),
        (&state["bundle"], json!(trial.path("bundle"))),
        (&state["annotations"], json!({"org.example.key": "value"})),
    ] {
        ensure!(*found == wanted, "{found}, not {wanted}: {all}");
    }
    ensure!(
        all["ociVersion"].is_string() && state["ociVersion"].is_string(),
        "{all}"
    );
    ensure!(all["pid"].as_i64().is_some_and(|pid| pid > 0), "{all}");
    ensure!(
        state["status"] == "creating" || state["status"] == "created",
        "{all}"
    );
    Ok(())
}

fn no_agent(trial: &Trial) -> Result<()> {
    trial.write(&config(trial, "SCMP_ACT_NOTIFY"))?;
    let done = trial.go(&["run", &trial.id])?;
    ensure!(done.code != 0, "it is accepted: {done:?}");
    Ok(())
}

fn not_asked(trial: &Trial) -> Result<()> {
    let listener = UnixListener::bind(trial.path("agent.sock"))?;
    trial.write(&config(trial, "SCMP_ACT_ERRNO"))?;
    trial.go(&["run", &trial.id])?.ok()?;
    listener.set_nonblocking(true)?;
    ensure!(listener.accept().is_err(), "the agent is told");
    Ok(())
}
