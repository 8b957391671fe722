//! `RUN --mount=`: what is mounted while a program of the build runs, and is no part of the image.

use crate::error::ResultExt;
use crate::mydocker::values;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::fmt;

/// A mount as it is written.
#[derive(Debug, Default, Clone)]
pub(super) struct Mount {
    pub(super) kind: Kind,
    /// Absolute, or relative to the working directory.
    pub(super) target: String,
    /// Of the stage, the image or the context.
    pub(super) source: String,
    pub(super) from: Option<String>,
    pub(super) id: Option<String>,
    pub(super) read_only: bool,
    pub(super) required: bool,
    /// cache, sharing=locked: one at a time.
    pub(super) locked: bool,
    /// secret: also, or only, as this variable.
    pub(super) env: Option<String>,
    pub(super) owner: (u32, u32),
    pub(super) mode: Option<u32>,
    /// tmpfs, in bytes
    pub(super) size: Option<i64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Files of the context or of another stage. What is written there is lost.
    #[default]
    Bind,
    /// A directory that stays for the next build.
    Cache,
    Tmpfs,
    /// A file of `--secret`.
    Secret,
}

impl Mount {
    /// Reads `type=…,target=…`; `replaced` replaces the variables in a value.
    pub(super) fn parse(text: &str, replaced: &dyn Fn(&str) -> Result<String>) -> Result<Mount> {
        let what = || format!("--mount={text}");
        let mount = Mount::read(text, replaced).with_context(what);
        mount.hint("as in --mount=type=cache,target=/root/.cache")
    }

    fn read(text: &str, replaced: &dyn Fn(&str) -> Result<String>) -> Result<Mount> {
        let mut writes = None;
        let fields: Vec<(&str, Option<&str>)> = text
            .split(',')
            .map(|field| match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field, None),
            })
            .collect();
        let named = fields.iter().rfind(|(key, _)| *key == "type");
        let mut mount = Mount {
            kind: match named {
                Some((_, value)) => kind(value.unwrap_or_default())?,
                None => Kind::Bind,
            },
            ..Mount::default()
        };
        for (key, value) in fields {
            ensure!(
                mount.kind.knows(key),
                "{key:?} is no field of type={}",
                mount.kind
            );
            let switch = || match value {
                None | Some("true" | "1") => Ok(true),
                Some("false" | "0") => Ok(false),
                Some(other) => Err(anyhow!("{key}={other}: it is true or false")),
            };
            let text = || {
                value
                    .filter(|v| !v.is_empty())
                    .with_context(|| format!("{key}= needs a value"))
            };
            match key {
                "type" => {}
                "target" | "dst" | "destination" => mount.target = replaced(text()?)?,
                // As Docker: the name that a secret has on the command line.
                "source" | "src" if mount.kind == Kind::Secret => {
                    mount.id = Some(replaced(text()?)?);
                }
                "source" | "src" => mount.source = replaced(text()?)?,
                "from" => mount.from = Some(text()?.to_owned()),
                "id" => mount.id = Some(replaced(text()?)?),
                "rw" | "readwrite" => writes = Some(switch()?),
                "ro" | "readonly" => writes = Some(!switch()?),
                "required" => mount.required = switch()?,
                "env" => mount.env = Some(text()?.to_owned()),
                "uid" => mount.owner.0 = text()?.parse().context("uid")?,
                "gid" => mount.owner.1 = text()?.parse().context("gid")?,
                "mode" => mount.mode = Some(mode(text()?)?),
                "size" => {
                    let size = values::bytes(text()?).map_err(|why| anyhow!("size: {why}"))?;
                    mount.size = Some(size.count);
                }
                "sharing" => match text()? {
                    "shared" => {}
                    "locked" => mount.locked = true,
                    other => bail!("sharing={other}: there are shared and locked"),
                },
                _ => bail!("unknown field {key:?}"),
            }
        }
        mount.read_only = !writes.unwrap_or(mount.kind != Kind::Bind);
        if mount.target.is_empty() && mount.kind != Kind::Secret {
            bail!("target= is missing");
        }
        Ok(mount)
    }

    /// What a secret or a cache is called.
    pub(super) fn name(&self) -> Result<&str> {
        let named = match self.kind {
            Kind::Cache => Some(self.target.as_str()),
            // As Docker: the name of the file where it is to be.
            _ => self
                .target
                .rsplit('/')
                .next()
                .filter(|name| !name.is_empty()),
        };
        self.id.as_deref().or(named).context("id= is missing")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bind => "bind",
            Kind::Cache => "cache",
            Kind::Tmpfs => "tmpfs",
            Kind::Secret => "secret",
        })
    }
}

