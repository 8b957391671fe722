//! What comes before an entry of an archive: its extended headers (pax(1), and GNU's long names). They
//! are read here from the bytes, because the tar crate ends a value at its first newline, which
//! names and attributes may hold.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, copy, sink};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use tar::{EntryType, Header};

use super::layer::is_kept_xattr;
use super::sparse::Sparse;
use crate::error::ResultExt;

/// How much may come before an entry: it is kept in memory.
const MOST: usize = 4 << 20;
const BLOCK: usize = 512;

/// An entry of an archive, its content to be read.
pub(in crate::mydocker) type Entry<'a, 'b, R> = tar::Entry<'a, Recorder<'b, R>>;

/// Reads an archive to its end, what follows its end mark too, and shows its entries one after the
/// other. Returns how many there were.
pub(in crate::mydocker) fn entries<R: Read>(
    archive: R,
    mut show: impl FnMut(&mut Entry<'_, '_, R>, &Headers) -> Result<()>,
) -> Result<u64> {
    let recorded = RefCell::new(Recorded::default());
    let from = Recorder {
        from: archive,
        recorded: &recorded,
    };
    let mut archive = tar::Archive::new(from);
    let mut count = 0;
    recorded.borrow_mut().begin();
    for entry in archive.entries().context("read the archive")? {
        recorded.borrow_mut().end();
        let mut entry = match entry {
            // The crate would quote what it has read, on several lines.
            Err(error) if count == 0 && error.kind() == ErrorKind::Other => {
                return Err(anyhow!("it is not a tar archive"))
                    .hint("tar archives are read plain, and compressed with gzip or zstd");
            }
            entry => entry
                .context("read the archive")
                .hint("the archive is damaged or cut short")?,
        };
        count += 1;
        let headers = recorded.borrow().headers()?;
        let kind = entry.header().entry_type();
        let name = headers.name().escape_ascii().to_string();
        let is_whole = match kind {
            // The size that is known is that with the holes.
            EntryType::GNUSparse | EntryType::XGlobalHeader => Ok(()),
            _ => headers.check_size(entry.size()),
        };
        is_whole
            .and_then(|()| match kind {
                EntryType::XGlobalHeader => Ok(()),
                _ => show(&mut entry, &headers),
            })
            .and_then(|()| copy(&mut entry, &mut sink()).context("read the archive"))
            .with_context(|| format!("archive entry \"{name}\""))?;
        recorded.borrow_mut().begin();
    }
    recorded.borrow_mut().end();
    // What follows belongs to the digest of a layer, and to its sender's pipe.
    copy(&mut archive.into_inner(), &mut sink()).context("read the archive")?;
    Ok(count)
}

/// What a [`Recorder`] has seen.
#[derive(Debug, Default)]
struct Recorded {
    bytes: Vec<u8>,
    on: bool,
    /// Bytes since the beginning, and those at the beginning of the recording.
    position: u64,
    start: u64,
}

/// A reader of which parts are remembered.
pub(in crate::mydocker) struct Recorder<'a, R> {
    from: R,
    recorded: &'a RefCell<Recorded>,
}

impl<R: Read> Read for Recorder<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        let mut recorded = self.recorded.borrow_mut();
        recorded.position += n as u64;
        if recorded.on {
            recorded.bytes.extend_from_slice(&buffer[..n]);
            if recorded.bytes.len() > MOST {
                let why = format!("an extended header of more than {MOST} bytes");
                return Err(std::io::Error::new(ErrorKind::InvalidData, why));
            }
        }
        Ok(n)
    }
}

impl Recorded {
    /// Begins to remember: what is read next is the end of the last entry's last block, and headers.
    fn begin(&mut self) {
        self.bytes.clear();
        (self.on, self.start) = (true, self.position);
    }

    /// Ends it.
    fn end(&mut self) {
        self.on = false;
    }

