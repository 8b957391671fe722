//! The runtime, by its command line: any OCI runtime will do.

use super::state_dirs::{State, make_dir};
use crate::error::{ResultExt, errno, with_hint};
use crate::linux::console;
use crate::sys::process::CStrings;
use crate::sys::spawn::{Helper, start_helper};
use anyhow::{Context, Result, anyhow};
use nix::fcntl::AT_FDCWD;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen as listen_on, socket,
};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

/// The program that `--runtime` or `MYDOCKER_RUNTIME` names; else `runtime` beside this program;
/// else `runtime` on PATH.
pub fn choose(flag: Option<&Path>) -> Result<PathBuf> {
    let named = flag
        .map(Path::to_owned)
        .or_else(|| std::env::var_os("MYDOCKER_RUNTIME").map(PathBuf::from))
        .filter(|path| !path.as_os_str().is_empty());
    if let Some(named) = named {
        if named.components().count() > 1 {
            let path = std::path::absolute(&named).context("make --runtime absolute")?;
            let found = path.exists().then_some(path);
            return found
                .with_context(|| format!("no runtime at {}", named.display()))
                .hint(NAME_ONE);
        }
        return on_path(&named)
            .with_context(|| format!("no runtime {} on PATH", named.display()))
            .hint(NAME_ONE);
    }
    if let Some(dir) = std::env::current_exe()
        .ok()
        .as_deref()
        .and_then(Path::parent)
    {
        let beside = dir.join("runtime");
        if beside.exists() {
            return Ok(beside);
        }
    }
    on_path(Path::new("runtime"))
        .context("no OCI runtime found")
        .hint("put the program `runtime` beside mydocker, or name one: --runtime PATH")
}

const NAME_ONE: &str = "--runtime and MYDOCKER_RUNTIME take a path, or a name on PATH";

const IS_IT_ONE: &str = "is it an OCI runtime? name another: --runtime PATH";

const NO_SCRIPT: &str =
    "a script needs a first line such as #!/bin/sh; --runtime PATH takes another runtime";

