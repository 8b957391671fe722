//! Compiled seccomp programs, kept in a directory of the runtime's: compiling Docker's profile takes
//! 7 ms, finding its program 0.05 ms.
//!
//! A file holds all of what the program was made from, and the program. Its name is a short hash of
//! the former, which is compared as it stands: profiles whose names are the same by chance or by
//! design take turns, and neither gets the program of the other.

use super::Result;
use libseccomp::ScmpVersion;
use oci_spec::runtime::LinuxSeccomp;
use std::fs::{DirBuilder, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The kept program of a profile, or the one that `make` makes, which is kept in `dir` then.
pub(super) fn program(
    profile: &LinuxSeccomp,
    dir: &Path,
    make: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let source = source(profile)?;
    let path = dir.join(format!("{:016x}", sum(&source)));
    if let Some(program) = kept(&path, &source) {
        return Ok(program);
    }
    let program = make()?;
    // Best effort: without it the next container compiles anew.
    let _ = keep(dir, &path, &source, &program);
    Ok(program)
}

/// All of what the program depends on: what makes it, and the profile.
fn source(profile: &LinuxSeccomp) -> Result<Vec<u8>> {
    // The number counts the changes of our own part.
    let mut source = concat!(env!("CARGO_PKG_VERSION"), " 2").as_bytes().to_vec();
    if let Ok(version) = ScmpVersion::current() {
        let numbers = [version.major, version.minor, version.micro];
        source.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    }
    serde_json::to_writer(&mut source, profile)?;
    Ok(source)
}

/// Of 64 bits: not for what somebody may have forged.
fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

const SUM: usize = size_of::<u64>();

/// The program in a file: after its sum, by which a damaged file is known, and its source. Only what
/// root alone could have written is believed (the caller's user, where that is not root), so that the
/// sum need not resist anybody.
fn kept(path: &Path, source: &[u8]) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let facts = file.metadata().ok()?;
    if facts.uid() != nix::unistd::geteuid().as_raw() || facts.mode() & 0o022 != 0 {
        return None;
    }
    let mut bytes = vec![0; facts.len() as usize];
    file.read_exact(&mut bytes).ok()?;
    let (head, rest) = bytes.split_first_chunk::<SUM>()?;
    let program = rest.strip_prefix(source)?;
    // No JSON text goes on where another ends: what follows is the program.
    let is_whole = !program.is_empty() && u64::from_ne_bytes(*head) == sum(program);
    is_whole.then(|| program.to_vec())
}

fn keep(dir: &Path, path: &Path, source: &[u8], program: &[u8]) -> std::io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Where one of that name is, a runtime with our pid in another pid namespace is at work: it is its.
    let temporary = path.with_extension(std::process::id().to_string());
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let mut write = || -> std::io::Result<()> {
        file.write_all(&sum(program).to_ne_bytes())?;
        file.write_all(source)?;
        file.write_all(program)?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::profile;
    use super::*;
    use serde_json::json;
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("seccomp-{name}-{}", std::process::id()))
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_kept_program_is_the_same_and_a_damaged_one_is_not_believed() {
        let dir = scratch("cache");
        let profile = profile(json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
        }));
        let get = |made: &'static [u8]| program(&profile, &dir, || Ok(made.to_vec())).unwrap();
        assert_eq!(get(b"program"), b"program");
        assert_eq!(get(b"not asked for"), b"program");
        let file = files(&dir).pop().unwrap();
        let whole = std::fs::read(&file).unwrap();
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 1;
            std::fs::write(&file, bytes).unwrap();
            assert_eq!(kept(&file, &source(&profile).unwrap()), None, "{place}");
            std::fs::write(&file, &whole[..place]).unwrap();
            assert_eq!(kept(&file, &source(&profile).unwrap()), None, "{place}");
        }
        assert_eq!(get(b"made anew"), b"made anew");
        assert_eq!(get(b"not asked for"), b"made anew");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_others_can_write_is_not_believed() {
        use std::os::unix::fs::PermissionsExt;
        let dir = scratch("mode");
        let path = dir.join("name");
        keep(&dir, &path, b"source", b"program").unwrap();
        assert_eq!(kept(&path, b"source").unwrap(), b"program");
        for (mode, is_believed) in [(0o620, false), (0o602, false), (0o644, true)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(kept(&path, b"source").is_some(), is_believed, "{mode:o}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_name_is_not_one_profile() {
        let dir = scratch("name");
        let path = dir.join("name");
        keep(&dir, &path, b"{\"a\":1}", b"first").unwrap();
        assert_eq!(kept(&path, b"{\"a\":2}"), None);
        keep(&dir, &path, b"{\"a\":2}", b"second").unwrap();
        assert_eq!(kept(&path, b"{\"a\":2}").unwrap(), b"second");
        assert_eq!(kept(&path, b"{\"a\":1}"), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_another_one_is_writing_stays() {
        let dir = scratch("keep");
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("key");
        let others = path.with_extension(std::process::id().to_string());
        std::fs::write(&others, "half").unwrap();
        assert!(keep(&dir, &path, b"source", b"program").is_err());
        assert_eq!(std::fs::read(&others).unwrap(), b"half");
        // Our own is taken away when it cannot be put in place.
        std::fs::remove_file(&others).unwrap();
        std::fs::create_dir_all(path.join("in the way")).unwrap();
        assert!(keep(&dir, &path, b"source", b"program").is_err());
        assert!(!others.exists());
        std::fs::remove_dir_all(&path).unwrap();
        keep(&dir, &path, b"source", b"program").unwrap();
        assert_eq!(kept(&path, b"source").unwrap(), b"program");
        assert!(!others.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
