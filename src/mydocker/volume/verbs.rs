//! `volume create`, `ls`, `inspect` and `rm`. `prune.rs` has `volume prune`.

use super::{
    DRIVER, Options, Volume, all, anonymous_label, data, ensure, files, get, is_name, lock, remove,
};
use crate::error::{ResultExt, message, with_exit_code, with_hint};
use crate::mydocker::cli::{Global, VolumeCreate, VolumeInspect, VolumeLs, VolumeRm};
use crate::mydocker::ps_filter::has_label;
use crate::mydocker::state_dirs::{State, new_id};
use crate::mydocker::{for_each, format, print, process, record, say, volume};
use anyhow::{Error, Result, anyhow};
use nix::fcntl::FlockArg;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::format_description::well_known::Rfc3339;

/// `mydocker volume create`: prints the name. One that is there already is not made again.
pub fn create(state: &State, _: &Global, args: &VolumeCreate) -> Result<i32> {
    if args.driver != DRIVER {
        let error = anyhow!("--driver {}: not supported", args.driver);
        let hint = "there are no volume plugins; the driver is local";
        return Err(with_exit_code(with_hint(error, hint), 125));
    }
    let mut labels = process::map(&args.label);
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            labels.extend(anonymous_label());
            new_id()?
        }
    };
    check_name(&name).exit_code(125)?;
    let volume = Volume::new(&name, labels, Options::parse(&args.opt)?);
    let is_new = {
        let lock = lock(state, FlockArg::LockShared)?;
        ensure(state, &volume, &lock)?
    };
    if !is_new && !args.label.is_empty() && get(state, &name)?.labels != volume.labels {
        let error = anyhow!("the volume {name} was made with other labels");
        let hint = format!("`mydocker volume inspect {name}` shows them");
        return Err(with_exit_code(with_hint(error, hint), 1));
    }
    say(&name).map(|()| 0)
}

/// Whether a volume may have this name.
pub(in crate::mydocker) fn check_name(name: &str) -> Result<()> {
    match is_name(name) {
        true => Ok(()),
        false => Err(anyhow!("{}: no name of a volume", crate::mydocker::visible(name))).hint(
            "a name has at least two letters, digits, _ . and -, and begins with a letter or digit; \
             a directory of the host begins with / or ./",
        ),
    }
}

/// `mydocker volume ls`
pub fn ls(state: &State, _: &Global, args: &VolumeLs) -> Result<i32> {
    let filters = Filters::parse(&args.filter)?;
    // What nobody wants any more uses nothing.
    record::all(state)?;
    let used = volume::used(state)?;
    let mut volumes = all(state)?;
    volumes.retain(|volume| filters.fit(volume, used.contains_key(&volume.name)));
    if args.quiet && args.format.is_none() {
        let names: String = volumes
            .iter()
            .map(|one| format!("{}\n", one.name))
            .collect();
        return print(&names);
    }
    let objects: Vec<Value> = volumes.iter().map(|one| listed(state, one)).collect();
    let labels = |at: usize| volumes.get(at).map(|volume| &volume.labels);
    let text = format::labelled(args.format.as_deref(), &objects, labels, || {
        let mut table = vec![["DRIVER", "VOLUME NAME"].map(str::to_owned).to_vec()];
        table.extend(
            volumes
                .iter()
                .map(|one| vec![DRIVER.to_owned(), one.name.clone()]),
        );
        table
    })?;
    print(&text)
}

/// A row with Docker's names.
fn listed(state: &State, volume: &Volume) -> Value {
    let labels = volume.labels.iter();
    let labels: Vec<String> = labels
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    json!({
        "Name": volume.name, "Driver": DRIVER, "Scope": "local", "Labels": labels.join(","),
        "Mountpoint": mountpoint(state, volume), "Size": "N/A", "Links": "N/A", "Status": "N/A",
        "Availability": "N/A", "Group": "N/A",
    })
}

/// `mydocker volume inspect`
pub fn inspect(state: &State, _: &Global, args: &VolumeInspect) -> Result<i32> {
    let mut found = Vec::new();
    let result = for_each(&args.names, |name| {
        found.push(described(state, &get(state, name)?));
        Ok(())
    });
    format::objects(args.format.as_deref(), &found)?;
    result
}

/// A volume in Docker's words.
pub(in crate::mydocker) fn described(state: &State, volume: &Volume) -> Value {
    let some = |map: &BTreeMap<String, String>| match map.is_empty() {
        true => Value::Null,
        false => json!(map),
    };
    json!({
        "Name": volume.name, "Driver": DRIVER, "Scope": "local",
        "CreatedAt": volume.created.format(&Rfc3339).unwrap_or_default(),
        "Labels": some(&volume.labels), "Options": some(&volume.options.0),
        "Mountpoint": mountpoint(state, volume),
    })
}

fn mountpoint(state: &State, volume: &Volume) -> PathBuf {
    files(state, volume).unwrap_or_else(|_| data(state, &volume.name))
}

/// `mydocker volume rm`
pub fn rm(state: &State, _: &Global, args: &VolumeRm) -> Result<i32> {
    for_each(&args.names, |name| {
        if volume::used(state)?.contains_key(name) {
            // Perhaps by a container that nobody wants any more.
            record::all(state)?;
        }
        match remove(state, name) {
            Err(error) if args.force && message(&error).starts_with("no such volume") => Ok(()),
            Err(error) => Err(error),
            Ok(()) => say(name),
        }
    })
}

/// What `--filter` of `volume ls` asks for: of several values for one name any will do, but all labels
/// must be there.
#[derive(Debug)]
struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    fn parse(texts: &[String]) -> Result<Filters> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let fits = match name {
                "dangling" => matches!(value, "true" | "1" | "false" | "0"),
                "driver" | "label" | "name" => !value.is_empty(),
                _ => false,
            };
            if !fits {
                return Err(wrong(text));
            }
            all.entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        Ok(Filters(all))
    }

    fn fit(&self, volume: &Volume, is_used: bool) -> bool {
        self.0.iter().all(|(name, values)| {
            let mut values = values.iter();
            match name.as_str() {
                "label" => values.all(|value| has_label(&volume.labels, value)),
                "driver" => values.any(|value| value == DRIVER),
                "name" => values.any(|value| volume.name.contains(value.as_str())),
                _ => values.any(|value| matches!(value.as_str(), "true" | "1") != is_used),
            }
        })
    }
}

fn wrong(text: &str) -> Error {
    let error = anyhow!("invalid --filter value '{text}'");
    let hint = "dangling=true, driver=local, label=NAME[=VALUE] or name=TEXT";
    with_exit_code(with_hint(error, hint), 125)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let volume = Volume::new("web-data", labels, Options::default());
        let fit = |texts: &[&str], is_used| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::parse(&texts).unwrap().fit(&volume, is_used)
        };
        assert!(fit(&[], true) && fit(&["label=a", "label=a=1", "name=data"], true));
        assert!(!fit(&["label=a", "label=b"], true) && !fit(&["driver=nfs"], true));
        assert!(fit(&["dangling=true"], false) && !fit(&["dangling=1"], true));
        assert!(fit(&["dangling=false"], true));
        for text in ["nosuch=1", "dangling=maybe", "name="] {
            assert!(Filters::parse(&[text.to_owned()]).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_volumes() {
        for name in ["ab", "web-data_1.x"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a", "-ab", ".ab", "a/b", "..", "a b"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
