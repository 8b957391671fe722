//! `doctor`: what is there, what is missing, and what it comes to; for root and for others.

use super::{Desk, Place, Row, finish};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "doctor: everything at once, as lines and as JSON",
        run: everything,
    },
    Row {
        name: "doctor: what is missing, and the exit code",
        run: missing,
    },
];

fn everything(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go(&["doctor"])?.ok()?;
    ensure!(done.out.ends_with("\ncontainers can run\n"), "{done:?}");
    let mut subjects = vec![
        "kernel",
        "store",
        "overlay",
        "run directory",
        "runtime",
        "cgroups",
        "other namespaces",
        "idmapped mounts",
        "seccomp",
        "security module",
        "criu",
    ];
    if !nix::unistd::geteuid().is_root() {
        subjects.extend(["user namespaces", "subordinate ids"]);
    }
    let found: Vec<(&str, &str)> = done
        .out
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .filter(|(word, _)| ["ok", "limited", "missing"].contains(word))
        .filter_map(|(word, rest)| Some((word, rest.trim_start().split_once(": ")?.0)))
        .collect();
    for subject in &subjects {
        ensure!(
            found.iter().any(|(_, what)| what == subject),
            "no {subject}: {done:?}"
        );
    }
    let hints = done.out.matches("\n         hint: ").count();
    let less = found.iter().filter(|(word, _)| *word != "ok").count();
    ensure!(hints == less, "each that is not ok has a hint: {done:?}");
    let done = desk.go(&["doctor", "--format", "json"])?.ok()?;
    let json: Value = serde_json::from_str(&done.out).context("it is no JSON")?;
    ensure!(json["Usable"] == true, "{json}");
    let checks = json["Checks"].as_array().context("no checks")?;
    let word = |check: &'_ Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let same = checks
        .iter()
        .map(|check| (word(check, "Status"), word(check, "Check")));
    let found = found
        .iter()
        .map(|(status, what)| ((*status).to_owned(), (*what).to_owned()));
    ensure!(same.eq(found), "{json} {done:?}");
    // Looking leaves nothing behind.
    let left = std::fs::read_dir(&place.dir)?.flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    ensure!(
        left.iter()
            .all(|name| ["home", "tmp", "run"].iter().any(|dir| name == dir)),
        "{left:?}"
    );
    ensure!(std::fs::read_dir(desk.run_dir())?.next().is_none());
    Ok(())
}

fn missing(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let file = desk.write("file", "")?;
    let with = |variable: &str, value: &std::path::Path, args: &[&str]| {
        let mut command = desk.command(desk.program());
        command.env(variable, value).args(args);
        finish(&mut command, &args.join(" "), "")?.code(1)
    };
    for (variable, subject) in [
        ("MYDOCKER_ROOT", "store"),
        ("MYDOCKER_RUN", "run directory"),
    ] {
        let done = with(variable, &file.join("x"), &["doctor"])?;
        let line = format!("\nmissing  {subject}: ");
        ensure!(
            done.out.contains(&line) && done.out.contains(variable),
            "{done:?}"
        );
        ensure!(
            done.out
                .ends_with("\ncontainers cannot run: see what is missing\n"),
            "{done:?}"
        );
        let done = with(variable, &file.join("x"), &["doctor", "--format=json"])?;
        ensure!(
            done.out.starts_with("{") && done.out.contains("\"Usable\":false"),
            "{done:?}"
        );
    }
    let done = desk.go(&["--runtime", "/bin/false", "doctor"])?.code(1)?;
    ensure!(
        done.out
            .contains("missing  runtime: /bin/false --version: "),
        "{done:?}"
    );
    Ok(())
}
