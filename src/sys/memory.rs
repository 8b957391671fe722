//! The memory of the calling process: madvise(2).

use std::ffi::{c_int, c_void};

/// Takes the pages of the program's own file (its code and constants) out of the process's page
/// tables; what is touched again comes back from the page cache without a read. For a process that
/// has much behind it and little before it. Nothing fails: it is advice, madvise(2).
pub fn forget_program() {
    // SAFETY: the callback has the type that dl_iterate_phdr(3) wants, and uses no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_segments), std::ptr::null_mut()) };
}

extern "C" fn forget_segments(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut c_void,
) -> c_int {
    // SAFETY: dl_iterate_phdr(3) passes a structure that is valid during this call, with the
    // object's program headers.
    let (base, headers) = unsafe {
        let object = &*object;
        let count = usize::from(object.dlpi_phnum);
        (
            object.dlpi_addr,
            std::slice::from_raw_parts(object.dlpi_phdr, count),
        )
    };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            const PAGE: u64 = 4096;
            let start = (base + header.p_vaddr) & !(PAGE - 1);
            let end = base + header.p_vaddr + header.p_memsz;
            // SAFETY: a segment that cannot be written is the file's, private and unchanged:
            // MADV_DONTNEED drops the mapping of its pages, and a later access sees the same bytes.
            unsafe {
                libc::madvise(
                    start as *mut c_void,
                    (end - start) as usize,
                    libc::MADV_DONTNEED,
                )
            };
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
        forget_program();
        let after = resident();
        assert!(after < before, "{before} KiB, then {after} KiB");
        assert_eq!(sum(), 7 * (64 << 10));
    }
}
