//! The hand-written bundles of `bundles/`: each directory is a test of one feature, and says in
//! `expect.json` what a runtime must do with it.
//!
//! | key | meaning |
//! |---|---|
//! | `about` | what is tested, for the reader |
//! | `exit` | the exit code of `run`; 0 if absent |
//! | `fails` | the runtime must refuse it: its error holds all these words |
//! | `stdout` | the output, exactly |
//! | `has` | texts that the output must hold |
//! | `stderr` | texts that standard error must hold |
//! | `facts` | what the probe sees: JSON pointer and value |
//! | `exec` | arguments of `exec`, with ID for the id: its output is judged, not the container's |
//! | `before_start` | files of the container's cgroup after `create`: `controller/file` and content |
//! | `before_start_v2` | the same on cgroup v2: the file and its content |
//! | `absent` | paths of the host that must not be there afterwards |
//! | `skip` | runtimes (by a part of their name) that cannot, and why |
//! | `rootless` | why it is not for an ordinary user |
//!
//! A bundle with a program `setup` gets a temporary directory as its only argument, makes the bundle
//! there, and may leave a program `check` in it, which is run afterwards and must succeed; it may go
//! on with `$RUNTIME --root $STATE $MANAGER … $ID`.

use crate::frontend::{Known, Place, Skip, pty, skip};
use crate::{Test, ordinary};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One for each directory with an expectation.
pub(crate) fn tests(runtime: Option<&Path>, how: How) -> Result<Vec<Test>> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
    let runtime = crate::runtime_under_test(runtime);
    let mut names: Vec<_> = std::fs::read_dir(&home)
        .with_context(|| format!("list {}", home.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("expect.json").exists())
        .collect();
    names.sort();
    let tests = names.into_iter().map(|bundle| {
        let runtime = runtime.clone();
        let name = bundle.file_name().unwrap_or_default().to_string_lossy();
        Test {
            name: format!("bundle {name}"),
            run: Box::new(move |place| check(&bundle, &runtime, how, place)),
        }
    });
    Ok(tests.collect())
}

/// How the bundles are run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// Their cgroups are made by systemd.
    pub(crate) systemd: bool,
    /// By an ordinary user, in a user namespace.
    pub(crate) rootless: bool,
}

/// A runtime that is given a bundle.
struct Trial<'a> {
    runtime: &'a Path,
    how: How,
    root: PathBuf,
    bundle: PathBuf,
    id: String,
    dir: &'a Path,
    /// Both ends of a terminal, for a bundle that has one: without any, `run` refuses it.
    terminal: Option<(File, File)>,
}

fn check(bundle: &Path, runtime: &Path, how: How, place: &Place) -> Result<()> {
    let text = std::fs::read(bundle.join("expect.json"))?;
    let expect: Map<String, Value> = serde_json::from_slice(&text).context("expect.json")?;
    const KEYS: [&str; 13] = [
        "about",
        "exit",
        "fails",
        "stdout",
        "has",
        "stderr",
        "facts",
        "exec",
        "before_start",
        "before_start_v2",
        "absent",
        "skip",
        "rootless",
    ];
    if let Some(key) = expect.keys().find(|key| !KEYS.contains(&key.as_str())) {
        bail!("expect.json: unknown key {key:?}");
    }
    match (known_failure(&expect, runtime), place.measure) {
        (None, _) => attempt(bundle, &expect, runtime, how, place),
        (Some(why), true) => attempt(bundle, &expect, runtime, how, place).context(Known(why)),
        (Some(why), false) => {
            let name = runtime.file_name().unwrap_or_default().to_string_lossy();
            skip(format!("{name}: {why}"))
        }
    }
}

/// What the expectation says about a runtime that cannot do this.
fn known_failure(expect: &Map<String, Value>, runtime: &Path) -> Option<String> {
    let name = runtime.file_name().unwrap_or_default().to_string_lossy();
    let all = expect.get("skip").and_then(Value::as_object)?;
    let (_, why) = all.iter().find(|(who, _)| name.contains(who.as_str()))?;
    Some(why.as_str().unwrap_or_default().to_owned())
}

fn attempt(
    bundle: &Path,
    expect: &Map<String, Value>,
    runtime: &Path,
    how: How,
    place: &Place,
) -> Result<()> {
    let mut bundle = bundle.to_owned();
    if how.rootless {
        bundle = ordinary::own(&bundle, expect, place)?;
    }
    if bundle.join("setup").exists() {
        let made = place.dir.join("bundle");
        std::fs::create_dir(&made)?;
        let output = Command::new(bundle.join("setup"))
            .arg(&made)
            .current_dir(&bundle)
            .stdin(Stdio::null())
            .output()
            .context("run setup")?;
        if output.status.code() == Some(77) {
            let why = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            return Err(anyhow::Error::new(Skip(why)));
        }
        ensure!(output.status.success(), "setup: {output:?}");
        bundle = made;
    }
    if how.rootless {
        ordinary::change(&bundle)?;
    }
    let config = std::fs::read_to_string(bundle.join("config.json")).unwrap_or_default();
    if how.systemd && config.contains("\"cgroupsPath\": \"/") {
        let why = "its cgroupsPath is not one for systemd".to_owned();
        return Err(anyhow::Error::new(Skip(why)));
    }
    let number = place.dir.file_name().unwrap_or_default().to_string_lossy();
    let trial = Trial {
        runtime,
        how,
        root: place.dir.join("root"),
        bundle,
        id: format!("conf-{}-{number}", std::process::id()),
        dir: &place.dir,
        // A user's own copy is written without blanks.
        terminal: (config.replace(": ", ":"))
            .contains("\"terminal\":true")
            .then(pty)
            .transpose()?,
    };
    let result = trial.perform(expect);
    let cleared = trial.clear();
    result.and(cleared)
}

