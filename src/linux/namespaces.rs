//! Namespaces (config-linux.md, `linux.namespaces`): which are new, which are joined, and the
//! clocks' offsets.

use crate::error::{ResultExt, with_hint};
use crate::sys::process::{setns, unshare};
use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// The namespaces of a container, as the spec lists them.
#[derive(Debug, Default, Clone)]
pub struct Namespaces {
    /// The `CLONE_NEW*` flags of those to be made.
    new: i32,
    /// Those to be joined, with the paths that name them.
    joined: Vec<(Kind, PathBuf)>,
    /// Lines for /proc/PID/timens_offsets (time_namespaces(7)).
    offsets: String,
}

impl Namespaces {
    /// Reads `linux.namespaces` and `linux.timeOffsets`.
    pub fn new(linux: &Linux) -> Namespaces {
        let mut namespaces = Namespaces::default();
        for namespace in linux.namespaces().iter().flatten() {
            // An empty path is none, as Go writes it.
            match namespace.path() {
                Some(path) if path.as_os_str() != "" => {
                    namespaces.joined.push((namespace.typ(), path.clone()))
                }
                _ => namespaces.new |= flag(namespace.typ()),
            }
        }
        for (clock, offset) in linux.time_offsets().iter().flatten() {
            let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            namespaces.offsets += &format!("{clock} {secs} {nanosecs}\n");
        }
        namespaces
    }

    /// Whether a namespace of this kind is made for the container.
    pub fn makes(&self, kind: Kind) -> bool {
        self.new & flag(kind) != 0
    }

    /// Whether the container has this namespace for itself or shares it with others, but not with
    /// the caller.
    pub fn has(&self, kind: Kind) -> bool {
        self.makes(kind) || self.joins(kind)
    }

    /// Whether an existing namespace of this kind is joined.
    pub fn joins(&self, kind: Kind) -> bool {
        self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// The existing namespaces that are joined, with the paths that name them.
    pub fn joined(&self) -> &[(Kind, PathBuf)] {
        &self.joined
    }

    /// The flags for clone3(2): all new ones, but for the cgroup namespace, whose root is the
    /// cgroup that the process is in when it is made, and a time namespace with offsets, which
    /// must be written before the first process is in it.
    pub fn clone_flags(&self) -> i32 {
        let mut flags = self.new & !libc::CLONE_NEWCGROUP;
        if !self.offsets.is_empty() {
            flags &= !libc::CLONE_NEWTIME;
        }
        flags
    }

    /// Opens the namespaces to be joined, with the caller's rights and paths.
    pub fn open_joined(&self) -> Result<Vec<(Kind, OwnedFd)>> {
        self.joined
            .iter()
            .map(|(kind, path)| {
                let what = || {
                    format!(
                        "linux.namespaces: open the {kind} namespace {}",
                        path.display()
                    )
                };
                let fd = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                    .with_context(what)?;
                if fstatfs(&fd).with_context(what)?.filesystem_type() != NSFS_MAGIC {
                    bail!("{}: it is not a namespace", what());
                }
                Ok((*kind, fd))
            })
            .collect()
    }

    /// Whether a time namespace with offsets is to be made.
    pub fn has_offsets(&self) -> bool {
        !self.offsets.is_empty() && self.makes(Kind::Time)
    }

    /// Makes a time namespace with its offsets for the children of the calling process, who itself
    /// stays in its own. Without offsets nothing is done.
    pub fn prepare_clocks(&self) -> Result<()> {
        if !self.has_offsets() {
            return Ok(());
        }
        unshare(libc::CLONE_NEWTIME).context("make a time namespace")?;
        std::fs::write("/proc/self/timens_offsets", &self.offsets)
            .with_context(|| {
                format!(
                    "linux.timeOffsets: write {:?} to timens_offsets",
                    self.offsets.trim()
                )
            })
            .hint(
                "a clock must not start before 0, nor later than in 146 years (time_namespaces(7))",
            )
    }
}

/// Namespaces that setns(2) changes for children only: their caller stays where it is.
pub fn is_for_children(kind: Kind) -> bool {
    matches!(kind, Kind::Pid | Kind::Time)
}

/// Joins all of these. The user namespace comes when it must: root of the host can join the others
/// first, with the rights it has over every namespace; an ordinary user has rights over the others
/// only once it is in the user namespace that owns them. The cgroup namespace is left out: who is in it
/// makes no process from a cgroup outside in one inside (ENOENT), so that the new process joins it.
pub fn join(namespaces: &[(Kind, OwnedFd)]) -> Result<()> {
    let mut later = Vec::new();
    let (users, others): (Vec<_>, Vec<_>) =
        namespaces.iter().partition(|(kind, _)| *kind == Kind::User);
    for (kind, fd) in others.into_iter().filter(|(kind, _)| *kind != Kind::Cgroup) {
        match setns(fd.as_fd(), flag(*kind)) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) && !users.is_empty() => {
                later.push((*kind, fd));
            }
            Err(error) => return Err(refused(*kind, error)),
        }
    }
    for (kind, fd) in users.into_iter().map(|(kind, fd)| (*kind, fd)).chain(later) {
        enter(kind, fd)?;
    }
    Ok(())
}

/// Joins one (setns(2)).
pub fn enter(kind: Kind, fd: &OwnedFd) -> Result<()> {
    setns(fd.as_fd(), flag(kind)).map_err(|error| refused(kind, error))
}

fn refused(kind: Kind, error: io::Error) -> anyhow::Error {
    let hint = match error.raw_os_error() {
        Some(libc::EINVAL) => "its path in linux.namespaces names a namespace of another kind",
        Some(libc::EPERM) => {
            "it belongs to a user namespace in which the container has no rights; \
             join one that its own user namespace owns, or make a new one"
        }
        _ => "it is that of the path in linux.namespaces",
    };
    with_hint(
        anyhow::Error::new(error).context(format!("join the {kind} namespace")),
        hint,
    )
}

/// The `CLONE_NEW*` flag of a kind of namespace.
pub fn flag(kind: Kind) -> i32 {
    kind as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Namespaces {
        Namespaces::new(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn new_and_joined_are_told_apart() {
        let namespaces = read(
            r#"{"namespaces":[{"type":"pid"},{"type":"cgroup"},{"type":"network","path":"/n"}]}"#,
        );
        assert_eq!(namespaces.clone_flags(), libc::CLONE_NEWPID);
        assert!(namespaces.makes(Kind::Cgroup));
        assert!(namespaces.joins(Kind::Network) && !namespaces.makes(Kind::Network));
        assert!(namespaces.has(Kind::Network) && !namespaces.has(Kind::Uts));
    }

    #[test]
    fn a_time_namespace_with_offsets_is_not_cloned() {
        let plain = read(r#"{"namespaces":[{"type":"time"}]}"#);
        assert_eq!(plain.clone_flags(), 0x80);
        let offset = read(
            r#"{"namespaces":[{"type":"time"}],"timeOffsets":{"boottime":{"secs":7,"nanosecs":1}}}"#,
        );
        assert_eq!(offset.clone_flags(), 0);
        assert_eq!(offset.offsets, "boottime 7 1\n");
    }
}
