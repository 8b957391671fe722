//! Where the tests run: a mount namespace with a /dev of its own (a runtime may change the owner of
//! the /dev/null that it inherits), and a directory that is removed at the end.

use anyhow::{Context, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Small file systems beside the directories of the tests, for those that fill one: mounted before
/// anybody looks at what is mounted.
pub(crate) const SMALL_DISKS: [&str; 4] =
    ["disk-watched", "disk-stopped", "disk-ended", "disk-images"];

/// The directory of one run. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Room {
    path: PathBuf,
}

impl Room {
    /// Leaves the machine's mounts and devices behind. No thread may have been started.
    pub(crate) fn enter() -> Result<Room> {
        let path = std::env::temp_dir().join(format!("conf-{}", std::process::id()));
        std::fs::create_dir_all(&path).context("make the directory of the run")?;
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("make all mounts private")?;
        own_dev(&path.join("dev"))?;
        let room = Room { path };
        for disk in room.disks() {
            std::fs::create_dir(&disk).context("make a directory for a small disk")?;
            tmpfs(&disk, "size=24m")?;
        }
        Ok(room)
    }

    /// For an ordinary user: a directory, with bundles and a root filesystem of the user's own in it.
    pub(crate) fn plain() -> Result<Room> {
        let path = std::env::temp_dir().join(format!("conf-{}", std::process::id()));
        std::fs::create_dir_all(&path).context("make the directory of the run")?;
        let room = Room { path };
        let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("bundles");
        // Root's containers may have left device nodes in its /dev, which a user cannot copy.
        let copy =
            "mkdir $1/bundles; tar -C $0 --exclude './rootfs/dev/*' -c . | tar -C $1/bundles -x";
        let copied = Command::new("bash")
            .args(["-euo", "pipefail", "-c", copy])
            .args([&bundles, &room.path])
            .status()
            .context("run bash")?;
        ensure!(copied.success(), "copy {}: {copied}", bundles.display());
        Ok(room)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn disks(&self) -> [PathBuf; SMALL_DISKS.len()] {
        SMALL_DISKS.map(|name| self.path.join(name))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        for disk in self.disks() {
            let _ = umount2(&disk, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn tmpfs(dir: &Path, data: &str) -> Result<()> {
    let kind = Some("tmpfs");
    mount(kind, dir, kind, MsFlags::empty(), Some(data))
        .with_context(|| format!("mount a tmpfs at {}", dir.display()))
}

fn own_dev(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    std::fs::create_dir(dir).context("make a directory for /dev")?;
    tmpfs(dir, "mode=755")?;
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
        ("fuse", 10, 229),
    ] {
        let path = dir.join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(major, minor))
            .with_context(|| format!("make {}", path.display()))?;
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions(&path, all)?;
    }
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        symlink(target, dir.join(name))?;
    }
    for name in ["pts", "shm", "mqueue"] {
        std::fs::create_dir(dir.join(name))?;
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some("/dev/pts"), &dir.join("pts"), none, bind, none).context("bind /dev/pts")?;
    tmpfs(&dir.join("shm"), "mode=1777")?;
    mount(Some(dir), "/dev", none, MsFlags::MS_MOVE, none).context("move the new /dev")
}

/// Makes a program. Another process writes it: one that another test starts while this process has
/// it open would hold it for a moment, and the kernel runs nothing that is open to be written
/// (execve(2), ETXTBSY).
pub(crate) fn write_program(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("run install")?;
    let written = install
        .stdin
        .take()
        .context("its stdin")?
        .write_all(text.as_bytes());
    let done = install.wait()?;
    ensure!(done.success(), "write {}: {done}", path.display());
    Ok(written?)
}
