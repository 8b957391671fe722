//! `-v`, `--mount`, `--tmpfs`, `--volumes-from`, and the image's own volumes: what of the host, and
//! what else, the container gets to see.

use super::idmap_flag::{self, IdMap, is_idmap};
use super::keep_id::KeepId;
use super::mount_flag;
use super::record;
use super::state_dirs::{State, new_id};
use super::volume::{self, Kind, Options, Subpath, Use, Volume, Wanted};
use crate::error::{ResultExt, message, with_exit_code, with_hint};
use anyhow::{Context, Error, Result, anyhow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// A mount of the user's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Mount {
    /// `mounts[]` of the spec.
    pub(super) spec: Value,
    /// Docker's `Mounts[]` of `inspect`.
    pub(super) shown: Value,
    pub(super) target: PathBuf,
    /// A directory of the host that is made if it is missing.
    pub(super) host_dir: Option<PathBuf>,
    /// The volume that it is of.
    pub(super) volume: Option<Wanted>,
}

/// The container that is to be made, and what there is besides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    pub(super) state: &'a State,
    pub(super) id: &'a str,
    /// What its user namespace is like, if it has one of its own.
    pub(super) keep_id: Option<&'a KeepId>,
}

impl Mount {
    /// The same mount, whose files have other owners.
    ///
    /// # Errors
    /// It is of no files that there are already.
    pub(super) fn idmapped(mut self, idmap: Option<IdMap>) -> Result<Mount> {
        let Some(idmap) = idmap else {
            return Ok(self);
        };
        if self.spec["type"] == "tmpfs" {
            let target = self.target.display();
            let error = anyhow!("idmap: {target}: a tmpfs is made for the container, and is empty");
            let hint = "its options uid= and gid= say whose it is";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        idmap.add_to(&mut self.spec, &mut self.shown);
        Ok(self)
    }
}

impl Room<'_> {
    /// The option `idmap` of `flag`, whose value is `text`.
    pub(super) fn idmap(self, flag: &str, text: &str, word: Option<&str>) -> Result<Option<IdMap>> {
        word.map(|word| IdMap::parse(word, self.keep_id))
            .transpose()
            .map_err(|what| wrong(flag, text, &what, idmap_flag::HINT))
    }
}

const USAGE: &str = "SOURCE:CONTAINER[:ro]";

pub(super) fn wrong(flag: &str, value: &str, what: &str, hint: &str) -> Error {
    let error = anyhow!("invalid {flag} value '{value}' ({what})");
    with_exit_code(with_hint(error, hint), 125)
}

/// `-v [SOURCE:]CONTAINER[:OPTIONS]`: a directory of the host, which is made if it is missing (D10), a
/// volume by its name, or a new one without a name.
pub(super) fn volume(room: Room<'_>, text: &str) -> Result<Mount> {
    let wrong = |what: &str| wrong("-v", text, what, &format!("as in -v {USAGE}"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] if target.starts_with('/') => ("", *target, ""),
        [source, target] if !source.is_empty() => (*source, *target, ""),
        [source, target, options] if !source.is_empty() => (*source, *target, *options),
        _ => return Err(wrong(USAGE)),
    };
    let target = checked_target(target).map_err(|what| wrong(&what))?;
    let is_bind = source.starts_with(['/', '.', '~']);
    let (mut mode, mut propagation, mut copy, mut idmap) = (None, "rprivate", true, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "rw" => mode = Some(option),
            "rro" if is_bind => mode = Some(option),
            "nocopy" if !is_bind => copy = false,
            _ if is_idmap(option) => idmap = Some(option),
            // Labels of SELinux, and a hint for other systems: without effect here, as in Docker.
            "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            _ if is_bind && mount_flag::PROPAGATIONS.contains(&option) => propagation = option,
            _ => return Err(wrong(&format!("unknown option {option:?}; {USAGE}"))),
        }
    }
    let read_only = matches!(mode, Some("ro" | "rro"));
    let idmap = room.idmap("-v", text, idmap)?;
    if !is_bind {
        let given = Given {
            name: (!source.is_empty()).then_some(source),
            read_only,
            copy,
            ..Given::default()
        };
        let mount = of_volume(room, target, given).map_err(|error| match exit(&error) {
            true => error,
            false => wrong(&message(&error)),
        });
        return mount?.idmapped(idmap);
    }
    let host = std::path::absolute(source).context("-v: make the host's path absolute")?;
    let options = ["rbind"].into_iter().chain(mode).chain([propagation]);
    let shown = shown("bind", &host, &target, read_only, propagation);
    let mount = Mount {
        spec: bind(&target, &host, options),
        shown,
        target,
        host_dir: Some(host),
        volume: None,
    };
    mount.idmapped(idmap)
}

