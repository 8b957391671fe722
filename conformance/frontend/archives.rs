//! Images as archives: what `save` writes and `load` reads, with the tools of others on the other
//! side, and archives that lie.

use super::building;
use super::false_registry::digest;
use super::images_made::{Entry, packed};
use super::kit::finish;
use super::layouts::{INDEX, machine, put, put_image, put_index};
use super::world::World;
use super::{Desk, Done, Place, Row, skip};
use anyhow::{Result, ensure};
use serde_json::json;
use std::io::Write;
use std::path::Path;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "save and load: files, pipes, compression, several images",
        run: save_and_load,
    },
    Row {
        name: "save: names, ids, repositories; what cannot be saved",
        run: save_chooses,
    },
    Row {
        name: "save is read by skopeo, digests and all",
        run: skopeo_reads,
    },
    Row {
        name: "load reads what skopeo writes: docker-archive, oci-archive, oci",
        run: skopeo_writes,
    },
    Row {
        name: "podman loads what save wrote, and load what podman saved",
        run: podman,
    },
    Row {
        name: "load takes the platform of this machine from an index, or another",
        run: platforms,
    },
    Row {
        name: "history of an image",
        run: history,
    },
    Row {
        name: "export of a running container and of one that has ended",
        run: export,
    },
];

/// A tool of another project; without it the row is skipped.
pub(super) fn tool(name: &str) -> Result<std::path::PathBuf> {
    let path = Path::new("/usr/bin").join(name);
    match path.exists() {
        true => Ok(path),
        false => skip(format!("no {name} (apt-get install {name})")),
    }
}

/// Runs a tool in the row's directory.
pub(super) fn run(desk: &Desk, program: &Path, args: &[&str]) -> Result<Done> {
    let mut command = desk.command(program);
    command.args(args);
    finish(
        &mut command,
        &format!("{} {}", program.display(), args.join(" ")),
        "",
    )
}

/// Runs mydocker with a file as its standard input.
pub(super) fn with_input(desk: &Desk, args: &[&str], input: &Path) -> Result<Done> {
    let mut command = desk.command(desk.program());
    command.args(args).stdin(std::fs::File::open(input)?);
    finish(&mut command, &args.join(" "), "")
}

/// Two images, the second a layer more than the first.
pub(super) fn two_images(desk: &Desk) -> Result<()> {
    desk.import(
        "one:1",
        vec![Entry::File("etc/one", 0o644, b"1\n")],
        &["CMD [\"cat\",\"/etc/one\"]"],
    )?;
    desk.go(&[
        "run",
        "--keep",
        "--name",
        "c",
        "one:1",
        "sh",
        "-c",
        "echo 2 >/etc/two",
    ])?
    .ok()?;
    let cmd = "CMD [\"cat\",\"/etc/two\"]";
    desk.go(&["commit", "-c", cmd, "c", "two/sub:2"])?.ok()?;
    desk.go(&["rm", "c"])?.ok()?;
    Ok(())
}

/// What identifies all images: name, id and digest.
fn known(desk: &Desk) -> Result<Vec<String>> {
    let format = "{{.Repository}}:{{.Tag}} {{.ID}} {{.Digest}}";
    let done = desk
        .go(&["images", "--no-trunc", "--digests", "--format", format])?
        .ok()?;
    let mut lines: Vec<String> = done.out.lines().map(str::to_owned).collect();
    lines.sort();
    Ok(lines)
}

fn forget(desk: &Desk) -> Result<()> {
    desk.go(&["rmi", "-f", "one:1", "two/sub:2"])?.ok()?;
    ensure!(known(desk)?.is_empty());
    Ok(())
}

