//! How a container ended.

use crate::cgroup::{Cgroup, read, usage};
use crate::sys::process::Ended;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, 128 + n for signal n. `None`: nobody saw it.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// Whether the kernel killed for the memory limit in it.
    pub oom: bool,
    /// When; of an end that nobody watched, when it was noted.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Nobody watched it.
    #[serde(default)]
    pub unwatched: bool,
    /// Somebody had asked for it.
    #[serde(default)]
    pub stopped: bool,
    /// What it used, where somebody could look before its cgroup was gone.
    #[serde(default)]
    pub usage: Option<crate::cgroup::usage::Usage>,
}

impl Exit {
    /// An end of this moment, with what the cgroup tells as long as it is there.
    pub fn in_cgroup(ended: Option<Ended>, cgroup: Option<&Cgroup>) -> Exit {
        Exit {
            oom: cgroup.and_then(read::oom_kills).is_some_and(|n| n > 0),
            usage: cgroup.map(usage::usage),
            ..Exit::of(ended)
        }
    }

    /// Whether it ended for want of memory: the kernel may also have killed another program in it,
    /// which it got over.
    pub fn is_out_of_memory(&self) -> bool {
        let died = match self.signal {
            Some(signal) => signal == libc::SIGKILL,
            None => self.code != Some(0),
        };
        self.oom && died && !self.stopped
    }

    /// An end of this moment; `None`: nobody knows how.
    pub fn of(ended: Option<Ended>) -> Exit {
        Exit {
            code: ended.map(Ended::code),
            signal: match ended {
                Some(Ended::Killed(signal)) => Some(signal),
                _ => None,
            },
            oom: false,
            unwatched: false,
            stopped: false,
            at: OffsetDateTime::now_utc(),
            usage: None,
        }
    }
}
