//! Archives that want something else than to be unpacked: a clear error, and nothing left of them.

use super::kit::finish;
use super::layouts::{layout, machine, put_image, put_index};
use super::trees::layer_of;
use super::world::World;
use super::{Desk, Place, Row};
use anyhow::{Context, Result, ensure};
use std::path::Path;
use tar::{EntryType, Header};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "hostile: layers that lead out of their directory, in load and import",
        run: lead_out,
    },
    Row {
        name: "hostile: load of images whose blobs are not what they should be",
        run: lies,
    },
    Row {
        name: "hostile: load of an image under another one's digest",
        run: false_pin,
    },
    Row {
        name: "hostile: load of an image that is named like another one's id",
        run: false_id,
    },
    Row {
        name: "hostile: what unpacks to more than --max-unpacked is a bomb",
        run: bomb,
    },
    Row {
        name: "hostile: a build context whose Dockerfile is not in it, or no file",
        run: contexts,
    },
    Row {
        name: "hostile: load of archives that are none, or cut short",
        run: no_archives,
    },
];

/// An entry with a name as it is.
fn entry(name: &str, kind: EntryType, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend(content);
    bytes.resize(bytes.len().div_ceil(512) * 512, 0);
    bytes
}

fn file(name: &str) -> Vec<u8> {
    entry(name, EntryType::Regular, "", b"escaped")
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = entries.concat();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// What the error must say, and the entries.
type Case = (&'static str, Vec<Vec<u8>>);

/// Layers that lead out of their directory, to `outside` among others.
fn leading_out(outside: &str) -> Vec<Case> {
    let link = |to: &str| entry("l", EntryType::Symlink, to, b"");
    let hard = |to: &str| entry("h", EntryType::Link, to, b"");
    let large = vec![b'x'; 8 << 20];
    let record = |key: &str| {
        let text = format!("{key}\n");
        format!("{} {text}", text.len() + 3).into_bytes()
    };
    let sparse = [record("GNU.sparse.size=9"), record("GNU.sparse.map=0,1,5")].concat();
    let pax = |bytes: &[u8]| entry("x", EntryType::XHeader, "", bytes);
    vec![
        ("leads out", vec![file("../escaped")]),
        ("leads out", vec![file("a/../../escaped")]),
        ("leads out", vec![link(outside), file("l/escaped")]),
        ("leads out", vec![link("../../../../.."), file("l/escaped")]),
        (
            "leads out",
            vec![
                link("/"),
                entry("l", EntryType::Directory, "", b""),
                link("/"),
                file("l/x"),
            ],
        ),
        ("leads out", vec![hard("../../../etc/passwd")]),
        ("not in the archive", vec![hard("/etc/passwd")]),
        ("leads out", vec![link("/etc"), hard("l/passwd")]),
        ("leads out", vec![link(outside), file("l/.wh.there")]),
        ("leads out", vec![link(outside), file("l/.wh..wh..opq")]),
        ("a whiteout of nothing", vec![file(".wh..")]),
        ("a whiteout of nothing", vec![file("a/.wh...")]),
        (
            "a hard link to a directory",
            vec![entry("d", EntryType::Directory, "", b""), hard("d")],
        ),
        (
            "is not supported",
            vec![entry("x", EntryType::new(b'Z'), "", b"")],
        ),
        ("extended header", vec![file("a"), pax(&large)]),
        (
            "extended header",
            vec![file("a"), entry("L", EntryType::GNULongName, "", &large)],
        ),
        ("sparse file", vec![pax(&sparse), file("a")]),
    ]
}

fn lead_out(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    // Where they would lead to: beside the layer, and anywhere.
    let victim = desk.write("victim/there", "unharmed")?;
    let outside = desk.text("victim");
    desk.import("one:1", Vec::new(), &[])?;
    let cases = leading_out(&outside);
    let before = World::of(&desk)?;
    for (number, (word, entries)) in cases.iter().enumerate() {
        let bytes = archive(entries);
        let tar = desk.path("hostile.tar");
        std::fs::write(&tar, &bytes)?;
        let what = || format!("case {number}: {word}");
        let import = desk.go(&["import", &desk.text("hostile.tar"), "bad:1"])?;
        import.fails(1, &[word]).with_context(what)?;
        layout(&desk, "bad:1", &[bytes])?;
        let load = desk.go(&["load", "-i", &desk.text("layout")])?;
        load.fails(1, &[word]).with_context(what)?;
    }
    ensure!(std::fs::read_to_string(&victim)? == "unharmed");
    ensure!(std::fs::read_dir(desk.path("victim"))?.count() == 1);
    ensure!(!Path::new("/escaped").exists());
    before.is_back(&desk)?;
    // What looks odd, and is none of that: an absolute name, a link that leads to nowhere.
    let odd = archive(&[
        file("/absolute"),
        entry("l", EntryType::Symlink, "/nowhere", b""),
        entry("h", EntryType::Link, "/absolute", b""),
    ]);
    layout(&desk, "odd:1", &[odd])?;
    desk.go(&["load", "-i", &desk.text("layout")])?.ok()?;
    let layer = layer_of(&desk, "odd:1")?;
    ensure!(layer.join("absolute").is_file() && layer.join("h").is_file());
    Ok(())
}

/// What becomes of a blob.
type Spoil = fn(&[u8]) -> Vec<u8>;

/// Blobs that are not what their digests and sizes say.
fn lies(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("one:1", Vec::new(), &[])?;
    let before = World::of(&desk)?;
    let layer = archive(&[file("a")]);
    let longer: Spoil = |bytes| [bytes, b" "].concat();
    let shorter: Spoil = |bytes| bytes[..bytes.len() - 1].to_vec();
    // In the padding at the end.
    let other: Spoil = |bytes| [&bytes[..bytes.len() - 1], b"x"].concat();
    for (kind, word, spoil) in [
        ("manifest", "is damaged", longer),
        ("config", "is damaged", longer),
        ("config", "is damaged", shorter),
        ("layer", "longer than", longer),
        ("layer", "cut short", shorter),
        ("layer", "its digest is", other),
    ] {
        layout(&desk, "bad:1", std::slice::from_ref(&layer))?;
        for entry in std::fs::read_dir(desk.path("layout/blobs/sha256"))? {
            let path = entry?.path();
            let bytes = std::fs::read(&path)?;
            let is = match bytes.first() {
                Some(b'{') if bytes.windows(6).any(|window| window == b"rootfs") => "config",
                Some(b'{') => "manifest",
                _ => "layer",
            };
            if is == kind {
                std::fs::write(&path, spoil(&bytes))?;
            }
        }
        let load = desk.go(&["load", "-i", &desk.text("layout")])?;
        load.fails(1, &[word])
            .with_context(|| format!("{kind}: {word}"))?;
        before.is_back(&desk)?;
    }
    Ok(())
}

/// A digest in a name is what whoever runs it relies on: an archive may only repeat the truth.
fn false_pin(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let image = put_image(&desk, &[archive(&[file("a")])], machine())?;
    let digest = image["digest"].as_str().context("no digest")?.to_owned();
    let lie = format!("x@sha256:{}", "1".repeat(64));
    let names =
        || -> Result<String> { Ok(desk.go(&["images", "--digests", "--no-trunc"])?.ok()?.out) };
    let load = || desk.go(&["load", "-i", &desk.text("layout")])?.ok();
    put_index(&desk, image.clone(), &lie)?;
    ensure!(load()?.err.contains("not what its name says"));
    ensure!(!names()?.contains("1111"), "{}", names()?);
    desk.go(&["run", &lie, "true"])?.code(125)?;
    // The same in Docker's list, beside an index or without one.
    put_index(&desk, image.clone(), "x:1")?;
    let manifest = std::fs::read(blob(&desk, &digest))?;
    let manifest: serde_json::Value = serde_json::from_slice(&manifest)?;
    let path = |part: &serde_json::Value| {
        let digest = part["digest"].as_str().unwrap_or_default();
        digest.replace("sha256:", "blobs/sha256/")
    };
    let list = serde_json::json!([{
        "Config": path(&manifest["config"]), "RepoTags": [lie, "y:1"],
        "Layers": [path(&manifest["layers"][0])],
    }]);
    desk.write("layout/manifest.json", &list.to_string())?;
    for index in [true, false] {
        if !index {
            std::fs::remove_file(desk.path("layout/index.json"))?;
        }
        let done = load()?;
        ensure!(
            done.err.contains("not what its name says") && done.out.contains("y:1"),
            "{done:?}"
        );
        ensure!(!names()?.contains("1111"), "{}", names()?);
    }
    put_index(&desk, image, &format!("x@{digest}"))?;
    std::fs::remove_file(desk.path("layout/manifest.json"))?;
    load()?;
    ensure!(names()?.contains(&digest), "{}", names()?);
    Ok(())
}

/// An id stands for its image, whatever names an archive brings.
fn false_id(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("mine", Vec::new(), &[])?;
    let id = desk.inspect("mine", "{{.Id}}")?;
    let image = put_image(&desk, &[archive(&[file("a")])], machine())?;
    for name in [
        id.clone(),
        format!("docker.io/library/{id}"),
        format!("index.docker.io/{id}"),
        format!("{}:latest", &id["sha256:".len()..]),
    ] {
        put_index(&desk, image.clone(), &name)?;
        let done = desk.go(&["load", "-i", &desk.text("layout")])?.ok()?;
        ensure!(done.err.contains("invalid image name"), "{name}: {done:?}");
        ensure!(desk.inspect(&id, "{{.Id}}")? == id, "{name} took it over");
        desk.go(&["tag", "mine", &name])?
            .fails(1, &["invalid image name"])?;
    }
    desk.go(&["run", "--rm", &id, "ls", "/bin/sh"])?
        .ok()?
        .says("/bin/sh")
        .map(drop)
}

fn blob(desk: &Desk, digest: &str) -> std::path::PathBuf {
    desk.path("layout")
        .join(digest.replace("sha256:", "blobs/sha256/"))
}

/// Archives that are none, have no images, or end early, wherever that is.
fn no_archives(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("one:1", Vec::new(), &[])?;
    desk.go(&["save", "-o", &desk.text("good.tar"), "one:1"])?
        .ok()?;
    let good = std::fs::read(desk.path("good.tar"))?;
    let before = World::of(&desk)?;
    let list = |text: &[u8]| archive(&[entry("manifest.json", EntryType::Regular, "", text)]);
    let text = b"no archive at all, but some text that goes on and on".repeat(30);
    for (words, bytes) in [
        (&["not a tar archive"][..], text),
        (
            &["there are no images in it", "import"],
            archive(&[file("a")]),
        ),
        (&["there are no images in it"], Vec::new()),
        (&["cut short"], good[..good.len() / 2].to_vec()),
        (&["no images"], good[..1024].to_vec()),
        (&["../x"], list(b"[{\"Config\":\"../x\",\"Layers\":[]}]")),
        (&["manifest.json"], list(b"{")),
        (&["there are no images in it"], list(b"[]")),
    ] {
        std::fs::write(desk.path("bad.tar"), &bytes)?;
        desk.go(&["load", "-i", &desk.text("bad.tar")])?
            .fails(1, words)?;
        let mut command = desk.command(desk.program());
        let input = std::fs::File::open(desk.path("bad.tar"))?;
        command.arg("load").stdin(input);
        finish(&mut command, "load < bad.tar", "")?.fails(1, words)?;
        before.is_back(&desk)?;
    }
    desk.go(&["load", "-i", "/nosuch.tar"])?
        .fails(1, &["/nosuch.tar"])
        .map(drop)
}

fn bomb(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let zeros = vec![0; 2 << 20];
    layout(
        &desk,
        "zeros:1",
        &[archive(&[entry("z", EntryType::Regular, "", &zeros)])],
    )?;
    desk.go(&["load", "-i", &desk.text("layout")])?.ok()?;
    let (file, whole) = (desk.text("x.tar"), desk.path("x.tar.gz"));
    desk.go(&["save", "--compress", "-o", &file, "zeros:1"])?
        .ok()?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::open(&file)?, &mut gzip)?;
    std::fs::write(&whole, gzip.finish()?)?;
    desk.go(&["rmi", "zeros:1"])?.ok()?;
    let before = World::of(&desk)?;
    desk.go(&["load", "--max-unpacked", "1m", "-i", &file])?
        .fails(1, &["1048576: a decompression bomb", "--max-unpacked"])?;
    desk.go(&["load", "--max-unpacked", "1k", "-i", &desk.text("x.tar.gz")])?
        .fails(1, &["1024: a decompression bomb", "--max-unpacked"])?;
    before.is_back(&desk)?;
    desk.go(&["load", "--max-unpacked", "3m", "-i", &file])?
        .ok()?;
    Ok(())
}

fn contexts(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("base", Vec::new(), &[])?;
    let secret = desk.write("secret", "not-for-you")?.display().to_string();
    let build = |args: &[&str], entries: &[Vec<u8>]| {
        std::fs::write(desk.path("context.tar"), archive(entries))?;
        let mut command = desk.command(desk.program());
        let input = std::fs::File::open(desk.path("context.tar"))?;
        command.arg("build").args(args).arg("-").stdin(input);
        finish(&mut command, "build - < context.tar", "")
    };
    let link = |name: &str, to: &str| entry(name, EntryType::Symlink, to, b"");
    let fifo = |name: &str| entry(name, EntryType::Fifo, "", b"");
    let text = |name: &str| entry(name, EntryType::Regular, "", b"FROM base\nCOPY a /\n");
    let zeros = vec![b'#'; (4 << 20) + 1];
    let before = World::of(&desk)?;
    let dockerfile = "Dockerfile";
    for (args, words, entries) in [
        (&[][..], "no Dockerfile", vec![link(dockerfile, &secret)]),
        (
            &[],
            "no Dockerfile",
            vec![link(dockerfile, "../../../../../../etc/passwd")],
        ),
        (
            &["-f", "d"],
            "no d in",
            vec![link("d", &secret), text(dockerfile)],
        ),
        (
            &["-f", "../secret"],
            "no ../secret in",
            vec![text(dockerfile)],
        ),
        (&[], "not a regular file", vec![fifo(dockerfile)]),
        (&["-f", "d"], "not a regular file", vec![fifo("d")]),
        (
            &[],
            "not a regular file",
            vec![text(dockerfile), fifo(".dockerignore")],
        ),
        (
            &[],
            "not a regular file",
            vec![text(dockerfile), fifo("Dockerfile.dockerignore")],
        ),
        (
            &[],
            "larger than",
            vec![entry(dockerfile, EntryType::Regular, "", &zeros)],
        ),
    ] {
        let done = build(args, &entries)?.fails(1, &[words])?;
        ensure!(!done.err.contains("not-for"), "{done:?}");
        before.is_back(&desk)?;
    }
    // Those of the host's names are nothing, and those of the context are what they lead to.
    let odd = [
        link(dockerfile, "/real"),
        text("real"),
        file("a"),
        link(".dockerignore", "/dev/zero"),
        link("Dockerfile.dockerignore", &secret),
    ];
    build(&["-q"], &odd)?.ok()?;
    // A directory is no more trusted.
    std::fs::create_dir(desk.path("context"))?;
    std::os::unix::fs::symlink(&secret, desk.path("context/Dockerfile"))?;
    desk.go(&["build", "context"])?
        .fails(1, &["no Dockerfile"])?;
    // Nor is what it has beside a Dockerfile that is named: this pattern would leave out all.
    let all = desk.write("all", "*")?;
    let beside = desk.path("context/named.dockerignore");
    std::os::unix::fs::symlink(&all, &beside)?;
    desk.write("context/named", "FROM base\nCOPY a /\n")?;
    desk.write("context/a", "")?;
    desk.go(&["build", "-q", "-f", "context/named", "context"])?
        .ok()
        .map(drop)
}
