//! `-o FILE`: files that have their name only once they are whole.

use super::archives::{run, tool, two_images};
use super::{Desk, Place, Row};
use anyhow::{Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "save and export: a file on a file system without files without names",
        run: without_tmpfile,
    },
    Row {
        name: "save -o waits for nobody who has the directory locked",
        run: locked,
    },
];

/// A file system that is mounted in the row's directory, until it is dropped.
struct Fuse(PathBuf);

impl Fuse {
    fn new(desk: &Desk) -> Result<Fuse> {
        let program = tool("fuse-overlayfs")?;
        for dir in ["lower", "upper", "work", "fuse"] {
            std::fs::create_dir(desk.path(dir))?;
        }
        let options = "lowerdir=lower,upperdir=upper,workdir=work";
        run(desk, &program, &["-o", options, "fuse"])?.ok()?;
        Ok(Fuse(desk.path("fuse")))
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn without_tmpfile(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let fuse = Fuse::new(&desk)?;
    let unnamed = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(&fuse.0);
    ensure!(unnamed.is_err(), "this file system has files without names");
    desk.go(&["create", "--name", "c", "one:1"])?.ok()?;
    let names = || -> Result<Vec<_>> {
        let names = std::fs::read_dir(&fuse.0)?.map(|entry| Ok(entry?.file_name()));
        names.collect()
    };
    // What a killed one has left goes with the next.
    std::fs::write(fuse.0.join(".x.tar.new"), "half")?;
    let file = desk.text("fuse/x.tar");
    for args in [["save", "-o", &file, "one:1"], ["export", "-o", &file, "c"]] {
        desk.go(&args)?.ok()?;
        ensure!(names()? == ["x.tar"], "{:?}", names()?);
    }
    desk.go(&["save", "-o", &file, "one:1"])?.ok()?;
    desk.go(&["load", "-i", &file])?
        .ok()?
        .says("Loaded image: one:1")?;
    // A command that fails leaves what was there; so does one beside another.
    let before = std::fs::read(&file)?;
    let other = File::create(fuse.0.join(".x.tar.new"))?;
    let _other = Flock::lock(other, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    desk.go(&["save", "-o", &file, "two/sub:2"])?
        .fails(1, &["x.tar", "another command"])?;
    ensure!(std::fs::read(&file)? == before);
    Ok(())
}

fn locked(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    std::fs::create_dir(desk.path("out"))?;
    let lock = File::open(desk.path("out"))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    for image in ["one:1", "two/sub:2"] {
        desk.go(&["save", "-o", &desk.text("out/x.tar"), image])?
            .ok()?;
    }
    drop(lock);
    ensure!(std::fs::read_dir(desk.path("out"))?.count() == 1);
    let done = desk.go(&["load", "-i", &desk.text("out/x.tar")])?.ok()?;
    done.says("Loaded image: two/sub:2").map(drop)
}
