//! Runs a command under ptrace(2) and notes each system call by which it, or a process that it
//! starts, is about to change something; or kills the one that is about to make a chosen one.
//!
//! A process is named by its place in the tree (`0` the command, `0.2` its second child), a call by
//! its number in the process: in single-threaded programs both are the same in each run. What a
//! container runs is not ours: a process that executes another program is let go.

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first argument by which the test program runs itself as a tracer.
pub(crate) const VERB: &str = "--tracer";

/// In the place of a point: see [`main`].
pub(crate) const ALL: &str = "all";
pub(crate) const COMMAND: &str = "command";
/// Before a point, and after the name of a cgroup: see [`main`].
pub(crate) const SWEEP: char = '@';

/// A system call of a traced run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    pub(crate) process: String,
    pub(crate) number: usize,
    pub(crate) call: String,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.process, self.number, self.call)
    }
}

impl Point {
    pub(crate) fn parse(line: &str) -> Result<Point> {
        let mut words = line.split(' ');
        let (Some(process), Some(number), Some(call)) = (words.next(), words.next(), words.next())
        else {
            bail!("no point: {line:?}");
        };
        Ok(Point {
            process: process.to_owned(),
            number: number.parse().context("no number")?,
            call: call.to_owned(),
        })
    }
}

/// The main of the tracer: `--tracer FILE POINT PROGRAM ARGS…`. The points go to the file; with a
/// point, one line when it was reached; `all` is for those of the command and of all that it leaves
/// running, `command` for those until its end. What still runs then goes on untraced. `NAME@POINT` kills
/// nobody, but removes the cgroup of that name there, in each hierarchy in which it is empty.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [file, point, program, args @ ..] = args else {
        bail!("--tracer FILE POINT PROGRAM ARGS…");
    };
    let (swept, point) = match point.split_once(SWEEP) {
        Some((name, point)) => (Some(name.to_owned()), point),
        None => (None, point.as_str()),
    };
    let target = match point {
        ALL | COMMAND => None,
        text => Some(Point::parse(text)?),
    };
    // Seized, and not traced by its own wish: a child that is being born when we leave then goes on,
    // where it would keep the SIGSTOP that the other way sends it.
    let root = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh", program])
        .args(args)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .context("start the command")?;
    let root = Pid::from_raw(root.id() as i32);
    waitpid(root, Some(WaitPidFlag::WUNTRACED)).context("wait for the command")?;
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::seize(root, options).context("PTRACE_SEIZE")?;
    kill(root, Signal::SIGCONT).context("let the command go on")?;
    let mut tracer = Tracer {
        target,
        swept,
        to_the_last: point != COMMAND,
        root,
        root_ended: false,
        reached: false,
        tasks: BTreeMap::new(),
        early: Vec::new(),
        programs: [program.into(), Path::new(program).with_file_name("runtime")]
            .iter()
            .filter_map(|path: &PathBuf| identity(path))
            .collect(),
        points: Vec::new(),
    };
    tracer.run()?;
    let text: String = tracer.points.iter().map(|p| format!("{p}\n")).collect();
    std::fs::write(file, text).context("write the points")
}

/// Device and inode.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

#[derive(Debug)]
struct Task {
    name: String,
    calls: usize,
    children: usize,
    inside: bool,
}

impl Task {
    fn named(name: &str) -> Task {
        Task {
            name: name.to_owned(),
            calls: 0,
            children: 0,
            inside: false,
        }
    }
}

struct Tracer {
    target: Option<Point>,
    /// The cgroup to remove at the target.
    swept: Option<String>,
    /// Not over with the end of the command.
    to_the_last: bool,
    root: Pid,
    root_ended: bool,
    /// The point: all go on, on their own.
    reached: bool,
    tasks: BTreeMap<Pid, Task>,
    /// Stopped before their parents told of them.
    early: Vec<Pid>,
    /// Ours, by device and inode.
    programs: Vec<(u64, u64)>,
    points: Vec<Point>,
}

