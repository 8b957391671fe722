//! Freezing, thawing and signalling all that is in the cgroup.

use super::{Cgroup, Layout, limit};
use crate::error::{ResultExt, with_hint};
use crate::sys::fds::{self, poll_timeout};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A freeze that takes longer than this is given up and undone.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which file freezes here.
enum Freezer {
    /// v1's `freezer.state`.
    V1(PathBuf),
    /// v2's `cgroup.freeze`, in this directory.
    V2(PathBuf),
}

impl Cgroup {
    /// Stops every process in the cgroup and below; returns when they stand still.
    ///
    /// # Errors
    /// When some process does not stop in time, the cgroup is thawed again.
    pub fn freeze(&self) -> Result<()> {
        match self.freezer()? {
            Freezer::V1(file) => freeze_v1(&file),
            Freezer::V2(dir) => freeze_v2(&dir),
        }
    }

    /// Lets them go on.
    pub fn thaw(&self) -> Result<()> {
        match self.freezer()? {
            Freezer::V1(file) => limit::put(&file, "THAWED"),
            Freezer::V2(dir) => limit::put(&dir.join("cgroup.freeze"), "0"),
        }
    }

    /// Whether the cgroup is frozen, by itself or from above, or on its way there. A cgroup that
    /// is gone is not.
    pub fn is_frozen(&self) -> Result<bool> {
        let Ok(freezer) = self.freezer() else {
            return Ok(false);
        };
        match freezer {
            Freezer::V1(file) => Ok(read_if_there(&file)?.is_some_and(|s| s.trim() != "THAWED")),
            Freezer::V2(dir) => {
                let events = read_if_there(&dir.join("cgroup.events"))?.unwrap_or_default();
                if events.lines().any(|line| line == "frozen 1") {
                    return Ok(true);
                }
                let own = read_if_there(&dir.join("cgroup.freeze"))?;
                Ok(own.is_some_and(|state| state.trim() == "1"))
            }
        }
    }

    /// The directory whose file freezes the container, for another program that is to do it.
    pub fn freezer_dir(&self) -> Option<PathBuf> {
        match self.freezer().ok()? {
            Freezer::V1(file) => file.parent().map(Path::to_owned),
            Freezer::V2(dir) => Some(dir),
        }
    }

    /// Ends every process in the cgroup and below, and removes it. One that is empty is only removed.
    ///
    /// # Errors
    /// Those of [`Cgroup::signal_all`] and [`Cgroup::destroy`]; the latter is tried in any case.
    pub fn end(&self) -> Result<()> {
        if self.try_remove() {
            return self.destroy().context("remove the cgroup");
        }
        // Without a pid namespace of its own, the container's processes outlive init.
        let killed = self.signal_all(libc::SIGKILL).context("kill the rest");
        let removed = self.destroy().context("remove the cgroup");
        killed.and(removed)
    }

