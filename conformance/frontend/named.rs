//! Volumes with and without a name: who has them, what is in them, and when they go.

use super::Row;
use super::kit::{Desk, Place};
use super::knowing::actions;
use super::world::World;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "volume create, ls, inspect, rm",
        run: verbs,
    },
    Row {
        name: "-v NAME:/to: files outlive containers, and no volume in use is removed",
        run: by_name,
    },
    Row {
        name: "-v /to: an anonymous volume goes with --rm and rm -v, and stays with rm",
        run: anonymous,
    },
    Row {
        name: "--volumes-from a container, read-only too",
        run: from_container,
    },
    Row {
        name: "--mount type=volume: labels, subpath, and no way out of the volume",
        run: mount_fields,
    },
    Row {
        name: "commit, diff and cp leave volumes alone, exec and ps see them",
        run: seen,
    },
    Row {
        name: "volume prune, system prune --volumes, system df",
        run: pruned,
    },
    Row {
        name: "volume rm while containers start",
        run: raced,
    },
];

impl Desk {
    /// `volume ls -q`, with further arguments.
    pub(crate) fn volumes(&self, more: &[&str]) -> Result<BTreeSet<String>> {
        let done = self.go(&[&["volume", "ls", "-q"], more].concat())?.ok()?;
        Ok(done.out.lines().map(str::to_owned).collect())
    }

    /// Where the files of a volume are.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.root().join("volumes").join(name).join("_data")
    }
}

pub(crate) fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

fn verbs(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    ensure!(desk.volumes(&[])?.is_empty());
    desk.go(&["volume", "create", "first"])?
        .ok()?
        .says("first")?;
    // Once more is the same.
    desk.go(&["volume", "create", "first"])?
        .ok()?
        .says("first")?;
    let before = World::of(&desk)?;
    desk.go(&["volume", "create", "--label", "k=v", "second"])?
        .ok()?;
    let id = desk.go(&["volume", "create"])?.ok()?;
    ensure!(id.line().len() == 64, "{id:?}");
    let all = names(&["first", "second", id.line()]);
    ensure!(desk.volumes(&[])? == all && desk.volumes(&["-f", "dangling=true"])? == all);
    ensure!(desk.volumes(&["--filter", "label=k=v"])? == names(&["second"]));
    ensure!(desk.volumes(&["--filter", "name=irs"])? == names(&["first"]));
    let table = desk.go(&["volume", "ls", "-f", "name=first"])?.ok()?;
    ensure!(
        table.out == "DRIVER   VOLUME NAME\nlocal    first\n",
        "{table:?}"
    );
    let format = "{{.Name}} {{.Labels}} {{.Mountpoint}}";
    let line = format!("second k=v {}\n", desk.data("second").display());
    let listed = desk
        .go(&["volume", "list", "-f", "label=k", "--format", format])?
        .ok()?;
    ensure!(listed.out == line, "{listed:?}");
    for verb in [
        &["volume", "inspect"][..],
        &["inspect", "--type", "volume"],
        &["inspect"],
    ] {
        let json = [
            verb,
            &[
                "-f",
                "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels.k}}",
                "second",
            ],
        ]
        .concat();
        desk.go(&json)?.ok()?.says("second local local v")?;
    }
    mistakes(&desk)?;
    desk.go(&["volume", "rm", "-f", "nosuch"])?.ok()?;
    // One that fails does not keep the others from it.
    let done = desk
        .go(&["volume", "rm", "second", "nosuch", id.line()])?
        .code(1)?;
    ensure!(done.out == format!("second\n{}\n", id.line()), "{done:?}");
    ensure!(desk.volumes(&[])? == names(&["first"]));
    before.is_back(&desk)
}

fn mistakes(desk: &Desk) -> Result<()> {
    // As Docker's: a list of those that there are.
    let done = desk.go(&["volume", "inspect", "nosuch"])?.code(1)?;
    ensure!(
        done.out == "[]\n" && done.err.contains("no such volume: nosuch"),
        "{done:?}"
    );
    for (args, code, word) in [
        (&["volume", "rm", "nosuch"][..], 1, "no such volume: nosuch"),
        (&["volume", "rm", "../volumes"], 1, "no such volume"),
        (&["volume", "rm", ""], 1, "no such volume"),
        (&["volume", "create", "a/b"], 125, "a/b"),
        (&["volume", "create", "x"], 125, "two letters"),
        (&["volume", "create", "-d", "nfs", "third"], 125, "nfs"),
        (
            &["volume", "create", "--label", "k=w", "second"],
            1,
            "other labels",
        ),
        (
            &["volume", "create", "-o", "type=tmpfs", "second"],
            1,
            "other options",
        ),
        (&["volume", "ls", "-f", "nosuch=1"], 125, "nosuch=1"),
        (
            &["volume", "prune", "--filter", "nosuch=1"],
            125,
            "nosuch=1",
        ),
        (&["volume", "frobnicate"], 125, "volume"),
    ] {
        desk.go(args)?.fails(code, &[word])?;
    }
    Ok(())
}