fn save_and_load(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let all = known(&desk)?;
    ensure!(all.len() == 2, "{all:?}");
    let (file, again) = (desk.path("all.tar"), desk.path("again.tar"));
    let (file_text, again_text) = (desk.text("all.tar"), desk.text("again.tar"));
    desk.go(&["save", "-o", &file_text, "one:1", "two/sub:2"])?
        .ok()?;
    let mut command = desk.command(Path::new("/bin/sh"));
    command.args(["-c", "\"$1\" save one:1 two/sub:2 >\"$2\"", "sh"]);
    command.args([desk.program(), &again]);
    finish(&mut command, "save > FILE", "")?.ok()?;
    let bytes = std::fs::read(&file)?;
    ensure!(
        bytes == std::fs::read(&again)?,
        "the same images give the same archive"
    );

    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&bytes)?;
    std::fs::write(desk.path("all.tar.gz"), packed.finish()?)?;
    std::fs::write(
        desk.path("all.tar.zst"),
        zstd::encode_all(bytes.as_slice(), 1)?,
    )?;
    let layout = desk.path("layout");
    tar::Archive::new(bytes.as_slice()).unpack(&layout)?;
    for name in ["all.tar", "all.tar.gz", "all.tar.zst", "layout"] {
        forget(&desk)?;
        let loaded = desk.go(&["load", "-i", &desk.text(name)])?.ok()?;
        loaded.says("Loaded image: one:1\nLoaded image: two/sub:2")?;
        ensure!(
            known(&desk)? == all,
            "{name}: {:?} is not {all:?}",
            known(&desk)?
        );
        if name != "layout" {
            forget(&desk)?;
            with_input(&desk, &["image", "load", "-q"], &desk.path(name))?.ok()?;
            ensure!(known(&desk)? == all);
        }
    }
    desk.go(&["run", "two/sub:2"])?.ok()?.says("2")?;
    desk.go(&["run", "one:1"])?.ok()?.says("1")?;
    let id = desk.inspect("two/sub:2", "{{.Id}}")?;
    // With compression on the way: other manifests, the same images.
    for how in ["--compress", "--compress=zstd"] {
        desk.go(&["save", how, "-o", &again_text, "two/sub:2"])?
            .ok()?;
        desk.go(&["rmi", "-f", "one:1", "two/sub:2"])?.ok()?;
        desk.go(&["load", "-i", &again_text])?.ok()?;
        let now = known(&desk)?;
        ensure!(
            now.len() == 1 && now[0].contains(&id),
            "{how}: {now:?} {all:?}"
        );
        desk.go(&["run", "two/sub:2"])?.ok()?.says("2")?;
        ensure!(std::fs::metadata(&again)?.len() < bytes.len() as u64 * 3 / 4);
    }
    Ok(())
}

fn save_chooses(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    desk.go(&["tag", "one:1", "one:other"])?.ok()?;
    let file = desk.text("x.tar");
    let id = desk.inspect("one:1", "{{.Id}}")?;
    desk.go(&["save", "-o", &file, "one"])?.ok()?;
    desk.go(&["rmi", "-f", "one:1", "one:other"])?.ok()?;
    desk.go(&["load", "-i", &file])?
        .ok()?
        .says("Loaded image: one:1\nLoaded image: one:other")?;
    desk.go(&["save", "-o", &file, &id])?.ok()?;
    desk.go(&["rmi", "-f", "one:1", "one:other"])?.ok()?;
    desk.go(&["load", "-i", &file])?
        .ok()?
        .says(&format!("Loaded image ID: {id}"))?;

    let before = World::of(&desk)?;
    desk.go(&["save", "-o", &desk.text("no.tar"), "nosuch"])?
        .fails(1, &["nosuch"])?;
    ensure!(!desk.path("no.tar").exists());
    let nowhere = desk.text("no/such/dir.tar");
    desk.go(&["save", "-o", &nowhere, &id])?
        .fails(1, &["dir.tar"])?;
    desk.go(&["save", "--platform", "linux/s390x", "-o", &file, &id])?
        .fails(1, &["not for linux/s390x"])?;
    before.is_back(&desk)
}

