//! `ps`: all containers that are not removed, as the kernel says now.

use super::cli::{Global, Ps};
use super::health::Verdict;
use super::image::Store;
use super::ps_filter::Filters;
use super::record::{self, Entry, Record, Status};
use super::state_dirs::{State, short};
use super::{ago, df, format, print, report};
use crate::error::with_hint;
use anyhow::{Result, anyhow};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// A container as a row.
pub(super) struct Row {
    pub(super) id: String,
    name: String,
    pid: Option<i32>,
    pub(super) state: &'static str,
    status: String,
    command: String,
    created: String,
    pub(super) record: Option<Box<Record>>,
}

/// `mydocker ps`
pub fn ps(state: &State, _: &Global, args: &Ps) -> Result<i32> {
    let filters = Filters::parse(&args.filter)?;
    let mut rows = rows(state)?;
    rows.retain(|row| !args.running || matches!(row.state, "running" | "paused" | RESTARTING));
    filters.keep(&mut rows)?;
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
    let mut objects: Vec<Value> = rows.iter().map(|row| object(row, &id(row))).collect();
    let by_template = args.format.as_ref();
    if args.size || by_template.is_some_and(|format| format.contains(".Size")) {
        for (row, object) in rows.iter().zip(&mut objects) {
            object["Size"] = size(state, row)?.into();
        }
    }
    let labels = |at: usize| Some(&rows.get(at)?.record.as_ref()?.labels);
    let text = format::labelled(args.format.as_deref(), &objects, labels, || {
        let header = ["ID", "NAME", "PID", "STATUS", "COMMAND", "CREATED", "SIZE"];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        for (row, object) in rows.iter().zip(&objects) {
            table.push(vec![
                id(row),
                row.name.clone(),
                row.pid
                    .map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
                row.status.clone(),
                shortened(&row.command, args.no_trunc),
                row.created.clone(),
                object["Size"].as_str().unwrap_or_default().to_owned(),
            ]);
        }
        if !args.size {
            table.iter_mut().for_each(|row| drop(row.pop()));
        }
        table
    })?;
    print(&text)
}

/// All containers; of a damaged one it is told.
fn rows(state: &State) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in record::all(state)? {
        match entry {
            Entry::Known(record, status) => rows.push(known(state, record, &status)),
            Entry::Damaged { id, why } => {
                let id_short = short(&id);
                let hint = format!("remove what is left of it: mydocker rm -f {id_short}");
                let damage = anyhow!("container {id_short}: {why}");
                report(&with_hint(damage, hint));
                rows.push(damaged(id));
            }
        }
    }
    Ok(rows)
}

/// All containers with Docker's names, and how much they have written.
pub(super) fn sized(state: &State) -> Result<Vec<Value>> {
    let each = |row: &Row| -> Result<Value> {
        let mut object = object(row, short(&row.id));
        object["Size"] = size(state, row)?.into();
        Ok(object)
    };
    rows(state)?.iter().map(each).collect()
}

/// What a container has written, as Docker shows it.
fn size(state: &State, row: &Row) -> Result<String> {
    let Some(record) = &row.record else {
        return Ok("-".to_owned());
    };
    let (own, whole) = df::written(state, &Store::open(&state.root)?, record);
    Ok(format!(
        "{} (virtual {})",
        format::size(own),
        format::size(whole)
    ))
}

/// Docker's word for what `Record::is_restarting` tells.
pub(super) const RESTARTING: &str = "restarting";

fn known(state: &State, record: Box<Record>, status: &Status) -> Row {
    let restarting = record.is_restarting(state, status);
    let shown = describe(&record, status);
    Row {
        id: record.id.clone(),
        name: record.name.clone(),
        pid: status.pid(),
        state: match restarting {
            true => RESTARTING,
            false => status.word(),
        },
        status: match restarting {
            true => shown.replacen("exited", RESTARTING, 1),
            false => shown,
        },
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
        (Status::Exited(exit), Some((_, limit))) if exit.is_out_of_memory() => match exit.code {
            Some(code) => format!("exited ({code}, out of memory: limit {limit})"),
            None => format!("{status}, out of memory: limit {limit}"),
        },
        _ => match record.health.as_ref().filter(|_| status.is_alive()) {
            Some(health) if health.status == Verdict::Starting => {
                format!("{status} (health: starting)")
            }
            Some(health) => format!("{status} ({})", health.status.word()),
            None => status.to_string(),
        },
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
    let mounts = record.map(|record| {
        let names = record.shown.mounts.iter().filter_map(|mount| {
            let name = mount["Name"].as_str().filter(|name| !name.is_empty());
            name.or(mount["Source"].as_str())
        });
        names.collect::<Vec<_>>().join(",")
    });
    let volumes = record.map(|record| {
        let mounts = record.shown.mounts.iter();
        mounts.filter(|mount| mount["Type"] == "volume").count()
    });
    let network = record.and_then(|record| record.shown.host_config.get("NetworkMode"));
    json!({
        "ID": id, "Names": row.name, "Name": row.name, "Pid": row.pid, "PID": row.pid,
        "Image": record.map_or("", |record| &record.image),
        "Command": row.command, "CreatedAt": created.unwrap_or_default(),
        "RunningFor": row.created, "State": row.state, "Status": row.status,
        "Labels": labels.unwrap_or_default(), "Ports": "", "Networks": network,
        "LocalVolumes": volumes.unwrap_or(0).to_string(), "Mounts": mounts.unwrap_or_default(),
    })
}
