//! `history`: how an image came to be, its newest step first.

use super::cli::{Global, History};
use super::image::{Image, Store};
use super::platform::Platform;
use super::state_dirs::State;
use super::{ago, format, print};
use crate::error::ResultExt;
use anyhow::Result;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One step.
struct Step {
    id: String,
    created: OffsetDateTime,
    by: String,
    size: u64,
    comment: String,
}

/// `mydocker history`
pub fn history(state: &State, _: &Global, args: &History) -> Result<i32> {
    let image = Store::open(&state.root)
        .and_then(|store| store.get(&args.image))
        .exit_code(1)?;
    Platform::check(args.platform.as_ref(), &image.platform(), &args.image).exit_code(1)?;
    let steps = steps(&image);
    let id = |step: &Step| match (args.no_trunc, step.id.strip_prefix("sha256:")) {
        (false, Some(hex)) => hex.chars().take(12).collect(),
        _ => step.id.clone(),
    };
    if args.quiet && args.format.is_none() {
        return print(&steps.iter().map(|step| id(step) + "\n").collect::<String>());
    }
    let created = |step: &Step| step.created.format(&Rfc3339).unwrap_or_default();
    let since = |step: &Step| match (args.human, step.created == OffsetDateTime::UNIX_EPOCH) {
        (false, _) => created(step),
        (true, true) => "N/A".to_owned(),
        (true, false) => ago(step.created),
    };
    let size = |step: &Step| match args.human {
        true => format::size(step.size),
        false => step.size.to_string(),
    };
    let by = |step: &Step| {
        let flat = step.by.replace(['\t', '\n'], " ");
        match args.no_trunc || flat.chars().count() <= 45 {
            true => flat,
            false => flat.chars().take(44).chain(['…']).collect(),
        }
    };
    let object = |step: &Step| {
        json!({
            "ID": id(step), "CreatedAt": created(step), "CreatedSince": since(step),
            "CreatedBy": by(step), "Size": size(step), "Comment": step.comment,
        })
    };
    let objects: Vec<Value> = steps.iter().map(object).collect();
    let table = || {
        let header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        table.extend(steps.iter().map(|step| {
            vec![
                id(step),
                since(step),
                by(step),
                size(step),
                step.comment.clone(),
            ]
        }));
        table
    };
    print(&format::list(args.format.as_deref(), &objects, table).exit_code(1)?)
}

/// The steps of the configuration's history; where it has none for a layer, one is made up.
fn steps(image: &Image) -> Vec<Step> {
    let mut sizes = image.layer_sizes.iter().copied();
    let history = image.raw_config["history"].as_array();
    let mut steps: Vec<Step> = history
        .into_iter()
        .flatten()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
            let is_empty = entry["empty_layer"].as_bool().unwrap_or(false);
            Step {
                id: "<missing>".to_owned(),
                created: OffsetDateTime::parse(&text("created"), &Rfc3339)
                    .unwrap_or(OffsetDateTime::UNIX_EPOCH),
                by: text("created_by"),
                size: if is_empty {
                    0
                } else {
                    sizes.next().unwrap_or(0)
                },
                comment: text("comment"),
            }
        })
        .collect();
    steps.extend(sizes.map(|size| Step {
        id: "<missing>".to_owned(),
        created: image.created,
        by: String::new(),
        size,
        comment: String::new(),
    }));
    steps.reverse();
    if let Some(top) = steps.first_mut() {
        top.id = image.id.clone();
    }
    steps
}
