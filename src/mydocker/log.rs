//! What a container printed, in the log format of Kubernetes' CRI: `TIME STREAM TAG TEXT`, where the
//! tag is `F` for the end of a line and `P` for a part of one. So any bytes are kept as they are,
//! and a line of any length needs no memory.
//!
//! Files are numbered (`00000001.log`); a new one is begun when the bound is reached, and the oldest
//! are removed. A file with a successor does not change any more, so that a follower knows when it
//! has read all of it.

use super::monitor_lock::range;
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How much of a log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Bytes of a file.
    pub max_size: u64,
    /// Files, at least one.
    pub max_file: u64,
    /// `--log-driver none`: nothing is kept.
    #[serde(default)]
    pub none: bool,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            max_size: 10 << 20,
            max_file: 3,
            none: false,
        }
    }
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything that a terminal shows.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    /// What the caller knows it by.
    pub(super) fn of_the_caller(self) -> &'static str {
        match self {
            Stream::Out => "standard output",
            Stream::Err => "standard error",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// The number of the first file.
pub(super) const FIRST: u64 = 1;

/// How much is collected before it is written.
const FULL: usize = 32 * 1024;

/// How many bytes beyond its bounds a log keeps for a follower that has not read them yet. One that
/// is slower still, or stopped, loses some: a disk must not fill up because somebody looks.
const LENT: u64 = 64 << 20;

/// The writing side.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    bounds: Bounds,
    number: u64,
    size: u64,
    file: Option<File>,
    buffer: Vec<u8>,
    torn: bool,
}

impl Log {
    /// Goes on with the newest file, or begins the first with what is written first: many programs
    /// print nothing.
    pub fn new(dir: &Path, bounds: Bounds) -> Log {
        Log {
            dir: dir.to_owned(),
            bounds,
            number: 0,
            size: 0,
            file: None,
            buffer: Vec::new(),
            torn: false,
        }
    }

    /// Appends what was read from a stream. A failure (a full disk) loses this text only.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<()> {
        if self.bounds.none || bytes.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.go_on()?;
        }
        let now = OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, tag) = match line.split_last() {
                Some((b'\n', text)) => (text, 'F'),
                _ => (line, 'P'),
            };
            let start = self.buffer.len();
            // Writing to memory does not fail.
            let _ = write!(self.buffer, "{now} {} {tag} ", stream.name());
            self.buffer.extend_from_slice(text);
            self.buffer.push(b'\n');
            let next = self.buffer.len() - start;
            if self.size + self.buffer.len() as u64 > self.bounds.max_size
                && self.size + start as u64 > 0
            {
                let rest = self.buffer.split_off(start);
                self.flush()?;
                self.rotate()?;
                self.buffer = rest;
                debug_assert_eq!(self.buffer.len(), next);
            }
            // Many short lines grow: a monitor keeps its memory for as long as it lives.
            if self.buffer.len() >= FULL {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        if let Some(file) = &mut self.file {
            if self.torn {
                file.write_all(b"\n").context("write the log")?;
                self.size += 1;
                self.torn = false;
            }
            let written = file.write_all(&self.buffer);
            self.size += self.buffer.len() as u64;
            self.torn = written.is_err();
            self.buffer.clear();
            written.context("write the log")?;
        }
        self.buffer.clear();
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        self.number += 1;
        self.begin()?;
        self.size = 0;
        self.torn = false;
        let keep = self.bounds.max_file.max(1);
        let lent = LENT / self.bounds.max_size.max(1);
        for old in numbers(&self.dir) {
            let path = path(&self.dir, old);
            if old + keep > self.number {
                break;
            }
            if old + keep + lent > self.number && is_held(&path) {
                break;
            }
            // It may be gone already; a log that is too long does no harm.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn go_on(&mut self) -> Result<()> {
        self.number = numbers(&self.dir).last().copied().unwrap_or(FIRST);
        let file = self.begin()?;
        self.size = file.metadata().map_or(0, |file| file.len());
        // A monitor that was killed may have left half a line.
        self.torn = self.size > 0;
        Ok(())
    }

    fn begin(&mut self) -> Result<&File> {
        let path = path(&self.dir, self.number);
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open the log {}", path.display()))?;
        Ok(self.file.insert(file))
    }
}

