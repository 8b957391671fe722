//! `--mount`: one line of comma-separated fields.

use super::mounts::{self, Given, Mount, Room, bind, checked_target, shown, tmpfs_at};
use super::volume::{self, Options};
use super::{process, values};
use crate::error::{exit_code, message, with_exit_code, with_hint};
use anyhow::{Error, Result, anyhow};
use std::path::{Component, Path, PathBuf};

/// How mounts come and go between the host and the container (mount_namespaces(7)).
pub(super) const PROPAGATIONS: [&str; 6] = [
    "shared", "rshared", "slave", "rslave", "private", "rprivate",
];

/// What the fields say.
#[derive(Debug, Default)]
struct Fields {
    kind: Option<String>,
    source: Option<String>,
    target: Option<String>,
    read_only: bool,
    propagation: Option<String>,
    /// `bind-recursive`, in the words of mount(8).
    recursion: Option<&'static str>,
    create_source: bool,
    tmpfs: Vec<String>,
    no_copy: bool,
    options: Vec<String>,
    labels: Vec<String>,
    subpath: Option<PathBuf>,
    idmap: Option<String>,
}

/// `--mount type=bind|tmpfs|volume,source=…,target=…[,readonly]`. A missing source of a bind mount is
/// an error.
pub(super) fn mount(room: Room<'_>, text: &str) -> Result<Mount> {
    let usage = "as in --mount type=bind,source=/srv,target=/data,readonly";
    let wrong = |what: String| mounts::wrong("--mount", text, &what, usage);
    let fields = Fields::read(text).map_err(wrong)?;
    let target = fields.target.as_deref();
    let target = target.ok_or_else(|| wrong("target= is missing".into()))?;
    let target = checked_target(target).map_err(wrong)?;
    let idmap = room.idmap("--mount", text, fields.idmap.as_deref())?;
    let mount = match (fields.kind(), &fields.source) {
        ("bind", Some(source)) => fields
            .bind(source, target)
            .map_err(|error| told(error, wrong)),
        ("bind", None) => Err(wrong("source= is missing".into())),
        ("tmpfs", None) => {
            let ro = if fields.read_only { "ro" } else { "rw" };
            let mut options = fields.tmpfs;
            options.extend(["nosuid", "nodev", "noexec", ro].map(str::to_owned));
            Ok(tmpfs_at(target, options))
        }
        ("tmpfs", Some(_)) => Err(wrong("a tmpfs has no source".into())),
        ("volume", _) => fields
            .volume(room, target)
            .map_err(|error| told(error, wrong)),
        (kind, _) => Err(wrong(format!(
            "unknown type {kind:?}; bind, tmpfs or volume"
        ))),
    };
    mount?.idmapped(idmap)
}

/// An error that says nothing of the flag yet.
fn told(error: Error, wrong: impl Fn(String) -> Error) -> Error {
    match exit_code(&error) {
        Some(_) => error,
        None => wrong(message(&error)),
    }
}

