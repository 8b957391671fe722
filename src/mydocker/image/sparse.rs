//! Sparse files as GNU tar writes them in the PAX format: a map of where the data goes, in the
//! extended header (0.0, 0.1) or before the data (1.0). The old GNU format is the tar crate's.
//! (GNU tar manual, "Storing Sparse Files"; Go's archive/tar reads the same.)

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, copy};

use anyhow::{Context, Result, bail, ensure};

/// The largest file that an archive may announce by its holes alone. A `/var/log/lastlog` for users
/// with high numbers has some 100 GB of them.
pub(super) const LARGEST: u64 = 1 << 40;

/// Regions of data in a file; no more than this.
const MAX_REGIONS: usize = 1 << 20;

/// What the extended header says of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    size: u64,
    /// Offsets and lengths, in turn; nothing where they come before the data.
    map: Vec<u64>,
    major: u64,
}

impl Sparse {
    /// Takes in one record `GNU.sparse.<key>`.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(value);
        let number = || -> Result<u64> {
            let number = text.parse();
            number.with_context(|| format!("{text:?} in the map of a sparse file"))
        };
        match key {
            b"major" => self.major = number()?,
            b"size" | b"realsize" => self.size = number()?,
            b"offset" | b"numbytes" => self.map.push(number()?),
            b"map" => {
                let numbers = text.split(',').filter(|part| !part.is_empty());
                let map: std::result::Result<_, _> = numbers.map(str::parse).collect();
                self.map = map.context("the map of a sparse file")?;
            }
            _ => {}
        }
        ensure!(
            self.map.len() <= 2 * MAX_REGIONS,
            "the map of a sparse file is too long"
        );
        Ok(())
    }

    /// Writes the file; `from` is what the archive has of it.
    pub(super) fn extract(&self, from: &mut impl Read, to: &mut File) -> Result<()> {
        let before;
        let map = match self.major {
            0 => &self.map,
            1 => {
                before = map_before_data(from)?;
                &before
            }
            other => bail!("sparse files of version {other} are not supported"),
        };
        ensure!(
            self.size <= LARGEST,
            "a sparse file of {} bytes is too large",
            self.size
        );
        let mut end = 0;
        for region in map.chunks(2) {
            let &[offset, len] = region else {
                bail!("the map of a sparse file is cut short");
            };
            let next = offset.checked_add(len).filter(|&next| next <= self.size);
            let next = next.filter(|_| offset >= end);
            end = next.context("the map of a sparse file is wrong")?;
            to.seek(SeekFrom::Start(offset))?;
            let copied = copy(&mut from.by_ref().take(len), to).context("read the archive")?;
            ensure!(copied == len, "the archive is cut short");
        }
        Ok(to.set_len(self.size)?)
    }
}

/// The number of regions, then offsets and lengths: decimal, a line each, padded to whole blocks.
fn map_before_data(from: &mut impl Read) -> Result<Vec<u64>> {
    let mut lines = Lines {
        from,
        block: [0; 512],
        at: 512,
    };
    let count = usize::try_from(lines.number()?).unwrap_or(usize::MAX);
    ensure!(count <= MAX_REGIONS, "the map of a sparse file is too long");
    (0..2 * count).map(|_| lines.number()).collect()
}

struct Lines<'a, R> {
    from: &'a mut R,
    block: [u8; 512],
    at: usize,
}

impl<R: Read> Lines<'_, R> {
    fn number(&mut self) -> Result<u64> {
        let mut number: u64 = 0;
        loop {
            if self.at == self.block.len() {
                self.from
                    .read_exact(&mut self.block)
                    .context("read the map of a sparse file")?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            let digit = match byte {
                b'\n' => return Ok(number),
                b'0'..=b'9' => u64::from(byte - b'0'),
                _ => bail!("the map of a sparse file is no list of numbers"),
            };
            let next = number.checked_mul(10).and_then(|n| n.checked_add(digit));
            number = next.context("a number in the map of a sparse file is too large")?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("sparse-{name}-{}", std::process::id()))
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let mut by_records = Sparse::default();
        let mut by_list = Sparse::default();
        let mut before = Sparse::default();
        for (key, value) in [("size", "10000"), ("offset", "0"), ("numbytes", "2")] {
            by_records.record(key.as_bytes(), value.as_bytes()).unwrap();
        }
        for (key, value) in [("offset", "9000"), ("numbytes", "3")] {
            by_records.record(key.as_bytes(), value.as_bytes()).unwrap();
        }
        by_list.record(b"size", b"10000").unwrap();
        by_list.record(b"map", b"0,2,9000,3").unwrap();
        before.record(b"major", b"1").unwrap();
        before.record(b"realsize", b"10000").unwrap();
        let mut with_map = b"2\n0\n2\n9000\n3\n".to_vec();
        with_map.resize(512, 0);
        with_map.extend(b"abcde");
        for (number, (sparse, data)) in [
            (by_records, b"abcde".to_vec()),
            (by_list, b"abcde".to_vec()),
            (before, with_map),
        ]
        .into_iter()
        .enumerate()
        {
            let path = scratch(&number.to_string());
            let mut file = File::create(&path).unwrap();
            sparse.extract(&mut data.as_slice(), &mut file).unwrap();
            file.flush().unwrap();
            let back = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            assert_eq!((back.len(), &back[..2]), (10_000, &b"ab"[..]));
            assert_eq!(&back[9000..9003], b"cde");
            assert!(back[2..9000].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn maps_that_lie_are_refused() {
        let path = scratch("lies");
        for (size, map) in [
            ("10", "0,11"),
            ("10", "5,2,4,1"),
            ("10", "0"),
            ("10", "18446744073709551615,2"),
            ("2000000000000", "0,1"),
        ] {
            let mut sparse = Sparse::default();
            sparse.record(b"size", size.as_bytes()).unwrap();
            sparse.record(b"map", map.as_bytes()).unwrap();
            let mut file = File::create(&path).unwrap();
            let data = [7u8; 64];
            assert!(
                sparse.extract(&mut data.as_slice(), &mut file).is_err(),
                "{size} {map}"
            );
        }
        std::fs::remove_file(&path).unwrap();
        let mut sparse = Sparse::default();
        assert!(sparse.record(b"map", b"1,x").is_err());
    }
}
