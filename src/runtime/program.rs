//! The last steps before the user's program, the same for init and for `exec`: limits, rights,
//! user, directory, executable, execve(2).

use super::sync::{Channel, Favour, FromInit, Go};
use crate::error::{ResultExt, with_exit_code, with_hint};
use crate::linux::{caps::Caps, fds, lsm, rlimits, sched, seccomp, sysctl::Procfs, user};
use crate::sys::process::{self, CStrings, prctl};
use crate::sys::user::capget;
use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, SFlag, stat, umask};
use nix::unistd::{AccessFlags, chdir, faccessat};
use oci_spec::runtime::{LinuxMemoryPolicy, LinuxPersonality, Process};
use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is needed to become the program.
#[derive(Debug)]
pub struct Program<'a> {
    /// `process` of the spec, or the process of `exec`.
    pub process: &'a Process,
    /// The compiled seccomp profile.
    pub seccomp: Option<&'a seccomp::Filter>,
    /// `linux.personality`.
    pub personality: Option<&'a LinuxPersonality>,
    /// `linux.memoryPolicy`.
    pub memory_policy: Option<&'a LinuxMemoryPolicy>,
    /// The process is not in the machine's first user namespace.
    pub in_user_namespace: bool,
    /// Descriptors from 3 on that the program gets.
    pub preserve_fds: u32,
    /// How many of those are sockets of systemd's kind (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// The additional groups of the runtime's caller stay, instead of those of the process.
    pub keeps_groups: bool,
}

/// A process with all of the program's attributes, one execve(2) away from it.
#[derive(Debug)]
pub struct Ready<'a> {
    path: CString,
    args: CStrings,
    env: CStrings,
    /// Loaded at the very last: a profile need not allow what we do before.
    seccomp: Option<&'a seccomp::Filter>,
}

impl<'a> Program<'a> {
    /// Takes on every attribute of the program but its image.
    pub fn take_on(self, channel: &Channel) -> Result<Ready<'a>> {
        let process = self.process;
        self.limit(channel)?;
        if process.no_new_privileges().unwrap_or(false) {
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).context("set no_new_privs")?;
        }
        if process.apparmor_profile().is_some() || process.selinux_label().is_some() {
            let procfs = Procfs::open(Path::new("/proc"))?;
            lsm::apply_on_exec(process, |name, text| procfs.write(name, text))?;
        }
        // As root first: the user may lack the right to pass a directory above it. What root
        // cannot enter, the user may (a FUSE or NFS mount).
        let entered = chdir(process.cwd());
        // And looked at before the filter, which may refuse to tell.
        if entered.is_ok() {
            check_inside(process.cwd())?;
        }
        let caps = Caps::new(process.capabilities().as_ref());
        caps.limit_bounding()?;
        let (caps, lost) = caps.grantable(capget().context("capget")?);
        if !lost.is_empty() {
            // With the answer that capset(2) gives to who asks for them.
            channel.send(&FromInit::Odd(format!(
                "process.capabilities: ignoring unknown or unavailable capabilities: [{}]: {}",
                lost.join(" "),
                Errno::EPERM.desc()
            )))?;
        }
        // Before the filter, which may refuse close_range(2). What is opened later closes by itself.
        fds::close_on_exec_above(self.preserve_fds)?;
        let mut seccomp = self.seccomp;
        // Without no_new_privs loading a filter needs CAP_SYS_ADMIN, which may be about to go.
        if let Some(filter) = seccomp
            && !process.no_new_privileges().unwrap_or(false)
            && caps.sets.effective & CAP_SYS_ADMIN == 0
        {
            load_seccomp(filter, channel)?;
            seccomp = None;
        }
        user::become_user(process.user(), self.keeps_groups)?;
        caps.apply()?;
        umask(Mode::from_bits_truncate(
            process.user().umask().unwrap_or(0o022),
        ));
        enter_directory(process.cwd(), entered)?;
        let env = environment(process, self.listen_fds)?;
        let args = process.args().as_deref().unwrap_or_default();
        let path = match args.first() {
            Some(name) => executable(name, path_variable(&env))?,
            // It waits for ever: there is nothing to start.
            None => CString::default(),
        };
        // The agent gets the descriptor from the runtime, which is gone after `create`.
        if let Some(filter) = seccomp.filter(|filter| filter.needs_listener()) {
            load_seccomp(filter, channel)?;
            seccomp = None;
        }
        Ok(Ready {
            path,
            args: strings("process.args", args)?,
            env: strings("process.env", &env)?,
            seccomp,
        })
    }

    /// Limits and scheduling, while the process still has the rights to set them.
    fn limit(&self, channel: &Channel) -> Result<()> {
        let process = self.process;
        if let Some(limits) = process
            .rlimits()
            .as_deref()
            .filter(|limits| !limits.is_empty())
        {
            if self.in_user_namespace {
                channel.ask(Favour::Limits)?;
            } else {
                rlimits::apply(0, limits)?;
            }
            // Whoever starts it comes through a descriptor. Asked for before the filter, which may
            // refuse to tell.
            open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
                .context("keep a descriptor free for `start`")
                .hint("the limit on open files (RLIMIT_NOFILE) is too low: 16 are enough")?;
        }
        if let Some(scheduler) = process.scheduler() {
            sched::set_scheduler(scheduler)?;
        }
        if let Some(priority) = process.io_priority() {
            sched::set_io_priority(priority)?;
        }
        if let Some(policy) = self.memory_policy {
            sched::set_memory_policy(policy)?;
        }
        if let Some(personality) = self.personality {
            sched::set_personality(personality)?;
        }
        Ok(())
    }
}

