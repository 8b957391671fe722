//! Descriptors: close_range(2), sealed copies of a file, inherited and received ones, what procfs
//! tells of one, how long poll(2) waits.

use super::check;
use nix::errno::Errno;
use nix::poll::PollTimeout;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg};
use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
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

/// The numbers among the first `count` from 3 on that the caller of this program has left open: what
/// this program opens is close-on-exec.
pub fn of_caller(count: u32) -> io::Result<Vec<RawFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let is_wanted = |number: &RawFd| {
        let offset = u32::try_from(*number).ok().and_then(|n| n.checked_sub(3));
        // SAFETY: F_GETFD looks at the number only.
        let flags = unsafe { libc::fcntl(*number, libc::F_GETFD) };
        offset.is_some_and(|offset| offset < count) && flags & libc::FD_CLOEXEC == 0
    };
    let numbers = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.filter(is_wanted).collect())
}

/// The standard streams as borrowed descriptors: 0, 1 or 2.
pub fn standard(number: RawFd) -> BorrowedFd<'static> {
    assert!((0..=2).contains(&number), "not a standard stream: {number}");
    // SAFETY: the standard streams are never closed by this program.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// fcntl(2) `F_GET_SEALS`: the seals of a memfd; an error for any other file.
pub fn seals(fd: BorrowedFd<'_>) -> io::Result<i32> {
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

/// Waits for a packet on a socket of packets (`SOCK_SEQPACKET`), and leaves it there: its size; 0 also for
/// an end that was closed with unread messages in it. EINTR is retried.
pub fn next_packet(socket: BorrowedFd<'_>) -> nix::Result<usize> {
    loop {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_TRUNC;
        match recv(socket.as_raw_fd(), &mut [], flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok(0),
            other => return other,
        }
    }
}

/// recvmsg(2) into `buffer`: how much there was, and the descriptor that came along (`CLOEXEC`), if
/// any. EINTR is retried. 0 also for an end that was closed with unread messages in it.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> nix::Result<(usize, Option<OwnedFd>)> {
    loop {
        let mut space = nix::cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            Err(Errno::ECONNRESET) => return Ok((0, None)),
            Err(error) => return Err(error),
            Ok(message) => {
                let fd = message.cmsgs()?.find_map(|control| match control {
                    ControlMessageOwned::ScmRights(list) => list.first().copied(),
                    _ => None,
                });
                return Ok((message.bytes, fd.map(received)));
            }
        }
    }
}

/// The name of an open descriptor for this process: whatever opens it gets the very file, however
/// that may be called by now (proc_pid_fd(5)).
pub fn path(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The number of the mount that descriptor `number` of a process is in (proc_pid_fdinfo(5),
/// `mnt_id`). `process` is its number, or "self".
pub fn mount_id(process: impl std::fmt::Display, number: RawFd) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
        .ok_or_else(|| io::Error::other("fdinfo has no mnt_id"))
}

/// Takes over a descriptor that recvmsg(2) has just installed (`SCM_RIGHTS`).
pub fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel made it for this process, and nothing else knows of it yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// ioctl_ficlone(2): `to` shares the content of `from`. EOPNOTSUPP where the file system has no such
/// thing.
pub fn clone_content(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: two descriptors that are open.
    check(libc::c_long::from(unsafe {
        libc::ioctl(to.as_raw_fd(), libc::FICLONE as _, from.as_raw_fd())
    }))?;
    Ok(())
}

/// sync_file_range(2) with `SYNC_FILE_RANGE_WRITE`: the kernel begins to write those bytes to the disk,
/// so that a later sync has less to wait for. `len` 0: to the end of the file.
pub fn begin_writing_out(fd: BorrowedFd<'_>, offset: i64, len: i64) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe {
        libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE)
    }))?;
    Ok(())
}

/// Reads a file of the kernel's (/proc, /sys, a cgroup) with one read(2) and another that finds its end.
/// `std::fs::read` asks for its size, which such a file has not, and begins with 32 bytes.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    // `take`, for `File` itself asks for its size.
    File::open(path)?.take(u64::MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The same of a text.
///
/// # Errors
/// Those of reading it; that it is not UTF-8.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_procfs_tells_of_a_descriptor() {
        let file = std::fs::File::open("/proc/self/mountinfo").unwrap();
        let number = mount_id("self", file.as_raw_fd()).unwrap();
        let mounts = std::fs::read_to_string(path(&file)).unwrap();
        let line = mounts
            .lines()
            .find(|line| line.starts_with(&format!("{number} ")));
        assert!(
            line.is_some_and(|line| line.contains(" - proc ")),
            "{number}: {line:?}"
        );
        assert!(mount_id("self", 1 << 20).is_err());
    }

    #[test]
    fn an_end_is_no_message() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let (length, fd) = receive(ours.as_fd(), &mut [0; 8]).unwrap();
        assert!(length == 0 && fd.is_none());
    }
}
