//! `images`, `rmi` and `tag`.

use super::cli::{Global, Images, Rmi, Tag};
use super::image::{Image, Reference, Removed, Store};
use super::state_dirs::State;
use super::{ago, events, format, print};
use crate::error::{ResultExt, exit_code, with_exit_code, with_fallback_hint, with_hint};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// Where there is no name, or no tag.
const NONE: &str = "<none>";

/// An image under one of its names.
struct Row {
    name: String,
    tag: String,
    digest: String,
    image: Image,
}

/// `mydocker images`
pub fn images(state: &State, _: &Global, args: &Images) -> Result<i32> {
    // Before the first image there is nothing, and nothing is made.
    let images = match state.root.join("images").exists() {
        true => Store::open(&state.root)?.list()?,
        false => Vec::new(),
    };
    let template = args.format.as_deref().unwrap_or_default();
    let mut rows = rows(&images, args.digests || template.contains(".Digest"));
    for text in &args.filter {
        let keep = filter(text, &rows)?;
        rows.retain(keep);
    }
    if let Some(name) = &args.name {
        let keep = by_name(name)?;
        rows.retain(keep);
    }
    let id = |image: &Image| match args.no_trunc {
        true => image.id.clone(),
        false => image.short_id().to_owned(),
    };
    if args.quiet && args.format.is_none() {
        let mut ids: Vec<String> = rows.iter().map(|row| id(&row.image)).collect();
        ids.dedup();
        return print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let objects: Vec<Value> = rows
        .iter()
        .map(|row| object(row, &id(&row.image)))
        .collect();
    let text = format::list(args.format.as_deref(), &objects, || {
        let mut header = vec!["NAME", "TAG", "ID", "SIZE", "CREATED"];
        if args.digests {
            header.insert(2, "DIGEST");
        }
        let mut table: Vec<Vec<String>> = vec![header.into_iter().map(str::to_owned).collect()];
        for row in &rows {
            let mut cells = vec![
                row.name.clone(),
                row.tag.clone(),
                id(&row.image),
                format::size(row.image.size),
                ago(row.image.created),
            ];
            if args.digests {
                cells.insert(2, row.digest.clone());
            }
            table.push(cells);
        }
        table
    })?;
    print(&text)
}

/// As Docker: a row for each tag, with digests one for each digest of its repository, and for what is
/// known by a digest alone.
fn rows(images: &[Image], with_digests: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for image in images {
        let row = |name: &str, tag: &str, digest: &str| Row {
            name: name.to_owned(),
            tag: tag.to_owned(),
            digest: digest.to_owned(),
            image: image.clone(),
        };
        let first = rows.len();
        let tags: Vec<_> = image.names.iter().filter_map(|name| tagged(name)).collect();
        let mut last = "";
        for (name, digest) in image.repo_digests() {
            if name == last && !with_digests {
                continue;
            }
            last = name;
            let before = rows.len();
            let mine = tags.iter().filter(|(other, _)| *other == name);
            rows.extend(mine.map(|(name, tag)| row(name, tag, digest)));
            if rows.len() == before {
                rows.push(row(name, NONE, digest));
            }
        }
        if rows.len() == first {
            rows.push(row(NONE, NONE, NONE));
        }
    }
    rows
}

/// Repository and tag of a name that has one.
fn tagged(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|_| !name.contains('@'))
}

fn object(row: &Row, id: &str) -> Value {
    json!({
        "ID": id, "Repository": row.name, "Name": row.name, "Tag": row.tag,
        "Digest": row.digest, "Size": format::size(row.image.size),
        "CreatedSince": ago(row.image.created),
        "CreatedAt": row.image.created.format(&Rfc3339).unwrap_or_default(),
        "VirtualSize": format::size(row.image.size),
        // As Docker has it here: `system df -v` tells.
        "Containers": "N/A", "SharedSize": "N/A", "UniqueSize": "N/A",
    })
}

/// A name with or without a tag; a pattern with `*` and `?`, which stand for no slash, as well.
fn by_name(wanted: &str) -> Result<impl Fn(&Row) -> bool + use<>> {
    let is_pattern = wanted.contains(['*', '?']);
    let has_tag = wanted
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains(':'));
    let mut digest = None;
    let (repository, tag) = if is_pattern {
        match wanted.rsplit_once(':').filter(|_| has_tag) {
            Some((repository, tag)) => (repository.to_owned(), tag.to_owned()),
            None => (wanted.to_owned(), "*".to_owned()),
        }
    } else {
        let reference = Reference::parse(wanted).exit_code(125)?;
        digest = reference.digest.clone();
        let tag = match has_tag && digest.is_none() {
            true => reference.tag_or_latest(),
            false => "*",
        };
        (reference.repository(), tag.to_owned())
    };
    Ok(move |row: &Row| {
        let is_digest = |digest: &String| row.digest == *digest;
        matches(&repository, &row.name)
            && matches(&tag, &row.tag)
            && digest.as_ref().is_none_or(is_digest)
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    let mut chars = pattern.chars();
    match chars.next() {
        None => text.is_empty(),
        Some('*') => {
            let within = text.find('/').unwrap_or(text.len());
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| at <= within && matches(chars.as_str(), &text[at..]))
        }
        Some(c) => {
            let mut rest = text.chars();
            rest.next()
                .is_some_and(|first| first == c || (c == '?' && first != '/'))
                && matches(chars.as_str(), rest.as_str())
        }
    }
}

