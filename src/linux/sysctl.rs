//! Kernel parameters (config-linux.md, `linux.sysctl`): written below a verified procfs, so that
//! nothing that the image has put in its place is written to (CVE-2025-52881).

use anyhow::{Context, Result, bail};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A handle of the procfs that is mounted at a path, checked to be one.
#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens the procfs mounted at `path`.
    pub fn open(path: &Path) -> Result<Procfs> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd =
            open(path, flags, Mode::empty()).with_context(|| format!("open {}", path.display()))?;
        if !is_procfs(&fd).with_context(|| path.display().to_string())? {
            bail!("{} is not a procfs", path.display());
        }
        Ok(Procfs(fd))
    }

    /// Writes `text` to the file `name` below it. No other mount and no link out is followed.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let how = OpenHow::new()
            .flags(OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            // `self` is a symbolic link, hence no RESOLVE_NO_SYMLINKS; BENEATH keeps it inside.
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_XDEV
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        let fd = openat2(&self.0, name, how).with_context(|| format!("open /proc/{name}"))?;
        File::from(fd)
            .write_all(text.as_bytes())
            .with_context(|| format!("write {text:?} to /proc/{name}"))
    }
}

/// Whether this is the root of a procfs. A directory further down has the same names in other
/// places: what is written to `sys/…` of one could go anywhere.
pub fn is_procfs(fd: &impl AsFd) -> Result<bool> {
    /// `PROC_ROOT_INO` (linux/proc_fs.h)
    const ROOT: u64 = 1;
    let kind = fstatfs(fd).context("statfs")?.filesystem_type();
    Ok(kind == PROC_SUPER_MAGIC && fstat(fd).context("stat")?.st_ino == ROOT)
}

/// Sets every parameter, in the order of their names.
pub fn apply(procfs: &Procfs, parameters: &HashMap<String, String>) -> Result<()> {
    let mut sorted: Vec<_> = parameters.iter().collect();
    sorted.sort();
    for (name, value) in sorted {
        procfs.write(&file(name)?, value)?;
    }
    Ok(())
}

/// Those of them that belong to a network namespace, and not to the container's others.
pub fn of_network(parameters: &HashMap<String, String>) -> HashMap<String, String> {
    let of_network = |name: &str| file(name).is_ok_and(|file| file.starts_with("sys/net/"));
    parameters
        .iter()
        .filter(|(name, _)| of_network(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The file of a parameter, relative to /proc. Dots separate, and a slash stands for a dot within
/// a part (`net.ipv4.conf.eth0/1.mtu`); where the first separator is a slash, it is the other way
/// round (sysctl(8)).
fn file(name: &str) -> Result<String> {
    let slash_first = matches!(
        (name.find('/'), name.find('.')),
        (Some(slash), Some(dot)) if slash < dot
    ) || !name.contains('.');
    let path: String = if slash_first {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    };
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        bail!("linux.sysctl: {name:?} is not the name of a parameter");
    }
    Ok(format!("sys/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_network_are_known_in_both_forms() {
        let names = ["net.a", "net/b", "kernel.net", "nets.c", "fs/net.d"];
        let all = names.map(|name| (name.to_owned(), "1".to_owned()));
        let mut found: Vec<_> = of_network(&all.into()).into_keys().collect();
        found.sort();
        assert_eq!(found, ["net.a", "net/b"]);
    }

    #[test]
    fn names_become_files() {
        assert_eq!(
            file("net.ipv4.ip_forward").unwrap(),
            "sys/net/ipv4/ip_forward"
        );
        assert_eq!(
            file("net/ipv4/ip_forward").unwrap(),
            "sys/net/ipv4/ip_forward"
        );
        assert_eq!(
            file("net.ipv4.conf.eth0/1.mtu").unwrap(),
            "sys/net/ipv4/conf/eth0.1/mtu"
        );
        for bad in ["", "..", "net..x", "a/../b", "/abs", "net.ipv4."] {
            assert!(file(bad).is_err(), "{bad}");
        }
    }
}
