//! `cp`: both ways, by Docker's rules, and never out of the container.

use super::Row;
use super::archives::with_input;
use super::images_made::{Entry, archive};
use super::kit::{Desk, Place};
use super::world::World;
use anyhow::{Result, ensure};
use std::fs::{read_to_string, symlink_metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "cp from and to a running container",
        run: running,
    },
    Row {
        name: "cp from and to a container that does not run",
        run: stopped,
    },
    Row {
        name: "cp from and to the volumes of a container that does not run",
        run: stopped_volumes,
    },
    Row {
        name: "cp by Docker's rules for directories and slashes",
        run: rules,
    },
    Row {
        name: "cp makes no file of a device or a pipe",
        run: to_no_file,
    },
    Row {
        name: "cp with - is a tar archive",
        run: streams,
    },
    Row {
        name: "cp follows no link out of the container",
        run: links,
    },
];

fn running(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let volume = format!("{}:/to1", desk.text("from1"));
    desk.start(&["--name", "c", "-v", &volume, "busybox", "top"])?;
    let file = desk.write("file", "hello")?;
    let file = file.display().to_string();
    nix::unistd::chown(Path::new(&file), Some(1234.into()), Some(1234.into()))?;
    desk.go(&["cp", &file, "c:/tmp/copied"])?.ok()?;
    let stat = ["exec", "c", "stat", "-c", "%u:%g"];
    let done = desk.go(&["exec", "c", "cat", "/tmp/copied"])?.ok()?;
    ensure!(done.out == "hello", "{done:?}");
    desk.go(&[&stat[..], &["/tmp/copied"]].concat())?
        .ok()?
        .says("0:0")?;
    desk.go(&["cp", "-a", &file, "c:tmp/owned"])?.ok()?;
    desk.go(&[&stat[..], &["/tmp/owned"]].concat())?
        .ok()?
        .says("1234:1234")?;
    // Into a volume, and to a file that is a mount point.
    desk.go(&["cp", &file, "c:/to1"])?.ok()?;
    ensure!(read_to_string(desk.path("from1/file"))? == "hello");
    desk.write("hosts", "127.0.0.1 here\n")?;
    desk.go(&["cp", &desk.text("hosts"), "c:/etc/hosts"])?
        .ok()?;
    desk.go(&["exec", "c", "cat", "/etc/hosts"])?
        .ok()?
        .says("127.0.0.1 here")?;
    // And back, with the mode and the time.
    let script = "mkdir -p /d/e; echo x >/d/e/f; chmod 640 /d/e/f; ln -s f /d/e/l; \
                  touch -d @1000000000 /d/e/f; mkfifo /d/p";
    desk.go(&["exec", "c", "sh", "-c", script])?.ok()?;
    desk.go(&["cp", "c:/d", &desk.text("back")])?.ok()?;
    let meta = symlink_metadata(desk.path("back/e/f"))?;
    ensure!(meta.mode() & 0o777 == 0o640 && meta.mtime() == 1_000_000_000);
    ensure!(std::fs::read_link(desk.path("back/e/l"))? == Path::new("f"));
    ensure!(desk.path("back/p").exists());
    // What the kernel shows in /proc is no content.
    desk.go(&["cp", "c:/proc", &desk.text("proc")])?.ok()?;
    ensure!(std::fs::read_dir(desk.path("proc"))?.count() == 0);
    Ok(())
}

