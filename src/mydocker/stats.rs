//! `stats`: what containers use, from the files of their cgroups and from /proc. Once, or every
//! second: over itself on a terminal, below each other otherwise.

use super::cli::{Global, Stats};
use super::reach::cgroup_of;
use super::record::{self, Entry, Record};
use super::run::is_terminal;
use super::state_dirs::State;
use super::{format, info};
use crate::cgroup::read;
use crate::error::ResultExt;
use anyhow::{Context, Result};
use procfs::FromRead;
use procfs::net::InterfaceDeviceStatus;
use serde_json::{Value, json};
use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

/// How long the use of CPUs is measured for.
const INTERVAL: Duration = Duration::from_secs(1);

/// `mydocker stats`
pub fn stats(state: &State, _: &Global, args: &Stats) -> Result<i32> {
    let mut before = samples(state, args)?;
    let live = is_terminal(1) && !args.no_stream;
    loop {
        std::thread::sleep(INTERVAL);
        let now = samples(state, args)?;
        let rows: Vec<Row> = now.iter().map(|now| row(now, &before, args)).collect();
        let text = shown(args.format.as_deref(), &rows)?;
        match write(&text, live) {
            // Nobody reads on.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(0),
            other => other.context("write to standard output")?,
        }
        if args.no_stream {
            return Ok(0);
        }
        before = now;
    }
}

