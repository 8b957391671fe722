//! The umask. What mydocker makes for itself and for images has the modes that the code says, whatever
//! the caller's umask is: a layer's directories would be closed to the container's users. What it
//! writes for the caller honours the caller's.

use nix::sys::stat::{Mode, umask};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Nobody but the owner writes.
const OURS: u32 = 0o022;

static CALLERS: AtomicU32 = AtomicU32::new(OURS);

/// Sets our own for the rest of the program.
pub fn settle() {
    let callers = umask(Mode::from_bits_truncate(OURS));
    CALLERS.store(callers.bits(), Ordering::Relaxed);
}

/// Gives it back to the caller's, for the program that this one becomes.
pub(super) fn restore() {
    umask(Mode::from_bits_truncate(CALLERS.load(Ordering::Relaxed)));
}

/// The mode of a new file that is the caller's.
pub(super) fn callers_file() -> u32 {
    0o644 & !CALLERS.load(Ordering::Relaxed)
}

/// Writes a file that is the caller's.
pub(super) fn write_for_caller(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::File::options();
    options.write(true).create(true).truncate(true);
    let mut file = options.mode(callers_file()).open(path)?;
    file.write_all(text.as_bytes())
}
