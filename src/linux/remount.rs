//! `remount` among the options of a mount: other options for what an earlier entry has mounted.

use super::mount_options::Options;
use super::mounts::{MountStep, check_point, propagate, set_options};
use super::root::Root;
use crate::sys::fds;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What is mounted at `target` by the steps `before`: of a bind mount, the mount alone is changed, and
/// never the file system, which is the host's.
pub(super) fn plan(
    target: PathBuf,
    mut options: Options,
    before: &[MountStep],
) -> Result<MountStep, String> {
    let is_bind = before.iter().rev().find_map(|step| match step {
        MountStep::Bind { target: at, .. } => (*at == target).then_some(true),
        MountStep::Fs { target: at, .. } => (*at == target).then_some(false),
        _ => None,
    });
    match is_bind {
        Some(is_bind) => {
            options.bind = options.bind.or(is_bind.then_some(false));
            Ok(MountStep::Remount { target, options })
        }
        None => Err("options: remount: no earlier entry mounts anything there".into()),
    }
}

/// As mount(8) does it: with `bind` the mount alone is changed, else its file system as well.
pub(super) fn apply(root: &Root, target: &Path, options: &Options) -> Result<()> {
    let mounted = root.resolve(target)?;
    check_point(&mounted, target)?;
    if options.bind.is_none() {
        let place = fds::path(&mounted);
        let flags = MsFlags::from_bits_retain(options.flags) | MsFlags::MS_REMOUNT;
        let data = options.data.join(",");
        let data = (!data.is_empty()).then_some(data.as_str());
        let none = None::<&str>;
        mount(none, place.as_path(), none, flags, data).context("mount with MS_REMOUNT")?;
    }
    set_options(mounted.as_fd(), options)?;
    for flags in &options.propagation {
        propagate(mounted.as_fd(), *flags)?;
    }
    Ok(())
}
