//! `--device` and `--device-cgroup-rule`: which devices of the host the container may use.

use super::mounts::wrong;
use crate::error::ResultExt;
use anyhow::{Context, Result};
use nix::sys::stat::{SFlag, major, minor, stat};
use serde_json::{Value, json};
use std::path::Path;

/// A device of the host: `linux.devices[]`, and the rule that lets the container use it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Device {
    pub(super) node: Value,
    pub(super) rule: Value,
}

/// `--device HOST[:CONTAINER[:rwm]]`. A directory stands for all devices in it.
pub(super) fn device(text: &str) -> Result<Vec<Device>> {
    let wrong = |what: &str| {
        wrong(
            "--device",
            text,
            what,
            "as in --device /dev/fuse:/dev/fuse:rwm",
        )
    };
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut target, mut access) = (host, "rwm");
    for part in parts {
        if part.starts_with('/') {
            target = part;
        } else if !part.is_empty() && part.chars().all(|c| "rwm".contains(c)) {
            access = part;
        } else {
            return Err(wrong(&format!("{part:?} is neither a path nor of r, w, m")));
        }
    }
    let mut devices = Vec::new();
    if Path::new(host).is_dir() {
        for entry in std::fs::read_dir(host).with_context(|| format!("--device {host}"))? {
            let name = entry?.file_name();
            let (from, to) = (Path::new(host).join(&name), Path::new(target).join(&name));
            devices.extend(one_device(&from, &to, access));
        }
        return Ok(devices);
    }
    match one_device(Path::new(host), Path::new(target), access) {
        Some(device) => Ok(vec![device]),
        None if Path::new(host).exists() => Err(wrong("it is no device")),
        None => Err(wrong("the host has no such device")),
    }
}

fn one_device(host: &Path, target: &Path, access: &str) -> Option<Device> {
    let found = stat(host).ok()?;
    let kind = match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFCHR => "c",
        SFlag::S_IFBLK => "b",
        _ => return None,
    };
    let (major, minor) = (major(found.st_rdev), minor(found.st_rdev));
    Some(Device {
        node: json!({
            "path": target, "type": kind, "major": major, "minor": minor,
            "fileMode": found.st_mode & 0o777, "uid": found.st_uid, "gid": found.st_gid,
        }),
        rule: json!({
            "allow": true, "type": kind, "major": major, "minor": minor, "access": access,
        }),
    })
}

/// All devices of the host below /dev, for `--privileged`.
pub(super) fn all_devices() -> Vec<Value> {
    // Those that the container has of its own.
    const OWN: [&str; 5] = [
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/console",
        "/dev/ptmx",
    ];
    fn walk(dir: &Path, found: &mut Vec<Value>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if OWN.iter().any(|own| path == Path::new(own)) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(&path, found),
                Ok(kind) if !kind.is_symlink() => {
                    found.extend(one_device(&path, &path, "rwm").map(|device| device.node));
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("/dev"), &mut found);
    found
}

/// `--device-cgroup-rule "c 1:3 rwm"`.
pub(super) fn device_rule(text: &str) -> Result<Value> {
    let parse = || -> Option<Value> {
        let mut words = text.split_whitespace();
        let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
        let (major, minor) = numbers.split_once(':')?;
        let fits = matches!(kind, "a" | "b" | "c")
            && access.chars().all(|c| "rwm".contains(c))
            && words.next().is_none();
        let mut rule = json!({"allow": true, "type": kind, "access": access});
        for (name, text) in [("major", major), ("minor", minor)] {
            if text != "*" {
                rule[name] = text.parse::<i64>().ok()?.into();
            }
        }
        fits.then_some(rule)
    };
    parse()
        .with_context(|| format!("invalid --device-cgroup-rule value '{text}'"))
        .hint("as in --device-cgroup-rule 'c 1:3 rwm'")
        .exit_code(125)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let null = device("/dev/null:/dev/nothing:r").unwrap();
        assert_eq!(null[0].node["path"], json!("/dev/nothing"));
        assert_eq!(null[0].rule["access"], json!("r"));
        assert!(device("/nosuch/device").is_err() && device("/etc").is_ok_and(|d| d.is_empty()));
        assert_eq!(device_rule("c 1:* rw").unwrap()["major"], json!(1));
        assert!(device_rule("c 1 rw").is_err());
    }
}
