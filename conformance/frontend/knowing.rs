//! Knowing what happened and what is there: `why`, `check`, `events`, `boot`, `system df`, and the
//! verbs of two words.

use super::Row;
use super::kit::{Collected, Desk, Place, ended, wait_for};
use super::power;
use super::survive::{monitor_of, strike};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "why: a code, a signal, the log, what was used",
        run: why,
    },
    Row {
        name: "why: a program that has ended before anybody could look",
        run: why_at_once,
    },
    Row {
        name: "why and ps: out of memory with the limit",
        run: why_oom,
    },
    Row {
        name: "why: a start that failed, and what denied it",
        run: why_failed,
    },
    Row {
        name: "check shows the evidence, and what it healed",
        run: check,
    },
    Row {
        name: "events tells what happens, in order",
        run: events,
    },
    Row {
        name: "events follows, and is filtered",
        run: events_follow,
    },
    Row {
        name: "boot starts what is to run always",
        run: boot,
    },
    Row {
        name: "container prune and system prune",
        run: prune,
    },
    Row {
        name: "system df counts every block",
        run: df,
    },
    Row {
        name: "container ls and other verbs of two words",
        run: two_words,
    },
];

/// Waits until the machine's first process has reaped it: a zombie would tell how it ended.
fn reaped(pid: i32) -> Result<()> {
    wait_for("it is reaped", || {
        let gone = !std::path::Path::new(&format!("/proc/{pid}")).exists();
        Ok(gone.then_some(()))
    })
}

fn why(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "for i in 1 2 3 4; do echo line $i; done; echo oops >&2; exit 3";
    desk.start(&["--name", "w", "busybox", "sh", "-c", script])?;
    ensure!(desk.wait("w")? == 3);
    let done = desk.go(&["why", "-n", "3", "w"])?.ok()?;
    for words in [
        "w: exit code 3",
        "| line 3\n",
        "| line 4\n",
        "! oops\n",
        "memory: at most ",
    ] {
        ensure!(done.out.contains(words), "{words:?}: {done:?}");
    }
    ensure!(
        done.out.contains("cpu time: ") && !done.out.contains("line 2"),
        "{done:?}"
    );
    desk.start(&["--name", "k", "busybox", "sleep", "1000"])?;
    let done = desk.go(&["why", "k"])?.ok()?;
    ensure!(
        done.out.contains("k has not ended: it is running"),
        "{done:?}"
    );
    desk.go(&["kill", "k"])?.ok()?;
    ensure!(desk.wait("k")? == 137);
    let done = desk.go(&["why", "k"])?.ok()?;
    ensure!(
        done.out.contains("killed by SIGKILL (exit code 137)"),
        "{done:?}"
    );
    // Nobody saw it: both are killed, first the one that would tell.
    desk.start(&["--name", "u", "busybox", "sleep", "1000"])?;
    let pid = desk.pid("u")?;
    strike(monitor_of(pid)?)?;
    strike(pid)?;
    reaped(pid)?;
    let done = desk.go(&["why", "u"])?.ok()?;
    ensure!(
        done.out.contains("nobody saw how") && done.out.contains("64 KiB"),
        "{done:?}"
    );
    desk.go(&["create", "--name", "c", "busybox", "true"])?
        .ok()?;
    let done = desk.go(&["why", "c", "nosuch"])?.code(1)?;
    ensure!(done.out.contains("never started"), "{done:?}");
    ensure!(done.err.contains("no such container"), "{done:?}");
    Ok(())
}

fn why_at_once(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Most of them are zombies when the monitor looks; one of ten would do.
    for at in 0..10 {
        let name = format!("q{at}");
        let args = [
            "run", "--keep", "-m", "20m", "--name", &name, "busybox", "true",
        ];
        desk.go(&args)?.ok()?;
        let done = desk.go(&["why", &name])?.ok()?;
        // Its own, not the machine's.
        ensure!(done.out.contains("limit 20MiB\n"), "{done:?}");
    }
    Ok(())
}

