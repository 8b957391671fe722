//! Hooks (config.md, "POSIX-platform Hooks"): programs run at points of the life of a container,
//! with its state on standard input.

use crate::error::ResultExt;
use crate::sys::fds::poll_timeout;
use crate::sys::process;
use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{AccessFlags, Pid, access, pipe2};
use oci_spec::runtime::Hook;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// As much of a hook's output as an error shows.
const OUTPUT_LIMIT: usize = 4096;

/// A file to which hooks write, instead of the pipe from which an error shows what they said.
pub const STDOUT_ANNOTATION: &str = "run.oci.hooks.stdout";
/// The same of their standard error. Both are crun's.
pub const STDERR_ANNOTATION: &str = "run.oci.hooks.stderr";

/// Where hooks run, and what they write to.
#[derive(Debug, Default)]
pub struct Surroundings {
    stdout: Option<File>,
    stderr: Option<File>,
    bundle: PathBuf,
}

impl Surroundings {
    /// Opens what the annotations name, to append to it; a relative path starts at the bundle.
    pub fn open(annotations: &HashMap<String, String>, bundle: &Path) -> Result<Surroundings> {
        let open = |key: &str| -> Result<Option<File>> {
            let Some(path) = annotations.get(key) else {
                return Ok(None);
            };
            let path = bundle.join(path);
            let what = || format!("annotation {key}: open {}", path.display());
            let mut options = File::options();
            options
                .append(true)
                .create(true)
                .mode(0o600)
                // A terminal must not become ours, and a fifo that nobody reads is an error.
                .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK);
            let file = options.open(&path).with_context(what)?;
            fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND)).with_context(what)?;
            Ok(Some(file))
        };
        Ok(Surroundings {
            stdout: open(STDOUT_ANNOTATION)?,
            stderr: open(STDERR_ANNOTATION)?,
            bundle: bundle.to_owned(),
        })
    }
}

/// Runs the hooks in their order, in the bundle; the first that fails ends it with an error.
pub fn run(kind: &str, hooks: &Option<Vec<Hook>>, state: &[u8], to: &Surroundings) -> Result<()> {
    run_each(kind, hooks, |hook| {
        run_one(hook, state, &[], to, Some(&to.bundle))
    })
}

/// The same in the container, which has no bundle; a hook that says nothing of its environment gets
/// `env`.
pub fn run_inside(
    kind: &str,
    hooks: &Option<Vec<Hook>>,
    state: &[u8],
    env: &[String],
    to: &Surroundings,
) -> Result<()> {
    run_each(kind, hooks, |hook| run_one(hook, state, env, to, None))
}

fn run_each(
    kind: &str,
    hooks: &Option<Vec<Hook>>,
    run: impl Fn(&Hook) -> Result<()>,
) -> Result<()> {
    for (index, hook) in hooks.iter().flatten().enumerate() {
        run(hook)
            .with_context(|| format!("hooks.{kind}[{index}]: {}", hook.path().display()))
            .hint("the hook's own output, if any, is in the message; run it by hand with a container state on stdin")?;
    }
    Ok(())
}

/// Runs all the hooks, whatever becomes of each, and returns what went wrong (runtime.md: a failed
/// poststop or poststart hook is logged, and the rest goes on).
pub fn run_all(
    kind: &str,
    hooks: &Option<Vec<Hook>>,
    state: &[u8],
    to: &Surroundings,
) -> Vec<anyhow::Error> {
    hooks
        .iter()
        .flatten()
        .enumerate()
        .filter_map(|(index, hook)| {
            let what = || format!("hooks.{kind}[{index}]: {}", hook.path().display());
            run_one(hook, state, &[], to, Some(&to.bundle))
                .with_context(what)
                .err()
        })
        .collect()
}

fn run_one(
    hook: &Hook,
    state: &[u8],
    env: &[String],
    to: &Surroundings,
    dir: Option<&Path>,
) -> Result<()> {
    let mut command = Command::new(hook.path());
    // The bundle may be gone by now, or out of reach in a user namespace: the hook runs all the same.
    if let Some(dir) = dir
        && access(dir, AccessFlags::X_OK).is_ok()
    {
        command.current_dir(dir);
    }
    // execv(3) semantics (config.md): args holds argv[0] too.
    if let Some((name, rest)) = hook.args().as_deref().unwrap_or_default().split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    let env = hook.env().as_deref().unwrap_or(env);
    for entry in env {
        let (name, value) = entry
            .split_once('=')
            .with_context(|| format!("env {entry:?}: it is not NAME=VALUE"))?;
        command.env(name, value);
    }
    let (output, writer) = pipe2(OFlag::O_CLOEXEC).context("make a pipe for the output")?;
    let (mut output, writer) = (File::from(output), File::from(writer));
    let stream = |file: &Option<File>| file.as_ref().unwrap_or(&writer).try_clone();
    command
        .stdin(Stdio::piped())
        .stdout(stream(&to.stdout).context("duplicate a descriptor")?)
        .stderr(stream(&to.stderr).context("duplicate a descriptor")?)
        // A group of its own, so that a timeout ends its children too.
        .process_group(0);
    let mut child = command.spawn().context("start it")?;
    // Without our writing ends, the pipe ends with the hook.
    drop((command, writer));
    if let Some(mut stdin) = child.stdin.take() {
        // A hook need not read its input.
        match stdin.write_all(state) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                return Err(error).context("write the state to it");
            }
            _ => {}
        }
    }
    let deadline = match hook.timeout() {
        Some(seconds) if seconds <= 0 => bail!("timeout {seconds}: it must be above 0"),
        Some(seconds) => Some(Instant::now() + Duration::from_secs(seconds as u64)),
        None => None,
    };
    let text = watch(&mut child, &mut output, deadline)?;
    let status = child.wait().context("wait for it")?;
    if !status.success() {
        let said = text.trim();
        match (said.is_empty(), status.code()) {
            (true, _) => bail!("{status}"),
            (false, _) => bail!("{status}: {said}"),
        }
    }
    Ok(())
}

