//! Blobs on their way: hashed and stored by threads while the caller reads on.
//!
//! ```text
//! caller ─write─▶ Digester ─chunks─┬─▶ a thread that hashes
//!                                  └─▶ a thread that stores ─▶ file ─▶ Follower: another reads it already
//! ```

use std::fs::File;
use std::io::{Error, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use super::super::sha256::Sha256;
use crate::sys::fds::begin_writing_out;

/// What is written to it is hashed, and stored if there is a file for it.
pub(super) struct Digester {
    pending: Vec<u8>,
    hash: Worker<Digested>,
    store: Option<Worker<()>>,
    /// Chunks that were sent; those that the threads are done with are used again.
    sent: Vec<Chunk>,
    progress: Option<Arc<Progress>>,
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

type Chunk = Arc<Vec<u8>>;

const CHUNK: usize = 512 << 10;
/// How many chunks may wait for a thread.
const WAITING: usize = 16;
/// So many bytes are given to the disk at a time, long before somebody waits for it.
const TO_DISK: u64 = 8 << 20;

impl Digester {
    /// One that only hashes.
    pub(super) fn hashing() -> Digester {
        Digester {
            pending: Vec::with_capacity(CHUNK),
            hash: Worker::start(hash),
            store: None,
            sent: Vec::new(),
            progress: None,
        }
    }

    /// One that also stores, as a new file.
    pub(super) fn storing(path: &Path) -> Result<Digester> {
        let make = || format!("make {}", path.display());
        let mut options = File::options();
        let file = options.read(true).write(true).create_new(true).open(path);
        let file = file.with_context(make)?;
        let progress = Arc::new(Progress::new(file.try_clone().with_context(make)?));
        let told = progress.clone();
        Ok(Digester {
            store: Some(Worker::start(move |chunks| {
                let stored = store(file, &chunks, &told);
                told.tell(|state| state.ended = Some(stored.is_ok()));
                stored
            })),
            progress: Some(progress),
            ..Digester::hashing()
        })
    }

    /// A reader of what is being stored.
    pub(super) fn follow(&self) -> Result<Follower> {
        let progress = self.progress.clone().context("nothing is stored")?;
        Ok(Follower { progress, at: 0 })
    }

    /// Waits for all to be hashed and stored.
    pub(super) fn finish(mut self) -> Result<Digested> {
        // A failure to send is the thread's failure, which it tells better.
        let _ = self.flush();
        let stored = self.store.map_or(Ok(()), Worker::finish);
        let digested = self.hash.finish();
        stored.and(digested)
    }

    /// An empty buffer, if possible one that was used before.
    fn buffer(&mut self) -> Vec<u8> {
        let free = self.sent.iter().position(|it| Arc::strong_count(it) == 1);
        let used = free.map(|at| Arc::try_unwrap(self.sent.swap_remove(at)));
        match used {
            Some(Ok(mut buffer)) => {
                buffer.clear();
                buffer
            }
            _ => Vec::with_capacity(CHUNK),
        }
    }
}

impl Write for Digester {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = bytes.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&bytes[..len]);
        if self.pending.len() == CHUNK {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let next = self.buffer();
        let chunk = Arc::new(std::mem::replace(&mut self.pending, next));
        self.sent.push(chunk.clone());
        if let Some(store) = &self.store {
            store.send(chunk.clone())?;
        }
        self.hash.send(chunk)
    }
}

/// A thread that is given all chunks.
struct Worker<T> {
    to: SyncSender<Chunk>,
    thread: JoinHandle<Result<T>>,
}

impl<T: Send + 'static> Worker<T> {
    fn start(work: impl FnOnce(Receiver<Chunk>) -> Result<T> + Send + 'static) -> Worker<T> {
        let (to, from) = sync_channel(WAITING);
        let thread = std::thread::spawn(move || work(from));
        Worker { to, thread }
    }

    fn send(&self, chunk: Chunk) -> std::io::Result<()> {
        let sent = self.to.send(chunk);
        sent.map_err(|_| Error::other("the layer could not be stored"))
    }

    fn finish(self) -> Result<T> {
        drop(self.to);
        let result = self.thread.join();
        result.unwrap_or_else(|_| Err(anyhow!("the thread that stores the layer failed")))
    }
}

