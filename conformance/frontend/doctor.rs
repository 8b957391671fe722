//! `doctor`: what is there, what is missing, and what it comes to; for root and for others.

use super::{Desk, Place, Row, finish};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "doctor: everything at once, as lines and as JSON",
        run: everything,
    },
    Row {
        name: "doctor: what is missing, and the exit code",
        run: missing,
    },
    Row {
        name: "doctor: newuidmap gives less than /etc/subuid",
        run: no_ids,
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

/// `$1` a directory, `$2` mydocker: as a user to whom /etc/subuid gives ids, and newuidmap none.
const REFUSED: &str = r#"
dir=$1 program=$2
shift 2
mkdir $dir
cp /bin/false $dir/false
printf '1234:100000:65536\n' >$dir/ids
for table in subuid subgid; do mount --bind $dir/ids /etc/$table; done
mount --bind $dir/false "$(command -v newuidmap)"
cp $program $dir/mydocker
chown -R 1234:1234 $dir
chown 0:0 $dir/false
chmod 4755 $dir/false
exec setpriv --reuid 1234 --regid 1234 --clear-groups \
    env MYDOCKER_ROOT=$dir/lib MYDOCKER_RUN=$dir/run $dir/mydocker "$@"
"#;

fn no_ids(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let dir = format!("/tmp/no-ids-{}", std::process::id());
    let mut command = desk.command(Path::new("unshare"));
    command.args([
        "--mount",
        "--propagation",
        "private",
        "bash",
        "-euc",
        REFUSED,
        "bash",
        &dir,
    ]);
    command.arg(desk.program()).arg("doctor");
    let done = finish(&mut command, "doctor", "");
    std::fs::remove_dir_all(&dir)?;
    let done = done?;
    let line = done
        .out
        .lines()
        .find(|line| line.contains("subordinate ids"));
    let line = line.unwrap_or_default();
    for part in ["limited", "newuidmap", "containers have one id"] {
        ensure!(line.contains(part), "{part}: {done:?}");
    }
    Ok(())
}