/// Reads the output of the hook until it ends or the deadline is over, in which case it is killed.
fn watch(child: &mut Child, output: &mut File, deadline: Option<Instant>) -> Result<String> {
    let pid = child.id() as i32;
    let pidfd = process::pidfd_open(pid).context("pidfd_open of the hook")?;
    let mut text = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            // The group has the hook's number for as long as the hook is not reaped.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = child.wait();
            bail!("it did not end before its timeout and was killed");
        }
        let mut fds = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        if open {
            fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, poll_timeout(left)) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.context("poll the hook")?,
        };
        let ended = fds[0].any() == Some(true);
        let readable = fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        if readable {
            let mut buffer = [0; 1024];
            let count = output.read(&mut buffer).context("read the output")?;
            open = count > 0;
            let room = OUTPUT_LIMIT.saturating_sub(text.len());
            text.extend_from_slice(&buffer[..count.min(room)]);
        } else if ended {
            // A child that the hook left behind may hold the pipe open: it is not waited for.
            return Ok(String::from_utf8_lossy(&text).into_owned());
        }
    }
}

/// Whether there is any hook in the list.
pub fn any(hooks: &Option<Vec<Hook>>) -> bool {
    hooks.as_ref().is_some_and(|hooks| !hooks.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(json: &str) -> Option<Vec<Hook>> {
        Some(vec![serde_json::from_str(json).unwrap()])
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment() {
        let hooks = hook(
            r#"{"path":"/bin/sh","args":["sh","-c","read x; test \"$x\" = state -a \"$A\" = 1 -a -z \"$HOME\""],"env":["A=1"]}"#,
        );
        run("prestart", &hooks, b"state\n", &Surroundings::default()).unwrap();
    }

    #[test]
    fn an_environment_is_inherited_where_the_hook_has_none() {
        let (env, to) = (["A=1".to_owned()], Surroundings::default());
        let inherits = r#"{"path":"/bin/sh","args":["sh","-c","test \"$A\" = 1"]}"#;
        run_inside("startContainer", &hook(inherits), b"", &env, &to).unwrap();
        let own = r#"{"path":"/bin/sh","args":["sh","-c","test -z \"$A\""],"env":["B=2"]}"#;
        run_inside("startContainer", &hook(own), b"", &env, &to).unwrap();
    }

    #[test]
    fn a_failure_shows_what_the_hook_said() {
        let hooks = hook(r#"{"path":"/bin/sh","args":["sh","-c","echo broken >&2; exit 3"]}"#);
        let text = crate::error::message(
            &run("prestart", &hooks, b"", &Surroundings::default()).unwrap_err(),
        );
        assert!(text.contains("hooks.prestart[0]"), "{text}");
        assert!(text.contains("broken") && text.contains('3'), "{text}");
    }

    #[test]
    fn output_goes_to_what_the_annotations_name() {
        let dir = std::env::temp_dir().join(format!("hooks-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let annotations = HashMap::from([("run.oci.hooks.stdout".to_owned(), "out".to_owned())]);
        let hooks =
            hook(r#"{"path":"/bin/sh","args":["sh","-c","echo said; echo why >&2; exit 3"]}"#);
        let mut text = String::new();
        for _ in 0..2 {
            let to = Surroundings::open(&annotations, &dir).unwrap();
            text = crate::error::message(&run("prestart", &hooks, b"", &to).unwrap_err());
        }
        let out = std::fs::read_to_string(dir.join("out")).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(out, "said\nsaid\n");
        assert!(text.contains("why") && !text.contains("said"), "{text}");
    }

    #[test]
    fn a_hook_that_hangs_is_killed_with_its_children() {
        let hooks =
            hook(r#"{"path":"/bin/sh","args":["sh","-c","sleep 1000 & wait"],"timeout":1}"#);
        let text = crate::error::message(
            &run("prestart", &hooks, b"", &Surroundings::default()).unwrap_err(),
        );
        assert!(text.contains("timeout"), "{text}");
    }
}