fn skopeo_reads(place: &Place) -> Result<()> {
    let skopeo = tool("skopeo")?;
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    desk.go(&["save", "-o", &desk.text("x.tar"), "one:1", "two/sub:2"])?
        .ok()?;
    for name in ["one:1", "two/sub:2"] {
        let id = desk.inspect(name, "{{.Id}}")?;
        let digests = desk
            .go(&["images", "--digests", "--format", "{{.Digest}}", name])?
            .ok()?;
        let raw = run(
            &desk,
            &skopeo,
            &["inspect", "--raw", &format!("oci-archive:x.tar:{name}")],
        )?
        .ok()?;
        ensure!(
            digest(raw.out.as_bytes()) == digests.line(),
            "{name}: {raw:?}"
        );
        for kind in ["oci-archive", "docker-archive"] {
            let from = format!("{kind}:x.tar:{name}");
            let config = run(&desk, &skopeo, &["inspect", "--config", "--raw", &from])?.ok()?;
            ensure!(
                digest(config.out.as_bytes()) == id,
                "{kind} {name}: {config:?}"
            );
            // All layers are read and compared.
            let to = format!("dir:{kind}-{}", name.replace(['/', ':'], "-"));
            run(&desk, &skopeo, &["--insecure-policy", "copy", &from, &to])?.ok()?;
        }
    }
    Ok(())
}

fn skopeo_writes(place: &Place) -> Result<()> {
    let skopeo = tool("skopeo")?;
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let id = desk.inspect("two/sub:2", "{{.Id}}")?;
    desk.go(&["save", "-o", &desk.text("x.tar"), "two/sub:2"])?
        .ok()?;
    let copy = |from: &str, to: &str, more: &[&str]| -> Result<()> {
        let mut args = vec!["--insecure-policy", "copy"];
        args.extend(more);
        args.extend([from, to]);
        run(&desk, &skopeo, &args)?.ok().map(drop)
    };
    let from = "oci-archive:x.tar:two/sub:2";
    copy(from, "docker-archive:d.tar:two/sub:2", &[])?;
    copy(
        from,
        "oci-archive:o.tar:two/sub:2",
        &["--dest-compress", "--dest-compress-format", "zstd"],
    )?;
    copy(from, "oci:layout:two/sub:2", &["--dest-compress"])?;
    for name in ["d.tar", "o.tar", "layout"] {
        desk.go(&["rmi", "-f", "one:1", "two/sub:2"])?.ok()?;
        desk.go(&["load", "-i", &desk.text(name)])?
            .ok()?
            .says("Loaded image: two/sub:2")?;
        ensure!(desk.inspect("two/sub:2", "{{.Id}}")? == id, "{name}");
        desk.go(&["run", "two/sub:2"])?.ok()?.says("2")?;
        if name == "d.tar" {
            continue;
        }
        // The digest is that of the other's manifest.
        let kind = if name == "layout" {
            "oci:layout"
        } else {
            "oci-archive:o.tar"
        };
        let raw = run(
            &desk,
            &skopeo,
            &["inspect", "--raw", &format!("{kind}:two/sub:2")],
        )?
        .ok()?;
        let mine = desk
            .go(&["images", "--format", "{{.Digest}}", "two/sub:2"])?
            .ok()?;
        ensure!(
            mine.line() == digest(raw.out.as_bytes()),
            "{name}: {mine:?}"
        );
        // And so it stays on the way out.
        desk.go(&["save", "-o", &desk.text("out.tar"), "two/sub:2"])?
            .ok()?;
        let out = run(
            &desk,
            &skopeo,
            &["inspect", "--raw", "oci-archive:out.tar:two/sub:2"],
        )?
        .ok()?;
        ensure!(out.out == raw.out);
    }
    Ok(())
}

