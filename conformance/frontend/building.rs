//! `build`: an image by a Dockerfile, from images that are there, without a network.

use super::Row;
use super::images_made::{Entry, archive};
use super::kit::{Desk, Done, Place, ended, finish, wait_for};
use super::world::World;
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Stdio;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "build: stages, files, variables, configuration",
        run: stages,
    },
    Row {
        name: "build: what is the same is not done again",
        run: again,
    },
    Row {
        name: "build: each step has its date, which the next build keeps",
        run: dates,
    },
    Row {
        name: "build: copying by patterns, with owners and modes, archives unpacked",
        run: copying,
    },
    Row {
        name: "build: a context leads nowhere else",
        run: hostile,
    },
    Row {
        name: "build: a step that fails is named, and leaves nothing",
        run: failing,
    },
    Row {
        name: "build: what a killed build has left goes with the next command",
        run: killed,
    },
    Row {
        name: "build: RUN --mount, and here-documents",
        run: mounts,
    },
    Row {
        name: "build: from standard input, a target, several names, triggers",
        run: inputs,
    },
];

/// Writes a Dockerfile into the directory `context`, and builds it.
pub(crate) fn build(desk: &Desk, text: &str, args: &[&str]) -> Result<Done> {
    desk.write("context/Dockerfile", text)?;
    let mut all = vec!["build"];
    all.extend(args);
    all.push("context");
    desk.go(&all)
}

/// What a program prints in a container of an image.
pub(crate) fn says(desk: &Desk, image: &str, script: &str, expected: &str) -> Result<()> {
    let done = desk
        .go(&["run", "-u", "0", image, "sh", "-c", script])?
        .ok()?;
    ensure!(done.line() == expected, "expected {expected:?}: {done:?}");
    Ok(())
}

fn stages(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("context/src/main.txt", "main\n")?;
    let text = r#"# syntax=docker/dockerfile:1
ARG BASE=busybox
FROM $BASE AS build
ARG WHO=world
ENV GREETING="hello $WHO"
WORKDIR /work
COPY src/ .
RUN echo "$GREETING" > greeting && \
    # between
    rm main.txt
FROM scratch AS never
COPY nosuch /
FROM busybox
LABEL one=1 "two words"='a b'
COPY --from=build --chown=7:8 /work /app/
RUN test ! -e /app/main.txt; rm /bin/vi
ENV PATH=/more:$PATH
USER 7
WORKDIR /app/sub
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1m CMD true
ENTRYPOINT ["cat"]
CMD ["/app/greeting"]
"#;
    let done = build(
        &desk,
        text,
        &["-t", "app:1", "-t", "other", "--build-arg", "WHO=you"],
    )?
    .ok()?;
    let image = desk.inspect("app:1", "{{.Id}}")?;
    ensure!(done.line() == image, "{image}: {done:?}");
    ensure!(desk.inspect("other", "{{.Id}}")? == image);
    ensure!(
        !done.err.contains("nosuch"),
        "a stage that nobody needs was built: {done:?}"
    );
    desk.go(&["run", "app:1"])?.ok()?.says("hello you")?;
    for (template, expected) in [
        ("{{.Config.User}} {{.Config.WorkingDir}}", "7 /app/sub"),
        (
            "{{.Config.StopSignal}} {{json .Config.Cmd}}",
            "SIGINT [\"/app/greeting\"]",
        ),
        (
            "{{json .Config.ExposedPorts}}",
            "{\"53/udp\":{},\"80/tcp\":{}}",
        ),
        (
            "{{json .Config.Env}}",
            "[\"PATH=/more:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]",
        ),
        ("{{json .Config.Volumes}}", "{\"/data\":{}}"),
        (
            "{{json .Config.Labels}}",
            "{\"one\":\"1\",\"two words\":\"a b\"}",
        ),
        (
            "{{json .Config.Healthcheck.Test}}",
            "[\"CMD-SHELL\",\"true\"]",
        ),
    ] {
        let found = desk.inspect("app:1", template)?;
        ensure!(found == expected, "{template}: {found}");
    }
    let look = ["run", "-u", "0", "--entrypoint", "sh", "app:1", "-c"];
    let script = "stat -c %u:%g:%a /app /app/greeting /app/sub; ls /bin/vi 2>/dev/null; id -u";
    let done = desk.go(&[&look[..], &[script]].concat())?.ok()?;
    ensure!(done.out == "7:8:755\n7:8:644\n7:7:755\n0\n", "{done:?}");
    Ok(())
}

