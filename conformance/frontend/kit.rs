//! A desk to work at: an own state of mydocker in an own directory, commands run there with
//! nothing of the caller's (environment, terminal, input), and what they said.

use crate::place::write_program;
use anyhow::{Context, Result, bail, ensure};
use containers::sys::process::pidfd_open;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take before it counts as hung. Nothing passes or fails by being faster.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// Where a row is run.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The program under test.
    pub(crate) mydocker: PathBuf,
    /// The OCI runtime it shall use; its own choice if `None`.
    pub(crate) runtime: Option<PathBuf>,
    /// Whether to find out what a runtime does even where it is known to fail (clauses/).
    pub(crate) measure: bool,
    /// An empty directory of this row's own.
    pub(crate) dir: PathBuf,
}

/// What is not there on this machine, as an error that is no failure.
#[derive(Debug)]
pub(crate) struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Why a runtime is known to fail a test, as the context of its failure.
#[derive(Debug)]
pub(crate) struct Known(pub String);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "known: {}", self.0)
    }
}

/// Ends the row as skipped.
pub(crate) fn skip<T>(why: impl Into<String>) -> Result<T> {
    Err(anyhow::Error::new(Skip(why.into())))
}

/// A command that has ended.
#[derive(Clone)]
pub(crate) struct Done {
    /// The arguments, for messages.
    pub(crate) what: String,
    /// The exit code; 128 + n for signal n.
    pub(crate) code: i32,
    /// Standard output; with a terminal, all output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`mydocker {}` → {}, stdout {:?}, stderr {:?}",
            self.what, self.code, self.out, self.err
        )
    }
}

impl Done {
    /// It must have ended with this code.
    pub(crate) fn code(self, code: i32) -> Result<Done> {
        ensure!(self.code == code, "expected exit code {code}: {self:?}");
        Ok(self)
    }

    /// It must have succeeded.
    pub(crate) fn ok(self) -> Result<Done> {
        self.code(0)
    }

    /// Its standard output without the newline at the end.
    pub(crate) fn line(&self) -> &str {
        self.out.trim_end_matches(['\r', '\n'])
    }

    /// Standard output must be this line.
    pub(crate) fn says(self, line: &str) -> Result<Done> {
        ensure!(
            self.out == format!("{line}\n"),
            "expected {line:?}: {self:?}"
        );
        Ok(self)
    }

    /// It must have failed with this code and an error that holds these words: the line
    /// `mydocker: what: why` and the line `hint: …`, and nothing on standard output.
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Result<Done> {
        let done = self.code(code)?;
        ensure!(done.out.is_empty(), "stdout must be empty: {done:?}");
        let error = done.err.lines().find(|line| line.starts_with("mydocker: "));
        let Some(error) = error else {
            bail!("no line `mydocker: …`: {done:?}");
        };
        for word in words {
            ensure!(
                error.contains(word) || done.err.contains(word),
                "the error does not say {word:?}: {done:?}"
            );
        }
        ensure!(
            done.err.lines().any(|line| line.starts_with("hint: ")),
            "no line `hint: …`: {done:?}"
        );
        Ok(done)
    }
}

/// Output that a thread collects until its end.
#[derive(Debug)]
pub(crate) struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    over: Arc<AtomicBool>,
    end: Receiver<()>,
}

impl Collected {
    /// Starts to read.
    pub(crate) fn from(mut source: impl Read + Send + 'static) -> Collected {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (tell, end) = channel();
        let shared = Arc::clone(&bytes);
        let over = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut buffer = [0u8; 4096];
            // The master of a terminal ends with EIO.
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if let Ok(mut bytes) = shared.lock() {
                    bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
                }
            }
            set.store(true, Ordering::SeqCst);
            let _ = tell.send(());
        });
        Collected { bytes, over, end }
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> String {
        match self.bytes.lock() {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Whether nothing more can come.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Everything, once the other side has closed it.
    pub(crate) fn all(&self) -> Result<String> {
        if self.end.recv_timeout(DEADLINE).is_err() {
            bail!(
                "somebody holds the output open; so far: {:?}",
                self.so_far()
            );
        }
        Ok(self.so_far())
    }
}

/// What a process has open.
pub(crate) fn opened(pid: i32) -> Result<Vec<PathBuf>> {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
    Ok(links
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .collect())
}

/// Whether a process is in a system call.
pub(crate) fn is_in(pid: i32, syscall: i64) -> Result<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/syscall"))?;
    Ok(text.split(' ').next().unwrap_or_default().parse() == Ok(syscall))
}

