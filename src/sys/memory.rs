//! The memory of the calling process: madvise(2).

use nix::errno::Errno;
use nix::poll::PollFd;
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// A long poll(2) without the program in memory: first it takes the pages of the program's own file
/// (its code and constants) out of the process's page tables, and gives free memory back. What is
/// touched again comes back from the page cache without a read. `limit`: `None` is for ever.
///
/// The kernel brings back 64 KiB for each byte that is touched, so that from the first page that
/// goes to the end of the wait nothing runs but this function and syscall(2).
///
/// # Errors
/// Those of ppoll(2).
#[inline(never)]
pub fn poll_without_program(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> nix::Result<i32> {
    let segments = segments();
    let limit = limit.map(|limit| libc::timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let limit: *const libc::timespec = limit.as_ref().map_or(std::ptr::null(), |limit| limit);
    let no_mask = std::ptr::null::<libc::sigset_t>();
    // SAFETY: only the allocator's own free memory is given back.
    unsafe { libc::malloc_trim(0) };
    let mut result = 0;
    for number in 0..=segments.len() {
        // SAFETY: a segment that cannot be written is the file's, private and unchanged:
        // MADV_DONTNEED drops the mapping of its pages, and a later access sees the same bytes. A
        // PollFd is a pollfd (`repr(transparent)`), and there are as many as we say.
        result = unsafe {
            match segments.get(number) {
                Some(&(start, size)) => {
                    libc::syscall(libc::SYS_madvise, start, size, libc::MADV_DONTNEED)
                }
                None => libc::syscall(
                    libc::SYS_ppoll,
                    fds.as_mut_ptr(),
                    fds.len(),
                    limit,
                    no_mask,
                    size_of::<libc::c_ulong>(),
                ),
            }
        };
    }
    Errno::result(result).map(|ready| ready as i32)
}

/// Where the program's read-only segments are: address and size. Those that there is no room for
/// stay in memory.
fn segments() -> [(usize, usize); 8] {
    let mut found = [(0, 0); 8];
    let mut free = found.iter_mut();
    let free: *mut std::slice::IterMut<'_, (usize, usize)> = &mut free;
    // SAFETY: the callback has the type that dl_iterate_phdr(3) wants, and takes this data.
    unsafe { libc::dl_iterate_phdr(Some(note_segments), free.cast()) };
    found
}

extern "C" fn note_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    free: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr(3) passes a structure that is valid during this call, with the
    // object's program headers, and the data that we gave it, which nobody else uses now.
    let (base, headers, free) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, count);
        let free = &mut *free.cast::<std::slice::IterMut<'_, (usize, usize)>>();
        (object.dlpi_addr, headers, free)
    };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            const PAGE: u64 = 4096;
            let start = (base + header.p_vaddr) & !(PAGE - 1);
            let end = base + header.p_vaddr + header.p_memsz;
            if let Some(place) = free.next() {
                *place = (start as usize, (end - start) as usize);
            }
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSTANT: [u8; 64 << 10] = [7; 64 << 10];

    #[test]
    fn what_is_forgotten_is_still_there() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
            let line = text.lines().find(|line| line.starts_with("Pss_File:"));
            let kib = line.unwrap().split_whitespace().nth(1).unwrap();
            kib.parse::<u64>().unwrap()
        };
        let sum = || CONSTANT.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        assert_eq!(sum(), 7 * (64 << 10));
        let before = resident();
        assert_eq!(poll_without_program(&mut [], Some(Duration::ZERO)), Ok(0));
        let after = resident();
        assert!(after < before, "{before} KiB, then {after} KiB");
        assert_eq!(sum(), 7 * (64 << 10));
    }
}
