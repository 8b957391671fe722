//! Descriptors: nothing of the host leaks into a container.

use crate::sys;
use anyhow::{Context, Result};
use std::os::fd::AsRawFd;

/// Marks every descriptor above the standard streams and the next `preserved` numbers close-on-exec
/// (CVE-2024-21626 was a descriptor left open). Those that this program opens below are so from
/// the start, whatever the caller lets through.
pub fn close_on_exec_above(preserved: u32) -> Result<()> {
    sys::fds::cloexec_from(preserved.saturating_add(3)).context("mark descriptors close-on-exec")
}

/// Makes `fd` the standard streams 0, 1 and 2.
pub fn become_stdio(fd: &impl AsRawFd) -> Result<()> {
    sys::fds::duplicate_to_stdio(fd.as_raw_fd()).context("make the terminal the standard streams")
}
