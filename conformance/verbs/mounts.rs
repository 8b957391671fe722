//! `mounts` (config.md, "Mounts" and "Linux mount options"): a test for each option, which looks at
//! what the container's mountinfo says.

use super::{Trial, add_user_namespace};
use crate::frontend::{skip, world::kernel_is};
use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, mknod};
use serde_json::{Value, json};
use std::path::PathBuf;

/// An option of a new tmpfs: all options, what mountinfo must show of it, and what not.
type OfFs = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    &'static [&'static str],
);

/// `&["sync", "async"]`: the first must be taken back for the second to have done anything.
const FS: &[OfFs] = &[
    ("async", &["sync", "async"], &[], &["sync"]),
    ("atime", &["noatime", "atime"], &[], &["noatime"]),
    (
        "defaults",
        &["defaults"],
        &["rw"],
        &["nosuid", "nodev", "noexec"],
    ),
    ("dev", &["nodev", "dev"], &[], &["nodev"]),
    (
        "diratime",
        &["nodiratime", "diratime"],
        &[],
        &["nodiratime"],
    ),
    ("dirsync", &["dirsync"], &["dirsync"], &[]),
    ("exec", &["noexec", "exec"], &[], &["noexec"]),
    // Neither of these four shows; a tmpfs refuses what it does not know.
    ("iversion", &["iversion"], &[], &[]),
    ("noiversion", &["iversion", "noiversion"], &[], &[]),
    ("silent", &["silent"], &[], &[]),
    ("loud", &["silent", "loud"], &[], &[]),
    ("lazytime", &["lazytime"], &["lazytime"], &[]),
    ("noatime", &["noatime"], &["noatime"], &[]),
    ("nodev", &["nodev"], &["nodev"], &[]),
    ("nodiratime", &["nodiratime"], &["nodiratime"], &[]),
    ("noexec", &["noexec"], &["noexec"], &[]),
    (
        "nolazytime",
        &["lazytime", "nolazytime"],
        &[],
        &["lazytime"],
    ),
    ("norelatime", &["relatime", "norelatime"], &[], &["noatime"]),
    (
        "nostrictatime",
        &["strictatime", "nostrictatime"],
        &["relatime"],
        &[],
    ),
    ("nosuid", &["nosuid"], &["nosuid"], &[]),
    ("nosymfollow", &["nosymfollow"], &["nosymfollow"], &[]),
    ("relatime", &["strictatime", "relatime"], &["relatime"], &[]),
    ("ro", &["ro"], &["ro"], &["rw"]),
    ("rw", &["ro", "rw"], &["rw"], &["ro"]),
    (
        "strictatime",
        &["strictatime"],
        &[],
        &["relatime", "noatime"],
    ),
    ("suid", &["nosuid", "suid"], &[], &["nosuid"]),
    (
        "symfollow",
        &["nosymfollow", "symfollow"],
        &[],
        &["nosymfollow"],
    ),
    ("sync", &["sync"], &["sync"], &[]),
];

/// An option of a bind mount, after `rbind` or `bind`: what the mount must show, and what not; an
/// option that begins with `r` must do it to the mount below as well.
type OfBind = (
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
);

/// On a directory that is mounted like any other, and shared.
const BIND: &[OfBind] = &[
    ("private", &[], &["shared", "master", "unbindable"]),
    ("rprivate", &[], &["shared", "master", "unbindable"]),
    ("shared", &["shared"], &[]),
    ("rshared", &["shared"], &[]),
    ("slave", &["master"], &[]),
    ("rslave", &["master"], &[]),
    ("unbindable", &["unbindable"], &[]),
    ("runbindable", &["unbindable"], &[]),
    ("rnoatime", &["noatime"], &[]),
    ("rnodev", &["nodev"], &[]),
    ("rnodiratime", &["nodiratime"], &[]),
    ("rnoexec", &["noexec"], &[]),
    ("rnosuid", &["nosuid"], &[]),
    ("rnosymfollow", &["nosymfollow"], &[]),
    ("rro", &["ro"], &["rw"]),
    ("rstrictatime", &[], &["relatime", "noatime"]),
];

/// On one that has every flag that can be taken back.
const STRICT: &[OfBind] = &[
    ("ratime", &[], &["noatime"]),
    ("rdev", &[], &["nodev"]),
    ("rdiratime", &[], &["nodiratime"]),
    ("rexec", &[], &["noexec"]),
    ("rrelatime", &["relatime"], &["noatime"]),
    ("rnorelatime", &[], &["noatime"]),
    ("rnostrictatime", &["relatime"], &["noatime"]),
    ("rrw", &["rw"], &["ro"]),
    ("rsuid", &[], &["nosuid"]),
    ("rsymfollow", &[], &["nosymfollow"]),
];

