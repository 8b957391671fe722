//! What is asked of this machine, compared with what it has: told before anything is made, since the
//! kernel's own answer names a file and no reason.

use crate::error::{with_exit_code, with_hint};
use anyhow::{Result, anyhow};
use std::path::Path;

/// What an option asks for.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) cpus: Option<f64>,
    pub(super) cpuset_cpus: Option<&'a str>,
    pub(super) cpuset_mems: Option<&'a str>,
    pub(super) sysctl: &'a [String],
}

/// Exit code 125 if the machine has less.
pub(super) fn check(wanted: &Wanted<'_>) -> Result<()> {
    let online = |kind: &str| {
        let path = format!("/sys/devices/system/{kind}/online");
        // What cannot be read is left to the kernel.
        std::fs::read_to_string(path).ok()
    };
    against(wanted, online("cpu").as_deref(), online("node").as_deref())
}

fn against(wanted: &Wanted<'_>, cpus: Option<&str>, nodes: Option<&str>) -> Result<()> {
    let refuse = |what: String, hint: String| -> Result<()> {
        Err(with_exit_code(with_hint(anyhow!(what), hint), 125))
    };
    for (option, what, asked, there) in [
        ("--cpuset-cpus", "CPUs", wanted.cpuset_cpus, cpus),
        ("--cpuset-mems", "memory nodes", wanted.cpuset_mems, nodes),
    ] {
        let (Some(asked), Some(there)) = (asked, there) else {
            continue;
        };
        let there = there.trim();
        if !numbers(asked)
            .all(|(from, to)| numbers(there).any(|(first, last)| first <= from && to <= last))
        {
            let what = format!("{option} {asked}: this machine has not all of these {what}");
            return refuse(what, format!("it has {there}"));
        }
    }
    if let (Some(asked), Some(there)) = (wanted.cpus, cpus) {
        let count: u64 = numbers(there).map(|(from, to)| to - from + 1).sum();
        if count > 0 && asked > count as f64 {
            let what = format!("--cpus {asked}: this machine has {count} CPUs");
            return refuse(what, format!("a number from 0.01 to {count}"));
        }
    }
    for text in wanted.sysctl {
        let name = text.split('=').next().unwrap_or_default().replace('/', ".");
        if !is_of_a_namespace(&name) {
            let what = format!("--sysctl {name}: it is the whole machine's, not a container's");
            let hint = "a container has its own net.*, fs.mqueue.*, kernel.msg*, kernel.sem and \
                        kernel.shm*; `sysctl -w` on the host sets the others";
            return refuse(what, hint.to_owned());
        }
    }
    Ok(())
}

/// Whether the kernel counts what a cgroup swaps, so that it can be limited: cgroup v1 where it was
/// booted so, cgroup v2 with swap at all (cgroups documentation, memory.memsw.limit_in_bytes and
/// memory.swap.max).
pub(super) fn counts_swap() -> bool {
    let is_there = |path: &str| Path::new(path).exists();
    is_there("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
        || is_there("/sys/fs/cgroup/cgroup.controllers") && is_there("/proc/swaps")
}

/// The ranges of `0-1,3`.
fn numbers(list: &str) -> impl Iterator<Item = (u64, u64)> {
    list.trim().split(',').filter_map(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some((from.parse().ok()?, to.parse().ok()?))
    })
}

fn is_of_a_namespace(name: &str) -> bool {
    ["net.", "fs.mqueue.", "kernel.msg", "kernel.shm", "user."]
        .iter()
        .any(|start| name.starts_with(start))
        || matches!(name, "kernel.sem" | "kernel.domainname" | "kernel.hostname")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    fn told(wanted: &Wanted<'_>) -> String {
        match against(wanted, Some("0-1,4\n"), Some("0\n")) {
            Ok(()) => String::new(),
            Err(error) => message(&error),
        }
    }

    #[test]
    fn what_the_machine_has_not_is_refused() {
        for (cpus, fine) in [(0.5, true), (3.0, true), (3.5, false), (100.0, false)] {
            let wanted = Wanted {
                cpus: Some(cpus),
                ..Wanted::default()
            };
            assert_eq!(told(&wanted).is_empty(), fine, "{cpus}");
        }
        for (list, fine) in [("0", true), ("0-1,4", true), ("2", false), ("0-4", false)] {
            let wanted = Wanted {
                cpuset_cpus: Some(list),
                ..Wanted::default()
            };
            assert_eq!(told(&wanted).is_empty(), fine, "{list}");
        }
        let wanted = Wanted {
            cpuset_mems: Some("1"),
            ..Wanted::default()
        };
        assert!(told(&wanted).contains("memory nodes"));
        for (name, fine) in [
            ("kernel.foo=1", false),
            ("vm/swappiness=1", false),
            ("net.ipv4.ip_forward=1", true),
            ("kernel.shmmax=1", true),
        ] {
            let wanted = Wanted {
                sysctl: &[name.to_owned()],
                ..Wanted::default()
            };
            assert_eq!(told(&wanted).is_empty(), fine, "{name}");
        }
    }
}
