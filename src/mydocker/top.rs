//! `top`: the processes of a container, by the host's ps(1).

use super::cli::{Global, Top};
use super::reach::cgroup_of;
use super::state_dirs::State;
use super::{print, record, stop};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use std::collections::BTreeSet;
use std::process::{Command, Stdio};

/// The processes of a container, by its first: those of its cgroup, or without one those of its pid
/// namespace.
fn processes(id: &str, first: i32) -> Result<BTreeSet<i32>> {
    if let Some(cgroup) = cgroup_of(id, first)? {
        return Ok(cgroup.pids_recursive()?.into_iter().collect());
    }
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid"));
    let its = namespace(&first.to_string()).context("look at its pid namespace")?;
    if namespace("self").is_ok_and(|ours| ours == its) {
        return Err(anyhow!(
            "without a cgroup and with --pid host its processes are not told apart"
        ))
        .hint("`mydocker doctor` tells how this user can have cgroups");
    }
    let names = std::fs::read_dir("/proc").context("list /proc")?.flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter(|name| namespace(name).is_ok_and(|other| other == its))
        .filter_map(|name| name.parse().ok())
        .collect())
}

/// `mydocker top`
pub fn top(state: &State, _: &Global, args: &Top) -> Result<i32> {
    let record = record::find(state, &args.container)?;
    drop(stop::alive(state, &record)?);
    let first = record.process.as_ref().map_or(0, |process| process.pid);
    let pids: BTreeSet<i32> = state
        .unless_removed(&record.id, processes(&record.id, first))
        .with_context(|| format!("list the processes of {}", record.name))
        .fallback_hint("it may have ended just now: mydocker ps")
        .exit_code(1)?;
    let options = match args.options.as_slice() {
        [] => vec!["-ef".to_owned()],
        options => options.to_vec(),
    };
    let output = Command::new("ps")
        .args(&options)
        .stdin(Stdio::null())
        .output()
        .context("run ps")
        .hint("apt-get install procps")
        .exit_code(1)?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        let error = anyhow!("ps {}: {}", options.join(" "), why.trim());
        return Err(with_exit_code(with_hint(error, "ps(1) has the options"), 1));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().unwrap_or_default();
    let column = header
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| anyhow!("ps {}: its output has no column PID", options.join(" ")))
        .hint("choose options that show the PID")
        .exit_code(1)?;
    let mut shown = format!("{header}\n");
    for line in lines {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    print(&shown)
}