/// The tests of this file.
pub(super) fn tests() -> Vec<(String, Box<super::Body>)> {
    let mut all: Vec<(String, Box<super::Body>)> = Vec::new();
    for row in FS {
        let run = move |trial: &Trial| of_fs(trial, row);
        all.push((format!("mount option {}", row.0), Box::new(run)));
    }
    for (rows, strict) in [(BIND, false), (STRICT, true)] {
        for row in rows {
            let run = move |trial: &Trial| of_bind(trial, row, strict);
            all.push((format!("mount option {}", row.0), Box::new(run)));
        }
    }
    let others: [super::Row; 10] = [
        ("mount option bind", |trial| bound(trial, "bind", 1)),
        ("mount option rbind", |trial| bound(trial, "rbind", 2)),
        ("mount option remount", remounted),
        ("mount option idmap", |trial| mapped(trial, false)),
        ("mount option ridmap", |trial| mapped(trial, true)),
        ("mount option idmap: the container's own maps", own_maps),
        ("mounts: in the listed order", ordered),
        ("mounts: a relative destination is below /", relative),
        (
            "mounts: a relative source is in the bundle",
            relative_source,
        ),
        ("mounts: unknown options are for the file system", unknown),
    ];
    all.extend(others.map(|(name, run)| {
        let run: Box<super::Body> = Box::new(run);
        (name.to_owned(), run)
    }));
    all
}

/// The words of the mounts at a place in the container: options, tags, options of the file system.
fn words(mountinfo: &str, place: &str) -> Vec<Vec<String>> {
    let lines = mountinfo
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(4) == Some(&place))
        .map(|fields| {
            let end = fields.iter().position(|field| *field == "-").unwrap_or(6);
            let tags = fields[6..end]
                .iter()
                .map(|tag| tag.split(':').next().unwrap_or(tag));
            let options = fields[5].split(',').chain(tags);
            // The file system's own ro is not the mount's.
            let data = fields.last().into_iter().flat_map(|data| data.split(','));
            let data = data.filter(|word| !matches!(*word, "ro" | "rw"));
            options.chain(data).map(str::to_owned).collect()
        })
        .collect()
}

/// Runs a container that shows its mounts.
fn show(trial: &Trial, entries: &[Value]) -> Result<String> {
    let mut config = trial.config(&["cat", "/proc/self/mountinfo"]);
    let mounts = config["mounts"].as_array_mut().context("mounts")?;
    mounts.truncate(3);
    mounts.extend_from_slice(entries);
    trial.write(&config)?;
    Ok(trial.go(&["run", &trial.id])?.ok()?.out)
}

fn look(found: &str, place: &str, has: &[&str], lacks: &[&str]) -> Result<()> {
    let all = words(found, place);
    let mount = all.last().with_context(|| format!("no mount at {place}"))?;
    for word in has {
        ensure!(
            mount.iter().any(|one| one == word),
            "{place} lacks {word}: {mount:?}"
        );
    }
    for word in lacks {
        ensure!(
            !mount.iter().any(|one| one == word),
            "{place} has {word}: {mount:?}"
        );
    }
    Ok(())
}

fn of_fs(trial: &Trial, (_, options, has, lacks): &OfFs) -> Result<()> {
    let entry = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs",
        "options": options});
    look(&show(trial, &[entry])?, "/mnt", has, lacks)
}

/// A tmpfs on a directory of the trial, with another one in it; both are unmounted at the end.
struct Volume(PathBuf);

const NONE: Option<&str> = None;

impl Volume {
    fn new(trial: &Trial, strict: bool) -> Result<Volume> {
        let volume = Volume(trial.path("volume"));
        std::fs::create_dir(&volume.0)?;
        let sub = volume.0.join("sub");
        for dir in [&volume.0, &sub] {
            std::fs::create_dir_all(dir)?;
            mount(
                Some("tmpfs"),
                dir,
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )
            .context("mount a tmpfs")?;
            // Not opened to be written: a process that another test starts meanwhile would hold it
            // for a moment, and until then nothing can be made read-only.
            mknod(&dir.join("file"), SFlag::S_IFREG, Mode::S_IRUSR, 0)?;
            std::fs::create_dir_all(&sub)?;
            mount(NONE, dir, NONE, MsFlags::MS_SHARED, NONE).context("share it")?;
        }
        if strict {
            for dir in [&volume.0, &sub] {
                // MS_NOSYMFOLLOW of linux/mount.h, which nix lacks.
                let flags = MsFlags::MS_RDONLY
                    | MsFlags::MS_NOSUID
                    | MsFlags::MS_NODEV
                    | MsFlags::MS_NOEXEC
                    | MsFlags::MS_NOATIME
                    | MsFlags::MS_NODIRATIME
                    | MsFlags::from_bits_retain(256);
                let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
                mount(NONE, dir, NONE, flags, NONE).context("make it strict")?;
            }
        }
        Ok(volume)
    }