    /// The headers of the entry that was just begun.
    fn headers(&self) -> Result<Headers> {
        let padding = (BLOCK - (self.start % BLOCK as u64) as usize) % BLOCK;
        let mut rest = self.bytes.get(padding..).unwrap_or_default();
        let mut headers = Headers::default();
        loop {
            let (block, after) = rest.split_at_checked(BLOCK).context("it has no header")?;
            let mut header = Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            let kind = header.entry_type();
            let known = [
                EntryType::XHeader,
                EntryType::GNULongName,
                EntryType::GNULongLink,
            ];
            if !known.contains(&kind) {
                headers.header = header;
                return Ok(headers);
            }
            let size = usize::try_from(header.entry_size()?).unwrap_or(usize::MAX);
            let content = after
                .get(..size)
                .context("its extended header is damaged")?;
            match kind {
                EntryType::XHeader => headers.records = records(content)?,
                EntryType::GNULongName => headers.long_name = Some(until_nul(content)),
                _ => headers.long_link = Some(until_nul(content)),
            }
            rest = after
                .get(size.div_ceil(BLOCK) * BLOCK..)
                .unwrap_or_default();
        }
    }
}

fn until_nul(bytes: &[u8]) -> Vec<u8> {
    let end = bytes.iter().position(|&byte| byte == 0);
    bytes[..end.unwrap_or(bytes.len())].to_vec()
}

/// `LENGTH KEY=VALUE\n`, one after the other (pax(1)).
fn records(mut rest: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut all = Vec::new();
    while !rest.is_empty() {
        let record = || -> Option<(usize, &[u8])> {
            let blank = rest.iter().take(20).position(|&byte| byte == b' ')?;
            let len: usize = std::str::from_utf8(&rest[..blank]).ok()?.parse().ok()?;
            Some((len, rest.get(blank + 1..len)?.strip_suffix(b"\n")?))
        };
        let (len, text) = record().context("its extended header is damaged")?;
        let equals = text.iter().position(|&byte| byte == b'=');
        let equals = equals.context("its extended header is damaged")?;
        all.push((text[..equals].to_vec(), text[equals + 1..].to_vec()));
        rest = &rest[len..];
    }
    Ok(all)
}

/// The headers of one entry.
#[derive(Debug)]
pub(in crate::mydocker) struct Headers {
    /// Its own.
    header: Header,
    /// The keys and values of the extended one.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl Default for Headers {
    fn default() -> Headers {
        Headers {
            header: Header::new_old(),
            records: Vec::new(),
            long_name: None,
            long_link: None,
        }
    }
}

impl Headers {
    /// The last value of a key counts.
    fn value(&self, key: &[u8]) -> Option<&[u8]> {
        let mut all = self.records.iter().rev();
        all.find(|(name, _)| name == key)
            .map(|(_, value)| value.as_slice())
    }

    /// Its name.
    pub(in crate::mydocker) fn name(&self) -> Vec<u8> {
        let long = || self.long_name.clone();
        let sparse = self.value(b"GNU.sparse.name");
        let pax = sparse.or_else(|| self.value(b"path")).map(<[u8]>::to_vec);
        pax.or_else(long)
            .unwrap_or_else(|| self.header.path_bytes().into_owned())
    }

    /// What it is a link to.
    fn link(&self) -> Option<Vec<u8>> {
        let pax = self.value(b"linkpath").map(<[u8]>::to_vec);
        let own = || self.header.link_name_bytes().map(|name| name.into_owned());
        pax.or_else(|| self.long_link.clone()).or_else(own)
    }

    /// What they say about the file.
    pub(in crate::mydocker) fn attributes(&self) -> Result<Attributes> {
        attributes(self)
    }

    /// Fails if `size` is not what they say: the tar crate reads records in its own way.
    fn check_size(&self, size: u64) -> Result<()> {
        let said = self.value(b"size").map(String::from_utf8_lossy);
        let fits = said.is_none_or(|said| said.parse() == Ok(size));
        ensure!(fits, "its extended header is ambiguous");
        Ok(())
    }
}

