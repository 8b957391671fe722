//! `ps --filter`.

use super::ps::Row;
use super::record::Record;
use crate::error::{with_exit_code, with_hint};
use anyhow::{Error, Result, anyhow};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// What `--filter` asks for. As Docker's: of several values for one name any will do, but all labels
/// must be there.
#[derive(Debug)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

const NAMES: &str =
    "status, name, id, label, ancestor, exited, health, volume, network, before, since";

const STATES: [&str; 6] = [
    "created",
    "running",
    "paused",
    super::ps::RESTARTING,
    "exited",
    "dead",
];

impl Filters {
    /// Reads them, or says what is wrong (exit code 125).
    pub(super) fn parse(texts: &[String]) -> Result<Filters> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if !NAMES.split(", ").any(|known| known == name) || value.is_empty() {
                return Err(wrong(text, format!("NAME=VALUE; the names are {NAMES}")));
            }
            let hint = match name {
                "status" => one_of(value, &STATES),
                "health" => one_of(value, &["starting", "healthy", "unhealthy", "none"]),
                "exited" if value.parse::<i32>().is_err() => Some("an exit code".to_owned()),
                _ => None,
            };
            if let Some(hint) = hint {
                return Err(wrong(text, hint));
            }
            all.entry(name.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        Ok(Filters(all))
    }

    /// Keeps the rows that fit. `before` and `since` name one of them.
    pub(super) fn keep(&self, rows: &mut Vec<Row>) -> Result<()> {
        for (name, values) in &self.0 {
            let times: Vec<OffsetDateTime> = match name.as_str() {
                "before" | "since" => {
                    let time = values.iter().map(|value| created(rows, value));
                    time.collect::<Result<_>>()?
                }
                _ => Vec::new(),
            };
            rows.retain(|row| {
                let Some(record) = row.record.as_deref() else {
                    return values.iter().any(|value| fits_damaged(row, name, value));
                };
                match name.as_str() {
                    "label" => values.iter().all(|value| has_label(&record.labels, value)),
                    "before" => times.iter().any(|time| record.created < *time),
                    "since" => times.iter().any(|time| record.created > *time),
                    _ => values.iter().any(|value| fits(row, record, name, value)),
                }
            });
        }
        Ok(())
    }
}

fn wrong(text: &str, hint: String) -> Error {
    let error = anyhow!("invalid --filter value '{text}'");
    with_exit_code(with_hint(error, hint), 125)
}

fn one_of(value: &str, known: &[&str]) -> Option<String> {
    (!known.contains(&value)).then(|| format!("one of {}", known.join(", ")))
}

fn created(rows: &[Row], name: &str) -> Result<OffsetDateTime> {
    let records = || rows.iter().filter_map(|row| row.record.as_deref());
    // A name before the beginning of an id, as everywhere.
    let named = records().find(|record| record.name == name);
    match named.or_else(|| records().find(|record| record.id.starts_with(name))) {
        Some(record) => Ok(record.created),
        None => {
            let error = anyhow!("--filter: no such container: {name}");
            Err(with_exit_code(
                with_hint(error, "`mydocker ps` lists them"),
                1,
            ))
        }
    }
}

/// One whose record cannot be read has only an id.
fn fits_damaged(row: &Row, name: &str, value: &str) -> bool {
    match name {
        "id" => row.id.starts_with(value),
        "status" => row.state == value,
        _ => false,
    }
}

fn fits(row: &Row, record: &Record, name: &str, value: &str) -> bool {
    match name {
        "status" => row.state == value,
        "name" => name_fits(&record.name, value),
        "id" => record.id.starts_with(value),
        "ancestor" => {
            let hex = record.image_id.trim_start_matches("sha256:");
            let plain = |name: &str| name.trim_end_matches(":latest").to_owned();
            plain(&record.image) == plain(value)
                || (value.len() >= 4 && hex.starts_with(value.trim_start_matches("sha256:")))
        }
        "exited" => {
            let code = record.exit.as_ref().and_then(|exit| exit.code);
            row.state == "exited" && code == value.parse().ok()
        }
        "health" => {
            let health = record.health.as_ref();
            health.map_or("none", |health| health.status.word()) == value
        }
        "volume" => {
            let mut mounts = record.shown.mounts.iter();
            mounts.any(|mount| {
                ["Name", "Source", "Destination"]
                    .iter()
                    .any(|key| mount[*key] == value)
            })
        }
        "network" => record.shown.host_config.get("NetworkMode") == Some(&value.into()),
        _ => false,
    }
}

/// Docker's value is a regular expression that may lie anywhere in the name. Of those we know `^` and `$`,
/// and the slash that Docker puts before a name.
fn name_fits(name: &str, value: &str) -> bool {
    let (begins, value) = match value.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (ends, value) = match value.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (begins, value) = match value.strip_prefix('/') {
        Some(rest) => (true, rest),
        None => (begins, value),
    };
    match (begins, ends) {
        (true, true) => name == value,
        (true, false) => name.starts_with(value),
        (false, true) => name.ends_with(value),
        (false, false) => name.contains(value),
    }
}

/// Whether a label is there: `NAME`, or `NAME=VALUE`.
pub(super) fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|v| v == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_lists_all_names() {
        let mut whole = <super::super::cli::Cli as clap::CommandFactory>::command();
        whole.build();
        let ps = whole.find_subcommand("ps").unwrap();
        let filter = ps.get_arguments().find(|arg| arg.get_id() == "filter");
        let help = filter.unwrap().get_help().unwrap().to_string();
        assert_eq!(help, format!("NAME=VALUE: {NAMES}"));
    }

    #[test]
    fn names() {
        for (value, fitting) in [
            ("a", vec!["a", "bab", "ba"]),
            ("^a$", vec!["a"]),
            ("^ba", vec!["bab", "ba"]),
            ("ba$", vec!["ba"]),
            ("/a", vec!["a"]),
            ("^/ba$", vec!["ba"]),
        ] {
            let found: Vec<_> = ["a", "bab", "ba", "c"]
                .into_iter()
                .filter(|name| name_fits(name, value))
                .collect();
            assert_eq!(found, fitting, "{value}");
        }
    }

    #[test]
    fn mistakes() {
        for text in ["nosuch=1", "status", "status=", "status=bogus", "exited=x"] {
            let error = Filters::parse(&[text.to_owned()]).unwrap_err();
            assert_eq!(crate::error::exit_code(&error), Some(125), "{text}");
        }
        assert!(Filters::parse(&["status=running".to_owned(), "exited=3".to_owned()]).is_ok());
    }
}