impl Tracer {
    fn run(&mut self) -> Result<()> {
        while !(self.root_ended && (self.reached || !self.to_the_last)) {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Err(nix::errno::Errno::ECHILD) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("waitpid"),
                Ok(status) => self.handle(status),
            }
        }
        Ok(())
    }

    fn handle(&mut self, status: WaitStatus) {
        match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                self.tasks.remove(&pid);
                self.root_ended |= pid == self.root;
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => self.executed(pid),
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_STOP)
                if pid != self.root && !self.tasks.contains_key(&pid) =>
            {
                self.early.push(pid);
            }
            WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_STOP) => self.go_on(pid, None),
            WaitStatus::PtraceEvent(pid, ..) => {
                self.born(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceSyscall(pid) => self.call(pid),
            WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
            _ => {}
        }
    }

    /// Continues a stopped task; after the point, on its own. It may be gone meanwhile.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let _ = match self.reached {
            true => ptrace::detach(pid, signal),
            false => ptrace::syscall(pid, signal),
        };
    }

    fn born(&mut self, parent: Pid) {
        let (Ok(child), Some(task)) = (ptrace::getevent(parent), self.tasks.get_mut(&parent))
        else {
            return;
        };
        task.children += 1;
        let name = format!("{}.{}", task.name, task.children);
        let child = Pid::from_raw(child as i32);
        self.tasks.insert(child, Task::named(&name));
        if let Some(at) = self.early.iter().position(|pid| *pid == child) {
            self.early.swap_remove(at);
            self.go_on(child, None);
        }
    }

    fn executed(&mut self, pid: Pid) {
        let link = PathBuf::from(format!("/proc/{pid}/exe"));
        let name = std::fs::read_link(&link).unwrap_or_default();
        // The runtime runs from a mount without a place, or from a sealed copy in memory, too.
        let ours = identity(&link).is_some_and(|found| self.programs.contains(&found))
            || name.to_string_lossy().starts_with("/memfd:runtime");
        if ours {
            // The shell that has become the command made no calls of ours. This one is not over yet.
            let command = Task {
                inside: true,
                ..Task::named("0")
            };
            if pid == self.root {
                self.tasks.entry(pid).or_insert(command);
            }
            return self.go_on(pid, None);
        }
        let _ = ptrace::detach(pid, None);
    }

    fn call(&mut self, pid: Pid) {
        let Some(task) = self.tasks.get_mut(&pid) else {
            return self.go_on(pid, None);
        };
        task.inside = !task.inside;
        if task.inside
            && let Some(call) = registers(pid).and_then(changing)
        {
            task.calls += 1;
            let point = Point {
                process: task.name.clone(),
                number: task.calls,
                call: call.to_owned(),
            };
            let meant =
                |target: &Point| (&target.process, target.number) == (&point.process, point.number);
            let reached = self.target.as_ref().is_some_and(meant);
            if reached || self.target.is_none() {
                self.points.push(point);
            }
            if reached {
                self.reached = true;
                if let Some(name) = &self.swept {
                    for hierarchy in crate::bundles::hierarchies().unwrap_or_default() {
                        let _ = std::fs::remove_dir(hierarchy.join(name));
                    }
                    return self.go_on(pid, None);
                }
                // The call that it stands before is not made.
                let _ = kill(pid, Signal::SIGKILL);
                return;
            }
            if call == "execve" && !nix::unistd::geteuid().is_root() && self.is_others(pid) {
                // newuidmap(1) would not get its rights.
                let _ = ptrace::detach(pid, None);
                return;
            }
        }
        self.go_on(pid, None);
    }

    /// Whether the program that a task stands before executing is not ours.
    fn is_others(&self, pid: Pid) -> bool {
        let Some((_, [path, ..])) = registers(pid) else {
            return false;
        };
        let mut bytes = Vec::new();
        while !bytes.contains(&0) && bytes.len() < 4096 {
            let at = (path as usize + bytes.len()) as ptrace::AddressType;
            let Ok(word) = ptrace::read(pid, at) else {
                return false;
            };
            bytes.extend(word.to_ne_bytes());
        }
        let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        // What is not there is tried on the way to what is.
        let is_ours = |found| self.programs.contains(&found);
        !path.starts_with("/proc") && !identity(path).is_none_or(is_ours)
    }
}

/// The number of the call and its first three arguments.
fn registers(pid: Pid) -> Option<(i64, [u64; 3])> {
    let regs = ptrace::getregs(pid).ok()?;
    #[cfg(target_arch = "x86_64")]
    return Some((regs.orig_rax as i64, [regs.rdi, regs.rsi, regs.rdx]));
    #[cfg(target_arch = "aarch64")]
    return Some((
        regs.regs[8] as i64,
        [regs.regs[0], regs.regs[1], regs.regs[2]],
    ));
}

/// The name of a call that changes something others can see.
fn changing((number, args): (i64, [u64; 3])) -> Option<&'static str> {
    let writes = |flags: u64| {
        let flags = flags as i32;
        flags & (libc::O_ACCMODE | libc::O_CREAT) != 0
    };
    let name = match number {
        libc::SYS_openat => writes(args[2]).then_some("openat"),
        libc::SYS_openat2 => Some("openat2"),
        libc::SYS_open_tree => (args[2] & 1 != 0).then_some("open_tree"),
        _ => None,
    };
    let calls = CALLS.iter().chain(OLD_CALLS);
    let mut calls = calls.filter(|(call, _)| *call == number);
    name.or_else(|| calls.next().map(|(_, name)| *name))
}

const CALLS: &[(i64, &str)] = &[
    (libc::SYS_mkdirat, "mkdirat"),
    (libc::SYS_mknodat, "mknodat"),
    (libc::SYS_renameat2, "renameat2"),
    (libc::SYS_linkat, "linkat"),
    (libc::SYS_symlinkat, "symlinkat"),
    (libc::SYS_unlinkat, "unlinkat"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_fchmod, "fchmod"),
    (libc::SYS_fchmodat, "fchmodat"),
    (libc::SYS_fchown, "fchown"),
    (libc::SYS_fchownat, "fchownat"),
    (libc::SYS_write, "write"),
    (libc::SYS_writev, "writev"),
    (libc::SYS_pwrite64, "pwrite64"),
    (libc::SYS_copy_file_range, "copy_file_range"),
    (libc::SYS_sendfile, "sendfile"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_fsconfig, "fsconfig"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_clone, "clone"),
    (libc::SYS_clone3, "clone3"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_unshare, "unshare"),
    (libc::SYS_bind, "bind"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_execve, "execve"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_kill, "kill"),
    (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
    (libc::SYS_exit_group, "exit_group"),
];

#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(i64, &str)] = &[
    (libc::SYS_mkdir, "mkdir"),
    (libc::SYS_rmdir, "rmdir"),
    (libc::SYS_rename, "rename"),
    (libc::SYS_link, "link"),
    (libc::SYS_symlink, "symlink"),
    (libc::SYS_unlink, "unlink"),
    (libc::SYS_chmod, "chmod"),
    (libc::SYS_chown, "chown"),
    (libc::SYS_lchown, "lchown"),
    (libc::SYS_mknod, "mknod"),
    (libc::SYS_fork, "fork"),
    (libc::SYS_vfork, "vfork"),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(i64, &str)] = &[];
