//! Random changes in a container, and names that look like whiteouts: a commit must tell the image all
//! of it exactly, and leave the container as it is.

use super::trees::{Tree, base, root_of, same, timeless, tree};
use super::{Desk, Place, Row};
use anyhow::{Context, Result, bail, ensure};
use containers::sys::xattr;
use nix::sys::stat::{Mode, SFlag, mknod};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "whiteouts: 1,000 random sequences of changes survive commit, save and load",
        run: whiteouts,
    },
    Row {
        name: "whiteouts: what a commit leaves out stays in the container",
        run: left_out,
    },
];

/// Numbers that follow from a seed (xorshift).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }

    /// A path of one to three names out of four.
    fn path(&mut self, below: &Path) -> PathBuf {
        let mut path = below.to_owned();
        for _ in 0..=self.roll(3) {
            path.push(["a", "b", "c", "d"][self.roll(4)]);
        }
        path
    }
}

/// What each sequence begins with.
pub(super) fn plant(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("b/b"))?;
    fs::create_dir_all(dir.join("c"))?;
    for file in ["a", "b/a", "b/b/a", "c/a", "c/b"] {
        fs::write(dir.join(file), file)?;
    }
    symlink("a", dir.join("b/c"))?;
    Ok(fs::hard_link(dir.join("a"), dir.join("d"))?)
}

pub(super) fn remove(path: &Path) -> std::io::Result<()> {
    match path.symlink_metadata()?.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

/// One random change. That it may not be possible is part of the game.
pub(super) fn change(dice: &mut Dice, dir: &Path) -> std::io::Result<()> {
    let (one, other) = (dice.path(dir), dice.path(dir));
    let number = dice.roll(1000);
    match dice.roll(13) {
        0 | 1 => {
            // Not through a link: it may lead anywhere.
            let _ = fs::remove_file(&one);
            fs::write(&one, format!("new {number}"))
        }
        2 => fs::create_dir(&one),
        3 | 4 => remove(&one),
        5 | 6 => fs::rename(&one, &other),
        7 => {
            remove(&one)?;
            fs::create_dir(&one)?;
            fs::write(one.join("d"), "in a new directory")
        }
        8 => {
            remove(&one)?;
            fs::write(&one, "in the place of another")
        }
        9 => {
            remove(&one)?;
            symlink("a", &one)
        }
        10 => fs::hard_link(&one, &other),
        11 if !one.symlink_metadata()?.is_symlink() => {
            fs::set_permissions(&one, fs::Permissions::from_mode(0o500 + number as u32 % 64))
        }
        12 if !one.symlink_metadata()?.is_symlink() => xattr::set(
            &one,
            OsStr::new("user.number"),
            number.to_string().as_bytes(),
        ),
        _ => move_by_copy(&one, &other),
    }
}

/// What mv(1) does where directories of lower layers cannot be renamed.
fn move_by_copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.starts_with(from) || from.starts_with(to) {
        return Ok(());
    }
    if from.symlink_metadata()?.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            move_by_copy(&from.join(&name), &to.join(&name))?;
        }
        return fs::remove_dir(from);
    }
    fs::rename(from, to)
}

const SEQUENCES: usize = 1000;

fn whiteouts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let seed = match std::env::var("WHITEOUT_SEED") {
        Ok(text) => text.parse().context("WHITEOUT_SEED")?,
        Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1,
    };
    let with_seed = || format!("WHITEOUT_SEED={seed} gives the same again");
    random_changes(&desk, seed).with_context(with_seed)
}

