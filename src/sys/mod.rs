//! The only `unsafe`: thin typed wrappers of system calls that nix lacks. No policy: each does one
//! call and returns its errno.
#![allow(unsafe_code)]

pub mod alloc;
pub mod bpf;
pub mod entry;
pub mod fds;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod sched;
pub mod spawn;
pub mod tty;
pub mod user;
pub mod xattr;

use std::io;

/// `Ok(value)` of a raw system call's result, or the errno it left.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
