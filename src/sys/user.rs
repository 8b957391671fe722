//! Who a process is: capset(2), setgroups(2), keyctl(2).

use super::check;
use std::ffi::CStr;
use std::io;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// The three sets of capset(2), a bit a capability.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CapSets {
    /// What the process may do now.
    pub effective: u64,
    /// What it may make effective.
    pub permitted: u64,
    /// What exec may keep.
    pub inheritable: u64,
}

/// capget(2) of the calling thread.
pub fn capget() -> io::Result<CapSets> {
    let mut header = CapHeader {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 fills two data structures.
    check(unsafe {
        libc::syscall(
            libc::SYS_capget,
            std::ptr::addr_of_mut!(header),
            data.as_mut_ptr(),
        )
    })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapSets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// capset(2) of the calling thread.
pub fn capset(sets: CapSets) -> io::Result<()> {
    let mut header = CapHeader {
        version: LINUX_CAPABILITY_VERSION_3,
        pid: 0,
    };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two data structures.
    check(unsafe {
        libc::syscall(
            libc::SYS_capset,
            std::ptr::addr_of_mut!(header),
            data.as_ptr(),
        )
    })?;
    Ok(())
}

/// keyctl(2) `KEYCTL_JOIN_SESSION_KEYRING`: a new session keyring of that name. Returns its serial
/// number.
pub fn join_session_keyring(name: &CStr) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name is a C string.
    let serial = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    Ok(serial as i32)
}

/// keyctl(2) `KEYCTL_DESCRIBE` and `KEYCTL_SETPERM`: adds `bits` to the permissions of a key.
pub fn key_add_permissions(serial: i32, bits: u32) -> io::Result<()> {
    const KEYCTL_SETPERM: i32 = 5;
    const KEYCTL_DESCRIBE: i32 = 6;
    let mut buffer = [0u8; 512];
    // SAFETY: the buffer is as long as said.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            KEYCTL_DESCRIBE,
            serial,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })?;
    // "type;uid;gid;perm;description"
    let text = String::from_utf8_lossy(&buffer);
    let permissions = text
        .split(';')
        .nth(3)
        .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, permissions | bits) })?;
    Ok(())
}