fn exit(error: &Error) -> bool {
    crate::error::exit_code(error).is_some()
}

/// `mounts[]` of a bind mount.
pub(super) fn bind<'a>(
    target: &Path,
    source: &Path,
    options: impl IntoIterator<Item = &'a str>,
) -> Value {
    let options: Vec<&str> = options.into_iter().collect();
    json!({"destination": target, "type": "bind", "source": source, "options": options})
}

pub(super) fn shown(
    kind: &str,
    source: &Path,
    target: &Path,
    read_only: bool,
    propagation: &str,
) -> Value {
    json!({
        "Type": kind, "Name": "", "Driver": "", "Source": source, "Destination": target,
        "Mode": if read_only { "ro" } else { "" },
        "RW": !read_only, "Propagation": propagation,
    })
}

pub(super) fn checked_target(target: &str) -> Result<PathBuf, String> {
    let path = Path::new(target);
    if !path.is_absolute() {
        return Err(format!("{target:?} in the container is not absolute"));
    }
    // By the words alone: links are the runtime's business.
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    if clean == Path::new("/") {
        return Err("it would hide the whole root of the container".to_owned());
    }
    Ok(clean)
}

/// A volume as the flags ask for it.
#[derive(Debug)]
pub(super) struct Given<'a> {
    /// `None`: a new one without a name.
    pub(super) name: Option<&'a str>,
    pub(super) labels: BTreeMap<String, String>,
    /// `None`: as it is, or a directory of its own.
    pub(super) options: Option<Options>,
    pub(super) subpath: Option<PathBuf>,
    pub(super) copy: bool,
    pub(super) read_only: bool,
}

impl Default for Given<'_> {
    fn default() -> Self {
        Given {
            name: None,
            labels: BTreeMap::new(),
            options: None,
            subpath: None,
            copy: true,
            read_only: false,
        }
    }
}

/// The mount of a volume, as that is made or will be.
pub(super) fn of_volume(room: Room<'_>, target: PathBuf, given: Given<'_>) -> Result<Mount> {
    let mut labels = given.labels;
    let name = match given.name {
        Some(name) => {
            volume::check_name(name)?;
            name.to_owned()
        }
        None => {
            labels.extend(volume::anonymous_label());
            new_id()?
        }
    };
    let there = match given.name {
        Some(name) => volume::load(room.state, name)?,
        None => None,
    };
    let volume = match (there, given.options) {
        (Some(there), None) => there,
        // With others it will be refused when it is to be made.
        (_, options) => Volume::new(&name, labels, options.unwrap_or_default()),
    };
    let subpath = match given.subpath {
        Some(path) => Some(Subpath {
            path,
            place: room
                .state
                .run_dir(room.id)
                .join("volumes")
                .join(&new_id()?[..12]),
        }),
        None => None,
    };
    let using = Use {
        name,
        target,
        anonymous: given.name.is_none(),
        subpath,
    };
    let wanted = Wanted {
        volume,
        using,
        copy: given.copy,
    };
    settled(room, wanted, given.read_only)
}

