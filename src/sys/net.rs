//! Network interfaces: netdevice(7).

use super::check;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Brings the interface `lo` of this network namespace up (`SIOCSIFFLAGS`); the kernel gives it its
/// addresses.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: plain integers; the result is a new descriptor.
    let socket = unsafe {
        let fd = check(libc::c_long::from(libc::socket(
            libc::AF_INET,
            libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
            0,
        )))?;
        OwnedFd::from_raw_fd(fd as i32)
    };
    // SAFETY: an all-zero ifreq is valid; its name is null-terminated, and lives across the call.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
        check(libc::c_long::from(libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            std::ptr::addr_of!(request),
        )))?;
    }
    Ok(())
}