fn stopped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("file", "hello")?;
    let file = desk.text("file");
    let volume = format!("{}:/to1", desk.text("from1"));
    let make = [
        "create", "--name", "c", "-v", &volume, "busybox", "cat", "/new",
    ];
    desk.go(&make)?.ok()?;
    desk.go(&["cp", "c:/etc/passwd", &desk.text("bb")])?.ok()?;
    // With the overlay's own directory.
    let before = World::of(&desk)?;
    desk.go(&["cp", "c:/bin/busybox", &desk.text("bb")])?.ok()?;
    before.is_back(&desk)?;
    let changed = desk.go(&["diff", "c"])?.ok()?;
    ensure!(changed.out.is_empty(), "{changed:?}");
    desk.go(&["cp", &file, "c:/new"])?.ok()?;
    desk.go(&["diff", "c"])?.ok()?.says("A /new")?;
    let done = desk.go(&["start", "-a", "c"])?.ok()?;
    ensure!(done.out == "hello", "{done:?}");
    desk.go(&["cp", "c:/new", &desk.text("again")])?.ok()?;
    ensure!(read_to_string(desk.path("again"))? == "hello");
    // A volume is there all the same.
    desk.go(&["cp", &file, "c:/to1/x"])?.ok()?;
    ensure!(read_to_string(desk.path("from1/x"))? == "hello");
    desk.go(&["cp", "c:/to1/x", &desk.text("from-volume")])?
        .ok()?;
    ensure!(read_to_string(desk.path("from-volume"))? == "hello");
    let read_only = [
        "create",
        "--name",
        "ro",
        "--read-only",
        "-v",
        "data:/v",
        "busybox",
        "true",
    ];
    desk.go(&read_only)?.ok()?;
    desk.go(&["cp", &file, "ro:/x"])?.fails(1, &["read-only"])?;
    desk.go(&["cp", &file, "ro:/v/x"])?.ok()?;
    desk.go(&["cp", "ro:/v/x", &desk.text("of-volume")])?.ok()?;
    ensure!(read_to_string(desk.path("of-volume"))? == "hello");
    desk.go(&["cp", "ro:/etc/passwd", &desk.text("pw")])?.ok()?;
    Ok(())
}

fn stopped_volumes(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("file", "hello")?;
    let file = desk.text("file");
    let volume_read_only = format!("{}:/ro:ro", desk.text("from1"));
    let made = [
        "create",
        "--name",
        "v",
        "-v",
        &volume_read_only,
        "-v",
        "data:/made/deep",
        "--tmpfs",
        "/t",
        "--mount",
        "source=data,target=/part,volume-subpath=sub",
        "busybox",
        "true",
    ];
    let files = [
        "run",
        "-v",
        "data:/d",
        "busybox",
        "sh",
        "-c",
        "mkdir /d/sub; echo part > /d/sub/f",
    ];
    desk.go(&files)?.ok()?;
    desk.go(&made)?.ok()?;
    desk.go(&["cp", "v:/part/f", &desk.text("part")])?.ok()?;
    ensure!(read_to_string(desk.path("part"))? == "part\n");
    desk.go(&["cp", &file, "v:/ro/y"])?
        .fails(1, &["Read-only"])?;
    // What is mounted anew at each start is not.
    desk.go(&["cp", &file, "v:/t/x"])?.fails(1, &["tmpfs /t"])?;
    let changed = desk.go(&["diff", "v"])?.ok()?;
    ensure!(changed.out.is_empty(), "{changed:?}");
    ensure!(
        desk.run_dir().join("containers").read_dir()?.count() == 0,
        "something is left"
    );
    Ok(())
}

fn to_no_file(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "busybox", "top"])?;
    let pipe = desk.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR)?;
    symlink("pipe", desk.path("link"))?;
    for to in ["pipe", "link"] {
        desk.go(&["cp", "c:/etc/hosts", &desk.text(to)])?
            .fails(1, &["device, a pipe or a socket", "hint: "])?;
    }
    ensure!(symlink_metadata(&pipe)?.file_type().is_fifo());
    ensure!(symlink_metadata(desk.path("link"))?.is_symlink());
    Ok(())
}