impl Kind {
    /// Whether a mount of this type has a field of this name.
    fn knows(self, key: &str) -> bool {
        const ALL: &[&str] = &["type", "target", "dst", "destination"];
        const SWITCHES: &[&str] = &["rw", "readwrite", "ro", "readonly"];
        const OWNER: &[&str] = &["uid", "gid", "mode"];
        let own: &[&[&str]] = match self {
            Kind::Bind => &[&["source", "src", "from"], SWITCHES],
            Kind::Cache => &[&["id", "sharing", "source", "src", "from"], SWITCHES, OWNER],
            Kind::Tmpfs => &[&["size"]],
            Kind::Secret => &[&["id", "source", "src", "required", "env"], OWNER],
        };
        ALL.contains(&key) || own.iter().any(|keys| keys.contains(&key))
    }
}

fn kind(text: &str) -> Result<Kind> {
    Ok(match text {
        "bind" => Kind::Bind,
        "cache" => Kind::Cache,
        "tmpfs" => Kind::Tmpfs,
        "secret" => Kind::Secret,
        "ssh" => bail!("type=ssh: agents are not supported"),
        other => bail!("type={other}: there are bind, cache, tmpfs and secret"),
    })
}

/// An octal mode.
pub(super) fn mode(text: &str) -> Result<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o7777) => Ok(mode),
        _ => Err(anyhow!("mode {text:?}: it is an octal number")).hint("as in 755"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let replaced = |text: &str| Ok(text.replace("$x", "y"));
        let read = |text: &str| Mount::parse(text, &replaced);
        let bind = read("source=a/$x,target=/t,from=one").unwrap();
        assert_eq!(
            (bind.kind, bind.source.as_str(), bind.read_only),
            (Kind::Bind, "a/y", true)
        );
        assert!(!read("target=/t,rw").unwrap().read_only);
        let cache = read("type=cache,target=/c,sharing=locked,mode=0700,uid=5").unwrap();
        assert!(cache.locked && !cache.read_only);
        assert_eq!(
            (cache.name().unwrap(), cache.mode, cache.owner),
            ("/c", Some(0o700), (5, 0))
        );
        assert_eq!(read("type=secret,id=s").unwrap().name().unwrap(), "s");
        assert_eq!(
            read("type=secret,target=/run/k").unwrap().name().unwrap(),
            "k"
        );
        assert_eq!(
            read("type=tmpfs,target=/t,size=1m").unwrap().size,
            Some(1 << 20)
        );
        for bad in [
            "",
            "type=ssh",
            "type=x,target=/t",
            "type=bind",
            "target=/t,x=1",
            "target=",
            "type=cache,target=/c,sharing=private",
            "type=cache,target=/c,mode=9",
            "target=/t,rw=x",
            "type",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        // What belongs to another type is not ignored.
        for bad in [
            "target=/t,size=1m",
            "target=/t,id=x",
            "target=/t,uid=5",
            "target=/t,sharing=locked",
            "env=x,target=/t,required",
            "type=cache,target=/c,env=X",
            "type=cache,target=/c,required",
            "type=cache,target=/c,size=1m",
            "size=1m,type=secret,id=s",
            "type=secret,id=s,from=x",
            "type=secret,id=s,rw",
            "type=tmpfs,target=/t,mode=700",
            "type=tmpfs,target=/t,source=/x",
            "type=tmpfs,target=/t,ro",
        ] {
            let error = read(bad).unwrap_err();
            assert!(
                format!("{error:#}").contains("no field of type="),
                "{bad}: {error:#}"
            );
        }
        let secret = read("type=secret,source=s,target=/t").unwrap();
        assert_eq!(secret.name().unwrap(), "s");
    }
}
