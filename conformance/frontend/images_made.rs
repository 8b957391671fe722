//! Images that rows are made of, as tar archives.

use super::kit::{Desk, skip};
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What an archive is made of.
pub(crate) enum Entry<'a> {
    /// A directory.
    Dir(&'a str),
    /// A file with this mode and content.
    File(&'a str, u32, &'a [u8]),
    /// A symbolic link and where it points.
    Link(&'a str, &'a str),
}

/// Writes a tar archive.
pub(crate) fn archive(path: &Path, entries: &[Entry<'_>]) -> Result<()> {
    std::fs::write(path, packed(entries)?).with_context(|| format!("write {}", path.display()))
}

/// The bytes of a tar archive.
pub(crate) fn packed(entries: &[Entry<'_>]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(0o755);
        match entry {
            Entry::Dir(name) => {
                header.set_entry_type(tar::EntryType::Directory);
                tar.append_data(&mut header, name, std::io::empty())?;
            }
            Entry::File(name, mode, bytes) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, *bytes)?;
            }
            Entry::Link(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                tar.append_link(&mut header, name, target)?;
            }
        }
    }
    Ok(tar.into_inner()?)
}

/// The host's static busybox.
pub(crate) fn busybox() -> Result<Vec<u8>> {
    std::fs::read("/bin/busybox").context("read /bin/busybox (apt-get install busybox-static)")
}

impl Desk {
    /// Imports `name` from busybox as `sh` and these entries besides.
    pub(crate) fn import(
        &self,
        name: &str,
        entries: Vec<Entry<'_>>,
        changes: &[&str],
    ) -> Result<()> {
        let busybox = busybox()?;
        let mut all = vec![
            Entry::Dir("bin"),
            Entry::Dir("etc"),
            Entry::Dir("tmp"),
            Entry::File("bin/busybox", 0o755, &busybox),
        ];
        for applet in [
            "bin/sh",
            "bin/ls",
            "bin/cat",
            "bin/echo",
            "bin/touch",
            "bin/top",
            "bin/mount",
            "bin/id",
            "bin/env",
            "bin/sleep",
        ] {
            all.push(Entry::Link(applet, "busybox"));
        }
        all.extend(entries);
        let path = self.path(&format!("{}.tar", name.replace([':', '/'], "-")));
        archive(&path, &all)?;
        let path = path.display().to_string();
        let mut args = vec!["import"];
        for change in changes {
            args.extend(["-c", change]);
        }
        args.extend([path.as_str(), name]);
        self.go(&args)?.ok()?;
        Ok(())
    }

    /// The image `stress`: Debian's program with its libraries, as the entrypoint.
    pub(crate) fn import_stress(&self) -> Result<()> {
        let program = Path::new("/usr/bin/stress");
        if !program.exists() {
            return skip("no /usr/bin/stress (apt-get install stress)");
        }
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for path in std::iter::once(program.to_owned()).chain(libraries(program)?) {
            let bytes = std::fs::read(&path).with_context(|| format!("read {path:?}"))?;
            let name = path.display().to_string();
            files.push((name.trim_start_matches('/').to_owned(), bytes));
        }
        let entries = files
            .iter()
            .map(|(name, bytes)| Entry::File(name, 0o755, bytes))
            .collect();
        self.import("stress", entries, &["ENTRYPOINT [\"stress\"]"])
    }
}

/// The absolute paths that ldd(1) names.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(program)
        .output()
        .context("run ldd")?;
    ensure!(output.status.success(), "ldd: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
