//! The user and groups of a process (config.md, `process.user`).

use crate::sys::process::prctl;
use anyhow::{Context, Result};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::User;

/// Becomes this user. Capabilities in the permitted set survive (`PR_SET_KEEPCAPS`), so that the
/// sets of the spec can be made from them afterwards.
///
/// With `keeps_groups` the additional groups stay as they are.
pub fn become_user(user: &User, keeps_groups: bool) -> Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).context("keep capabilities over the change of user")?;
    if !keeps_groups {
        set_groups(user)?;
    }
    let gid = Gid::from_raw(user.gid());
    setresgid(gid, gid, gid).with_context(|| unmapped("gid", user.gid()))?;
    let uid = Uid::from_raw(user.uid());
    setresuid(uid, uid, uid).with_context(|| unmapped("uid", user.uid()))?;
    prctl(libc::PR_SET_KEEPCAPS, 0, 0).context("end keeping capabilities")?;
    Ok(())
}

/// Becomes root of the user namespace that the process is in.
pub fn become_root_of_namespace() -> Result<()> {
    let (gid, uid) = (Gid::from_raw(0), Uid::from_raw(0));
    setresgid(gid, gid, gid).context("become group 0 of the user namespace (is it mapped?)")?;
    setresuid(uid, uid, uid).context("become user 0 of the user namespace (is it mapped?)")
}

fn unmapped(kind: &str, id: u32) -> String {
    format!("set {kind} {id} (is it mapped in the container's user namespace?)")
}

fn set_groups(user: &User) -> Result<()> {
    let extra = user.additional_gids().as_deref().unwrap_or_default();
    let groups: Vec<Gid> = extra.iter().copied().map(Gid::from_raw).collect();
    match setgroups(&groups) {
        // A user namespace of an ordinary user has setgroups(2) denied; there the groups of the
        // caller stay, and there is nothing to drop.
        Err(nix::errno::Errno::EPERM) if groups.is_empty() && denied() => Ok(()),
        other => other.with_context(|| format!("set the additional groups {extra:?}")),
    }
}

/// Whether setgroups(2) is denied in this user namespace (user_namespaces(7)).
fn denied() -> bool {
    std::fs::read("/proc/self/setgroups").is_ok_and(|text| text.starts_with(b"deny"))
}