fn again(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let file = desk.write("context/file", "one")?;
    let text =
        "FROM busybox\nARG A\nRUN echo ran > /ran\nCOPY file /\nRUN cat file > copy\nENV x=y\n";
    let cached = |args: &[&str]| -> Result<(usize, String)> {
        let done = build(&desk, text, args)?.ok()?;
        let count = done
            .err
            .lines()
            .filter(|line| line.ends_with("CACHED"))
            .count();
        Ok((count, done.line().to_owned()))
    };
    let (count, first) = cached(&[])?;
    ensure!(count == 0, "{count} steps were done before");
    ensure!(cached(&[])? == (3, first.clone()));
    // Not by its time, but by its mode and its content.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(100);
    std::fs::File::options()
        .write(true)
        .open(&file)?
        .set_modified(later)?;
    ensure!(cached(&[])? == (3, first.clone()));
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600))?;
    let (count, id) = cached(&[])?;
    ensure!(count == 1 && id != first, "a mode: {count} {id}");
    desk.write("context/file", "two")?;
    ensure!(cached(&[])?.0 == 1);
    ensure!(cached(&["--build-arg", "A=1"])?.0 == 0, "a variable of RUN");
    let (count, id) = cached(&["--no-cache"])?;
    ensure!(count == 0, "{count}");
    says(&desk, &id, "cat /ran /copy", "ran\ntwo")?;
    // A build that ends elsewhere uses what it has in common with others.
    let done = build(
        &desk,
        "FROM busybox\nRUN echo ran > /ran\nRUN exit 3\n",
        &[],
    )?;
    ensure!(done.err.contains("CACHED"), "{done:?}");
    desk.go(&["builder", "prune", "-af"])?.ok()?;
    ensure!(cached(&[])?.0 == 0);
    let epoch = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=86400"];
    let (_, id) = cached(&epoch)?;
    ensure!(desk.inspect(&id, "{{.Created}}")?.starts_with("1970-01-02"));
    Ok(())
}

fn dates(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let base = build(&desk, "FROM busybox\nRUN touch /x\n", &["-t", "base"])?.ok()?;
    let base = desk.inspect(base.line(), "{{.Created}}")?;
    let made = |args: &[&str]| -> Result<(String, String)> {
        let id = build(&desk, "FROM base\nCMD true\n", args)?.ok()?;
        let created = desk.inspect(id.line(), "{{.Created}}")?;
        Ok((id.line().to_owned(), created))
    };
    let first = made(&[])?;
    ensure!(first.1 > base, "{first:?} {base}");
    let dates = ["history", "--human=false", "--format", "{{.CreatedAt}}"];
    let history = desk.go(&[&dates[..], &[first.0.as_str()]].concat())?.ok()?;
    let lines: Vec<&str> = history.out.lines().collect();
    ensure!(lines.len() > 1 && lines[0] != lines[1], "{lines:?}");
    ensure!(made(&[])? == first);
    // That of others is not left behind, nor ours taken away.
    desk.go(&["builder", "prune", "-f"])?.ok()?;
    ensure!(made(&[])? == first);
    let old = made(&["--build-arg", "SOURCE_DATE_EPOCH=86400"])?;
    ensure!(old.1.starts_with("1970-01-02"), "{old:?}");
    ensure!(made(&[])? == first);
    let anew = made(&["--no-cache"])?;
    ensure!(anew.1 > first.1 && anew.0 != first.0, "{anew:?} {first:?}");
    desk.go(&["rmi", "-f", &first.0, &old.0, &anew.0])?.ok()?;
    desk.go(&["builder", "prune", "-f"])?.ok()?;
    let steps = desk.root().join("build/steps");
    let count = std::fs::read_dir(&steps).map_or(0, Iterator::count);
    ensure!(
        count == 1,
        "{count} steps are kept, not the one of the base"
    );
    Ok(())
}

