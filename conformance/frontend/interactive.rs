//! A1–A5, A13–A19, A21: `run` in the foreground.

use super::Row;
use super::kit::{Desk, Place};
use super::world::World;
use anyhow::{Context, Result, ensure};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A1 run -ti ls",
        run: ls,
    },
    Row {
        name: "A2 run -ti sh: pid 1, own hostname, exit code",
        run: sh,
    },
    Row {
        name: "A3 run -ti tty: a terminal of the caller's size that follows it",
        run: tty,
    },
    Row {
        name: "A4 run -ti without a terminal does not hang",
        run: no_terminal,
    },
    Row {
        name: "A5 run -ti -v DIR:/to1 without a command",
        run: volume_without_command,
    },
    Row {
        name: "A13 one or two dashes, space or =",
        run: dashes,
    },
    Row {
        name: "A14 run -ti -d",
        run: terminal_and_detach,
    },
    Row {
        name: "A15 run -ti echo -d -m 5",
        run: options_end,
    },
    Row {
        name: "A16 arguments keep their quoting",
        run: quoting,
    },
    Row {
        name: "A17 run -ti nosuch",
        run: not_found,
    },
    Row {
        name: "A18 exit cleans up",
        run: cleans_up,
    },
    Row {
        name: "A19 the image stays untouched",
        run: image_untouched,
    },
    Row {
        name: "A21 the host's root is out of reach",
        run: root,
    },
];

fn ls(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.tty(&["run", "-ti", "ls"])?.ok()?;
    let words: Vec<_> = done.out.split_whitespace().collect();
    for name in ["bin", "dev", "etc", "proc"] {
        ensure!(
            words.iter().any(|word| word.contains(name)),
            "no {name}: {done:?}"
        );
    }
    for name in ["boot", "lib", "opt", "srv"] {
        ensure!(
            !words.contains(&name),
            "the host's {name} is there: {done:?}"
        );
    }
    Ok(())
}

fn sh(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut shell = desk.terminal(&["run", "-ti", "sh"])?;
    shell.expect("# ")?;
    shell.send("echo pid=$$.; echo host=$(hostname).; exit 7\n")?;
    shell.expect("pid=1.")?;
    let done = shell.finish()?.code(7)?;
    let host = nix::unistd::gethostname()?;
    let host = format!("host={}.", host.to_string_lossy());
    ensure!(!done.out.contains(&host), "the host's name: {done:?}");
    ensure!(!done.out.contains("host=."), "no name: {done:?}");
    Ok(())
}

fn tty(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.tty(&["run", "-ti", "tty"])?.ok()?;
    let named = done.out.contains("/dev/pts/") || done.out.contains("/dev/console");
    ensure!(named, "no terminal: {done:?}");
    // The shell tells when the window's size has changed, by SIGWINCH.
    let script =
        "stty size; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.1; done";
    let mut shell = desk.terminal(&["run", "-ti", "sh", "-c", script])?;
    shell.expect("33 111")?;
    shell.expect("ready")?;
    shell.resize(41, 97)?;
    shell.expect("41 97")?;
    shell.finish()?.ok()?;
    Ok(())
}

fn no_terminal(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go_with(&["run", "-ti", "cat"], "hi\n")?;
    let refused = done.code != 0 && done.err.contains("terminal") && done.out.is_empty();
    let worked = done.code == 0 && done.out.replace('\r', "").contains("hi\n");
    ensure!(refused || worked, "neither refused nor done: {done:?}");
    let done = desk.go_with(&["run", "-i", "cat"], "hi\n")?.ok()?;
    done.says("hi")?;
    Ok(())
}

fn volume_without_command(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/to1", desk.text("from1"));
    let mut shell = desk.terminal(&["run", "-ti", "-v", &volume])?;
    shell.expect("# ")?;
    shell.send("echo x>/to1/f; exit\n")?;
    shell.finish()?.ok()?;
    let text = std::fs::read_to_string(desk.path("from1/f"))?;
    ensure!(text == "x\n", "the volume holds {text:?}");
    Ok(())
}

fn dashes(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (number, shares) in [
        &["-cpushare", "512"][..],
        &["--cpushare", "512"],
        &["-cpushare=512"],
        &["--cpu-shares=512"],
        &["-c", "512"],
    ]
    .iter()
    .enumerate()
    {
        for name in ["-name", "--name"] {
            let called = format!("x{number}{}", name.len());
            let mut args = shares.to_vec();
            args.extend([name, &called, "busybox", "true"]);
            desk.start(&args)?;
            desk.wait(&called)?;
            let seen = desk.inspect(&called, "{{.HostConfig.CpuShares}}")?;
            ensure!(seen == "512", "{args:?}: {seen}");
        }
    }
    for cluster in ["-it", "-ti", "--ti"] {
        let done = desk.tty(&["run", cluster, "busybox", "tty"])?.ok()?;
        ensure!(done.out.contains("/dev/"), "{cluster}: {done:?}");
    }
    Ok(())
}

