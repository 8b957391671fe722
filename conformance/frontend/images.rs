//! A36–A40: `commit`, `images`, and their kin: `import`, `rmi`, `diff`, `inspect`.

use super::Row;
use super::images_made::{Entry, archive, busybox};
use super::kit::{Desk, Place};
use super::world::World;
use anyhow::{Context, Result, ensure};
use containers::sys::xattr;
use serde_json::Value;
use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "A36 run commit container image",
        run: run_commit,
    },
    Row {
        name: "A37 commit container image",
        run: commit,
    },
    Row {
        name: "A38 run -d --name container2 image top",
        run: from_commit,
    },
    Row {
        name: "A39 images",
        run: images,
    },
    Row {
        name: "A40 a deletion survives commit",
        run: deletion,
    },
    Row {
        name: "commit of a stopped container, with changes",
        run: commit_stopped,
    },
    Row {
        name: "commit of a stopped container moves what it wrote, and loses nothing",
        run: commit_moves,
    },
    Row {
        name: "commit takes all that the container was made with, and no false whiteout",
        run: commit_config,
    },
    Row {
        name: "commit of a running container keeps what its root is",
        run: commit_root,
    },
    Row {
        name: "import from a file and from standard input, with changes",
        run: import,
    },
    Row {
        name: "rmi: by name, in use, unknown, forced",
        run: rmi,
    },
    Row {
        name: "diff lists what was added, changed and deleted",
        run: diff,
    },
    Row {
        name: "inspect shows containers and images as JSON",
        run: inspect,
    },
];

/// A container called `container` with /made in it and a volume at /to1 that holds `inside`.
fn made(desk: &Desk) -> Result<()> {
    let volume = format!("{}:/to1", desk.text("from1"));
    desk.start(&["--name", "container", "-v", &volume, "busybox", "top"])?;
    desk.go(&["exec", "container", "touch", "/made", "/to1/inside"])?
        .ok()?;
    Ok(())
}

/// The digests of an image's layers, from `inspect`.
fn layers(desk: &Desk, image: &str) -> Result<Vec<String>> {
    let text = desk.inspect(image, "{{json .RootFS.Layers}}")?;
    serde_json::from_str(&text).with_context(|| format!("the layers of {image}: {text}"))
}