fn settled(room: Room<'_>, wanted: Wanted, read_only: bool) -> Result<Mount> {
    let (volume, target) = (&wanted.volume, &wanted.using.target);
    let home = volume::files(room.state, volume)?;
    let ro = read_only.then_some("ro");
    let spec = match (volume.options.kind()?, &wanted.using.subpath) {
        (Kind::Plain, None) => bind(
            target,
            &home,
            ["rbind"].into_iter().chain(ro).chain(["rprivate"]),
        ),
        (Kind::Plain, Some(part)) => {
            let options = ["rbind"].into_iter().chain(ro).chain(["rprivate"]);
            bind(target, &part.place, options)
        }
        (_, Some(_)) => {
            let error = anyhow!("volume-subpath: the volume {} has options", volume.name);
            let hint = "a part of such a volume is not supported yet; name its directory with -v";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        (Kind::Bind(device, words), None) => {
            if !device.is_dir() {
                let error = anyhow!(
                    "the volume {}: {} is no directory",
                    volume.name,
                    device.display()
                );
                return Err(with_exit_code(with_hint(error, "make it first"), 125));
            }
            let is_bind = words.iter().any(|word| word == "bind" || word == "rbind");
            let kind = (!is_bind).then_some("rbind");
            let words = words.iter().map(String::as_str).chain(kind).chain(ro);
            bind(target, &device, words)
        }
        (Kind::Tmpfs(words), None) => {
            let words: Vec<&str> = words.iter().map(String::as_str).chain(ro).collect();
            json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": words})
        }
    };
    let mut shown = shown("volume", &home, target, read_only, "");
    shown["Name"] = json!(volume.name);
    shown["Driver"] = json!(volume::DRIVER);
    if !wanted.using.anonymous && !read_only {
        // Docker's usual mode of a volume with a name.
        shown["Mode"] = json!("z");
    }
    Ok(Mount {
        spec,
        shown,
        target: target.clone(),
        host_dir: None,
        volume: Some(wanted),
    })
}

/// The volume that an image wants at `path` (`VOLUME`).
pub(super) fn of_image(room: Room<'_>, path: &str) -> Result<Mount> {
    let hint = "make the image anew with an absolute VOLUME";
    let target = checked_target(path)
        .map_err(|what| anyhow!("the image's volume {path:?}: {what}"))
        .hint(hint)
        .exit_code(125)?;
    of_volume(room, target, Given::default())
}

/// `--volumes-from CONTAINER[:ro|rw]`: what another container has of the host and of volumes, where
/// that has it.
pub(super) fn from_container(room: Room<'_>, text: &str) -> Result<Vec<Mount>> {
    let (name, mode) = text.split_once(':').unwrap_or((text, ""));
    let mut read_only = false;
    for word in mode.split(',') {
        match word {
            "" | "rw" | "z" | "Z" => {}
            "ro" => read_only = true,
            _ => {
                let what = format!("unknown option {word:?}");
                return Err(wrong("--volumes-from", text, &what, "CONTAINER[:ro]"));
            }
        }
    }
    let other = record::find(room.state, name)
        .with_context(|| format!("--volumes-from {name}"))
        .exit_code(125)?;
    let config = std::fs::read(room.state.config(&other.id)).context("read its config.json")?;
    let config: Value = serde_json::from_slice(&config).context("read its config.json")?;
    let uses = volume::of(room.state, &other.id)?;
    let mut all = Vec::new();
    for shown in &other.shown.mounts {
        let target = PathBuf::from(shown["Destination"].as_str().unwrap_or_default());
        let read_only = read_only || shown["RW"] == false;
        let idmap = room.idmap("--volumes-from", text, IdMap::word_of(shown))?;
        if let Some(one) = uses.iter().find(|one| one.target == target) {
            let mut using = one.clone();
            if let Some(part) = &mut using.subpath {
                let name = part.place.file_name().unwrap_or_default().to_owned();
                part.place = room.state.run_dir(room.id).join("volumes").join(name);
            }
            let wanted = Wanted {
                volume: volume::get(room.state, &one.name)?,
                using,
                copy: false,
            };
            all.push(settled(room, wanted, read_only)?.idmapped(idmap)?);
        } else if shown["Type"] == "bind" {
            let same = same_bind(shown, &config, target, read_only);
            all.extend(same.map(|mount| mount.idmapped(idmap)).transpose()?);
        }
    }
    Ok(all)
}

/// A bind mount of another container, by its config.json.
fn same_bind(shown: &Value, config: &Value, target: PathBuf, read_only: bool) -> Option<Mount> {
    let mut mounts = config["mounts"].as_array()?.iter();
    let mut spec = mounts
        .rfind(|mount| mount["destination"].as_str().map(Path::new) == Some(&target))?
        .clone();
    let mut shown = shown.clone();
    if read_only {
        spec["options"].as_array_mut()?.push("ro".into());
        shown["Mode"] = "ro".into();
        shown["RW"] = false.into();
    }
    Some(Mount {
        spec,
        shown,
        target,
        host_dir: None,
        volume: None,
    })
}

/// `--tmpfs PATH[:OPTIONS]`, with Docker's defaults.
pub(super) fn tmpfs(text: &str) -> Result<Mount> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = checked_target(target)
        .map_err(|what| wrong("--tmpfs", text, &what, "as in --tmpfs /run:size=64m"))?;
    let mut all: Vec<String> = ["rw", "nosuid", "nodev", "noexec"]
        .map(str::to_owned)
        .into();
    let given = options.split(',').filter(|option| !option.is_empty());
    all.extend(given.map(str::to_owned));
    Ok(tmpfs_at(target, all))
}

