//! `why`: how a container ended, with everything that is known of it.

use super::cli::{Global, Why};
use super::log::{self, Stream};
use super::logs::Reader;
use super::reach::cgroup_of;
use super::record::{self, Exit, Record, Status};
use super::state_dirs::State;
use super::values::Restart;
use super::{ago, format, print};
use crate::cgroup::usage::{Usage, usage};
use crate::linux::signals;
use anyhow::Result;
use std::collections::VecDeque;
use std::fmt::Write;

/// `mydocker why`
pub fn why(state: &State, _: &Global, args: &Why) -> Result<i32> {
    let mut first = true;
    super::for_each(&args.containers, |name| {
        let record = record::find(state, name)?;
        let status = record.status(state);
        let mut text = String::new();
        if !std::mem::take(&mut first) {
            text.push('\n');
        }
        text.push_str(&told(&record, &status));
        let lines = last_lines(state, &record, args.tail)?;
        if !lines.is_empty() {
            text.push_str("the last lines of its log:\n");
            for (stream, line) in lines {
                let mark = if stream == Stream::Err { "!" } else { "|" };
                let _ = writeln!(text, "  {mark} {}", String::from_utf8_lossy(&line));
            }
        }
        print(&text).map(drop)
    })
}

/// Everything but the log.
fn told(record: &Record, status: &Status) -> String {
    let name = &record.name;
    let mut text = String::new();
    let mut say = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    let mut used = None;
    match status {
        Status::Exited(exit) => {
            let ago = ago(exit.at);
            let after = record.started.map(|started| exit.at - started);
            let after = after.filter(|time| time.is_positive() && !exit.unwatched);
            let after = after.map_or_else(String::new, |time| {
                format!(", after {}", seconds(time.as_seconds_f64()))
            });
            let ago = match exit.unwatched {
                true => format!("noted {ago}: nobody watched it end"),
                false => ago,
            };
            say(format!("{name}: {}, {ago}{after}", ending(exit)));
            cause(record, exit).into_iter().for_each(&mut say);
            used.clone_from(&exit.usage);
        }
        Status::Created if record.failed.is_none() => say(format!("{name} was never started")),
        Status::Created => say(format!("{name} does not run")),
        Status::Removed => say(format!(
            "{name} has ended, and was removed with that (--rm)"
        )),
        Status::Damaged(why) => say(format!("{name}: {why}")),
        Status::Running { pid } | Status::Paused { pid } => {
            let since = record
                .started
                .map_or_else(String::new, |started| format!(", started {}", ago(started)));
            say(format!(
                "{name} has not ended: it is {status}{since}, pid {pid}"
            ));
            used = cgroup_of(&record.id, *pid)
                .ok()
                .flatten()
                .map(|cgroup| usage(&cgroup));
        }
    }
    if let Some(failed) = &record.failed {
        say(format!("its last start failed: {failed}"));
    }
    if record.restarts > 0 {
        say(format!(
            "started again {} times by its policy",
            record.restarts
        ));
    }
    if record.failed.is_some() && record.restart != Restart::No {
        say(format!(
            "not tried again although --restart is {}: mydocker start {}",
            record.restart, record.name
        ));
    } else if record.stopping && record.restart != Restart::No {
        say(format!(
            "not started again although --restart is {}: somebody stopped it",
            record.restart
        ));
    }
    if let Some(used) = used {
        used_up(&used).into_iter().for_each(&mut say);
    }
    text
}

fn ending(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (None, _) => "it ended, and nobody saw how: its monitor was killed".to_owned(),
        (Some(code), Some(signal)) => {
            format!("killed by {} (exit code {code})", signals::name(signal))
        }
        (Some(code), None) => format!("exit code {code}"),
    }
}

/// What the code stands for, where that can be told.
fn cause(record: &Record, exit: &Exit) -> Vec<String> {
    let mut lines = Vec::new();
    if exit.oom && !exit.is_out_of_memory() {
        lines
            .push("the kernel killed a program in it for memory, which is not why it ended".into());
    } else if exit.oom {
        let limit = record.memory.as_ref().map(|(_, text)| text.as_str());
        lines.push(match limit {
            Some(limit) => {
                format!("out of memory: the kernel killed in it at the memory limit of {limit}")
            }
            None => "out of memory: the kernel killed in it, for a limit above it".to_owned(),
        });
    }
    match (exit.code, exit.signal) {
        (None, _) => {
            lines.push("up to 64 KiB of what it wrote last on each stream may be lost".to_owned())
        }
        (_, Some(libc::SIGKILL)) if !exit.is_out_of_memory() => lines.push(
            "SIGKILL comes from `stop` after its time, from `kill` and `rm -f`, or from outside"
                .to_owned(),
        ),
        (Some(code), None) => lines.extend(meaning(code).map(str::to_owned)),
        _ => {}
    }
    lines
}

