//! The configuration of an image, and the options that stand against it.

use super::Row;
use super::images_made::Entry;
use super::kit::{Desk, Place, finish, wait_for};
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "an image's Entrypoint, Cmd, Env, WorkingDir and User, and what overrules them",
        run: process,
    },
    Row {
        name: "an image's User: names, numbers, groups of its own files",
        run: users,
    },
    Row {
        name: "an image's Labels, StopSignal, ExposedPorts, Volumes and OnBuild",
        run: facts,
    },
    Row {
        name: "an image's Healthcheck, and --no-healthcheck",
        run: health,
    },
    Row {
        name: "run --label-file, --env-file with names alone, --cidfile",
        run: files,
    },
    Row {
        name: "run --umask, --group-add, --oom-score-adj, --sysctl, --domainname",
        run: more_of_the_process,
    },
    Row {
        name: "run --cgroup-parent",
        run: cgroup_parent,
    },
    Row {
        name: "options of other tools are told as such",
        run: foreign,
    },
];

const PASSWD: &[u8] = b"root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n";
const GROUP: &[u8] = b"root:x:0:\nwww:x:34:\nwheel:x:10:web\n";

fn import(desk: &Desk, name: &str, changes: &[&str]) -> Result<()> {
    let entries = vec![
        Entry::File("etc/passwd", 0o644, PASSWD),
        Entry::File("etc/group", 0o644, GROUP),
        Entry::Link("bin/stat", "busybox"),
        Entry::Link("bin/hostname", "busybox"),
        Entry::Link("bin/true", "busybox"),
    ];
    desk.import(name, entries, changes)
}

