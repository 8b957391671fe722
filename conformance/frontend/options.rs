//! Docker's own options, each by what the container sees of it.

use super::Row;
use super::kit::{Desk, Place, wait_for};
use anyhow::{Context, Result, ensure};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "run -w, -u, -h, --entrypoint",
        run: process,
    },
    Row {
        name: "run --env-file and --label",
        run: env_file,
    },
    Row {
        name: "run --read-only, --shm-size, --add-host, --ulimit",
        run: system,
    },
    Row {
        name: "run --cap-drop, --cap-add, --privileged, --security-opt",
        run: rights,
    },
    Row {
        name: "run --network none and host",
        run: network,
    },
    Row {
        name: "run --init reaps and passes signals on",
        run: init,
    },
    Row {
        name: "run --cpus and --pids-limit",
        run: more_limits,
    },
    Row {
        name: "run --pull never, --rm=false, -i",
        run: small,
    },
    Row {
        name: "exec -e, -w, -u, -d, -t",
        run: exec,
    },
    Row {
        name: "logs --tail, -t, --since, -f",
        run: logs,
    },
    Row {
        name: "images by pattern and filter, inspect of lists",
        run: images,
    },
    Row {
        name: "ps --filter",
        run: filters,
    },
    Row {
        name: "run in the foreground passes signals on",
        run: signals,
    },
    Row {
        name: "version and info",
        run: version,
    },
    Row {
        name: "help goes to standard output",
        run: help,
    },
];

/// The output of a command in a new container with these options.
fn inside(desk: &Desk, options: &[&str], script: &str) -> Result<String> {
    let mut args = vec!["run"];
    args.extend(options);
    args.extend(["busybox", "sh", "-c", script]);
    Ok(desk.go(&args)?.ok()?.out)
}

fn process(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let out = inside(
        &desk,
        &["-w", "/some/where", "-u", "1000:100", "-h", "box"],
        "pwd; id -u; id -g; hostname; cat /etc/hostname; grep Groups /proc/self/status",
    )?;
    let expected = "/some/where\n1000\n100\nbox\nbox\nGroups:\t100 \n";
    ensure!(out == expected, "{out:?}");
    let out = inside(
        &desk,
        &["--user", "nobody", "--workdir=/tmp"],
        "id -un; pwd",
    )?;
    ensure!(out == "nobody\n/tmp\n", "{out:?}");
    let done = desk
        .go(&["run", "--entrypoint", "echo", "busybox", "a", "b"])?
        .ok()?;
    done.says("a b")?;
    desk.go(&["run", "-u", "nosuch", "busybox", "true"])?
        .fails(125, &["nosuch"])?;
    Ok(())
}

fn env_file(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let file = desk.write("env", "# a comment\na=1\n\nb=two words\nc=from file\n")?;
    let file = file.display().to_string();
    let out = inside(
        &desk,
        &["--env-file", &file, "-e", "c=from flag"],
        "echo \"$a,$b,$c\"",
    )?;
    ensure!(out == "1,two words,from flag\n", "{out:?}");
    desk.start(&[
        "--name", "l", "-l", "k=v", "--label", "only", "busybox", "true",
    ])?;
    ensure!(desk.inspect("l", "{{index .Config.Labels \"k\"}}")? == "v");
    desk.go(&[
        "ps",
        "-aq",
        "--filter",
        "label=k=v",
        "--format",
        "{{.Names}}",
    ])?
    .ok()?;
    desk.go(&["run", "--env-file", "/nosuch", "busybox", "true"])?
        .fails(125, &["/nosuch"])?;
    let marked = desk.write("marked", "\u{feff}A=1\r\nB=2\r\n")?;
    let marked = marked.display().to_string();
    let out = inside(&desk, &["--env-file", &marked], "echo $A$B")?;
    ensure!(out == "12\n", "{out:?}");
    let named = |path: &str, verb: &[&str]| desk.go(&[verb, &[path, "busybox", "true"]].concat());
    let bad = desk.write("bad", "# x\nA B=1\n")?.display().to_string();
    let said = ["bad: line 2: the name \"A B\" contains whitespace"];
    named(&bad, &["run", "--env-file"])?.fails(125, &said)?;
    named(&bad, &["create", "--label-file"])?.fails(125, &said)?;
    named("=x", &["create", "--label"])?.fails(125, &["--label value '=x'"])?;
    desk.go(&["volume", "create", "--label", "=x"])?
        .fails(125, &["--label value '=x'"])?;
    Ok(())
}

