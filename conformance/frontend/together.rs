//! Many commands at once that make, name, save and remove the same images and others which share layers
//! with them.

use super::Row;
use super::images_made::Entry;
use super::kit::{Desk, Done, Place};
use super::whiteouts::Dice;
use super::world::World;
use anyhow::{Context, Result, anyhow, ensure};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[Row {
    name: "images that are made and removed by many at once are whole or not there",
    run: together,
}];

const WORKERS: u64 = 4;
const COMMANDS: usize = 40;

fn together(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "-v", "warm:/warm", "busybox", "true"])?
        .ok()?;
    let before = World::of(&desk)?;
    // `two` is `one` with a layer more.
    desk.import("one", vec![Entry::File("name", 0o644, b"one")], &[])?;
    let change = ["sh", "-c", "echo two > /name"];
    desk.go(&[&["run", "--keep", "--name", "c", "one"], &change[..]].concat())?
        .ok()?;
    desk.go(&["commit", "c", "two"])?.ok()?;
    for (file, images) in [
        ("1.tar", &["one"][..]),
        ("2.tar", &["two"]),
        ("12.tar", &["one", "two"]),
    ] {
        desk.go(&[&["save", "-q", "-o", file], images].concat())?
            .ok()?;
    }
    desk.go(&["rm", "c"])?.ok()?;
    let seed = match std::env::var("TOGETHER_SEED") {
        Ok(text) => text.parse().context("TOGETHER_SEED")?,
        Err(_) => std::time::SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1,
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers = (1..=WORKERS).map(|number| {
            let (desk, dice) = (&desk, Dice(seed.wrapping_mul(2 * number + 1)));
            scope.spawn(move || work(desk, number, dice))
        });
        for worker in workers.collect::<Vec<_>>() {
            let done = worker.join().map_err(|_| anyhow!("a worker panicked"))?;
            done.with_context(|| format!("TOGETHER_SEED={seed} throws the same dice"))?;
        }
        Ok(())
    })?;

    let list = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let names = desk.go(&list)?.ok()?.out;
    for name in names.lines().filter(|name| !name.contains("<none>")) {
        desk.go(&["run", "--pull", "never", name, "echo"])?.ok()?;
    }
    let ids = desk.go(&["images", "-q", "--no-trunc"])?.ok()?.out;
    let keep = desk.inspect("busybox", "{{.Id}}")?;
    for id in ids.lines().filter(|id| *id != keep) {
        // One that has several names is there several times.
        let done = desk.go(&["rmi", "-f", id])?;
        ensure!(done.code == 0 || is_race(&done), "{done:?}");
    }
    before.is_back(&desk)
}

/// Throws the dice for commands, each of which must do what it says or find that it cannot.
fn work(desk: &Desk, number: u64, mut dice: Dice) -> Result<()> {
    let (own, file) = (format!("own-{number}"), format!("own-{number}.tar"));
    let names = ["one", "two", "three", &own];
    for _ in 0..COMMANDS {
        let name = names[dice.roll(names.len())];
        let command = match dice.roll(12) {
            0 => vec!["load", "-q", "-i", "1.tar"],
            1 => vec!["load", "-q", "-i", "2.tar"],
            2 => vec!["load", "-q", "-i", "12.tar"],
            3 => vec!["import", "one.tar", "three"],
            4 => vec!["tag", name, &own],
            5..=7 => vec!["rmi", name],
            8 => vec!["save", "-q", "-o", &file, name],
            9 => vec!["run", "--pull", "never", name, "echo"],
            10 => vec!["image", "prune", "-f"],
            _ => vec!["system", "df", "-v"],
        };
        let done = desk.go(&command)?;
        ensure!(done.code == 0 || is_race(&done), "{done:?}");
        if done.code == 0 && command[0] == "save" {
            // Nothing has taken a part of it away.
            desk.go(&["load", "-q", "-i", &file])?.ok()?;
        }
    }
    Ok(())
}

/// Whether another command was faster, and this one says so.
fn is_race(done: &Done) -> bool {
    let told = [
        "no such image",
        "removed meanwhile",
        "is gone",
        "is used by",
    ];
    let line = done.err.lines().find(|line| line.starts_with("mydocker: "));
    line.is_some_and(|line| told.iter().any(|words| line.contains(words)))
}