fn by_name(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let write = "echo $(hostname) > /to/f; ls -ld /to";
    let done = desk
        .go(&[
            "run", "-h", "one", "-v", "data:/to", "busybox", "sh", "-c", write,
        ])?
        .ok()?;
    ensure!(done.out.starts_with("drwxr-xr-x"), "{done:?}");
    desk.go(&["run", "-v", "data:/other", "busybox", "cat", "/other/f"])?
        .ok()?
        .says("one")?;
    let script = "cat /to/f; touch /to/x";
    let done = desk
        .go(&["run", "-v", "data:/to:ro", "busybox", "sh", "-c", script])?
        .code(1)?;
    ensure!(
        done.out == "one\n" && done.err.contains("Read-only"),
        "{done:?}"
    );
    desk.start(&["--name", "a", "-v", "data:/to", "busybox", "top"])?;
    desk.go(&["create", "--name", "b", "-v", "data:/to", "busybox"])?
        .ok()?;
    for force in [
        &["volume", "rm", "data"][..],
        &["volume", "rm", "-f", "data"],
    ] {
        desk.go(force)?
            .fails(1, &["the volume data is in use by", "a", "b"])?;
    }
    ensure!(desk.volumes(&["-f", "dangling=false"])? == names(&["data"]));
    desk.go(&["rm", "-f", "-v", "a"])?.ok()?;
    desk.go(&["volume", "remove", "data"])?
        .fails(1, &["in use by b"])?;
    desk.go(&["start", "-a", "b"])?.ok()?;
    desk.go(&["rm", "-v", "b"])?.ok()?;
    ensure!(std::fs::read_to_string(desk.data("data").join("f"))? == "one\n");
    desk.go(&["volume", "rm", "data"])?.ok()?.says("data")?;
    ensure!(!desk.data("data").exists());
    Ok(())
}

fn anonymous(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "-v", "/to1", "busybox", "touch", "/to1/f"])?
        .ok()?;
    let before = World::of(&desk)?;
    // In the foreground, and with --rm, a container goes with its volumes.
    desk.tty(&["run", "-ti", "-v", "/to1", "ls", "/to1"])?
        .ok()?;
    desk.go(&[
        "run", "-d", "--rm", "--name", "brief", "-v", "/to1", "busybox", "true",
    ])?
    .ok()?;
    super::wait_for("it is gone", || {
        Ok(desk.row("brief")?.is_none().then_some(()))
    })?;
    // A start that fails leaves none.
    desk.go(&["run", "-v", "/to1", "busybox", "nosuch"])?
        .code(127)?;
    before.is_back(&desk)?;
    desk.start(&[
        "--name",
        "c",
        "-v",
        "/to1",
        "-v",
        "data:/to2",
        "busybox",
        "touch",
        "/to1/f",
    ])?;
    desk.wait("c")?;
    let name = desk.inspect("c", "{{(index .Mounts 0).Name}}")?;
    ensure!(desk.volumes(&[])? == names(&["data", &name]));
    let label = desk.inspect(&name, "{{json .Labels}}")?;
    ensure!(label == r#"{"com.docker.volume.anonymous":""}"#, "{label}");
    // It is the same one in the next life.
    ensure!(desk.data(&name).join("f").exists());
    desk.go(&["rm", "c"])?.ok()?;
    ensure!(
        desk.volumes(&[])?.contains(&name),
        "rm without -v took the volume"
    );
    desk.start(&[
        "--name",
        "d",
        "-v",
        "/to1",
        "-v",
        "data:/to2",
        "busybox",
        "true",
    ])?;
    desk.wait("d")?;
    desk.go(&["rm", "-v", "d"])?.ok()?;
    ensure!(
        desk.volumes(&[])? == names(&["data", &name]),
        "{:?}",
        desk.volumes(&[])
    );
    desk.go(&["volume", "rm", "data", &name])?.ok()?;
    before.is_back(&desk)
}

