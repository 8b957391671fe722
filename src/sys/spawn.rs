//! Running a program without a copy of this process: clone(2) with `CLONE_VM` and `CLONE_VFORK`.

use super::check;
use super::process::{CStrings, execve, exit_now, prctl, reset_signals};
use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicI32, Ordering};

/// What the new process does before its program, in the memory of the caller.
struct Beginning<'a> {
    program: &'a CStr,
    args: &'a CStrings,
    env: &'a CStrings,
    streams: [c_int; 3],
    parent: u32,
    /// The errno of what failed.
    error: AtomicI32,
}

/// Bytes of the stack on which that is done: a few calls, none of which has buffers.
const STACK: usize = 32 << 10;

/// A program that was started by [`start_helper`].
#[derive(Debug)]
#[must_use = "it is to be waited for"]
pub struct Helper {
    pid: i32,
}

impl Helper {
    /// Waits for its end.
    ///
    /// # Errors
    /// Those of waitpid(2).
    pub fn wait(self) -> io::Result<ExitStatus> {
        let mut status = 0;
        loop {
            // SAFETY: the kernel writes to the variable that it is given.
            match check(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }.into()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ExitStatus::from_raw(status)),
            }
        }
    }
}

/// Starts a program that serves this one: with these standard streams, in a process group of its own
/// (a Ctrl-C is not for it), with the default action for every signal and none blocked, and killed when
/// the calling thread ends (`PR_SET_PDEATHSIG`).
///
/// A copy of this process, as fork(2) makes it, would be thrown away by execve(2) at once; making it,
/// and copying each page that we write to afterwards, takes longer than such a program runs.
///
/// # Errors
/// Those of clone(2), dup2(2), setpgid(2) and execve(2).
pub fn start_helper(
    program: &CStr,
    args: &CStrings,
    env: &CStrings,
    streams: [BorrowedFd<'_>; 3],
) -> io::Result<Helper> {
    // Above the numbers that they get, so that none takes the place of one that is needed still.
    let [stdin, stdout, stderr] = streams.map(above_standard);
    let held = [stdin?, stdout?, stderr?];
    let beginning = Beginning {
        program,
        args,
        env,
        streams: [0, 1, 2].map(|at| held[at].as_raw_fd()),
        parent: std::process::id(),
        error: AtomicI32::new(0),
    };
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let blocked = Blocked::all()?;
    // SAFETY: the child has a stack of its own, which it leaves before this call returns
    // (CLONE_VFORK), as it does `beginning`. It allocates nothing and takes no lock; no handler of
    // ours can run in it, since signals are blocked until it has none.
    let pid = check(libc::c_long::from(unsafe {
        libc::clone(
            begin,
            stack.as_mut_ptr_range().end.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            std::ptr::from_ref(&beginning).cast_mut().cast(),
        )
    }));
    drop(blocked);
    let helper = Helper { pid: pid? as i32 };
    match beginning.error.load(Ordering::Relaxed) {
        0 => Ok(helper),
        errno => {
            helper.wait()?;
            Err(io::Error::from_raw_os_error(errno))
        }
    }
}

extern "C" fn begin(beginning: *mut c_void) -> c_int {
    // SAFETY: what `start_helper` passes, which waits for us.
    let beginning = unsafe { &*beginning.cast_const().cast::<Beginning<'_>>() };
    let error = become_program(beginning);
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    beginning.error.store(errno, Ordering::Relaxed);
    127
}

fn become_program(beginning: &Beginning<'_>) -> io::Error {
    let prepare = || -> io::Result<()> {
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64, 0)?;
        // It may have ended before it was asked for.
        if std::os::unix::process::parent_id() != beginning.parent {
            exit_now(1);
        }
        // SAFETY: numbers only.
        check(unsafe { libc::setpgid(0, 0) }.into())?;
        for (number, fd) in (0..).zip(beginning.streams) {
            // SAFETY: numbers only; the descriptors are this process's own copies.
            check(unsafe { libc::dup2(fd, number) }.into())?;
        }
        Ok(())
    };
    if let Err(error) = prepare() {
        return error;
    }
    reset_signals();
    execve(beginning.program, beginning.args, beginning.env)
}

fn above_standard(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is valid, and the result is nobody else's.
    unsafe {
        let copy = check(libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3).into())?;
        Ok(OwnedFd::from_raw_fd(copy as i32))
    }
}

/// All signals are blocked in this thread while this exists.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> io::Result<Blocked> {
        // SAFETY: both sets are valid.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            match libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old) {
                0 => Ok(Blocked(old)),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set is the one that was found.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn strings(of: &[&CStr]) -> CStrings {
        CStrings::new(of.iter().map(|&it| it.to_owned()).collect())
    }

    #[test]
    fn its_streams_are_given_and_nothing_else() {
        let (mut from, to) = std::io::pipe().unwrap();
        let null = File::open("/dev/null").unwrap();
        let script = c"echo out; echo err >&2; echo \"$A$#\"; \
            readlink /proc/$$/fd/* | grep -cxF \"$(readlink /proc/$$/fd/2)\"; \
            cut -d' ' -f5 /proc/$$/stat | grep -cx $$; \
            sed -nE 's/^Sig(Blk|Ign):.//p' /proc/self/status; exit 3";
        let args = strings(&[c"sh", c"-c", script]);
        let env = strings(&[c"A=a", c"PATH=/usr/bin:/bin"]);
        let streams = [null.as_fd(), to.as_fd(), to.as_fd()];
        let ended = start_helper(c"/bin/sh", &args, &env, streams).unwrap();
        let ended = ended.wait().unwrap();
        drop(to);
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        assert_eq!(ended.code(), Some(3));
        let words: Vec<&str> = text.lines().collect();
        // The pipe as two streams, a process group of its own, no signal blocked.
        assert_eq!(
            words[..6],
            ["out", "err", "a0", "2", "1", "0000000000000000"]
        );
        let ignored = u64::from_str_radix(words[6], 16).unwrap();
        assert_eq!(ignored & 1 << (libc::SIGPIPE - 1), 0, "as Rust has it");
    }

    #[test]
    fn what_cannot_be_run_is_told() {
        let null = File::open("/dev/null").unwrap();
        let (args, env) = (strings(&[c"x"]), strings(&[]));
        let error = start_helper(c"/nonexistent", &args, &env, [null.as_fd(); 3]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
