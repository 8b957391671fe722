//! A45–A50: `-v` and `--mount`.

use super::Row;
use super::images_made::Entry;
use super::kit::{Desk, Place};
use super::world::World;
use anyhow::{Result, ensure};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A45 -v makes a missing directory of the host",
        run: makes_source,
    },
    Row {
        name: "A46 data outlives exit and rm",
        run: persists,
    },
    Row {
        name: "A47 a volume's files are not in the container's layer",
        run: not_in_layer,
    },
    Row {
        name: "A48 a target whose parents are missing",
        run: nested,
    },
    Row {
        name: "A49 a malformed -v",
        run: malformed,
    },
    Row {
        name: "A50 a target that is a symlink stays in the container",
        run: symlink,
    },
    Row {
        name: "-v with :ro, :rw, a file, and many",
        run: modes,
    },
    Row {
        name: "--mount bind and tmpfs, and --tmpfs",
        run: mounts,
    },
];

fn makes_source(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/containerVolume", desk.text("root/volume"));
    desk.tty(&["run", "-ti", "-v", &volume, "ls", "/containerVolume"])?
        .ok()?;
    ensure!(desk.path("root/volume").is_dir(), "it was not made");
    Ok(())
}

fn persists(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/to", desk.text("from"));
    desk.go(&[
        "run",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        "echo one > /to/one",
    ])?
    .ok()?;
    desk.start(&[
        "--name",
        "c",
        "-v",
        &volume,
        "busybox",
        "sh",
        "-c",
        "echo two > /to/two",
    ])?;
    desk.wait("c")?;
    desk.go(&["rm", "c"])?.ok()?;
    for name in ["one", "two"] {
        let text = std::fs::read_to_string(desk.path("from").join(name))?;
        ensure!(text == format!("{name}\n"), "{text:?}");
    }
    Ok(())
}

fn not_in_layer(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/to", desk.text("from"));
    desk.start(&["--name", "v", "-v", &volume, "busybox", "top"])?;
    desk.go(&["exec", "v", "touch", "/to/f", "/notvol"])?.ok()?;
    ensure!(desk.path("from/f").exists(), "the host has no f");
    let done = desk.go(&["diff", "v"])?.ok()?;
    let lines: Vec<_> = done.out.lines().collect();
    ensure!(lines.contains(&"A /notvol"), "{done:?}");
    ensure!(!lines.iter().any(|line| line.contains("/to/f")), "{done:?}");
    Ok(())
}

fn nested(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/x/y/z", desk.text("a/b"));
    desk.go(&["run", "-v", &volume, "busybox", "touch", "/x/y/z/f"])?
        .ok()?;
    ensure!(desk.path("a/b/f").exists());
    Ok(())
}

fn malformed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    desk.tty(&["run", "-ti", "-v", "/onlyone", "ls"])?
        .code(125)?;
    for bad in [
        "/onlyone",
        "",
        ":",
        ":/to",
        "/from:",
        "/a:/b:/c",
        "/a:/b:rox",
        "/a:relative",
        "/a:/",
    ] {
        let flag = format!("--volume={bad}");
        desk.go(&["run", &flag, "busybox", "ls"])?
            .fails(125, &["-v"])?;
    }
    desk.go(&["run", "-v", "/onlyone", "busybox", "ls"])?
        .fails(125, &["/onlyone", "HOST:CONTAINER[:ro]"])?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    before.is_back(&desk)
}

fn symlink(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let entries = vec![
        Entry::Link("to1", "/etc"),
        Entry::Link("to2", "../../../../etc"),
        Entry::File("etc/of-the-image", 0o644, b""),
    ];
    desk.import("links", entries, &[])?;
    for target in ["/to1", "/to2"] {
        let mark = format!("mark-{}", target.trim_start_matches('/'));
        let volume = format!("{}:{target}", desk.text(&mark));
        let script = format!("touch /etc/{mark} && ls /etc");
        let done = desk
            .go(&["run", "-v", &volume, "links", "sh", "-c", &script])?
            .ok()?;
        ensure!(!done.out.contains("of-the-image"), "{done:?}");
        ensure!(desk.path(&mark).join(&mark).exists(), "{target}: {done:?}");
        ensure!(
            !std::path::Path::new("/etc").join(&mark).exists(),
            "the host's /etc was written"
        );
    }
    Ok(())
}

fn modes(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("from/f", "content\n")?;
    let from = desk.text("from");
    let read_only = format!("{from}:/ro:ro");
    let writable = format!("{from}:/rw:rw");
    let file = format!("{from}/f:/etc/one:ro");
    let script =
        "cat /ro/f /etc/one; touch /ro/x; touch /etc/one 2>&1; touch /rw/y && echo written";
    let done = desk.go(&[
        "run", "-v", &read_only, "-v", &writable, "--volume", &file, "busybox", "sh", "-c", script,
    ])?;
    let done = done.ok()?;
    ensure!(
        done.out.starts_with("content\ncontent\n") && done.out.ends_with("written\n"),
        "{done:?}"
    );
    ensure!(done.err.contains("Read-only"), "{done:?}");
    ensure!(desk.path("from/y").exists() && !desk.path("from/x").exists());
    Ok(())
}

fn mounts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("from/f", "content\n")?;
    let bind = format!("type=bind,source={},target=/b,readonly", desk.text("from"));
    let script = "cat /b/f; touch /b/x 2>/dev/null || echo refused; grep ' /t tmpfs ' /proc/mounts | grep -c .; \
                  grep ' /t2 tmpfs ' /proc/mounts | grep -c size=1024k";
    let done = desk.go(&[
        "run",
        "--mount",
        &bind,
        "--mount",
        "type=tmpfs,destination=/t",
        "--tmpfs",
        "/t2:size=1m",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    ensure!(
        done.clone().ok()?.out == "content\nrefused\n1\n1\n",
        "{done:?}"
    );
    let missing = format!("type=bind,src={},dst=/b", desk.text("missing"));
    desk.go(&["run", "--mount", &missing, "busybox", "ls"])?
        .fails(125, &["missing"])?;
    ensure!(!desk.path("missing").exists(), "--mount made the directory");
    for bad in [
        "type=nosuch,dst=/b",
        "src=/a",
        "type=bind,src=/,dst=rel",
        "nonsense",
    ] {
        desk.go(&["run", "--mount", bad, "busybox", "ls"])?
            .fails(125, &["--mount"])?;
    }
    Ok(())
}
