//! The container's root: its own upper directory over the layers of the image, mounted in the
//! monitor's mount namespace, so that it goes with the processes in it.

use super::copy::Node;
use super::image::{dress, overlay_options};
use super::propagation::Peers;
use super::record::Record;
use super::rm::forgive_missing;
use super::state_dirs::State;
use crate::error::ResultExt;
use crate::sys::{mount as sys, process::unshare};
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use serde_json::Value;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Enters a mount namespace of this process's own. Mounts of the host still arrive in it, and none
/// of ours leaves it: `/` is made a slave, and the directory that will hold the container's root is
/// bound onto itself and made private. Only the shared ones of `volumes` stay the host's peers.
pub(super) fn own_namespace(run_dir: &Path, volumes: &[Value]) -> Result<()> {
    let peers = Peers::take(volumes)?;
    unshare(libc::CLONE_NEWNS)
        .context("make a mount namespace")
        .hint("`mydocker doctor` tells what is missing")?;
    let none = None::<&str>;
    let flags = |flags| mount(none, "/", none, flags, none);
    flags(MsFlags::MS_REC | MsFlags::MS_SLAVE).context("make / a slave of the host's")?;
    mount(Some(run_dir), run_dir, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("bind {} onto itself", run_dir.display()))?;
    mount(none, run_dir, none, MsFlags::MS_PRIVATE, none)
        .with_context(|| format!("make {} private", run_dir.display()))?;
    peers.put()
}

/// Mounts the root of a container where it belongs.
pub(super) fn mount_container(state: &State, record: &Record) -> Result<()> {
    let (id, lowers) = (&record.id, record.lowers());
    let upper = state.upper(id);
    // A commit that was killed has made a layer of it.
    if let (false, Some(top)) = (upper.exists(), lowers.first()) {
        make_upper(&upper, top)?;
    }
    let work = &state.container(id).join("work");
    let writable = |volatile| Writable {
        upper: &upper,
        work,
        volatile,
    };
    let target = state.rootfs(id);
    if record.is_fleeting() {
        forgive_missing(std::fs::remove_dir_all(work.join(VOLATILE)))
            .with_context(|| format!("prepare {}", work.display()))?;
        // The kernel does not want it where an earlier write has failed that nobody has been told of.
        if mount_root(&lowers, writable(true), &target).is_ok() {
            return Ok(());
        }
    }
    mount_root(&lowers, writable(false), &target)
}

/// What a volatile overlay leaves in its working directory: the next one is refused until it is gone,
/// since the machine may have crashed meanwhile. Here it has not: after a crash what was fleeting is
/// removed, and not mounted again.
const VOLATILE: &str = "work/incompat";

/// Where an overlay keeps what is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writable<'a> {
    /// The directory that holds it, in the form of a layer.
    pub upper: &'a Path,
    /// Overlayfs's own, on the same file system; empty at first.
    pub work: &'a Path,
    /// It need not outlive a power cut. Otherwise the kernel writes all that the file system below has
    /// in memory, whoever it is of, when the overlay is unmounted (Documentation/filesystems/overlayfs.rst,
    /// "Volatile mount").
    pub volatile: bool,
}

/// Makes an upper directory, which shows the root that it lies above: its mode, owner, time and
/// attributes.
pub(super) fn make_upper(upper: &Path, top: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(upper)
        .with_context(|| format!("make {}", upper.display()))?;
    let open = |dir: &Path| File::open(dir).with_context(|| format!("open {}", dir.display()));
    dress(&Node::new(open(top)?.into())?, open(upper)?.as_fd())
        .with_context(|| format!("prepare {}", upper.display()))
}

/// Mounts the overlay at `target`. `layers` are top first.
pub(super) fn mount_root(layers: &[PathBuf], writable: Writable<'_>, target: &Path) -> Result<()> {
    let what = || format!("mount the container's root at {}", target.display());
    match detached(layers, Some(writable)) {
        // Before Linux 6.5 a lower directory cannot be given alone (EINVAL).
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            by_options(layers, Some(writable), target).with_context(what)
        }
        tree => tree
            .and_then(|tree| {
                let target = open(target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
                sys::move_mount(tree.as_fd(), target.as_fd())
            })
            .with_context(what),
    }
    .hint("`dmesg` may tell what the kernel does not like about the directories")
}

/// What an overlay of these shows, the top first, to be read only: a mount that nobody else sees, gone with its descriptor.
/// The container may run meanwhile. Before Linux 6.5 it covers the directory `over`, in a mount namespace
/// of this process's own.
pub(super) fn view(dirs: &[PathBuf], over: &Path) -> Result<OwnedFd> {
    match detached(dirs, None) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            own_namespace(over, &[])?;
            by_options(dirs, None, over)?;
            Ok(open(over, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

/// One call for each layer, so that their number is not bounded by a page of options.
fn detached(layers: &[PathBuf], writable: Option<Writable<'_>>) -> io::Result<OwnedFd> {
    let fs = sys::fsopen(c"overlay")?;
    let set = |key: &str, path: &Path| {
        let key = CString::new(key)?;
        let value = CString::new(path.as_os_str().as_bytes())?;
        sys::fsconfig_string(fs.as_fd(), &key, &value)
    };
    sys::fsconfig_string(fs.as_fd(), c"source", c"overlay")?;
    for layer in layers {
        set("lowerdir+", layer)?;
    }
    if let Some(Writable {
        upper,
        work,
        volatile,
    }) = writable
    {
        set("upperdir", upper)?;
        set("workdir", work)?;
        if volatile {
            sys::fsconfig_flag(fs.as_fd(), c"volatile")?;
        }
    }
    for option in overlay_options().split(',') {
        match option.split_once('=') {
            Some((key, value)) => set(key, Path::new(value))?,
            None => sys::fsconfig_flag(fs.as_fd(), &CString::new(option)?)?,
        }
    }
    sys::fsmount(fs.as_fd(), 0)
}

/// mount(2) with all in one page, for which the layers are named by their descriptors.
fn by_options(layers: &[PathBuf], writable: Option<Writable<'_>>, target: &Path) -> io::Result<()> {
    let open = |layer: &PathBuf| {
        Ok(open(
            layer,
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?)
    };
    let opened: Vec<OwnedFd> = layers.iter().map(open).collect::<io::Result<_>>()?;
    let names: Vec<String> = opened.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    let home = std::env::current_dir()?;
    std::env::set_current_dir("/proc/self/fd")?;
    let writable = writable.map_or_else(String::new, |to| {
        let volatile = if to.volatile { "volatile," } else { "" };
        let (upper, work) = (escaped(to.upper), escaped(to.work));
        format!("upperdir={upper},workdir={work},{volatile}")
    });
    let options = format!(
        "lowerdir={},{writable}{}",
        names.join(":"),
        overlay_options()
    );
    let flags = MsFlags::empty();
    let result = mount(
        Some("overlay"),
        target,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    );
    std::env::set_current_dir(home)?;
    result.map_err(io::Error::from)
}

/// Colons and commas end a name in the options of an overlay.
fn escaped(path: &Path) -> String {
    path.to_string_lossy()
        .replace('\\', "\\\\")
        .replace(':', "\\:")
        .replace(',', "\\,")
}
