//! The session keyring (keyrings(7)): a container gets one of its own, so that it cannot read the
//! caller's keys.

use crate::sys::user::{join_session_keyring, key_add_permissions};
use anyhow::{Context, Result};
use std::ffi::CString;

/// Joins a new session keyring named `_ses.<id>` and lets the container's user search it.
pub fn join_new(id: &str) -> Result<()> {
    const KEY_USR_SEARCH: u32 = 0x0008_0000;
    let name = CString::new(format!("_ses.{id}")).context("name of the session keyring")?;
    match join_session_keyring(&name) {
        // A kernel without keyrings, or a seccomp profile around us that denies them.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        Err(error) => Err(error).context("make a session keyring"),
        Ok(serial) => {
            key_add_permissions(serial, KEY_USR_SEARCH).context("open the session keyring")
        }
    }
}