const CAP_SYS_ADMIN: u64 = 1 << 21;

impl Ready<'_> {
    /// Becomes the program. Returns only with an error.
    pub fn exec(&self) -> Result<Infallible> {
        process::reset_signals();
        if let Some(filter) = self.seccomp {
            seccomp::load(filter)?;
        }
        let error = process::execve(&self.path, &self.args, &self.env);
        let name = self.path.to_string_lossy().into_owned();
        Err(exec_error(&name, error))
    }
}

/// Loads the filter, and hands its listener over when it has one.
fn load_seccomp(filter: &seccomp::Filter, channel: &Channel) -> Result<()> {
    if let Some(listener) = seccomp::load(filter)? {
        channel.send_with(&FromInit::Listener, Some(listener.as_fd()))?;
        channel.expect(Go::Listener)?;
    }
    Ok(())
}

fn enter_directory(cwd: &Path, entered: nix::Result<()>) -> Result<()> {
    if entered.is_err() {
        chdir(cwd)
            .with_context(|| format!("process.cwd: enter {}", cwd.display()))
            .hint(
                "the directory must exist in the container, and the user must be able to enter it",
            )?;
        check_inside(cwd)?;
    }
    Ok(())
}

fn check_inside(cwd: &Path) -> Result<()> {
    // A descriptor of the host's could have been smuggled in as /proc/self/fd/N: then the kernel
    // calls the directory unreachable (CVE-2024-21626).
    let here = nix::unistd::getcwd().context("process.cwd: getcwd")?;
    if !here.is_absolute() {
        bail!("process.cwd: {} is outside of the container", cwd.display());
    }
    Ok(())
}

/// The environment of the program: the spec's, `HOME` from /etc/passwd when it has none or an empty
/// one, and sd_listen_fds(3)'s variables.
fn environment(process: &Process, listen_fds: u32) -> Result<Vec<String>> {
    let mut env = process.env().clone().unwrap_or_default();
    env.retain(|entry| entry != "HOME=");
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(process.user().uid())));
    }
    if listen_fds > 0 {
        env.push(format!("LISTEN_FDS={listen_fds}"));
        env.push(format!("LISTEN_PID={}", std::process::id()));
    }
    Ok(env)
}

/// The home directory of a user by the container's /etc/passwd (passwd(5)), or `/`.
fn home(uid: u32) -> String {
    let passwd = beginning("/etc/passwd").unwrap_or_default();
    String::from_utf8_lossy(&passwd)
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 6 && fields[2].parse() == Ok(uid))
        .map(|fields| fields[5].to_owned())
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

/// The beginning of a file of the image, if it is a file: a fifo would be waited for, and a device
/// may have no end.
fn beginning(path: &str) -> Option<Vec<u8>> {
    const ENOUGH: u64 = 1 << 20;
    let mut options = std::fs::File::options();
    options
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    if !stat(path).is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFREG) {
        return None;
    }
    let mut bytes = Vec::new();
    let file = options.open(path).ok()?;
    file.take(ENOUGH).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What execvp(3) falls back on.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