fn copying(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    for name in [
        "a.txt",
        "b.txt",
        "c.md",
        "dir/d.txt",
        "dir/deep/e.md",
        "out/f",
    ] {
        desk.write(&format!("context/{name}"), name)?;
    }
    desk.write("context/.dockerignore", "**/*.md\n!dir/deep/*.md\nout\n")?;
    archive(
        &desk.path("context/made.tar"),
        &[
            Entry::Dir("t"),
            Entry::File("t/x", 0o640, b"x"),
            Entry::Link("t/l", "x"),
        ],
    )?;
    let text = "FROM busybox\nRUN mkdir /real && ln -s /real /link && echo me:x:5:5::/: >> /etc/passwd\n\
                COPY *.txt *.md /many/\nCOPY dir /tree\nCOPY . /all/\nCOPY a.txt /link/\n\
                COPY --chmod=4711 --chown=me a.txt /made/by/name\nADD made.tar /archive\n\
                COPY made.tar /archive/\nCOPY nosuch* /\nCOPY --exclude=deep dir /less\n\
                COPY <<A <<\"B\" /docs/\n$HOME ${none:-x}\nA\n$HOME\nB\n";
    build(&desk, text, &["-t", "i"])?.ok()?;
    let script = "cd /; ls /many /tree /tree/deep /less /real; ls -A /all; \
                  stat -c %u:%g:%a /made/by/name /made/by /archive/t/x; readlink /archive/t/l; \
                  ls /archive; cat /docs/A /docs/B";
    let expected = "/less:\nd.txt\n\n/many:\na.txt\nb.txt\n\n/real:\na.txt\n\n/tree:\nd.txt\ndeep\n\n\
                    /tree/deep:\ne.md\n.dockerignore\nDockerfile\na.txt\nb.txt\ndir\nmade.tar\n\
                    5:5:4711\n5:5:755\n0:0:640\nx\nmade.tar\nt\n x\n$HOME";
    says(&desk, "i", script, expected)?;
    for (line, why) in [
        ("COPY c.md /", "c.md: not found"),
        ("COPY a.txt b.txt /x", "ends in a slash"),
        ("COPY dir /bin/sh", "not a directory"),
        ("COPY --chown=nobody2 a.txt /", "nobody2"),
        ("COPY --from=127.0.0.1:1/nosuch /a /", "nosuch"),
        ("ADD http://localhost/x /", "http://localhost/x"),
    ] {
        build(&desk, &format!("FROM busybox\n{line}\n"), &[])?.fails(1, &[why, "line 2"])?;
    }
    Ok(())
}

fn hostile(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("secret", "secret")?;
    desk.write("context/a", "a")?;
    for (name, target) in [
        ("absolute", desk.text("secret")),
        ("relative", "../secret".to_owned()),
        ("up", "..".to_owned()),
    ] {
        symlink(target, desk.path(&format!("context/{name}")))?;
    }
    for source in [
        "absolute",
        "relative",
        "up/secret",
        "../secret",
        "a/../../secret",
        "*/secret",
    ] {
        let text = format!("FROM busybox\nCOPY {source} /stolen/\n");
        let done = build(&desk, &text, &["-t", "i"])?;
        if done.code == 0 {
            says(&desk, "i", "cat /stolen/* 2>/dev/null; true", "")?;
        }
    }
    // Links in the image lead nowhere else either, and those of the context stay links.
    let outside = desk.path("outside");
    std::fs::create_dir(&outside)?;
    let text = format!(
        "FROM busybox\nRUN ln -s {0} /out && ln -s ../../../..{0} /rel\nCOPY a /out/\n\
         COPY a /rel/b\nWORKDIR /out/dir\nCOPY . /all/\n",
        outside.display()
    );
    let done = build(&desk, &text, &["-t", "i"])?;
    ensure!(
        std::fs::read_dir(&outside)?.next().is_none(),
        "the host was written to: {done:?}"
    );
    let text = "FROM busybox\nCOPY . /all/\n";
    build(&desk, text, &["-t", "i"])?.ok()?;
    says(&desk, "i", "readlink /all/relative", "../secret")?;
    // Nor does an archive.
    archive(
        &desk.path("context/bad.tar"),
        &[
            Entry::Link("l", "/"),
            Entry::File("l/escaped-by-add", 0o644, b"x"),
        ],
    )?;
    build(&desk, "FROM busybox\nADD bad.tar /x/\n", &["-t", "i"])?;
    ensure!(!std::path::Path::new("/escaped-by-add").exists());
    Ok(())
}

