//! From an image's configuration and the flags of `run` to a bundle. Pure: it reads the image and
//! changes nothing.

use super::cli::Run;
use super::image::Image;
use super::log;
use super::values::Restart;
use anyhow::{Result, bail};
use oci_spec::runtime::Spec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the bundle is made from.
pub struct Request<'a> {
    /// The container's id, 64 digits.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its image.
    pub image: &'a Image,
    /// What follows the image on the command line.
    pub command: &'a [String],
    /// The flags.
    pub flags: &'a Run,
    /// Where the overlay will be mounted: `root.path`.
    pub rootfs: &'a Path,
    /// The container's directory, which will hold [`Bundle::files`].
    pub dir: &'a Path,
    /// The caller's environment, for `-e NAME`.
    pub caller_env: &'a dyn Fn(&str) -> Option<String>,
}

/// The bundle, and what of the flags the monitor and the other verbs need.
#[derive(Debug)]
pub struct Bundle {
    /// config.json
    pub spec: Spec,
    /// Host directories of `-v` that are made if they are missing (D10).
    pub host_dirs: Vec<PathBuf>,
    /// Files to write in the container's directory before each first start, which are mounted:
    /// (`hosts`, `hostname`, `resolv.conf`; content).
    pub files: Vec<(&'static str, String)>,
    /// The program and its arguments.
    pub args: Vec<String>,
    pub tty: bool,
    pub interactive: bool,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub stop_timeout: Option<i64>,
    pub log: log::Bounds,
    /// The memory limit in bytes and as the user wrote it.
    pub memory: Option<(i64, String)>,
    pub restart: Restart,
    /// Mount points and devices that `diff` and `commit` leave out.
    pub placeholders: Vec<PathBuf>,
    /// Docker's spelling of the container's own settings (Cmd, Entrypoint, Env, WorkingDir, User,
    /// …): for `commit` and `inspect`.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Docker's HostConfig, for `inspect`.
    pub host_config: serde_json::Map<String, serde_json::Value>,
}

/// Makes the bundle, or says what is wrong with the flags (exit code 125).
pub fn build(request: &Request<'_>) -> Result<Bundle> {
    bail!("bundle {}: being written", request.id)
}