/// The files (not the directories) in the last layer of an image, read from the OCI image layout
/// on disk.
fn files_of_last_layer(desk: &Desk, name: &str) -> Result<Vec<String>> {
    let layout = desk.root().join("images");
    let read = |path: std::path::PathBuf| -> Result<Value> {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    let blob = |digest: &Value| {
        let digest = digest
            .as_str()
            .unwrap_or_default()
            .trim_start_matches("sha256:");
        layout.join("blobs/sha256").join(digest)
    };
    let index = read(layout.join("index.json"))?;
    let entry = index["manifests"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| {
            let names = entry["annotations"].as_object().into_iter().flatten();
            names
                .into_iter()
                .any(|(_, value)| value.as_str().is_some_and(|text| text.contains(name)))
        });
    let manifest = read(blob(
        &entry.context("the image is not in the index")?["digest"],
    ))?;
    let layer = manifest["layers"]
        .as_array()
        .and_then(|layers| layers.last());
    let layer = layer.context("no layers")?;
    let file = std::fs::File::open(blob(&layer["digest"])).context("open the layer")?;
    let zipped = layer["mediaType"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("gzip"));
    let bytes: Box<dyn std::io::Read> = match zipped {
        true => Box::new(flate2::read::GzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut names = Vec::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let entry = entry?;
        if !entry.header().entry_type().is_dir() {
            let name = entry.path()?.display().to_string();
            names.push(name.trim_start_matches("./").to_owned());
        }
    }
    Ok(names)
}

fn run_commit(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    made(&desk)?;
    desk.go(&["run", "commit", "container", "image"])?.ok()?;
    let list = desk.go(&["images"])?.ok()?;
    let row = list
        .out
        .lines()
        .find(|line| line.split_whitespace().next() == Some("image"));
    ensure!(row.is_some(), "{list:?}");
    ensure!(
        desk.rows()?.len() == 1,
        "a container was made: {:?}",
        desk.rows()
    );
    Ok(())
}

fn commit(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    made(&desk)?;
    let done = desk.go(&["commit", "container", "image"])?.ok()?;
    let id = done.line().strip_prefix("sha256:").unwrap_or(done.line());
    ensure!(
        id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "the image's id and nothing else: {done:?}"
    );
    let (parent, child) = (layers(&desk, "busybox")?, layers(&desk, "image")?);
    ensure!(
        child.len() == parent.len() + 1 && child.starts_with(&parent),
        "{parent:?} became {child:?}"
    );
    let files = files_of_last_layer(&desk, "image")?;
    ensure!(files == ["made"], "the new layer holds {files:?}");
    let script = "ls /made; ls -A /to1 2>/dev/null; true";
    let done = desk.go(&["run", "image", "sh", "-c", script])?.ok()?;
    done.says("/made")?;
    let done = desk
        .go(&["exec", "container", "ls", "/made", "/to1/inside"])?
        .ok()?;
    ensure!(done.out.contains("/to1/inside"), "{done:?}");
    Ok(())
}

fn from_commit(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    made(&desk)?;
    desk.go(&["commit", "container", "image"])?.ok()?;
    let volume = format!("{}:/to2", desk.text("from2"));
    desk.start(&["--name", "container2", "-v", &volume, "image", "top"])?;
    desk.go(&["exec", "container2", "ls", "/made"])?
        .ok()?
        .says("/made")?;
    Ok(())
}

fn images(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    made(&desk)?;
    desk.go(&["commit", "container", "image"])?.ok()?;
    desk.import("stressimg", Vec::new(), &[])?;
    let list = desk.go(&["images"])?.ok()?;
    let header = list.out.lines().next().unwrap_or_default();
    for word in ["TAG", "ID", "SIZE", "CREATED"] {
        ensure!(header.contains(word), "no {word}: {header:?}");
    }
    for name in ["busybox", "image", "stressimg"] {
        let row = list
            .out
            .lines()
            .find(|line| line.split_whitespace().next() == Some(name));
        ensure!(
            row.is_some_and(|row| row.contains("latest")),
            "no {name}: {list:?}"
        );
    }
    let quiet = desk.go(&["images", "-q"])?.ok()?;
    ensure!(quiet.out.lines().count() == 3, "{quiet:?}");
    let one = desk.go(&["images", "-q", "busybox"])?.ok()?;
    ensure!(one.out.lines().count() == 1, "{one:?}");
    Ok(())
}

fn deletion(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "container", "busybox", "top"])?;
    desk.go(&["exec", "container", "rm", "/bin/vi"])?.ok()?;
    desk.go(&[
        "exec",
        "container",
        "sh",
        "-c",
        "rm -rf /var && mkdir /var && touch /var/new",
    ])?
    .ok()?;
    desk.go(&["commit", "container", "i2"])?.ok()?;
    desk.start(&["--name", "k", "i2", "top"])?;
    let done = desk.go(&["exec", "k", "ls", "/bin/vi"])?;
    ensure!(done.code != 0, "{done:?}");
    desk.go(&["exec", "k", "ls", "-A", "/var"])?
        .ok()?
        .says("new")?;
    Ok(())
}

