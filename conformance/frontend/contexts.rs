//! `build`: what it copies from, what it asks a registry for, and what it keeps.

use super::Row;
use super::building::{build, says};
use super::false_registry::{FalseRegistry, Fixture};
use super::halfway::Going;
use super::images_made::{Entry, archive};
use super::kit::{Desk, Place, finish};
use super::world::World;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "build: more files are copied than a process may have open",
        run: many_files,
    },
    Row {
        name: "build: a file with several names stays one",
        run: hard_links,
    },
    Row {
        name: "build: an archive that is added wins, with all that it says",
        run: archive_wins,
    },
    Row {
        name: "build: ARG goes on in a stage that begins with another; RUN is the shell's",
        run: inherited,
    },
    Row {
        name: "the caller's umask is for the caller's files",
        run: masked,
    },
    Row {
        name: "build: a pattern finds what .dockerignore brings back",
        run: brought_back,
    },
    Row {
        name: "build: --pull asks for each image once",
        run: pulled_once,
    },
    Row {
        name: "build: what is in the way of a copy, and links there",
        run: in_the_way,
    },
    Row {
        name: "build: who has a step end is not told that it failed",
        run: interrupted,
    },
    Row {
        name: "build -q tells nothing",
        run: quiet,
    },
    Row {
        name: "build: --progress and builder prune do what they say",
        run: words,
    },
];

fn many_files(place: &Place) -> Result<()> {
    const COUNT: usize = 300;
    let desk = Desk::new(place)?;
    desk.import("base", Vec::new(), &[])?;
    for number in 0..COUNT {
        desk.write(&format!("context/dir/{number}"), &number.to_string())?;
    }
    desk.write(
        "context/Dockerfile",
        "FROM base\nCOPY dir /dir\nCOPY dir/* /each/\n",
    )?;
    let args = ["build", "-q", "-t", "many", "context"];
    desk.go_after("ulimit -n 100", &args)?.ok()?;
    let script = "ls /dir | busybox wc -l; ls /each | busybox wc -l; cat /dir/299 /each/7";
    says(&desk, "many", script, &format!("{COUNT}\n{COUNT}\n2997"))
}

fn hard_links(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let file = desk.write("context/dir/one", "text")?;
    std::fs::create_dir(desk.path("context/dir/sub"))?;
    std::fs::hard_link(&file, desk.path("context/dir/sub/other"))?;
    std::fs::hard_link(&file, desk.path("context/outside"))?;
    let text = "FROM busybox\nCOPY --chown=7 dir /dir\nCOPY dir /all/dir\n\
                RUN --mount=type=bind,source=dir,target=/it test /it/one -ef /it/sub/other\n";
    build(&desk, text, &["-t", "linked"])?.ok()?;
    let script = "for dir in /dir /all/dir; do stat -c '%h %u' $dir/one $dir/sub/other; \
                  test $dir/one -ef $dir/sub/other || echo two; done";
    says(&desk, "linked", script, "2 7\n2 7\n2 0\n2 0")
}

/// Entries over what is there, of every other kind; attributes, parts of seconds, many directories.
fn archive_wins(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = r#"set -e; mkdir tree; cd tree; mkdir -p dir many; chmod 1750 dir; chown 5:6 dir
        echo file >was-dir; ln -s dir was-dir2; mkdir was-link; echo x >was-link/x
        for i in $(seq 200); do mkdir many/$i; chmod 711 many/$i; done
        echo x >cap; setcap cap_net_raw+ep cap; touch -d '2001-01-01 00:00:00.25' cap
        echo s >suid; chmod 4755 suid; ln suid suid2
        mkdir -p ../context; tar --format=pax --xattrs --xattrs-include='*' -cf ../context/a.tar ."#;
    finish(
        desk.command(Path::new("/bin/bash")).args(["-c", script]),
        "tar",
        "",
    )?
    .ok()?;
    let text = "FROM busybox
RUN mkdir -p /to/dir /to/was-dir/x /to/was-dir2; ln -s /etc /to/was-link; \
                touch /to/dir/stays
ADD a.tar /to/
";
    desk.write("context/Dockerfile", text)?;
    let args = ["build", "-q", "-t", "won", "context"];
    desk.go_after("ulimit -n 100", &args)?.ok()?;
    let script = "cd /to; stat -c '%a %u %g' dir many/7 suid suid2; ls dir; cat was-dir; \
                  readlink was-dir2; ls was-link; test suid -ef suid2 && echo one; test -e /etc/x || echo kept";
    let wanted = "1750 5 6\n711 0 0\n4755 0 0\n4755 0 0\nstays\nfile\ndir\nx\none\nkept";
    says(&desk, "won", script, wanted)?;
    let layers = desk.root().join("layers");
    let find = format!(
        "find {} -name cap | while read f; do getcap $f; stat -c %y $f; done",
        layers.display()
    );
    let found = finish(
        desk.command(Path::new("/bin/sh")).args(["-c", &find]),
        "find",
        "",
    )?
    .ok()?;
    ensure!(
        found.out.contains("cap_net_raw=ep") && found.out.contains("00.25"),
        "{found:?}"
    );
    Ok(())
}

