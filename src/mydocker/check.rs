//! `check`: for each container the evidence behind its status, and what was healed on the way.

use super::cli::{Check, Global};
use super::reach::cgroup_of;
use super::record::{self, Process, Record};
use super::state_dirs::{State, short};
use super::{print, rm};
use crate::error::message;
use anyhow::Result;
use std::os::fd::AsFd;
use std::time::Duration;

/// `mydocker check`
pub fn check(state: &State, _: &Global, args: &Check) -> Result<i32> {
    let mut ids = record::ids(state)?;
    if !args.containers.is_empty() {
        let wanted = args
            .containers
            .iter()
            .map(|name| record::find_id(state, name));
        ids = wanted.collect::<Result<_>>()?;
    }
    let mut text = String::new();
    let mut damaged = false;
    for id in &ids {
        damaged |= !one(state, id, &mut text);
    }
    if text.is_empty() {
        text.push_str("no containers\n");
    }
    print(&text)?;
    Ok(i32::from(damaged))
}

/// `false`: it is damaged.
fn one(state: &State, id: &str, text: &mut String) -> bool {
    let mut say = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let found = match record::load(state, id) {
        Ok(record) => record,
        Err(error) if record::is_unrecorded(&error) => {
            if rm::heal_unpublished(state, id) && !state.container(id).exists() {
                say(&format!(
                    "{}  healed: what nobody had finished is removed",
                    short(id)
                ));
            }
            return true;
        }
        Err(error) => {
            say(&format!("{}  damaged", short(id)));
            say(&format!("  record    {}", message(&error)));
            say(&format!("  to do     mydocker rm -f {}", short(id)));
            return false;
        }
    };
    let todo = rm::what_to_heal(state, &found);
    let gone = rm::heal(state, &found);
    let record = record::load(state, id).unwrap_or(found);
    let status = match gone {
        true => "removed".to_owned(),
        false => record.status(state).to_string(),
    };
    say(&format!("{}  {}  {status}", short(id), record.name));
    if !gone {
        say(&format!("  process   {}", process(record.process.as_ref())));
        if let Some(process) = &record.process {
            say(&format!("  pidfd     {}", pidfd(process)));
            say(&format!("  cgroup    {}", cgroup(id, process)));
        }
        say(&format!("  monitor   {}", monitor(state, &record)));
        say(&format!("  name      {}", name(state, &record)));
        if let Some(exit) = &record.exit {
            let code = exit
                .code
                .map_or_else(|| "unknown".to_owned(), |code| code.to_string());
            say(&format!(
                "  exit      code {code}, noted {}",
                super::ago(exit.at)
            ));
        }
    }
    if let Some(todo) = todo {
        say(&format!("  healed    {todo}"));
    }
    true
}

fn process(process: Option<&Process>) -> String {
    let Some(process) = process else {
        return "none: it was not started since it was made or last cut short".to_owned();
    };
    let pid = process.pid;
    if !process.is_of_this_boot() {
        return format!("pid {pid} of another boot: it is gone");
    }
    match Process::of(pid) {
        Err(_) => format!("pid {pid} is gone"),
        Ok(now) if now.start_time != process.start_time => format!(
            "pid {pid} is another's now: started at tick {}, not {}",
            now.start_time, process.start_time
        ),
        Ok(_) if !process.is_alive() => format!("pid {pid} is a zombie: it has ended"),
        Ok(_) => format!(
            "pid {pid} lives: started at tick {}, this boot",
            process.start_time
        ),
    }
}

fn pidfd(process: &Process) -> String {
    let Some(fd) = process.open() else {
        return "none: there is no such process".to_owned();
    };
    match super::wait::until_readable(fd.as_fd(), Some(Duration::ZERO)) {
        true => "readable: the process has ended".to_owned(),
        false => "open: the process has not ended".to_owned(),
    }
}

fn cgroup(id: &str, process: &Process) -> String {
    if !process.is_alive() {
        return "not looked for: the process is gone".to_owned();
    }
    let cgroup = match cgroup_of(id, process.pid) {
        Ok(Some(cgroup)) => cgroup,
        Ok(None) => return "none of its own: none is delegated to this user".to_owned(),
        Err(error) => return message(&error),
    };
    match cgroup.pids_recursive() {
        Ok(pids) if pids.contains(&process.pid) => match pids.len() {
            1 => "1 process, which is it".to_owned(),
            n => format!("{n} processes, it among them"),
        },
        Ok(pids) => format!("{} processes, and it is not among them", pids.len()),
        Err(error) => message(&error),
    }
}

fn monitor(state: &State, record: &Record) -> String {
    let lock = match state.is_monitored(&record.id) {
        true => "its lock is held",
        false => "its lock is free",
    };
    match &record.monitor {
        None => lock.to_owned(),
        Some(monitor) if monitor.is_alive() => format!("pid {} lives, {lock}", monitor.pid),
        Some(monitor) => format!("pid {} is gone, {lock}", monitor.pid),
    }
}

fn name(state: &State, record: &Record) -> String {
    match state.named(&record.name) {
        Some(id) if id == record.id => "leads to it".to_owned(),
        Some(id) => format!("leads to {}, not to it", short(&id)),
        None => "leads to nothing".to_owned(),
    }
}
