//! A45–A50: `-v` and `--mount`.

use super::Row;
use super::images_made::Entry;
use super::kit::{Desk, Place, finish, skip};
use super::world::World;
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    Row {
        name: "-v with :rslave, :rshared, and neither: who sees whose mounts",
        run: propagation,
    },
    Row {
        name: "-v and --mount with idmap: the owners of files",
        run: idmapped,
    },
    Row {
        name: "-v and --mount with idmap: what cannot be is told",
        run: not_idmapped,
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
    for bad in [
        "onlyone",
        "/onlyone:ro",
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
    desk.go(&["run", "-v", "onlyone", "busybox", "ls"])?
        .fails(125, &["onlyone", "SOURCE:CONTAINER[:ro]"])?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    before.is_back(&desk)?;
    // One path alone is a volume without a name.
    let done = desk
        .tty(&["run", "-ti", "-v", "/onlyone", "ls", "-d", "/onlyone"])?
        .ok()?;
    ensure!(done.out.contains("\n/onlyone"), "{done:?}");
    Ok(())
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
    // As with -v, in the caller's directory.
    for (caller, source) in [("", "./from"), ("from", ".")] {
        let mut command = desk.command(desk.program());
        let mount = format!("type=bind,src={source},dst=/b");
        command.args(["run", "--mount", &mount, "busybox", "cat", "/b/f"]);
        command.current_dir(desk.path(caller));
        finish(&mut command, "run", "")?.ok()?.says("content")?;
    }
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

/// A tmpfs of the host's, until it is dropped.
pub(crate) struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts it, with one file in it.
    pub(crate) fn new(at: PathBuf) -> Result<Tmpfs> {
        std::fs::create_dir_all(&at)?;
        let none = None::<&str>;
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), &at, Some("tmpfs"), flags, none).context("mount a tmpfs")?;
        let tmpfs = Tmpfs(at);
        std::fs::write(tmpfs.0.join("f"), "")?;
        Ok(tmpfs)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    fn share(self) -> Result<Tmpfs> {
        let none = None::<&str>;
        mount(none, &self.0, none, MsFlags::MS_SHARED, none).context("make it shared")?;
        Ok(self)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn propagation(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let shared = Tmpfs::new(desk.path("shared"))?.share()?;
    let top = shared.0.display().to_string();
    let mount = format!("type=bind,src={top},dst=/v,bind-propagation=rshared");
    // Privileged, so that they may mount.
    for (name, options) in [
        ("shared", &["-v", &format!("{top}:/v:rw,rshared")]),
        ("mount", &["--mount", &mount]),
        ("slave", &["-v", &format!("{top}:/v:rslave")]),
        ("private", &["-v", &format!("{top}:/v")]),
    ] {
        let args = [
            "--privileged",
            "--name",
            name,
            options[0],
            options[1],
            "busybox",
            "top",
        ];
        desk.start(&args)?;
    }
    let both = |when: &str| -> Result<()> {
        let host = Tmpfs::new(shared.0.join(format!("host-{when}")))?;
        let sees = |name: &str, dir: &Path| -> Result<bool> {
            let file = Path::new("/v").join(dir.strip_prefix(&shared.0)?).join("f");
            let done = desk.go(&["exec", name, "test", "-e", &file.display().to_string()])?;
            Ok(done.code == 0)
        };
        for (name, expected) in [
            ("shared", true),
            ("mount", true),
            ("slave", true),
            ("private", false),
        ] {
            ensure!(
                sees(name, &host.0)? == expected,
                "{when}: of the host in {name}"
            );
        }
        for (name, expected) in [
            ("shared", true),
            ("mount", true),
            ("slave", false),
            ("private", false),
        ] {
            let dir = format!("{name}-{when}");
            let script = format!("mkdir /v/{dir} && mount -t tmpfs t /v/{dir} && touch /v/{dir}/f");
            desk.go(&["exec", name, "sh", "-c", &script])?.ok()?;
            let here = Tmpfs(shared.0.join(&dir));
            ensure!(
                here.0.join("f").exists() == expected,
                "{when}: of {name} on the host"
            );
            ensure!(
                sees("slave", &here.0)? == (expected || name == "slave"),
                "{when}: of {name} in slave"
            );
        }
        Ok(())
    };
    both("first")?;
    desk.go(&["restart", "-t", "1", "shared", "mount", "slave", "private"])?
        .ok()?;
    both("restarted")?;
    // What is not shared cannot be passed on.
    let private = Tmpfs::new(desk.path("alone"))?;
    for kind in ["rshared", "shared", "rslave", "slave"] {
        let volume = format!("{}:/v:{kind}", private.0.display());
        desk.go(&["run", "-v", &volume, "busybox", "true"])?
            .fails(125, &["is not shared", "make-rshared"])?;
    }
    ensure!(desk.rows()?.len() == 4, "{:?}", desk.rows());
    Ok(())
}

/// `idmap=` with one map for users and groups.
fn idmap(map: &str) -> String {
    format!("idmap=uids={map};gids={map}")
}

/// Skips where the file system of the desk cannot map ids.
fn needs_idmaps(desk: &Desk) -> Result<()> {
    let volume = format!("{}:/to:{}", desk.text("trial"), idmap("0-0-9"));
    let done = desk.go(&["run", "-v", &volume, "busybox", "true"])?;
    match done.err.contains("map the ids of") {
        true => skip(done.err),
        false => done.ok().map(drop),
    }
}

fn idmapped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    needs_idmaps(&desk)?;
    let file = desk.write("from/f", "")?;
    let from = desk.text("from");
    for path in [&file, &desk.path("from")] {
        std::os::unix::fs::chown(path, Some(1000), Some(1001))?;
    }
    let owner = |name: &str| -> Result<(u32, u32)> {
        let found = desk.path("from").join(name).symlink_metadata()?;
        Ok((found.uid(), found.gid()))
    };
    let map = "idmap=uids=1000-0-1#0-1000-1;gids=1001-0-1";
    let volume = format!("{from}:/to:ro,{map},rw");
    let script = "stat -c %u:%g /to/f; touch /to/made; stat -c %u:%g /to/made";
    let args = ["--name", "c", "-v", &volume, "busybox", "sh", "-c", script];
    desk.go(&[&["run", "--keep"], &args[..]].concat())?
        .ok()?
        .says("0:0\n0:0")?;
    ensure!(owner("made")? == (1000, 1001), "{:?}", owner("made")?);
    let mode = desk.inspect("c", "{{(index .Mounts 0).Mode}}")?;
    ensure!(mode == map, "{mode}");
    // Another container has it from this one, and cp as if this one ran.
    let done = desk.go(&[
        "run",
        "--volumes-from",
        "c:ro",
        "busybox",
        "stat",
        "-c",
        "%u:%g",
        "/to/f",
    ])?;
    done.ok()?.says("0:0")?;
    desk.write("copied", "")?;
    desk.go(&["cp", &desk.text("copied"), "c:/to/copied"])?
        .ok()?;
    ensure!(owner("copied")? == (1000, 1001), "{:?}", owner("copied")?);
    let mount = format!("type=bind,src={from},dst=/to,{map}");
    let done = desk.go(&[
        "run", "--mount", &mount, "busybox", "stat", "-c", "%u:%g", "/to/f",
    ])?;
    done.ok()?.says("0:0")?;
    // A volume is root's, and here another user's.
    let volume = format!("data:/data:{}", idmap("0-7-1"));
    let script = "touch /data/f && stat -c %u:%g /data /data/f";
    let args = [
        "-u", "7:7", "-v", &volume, "--name", "v", "busybox", "sh", "-c", script,
    ];
    desk.go(&[&["run", "--keep"], &args[..]].concat())?
        .ok()?
        .says("7:7\n7:7")?;
    let script = "stat -c %u:%g /data/f";
    desk.go(&["run", "-v", "data:/data", "busybox", "sh", "-c", script])?
        .ok()?
        .says("0:0")?;
    let args = ["run", "--volumes-from", "v", "busybox", "sh", "-c", script];
    desk.go(&args)?.ok()?.says("7:7")?;
    Ok(())
}

fn not_idmapped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let from = desk.text("from");
    for (bad, words) in [
        ("idmap", &["user namespace of its own"][..]),
        ("idmap=uids=0-1-1", &["gids= is missing"]),
        ("idmap=gids=0-1-1", &["uids= is missing"]),
        ("idmap=", &["uids=", "gids="]),
        ("idmap=uids=0-1;gids=0-1-1", &["\"0-1\""]),
        ("idmap=uids=0-1-0;gids=0-1-1", &["\"0-1-0\""]),
        ("idmap=uids=0-1-1;gids=0-1-1;x=1", &["\"x=1\""]),
        ("idmap=uids=0-5-2#1-9-1;gids=0-1-1", &["overlap"]),
        ("idmap=true", &["\"true\""]),
    ] {
        let words = [words, &[bad, "hint: "]].concat();
        for volume in [format!("{from}:/to:{bad}"), format!("data:/to:{bad}")] {
            desk.go(&["run", "-v", &volume, "busybox", "true"])?
                .fails(125, &[&words[..], &["-v"]].concat())?;
        }
        if bad != "idmap=true" {
            let mount = format!("type=bind,src=/,dst=/to,{bad}");
            desk.go(&["run", "--mount", &mount, "busybox", "true"])?
                .fails(125, &[&words[..], &["--mount"]].concat())?;
        }
    }
    let mount = format!("type=tmpfs,dst=/to,{}", idmap("0-1-1"));
    desk.go(&["run", "--mount", &mount, "busybox", "true"])?
        .fails(125, &["idmap: /to", "tmpfs", "hint: "])?;
    let options = ["-o", "type=tmpfs", "-o", "device=tmpfs", "memory"];
    desk.go(&[&["volume", "create"], &options[..]].concat())?
        .ok()?;
    let volume = format!("memory:/to:{}", idmap("0-1-1"));
    desk.go(&["run", "-v", &volume, "busybox", "true"])?
        .fails(125, &["idmap: /to", "tmpfs", "hint: "])?;
    ensure!(!desk.path("from").exists(), "a wrong -v made its directory");
    // A file system that can do no such thing on any kernel so far.
    let volume = format!("/sys/kernel:/to:ro,{}", idmap("0-1-1"));
    desk.go(&["run", "-v", &volume, "busybox", "true"])?.fails(
        125,
        &["map the ids of /sys/kernel", "sysfs", "hint: ", "ext4"],
    )?;
    ensure!(desk.rows()?.is_empty(), "{:?}", desk.rows());
    Ok(())
}