fn path_variable(env: &[String]) -> &str {
    // As getenv(3), the first one counts.
    env.iter()
        .find_map(|entry| entry.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH)
}

/// The file that `name` stands for, looked up as execvp(3) does. The texts of the errors are those
/// by which Docker and Podman tell exit code 127 from 126.
fn executable(name: &str, path: &str) -> Result<CString> {
    if name.is_empty() {
        bail!("process.args[0]: it is empty");
    }
    if name.contains('/') {
        check_executable(Path::new(name)).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => not_found(anyhow!(
                "exec: {name:?}: stat {name}: no such file or directory"
            )),
            errno => not_executable(name, errno),
        })?;
        return Ok(CString::new(name)?);
    }
    let mut denied = None;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate: PathBuf = Path::new(dir).join(name);
        match check_executable(&candidate) {
            Ok(()) => return Ok(CString::new(candidate.as_os_str().as_bytes())?),
            Err(Errno::EACCES | Errno::EISDIR) => denied = denied.or(Some(Errno::EACCES)),
            Err(_) => {}
        }
    }
    match denied {
        Some(errno) => Err(not_executable(name, errno)),
        None => Err(with_hint(
            not_found(anyhow!(
                "exec: {name:?}: executable file not found in $PATH"
            )),
            format!("PATH in the container is {path}"),
        )),
    }
}

fn check_executable(path: &Path) -> nix::Result<()> {
    let found = stat(path)?;
    match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Err(Errno::EISDIR),
        SFlag::S_IFREG => faccessat(
            nix::fcntl::AT_FDCWD,
            path,
            AccessFlags::X_OK,
            AtFlags::AT_EACCESS,
        )
        .or_else(|errno| judge_by_mode(errno, found.st_mode)),
        _ => Err(Errno::EACCES),
    }
}

/// A seccomp profile that is older than faccessat2(2) answers EPERM in the kernel's place (a file
/// system says EACCES). Then the mode has to do, and execve(2) has the last word.
fn judge_by_mode(errno: Errno, mode: libc::mode_t) -> nix::Result<()> {
    match errno {
        Errno::EPERM | Errno::ENOSYS if mode & 0o111 != 0 => Ok(()),
        Errno::EPERM | Errno::ENOSYS => Err(Errno::EACCES),
        other => Err(other),
    }
}

fn not_found(error: Error) -> Error {
    with_exit_code(error, 127)
}

fn not_executable(name: &str, errno: Errno) -> Error {
    let why = match errno {
        Errno::EISDIR => "is a directory: permission denied",
        Errno::EACCES | Errno::EPERM => "permission denied",
        other => return with_exit_code(anyhow!("exec: {name:?}: {}", other.desc()), 126),
    };
    denied(name, anyhow!("exec: {name:?}: {why}"))
}

/// With what denies it: a directory on the way, or the file itself.
fn denied(path: &str, error: Error) -> Error {
    let (path, may) = (Path::new(path), |path: &Path| {
        let flags = AtFlags::AT_EACCESS;
        faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, flags)
    });
    let ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    let closed = ancestors
        .into_iter()
        .rev()
        .find(|dir| !dir.as_os_str().is_empty() && may(dir) == Err(Errno::EACCES));
    let hint = match closed {
        Some(dir) => format!("the user may not pass the directory {}", dir.display()),
        None if path.is_dir() => "name a program, not a directory".to_owned(),
        None => "it is not executable for the user, or on a file system mounted noexec".to_owned(),
    };
    with_exit_code(with_hint(error, hint), 126)
}

/// Why execve(2) failed, with what can be seen of the file.
fn exec_error(path: &str, error: std::io::Error) -> Error {
    let base = |why: &str| anyhow!("exec {path}: {why}");
    match error.raw_os_error() {
        Some(libc::ENOENT) => match interpreter(path) {
            Some(interpreter) => with_hint(
                not_found(base(&format!(
                    "its interpreter {interpreter} is missing: no such file or directory"
                ))),
                format!("install {interpreter} in the image, or use a static program"),
            ),
            None => not_found(base("no such file or directory")),
        },
        Some(libc::ENOEXEC) => {
            let hint = match beginning(path).as_deref().and_then(architecture) {
                Some(other) => format!(
                    "it is a program for {other}, and this machine is {}",
                    std::env::consts::ARCH
                ),
                None => "it is no program; a script needs a first line such as #!/bin/sh".into(),
            };
            with_exit_code(with_hint(base("exec format error"), hint), 126)
        }
        Some(libc::EACCES) => denied(path, base("permission denied")),
        _ => with_exit_code(
            anyhow::Error::new(error).context(format!("exec {path}")),
            126,
        ),
    }
}

