//! The hand-written bundles for an ordinary user (`--rootless`): in a user namespace in which the
//! caller is root, and whose other ids are those of /etc/subuid and /etc/subgid.

use crate::frontend::{Place, Skip};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The user's own copy of a bundle ([`crate::place::Room::plain`]), unless it cannot be this user's.
pub(crate) fn own(bundle: &Path, expect: &Map<String, Value>, place: &Place) -> Result<PathBuf> {
    if let Some(why) = expect.get("rootless").and_then(Value::as_str) {
        return Err(anyhow::Error::new(Skip(why.to_owned())));
    }
    let name = bundle.file_name().unwrap_or_default();
    let own = place.dir.with_file_name("bundles").join(name);
    let config = std::fs::read(own.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_slice(&config).unwrap_or_default();
    let wants = |pointer: &str| {
        let found = config.pointer(pointer).and_then(Value::as_object);
        found.is_some_and(|found| !found.is_empty())
    };
    let mounts = config["mounts"].as_array().into_iter().flatten();
    let has_mount = mounts.into_iter().any(|mount| mount["type"] == "cgroup");
    if (wants("/linux/resources") || has_mount) && crate::bundles::v2_root()?.is_none() {
        let why = "an ordinary user has no cgroup of v1".to_owned();
        return Err(anyhow::Error::new(Skip(why)));
    }
    Ok(own)
}

/// Gives a bundle its user namespace. What is no config at all stays as it is.
pub(crate) fn change(bundle: &Path) -> Result<()> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).context("read config.json")?;
    let Ok(Value::Object(mut config)) = serde_json::from_slice(&text) else {
        return Ok(());
    };
    add_namespace(&mut config)?;
    std::fs::write(&path, Value::Object(config).to_string()).context("write config.json")
}

fn add_namespace(config: &mut Map<String, Value>) -> Result<()> {
    let linux = config.entry("linux").or_insert_with(|| json!({}));
    let Some(linux) = linux.as_object_mut() else {
        return Ok(());
    };
    let namespaces = linux.entry("namespaces").or_insert_with(|| json!([]));
    let Some(namespaces) = namespaces.as_array_mut() else {
        return Ok(());
    };
    if namespaces
        .iter()
        .any(|namespace| namespace["type"] == "user")
    {
        return Ok(());
    }
    namespaces.push(json!({"type": "user"}));
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    let user = nix::unistd::User::from_uid(uid)?.context("this user has no name")?;
    linux.insert(
        "uidMappings".to_owned(),
        mappings(uid.as_raw(), "/etc/subuid", &user.name)?,
    );
    linux.insert(
        "gidMappings".to_owned(),
        mappings(gid.as_raw(), "/etc/subgid", &user.name)?,
    );
    Ok(())
}

/// The caller is 0, and the first range of the table begins with 1.
fn mappings(own: u32, table: &str, user: &str) -> Result<Value> {
    let mut all = vec![json!({"containerID": 0, "hostID": own, "size": 1})];
    // NAME:FIRST:COUNT
    let text = std::fs::read_to_string(table).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    if let Some([_, first, count]) = lines.find(|line| line[0] == user).as_deref() {
        let (first, count): (u32, u32) = (first.parse()?, count.parse()?);
        all.push(json!({"containerID": 1, "hostID": first, "size": count}));
    }
    Ok(Value::Array(all))
}