impl Fields {
    fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or("volume")
    }

    fn read(text: &str) -> Result<Fields, String> {
        let mut all = Fields::default();
        let words = split(text)?;
        for word in &words {
            all.take(word)?;
        }
        // What belongs to another type has no effect.
        let other = words.iter().find(|word| {
            ["bind", "tmpfs", "volume"].iter().any(|kind| {
                *kind != all.kind()
                    && word
                        .strip_prefix(kind)
                        .is_some_and(|rest| rest.starts_with('-'))
            })
        });
        match other {
            Some(word) => Err(format!("{word}: it is not for type={}", all.kind())),
            None => Ok(all),
        }
    }

    fn take(&mut self, word: &str) -> Result<(), String> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let text = || value.map(str::to_owned);
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(format!("{word}: true or false")),
        };
        match (key, value) {
            ("type", Some(_)) => self.kind = text(),
            ("source" | "src", Some(_)) => self.source = text(),
            ("target" | "dst" | "destination", Some(_)) => self.target = text(),
            ("readonly" | "ro", _) => self.read_only = switch()?,
            ("bind-propagation", Some(value)) => {
                if !PROPAGATIONS.contains(&value) {
                    return Err(format!("unknown bind-propagation {value:?}"));
                }
                self.propagation = text();
            }
            ("bind-nonrecursive", _) => self.recursion = switch()?.then_some("disabled"),
            ("bind-recursive", Some(value)) => {
                const ALL: [&str; 4] = ["enabled", "disabled", "writable", "readonly"];
                let known = ALL.into_iter().find(|known| *known == value);
                self.recursion =
                    Some(known.ok_or_else(|| format!("{word}: one of {}", ALL.join(", ")))?);
            }
            ("bind-create-src", _) => self.create_source = switch()?,
            ("tmpfs-size", Some(value)) => {
                let size = values::bytes(value).map_err(|why| format!("{word}: {why}"))?;
                self.tmpfs.push(format!("size={}", size.count));
            }
            ("tmpfs-mode", Some(value)) => match u32::from_str_radix(value, 8) {
                Ok(0..=0o7777) => self.tmpfs.push(format!("mode={value}")),
                _ => return Err(format!("{word}: it is octal, such as 1777")),
            },
            ("volume-nocopy", _) => self.no_copy = switch()?,
            ("volume-driver", Some(volume::DRIVER)) => {}
            ("volume-driver", _) => return Err(format!("{word}: there are no volume plugins")),
            ("volume-opt", Some(value)) => self.options.push(value.to_owned()),
            ("volume-label", Some(value)) => {
                let label = values::label(value).map_err(|why| format!("{word}: {why}"))?;
                self.labels.push(label);
            }
            ("volume-subpath", Some(value)) => {
                let path = Path::new(value);
                let plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
                if value.is_empty() || !path.components().all(plain) {
                    return Err(format!("{word}: it must be a relative path without .."));
                }
                self.subpath = Some(path.to_owned());
            }
            ("idmap", None | Some("true" | "false" | "1" | "0")) => {
                self.idmap = switch()?.then(|| key.to_owned());
            }
            ("idmap", Some(_)) => self.idmap = Some(word.to_owned()),
            ("consistency", Some(_)) => {}
            _ => return Err(format!("unknown field {word:?}")),
        }
        Ok(())
    }

    fn bind(&self, source: &str, target: PathBuf) -> Result<Mount> {
        // As with `-v`, a word alone might be meant as a volume's name.
        if !source.starts_with(['/', '.']) {
            return Err(anyhow!(
                "source {source:?} is not absolute, nor begins with ./"
            ));
        }
        let path = &std::path::absolute(source)?;
        if !path.exists() && !self.create_source {
            let error = anyhow!("--mount: the source {} does not exist", path.display());
            let hint = "make it first, or use -v, which makes directories";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        let kind = match self.recursion {
            Some("disabled") => "bind",
            _ => "rbind",
        };
        let mode = match (self.read_only, self.recursion) {
            (true, Some("readonly")) => "rro",
            (false, Some("readonly")) => {
                return Err(anyhow!("bind-recursive=readonly needs readonly"));
            }
            (true, _) => "ro",
            (false, _) => "rw",
        };
        let propagation = self.propagation.as_deref().unwrap_or("rprivate");
        Ok(Mount {
            spec: bind(&target, path, [kind, mode, propagation]),
            shown: shown("bind", path, &target, self.read_only, propagation),
            target,
            host_dir: self.create_source.then(|| path.to_owned()),
            volume: None,
        })
    }

    fn volume(&self, room: Room<'_>, target: PathBuf) -> Result<Mount> {
        let given = Given {
            name: self.source.as_deref(),
            labels: process::map(&self.labels),
            options: match self.options.is_empty() {
                true => None,
                false => Some(Options::parse(&self.options)?),
            },
            subpath: self.subpath.clone(),
            copy: !self.no_copy,
            read_only: self.read_only,
        };
        if given.name.is_none() && given.subpath.is_some() {
            return Err(anyhow!("volume-subpath: a new volume has nothing in it"));
        }
        mounts::of_volume(room, target, given)
    }
}

