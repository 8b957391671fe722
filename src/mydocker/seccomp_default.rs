//! The system calls that a container may make unless `--security-opt seccomp=` says otherwise: all
//! that programs have a use for. Left out are those that reach into the kernel as a whole (modules,
//! kexec, swap, keyrings, which are not divided by namespaces), those that have given root away more
//! than once (userfaultfd, io_uring), and obsolete ones. Some come back with the capability that
//! they need anyway. The choice follows what Docker documents of its profile ("Seccomp security
//! profiles for Docker").

use anyhow::Result;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompOperator as Operator, LinuxSyscallBuilder,
};

/// Allowed always.
const ALLOWED: &str = "\
_llseek _newselect accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget \
capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 \
clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect \
copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait \
epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 \
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat \
fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 \
futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd \
getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 \
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 \
getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 \
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup \
io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr \
listxattrat llistxattr lremovexattr lseek lsetxattr lsm_get_self_attr lsm_list_modules lstat \
lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat \
mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify \
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap \
mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep \
newfstatat nice oldfstat oldlstat oldolduname oldstat olduname open openat openat2 pause \
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll \
ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 \
ptrace pwrite64 pwritev pwritev2 read readahead readdir readlink readlinkat readv recvfrom \
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat \
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop \
semtimedop semtimedop_time64 sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list \
set_thread_area set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 \
setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr \
setxattrat sgetmask shmat shmctl shmdt shmget shutdown sigaction sigaltstack signal signalfd \
signalfd4 sigpending sigprocmask sigreturn sigsuspend socket socketcall socketpair splice \
ssetmask stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range \
syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink \
unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write \
writev";

/// Allowed with a capability.
const WITH_CAPABILITY: [(&str, &str); 14] = [
    (
        "CAP_SYS_ADMIN",
        "\
bpf fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    (
        "CAP_SYS_PTRACE",
        "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev",
    ),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    (
        "CAP_SYS_TIME",
        "settimeofday stime clock_settime clock_settime64",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
    ("CAP_PERFMON", "perf_event_open"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
];

/// The namespaces' flags of clone(2): CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// The execution domains that programs are run with: Linux, Linux with a 32-bit uname, both with the
/// layout that setarch(8) gives old programs, and the question for the present one.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The profile for a container with these capabilities (`CAP_SYS_ADMIN`).
pub(super) fn profile(capabilities: &[String]) -> Result<LinuxSeccomp> {
    let has = |name: &str| capabilities.iter().any(|held| held == name);
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut names = words(ALLOWED);
    for (capability, calls) in WITH_CAPABILITY {
        if has(capability) {
            names.extend(words(calls));
        }
    }
    let rule = || LinuxSyscallBuilder::default().action(Action::ScmpActAllow);
    let of = |name: &str| vec![name.to_owned()];
    let mut calls = Vec::new();
    for value in PERSONALITIES {
        let arg = first_argument(Operator::ScmpCmpEq, value, None)?;
        calls.push(rule().names(of("personality")).args([arg]).build()?);
    }
    if has("CAP_SYS_ADMIN") {
        names.extend(["clone".to_owned(), "clone3".to_owned()]);
    } else {
        let arg = first_argument(Operator::ScmpCmpMaskedEq, NEW_NAMESPACES, Some(0))?;
        calls.push(rule().names(of("clone")).args([arg]).build()?);
        // Its flags are behind a pointer, which no filter can follow: the C library falls back to
        // clone(2).
        let refused = rule().names(of("clone3")).action(Action::ScmpActErrno);
        calls.push(refused.errno_ret(ENOSYS).build()?);
    }
    names.sort_unstable();
    names.dedup();
    calls.push(rule().names(names).build()?);
    Ok(LinuxSeccompBuilder::default()
        .default_action(Action::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures([Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32])
        .syscalls(calls)
        .build()?)
}

/// A condition on the first argument of a call.
fn first_argument(op: Operator, value: u64, value_two: Option<u64>) -> Result<LinuxSeccompArg> {
    let arg = LinuxSeccompArgBuilder::default()
        .index(0_usize)
        .value(value);
    let arg = match value_two {
        Some(two) => arg.value_two(two),
        None => arg,
    };
    Ok(arg.op(op).build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_bring_their_calls() {
        let text = |held: &[String]| serde_json::to_string(&profile(held).unwrap()).unwrap();
        let plain = text(&[]);
        let admin = text(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(!plain.contains("\"mount\"") && admin.contains("\"mount\""));
        assert!(plain.contains("\"openat\"") && !admin.contains("\"kexec_load\""));
        assert!(profile(&[]).unwrap().syscalls().as_ref().unwrap().len() > 5);
    }
}