/// What an entry says about the file besides its type.
pub(in crate::mydocker) struct Attributes {
    pub(in crate::mydocker) mode: Mode,
    pub(in crate::mydocker) uid: Uid,
    pub(in crate::mydocker) gid: Gid,
    pub(in crate::mydocker) mtime: TimeSpec,
    /// What it is a link to.
    pub(in crate::mydocker) link: Option<Vec<u8>>,
    /// How its content is laid out, if there are holes in it.
    pub(super) sparse: Option<Sparse>,
    pub(in crate::mydocker) xattrs: Vec<(OsString, Vec<u8>)>,
}

fn attributes(headers: &Headers) -> Result<Attributes> {
    let header = &headers.header;
    let old = header.as_old();
    let number = |value: u64| u32::try_from(value).context("its owner is out of range");
    let mtime = or_blank(&old.mtime, header.mtime())?;
    let mode = or_blank(&old.mode, header.mode().map(u64::from))?;
    let mut a = Attributes {
        mode: Mode::from_bits_truncate(mode as u32 & 0o7777),
        uid: Uid::from_raw(number(or_blank(&old.uid, header.uid())?)?),
        gid: Gid::from_raw(number(or_blank(&old.gid, header.gid())?)?),
        // GNU tar's numbers to the base of 256 may be negative, which the crate does not know.
        mtime: TimeSpec::new(mtime as i64, 0),
        link: headers.link(),
        sparse: None,
        xattrs: Vec::new(),
    };
    for (key, value) in &headers.records {
        let key = key.as_slice();
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            let name = OsStr::from_bytes(name);
            if is_kept_xattr(name) {
                a.xattrs.push((name.to_owned(), value.to_vec()));
            }
            continue;
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            a.sparse.get_or_insert_default().record(key, value)?;
            continue;
        }
        let text = String::from_utf8_lossy(value);
        match key {
            b"uid" => a.uid = Uid::from_raw(text.parse().context("its owner")?),
            b"gid" => a.gid = Gid::from_raw(text.parse().context("its group")?),
            b"mtime" => a.mtime = pax_time(&text).context("its time is not a number")?,
            _ => {}
        }
    }
    Ok(a)
}

/// A number of a header; some tools leave out what they do not know.
fn or_blank(field: &[u8], number: std::io::Result<u64>) -> Result<u64> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(0),
        false => Ok(number?),
    }
}

/// Sets the time of a GNU header, seconds since the epoch. The crate has none before it.
pub(in crate::mydocker) fn set_mtime(header: &mut Header, seconds: i64) {
    match u64::try_from(seconds) {
        Ok(seconds) => header.set_mtime(seconds),
        Err(_) => {
            let field = &mut header.as_old_mut().mtime;
            field.fill(0xff);
            field[4..].copy_from_slice(&seconds.to_be_bytes());
        }
    }
}

/// `-1.25` is a second and a quarter before the epoch; the kernel wants the part below the second
/// counted upwards.
fn pax_time(text: &str) -> Option<TimeSpec> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    Some(match (text.starts_with('-'), nanos) {
        (true, 1..) => TimeSpec::new(seconds - 1, 1_000_000_000 - nanos),
        _ => TimeSpec::new(seconds, nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_newlines() {
        let all = records(b"8 a=b\nc\n13 path=x\n=y\n").unwrap();
        let pair = |key: &[u8], value: &[u8]| (key.to_vec(), value.to_vec());
        assert_eq!(all, [pair(b"a", b"b\nc"), pair(b"path", b"x\n=y")]);
        for bad in [
            &b"9 a=b\nc\n"[..],
            b"x a=b\n",
            b"6 abc\n",
            b"99999999999999999999 a=b\n",
        ] {
            assert!(records(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn times_before_the_epoch_are_read() {
        let mut bytes = Vec::new();
        let times = [-157_766_400, -1, 0, 5, 1 << 33];
        for seconds in times {
            let mut header = Header::new_gnu();
            header.set_size(0);
            set_mtime(&mut header, seconds);
            header.set_cksum();
            bytes.extend(header.as_bytes());
        }
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        let mut read = Vec::new();
        let show = |_: &mut Entry<'_, '_, _>, headers: &Headers| {
            read.push(headers.attributes()?.mtime.tv_sec());
            Ok(())
        };
        entries(&bytes[..], show).unwrap();
        assert_eq!(read, times);
    }
}