/// What programs mean by a code, by the conventions of shells.
fn meaning(code: i32) -> Option<&'static str> {
    match code {
        126 => Some("126: by a shell's convention, a command that cannot be executed"),
        127 => Some("127: by a shell's convention, a command that was not found"),
        129..=192 => Some(
            "more than 128: by a shell's convention, a program in it was killed by a signal \
             (the code less 128)",
        ),
        _ => None,
    }
}

fn used_up(used: &Usage) -> Vec<String> {
    let mut lines = Vec::new();
    let mut memory = Vec::new();
    if used.memory > 0 {
        memory.push(format!("at most {}", format::binary_size(used.memory)));
    }
    // More than any machine has: none.
    if used.memory_limit > 0 && used.memory_limit < 1 << 60 {
        memory.push(format!("limit {}", format::binary_size(used.memory_limit)));
    }
    if !memory.is_empty() {
        lines.push(format!("memory: {}", memory.join(", ")));
    }
    lines.push(format!("cpu time: {}", seconds(used.cpu as f64 / 1e9)));
    if used.pids > 0 {
        let limit = match used.pids_limit {
            0 => String::new(),
            limit => format!(", limit {limit}"),
        };
        lines.push(format!(
            "processes and threads: at most {}{limit}",
            used.pids
        ));
    }
    if let Some(waited) = used.waited {
        let [cpu, memory, io] = waited.map(|us| seconds(us as f64 / 1e6));
        lines.push(format!(
            "waited {cpu} for a CPU, {memory} for memory, {io} for I/O"
        ));
    }
    lines
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.2} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s => format!("{:.0} min", s / 60.0),
    }
}

/// The last lines of both streams, the beginning of each.
pub(super) fn last_lines(
    state: &State,
    record: &Record,
    count: usize,
) -> Result<Vec<(Stream, Vec<u8>)>> {
    const LONGEST: usize = 500;
    let dir = state.container(&record.id);
    let mut reader = Reader::new(&dir);
    let mut lines: VecDeque<(Stream, Vec<u8>, bool)> = VecDeque::new();
    while let Some(raw) = reader.next()? {
        let Some(entry) = log::parse(&raw) else {
            continue;
        };
        let begun = lines
            .iter_mut()
            .rev()
            .find(|(stream, _, _)| *stream == entry.stream)
            .filter(|(_, _, whole)| !whole);
        match begun {
            Some((_, text, whole)) => {
                text.extend_from_slice(entry.text);
                text.truncate(LONGEST);
                *whole = entry.ends_line;
            }
            None => {
                let mut text = entry.text.to_vec();
                text.truncate(LONGEST);
                lines.push_back((entry.stream, text, entry.ends_line));
            }
        }
        // One more, so that a line that is still growing is found.
        while lines.len() > count + 1 {
            lines.pop_front();
        }
    }
    while lines.len() > count {
        lines.pop_front();
    }
    Ok(lines.into_iter().map(|(s, text, _)| (s, text)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::record::sample;
    use super::*;
    use time::OffsetDateTime;

    fn exit(code: Option<i32>, signal: Option<i32>, oom: bool) -> Exit {
        Exit {
            code,
            signal,
            oom,
            unwatched: false,
            stopped: false,
            at: OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(3),
            usage: Some(Usage {
                cpu: 1_500_000_000,
                memory: 20 << 20,
                memory_limit: 20 << 20,
                pids: 3,
                pids_limit: 0,
                waited: None,
            }),
        }
    }

    #[test]
    fn how_it_ended_in_words() {
        let mut record = sample("0");
        record.started = Some(OffsetDateTime::UNIX_EPOCH);
        let of = |record: &Record, exit: Exit| told(record, &Status::Exited(exit));
        let text = of(&record, exit(Some(137), Some(9), false));
        assert!(text.contains("killed by SIGKILL (exit code 137)"), "{text}");
        assert!(
            text.contains("after 3.00 s") && text.contains("`stop`"),
            "{text}"
        );
        assert!(
            text.contains("memory: at most 20MiB, limit 20MiB\ncpu time: 1.50 s\n"),
            "{text}"
        );
        let text = of(&record, exit(Some(127), None, false));
        assert!(text.contains("not found"), "{text}");
        let text = of(&record, exit(None, None, false));
        assert!(
            text.contains("nobody saw how") && text.contains("64 KiB"),
            "{text}"
        );
        record.memory = Some((20 << 20, "20m".into()));
        let text = of(&record, exit(Some(137), Some(9), true));
        assert!(
            text.contains("memory limit of 20m") && !text.contains("`stop`"),
            "{text}"
        );
        assert!(told(&sample("0"), &Status::Created).contains("never started"));
    }
}
