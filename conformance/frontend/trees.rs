//! Trees of files and what becomes of them: layers with everything a file can be, here and for others.

use super::archives::{run, tool};
use super::images_made::{Entry, busybox, packed};
use super::whiteouts::{Dice, change, plant, remove};
use super::{Desk, Place, Row};
use anyhow::{Context, Result, ensure};
use containers::sys::xattr;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, chown, mkfifo};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "layers keep what files are: links, owners, attributes, times, odd names",
        run: everything,
    },
    Row {
        name: "umoci unpacks what files are",
        run: unpacked_by_umoci,
    },
    Row {
        name: "import reads the sparse files of GNU tar",
        run: gnu_tar,
    },
    Row {
        name: "an image of 200 layers runs, and goes through save and load",
        run: many_layers,
    },
    Row {
        name: "directories of 1,900 levels are exported, imported and removed with 64 open files",
        run: deep,
    },
    Row {
        name: "what a killed command has left and nobody can remove is told",
        run: stuck,
    },
    Row {
        name: "what a killed command has left is swept, whatever the next one is",
        run: swept,
    },
];

/// What each file below a directory is, by its path.
pub(super) type Tree = BTreeMap<String, String>;

pub(super) fn tree(root: &Path) -> Result<Tree> {
    let mut found = Tree::new();
    let mut links: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let at = root.join(&path);
        let meta = at
            .symlink_metadata()
            .with_context(|| format!("look at {at:?}"))?;
        let kind = meta.file_type();
        let mut what = format!(
            "{:o} {}:{} {}.{:09}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec()
        );
        let name = path.as_os_str().as_bytes().escape_ascii().to_string();
        if kind.is_dir() {
            for entry in fs::read_dir(&at)? {
                todo.push(path.join(entry?.file_name()));
            }
        } else if meta.nlink() > 1 {
            links
                .entry((meta.dev(), meta.ino()))
                .or_default()
                .push(name.clone());
        }
        if kind.is_file() {
            let content = fs::read(&at)?;
            what += &match content.len() {
                0..=100 => format!(" {:?}", content.escape_ascii().to_string()),
                len => format!(" {len} bytes, {:x}", hash(&content)),
            };
        } else if kind.is_symlink() {
            what += &format!(" -> {:?}", fs::read_link(&at)?);
        } else if kind.is_char_device() || kind.is_block_device() {
            what += &format!(" device {}", meta.rdev());
        }
        let mut attributes: Vec<_> = xattr::list(&at).unwrap_or_default();
        attributes.retain(|name| {
            let name = name.as_bytes();
            !name.starts_with(b"trusted.overlay.") && name != b"security.selinux"
        });
        attributes.sort();
        for attribute in attributes {
            what += &format!(" {attribute:?}={:?}", xattr::get(&at, &attribute)?);
        }
        found.insert(name, what);
    }
    for mut names in links.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names[1..] {
            if let Some(what) = found.get_mut(name) {
                what.push_str(&format!(" = {}", names[0]));
            }
        }
    }
    Ok(found)
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Without the times of directories: what was made in one and is gone again is no change.
pub(super) fn timeless(mut tree: Tree) -> Tree {
    for what in tree.values_mut().filter(|what| what.starts_with('4')) {
        let words: Vec<&str> = what.split(' ').collect();
        let kept = words.iter().enumerate().filter(|(at, _)| *at != 2);
        *what = kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
    }
    tree
}

/// Fails with the first differences.
pub(super) fn same(what: &str, is: &Tree, should: &Tree) -> Result<()> {
    let mut differences = Vec::new();
    for name in is.keys().chain(should.keys()) {
        if is.get(name) != should.get(name) && !differences.contains(name) {
            differences.push(name.clone());
        }
    }
    let shown: Vec<String> = differences
        .iter()
        .take(5)
        .map(|name| {
            format!(
                "{name}: {:?}, should be {:?}",
                is.get(name),
                should.get(name)
            )
        })
        .collect();
    ensure!(
        differences.is_empty(),
        "{what}: {} differences: {shown:#?}",
        differences.len()
    );
    Ok(())
}

