//! The mount API by descriptor: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2).

use super::check;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// `open_tree`: a detached copy of the mount, as a bind mount is.
pub const OPEN_TREE_CLONE: u32 = 1;
/// `open_tree`: close the descriptor on exec.
pub const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
/// Act on the descriptor itself, with an empty path.
pub const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
/// Act on the mounts below as well.
pub const AT_RECURSIVE: u32 = 0x8000;

/// Attributes of a mount, for [`set_attributes`] (mount_setattr(2)).
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Ignore set-user-id bits and file capabilities.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Device files do not work.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Nothing can be executed.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x8;
/// The mask of the three ways to update access times; relatime is 0.
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// Access times are not updated.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Access times are always updated.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// Access times of directories are not updated.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Ids are mapped by a user namespace.
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
/// Symbolic links are not followed.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x0020_0000;

const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `struct mount_attr`
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED` and so on; 0 leaves the propagation as it is.
    pub propagation: u64,
    /// The user namespace for `MOUNT_ATTR_IDMAP`.
    pub userns: u64,
}

fn raw(dir: Option<BorrowedFd<'_>>) -> RawFd {
    dir.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd())
}

/// open_tree(2) of `path` below `dir` (`None`: the current directory).
pub fn open_tree(dir: Option<BorrowedFd<'_>>, path: &CStr, flags: u32) -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string; the result is a new descriptor.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_open_tree,
            raw(dir),
            path.as_ptr(),
            flags,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// move_mount(2): attaches the mount behind `from` onto the file behind `to`.
pub fn move_mount(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            to.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// The same onto the file `name` in the directory behind `dir`; a link of that name is not followed.
pub fn move_mount_at(from: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both paths are C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// mount_setattr(2) of the mount behind `fd`, and with `recursive` of those below it.
pub fn set_attr(fd: BorrowedFd<'_>, recursive: bool, attributes: &Attributes) -> io::Result<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the structure has the kernel's layout, and its size is said.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<Attributes>(),
        )
    })?;
    Ok(())
}

/// fsopen(2): the configuration of a new file system.
pub fn fsopen(kind: &CStr) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: u32 = 1;
    // SAFETY: the name is a C string; the result is a new descriptor.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_fsopen,
            kind.as_ptr(),
            FSOPEN_CLOEXEC,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// fsconfig(2) `FSCONFIG_SET_STRING`.
pub fn fsconfig_string(fs: BorrowedFd<'_>, key: &CStr, value: &CStr) -> io::Result<()> {
    const FSCONFIG_SET_STRING: u32 = 1;
    // SAFETY: key and value are C strings.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_SET_STRING,
            key.as_ptr(),
            value.as_ptr(),
            0,
        )
    })?;
    Ok(())
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
pub fn fsconfig_flag(fs: BorrowedFd<'_>, key: &CStr) -> io::Result<()> {
    const FSCONFIG_SET_FLAG: u32 = 0;
    // SAFETY: the key is a C string, and a flag has no value.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_SET_FLAG,
            key.as_ptr(),
            std::ptr::null::<libc::c_char>(),
            0,
        )
    })?;
    Ok(())
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE` and fsmount(2): a detached mount of the new file system, with
/// `MOUNT_ATTR_*`.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const FSMOUNT_CLOEXEC: u32 = 1;
    // SAFETY: this command takes neither key nor value; the result is a new descriptor.
    unsafe {
        check(libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<libc::c_char>(),
            std::ptr::null::<libc::c_char>(),
            0,
        ))?;
        let fd = check(libc::syscall(
            libc::SYS_fsmount,
            fs.as_raw_fd(),
            FSMOUNT_CLOEXEC,
            attributes as u32,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}
