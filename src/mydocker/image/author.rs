//! Writing an image configuration: a new one, and one more layer or step on another.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::mydocker::dockerfile::push;
use crate::mydocker::platform::Platform;

/// What a new layer's history says.
#[derive(Debug, Default)]
pub(super) struct Note<'a> {
    pub(super) created_by: &'a str,
    pub(super) message: Option<&'a str>,
    pub(super) author: Option<&'a str>,
}

/// A configuration without layers for the machine it is made on.
pub(in crate::mydocker) fn blank() -> Value {
    json!({
        "architecture": Platform::of_machine().architecture,
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    })
}

/// Adds a layer and its history.
pub(super) fn add_layer(
    image: &mut Value,
    diff_id: &str,
    created: OffsetDateTime,
    note: &Note<'_>,
) -> Result<()> {
    let created = created.format(&Rfc3339).context("write the time")?;
    let mut history = json!({"created": created, "created_by": note.created_by});
    if let Some(message) = note.message {
        history["comment"] = json!(message);
    }
    if let Some(author) = note.author {
        history["author"] = json!(author);
        image["author"] = json!(author);
    }
    image["created"] = json!(created);
    push(&mut image["history"], history);
    push(&mut image["rootfs"]["diff_ids"], json!(diff_id));
    Ok(())
}

/// Adds a step of a build to the history, with its layer if it has made one.
pub(in crate::mydocker) fn add_step(
    image: &mut Value,
    created: &str,
    created_by: &str,
    layer: Option<&str>,
) {
    let mut history = json!({"created": created, "created_by": created_by});
    match layer {
        Some(digest) => push(&mut image["rootfs"]["diff_ids"], json!(digest)),
        None => history["empty_layer"] = json!(true),
    }
    image["created"] = json!(created);
    push(&mut image["history"], history);
}
