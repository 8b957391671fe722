//! A6–A12: memory and CPU.

use super::Row;
use super::kit::{Desk, Place, skip, wait_for};
use super::world::{World, cgroup_file};
use anyhow::{Context, Result, ensure};
use std::path::Path;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A6 run -ti -m 100m stress --vm-bytes 200m --vm-keep -m 1",
        run: out_of_memory,
    },
    Row {
        name: "A7 -m 100m is written",
        run: memory,
    },
    Row {
        name: "A8 the suffixes of -m",
        run: suffixes,
    },
    Row {
        name: "-m limits swap too, to twice as much with it",
        run: swap,
    },
    Row {
        name: "-m with too little to start in is told",
        run: too_little,
    },
    Row {
        name: "A9 -cpushare 512 is written",
        run: shares,
    },
    Row {
        name: "A10 -cpushare 1024 gets twice the time of 512",
        run: shares_count,
    },
    Row {
        name: "A11 -cpuset without a value",
        run: cpuset_without_value,
    },
    Row {
        name: "A12 -cpuset N",
        run: cpuset,
    },
    Row {
        name: "A57 the limit is there before the program, and the pid in the cgroup",
        run: before_the_program,
    },
];

const MEMORY: [&str; 3] = ["memory", "memory.limit_in_bytes", "memory.max"];

fn limit(desk: &Desk, name: &str, file: [&str; 3]) -> Result<String> {
    let pid = desk.pid(name)?;
    match cgroup_file(pid, file[0], file[1], file[2])? {
        Some(value) => Ok(value),
        None => skip(format!("this machine has no cgroup controller {}", file[0])),
    }
}

fn too_little(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "-m", "100m", "busybox", "top"])?;
    limit(&desk, "c", MEMORY)?;
    let before = World::of(&desk)?;
    let done = desk.go(&["run", "-m", "1k", "busybox", "true"])?;
    // Other runtimes have other words.
    match desk.runtime().ends_with("runtime") {
        true => done.fails(125, &["-m 1k: too little memory", "Docker asks for 6m"])?,
        false => done.fails(125, &[])?,
    };
    before.is_back(&desk)
}

fn out_of_memory(place: &Place) -> Result<()> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let swap = memory.lines().find(|line| line.starts_with("SwapTotal:"));
    if swap.is_none_or(|line| line.split_whitespace().nth(1) != Some("0")) {
        return skip("with swap the kernel does not kill");
    }
    let desk = Desk::new(place)?;
    desk.import_stress()?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let command = ["stress", "--vm-bytes", "200m", "--vm-keep", "-m", "1"];
    let mut args = vec!["run", "-ti", "-m", "100m"];
    args.extend(command);
    let done = desk.tty(&args)?.code(1)?;
    ensure!(done.out.contains("got signal 9"), "{done:?}");
    ensure!(
        done.out
            .contains("killed by the kernel: memory limit 100m reached"),
        "nothing says why: {done:?}"
    );
    Ok(())
}

fn memory(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "m1", "-m", "100m", "busybox", "top"])?;
    let value = limit(&desk, "m1", MEMORY)?;
    ensure!(value == "104857600", "the limit is {value}");
    Ok(())
}

fn swap(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "s", "-m", "100m", "busybox", "top"])?;
    // On cgroup v2 the file is of swap alone.
    let file = ["memory", "memory.memsw.limit_in_bytes", "memory.swap.max"];
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let of_both = |bytes: u64| if is_v2 { bytes / 2 } else { bytes };
    for (update, both) in [
        (None, 200 << 20),
        (Some("-m=150m"), 300 << 20),
        (Some("-m=50m"), 100 << 20),
        (Some("--memory-swap=120m"), 120 << 20),
    ] {
        if let Some(update) = update {
            desk.go(&["update", update, "s"])?.ok()?;
        }
        let shown = desk.inspect("s", "{{.HostConfig.MemorySwap}}")?;
        ensure!(shown == both.to_string(), "{update:?}: {shown} is shown");
        if update != Some("--memory-swap=120m") {
            let value = limit(&desk, "s", file)?;
            ensure!(value == of_both(both).to_string(), "{update:?}: {value}");
        }
    }
    desk.go(&["update", "-m", "200m", "s"])?
        .fails(1, &["more than memory and swap together"])?;
    Ok(())
}

