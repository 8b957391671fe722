//! The files of an image archive (a tar archive, or a layout in a directory), by name and in any
//! order. What can be read at random is read where it is; what comes as a stream is kept in a draft.

use crate::sys::fds;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tar::EntryType;

use super::super::progress::Progress;
use super::compression::{is_compressed, within};
use super::incoming::Limits;
use super::unpack::{BUFFER, write_whole};
use crate::error::ResultExt;
use crate::linux::root::Root;

/// What is not a layer is smaller than this.
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;

/// An image has a few files for each layer.
const MAX_FILES: usize = 10_000;

/// Where a file is.
#[derive(Debug, Clone)]
enum Place {
    /// In the archive.
    Part { offset: u64, size: u64 },
    /// In the draft.
    Kept { path: PathBuf, size: u64 },
    /// Under another name.
    Link(String),
}

/// The files of an archive.
pub(super) struct Contents {
    places: HashMap<String, Place>,
    archive: Option<File>,
    layout: Option<Root>,
}

impl Contents {
    /// Those of a layout in a directory.
    fn of_directory(dir: &Path) -> Result<Contents> {
        Ok(Contents {
            places: HashMap::new(),
            archive: None,
            layout: Some(Root::open(dir)?),
        })
    }

    /// Those of `path`: an archive, compressed or not, or a directory. What must be kept goes to
    /// files in `draft`.
    pub(super) fn open(
        path: &Path,
        limits: Limits,
        draft: &Path,
        progress: &Progress,
    ) -> Result<Contents> {
        let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let meta = file.metadata().context("look at it")?;
        if meta.is_dir() {
            return Contents::of_directory(path);
        }
        let mut start = [0; 6];
        if !meta.is_file() {
            return Contents::read(file, limits, draft, progress);
        }
        let len = file.read_at(&mut start, 0).context("read the archive")?;
        if is_compressed(&start[..len]) {
            return Contents::read(file, limits, draft, progress);
        }
        file.seek(SeekFrom::Start(0)).context("read the archive")?;
        let mut contents = Contents::empty();
        let from = BufReader::with_capacity(64 << 10, &file);
        let mut archive = tar::Archive::new(from);
        let size = meta.len();
        for entry in archive.entries_with_seek().context("read the archive")? {
            let entry = contents.next(entry)?;
            let (offset, len) = (entry.raw_file_position(), entry.size());
            let place = Place::Part { offset, size: len };
            ensure!(
                offset.checked_add(len).is_some_and(|end| end <= size),
                "the archive is cut short"
            );
            contents.put(&entry, place)?;
        }
        contents.archive = Some(file);
        Ok(contents)
    }

    /// Those of a stream.
    pub(super) fn read(
        from: impl Read,
        limits: Limits,
        draft: &Path,
        progress: &Progress,
    ) -> Result<Contents> {
        let mut contents = Contents::empty();
        let bar = progress.bar("archive", "reading", None);
        within(limits, &bar, from, |plain| {
            let mut archive = tar::Archive::new(plain);
            let mut buffer = vec![0; BUFFER];
            for (number, entry) in archive.entries().context("read the archive")?.enumerate() {
                let mut entry = contents.next(entry)?;
                let path = draft.join(format!("kept-{number}"));
                let size = entry.size();
                if entry.header().entry_type().is_file() {
                    let keep = || format!("keep {}", path.display());
                    let mut file = File::create_new(&path).with_context(keep)?;
                    write_whole(&mut entry, size, &mut file, &mut buffer).with_context(keep)?;
                }
                contents.put(&entry, Place::Kept { path, size })?;
            }
            // Whoever writes the archive must not see a closed pipe before the end.
            std::io::copy(&mut archive.into_inner(), &mut std::io::sink())
                .context("read the archive")
        })?;
        bar.done("read");
        Ok(contents)
    }

    fn empty() -> Contents {
        Contents {
            places: HashMap::new(),
            archive: None,
            layout: None,
        }
    }