impl Trial<'_> {
    fn perform(&self, expect: &Map<String, Value>) -> Result<()> {
        let files = match v2_root()? {
            Some(_) => expect.get("before_start_v2"),
            None => expect.get("before_start"),
        };
        let bundle = self.bundle.display().to_string();
        let output = match (files, expect.get("exec")) {
            (Some(files), _) => self.by_steps(files)?,
            (None, Some(args)) => self.exec(&bundle, args)?,
            (None, None) => self.call(&["run", "--bundle", &bundle, &self.id])?,
        };
        self.judge(expect, &output)
            .with_context(|| format!("{}", Shown(&output)))?;
        let check = self.bundle.join("check");
        if check.exists() {
            let done = Command::new(&check)
                .arg(&self.bundle)
                .env("RUNTIME", self.runtime)
                .env("STATE", &self.root)
                .env("MANAGER", self.manager().unwrap_or_default())
                .env("ID", &self.id)
                .output()
                .context("run check")?;
            ensure!(done.status.success(), "check: {done:?}; {}", Shown(&output));
        }
        Ok(())
    }

    /// `run --detach`, and `exec` with the arguments of the expectation.
    fn exec(&self, bundle: &str, args: &Value) -> Result<Output> {
        let run = ["run", "--detach", "--bundle", bundle, &self.id];
        let status = self.command(&run)?.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "run --detach: {status}");
        let args: Vec<String> = serde_json::from_value(args.clone()).context("exec")?;
        let mut words = vec!["exec"];
        words.extend(args.iter().map(|word| match word.as_str() {
            "ID" => self.id.as_str(),
            other => other,
        }));
        self.call(&words)
    }

    /// `create`, a look at the cgroup, `start`, and the end by the first process' pidfd.
    fn by_steps(&self, files: &Value) -> Result<Output> {
        let bundle = self.bundle.display().to_string();
        let pid_file = self.dir.join("pid").display().to_string();
        let (out, err) = (self.dir.join("out"), self.dir.join("err"));
        let created = self
            .command(&[
                "create",
                "--bundle",
                &bundle,
                "--pid-file",
                &pid_file,
                &self.id,
            ])?
            .stdout(File::create(&out)?)
            .stderr(File::create(&err)?)
            .status()
            .context("run the runtime")?;
        let said = || std::fs::read_to_string(&err).unwrap_or_default();
        ensure!(created.success(), "create: {created}: {}", said());
        let pid: i32 = std::fs::read_to_string(&pid_file)?.trim().parse()?;
        for (file, expected) in files.as_object().into_iter().flatten() {
            let found = match file.split_once('/') {
                Some((controller, name)) => cgroup_file(pid, controller, name)?,
                None => v2_file(pid, file)?,
            };
            let expected = expected.as_str().unwrap_or_default();
            ensure!(found == expected, "{file} is {found:?}, not {expected:?}");
        }
        let pidfd = containers::sys::process::pidfd_open(pid)?;
        let started = self.call(&["start", &self.id])?;
        ensure!(started.status.success(), "start: {}", Shown(&started));
        use std::os::fd::AsFd;
        let mut fds = [nix::poll::PollFd::new(
            pidfd.as_fd(),
            nix::poll::PollFlags::POLLIN,
        )];
        nix::poll::poll(&mut fds, 60_000u16)?;
        // Its exit code is its parent's to know: not ours after `create`.
        Ok(Output {
            status: std::process::ExitStatus::from_raw(0),
            stdout: std::fs::read(&out)?,
            stderr: std::fs::read(&err)?,
        })
    }

    fn judge(&self, expect: &Map<String, Value>, output: &Output) -> Result<()> {
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        let words = |key: &str| -> Vec<String> {
            let list = expect.get(key).cloned().unwrap_or_default();
            serde_json::from_value(list).unwrap_or_default()
        };
        if expect.contains_key("fails") {
            ensure!(!output.status.success(), "it must be refused");
            // Only our own texts are promised.
            if self.is_ours() {
                for word in words("fails") {
                    ensure!(err.contains(&word), "the error does not say {word:?}");
                }
                ensure!(
                    err.starts_with("runtime: error: "),
                    "no line `runtime: error: …`"
                );
                ensure!(!err.contains("panicked"), "it panicked");
            }
            return Ok(());
        }
        let code = expect.get("exit").and_then(Value::as_i64).unwrap_or(0);
        let found = output.status.code().map(i64::from);
        ensure!(
            found == Some(code),
            "the exit code must be {code}, not {found:?}"
        );
        if let Some(exact) = expect.get("stdout").and_then(Value::as_str) {
            ensure!(out == exact, "the output must be {exact:?}");
        }
        for word in words("has") {
            ensure!(out.contains(&word), "the output must hold {word:?}");
        }
        for word in words("stderr") {
            ensure!(err.contains(&word), "standard error must hold {word:?}");
        }
        if let Some(facts) = expect.get("facts") {
            let seen: Value =
                serde_json::from_slice(&output.stdout).context("the probe's output")?;
            for (pointer, wanted) in facts.as_object().into_iter().flatten() {
                let found = seen.pointer(pointer).cloned().unwrap_or_default();
                ensure!(found == *wanted, "{pointer} is {found}, not {wanted}");
            }
        }
        for path in words("absent") {
            ensure!(!Path::new(&path).exists(), "{path} was made on the host");
        }
        Ok(())
    }

    fn is_ours(&self) -> bool {
        self.runtime
            .file_name()
            .is_some_and(|name| name == "runtime")
    }

    /// Nothing may be left after a foreground run; what a stepwise one leaves is deleted first.
    fn clear(&self) -> Result<()> {
        let deleted = self.call(&["delete", "--force", &self.id])?;
        ensure!(
            deleted.status.success(),
            "delete --force: {}",
            Shown(&deleted)
        );
        let left: Vec<_> = hierarchies()?
            .into_iter()
            .map(|base| base.join(&self.id))
            .filter(|dir| dir.exists())
            .collect();
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
        let dir = self.root.join(&self.id);
        ensure!(!dir.exists(), "{} is left", dir.display());
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let mine = self.dir.display().to_string();
        let left = mounts.lines().find(|line| line.contains(&mine));
        ensure!(left.is_none(), "a mount is left: {left:?}");
        Ok(())
    }

    /// The option for who makes the cgroups.
    fn manager(&self) -> Option<&'static str> {
        self.how.systemd.then_some("--systemd-cgroup")
    }

    fn command(&self, args: &[&str]) -> Result<Command> {
        let stdin = match &self.terminal {
            Some((_, end)) => Stdio::from(end.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(self.runtime);
        command
            .arg("--root")
            .arg(&self.root)
            .args(self.manager())
            .args(args)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("CONFORMANCE", self.dir)
            .current_dir(self.dir)
            .stdin(stdin);
        Ok(command)
    }

    fn call(&self, args: &[&str]) -> Result<Output> {
        let mut child = self
            .command(args)?
            .stdout(File::create(self.dir.join("out"))?)
            .stderr(File::create(self.dir.join("err"))?)
            .spawn()
            .with_context(|| format!("run {}", self.runtime.display()))?;
        let waited = crate::frontend::ended(child.id() as i32, &args.join(" "));
        let status = child.wait().context("wait")?;
        waited?;
        Ok(Output {
            status,
            stdout: std::fs::read(self.dir.join("out"))?,
            stderr: std::fs::read(self.dir.join("err"))?,
        })
    }
}

/// Output as a message shows it.
struct Shown<'a>(&'a Output);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes)
                .chars()
                .take(3000)
                .collect::<String>()
        };
        write!(
            f,
            "{}, stdout {:?}, stderr {:?}",
            self.0.status,
            text(&self.0.stdout),
            text(&self.0.stderr)
        )
    }
}

