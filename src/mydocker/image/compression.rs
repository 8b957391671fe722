//! Archives and layers without their compression.

use std::io::{BufRead, BufReader, Cursor, Read};

use anyhow::{Context, Result, anyhow};
use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

use super::super::progress::{Bar, Progress};
use super::incoming::{Announced, Bounded, Cause, Limits};
use crate::error::ResultExt;

const BUFFER: usize = 256 << 10;

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// What every tool reads.
    Gzip,
    /// Smaller and quicker; Docker reads it since 23.0.
    Zstd,
}

/// Whether something that begins so is compressed.
pub(in crate::mydocker) fn is_compressed(start: &[u8]) -> bool {
    matches!(
        start,
        [0x1f, 0x8b, ..]
            | [0x28, 0xb5, 0x2f, 0xfd, ..]
            | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]
            | [0xfd, b'7', b'z', b'X', b'Z', ..]
            | [b'B', b'Z', b'h', ..]
    )
}

/// Has the stream read without its compression, as far as that is no bomb.
pub(in crate::mydocker) fn bounded<T>(
    from: impl Read,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let bar = Progress::silent().bar("", "", None);
    within(Limits::DEFAULT, &bar, from, read)
}

/// The same within other limits. `bar` is told of each byte that is read.
pub(super) fn within<T>(
    limits: Limits,
    bar: &Bar,
    from: impl Read,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let cause = Cause::default();
    let from = Announced::new(from, None, bar, &cause);
    let compressed = from.seen();
    let plain = decompressed(from).map_err(|error| cause.or(error))?;
    let mut plain = Bounded::new(plain, compressed, limits, &cause);
    read(&mut plain).map_err(|error| cause.or(error))
}

/// The stream without its compression, which is known by its first bytes, whatever somebody says.
pub(in crate::mydocker) fn decompressed<'a>(from: impl Read + 'a) -> Result<Box<dyn BufRead + 'a>> {
    opened(from).map(|(plain, _)| plain)
}

/// The same, and which it was.
pub(super) fn opened<'a>(
    mut from: impl Read + 'a,
) -> Result<(Box<dyn BufRead + 'a>, Option<Compression>)> {
    let mut start = [0u8; 6];
    let mut len = 0;
    while len < start.len() {
        match from.read(&mut start[len..]).context("read the archive")? {
            0 => break,
            n => len += n,
        }
    }
    let whole = Cursor::new(start).take(len as u64).chain(from);
    let whole = BufReader::with_capacity(BUFFER, whole);
    let other = match &start[..len] {
        [0x1f, 0x8b, ..] => {
            let plain = MultiGzDecoder::new(whole);
            let plain = BufReader::with_capacity(BUFFER, plain);
            return Ok((Box::new(plain), Some(Compression::Gzip)));
        }
        // A frame, or one to be skipped before it (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let plain = Decoder::with_buffer(whole).context("read the archive")?;
            let plain = BufReader::with_capacity(BUFFER, plain);
            return Ok((Box::new(plain), Some(Compression::Zstd)));
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => "xz",
        [b'B', b'Z', b'h', ..] => "bzip2",
        _ => return Ok((Box::new(whole), None)),
    };
    Err(anyhow!(
        "the archive is {other}-compressed, which is not supported"
    ))
    .hint(format!(
        "{other} -dc FILE | mydocker … reads it from standard input"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = zstd::encode_all(&vec![0; 1 << 20][..], 0).unwrap();
        let read = |limits| {
            let bar = Progress::silent().bar("", "", None);
            within(limits, &bar, &bomb[..], |from| {
                Ok(std::io::copy(from, &mut std::io::sink())?)
            })
        };
        assert_eq!(read(Limits::DEFAULT).unwrap(), 1 << 20);
        let error = read(Limits::of(Some(1000))).unwrap_err();
        assert!(error.to_string().contains("a decompression bomb"));
    }
}
