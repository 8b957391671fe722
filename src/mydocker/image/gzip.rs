//! gzip on all CPUs (RFC 1952, 1951): blocks of the file are deflated by threads of their own and put
//! one behind the other as one member, each ending on a byte (a sync flush), the way pigz does it.
//! The result depends on the content only, not on the number of CPUs.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, anyhow};
use flate2::{Compress, Compression, Crc, FlushCompress};

use super::super::progress::Bar;

const BLOCK: u64 = 1 << 20;

/// A block, deflated.
struct Deflated {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Compresses the first `size` bytes of `from`.
pub(super) fn gzip(from: &File, size: u64, to: &mut impl Write, bar: &Bar) -> Result<()> {
    // Deflate, no flags, no time, no particular effort, Unix.
    to.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3])?;
    let blocks = size.div_ceil(BLOCK).max(1);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let stop = AtomicBool::new(false);
    let crc = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(blocks))
            .map(|first| {
                let (out, into) = sync_channel::<Result<Deflated>>(4);
                let stop = &stop;
                scope.spawn(move || {
                    let mine = (first..blocks).step_by(threads as usize);
                    for block in mine.take_while(|_| !stop.load(Ordering::Relaxed)) {
                        let start = block * BLOCK;
                        let len = BLOCK.min(size - start);
                        if out
                            .send(deflate(from, start, len, block + 1 == blocks))
                            .is_err()
                        {
                            return;
                        }
                    }
                });
                into
            })
            .collect();
        let mut collect = || -> Result<Crc> {
            let mut crc = Crc::new();
            for block in 0..blocks {
                let next = workers[(block % threads) as usize].recv();
                let next = next.map_err(|_| anyhow!("a thread that compresses failed"))??;
                to.write_all(&next.bytes)?;
                crc.combine(&next.crc);
                bar.add(u64::from(next.crc.amount()));
            }
            Ok(crc)
        };
        let crc = collect();
        stop.store(true, Ordering::Relaxed);
        // Whoever waits to hand over a block learns by it that nobody wants it.
        drop(workers);
        crc
    })?;
    to.write_all(&crc.sum().to_le_bytes())?;
    // The size modulo 2^32.
    to.write_all(&(size as u32).to_le_bytes())?;
    Ok(())
}

fn deflate(from: &File, start: u64, len: u64, last: bool) -> Result<Deflated> {
    let mut plain = vec![0; len as usize];
    from.read_exact_at(&mut plain, start)
        .context("read the layer")?;
    let mut crc = Crc::new();
    crc.update(&plain);
    let mut deflate = Compress::new(Compression::default(), false);
    let flush = match last {
        true => FlushCompress::Finish,
        false => FlushCompress::Sync,
    };
    // What does not shrink grows by a few bytes for each 16 KiB and for the flush.
    let mut bytes = Vec::with_capacity(plain.len() + plain.len() / 1000 + 64);
    loop {
        let done = deflate.total_in() as usize;
        deflate.compress_vec(&plain[done..], &mut bytes, flush)?;
        // All is out once there is room left.
        if deflate.total_in() == len && bytes.len() < bytes.capacity() {
            return Ok(Deflated { bytes, crc });
        }
        bytes.reserve(64 << 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mydocker::progress::Progress;
    use std::io::Read;

    #[test]
    fn what_is_compressed_in_blocks_is_one_member() {
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
            // Reads one member only, and checks its sum.
            let mut decoder = flate2::bufread::GzDecoder::new(packed.as_slice());
            decoder.read_to_end(&mut back).unwrap();
            assert_eq!((back.len(), back == plain), (plain.len(), true));
            assert!(decoder.into_inner().is_empty());
        }
        std::fs::remove_file(path).unwrap();
    }
}