/// A directory with a program, to be imported.
pub(super) fn base(desk: &Desk) -> Result<PathBuf> {
    let dir = desk.path("base");
    fs::create_dir_all(dir.join("bin"))?;
    fs::write(dir.join("bin/busybox"), busybox()?)?;
    fs::set_permissions(dir.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    for applet in ["sh", "sleep", "echo", "true"] {
        symlink("busybox", dir.join("bin").join(applet))?;
    }
    Ok(dir)
}

/// The root of a running container, as it sees it.
pub(super) fn root_of(desk: &Desk, name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/proc/{}/root", desk.pid(name)?)))
}

/// The tree of an image as umoci unpacks it.
fn by_umoci(desk: &Desk, umoci: &Path, name: &str, below: &str) -> Result<Tree> {
    let (archive, layout) = (desk.text("umoci.tar"), desk.path("umoci"));
    desk.go(&["save", "-o", &archive, name])?.ok()?;
    tar::Archive::new(fs::File::open(&archive)?).unpack(&layout)?;
    // umoci splits its argument at the first colon.
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] = "it".into();
    fs::write(layout.join("index.json"), index.to_string())?;
    run(desk, umoci, &["unpack", "--image", "umoci:it", "bundle"])?.ok()?;
    let found = tree(&desk.path("bundle/rootfs").join(below))?;
    fs::remove_dir_all(&layout)?;
    fs::remove_dir_all(desk.path("bundle"))?;
    Ok(found)
}

/// Fills a directory with what a file can be.
fn fill(all: &Path) -> Result<()> {
    fs::create_dir_all(all.join("d/e"))?;
    let file = |name: &[u8], mode: u32| -> Result<PathBuf> {
        let path = all.join(OsStr::from_bytes(name));
        fs::write(&path, name)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(path)
    };
    let owned = file(b"setuid", 0o644)?;
    chown(
        &owned,
        Some(Uid::from_raw(12_345)),
        Some(Gid::from_raw(3_000_000)),
    )?;
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o6755))?;
    file(b"new\nline\ttab", 0o600)?;
    file(b"\xff\xfe not utf-8", 0o600)?;
    file(&[b'n'; 255], 0o600)?;
    file(b".wharf", 0o600)?;
    let linked = file(b"linked", 0o640)?;
    fs::hard_link(&linked, all.join("d/e/link"))?;
    symlink("../nowhere/\u{e9}", all.join("symlink"))?;
    symlink("x".repeat(300), all.join("long-symlink"))?;
    let deep = all.join(["d".repeat(100), "e".repeat(100), "f".repeat(100)].join("/"));
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("g".repeat(100)), "deep")?;
    mkfifo(&all.join("fifo"), Mode::from_bits_truncate(0o622))?;
    let device = Mode::from_bits_truncate(0o660);
    mknod(
        &all.join("device"),
        SFlag::S_IFCHR,
        device,
        makedev(300, 70_000),
    )?;
    let attributes = file(b"attributes", 0o755)?;
    xattr::set(&attributes, OsStr::new("user.binary"), b"a\0b=\n")?;
    xattr::set(&attributes, OsStr::from_bytes(b"user.\xff\xfe"), b"odd")?;
    xattr::set(&all.join("d"), OsStr::new("user.dir"), b"1")?;
    // cap_net_raw+ep, revision 2 (linux/capability.h).
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    xattr::set(&attributes, OsStr::new("security.capability"), &capability)?;
    let holes = fs::File::create(all.join("sparse"))?;
    holes.set_len(20_000_000)?;
    std::os::unix::fs::FileExt::write_all_at(&holes, b"end", 19_000_000)?;
    for (name, seconds, nanos) in [
        ("linked", 981_173_106, 789_012_345),
        ("setuid", -86_400, 250_000_000),
        ("d/e", 4_102_444_800, 1),
        ("symlink", 5, 0),
    ] {
        let time = TimeSpec::new(seconds, nanos);
        let flags = UtimensatFlags::NoFollowSymlink;
        utimensat(nix::fcntl::AT_FDCWD, &all.join(name), &time, &time, flags)?;
    }
    Ok(())
}

