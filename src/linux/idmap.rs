//! Id maps of user namespaces (user_namespaces(7)).

use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxIdMappingBuilder};
use std::fs;
use std::process::Command;

/// The maps of a container's user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// `linux.uidMappings`
    pub uid: Vec<LinuxIdMapping>,
    /// `linux.gidMappings`
    pub gid: Vec<LinuxIdMapping>,
}

impl IdMaps {
    /// The maps of the spec; empty without a user namespace.
    pub fn new(linux: &Linux) -> IdMaps {
        IdMaps {
            uid: linux.uid_mappings().clone().unwrap_or_default(),
            gid: linux.gid_mappings().clone().unwrap_or_default(),
        }
    }

    /// The host's number of the container's user `uid`, if it has one.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        self.uid.iter().find_map(|map| {
            let offset = uid.checked_sub(map.container_id())?;
            (offset < map.size()).then(|| map.host_id().checked_add(offset))?
        })
    }

    /// The same, of a user of a container with this map or without any.
    pub fn outside(&self, uid: u32) -> Option<u32> {
        match self.uid.is_empty() {
            true => Some(uid),
            false => self.host_uid(uid),
        }
    }

    /// Writes both maps of the user namespace of `pid`. A caller without rights over other users'
    /// ids may map its own id alone; anything else goes through newuidmap(1) and newgidmap(1),
    /// which consult /etc/subuid and /etc/subgid.
    pub fn write(&self, pid: i32, superuser: bool) -> Result<()> {
        if self.uid.is_empty() && self.gid.is_empty() {
            return Ok(());
        }
        if superuser {
            put(pid, "uid_map", &text(&self.uid))?;
            return put(pid, "gid_map", &text(&self.gid));
        }
        let uid = nix::unistd::geteuid().as_raw();
        let gid = nix::unistd::getegid().as_raw();
        if is_only(&self.uid, uid) {
            put(pid, "uid_map", &text(&self.uid))?;
        } else {
            helper("newuidmap", pid, &self.uid)?;
        }
        if is_only(&self.gid, gid) {
            // Without rights, groups must not be dropped: a group can also be denied something.
            put(pid, "setgroups", "deny")?;
            return put(pid, "gid_map", &text(&self.gid));
        }
        helper("newgidmap", pid, &self.gid)
    }

    /// What differs between the maps of the spec and those of the joined user namespace that `pid` is
    /// in, which count: files may get owners that nobody expects. A spec without maps wants those of the
    /// namespace, and so does one with Podman's stand-in for them, root alone.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn compare(&self, pid: i32) -> Result<Option<String>> {
        for (field, file, wanted) in [
            ("uidMappings", "uid_map", &self.uid),
            ("gidMappings", "gid_map", &self.gid),
        ] {
            if wanted.is_empty() || text(wanted) == "0 0 1\n" {
                continue;
            }
            let path = format!("/proc/{pid}/{file}");
            let found = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            if sorted(&text(wanted)) != sorted(&found) {
                let found = found.split_whitespace().collect::<Vec<_>>().join(" ");
                return Ok(Some(format!(
                    "linux.{field}: ignored: the user namespace that is joined has {found}"
                )));
            }
        }
        Ok(None)
    }
}

/// Reads `uids=FIRST-OTHER-COUNT[#…];gids=…`, crun's and Podman's words for an id-mapped mount: FIRST is
/// an id of the file system's, OTHER what stands for it where the container is made. The maps of users and
/// of groups, as far as they are given.
///
/// # Errors
/// Which part is wrong.
pub fn of_option(text: &str) -> Result<[Option<Vec<LinuxIdMapping>>; 2], String> {
    let mut given = [None, None];
    for part in text.split(';') {
        let (at, ranges) = match part.split_once('=') {
            Some(("uids", ranges)) => (0, ranges),
            Some(("gids", ranges)) => (1, ranges),
            _ => return Err(format!("{part:?} is neither uids=… nor gids=…")),
        };
        if given[at].replace(read_ranges(ranges)?).is_some() {
            return Err(format!("{part:?}: it is there twice"));
        }
    }
    Ok(given)
}

