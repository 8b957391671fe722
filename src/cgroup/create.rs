//! Making the directories and removing them.

use super::{Cgroup, Dir, Layout};
use crate::error::{ResultExt, errno, with_hint};
use crate::sys::fds::{self, poll_timeout};
use crate::sys::process::pidfd_open;
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{AccessFlags, faccessat};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long [`Cgroup::destroy`] waits for processes that are on their way out.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long [`Cgroup::destroy_deserted`] waits for the processes of a killed `create`.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// How often a cgroup is made that somebody removes before the first process is in it. systemd does so
/// on v1: whenever it sets up the cgroup of one of its units, it removes every empty directory below that
/// in the hierarchies of controllers that the unit does not use, and below `/` are all others.
pub const ATTEMPTS: u32 = 10;

/// The hint when they were not enough.
pub const KEEPS_VANISHING: &str =
    "something on this machine keeps removing the container's cgroup while it is still empty";

/// The directories that [`Cgroup::create`] made.
#[derive(Debug, Default)]
pub struct Created {
    /// In the order of their making: a parent before its child.
    made: Vec<PathBuf>,
}

impl Created {
    /// Notes which of the directories were there before: they stay when the container is deleted
    /// (runtime.md, "Delete": what the container has not created must not be deleted).
    /// Returns whether there are any.
    pub fn spare_the_rest(&self, cgroup: &mut Cgroup) -> bool {
        for dir in &mut cgroup.dirs {
            let path = dir.full();
            dir.found = !self.made.iter().any(|made| is_same(made, &path));
        }
        cgroup.dirs.iter().any(|dir| dir.found)
    }

    /// Removes what was made, newest first, and nothing that was there before. A parent that
    /// somebody else began to use meanwhile stays, with the cgroups of theirs that are in it: one
    /// that is made at this moment has no process yet.
    pub fn undo(self) {
        for dir in self.made.iter().rev() {
            let is_parent = self.made.iter().any(|other| other.parent() == Some(dir));
            // Best effort: the error that led here is the one worth telling.
            let _ = match is_parent {
                true => fs::remove_dir(dir).map_err(anyhow::Error::from),
                false => remove_tree(dir, Instant::now() + Duration::from_millis(200)),
            };
        }
    }
}

impl Cgroup {
    /// Makes the directory in each hierarchy, its parents too. A cgroup that exists may be used
    /// as long as no process is in it. On v1 an empty `cpuset.cpus` or `cpuset.mems` is filled
    /// from the parent's, for no process could enter without (cpuset(7)).
    ///
    /// # Errors
    /// Names the directory; what was made is removed again.
    pub fn create(&self) -> Result<Created> {
        until_it_stays(|| {
            let mut created = Created::default();
            match self.create_all(&mut created) {
                Ok(()) => Ok(created),
                Err(error) => {
                    created.undo();
                    Err(error)
                }
            }
        })
    }

    /// Whether somebody has removed one of the directories, in which no process was then.
    pub fn has_vanished(&self) -> bool {
        let is_gone = |dir: &Dir| {
            let found = fs::symlink_metadata(dir.full());
            found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        self.dirs.iter().any(is_gone)
    }

    /// Puts `pid` into the v1 directories of a scope, those too that systemd does not make, and fills its
    /// cpuset.
    pub(super) fn enter_beside(&self, pid: i32) -> Result<Created> {
        let mut created = Created::default();
        let entered = until_it_stays(|| {
            for dir in self.dirs.iter().filter(|dir| !dir.is_v2()) {
                let path = dir.full();
                mkdir_all(&path, &dir.mount_point, &mut created)
                    .map_err(|error| explain_mkdir(error, &path))?;
                prepare(dir)?;
                super::limit::put(&path.join("cgroup.procs"), &pid.to_string())?;
            }
            Ok(())
        });
        if let Err(error) = entered {
            created.undo();
            return Err(error);
        }
        if self.layout == Layout::V2 {
            self.enable_controllers();
        }
        Ok(created)
    }

    /// Notes which of the directories are there already: should this be all that is ever known of
    /// them, they are not the container's to remove.
    pub fn spare_what_is_there(&mut self) {
        // systemd gives nobody a scope that there is already.
        if !self.needs_a_process() {
            for dir in &mut self.dirs {
                dir.found = dir.full().exists();
            }
        }
    }

    /// [`Cgroup::destroy`] of what may be another's: nobody is signalled, and nothing touched if there
    /// is a process in it. Those that are ending are waited for. `false`: it is left to them.
    pub fn destroy_deserted(&self) -> Result<bool> {
        let until = Instant::now() + SHORT_PATIENCE;
        while let Some(pid) = self.pids_recursive()?.first() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            wait_for(*pid, left);
        }
        self.destroy().map(|()| true)
    }

