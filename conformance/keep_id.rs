//! `--userns keep-id` of mydocker, for an ordinary user.

use crate::Test;
use crate::frontend::world::kernel_is;
use crate::frontend::{
    Desk, Done, Place, building, finish, layouts, monitor_of, skip, strike, wait_for,
};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    type Check = fn(&Place) -> Result<()>;
    let all: [(&str, Check); 7] = [
        ("user: keep-id: the ids are those of outside", ids),
        ("user: keep-id: who else runs in it", others),
        (
            "user: keep-id: commit, export, cp and volumes have the container's owners",
            owners,
        ),
        ("user: keep-id: layers of several images", layers),
        (
            "user: keep-id: with every mydocker killed it is found",
            all_killed,
        ),
        ("user: keep-id: what cannot be is told", told),
        (
            "user: keep-id: idmap alone maps as the container does",
            idmapped,
        ),
    ];
    let test = |(name, run): (&str, Check)| Test {
        name: name.to_owned(),
        run: Box::new(run),
    };
    all.into_iter().map(test).collect()
}

fn me() -> (u32, u32) {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    (uid.as_raw(), gid.as_raw())
}

/// Runs a script in a new container with the caller's ids.
fn run(desk: &Desk, options: &[&str], script: &str) -> Result<Done> {
    let words = [
        &["run", "-q", "--userns", "keep-id"],
        options,
        &["busybox", "sh", "-c", script],
    ];
    desk.go(&words.concat())?.ok()
}

fn ids(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (uid, gid) = me();
    let from = desk.text("from");
    std::fs::create_dir(&from)?;
    std::fs::write(desk.path("from/mine"), "")?;
    let volume = format!("{from}:/home/me");
    let script = "id -u; id -g; stat -c %u:%g /home/me/mine / /etc/passwd /etc/hosts; \
                  touch /home/me/made; chmod 600 /home/me/made; touch /bin/no 2>/dev/null || echo no; \
                  tr -s ' ' </proc/self/uid_map";
    let done = run(&desk, &["-v", &volume], script)?;
    let expected = format!(
        "{uid}\n{gid}\n{uid}:{gid}\n0:0\n0:0\n0:0\nno\n 0 1 {uid}\n {uid} 0 1\n {next} {next} ",
        next = uid + 1
    );
    ensure!(done.out.starts_with(&expected), "{done:?}");
    let made = desk.path("from/made").metadata()?;
    ensure!((made.uid(), made.gid()) == (uid, gid), "{made:?}");
    // Layers that are there once are not unpacked again.
    ensure!(!run(&desk, &[], "true")?.err.contains("unpacking"));
    // Others than those of outside.
    let kept = ["run", "--userns", "keep-id:uid=33,gid=44", "-v", &volume];
    let script = "id -u; id -g; stat -c %u:%g /home/me/mine";
    let done = desk.go(&[&kept[..], &["busybox", "sh", "-c", script]].concat())?;
    done.ok()?.says("33\n44\n33:44")?;
    // As many as there are, and the caller's far above them.
    let kept = ["run", "--userns", "keep-id:uid=1999999999", "busybox"];
    desk.go(&[&kept[..], &["id", "-u"]].concat())?
        .ok()?
        .says("1999999999")?;
    Ok(())
}

fn others(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (uid, gid) = me();
    let name = nix::unistd::User::from_uid(uid.into())?
        .context("the caller has no name")?
        .name;
    run(&desk, &["-w", "/tmp"], "id -un; id -gn; echo $HOME")?
        .says(&format!("{name}\n{name}\n/tmp"))?;
    run(&desk, &["-u", &name], "id -u")?.says(&uid.to_string())?;
    run(
        &desk,
        &["-u", "0"],
        "id -u; touch /bin/made; stat -c %u /bin/made",
    )?
    .says("0\n0")?;
    run(&desk, &["-u", "5:6"], "id -u; id -g")?.says("5\n6")?;
    for options in [
        &["--network", "host"][..],
        &[
            "--pid",
            "host",
            "--ipc",
            "host",
            "--uts",
            "host",
            "--cgroupns",
            "host",
        ],
        &["--init", "--read-only", "--tmpfs", "/tmp"],
        &["--privileged"],
        &["-t"],
    ] {
        let out = run(&desk, options, "id -u")?.out;
        ensure!(out.trim() == uid.to_string(), "{options:?}: {out:?}");
    }
    building::build(&desk, "FROM busybox\nUSER 7:8\n", &["-t", "other"])?.ok()?;
    desk.go(&["run", "--userns", "keep-id", "other", "id", "-u"])?
        .ok()?
        .says("7")?;
    desk.start(&[
        "--name", "k", "--userns", "keep-id", "busybox", "sleep", "1000",
    ])?;
    desk.go(&["exec", "k", "sh", "-c", "id -u; id -g; id -un"])?
        .ok()?
        .says(&format!("{uid}\n{gid}\n{name}"))?;
    desk.go(&["exec", "-u", "0", "k", "id", "-u"])?
        .ok()?
        .says("0")?;
    ensure!(desk.inspect("k", "{{.HostConfig.UsernsMode}}")? == "keep-id");
    // It is one of the user's containers as the others are.
    desk.start(&["--name", "plain", "busybox", "sleep", "1000"])?;
    for name in ["k", "plain"] {
        let top = desk.go(&["top", name])?.ok()?;
        ensure!(top.out.contains("sleep 1000"), "{top:?}");
        desk.go(&["restart", "-t", "0", name])?.ok()?;
        desk.go(&["exec", name, "true"])?.ok()?;
        desk.go(&["stop", "-t", "0", name])?.ok()?;
    }
    Ok(())
}

