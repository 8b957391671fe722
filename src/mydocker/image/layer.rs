//! Writing a layer: a deterministic tar archive with OCI whiteouts.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, major, minor};
use tar::{EntryType, Header};

use super::super::keep_id::KeepId;
use super::super::progress::Bar;
use crate::error::errno;
use crate::sys::xattr;

/// Whether an extended attribute belongs to the file and not to the machine or the mount it is on.
pub(super) fn is_kept_xattr(name: &OsStr) -> bool {
    const OTHERS: [&str; 7] = [
        "trusted.overlay.",
        "user.overlay.",
        "security.selinux",
        "security.apparmor",
        "security.ima",
        "security.evm",
        "system.nfs4",
    ];
    !OTHERS
        .iter()
        .any(|other| name.as_bytes().starts_with(other.as_bytes()))
}

/// The extended attributes of a file that belong to it, sorted by name.
pub(super) fn kept_xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut kept = Vec::new();
    for name in xattr::list(path).with_context(|| format!("attributes of {}", path.display()))? {
        if !is_kept_xattr(&name) {
            continue;
        }
        if let Some(value) = xattr::get(path, &name)? {
            kept.push((name.as_bytes().to_vec(), value));
        }
    }
    Ok(kept)
}

/// A layer being written.
pub(super) struct LayerWriter<W: Write> {
    tar: tar::Builder<W>,
    /// Files with several names, by device and inode: the first name is the file.
    links: HashMap<(u64, u64), PathBuf>,
    /// What was left out, a line each.
    pub(super) notes: Vec<String>,
    buffer: Vec<u8>,
    /// Told of the content of files.
    bar: Option<Bar>,
    /// Of a container with `--userns keep-id`: the owners are those that it sees.
    keep: Option<KeepId>,
}

/// How much of a file is read at a time.
const BUFFER: usize = 256 << 10;

impl<W: Write> LayerWriter<W> {
    pub(super) fn new(to: W) -> LayerWriter<W> {
        LayerWriter {
            tar: tar::Builder::new(to),
            links: HashMap::new(),
            notes: Vec::new(),
            buffer: vec![0; BUFFER],
            bar: None,
            keep: None,
        }
    }

    /// The same, of the files of a container with `--userns keep-id`.
    pub(super) fn of_container(self, keep: Option<&KeepId>) -> LayerWriter<W> {
        LayerWriter {
            keep: keep.copied(),
            ..self
        }
    }

    /// The same, telling a bar how far it has got.
    pub(super) fn with_bar(self, bar: Bar) -> LayerWriter<W> {
        LayerWriter {
            bar: Some(bar),
            ..self
        }
    }

    /// Adds the file at `from` as `path`, relative to the root; the empty path is the root itself.
    /// `false`: it is gone by now, and the archive is as before.
    pub(super) fn add(&mut self, path: &Path, from: &Path, meta: &Metadata) -> Result<bool> {
        match self.try_add(path, from, meta) {
            Err(error) if is_missing(&error) => Ok(false),
            done => done
                .map(|()| true)
                .with_context(|| format!("archive /{}", path.display())),
        }
    }

