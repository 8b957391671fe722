//! What is in a volume: its own files, those of an image, of the host, of nobody.

use super::Row;
use super::kit::{Desk, Place};
use super::volumes::Tmpfs;
use anyhow::{Result, ensure};
use containers::sys::xattr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The rows of this file.
pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "an empty volume gets what the image has at its target",
        run: copied,
    },
    Row {
        name: "a volume is not filled: nocopy, one with files, no directory in the image",
        run: not_copied,
    },
    Row {
        name: "the volumes of an image",
        run: of_image,
    },
    Row {
        name: "volume options: a tmpfs, and what is refused",
        run: tmpfs_and_others,
    },
    Row {
        name: "volume options: a directory of the host",
        run: bound,
    },
];

/// All that can be told of the files below a directory, as the shell sees it.
const LOOK: &str = "cd /data && find . | sort | while read f; do stat -c '%n %a %u %g %F %Y' $f; \
                    test -f $f && md5sum $f; readlink $f; done; true";

/// An image `layered` with much in /data, some of which an upper layer has deleted or replaced.
fn layered(desk: &Desk) -> Result<()> {
    let first = "mkdir -p /data/sub/deep /data/old && cd /data && echo one > file && ln file same \
                 && echo two > sub/deep/x && echo gone > gone && echo old > old/old && ln -s file link \
                 && mkfifo pipe && chown -R 1000:1001 . && chmod 2750 . && chmod 4711 sub/deep/x \
                 && ln -s /data /way";
    let second = "cd /data && rm gone && rm -r old && mkdir old && echo new > old/new && touch -d @1000000000 . old";
    for (image, script, made) in [("busybox", first, "one"), ("one", second, "layered")] {
        desk.start(&["--name", "maker", image, "sh", "-c", script])?;
        ensure!(
            desk.wait("maker")? == 0,
            "{:?}",
            desk.go(&["logs", "maker"])
        );
        if made == "one" {
            let upper = PathBuf::from(desk.inspect("maker", "{{.GraphDriver.Data.UpperDir}}")?);
            xattr::set(&upper.join("data/file"), "user.kind".as_ref(), b"test")?;
            xattr::set(&upper.join("data"), "user.kind".as_ref(), b"dir")?;
        }
        desk.go(&["commit", "maker", made])?.ok()?;
        desk.go(&["rm", "maker"])?.ok()?;
    }
    Ok(())
}

fn copied(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    layered(&desk)?;
    let look = ["layered", "sh", "-c", LOOK];
    let expected = desk.go(&[&["run"][..], &look].concat())?.ok()?.out;
    ensure!(
        expected.contains("./old/new") && expected.contains("./pipe 644 1000 1001 fifo"),
        "{expected}"
    );
    for volume in ["named:/data", "/data", "named:/data"] {
        let found = desk
            .go(&[&["run", "-v", volume], &look[..]].concat())?
            .ok()?
            .out;
        ensure!(found == expected, "{volume}: {found}\n{expected}");
    }
    let data = desk.data("named");
    let (file, same) = (data.join("file").metadata()?, data.join("same").metadata()?);
    ensure!(
        file.ino() == same.ino() && file.nlink() == 2,
        "the hard link was not kept"
    );
    for (path, value) in [(data.join("file"), &b"test"[..]), (data.clone(), b"dir")] {
        let kept = xattr::get(&path, "user.kind".as_ref())?;
        ensure!(kept.as_deref() == Some(value), "{path:?}: {kept:?}");
    }
    let home = desk.root().join("volumes/named");
    ensure!(
        std::fs::read_dir(&home)?.count() == 2,
        "something is left in {home:?}"
    );
    // Links of the image are followed in it, and the mount lands there too.
    let found = desk
        .go(&[&["run", "-v", "linked:/way"], &look[..]].concat())?
        .ok()?
        .out;
    ensure!(found == expected, "{found}");
    ensure!(desk.data("linked").join("sub/deep/x").exists());
    // What is over /etc holds the container's own files all the same.
    let hosts = desk
        .go(&[
            "run",
            "-v",
            "etc:/etc",
            "busybox",
            "cat",
            "/etc/hosts",
            "/etc/passwd",
        ])?
        .ok()?;
    ensure!(
        hosts.out.contains("localhost") && hosts.out.contains("root:"),
        "{hosts:?}"
    );
    Ok(())
}

fn not_copied(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let ls = ["busybox", "ls", "-A", "/etc"];
    let mounted = "hostname\nhosts\nresolv.conf\n";
    for flags in [
        &["-v", "none:/etc:nocopy"][..],
        &["--mount", "type=volume,src=none2,dst=/etc,volume-nocopy"],
    ] {
        let done = desk.go(&[&["run"], flags, &ls].concat())?.ok()?;
        ensure!(done.out == mounted, "{done:?}");
    }
    desk.go(&["run", "-v", "one:/new", "busybox", "touch", "/new/f"])?
        .ok()?;
    let done = desk
        .go(&[&["run", "-v", "one:/etc"], &ls[..]].concat())?
        .ok()?;
    ensure!(done.out == format!("f\n{mounted}"), "{done:?}");
    desk.go(&["run", "-v", "file:/etc/passwd", "busybox", "true"])?
        .fails(125, &["/etc/passwd", "a file of the image"])?;
    ensure!(!desk.volumes(&[])?.contains("file"));
    Ok(())
}