fn rules(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "busybox", "top"])?;
    desk.write("dir/sub/file", "x")?;
    desk.write("file", "y")?;
    let (dir, file) = (desk.text("dir"), desk.text("file"));
    let inside = |path: &str, is: bool| -> Result<()> {
        let done = desk.go(&["exec", "c", "test", "-e", path])?;
        ensure!((done.code == 0) == is, "{path} is there: {}", !is);
        Ok(())
    };
    let contents = format!("{dir}/.");
    for (from, to, path) in [
        // To what is not there: under that name, and what is in the directory.
        (&dir, "c:/new1", "/new1/sub/file"),
        (&contents, "c:/new2", "/new2/sub/file"),
        (&dir, "c:/new3/", "/new3/sub/file"),
        // To a directory that is there: under its own name, or what is in it.
        (&dir, "c:/tmp", "/tmp/dir/sub/file"),
        (&dir, "c:/tmp/", "/tmp/dir/sub/file"),
        (&contents, "c:/tmp", "/tmp/sub/file"),
        (&file, "c:/tmp", "/tmp/file"),
        (&file, "c:/tmp/", "/tmp/file"),
        (&file, "c:/tmp/file2", "/tmp/file2"),
        (&file, "c:/tmp/file2", "/tmp/file2"),
    ] {
        desk.go(&["cp", from, to])?.ok()?;
        inside(path, true)?;
    }
    inside("/new1/dir", false)?;
    let slash = format!("{file}/");
    for (from, to, words) in [
        (file.as_str(), "c:/nosuch/", "no such directory"),
        (&file, "c:/no/such", "no such file"),
        (&dir, "c:/no/such", "no such file"),
        (&dir, "c:/tmp/file", "is a file"),
        (&slash, "c:/tmp", "not a directory"),
        ("c:/nosuch", &dir, "no such file"),
        ("c:/tmp/file/", &dir, "not a directory"),
        ("nosuch:/x", &dir, "no such container"),
    ] {
        desk.go(&["cp", from, to])?.fails(1, &[words])?;
    }
    for (from, to) in [(&*dir, &*file), ("c:/a", "c:/b"), ("-", "-")] {
        desk.go(&["cp", from, to])?
            .fails(125, &["one of the two"])?;
    }
    // A link is copied as such, without -L.
    desk.go(&["exec", "c", "ln", "-s", "/tmp/file", "/tmp/link"])?
        .ok()?;
    desk.go(&["cp", "c:/tmp/link", &desk.text("l1")])?.ok()?;
    desk.go(&["cp", "-L", "c:/tmp/link", &desk.text("l2")])?
        .ok()?;
    ensure!(desk.path("l1").is_symlink() && !desk.path("l2").is_symlink());
    ensure!(read_to_string(desk.path("l2"))? == "y");
    // A link that is written to stays one.
    desk.write("file", "z")?;
    desk.go(&["cp", &file, "c:/tmp/link"])?.ok()?;
    let script = "readlink /tmp/link; cat /tmp/file";
    let done = desk.go(&["exec", "c", "sh", "-c", script])?.ok()?;
    ensure!(done.out == "/tmp/file\nz", "{done:?}");
    Ok(())
}

