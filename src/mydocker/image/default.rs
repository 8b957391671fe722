//! The image that the first run needs: busybox, from what the host has.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tar::{EntryType, Header};
use time::OffsetDateTime;

use super::super::progress::Progress;
use super::{Image, ImportOptions, Source, Store};
use crate::error::ResultExt;

/// Where the seed project's users keep their busybox.
const ARCHIVE: &str = "/root/busybox.tar";

impl Store {
    /// The image `name`. When the store has none of that name and it is `busybox`, it is made from
    /// /root/busybox.tar or else from the host's static busybox. The second value is the line to
    /// tell the user, if it was made now.
    pub fn ensure_default(&self, name: &str) -> Result<(Image, Option<String>)> {
        if let Some(image) = self.find(name)? {
            return Ok((image, None));
        }
        if !matches!(name, "busybox" | "busybox:latest") {
            return self.get(name).map(|image| (image, None));
        }
        let mut options = ImportOptions {
            name: Some("busybox:latest".to_owned()),
            changes: vec![
                "CMD [\"sh\"]".to_owned(),
                format!("ENV PATH={}", super::DEFAULT_PATH),
            ],
            ..ImportOptions::default()
        };
        let archive = Path::new(ARCHIVE);
        if archive.is_file() {
            let made = self
                .import(Source::open(archive, &Progress::silent())?, &options)
                .with_context(|| format!("import {ARCHIVE} as the default image"))?;
            return Ok((
                made.image,
                Some(format!("made the image busybox from {ARCHIVE}")),
            ));
        }
        let (path, program) = host_busybox()?;
        let time = path.metadata().and_then(|meta| meta.modified());
        let time = OffsetDateTime::from(time.with_context(|| format!("look at {path:?}"))?);
        options.created = Some(time);
        let bytes = tree(&program, &applets(&path)?, time.unix_timestamp())?;
        let source = Source::Archive(Box::new(Cursor::new(bytes)));
        let made = self
            .import(source, &options)
            .context("make the default image")?;
        Ok((
            made.image,
            Some(format!("made the image busybox from {}", path.display())),
        ))
    }
}

/// The host's busybox, if it runs without libraries.
fn host_busybox() -> Result<(PathBuf, Vec<u8>)> {
    for path in [
        "/bin/busybox",
        "/usr/bin/busybox",
        "/usr/local/bin/busybox",
        "/sbin/busybox",
    ] {
        let mut program = Vec::new();
        let read = std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut program));
        if read.is_ok() && is_static(&program) {
            return Ok((PathBuf::from(path), program));
        }
    }
    Err(anyhow::anyhow!(
        "there is no image called busybox, and no static busybox to make it from"
    ))
    .hint("apt-get install busybox-static, or mydocker import FILE.tar busybox")
}

/// Whether this is a 64-bit little-endian ELF program without an interpreter (elf(5)).
fn is_static(program: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let u16_at = |at: usize| {
        Some(u16::from_le_bytes(
            program.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    let headers = || -> Option<bool> {
        if program.get(..6)? != [0x7f, b'E', b'L', b'F', 2, 1] {
            return None;
        }
        let start = u64::from_le_bytes(program.get(32..40)?.try_into().ok()?);
        let (size, count) = (u16_at(54)?, u16_at(56)?);
        for at in 0..usize::from(count) {
            let at = usize::try_from(start)
                .ok()?
                .checked_add(at * usize::from(size))?;
            let kind = u32::from_le_bytes(program.get(at..at.checked_add(4)?)?.try_into().ok()?);
            if kind == PT_INTERP {
                return None;
            }
        }
        Some(true)
    };
    headers().unwrap_or(false)
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    let run = || format!("run {} --list", busybox.display());
    let output = Command::new(busybox)
        .arg("--list")
        .output()
        .with_context(run)?;
    let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| !name.is_empty() && !name.contains('/') && *name != "busybox")
        .map(str::to_owned)
        .collect();
    if !output.status.success() || names.is_empty() {
        bail!("{}: {}", run(), output.status);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/bin/false\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nusers:x:100:\nnogroup:x:65534:\n";

/// The archive of the image. The same program gives the same bytes, so the same id.
fn tree(program: &[u8], applets: &[String], time: i64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::with_capacity(program.len() + (512 << 10)));
    let time = u64::try_from(time).unwrap_or(0);
    let header = |kind: EntryType, mode: u32, size: usize| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(time);
        header.set_size(size as u64);
        header
    };
    let directory = EntryType::Directory;
    for (dir, mode) in [
        ("./", 0o755),
        ("bin/", 0o755),
        ("dev/", 0o755),
        ("etc/", 0o755),
        ("home/", 0o755),
        ("proc/", 0o755),
        ("root/", 0o700),
        ("sys/", 0o755),
        ("tmp/", 0o1777),
        ("usr/", 0o755),
        ("usr/bin/", 0o755),
        ("usr/sbin/", 0o755),
        ("var/", 0o755),
        ("var/spool/", 0o755),
        ("var/tmp/", 0o1777),
        ("var/www/", 0o755),
    ] {
        tar.append_data(&mut header(directory, mode, 0), dir, std::io::empty())?;
    }
    let file = EntryType::Regular;
    tar.append_data(
        &mut header(file, 0o755, program.len()),
        "bin/busybox",
        program,
    )?;
    for name in applets {
        let link = &mut header(EntryType::Link, 0o755, 0);
        tar.append_link(link, format!("bin/{name}"), "bin/busybox")?;
    }
    for (path, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        tar.append_data(&mut header(file, 0o644, text.len()), path, text.as_bytes())?;
    }
    // Each container has its own of these. Where an image has none, they are made in every container.
    for path in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        tar.append_data(&mut header(file, 0o644, 0), path, std::io::empty())?;
    }
    let shadow = "root:*::0:::::\n";
    tar.append_data(
        &mut header(file, 0o640, shadow.len()),
        "etc/shadow",
        shadow.as_bytes(),
    )?;
    tar.into_inner().context("make the archive")
}