/// The fields of a line of comma-separated values. One in double quotes may hold commas; two double
/// quotes stand for one there.
fn split(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            Some('"') if field.is_empty() => loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_none() => break,
                    Some(c) => field.push(c),
                    None => return Err("a quote is not closed".to_owned()),
                }
            },
            Some(',') => fields.push(std::mem::take(&mut field)),
            Some(c) => field.push(c),
            None => break,
        }
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(text: &str) -> Result<Mount> {
        mount(mounts::room(&mounts::nowhere()), text)
    }

    #[test]
    fn fields_of_a_mount() {
        let bind = parse("type=bind,src=/,dst=/b,readonly,bind-recursive=readonly").unwrap();
        assert_eq!(bind.spec["options"], json!(["rbind", "rro", "rprivate"]));
        let bind = parse("type=bind,src=/,dst=/b,bind-nonrecursive").unwrap();
        assert_eq!(bind.spec["options"], json!(["bind", "rw", "rprivate"]));
        let here = parse("type=bind,src=./src,dst=/b").unwrap();
        assert_eq!(
            here.spec["source"],
            json!(std::path::absolute("src").unwrap())
        );
        for (word, expected) in [
            ("idmap=false", json!(["rbind", "rw", "rprivate"])),
            (
                "idmap=uids=0-1-1;gids=0-1-1",
                json!(["rbind", "rw", "rprivate", "idmap"]),
            ),
        ] {
            let bind = parse(&format!("type=bind,src=/,dst=/b,{word}")).unwrap();
            assert_eq!(bind.spec["options"], expected);
        }
        let line = "src=data,dst=/d,ro,volume-nocopy,volume-subpath=a/b,volume-label=k=v";
        let data = parse(line).unwrap();
        assert_eq!(data.shown["RW"], json!(false));
        let wanted = data.volume.unwrap();
        assert!(!wanted.copy && wanted.volume.labels["k"] == "v");
        let part = wanted.using.subpath.unwrap();
        assert!(part.path == Path::new("a/b") && part.place.starts_with("/nosuch/run"));
        assert_eq!(data.spec["source"], json!(part.place));
        let line = "dst=/d,volume-opt=type=tmpfs,\"volume-opt=o=size=1m,uid=5\"";
        let memory = parse(line).unwrap();
        assert_eq!(memory.spec["options"], json!(["size=1m", "uid=5"]));
        for text in [
            "type=nosuch,dst=/b",
            "src=/a",
            "src=/a,dst=/b",
            "type=bind,src=,dst=/b",
            "type=bind,src=src,dst=/b",
            "type=bind,src=./nosuch,dst=/b",
            "type=bind,src=/,dst=rel",
            "type=bind,dst=/b",
            "nonsense",
            "type=bind,src=/nosuch,dst=/b",
            "type=bind,\"src=/,dst=/b",
            "type=bind,src=/,dst=/b,volume-nocopy",
            "type=bind,src=/,dst=/b,bind-recursive=readonly",
            "type=bind,src=/,dst=/b,bind-recursive=x",
            "type=tmpfs,dst=/b,tmpfs-size=1x",
            "type=tmpfs,dst=/b,tmpfs-mode=9",
            "type=tmpfs,src=/x,dst=/b",
            "type=bind,src=/,dst=/b,idmap",
            "src=data,dst=/b,volume-subpath=../x",
            "src=data,dst=/b,volume-driver=nfs",
            "dst=/b,volume-subpath=x",
            "src=data,dst=/b,volume-label==x",
            "src=data,dst=/b,readonly=maybe",
        ] {
            let error = parse(text).unwrap_err();
            assert!(message(&error).contains("--mount"), "{text}");
            assert_eq!(exit_code(&error), Some(125), "{text}");
        }
        assert!(parse("src=data,dst=/b,volume-opt=type=nfs").is_err());
        let quoted = split(r#"type=bind,"src=/a,b""c",dst=/d"#).unwrap();
        assert_eq!(quoted, ["type=bind", "src=/a,b\"c", "dst=/d"]);
    }
}
