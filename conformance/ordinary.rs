//! The hand-written bundles for an ordinary user (`--rootless`): in a user namespace in which the
//! caller is root, and whose other ids are those of /etc/subuid and /etc/subgid.

use crate::Test;
use crate::frontend::{Place, Skip};
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The rows of mydocker for an ordinary user: those of root, but for what [`ROOTS`] names, and his own.
pub(crate) fn rows() -> Vec<Test> {
    // Those of the runtime are of root's bundles.
    let crashes = crate::crash::ROWS.iter().copied();
    let crashes = crashes.filter(|row| !row.name.contains("crash: runtime"));
    let of_root = crate::frontend::tests().into_iter().chain(crashes);
    let of_root = of_root.map(|row| Test {
        name: format!("user: {}", row.name),
        run: match ROOTS.iter().find(|(name, _)| row.name.starts_with(name)) {
            None => Box::new(row.run),
            Some((_, why)) => {
                let why = (*why).to_owned();
                Box::new(move |place| needs(&why).and_then(|()| (row.run)(place)))
            }
        },
    });
    of_root
        .chain(crate::user::tests())
        .chain(crate::keep_id::tests())
        .collect()
}

/// What a row needs that a user may not have.
const CGROUP: &str = "it needs a cgroup of the container's own";
const OWNER: &str = "it gives files to other owners, or makes devices";
const READER: &str = "it reads files of subordinate owners";
const MOUNTS: &str = "it mounts something itself";

/// The rows that cannot be a user's, by the beginnings of their names. Those that need a cgroup are run
/// where one is delegated.
const ROOTS: [(&str, &str); 51] = [
    ("-v and --mount with idmap: the owners", OWNER),
    ("A6 ", CGROUP),
    ("A7 ", CGROUP),
    ("A8 ", CGROUP),
    ("A9 ", CGROUP),
    ("A10 ", CGROUP),
    ("A12 ", CGROUP),
    ("A13 ", CGROUP),
    ("A58 crash: pause", CGROUP),
    ("A58 crash: unpause", CGROUP),
    ("A58 crash: update", CGROUP),
    ("A34 ", "it looks where root's cgroups are"),
    ("A57 ", CGROUP),
    ("-m limits", CGROUP),
    ("-m with too little", CGROUP),
    ("inspect shows", CGROUP),
    ("run --cpus", CGROUP),
    ("stats shows", CGROUP),
    ("update changes", CGROUP),
    ("why", CGROUP),
    ("check shows the evidence", CGROUP),
    ("events tells", CGROUP),
    ("kill of a paused", CGROUP),
    ("attach: what cannot", CGROUP),
    ("hints fit", CGROUP),
    ("output that nobody", CGROUP),
    ("health: another monitor", CGROUP),
    ("crossed: rm -f and stop of what is paused", CGROUP),
    ("halfway: update while", CGROUP),
    ("halfway: a commit that is interrupted", CGROUP),
    ("halfway: what would end a commit's pause", CGROUP),
    ("run --cgroup-parent", "it names a cgroup of root's"),
    ("build: an archive that is added", OWNER),
    ("layers keep what files are", OWNER),
    ("umoci unpacks", OWNER),
    ("import reads the sparse", OWNER),
    ("cp from and to a running", OWNER),
    ("cp with -", OWNER),
    ("an empty volume gets", READER),
    ("system df counts", READER),
    ("save and export: a file on", MOUNTS),
    ("-v with :rslave", MOUNTS),
    ("doctor: newuidmap", MOUNTS),
    ("what a killed command has left and nobody", MOUNTS),
    ("systemd: ", "it asks the machine's systemd"),
    ("volume options: a directory", MOUNTS),
    ("full disk:", MOUNTS),
    ("A55 ", "it makes a pid namespace itself"),
    ("podman loads", "Podman keeps a process for its users"),
    (
        "a process whose first thread",
        "how it ended is told right only before it is reaped",
    ),
    (
        "whiteouts:",
        "in a user namespace overlayfs tells the names of a file apart",
    ),
];

/// Ends a row as skipped, unless a cgroup is all that it needs and there is one.
fn needs(why: &str) -> Result<()> {
    if why == CGROUP && crate::bundles::v2_root()?.is_some() {
        return Ok(());
    }
    Err(anyhow::Error::new(Skip(why.to_owned())))
}

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