fn system(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let out = inside(
        &desk,
        &["--read-only"],
        "for f in /x /etc/hosts /etc/hostname /etc/resolv.conf; do
             ( : >>$f ) 2>/dev/null && echo written || echo refused
         done",
    )?;
    ensure!(out == "refused\n".repeat(4), "{out:?}");
    let out = inside(
        &desk,
        &["--shm-size", "2m"],
        "df -k /dev/shm | tail -1 | awk '{print $2}'",
    )?;
    ensure!(out == "2048\n", "{out:?}");
    let out = inside(
        &desk,
        &["--add-host", "peer:10.1.2.3"],
        "grep peer /etc/hosts",
    )?;
    ensure!(
        out.split_whitespace().collect::<Vec<_>>() == ["10.1.2.3", "peer"],
        "{out:?}"
    );
    // What is written there lies in memory.
    let big =
        "dd if=/dev/zero of=/etc/hosts bs=1M count=20 2>/dev/null && echo all || echo not all";
    let out = inside(&desk, &[], big)?;
    ensure!(out == "not all\n", "{out:?}");
    // A network of its own is the container's, its ordinary users too.
    let first = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    let out = inside(&desk, &["-u", "1000"], first)?;
    ensure!(out == "0\n", "{out:?}");
    let out = inside(
        &desk,
        &["--ulimit", "nofile=64:128"],
        "ulimit -Sn; ulimit -Hn",
    )?;
    ensure!(out == "64\n128\n", "{out:?}");
    Ok(())
}

fn rights(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let effective = "grep CapEff /proc/self/status | cut -f2";
    let standard = inside(&desk, &[], effective)?;
    ensure!(
        standard == "00000000a80425fb\n",
        "Docker's fourteen, not {standard:?}"
    );
    let none = inside(&desk, &["--cap-drop", "ALL"], effective)?;
    ensure!(none == "0000000000000000\n", "{none:?}");
    let one = inside(
        &desk,
        &["--cap-drop=all", "--cap-add", "NET_ADMIN"],
        effective,
    )?;
    ensure!(one == "0000000000001000\n", "{one:?}");
    let all = inside(&desk, &["--privileged"], effective)?;
    ensure!(
        u64::from_str_radix(all.trim(), 16)? > 0x1f_ffff_ffff,
        "{all:?}"
    );
    let nnp = inside(
        &desk,
        &["--security-opt", "no-new-privileges"],
        "grep NoNewPrivs /proc/self/status | cut -f2",
    )?;
    ensure!(nnp == "1\n", "{nnp:?}");
    desk.go(&["run", "--cap-add", "NOSUCH", "busybox", "true"])?
        .fails(125, &["NOSUCH"])?;
    Ok(())
}

fn network(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for flags in [&[][..], &["--network", "none"], &["-net", "none"]] {
        let out = inside(
            &desk,
            flags,
            "ls /sys/class/net; ping -c 1 127.0.0.1 > /dev/null && echo up",
        )?;
        ensure!(out == "lo\nup\n", "{flags:?}: {out:?}");
    }
    let out = inside(&desk, &["--network", "host"], "readlink /proc/self/ns/net")?;
    let ours = std::fs::read_link("/proc/self/ns/net")?;
    ensure!(out.trim() == ours.display().to_string(), "{out:?}");
    for flags in [
        &["-p", "80:80"][..],
        &["--network", "bridge"],
        &["-net", "mine"],
    ] {
        let mut args = vec!["run"];
        args.extend(flags);
        args.extend(["busybox", "true"]);
        desk.go(&args)?.fails(125, &["not supported yet"])?;
    }
    if nix::unistd::geteuid().is_root() {
        desk.go(&["run", "--userns", "keep-id", "busybox", "true"])?
            .fails(125, &["--userns keep-id: root's containers", "-u USER"])?;
    }
    Ok(())
}

fn init(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go(&[
        "run",
        "--init",
        "busybox",
        "sh",
        "-c",
        "test $$ != 1; exit 7",
    ])?;
    done.code(7)?;
    Ok(())
}