/// Where a program is.
pub(super) fn on_path(name: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A runtime with the place of its state.
#[derive(Debug, Clone)]
pub struct Runtime {
    program: PathBuf,
    root: PathBuf,
}

/// The standard streams of a container or of a program in it.
#[derive(Debug)]
pub struct Streams {
    /// Standard input; /dev/null if there is none.
    pub stdin: Option<OwnedFd>,
    /// Standard output and standard error; /dev/null for both.
    pub outputs: Option<(OwnedFd, OwnedFd)>,
}

/// A listening socket that gets the master of a terminal.
#[derive(Debug)]
pub struct Console {
    /// Where the socket is, for us.
    file: PathBuf,
    /// The same for the runtime.
    path: PathBuf,
    listener: UnixListener,
    _dir: OwnedFd,
}

impl Console {
    /// Listens in the container's own directory, with which the socket goes if we are killed.
    pub fn listen(run_dir: &Path) -> Result<Console> {
        let name = format!("tty-{}", std::process::id());
        let (listener, dir) = listen(run_dir, &name)?;
        Ok(Console {
            file: run_dir.join(&name),
            path: path_of(dir.as_fd()).join(&name),
            listener,
            _dir: dir,
        })
    }

    /// The master, once the runtime has sent it.
    pub fn master(&self) -> Result<OwnedFd> {
        let socket = self.listener.accept().context("wait for the terminal")?.0;
        console::receive_fd(&socket)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

impl Streams {
    /// /dev/null for each, as for a container with a terminal.
    pub fn null() -> Streams {
        Streams {
            stdin: None,
            outputs: None,
        }
    }

    /// These descriptors; /dev/null for input if there is none.
    pub fn of(stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd) -> Streams {
        Streams {
            stdin,
            outputs: Some((stdout, stderr)),
        }
    }
}

impl Runtime {
    /// The runtime `program` with its state below the run directory.
    pub fn new(state: &State, program: &Path) -> Runtime {
        Runtime {
            program: program.to_owned(),
            root: state.runtime_root(),
        }
    }

    /// Whether it knows of the container, alive or not.
    pub fn has(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    /// `create`: the container's namespaces, mounts and cgroup, and a terminal whose master is sent to
    /// `console`; its program waits for `start`.
    pub fn create(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        console: &Console,
    ) -> Result<()> {
        let first = [
            "create".as_ref(),
            "--console-socket".as_ref(),
            console.path.as_os_str(),
        ];
        self.make(&first, id, bundle, pid_file, Streams::null())
    }

    /// `run --detach`: as `create` and `start`, without a terminal, in one process less. The program may
    /// have ended already; the container stays until `delete`.
    pub fn run_detached(
        &self,
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        streams: Streams,
    ) -> Result<()> {
        let first = ["run", "--detach"].map(OsStr::new);
        self.make(&first, id, bundle, pid_file, streams)
    }

    fn make(
        &self,
        first: &[&OsStr],
        id: &str,
        bundle: &Path,
        pid_file: &Path,
        streams: Streams,
    ) -> Result<()> {
        let rest: [&OsStr; 5] = [
            "--bundle".as_ref(),
            bundle.as_ref(),
            "--pid-file".as_ref(),
            pid_file.as_ref(),
            id.as_ref(),
        ];
        self.run(&[first, &rest].concat(), streams)?;
        self.has_made(pid_file)
    }

    /// What ended well may have been no OCI runtime all the same.
    fn has_made(&self, pid_file: &Path) -> Result<()> {
        let made = pid_file.exists().then_some(());
        made.with_context(|| format!("{} has made no process", self.program.display()))
            .hint(IS_IT_ONE)
    }

    /// `start`.
    pub fn start(&self, id: &str) -> Result<()> {
        self.run(&["start".as_ref(), id.as_ref()], Streams::null())
    }

    /// `exec --detach`: the new program becomes a child of this process if that is a subreaper.
    pub fn exec(
        &self,
        id: &str,
        process: &Path,
        pid_file: &Path,
        console: Option<&Console>,
        streams: Streams,
    ) -> Result<()> {
        let mut args: Vec<&OsStr> = vec![
            "exec".as_ref(),
            "--detach".as_ref(),
            "--process".as_ref(),
            process.as_ref(),
            "--pid-file".as_ref(),
            pid_file.as_ref(),
        ];
        if let Some(console) = console {
            args.extend(["--tty", "--console-socket"].map(OsStr::new));
            args.push(console.path.as_os_str());
        }
        args.push(id.as_ref());
        self.run(&args, streams)?;
        self.has_made(pid_file)
    }

    /// `delete --force`: kills what is left and removes the cgroup. A container that the runtime
    /// does not know is no error.
    pub fn delete(&self, id: &str) -> Result<()> {
        self.begin_delete(id)?.finish()
    }

    /// [`Runtime::delete`], which goes on until [`Call::finish`].
    pub(super) fn begin_delete(&self, id: &str) -> Result<Call> {
        if !self.has(id) {
            return Ok(Call(None));
        }
        let args = ["delete".as_ref(), "--force".as_ref(), id.as_ref()];
        self.begin(&args, Streams::null())
    }

    /// `pause`, `resume`: one verb with the id.
    pub fn simple(&self, verb: &str, id: &str) -> Result<()> {
        self.run(&[verb.as_ref(), id.as_ref()], Streams::null())
    }

    /// `update`: other limits for a container that lives.
    pub fn update(&self, id: &str, resources: &serde_json::Value) -> Result<()> {
        let file = memfd_create(c"resources", MFdFlags::MFD_CLOEXEC)
            .map(File::from)
            .context("make a file for the limits")?;
        serde_json::to_writer(&file, resources).context("write the limits")?;
        let path = path_of(file.as_fd());
        self.run(
            &[
                "update".as_ref(),
                "--resources".as_ref(),
                path.as_ref(),
                id.as_ref(),
            ],
            Streams::null(),
        )
    }

    fn run(&self, args: &[&OsStr], streams: Streams) -> Result<()> {
        self.begin(args, streams)?.finish()
    }

    /// Starts it with its errors in a log file of its own, since the standard streams may be the
    /// container's. The file is in memory: nothing is left of it when we are killed.
    fn begin(&self, args: &[&OsStr], streams: Streams) -> Result<Call> {
        make_dir(&self.root)?;
        let log = memfd_create(c"runtime-log", MFdFlags::MFD_CLOEXEC)
            .context("make a file for the runtime's errors")?;
        let log_path = path_of(log.as_fd());
        let first = [
            self.program.as_os_str(),
            "--root".as_ref(),
            self.root.as_os_str(),
            "--log".as_ref(),
            log_path.as_os_str(),
            "--log-format".as_ref(),
            "json".as_ref(),
        ];
        let helper = self.spawn(first.iter().chain(args), &streams);
        let helper = helper.map_err(|error| {
            let (error, hint) = match errno(&error) {
                Some(libc::ENOEXEC) => (anyhow!("it is neither a program nor a script"), NO_SCRIPT),
                _ => (error, IS_IT_ONE),
            };
            let error = error.context(format!("run {}", self.program.display()));
            with_hint(error, hint)
        })?;
        Ok(Call(Some(Going {
            program: self.program.clone(),
            log: log.into(),
            helper,
        })))
    }

    /// It goes when we are killed: whoever then takes the container over must not
    /// find it still growing (its `delete` waits for the lock that the dying one has). A Ctrl-C is for
    /// the container; half a `create` helps nobody.
    fn spawn<'a>(
        &self,
        args: impl Iterator<Item = &'a &'a OsStr>,
        streams: &Streams,
    ) -> Result<Helper> {
        let program = CString::new(self.program.as_os_str().as_bytes())?;
        let args = args.map(|arg| CString::new(arg.as_bytes()));
        let args = CStrings::new(args.collect::<Result<_, _>>()?);
        // Of whoever has started us: the runtime would make `start` wait for sd_notify(3).
        let env = CStrings::of_environment_without("NOTIFY_SOCKET")?;
        let empty = File::open("/dev/null").context("open /dev/null")?;
        let nowhere = File::options().write(true).open("/dev/null");
        let nowhere = nowhere.context("open /dev/null")?;
        let stdin = streams.stdin.as_ref().map_or(empty.as_fd(), AsFd::as_fd);
        let (stdout, stderr) = match &streams.outputs {
            Some((stdout, stderr)) => (stdout.as_fd(), stderr.as_fd()),
            None => (nowhere.as_fd(), nowhere.as_fd()),
        };
        Ok(start_helper(
            &program,
            &args,
            &env,
            [stdin, stdout, stderr],
        )?)
    }
}

/// A call of the runtime that was begun; nothing if there was nothing to do.
#[derive(Debug)]
#[must_use = "it is to be finished"]
pub(super) struct Call(Option<Going>);

#[derive(Debug)]
struct Going {
    program: PathBuf,
    log: File,
    helper: Helper,
}

impl Call {
    /// Waits for its end.
    pub(super) fn finish(self) -> Result<()> {
        let Some(mut going) = self.0 else {
            return Ok(());
        };
        let name = going.program.display();
        let status = going.helper.wait().with_context(|| format!("run {name}"))?;
        if status.success() {
            return Ok(());
        }
        let mut text = String::new();
        let _ = going.log.read_to_string(&mut text);
        let (cause, hint) = cause(&text).unwrap_or_else(|| {
            let hint = Some(IS_IT_ONE.to_owned());
            (format!("{name} ended without a message ({status})"), hint)
        });
        let error = anyhow!(cause.clone());
        match hint.or_else(|| fallback(&cause).map(str::to_owned)) {
            Some(hint) => Err(error).hint(hint),
            None => Err(error),
        }
    }
}

/// Makes a listening socket in a directory, in the place of an old one; and a descriptor of the
/// directory. The path of a socket may not be longer than 107 bytes (unix(7)): ours begins with that
/// descriptor. Only its owner may connect, whatever the umask.
pub(super) fn listen(dir: &Path, name: &str) -> Result<(UnixListener, OwnedFd)> {
    let what = || format!("make the socket {}", dir.join(name).display());
    let _ = std::fs::remove_file(dir.join(name));
    let dir = OwnedFd::from(File::open(dir).with_context(what)?);
    let path = path_of(dir.as_fd()).join(name);
    let only_ours = Mode::S_IRUSR | Mode::S_IWUSR;
    let bound = || -> nix::Result<OwnedFd> {
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        // The file gets the mode of the socket, less the umask: it is never open to others.
        fchmod(&fd, only_ours)?;
        bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
        fchmodat(AT_FDCWD, &path, only_ours, FchmodatFlags::FollowSymlink)?;
        listen_on(&fd, Backlog::MAXCONN)?;
        Ok(fd)
    };
    let fd = bound()
        .with_context(what)
        .hint("the run directory (MYDOCKER_RUN) must be writable")?;
    Ok((UnixListener::from(fd), dir))
}

/// The hint for a cause that came without one. Our callers know what to do about a program that is
/// not there; the rest is the machine's or the runtime's.
fn fallback(cause: &str) -> Option<&'static str> {
    let words = "these are the words of the OCI runtime; --runtime PATH takes another";
    code_of(cause).is_none().then_some(words)
}

/// One of our descriptors, as a path for another process.
pub(super) fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        fd.as_raw_fd()
    ))
}

