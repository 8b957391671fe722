//! Seccomp.
use anyhow::{Result, bail};
use oci_spec::runtime::LinuxSeccomp;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

#[derive(Debug)]
pub struct Filter {}
impl Filter {
    pub fn needs_listener(&self) -> bool {
        false
    }
}
pub fn compile(_: &LinuxSeccomp, _: Option<&Path>) -> Result<Filter> {
    bail!("seccomp is being written")
}
pub fn load(_: &Filter) -> Result<Option<OwnedFd>> {
    bail!("seccomp is being written")
}
pub fn send_listener(
    _: &LinuxSeccomp,
    _: BorrowedFd<'_>,
    _: i32,
    _: &serde_json::Value,
) -> Result<()> {
    bail!("seccomp is being written")
}