fn more_limits(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name",
        "m",
        "--cpus",
        "1.5",
        "--pids-limit",
        "20",
        "busybox",
        "top",
    ])?;
    let pid = desk.pid("m")?;
    let quota = super::world::cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")?;
    if let Some(quota) = quota {
        ensure!(quota == "150000" || quota == "150000 100000", "{quota:?}");
    }
    if let Some(max) = super::world::cgroup_file(pid, "pids", "pids.max", "pids.max")? {
        ensure!(max == "20", "{max:?}");
    }
    for bad in [
        "--cpus=abc",
        "--cpus=-1",
        "--cpu-shares=x",
        "--pids-limit=x",
    ] {
        let flag = bad.split('=').next().unwrap_or_default();
        desk.go(&["run", bad, "busybox", "true"])?
            .fails(125, &[flag])?;
    }
    Ok(())
}

fn small(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "--pull", "never", "busybox", "echo", "a"])?
        .ok()?
        .says("a")?;
    let machine = desk.go(&["version", "--format", "{{.Arch}}"])?.ok()?;
    let platform = format!("linux/{}", machine.line());
    desk.go(&["run", "--platform", &platform, "busybox", "true"])?
        .ok()?;
    desk.go(&["run", "--platform", "linux/pdp11", "busybox", "true"])?
        .fails(125, &["--platform linux/pdp11", &platform])?;
    desk.go(&["run", "--rm=false", "--name", "kept", "busybox", "true"])?
        .ok()?;
    ensure!(desk.row("kept")?.is_some());
    desk.go(&["run", "--rm", "--name", "gone", "busybox", "true"])?
        .ok()?;
    ensure!(desk.row("gone")?.is_none());
    let done = desk.go_with(
        &["run", "-i", "busybox", "sh", "-c", "read a; echo got $a"],
        "x\n",
    )?;
    done.ok()?.says("got x")?;
    // In the background its input stays open.
    desk.start(&["-i", "--name", "open", "busybox", "cat"])?;
    desk.go(&["exec", "open", "true"])?.ok()?;
    // Without -i nothing of our input arrives.
    let done = desk.go_with(&["run", "busybox", "cat"], "x\n")?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    // Both streams arrive apart and whole.
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo end >&2";
    let done = desk.go(&["run", "busybox", "sh", "-c", script])?.ok()?;
    ensure!(done.out.lines().count() == 20000 && done.out.ends_with("line 19999\n"));
    ensure!(done.err == "end\n", "{:?}", done.err);
    Ok(())
}

fn exec(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name", "c", "-e", "a=1", "-u", "1000:100", "-w", "/tmp", "busybox", "top",
    ])?;
    let script = "echo $a $b; pwd; id -u; id -g";
    let done = desk.go(&["exec", "c", "sh", "-c", script])?.ok()?;
    ensure!(done.out == "1\n/tmp\n1000\n100\n", "{done:?}");
    let done = desk.go(&[
        "exec", "-e", "b=2", "-e", "a=3", "-w", "/etc", "-u", "root", "c", "sh", "-c", script,
    ])?;
    ensure!(done.clone().ok()?.out == "3 2\n/etc\n0\n0\n", "{done:?}");
    let done = desk
        .go(&["exec", "-d", "c", "touch", "/tmp/from-exec"])?
        .ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    wait_for("the detached program has run", || {
        let done = desk.go(&["exec", "c", "ls", "/tmp/from-exec"])?;
        Ok((done.code == 0).then_some(()))
    })?;
    // Somebody of ours is there to reap it; the machine's first process may be slow to.
    desk.go(&["exec", "-d", "c", "sleep", "1000"])?.ok()?;
    let reaper = wait_for("the detached program runs", || parent_of("sleep 1000"))?;
    ensure!(
        super::world::processes(&desk).contains(&reaper),
        "its parent is {reaper}"
    );
    desk.go(&["exec", "c", "sh", "-c", "kill -9 $$"])?
        .code(137)?;
    desk.go(&["exec", "c", "nosuch"])?.fails(127, &["nosuch"])?;
    desk.go(&["exec", "c", "/etc/passwd"])?
        .fails(126, &["/etc/passwd"])?;
    for place in [["-u", "nosuch"], ["-w", "/nosuch"], ["-w", "nosuch"]] {
        let args = [&["exec"][..], &place, &["c", "true"]].concat();
        desk.go(&args)?.fails(126, &["nosuch"])?;
    }
    let row = desk.row("c")?.context("no row")?;
    ensure!(row.contains("running"), "{row:?}");
    Ok(())
}

