//! Mounts of volumes by mydocker itself, in a mount namespace of its own: parts of volumes, which the
//! runtime finds there, and for `cp` all that a container has when it runs.

use super::{Subpath, data, of};
use crate::error::ResultExt;
use crate::linux::idmap::IdMaps;
use crate::linux::idmap_mount;
use crate::linux::root::Root;
use crate::mydocker::record::Record;
use crate::mydocker::state_dirs::{self, State};
use crate::sys::mount as sys;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use serde_json::Value;
use std::ffi::CString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Mounts the subpaths of volumes where the runtime will find them. Containers may have put links
/// into the volume: they are followed within it, and what is found is used by its descriptor.
pub(in crate::mydocker) fn mount_subpaths(state: &State, id: &str) -> Result<()> {
    for one in of(state, id)? {
        let Some(Subpath { path, place }) = &one.subpath else {
            continue;
        };
        let what = || format!("{} in the volume {}", path.display(), one.name);
        let found = Root::open(&data(state, &one.name))?
            .resolve(path)
            .with_context(what)
            .hint("volume-subpath must be there before the container starts")
            .exit_code(125)?;
        let source = through(&found);
        state_dirs::make_dir(place.parent().unwrap_or(Path::new("/")))?;
        match std::fs::metadata(&source).with_context(what)?.is_dir() {
            true => state_dirs::make_dir(place)?,
            false => match File::create_new(place) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    return Err(error).with_context(what);
                }
                _ => {}
            },
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        let none = None::<&str>;
        mount(Some(&source), place, none, flags, none).with_context(what)?;
    }
    Ok(())
}

fn through(fd: &impl AsRawFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

/// Removes where [`mount_subpaths`] has mounted, once nothing is mounted there.
pub(in crate::mydocker) fn clear_places(run_dir: &Path) {
    let dir = run_dir.join("volumes");
    for place in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(place.path()).or_else(|_| std::fs::remove_file(place.path()));
    }
    let _ = std::fs::remove_dir(dir);
}

/// Mounts in the root of a container that does not run what it has of the host and of volumes when it
/// does. Returns where its tmpfs mounts would be.
pub(in crate::mydocker) fn mount_all(
    state: &State,
    record: &Record,
    root: &Root,
) -> Result<Vec<PathBuf>> {
    if record.shown.mounts.is_empty() {
        return Ok(Vec::new());
    }
    mount_subpaths(state, &record.id)?;
    let config = std::fs::read(state.config(&record.id)).context("read its config.json")?;
    let config: Value = serde_json::from_slice(&config).context("read its config.json")?;
    let mut tmpfs = Vec::new();
    for spec in config["mounts"].as_array().into_iter().flatten() {
        let target = &spec["destination"];
        let shown = &record.shown.mounts;
        if !shown.iter().any(|mount| mount["Destination"] == *target) {
            continue;
        }
        let target = Path::new(target.as_str().unwrap_or_default());
        if spec["type"] == "tmpfs" {
            place(root, target, true)?;
            tmpfs.push(target.to_owned());
            continue;
        }
        put(spec, root, target)
            .with_context(|| format!("mount {} as in the container", target.display()))?;
    }
    Ok(tmpfs)
}

/// A bind mount of the bundle's, made as the runtime would.
fn put(spec: &Value, root: &Root, target: &Path) -> Result<()> {
    let source = Path::new(spec["source"].as_str().unwrap_or_default());
    let has = |word: &str| {
        spec["options"]
            .as_array()
            .is_some_and(|all| all.contains(&word.into()))
    };
    let recursive = match has("rbind") {
        true => sys::AT_RECURSIVE,
        false => 0,
    };
    let path = CString::new(source.as_os_str().as_bytes())?;
    let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC | recursive;
    let tree =
        sys::open_tree(None, &path, flags).with_context(|| format!("take {}", source.display()))?;
    if has("ro") || has("rro") {
        let read_only = sys::Attributes {
            set: sys::MOUNT_ATTR_RDONLY,
            ..sys::Attributes::default()
        };
        sys::set_attr(tree.as_fd(), has("rro"), &read_only).context("make it read-only")?;
    }
    if has("idmap") {
        let maps = IdMaps {
            uid: serde_json::from_value(spec["uidMappings"].clone())?,
            gid: serde_json::from_value(spec["gidMappings"].clone())?,
        };
        idmap_mount::apply(tree.as_fd(), false, &maps).context("map its ids")?;
    }
    let place = place(root, target, source.is_dir())?;
    Ok(sys::move_mount(tree.as_fd(), place.as_fd())?)
}

/// What is mounted over, made as the runtime makes it at the first start.
fn place(root: &Root, target: &Path, is_dir: bool) -> Result<OwnedFd> {
    match root.resolve(target) {
        Err(Errno::ENOENT) if is_dir => root.mkdir_all(target, 0o755),
        Err(Errno::ENOENT) => {
            root.create_file(target, 0o644)?;
            Ok(root.resolve(target)?)
        }
        other => Ok(other?),
    }
}