/// Waits until a process has ended, and kills it when it does not.
pub(crate) fn ended(pid: i32, what: &str) -> Result<()> {
    let fd = match pidfd_open(pid) {
        Ok(fd) => fd,
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("pidfd of {what}")),
    };
    let end = Instant::now() + DEADLINE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) => {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                bail!("{what} did not end within {DEADLINE:?}");
            }
            Ok(_) => return Ok(()),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

/// 128 + n for signal n.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Asks again until there is an answer. For states that the kernel gives no event for.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        ensure!(
            Instant::now() < end,
            "still not so after {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// An own state of mydocker. Dropping it removes its containers.
#[derive(Debug)]
pub(crate) struct Desk {
    place: Place,
}

impl Desk {
    /// Sits down in the directory of `place`.
    pub(crate) fn new(place: &Place) -> Result<Desk> {
        for dir in ["home", "tmp"] {
            let path = place.dir.join(dir);
            std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(Desk {
            place: place.clone(),
        })
    }

    /// A path in the row's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.dir.join(name)
    }

    /// The same as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// mydocker's directory of images and containers.
    pub(crate) fn root(&self) -> PathBuf {
        self.path("lib")
    }

    /// The file that holds what mydocker knows of a container.
    pub(crate) fn record(&self, id: &str) -> Result<PathBuf> {
        let dir = self.root().join("containers").join(id);
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let present = dir.join(format!("record.{}.json", boot.trim()));
        Ok(match present.exists() {
            true => present,
            false => dir.join("record.json"),
        })
    }

    /// mydocker's directory of what is alive.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// The program under test.
    pub(crate) fn program(&self) -> &Path {
        &self.place.mydocker
    }

    /// The OCI runtime that it uses.
    pub(crate) fn runtime(&self) -> PathBuf {
        let beside = self.place.mydocker.with_file_name("runtime");
        self.place.runtime.clone().unwrap_or(beside)
    }

