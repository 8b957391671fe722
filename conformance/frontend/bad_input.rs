//! A52 and whatever else a user may get wrong: the answer is one line that says what and why and
//! one that says what to do, on standard error, with Docker's exit code; nothing is left.

use super::Row;
use super::kit::{Desk, Done, Place, code};
use super::world::World;
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::process::Stdio;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A52 errors say what, why and what to do",
        run: errors,
    },
    Row {
        name: "A52 --log-format json and --debug",
        run: formats,
    },
    Row {
        name: "unknown flags and verbs",
        run: flags,
    },
    Row {
        name: "unknown images",
        run: images,
    },
    Row {
        name: "unknown containers",
        run: containers,
    },
    Row {
        name: "malformed values of run",
        run: values,
    },
    Row {
        name: "missing arguments",
        run: missing,
    },
    Row {
        name: "hints fit what went wrong",
        run: hints,
    },
    Row {
        name: "what is typed in the wrong place or left out is named",
        run: slips,
    },
    Row {
        name: "a runtime that is not there or is none",
        run: runtimes,
    },
    Row {
        name: "a state directory that cannot be made",
        run: state,
    },
    Row {
        name: "output that nobody can take",
        run: full,
    },
];

/// One mistake: nothing may be left of it.
fn refuse(desk: &Desk, args: &[&str], code: i32, words: &[&str]) -> Result<Done> {
    let before = World::of(desk)?;
    let done = desk.go(args)?.fails(code, words)?;
    let lines = done
        .err
        .lines()
        .filter(|line| line.starts_with("mydocker: "))
        .count();
    ensure!(lines == 1, "one error, not {lines}: {done:?}");
    ensure!(!done.err.contains("panicked"), "{done:?}");
    before.is_back(desk)?;
    Ok(done)
}

/// A desk where everything that mydocker keeps is made already.
fn ready(place: &Place) -> Result<Desk> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    Ok(desk)
}

fn errors(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    desk.start(&["--name", "taken", "busybox", "top"])?;
    refuse(
        &desk,
        &["run", "--pull", "never", "nosuch:image", "ls"],
        125,
        &["nosuch:image"],
    )?;
    refuse(&desk, &["logs", "nosuch"], 1, &["nosuch"])?;
    refuse(
        &desk,
        &["run", "--nosuch", "busybox", "ls"],
        125,
        &["--nosuch"],
    )?;
    refuse(
        &desk,
        &["run", "-m", "abc", "busybox", "ls"],
        125,
        &["-m", "abc"],
    )?;
    refuse(
        &desk,
        &["run", "--name", "taken", "busybox", "ls"],
        125,
        &["taken"],
    )?;
    refuse(&desk, &["run", "busybox", "nosuch"], 127, &["nosuch"])?;
    refuse(&desk, &["run", "busybox", "/etc"], 126, &["/etc"])?;
    Ok(())
}

fn formats(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    let done = desk
        .go(&["--log-format", "json", "logs", "nosuch"])?
        .code(1)?;
    ensure!(done.out.is_empty(), "{done:?}");
    let line = done.err.lines().last().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(line)?;
    ensure!(
        value["msg"]
            .as_str()
            .is_some_and(|text| text.contains("nosuch")),
        "{done:?}"
    );
    let done = desk.go(&["--debug", "logs", "nosuch"])?.code(1)?;
    ensure!(
        done.out.is_empty() && done.err.contains("nosuch"),
        "{done:?}"
    );
    Ok(())
}

fn flags(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    for args in [
        &["run", "--nosuch", "busybox", "ls"][..],
        &["run", "-nosuch", "busybox", "ls"],
        &["run", "-d", "--nosuch=1", "busybox", "ls"],
        &["ps", "--nosuch"],
        &["rm", "--nosuch", "x"],
        &["exec", "--nosuch", "x", "ls"],
        &["--nosuch"],
    ] {
        refuse(&desk, args, 125, &["nosuch"])?;
    }
    refuse(&desk, &["frobnicate"], 125, &["frobnicate"])?;
    Ok(())
}

fn images(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    for (words, word) in [
        (&["-d", "nosuch:1"][..], "nosuch:1"),
        (&["some/where"], "some/where"),
        (&["--image", "nosuch"], "nosuch"),
    ] {
        let args = [&["run", "--pull", "never"], words, &["top"]].concat();
        refuse(&desk, &args, 125, &[word])?;
    }
    refuse(&desk, &["run", "Bad:Name:X", "top"], 125, &["Bad:Name:X"])?;
    // Neither an image nor a command of the default image: the error says both.
    refuse(&desk, &["run", "nosuch", "ls"], 127, &["nosuch", "image"])?;
    refuse(&desk, &["rmi", "nosuch"], 1, &["nosuch"])?;
    Ok(())
}

