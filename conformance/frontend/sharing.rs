//! Commits of running containers on file systems whose files can share their content: each a file on a
//! loop device, mounted in the place of mydocker's directory.

use super::kit::finish;
use super::trees::{Tree, root_of, same, tree};
use super::world::World;
use super::{Desk, Place, Row, skip};
use anyhow::{Context, Result, ensure};
use containers::sys::xattr;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "commit of a running container: its files are shared on btrfs",
        run: |place| commit(place, "btrfs"),
    },
    Row {
        name: "commit of a running container: its files are shared on xfs",
        run: |place| commit(place, "xfs"),
    },
];

/// mydocker's directory as a file system of its own. It goes when this is dropped, and with it the loop
/// device, which is detached as soon as nothing is mounted from it.
struct Disk(PathBuf);

impl Disk {
    fn mounted(place: &Place, kind: &str) -> Result<Disk> {
        if !nix::unistd::geteuid().is_root() {
            return skip("only root mounts file systems");
        }
        let (image, dir) = (place.dir.join("disk"), place.dir.join("lib"));
        // The least that mkfs.xfs takes.
        fs::File::create(&image)?.set_len(320 << 20)?;
        let mkfs = format!("mkfs.{kind}");
        if !run(Command::new(&mkfs).arg("-q").arg(&image)) {
            return skip(format!("no {mkfs}"));
        }
        fs::create_dir(&dir)?;
        for number in 0..64 {
            let node = place.dir.join(format!("loop{number}"));
            if Path::new(&format!("/sys/block/loop{number}/loop")).exists() {
                continue;
            }
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            let made = mknod(&node, SFlag::S_IFBLK, mode, makedev(7, number));
            // Another may have been faster.
            if made.is_err() || !run(Command::new("losetup").arg(&node).arg(&image)) {
                continue;
            }
            let mounted = mount(
                Some(&node),
                &dir,
                Some(kind),
                MsFlags::empty(),
                None::<&str>,
            );
            let detached = run(Command::new("losetup").arg("-d").arg(&node));
            let disk = Disk(dir);
            if mounted.is_err() {
                return skip(format!("no {kind} can be mounted here"));
            }
            ensure!(detached, "losetup -d {}", node.display());
            return Ok(disk);
        }
        skip("no loop device can be had")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn run(command: &mut Command) -> bool {
    finish(command, "", "").is_ok_and(|done| done.code == 0)
}

const BASE: &str = "mkdir /gone /old; echo x | tee /gone/x /old/a >/old/b";

const CHANGES: &str = "
    if test -e /d; then
        rm -r /d/link /d/sub /old/b; mkdir /d/sub; ln /d/big /d/sub/again; ln -s other /d/link
        echo more; exec sleep 1000
    fi
    rm -r /gone /old; mkdir /old; echo new >/old/b
    mkdir -m 1777 /d /d/sub; chown 3:4 /d/sub
    dd if=/dev/urandom of=/d/big bs=1M count=2 2>/dev/null
    ln /d/big /d/sub/same; ln -s big /d/link; ln /d/link /d/sub/link; mkfifo -m 620 /d/pipe
    echo start >/d/sparse; echo end | dd of=/d/sparse bs=1M seek=16 2>/dev/null
    echo small >/d/small; chmod 4711 /d/small; touch -d 2001-02-03 /d/sub
    echo ready; exec sleep 1000";

/// What a container sees of all that.
fn seen(desk: &Desk, name: &str) -> Result<[Tree; 2]> {
    let root = root_of(desk, name)?;
    ensure!(!root.join("gone").exists(), "{name} has /gone");
    let of = |dir: &str| tree(&root.join(dir)).with_context(|| format!("{name}: /{dir}"));
    Ok([of("d")?, of("old")?])
}

fn are_same(what: &str, is: &[Tree; 2], should: &[Tree; 2]) -> Result<()> {
    same(&format!("{what}: /d"), &is[0], &should[0])?;
    same(&format!("{what}: /old"), &is[1], &should[1])
}

fn commit(place: &Place, kind: &str) -> Result<()> {
    let _disk = Disk::mounted(place, kind)?;
    let desk = Desk::new(place)?;
    desk.start(&["--name", "base", "busybox", "sh", "-c", BASE])?;
    desk.wait("base")?;
    desk.go(&["commit", "base", "base"])?.ok()?;
    desk.go(&["rm", "base"])?.ok()?;
    let before = World::of(&desk)?;
    let id = desk.start(&["--name", "c", "base", "sh", "-c", CHANGES])?;
    desk.logged("c", "ready")?;
    let root = root_of(&desk, "c")?;
    xattr::set(&root.join("d/sub"), "user.number".as_ref(), b"7")?;
    xattr::set(&root.join("d/big"), "trusted.mine".as_ref(), b"\0x")?;
    // What no image can have.
    fs::create_dir_all(root.join("left"))?;
    fs::write(root.join("left/file"), "")?;
    xattr::set(&root.join("left/file"), "user.a=b".as_ref(), b"c")?;
    mknod(&root.join("left/socket"), SFlag::S_IFSOCK, Mode::S_IRWXU, 0)?;

    let live = seen(&desk, "c")?;
    let changes = desk.go(&["diff", "c"])?.ok()?.out;
    ensure!(changes.contains("A /left/socket"), "{changes:?}");
    let done = desk.go(&["commit", "c", "made"])?.ok()?;
    for what in ["/left/socket", "user.a=b"] {
        ensure!(done.err.contains(what), "{what}: {done:?}");
    }
    // The container goes on, with all that it had.
    ensure!(desk.inspect("c", "{{.State.Status}}")? == "running");
    are_same("the container's", &seen(&desk, "c")?, &live)?;
    ensure!(desk.go(&["diff", "c"])?.ok()?.out == changes);

    desk.start(&["--name", "again", "made", "sleep", "1000"])?;
    are_same("the image's", &seen(&desk, "again")?, &live)?;
    let left = root_of(&desk, "again")?.join("left");
    let names: Vec<_> = fs::read_dir(&left)?
        .flatten()
        .map(|e| e.file_name())
        .collect();
    ensure!(names == ["file"], "{names:?}");
    ensure!(
        xattr::list(&left.join("file"))?.is_empty(),
        "an attribute is kept"
    );
    let layer = top_layer(&desk, "made")?;
    let upper = desk.root().join("containers").join(&id).join("upper");
    for dir in [&layer, &upper] {
        is_shared(&desk, &dir.join("d/big"))?;
        let blocks = fs::metadata(dir.join("d/sparse"))?.blocks();
        ensure!(blocks < 1 << 10, "{} has no hole: {blocks}", dir.display());
        let opaque = xattr::get(&dir.join("old"), "trusted.overlay.opaque".as_ref())?;
        ensure!(opaque.is_some(), "{}/old is not opaque", dir.display());
    }

    // Written above a layer that was made of what it had written: two upper directories.
    desk.go(&["exec", "c", "rm", "-r", "/left"])?.ok()?;
    desk.go(&["stop", "-t", "0", "c"])?.ok()?;
    desk.go(&["commit", "c", "moved"])?.ok()?;
    ensure!(!upper.join("d").exists(), "it is not moved");
    desk.go(&["start", "c"])?.ok()?;
    desk.logged("c", "more")?;
    let live = seen(&desk, "c")?;
    desk.go(&["commit", "c", "more"])?.ok()?;
    desk.start(&["--name", "third", "more", "sleep", "1000"])?;
    are_same("the second image's", &seen(&desk, "third")?, &live)?;

    desk.go(&["rm", "-f", "c", "again", "third"])?.ok()?;
    desk.go(&["rmi", "made", "moved", "more"])?.ok()?;
    before.is_back(&desk)
}

/// The directory of the last layer of an image.
fn top_layer(desk: &Desk, image: &str) -> Result<PathBuf> {
    let layers = desk.inspect(image, "{{join .RootFS.Layers \" \"}}")?;
    let last = layers.rsplit(':').next().context("it has no layer")?;
    Ok(desk.root().join("layers").join(last))
}

/// Whether others have the content of a file, too.
fn is_shared(desk: &Desk, file: &Path) -> Result<()> {
    let mut command = desk.command("filefrag".as_ref());
    let done = finish(command.args(["-s", "-v"]).arg(file), "filefrag", "")?.ok()?;
    let mut extents = done.out.lines().filter(|line| line.contains(": "));
    ensure!(extents.any(|line| line.contains("shared")), "{done:?}");
    Ok(())
}