fn of_image(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.start(&[
        "--name",
        "maker",
        "busybox",
        "sh",
        "-c",
        "mkdir /a /b; echo a > /a/f",
    ])?;
    desk.wait("maker")?;
    desk.go(&["commit", "-c", "VOLUME /a /b/c", "maker", "wants"])?
        .ok()?;
    desk.go(&["rm", "maker"])?.ok()?;
    let volumes = desk.inspect("wants", "{{json .Config.Volumes}}")?;
    ensure!(volumes == r#"{"/a":{},"/b/c":{}}"#, "{volumes}");
    desk.start(&["--name", "c", "wants", "cat", "/a/f", "/b/c/f"])?;
    ensure!(desk.wait("c")? == 1);
    desk.logged("c", "a")?;
    ensure!(desk.volumes(&[])?.len() == 2, "{:?}", desk.volumes(&[]));
    desk.go(&["rm", "-v", "c"])?.ok()?;
    ensure!(desk.volumes(&[])?.is_empty());
    // What the flags put there counts.
    let from = format!("{}:/a", desk.text("from"));
    desk.start(&[
        "--name", "d", "-v", &from, "--tmpfs", "/b/c", "wants", "ls", "/a",
    ])?;
    desk.wait("d")?;
    ensure!(desk.volumes(&[])?.is_empty(), "{:?}", desk.volumes(&[]));
    desk.start(&["--name", "e", "-v", "mine:/a", "wants", "ls", "/a"])?;
    desk.wait("e")?;
    ensure!(desk.volumes(&[])?.len() == 2 && desk.volumes(&[])?.contains("mine"));
    // An image that is made of the container wants them too, and its content has not changed.
    desk.go(&["commit", "e", "again"])?.ok()?;
    let volumes = desk.inspect("again", "{{json .Config.Volumes}}")?;
    ensure!(volumes == r#"{"/a":{},"/b/c":{}}"#, "{volumes}");
    Ok(())
}

fn tmpfs_and_others(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    let create = [
        "volume",
        "create",
        "-o",
        "type=tmpfs",
        "--opt",
        "o=size=1m,mode=700",
        "memory",
    ];
    desk.go(&create)?.ok()?;
    let show = desk.inspect("memory", "{{json .Options}}")?;
    ensure!(
        show == r#"{"o":"size=1m,mode=700","type":"tmpfs"}"#,
        "{show}"
    );
    let script = "stat -c %a /m; grep -c ' /m tmpfs .*size=1024k' /proc/mounts";
    desk.start(&[
        "--name",
        "a",
        "-v",
        "memory:/m",
        "busybox",
        "sh",
        "-c",
        script,
    ])?;
    ensure!(desk.wait("a")? == 0);
    let log = desk.go(&["logs", "a"])?.ok()?;
    ensure!(log.out == "700\n1\n", "{log:?}");
    // Two would not see the same files.
    desk.go(&["run", "-v", "memory:/m", "busybox", "true"])?
        .fails(125, &["memory", "a has it"])?;
    for (bad, word) in [
        (&["type=nfs", "device=:/x", "o=addr=10.0.0.1"][..], "nfs"),
        (&["type=none", "o=bind"], "device"),
        (&["type=none", "device=/srv"], "bind"),
        (&["size=1g"], "size"),
    ] {
        let flags: Vec<&str> = bad.iter().flat_map(|option| ["-o", *option]).collect();
        desk.go(&[&["volume", "create"], &flags[..], &["bad"]].concat())?
            .fails(125, &[word])?;
    }
    ensure!(!desk.volumes(&[])?.contains("bad"));
    Ok(())
}

fn bound(place: &Place) -> Result<()> {
    let desk = Desk::new(place)?;
    desk.write("dev/f", "host\n")?;
    let bind = |name: &str, options: &str, dir: &str| {
        let [options, device] = [format!("o={options}"), format!("device={}", desk.text(dir))];
        let given = ["-o", "type=none", "-o", &options, "-o", &device];
        desk.go(&[&["volume", "create"], &given[..], &[name]].concat())?
            .ok()
    };
    bind("bound", "bind,ro", "dev")?;
    let script = "cat /b/f; touch /b/x";
    let done = desk
        .go(&["run", "-v", "bound:/b", "busybox", "sh", "-c", script])?
        .code(1)?;
    ensure!(
        done.out == "host\n" && done.err.contains("Read-only"),
        "{done:?}"
    );
    // An empty directory is filled as any volume; what is in it stays when the volume goes.
    std::fs::create_dir(desk.path("empty"))?;
    let device = format!("device={}", desk.text("empty"));
    let mount = format!(
        "source=filled,target=/etc,volume-opt=type=none,volume-opt=o=bind,volume-opt={device}"
    );
    desk.go(&["run", "--mount", &mount, "busybox", "cat", "/etc/passwd"])?
        .ok()?;
    ensure!(desk.path("empty/passwd").exists());
    ensure!(desk.volumes(&[])?.contains("filled"));
    desk.go(&["volume", "rm", "filled"])?.ok()?;
    ensure!(desk.path("empty/passwd").exists());
    // On another file system too.
    let other = Tmpfs::new(desk.path("other"))?;
    std::fs::remove_file(other.path().join("f"))?;
    bind("other", "bind", "other")?;
    desk.go(&["run", "-v", "other:/etc", "busybox", "true"])?
        .ok()?;
    let left: Vec<_> = std::fs::read_dir(other.path())?
        .flatten()
        .map(|e| e.file_name())
        .collect();
    ensure!(left.iter().any(|name| name == "passwd"), "{left:?}");
    ensure!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().starts_with('.')),
        "{left:?}"
    );
    Ok(())
}
