//! Removing a directory with all that is in it. What a container has made may have more levels than this
//! process may have files open, of which `std::fs::remove_dir_all` needs one for each.

use crate::sys::fds;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Where a directory is that stays open only while nothing below it is looked at.
struct Level {
    /// Its device and inode.
    id: (u64, u64),
    /// The directories that are left in it. The last one is that on the way.
    left: Vec<OsString>,
}

/// Removes the directory `path` and everything in it. Links are not followed. Whoever removes something
/// there at the same time is not in the way.
///
/// # Errors
/// There is no such directory, or something in it cannot be removed; the rest of it stays, too.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    const FLAGS: OFlag = OFlag::O_DIRECTORY
        .union(OFlag::O_NOFOLLOW)
        .union(OFlag::O_CLOEXEC);
    let mut dir = open(path, FLAGS, Mode::empty())?;
    let mut above: Vec<Level> = Vec::new();
    let mut left = clear(&dir)?;
    loop {
        if let Some(name) = left.last() {
            match openat(&dir, name.as_os_str(), FLAGS, Mode::empty()) {
                Ok(below) => {
                    let id = id(&dir)?;
                    above.push(Level { id, left });
                    left = clear(&below)?;
                    dir = below;
                }
                Err(Errno::ENOENT) => drop(left.pop()),
                Err(error) => return Err(error.into()),
            }
            continue;
        }
        let Some(level) = above.pop() else {
            return std::fs::remove_dir(path);
        };
        dir = openat(&dir, "..", FLAGS, Mode::empty())?;
        // Somebody who has moved it must not lead us to what is not in it.
        if id(&dir)? != level.id {
            return Err(io::Error::other("a directory was moved meanwhile"));
        }
        left = level.left;
        if let Some(name) = left.pop() {
            unlink(&dir, &name, UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Removes all but the directories in a directory: these.
fn clear(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut directories = Vec::new();
    for entry in std::fs::read_dir(fds::path(dir))? {
        let entry = entry?;
        let kind = match entry.file_type() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            kind => kind?,
        };
        match kind.is_dir() {
            true => directories.push(entry.file_name()),
            false => unlink(dir, &entry.file_name(), UnlinkatFlags::NoRemoveDir)?,
        }
    }
    Ok(directories)
}

fn unlink(dir: &OwnedFd, name: &OsString, flags: UnlinkatFlags) -> io::Result<()> {
    match unlinkat(dir, name.as_os_str(), flags) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn id(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_goes_as_a_whole_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("tree-{}", std::process::id()));
        let tree = base.join("tree");
        for dir in ["a/b/c", "a/d", "e", "f/g/h/i"] {
            std::fs::create_dir_all(tree.join(dir)).unwrap();
            std::fs::write(tree.join(dir).join("file"), "x").unwrap();
        }
        std::fs::create_dir(base.join("other")).unwrap();
        std::fs::write(base.join("other/file"), "x").unwrap();
        symlink("../other", tree.join("a/link")).unwrap();
        symlink("../other", tree.join("link")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(base.join("other/file").exists());
        let gone = remove_tree(&tree).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
        std::fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn there_may_be_more_levels_than_open_files_and_than_a_path_has() {
        let base = std::env::temp_dir().join(format!("deep-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        let mut dir: OwnedFd = std::fs::File::open(&base).unwrap().into();
        // Beyond what any process may have open (fs.nr_open is 1,048,576 mostly) would take long.
        for _ in 0..5000 {
            mkdirat(&dir, "a", Mode::S_IRWXU).unwrap();
            dir = openat(&dir, "a", OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&base).unwrap();
        assert!(!base.exists());
    }
}