fn podman(place: &Place) -> Result<()> {
    let podman = tool("podman")?;
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let id = desk.inspect("two/sub:2", "{{.Id}}")?;
    desk.go(&["save", "-o", &desk.text("x.tar"), "two/sub:2"])?
        .ok()?;
    let [root, run_root, tmp] = ["podman", "podman-run", "podman-tmp"].map(|name| desk.text(name));
    let podman = |args: &[&str]| -> Result<Done> {
        let mut all = vec![
            "--root",
            &root,
            "--runroot",
            &run_root,
            "--tmpdir",
            &tmp,
            "--storage-driver",
            "vfs",
        ];
        all.extend(["--events-backend", "none"]);
        all.extend(args);
        run(&desk, &podman, &all)
    };
    let loaded = podman(&["load", "-q", "-i", "x.tar"])?.ok()?;
    ensure!(loaded.out.contains("two/sub:2"), "{loaded:?}");
    let name = "docker.io/two/sub:2";
    let inspected = podman(&["image", "inspect", "--format", "{{.Id}}", name])?.ok()?;
    ensure!(
        format!("sha256:{}", inspected.line()) == id,
        "{inspected:?}"
    );
    for format in ["docker-archive", "oci-archive"] {
        let file = format!("{format}.tar");
        podman(&["save", "-q", "--format", format, "-o", &file, name])?.ok()?;
        desk.go(&["rmi", "-f", "one:1", "two/sub:2"])?.ok()?;
        desk.go(&["load", "-i", &desk.text(&file)])?
            .ok()?
            .says("Loaded image: two/sub:2")?;
        ensure!(desk.inspect("two/sub:2", "{{.Id}}")? == id, "{format}");
        desk.go(&["run", "two/sub:2"])?.ok()?.says("2")?;
    }
    podman(&["rmi", "-f", name])?.ok()?;
    Ok(())
}