fn why_oom(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "a=xx; while :; do a=$a$a; done";
    desk.start(&["--name", "m", "-m", "20m", "busybox", "sh", "-c", script])?;
    ensure!(desk.wait("m")? == 137);
    let row = desk.row("m")?.context("no row")?;
    ensure!(
        row.contains("exited (137, out of memory: limit 20m)"),
        "{row}"
    );
    let done = desk.go(&["why", "m"])?.ok()?;
    for words in ["memory limit of 20m", "limit 20MiB", "killed by SIGKILL"] {
        ensure!(done.out.contains(words), "{words:?}: {done:?}");
    }
    Ok(())
}

fn why_failed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Each program is put there by cp; the first start fails, and the container stays.
    desk.write("interpreted", "#!/no/such/interpreter\n")?;
    desk.write("plain", "#!/bin/sh\n")?;
    desk.write("garbage", "no program\n")?;
    // The beginning of a program for a machine that is not this one.
    let machine: u16 = if cfg!(target_arch = "s390x") { 62 } else { 22 };
    let mut foreign = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\0\0";
    foreign[18..].copy_from_slice(&machine.to_le_bytes());
    std::fs::write(desk.path("foreign"), [&foreign[..], &[0; 44]].concat())?;
    for (name, mode) in [
        ("interpreted", 0o755),
        ("plain", 0o644),
        ("garbage", 0o755),
        ("foreign", 0o755),
    ] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(desk.path(name), mode)?;
    }
    for (name, words, hint, code) in [
        (
            "interpreted",
            "its interpreter /no/such/interpreter is missing",
            "install",
            127,
        ),
        ("plain", "permission denied", "not executable", 126),
        ("garbage", "exec format error", "#!/bin/sh", 126),
        ("foreign", "exec format error", "it is a program for", 126),
    ] {
        let program = format!("/{name}");
        desk.go(&["create", "--name", name, "busybox", &program])?
            .ok()?;
        desk.go(&["cp", &desk.text(name), &format!("{name}:{program}")])?
            .ok()?;
        desk.go(&["start", "-a", name])?.code(code)?;
        let told = desk.inspect(name, "{{.State.Error}}")?;
        ensure!(told.contains(words), "{told:?}");
        let done = desk.go(&["why", name])?.ok()?;
        ensure!(
            done.out.contains("its last start failed")
                && done.out.contains(words)
                && done.out.contains(hint),
            "{done:?}"
        );
    }
    let script = "mkdir -p /a/b; cp /bin/busybox /a/b/true; chmod 700 /a; echo made";
    desk.go(&[
        "run", "--keep", "--name", "p", "busybox", "sh", "-c", script,
    ])?
    .ok()?;
    desk.go(&["commit", "p", "closed"])?.ok()?;
    desk.go(&["run", "-u", "1000", "closed", "/a/b/true"])?
        .fails(126, &["may not pass the directory /a"])?;
    Ok(())
}

fn check(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["check"])?.ok()?.says("no containers")?;
    desk.start(&["--name", "r", "busybox", "top"])?;
    let pid = desk.pid("r")?;
    let done = desk.go(&["check"])?.ok()?;
    for words in [
        "r  running",
        &format!("pid {pid} lives"),
        "the process has not ended",
        "1 process, which is it",
        "lives, its lock is held",
        "leads to it",
    ] {
        ensure!(done.out.contains(words), "{words:?}: {done:?}");
    }
    ensure!(!done.out.contains("healed"), "{done:?}");
    strike(monitor_of(pid)?)?;
    let done = desk.go(&["check", "r"])?.ok()?;
    ensure!(done.out.contains("healed    it has no monitor"), "{done:?}");
    wait_for("another monitor", || {
        let done = desk.go(&["check", "r"])?.ok()?;
        Ok(done.out.contains("lives, its lock is held").then_some(()))
    })?;
    // Killed together with what watches it.
    let id = desk.start(&["--name", "d", "busybox", "top"])?;
    let pid = desk.pid("d")?;
    strike(monitor_of(pid)?)?;
    strike(pid)?;
    reaped(pid)?;
    let done = desk.go(&["check", "d"])?.ok()?;
    for words in [
        "code unknown",
        "is gone",
        "healed    it ended while nobody watched",
    ] {
        ensure!(done.out.contains(words), "{words:?}: {done:?}");
    }
    std::fs::write(
        desk.root().join("containers").join(&id).join("record.json"),
        "{",
    )?;
    let done = desk.go(&["check"])?.code(1)?;
    ensure!(
        done.out.contains("damaged") && done.out.contains("rm -f"),
        "{done:?}"
    );
    desk.go(&["rm", "-f", &id])?.ok()?;
    Ok(())
}