/// The owner of a file in an archive.
fn owner_in(archive: &[u8], path: &str) -> Result<(u64, u64)> {
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries()? {
        let entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./") == path {
            return Ok((entry.header().uid()?, entry.header().gid()?));
        }
    }
    anyhow::bail!("there is no {path}")
}

fn owners(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let (uid, gid) = me();
    let mine = (u64::from(uid), u64::from(gid));
    let kept = ["--name", "k", "--userns", "keep-id", "-v", "vol:/etc"];
    desk.start(&[&kept[..], &["busybox", "sleep", "1000"]].concat())?;
    // What the image has there is root's in the volume, too.
    desk.go(&["exec", "k", "stat", "-c", "%u", "/etc", "/etc/shadow"])?
        .ok()?
        .says("0\n0")?;
    let make = "mkdir /d; touch /d/root /d/other; chown 7:8 /d/other; chmod 777 /d";
    desk.go(&["exec", "-u", "0", "k", "sh", "-c", make])?.ok()?;
    desk.go(&["exec", "k", "touch", "/d/mine"])?.ok()?;
    let archive = desk.path("k.tar");
    desk.go(&["export", "-o", &desk.text("k.tar"), "k"])?.ok()?;
    let bytes = std::fs::read(&archive)?;
    let copied = desk.path("copied.tar");
    let mut command = desk.command(desk.program());
    command
        .args(["cp", "k:/d", "-"])
        .stdout(std::fs::File::create(&copied)?);
    ensure!(command.status()?.success());
    let copied = std::fs::read(&copied)?;
    for (name, owner) in [("root", (0, 0)), ("other", (7, 8)), ("mine", mine)] {
        let path = format!("d/{name}");
        for archive in [&bytes, &copied] {
            let found = owner_in(archive, &path)?;
            ensure!(found == owner, "{path}: {found:?}");
        }
    }
    // Into it: with -a the owners are the archive's.
    let mut command = desk.command(desk.program());
    command
        .args(["cp", "-a", "-", "k:/tmp"])
        .stdin(std::fs::File::open(desk.path("copied.tar"))?);
    ensure!(command.status()?.success());
    let look = "cd $1; stat -c %u:%g root other mine";
    let shown = format!("0:0\n7:8\n{uid}:{gid}");
    desk.go(&["exec", "k", "sh", "-c", look, "sh", "/tmp/d"])?
        .ok()?
        .says(&shown)?;
    // A file of the caller's stays his, in and out.
    std::fs::write(desk.path("file"), "")?;
    desk.go(&["cp", &desk.text("file"), "k:/tmp/file"])?.ok()?;
    desk.go(&["exec", "k", "stat", "-c", "%u:%g", "/tmp/file"])?
        .ok()?
        .says(&format!("{uid}:{gid}"))?;
    // While it runs, when it does not, and of what was committed before.
    desk.go(&["commit", "k", "one"])?.ok()?;
    desk.go(&["stop", "-t", "0", "k"])?.ok()?;
    desk.go(&["commit", "k", "two"])?.ok()?;
    let done = desk.go(&["diff", "k"])?.ok()?;
    ensure!(done.out.contains("A /d/mine\n"), "{done:?}");
    for image in ["one", "two"] {
        for options in [&["-u", "0"][..], &["--userns", "keep-id"]] {
            let words = [&["run"], options, &[image, "sh", "-c", look, "sh", "/d"]].concat();
            desk.go(&words)?.ok()?.says(&shown)?;
        }
    }
    desk.go(&["start", "k"])?.ok()?;
    desk.go(&["exec", "k", "sh", "-c", look, "sh", "/d"])?
        .ok()?
        .says(&shown)?;
    Ok(())
}

