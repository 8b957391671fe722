//! Which ids there are for the files and processes of containers. Root has them all; an ordinary user
//! has his own, which is root in his containers, and those that /etc/subuid and /etc/subgid give him
//! (subuid(5)). From inside a user namespace its map tells.

use super::passwd::User;
use super::runtime_cli::on_path;
use crate::error::with_fallback_hint;
use crate::linux::idmap::{IdMaps, parse};
use nix::errno::Errno;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use std::path::Path;
use std::sync::OnceLock;

/// The map of the machine's first user namespace (user_namespaces(7)).
const ALL: [u64; 3] = [0, 0, 4_294_967_295];

/// The lines of /proc/self/uid_map: inside, outside, how many.
fn map() -> &'static [[u64; 3]] {
    static MAP: OnceLock<Vec<[u64; 3]>> = OnceLock::new();
    MAP.get_or_init(|| {
        // Without procfs nothing works; the answer for root is the harmless one.
        std::fs::read_to_string("/proc/self/uid_map").map_or(vec![ALL], |text| parse(&text))
    })
}

/// Whether this process is in a user namespace that is not the machine's first one: what belongs to
/// that (device nodes, `trusted.` attributes, the cgroups of others) is out of its reach.
pub(super) fn are_mapped() -> bool {
    map() != [ALL]
}

/// Whether there is one id alone.
pub(super) fn are_single() -> bool {
    matches!(map(), [[_, _, 1]])
}

/// Whether an id of a container is one of a file or process at all.
pub(super) fn hold(id: u32) -> bool {
    let id = u64::from(id);
    let within = |[inside, _, count]: &[u64; 3]| (*inside..inside + count).contains(&id);
    map().iter().any(within)
}

/// What to do about an id that there is not.
pub(super) fn hint() -> String {
    let last = map().iter().map(|[inside, _, count]| inside + count - 1);
    format!(
        "this user's containers have the ids up to {}; `mydocker doctor` tells how to have more",
        last.max().unwrap_or(0)
    )
}

/// The same for a failure to set an owner.
pub(super) fn explain(failure: anyhow::Error) -> anyhow::Error {
    let is_unknown = failure.downcast_ref::<Errno>() == Some(&Errno::EINVAL);
    match is_unknown && are_mapped() {
        true => with_fallback_hint(failure, hint()),
        false => failure,
    }
}

/// The ids that a user may give to containers.
#[derive(Debug)]
pub(super) struct Ids {
    /// His own as 0; behind it the ranges that are his.
    pub(super) maps: IdMaps,
    /// Why there is no more than the one: what is missing, and what makes it good.
    pub(super) lack: Option<(String, String)>,
}

/// The two tables, and the two programs that consult them.
const TABLES: [(&str, &str); 2] = [("/etc/subuid", "newuidmap"), ("/etc/subgid", "newgidmap")];

impl Ids {
    /// What the tables and programs of this machine give.
    pub(super) fn of(user: &User) -> Ids {
        let texts = TABLES.map(|(table, _)| std::fs::read_to_string(table).unwrap_or_default());
        let missing = TABLES
            .iter()
            .find(|(_, program)| on_path(Path::new(program)).is_none());
        Ids::from_tables(
            user,
            [&texts[0], &texts[1]],
            missing.map(|(_, program)| *program),
        )
    }

    fn from_tables(user: &User, texts: [&str; 2], missing: Option<&str>) -> Ids {
        let ranges = [(texts[0], user.uid), (texts[1], user.gid)];
        let ranges = ranges.map(|(text, own)| ranges_of(text, user, own));
        let none = ranges.iter().position(Vec::is_empty);
        let lack = match (none, missing) {
            (Some(at), _) => Some((
                format!("{} gives {} no ids", TABLES[at].0, user.name),
                more_ids(user, texts),
            )),
            (None, Some(program)) => Some((
                format!("{program} is not there"),
                "sudo apt-get install uidmap".to_owned(),
            )),
            (None, None) => None,
        };
        let [uids, gids] = match lack {
            Some(_) => [Vec::new(), Vec::new()],
            None => ranges,
        };
        let maps = IdMaps {
            uid: mappings(user.uid, &uids),
            gid: mappings(user.gid, &gids),
        };
        Ids { maps, lack }
    }

    /// The user's own ids alone.
    pub(super) fn single(user: &User) -> IdMaps {
        IdMaps {
            uid: mappings(user.uid, &[]),
            gid: mappings(user.gid, &[]),
        }
    }
}