/// The actions of a container's events, in order.
pub(super) fn actions(desk: &Desk, more: &[&str]) -> Result<Vec<String>> {
    let format = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--format",
        "{{.Action}}",
    ];
    let done = desk.go(&[&format[..], more].concat())?.ok()?;
    Ok(done.out.lines().map(str::to_owned).collect())
}

fn events(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // As the first process, sleep ignores TERM.
    let id = desk.start(&["--name", "e", "-l", "k=v", "busybox", "sleep", "1000"])?;
    desk.go(&["exec", "e", "sh", "-c", "exit 4"])?.code(4)?;
    for args in [
        &["pause", "e"][..],
        &["unpause", "e"],
        &["rename", "e", "f"],
        &["update", "--pids-limit", "99", "f"],
        &["stop", "-t", "0", "f"],
        &["commit", "f", "made"],
        &["rm", "f"],
    ] {
        desk.go(args)?.ok()?;
    }
    let found = actions(&desk, &["-f", &format!("container={}", &id[..12])])?;
    let wanted = [
        "create",
        "start",
        "exec_create: sh -c exit 4",
        "exec_start: sh -c exit 4",
        "exec_die",
        "pause",
        "unpause",
        "rename",
        "update",
        "kill",
        "die",
        "stop",
        "commit",
        "destroy",
    ];
    let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
    // One SIGTERM, and SIGKILL at once after it.
    found.dedup();
    ensure!(found == wanted, "{found:?}");
    let all = ["events", "--since", "1h", "--until", "0s"];
    let done = desk.go(&[&all[..], &["--format", "json"]].concat())?.ok()?;
    let mut last = 0;
    for line in done.out.lines() {
        let event: Value = serde_json::from_str(line)?;
        let time = event["timeNano"].as_i64().context("no time")?;
        ensure!(time >= last && time > 0, "out of order: {line}");
        last = time;
        if event["Action"] == "die" {
            let attributes = &event["Actor"]["Attributes"];
            ensure!(
                attributes["exitCode"] == "137" && attributes["k"] == "v" && event["id"] == *id,
                "{line}"
            );
        }
    }
    let done = desk
        .go(&[&all[..], &["-f", "event=rename"]].concat())?
        .ok()?;
    let words = format!("container rename {id} (image=busybox, k=v, name=f, oldName=e)\n");
    ensure!(done.out.ends_with(&words), "{done:?}");
    desk.go(&[
        "run",
        "-m",
        "20m",
        "--name",
        "o",
        "busybox",
        "sh",
        "-c",
        "a=xx; while :; do a=$a$a; done",
    ])?
    .code(137)?;
    let found = actions(&desk, &["-f", "container=o"])?;
    ensure!(
        found == ["create", "start", "oom", "die", "destroy"],
        "{found:?}"
    );
    desk.go(&["events", "-f", "color=red"])?
        .fails(125, &["color=red"])?;
    Ok(())
}