fn random_changes(desk: &Desk, seed: u64) -> Result<()> {
    let dir = base(desk)?;
    for number in 0..SEQUENCES {
        plant(&dir.join(format!("all/{number}")))?;
    }
    desk.go(&["import", &dir.display().to_string(), "it:0"])?
        .ok()?;
    let mut dice = Dice(seed);
    let mut last = Tree::new();
    // Twice: the second time there are whiteouts in the layers below.
    for round in 1..=2 {
        let (from, to) = (format!("it:{}", round - 1), format!("it:{round}"));
        let name = format!("c{round}");
        desk.start(&["--name", &name, &from, "sleep", "1000"])?;
        let all = root_of(desk, &name)?.join("all");
        for number in 0..SEQUENCES {
            for _ in 0..4 + dice.roll(12) {
                let _ = change(&mut dice, &all.join(number.to_string()));
            }
        }
        let live = timeless(tree(&all)?);
        let is_live = |what: &str, container: &str| -> Result<()> {
            let found = timeless(tree(&root_of(desk, container)?.join("all"))?);
            same(&format!("{what}, round {round}"), &found, &live)
        };
        desk.go(&["commit", &name, "running"])?.ok()?;
        desk.start(&["--name", "again", "running", "sleep", "1000"])?;
        is_live("committed while it ran", "again")?;
        // Now what it has written moves into the image, and it goes on above that.
        desk.go(&["stop", "-t", "0", &name])?.ok()?;
        desk.go(&["commit", &name, &to])?.ok()?;
        desk.go(&["rm", "-f", "again"])?.ok()?;
        desk.start(&["--name", "again", &to, "sleep", "1000"])?;
        is_live("committed after it was stopped", "again")?;
        desk.go(&["start", &name])?.ok()?;
        is_live("started again", &name)?;
        desk.go(&["rm", "-f", "again", &name])?.ok()?;
        desk.go(&["rmi", "running"])?.ok()?;
        last = live;
    }
    desk.go(&["save", "-o", &desk.text("it.tar"), "it:2"])?
        .ok()?;
    desk.go(&["rmi", "-f", "it:0", "it:1", "it:2"])?.ok()?;
    desk.go(&["load", "-i", &desk.text("it.tar")])?.ok()?;
    desk.start(&["--name", "again", "it:2", "sleep", "1000"])?;
    same(
        "saved and loaded",
        &timeless(tree(&root_of(desk, "again")?.join("all"))?),
        &last,
    )?;
    if last.len() < 5 * SEQUENCES {
        bail!("little was left to compare: {} files", last.len());
    }
    Ok(())
}

fn left_out(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "busybox", "sleep", "1000"])?;
    let root = root_of(&desk, "c")?;
    for (path, text) in LEFT_OUT {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        fs::write(path, text)?;
    }
    mknod(&root.join("d/socket"), SFlag::S_IFSOCK, Mode::S_IRWXU, 0)?;
    desk.go(&["stop", "-t", "0", "c"])?.ok()?;
    let before = desk.go(&["diff", "c"])?.ok()?.out;
    ensure!(before.contains("A /d/socket"), "{before:?}");
    for name in ["first", "second"] {
        let done = desk.go(&["commit", "c", name])?.ok()?;
        for path in ["/d/.wh.keep", "/.wh.x", "/d/socket"] {
            ensure!(done.err.contains(path), "{path}: {done:?}");
        }
        let now = desk.go(&["diff", "c"])?.ok()?.out;
        ensure!(now == before, "{name}: {now:?}, should be {before:?}");
        for (path, text) in LEFT_OUT {
            desk.go(&["cp", &format!("c:/{path}"), "copied"])?.ok()?;
            ensure!(fs::read_to_string(desk.path("copied"))? == text, "{path}");
        }
        let list = ["run", name, "sh", "-c", "ls -A /d; ls -Ad /.wh*"];
        let image = desk.go(&list)?;
        ensure!(image.out == "kept\n", "{image:?}");
    }
    Ok(())
}

/// Files with a name, or below a directory with one, that says in an archive that another is gone; and
/// one without.
const LEFT_OUT: [(&str, &str); 3] = [("d/kept", "0"), ("d/.wh.keep", "1"), (".wh.x/f", "2")];
