//! `state`, `list` and `ps`: what is known of containers.

use super::cli::{List, Ps, TableFormat};
use super::log;
use super::store::Store;
use crate::error::{ResultExt, message};
use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use std::io::Write;
use std::process::Command;

/// `runtime state ID`: the state as runtime.md has it.
pub fn state(store: &Store, id: &str) -> Result<()> {
    let container = store.load(id)?;
    let state = container.state(container.status()?);
    print(&format!("{}\n", serde_json::to_string_pretty(&state)?))
}

/// `runtime list`
pub fn list(store: &Store, args: &List) -> Result<()> {
    let mut states = Vec::new();
    for id in store.ids()? {
        let state = store.load(&id).and_then(|c| Ok(c.state(c.status()?)));
        match state {
            Ok(state) => states.push(state),
            // One damaged container must not hide the others.
            Err(error) => log::warn(&format!("{id}: {}", message(&error))),
        }
    }
    if args.quiet {
        return print(
            &states
                .iter()
                .map(|s| format!("{}\n", text(s, "id")))
                .collect::<String>(),
        );
    }
    match args.format {
        TableFormat::Json => print(&format!("{}\n", Value::Array(states))),
        TableFormat::Table => print(&table(&states)),
    }
}

fn text(state: &Value, key: &str) -> String {
    match &state[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn table(states: &[Value]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    let keys = ["id", "pid", "status", "bundle", "created", "owner"];
    rows.extend(states.iter().map(|state| keys.map(|key| text(state, key))));
    let widths: Vec<usize> = (0..keys.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<_> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

/// `runtime ps ID [OPTIONS]`
pub fn ps(store: &Store, args: &Ps) -> Result<()> {
    // What follows the id is for ps(1), even where it is spelled as an option of ours.
    let (id, options) = args.words.split_first().context("ps: no id")?;
    let container = store.load(id)?;
    container.cgroup().needed_for("ps")?;
    let pids = container.cgroup().pids_recursive()?;
    if args.format == TableFormat::Json {
        return print(&format!("{}\n", serde_json::to_string(&pids)?));
    }
    let options = if options.is_empty() {
        vec!["-ef".to_owned()]
    } else {
        options.to_vec()
    };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .context("run ps")
        .hint("install the package procps, or use --format json")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(anyhow!("ps {}: {said}", options.join(" ")));
    }
    print(&only(&String::from_utf8_lossy(&output.stdout), &pids)?)
}

/// The lines of ps(1) that are about these processes, with the header.
fn only(output: &str, pids: &[i32]) -> Result<String> {
    let mut lines = output.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .context("ps: its output has no column PID")
        .hint("the lines of the container are known by it: with -o, name pid too")?;
    let mut kept = format!("{header}\n");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|text| text.parse().ok());
        if pid.is_some_and(|pid: i32| pids.contains(&pid)) {
            kept += &format!("{line}\n");
        }
    }
    Ok(kept)
}

/// Writes a result to standard output. Whoever closes it early wants no more.
pub fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).context("write to standard output")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_lines_are_chosen_by_pid() {
        let output = "UID  PID CMD\nroot 1 init\nroot 12 sh\n";
        assert_eq!(only(output, &[12]).unwrap(), "UID  PID CMD\nroot 12 sh\n");
        assert!(only("CMD\nx\n", &[1]).is_err());
    }
}
