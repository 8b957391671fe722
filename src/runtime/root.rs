//! Where the state of containers is kept.

use super::cli::{Global, Rootless};
use crate::error::ResultExt;
use anyhow::{Context, Result};
use std::path::PathBuf;

/// `--root`, or `/run/runtime` for root and `$XDG_RUNTIME_DIR/runtime` for others. A root of a
/// nested user namespace, as Podman's, uses the latter too when it is set.
pub fn choose(global: &Global) -> Result<PathBuf> {
    if let Some(root) = &global.root {
        return Ok(root.clone());
    }
    let rootless = match global.rootless {
        Rootless::True => true,
        Rootless::False => false,
        Rootless::Auto => !nix::unistd::geteuid().is_root() || nested(),
    };
    if !rootless {
        return Ok(PathBuf::from("/run/runtime"));
    }
    let dir = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .context("XDG_RUNTIME_DIR is not set")
        .hint("set it to a directory of your own, or name one with --root")?;
    Ok(PathBuf::from(dir).join("runtime"))
}

fn nested() -> bool {
    std::env::var_os("XDG_RUNTIME_DIR").is_some() && super::host::in_nested_user_namespace()
}