/// The parent of the newest process with this command line.
pub(crate) fn parent_of(line: &str) -> Result<Option<i32>> {
    let mut newest = None;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        if entry.file_name().to_string_lossy().parse::<i32>().is_err() {
            continue;
        };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        if words.trim() == line {
            let (parent, start) = (fields.get(1), fields.get(19));
            let parsed = parent.zip(start).and_then(|(parent, start)| {
                Some((start.parse::<u64>().ok()?, parent.parse::<i32>().ok()?))
            });
            newest = newest.max(parsed);
        }
    }
    Ok(newest.map(|(_, parent)| parent))
}

fn logs(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "for i in 1 2 3 4 5; do echo $i; done; printf partial";
    desk.start(&["--name", "l", "busybox", "sh", "-c", script])?;
    desk.wait("l")?;
    let done = desk.go(&["logs", "l"])?.ok()?;
    ensure!(done.out == "1\n2\n3\n4\n5\npartial", "{done:?}");
    let done = desk.go(&["logs", "--tail", "2", "l"])?.ok()?;
    ensure!(done.out == "5\npartial", "{done:?}");
    let done = desk.go(&["logs", "-n", "0", "l"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    let done = desk.go(&["logs", "-t", "l"])?.ok()?;
    let stamp = done.out.split(' ').next().unwrap_or_default();
    ensure!(stamp.starts_with("20") && stamp.contains('T'), "{done:?}");
    let done = desk.go(&["logs", "--since", "1h", "l"])?.ok()?;
    ensure!(done.out.starts_with("1\n"), "{done:?}");
    let done = desk
        .go(&["logs", "--since", "2999-01-01T00:00:00Z", "l"])?
        .ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    for bad in ["--tail=x", "--since=whenever"] {
        desk.go(&["logs", bad, "l"])?
            .fails(125, &[bad.split('=').next().unwrap_or_default()])?;
    }
    // It ends with the container, and misses nothing.
    let script = "i=0; while [ $i -lt 500 ]; do echo $i; i=$((i+1)); done; sleep 0.3; echo last";
    desk.start(&["--name", "f", "busybox", "sh", "-c", script])?;
    let done = desk.go(&["logs", "-f", "f"])?.ok()?;
    ensure!(
        done.out.lines().count() == 501 && done.out.ends_with("last\n"),
        "{done:?}"
    );
    Ok(())
}

fn signals(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "trap 'exit 11' INT; trap 'exit 12' TERM; echo ready; while :; do sleep 0.1; done";
    for (signal, code) in [
        (nix::sys::signal::SIGINT, 11),
        (nix::sys::signal::SIGTERM, 12),
    ] {
        let mut child = desk
            .command(desk.program())
            .args(["run", "busybox", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let out = super::kit::Collected::from(child.stdout.take().context("no pipe")?);
        let ready = wait_for("it is ready", || {
            Ok(out.so_far().contains("ready").then_some(()))
        });
        let pid = child.id() as i32;
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        let waited = super::kit::ended(pid, "run");
        let status = child.wait()?;
        ready?;
        waited?;
        ensure!(super::kit::code(status) == code, "{signal}: {status}");
    }
    // Ctrl-C typed at the terminal.
    let mut shell = desk.terminal(&["run", "-ti", "busybox", "sh", "-c", script])?;
    shell.expect("ready")?;
    shell.send("\x03")?;
    shell.finish()?.code(11)?;
    Ok(())
}

fn filters(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/v", desk.text("from"));
    desk.start(&["--name", "a", "-l", "x=1", "-l", "y", "busybox", "top"])?;
    desk.start(&[
        "--name", "bab", "-l", "x=2", "-v", &volume, "busybox", "false",
    ])?;
    desk.wait("bab")?;
    desk.go(&[
        "create",
        "--name",
        "cc",
        "--network",
        "host",
        "busybox",
        "true",
    ])?
    .ok()?;
    for (filters, names) in [
        (&["name=a"][..], "a bab"),
        (&["name=^a$"], "a"),
        (&["status=running"], "a"),
        (&["status=running", "status=exited"], "a bab"),
        (&["status=running", "name=bab"], ""),
        (&["label=x", "label=y"], "a"),
        (&["label=x=2"], "bab"),
        (&["exited=1"], "bab"),
        (&["volume=/v"], "bab"),
        (&["network=host"], "cc"),
        (&["before=bab"], "a"),
        (&["since=bab"], "cc"),
        (&["ancestor=busybox:latest", "status=created"], "cc"),
    ] {
        let mut args = vec!["ps", "--format", "{{.Names}}"];
        filters
            .iter()
            .for_each(|filter| args.extend(["--filter", filter]));
        let done = desk.go(&args)?.ok()?;
        let found: Vec<_> = done.out.lines().collect();
        ensure!(found.join(" ") == names, "{filters:?}: {found:?}");
    }
    for (filter, code) in [
        ("nosuch=1", 125),
        ("status=bogus", 125),
        ("before=nosuch", 1),
    ] {
        desk.go(&["ps", "--filter", filter])?
            .fails(code, &["--filter"])?;
    }
    let shown = [
        "ps",
        "--filter",
        "name=bab",
        "--format",
        "{{.Mounts}} {{.Networks}}",
    ];
    let done = desk.go(&shown)?.ok()?;
    ensure!(
        done.line() == format!("{} none", desk.text("from")),
        "{done:?}"
    );
    // What is kept nowhere cannot be shown.
    desk.start(&["--name", "quiet", "--log-driver", "none", "busybox", "true"])?;
    desk.go(&["logs", "quiet"])?
        .fails(1, &["--log-driver none"])?;
    Ok(())
}

fn images(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    desk.go(&["tag", "busybox", "my/box:2"])?.ok()?;
    desk.start(&["--name", "c", "busybox", "touch", "/x"])?;
    desk.wait("c")?;
    desk.go(&["commit", "c", "later"])?.ok()?;
    for (args, found) in [
        (&["busy*"][..], "busybox:latest"),
        (&["*/b?x"], "my/box:2"),
        (&["*:2"], ""),
        (&["--filter", "reference=my/*:2"], "my/box:2"),
        (&["--filter", "since=busybox"], "later:latest"),
        (&["--filter", "before=later"], "busybox:latest my/box:2"),
    ] {
        let args = [&["images", "--format", "{{.Repository}}:{{.Tag}}"], args].concat();
        let done = desk.go(&args)?.ok()?;
        let mut names: Vec<_> = done.out.lines().collect();
        names.sort_unstable();
        ensure!(names.join(" ") == found, "{done:?}");
    }
    desk.go(&["images", "--filter", "since=nosuch"])?
        .fails(1, &["nosuch"])?;
    ensure!(desk.inspect("busybox", "{{.Config.Cmd}}")? == "[sh]");
    ensure!(
        desk.inspect("c", "{{.Config.Cmd}} {{.HostConfig.LogConfig.Type}}")?
            == "[touch /x] json-file"
    );
    Ok(())
}

fn version(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let done = desk.go(&["version"])?.ok()?;
    ensure!(done.out.contains(env!("CARGO_PKG_VERSION")), "{done:?}");
    let done = desk.go(&["--version"])?.ok()?;
    ensure!(done.out.contains(env!("CARGO_PKG_VERSION")), "{done:?}");
    desk.start(&["--name", "c", "busybox", "top"])?;
    let done = desk.go(&["info"])?.ok()?;
    ensure!(
        done.out.contains(&desk.root().display().to_string()),
        "{done:?}"
    );
    Ok(())
}

fn help(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for args in [
        &["--help"][..],
        &["help"],
        &["run", "--help"],
        &["ps", "-h"],
    ] {
        let done = desk.go(args)?.ok()?;
        ensure!(
            done.out.contains("Usage") && done.err.is_empty(),
            "{done:?}"
        );
    }
    let done = desk.go(&["run", "--help"])?.ok()?;
    ensure!(done.out.contains("--keep"), "D5 is not told: {done:?}");
    Ok(())
}