/// The interpreter that a file asks for: of a script by its `#!` line, of an ELF file by PT_INTERP.
fn interpreter(path: &str) -> Option<String> {
    let bytes = beginning(path)?;
    if let Some(rest) = bytes.strip_prefix(b"#!") {
        let line = rest.split(|b| *b == b'\n').next()?;
        let text = String::from_utf8_lossy(line);
        return text.split_whitespace().next().map(str::to_owned);
    }
    elf_interpreter(&bytes)
}

/// What machine an ELF file is for, by its e_machine (elf(5)).
fn architecture(bytes: &[u8]) -> Option<String> {
    let field = <[u8; 2]>::try_from(bytes.get(18..20)?).ok()?;
    let machine = match bytes.strip_prefix(b"\x7fELF")?.get(1)? {
        2 => u16::from_be_bytes(field),
        _ => u16::from_le_bytes(field),
    };
    let name = match machine {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        258 => "loongarch",
        other => return Some(format!("the machine of number {other} in ELF")),
    };
    Some(name.to_owned())
}

/// PT_INTERP of a 64-bit little-endian ELF file (elf(5)).
fn elf_interpreter(bytes: &[u8]) -> Option<String> {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, size: usize| -> Option<u64> {
        let field = bytes.get(at..at + size)?;
        Some(field.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    };
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count) = (
        number(32, 8)? as usize,
        number(54, 2)? as usize,
        number(56, 2)? as usize,
    );
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if number(header, 4)? == PT_INTERP {
            let offset = number(header + 8, 8)? as usize;
            let length = number(header + 32, 8)? as usize;
            let text = bytes.get(offset..offset.checked_add(length)?)?;
            let text = text.split(|b| *b == 0).next()?;
            return Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    None
}

fn strings(what: &str, list: &[impl AsRef<OsStr>]) -> Result<CStrings> {
    let strings = list
        .iter()
        .enumerate()
        .map(|(index, text)| {
            CString::new(text.as_ref().as_bytes())
                .with_context(|| format!("{what}[{index}]: it holds a null byte"))
        })
        .collect::<Result<_>>()?;
    Ok(CStrings::new(strings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{exit_code, message};

    #[test]
    fn lookups_say_what_docker_reads() {
        let error = executable("no-such-program", "/bin:/usr/bin").unwrap_err();
        assert_eq!(
            message(&error),
            r#"exec: "no-such-program": executable file not found in $PATH"#
        );
        assert_eq!(exit_code(&error), Some(127));
        let error = executable("/no/such", "").unwrap_err();
        assert!(message(&error).ends_with("no such file or directory"));
        assert_eq!(exit_code(&error), Some(127));
        let error = executable("/etc", "").unwrap_err();
        assert!(message(&error).contains("permission denied"));
        assert_eq!(exit_code(&error), Some(126));
        let error = executable("/etc/passwd", "").unwrap_err();
        assert_eq!(exit_code(&error), Some(126));
        assert_eq!(
            executable("sh", "/no:/bin").unwrap().to_str(),
            Ok("/bin/sh")
        );
    }

    #[test]
    fn a_refused_call_is_no_verdict_on_the_file() {
        assert_eq!(judge_by_mode(Errno::EPERM, 0o100755), Ok(()));
        assert_eq!(judge_by_mode(Errno::ENOSYS, 0o100001), Ok(()));
        assert_eq!(judge_by_mode(Errno::EPERM, 0o100644), Err(Errno::EACCES));
        assert_eq!(judge_by_mode(Errno::EACCES, 0o100755), Err(Errno::EACCES));
    }

    #[test]
    fn interpreters_are_found() {
        assert!(interpreter("/bin/ls").unwrap().contains("ld-linux"));
        assert_eq!(interpreter("/bin/busybox"), None);
    }
}