fn suffixes(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // The kernel rounds down to pages; a container needs some of them to start.
    for (number, (text, bytes)) in [
        ("8192k", "8388608"),
        ("1g", "1073741824"),
        ("104857600", "104857600"),
        ("104857600b", "104857600"),
        ("100M", "104857600"),
        ("64mb", "67108864"),
    ]
    .iter()
    .enumerate()
    {
        let name = format!("m{number}");
        desk.start(&["--name", &name, "-m", text, "busybox", "top"])?;
        let value = limit(&desk, &name, MEMORY)?;
        ensure!(value == *bytes, "-m {text}: {value}");
        desk.go(&["rm", "-f", &name])?.ok()?;
    }
    let before = World::of(&desk)?;
    for bad in ["abc", "", "-5", "10q", "1e3", "99999999999999999999g"] {
        let flag = format!("--memory={bad}");
        desk.go(&["run", "-d", &flag, "busybox", "top"])?
            .fails(125, &["-m"])?;
    }
    desk.go(&["run", "-m", "abc", "busybox", "top"])?
        .fails(125, &["invalid -m value 'abc' (try 100m)"])?;
    before.is_back(&desk)
}

fn shares(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c1", "-cpushare", "512", "busybox", "top"])?;
    let value = limit(&desk, "c1", ["cpu", "cpu.shares", "cpu.weight"])?;
    // runc 1.1 converts to v2 weights by the older, linear formula.
    let expected = ["512", "59", "20"];
    ensure!(expected.contains(&value.as_str()), "the share is {value}");
    Ok(())
}

/// The first CPU that this process may use.
fn first_cpu() -> Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .context("no Cpus_allowed_list")?;
    let first = list.trim().split([',', '-']).next();
    Ok(first.unwrap_or("0").to_owned())
}

/// User and system time of a process in clock ticks; proc_pid_stat(5), fields 14 and 15.
fn ticks(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit(')').next().unwrap_or_default();
    let times: Vec<u64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse().ok())
        .collect();
    ensure!(times.len() == 2, "cannot read {text:?}");
    Ok(times.iter().sum())
}

fn shares_count(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let cpu = first_cpu()?;
    for (name, shares) in [("hi", "1024"), ("lo", "512")] {
        let script = "while :; do :; done";
        desk.start(&[
            "--name",
            name,
            "-cpuset",
            &cpu,
            "-cpushare",
            shares,
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
    }
    limit(&desk, "hi", ["cpu", "cpu.shares", "cpu.weight"])?;
    let (hi, lo) = (desk.pid("hi")?, desk.pid("lo")?);
    // Both spin in cgroups side by side on one CPU: whatever else runs there, they share what is
    // left. So time is counted in what they used, not by the clock: 6 s of both together.
    wait_for("both run", || {
        Ok((ticks(hi)? > 20 && ticks(lo)? > 20).then_some(()))
    })?;
    let start = (ticks(hi)?, ticks(lo)?);
    let (high, low) = match wait_for("both have used 6 s", || {
        let used = (ticks(hi)? - start.0, ticks(lo)? - start.1);
        Ok((used.0 + used.1 >= 600).then_some(used))
    }) {
        Ok(used) => used,
        Err(error) => return skip(format!("the machine is too busy to measure: {error}")),
    };
    let ratio = high as f64 / low.max(1) as f64;
    ensure!(
        (1.5..=2.7).contains(&ratio),
        "1024 to 512 is {high} to {low}"
    );
    Ok(())
}

fn cpuset_without_value(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    for args in [
        &["run", "-ti", "-cpuset"][..],
        &["run", "-ti", "-cpuset", "-m", "10m", "busybox", "ls"],
        &["run", "-cpuset=", "busybox", "ls"],
        &["run", "-cpuset", "x-1", "busybox", "ls"],
    ] {
        desk.go(args)?.fails(125, &["-cpuset", "0-1"])?;
    }
    ensure!(desk.rows()?.is_empty(), "a row is left: {:?}", desk.rows());
    before.is_back(&desk)
}

fn cpuset(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let cpu = first_cpu()?;
    desk.start(&["--name", "p", "-cpuset", &cpu, "busybox", "top"])?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", desk.pid("p")?))?;
    let list = format!("Cpus_allowed_list:\t{cpu}");
    ensure!(status.lines().any(|line| line == list), "{status}");
    let mems = limit(
        &desk,
        "p",
        ["cpuset", "cpuset.mems", "cpuset.mems.effective"],
    )?;
    ensure!(!mems.is_empty(), "cpuset.mems is empty");
    Ok(())
}

fn before_the_program(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "m", "-m", "100m", "busybox", "top"])?;
    let pid = desk.pid("m")?;
    let value = limit(&desk, "m", MEMORY)?;
    ensure!(value == "104857600", "the limit is {value}");
    let pids = limit(&desk, "m", ["memory", "cgroup.procs", "cgroup.procs"])?;
    ensure!(
        pids.lines().any(|line| line == pid.to_string()),
        "{pid} is not among {pids:?}"
    );
    let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    ensure!(cgroup.contains(&format!("/mydocker/{id}")), "{cgroup}");
    // The program's own first look.
    let script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max";
    let done = desk
        .go(&["run", "-m", "100m", "busybox", "sh", "-c", script])?
        .ok()?;
    done.says("104857600")?;
    Ok(())
}