/// The second one says nothing of the directory in which it has a file, and deletes another.
fn layers(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let layer = |files: &[(&str, u64, tar::EntryType)]| -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, owner, kind) in files {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(*kind);
            header.set_uid(*owner);
            header.set_gid(*owner);
            header.set_size(0);
            header.set_mode(0o750);
            tar.append_data(&mut header, path, std::io::empty())?;
        }
        Ok(tar.into_inner()?)
    };
    let (file, dir) = (tar::EntryType::Regular, tar::EntryType::Directory);
    let first = layer(&[("s/", 5, dir), ("s/gone", 5, file)])?;
    let second = layer(&[("s/new", 9, file), ("s/.wh.gone", 0, file)])?;
    layouts::layout(&desk, "odd:1", &[first, second])?;
    desk.go(&["load", "-i", &desk.text("layout")])?.ok()?;
    let text = "FROM odd:1\nCOPY --from=busybox /bin /bin\n";
    building::build(&desk, text, &["-t", "mine"])?.ok()?;
    let script = "stat -c %n:%u:%g:%a /s /s/new; ls /s";
    let run = ["run", "--userns", "keep-id", "-u", "0", "mine", "sh", "-c"];
    let run = [&run[..], &[script]].concat();
    let expected = "/s:5:5:750\n/s/new:9:9:750\nnew";
    desk.go(&run)?.ok()?.says(expected)?;
    // Such layers go with the last image that has them, and not before.
    let left = || -> Result<usize> { Ok(desk.root().join("layers").read_dir()?.count()) };
    desk.go(&["rmi", "-f", "odd:1", "busybox"])?.ok()?;
    desk.go(&["builder", "prune", "-af"])?.ok()?;
    ensure!(left()? == 6, "{}", left()?);
    let done = desk.go(&run)?.ok()?.says(expected)?;
    ensure!(done.err.is_empty(), "{done:?}");
    desk.go(&["rmi", "mine"])?.ok()?;
    ensure!(left()? == 0, "{}", left()?);
    Ok(())
}

fn all_killed(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name", "z", "--userns", "keep-id", "busybox", "sleep", "1000",
    ])?;
    let pid = desk.pid("z")?;
    strike(monitor_of(pid)?)?;
    std::fs::remove_file(desk.run_dir().join("keepers"))?;
    desk.go(&["exec", "-u", "9", "z", "id", "-u"])?
        .ok()?
        .says("9")?;
    ensure!(desk.pid("z")? == pid);
    // What comes now is in the same namespace.
    desk.start(&["--name", "y", "busybox", "sleep", "1000"])?;
    desk.go(&["stop", "-t", "0", "y"])?.ok()?;
    desk.go(&["stop", "-t", "0", "z"])?.ok()?;
    wait_for("it is known how it ended", || {
        let row = desk.row("z")?.context("no row")?;
        Ok(row.contains("exited").then_some(()))
    })
}

fn told(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["images"])?.ok()?;
    let refused = |options: &[&str], words: &[&str]| -> Result<()> {
        desk.go(&[&["run"], options, &["busybox", "true"]].concat())?
            .fails(125, words)?;
        Ok(())
    };
    refused(
        &["--userns", "keep-id:uid"],
        &["invalid --userns value 'keep-id:uid'", "uid=1000"],
    )?;
    refused(
        &["--userns", "keep-id", "-u", "99999999"],
        &["99999999", "doctor"],
    )?;
    refused(
        &["--userns", "auto"],
        &["--userns auto: not supported yet", "keep-id"],
    )?;
    ensure!(desk.rows()?.is_empty());
    let mut command = desk.command(desk.program());
    command
        .env("PATH", "/nowhere")
        .args(["run", "--userns", "keep-id", "busybox", "true"]);
    finish(&mut command, "run", "")?
        .fails(125, &["--userns keep-id: this user has one id", "doctor"])?;
    Ok(())
}

/// On a file system of the caller's own, in a user namespace of his: there he is root.
fn idmapped(place: &Place) -> Result<()> {
    if !kernel_is(6, 3)? {
        return skip("a tmpfs takes maps since Linux 6.3");
    }
    let desk = Desk::new(place)?;
    let inside = ["-rm", "--map-auto", "sh", "-euc"];
    let mut trial = desk.command("unshare".as_ref());
    let done = finish(trial.args(inside).arg("true"), "unshare", "")?;
    if done.code != 0 {
        return skip(done.err);
    }
    let script = "mkdir own; mount -t tmpfs -o mode=777 own own; touch own/f; chown 5:6 own/f; \
                  \"$0\" run -q --userns keep-id:uid=40,gid=50 -v \"$PWD/own:/to:idmap\" busybox \
                  sh -c 'stat -c %u:%g /to /to/f; touch /to/made; stat -c %u:%g /to/made'; \
                  stat -c %u:%g own/made";
    let mut command = desk.command("unshare".as_ref());
    command.current_dir(desk.path("")).args(inside);
    command.arg(script).arg(desk.program());
    finish(&mut command, "unshare", "")?
        .ok()?
        .says("0:0\n5:6\n40:50\n40:50")?;
    Ok(())
}