fn commit_stopped(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "c", "busybox", "sh", "-c", "echo text > /file"])?;
    desk.wait("c")?;
    desk.go(&[
        "commit",
        "-m",
        "a file",
        "-a",
        "me",
        "-c",
        "CMD [\"cat\",\"/file\"]",
        "-c",
        "ENV k=v",
        "c",
        "with/name:tag",
    ])?
    .ok()?;
    desk.go(&["run", "with/name:tag"])?.ok()?.says("text")?;
    let done = desk
        .go(&["run", "with/name:tag", "sh", "-c", "echo $k"])?
        .ok()?;
    done.says("v")?;
    // The container can go on afterwards.
    desk.go(&["start", "c"])?.ok()?;
    ensure!(desk.wait("c")? == 0);
    desk.go(&["commit", "nosuch", "x"])?.fails(1, &["nosuch"])?;
    desk.go(&["commit", "c", "Bad Name"])?
        .fails(1, &["Bad Name"])?;
    Ok(())
}

fn commit_root(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let tree = desk.path("tree");
    std::fs::create_dir_all(tree.join("bin"))?;
    std::fs::write(tree.join("bin/busybox"), busybox()?)?;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(tree.join("bin/busybox"), mode)?;
    let name = OsStr::new("user.known");
    xattr::set(&tree, name, b"yes")?;
    desk.go(&["import", &desk.text("tree"), "base"])?.ok()?;
    desk.start(&["--name", "c", "base", "/bin/busybox", "top"])?;
    let touch = ["/bin/busybox", "touch", "-d", "2001-01-01 00:00:00", "/"];
    desk.go(&[&["exec", "c"], &touch[..]].concat())?.ok()?;
    desk.go(&["commit", "c", "made"])?.ok()?;
    desk.go(&["create", "--name", "second", "made", "x"])?
        .ok()?;
    for (of, template) in [
        ("made", "{{index .GraphDriver.Data.Layers 0}}"),
        ("second", "{{.GraphDriver.Data.UpperDir}}"),
    ] {
        let root = std::path::PathBuf::from(desk.inspect(of, template)?);
        let time = root.metadata()?.mtime();
        ensure!(time == 978_307_200, "{of}: {time}");
        let value = xattr::get(&root, name)?;
        ensure!(value.as_deref() == Some(b"yes"), "{of}: {value:?}");
    }
    // A name that means something else in an image is refused.
    std::fs::write(tree.join("bin/.wh.sh"), "")?;
    let before = World::of(&desk)?;
    desk.go(&["import", &desk.text("tree"), "other"])?
        .fails(1, &["/bin/.wh.sh", "whiteout"])?;
    before.is_back(&desk)
}

fn commit_config(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let changes = [
        "ENTRYPOINT [\"sh\", \"-c\"]",
        "LABEL a=image b=image",
        "HEALTHCHECK CMD true",
        "STOPSIGNAL SIGINT",
    ];
    desk.import("base", Vec::new(), &changes)?;
    let made = |args: &[&str]| -> Result<serde_json::Value> {
        let all = [&["run", "--keep", "--name", "c"], args].concat();
        desk.go(&all)?.ok()?;
        for _ in 0..2 {
            // Of a container that has begun to use what was committed of it, too.
            desk.go(&["commit", "c", "made"])?.ok()?;
        }
        desk.go(&["rm", "c"])?.ok()?;
        let config = desk.inspect("made", "{{json .Config}}")?;
        Ok(serde_json::from_str(&config)?)
    };
    let config = made(&[
        "--entrypoint",
        "",
        "--label",
        "a=mine",
        "--expose",
        "80",
        "--stop-signal",
        "SIGTERM",
        "-v",
        "/data",
        "--no-healthcheck",
        "base",
        "sh",
        "-c",
        "echo >/.wh.etc; echo >/x",
    ])?;
    ensure!(config["Entrypoint"].is_null(), "{config}");
    ensure!(config["Cmd"] == serde_json::json!(["sh", "-c", "echo >/.wh.etc; echo >/x"]));
    ensure!(
        config["Labels"] == serde_json::json!({"a": "mine", "b": "image"}),
        "{config}"
    );
    ensure!(config["ExposedPorts"]["80/tcp"].is_object(), "{config}");
    ensure!(config["Volumes"]["/data"].is_object(), "{config}");
    ensure!(config["StopSignal"] == "SIGTERM", "{config}");
    ensure!(
        config["Healthcheck"]["Test"] == serde_json::json!(["NONE"]),
        "{config}"
    );
    let script = "ls -d /etc /x; ls -a / | busybox grep wh";
    desk.go(&["run", "made", "sh", "-c", script])?
        .code(1)?
        .says("/etc\n/x")?;
    let config = made(&["base", "true"])?;
    ensure!(
        config["Entrypoint"] == serde_json::json!(["sh", "-c"]),
        "{config}"
    );
    ensure!(config["Healthcheck"]["Test"] == serde_json::json!(["CMD-SHELL", "true"]));
    ensure!(config["StopSignal"] == "SIGINT", "{config}");
    Ok(())
}

