//! `system df -v`: what each image, container and volume has of the disk.

use super::df::size_of;
use super::image::{Image, Store};
use super::state_dirs::State;
use super::{ago, format, ps, volume};
use anyhow::Result;
use std::collections::HashMap;

/// The tables, one below the other.
pub(super) fn tables(state: &State) -> Result<String> {
    let steps = std::fs::read_dir(state.root.join("build/steps"));
    let steps = steps.map_or(0, |entries| entries.flatten().count());
    let builds = size_of(&state.root.join("build"));
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\n\
         Build cache usage: {} in {steps} steps\n",
        images(state)?,
        containers(state)?,
        volumes(state)?,
        format::size(builds),
    ))
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut all = vec![header.iter().map(|name| (*name).to_owned()).collect()];
    all.extend(rows);
    format::columns(&all)
}

/// What an image shares with others are the layers that they have too.
fn images(state: &State) -> Result<String> {
    let header = [
        "NAME",
        "ID",
        "CREATED",
        "SIZE",
        "SHARED SIZE",
        "UNIQUE SIZE",
        "CONTAINERS",
    ];
    if !state.root.join("images").exists() {
        return Ok(table(&header, Vec::new()));
    }
    let store = Store::open(&state.root)?;
    let images = store.list()?;
    let mut users: HashMap<&str, usize> = HashMap::new();
    for diff_id in images.iter().flat_map(|image| &image.diff_ids) {
        *users.entry(diff_id).or_default() += 1;
    }
    let shared = |image: &Image| -> u64 {
        let layers = image.diff_ids.iter().zip(&image.layer_sizes);
        let shared = layers.filter(|(diff_id, _)| users.get(diff_id.as_str()) > Some(&1));
        shared.map(|(_, size)| size).sum()
    };
    let mut rows = Vec::new();
    for image in &images {
        let mut names: Vec<&str> = image.names.iter().map(String::as_str).collect();
        names.retain(|name| !name.contains('@'));
        if names.is_empty() {
            names.push("<none>");
        }
        let containers = store.users(&image.id)?.len();
        for name in names {
            rows.push(vec![
                name.to_owned(),
                image.short_id().to_owned(),
                ago(image.created),
                format::size(image.size),
                format::size(shared(image)),
                format::size(image.size - shared(image)),
                containers.to_string(),
            ]);
        }
    }
    Ok(table(&header, rows))
}

fn containers(state: &State) -> Result<String> {
    const FIELDS: [&str; 7] = [
        "ID",
        "Image",
        "LocalVolumes",
        "Size",
        "RunningFor",
        "Status",
        "Names",
    ];
    let header = [
        "ID",
        "IMAGE",
        "LOCAL VOLUMES",
        "SIZE",
        "CREATED",
        "STATUS",
        "NAME",
    ];
    let cell = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows = ps::sized(state)?.into_iter();
    let rows = rows.map(|object| FIELDS.map(|field| cell(&object[field])).to_vec());
    Ok(table(&header, rows.collect()))
}

fn volumes(state: &State) -> Result<String> {
    let used = volume::used(state)?;
    let rows = volume::all(state)?.into_iter().map(|volume| {
        let links = used.get(&volume.name).map_or(0, Vec::len);
        let size = size_of(&volume::home(state, &volume.name));
        vec![volume.name, links.to_string(), format::size(size)]
    });
    Ok(table(&["NAME", "LINKS", "SIZE"], rows.collect()))
}
