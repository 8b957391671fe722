//! Readers that distrust what they read: sizes that lie, streams that break off, compression bombs.

use std::io::{Error, ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::anyhow;

use super::super::progress::Bar;
use crate::error::with_hint;

/// How much an archive may grow when its compression is undone.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes that any archive may have.
    pub(super) allowance: u64,
    /// So many more for each byte of the compressed archive.
    pub(super) ratio: u64,
}

impl Limits {
    /// Real layers are compressed to a half or a tenth; deflate cannot do better than 1:1032, zstd
    /// knows no bounds. Zeros do not cost disk space (they become holes), but time.
    pub(super) const DEFAULT: Limits = Limits {
        allowance: 2 << 30,
        ratio: 200,
    };

    /// So many bytes and no more, or the default.
    pub fn of(most: Option<u64>) -> Limits {
        let exactly = |allowance| Limits {
            allowance,
            ratio: 0,
        };
        most.map_or(Limits::DEFAULT, exactly)
    }
}

/// The first failure below a stack of readers. Those in between would tell less of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cause(Arc<Mutex<Option<anyhow::Error>>>);

impl Cause {
    /// Remembers why; the error to return stands for it.
    fn fail(&self, why: anyhow::Error) -> Error {
        if let Ok(mut first) = self.0.lock() {
            first.get_or_insert(why);
        }
        Error::other("the stream broke off")
    }

    /// The remembered failure, or else `error`.
    pub(super) fn or(&self, error: anyhow::Error) -> anyhow::Error {
        let first = self.0.lock().ok().and_then(|mut first| first.take());
        first.unwrap_or(error)
    }
}

/// A stream of an announced size; any number of bytes if none was announced.
pub(super) struct Announced<'a, R> {
    from: R,
    size: Option<u64>,
    seen: Arc<AtomicU64>,
    bar: &'a Bar,
    cause: Cause,
}

impl<'a, R: Read> Announced<'a, R> {
    pub(super) fn new(from: R, size: Option<u64>, bar: &'a Bar, cause: &Cause) -> Self {
        Announced {
            from,
            size,
            seen: Arc::default(),
            bar,
            cause: cause.clone(),
        }
    }

    /// How much has been read, also while it is being read.
    pub(super) fn seen(&self) -> Arc<AtomicU64> {
        self.seen.clone()
    }
}

impl<R: Read> Read for Announced<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = match self.from.read(buffer) {
            Err(error) if error.kind() != ErrorKind::Interrupted => {
                return Err(self.cause.fail(error.into()));
            }
            read => read?,
        };
        let seen = self.seen.fetch_add(n as u64, Ordering::Relaxed) + n as u64;
        self.bar.add(n as u64);
        match self.size {
            Some(size) if seen > size => Err(self.cause.fail(anyhow!(
                "it is longer than the {size} bytes that were announced"
            ))),
            Some(size) if n == 0 && !buffer.is_empty() && seen < size => Err(self
                .cause
                .fail(anyhow!("it is cut short: {seen} bytes of {size}"))),
            _ => Ok(n),
        }
    }
}

/// A decompressed stream that may not be much larger than what it is made from.
pub(super) struct Bounded<R> {
    from: R,
    compressed: Arc<AtomicU64>,
    size: u64,
    limits: Limits,
    cause: Cause,
}

impl<R: Read> Bounded<R> {
    pub(super) fn new(from: R, compressed: Arc<AtomicU64>, limits: Limits, cause: &Cause) -> Self {
        Bounded {
            from,
            compressed,
            size: 0,
            limits,
            cause: cause.clone(),
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.size += n as u64;
        let compressed = self.compressed.load(Ordering::Relaxed);
        let most = compressed
            .saturating_mul(self.limits.ratio)
            .saturating_add(self.limits.allowance);
        // What is not compressed is as large as it is.
        if self.size > most.max(compressed) {
            let error =
                anyhow!("{compressed} bytes unpack to more than {most}: a decompression bomb");
            let hint = "`pull` and `load` take it with --max-unpacked BYTES; gzip -dc, zstd -dc \
                        unpack it for others";
            return Err(self.cause.fail(with_hint(error, hint)));
        }
        Ok(n)
    }
}
