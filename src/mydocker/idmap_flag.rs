//! `idmap` of `-v` and `--mount`, in Podman's words (podman-run(1)): files of a bind mount have other
//! owners in the container than on the disk. The kernel does it (`MOUNT_ATTR_IDMAP` of
//! mount_setattr(2)); whether it will is seen when the container starts.

use super::keep_id::KeepId;
use crate::linux::idmap;
use serde_json::{Value, json};

/// For whoever has given something else.
pub(super) const HINT: &str = "as in 'idmap=uids=1000-0-1;gids=1000-0-1' (the first id on the disk, the first in the \
     container, how many; # between several); idmap alone is for --userns keep-id";

/// Whose the files are.
#[derive(Debug)]
pub(super) struct IdMap {
    /// The option as it was given.
    word: String,
    /// `uidMappings` and `gidMappings` of the mount.
    maps: [Value; 2],
}

impl IdMap {
    /// Reads the option `word`: `idmap`, or `idmap=uids=FIRST-OTHER-COUNT[#…];gids=…`, where FIRST is
    /// an id of the file system's, OTHER what stands for it where the container is made. What is not
    /// given is as in the container's user namespace, which `keep` describes.
    ///
    /// # Errors
    /// Which part is wrong, or what is missing.
    pub(super) fn parse(word: &str, keep: Option<&KeepId>) -> Result<IdMap, String> {
        let given = match word.split_once('=') {
            Some((_, text)) => idmap::of_option(text).map_err(|what| format!("idmap: {what}"))?,
            None => [None, None],
        };
        let given = given.map(|ranges| ranges.map(|ranges| json!(ranges)));
        let missing = match &given {
            [None, None] => "idmap: this container has no user namespace of its own to map them as",
            [None, _] => "idmap: uids= is missing, and there is no user namespace of its own",
            [_, None] => "idmap: gids= is missing, and there is no user namespace of its own",
            _ => "",
        };
        let [uids, gids] = given;
        let of_container = keep.map(KeepId::mappings);
        let [of_users, of_groups] = of_container.map_or([None, None], |maps| maps.map(Some));
        match (uids.or(of_users), gids.or(of_groups)) {
            (Some(uids), Some(gids)) => Ok(IdMap {
                word: word.to_owned(),
                maps: [uids, gids],
            }),
            _ => Err(missing.to_owned()),
        }
    }

    /// The option that a mount has by `Mode` of `inspect`.
    pub(super) fn word_of(shown: &Value) -> Option<&str> {
        let mode = shown["Mode"].as_str()?;
        mode.split(',').find(|word| is_idmap(word))
    }

    /// Has the runtime do it, and `inspect` show it.
    pub(super) fn add_to(&self, spec: &mut Value, shown: &mut Value) {
        let options = spec["options"].as_array_mut();
        if let Some(options) = options.filter(|all| !all.contains(&"idmap".into())) {
            options.push("idmap".into());
        }
        let [uids, gids] = &self.maps;
        spec["uidMappings"] = uids.clone();
        spec["gidMappings"] = gids.clone();
        let mode = shown["Mode"].as_str().unwrap_or_default();
        let others = mode
            .split(',')
            .filter(|word| !word.is_empty() && !is_idmap(word));
        let words: Vec<&str> = others.chain([self.word.as_str()]).collect();
        shown["Mode"] = words.join(",").into();
    }
}

/// Whether a word is this option.
pub(super) fn is_idmap(word: &str) -> bool {
    word == "idmap" || word.starts_with("idmap=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_as_given() {
        let word = "idmap=uids=0-1-10#10-11-10;gids=5-100-3";
        let map = IdMap::parse(word, None).unwrap();
        let mut spec = json!({"options": ["rbind"]});
        let mut shown = json!({"Mode": "ro,idmap"});
        map.add_to(&mut spec, &mut shown);
        map.add_to(&mut spec, &mut shown);
        let expected = json!({
            "options": ["rbind", "idmap"],
            "uidMappings": [{"containerID": 0, "hostID": 1, "size": 10},
                {"containerID": 10, "hostID": 11, "size": 10}],
            "gidMappings": [{"containerID": 5, "hostID": 100, "size": 3}],
        });
        assert_eq!(spec, expected);
        assert_eq!(shown["Mode"], format!("ro,{word}"));
        assert_eq!(IdMap::word_of(&shown), Some(word));
    }

    #[test]
    fn what_is_not_given_is_the_container_s() {
        let keep: KeepId = serde_json::from_value(json!({
            "uid": {"own": 1, "others": 1}, "gid": {"own": 0, "others": 0},
        }))
        .unwrap();
        let [uids, gids] = keep.mappings();
        let map = |word: &str| IdMap::parse(word, Some(&keep)).unwrap().maps;
        assert_eq!(map("idmap"), [uids.clone(), gids.clone()]);
        let own = json!([{"containerID": 0, "hostID": 4, "size": 1}]);
        assert_eq!(map("idmap=gids=0-4-1"), [uids, own.clone()]);
        assert_eq!(map("idmap=uids=0-4-1"), [own, gids]);
    }

    #[test]
    fn wrong_values() {
        for (word, words) in [
            ("idmap", "user namespace"),
            ("idmap=uids=0-1-1", "gids= is missing"),
            ("idmap=gids=0-1-1", "uids= is missing"),
            ("idmap=", "\"\" is neither"),
            ("idmap=uids=0-1-1;", "\"\" is neither"),
            ("idmap=0-1-1", "\"0-1-1\" is neither"),
            ("idmap=uids=;gids=0-1-1", "FIRST"),
            ("idmap=uids=0-1-1#;gids=0-1-1", "FIRST"),
            ("idmap=uids=0-1-1-1;gids=0-1-1", "FIRST"),
            ("idmap=uids=0--1-1;gids=0-1-1", "FIRST"),
            ("idmap=uids=0-1-0;gids=0-1-1", "FIRST"),
            ("idmap=uids=@0-1-1;gids=0-1-1", "not supported yet"),
            ("idmap=uids=0-1-1;uids=0-1-1", "twice"),
            ("idmap=uids=4294967295-1-1;gids=0-1-1", "no such ids"),
            ("idmap=uids=0-5-2#1-9-1;gids=0-1-1", "overlap"),
            ("idmap=uids=0-5-2#7-6-1;gids=0-1-1", "overlap"),
        ] {
            let problem = IdMap::parse(word, None).unwrap_err();
            assert!(problem.contains(words), "{word}: {problem}");
        }
        assert!(IdMap::parse("idmap=uids=0-5-2#2-7-1;gids=0-1-4294967294", None).is_ok());
    }
}
