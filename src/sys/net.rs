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

/// Has names of hosts looked up in /etc/hosts and by DNS, whatever /etc/nsswitch.conf says: a static
/// program has these two built in, and must not load the modules of another glibc.
pub fn resolve_by_files_and_dns() {
    unsafe extern "C" {
        // nss.h; the strings are copied.
        fn __nss_configure_lookup(
            database: *const libc::c_char,
            services: *const libc::c_char,
        ) -> libc::c_int;
    }
    // SAFETY: both strings are null-terminated. It fails for unknown names only.
    unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
}