    /// A command with an environment of its own and no input.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("MYDOCKER_ROOT", self.root())
            .env("MYDOCKER_RUN", self.run_dir())
            .current_dir(&self.place.dir)
            .stdin(Stdio::null());
        if let Some(runtime) = &self.place.runtime {
            command.env("MYDOCKER_RUNTIME", runtime);
        }
        // A shell that starts the tests in the background has them ignore SIGINT.
        containers::sys::process::before_exec(&mut command, || {
            containers::sys::process::reset_signals();
        });
        command
    }

    /// Runs mydocker with /dev/null as its input.
    pub(crate) fn go(&self, args: &[&str]) -> Result<Done> {
        self.go_with(args, "")
    }

    /// Runs mydocker with this input from a pipe (/dev/null if empty).
    pub(crate) fn go_with(&self, args: &[&str], input: &str) -> Result<Done> {
        let mut command = self.command(&self.place.mydocker);
        command.args(args);
        finish(&mut command, &args.join(" "), input)
    }

    /// Runs mydocker from a shell that has done something before: `umask 077`.
    pub(crate) fn go_after(&self, first: &str, args: &[&str]) -> Result<Done> {
        let mut command = self.command(Path::new("/bin/sh"));
        command.args(["-c", &format!("{first}; exec \"$@\""), "sh"]);
        command.arg(self.program()).args(args);
        finish(&mut command, &args.join(" "), "")
    }

    /// `run -d` with these further arguments: the id.
    pub(crate) fn start(&self, args: &[&str]) -> Result<String> {
        let mut all = vec!["run", "-d"];
        all.extend(args);
        let done = self.go(&all)?.ok()?;
        let id = done.line().to_owned();
        let hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(
            id.len() == 64 && hex && done.out == format!("{id}\n"),
            "the id and nothing else must be printed: {done:?}"
        );
        Ok(id)
    }

    /// `inspect -f`.
    pub(crate) fn inspect(&self, name: &str, template: &str) -> Result<String> {
        let done = self.go(&["inspect", "-f", template, name])?.ok()?;
        Ok(done.line().to_owned())
    }

    /// The first process of a running container by the host's count.
    pub(crate) fn pid(&self, name: &str) -> Result<i32> {
        let text = self.inspect(name, "{{.State.Pid}}")?;
        match text.parse() {
            Ok(pid) if pid > 0 => Ok(pid),
            _ => bail!("{name} has no pid but {text:?}"),
        }
    }

    /// The row of `ps` with this name, or `None`.
    pub(crate) fn row(&self, name: &str) -> Result<Option<String>> {
        let list = self.go(&["ps"])?.ok()?;
        let row = list
            .out
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some(name));
        Ok(row.map(str::to_owned))
    }

    /// The lines of `ps` below the header.
    pub(crate) fn rows(&self) -> Result<Vec<String>> {
        let list = self.go(&["ps"])?.ok()?;
        Ok(list.out.lines().skip(1).map(str::to_owned).collect())
    }

    /// Waits for the end of a container: its exit code.
    pub(crate) fn wait(&self, name: &str) -> Result<i32> {
        let done = self.go(&["wait", name])?.ok()?;
        let code = done.line().parse();
        code.with_context(|| format!("no exit code: {done:?}"))
    }

    /// Waits until the log of a container holds a line.
    pub(crate) fn logged(&self, name: &str, line: &str) -> Result<()> {
        wait_for(&format!("the log of {name} says {line:?}"), || {
            let done = self.go(&["logs", name])?.ok()?;
            let found = done
                .out
                .lines()
                .chain(done.err.lines())
                .any(|found| found == line);
            Ok(found.then_some(()))
        })
    }

    /// A bundle in the row's directory whose program is `args`.
    pub(crate) fn bundle(&self, args: &[&str]) -> Result<PathBuf> {
        let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
        let text = std::fs::read(home.join("hostname/config.json")).context("read a bundle")?;
        let mut config: serde_json::Value = serde_json::from_slice(&text)?;
        config["process"]["args"] = serde_json::json!(args);
        config["root"]["path"] = home.join("rootfs").display().to_string().into();
        let file = self.write("bundle/config.json", &config.to_string())?;
        Ok(file.with_file_name(""))
    }

    /// Makes a script in the row's directory.
    pub(crate) fn script(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        write_program(&path, text)?;
        Ok(path)
    }

    /// Makes a file in the row's directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let ids = match self.go(&["ps", "-aq", "--no-trunc"]) {
            Ok(done) if done.code == 0 => done.out,
            _ => String::new(),
        };
        let mut args = vec!["rm", "-f"];
        args.extend(ids.split_whitespace());
        if args.len() > 2 {
            let _ = self.go(&args);
        }
    }
}

/// Runs a command to its end and collects what it says.
pub(crate) fn finish(command: &mut Command, what: &str, input: &str) -> Result<Done> {
    // A process group of its own: whatever it signals, it is not us.
    command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("run {:?}", command.get_program()))?;
    let out = child.stdout.take().map(Collected::from);
    let err = child.stderr.take().map(Collected::from);
    let (Some(out), Some(err)) = (out, err) else {
        bail!("no pipes");
    };
    if let Some(mut stdin) = child.stdin.take() {
        // It may end without reading.
        let _ = stdin.write_all(input.as_bytes());
    }
    let waited = ended(child.id() as i32, what);
    let status = child.wait().context("wait")?;
    waited.with_context(|| format!("stdout {:?}, stderr {:?}", out.so_far(), err.so_far()))?;
    Ok(Done {
        what: what.to_owned(),
        code: code(status),
        out: out.all().with_context(|| what.to_owned())?,
        err: err.all().with_context(|| what.to_owned())?,
    })
}