/// Keeps a file of the log, and those after it, from being removed, for as long as it is open: as a
/// follower does with the one that it reads.
pub fn hold(file: &File) -> Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, 0)))
        .map(drop)
        .context("hold the log")
}

fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else {
        return false;
    };
    let mut lock = range(libc::F_WRLCK, 0);
    let asked = fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

/// The file with this number.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.log"))
}

/// The numbers of the files that are there, ascending.
pub fn numbers(dir: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut numbers: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// One line of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// As written, RFC 3339 in UTC.
    pub time: &'a str,
    /// Where it came from.
    pub stream: Stream,
    /// Whether a line of the container's output ends here.
    pub ends_line: bool,
    /// The text without that line's end.
    pub text: &'a [u8],
}

/// Reads a line of a log file, without its `\n`. `None`: it was torn by a crash or a full disk.
pub fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Out,
        b"stderr" => Stream::Err,
        _ => return None,
    };
    let ends_line = match parts.next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Entry {
        time,
        stream,
        ends_line,
        text: parts.next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        let id = super::super::state_dirs::new_id().unwrap();
        let dir = std::env::temp_dir().join(format!("acts-log-{}", &id[..12]));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    fn read(dir: &Path) -> Vec<u8> {
        let mut out = Vec::new();
        for number in numbers(dir) {
            let bytes = std::fs::read(path(dir, number)).unwrap();
            for line in bytes.split(|byte| *byte == b'\n') {
                if let Some(entry) = parse(line) {
                    out.extend_from_slice(entry.text);
                    if entry.ends_line {
                        out.push(b'\n');
                    }
                }
            }
        }
        out
    }

    #[test]
    fn every_byte_comes_back() {
        let dir = scratch();
        let mut log = Log::new(&dir, Bounds::default());
        let long = vec![b'x'; 300_000];
        let parts: [&[u8]; 5] = [b"a\n\nb", b" c\n", &[0, 255, 13, 10, 7], &long, b"no end"];
        for part in parts {
            log.write(Stream::Out, part).unwrap();
        }
        assert_eq!(read(&dir), parts.concat());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn files_are_bounded_and_the_newest_stay() {
        let dir = scratch();
        let bounds = Bounds {
            max_size: 1000,
            max_file: 3,
            none: false,
        };
        let mut log = Log::new(&dir, bounds);
        let mut all = Vec::new();
        for i in 0..200 {
            let line = format!("line {i}\nsecond {i}\n");
            log.write(Stream::Err, line.as_bytes()).unwrap();
            all.extend_from_slice(line.as_bytes());
        }
        assert_eq!(numbers(&dir).len(), 3);
        for number in numbers(&dir) {
            assert!(std::fs::metadata(path(&dir, number)).unwrap().len() <= 1000);
        }
        assert!(all.ends_with(&read(&dir)));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn many_short_lines_need_no_more_memory() {
        let dir = scratch();
        let mut log = Log::new(&dir, Bounds::default());
        let lines = vec![b'\n'; 100_000];
        log.write(Stream::Out, &lines).unwrap();
        assert!(
            log.buffer.capacity() <= 3 * FULL,
            "{}",
            log.buffer.capacity()
        );
        assert_eq!(read(&dir), lines);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn half_a_line_left_by_a_crash_spoils_nothing_after_it() {
        let dir = scratch();
        std::fs::write(path(&dir, 4), "2026-01-01T00:00:00Z stdo").unwrap();
        let mut log = Log::new(&dir, Bounds::default());
        log.write(Stream::Out, b"next\n").unwrap();
        assert_eq!(read(&dir), b"next\n");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