fn platforms(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let mut manifests = Vec::new();
    for arch in ["arm64", "amd64", "s390x"] {
        let layer = packed(&[Entry::File(arch, 0o644, b"")])?;
        manifests.push(put_image(&desk, &[layer], arch)?);
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
    let (list, size) = put(&desk, index.to_string().as_bytes())?;
    put_index(
        &desk,
        json!({"mediaType": INDEX, "digest": list, "size": size}),
        "many:1",
    )?;
    let layout = desk.text("layout");
    let arch = || desk.inspect("many:1", "{{.Architecture}}");
    desk.go(&["load", "-i", &layout])?
        .ok()?
        .says("Loaded image: many:1")?;
    ensure!(arch()? == machine(), "{}", arch()?);
    desk.go(&["load", "--platform", "linux/s390x", "-i", &layout])?
        .ok()?;
    ensure!(arch()? == "s390x");
    let here = format!("linux/{}", machine());
    let refused = ["is for linux/s390x, not for", &here];
    let run = ["run", "--pull", "never", "--platform", &here, "many:1", "x"];
    desk.go(&run)?.fails(125, &refused)?;
    // Known by its id it cannot be pulled.
    let id = desk.inspect("many:1", "{{.Id}}")?;
    for text in [format!("FROM --platform={here} {id}"), format!("FROM {id}")] {
        building::build(&desk, &text, &["--platform", &here])?.fails(1, &refused)?;
    }
    let said = format!("many:1 is for linux/s390x, and this machine is {here}");
    let created = desk.go(&["create", "many:1", "x"])?.ok()?;
    ensure!(created.err.contains(&said), "{created:?}");
    let built = building::build(&desk, "FROM many:1\nLABEL a=b", &[])?.ok()?;
    ensure!(built.err.contains(&said), "{built:?}");
    desk.go(&["rm", created.line()])?.ok()?;
    // What has the variant that its architecture has anyway is the same with it and without.
    for (said, asked) in [
        ("arm64", "linux/arm64/v8"),
        ("arm64/v8", "linux/arm64"),
        ("arm64/v8", "linux/arm64/8"),
        ("amd64", "linux/x86_64"),
        ("arm", "linux/arm/v7"),
    ] {
        let layer = packed(&[Entry::File("file", 0o644, asked.as_bytes())])?;
        let image = put_image(&desk, &[layer], said)?;
        put_index(&desk, image, "one:1")?;
        let of = |verb: &str, rest: &[&str]| {
            desk.go(&[&[verb, "--platform", asked], rest].concat())?
                .ok()
        };
        of("load", &["-i", &layout])?;
        of("history", &["one:1"])?;
        of("save", &["-o", &desk.text("one.tar"), "one:1"])?;
    }
    let before = World::of(&desk)?;
    desk.go(&["load", "--platform", "arm64/v8/x/y", "-i", &layout])?
        .fails(125, &["--platform", "OS/ARCH[/VARIANT]"])?;
    put_index(
        &desk,
        json!({"mediaType": INDEX, "digest": list, "size": size}),
        "many:1",
    )?;
    desk.go(&["load", "--platform", "linux/riscv64", "-i", &layout])?
        .fails(
            1,
            &[
                "no image for linux/riscv64",
                "linux/arm64, linux/amd64, linux/s390x",
            ],
        )?;
    before.is_back(&desk)
}

fn history(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let done = desk.go(&["history", "two/sub:2"])?.ok()?;
    let lines: Vec<&str> = done.out.lines().collect();
    ensure!(
        lines.len() == 3 && lines[0].starts_with("IMAGE"),
        "{done:?}"
    );
    ensure!(lines[1].contains("echo 2 >/etc/two"), "{done:?}");
    ensure!(
        lines[2].starts_with("<missing>") && lines[2].contains("import"),
        "{done:?}"
    );
    let id = desk.inspect("two/sub:2", "{{.Id}}")?;
    let quiet = desk
        .go(&["image", "history", "-q", "--no-trunc", "two/sub:2"])?
        .ok()?;
    ensure!(quiet.out == format!("{id}\n<missing>\n"), "{quiet:?}");
    let sizes = desk
        .go(&[
            "history",
            "--human=false",
            "--format",
            "{{.Size}}",
            "two/sub:2",
        ])?
        .ok()?;
    let sum: u64 = sizes
        .out
        .lines()
        .filter_map(|line| line.parse::<u64>().ok())
        .sum();
    ensure!(
        desk.inspect("two/sub:2", "{{.Size}}")? == sum.to_string(),
        "{sizes:?}"
    );
    desk.go(&["history", "nosuch"])?
        .fails(1, &["nosuch"])
        .map(drop)
}

/// With a volume that is no part of it.
fn export(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    two_images(&desk)?;
    let volume = format!("{}:/to1", desk.text("from1"));
    desk.write("from1/secret", "x")?;
    desk.start(&[
        "--name",
        "live",
        "-v",
        &volume,
        "two/sub:2",
        "sh",
        "-c",
        "ln /etc/two /etc/three; echo ready; exec sleep 1000",
    ])?;
    desk.logged("live", "ready")?;
    desk.go(&[
        "run",
        "--keep",
        "--name",
        "ended",
        "two/sub:2",
        "touch",
        "/made",
    ])?
    .ok()?;
    desk.go(&[
        "run",
        "--keep",
        "--name",
        "committed",
        "two/sub:2",
        "touch",
        "/made",
    ])?
    .ok()?;
    // Its files are a layer of the image's now, and still the container's.
    desk.go(&["commit", "committed", "made:1"])?.ok()?;
    for (name, has) in [
        ("live", "etc/three"),
        ("ended", "made"),
        ("committed", "made"),
    ] {
        let before = World::of(&desk)?;
        let file = desk.text(&format!("{name}.tar"));
        desk.go(&["container", "export", "-o", &file, name])?.ok()?;
        before.is_back(&desk)?;
        let mut archive = tar::Archive::new(std::fs::File::open(&file)?);
        let mut links = Vec::new();
        let mut names = Vec::new();
        for entry in archive.entries()? {
            let entry = entry?;
            if let Some(target) = entry.link_name()? {
                links.push((entry.path()?.into_owned(), target.into_owned()));
            }
            names.push(entry.path()?.display().to_string());
        }
        for wanted in [has, "etc/one", "etc/two", "bin/busybox"] {
            ensure!(
                names.iter().any(|name| name == wanted),
                "{name}: no {wanted} in {names:?}"
            );
        }
        ensure!(!names.iter().any(|name| name == "to1/secret"), "{names:?}");
        if name == "live" {
            let linked = ("etc/two".into(), "etc/three".into());
            ensure!(links.contains(&linked), "hard links stay: {links:?}");
        }
        desk.go(&["import", &file, "back:1"])?.ok()?;
        desk.go(&["run", "back:1", "cat", "/etc/two"])?
            .ok()?
            .says("2")?;
    }
    desk.go(&["export", "nosuch"])?.fails(1, &["nosuch"])?;
    Ok(())
}