fn commit_moves(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let script = "if test -e /one; then echo two > /two; rm /one; mkdir /bin/x; \
                  else echo one > /one; rm -r /var; mkdir /var; rm /bin/vi; fi";
    let id = desk.start(&["--name", "c", "busybox", "sh", "-c", script])?;
    desk.wait("c")?;
    let upper = desk.root().join("containers").join(&id).join("upper");
    let diff = desk.go(&["diff", "c"])?.ok()?.out;
    desk.go(&["commit", "c", "first"])?.ok()?;
    let moved = std::fs::read_dir(&upper)?.next().is_none();
    ensure!(moved, "it was copied");
    // The container is as it was, and a second commit gives the same layer.
    ensure!(desk.go(&["diff", "c"])?.ok()?.out == diff, "{diff}");
    desk.go(&["commit", "c", "same"])?.ok()?;
    ensure!(layers(&desk, "first")? == layers(&desk, "same")?);
    desk.go(&["cp", "c:/one", "one"])?.ok()?;
    // It goes on, also when the images are gone, and still counts from its own image.
    desk.go(&["rmi", "first", "same"])?.ok()?;
    desk.go(&["start", "-a", "c"])?.ok()?;
    let done = desk.go(&["diff", "c"])?.ok()?;
    for (line, expected) in [
        ("A /two", true),
        ("A /bin/x", true),
        ("D /bin/vi", true),
        ("A /one", false),
        ("D /one", false),
    ] {
        let found = done.out.lines().any(|found| found == line);
        ensure!(found == expected, "{line}: {done:?}");
    }
    desk.go(&["commit", "c", "second"])?.ok()?;
    let (parent, child) = (layers(&desk, "busybox")?, layers(&desk, "second")?);
    ensure!(child.len() == parent.len() + 1, "{child:?}");
    let script = "cat /two; ls -d /one /bin/vi 2>/dev/null; ls -A /var";
    desk.go(&["run", "second", "sh", "-c", script])?
        .ok()?
        .says("two")?;
    desk.go(&["rm", "c"])?.ok()?;
    desk.go(&["rmi", "second"])?.ok()?;
    let left = std::fs::read_dir(desk.root().join("layers"))?.count();
    ensure!(left == 1, "{left} layers are left");
    Ok(())
}

fn import(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import(
        "one",
        vec![Entry::File("etc/one", 0o644, b"1\n")],
        &["CMD [\"cat\",\"/etc/one\"]"],
    )?;
    desk.go(&["run", "one"])?.ok()?.says("1")?;
    desk.go(&["run", "--entrypoint", "cat", "one:latest", "/etc/one"])?
        .ok()?
        .says("1")?;
    let mut command = desk.command(desk.program());
    command
        .args(["import", "-", "two:2"])
        .stdin(std::fs::File::open(desk.path("one.tar"))?);
    super::kit::finish(&mut command, "import - two:2", "")?.ok()?;
    desk.go(&["run", "two:2", "cat", "/etc/one"])?
        .ok()?
        .says("1")?;
    let before = World::of(&desk)?;
    let broken = desk.write("broken.tar", "this is no archive, whatever it is called")?;
    let broken = broken.display().to_string();
    desk.go(&["import", &broken, "three"])?
        .fails(1, &["broken.tar"])?;
    desk.go(&["import", "/nosuch.tar", "three"])?
        .fails(1, &["/nosuch.tar"])?;
    let escape = desk.path("escape.tar");
    archive(
        &escape,
        &[
            Entry::Link("out", "/"),
            Entry::File("out/escaped-by-import", 0o644, b"x"),
        ],
    )?;
    let escaped = desk.go(&["import", &escape.display().to_string(), "four"])?;
    ensure!(
        !std::path::Path::new("/escaped-by-import").exists(),
        "the archive wrote to the host: {escaped:?}"
    );
    if escaped.code == 0 {
        desk.go(&["rmi", "four"])?.ok()?;
    }
    before.is_back(&desk)
}

