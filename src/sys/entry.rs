//! How the programs begin.
//!
//! [`entry_point!`] makes `runtime` begin with [`seal_early`] instead of the C library. A sealed
//! runtime is one that runs from a read-only mount of its own file (`runtime/seal.rs` says why). At the
//! entry nothing has been written to the program's memory yet, so that it can be moved there: the same
//! bytes are mapped from the file in that mount, at the same places, and the kernel is told that this is
//! what the process executes (`PR_SET_MM_MAP`). Where the kernel refuses that, the program executes
//! itself once more, which takes ten times as long; before the C library, whose start takes that long
//! again (in a virtual machine most of it is glibc asking for the CPU's caches: each CPUID leaves the
//! machine).
//!
//! [`program!`] defines `main` without Rust's own start-up code, which reads /proc/self/maps and
//! installs a signal handler and a stack for it, all for a message about a stack overflow.

use std::io;
use std::mem::MaybeUninit;

/// What Rust's start-up code does that we need too: descriptors 0, 1 and 2 are open, so that no
/// file of ours becomes a standard stream by chance; writing to a closed pipe is an error, not a
/// death halfway through a container's creation. And children can be waited for: where the caller has
/// SIGCHLD ignored, which execve(2) leaves as it is, the kernel reaps them itself (wait(2)).
pub fn prepare() -> io::Result<()> {
    for number in 0..=2 {
        // SAFETY: F_GETFD looks at the number only; a path that is a C string; the lowest free
        // descriptor is the one that was found closed.
        unsafe {
            if libc::fcntl(number, libc::F_GETFD) < 0
                && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) < 0
            {
                return Err(io::Error::last_os_error());
            }
        }
    }
    // SAFETY: neither runs code of ours.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    Ok(())
}

/// Defines the C `main` that calls `$main`, a `fn() -> i32` whose value is the exit code.
#[macro_export]
macro_rules! program {
    ($name:literal, $main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn main(_count: i32, _args: *const *const u8) -> i32 {
            if let Err(error) = $crate::sys::entry::prepare() {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "{}: open /dev/null: {error}", $name);
                return 1;
            }
            $main()
        }
    };
}

/// Defines the symbol `seal_entry`, which build.rs makes the entry point of the program. The kernel
/// jumps to it with the stack as execve(2) left it; it calls [`seal_early`] with that, and goes on
/// to the C library's `_start` with every register and the stack as they were.
#[macro_export]
macro_rules! entry_point {
    () => {
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        unsafe extern "C" fn seal_entry() -> ! {
            // rdx is for `_start` (a function for atexit(3), or 0); r12 is kept by the call.
            std::arch::naked_asm!(
                "mov r12, rdx",
                "mov rdi, rsp",
                "call {early}",
                "mov rdx, r12",
                "jmp _start",
                early = sym $crate::sys::entry::seal_early,
            )
        }
        // The linker's command line alone does not keep it.
        #[used]
        static SEAL_ENTRY: unsafe extern "C" fn() -> ! = seal_entry;
    };
}

/// The verbs that make a process in a container.
static VERBS: [&[u8]; 5] = [b"create\0", b"run\0", b"exec\0", b"mounts\0", b"restore\0"];

/// Has this program run from a detached read-only mount of its file, if an argument is one of the verbs
/// that need it (a false hit costs microseconds) and it is not read-only already: moves it there, or
/// executes it anew. Returns when that is done, when there is nothing to do, or when it cannot:
/// `seal::ensure` looks, has other ways, and reports.
///
/// The C library is not there yet: no call of it (not even the memcpy and memset that the compiler
/// makes of copied and zeroed arrays), no thread-local variable, no panic.
///
/// # Safety
/// `stack` is the stack pointer at the program's entry: a count, that many pointers to arguments, a
/// null pointer, and the pointers to the environment with a null pointer at their end (System V ABI
/// for x86-64, "Initial Stack and Register State").
#[cfg(target_arch = "x86_64")]
pub unsafe extern "C" fn seal_early(stack: *const usize) {
    // SAFETY: what the caller promises of the stack; the C strings are constants, and the buffers
    // as large as the calls need.
    unsafe {
        let (exe, nothing) = (EXE.as_ptr() as usize, EMPTY.as_ptr() as usize);
        let args = stack.add(1);
        let env = args.add(*stack + 1);
        if !names_a_verb(args) || is_read_only(exe) {
            return;
        }
        let at = libc::AT_FDCWD as usize;
        let flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
        let tree = raw(libc::SYS_open_tree, at, exe, flags, 0, 0);
        if tree < 0 {
            return;
        }
        let (tree, empty) = (tree as usize, libc::AT_EMPTY_PATH as usize);
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
        let attributes = (libc::MOUNT_ATTR_RDONLY, 0u64, 0u64, 0u64);
        let (place, size) = (&raw const attributes as usize, size_of_val(&attributes));
        if raw(libc::SYS_mount_setattr, tree, nothing, empty, place, size) == 0
            && !move_to(tree, stack, args, env)
        {
            raw(
                libc::SYS_execveat,
                tree,
                nothing,
                args as usize,
                env as usize,
                empty,
            );
        }
        raw(libc::SYS_close, tree, 0, 0, 0, 0);
    }
}