fn from_container(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("from/f", "host\n")?;
    let from = format!("{}:/host:ro", desk.text("from"));
    let make = "echo named > /named/f; echo anon > /anon/f";
    let script = ["busybox", "sh", "-c", make];
    desk.start(
        &[
            &[
                "--name",
                "one",
                "-v",
                &from,
                "-v",
                "named:/named",
                "-v",
                "/anon",
            ],
            &script[..],
        ]
        .concat(),
    )?;
    desk.wait("one")?;
    let read = "cat /host/f /named/f /anon/f; touch /host/x; touch /named/x";
    let script = ["busybox", "sh", "-c", read];
    let done = desk
        .go(&[&["run", "--volumes-from", "one"], &script[..]].concat())?
        .ok()?;
    ensure!(
        done.out == "host\nnamed\nanon\n" && done.err.contains("/host/x: Read-only"),
        "{done:?}"
    );
    let done = desk
        .go(&[&["run", "--volumes-from", "one:ro"], &script[..]].concat())?
        .code(1)?;
    ensure!(done.err.contains("/named/x: Read-only"), "{done:?}");
    // A flag of the new container's own counts.
    let args = [
        "run",
        "--volumes-from",
        "one",
        "--tmpfs",
        "/named",
        "busybox",
        "ls",
        "/named",
    ];
    let done = desk.go(&args)?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    desk.go(&["run", "--volumes-from", "nosuch", "busybox", "true"])?
        .fails(125, &["nosuch"])?;
    desk.go(&["run", "--volumes-from", "one:xx", "busybox", "true"])?
        .fails(125, &["one:xx"])?;
    // The anonymous one is there until its last container goes.
    desk.go(&[
        "create",
        "--name",
        "two",
        "--volumes-from",
        "one",
        "busybox",
    ])?
    .ok()?;
    let anonymous = desk.inspect("two", "{{range .Mounts}}{{.Name}} {{end}}")?;
    desk.go(&["rm", "-v", "one"])?.ok()?;
    ensure!(
        desk.volumes(&[])?.len() == 2,
        "{anonymous}: {:?}",
        desk.volumes(&[])
    );
    desk.go(&["rm", "-v", "two"])?.ok()?;
    ensure!(desk.volumes(&[])? == names(&["named"]));
    Ok(())
}

fn mount_fields(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mount = "type=volume,source=data,target=/to,volume-label=k=v";
    let script =
        "mkdir -p /to/a/b; echo part > /to/a/b/f; echo file > /to/file; echo whole > /to/f";
    desk.go(&["run", "--mount", mount, "busybox", "sh", "-c", script])?
        .ok()?;
    ensure!(desk.inspect("data", "{{.Labels.k}}")? == "v");
    let part = "source=data,target=/to,readonly,volume-subpath=a/b";
    let script = "cat /to/f; touch /to/x";
    let done = desk
        .go(&["run", "--mount", part, "busybox", "sh", "-c", script])?
        .code(1)?;
    ensure!(
        done.out == "part\n" && done.err.contains("Read-only"),
        "{done:?}"
    );
    let part = "source=data,target=/to/a.file,volume-subpath=file";
    desk.go(&["run", "--mount", part, "busybox", "cat", "/to/a.file"])?
        .ok()?
        .says("file")?;
    // A container that has the volume puts a link where the part is to be.
    desk.write("secret", "of the host\n")?;
    symlink(desk.path(""), desk.data("data").join("out"))?;
    symlink(
        "../../../../../../../../../..",
        desk.data("data").join("up"),
    )?;
    let out = "source=data,target=/to,volume-subpath=out";
    desk.go(&["run", "--mount", out, "busybox", "cat", "/to/secret"])?
        .fails(125, &["volume data"])?;
    let up = "source=data,target=/to,volume-subpath=up";
    desk.go(&["run", "--mount", up, "busybox", "cat", "/to/f"])?
        .ok()?
        .says("whole")?;
    // Started again it is found again.
    desk.start(&[
        "--name",
        "c",
        "--mount",
        part,
        "busybox",
        "cat",
        "/to/a.file",
    ])?;
    desk.wait("c")?;
    desk.go(&["start", "-a", "c"])?.ok()?.says("file")?;
    desk.go(&["rm", "c"])?.ok()?;
    ensure!(std::fs::read_to_string(desk.data("data").join("file"))? == "file\n");
    for bad in [
        "source=data,target=/to,volume-subpath=nosuch",
        "source=data,target=/to,volume-subpath=../x",
        "source=data,target=/to,bind-propagation=shared",
        "source=data,target=/to,volume-driver=nfs",
        "type=tmpfs,target=/to,volume-nocopy",
    ] {
        desk.go(&["run", "--mount", bad, "busybox", "true"])?
            .fails(125, &[])?;
    }
    ensure!(desk.rows()?.is_empty());
    Ok(())
}