fn rmi(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.import("one", vec![Entry::File("etc/one", 0o644, b"1\n")], &[])?;
    desk.start(&["--name", "user", "one", "top"])?;
    desk.go(&["rmi", "one"])?.fails(1, &["user"])?;
    desk.go(&["rm", "-f", "user"])?.ok()?;
    desk.go(&["rmi", "one"])?.ok()?;
    desk.go(&["rmi", "one"])?.fails(1, &["one"])?;
    let done = desk.go(&["images", "-q"])?.ok()?;
    ensure!(done.out.is_empty(), "{done:?}");
    let left = std::fs::read_dir(desk.root().join("layers"))?.count();
    ensure!(left == 0, "{left} layers are left");
    Ok(())
}

fn diff(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&["--name", "d", "busybox", "top"])?;
    let script = "mkdir /new && touch /new/f && echo x >> /etc/passwd && rm /bin/vi";
    desk.go(&["exec", "d", "sh", "-c", script])?.ok()?;
    let done = desk.go(&["diff", "d"])?.ok()?;
    for line in [
        "A /new",
        "A /new/f",
        "C /etc",
        "C /etc/passwd",
        "C /bin",
        "D /bin/vi",
    ] {
        ensure!(
            done.out.lines().any(|found| found == line),
            "no {line:?}: {done:?}"
        );
    }
    desk.go(&["stop", "d"])?.ok()?;
    let after = desk.go(&["diff", "d"])?.ok()?;
    ensure!(after.out == done.out, "{done:?} became {after:?}");
    desk.go(&["diff", "nosuch"])?.fails(1, &["nosuch"])?;
    Ok(())
}

fn inspect(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let id = desk.start(&["--name", "i", "-e", "k=v", "-m", "64m", "busybox", "top"])?;
    let done = desk.go(&["inspect", "i"])?.ok()?;
    let value: Value = serde_json::from_str(&done.out).with_context(|| format!("{done:?}"))?;
    let one = value.get(0).context("no list")?;
    let text = |pointer: &str| one.pointer(pointer).cloned().unwrap_or_default();
    ensure!(text("/Id") == id.as_str(), "{one}");
    ensure!(
        text("/State/Status") == "running" && text("/State/Running") == true,
        "{one}"
    );
    ensure!(text("/HostConfig/Memory") == 67_108_864, "{one}");
    let found = text("/Config/Env");
    ensure!(
        found
            .as_array()
            .is_some_and(|env| env.contains(&"k=v".into())),
        "{one}"
    );
    ensure!(desk.inspect(&id[..8], "{{.State.Status}}")? == "running");
    ensure!(desk.inspect("i", "{{range .Config.Cmd}}<{{.}}>{{end}}")? == "<top>");
    let image = desk.inspect("busybox", "{{.Id}}")?;
    ensure!(
        image.contains(&desk.go(&["images", "-q"])?.line()[..12]),
        "{image}"
    );
    desk.go(&["inspect", "nosuch"])?.code(1)?;
    desk.go(&["inspect", "-f", "{{.State", "i"])?.code(1)?;
    Ok(())
}