    fn entry(&self, options: &[&str]) -> Value {
        json!({"destination": "/mnt", "type": "bind", "source": self.0, "options": options})
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn of_bind(trial: &Trial, (option, has, lacks): &OfBind, strict: bool) -> Result<()> {
    let volume = Volume::new(trial, strict)?;
    let found = show(trial, &[volume.entry(&["rbind", option])])?;
    look(&found, "/mnt", has, lacks)?;
    if option.starts_with('r') {
        look(&found, "/mnt/sub", has, lacks)?;
    }
    Ok(())
}

fn bound(trial: &Trial, option: &str, count: usize) -> Result<()> {
    let volume = Volume::new(trial, false)?;
    let found = show(trial, &[volume.entry(&[option])])?;
    let all = words(&found, "/mnt").len() + words(&found, "/mnt/sub").len();
    ensure!(all == count, "{count} mounts expected: {found}");
    Ok(())
}

fn remounted(trial: &Trial) -> Result<()> {
    let entry = |options: &[&str]| json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options});
    let found = show(
        trial,
        &[entry(&["size=64k"]), entry(&["remount", "ro", "nosuid"])],
    )?;
    let all = words(&found, "/mnt");
    ensure!(all.len() == 1, "one mount expected: {all:?}");
    look(&found, "/mnt", &["ro", "nosuid", "size=64k"], &[])
}

/// The owners of the volume's file and of the one below, as the container sees them.
fn owners(trial: &Trial, config: &Value) -> Result<(String, String)> {
    trial.write(config)?;
    let done = trial.go(&["run", &trial.id])?.ok()?;
    let mut lines = done.out.lines().map(str::to_owned);
    Ok((
        lines.next().unwrap_or_default(),
        lines.next().unwrap_or_default(),
    ))
}

/// Skips what maps the ids of a tmpfs where that cannot be.
fn takes_maps(trial: &Trial) -> Result<()> {
    trial.skip_for("runc", "Debian's runc 1.1 is older than this")?;
    match kernel_is(6, 3)? {
        true => Ok(()),
        false => skip("a tmpfs takes maps since Linux 6.3"),
    }
}

fn mapped(trial: &Trial, recursive: bool) -> Result<()> {
    takes_maps(trial)?;
    let volume = Volume::new(trial, false)?;
    let maps = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
    let option = if recursive { "ridmap" } else { "idmap" };
    let mut config = trial.config(&["stat", "-c", "%u:%g", "/mnt/file", "/mnt/sub/file"]);
    config["mounts"][3] = volume.entry(&["rbind", option]);
    config["mounts"][3]["uidMappings"] = maps.clone();
    config["mounts"][3]["gidMappings"] = maps;
    let below = if recursive { "1000:1000" } else { "0:0" };
    let found = owners(trial, &config)?;
    ensure!(
        found == ("1000:1000".to_owned(), below.to_owned()),
        "{found:?}"
    );
    Ok(())
}

/// Root of the container owns what root of the host does, by the maps of its user namespace.
fn own_maps(trial: &Trial) -> Result<()> {
    takes_maps(trial)?;
    let volume = Volume::new(trial, false)?;
    let mut config = trial.config(&["stat", "-c", "%u:%g", "/mnt/file"]);
    add_user_namespace(&mut config);
    config["mounts"][3] = volume.entry(&["bind", "idmap"]);
    let (owner, _) = owners(trial, &config)?;
    ensure!(owner == "0:0", "{owner}");
    Ok(())
}

fn ordered(trial: &Trial) -> Result<()> {
    std::fs::create_dir(trial.path("shared/inner"))?;
    std::fs::write(trial.path("shared/inner/file"), "content\n")?;
    let below = json!({"destination": "/mnt/inner", "type": "bind",
        "source": trial.path("shared/inner"), "options": ["bind"]});
    let above = json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"});
    let mut config = trial.config(&["sh", "-c", "cat /mnt/inner/file 2>&1 || true"]);
    for (entries, shown) in [([&above, &below], true), ([&below, &above], false)] {
        let mounts = config["mounts"].as_array_mut().context("mounts")?;
        // The shared directory gives the first its mount point.
        mounts.truncate(4);
        mounts.extend(entries.map(Clone::clone));
        trial.write(&config)?;
        let done = trial.go(&["run", &trial.id])?.ok()?;
        ensure!(shown == (done.out == "content\n"), "{done:?}");
    }
    Ok(())
}

fn relative(trial: &Trial) -> Result<()> {
    let entry = json!({"destination": "mnt", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid"]});
    look(&show(trial, &[entry])?, "/mnt", &["nosuid"], &[])
}

fn relative_source(trial: &Trial) -> Result<()> {
    std::fs::write(trial.path("bundle/part"), "content\n")?;
    let mut config = trial.config(&["cat", "/mnt/part"]);
    config["mounts"][3]["source"] = ".".into();
    trial.write(&config)?;
    trial
        .go(&["run", &trial.id])?
        .ok()?
        .says("content")
        .map(drop)
}

fn unknown(trial: &Trial) -> Result<()> {
    let entry = |option: &str| {
        json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", option, "nr_inodes=77"]})
    };
    let found = show(trial, &[entry("size=128k")])?;
    look(&found, "/mnt", &["size=128k", "nr_inodes=77"], &[])?;
    let refused = show(trial, &[entry("nosuchoption=1")]);
    ensure!(refused.is_err(), "the file system never saw it");
    Ok(())
}