static EMPTY: &[u8; 1] = b"\0";
static EXE: &[u8; 15] = b"/proc/self/exe\0";

unsafe extern "C" {
    /// The program's ELF header in memory; the linker defines it.
    #[link_name = "__ehdr_start"]
    static HEADER: libc::Elf64_Ehdr;
}

/// Makes the file behind `tree`, which is this program's own in another mount, what this process
/// executes: no mapping and no link below /proc/self leads to the file in the old mount any more, as after
/// an execve(2) from the new one. `false`: the kernel refuses it, and the process is as it was.
///
/// # Safety
/// The stack is as the program found it, with those arguments and that environment, and nothing has
/// written to the program's data yet: that is mapped anew.
#[cfg(target_arch = "x86_64")]
unsafe fn move_to(tree: usize, stack: *const usize, args: *const usize, env: *const usize) -> bool {
    // SAFETY: what the caller promises. Each segment is replaced at once by the same bytes, this code's
    // too. The linker has placed the header and what it tells of.
    unsafe {
        let header = &raw const HEADER;
        // Only such a program is at the addresses that its headers name.
        if (*header).e_type != libc::ET_EXEC {
            return false;
        }
        let file = reopen(tree);
        if file < 0 {
            return false;
        }
        let file = file as usize;
        let segment = header.byte_add((*header).e_phoff as usize);
        let mut segment = segment.cast::<libc::Elf64_Phdr>();
        let last = segment.add((*header).e_phnum as usize);
        let (mut start_code, mut end_code, mut start_data, mut end_data) = (usize::MAX, 0, 0, 0);
        let mut is_mapped = true;
        while segment < last && is_mapped {
            let it = &*segment;
            if it.p_type == libc::PT_LOAD {
                is_mapped = map(it, file);
                let start = it.p_vaddr as usize;
                let end = start + it.p_filesz as usize;
                (start_data, end_data) = (start_data.max(start), end_data.max(end));
                if it.p_flags & libc::PF_X != 0 {
                    (start_code, end_code) = (start_code.min(start), end_code.max(end));
                }
            }
            segment = segment.add(1);
        }
        let brk = raw(libc::SYS_brk, 0, 0, 0, 0, 0) as usize;
        let end_args = end_of_strings(args, 0);
        // struct prctl_mm_map: all is as execve(2) has set it, but for the file, which stands in the upper
        // half of the last word, behind the size of an auxiliary vector that stays as it is.
        let map = [
            start_code,
            end_code,
            start_data,
            end_data,
            brk,
            brk,
            stack as usize,
            *args,
            end_args,
            end_args,
            end_of_strings(env, end_args),
            0,
            file << 32,
        ];
        let (what, how) = (libc::PR_SET_MM as usize, libc::PR_SET_MM_MAP as usize);
        let (place, size) = (&raw const map as usize, size_of_val(&map));
        // With this call it takes no more than CAP_SYS_ADMIN, which the mount has taken already. The kernel
        // refuses it (EBUSY) as long as anything of the old file is mapped.
        let is_moved = is_mapped && raw(libc::SYS_prctl, what, how, place, size, 0) == 0;
        raw(libc::SYS_close, file, 0, 0, 0, 0);
        is_moved
    }
}

/// Where the last of these strings ends, behind its null byte; `none`, if there is no string.
///
/// # Safety
/// `strings` is a null-terminated array of C strings.
#[cfg(target_arch = "x86_64")]
unsafe fn end_of_strings(mut strings: *const usize, none: usize) -> usize {
    let mut end = 0;
    // SAFETY: up to the null pointer, and the last string up to its null byte. Volatile reads stay as they
    // are: of others the compiler makes a strlen.
    unsafe {
        while *strings != 0 {
            end = *strings;
            strings = strings.add(1);
        }
        if end == 0 {
            return none;
        }
        while (end as *const u8).read_volatile() != 0 {
            end += 1;
        }
    }
    end + 1
}