/// Takes the way of an archive.
fn saved_and_loaded(desk: &Desk, name: &str) -> Result<()> {
    let archive = desk.text("s.tar");
    desk.go(&["save", "--compress", "-o", &archive, name])?
        .ok()?;
    desk.go(&["rmi", name])?.ok()?;
    desk.go(&["load", "-i", &archive])?.ok().map(drop)
}

fn everything(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let dir = base(&desk)?;
    let all = dir.join("all");
    fill(&all)?;
    let should = tree(&all)?;
    let size = all.join("sparse").metadata()?.blocks();

    let check = |image: &str, what: &str| -> Result<()> {
        let layer = layer_of(&desk, image)?;
        same(what, &tree(&layer.join("all"))?, &should)?;
        let taken = layer.join("all/sparse").metadata()?.blocks();
        ensure!(
            taken <= size + 256,
            "{what}: the sparse file takes {taken} blocks"
        );
        Ok(())
    };
    desk.go(&["import", &dir.display().to_string(), "dir:1"])?
        .ok()?;
    check("dir:1", "imported from a directory")?;
    saved_and_loaded(&desk, "dir:1")?;
    check("dir:1", "saved and loaded")?;
    // A whole round through a container.
    desk.start(&["--name", "c", "dir:1", "sleep", "1000"])?;
    same(
        "in a container",
        &tree(&root_of(&desk, "c")?.join("all"))?,
        &should,
    )?;
    desk.go(&["export", "-o", &desk.text("export.tar"), "c"])?
        .ok()?;
    desk.go(&["import", &desk.text("export.tar"), "back:1"])?
        .ok()?;
    check("back:1", "exported and imported")
}

fn unpacked_by_umoci(place: &Place) -> Result<()> {
    let umoci = tool("umoci")?;
    let desk = Desk::new(place)?;
    let dir = base(&desk)?;
    fill(&dir.join("all"))?;
    let should = tree(&dir.join("all"))?;
    desk.go(&["import", &dir.display().to_string(), "dir:1"])?
        .ok()?;
    saved_and_loaded(&desk, "dir:1")?;
    let found = by_umoci(&desk, &umoci, "dir:1", "all")?;
    same("unpacked by umoci", &found, &should)?;
    // And with layers over it, the second of which undoes some of the first.
    let mut dice = Dice(1);
    for round in 1..=2 {
        desk.start(&["--name", "c", &format!("dir:{round}"), "sleep", "1000"])?;
        let all = root_of(&desk, "c")?.join("all");
        change_all(&all, round)?;
        for number in 0..50 {
            let dir = all.join(format!("random/{number}"));
            if round == 1 {
                plant(&dir)?;
            }
            for _ in 0..4 + dice.roll(12) {
                let _ = change(&mut dice, &dir);
            }
        }
        let should = timeless(tree(&all)?);
        let name = format!("dir:{}", round + 1);
        desk.go(&["commit", "c", &name])?.ok()?;
        desk.go(&["rm", "-f", "c"])?.ok()?;
        for way in [saved_and_loaded, |_: &Desk, _: &str| Ok(())] {
            way(&desk, &name)?;
            let found = timeless(by_umoci(&desk, &umoci, &name, "all")?);
            same(&format!("{name} unpacked by umoci"), &found, &should)?;
        }
    }
    Ok(())
}