fn failing(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    // What every build leaves: an empty directory for what is kept.
    build(&desk, "FROM 127.0.0.1:1/nosuch\n", &[])?.fails(
        1,
        &["line 1: FROM 127.0.0.1:1/nosuch", "connection refused"],
    )?;
    let before = World::of(&desk)?;
    let text = "FROM busybox\n\nRUN echo told; touch /x; exit 7\n";
    let done = build(&desk, text, &["-t", "i"])?;
    ensure!(done.err.contains("told\n"), "{done:?}");
    done.fails(
        1,
        &[
            "Dockerfile: line 3: RUN echo told; touch /x; exit 7",
            "exit code 7",
        ],
    )?;
    before.is_back(&desk)?;
    let done = build(&desk, "FROM busybox\nRUN echo told; nosuch\n", &["-q"])?;
    ensure!(
        done.err.contains("told\n"),
        "with -q it is told at the end: {done:?}"
    );
    done.fails(1, &["line 2", "127"])?;
    for (text, why) in [
        ("FROM busybox\nRUN [\"/nosuch\"]\n", "/nosuch"),
        ("FROM busybox\nFRON x\n", "line 2: FRON"),
        ("FROM scratch\nRUN x\n", "nothing to run"),
        ("FROM scratch\nENV a=b\n", "no files"),
        ("FROM busybox\nRUN --mount=type=ssh x\n", "ssh"),
        (
            "FROM busybox\nRUN --mount=type=secret,id=a,required true\n",
            "--secret id=a",
        ),
        ("FROM busybox\nSTOPSIGNAL NOPE\n", "NOPE"),
        ("FROM busybox\nUSER nosuch\nRUN id\n", "nosuch"),
        ("", "no FROM"),
    ] {
        build(&desk, text, &[])?.fails(1, &[why])?;
    }
    for (args, why) in [
        (&["build", "nosuch"][..], "nosuch"),
        (&["build", "-t", "Bad Name", "context"], "Bad Name"),
        (&["build", "--network", "x", "context"], "--network x"),
        (&["build", "-f", "nosuch", "context"], "nosuch"),
        (&["build", "--target", "x", "context"], "--target x"),
        (
            &["build", "https://localhost/x.git"],
            "https://localhost/x.git",
        ),
    ] {
        desk.write("context/Dockerfile", "FROM busybox\n")?;
        desk.go(args)?.fails(1, &[why])?;
    }
    before.is_back(&desk)
}

fn killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    build(&desk, "FROM nosuch\n", &[])?.code(1)?;
    let before = World::of(&desk)?;
    for signal in ["KILL", "INT"] {
        desk.write(
            "context/Dockerfile",
            "FROM busybox\nRUN touch /x; exec sleep 1000\n",
        )?;
        let mut command = desk.command(desk.program());
        command.args(["build", "context"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let container = wait_for("the step runs", || {
            let done = desk
                .go(&["ps", "-q", "--no-trunc", "--filter", "status=running"])?
                .ok()?;
            let id = done.line().to_owned();
            Ok((!id.is_empty()).then_some(id))
        })?;
        let pid = child.id().to_string();
        let kill = finish(
            desk.command("kill".as_ref()).args(["-s", signal, &pid]),
            "kill",
            "",
        )?;
        kill.ok()?;
        ended(child.id() as i32, "build")?;
        let status = child.wait().context("wait")?;
        ensure!(
            signal == "KILL" || status.code() == Some(130),
            "{signal}: {status}"
        );
        let rows = desk.rows()?;
        ensure!(rows.is_empty(), "{signal}: {container} is left: {rows:?}");
        desk.go(&["images"])?.ok()?;
        before.is_back(&desk).context(signal)?;
    }
    Ok(())
}

fn mounts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("context/a/file", "of the context")?;
    desk.write("context/hidden", "x")?;
    desk.write("context/.dockerignore", "hidden\n")?;
    desk.write("token", "sesame")?;
    let text = r#"FROM busybox AS one
RUN echo made > /made
FROM busybox
WORKDIR /w
ARG DIR=a
RUN --mount=target=/ctx --mount=source=$DIR,target=rel,rw \
    cat /ctx/a/file rel/file && ! ls /ctx/hidden && touch rel/lost && ! touch /ctx/x
RUN --mount=from=one,source=/made,target=/made cat /made
RUN --mount=type=secret,id=token cat /run/secrets/token > /tmp/seen && rm /tmp/seen
RUN --mount=type=secret,id=token,env=TOKEN test "$TOKEN" = sesame
RUN --mount=type=secret,id=other test ! -e /run/secrets/other
RUN --mount=type=cache,target=/cache echo more >> /cache/log; wc -l < /cache/log > /lines
RUN --mount=type=tmpfs,target=/scratch,size=1m touch /scratch/x
RUN <<EOF
set -e
echo "in $(pwd)"
EOF
RUN <<EOF cat > /doc && cat <<TWO >> /doc
one
EOF
two
TWO
RUN <<EOF
#!/bin/cat
a script
EOF
SHELL ["/bin/sh", "-e", "-c"]
RUN false || echo $0 > /shell
"#;
    let args = ["-t", "i", "--secret", "id=token,src=token", "--no-cache"];
    let done = build(&desk, text, &args)?.ok()?;
    for line in ["of the context", "made", "in /w", "a script"] {
        ensure!(done.err.contains(line), "no {line:?}: {done:?}");
    }
    let script = "ls -A /w; ls -d /run /ctx /cache /scratch /made 2>/dev/null; cat /doc /lines";
    says(&desk, "i", script, "one\ntwo\n1")?;
    build(&desk, text, &args)?.ok()?;
    says(&desk, "i", "cat /lines", "2")?;
    let layers = desk.root().join("layers");
    let mut grep = desk.command("grep".as_ref());
    let found = finish(grep.args(["-rl", "sesame"]).arg(layers), "grep", "")?;
    ensure!(found.code == 1, "the secret is in the image: {found:?}");
    Ok(())
}

