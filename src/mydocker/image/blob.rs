//! Blobs on their way: hashed and stored by a thread while the caller reads on.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use sha2::{Digest, Sha256};

use super::draft::hex;

/// What is written to it is hashed by a thread, and stored if there is a file for it.
pub(super) struct Digester {
    pending: Vec<u8>,
    to: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<Result<Digested>>>,
}

/// What a [`Digester`] has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Digested {
    /// sha256, in hexadecimal.
    pub(super) hex: String,
    /// Bytes.
    pub(super) size: u64,
}

/// A blob in a draft.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    /// sha256, in hexadecimal.
    pub(super) hex: String,
    pub(super) size: u64,
}

const CHUNK: usize = 512 << 10;

impl Digester {
    /// One that only hashes.
    pub(super) fn hashing() -> Digester {
        Digester::start(None)
    }

    /// One that also stores, as a new file.
    pub(super) fn storing(path: &Path) -> Result<Digester> {
        let file = File::create_new(path).with_context(|| format!("make {}", path.display()))?;
        Ok(Digester::start(Some(file)))
    }

    fn start(mut file: Option<File>) -> Digester {
        let (to, from) = sync_channel::<Vec<u8>>(4);
        let thread = std::thread::spawn(move || {
            let mut hash = Sha256::new();
            let mut size = 0;
            for chunk in from {
                hash.update(&chunk);
                if let Some(file) = &mut file {
                    for block in chunk.chunks(64 << 10) {
                        write_sparse(file, block).context("write the layer")?;
                    }
                }
                size += chunk.len() as u64;
            }
            if let Some(file) = file {
                file.set_len(size).context("write the layer")?;
            }
            let hex = hex(&hash.finalize());
            Ok(Digested { hex, size })
        });
        Digester {
            pending: Vec::with_capacity(CHUNK),
            to: Some(to),
            thread: Some(thread),
        }
    }

    /// Waits for all to be hashed and stored.
    pub(super) fn finish(mut self) -> Result<Digested> {
        // A failure to send is the thread's failure, which join tells better.
        let _ = self.flush();
        self.to = None;
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(digested)) => digested,
            _ => Err(anyhow!("the thread that stores the layer failed")),
        }
    }
}

impl Digested {
    /// What was stored at `path`.
    pub(super) fn at(self, path: PathBuf) -> Blob {
        Blob {
            path,
            hex: self.hex,
            size: self.size,
        }
    }
}

impl Blob {
    /// `sha256:<hex>`
    pub(super) fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let chunk = std::mem::replace(&mut self.pending, Vec::with_capacity(CHUNK));
        match &self.to {
            Some(to) if !chunk.is_empty() => to
                .send(chunk)
                .map_err(|_| std::io::Error::other("the layer could not be stored")),
            _ => Ok(()),
        }
    }
}

/// A reader whose bytes are hashed, and perhaps stored, on the way.
pub(super) struct Tee<R> {
    pub(super) from: R,
    pub(super) to: Digester,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.to.write_all(&buffer[..n])?;
        Ok(n)
    }
}

/// Writes the block at the file's position, or only moves on when it is all zeros: the caller ends
/// with `set_len`.
pub(super) fn write_sparse(file: &mut File, block: &[u8]) -> std::io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    if block.len() >= 4096 && ZEROS.get(..block.len()) == Some(block) {
        file.seek(SeekFrom::Current(block.len() as i64))?;
        return Ok(());
    }
    file.write_all(block)
}