/// The line that gives a user ids that nobody has yet.
fn more_ids(user: &User, texts: [&str; 2]) -> String {
    let ends = texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| {
            let (_, first, count) = fields(line)?;
            first.checked_add(count)
        });
    let first = ends.max().unwrap_or(0).max(100_000);
    let range = format!("{first}-{}", first.saturating_add(65_535));
    let name = &user.name;
    format!("sudo usermod --add-subuids {range} --add-subgids {range} {name}")
}

/// A line of subuid(5): whose, from where on, how many.
fn fields(line: &str) -> Option<(&str, u32, u32)> {
    let mut parts = line.trim().splitn(3, ':');
    let (name, first, count) = (parts.next()?, parts.next()?, parts.next()?);
    Some((name, first.parse().ok()?, count.parse().ok()?))
}

/// The user's ranges in their order. A line that gives some of an earlier one's ids, or the user's own, is
/// left out: no id can be in a map twice (user_namespaces(7)).
fn ranges_of(text: &str, user: &User, own: u32) -> Vec<(u32, u32)> {
    let uid = user.uid.to_string();
    let is_theirs = |name: &str| name == user.name || name == uid;
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for (name, first, count) in text.lines().filter_map(fields) {
        let is_apart = |(other, size): &(u32, u32)| {
            u64::from(first) + u64::from(count) <= u64::from(*other)
                || u64::from(*other) + u64::from(*size) <= u64::from(first)
        };
        if is_theirs(name) && count > 0 && ranges.iter().chain([&(own, 1)]).all(is_apart) {
            ranges.push((first, count));
        }
    }
    ranges
}

fn mappings(own: u32, ranges: &[(u32, u32)]) -> Vec<LinuxIdMapping> {
    let mut inside = 0;
    let mut all = Vec::new();
    for (first, count) in [(own, 1)].iter().chain(ranges) {
        let mapping = LinuxIdMappingBuilder::default()
            .container_id(inside)
            .host_id(*first)
            .size(*count)
            .build();
        all.extend(mapping);
        inside = u32::saturating_add(inside, *count);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        User {
            uid: 1000,
            gid: 100,
            name: "me".to_owned(),
        }
    }

    fn shown(maps: &[LinuxIdMapping]) -> Vec<(u32, u32, u32)> {
        maps.iter()
            .map(|map| (map.container_id(), map.host_id(), map.size()))
            .collect()
    }

    #[test]
    fn the_tables_give_ranges_by_name_and_number() {
        let uids = "root:1:1\nme:100000:65536\nyou:200000:65536\n1000:300000:10\n";
        let ids = Ids::from_tables(&user(), [uids, "me:5000:2\n"], None);
        assert_eq!(
            shown(&ids.maps.uid),
            [(0, 1000, 1), (1, 100_000, 65_536), (65_537, 300_000, 10)]
        );
        assert_eq!(shown(&ids.maps.gid), [(0, 100, 1), (1, 5000, 2)]);
        assert_eq!(ids.lack, None);
    }

    #[test]
    fn what_two_lines_give_is_taken_once() {
        let uids = "me:100000:65536\n1000:100000:65536\nme:165535:9\nme:990:20\nme:165536:9\n";
        let ids = Ids::from_tables(&user(), [uids, "me:5000:2\n"], None);
        assert_eq!(
            shown(&ids.maps.uid),
            [(0, 1000, 1), (1, 100_000, 65_536), (65_537, 165_536, 9)]
        );
    }

    #[test]
    fn without_a_range_there_is_one_id_and_a_line_that_gives_more() {
        let ids = Ids::from_tables(&user(), ["you:100000:65536\n", "me:5000:2\n"], None);
        assert_eq!(shown(&ids.maps.uid), [(0, 1000, 1)]);
        assert_eq!(shown(&ids.maps.gid), [(0, 100, 1)]);
        let (what, fix) = ids.lack.unwrap();
        assert_eq!(what, "/etc/subuid gives me no ids");
        let range = "165536-231071";
        assert_eq!(
            fix,
            format!("sudo usermod --add-subuids {range} --add-subgids {range} me")
        );
        let both = ["me:100000:65536\n"; 2];
        let ids = Ids::from_tables(&user(), both, Some("newgidmap"));
        assert_eq!(shown(&ids.maps.uid), [(0, 1000, 1)]);
        assert!(ids.lack.unwrap().1.ends_with("install uidmap"));
    }

    #[test]
    fn the_first_namespace_maps_all() {
        assert_eq!(parse("         0          0 4294967295\n"), [ALL]);
        assert_eq!(parse("0 1000 1\n1 100000 65536\n").len(), 2);
    }
}