    /// Whether nothing is left of a container in a cgroup of its own, as when its first process has taken
    /// all others along: the kernel lets go only of a directory (the one that tells of its processes, and
    /// the one through which they would be killed) that holds no process and no other cgroup. Only
    /// [`Cgroup::destroy`] is left to do then.
    pub(super) fn try_remove(&self) -> bool {
        let removed = |dir: &Dir| !dir.found && fs::remove_dir(dir.full()).is_ok();
        let roll = self.roll().filter(|dir| !dir.is_v2());
        let mut dirs = self.v2_dir().into_iter().chain(roll).peekable();
        !self.needs_a_process() && dirs.peek().is_some() && dirs.all(removed)
    }

    /// rmdir(2) of each directory: of what a runtime has made and has no state of any more. The
    /// kernel removes none that has a process or another cgroup in it, and those stay.
    pub fn remove_if_empty(&self) {
        for dir in &self.dirs {
            // Mostly it is not there.
            let _ = fs::remove_dir(dir.full());
        }
    }

    fn create_all(&self, created: &mut Created) -> Result<()> {
        for dir in &self.dirs {
            create_one(dir, created)?;
        }
        if self.layout == Layout::V2 {
            self.enable_controllers();
        }
        // Only what is older than this call can be frozen, a parent too.
        let top = |dir: &Dir| {
            dir.path
                .iter()
                .nth(1)
                .map(|name| dir.mount_point.join(name))
        };
        let mut freezing = (self.dirs.iter()).filter(|dir| dir.is_v2() || dir.has("freezer"));
        let is_new = |path: &Path| created.made.iter().any(|made| is_same(made, path));
        let all_new = freezing.all(|dir| top(dir).is_some_and(|top| is_new(&top)));
        if !all_new && self.is_frozen()? {
            let path = self.dirs.first().map(|d| d.path.clone());
            return Err(anyhow!(
                "cgroup {} is frozen",
                path.unwrap_or_default().display()
            ))
            .hint("resume the container that it belongs to; a process would stop as it enters");
        }
        Ok(())
    }

    /// Whether the directories could be made: only an answer of "not permitted" or "read-only
    /// file system" counts as no.
    pub(super) fn may_be_made(&self) -> bool {
        self.dirs.iter().all(|dir| {
            let path = dir.full();
            for candidate in path.ancestors() {
                // eaccess(3) makes six system calls of it.
                match faccessat(AT_FDCWD, candidate, AccessFlags::W_OK, AtFlags::AT_EACCESS) {
                    Err(Errno::ENOENT) => continue,
                    Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => return false,
                    _ => return true,
                }
            }
            true
        })
    }

    /// Removes the directories, but for those that were there before, and what is below them. Waits for processes that are ending (their
    /// pidfds tell); one that is missing already is fine. Every hierarchy is tried, and the first
    /// failure reported.
    pub fn destroy(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let mut first = if self.needs_a_process() {
            self.stop_unit()
        } else {
            Ok(())
        };
        for dir in &self.dirs {
            let result = match dir.found {
                false => remove_tree(&dir.full(), until),
                true => remove_below(&dir.full(), until),
            };
            if first.is_ok() {
                first = result;
            }
        }
        first
    }
}

/// Whether two paths of cgroups are the same, letter by letter: all are made in one way. Comparing them part
/// by part, as paths are, takes a hundred times as long.
fn is_same(one: &Path, other: &Path) -> bool {
    one.as_os_str() == other.as_os_str()
}

/// Does it again when something was missing that had just been made; see [`ATTEMPTS`].
fn until_it_stays<T>(mut make: impl FnMut() -> Result<T>) -> Result<T> {
    let mut left = ATTEMPTS;
    loop {
        left -= 1;
        match make() {
            Err(error) if !matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV)) => {
                return Err(error);
            }
            Err(error) if left == 0 => return Err(with_hint(error, KEEPS_VANISHING)),
            Err(_) => {}
            Ok(made) => return Ok(made),
        }
    }
}

fn create_one(dir: &Dir, created: &mut Created) -> Result<()> {
    let path = dir.full();
    match mkdir_all(&path, &dir.mount_point, created) {
        Ok(true) => {}
        Ok(false) => refuse_processes(&path)?,
        Err(error) => return Err(explain_mkdir(error, &path)),
    }
    prepare(dir)
}