/// Whether a row is shown.
type Keep = Box<dyn Fn(&Row) -> bool>;

fn filter(text: &str, rows: &[Row]) -> Result<Keep> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let value = value.to_owned();
    match (name, value.as_str()) {
        ("dangling", "true" | "false") => {
            let wanted = value == "true";
            // One that is known by a digest is in both lists.
            Ok(Box::new(move |row| match wanted {
                true => row.tag == NONE,
                false => row.name != NONE,
            }))
        }
        ("reference", pattern) if !pattern.is_empty() => Ok(Box::new(by_name(pattern)?)),
        ("label", label) if !label.is_empty() => Ok(Box::new(move |row| {
            let config = row.image.config.config().as_ref();
            let labels = config.and_then(|c| c.labels().clone()).unwrap_or_default();
            match value.split_once('=') {
                Some((name, wanted)) => labels.get(name).is_some_and(|v| v == wanted),
                None => labels.contains_key(&value),
            }
        })),
        ("before" | "since", image) if !image.is_empty() => {
            let is_it = by_name(image)?;
            let hex = image.trim_start_matches("sha256:");
            let of_id = |row: &Row| row.image.id.trim_start_matches("sha256:").starts_with(hex);
            let found = rows
                .iter()
                .find(|row| is_it(row))
                .or_else(|| rows.iter().find(|row| of_id(row)));
            let Some(time) = found.map(|row| row.image.created) else {
                let error = anyhow!("--filter: no such image: {image}");
                return Err(with_exit_code(
                    with_hint(error, "`mydocker images` lists them"),
                    1,
                ));
            };
            let earlier = name == "before";
            Ok(Box::new(move |row| match earlier {
                true => row.image.created < time,
                false => row.image.created > time,
            }))
        }
        _ => {
            let error = anyhow!("invalid --filter value '{text}'");
            let hint =
                "dangling=true, reference=PATTERN, label=NAME[=VALUE], before=IMAGE or since=IMAGE";
            Err(with_exit_code(with_hint(error, hint), 125))
        }
    }
}

/// `mydocker rmi`
pub fn rmi(state: &State, _: &Global, args: &Rmi) -> Result<i32> {
    let store = Store::open(&state.root).exit_code(1)?;
    super::for_each(&args.images, |name| {
        if args.force && store.find(name)?.is_none() {
            return Ok(());
        }
        let removed = store.remove(name, args.force).map_err(|error| {
            let error =
                with_fallback_hint(error, "`mydocker rm` removes containers, `rmi -f` forces");
            match exit_code(&error) {
                Some(_) => error,
                None => with_exit_code(error, 1),
            }
        })?;
        let mut text = String::new();
        for item in removed {
            match item {
                Removed::Untagged(tag) => {
                    events::of_image(state, "untag", name, &tag);
                    text += &format!("Untagged: {tag}\n");
                }
                Removed::Deleted(id) => {
                    events::of_image(state, "delete", &id, name);
                    text += &format!("Deleted: {id}\n");
                }
            }
        }
        super::print(&text).map(drop)
    })
}

/// `mydocker tag`
pub fn tag(state: &State, _: &Global, args: &Tag) -> Result<i32> {
    let store = Store::open(&state.root).exit_code(1)?;
    store
        .tag(&args.image, &args.name)
        .hint("`mydocker images` lists the images; a name is NAME[:TAG]")
        .exit_code(1)?;
    events::of_image(state, "tag", &args.image, &args.name);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, fits, fails) in [
            ("busybox", "busybox", "busybox2"),
            ("busy*", "busybox", "busy/box"),
            ("*", "any", "a/b"),
            ("a/*x", "a/box", "a/boy"),
            ("b?x", "box", "boxx"),
            ("*/*:1*", "a/b:1.2", "a:1"),
        ] {
            assert!(matches(pattern, fits), "{pattern} {fits}");
            assert!(!matches(pattern, fails), "{pattern} {fails}");
        }
    }
}