    fn try_add(&mut self, path: &Path, from: &Path, meta: &Metadata) -> Result<()> {
        let kind = meta.file_type();
        if kind.is_socket() {
            self.notes
                .push(format!("/{}: a socket is left out", path.display()));
            return Ok(());
        }
        let mut pax = Records::new();
        let owner = (meta.uid(), meta.gid());
        let owner = self.keep.map_or(owner, |keep| keep.inside(owner));
        let mut header = header_of(meta, owner, &mut pax);
        if let Some(first) = self.links.get(&(meta.dev(), meta.ino())).cloned() {
            header.set_entry_type(EntryType::Link);
            set_link(&mut header, &first, &mut pax);
            return self.append(header, path, pax);
        }
        for (name, value) in kept_xattrs(from)? {
            // There the value would begin (pax(1)).
            if name.contains(&b'=') {
                self.notes.push(format!(
                    "/{}: the attribute {} is left out: archives have none with =",
                    path.display(),
                    name.escape_ascii()
                ));
                continue;
            }
            pax.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value));
        }
        if kind.is_file() {
            // It may be another by now, if its container runs.
            let file = File::options()
                .read(true)
                .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
                .open(from)?;
            ensure!(file.metadata()?.is_file(), "it is no regular file any more");
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            if meta.len() >= 8 << 30 {
                pax.push((b"size".to_vec(), meta.len().to_string().into_bytes()));
            }
            // Exactly the announced size, whatever happens to the file meanwhile.
            let content = file.chain(std::io::repeat(0)).take(meta.len());
            self.append(header, path, pax)?;
            self.note_names(path, meta);
            return self.content(content, meta.len());
        }
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
        } else if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            set_link(&mut header, &std::fs::read_link(from)?, &mut pax);
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
        } else {
            let is_char = kind.is_char_device();
            header.set_entry_type(if is_char {
                EntryType::Char
            } else {
                EntryType::Block
            });
            header.set_device_major(u32::try_from(major(meta.rdev()))?)?;
            header.set_device_minor(u32::try_from(minor(meta.rdev()))?)?;
        }
        self.append(header, path, pax)?;
        self.note_names(path, meta);
        Ok(())
    }

    /// Has the further names of a file refer to this one, which the archive has.
    fn note_names(&mut self, path: &Path, meta: &Metadata) {
        if !meta.is_dir() && meta.nlink() > 1 {
            self.links.insert((meta.dev(), meta.ino()), path.to_owned());
        }
    }

    /// Says that `path` of the layers below is gone.
    pub(super) fn whiteout(&mut self, path: &Path) -> Result<()> {
        let mut name = b".wh.".to_vec();
        name.extend(path.file_name().unwrap_or_default().as_bytes());
        self.mark(&path.with_file_name(OsStr::from_bytes(&name)))
    }

    /// Says that what the layers below have in the directory `path` is gone.
    pub(super) fn opaque(&mut self, path: &Path) -> Result<()> {
        self.mark(&path.join(".wh..wh..opq"))
    }

    fn mark(&mut self, path: &Path) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        self.append(header, path, Vec::new())
    }

    fn append(&mut self, mut header: Header, path: &Path, mut pax: Records) -> Result<()> {
        let mut name = path.as_os_str().as_bytes().to_vec();
        if name.is_empty() {
            name = b".".to_vec();
        }
        if header.entry_type().is_dir() {
            name.push(b'/');
        }
        let field = &mut header.as_old_mut().name;
        let fits = name.len() <= field.len();
        let len = name.len().min(field.len());
        field[..len].copy_from_slice(&name[..len]);
        if !fits {
            pax.push((b"path".to_vec(), name));
        }
        if !pax.is_empty() {
            pax.sort();
            let content = extended(&pax);
            let mut header = Header::new_ustar();
            header.set_entry_type(EntryType::XHeader);
            header.set_size(content.len() as u64);
            header.set_cksum();
            self.tar.append(&header, &content[..])?;
        }
        header.set_cksum();
        self.tar.append(&header, std::io::empty())?;
        Ok(())
    }

    /// What follows the header of a file; the tar crate would copy it in small pieces.
    fn content(&mut self, mut content: impl Read, size: u64) -> Result<()> {
        let to = self.tar.get_mut();
        loop {
            let n = match content.read(&mut self.buffer)? {
                0 => break,
                n => n,
            };
            to.write_all(&self.buffer[..n])?;
            if let Some(bar) = &self.bar {
                bar.add(n as u64);
            }
        }
        let padding = size.next_multiple_of(512) - size;
        Ok(to.write_all(&[0; 512][..padding as usize])?)
    }

    /// Ends the archive; what it was written to, and what was left out.
    pub(super) fn finish(self) -> Result<(W, Vec<String>)> {
        Ok((
            self.tar.into_inner().context("write the layer")?,
            self.notes,
        ))
    }
}

/// Writes everything below a directory as an archive. What was left out, a line each.
pub(in crate::mydocker) fn write_tree(
    dir: BorrowedFd<'_>,
    keep: Option<&KeepId>,
    to: &mut dyn Write,
) -> Result<Vec<String>> {
    let mut writer = LayerWriter::new(to).of_container(keep);
    add_tree(&mut writer, dir, &|_| Ok(()))?;
    let (to, notes) = writer.finish()?;
    to.flush().context("write the archive")?;
    Ok(notes)
}

