//! Making, naming, and replacing processes: clone3(2), pidfd_open(2), execveat(2), prctl(2).

use super::check;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

/// What clone3(2) returned, on either side of it.
#[derive(Debug)]
pub enum Cloned {
    /// In the caller: the new process, by number in the caller's pid namespace and by descriptor.
    Parent {
        /// The number that the caller sees.
        pid: i32,
        /// A descriptor that names the process for as long as it is held (`CLOEXEC`).
        pidfd: OwnedFd,
    },
    /// In the new process.
    Child,
}

/// `linux/sched.h`; libc's constant of that name overflows.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) without shared memory: the child goes on with a copy of the caller, as after fork(2).
/// `flags` are `CLONE_NEW*` and `CLONE_PARENT`; a pidfd is always asked for. With `cgroup`, an
/// open v2 cgroup directory, the child starts in it (`CLONE_INTO_CGROUP`).
///
/// # Safety
/// The calling process must have one thread, or the child must do nothing but async-signal-safe
/// calls.
unsafe fn clone3(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // `CLONE_*` constants are i32; the sign of CLONE_IO must not spread into the upper half.
    let mut bits = u64::from(flags as u32) | libc::CLONE_PIDFD as u64;
    // SAFETY: an all-zero clone_args is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.pidfd = std::ptr::addr_of_mut!(pidfd) as u64;
    // clone3 refuses an exit signal of its own with CLONE_PARENT: the caller's is inherited.
    if flags & libc::CLONE_PARENT == 0 {
        args.exit_signal = libc::SIGCHLD as u64;
    }
    if let Some(cgroup) = cgroup {
        bits |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    args.flags = bits;
    // SAFETY: args lives across the call; without CLONE_VM both sides have their own copy of it.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone3,
            std::ptr::addr_of_mut!(args),
            std::mem::size_of::<libc::clone_args>(),
        )
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    Ok(Cloned::Parent {
        pid: pid as i32,
        // SAFETY: the kernel has just stored a new descriptor there.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
    })
}

/// [`clone3`] for a program that has one thread, as both of ours have.
pub fn clone_single_threaded(flags: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    debug_assert!(
        cfg!(test) || threads() == 1,
        "clone3 in a program with threads"
    );
    // SAFETY: neither program starts a thread.
    unsafe { clone3(flags, cgroup) }
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count)
}

/// pidfd_open(2): a descriptor of the process `pid` (`CLOEXEC`). ESRCH when there is none, also where the
/// kernel, by its version, says EINVAL or ENOENT: a thread has the number, or a process that is just
/// being reaped.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain integers; the result is a new descriptor.
    let fd = unsafe { check(libc::syscall(libc::SYS_pidfd_open, pid, 0)) };
    match fd {
        // SAFETY: nobody else has it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
        Err(error) => Err(error),
    }
}

/// pidfd_send_signal(2). Signal 0 asks whether the process exists.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })?;
    Ok(())
}

/// setns(2) with a pidfd: joins the namespaces in `flags` (`CLONE_NEW*`) of that process.
pub fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(libc::c_long::from(unsafe {
        libc::setns(fd.as_raw_fd(), flags)
    }))?;
    Ok(())
}

/// ioctl_nsfs(2): the user namespace that a user namespace was made in.
pub fn parent_namespace(namespace: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: the request takes no argument, and makes a descriptor that is nobody else's.
    unsafe {
        let fd = check(libc::c_long::from(libc::ioctl(
            namespace.as_raw_fd(),
            NS_GET_PARENT as _,
        )))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// unshare(2), with the flags that nix does not know (`CLONE_NEWTIME`).
pub fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: plain integer.
    check(libc::c_long::from(unsafe { libc::unshare(flags) }))?;
    Ok(())
}

/// A null-terminated array of C strings for the exec family, kept with the strings it points to.
#[derive(Debug)]
pub struct CStrings {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    /// Takes the strings over; pointers into them stay valid for as long as this lives.
    pub fn new(strings: Vec<CString>) -> CStrings {
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(std::ptr::null());
        CStrings {
            _strings: strings,
            pointers,
        }
    }

    /// The environment of this program, for one that it becomes.
    pub fn of_environment() -> io::Result<CStrings> {
        CStrings::of_environment_without("")
    }

    /// The same without a variable.
    pub fn of_environment_without(name: &str) -> io::Result<CStrings> {
        let kept = std::env::vars_os().filter(|(it, _)| it != name);
        let entries = kept.map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec()).map_err(io::Error::from)
        });
        Ok(CStrings::new(entries.collect::<io::Result<_>>()?))
    }
}

