//! Descriptors: close_range(2), sealed copies of a file, inherited ones, how long poll(2) waits.

use super::check;
use nix::poll::PollTimeout;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// What to give to poll(2) to wait so long; `None`: for ever. Milliseconds are rounded up, so that
/// the last of several waits is not followed by many of no time.
pub fn poll_timeout(limit: Option<Duration>) -> PollTimeout {
    limit.map_or(PollTimeout::NONE, |limit| {
        let ms = u32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u32::MAX);
        PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
    })
}

/// close_range(2) with `CLOSE_RANGE_CLOEXEC`: every descriptor from `first` on is closed by the
/// next exec. Nothing is closed now, so that those still in use stay valid.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: marking descriptors close-on-exec invalidates none.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// close_range(2) of every descriptor from 3 on but those in `keep`: for a new process that owns
/// nothing else, since descriptors that somebody owns would be closed under them.
pub fn close_all_but(keep: &[Option<RawFd>]) {
    let mut keep: Vec<u32> = keep.iter().flatten().map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut first = 3;
    for fd in keep.into_iter().chain([u32::MAX]) {
        if first < fd {
            // SAFETY: the caller says that nobody owns these. It fails for no such range only.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd.saturating_add(1).max(first);
    }
}

/// A descriptor that the caller of this program left open, taken over. `None` when that number is
/// not open.
///
/// # Safety
/// Nothing else in the process may own that number.
pub unsafe fn inherited(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_GETFD looks at the number only.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: open, and the caller vouches that it is nobody else's.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The standard streams as borrowed descriptors: 0, 1 or 2.
pub fn standard(number: RawFd) -> BorrowedFd<'static> {
    assert!((0..=2).contains(&number), "not a standard stream: {number}");
    // SAFETY: the standard streams are never closed by this program.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// fcntl(2) `F_GET_SEALS`: the seals of a memfd; an error for any other file.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<i32> {
    use std::os::fd::AsRawFd;
    // SAFETY: plain integers.
    let seals = check(libc::c_long::from(unsafe {
        libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS)
    }))?;
    Ok(seals as i32)
}

/// A descriptor by its number, if that is open.
pub fn borrow(number: RawFd) -> io::Result<BorrowedFd<'static>> {
    // SAFETY: F_GETFD looks at the number only.
    check(libc::c_long::from(unsafe {
        libc::fcntl(number, libc::F_GETFD)
    }))?;
    // SAFETY: it is open, and descriptors of the caller are never closed by this program.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}

/// dup2(2) of `fd` onto 0, 1 and 2.
pub fn duplicate_to_stdio(fd: RawFd) -> io::Result<()> {
    for number in 0..=2 {
        // SAFETY: the standard streams are not owned by any Rust value.
        check(libc::c_long::from(unsafe { libc::dup2(fd, number) }))?;
    }
    Ok(())
}

/// Takes over a descriptor that recvmsg(2) has just installed (`SCM_RIGHTS`).
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process, and nothing else knows of it yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// sync_file_range(2) with `SYNC_FILE_RANGE_WRITE`: the kernel begins to write those bytes to the disk,
/// so that a later sync has less to wait for. `len` 0: to the end of the file.
pub fn begin_writing_out(fd: BorrowedFd<'_>, offset: i64, len: i64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe {
        libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    }))?;
    Ok(())
}
