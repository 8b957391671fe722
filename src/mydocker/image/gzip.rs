//! gzip on all CPUs (RFC 1952): each MiB of the file is a member of its own, made by one of the threads.
//! Every reader of gzip takes several members for one stream. The result depends on the content only,
//! not on the number of CPUs.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow};
use libdeflater::{CompressionLvl, Compressor};

use super::super::progress::Bar;

const BLOCK: u64 = 1 << 20;

/// In a third of the time of zlib's level 6, and some 5% larger; level 4 would take half of the time.
const LEVEL: i32 = 1;

/// A block, compressed, and what it was.
struct Member {
    bytes: Vec<u8>,
    plain: u64,
}

/// Compresses the first `size` bytes of `from`.
pub(super) fn gzip(from: &File, size: u64, to: &mut impl Write, bar: &Bar) -> Result<()> {
    let blocks = size.div_ceil(BLOCK).max(1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(blocks))
            .map(|first| {
                let (out, into) = sync_channel::<Result<Member>>(4);
                let stop = &stop;
                scope.spawn(move || {
                    let mut packer = Packer::new();
                    let mine = (first..blocks).step_by(threads as usize);
                    for block in mine.take_while(|_| !stop.load(Ordering::Relaxed)) {
                        let start = block * BLOCK;
                        let member = packer.member(from, start, BLOCK.min(size - start));
                        if out.send(member).is_err() {
                            return;
                        }
                    }
                });
                into
            })
            .collect();
        let mut collect = || -> Result<()> {
            for block in 0..blocks {
                let next = workers[(block % threads) as usize].recv();
                let next = next.map_err(|_| anyhow!("a thread that compresses failed"))??;
                to.write_all(&next.bytes)?;
                bar.add(next.plain);
            }
            Ok(())
        };
        let collected = collect();
        stop.store(true, Ordering::Relaxed);
        // Whoever waits to hand over a block learns by it that nobody wants it.
        drop(workers);
        collected
    })
}

/// What one thread compresses with.
struct Packer {
    plain: Vec<u8>,
    sample: Vec<u8>,
    level: Compressor,
    none: Compressor,
}

impl Packer {
    fn new() -> Packer {
        let of = |level| Compressor::new(CompressionLvl::new(level).unwrap_or_default());
        Packer {
            plain: Vec::new(),
            sample: Vec::new(),
            level: of(LEVEL),
            none: of(0),
        }
    }

    fn member(&mut self, from: &File, start: u64, len: u64) -> Result<Member> {
        self.plain.resize(len as usize, 0);
        from.read_exact_at(&mut self.plain, start)
            .context("read the layer")?;
        let compressor = match self.shrinks() {
            true => &mut self.level,
            false => &mut self.none,
        };
        let mut bytes = vec![0; compressor.gzip_compress_bound(self.plain.len())];
        let size = compressor
            .gzip_compress(&self.plain, &mut bytes)
            .context("compress the layer")?;
        bytes.truncate(size);
        Ok(Member { bytes, plain: len })
    }

    /// Whether it is worth the time: of photos, archives and the like nothing is gained. Told by a
    /// sixteenth of the block, here and there.
    fn shrinks(&mut self) -> bool {
        const PIECE: usize = 4 << 10;
        self.sample.clear();
        for piece in self.plain.chunks(16 * PIECE) {
            let len = piece.len().min(PIECE);
            self.sample.extend_from_slice(&piece[..len]);
        }
        let mut out = vec![0; self.level.deflate_compress_bound(self.sample.len())];
        let size = self.level.deflate_compress(&self.sample, &mut out);
        size.is_ok_and(|size| size * 100 < self.sample.len() * 97)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mydocker::progress::Progress;
    use std::io::Read;

    #[test]
    fn what_is_compressed_in_blocks_is_one_stream() {
        let path = std::env::temp_dir().join(format!("gzip-{}", std::process::id()));
        let mut noise = 1u32;
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77] {
            let plain: Vec<u8> = (0..size)
                .map(|at| {
                    noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Half of it is noise, half is not.
                    if at % 100_000 < 50_000 {
                        (noise >> 24) as u8
                    } else {
                        b'a'
                    }
                })
                .collect();
            std::fs::write(&path, &plain).unwrap();
            let bar = Progress::silent().bar("x", "compressing", None);
            let mut packed = Vec::new();
            gzip(&File::open(&path).unwrap(), size, &mut packed, &bar).unwrap();
            let mut back = Vec::new();
            // Checks the sums, too.
            let mut decoder = flate2::bufread::MultiGzDecoder::new(packed.as_slice());
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!((back.len(), back == plain), (plain.len(), true));
            assert!(decoder.into_inner().is_empty());
            assert!(packed.len() < plain.len() / 3 * 2 + 100, "{}", packed.len());
        }
        std::fs::remove_file(path).unwrap();
    }
}