/// Where cgroup hierarchies are mounted.
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
    let mut all: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (dir, kind) = (fields.next()?, fields.next()?);
            (kind == "cgroup" || kind == "cgroup2").then(|| PathBuf::from(dir))
        })
        .collect();
    all.sort();
    all.dedup();
    Ok(all)
}

/// Where cgroup v2 is mounted, on a machine that has nothing else.
pub(crate) fn v2_root() -> Result<Option<PathBuf>> {
    match hierarchies()?.as_slice() {
        [only] if only.join("cgroup.controllers").exists() => Ok(Some(only.clone())),
        _ => Ok(None),
    }
}

/// A file of the v2 cgroup of a process.
fn v2_file(pid: i32, file: &str) -> Result<String> {
    let root = v2_root()?.context("cgroup v2 is not all that there is")?;
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let file = root.join(path.context("no cgroup v2")?).join(file);
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.trim().to_owned())
}

/// A file of the v1 cgroup of a process. A machine without the controller skips the test.
fn cgroup_file(pid: i32, controller: &str, file: &str) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        names
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    });
    let base = hierarchies()?.into_iter().find(|base| {
        let name = base.file_name().unwrap_or_default().to_string_lossy();
        name.split(',').any(|name| name == controller)
    });
    let (Some(path), Some(base)) = (path, base) else {
        let why = format!("this machine has no cgroup v1 controller {controller}");
        return Err(anyhow::Error::new(Skip(why)));
    };
    let file = base.join(path.trim_start_matches('/')).join(file);
    let text =
        std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    Ok(text.trim().to_owned())
}