/// The last error of a runtime's JSON log, and its hint.
fn cause(log: &str) -> Option<(String, Option<String>)> {
    let entries = log
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut found = None;
    for entry in entries {
        let level = entry["level"].as_str().unwrap_or_default();
        if !matches!(level, "error" | "fatal" | "panic") {
            continue;
        }
        if let Some(message) = entry["msg"].as_str() {
            let hint = entry["hint"].as_str().map(str::to_owned);
            found = Some((readable(message), hint));
        }
    }
    found
}

/// runc wraps the cause in its own steps; the last of them says what happened.
fn readable(message: &str) -> String {
    message
        .trim()
        .trim_start_matches("runc create failed: ")
        .trim_start_matches("runc run failed: ")
        .trim_start_matches("exec failed: ")
        .trim_start_matches("unable to start container process: ")
        .to_owned()
}

/// The exit code for a program that could not be run: 127 if it is not there, 126 if it cannot be
/// executed, by the runtime's message; `None` if something else failed.
pub fn code_of(message: &str) -> Option<i32> {
    let text = message.to_lowercase();
    let about_program = text.contains("exec") || text.contains("not found");
    if !about_program {
        return None;
    }
    if text.contains("not found") || text.contains("no such file") {
        return Some(127);
    }
    let cannot = [
        "permission denied",
        "exec format error",
        "is a directory",
        "not executable",
    ];
    cannot.iter().any(|part| text.contains(part)).then_some(126)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_cause() {
        for verb in ["create", "run"] {
            let error = format!(
                "runc {verb} failed: unable to start container process: exec: \"x\": executable file \
                 not found in $PATH"
            );
            let error = serde_json::json!({"level": "error", "msg": error});
            let log = format!("{{\"level\":\"warning\",\"msg\":\"w\"}}\nnot json\n{error}\n");
            let (text, hint) = cause(&log).unwrap();
            assert_eq!(text, "exec: \"x\": executable file not found in $PATH");
            assert_eq!(code_of(&text), Some(127));
            assert_eq!(hint, None);
        }
        assert_eq!(cause(""), None);
    }

    #[test]
    fn codes_follow_the_reason() {
        assert_eq!(code_of("exec /etc/passwd: permission denied"), Some(126));
        assert_eq!(
            code_of("exec: \"/x\": no such file or directory"),
            Some(127)
        );
        assert_eq!(code_of("mount proc: permission denied"), None);
        assert!(fallback("mount proc: permission denied").is_some());
        assert_eq!(fallback("exec /etc/passwd: permission denied"), None);
    }
}