fn prepare(dir: &Dir) -> Result<()> {
    let path = dir.full();
    if dir.has("cpuset") {
        fill_cpuset(&path, &dir.mount_point)
            .with_context(|| format!("fill the cpuset of {}", path.display()))?;
    }
    Ok(())
}

fn explain_mkdir(error: io::Error, path: &Path) -> anyhow::Error {
    let kind = error.kind();
    let error = anyhow::Error::new(error).context(format!("make cgroup {}", path.display()));
    match kind {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => with_hint(
            error,
            "name a cgroup that was delegated to you as linux.cgroupsPath, or ask for no limits",
        ),
        _ => error,
    }
}

/// Makes `path` and what is missing above it, up to `top`. True when `path` itself is new.
fn mkdir_all(path: &Path, top: &Path, created: &mut Created) -> io::Result<bool> {
    // Not the default 0777: the caller's umask may be 0.
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {
            created.made.push(path.to_path_buf());
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => match path.parent() {
            Some(parent) if parent != top && parent.starts_with(top) => {
                mkdir_all(parent, top, created)?;
                mkdir_all(path, top, created)
            }
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Two containers in one cgroup would share limits and be killed together.
fn refuse_processes(path: &Path) -> Result<()> {
    let file = path.join("cgroup.procs");
    let text = fds::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    match text.lines().next() {
        None => Ok(()),
        Some(pid) => Err(anyhow!(
            "cgroup {} already holds processes, such as {pid}",
            path.display()
        ))
        .hint("choose another linux.cgroupsPath, or end the container that uses this one"),
    }
}

/// Copies the parent's CPUs and memory nodes into a v1 cpuset that has none, parents first.
fn fill_cpuset(path: &Path, top: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(path, top, file)?;
    }
    Ok(())
}

fn inherit(path: &Path, top: &Path, file: &str) -> Result<String> {
    let at = path.join(file);
    let value = fds::read_to_string(&at).with_context(|| format!("read {}", at.display()))?;
    if !value.trim().is_empty() || path == top {
        return Ok(value);
    }
    let parent = path.parent().unwrap_or(top);
    let value = inherit(parent, top, file)?;
    super::limit::put(&at, value.trim())?;
    Ok(value)
}

/// What the container made in a directory that was there before it.
fn remove_below(path: &Path, until: Instant) -> Result<()> {
    (children(path).iter()).try_for_each(|child| remove_tree(child, until))
}

/// rmdir of `path` and all below it, until `until` while processes are still leaving.
fn remove_tree(path: &Path, until: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("remove cgroup {}", path.display()));
            }
        }
        for child in children(path) {
            remove_tree(&child, until)?;
        }
        let pids = pids_in(path).unwrap_or_default();
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(still_busy(path, &pids));
        }
        match pids.first() {
            Some(pid) => wait_for(*pid, left),
            None => {
                // The last process has left the list but not yet the count of the kernel (it is
                // uncharged at its last switch). v1 has no event for it.
                std::thread::sleep(pause.min(left));
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    }
}

fn still_busy(path: &Path, pids: &[i32]) -> anyhow::Error {
    let names: Vec<String> = pids
        .iter()
        .take(5)
        .map(|pid| {
            let name = fds::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{pid} ({})", name.trim())
        })
        .collect();
    let who = if names.is_empty() {
        String::from("no process is listed in it")
    } else {
        format!("it holds {}", names.join(", "))
    };
    with_hint(
        anyhow!("remove cgroup {}: busy: {who}", path.display()),
        "end those processes, then delete the container again",
    )
}

/// Waits for the end of `pid`, at most `left`.
fn wait_for(pid: i32, left: Duration) {
    let Ok(pidfd) = pidfd_open(pid) else {
        return; // gone
    };
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    // A zombie's pidfd is readable at once although the cgroup may count it a little longer.
    if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
        std::thread::sleep(Duration::from_micros(200));
        return;
    }
    let _ = poll(&mut fds, poll_timeout(Some(left)));
}

/// The directories in `path`; none when it cannot be read.
pub(super) fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// The processes in exactly this directory. A directory that is gone has none.
pub(super) fn pids_in(path: &Path) -> Result<Vec<i32>> {
    let file = path.join("cgroup.procs");
    match fds::read_to_string(&file) {
        Ok(text) => Ok(text.lines().filter_map(|l| l.parse().ok()).collect()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => {
            Ok(Vec::new())
        }
        // A threaded v2 cgroup lists its processes in its domain only.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}
