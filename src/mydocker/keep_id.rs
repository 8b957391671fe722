//! `--userns keep-id`: a container in which the user has ids of his own choice, mostly those that he has
//! outside. Its user namespace is inside of mydocker's, with the same ids in another order: his, which is
//! 0 there, takes its place further up, and the subordinate ids close ranks below it. So the same file
//! has one number here and another one in the container.

use super::ids;
use super::passwd;
use crate::error::{with_exit_code, with_hint};
use crate::linux::idmap::parse;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Which ids are the user's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepId {
    uid: Seat,
    gid: Seat,
}

/// The number of the user's own id in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seat {
    own: u32,
    /// How many other ids there are.
    others: u32,
}

impl Seat {
    /// What an id of the container is to mydocker.
    fn outside(self, id: u32) -> Option<u32> {
        match id {
            _ if id == self.own => Some(0),
            _ if id < self.own.min(self.others) => Some(id + 1),
            _ if id > self.own && id <= self.others => Some(id),
            _ => None,
        }
    }

    /// What an id of mydocker's is in the container.
    fn inside(self, id: u32) -> u32 {
        match id.checked_sub(1) {
            None => self.own,
            Some(below) if below < self.own => below,
            Some(_) => id,
        }
    }

    /// `linux.uidMappings`, or those of groups.
    fn mappings(self) -> Value {
        let below = self.own.min(self.others);
        let pieces = [
            (0, 1, below),
            (self.own, 0, 1),
            (self.own.saturating_add(1), below + 1, self.others - below),
        ];
        let pieces = pieces.into_iter().filter(|(_, _, size)| *size > 0);
        let piece = |(inside, outside, size)| json!({"containerID": inside, "hostID": outside, "size": size});
        pieces.map(piece).collect()
    }
}

impl KeepId {
    /// The value of `--userns`, which is `host` or nothing otherwise.
    ///
    /// # Errors
    /// It is none of these, or cannot be had here: exit code 125.
    pub(super) fn of_flag(value: Option<&str>) -> Result<Option<KeepId>> {
        let value = value.unwrap_or_default();
        if matches!(value, "" | "host") {
            return Ok(None);
        }
        let refused =
            |what: String, hint: String| Err(with_exit_code(with_hint(anyhow!(what), hint), 125));
        let (mode, options) = value.split_once(':').unwrap_or((value, ""));
        if mode != "keep-id" {
            return refused(
                format!("--userns {value}: not supported yet"),
                "there are host and, for users without root, keep-id".to_owned(),
            );
        }
        let Some([uid, gid]) = given(options) else {
            return refused(
                format!("invalid --userns value '{value}'"),
                "as in --userns keep-id or --userns keep-id:uid=1000,gid=1000".to_owned(),
            );
        };
        if !ids::are_mapped() {
            return refused(
                format!(
                    "--userns {value}: root's containers have all ids, and each is the same inside"
                ),
                "call mydocker as the ordinary user who is to keep his ids, or give -u USER"
                    .to_owned(),
            );
        }
        if ids::are_single() {
            return refused(
                format!(
                    "--userns {value}: this user has one id, and root of the container needs another"
                ),
                ids::hint(),
            );
        }
        let seat = |file: &str, given: Option<u32>| -> Result<Seat> {
            let text = std::fs::read_to_string(file).with_context(|| format!("read {file}"))?;
            let map = parse(&text);
            let own = map.first().context("this process has no ids")?[1];
            let all: u64 = map.iter().map(|[_, _, count]| count).sum();
            Ok(Seat {
                own: given.map_or_else(|| u32::try_from(own), Ok)?,
                others: u32::try_from(all - 1)?,
            })
        };
        Ok(Some(KeepId {
            uid: seat("/proc/self/uid_map", uid)?,
            gid: seat("/proc/self/gid_map", gid)?,
        }))
    }

    /// The user as `-u` would name him.
    pub(super) fn user(&self) -> String {
        format!("{}:{}", self.uid.own, self.gid.own)
    }

    /// Adds the namespace to `linux` of config.json.
    pub(super) fn add_to(&self, linux: &mut Value) {
        if let Some(namespaces) = linux["namespaces"].as_array_mut() {
            namespaces.push(json!({"type": "user"}));
        }
        let [uids, gids] = self.mappings();
        linux["uidMappings"] = uids;
        linux["gidMappings"] = gids;
    }

    /// `uidMappings` and `gidMappings` of the namespace.
    pub(super) fn mappings(&self) -> [Value; 2] {
        [self.uid.mappings(), self.gid.mappings()]
    }

    /// What an owner in the container is to mydocker, if it is anybody.
    pub(super) fn outside(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((self.uid.outside(uid)?, self.gid.outside(gid)?))
    }

