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

/// Whether compressing the first `size` bytes of `from` is worth the time: of photos, archives and the
/// like nothing is gained. Told by a few hundred pieces of it, here and there.
pub(super) fn shrinks(from: &File, size: u64) -> Result<bool> {
    let mut sample = Vec::new();
    for at in (0..size).step_by(PIECE.max(size as usize / PIECES)) {
        let start = sample.len();
        sample.resize(start + PIECE.min((size - at) as usize), 0);
        from.read_exact_at(&mut sample[start..], at)
            .context("read the layer")?;
    }
    Ok(gains(&mut compressor(LEVEL), &sample))
}

/// Samples are made of pieces of so many bytes, and of a layer of so many pieces.
const PIECE: usize = 4 << 10;
const PIECES: usize = 512;

/// Whether a sample gets smaller by more than a few percent.
fn gains(compressor: &mut Compressor, sample: &[u8]) -> bool {
    let mut out = vec![0; compressor.deflate_compress_bound(sample.len())];
    let size = compressor.deflate_compress(sample, &mut out);
    size.is_ok_and(|size| size * 100 < sample.len() * 97)
}

fn compressor(level: i32) -> Compressor {
    Compressor::new(CompressionLvl::new(level).unwrap_or_default())
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
        Packer {
            plain: Vec::new(),
            sample: Vec::new(),
            level: compressor(LEVEL),
            none: compressor(0),
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

    /// Whether it is worth the time to compress this block, told by a few pieces of it.
    fn shrinks(&mut self) -> bool {
        self.sample.clear();
        for piece in self.plain.chunks(64 * PIECE) {
            let len = piece.len().min(PIECE);
            self.sample.extend_from_slice(&piece[..len]);
        }
        gains(&mut self.level, &self.sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mydocker::progress::Progress;
    use std::io::Read;

    /// Bytes of which nothing can be compressed.
    fn noise() -> impl Iterator<Item = u8> {
        let mut state = 1u32;
        std::iter::repeat_with(move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    #[test]
    fn a_layer_shrinks_unless_nearly_all_of_it_is_noise() {
        let path = std::env::temp_dir().join(format!("shrinks-{}", std::process::id()));
        let told = |plain: &[u8]| {
            std::fs::write(&path, plain).unwrap();
            shrinks(&File::open(&path).unwrap(), plain.len() as u64).unwrap()
        };
        assert!(told(&[0; 1024]));
        let large: Vec<u8> = noise().take(5 << 20).collect();
        assert!(!told(&large));
        assert!(!told(&[&large[..], &[0; 10_000]].concat()));
        assert!(told(&[&[b'a'; 400_000], &large[..]].concat()));
        assert!(told(&[&large[..], &[b'a'; 400_000]].concat()));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_compressed_in_blocks_is_one_stream() {
        let path = std::env::temp_dir().join(format!("gzip-{}", std::process::id()));
        let mut noise = noise();
        for size in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 77] {
            let plain: Vec<u8> = (0..size)
                // Half of it is noise, half is not.
                .zip(&mut noise)
                .map(|(at, noise)| if at % 100_000 < 50_000 { noise } else { b'a' })
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