/// Whether something of this name may be added.
type Check = dyn Fn(&OsStr) -> Result<()>;

/// Adds a directory as the root, and everything below it. Whoever changes it meanwhile cannot lead
/// us out of it: names are used once, below a directory that is held open, and links not followed.
/// Only one is held at a time: there may be more levels than this process may have files open.
pub(super) fn add_tree<W: Write>(
    writer: &mut LayerWriter<W>,
    top: BorrowedFd<'_>,
    check: &Check,
) -> Result<()> {
    let here = through(top, OsStr::new("."));
    let meta = here.metadata().context("look at the top directory")?;
    writer.add(Path::new(""), &here, &meta)?;
    let mut path = PathBuf::new();
    // Of each directory on the way the names that are to come, and the one that is open.
    let mut names = vec![names_in(top, &path)?];
    let mut open: Option<OwnedFd> = None;
    while let Some(left) = names.last_mut() {
        let Some(name) = left.pop() else {
            names.pop();
            path.pop();
            open = None;
            continue;
        };
        let dir = match open.take() {
            Some(dir) => dir,
            None => match open_below(top, &path) {
                Err(error) if is_missing(&error) => {
                    left.clear();
                    continue;
                }
                dir => dir?,
            },
        };
        path.push(&name);
        check(&name).with_context(|| format!("/{}", path.display()))?;
        let mut add = || -> Result<Option<(OwnedFd, Vec<OsString>)>> {
            let from = through(dir.as_fd(), &name);
            let meta = from.symlink_metadata()?;
            if !writer.add(&path, &from, &meta)? || !meta.is_dir() {
                return Ok(None);
            }
            let below = openat(&dir, name.as_os_str(), DIRECTORY, Mode::empty())?;
            let names = names_in(below.as_fd(), &path)?;
            Ok(Some((below, names)))
        };
        match add() {
            Ok(Some((below, below_it))) => {
                names.push(below_it);
                open = Some(below);
                continue;
            }
            // Gone meanwhile.
            Err(error) if is_missing(&error) => {}
            done => drop(done?),
        }
        path.pop();
        open = Some(dir);
    }
    Ok(())
}

/// The names in a directory, last first.
fn names_in(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<OsString>> {
    let names = std::fs::read_dir(through(dir, OsStr::new(".")))
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    let mut names: Vec<OsString> = names.with_context(|| format!("list /{}", path.display()))?;
    names.sort_by(|a, b| b.cmp(a));
    Ok(names)
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Opens a directory below another. Its path may be longer than the kernel takes at a time.
fn open_below(top: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let open = |at: BorrowedFd<'_>, part: &Path| {
        openat2(at, part, how).with_context(|| format!("open /{}", path.display()))
    };
    let (mut dir, mut part) = (open(top, Path::new("."))?, PathBuf::new());
    for name in path {
        if part.as_os_str().len() + name.len() > 4000 {
            dir = open(dir.as_fd(), &part)?;
            part.clear();
        }
        part.push(name);
    }
    match part.as_os_str().is_empty() {
        true => Ok(dir),
        false => open(dir.as_fd(), &part),
    }
}

/// Whether something could not be looked at because it is gone.
pub(super) fn is_missing(error: &anyhow::Error) -> bool {
    errno(error).is_some_and(is_absence)
}

/// The same.
pub(super) fn is_gone(error: &std::io::Error) -> bool {
    error.raw_os_error().is_some_and(is_absence)
}

/// Whether this error says so; in its place, or in that of a directory on the way, there may be a file or
/// a link now.
fn is_absence(number: i32) -> bool {
    matches!(number, libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
}

/// A path of `name` in the directory of the descriptor, for calls that take no descriptor.
fn through(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name)
}

/// The keys and values of an extended header. Those of attributes need be no text, as their names,
/// and Docker writes them so.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// `LENGTH KEY=VALUE\n`, one after the other (pax(1)), where the length counts its own digits.
fn extended(records: &Records) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + " =\n".len();
        let mut len = rest;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        bytes.extend(format!("{len} ").into_bytes());
        bytes.extend([key, &b"="[..], value, b"\n"].concat());
    }
    bytes
}