/// As BuildKit: what is in the way is a mistake, and not replaced.
fn in_the_way(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("context/file", "file\n")?;
    desk.write("context/dir/in/file", "file\n")?;
    for (made, line, words) in [
        (
            "mkdir -p /to/file",
            "COPY file /to",
            "in the place of a file",
        ),
        (
            "mkdir -p /to/in/file",
            "COPY dir /to",
            "in the place of a file",
        ),
        (
            "mkdir /to; touch /to/in",
            "COPY dir /to",
            "in the place of a dir",
        ),
        ("touch /to", "COPY dir /to", "/to is not a directory"),
        ("touch /to", "COPY file /to/", "/to is not a directory"),
    ] {
        let text = format!("FROM busybox\nRUN {made}\n{line}\n");
        build(&desk, &text, &[])?.fails(1, &["line 3: COPY", words])?;
    }
    let text = "FROM busybox\nRUN echo old >/to; mkdir /dir; ln -s to /link; ln -s /dir/x /none\n\
                COPY file /link\nCOPY file /dir\nCOPY file /none\n";
    build(&desk, text, &["-t", "fine"])?.ok()?;
    let script = "cat /to /dir/file /dir/x; readlink /link; readlink /none";
    says(&desk, "fine", script, "file\nfile\nfile\nto\n/dir/x")?;
    symlink("nowhere", desk.path("context/nothing"))?;
    build(&desk, "FROM busybox\nCOPY f* /to/\n", &[])?.ok()?;
    build(&desk, "FROM busybox\nCOPY n* /to/\n", &[])?
        .fails(1, &["nothing: a symbolic link to nothing"])?;
    Ok(())
}

fn quiet(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut tar = tar::Builder::new(Vec::new());
    let unknown = ("SCHILY.xattr.unknown.name", &b"value"[..]);
    tar.append_pax_extensions([unknown])?;
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", std::io::empty())?;
    std::fs::create_dir(desk.path("context"))?;
    std::fs::write(desk.path("context/a.tar"), tar.into_inner()?)?;
    let text = "FROM busybox\nADD a.tar /to/\n";
    let told = build(&desk, text, &["--no-cache"])?.ok()?;
    ensure!(told.err.contains("unknown.name"), "{told:?}");
    let done = build(&desk, text, &["-q", "--no-cache"])?.ok()?;
    ensure!(done.err.is_empty(), "{done:?}");
    Ok(())
}

fn inherited(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let text = "FROM busybox AS base\nARG one=1\nARG two=2\nFROM base AS build\nARG two=3\n\
                RUN echo $one $two >/said # don't\nFROM busybox\nCOPY --from=build /said /said\n\
                RUN echo \"<$one>\" >>/said\n";
    build(&desk, text, &["-t", "it"])?.ok()?;
    says(&desk, "it", "cat /said", "1 3\n<>")
}

fn masked(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let masked = |args: &[&str]| desk.go_after("umask 077", args)?.ok();
    let file = Entry::File("deep/er/file", 0o644, b"x");
    archive(&desk.path("bare.tar"), &[file])?;
    masked(&["import", &desk.text("bare.tar"), "bare"])?;
    desk.write(
        "context/Dockerfile",
        "FROM scratch\nCOPY Dockerfile /a/b/c\nFROM busybox\nCOPY --from=bare / /x/\nCOPY --from=0 / /y/\n",
    )?;
    masked(&["build", "-q", "-t", "it", "--iidfile", "id", "context"])?;
    let script = "cd /; stat -c %a x x/deep x/deep/er y y/a y/a/b";
    says(&desk, "it", script, "755\n755\n755\n755\n755\n755")?;
    masked(&["save", "-o", "saved", "bare"])?;
    let cid = masked(&["create", "--cidfile", "cid", "it", "true"])?;
    masked(&["export", "-o", "exported", cid.line()])?;
    for name in ["id", "saved", "cid", "exported"] {
        let mode = desk.path(name).metadata()?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{name}: {mode:o}");
    }
    Ok(())
}

