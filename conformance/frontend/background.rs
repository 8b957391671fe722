//! A20, A22–A31, A41–A43: containers in the background, `logs`, `ps`, `exec`, `-e`.

use super::Row;
use super::kit::{Desk, Place, wait_for};
use super::world::World;
use anyhow::{Context, Result, ensure};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A20 every namespace differs from the host's",
        run: namespaces,
    },
    Row {
        name: "A22 run -d --name container1 -v /root/from1:/to1 busybox top",
        run: detached,
    },
    Row {
        name: "A23 run -d top",
        run: default_image,
    },
    Row {
        name: "A24 a name is taken once",
        run: name_taken,
    },
    Row {
        name: "A25 logs has both streams in their order",
        run: logs,
    },
    Row {
        name: "A26 logs after the exit",
        run: logs_after,
    },
    Row {
        name: "A27 ps",
        run: ps,
    },
    Row {
        name: "A27 ps between two lives",
        run: restarting,
    },
    Row {
        name: "A28 exec container1 sh",
        run: exec,
    },
    Row {
        name: "A29 exec container1 without a command",
        run: exec_default,
    },
    Row {
        name: "A30 exec passes its input on",
        run: exec_input,
    },
    Row {
        name: "A31 exec in a stopped container",
        run: exec_stopped,
    },
    Row {
        name: "A35 run -d --name container -v /root/from1:/to1 busybox top",
        run: detached,
    },
    Row {
        name: "A41 -e chenxu=good -e luck=chenxu",
        run: environment,
    },
    Row {
        name: "A42 -e is there in exec sh",
        run: environment_in_exec,
    },
    Row {
        name: "A43 containers do not disturb each other",
        run: apart,
    },
];

fn namespaces(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "n", "busybox", "top"])?;
    let pid = desk.pid("n")?;
    for kind in ["uts", "pid", "mnt", "net", "ipc"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
        let ours = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
        ensure!(theirs != ours, "the {kind} namespace is the host's");
    }
    let done = desk.go(&["exec", "n", "ps"])?.ok()?;
    let first = done
        .out
        .lines()
        .find(|line| line.split_whitespace().next() == Some("1"));
    ensure!(first.is_some_and(|line| line.contains("top")), "{done:?}");
    Ok(())
}

fn detached(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    std::fs::create_dir(desk.path("from1"))?;
    let volume = format!("{}:/to1", desk.text("from1"));
    // `start` checks that the id and nothing else is on standard output. It returns while the
    // program, which does not end by itself, runs.
    desk.start(&["--name", "container1", "-v", &volume, "busybox", "top"])?;
    let row = desk.row("container1")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    desk.go(&["exec", "container1", "touch", "/to1/f"])?.ok()?;
    ensure!(desk.path("from1/f").exists(), "the volume is not there");
    Ok(())
}

fn default_image(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["top"])?;
    let pid = desk.pid(&id)?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    ensure!(
        rest.first()
            .is_some_and(|state| *state != "Z" && *state != "X"),
        "{stat}"
    );
    let parent = rest.get(1).context("no parent")?;
    let environment = std::fs::read(format!("/proc/{parent}/environ"))?;
    let environment = String::from_utf8_lossy(&environment);
    ensure!(
        environment.contains(&desk.root().display().to_string()),
        "the parent {parent} is not the monitor"
    );
    Ok(())
}

fn name_taken(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "container1", "busybox", "top"])?;
    let before = World::of(&desk)?;
    let args = ["run", "-d", "--name", "container1", "busybox", "top"];
    let words = format!("name container1 is already used by {}", &id[..12]);
    desk.go(&args)?.fails(125, &[&words])?;
    ensure!(desk.rows()?.len() == 1, "{:?}", desk.rows());
    before.is_back(&desk)
}

fn logs(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "echo o; echo e >&2; echo o2; echo e2 >&2; sleep 1000";
    desk.start(&["--name", "l", "busybox", "sh", "-c", script])?;
    desk.logged("l", "e2")?;
    desk.logged("l", "o2")?;
    let done = desk.go(&["logs", "l"])?.ok()?;
    ensure!(done.out == "o\no2\n" && done.err == "e\ne2\n", "{done:?}");
    desk.go(&["logs", "nosuch"])?.fails(1, &["nosuch"])?;
    Ok(())
}