fn inputs(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("context/a", "a")?;
    // A Dockerfile alone, one for a context, and a context with its own.
    let done = desk.go_with(
        &["build", "-q", "-t", "one", "-"],
        "FROM busybox\nRUN echo 1 > /n\n",
    )?;
    ensure!(done.clone().ok()?.err.is_empty(), "{done:?}");
    says(&desk, "one", "cat /n", "1")?;
    let text = "FROM busybox\nCOPY a /\n";
    desk.go_with(&["build", "-"], text)?
        .fails(1, &["no context"])?;
    desk.go_with(&["build", "-f", "-", "-t", "two", "context"], text)?
        .ok()?;
    says(&desk, "two", "cat /a", "a")?;
    desk.write("context/sub/Other", "FROM busybox\nCOPY a /b\n")?;
    let mut tar = desk.command("sh".as_ref());
    let program = desk.program().display().to_string();
    let line = format!("tar cz -C context . | {program} build -t three -f sub/Other -");
    finish(tar.args(["-c", &line]), "tar | build", "")?.ok()?;
    says(&desk, "three", "cat /b", "a")?;
    // Only what a target needs; its number is as good as its name.
    let text = "FROM busybox AS one\nRUN echo one > /n\nFROM one AS two\nRUN exit 1\n";
    let iid = desk.text("iid");
    let done = build(&desk, text, &["--target", "ONE", "--iidfile", &iid, "-q"])?.ok()?;
    ensure!(std::fs::read_to_string(&iid)? == done.line());
    ensure!(build(&desk, text, &["--target", "0", "-q"])?.ok()?.out == done.out);
    // Triggers of an image run in those that are built on it, and not again in theirs.
    let text = "FROM busybox\nONBUILD COPY a /trigger\nONBUILD RUN echo $x >> /trigger\n";
    build(&desk, text, &["-t", "base"])?.ok()?;
    let done = build(
        &desk,
        "FROM base\nARG x=1\nRUN cat /trigger\n",
        &["-t", "child"],
    )?
    .ok()?;
    ensure!(done.err.contains("ONBUILD COPY a /trigger"), "{done:?}");
    says(&desk, "child", "cat /trigger", "a")?;
    ensure!(desk.inspect("child", "{{json .Config.OnBuild}}")? == "null");
    let done = build(
        &desk,
        "FROM busybox\nRUN id -u\n",
        &["--build-arg", "nobody=1"],
    )?
    .ok()?;
    ensure!(
        done.err.contains("nobody"),
        "a variable that no ARG names is told: {done:?}"
    );
    let done = desk
        .go(&["image", "build", "--memory", "64m", "context"])?
        .ok()?;
    ensure!(done.err.contains("CACHED"), "{done:?}");
    Ok(())
}