/// Changes of what [`fill`] made: of modes, owners, attributes, times and kinds.
fn change_all(all: &Path, round: u32) -> Result<()> {
    fs::set_permissions(
        all.join("setuid"),
        fs::Permissions::from_mode(0o4711 + round),
    )?;
    chown(
        &all.join("d/e"),
        Some(Uid::from_raw(round)),
        Some(Gid::from_raw(70_000)),
    )?;
    let value = round.to_string();
    xattr::set(
        &all.join("attributes"),
        OsStr::new("user.binary"),
        value.as_bytes(),
    )?;
    xattr::set(&all.join("d"), OsStr::new("user.dir"), value.as_bytes())?;
    // A directory in the place of a link, a device in that of a file, and the other way round.
    let (link, fifo) = (all.join("symlink"), all.join("fifo"));
    remove(&link)?;
    remove(&fifo)?;
    if round == 1 {
        fs::create_dir(&link)?;
        fs::write(link.join("file"), "in a new directory")?;
        symlink("symlink/file", &fifo)?;
    } else {
        symlink("elsewhere", &link)?;
        mkfifo(&fifo, Mode::from_bits_truncate(0o640))?;
    }
    let time = TimeSpec::new(1_000_000_000 + i64::from(round), 5);
    let flags = UtimensatFlags::NoFollowSymlink;
    Ok(utimensat(
        nix::fcntl::AT_FDCWD,
        &all.join("linked"),
        &time,
        &time,
        flags,
    )?)
}

/// Sparse files as GNU tar writes them, with the map in each of its formats.
fn gnu_tar(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let dir = base(&desk)?;
    let all = dir.join("all");
    fill(&all)?;
    let should = tree(&all)?;
    let dir = dir.display().to_string();
    let old = ["--format=gnu"].as_slice();
    let pax = |version| ["--format=posix", "--xattrs", "--xattrs-include=*", version];
    let versions = ["0.0", "0.1", "1.0"].map(|number| format!("--sparse-version={number}"));
    let [v0, v1, v2] = versions.each_ref().map(|version| pax(version));
    for options in [old, &v0, &v1, &v2] {
        let mut args = vec!["--sparse", "-cf", "it.tar"];
        args.extend(options);
        args.extend(["-C", &dir, "."]);
        run(&desk, Path::new("/usr/bin/tar"), &args)?.ok()?;
        desk.go(&["import", &desk.text("it.tar"), "tar:1"])?.ok()?;
        let layer = layer_of(&desk, "tar:1")?;
        let end = fs::read(layer.join("all/sparse"))?;
        let is_whole = end.len() == 20_000_000 && &end[19_000_000..19_000_003] == b"end";
        ensure!(is_whole, "{options:?}");
        let blocks = layer.join("all/sparse").metadata()?.blocks();
        ensure!(blocks < 1000, "{options:?}: {blocks} blocks");
        for name in ["setuid", "linked", "d/e"] {
            let is = layer.join("all").join(name).metadata()?.mtime();
            let should = all.join(name).metadata()?.mtime();
            ensure!(is == should, "{options:?}: {name} is of {is}, not {should}");
        }
        // The old format has neither attributes nor parts of seconds.
        if options != old {
            let what = format!("written by GNU tar {options:?}");
            same(&what, &tree(&layer.join("all"))?, &should)?;
        }
    }
    Ok(())
}

/// The unpacked layer of an image that has one.
pub(super) fn layer_of(desk: &Desk, image: &str) -> Result<PathBuf> {
    let layer = desk.inspect(image, "{{index .RootFS.Layers 0}}")?;
    Ok(desk
        .root()
        .join("layers")
        .join(layer.trim_start_matches("sha256:")))
}

