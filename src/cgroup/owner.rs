//! Who may make cgroups below the container's (config-linux.md, "Cgroup ownership"): on v2, the user
//! of its program, when the container has a cgroup namespace and a cgroup mount that can be written.

use super::{Cgroup, Layout};
use anyhow::{Context, Result};
use oci_spec::runtime::Mount;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::lchown;
use std::path::Path;

/// The files that belong to whom a cgroup is delegated, a name each line (cgroups(7)).
const LIST: &str = "/sys/kernel/cgroup/delegate";
/// The same where the kernel does not tell, by the specification.
const USUAL: &str = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n";

/// Whether the container's own cgroup can be written in it, by the mounts of its config.json.
pub fn is_writable(mounts: &[Mount]) -> bool {
    mounts.iter().any(|mount| {
        mount.source().as_deref() == Some(Path::new("cgroup"))
            && mount.destination() == Path::new("/sys/fs/cgroup")
            && !(mount.options().iter().flatten()).any(|word| word == "ro" || word == "rro")
    })
}

impl Cgroup {
    /// Gives the directory to the user `uid` of the host, and the files by which its processes are
    /// moved and its controllers handed down; not those that hold its limits. Without effect on v1,
    /// and on a cgroup that somebody else has made: it stays when the container goes.
    pub fn give_to(&self, uid: u32) -> Result<()> {
        // Its own maker's it is already.
        if uid == nix::unistd::geteuid().as_raw() {
            return Ok(());
        }
        let dir = match self.v2_dir() {
            Some(dir) if self.layout == Layout::V2 && !dir.found => dir.full(),
            _ => return Ok(()),
        };
        let list = match fs::read_to_string(LIST) {
            Err(error) if error.kind() == ErrorKind::NotFound => USUAL.to_owned(),
            other => other.with_context(|| format!("read {LIST}"))?,
        };
        give(&dir, &list, uid)
            .with_context(|| format!("give cgroup {} to user {uid}", dir.display()))
    }
}

fn give(dir: &Path, list: &str, uid: u32) -> io::Result<()> {
    let chown = |path: &Path| lchown(path, Some(uid), None);
    for name in list.lines().filter(|name| !name.contains('/')) {
        match chown(&dir.join(name)) {
            // Not every cgroup has every file.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    chown(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn mounts(json: &str) -> Vec<Mount> {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn only_a_mount_that_can_be_written_counts() {
        let at = r#""destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup""#;
        assert!(is_writable(&mounts(&format!(
            r#"[{{{at}, "options": ["nosuid"]}}]"#
        ))));
        assert!(is_writable(&mounts(&format!(r#"[{{{at}}}]"#))));
        for other in [
            format!(r#"[{{{at}, "options": ["ro"]}}]"#),
            format!(r#"[{{{at}, "options": ["nosuid", "rro"]}}]"#),
            r#"[{"destination": "/cg", "type": "cgroup", "source": "cgroup"}]"#.to_owned(),
            r#"[{"destination": "/sys/fs/cgroup", "source": "/tmp"}]"#.to_owned(),
            "[]".to_owned(),
        ] {
            assert!(!is_writable(&mounts(&other)), "{other}");
        }
    }

    #[test]
    fn what_is_listed_and_there_changes_its_owner() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = std::env::temp_dir().join(format!("owner-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        for name in ["cgroup.procs", "cgroup.threads", "memory.max"] {
            fs::write(dir.join(name), "").unwrap();
        }
        let outside = dir.with_extension("outside");
        fs::write(&outside, "").unwrap();
        let list = format!(
            "{USUAL}memory.oom.group\n../{}\n",
            outside.file_name().unwrap().to_string_lossy()
        );
        let given = give(&dir, &list, 1234);
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        let owners =
            ["", "cgroup.procs", "cgroup.threads", "memory.max"].map(|name| owner(&dir.join(name)));
        let of_outside = owner(&outside);
        fs::remove_file(&outside).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        given.unwrap();
        assert_eq!((owners, of_outside), ([1234, 1234, 1234, 0], 0));
    }
}