/// On a terminal in place of the last one: from the top left on, and nothing of the old is left.
fn write(text: &str, live: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    if live {
        let text = text.replace('\n', "\x1b[K\n");
        out.write_all(format!("\x1b[H{text}\x1b[J").as_bytes())?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

/// A container at one moment.
struct Sample {
    record: Record,
    at: Instant,
    /// Nothing of one that does not run.
    used: Option<Used>,
}

/// What it uses.
#[derive(Debug, Clone, Default, PartialEq)]
struct Used {
    /// CPU time up to now in nanoseconds.
    cpu: u64,
    memory: u64,
    limit: u64,
    /// Received and sent.
    network: (u64, u64),
    /// Read and written.
    block: (u64, u64),
    pids: u64,
}

fn samples(state: &State, args: &Stats) -> Result<Vec<Sample>> {
    if !args.containers.is_empty() {
        let one = |name: &String| record::find(state, name).map(|record| sample(state, record));
        return args.containers.iter().map(one).collect();
    }
    let mut all = Vec::new();
    for entry in record::all(state)? {
        if let Entry::Known(record, status) = entry
            && (args.all || status.is_alive())
        {
            all.push(sample(state, *record));
        }
    }
    Ok(all)
}

fn sample(state: &State, record: Record) -> Sample {
    let pid = record.status(state).pid();
    // It may end at any moment.
    let used = pid.and_then(|pid| used(&record.id, pid).ok().flatten());
    Sample {
        used,
        at: Instant::now(),
        record,
    }
}

/// Nothing of a container without a cgroup of its own: nobody counts it.
fn used(id: &str, pid: i32) -> Result<Option<Used>> {
    let Some(cgroup) = cgroup_of(id, pid)? else {
        return Ok(None);
    };
    let stats = read::stats(&cgroup);
    let sum = |op: &str| {
        let entries = stats.blkio.io_service_bytes_recursive.iter();
        entries.filter(|e| e.op == op).map(|e| e.value).sum()
    };
    Ok(Some(Used {
        cpu: stats.cpu.usage.total,
        memory: in_use(&stats.memory),
        limit: stats.memory.usage.limit.min(info::memory()),
        network: network(pid),
        block: (sum("Read"), sum("Write")),
        pids: stats.pids.current,
    }))
}

/// As Docker counts: without the cache that the kernel would give back first.
fn in_use(memory: &read::Memory) -> u64 {
    let of = |name: &str| memory.raw.get(name).copied();
    let inactive = of("total_inactive_file").or(of("inactive_file"));
    memory.usage.usage.saturating_sub(inactive.unwrap_or(0))
}

/// Bytes received and sent by the interfaces of its own network namespace; none of the host's.
fn network(pid: i32) -> (u64, u64) {
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net")).ok();
    if namespace(&pid.to_string()) == namespace("self") {
        return (0, 0);
    }
    let path = format!("/proc/{pid}/net/dev");
    InterfaceDeviceStatus::from_file(path).map_or((0, 0), |interfaces| traffic(&interfaces))
}

fn traffic(interfaces: &InterfaceDeviceStatus) -> (u64, u64) {
    let others = interfaces
        .0
        .values()
        .filter(|interface| interface.name != "lo");
    others.fold((0, 0), |sum, interface| {
        (sum.0 + interface.recv_bytes, sum.1 + interface.sent_bytes)
    })
}

/// What is shown of a container, in Docker's words.
struct Row {
    id: String,
    name: String,
    /// CPU, memory, share of memory, network, block I/O, processes.
    cells: [String; 6],
}

fn row(now: &Sample, before: &[Sample], args: &Stats) -> Row {
    let record = &now.record;
    let last = before.iter().find(|last| last.record.id == record.id);
    let cells = match &now.used {
        None => ["--", "-- / --", "--", "--", "--", "--"].map(str::to_owned),
        Some(used) => {
            let last = last.and_then(|last| Some((last.used.as_ref()?, now.at - last.at)));
            cells(used, last)
        }
    };
    let id = match args.no_trunc {
        true => record.id.clone(),
        false => record.short_id().to_owned(),
    };
    Row {
        id,
        name: record.name.clone(),
        cells,
    }
}

fn cells(now: &Used, last: Option<(&Used, Duration)>) -> [String; 6] {
    // It may have been started again between the two: then there is less than before.
    let cpu = last.map_or(0.0, |(last, time)| {
        let spent = now.cpu.saturating_sub(last.cpu) as f64;
        100.0 * spent / (time.as_nanos().max(1) as f64)
    });
    let memory = match now.limit {
        0 => 0.0,
        limit => 100.0 * now.memory as f64 / limit as f64,
    };
    let pair = |(a, b): (u64, u64)| format!("{} / {}", format::size(a), format::size(b));
    [
        format!("{cpu:.2}%"),
        format!(
            "{} / {}",
            format::binary_size(now.memory),
            format::binary_size(now.limit)
        ),
        format!("{memory:.2}%"),
        pair(now.network),
        pair(now.block),
        now.pids.to_string(),
    ]
}

fn shown(format: Option<&str>, rows: &[Row]) -> Result<String> {
    let objects: Vec<Value> = rows
        .iter()
        .map(|row| {
            let [cpu, memory, share, network, block, pids] = &row.cells;
            json!({
                "Container": row.id, "ID": row.id, "Name": row.name, "CPUPerc": cpu,
                "MemUsage": memory, "MemPerc": share, "NetIO": network, "BlockIO": block,
                "PIDs": pids,
            })
        })
        .collect();
    let table = || {
        let header = [
            "CONTAINER ID",
            "NAME",
            "CPU %",
            "MEM USAGE / LIMIT",
            "MEM %",
            "NET I/O",
            "BLOCK I/O",
            "PIDS",
        ];
        let mut table = vec![header.map(str::to_owned).to_vec()];
        for row in rows {
            let mut line = vec![row.id.clone(), row.name.clone()];
            line.extend(row.cells.iter().cloned());
            table.push(line);
        }
        table
    };
    format::list(format, &objects, table).exit_code(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_in_dockers_words() {
        let last = Used {
            cpu: 1_000_000_000,
            ..Used::default()
        };
        let now = Used {
            cpu: 1_500_000_000,
            memory: 10 << 20,
            limit: 20 << 20,
            network: (1500, 0),
            block: (0, 4096),
            pids: 3,
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            cells(&now, Some((&last, second))),
            [
                "50.00%",
                "10MiB / 20MiB",
                "50.00%",
                "1.50kB / 0B",
                "0B / 4.10kB",
                "3"
            ]
        );
        assert_eq!(
            cells(&last, Some((&now, second)))[0],
            "0.00%",
            "started again"
        );
        assert_eq!(cells(&now, None)[0], "0.00%");
    }

    #[test]
    fn traffic_of_all_interfaces_but_lo() {
        let text = "Inter-|   Receive      |  Transmit\n \
            face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n\
            \x20   lo:     100 1 0 0 0 0 0 0      100 1 0 0 0 0 0 0\n\
            \x20 eth0:    1000 2 0 0 0 0 0 0       30 1 0 0 0 0 0 0\n\
            \x20 eth1:       1 2 0 0 0 0 0 0        2 1 0 0 0 0 0 0\n";
        let interfaces = InterfaceDeviceStatus::from_read(text.as_bytes()).unwrap();
        assert_eq!(traffic(&interfaces), (1001, 32));
        let none = InterfaceDeviceStatus::from_read(&b""[..]).unwrap();
        assert_eq!(traffic(&none), (0, 0));
    }

    #[test]
    fn memory_without_what_would_be_given_back() {
        let mut memory = read::Memory::default();
        memory.usage.usage = 100;
        memory.raw.insert("inactive_file".into(), 30);
        assert_eq!(in_use(&memory), 70);
        memory.raw.insert("total_inactive_file".into(), 200);
        assert_eq!(in_use(&memory), 0);
    }
}
