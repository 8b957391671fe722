//! How the programs begin.
//!
//! [`entry_point!`] makes `runtime` begin with [`seal_early`] instead of the C library. A sealed
//! runtime is one that has executed itself from a read-only mount of its own file (`runtime/seal.rs`
//! says why), and the program that only does that needs no C library, no Rust runtime and no
//! command line: they took half of the half millisecond that the second execution cost (in a
//! virtual machine most of it is glibc asking for the CPU's caches: each CPUID leaves the machine).
//!
//! [`program!`] defines `main` without Rust's own start-up code, which reads /proc/self/maps and
//! installs a signal handler and a stack for it, all for a message about a stack overflow.

use std::io;
use std::mem::MaybeUninit;

/// What Rust's start-up code does that we need too: descriptors 0, 1 and 2 are open, so that no
/// file of ours becomes a standard stream by chance; writing to a closed pipe is an error, not a
/// death halfway through a container's creation.
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
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
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
static VERBS: [&[u8]; 4] = [b"create\0", b"run\0", b"exec\0", b"restore\0"];

/// Executes this program anew from a detached read-only mount of its file, if an argument is one of
/// the verbs that need it (a false hit costs half a millisecond) and it is not read-only already.
/// Returns when there is nothing to do, or when it cannot: `seal::ensure` has other ways, and
/// reports.
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
        if raw(libc::SYS_mount_setattr, tree, nothing, empty, place, size) == 0 {
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
    let result: isize;
    // SAFETY: the kernel's calling convention; it keeps all registers but these (syscall(2)).
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") call as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _,
            options(nostack)
        );
    }
    result
}