    fn next<'a, R: Read>(
        &self,
        entry: std::io::Result<tar::Entry<'a, R>>,
    ) -> Result<tar::Entry<'a, R>> {
        ensure!(
            self.places.len() < MAX_FILES,
            "the archive has more than {MAX_FILES} files"
        );
        match entry {
            // The crate would quote what it has read, on several lines.
            Err(_) if self.places.is_empty() => Err(anyhow!("it is not a tar archive"))
                .hint("tar archives are read plain, and compressed with gzip or zstd"),
            entry => entry
                .context("read the archive")
                .hint("the archive is damaged or cut short"),
        }
    }

    fn put<R: Read>(&mut self, entry: &tar::Entry<'_, R>, place: Place) -> Result<()> {
        let path = entry.path_bytes();
        let name = normal("", &String::from_utf8_lossy(&path));
        let place = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => place,
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target);
                // A hard link counts from the top, a symbolic one from where it is.
                let above = name.as_deref().and_then(|name| name.rsplit_once('/'));
                let from = match kind {
                    EntryType::Symlink => above.map_or("", |(above, _)| above),
                    _ => "",
                };
                match normal(from, &target) {
                    Some(target) => Place::Link(target),
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        // What leads out of the archive is nothing that an image could refer to.
        if let Some(name) = name {
            self.places.insert(name, place);
        }
        Ok(())
    }

    fn place(&self, name: &str) -> Option<&Place> {
        let mut place = self.places.get(name)?;
        for _ in 0..10 {
            match place {
                Place::Link(target) => place = self.places.get(target)?,
                place => return Some(place),
            }
        }
        None
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, name: &str) -> bool {
        match &self.layout {
            Some(root) => root.resolve(Path::new(name)).is_ok(),
            None => self.place(name).is_some(),
        }
    }

    /// A file and its size.
    pub(super) fn get(&self, name: &str) -> Result<(Box<dyn Read + Send + '_>, u64)> {
        if let Some(root) = &self.layout {
            let fd = root
                .resolve(Path::new(name))
                .with_context(|| format!("{name} is missing"))?;
            let path = fds::path(&fd);
            let meta = std::fs::metadata(&path).with_context(|| format!("look at {name}"))?;
            ensure!(meta.is_file(), "{name} is not a regular file");
            let file = File::open(&path).with_context(|| format!("open {name}"))?;
            return Ok((Box::new(file), meta.len()));
        }
        let found = normal("", name).and_then(|name| self.place(&name).cloned());
        match (found, &self.archive) {
            (Some(Place::Part { offset, size }), Some(archive)) => {
                let part = Part {
                    archive,
                    offset,
                    end: offset + size,
                };
                Ok((Box::new(part), size))
            }
            (Some(Place::Kept { path, size }), _) => {
                let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
                Ok((Box::new(file), size))
            }
            _ => bail!("{name} is missing in the archive"),
        }
    }

    /// The path of a file that was kept in the draft, which nobody else needs.
    pub(super) fn kept(&self, name: &str) -> Option<&Path> {
        match self.place(&normal("", name)?)? {
            Place::Kept { path, .. } => Some(path),
            _ => None,
        }
    }

    /// A whole small file.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let (from, size) = self.get(name)?;
        ensure!(
            size <= MAX_DOCUMENT,
            "{name} is larger than {MAX_DOCUMENT} bytes"
        );
        let mut bytes = Vec::new();
        let read = from.take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.with_context(|| format!("read {name}"))?;
        Ok(bytes)
    }
}

/// `name` below `dir`, without `.`, `..` and needless slashes; nothing if it leads out.
fn normal(dir: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// A file within an archive; several may be read at once.
struct Part<'a> {
    archive: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let n = self.archive.read_at(&mut buffer[..len], self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn names_stay_in_the_archive() {
        for (dir, name, is) in [
            ("", "./a//b", Some("a/b")),
            ("", "/a", Some("a")),
            ("x", "../y/layer.tar", Some("y/layer.tar")),
            ("", "a/../..", None),
            ("x", "../../etc", None),
        ] {
            assert_eq!(normal(dir, name).as_deref(), is, "{dir} {name}");
        }
    }
}