/// open(2) for reading of what an `O_PATH` descriptor leads to.
///
/// # Safety
/// None but that of system calls.
#[cfg(target_arch = "x86_64")]
unsafe fn reopen(fd: usize) -> isize {
    const DIGITS: usize = 10;
    let mut path = MaybeUninit::<[u8; OWN_FDS.len() + DIGITS + 1]>::uninit();
    let path = path.as_mut_ptr().cast::<u8>();
    // SAFETY: the buffer has room for all digits and the null byte. Volatile writes stay as they are:
    // of others the compiler makes a memcpy.
    unsafe {
        let mut at = 0;
        while at < OWN_FDS.len() {
            path.add(at).write_volatile(*OWN_FDS.as_ptr().add(at));
            at += 1;
        }
        let mut place = 1;
        while fd / place >= 10 {
            place *= 10;
        }
        while place > 0 {
            path.add(at).write_volatile(b'0' + (fd / place % 10) as u8);
            at += 1;
            place /= 10;
        }
        path.add(at).write_volatile(0);
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let here = libc::AT_FDCWD as usize;
        raw(libc::SYS_openat, here, path as usize, flags, 0, 0)
    }
}

static OWN_FDS: &[u8; 14] = b"/proc/self/fd/";

/// Maps a segment of the program from `file`, as execve(2) does (elf(5)).
///
/// # Safety
/// What is there now is the same segment, as execve(2) has left it.
#[cfg(target_arch = "x86_64")]
unsafe fn map(segment: &libc::Elf64_Phdr, file: usize) -> bool {
    const PAGE: usize = 4096;
    let (from, offset) = (segment.p_vaddr as usize, segment.p_offset as usize);
    let into_page = from % PAGE;
    let end = from + segment.p_filesz as usize;
    let has = |flag: u32, right: i32| match segment.p_flags & flag {
        0 => 0,
        _ => right,
    };
    let rights = has(libc::PF_R, libc::PROT_READ)
        | has(libc::PF_W, libc::PROT_WRITE)
        | has(libc::PF_X, libc::PROT_EXEC);
    let flags = (libc::MAP_PRIVATE | libc::MAP_FIXED) as usize;
    // SAFETY: what the caller promises; what follows the file's bytes in their last page is zero.
    unsafe {
        let start = from - into_page;
        let size = end - start;
        let offset = offset - into_page;
        if raw6(
            libc::SYS_mmap,
            start,
            size,
            rights as usize,
            flags,
            file,
            offset,
        ) != start as isize
        {
            return false;
        }
        if segment.p_flags & libc::PF_W != 0 && segment.p_memsz > segment.p_filesz {
            let mut at = end;
            while !at.is_multiple_of(PAGE) {
                (at as *mut u8).write_volatile(0);
                at += 1;
            }
        }
    }
    true
}

/// Whether the mount that holds the file is read-only.
///
/// # Safety
/// `path` is the address of a C string.
#[cfg(target_arch = "x86_64")]
unsafe fn is_read_only(path: usize) -> bool {
    /// The place of `f_flags` in `struct statfs` (asm-generic/statfs.h), in words; it has 15.
    const F_FLAGS: usize = 10;
    let mut facts = MaybeUninit::<[usize; 15]>::uninit();
    let facts = facts.as_mut_ptr().cast::<usize>();
    // SAFETY: the buffer is as large as the struct that the call fills.
    unsafe {
        raw(libc::SYS_statfs, path, facts as usize, 0, 0, 0) != 0
            || *facts.add(F_FLAGS) & libc::ST_RDONLY as usize != 0
    }
}

/// Whether one of the arguments behind the program's name is a verb.
///
/// # Safety
/// `args` is a null-terminated array of C strings, with one at least.
#[cfg(target_arch = "x86_64")]
unsafe fn names_a_verb(args: *const usize) -> bool {
    let mut index = 1;
    // SAFETY: up to the null pointer, each string up to its null byte, each verb up to its own.
    unsafe {
        while *args.add(index) != 0 {
            let argument = *args.add(index) as *const u8;
            let mut verb = 0;
            while verb < VERBS.len() {
                let word = (*VERBS.as_ptr().add(verb)).as_ptr();
                let mut at = 0;
                while *argument.add(at) == *word.add(at) {
                    if *word.add(at) == 0 {
                        return true;
                    }
                    at += 1;
                }
                verb += 1;
            }
            index += 1;
        }
    }
    false
}

/// A system call without the C library: the result, or the negative errno.
///
/// # Safety
/// As the call demands of its arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn raw(call: libc::c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    // SAFETY: the caller's; a call of five arguments looks at no sixth.
    unsafe { raw6(call, a, b, c, d, e, 0) }
}

/// The same with six arguments.
///
/// # Safety
/// As the call demands of its arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn raw6(
    call: libc::c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; it keeps all registers but these (syscall(2)).
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") call as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}
