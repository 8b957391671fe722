//! The runtime's own file is out of a container's reach. A container can make the runtime execute
//! /proc/self/exe inside of it, and then write to the file behind it (CVE-2019-5736). So the runtime
//! runs from a mount of its file that is read-only and that no path leads to; where that cannot be made,
//! from a sealed copy in memory. Mostly [`crate::sys::entry`] has seen to it already.

use crate::sys::fds;
use crate::sys::mount;
use crate::sys::process::{CStrings, fexecve};
use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

const EXE: &std::ffi::CStr = c"/proc/self/exe";

/// All that may be done to a sealed memfd is to read and to run it.
const SEALS: i32 = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;

/// Returns when this program's file cannot be written to through /proc/self/exe; otherwise runs the
/// program anew from where it cannot.
pub fn ensure() -> Result<()> {
    let found = statvfs(EXE).context("statvfs /proc/self/exe")?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    let exe = open(EXE, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .context("open /proc/self/exe")?;
    if fds::seals(exe.as_fd()).is_ok_and(|seals| seals & SEALS == SEALS) {
        return Ok(());
    }
    let sealed = match read_only_clone() {
        Ok(fd) => fd,
        // An ordinary user, or a kernel without open_tree(2).
        Err(_) => sealed_copy(exe)?,
    };
    let args = CStrings::new(std::env::args_os().map(c_string).collect::<Result<_>>()?);
    let env = CStrings::of_environment()?;
    Err(fexecve(sealed.as_fd(), &args, &env)).context("run the sealed runtime")
}

/// A detached, read-only mount of this program's file.
fn read_only_clone() -> std::io::Result<OwnedFd> {
    let tree = mount::open_tree(None, EXE, mount::OPEN_TREE_CLONE | mount::OPEN_TREE_CLOEXEC)?;
    let attributes = mount::Attributes {
        set: mount::MOUNT_ATTR_RDONLY,
        ..Default::default()
    };
    mount::set_attr(tree.as_fd(), false, &attributes)?;
    Ok(tree)
}

fn sealed_copy(exe: OwnedFd) -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let copy = memfd_create(c"runtime", flags).context("memfd_create")?;
    let mut copy = File::from(copy);
    std::io::copy(&mut File::from(exe), &mut copy).context("copy the runtime into memory")?;
    let seals = nix::fcntl::SealFlag::from_bits_truncate(SEALS);
    nix::fcntl::fcntl(&copy, nix::fcntl::FcntlArg::F_ADD_SEALS(seals)).context("seal the copy")?;
    Ok(copy.into())
}

fn c_string(text: std::ffi::OsString) -> Result<CString> {
    CString::new(text.into_vec()).context("an argument with a null byte")
}
