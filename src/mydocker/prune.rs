//! `container prune`, `image prune`, `volume prune`, `builder prune`, `system prune`: what nobody needs
//! any more goes.

use super::cli::{BuilderPrune, Global, Prune, PruneAll, SystemPrune, VolumePrune};
use super::df::size_of;
use super::image::{Image, Removed, Store};
use super::ps_filter::has_label;
use super::record::{self, Entry, Record, Status};
use super::state_dirs::State;
use super::volume::{self, Volume};
use super::{build, events, format, print, report, rm, values};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Error, Result, anyhow};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// `mydocker container prune`
pub fn containers(state: &State, _: &Global, args: &Prune) -> Result<i32> {
    let filters = Filters::read(&args.filter)?;
    if !is_confirmed(
        args.force,
        "This will remove all containers that do not run.",
    )? {
        return Ok(0);
    }
    reclaim(state, |text| remove_containers(state, &filters, text))
}

/// `mydocker image prune`
pub fn images(state: &State, _: &Global, args: &PruneAll) -> Result<i32> {
    let filters = Filters::read(&args.filter)?;
    let what = match args.all {
        true => "This will remove all images without a container.",
        false => "This will remove all images without a name and a container.",
    };
    if !is_confirmed(args.force, what)? {
        return Ok(0);
    }
    reclaim(state, |text| remove_images(state, args.all, &filters, text))
}

/// `mydocker builder prune`
pub fn builder(state: &State, _: &Global, args: &BuilderPrune) -> Result<i32> {
    let what = match args.all {
        true => "This will remove all that builds keep for the next one.",
        false => "This will remove what builds keep for the next one and no image shares.",
    };
    if !is_confirmed(args.force, what)? {
        return Ok(0);
    }
    reclaim(state, |_| build::forget(state, args.all).map(|()| true))
}

/// `mydocker system prune`
pub fn system(state: &State, _: &Global, args: &SystemPrune) -> Result<i32> {
    let filters = Filters::read(&args.filter)?;
    let images = match args.all {
        true => ", all images without one",
        false => ", all images without a name and a container",
    };
    let volumes = match args.volumes {
        true => ", all volumes without a name and a container",
        false => "",
    };
    let what = format!(
        "This will remove all containers that do not run{images}{volumes}, and what builds keep."
    );
    if !is_confirmed(args.force, &what)? {
        return Ok(0);
    }
    reclaim(state, |text| {
        let mut fine = remove_containers(state, &filters, text)?;
        if args.volumes {
            fine &= remove_volumes(state, false, &filters, text)?;
        }
        // What builds keep has no label and no age of its own.
        if args.filter.is_empty() {
            build::forget(state, args.all)?;
        }
        Ok(remove_images(state, args.all, &filters, text)? && fine)
    })
}

/// `mydocker volume prune`
pub fn volumes(state: &State, _: &Global, args: &VolumePrune) -> Result<i32> {
    // Docker's other spelling of -a.
    let (all, filter): (Vec<&String>, Vec<&String>) = args
        .filter
        .iter()
        .partition(|text| text.starts_with("all="));
    let mut with_named = args.all;
    for text in all {
        match text.as_str() {
            "all=true" | "all=1" => with_named = true,
            "all=false" | "all=0" => {}
            _ => return Err(Filters::wrong(text, "")),
        }
    }
    let filter: Vec<String> = filter.into_iter().cloned().collect();
    let filters = Filters::read(&filter)?;
    let what = match with_named {
        true => "This will remove all volumes that no container uses.",
        false => "This will remove all volumes that no container uses and nobody gave a name.",
    };
    if !is_confirmed(args.force, what)? {
        return Ok(0);
    }
    // What nobody wants any more uses nothing.
    record::all(state)?;
    reclaim(state, |text| {
        remove_volumes(state, with_named, &filters, text)
    })
}

