//! What a volume is made of: the options of Docker's driver `local`, which are those of mount(8).

use crate::error::{with_exit_code, with_hint};
use crate::linux::mount_options;
use anyhow::{Error, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `type`, `device` and `o`, as they were given.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::mydocker) struct Options(pub(in crate::mydocker) BTreeMap<String, String>);

/// Where the files of a volume are.
#[derive(Debug, PartialEq)]
pub(in crate::mydocker) enum Kind {
    /// In its own directory.
    Plain,
    /// In a directory of the host; options of the mount.
    Bind(PathBuf, Vec<String>),
    /// In memory, and gone with the container that uses it; options of the file system.
    Tmpfs(Vec<String>),
}

const USAGE: &str =
    "as in -o type=tmpfs -o o=size=100m, or -o type=none -o device=/srv/data -o o=bind";

fn wrong(what: String) -> Error {
    with_exit_code(with_hint(anyhow!(what), USAGE), 125)
}

impl Options {
    /// Reads `NAME=VALUE` texts.
    pub(in crate::mydocker) fn parse(texts: &[String]) -> Result<Options> {
        let mut all = BTreeMap::new();
        for text in texts {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| wrong(format!("volume option {text:?}: it has no value")))?;
            all.insert(name.to_owned(), value.to_owned());
        }
        let options = Options(all);
        options.kind()?;
        Ok(options)
    }

    /// What they mean. What is not supported is an error (exit code 125).
    pub(in crate::mydocker) fn kind(&self) -> Result<Kind> {
        if let Some(name) = self.0.keys().find(|name| !NAMES.contains(&name.as_str())) {
            return Err(wrong(format!("volume option {name:?}: not supported")));
        }
        let get = |name: &str| self.0.get(name).map_or("", String::as_str);
        let words = get("o").split(',').filter(|word| !word.is_empty());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let device = Path::new(get("device"));
        match get("type") {
            _ if self.0.is_empty() => Ok(Kind::Plain),
            "tmpfs" => Ok(Kind::Tmpfs(words)),
            kind @ ("" | "none" | "bind") => {
                let parsed = mount_options::parse(&words);
                if kind != "bind" && parsed.bind.is_none() {
                    return Err(wrong("volume option o: it must hold bind".to_owned()));
                }
                if !device.is_absolute() {
                    let what = "volume option device: it must be a directory of the host, absolute";
                    return Err(wrong(what.to_owned()));
                }
                if let Some(word) = parsed.data.first() {
                    let what = format!("volume option o: {word:?} is no option of a bind mount");
                    return Err(wrong(what));
                }
                Ok(Kind::Bind(device.to_owned(), words))
            }
            other => Err(wrong(format!(
                "volume option type: {other:?} is not supported; there are tmpfs and none"
            ))),
        }
    }
}

const NAMES: [&str; 3] = ["type", "device", "o"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{exit_code, message};

    #[test]
    fn options_of_the_local_driver() {
        let kind = |line: &str| {
            let texts: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            Options::parse(&texts)?.kind()
        };
        let words = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(kind("").unwrap(), Kind::Plain);
        let tmpfs = kind("type=tmpfs device=tmpfs o=size=1m,uid=1000").unwrap();
        assert_eq!(tmpfs, Kind::Tmpfs(words("size=1m,uid=1000")));
        let bind = kind("type=none device=/srv o=bind,ro").unwrap();
        assert_eq!(bind, Kind::Bind("/srv".into(), words("bind,ro")));
        for (line, what) in [
            ("type=nfs device=:/srv o=addr=10.0.0.1", "nfs"),
            ("type=none device=srv o=bind", "device"),
            ("type=none o=bind", "device"),
            ("type=none device=/srv o=ro", "bind"),
            ("type=none device=/srv o=bind,uid=1", "uid=1"),
            ("size=1g", "size"),
            ("type", "no value"),
        ] {
            let error = kind(line).unwrap_err();
            assert_eq!(exit_code(&error), Some(125), "{line}");
            assert!(message(&error).contains(what), "{line}: {error}");
        }
    }
}