fn many_layers(place: &Place) -> Result<()> {
    const COUNT: usize = 200;
    let desk = Desk::new(place)?;
    desk.import("base", Vec::new(), &[])?;
    let mut layers = Vec::new();
    for number in 0..COUNT {
        let (each, text) = (format!("each/{number}"), number.to_string());
        layers.push(packed(&[
            Entry::File(&each, 0o644, b""),
            Entry::File("last", 0o644, text.as_bytes()),
        ])?);
    }
    let first = desk.inspect("base", "{{index .RootFS.Layers 0}}")?;
    let blob = desk
        .root()
        .join("images/blobs/sha256")
        .join(first.trim_start_matches("sha256:"));
    layers.insert(0, fs::read(blob)?);
    super::layouts::layout(&desk, "many:1", &layers)?;
    desk.go(&["load", "-i", &desk.text("layout")])?.ok()?;
    for _ in 0..2 {
        let script = "set -- /each/*; echo $# $(cat /last)";
        let done = desk.go(&["run", "many:1", "sh", "-c", script])?.ok()?;
        done.says(&format!("{COUNT} {}", COUNT - 1))?;
        desk.go(&["save", "--compress", "-o", &desk.text("many.tar"), "many:1"])?
            .ok()?;
        desk.go(&["rmi", "many:1"])?.ok()?;
        desk.go(&["load", "-i", &desk.text("many.tar")])?.ok()?;
    }
    Ok(())
}

/// More levels than a process may have files open, and a path about as long as there is.
fn deep(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let go = |command: &str| -> Result<()> {
        let args: Vec<&str> = command.split(' ').collect();
        desk.go_after("ulimit -n 64", &args)?.ok().map(drop)
    };
    let make = |options: &[&str], levels: usize| -> Result<()> {
        let script = format!("mkdir -p $(printf 'a/%.0s' $(seq {levels}))");
        let all = ["run", "--keep", "-w", "/top"];
        let all = [&all, options, &["busybox", "sh", "-c", &script]].concat();
        desk.go(&all)?.ok().map(drop)
    };
    make(&["--name", "deepest"], 1900)?;
    go("export -o deep.tar deepest")?;
    go("rm deepest")?;
    go("import deep.tar imported")?;
    // find(1) would have a file open for each.
    let script = "cd /top; n=0; while cd a 2>/dev/null; do n=$((n + 1)); done; echo $n";
    desk.go(&["run", "imported", "sh", "-c", script])?
        .ok()?
        .says("1900")?;
    go("rmi imported")?;
    make(&["--name", "volume", "-v", "deep:/top"], 1900)?;
    go("rm volume")?;
    go("volume rm deep")?;
    make(&["--name", "changed"], 500)?;
    go("diff changed")?;
    // The first time its directory moves into the image.
    go("commit changed made")?;
    go("commit changed again")?;
    go("rm changed")?;
    for image in ["made", "again", "busybox"] {
        go(&format!("rmi {image}"))?;
    }
    for dir in ["drafts", "layers", "containers", "volumes"] {
        let mut left = fs::read_dir(desk.root().join(dir))?;
        ensure!(left.next().is_none(), "something is left in {dir}");
    }
    Ok(())
}

fn stuck(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let draft = desk.root().join("drafts/left");
    let mounted = draft.join("mounted");
    fs::create_dir_all(&mounted)?;
    let (kind, none) = (Some("tmpfs"), None::<&str>);
    mount(kind, &mounted, kind, MsFlags::empty(), none).context("mount a tmpfs")?;
    let told = desk.go(&["images"]);
    umount2(&mounted, MntFlags::MNT_DETACH).context("unmount it")?;
    let told = told?.ok()?;
    let line = format!("mydocker: remove {}: ", draft.display());
    ensure!(told.err.contains(&line), "{told:?}");
    ensure!(told.err.contains("busy\nhint: "), "{told:?}");
    let done = desk.go(&["images"])?.ok()?;
    ensure!(done.err.is_empty() && !draft.exists(), "{done:?}");
    Ok(())
}

/// Killed between putting its files into the store and naming the image.
fn swept(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.go(&["run", "busybox", "true"])?.ok()?;
    let draft = desk.root().join("drafts/left");
    let blob = desk.root().join("images/blobs/sha256").join("0".repeat(64));
    for next in [["volume", "create", "data"], ["volume", "ls", "-q"]] {
        fs::create_dir(&draft)?;
        fs::write(&blob, "left")?;
        desk.go(&next)?.ok()?;
        desk.go(&["images"])?.ok()?;
        ensure!(!blob.exists() && !draft.exists(), "{next:?}");
    }
    Ok(())
}