fn is_confirmed(force: bool, what: &str) -> Result<bool> {
    if force {
        return Ok(true);
    }
    print(&format!(
        "WARNING! {what}\nAre you sure you want to continue? [y/N] "
    ))?;
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Does it, and says how much room there is now that was not there before.
fn reclaim(state: &State, action: impl FnOnce(&mut String) -> Result<bool>) -> Result<i32> {
    let before = size_of(&state.root);
    let mut text = String::new();
    let result = action(&mut text);
    let freed = before.saturating_sub(size_of(&state.root));
    print(&format!(
        "{text}Total reclaimed space: {}\n",
        format::size(freed)
    ))?;
    Ok(i32::from(!result.exit_code(1)?))
}

/// `false`: not all could be removed, which has been reported.
fn remove_containers(state: &State, filters: &Filters, text: &mut String) -> Result<bool> {
    let (mut fine, mut removed) = (true, String::new());
    for entry in record::all(state)? {
        let Entry::Known(record, status) = entry else {
            continue;
        };
        let idle = matches!(status, Status::Exited(_) | Status::Created);
        // One that somebody is at is being started, or waits to be started again.
        if !idle || state.is_monitored(&record.id) || !filters.fit_container(&record) {
            continue;
        }
        match rm::one(state, &record.id, false, false) {
            Ok(()) => removed += &format!("{}\n", record.id),
            Err(error) => {
                fine = false;
                report(&error);
            }
        }
    }
    if !removed.is_empty() {
        *text += &format!("Deleted Containers:\n{removed}\n");
    }
    Ok(fine)
}

fn remove_volumes(state: &State, all: bool, filters: &Filters, text: &mut String) -> Result<bool> {
    let (mut fine, mut removed) = (true, String::new());
    let used = volume::used(state)?;
    for volume in volume::all(state)? {
        if used.contains_key(&volume.name)
            || !(all || volume.is_anonymous())
            || !filters.fit_volume(&volume)
        {
            continue;
        }
        match volume::remove(state, &volume.name) {
            Ok(()) => removed += &format!("{}\n", volume.name),
            // A container was made with it just now.
            Err(error) => {
                fine = false;
                report(&error);
            }
        }
    }
    if !removed.is_empty() {
        *text += &format!("Deleted Volumes:\n{removed}\n");
    }
    Ok(fine)
}

fn remove_images(state: &State, all: bool, filters: &Filters, text: &mut String) -> Result<bool> {
    if !state.root.join("images").exists() {
        return Ok(true);
    }
    let store = Store::open(&state.root)?;
    let (mut fine, mut lines) = (true, String::new());
    for image in store.list()? {
        if (image.is_tagged() && !all)
            || !store.users(&image.id)?.is_empty()
            || !filters.fit_image(&image)
        {
            continue;
        }
        // One name after the other: with the last one it goes.
        let names = match image.names.is_empty() {
            true => vec![image.id.clone()],
            false => image.names.clone(),
        };
        let mut gone = Vec::new();
        for name in names {
            if gone.contains(&name) {
                continue;
            }
            match store.remove(&name, false) {
                Ok(removed) => {
                    for item in removed {
                        if let Removed::Untagged(name) = &item {
                            gone.push(name.clone());
                        }
                        lines += &told(state, &image, item);
                    }
                }
                // A container was made of it just now.
                Err(error) => {
                    fine = false;
                    report(&error);
                }
            }
        }
    }
    if !lines.is_empty() {
        *text += &format!("Deleted Images:\n{lines}\n");
    }
    Ok(fine)
}

fn told(state: &State, image: &Image, removed: Removed) -> String {
    match removed {
        Removed::Untagged(name) => {
            events::of_image(state, "untag", &image.id, &name);
            format!("untagged: {name}\n")
        }
        Removed::Deleted(id) => {
            events::of_image(state, "delete", &id, "");
            format!("deleted: {id}\n")
        }
    }
}

/// `--filter until=TIME`, `label=NAME[=VALUE]`, `label!=NAME[=VALUE]`: all must fit.
struct Filters {
    until: Option<OffsetDateTime>,
    /// A label, and whether it must be there.
    labels: Vec<(String, bool)>,
}

impl Filters {
    fn read(texts: &[String]) -> Result<Filters> {
        let mut filters = Filters {
            until: None,
            labels: Vec::new(),
        };
        for text in texts {
            let bad = |why: &str| Filters::wrong(text, why);
            match text.split_once('=') {
                Some(("until", value)) => {
                    let time = values::when(value).map_err(|why| bad(&format!(": {why}")))?;
                    filters.until = Some(time);
                }
                Some(("label", value)) => filters.labels.push((value.to_owned(), true)),
                Some(("label!", value)) => filters.labels.push((value.to_owned(), false)),
                _ => return Err(bad("")),
            }
        }
        Ok(filters)
    }

    fn wrong(text: &str, why: &str) -> Error {
        let error = anyhow!("invalid --filter value '{text}'{why}");
        let hint = "until=24h, label=NAME[=VALUE] or label!=NAME[=VALUE]";
        with_exit_code(with_hint(error, hint), 125)
    }

    fn fit_volume(&self, volume: &Volume) -> bool {
        self.fit(volume.created, &volume.labels)
    }

    fn fit_container(&self, record: &Record) -> bool {
        self.fit(record.created, &record.labels)
    }

    fn fit_image(&self, image: &Image) -> bool {
        let labels = &image.raw_config["config"]["Labels"];
        let labels = serde_json::from_value(labels.clone()).unwrap_or_default();
        self.fit(image.created, &labels)
    }

    fn fit(&self, created: OffsetDateTime, labels: &BTreeMap<String, String>) -> bool {
        self.until.is_none_or(|until| created < until)
            && self
                .labels
                .iter()
                .all(|(label, is)| has_label(labels, label) == *is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen() {
        let now = OffsetDateTime::now_utc();
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let fit = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            Filters::read(&texts).unwrap().fit(now, &labels)
        };
        assert!(fit(&[]) && fit(&["label=a"]) && fit(&["label=a=1", "label!=b"]));
        assert!(!fit(&["label=a=2"]) && !fit(&["label!=a"]) && !fit(&["label=b"]));
        assert!(!fit(&["until=1h"]) && fit(&["until=2100-01-01"]));
        for text in ["until=soon", "name=x", "label"] {
            assert!(Filters::read(&[text.to_owned()]).is_err(), "{text}");
        }
    }
}
