//! Learning that the kernel killed for want of memory, as it happens.

use super::{Cgroup, Layout, limit, read};
use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A descriptor to poll, and the count at the last look.
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    cgroup: Cgroup,
    seen: u64,
}

#[derive(Debug)]
enum Source {
    /// Registered with v1's `cgroup.event_control`; the file stays open for as long.
    V1(EventFd, #[allow(dead_code)] File),
    /// v2's `memory.events`.
    V2(File),
}

impl OomWatch {
    /// Watches `cgroup`; `None` when it has no memory controller.
    pub fn new(cgroup: &Cgroup) -> Result<Option<OomWatch>> {
        let Some(path) = read::oom_file(cgroup) else {
            return Ok(None);
        };
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        let source = if cgroup.layout == Layout::V2 {
            Source::V2(file)
        } else {
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .context("make an eventfd")?;
            // cgroup v1, memory.txt, "OOM Control".
            let value = format!("{} {}", event.as_fd().as_raw_fd(), file.as_raw_fd());
            limit::put(&path.with_file_name("cgroup.event_control"), &value)?;
            Source::V1(event, file)
        };
        Ok(Some(OomWatch {
            source,
            seen: read::oom_kills(cgroup).unwrap_or_default(),
            cgroup: cgroup.clone(),
        }))
    }

    /// What to poll for on the descriptor.
    pub fn flags(&self) -> PollFlags {
        match self.source {
            Source::V1(..) => PollFlags::POLLIN,
            Source::V2(_) => PollFlags::POLLPRI,
        }
    }

    /// After the descriptor was ready: how many processes were killed since the last look.
    pub fn new_kills(&mut self) -> Result<u64> {
        match &mut self.source {
            // An empty eventfd is no harm: the count below decides.
            Source::V1(event, _) => drop(event.read()),
            Source::V2(file) => {
                let mut text = String::new();
                file.rewind()
                    .and_then(|()| file.read_to_string(&mut text))
                    .context("read memory.events")?;
            }
        }
        let now = read::oom_kills(&self.cgroup).unwrap_or(self.seen);
        let new = now.saturating_sub(self.seen);
        self.seen = now;
        Ok(new)
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::V1(event, _) => event.as_fd(),
            Source::V2(file) => file.as_fd(),
        }
    }
}