fn containers(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    for args in [
        &["exec", "nosuch", "ls"][..],
        &["logs", "nosuch"],
        &["stop", "nosuch"],
        &["start", "nosuch"],
        &["restart", "nosuch"],
        &["kill", "nosuch"],
        &["rm", "nosuch"],
        &["wait", "nosuch"],
        &["top", "nosuch"],
        &["diff", "nosuch"],
        &["commit", "nosuch", "image"],
        &["inspect", "nosuch"],
        &["logs", ""],
        &["logs", "../../etc"],
        &["rm", "-f", ".."],
    ] {
        let before = World::of(&desk)?;
        let done = desk.go(args)?;
        let name = args.iter().rfind(|arg| **arg != "ls" && **arg != "image");
        ensure!(
            done.code == 1 && done.err.starts_with("mydocker: "),
            "{done:?}"
        );
        ensure!(done.err.contains(name.unwrap_or(&"")), "{done:?}");
        before.is_back(&desk)?;
    }
    // One that is there is still served when another is not.
    desk.start(&["--name", "one", "busybox", "top"])?;
    desk.go(&["rm", "-f", "nosuch", "one"])?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn values(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    for (flag, value) in [
        ("--name", "a/b"),
        ("--name", "-x"),
        ("--name", ""),
        ("-e", "=x"),
        ("-w", "relative"),
        ("-u", "0:nosuch"),
        ("--ulimit", "nosuch=1"),
        ("--ulimit", "nofile=x"),
        ("--restart", "sometimes"),
        ("--device", "/nosuch/device"),
        ("--shm-size", "many"),
        ("--security-opt", "nosuch=1"),
        ("--tmpfs", "relative"),
        ("--add-host", "nocolon"),
        ("--hostname", "a/b"),
        ("--log-opt", "max-size=x"),
        ("--pull", "sometimes"),
    ] {
        let joined = if flag.starts_with("--") {
            vec![format!("{flag}={value}")]
        } else {
            vec![flag.to_owned(), value.to_owned()]
        };
        let mut args = vec!["run", "-d"];
        args.extend(joined.iter().map(String::as_str));
        args.extend(["busybox", "top"]);
        let word = match value {
            "" => flag.trim_start_matches('-'),
            value => value.trim_start_matches("max-size="),
        };
        refuse(&desk, &args, 125, &[word])?;
    }
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}

fn missing(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    for args in [
        &["exec"][..],
        &["logs"],
        &["stop"],
        &["rm"],
        &["commit"],
        &["import"],
        &["rmi"],
        &["inspect"],
        &["run", "--name"],
        &["run", "-v"],
        &["run", "-m"],
        &["run", "-e"],
    ] {
        refuse(&desk, args, 125, &[])?;
    }
    Ok(())
}

fn runtimes(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    // Without `#!` nothing says what it is a script of.
    let bare = desk.script("bare", "exec runtime \"$@\"\n")?;
    for program in [
        bare.to_str().context("a path of text")?,
        "/bin/true",
        "/nosuch/runtime",
        "nosuch-runtime",
        "/bin/false",
        "/etc/passwd",
    ] {
        for more in [&[][..], &["-d"]] {
            let mut args = vec!["--runtime", program, "run"];
            args.extend(more);
            args.extend(["busybox", "true"]);
            let done = refuse(&desk, &args, 125, &[program])?;
            ensure!(done.err.contains("--runtime"), "what to do: {done:?}");
        }
    }
    Ok(())
}

fn hints(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    let told = |args: &[&str], code: i32, words: &[&str], hint: &str| -> Result<()> {
        let done = refuse(&desk, args, code, words)?;
        let line = done.err.lines().rfind(|line| line.starts_with("hint: "));
        ensure!(line.is_some_and(|line| line.contains(hint)), "{done:?}");
        ensure!(!done.err.contains("os error"), "{done:?}");
        Ok(())
    };
    desk.start(&["--name", "a", "busybox", "top"])?;
    desk.go(&["pause", "a"])?.ok()?;
    let paused = ["mydocker: a is paused"];
    told(&["exec", "a", "true"], 1, &paused, "mydocker unpause a")?;
    desk.go(&["unpause", "a"])?.ok()?;
    told(&["run", "commit", "x"], 127, &["commit"], "CONTAINER IMAGE")?;
    told(&["run", "nosuch"], 127, &["nosuch"], "mydocker pull")?;
    told(&["run", ""], 127, &["\"\": no such image"], "images")?;
    told(&["run", "busybox", ""], 127, &["empty"], "image's own")?;
    told(&["rm", ""], 1, &["container: \"\""], "mydocker ps")?;
    let run = |option, value| ["run", option, value, "busybox", "true"];
    told(&run("-cpuset", "4000"), 125, &["4000"], "it has 0")?;
    told(&run("--cpus", "9000"), 125, &["9000"], "from 0.01")?;
    let more = ["update", "--cpus", "9000", "a"];
    told(&more, 125, &["9000"], "from 0.01")?;
    let parameter = "kernel.nosuch=1";
    told(&run("--sysctl", parameter), 125, &["machine's"], "net.*")?;
    let archive = desk.write("passwd", &"root:x:0:0:root:/root:/bin/sh\n".repeat(100))?;
    let archive = archive.to_string_lossy().into_owned();
    told(&["import", &archive, "x"], 1, &["not a tar"], "gzip")?;
    let done = refuse(&desk, &["import", &archive, "x"], 1, &[])?;
    ensure!(done.err.lines().count() == 2, "{done:?}");
    Ok(())
}

fn slips(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    let done = refuse(
        &desk,
        &["run", "busybox", "-it", "sh"],
        127,
        &["-it: not found"],
    )?;
    let hint = "hint: options come before the image: mydocker run -it … busybox\n";
    ensure!(done.err.ends_with(hint), "{done:?}");
    let done = refuse(&desk, &["run", "busybox", "/nosuch/x"], 127, &["/nosuch/x"])?;
    let hint = "hint: the image has no such file; it has: mydocker run busybox ls\n";
    ensure!(done.err.ends_with(hint), "{done:?}");
    let done = refuse(&desk, &["run", "alpine"], 127, &["alpine: no such image"])?;
    let line = "`mydocker run --pull missing alpine …`";
    ensure!(done.err.contains(line), "{done:?}");
    refuse(&desk, &["volume"], 125, &["volume: it needs a verb"])?;
    // A shell is run, of which nobody sees anything.
    let done = desk.go(&["run"])?.ok()?;
    let note = "mydocker: no image is named: it runs in busybox\n";
    ensure!(done.out.is_empty() && done.err == note, "{done:?}");
    desk.write("tree/file", "text")?;
    desk.go(&["import", &desk.text("tree"), "bare"])?.ok()?;
    for verb in ["run", "create"] {
        let words = [
            "the image bare names no command",
            "mydocker run bare PROGRAM",
        ];
        refuse(&desk, &[verb, "bare"], 125, &words)?;
        refuse(&desk, &[verb, "--entrypoint=", "bare"], 125, &words)?;
    }
    Ok(())
}

fn state(place: &Place) -> Result<()> {
    let desk = ready(place)?;
    let file = desk.write("file", "")?;
    for variable in ["MYDOCKER_ROOT", "MYDOCKER_RUN"] {
        let before = World::of(&desk)?;
        let mut command = desk.command(desk.program());
        command
            .args(["run", "-d", "busybox", "top"])
            .env(variable, file.join("below"));
        let done = super::kit::finish(&mut command, &format!("run with {variable}"), "")?;
        done.code(125)?;
        before.is_back(&desk)?;
    }
    Ok(())
}

fn full(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let said = |args: &str, to: Stdio| -> Result<(i32, String)> {
        let mut command = desk.command(desk.program());
        let child = command
            .args(args.split_whitespace())
            .stdout(to)
            .stderr(Stdio::piped())
            .spawn()?;
        let done = child.wait_with_output()?;
        let err = String::from_utf8_lossy(&done.stderr).into_owned();
        Ok((code(done.status), err))
    };
    let archive = desk.write("tree/file", "text")?.with_file_name("");
    let archive = format!("import {} made", archive.display());
    // What is to be done is done, for each of a list.
    for args in [
        "create --name a busybox top",
        "run -d --name b busybox top",
        "start a b",
        "pause a b",
        "unpause a b",
        "update --pids-limit 50 a b",
        "restart -t 0 a b",
        "kill a b",
        "wait a b",
        "start a b",
        "stop -t 0 a b",
        "commit a other",
        &archive,
        "images",
        "ps -a",
        "rmi made other",
        "rm a b",
        "completion bash",
    ] {
        let full = File::options().write(true).open("/dev/full")?;
        let (code, err) = said(args, full.into())?;
        let line = "mydocker: write to standard output: No space left on device";
        let count = err.lines().filter(|said| said.starts_with(line)).count();
        let each = match args.ends_with(" a b") || args.starts_with("rmi") {
            true => 2,
            false => 1,
        };
        ensure!(code == 1 && count == each, "{args}: {code}, {err}");
    }
    ensure!(desk.rows()?.is_empty(), "rm has removed all");
    for args in ["create --name a busybox top", "ps -a", "rm a"] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let (code, err) = said(args, writer.into())?;
        ensure!(code == 0 && err.is_empty(), "{args}: {code}, {err}");
    }
    Ok(())
}