fn events_follow(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "--name", "before", "busybox", "true"])?
        .ok()?;
    let mut command = desk.command(desk.program());
    command
        .args([
            "events",
            "-f",
            "event=die",
            "--format",
            "{{.Actor.Attributes.name}}",
        ])
        .stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let out = Collected::from(child.stdout.take().context("no pipe")?);
    let pid = child.id() as i32;
    // It tells nothing of before, so that a container it tells of is one it was there for.
    let seen = wait_for("it follows", || {
        desk.go(&["run", "--name", "during", "busybox", "true"])?
            .ok()?;
        Ok(out.so_far().contains("during\n").then(|| out.so_far()))
    });
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    for name in &names {
        desk.go(&["run", "--name", name, "busybox", "true"])?.ok()?;
    }
    let all = wait_for("all of them are told", || {
        let text = out.so_far();
        let told: BTreeSet<&str> = text.lines().collect();
        let all = names.iter().all(|name| told.contains(name.as_str()));
        Ok(all.then_some(()))
    });
    let _ = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGTERM,
    );
    ended(pid, "events")?;
    child.wait()?;
    ensure!(!seen?.contains("before"), "{:?}", out.so_far());
    all
}

fn boot(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (name, policy) in [
        ("always", "always"),
        ("stopped", "always"),
        ("unless", "unless-stopped"),
        ("unlessnot", "unless-stopped"),
        ("never", "no"),
        ("runs", "always"),
    ] {
        desk.start(&["--name", name, "--restart", policy, "busybox", "top"])?;
    }
    desk.go(&[
        "create",
        "--name",
        "created",
        "--restart",
        "always",
        "busybox",
        "top",
    ])?
    .ok()?;
    desk.go(&["stop", "-t", "0", "stopped", "unlessnot", "never"])?
        .ok()?;
    for name in ["always", "unless"] {
        power::fails_for(&desk, name)?;
    }
    let before = desk.pid("runs")?;
    let names = |done: &super::kit::Done| -> BTreeSet<String> {
        done.out.lines().map(str::to_owned).collect()
    };
    let wanted = BTreeSet::from(["always", "stopped", "unless"].map(str::to_owned));
    let done = desk.go(&["boot", "--dry-run"])?.ok()?;
    ensure!(names(&done) == wanted, "{done:?}");
    let done = desk.go(&["boot"])?.ok()?;
    ensure!(names(&done) == wanted, "{done:?}");
    let done = desk.go(&["boot"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    let running = desk
        .go(&["ps", "--running", "--format", "{{.Names}}"])?
        .ok()?;
    let mut wanted = wanted;
    wanted.insert("runs".to_owned());
    ensure!(names(&running) == wanted, "{running:?}");
    ensure!(desk.pid("runs")? == before, "it was restarted");
    Ok(())
}

fn prune(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "runs", "busybox", "top"])?;
    let big = "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null";
    let ended = desk.start(&["--name", "ended", "-l", "k=v", "busybox", "sh", "-c", big])?;
    ensure!(desk.wait("ended")? == 0);
    let done = desk
        .go(&["create", "--name", "made", "busybox", "true"])?
        .ok()?;
    let made = done.line().to_owned();
    desk.go(&["commit", "runs"])?.ok()?;
    desk.go(&["commit", "runs", "named"])?.ok()?;
    // No answer is no.
    let done = desk.go(&["container", "prune"])?.ok()?;
    ensure!(
        done.out.contains("[y/N]") && desk.rows()?.len() == 3,
        "{done:?}"
    );
    let done = desk
        .go(&["container", "prune", "-f", "--filter", "label=k"])?
        .ok()?;
    let text = format!("Deleted Containers:\n{ended}\n\nTotal reclaimed space: 3");
    ensure!(
        done.out.starts_with(&text) && done.out.contains("MB"),
        "{done:?}"
    );
    let done = desk.go_with(&["system", "prune"], "y\n")?.ok()?;
    ensure!(
        done.out.contains(&format!("Deleted Containers:\n{made}\n")),
        "{done:?}"
    );
    ensure!(
        done.out.contains("Deleted Images:\ndeleted: sha256:"),
        "{done:?}"
    );
    ensure!(desk.rows()?.len() == 1);
    let images = ["images", "--format", "{{.Repository}}"];
    let left = desk.go(&images)?.ok()?;
    let left: BTreeSet<&str> = left.out.lines().collect();
    ensure!(left == BTreeSet::from(["busybox", "named"]), "{left:?}");
    let done = desk.go(&["image", "prune", "-af"])?.ok()?;
    ensure!(
        done.out.contains("untagged: ") && done.out.contains("named"),
        "{done:?}"
    );
    desk.go(&images)?.ok()?.says("busybox")?;
    desk.go(&["system", "prune", "-f"])?
        .ok()?
        .says("Total reclaimed space: 0B")?;
    desk.go(&["container", "prune", "-f", "--filter", "x=y"])?
        .fails(125, &["x=y"])?;
    Ok(())
}