/// execve(2). Returns only on failure.
pub fn execve(path: &CStr, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: both arrays are null-terminated and point into strings that they own.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// execveat(2) of the file behind `fd` itself (`AT_EMPTY_PATH`). Returns only on failure.
pub fn fexecve(fd: BorrowedFd<'_>, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: as in `execve`; the empty path is a valid C string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            fd.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends the process at once, without destructors or exit handlers: for children that hold copies
/// of their parent's guards.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// prctl(2) with integer arguments.
pub fn prctl(option: i32, arg2: u64, arg3: u64) -> io::Result<i32> {
    // SAFETY: used only with options whose arguments are integers.
    let value = check(libc::c_long::from(unsafe {
        libc::prctl(option, arg2, arg3, 0u64, 0u64)
    }))?;
    Ok(value as i32)
}

/// How a child ended, from waitid(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It called exit with this status.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl Ended {
    /// By a status as wait(2) has it.
    pub fn of_status(status: i32) -> Ended {
        match status & 0x7f {
            0 => Ended::Exited(status >> 8 & 0xff),
            signal => Ended::Killed(signal),
        }
    }

    /// The exit code that a shell would give: the status, or 128 + the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + signal,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Exited(code) => write!(f, "exited with status {code}"),
            Ended::Killed(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "was killed by {name}"),
                Err(_) => write!(f, "was killed by signal {signal}"),
            },
        }
    }
}

/// waitid(2) on a child by its pidfd: blocks until it ends and reaps it. EINTR is retried.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    loop {
        match wait_flags(pidfd, libc::WEXITED) {
            Ok(Some(ended)) => return Ok(ended),
            Ok(None) => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
    }
}

/// As [`wait`], but returns `None` at once when the child has not ended.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Ended>> {
    wait_flags(pidfd, libc::WEXITED | libc::WNOHANG)
}

fn wait_flags(pidfd: BorrowedFd<'_>, flags: i32) -> io::Result<Option<Ended>> {
    // SAFETY: an all-zero siginfo is valid, and waitid fills it.
    let info = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        check(libc::c_long::from(libc::waitid(
            libc::P_PIDFD,
            pidfd.as_raw_fd() as libc::id_t,
            std::ptr::addr_of_mut!(info),
            flags,
        )))?;
        info
    };
    // SAFETY: waitid fills the fields of a SIGCHLD siginfo; the pid stays 0 for "nothing yet".
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(match info.si_code {
        libc::CLD_EXITED => Ended::Exited(status),
        _ => Ended::Killed(status),
    }))
}

