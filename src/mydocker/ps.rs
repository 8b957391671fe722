//! `ps`: all containers that are not removed, as the kernel says now.

use super::cli::{Global, Ps};
use super::record::{self, Entry, Record, Status};
use super::state_dirs::{State, short};
use super::{ago, format, print, report};
use crate::error::{with_exit_code, with_hint};
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// A container as a row.
struct Row {
    id: String,
    name: String,
    pid: Option<i32>,
    state: &'static str,
    status: String,
    command: String,
    created: String,
    record: Option<Box<Record>>,
}

/// `mydocker ps`
pub fn ps(state: &State, _: &Global, args: &Ps) -> Result<i32> {
    let filters = filters(&args.filter)?;
    let mut rows = Vec::new();
    for entry in record::all(state)? {
        match entry {
            Entry::Known(record, status) => rows.push(known(record, &status)),
            Entry::Damaged { id, why } => {
                let id_short = short(&id);
                let hint = format!("remove what is left of it: mydocker rm -f {id_short}");
                let damage = anyhow!("container {id_short}: {why}");
                report(&with_hint(damage, hint));
                rows.push(damaged(id));
            }
        }
    }
    rows.retain(|row| !args.running || row.state == "running" || row.state == "paused");
    rows.retain(|row| filters.iter().all(|filter| filter.fits(row)));
    if let Some(count) = args.last.or(args.latest.then_some(1)) {
        rows.drain(..rows.len().saturating_sub(count));
    }
    let id = |row: &Row| match args.no_trunc {
        true => row.id.clone(),
        false => short(&row.id).to_owned(),
    };
    if args.quiet && args.format.is_none() {
        let ids: String = rows.iter().map(|row| id(row) + "\n").collect();
        return print(&ids);
    }
    let objects: Vec<Value> = rows.iter().map(|row| object(row, &id(row))).collect();
    let text = format::list(args.format.as_deref(), &objects, || {
        let header = ["ID", "NAME", "PID", "STATUS", "COMMAND", "CREATED"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        for row in &rows {
            table.push(vec![
                id(row),
                row.name.clone(),
                row.pid
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                row.status.clone(),
                shortened(&row.command, args.no_trunc),
                row.created.clone(),
            ]);
        }
        table
    })?;
    print(&text)
}

fn known(record: Box<Record>, status: &Status) -> Row {
    Row {
        id: record.id.clone(),
        name: record.name.clone(),
        pid: status.pid(),
        state: status.word(),
        status: describe(&record, status),
        command: record.args.join(" "),
        created: ago(record.created),
        record: Some(record),
    }
}

fn damaged(id: String) -> Row {
    Row {
        id,
        name: "-".to_owned(),
        pid: None,
        state: "dead",
        status: "damaged".to_owned(),
        command: "-".to_owned(),
        created: "-".to_owned(),
        record: None,
    }
}

/// The status, and what the kernel did if it killed for memory.
fn describe(record: &Record, status: &Status) -> String {
    match (status, &record.memory) {
        (Status::Exited(exit), Some((_, limit))) if exit.oom => match exit.code {
            Some(code) => format!("exited ({code}, out of memory: limit {limit})"),
            None => format!("{status}, out of memory: limit {limit}"),
        },
        _ => status.to_string(),
    }
}

fn shortened(command: &str, whole: bool) -> String {
    let line = command.replace(['\n', '\t'], " ");
    match line.char_indices().nth(29) {
        Some((at, _)) if !whole => format!("{}…", &line[..at]),
        _ => line,
    }
}

/// The row with Docker's names.
fn object(row: &Row, id: &str) -> Value {
    let record = row.record.as_deref();
    let created = record.and_then(|record| record.created.format(&Rfc3339).ok());
    let labels = record.map(|record| {
        let pairs = record
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    });
    json!({
        "ID": id, "Names": row.name, "Name": row.name, "Pid": row.pid, "PID": row.pid,
        "Image": record.map_or("", |record| &record.image),
        "Command": row.command, "CreatedAt": created.unwrap_or_default(),
        "RunningFor": row.created, "State": row.state, "Status": row.status,
        "Labels": labels.unwrap_or_default(), "Ports": "", "Networks": "none",
        "LocalVolumes": "0", "Size": "0B",
        "Mounts": record.map_or(0, |record| record.shown.mounts.len()),
    })
}

/// `--filter NAME=VALUE`
struct Filter {
    name: String,
    value: String,
}

fn filters(texts: &[String]) -> Result<Vec<Filter>> {
    const KNOWN: [&str; 8] = [
        "status", "name", "id", "label", "ancestor", "exited", "before", "since",
    ];
    let mut filters = Vec::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        if !KNOWN[..6].contains(&name) || value.is_empty() {
            let error = anyhow!("invalid --filter value '{text}'");
            let hint = format!("NAME=VALUE; the names are {}", KNOWN[..6].join(", "));
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        filters.push(Filter {
            name: name.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(filters)
}

impl Filter {
    fn fits(&self, row: &Row) -> bool {
        let value = self.value.as_str();
        let Some(record) = row.record.as_deref() else {
            return (self.name == "id" && row.id.starts_with(value))
                || (self.name == "status" && value == row.state);
        };
        match self.name.as_str() {
            "status" => row.state == value,
            "name" => record.name.contains(value.trim_matches(['^', '$', '/'])),
            "id" => record.id.starts_with(value),
            "label" => match value.split_once('=') {
                Some((name, wanted)) => record.labels.get(name).is_some_and(|v| v == wanted),
                None => record.labels.contains_key(value),
            },
            "ancestor" => {
                let hex = record.image_id.trim_start_matches("sha256:");
                let plain = |name: &str| name.trim_end_matches(":latest").to_owned();
                plain(&record.image) == plain(value)
                    || (value.len() >= 4 && hex.starts_with(value.trim_start_matches("sha256:")))
            }
            _ => {
                record
                    .exit
                    .as_ref()
                    .and_then(|exit| exit.code)
                    .map(|c| c.to_string())
                    == Some(value.to_owned())
            }
        }
    }
}