fn process(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = r#"ENTRYPOINT ["sh","-c","echo $A $B; pwd; id -u; echo $0 $*"]"#;
    let changes = [
        script,
        r#"CMD ["zero","one"]"#,
        "ENV A=image B=too",
        "WORKDIR /made/here",
        "USER web",
    ];
    import(&desk, "image", &changes)?;
    let run =
        |args: &[&str]| -> Result<String> { Ok(desk.go(&[&["run"], args].concat())?.ok()?.out) };
    let out = run(&["image"])?;
    ensure!(out == "image too\n/made/here\n33\nzero one\n", "{out:?}");
    let out = run(&[
        "-e", "A=flag", "-w", "/other", "-u", "0", "image", "more", "words",
    ])?;
    ensure!(out == "flag too\n/other\n0\nmore words\n", "{out:?}");
    // Another entrypoint drops the image's command.
    let out = run(&["--entrypoint", "echo", "image"])?;
    ensure!(out == "\n", "{out:?}");
    let out = run(&["--entrypoint", "echo", "image", "-n", "x"])?;
    ensure!(out == "x", "{out:?}");
    // None leaves it.
    import(
        &desk,
        "plain",
        &[r#"ENTRYPOINT ["nosuch"]"#, r#"CMD ["echo","cmd"]"#],
    )?;
    let out = run(&["--entrypoint", "", "plain", "echo", "mine"])?;
    ensure!(out == "mine\n", "{out:?}");
    // The shell form.
    import(&desk, "shell", &["CMD echo $((6 * 7)) from $0"])?;
    let out = run(&["shell"])?;
    ensure!(out.starts_with("42 from "), "{out:?}");
    let config = "{{.Config.WorkingDir}} {{.Config.User}} {{json .Config.Cmd}}";
    desk.go(&["create", "--name", "c", "image"])?.ok()?;
    ensure!(desk.inspect("c", config)? == r#"/made/here web ["zero","one"]"#);
    Ok(())
}

fn users(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for (at, (user, expected)) in [
        ("web", "33 34 34 10"),
        ("33", "33 34 34 10"),
        ("web:wheel", "33 10 10"),
        ("1000", "1000 0 0"),
        ("1000:www", "1000 34 34"),
        ("1000:50", "1000 50 50"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("user{at}");
        import(&desk, &name, &[&format!("USER {user}")])?;
        let script = "echo $(id -u) $(id -g) $(id -G)";
        let done = desk.go(&["run", &name, "sh", "-c", script])?.ok()?;
        ensure!(done.line() == expected, "{user}: {done:?}");
    }
    import(&desk, "nobody", &["USER nosuch"])?;
    desk.go(&["run", "nobody", "true"])?
        .fails(125, &["nosuch"])?;
    desk.go(&["run", "-u", "web", "nobody", "id", "-u"])?
        .ok()?
        .says("33")?;
    Ok(())
}

fn facts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let changes = [
        "LABEL kind=image other=kept",
        "STOPSIGNAL USR1",
        "EXPOSE 80 53/udp",
        "VOLUME /data",
        "ONBUILD RUN true",
    ];
    import(&desk, "image", &changes)?;
    let ports = r#"{"53/udp":{},"80/tcp":{}}"#;
    for (template, expected) in [
        ("{{json .Config.ExposedPorts}}", ports),
        ("{{json .Config.Volumes}}", r#"{"/data":{}}"#),
        ("{{json .Config.OnBuild}}", r#"["RUN true"]"#),
        ("{{.Config.StopSignal}}", "SIGUSR1"),
    ] {
        let found = desk.inspect("image", template)?;
        let short = expected.trim_start_matches("SIG");
        ensure!(found == expected || found == short, "{template}: {found}");
    }
    let script = "trap 'echo asked; exit 7' USR1; echo ready; while :; do sleep 0.1; done";
    let flags = ["--name", "c", "--expose", "9000-9001", "-l", "kind=flag"];
    desk.start(&[&flags[..], &["image", "sh", "-c", script]].concat())?;
    desk.logged("c", "ready")?;
    let found = desk.inspect("c", "{{json .Config.ExposedPorts}}")?;
    let more = r#"{"53/udp":{},"80/tcp":{},"9000/tcp":{},"9001/tcp":{}}"#;
    ensure!(found == more, "{found}");
    ensure!(desk.inspect("c", "{{.Config.StopSignal}}")? == "SIGUSR1");
    let found = desk.inspect("c", "{{json .Config.Labels}}")?;
    ensure!(found == r#"{"kind":"flag","other":"kept"}"#, "{found}");
    for (label, there) in [("kind=flag", true), ("kind=image", false), ("other", true)] {
        let filter = format!("label={label}");
        let done = desk.go(&["ps", "-q", "--filter", &filter])?.ok()?;
        ensure!(done.out.is_empty() != there, "{label}: {done:?}");
    }
    desk.go(&["stop", "-t", "100", "c"])?.ok()?;
    let code = desk.inspect("c", "{{.State.ExitCode}}")?;
    ensure!(code == "7", "{code}");
    // A commit keeps what the image said.
    desk.go(&["commit", "c", "again"])?.ok()?;
    let found = desk.inspect("again", "{{.Config.StopSignal}} {{json .Config.Volumes}}")?;
    ensure!(found.ends_with(r#"USR1 {"/data":{}}"#), "{found}");
    desk.go(&["run", "--expose", "x", "image", "true"])?
        .fails(125, &["--expose"])?;
    Ok(())
}

fn health(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    import(
        &desk,
        "image",
        &["HEALTHCHECK --interval=1s --retries=1 CMD true"],
    )?;
    desk.start(&["--name", "c", "image", "top"])?;
    wait_for("it is healthy", || {
        let health = desk.inspect("c", "{{.State.Health.Status}}")?;
        Ok((health == "healthy").then_some(()))
    })?;
    desk.start(&["--name", "none", "--no-healthcheck", "image", "top"])?;
    let row = desk.row("none")?.unwrap_or_default();
    ensure!(!row.contains("health"), "{row}");
    Ok(())
}

fn files(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("labels", "# of the file\na=1\n  b=two words\nalone\n")?;
    desk.write("env", "A=file\nFROM_CALLER\nNOT_SET\n#no\n")?;
    let mut command = desk.command(desk.program());
    command.env("FROM_CALLER", "called").args([
        "run",
        "--keep",
        "--name",
        "c",
        "--label-file",
        "labels",
        "-l",
        "a=flag",
        "--env-file",
        "env",
        "--cidfile",
        "cid",
        "busybox",
        "sh",
        "-c",
        "echo $A $FROM_CALLER; env | grep -c NOT_SET",
    ]);
    let done = finish(&mut command, "run", "")?.code(1)?;
    ensure!(done.out == "file called\n0\n", "{done:?}");
    let labels = desk.inspect("c", "{{json .Config.Labels}}")?;
    ensure!(
        labels == r#"{"a":"flag","alone":"","b":"two words"}"#,
        "{labels}"
    );
    ensure!(std::fs::read_to_string(desk.path("cid"))? == desk.inspect("c", "{{.Id}}")?);
    desk.go(&["run", "--cidfile", "cid", "busybox", "true"])?
        .fails(125, &["cid"])?;
    desk.go(&["run", "--label-file", "nosuch", "busybox", "true"])?
        .fails(125, &["nosuch"])?;
    Ok(())
}

fn more_of_the_process(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "umask; id -G; cat /proc/self/oom_score_adj; cat /proc/sys/kernel/shmmax; \
                  cat /proc/sys/kernel/domainname";
    let args = [
        "run",
        "--umask",
        "0027",
        "--group-add",
        "10",
        "--group-add",
        "1234",
        "--oom-score-adj",
        "500",
        "--sysctl",
        "kernel.shmmax=1048576",
        "--domainname",
        "example",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let done = desk.go(&args)?.ok()?;
    ensure!(
        done.out == "0027\n0 10 1234\n500\n1048576\nexample\n",
        "{done:?}"
    );
    for (flag, value) in [
        ("--umask", "9"),
        ("--group-add", "nosuch"),
        ("--sysctl", "kernel.x=1"),
    ] {
        desk.go(&["run", flag, value, "busybox", "true"])?
            .fails(125, &[flag])?;
    }
    Ok(())
}

/// A cgroup of this row's own in every hierarchy, until it is dropped.
struct Parent(String);

impl Drop for Parent {
    fn drop(&mut self) {
        for base in crate::bundles::hierarchies().into_iter().flatten() {
            let _ = std::fs::remove_dir(base.join(&self.0));
        }
    }
}

fn cgroup_parent(place: &Place) -> Result<()> {
    // Made first, to be removed after the container.
    let parent = Parent(format!("conf-{}-acts", std::process::id()));
    let desk = Desk::new(place)?;
    let path = format!("/{}", parent.0);
    let id = desk.start(&[
        "--name",
        "c",
        "--cgroup-parent",
        &path,
        "-m",
        "50m",
        "busybox",
        "top",
    ])?;
    let text = std::fs::read_to_string(format!("/proc/{}/cgroup", desk.pid("c")?))?;
    let whole = format!("{path}/{id}");
    ensure!(text.lines().any(|line| line.ends_with(&whole)), "{text}");
    desk.go(&["rm", "-f", "c"])?.ok()?;
    let left = |base: &PathBuf| base.join(&parent.0).join(&id).exists();
    ensure!(
        !crate::bundles::hierarchies()?.iter().any(left),
        "its cgroup is left"
    );
    for bad in ["../x", "/", "user.slice"] {
        desk.go(&["run", "--cgroup-parent", bad, "busybox", "true"])?
            .fails(125, &["--cgroup-parent"])?;
    }
    Ok(())
}

fn foreign(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for option in [
        "--attach",
        "--device-read-bps",
        "--pidfile",
        "--rootfs",
        "--gpus",
    ] {
        desk.go(&["run", option, "x", "busybox", "true"])?
            .fails(125, &[option, "not supported"])?;
    }
    Ok(())
}