/// How a process ended that need not be a child, by its pidfd (`PIDFD_GET_INFO`, linux/pidfd.h). The
/// pidfd must have been opened before it was reaped. `None`: it is not reaped yet, or the kernel
/// cannot tell (before 6.15).
pub fn exit_of_stranger(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xff, 11, struct pidfd_info)` with the first version of the struct.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    #[repr(C)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const { assert!(std::mem::size_of::<Info>() == 64) };
    let mut info = Info {
        mask: PIDFD_INFO_EXIT,
        cgroup: 0,
        ids: [0; 11],
        exit_code: 0,
    };
    // SAFETY: the struct is as large as the request says, and lives across the call.
    let result = check(libc::c_long::from(unsafe {
        libc::ioctl(
            pidfd.as_raw_fd(),
            PIDFD_GET_INFO,
            std::ptr::addr_of_mut!(info),
        )
    }));
    if result.is_err() || info.mask & PIDFD_INFO_EXIT == 0 {
        return None;
    }
    Some(Ended::of_status(info.exit_code))
}

/// Gives every signal its default action and unblocks all, as a program expects to find them.
/// (Rust ignores SIGPIPE, and an ignored signal stays ignored over exec.)
pub fn reset_signals() {
    // struct sigaction of the kernel, of which nothing but zeros is needed (SIG_DFL is 0), and the size of
    // its sigset_t. signal(3) takes twice as long for each, and there are 64.
    let (default, set_size) = ([0u64; 4], size_of::<u64>());
    let none = std::ptr::null_mut::<u64>();
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. SIGKILL and SIGSTOP fail, which is right.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                none,
                set_size,
            )
        };
    }
    // SAFETY: an emptied set is valid, and the old mask is not asked for.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(std::ptr::addr_of_mut!(set));
        libc::sigprocmask(
            libc::SIG_SETMASK,
            std::ptr::addr_of!(set),
            std::ptr::null_mut(),
        );
    }
}

const SECCOMP_SET_MODE_FILTER: libc::c_long = 1;

/// seccomp(2) `SECCOMP_SET_MODE_FILTER`: `program` is an array of `struct sock_filter`. Returns a
/// descriptor with `SECCOMP_FILTER_FLAG_NEW_LISTENER` among the flags.
pub fn seccomp_set_filter(program: &[u8], flags: u32) -> io::Result<Option<OwnedFd>> {
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: u32 = 1 << 3;
    let (size, rest) = (program.len() / 8, program.len() % 8);
    let Ok(len) = u16::try_from(size) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    if rest != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: the kernel copies `len` instructions of 8 bytes from the slice, and writes nothing.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::addr_of!(program),
        )
    })?;
    if flags & SECCOMP_FILTER_FLAG_NEW_LISTENER == 0 {
        return Ok(None);
    }
    // SAFETY: with this flag the result is a new descriptor (close-on-exec by itself).
    Ok(Some(unsafe { OwnedFd::from_raw_fd(result as i32) }))
}

/// Whether the kernel knows these flags for seccomp filters: it looks at them before it finds that
/// there is no filter.
pub fn seccomp_knows(flags: u32) -> bool {
    // SAFETY: the kernel fails to read from the null pointer, and changes nothing.
    let result = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::null::<libc::sock_fprog>(),
        )
    });
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EFAULT))
}

/// A system call by its number, with zeros as arguments: its errno, or 0. For tests of seccomp
/// filters; which calls do no harm is the caller's to know.
pub fn bare_call(number: i64) -> i32 {
    // SAFETY: no pointer is passed but null ones, which the kernel refuses to follow.
    match check(unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) }) {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap_or(-1),
    }
}

/// Has `action` run in a child between fork and exec. It must make async-signal-safe calls only,
/// as both programs' do: they have one thread.
pub fn before_exec(command: &mut std::process::Command, action: impl Fn() + Send + Sync + 'static) {
    use std::os::unix::process::CommandExt;
    // SAFETY: the caller's action allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || {
            action();
            Ok(())
        });
    }
}

/// prlimit(2): sets a resource limit of the process `pid` (0: the caller).
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the new limit is valid, and the old one is not asked for.
    check(libc::c_long::from(unsafe {
        libc::prlimit64(
            pid,
            resource,
            std::ptr::addr_of!(limit),
            std::ptr::null_mut(),
        )
    }))?;
    Ok(())
}

/// setdomainname(2): the NIS domain name of the UTS namespace.
pub fn setdomainname(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and the length are of one string.
    check(libc::c_long::from(unsafe {
        libc::setdomainname(name.as_ptr().cast(), name.len())
    }))?;
    Ok(())
}

/// Which boot of the machine this is (random(4), `boot_id`). It is read once: no process outlives its
/// boot.
///
/// # Errors
/// Those of reading it.
pub fn boot_id() -> io::Result<&'static str> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = super::fds::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(ID.get_or_init(|| text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_no_process() {
        std::thread::spawn(|| {
            let error = pidfd_open(nix::unistd::gettid().as_raw()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        })
        .join()
        .unwrap();
        pidfd_open(std::process::id() as i32).unwrap();
    }
}