pub(super) fn tmpfs_at(target: PathBuf, options: Vec<String>) -> Mount {
    let read_only = options.iter().any(|option| option == "ro");
    Mount {
        shown: shown("tmpfs", Path::new(""), &target, read_only, ""),
        spec: json!({
            "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options,
        }),
        target,
        host_dir: None,
        volume: None,
    }
}

/// Directories that are not there.
#[cfg(test)]
pub(super) fn nowhere() -> State {
    State {
        root: "/nosuch/root".into(),
        run: "/nosuch/run".into(),
    }
}

#[cfg(test)]
pub(super) fn room(state: &State) -> Room<'_> {
    Room {
        state,
        id: "1",
        keep_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::message;

    fn parse(text: &str) -> Result<Mount> {
        volume(room(&nowhere()), text)
    }

    #[test]
    fn directories_of_the_host() {
        let one = parse("/a:/b/../c:ro").unwrap();
        assert_eq!(one.target, Path::new("/c"));
        assert_eq!(one.spec["options"], json!(["rbind", "ro", "rprivate"]));
        assert_eq!(one.shown["RW"], json!(false));
        assert!(parse("./x:/b").unwrap().host_dir.unwrap().is_absolute());
        for text in [
            "",
            ":",
            ":/to",
            "/from:",
            "/a:/b:/c",
            "/a:/b:rox",
            "/a:rel",
            "/a:/",
            "/a:/b:nocopy",
            "/a:/b:idmap",
            "/a:/b:idmapped",
            "/x:ro",
            "n:/x",
            "a/b:/x",
            "::",
            "/",
            "ab:/x:rslave",
        ] {
            let error = parse(text).unwrap_err();
            assert!(message(&error).contains("-v"), "{text}");
            assert_eq!(crate::error::exit_code(&error), Some(125), "{text}");
        }
    }

    #[test]
    fn volumes() {
        let one = parse("data:/x/:ro,nocopy").unwrap();
        assert_eq!(one.spec["source"], json!("/nosuch/root/volumes/data/_data"));
        assert_eq!(one.spec["options"], json!(["rbind", "ro", "rprivate"]));
        assert_eq!(one.shown["Name"], json!("data"));
        let wanted = one.volume.unwrap();
        assert!(!wanted.copy && !wanted.using.anonymous && !wanted.volume.is_anonymous());
        let none = parse("/x").unwrap();
        let wanted = none.volume.unwrap();
        assert_eq!(wanted.volume.name.len(), 64);
        assert!(wanted.copy && wanted.using.anonymous && wanted.volume.is_anonymous());
    }
}