fn logs_after(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "g", "busybox", "echo", "bye"])?;
    ensure!(desk.wait("g")? == 0);
    desk.go(&["logs", "g"])?.ok()?.says("bye")?;
    desk.go(&["rm", "g"])?.ok()?;
    desk.go(&["logs", "g"])?.fails(1, &["g"])?;
    Ok(())
}

/// Between two lives, `ps` and `inspect` say that there will be another.
fn restarting(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--restart", "always", "--name", "r", "busybox", "false"])?;
    // The pauses get longer: soon it is seen in one.
    let row = wait_for("it is between two lives", || {
        let row = desk.row("r")?.context("no row")?;
        Ok(row.contains("restarting (1)").then_some(row))
    })?;
    ensure!(row.split_whitespace().nth(2) == Some("-"), "{row:?}");
    wait_for("inspect tells the same", || {
        let state = desk.inspect("r", "{{.State.Status}} {{.State.Restarting}}")?;
        Ok((state == "restarting true").then_some(()))
    })?;
    wait_for("and the filter", || {
        let done = desk.go(&["ps", "-q", "--filter", "status=restarting"])?;
        Ok((done.ok()?.out.lines().count() == 1).then_some(()))
    })?;
    desk.go(&["stop", "r"])?.ok()?;
    let state = desk.inspect("r", "{{.State.Status}} {{.State.Restarting}}")?;
    ensure!(state == "exited false", "{state}");
    Ok(())
}

fn ps(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    ensure!(!desk.root().exists(), "the state is there already");
    let header = |text: &str| -> Result<()> {
        let words: Vec<_> = text
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        ensure!(
            words == ["ID", "NAME", "PID", "STATUS", "COMMAND", "CREATED"],
            "the header is {words:?}"
        );
        Ok(())
    };
    let done = desk.go(&["ps"])?.ok()?;
    header(&done.out)?;
    ensure!(done.out.lines().count() == 1, "{done:?}");
    let id = desk.start(&["--name", "container1", "busybox", "top"])?;
    desk.start(&["--name", "over", "busybox", "false"])?;
    desk.wait("over")?;
    header(&desk.go(&["ps"])?.ok()?.out)?;
    let row = desk.row("container1")?.context("no row")?;
    let fields: Vec<_> = row.split_whitespace().collect();
    let pid = desk.pid("container1")?.to_string();
    ensure!(
        fields
            .first()
            .is_some_and(|first| id.starts_with(first) && first.len() == 12)
            && fields.get(2) == Some(&pid.as_str())
            && row.contains("running")
            && row.contains("top"),
        "{row:?}"
    );
    let row = desk.row("over")?.context("no row")?;
    ensure!(
        row.split_whitespace().nth(2) == Some("-") && row.contains("exited (1)"),
        "{row:?}"
    );
    let done = desk
        .go(&["ps", "-q", "--no-trunc", "--filter", "status=running"])?
        .ok()?;
    done.says(&id)?;
    let done = desk
        .go(&["ps", "--running", "--format", "{{.Names}}"])?
        .ok()?;
    done.says("container1")?;
    desk.go(&[
        "ps",
        "-a",
        "--filter",
        "name=over",
        "--format",
        "{{.Names}}",
    ])?
    .ok()?
    .says("over")?;
    Ok(())
}

fn exec(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container1", "-h", "box", "busybox", "top"])?;
    let pid = desk.pid("container1")?;
    let script = "ps; hostname; cat /proc/self/cgroup; for n in uts pid mnt net ipc; do readlink /proc/self/ns/$n; done; exit 9";
    let done = desk
        .go(&["exec", "container1", "sh", "-c", script])?
        .code(9)?;
    let top = done
        .out
        .lines()
        .find(|line| line.split_whitespace().next() == Some("1"));
    ensure!(top.is_some_and(|line| line.contains("top")), "{done:?}");
    ensure!(done.out.lines().any(|line| line == "box"), "{done:?}");
    for kind in ["uts", "pid", "mnt", "net", "ipc"] {
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))?;
        let theirs = theirs.display().to_string();
        ensure!(
            done.out.lines().any(|line| line == theirs),
            "not in {theirs}: {done:?}"
        );
    }
    // The same cgroup as the first process sees it.
    let first = desk
        .go(&["exec", "container1", "cat", "/proc/1/cgroup"])?
        .ok()?;
    for line in first.out.lines().filter(|line| !line.is_empty()) {
        ensure!(
            done.out.contains(line),
            "not in the cgroup {line}: {done:?}"
        );
    }
    Ok(())
}