fn streams(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "busybox", "top"])?;
    desk.go(&["create", "--name", "d", "busybox", "true"])?
        .ok()?;
    let script = "mkdir -p /a/b; echo x >/a/b/f; chmod 600 /a/b/f; ln -s f /a/b/l; chown 7:7 /a/b/f; \
         touch -d '1965-01-01 00:00:00' /a/b/f";
    desk.go(&["exec", "c", "sh", "-c", script])?.ok()?;
    let archive = desk.path("a.tar");
    let mut command = desk.command(desk.program());
    let out = std::fs::File::create(&archive)?;
    ensure!(
        command
            .args(["cp", "c:/a", "-"])
            .stdout(out)
            .status()?
            .success()
    );
    let names = |path: &Path| -> Result<Vec<String>> {
        let mut tar = tar::Archive::new(std::fs::File::open(path)?);
        let entries = tar.entries()?;
        let names = entries.map(|entry| Ok(entry?.path()?.display().to_string()));
        names.collect()
    };
    let wanted = ["a", "a/b", "a/b/f", "a/b/l"];
    let found = names(&archive)?;
    let found: Vec<&str> = found
        .iter()
        .map(|name| name.trim_end_matches('/'))
        .collect();
    ensure!(found == wanted, "{found:?}");
    // Into a directory of another container, which does not run.
    let unpack =
        |args: &[&str]| Ok::<_, anyhow::Error>(with_input(&desk, args, &archive)?.code == 0);
    ensure!(unpack(&["cp", "-a", "-", "d:/tmp"])?);
    ensure!(!unpack(&["cp", "-", "d:/nosuch"])?);
    ensure!(!unpack(&["cp", "-", "d:/etc/passwd"])?);
    // A compressed one is one too.
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&std::fs::read(&archive)?)?;
    std::fs::write(desk.path("packed"), packed.finish()?)?;
    with_input(&desk, &["cp", "-", "d:/root"], &desk.path("packed"))?.ok()?;
    desk.go(&["cp", "d:/root/a/b/f", &desk.text("unpacked")])?
        .ok()?;
    desk.go(&["cp", "-a", "d:/tmp/a/.", &desk.text("got")])?
        .ok()?;
    let meta = symlink_metadata(desk.path("got/b/f"))?;
    ensure!(meta.mode() & 0o777 == 0o600 && meta.uid() == 7, "{meta:?}");
    ensure!(meta.mtime() == -157_766_400, "{meta:?}");
    // The whole root, as `export` would.
    let mut command = desk.command(desk.program());
    let out = std::fs::File::create(&archive)?;
    ensure!(
        command
            .args(["cp", "d:/", "-"])
            .stdout(out)
            .status()?
            .success()
    );
    ensure!(
        names(&archive)?
            .iter()
            .any(|name| name.ends_with("bin/busybox"))
    );
    Ok(())
}

fn links(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("secret/file", "secret")?;
    desk.write("file", "x")?;
    let (secret, file) = (desk.text("secret"), desk.text("file"));
    let script = format!(
        "ln -s {secret} /out; ln -s {secret}/file /outfile; \
         ln -s ../../../../../../../..{secret} /up; mkdir /d; ln -s {secret} /d/sub; echo ok; exec top"
    );
    desk.start(&["--name", "c", "busybox", "sh", "-c", &script])?;
    desk.logged("c", "ok")?;
    desk.write("d/sub/new", "x")?;
    for state in ["running", "stopped"] {
        for path in ["c:/out/file", "c:/up/file"] {
            desk.go(&["cp", path, &desk.text("got")])?
                .fails(1, &["no such file"])?;
        }
        desk.go(&["cp", "-L", "c:/outfile", &desk.text("got")])?
            .fails(1, &["no such file"])?;
        for path in ["c:/out/new", "c:/up/new", "c:/outfile/new"] {
            desk.go(&["cp", &file, path])?.code(1)?;
        }
        // Directories over links: no link is followed on the way down.
        desk.go(&["cp", &format!("{}/.", desk.text("d")), "c:/d"])?
            .fails(1, &["in the place of a directory"])?;
        let left: Vec<_> = std::fs::read_dir(&secret)?.collect();
        ensure!(left.len() == 1, "{state}: {left:?}");
        ensure!(read_to_string(desk.path("secret/file"))? == "secret");
        desk.go(&["stop", "-t", "0", "c"])?.ok()?;
    }
    // An archive that first makes a link and then goes through it.
    let through = [
        Entry::Link("way", &secret),
        Entry::File("way/new", 0o644, b"x"),
    ];
    archive(&desk.path("evil.tar"), &through)?;
    with_input(&desk, &["cp", "-", "c:/tmp"], &desk.path("evil.tar"))?;
    ensure!(
        std::fs::read_dir(&secret)?.count() == 1,
        "out by an archive"
    );
    // On the host, links are followed as ever.
    symlink(&secret, desk.path("way"))?;
    desk.go(&["cp", "c:/etc/passwd", &desk.text("way/pw")])?
        .ok()?;
    ensure!(desk.path("secret/pw").exists());
    Ok(())
}