fn read_ranges(ranges: &str) -> Result<Vec<LinuxIdMapping>, String> {
    let mut all: Vec<[u32; 3]> = Vec::new();
    for text in ranges.split('#') {
        let wrong = |why: &str| Err(format!("{text:?}: {why}"));
        if text.starts_with('@') {
            return wrong("numbers of the container's user namespace are not supported yet");
        }
        let numbers: Option<Vec<u32>> = text.split('-').map(|id| id.parse().ok()).collect();
        let [first, other, count] = match numbers.as_deref() {
            Some(&[first, other, count]) if count > 0 => [first, other, count],
            _ => return wrong("it is not FIRST-OTHER-COUNT"),
        };
        // The last number of all is nobody's (user_namespaces(7)).
        if [first, other]
            .iter()
            .any(|id| id.checked_add(count).is_none())
        {
            return wrong("there are no such ids");
        }
        let meets = |one: u32, start: u32, length: u32| one < start + length && start < one + count;
        let overlaps = |[f, o, c]: &[u32; 3]| meets(first, *f, *c) || meets(other, *o, *c);
        if all.iter().any(overlaps) {
            return wrong("the ranges overlap");
        }
        all.push([first, other, count]);
    }
    let mapping = |[first, other, count]: [u32; 3]| {
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(first)
            .host_id(other)
            .size(count);
        mapping.build().map_err(|error| error.to_string())
    };
    all.into_iter().map(mapping).collect()
}

/// The numbers of each line of a map, as uid_map has them: inside, outside, length.
pub fn parse(map: &str) -> Vec<[u64; 3]> {
    let numbers = |line: &str| {
        let mut words = line.split_whitespace().map(|word| word.parse().ok());
        Some([words.next()??, words.next()??, words.next()??])
    };
    map.lines().filter_map(numbers).collect()
}

/// The numbers of each line of a map, in one order and joined where they follow on each other.
fn sorted(map: &str) -> Vec<[u64; 3]> {
    let mut lines = parse(map);
    lines.sort_unstable();
    lines.dedup_by(|next, before| {
        let follows = (0..2).all(|side| before[side] + before[2] == next[side]);
        if follows {
            before[2] += next[2];
        }
        follows
    });
    lines
}

/// The format of uid_map: inside, outside, length.
pub fn text(maps: &[LinuxIdMapping]) -> String {
    maps.iter()
        .map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size()))
        .collect()
}

fn is_only(maps: &[LinuxIdMapping], id: u32) -> bool {
    matches!(maps, [one] if one.size() == 1 && one.host_id() == id)
}

fn put(pid: i32, file: &str, text: &str) -> Result<()> {
    fs::write(format!("/proc/{pid}/{file}"), text)
        .with_context(|| {
            format!(
                "write {:?} to {file} of the user namespace",
                text.trim_end()
            )
        })
        .hint("ranges must not overlap, and the ids outside must be the caller's to give")
}

fn helper(program: &str, pid: i32, maps: &[LinuxIdMapping]) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for map in maps {
        let numbers = [map.container_id(), map.host_id(), map.size()];
        command.args(numbers.map(|number| number.to_string()));
    }
    let output = command
        .output()
        .with_context(|| format!("run {program}"))
        .hint("install the package uidmap, or map only your own id")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(anyhow!("{program}: {said}"))
            .hint("the ranges must be yours in /etc/subuid and /etc/subgid");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_known_in_other_pieces() {
        let kernel = "         0     100000       1000\n      1000     101000       3000\n";
        assert_eq!(sorted(kernel), sorted("0 100000 4000\n"));
        assert_eq!(sorted("9 1 1\n0 5 2\n"), [[0, 5, 2], [9, 1, 1]]);
        assert_ne!(sorted("0 5 2\n2 8 1\n"), sorted("0 5 3\n"));
    }

    #[test]
    fn users_have_numbers_outside() {
        let linux = r#"{"uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1},
            {"containerID": 1, "hostID": 100000, "size": 65536}]}"#;
        let maps = IdMaps::new(&serde_json::from_str(linux).unwrap());
        let numbers = [0, 1, 65536, 65537].map(|uid| maps.host_uid(uid));
        assert_eq!(numbers, [Some(1000), Some(100_000), Some(165_535), None]);
    }
}
