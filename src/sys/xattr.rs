//! Extended attributes (xattr(7)) of a path whose last component is never followed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The value of an attribute; `None` when it is not set or the file system knows none.
pub fn get(path: &Path, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let (path, name) = (c_string(path.as_os_str())?, c_string(name)?);
    // SAFETY: both names are NUL-terminated and the buffer is writable for its whole length.
    value(|to, len| unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), to.cast(), len) })
}

/// The same, of an open file.
pub fn get_of(file: &File, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
    let (fd, name) = (file.as_raw_fd(), c_string(name)?);
    // SAFETY: the name is NUL-terminated and the buffer is writable for its whole length.
    value(|to, len| unsafe { libc::fgetxattr(fd, name.as_ptr(), to.cast(), len) })
}

fn value(read: impl Fn(*mut u8, usize) -> isize) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0u8; 256];
    loop {
        if let Ok(len) = usize::try_from(read(value.as_mut_ptr(), value.len())) {
            value.truncate(len);
            return Ok(Some(value));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ERANGE) if value.len() < 65536 => value.resize(65536, 0),
            Some(libc::ENODATA | libc::EOPNOTSUPP) => return Ok(None),
            _ => return Err(error),
        }
    }
}

/// Sets an attribute.
pub fn set(path: &Path, name: &OsStr, value: &[u8]) -> io::Result<()> {
    let (path, name) = (c_string(path.as_os_str())?, c_string(name)?);
    // SAFETY: both names are NUL-terminated and the value is readable for its whole length.
    let done = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Takes an attribute away.
pub fn remove(path: &Path, name: &OsStr) -> io::Result<()> {
    let (path, name) = (c_string(path.as_os_str())?, c_string(name)?);
    // SAFETY: both names are NUL-terminated.
    match unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The names of the attributes, sorted; none where the file system knows none.
pub fn list(path: &Path) -> io::Result<Vec<OsString>> {
    let path = c_string(path.as_os_str())?;
    // SAFETY: the path is NUL-terminated and the buffer is writable for its whole length.
    value(|to, len| unsafe { libc::llistxattr(path.as_ptr(), to.cast(), len) }).map(names)
}

/// The same, of an open file.
pub fn list_of(file: &File) -> io::Result<Vec<OsString>> {
    let fd = file.as_raw_fd();
    // SAFETY: the buffer is writable for its whole length.
    value(|to, len| unsafe { libc::flistxattr(fd, to.cast(), len) }).map(names)
}

fn names(list: Option<Vec<u8>>) -> Vec<OsString> {
    let list = list.unwrap_or_default();
    let mut names: Vec<OsString> = list
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsString::from_vec(name.to_vec()))
        .collect();
    names.sort();
    names
}
