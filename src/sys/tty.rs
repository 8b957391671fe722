//! Terminals: the ioctls of ioctl_tty(2) that nix lacks.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// `TIOCGPTPEER`: the other end of a pty master, opened without a path (so that what the container
/// has mounted over /dev/pts does not matter).
pub fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the argument is a flag word; the result is a new descriptor.
    unsafe {
        let fd = check(libc::c_long::from(libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTPEER,
            libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC,
        )))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// `TIOCSPTLCK` with 0: unlocks a pty, so that its peer can be opened.
pub fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let zero: libc::c_int = 0;
    // SAFETY: the argument points to an int.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCSPTLCK,
            std::ptr::addr_of!(zero),
        )
    }))?;
    Ok(())
}

/// `TIOCGPTN`: the number below /dev/pts.
pub fn number(master: BorrowedFd<'_>) -> io::Result<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: the argument points to an unsigned int.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            master.as_raw_fd(),
            libc::TIOCGPTN,
            std::ptr::addr_of_mut!(number),
        )
    }))?;
    Ok(number)
}

/// `TIOCSCTTY`: makes it the controlling terminal of the calling session leader.
pub fn set_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the argument is an integer.
    check(libc::c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))?;
    Ok(())
}

/// `TIOCGWINSZ`.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<Size> {
    // SAFETY: an all-zero winsize is valid, and the call fills it.
    let size = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        check(libc::c_long::from(libc::ioctl(
            terminal.as_raw_fd(),
            libc::TIOCGWINSZ,
            std::ptr::addr_of_mut!(size),
        )))?;
        size
    };
    Ok(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// `TIOCSWINSZ`.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the argument points to a winsize.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            terminal.as_raw_fd(),
            libc::TIOCSWINSZ,
            std::ptr::addr_of!(size),
        )
    }))?;
    Ok(())
}