    /// Sends `signal` to every process in the cgroup and below.
    ///
    /// SIGKILL leaves no way out: frozen processes are thawed to die, and it is repeated until no
    /// process is found that was not hit before. For other signals the cgroup is held still
    /// meanwhile where it can be, so that no fork escapes, and left as it was.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL {
            return self.kill_all();
        }
        let was_frozen = self.is_frozen()?;
        // Without a freezer a process forked meanwhile may miss the signal, as with kill(1).
        let froze = !was_frozen && self.freeze().is_ok();
        let result = self.signal_each(signal, &mut Vec::new());
        if froze {
            self.thaw()?;
        }
        result.map(|_| ())
    }

    fn kill_all(&self) -> Result<()> {
        // One write kills the whole subtree at once, on hybrid too (Linux 5.14).
        if let Some(dir) = self.v2_dir() {
            let _ = limit::put(&dir.full().join("cgroup.kill"), "1");
        }
        let mut hit = Vec::new();
        let until = Instant::now() + PATIENCE;
        loop {
            let new = self.signal_each(libc::SIGKILL, &mut hit)?;
            if self.is_frozen()? {
                // A process on v1 dies only when it runs.
                self.thaw()?;
            }
            if !new {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(with_hint(
                    anyhow!(
                        "processes in the container's cgroup fork faster than they can be killed"
                    ),
                    "pause the container, then kill it",
                ));
            }
        }
    }

    /// One round; true when it found a process that is not in `hit`.
    fn signal_each(&self, signal: i32, hit: &mut Vec<i32>) -> Result<bool> {
        let mut new = false;
        for pid in self.pids_recursive()? {
            // The pidfd is taken first and the list read again: a number that was reused is
            // then no longer in the list.
            if hit.contains(&pid) {
                continue;
            }
            let Ok(pidfd) = pidfd_open(pid) else {
                continue;
            };
            if !self.holds(pid)? {
                continue;
            }
            match pidfd_send_signal(pidfd.as_fd(), signal) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("send signal {signal} to process {pid}"));
                }
            }
            hit.push(pid);
            new = true;
        }
        Ok(new)
    }

    /// Whether `pid` is in this cgroup or below, by its own `/proc` file.
    fn holds(&self, pid: i32) -> Result<bool> {
        let Ok(text) = std::fs::read(format!("/proc/{pid}/cgroup")) else {
            return Ok(false);
        };
        let places = super::host::places(&text);
        // A mount that shows only a part of the tree gives other paths: compare their ends.
        Ok(self.dirs.iter().any(|dir| {
            places.iter().any(|(controllers, path)| {
                *controllers == dir.controllers && contains(path, &dir.path)
            })
        }))
    }

    fn freezer(&self) -> Result<Freezer> {
        if let Some(dir) = self.v1_dir("freezer") {
            return Ok(Freezer::V1(dir.full().join("freezer.state")));
        }
        match self.v2_dir() {
            Some(dir) => Ok(Freezer::V2(dir.full())),
            None if self.layout == Layout::V1 && !self.is_none() => Err(anyhow!(
                "no hierarchy with the freezer controller is mounted"
            ))
            .hint("mount it: mount -t cgroup -o freezer none /sys/fs/cgroup/freezer"),
            None => Err(anyhow!("the container has no cgroup of its own to freeze"))
                .hint("create it with a cgroup"),
        }
    }
}

/// Whether `dir`'s components appear in `path`, at its start or after a prefix that the mount
/// hides.
fn contains(path: &Path, dir: &Path) -> bool {
    if path.starts_with(dir) {
        return true;
    }
    let wanted: Vec<_> = dir.iter().skip(1).collect();
    let have: Vec<_> = path.iter().skip(1).collect();
    have.windows(wanted.len().max(1)).any(|w| w == wanted)
}

fn read_if_there(file: &Path) -> Result<Option<String>> {
    match fds::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", file.display())),
    }
}

fn freeze_v1(file: &Path) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(20);
    loop {
        // A task that forks at the wrong moment keeps the state at FREEZING until the next write;
        // v1 has no event to wait for.
        limit::put(file, "FROZEN")?;
        let state =
            fds::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        if state.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() > until {
            limit::put(file, "THAWED")?;
            return Err(with_hint(
                anyhow!("freeze {}: some process does not stop", file.display()),
                "a process in uninterruptible sleep (state D in ps) cannot be frozen",
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn freeze_v2(dir: &Path) -> Result<()> {
    let events = dir.join("cgroup.events");
    let mut file = File::open(&events).with_context(|| format!("open {}", events.display()))?;
    limit::put(&dir.join("cgroup.freeze"), "1")?;
    let until = Instant::now() + PATIENCE;
    loop {
        let mut text = String::new();
        file.rewind()
            .and_then(|()| file.read_to_string(&mut text))
            .with_context(|| format!("read {}", events.display()))?;
        if text.lines().any(|l| l == "frozen 1") {
            return Ok(());
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            limit::put(&dir.join("cgroup.freeze"), "0")?;
            return Err(with_hint(
                anyhow!("freeze {}: some process does not stop", dir.display()),
                "a process in uninterruptible sleep (state D in ps) cannot be frozen",
            ));
        }
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let _ = poll(&mut fds, poll_timeout(Some(left)));
    }
}
