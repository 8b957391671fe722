//! Where the tests run: a mount namespace with a /dev of its own (a runtime may change the owner of
//! the /dev/null that it inherits), and a directory that is removed at the end.

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

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
        Ok(Room { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn own_dev(dir: &Path) -> Result<()> {
    let none = None::<&str>;
    std::fs::create_dir(dir).context("make a directory for /dev")?;
    let tmpfs = |dir: &Path, data: &str| {
        mount(
            Some("tmpfs"),
            dir,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(data),
        )
        .with_context(|| format!("mount a tmpfs at {}", dir.display()))
    };
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