fn brought_back(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for name in ["src/x", "src/y", "sub/deep/z", "sub/w", "other"] {
        desk.write(&format!("context/{name}"), name)?;
    }
    desk.write("context/.dockerignore", "*\n!src/x\n!sub/deep\n")?;
    build(
        &desk,
        "FROM busybox\nCOPY s*/ /to/\nCOPY s*/d* /deep/\n",
        &["-t", "one"],
    )?
    .ok()?;
    says(
        &desk,
        "one",
        "cd /to; find * -type f; cd /deep; find * -type f",
        "deep/z\nx\nz",
    )
}

fn pulled_once(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fixture = Fixture::new(1000)?;
    let registry = FalseRegistry::start(move |heard| fixture.honest(heard))?;
    let name = format!("{}/app", registry.host());
    let text = format!(
        "FROM {name} AS one\nFROM {name}:latest\nCOPY --from=one /noise /a\n\
         COPY --from={name} /noise /b\nCOPY --from={name} /noise /c\n"
    );
    build(&desk, &text, &["--pull"])?.ok()?;
    let manifests = |before: usize| -> Result<()> {
        let heard = registry.heard();
        let asked = heard
            .iter()
            .filter(|heard| heard.path.contains("/manifests/"));
        let count = asked.count();
        ensure!(count == before, "{count} manifests: {heard:?}");
        Ok(())
    };
    manifests(1)?;
    // The next build asks again, and one without --pull does not.
    build(&desk, &text, &["--pull"])?.ok()?;
    manifests(2)?;
    build(&desk, &text, &[])?.ok()?;
    manifests(2)
}

fn words(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("base", vec![Entry::Dir("etc/x")], &[])?;
    let text = "FROM base\nRUN echo a > /a; echo printed\nRUN echo b > /b\n";
    let done = build(&desk, text, &["--progress", "quiet"])?.ok()?;
    ensure!(done.err.is_empty(), "{done:?}");
    for kind in ["auto", "plain"] {
        let done = build(&desk, text, &["--no-cache", "--progress", kind])?.ok()?;
        ensure!(
            done.err.contains("RUN echo a") && done.err.contains("printed"),
            "{done:?}"
        );
    }
    build(&desk, text, &["--progress", "tty"])?.fails(125, &["--progress"])?;
    let cached = |args: &[&str]| -> Result<usize> {
        let done = build(&desk, text, args)?.ok()?;
        Ok(done
            .err
            .lines()
            .filter(|line| line.ends_with("CACHED"))
            .count())
    };
    // What the image shares takes no room of its own.
    ensure!(cached(&["-t", "mine"])? == 2);
    desk.go(&["image", "prune", "-f"])?.ok()?;
    desk.go(&["builder", "prune", "-f"])?.ok()?;
    ensure!(cached(&["-t", "mine"])? == 2);
    build(&desk, &format!("{text}RUN echo c > /c\nRUN exit 1\n"), &[])?.code(1)?;
    let layers = || Ok::<_, anyhow::Error>(std::fs::read_dir(desk.root().join("layers"))?.count());
    let before = layers()?;
    desk.go(&["builder", "prune", "-f"])?.ok()?;
    let after = layers()?;
    ensure!(after == before - 1, "of {before} layers {after} stay");
    desk.go(&["builder", "prune", "-af"])?.ok()?;
    ensure!(cached(&["-t", "mine"])? == 0);
    Ok(())
}

fn interrupted(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Deaf to what a terminal sends.
    let text = "FROM busybox\nRUN trap '' INT TERM; echo ready; while :; do sleep 1; done\n";
    build(&desk, "FROM 127.0.0.1:1/nosuch\n", &[])?.code(1)?;
    desk.write("context/Dockerfile", text)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let before = World::of(&desk)?;
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut going = Going::run(&desk, &["build", "context"])?;
        let err = going.0.stderr.take().context("no pipe")?;
        let mut lines = BufReader::new(err).lines();
        while lines.next().context("it has not begun")?? != "ready" {}
        going.signal(signal)?;
        let rest: Vec<String> = lines.collect::<Result<_, _>>()?;
        going.done("build")?.code(128 + signal as i32)?;
        let [told] = rest.as_slice() else {
            bail!("{rest:?}");
        };
        let step = "mydocker: build: Dockerfile: line 2: RUN trap '' INT TERM";
        ensure!(
            told.starts_with(step) && told.ends_with(": interrupted"),
            "{told}"
        );
        before.is_back(&desk)?;
    }
    Ok(())
}