fn terminal_and_detach(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go(&["run", "-ti", "-d", "--name", "z", "busybox", "sh"])?;
    ensure!(done.ok()?.line().len() == 64);
    desk.go(&["run", "-itd", "--name", "y", "busybox", "sh"])?
        .ok()?;
    for name in ["z", "y"] {
        // It has a terminal, and waits for somebody to type there.
        let done = desk.go(&["exec", name, "readlink", "/proc/1/fd/0"])?.ok()?;
        ensure!(done.out.starts_with("/dev/pts/"), "{done:?}");
        let row = desk.row(name)?.context("no row")?;
        ensure!(row.contains("running"), "{row:?}");
    }
    Ok(())
}

fn options_end(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.tty(&["run", "-ti", "echo", "-d", "-m", "5"])?.ok()?;
    ensure!(done.out.lines().any(|line| line == "-d -m 5"), "{done:?}");
    let done = desk
        .go(&["run", "--", "busybox", "echo", "--", "-d"])?
        .ok()?;
    done.says("-- -d")?;
    Ok(())
}

fn quoting(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk
        .tty(&["run", "-ti", "sh", "-c", "echo \"a  b\""])?
        .ok()?;
    ensure!(done.out.lines().any(|line| line == "a  b"), "{done:?}");
    let odd = ["", " ", "a\nb", "$HOME", "'\"", "*"];
    let mut args = vec![
        "run",
        "busybox",
        "sh",
        "-c",
        "for a; do echo \"<$a>\"; done",
        "x",
    ];
    args.extend(odd);
    let done = desk.go(&args)?.ok()?;
    let expected: String = odd.iter().map(|arg| format!("<{arg}>\n")).collect();
    ensure!(done.out == expected, "expected {expected:?}: {done:?}");
    Ok(())
}

fn not_found(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    let done = desk.tty(&["run", "-ti", "nosuch"])?.code(127)?;
    ensure!(
        done.out.contains("mydocker: ")
            && done.out.contains("nosuch")
            && done.out.contains("busybox"),
        "{done:?}"
    );
    let named = ["run", "busybox", "nosuch"];
    desk.go(&named)?.fails(127, &["nosuch"])?;
    let mut detached = vec!["run", "-d"];
    detached.extend(&named[1..]);
    desk.go(&detached)?.fails(127, &["nosuch"])?;
    desk.go(&["run", "busybox", "/etc/passwd"])?
        .fails(126, &["/etc/passwd"])?;
    desk.go(&["run", "busybox", "/nosuch/file"])?
        .fails(127, &["/nosuch/file"])?;
    ensure!(desk.rows()?.is_empty(), "a row is left: {:?}", desk.rows());
    before.is_back(&desk)
}

fn cleans_up(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    desk.tty(&["run", "-ti", "touch", "/x"])?.ok()?;
    desk.go(&["run", "busybox", "sh", "-c", "exit 3"])?
        .code(3)?;
    // Processes that outlive the first one go with it.
    desk.go(&["run", "busybox", "sh", "-c", "sleep 1000 & exit 4"])?
        .code(4)?;
    ensure!(desk.rows()?.is_empty(), "a row is left: {:?}", desk.rows());
    before.is_back(&desk)?;
    desk.go(&["run", "--keep", "--name", "kept", "busybox", "touch", "/x"])?
        .ok()?;
    let row = desk.row("kept")?.unwrap_or_default();
    ensure!(row.contains("exited (0)"), "--keep: {row:?}");
    desk.go(&["rm", "kept"])?.ok()?;
    before.is_back(&desk)
}

fn image_untouched(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.tty(&["run", "-ti", "rm", "-rf", "/bin/ls", "/home"])?
        .ok()?;
    let done = desk.tty(&["run", "-ti", "ls"])?.ok()?;
    ensure!(done.out.contains("home"), "{done:?}");
    Ok(())
}

fn root(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mark = desk.write("only-on-the-host", "")?;
    let script = "ls -a /; echo; cat /proc/mounts; test ! -e \"$1\" && test ! -e \"/proc/1/root$1\" \
                  && test ! -e /../.pivot_root && echo apart";
    let mark = mark.display().to_string();
    let done = desk
        .tty(&["run", "-ti", "sh", "-c", script, "sh", &mark])?
        .ok()?;
    ensure!(done.out.lines().any(|line| line == "apart"), "{done:?}");
    ensure!(!done.out.contains("pivot"), "{done:?}");
    // The options of the overlay name its layers; nothing is mounted *at* a host's path.
    let points: Vec<_> = done
        .out
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|point| point.starts_with(&desk.text("")))
        .collect();
    ensure!(
        points.is_empty(),
        "the host's paths are mounted: {points:?}"
    );
    Ok(())
}