    /// What an owner that mydocker sees is in the container.
    pub(super) fn inside(&self, (uid, gid): (u32, u32)) -> (u32, u32) {
        (self.uid.inside(uid), self.gid.inside(gid))
    }

    /// The directory of a layer whose files are for such containers.
    pub(super) fn name_of_layer(&self, hex: &str) -> String {
        format!("{hex}.{}-{}", self.uid.own, self.gid.own)
    }

    /// The lines of the user in passwd(5) and group(5), where the image's say nothing of him: which
    /// file, and what to add. `home`: where he is in the container, by where he is outside.
    pub(super) fn accounts(
        &self,
        read: &dyn Fn(&str) -> Result<String>,
        home: impl FnOnce(Option<&str>) -> String,
    ) -> Result<Vec<(&'static str, String)>> {
        let (uid, gid) = (self.uid.own, self.gid.own);
        let (name, outside) = passwd::of_caller();
        let is_known = |text: &str, id: u32| {
            let id = id.to_string();
            text.lines().any(|line| line.split(':').nth(2) == Some(&id))
        };
        let free = |text: &str| {
            let is_taken = |line: &str| line.split(':').next() == Some(&name);
            match text.lines().any(is_taken) {
                true => format!("{name}-{uid}"),
                false => name.clone(),
            }
        };
        let mut all = Vec::new();
        let text = read("etc/passwd")?;
        if !is_known(&text, uid) {
            let (name, home) = (free(&text), home(outside.as_deref()));
            all.push(("passwd", format!("{name}:x:{uid}:{gid}::{home}:/bin/sh\n")));
        }
        let text = read("etc/group")?;
        if !is_known(&text, gid) {
            all.push(("group", format!("{}:x:{gid}:\n", free(&text))));
        }
        Ok(all)
    }
}

/// `uid=N,gid=N`, each of which may be missing.
fn given(options: &str) -> Option<[Option<u32>; 2]> {
    let mut all = [None; 2];
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=')?;
        let at = ["uid", "gid"].iter().position(|known| *known == key)?;
        let number = value.parse().ok().filter(|id| *id <= i32::MAX as u32)?;
        if all[at].replace(number).is_some() {
            return None;
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    #[test]
    fn ids_change_places() {
        for (own, others) in [(1000, 65_536), (0, 5), (3, 5), (5, 5), (9, 5)] {
            let seat = Seat { own, others };
            let maps: Vec<[u32; 3]> = seat
                .mappings()
                .as_array()
                .unwrap()
                .iter()
                .map(|map| {
                    ["containerID", "hostID", "size"].map(|key| map[key].as_u64().unwrap() as u32)
                })
                .collect();
            let by_map = |id: u32| {
                let mut found = maps
                    .iter()
                    .filter(|[at, _, size]| (*at..at + size).contains(&id));
                found.next().map(|[at, to, _]| to + id - at)
            };
            let mut seen = Vec::new();
            for id in (0..12).chain(995..1005).chain(65_530..65_540) {
                assert_eq!(seat.outside(id), by_map(id), "{seat:?} {id}");
                if let Some(outside) = seat.outside(id) {
                    assert_eq!(seat.inside(outside), id, "{seat:?} {id}");
                    seen.push(outside);
                }
            }
            seen.sort_unstable();
            seen.dedup();
            assert!(
                seen.contains(&0) && seen.iter().all(|id| *id <= others),
                "{seen:?}"
            );
            assert_eq!(
                maps.iter().map(|[_, _, size]| size).sum::<u32>(),
                others + 1
            );
        }
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        assert_eq!(KeepId::of_flag(None).unwrap(), None);
        assert_eq!(KeepId::of_flag(Some("host")).unwrap(), None);
        for (value, words) in [
            ("auto", "--userns auto: not supported yet"),
            ("keep-id:size=5", "invalid --userns value 'keep-id:size=5'"),
        ] {
            let error = KeepId::of_flag(Some(value)).unwrap_err();
            assert_eq!(message(&error), words);
        }
        if !ids::are_mapped() {
            let error = KeepId::of_flag(Some("keep-id")).unwrap_err();
            assert!(message(&error).contains("root's containers have all ids"));
        }
    }

    #[test]
    fn options() {
        assert_eq!(given(""), Some([None, None]));
        assert_eq!(given("uid=5,gid=6"), Some([Some(5), Some(6)]));
        assert_eq!(given("gid=6"), Some([None, Some(6)]));
        for wrong in [
            "uid",
            "uid=",
            "uid=-1",
            "size=5",
            "uid=1,uid=2",
            "uid=4294967295",
        ] {
            assert_eq!(given(wrong), None, "{wrong}");
        }
    }
}