fn hash(chunks: Receiver<Chunk>) -> Result<Digested> {
    let mut hash = Sha256::new();
    let mut size = 0;
    for chunk in chunks {
        hash.update(&chunk);
        size += chunk.len() as u64;
    }
    Ok(Digested {
        hex: hash.finish(),
        size,
    })
}

fn store(mut file: File, chunks: &Receiver<Chunk>, progress: &Progress) -> Result<()> {
    let (mut size, mut on_its_way) = (0, 0);
    for chunk in chunks {
        let hole = write_sparse(&mut file, &chunk).context("write the layer")?;
        size += chunk.len() as u64;
        // A file that ends with a hole is not as long yet as it will be.
        if !hole {
            progress.tell(|state| state.stored = size);
        }
        if size - on_its_way >= TO_DISK {
            // Only for speed.
            let _ = begin_writing_out(file.as_fd(), on_its_way as i64, TO_DISK as i64);
            on_its_way += TO_DISK;
        }
    }
    file.set_len(size).context("write the layer")?;
    let _ = begin_writing_out(file.as_fd(), on_its_way as i64, 0);
    progress.tell(|state| state.stored = size);
    Ok(())
}

/// How far a file has got that is being stored.
struct Progress {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Bytes that can be read.
    stored: u64,
    /// No more will come; whether all did.
    ended: Option<bool>,
}

impl Progress {
    fn new(file: File) -> Progress {
        Progress {
            file,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        if let Ok(mut state) = self.state.lock() {
            change(&mut state);
        }
        self.changed.notify_all();
    }
}

/// Reads a file from its beginning while it is being stored.
pub(super) struct Follower {
    progress: Arc<Progress>,
    at: u64,
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let failed = || Error::other("the layer could not be stored");
        let at = self.at;
        let state = self.progress.state.lock().map_err(|_| failed())?;
        let waits = |state: &mut State| state.stored <= at && state.ended.is_none();
        let state = self.progress.changed.wait_while(state, waits);
        let state = state.map_err(|_| failed())?;
        let (stored, ended) = (state.stored, state.ended);
        drop(state);
        if stored == at {
            return if ended == Some(true) {
                Ok(0)
            } else {
                Err(failed())
            };
        }
        let len = usize::try_from(stored - at).unwrap_or(usize::MAX);
        let len = len.min(buffer.len());
        let n = self.progress.file.read_at(&mut buffer[..len], at)?;
        self.at += n as u64;
        Ok(n)
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

    /// What a [`Digester`] would say of it.
    pub(super) fn digested(&self) -> Digested {
        Digested {
            hex: self.hex.clone(),
            size: self.size,
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

/// What is looked for zeros at a time.
const BLOCK: usize = 64 << 10;

/// Writes the bytes at the file's position, or only moves on where a block is all zeros: the caller
/// ends with `set_len`. Returns whether it ended so.
pub(super) fn write_sparse(file: &mut File, bytes: &[u8]) -> std::io::Result<bool> {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    let is_hole = |block: &[u8]| block.len() >= 4096 && ZEROS[..block.len()] == *block;
    let mut hole = false;
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut blocks = rest.chunks(BLOCK);
        hole = blocks.clone().next().is_some_and(is_hole);
        let alike: usize = blocks
            .by_ref()
            .take_while(|block| is_hole(block) == hole)
            .map(<[u8]>::len)
            .sum();
        let (now, later) = rest.split_at(alike);
        match hole {
            true => drop(file.seek(SeekFrom::Current(now.len() as i64))?),
            false => file.write_all(now)?,
        }
        rest = later;
    }
    Ok(hole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_reads_what_is_stored_to_the_end_and_holes() {
        let path = std::env::temp_dir().join(format!("blob-{}", std::process::id()));
        let mut content: Vec<u8> = (0..3 << 20).map(|at: u32| (at / 7) as u8).collect();
        content[1 << 20..2 << 20].fill(0);
        content.resize(4 << 20, 0);
        let mut to = Digester::storing(&path).unwrap();
        let mut follower = to.follow().unwrap();
        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            follower.read_to_end(&mut read).map(|_| read)
        });
        to.write_all(&content).unwrap();
        let digested = to.finish().unwrap();
        assert_eq!(digested.hex, Sha256::of(&content));
        assert_eq!(digested.size, content.len() as u64);
        assert!(reader.join().unwrap().unwrap() == content);
        assert!(std::fs::read(&path).unwrap() == content);
        std::fs::remove_file(path).unwrap();
    }
}