fn exec_default(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container1", "busybox", "top"])?;
    let mut shell = desk.terminal(&["exec", "container1"])?;
    shell.expect("# ")?;
    shell.send("exit 3\n")?;
    shell.finish()?.code(3)?;
    let mut shell = desk.terminal(&["exec", "-ti", "container1", "sh"])?;
    shell.expect("# ")?;
    shell.send("tty; exit 4\n")?;
    shell.expect("/dev/pts/")?;
    shell.finish()?.code(4)?;
    Ok(())
}

fn exec_input(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container1", "busybox", "top"])?;
    let done = desk
        .go_with(&["exec", "container1", "sh"], "echo $((6*7))\n")?
        .ok()?;
    done.says("42")?;
    let big = "x".repeat(1 << 20);
    let done = desk
        .go_with(&["exec", "-i", "container1", "cat"], &big)?
        .ok()?;
    ensure!(done.out == big, "{} bytes came back", done.out.len());
    Ok(())
}

fn exec_stopped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container1", "busybox", "top"])?;
    desk.go(&["stop", "container1"])?.ok()?;
    let words = ["container1 is not running", "exited", "143"];
    desk.go(&["exec", "container1", "ls"])?.fails(1, &words)?;
    Ok(())
}

fn environment(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut command = desk.command(desk.program());
    command.env("SECRET", "1").env("FROM_HOST", "yes").args([
        "run",
        "-d",
        "--name",
        "container",
        "-e",
        "chenxu=good",
        "-e",
        "luck=chenxu",
        "-e",
        "FROM_HOST",
        "busybox",
        "top",
    ]);
    super::kit::finish(&mut command, "run -d -e …", "")?.ok()?;
    let done = desk.go(&["exec", "container", "env"])?.ok()?;
    let pid = desk.pid("container")?;
    let first = std::fs::read_to_string(format!("/proc/{pid}/environ"))?.replace('\0', "\n");
    for text in [&done.out, &first] {
        for word in ["chenxu=good", "luck=chenxu", "FROM_HOST=yes"] {
            ensure!(text.lines().any(|line| line == word), "no {word}: {text:?}");
        }
        ensure!(!text.contains("SECRET"), "the host's environment: {text:?}");
        ensure!(!text.contains("MYDOCKER"), "our environment: {text:?}");
    }
    Ok(())
}

fn environment_in_exec(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container", "-e", "chenxu=good", "busybox", "top"])?;
    let done = desk
        .go_with(&["exec", "container", "sh"], "echo $chenxu\n")?
        .ok()?;
    done.says("good")?;
    Ok(())
}

fn apart(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "a", "busybox", "top"])?;
    let layers = || -> Result<usize> { Ok(std::fs::read_dir(desk.root().join("layers"))?.count()) };
    let once = layers()?;
    desk.start(&["--name", "b", "busybox", "top"])?;
    desk.go(&["exec", "a", "touch", "/A"])?.ok()?;
    let done = desk.go(&["exec", "b", "ls", "/A"])?;
    ensure!(done.code != 0, "{done:?}");
    ensure!(layers()? == once, "a layer is stored twice");
    let busybox = std::fs::metadata("/bin/busybox")?.len();
    let used = used(&desk.root().join("containers"));
    ensure!(used < busybox, "two containers use {used} bytes");
    Ok(())
}

/// The bytes of all files below a directory.
fn used(dir: &std::path::Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.path().symlink_metadata() else {
            continue;
        };
        sum += match meta.is_dir() {
            true => used(&entry.path()),
            false => meta.len(),
        };
    }
    sum
}
