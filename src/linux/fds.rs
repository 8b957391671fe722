//! Descriptors: nothing of the host leaks into a container.

use crate::sys;
use anyhow::{Context, Result};
use std::os::fd::{AsRawFd, RawFd};

/// Marks every descriptor above the standard streams and `preserved` further ones close-on-exec
/// (CVE-2024-21626 was a descriptor left open).
pub fn close_on_exec_above(preserved: u32) -> Result<()> {
    sys::fds::cloexec_from(3 + preserved).context("mark descriptors close-on-exec")
}

/// An error when one of the `count` descriptors from 3 on, which the caller wants passed on, is
/// not open.
pub fn check_preserved(count: u32) -> Result<()> {
    for number in 3..3 + count as RawFd {
        nix::fcntl::fcntl(
            sys::fds::borrow(number).with_context(|| {
                format!("--preserve-fds {count}: descriptor {number} is not open")
            })?,
            nix::fcntl::FcntlArg::F_GETFD,
        )?;
    }
    Ok(())
}

/// Makes `fd` the standard streams 0, 1 and 2.
pub fn become_stdio(fd: &impl AsRawFd) -> Result<()> {
    sys::fds::duplicate_to_stdio(fd.as_raw_fd()).context("make the terminal the standard streams")
}
