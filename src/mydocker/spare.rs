//! Room that is kept for the day on which the disk is full: a file that is removed, so that what
//! must be written then can be. Stopping and removing things must work on a full disk.

use std::path::Path;

/// Makes the file, unless it is there. Best effort.
pub(super) fn keep(path: &Path, size: usize) {
    if path.exists() {
        return;
    }
    // Not zeros: they must take space on file systems that keep holes or compress.
    let noise: Vec<u8> = (0..size)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8)
        .collect();
    if std::fs::write(path, noise).is_err() {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes it. `true`: there is some room now.
pub(super) fn give_back(path: &Path) -> bool {
    std::fs::remove_file(path).is_ok()
}