fn seen(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name", "c", "-v", "data:/to", "-v", "/anon", "busybox", "top",
    ])?;
    desk.go(&["exec", "c", "touch", "/to/in", "/anon/in", "/made"])?
        .ok()?;
    desk.go(&["exec", "c", "ls", "/to"])?.ok()?.says("in")?;
    desk.go(&["diff", "c"])?.ok()?.says("A /made")?;
    desk.go(&["commit", "c", "image"])?.ok()?;
    let done = desk.go(&["run", "image", "find", "/made", "/to", "/anon"])?;
    ensure!(
        !done.out.contains("/in") && done.out.starts_with("/made\n"),
        "{done:?}"
    );
    // For cp they are there as for the program, whether or not that runs.
    desk.go(&["cp", "c:/to/in", "copy"])?.ok()?;
    desk.go(&["stop", "-t", "0", "c"])?.ok()?;
    desk.go(&["cp", "c:/to/in", "again"])?.ok()?;
    let id = desk.inspect("c", "{{.Id}}")?;
    for value in ["data", "/to", "/anon"] {
        let filter = format!("volume={value}");
        let done = desk
            .go(&["ps", "-q", "--no-trunc", "--filter", &filter])?
            .ok()?;
        ensure!(done.line() == id, "{done:?}");
    }
    let done = desk
        .go(&["ps", "--format", "{{.Mounts}} {{.LocalVolumes}}"])?
        .ok()?;
    ensure!(
        done.out.starts_with("data,") && done.line().ends_with(" 2"),
        "{done:?}"
    );
    let format = "{{range .Mounts}}{{.Type}} {{.Driver}} {{.RW}} {{.Propagation}}:{{end}}";
    ensure!(desk.inspect("c", format)? == "volume local true :volume local true :");
    Ok(())
}

fn pruned(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let fill = "dd if=/dev/zero of=/to/big bs=1M count=3 2>/dev/null";
    desk.start(&["--name", "c", "-v", "used:/to", "busybox", "sh", "-c", fill])?;
    desk.wait("c")?;
    desk.go(&["run", "-v", "idle:/to", "busybox", "sh", "-c", fill])?
        .ok()?;
    let id = desk.go(&["volume", "create"])?.ok()?.line().to_owned();
    desk.go(&["volume", "create", "--label", "keep", "kept"])?
        .ok()?;
    let row = "{{.Type}} {{.TotalCount}} {{.Active}} {{.Reclaimable}}";
    let done = desk.go(&["system", "df", "--format", row])?.ok()?;
    let line = done
        .out
        .lines()
        .find(|line| line.starts_with("Local Volumes"));
    let line = line.with_context(|| format!("{done:?}"))?;
    ensure!(
        line.starts_with("Local Volumes 4 1 3.") && line.contains("MB"),
        "{line}"
    );
    let done = desk.go(&["volume", "prune"])?.ok()?;
    ensure!(
        done.out.contains("[y/N]") && desk.volumes(&[])?.len() == 4,
        "{done:?}"
    );
    let done = desk.go(&["volume", "prune", "-f"])?.ok()?;
    ensure!(
        done.out
            .starts_with(&format!("Deleted Volumes:\n{id}\n\nTotal")),
        "{done:?}"
    );
    let done = desk
        .go(&["volume", "prune", "-af", "--filter", "label!=keep"])?
        .ok()?;
    let start = "Deleted Volumes:\nidle\n\nTotal reclaimed space: 3";
    ensure!(done.out.starts_with(start), "{done:?}");
    desk.go(&["volume", "create"])?.ok()?;
    desk.go(&["system", "prune", "-f"])?.ok()?;
    ensure!(desk.volumes(&[])?.len() == 3);
    desk.go(&["system", "prune", "-f", "--volumes"])?.ok()?;
    ensure!(desk.volumes(&[])? == names(&["kept", "used"]));
    desk.go(&["volume", "prune", "-f", "--filter", "all=true"])?
        .ok()?;
    ensure!(desk.volumes(&[])?.is_empty());
    let found = actions(&desk, &["--filter", "volume=idle"])?;
    ensure!(found == ["create", "destroy"], "{found:?}");
    Ok(())
}

fn raced(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let check = || -> Result<()> {
        for _ in 0..15 {
            // The volume is there for the whole life of the container, whoever removes it before.
            // Others have it too, at the same time.
            let script = "m=/etc/mark.$(hostname); test -e /etc/passwd && echo x > $m && cat $m";
            desk.go(&["run", "-v", "data:/etc", "busybox", "sh", "-c", script])?
                .ok()?
                .says("x")?;
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let starters: Vec<_> = (0..3).map(|_| scope.spawn(check)).collect();
        let mut removed = 0;
        while !starters.iter().all(|one| one.is_finished()) {
            let done = desk.go(&["volume", "rm", "data"])?;
            let known = ["in use by", "no such volume"]
                .iter()
                .any(|why| done.err.contains(why));
            ensure!(done.code == 0 || (done.code == 1 && known), "{done:?}");
            removed += usize::from(done.code == 0);
        }
        for one in starters {
            one.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        // Not for lack of opportunity.
        ensure!(removed > 0, "it was never removed");
        Ok(())
    })
}