/// Bytes of all blocks below a directory; a file with several names has them once.
fn blocks(dir: &Path, seen: &mut BTreeSet<u64>) -> Result<u64> {
    let mut sum = std::fs::symlink_metadata(dir)?.blocks() * 512;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = std::fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            sum += blocks(&path, seen)?;
        } else if seen.insert(meta.ino()) {
            sum += meta.blocks() * 512;
        }
    }
    Ok(sum)
}

fn df(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let big = "dd if=/dev/zero of=/big bs=1M count=5 2>/dev/null; exec top";
    desk.start(&["--name", "runs", "busybox", "sh", "-c", big])?;
    desk.go(&["create", "--name", "made", "busybox", "true"])?
        .ok()?;
    desk.go(&["commit", "runs", "mine"])?.ok()?;
    wait_for("the file is written", || {
        let done = desk.go(&["exec", "runs", "stat", "-c", "%s", "/big"])?;
        Ok((done.line() == "5242880").then_some(()))
    })?;
    let done = desk.go(&["system", "df", "--format", "json"])?.ok()?;
    let mut sum = 0.0;
    for line in done.out.lines() {
        let row: Value = serde_json::from_str(line)?;
        let size = row["Size"].as_str().context("no size")?;
        let digits = size.trim_end_matches(|c: char| c.is_alphabetic());
        let unit = match &size[digits.len()..] {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            other => anyhow::bail!("unit {other}"),
        };
        sum += digits.parse::<f64>()? * unit;
        let (total, active) = (row["TotalCount"].as_str(), row["Active"].as_str());
        match row["Type"].as_str() {
            Some("Containers") => ensure!((total, active) == (Some("2"), Some("1")), "{row}"),
            Some("Images") => ensure!((total, active) == (Some("2"), Some("1")), "{row}"),
            _ => {}
        }
    }
    let all = blocks(&desk.root(), &mut BTreeSet::new())? as f64;
    // Three digits are shown.
    ensure!((sum - all).abs() < 0.02 * all, "{sum} of {all}: {done:?}");
    let done = desk.go(&["system", "df"])?.ok()?;
    ensure!(done.out.starts_with("TYPE "), "{done:?}");
    Ok(())
}

fn two_words(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go(&["container", "run", "-d", "--name", "c", "busybox", "top"])?;
    let id = done.ok()?.line().to_owned();
    let quiet = ["container", "ls", "-q", "--no-trunc"];
    desk.go(&quiet)?.ok()?.says(&id)?;
    desk.go(&["container", "stop", "-t", "0", "c"])?
        .ok()?
        .says("c")?;
    desk.go(&["container", "rm", "c"])?.ok()?.says("c")?;
    let done = desk.go(&["image", "ls", "--format", "{{.Repository}}"])?;
    done.ok()?.says("busybox")?;
    desk.go(&["image", "tag", "busybox", "two"])?.ok()?;
    desk.go(&["image", "rm", "two"])?.ok()?;
    desk.go(&["system", "info"])?.ok()?;
    desk.go(&["container", "nosuch"])?
        .fails(125, &["container"])?;
    desk.go(&["system"])?.fails(125, &["system"])?;
    let done = desk.go(&["container", "prune", "--help"])?.ok()?;
    ensure!(done.out.contains("mydocker container prune"), "{done:?}");
    Ok(())
}