/// Mode, owner and time; what the old header cannot hold goes to the extended one.
fn header_of(meta: &Metadata, (uid, gid): (u32, u32), pax: &mut Records) -> Header {
    let mut header = Header::new_ustar();
    header.set_mode(meta.mode() & 0o7777);
    header.set_size(0);
    for (key, id) in [("uid", uid), ("gid", gid)] {
        let small = if id < 1 << 21 { u64::from(id) } else { 0 };
        match key {
            "uid" => header.set_uid(small),
            _ => header.set_gid(small),
        }
        if small != u64::from(id) {
            pax.push((key.into(), id.to_string().into_bytes()));
        }
    }
    let (seconds, nanos) = (meta.mtime(), meta.mtime_nsec());
    header.set_mtime(u64::try_from(seconds).unwrap_or(0).min((1 << 33) - 1));
    if nanos != 0 || !(0..1 << 33).contains(&seconds) {
        pax.push((b"mtime".to_vec(), pax_time(seconds, nanos).into_bytes()));
    }
    header
}

/// Seconds with a fraction; before the epoch the fraction counts away from it.
fn pax_time(seconds: i64, nanos: i64) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let (sign, whole, part) = match seconds {
        ..0 => ("-", -(seconds + 1), 1_000_000_000 - nanos),
        _ => ("", seconds, nanos),
    };
    let digits = format!("{part:09}");
    format!("{sign}{whole}.{}", digits.trim_end_matches('0'))
}

fn set_link(header: &mut Header, target: &Path, pax: &mut Records) {
    let bytes = target.as_os_str().as_bytes();
    let field = &mut header.as_old_mut().linkname;
    let len = bytes.len().min(field.len());
    field[..len].copy_from_slice(&bytes[..len]);
    if bytes.len() > field.len() {
        pax.push((b"linkpath".to_vec(), bytes.to_vec()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mydocker::image::headers::entries;

    #[test]
    fn attributes_with_odd_names() {
        let id = crate::mydocker::state_dirs::new_id().unwrap();
        let path = std::env::temp_dir().join(format!("attributes-{}", &id[..12]));
        std::fs::write(&path, "").unwrap();
        let odd = OsStr::from_bytes(b"user.\xff");
        xattr::set(&path, odd, b"a=b\n").unwrap();
        xattr::set(&path, "user.a=b".as_ref(), b"c").unwrap();
        let mut writer = LayerWriter::new(Vec::new());
        let meta = path.symlink_metadata().unwrap();
        writer.add("file".as_ref(), &path, &meta).unwrap();
        std::fs::remove_file(&path).unwrap();
        let (archive, notes) = writer.finish().unwrap();
        let left = "/file: the attribute user.a=b is left out: archives have none with =";
        assert_eq!(notes, [left]);
        let mut found = Vec::new();
        entries(&archive[..], |_, headers| {
            found.extend(headers.attributes()?.xattrs);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, [(odd.to_owned(), b"a=b\n".to_vec())]);
    }

    #[test]
    fn records_count_their_own_length() {
        for len in [0, 1, 85, 86, 87, 88, 984, 985, 986, 987, 988, 100_000] {
            let records = vec![
                (b"key.name".to_vec(), vec![b'v'; len]),
                (b"b".to_vec(), Vec::new()),
            ];
            let mut theirs = tar::Builder::new(Vec::new());
            let pairs = [("key.name", records[0].1.as_slice()), ("b", b"")];
            theirs.append_pax_extensions(pairs).unwrap();
            let theirs = theirs.into_inner().unwrap();
            let ours = extended(&records);
            assert_eq!(theirs[512..][..ours.len()], ours, "{len}");
        }
    }

    #[test]
    fn times_before_the_epoch_count_away_from_it() {
        for (seconds, nanos, text) in [
            (5, 0, "5"),
            (5, 250_000_000, "5.25"),
            (-2, 0, "-2"),
            (-2, 750_000_000, "-1.25"),
            (-1, 500_000_000, "-0.5"),
        ] {
            assert_eq!(pax_time(seconds, nanos), text);
        }
    }
}
