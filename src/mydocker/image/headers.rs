//! What comes before an entry of an archive: its extended headers (pax(1), and GNU's long names). They
//! are read here from the bytes, because the tar crate ends a value at its first newline, which
//! names and attributes may hold.

use std::cell::RefCell;
use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, ensure};
use tar::{EntryType, Header};

/// How much may come before an entry: it is kept in memory.
const MOST: usize = 4 << 20;
const BLOCK: usize = 512;

/// What a [`Recorder`] has seen.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    bytes: Vec<u8>,
    on: bool,
    /// Bytes since the beginning, and those at the beginning of the recording.
    position: u64,
    start: u64,
}

/// A reader of which parts are remembered.
pub(super) struct Recorder<'a, R> {
    pub(super) from: R,
    pub(super) recorded: &'a RefCell<Recorded>,
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
    pub(super) fn begin(&mut self) {
        self.bytes.clear();
        (self.on, self.start) = (true, self.position);
    }

    /// Ends it.
    pub(super) fn end(&mut self) {
        self.on = false;
    }

    /// The headers of the entry that was just begun.
    pub(super) fn headers(&self) -> Result<Headers> {
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
pub(super) struct Headers {
    /// Its own.
    pub(super) header: Header,
    /// The keys and values of the extended one.
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
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
    pub(super) fn name(&self) -> Vec<u8> {
        let long = || self.long_name.clone();
        let sparse = self.value(b"GNU.sparse.name");
        let pax = sparse.or_else(|| self.value(b"path")).map(<[u8]>::to_vec);
        pax.or_else(long)
            .unwrap_or_else(|| self.header.path_bytes().into_owned())
    }

    /// What it is a link to.
    pub(super) fn link(&self) -> Option<Vec<u8>> {
        let pax = self.value(b"linkpath").map(<[u8]>::to_vec);
        let own = || self.header.link_name_bytes().map(|name| name.into_owned());
        pax.or_else(|| self.long_link.clone()).or_else(own)
    }

    /// Fails if `size` is not what they say: the tar crate reads records in its own way.
    pub(super) fn check_size(&self, size: u64) -> Result<()> {
        let said = self.value(b"size").map(String::from_utf8_lossy);
        let fits = said.is_none_or(|said| said.parse() == Ok(size));
        ensure!(fits, "its extended header is ambiguous");
        Ok(())
    }
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
}
