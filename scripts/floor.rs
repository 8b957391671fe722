//! The floor of `scripts/bench`: what the kernel itself needs for a container of `runtime spec`,
//! and no more. clone3(2) with its five namespaces; its mounts, devices, masked and read-only
//! paths; pivot_root, capabilities, rlimit; a directory in each cgroup hierarchy; execve, wait,
//! rmdir. It reads no configuration, checks nothing that a runtime must check, and gives up at the
//! first error with the line's number.
//!
//! usage: floor ROOTFS PROGRAM

#![no_main]
#![allow(
    unsafe_code,
    clippy::undocumented_unsafe_blocks,
    reason = "a measuring stick, all system calls; nothing but the benchmark runs it"
)]

use libc::{c_char, c_int, c_long, c_void};
use std::ptr::{addr_of, addr_of_mut, null};

/// Fails with the number of the line that called.
macro_rules! must {
    ($call:expr) => {{
        let result = unsafe { $call } as c_long;
        if result < 0 {
            give_up(line!());
        }
        result as c_int
    }};
}

fn give_up(line: u32) -> ! {
    let mut text = *b"floor: line 0000 failed\n";
    for (at, place) in [(12, 1000), (13, 100), (14, 10), (15, 1)] {
        text[at] = b'0' + (line / place % 10) as u8;
    }
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        libc::_exit(1)
    }
}

const PATH: usize = 256;

/// `a` followed by `b`, as a C string.
fn join(a: &[u8], b: &[u8]) -> [u8; PATH] {
    let mut path = [0; PATH];
    path[..a.len()].copy_from_slice(a);
    path[a.len()..a.len() + b.len()].copy_from_slice(b);
    path
}

/// The name of its cgroups: several may run at once.
fn own_name() -> [u8; 14] {
    let mut name = *b"/floor-0000000";
    let mut pid = unsafe { libc::getpid() };
    for digit in name[7..].iter_mut().rev() {
        *digit = b'0' + (pid % 10) as u8;
        pid /= 10;
    }
    name
}

fn p(text: &[u8]) -> *const c_char {
    text.as_ptr().cast()
}

fn write_file(path: &[u8], text: &[u8]) {
    let fd = must!(libc::open(p(path), libc::O_WRONLY | libc::O_CLOEXEC));
    must!(libc::write(fd, text.as_ptr().cast(), text.len()));
    unsafe { libc::close(fd) };
}

/// The directories of the container in all hierarchies.
struct Groups {
    paths: [[u8; PATH]; 16],
    names: [[u8; 32]; 16],
    count: usize,
}

impl Groups {
    /// From /proc/self/mountinfo and /proc/self/cgroup, as every runtime has to find them.
    fn find() -> Groups {
        let mut groups = Groups {
            paths: [[0; PATH]; 16],
            names: [[0; 32]; 16],
            count: 0,
        };
        let (mut mounts, mut own) = ([0; 16384], [0; 4096]);
        let mounts = read_file(b"/proc/self/mountinfo\0", &mut mounts);
        let own = read_file(b"/proc/self/cgroup\0", &mut own);
        for line in mounts.split(|b| *b == b'\n') {
            let mut fields = line.split(|b| *b == b' ');
            let Some(point) = fields.nth(4) else { continue };
            if !line.windows(9).any(|part| part == b" - cgroup") {
                continue;
            }
            let name = point.rsplit(|b| *b == b'/').next().unwrap_or(b"");
            let below = own
                .split(|b| *b == b'\n')
                .find_map(|line| {
                    let mut parts = line.splitn(3, |b| *b == b':').skip(1);
                    let (names, path) = (parts.next()?, parts.next()?);
                    let names = names.strip_prefix(b"name=").unwrap_or(names);
                    let unified = names.is_empty() && (name == b"unified" || name == b"cgroup");
                    (names == name || unified).then_some(path)
                })
                .unwrap_or(b"/");
            let below = if below == b"/" { b"" } else { below };
            let dir = join(point, below);
            let dir = join(cstr(&dir), &own_name());
            groups.paths[groups.count] = dir;
            groups.names[groups.count][..name.len()].copy_from_slice(name);
            groups.count += 1;
        }
        groups
    }

    fn each(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..self.count).map(|i| (cstr(&self.paths[i]), cstr(&self.names[i])))
    }

    fn make(&self) {
        for (dir, name) in self.each() {
            must!(libc::mkdir(p(&join(dir, b"")), 0o755));
            if name == b"cpuset" {
                let parent = &dir[..dir.len() - own_name().len()];
                for file in [b"/cpuset.cpus", b"/cpuset.mems"] {
                    let mut text = [0; 512];
                    let text = read_file(&join(parent, file), &mut text);
                    write_file(&join(dir, file), text);
                }
            }
            if name == b"devices" {
                write_file(&join(dir, b"/devices.deny"), b"a");
                for rule in [
                    &b"b *:* m"[..],
                    b"c *:* m",
                    b"c 1:3 rwm",
                    b"c 1:5 rwm",
                    b"c 1:7 rwm",
                    b"c 1:8 rwm",
                    b"c 1:9 rwm",
                    b"c 5:0 rwm",
                    b"c 5:2 rwm",
                    b"c 136:* rwm",
                    b"c 10:200 rwm",
                ] {
                    write_file(&join(dir, b"/devices.allow"), rule);
                }
            }
        }
    }

    fn enter(&self) {
        for (dir, name) in self.each() {
            // A thread that moves itself by `tasks` waits for nobody (src/cgroup/attach.rs).
            let v2 = name == b"unified" || name == b"cgroup";
            let file = if v2 { &b"/cgroup.procs"[..] } else { b"/tasks" };
            write_file(&join(dir, file), b"0");
        }
    }

    fn remove(&self) {
        for (dir, _) in self.each() {
            must!(libc::rmdir(p(&join(dir, b""))));
        }
    }
}

fn cstr(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

fn read_file<'a>(path: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let fd = must!(libc::open(p(path), libc::O_RDONLY | libc::O_CLOEXEC));
    let mut length = 0;
    loop {
        let rest = &mut buffer[length..];
        let count = must!(libc::read(fd, rest.as_mut_ptr().cast(), rest.len())) as usize;
        if count == 0 {
            break;
        }
        length += count;
    }
    unsafe { libc::close(fd) };
    &buffer[..length]
}

fn mount(source: &[u8], target: &[u8], kind: &[u8], flags: u64, data: &[u8]) {
    must!(libc::mount(
        p(source),
        p(target),
        p(kind),
        flags,
        p(data).cast::<c_void>()
    ));
}

/// A read-only copy of the mount at `path`, on itself.
fn read_only(path: &[u8]) {
    let fd = unsafe { libc::open(p(path), libc::O_PATH | libc::O_CLOEXEC) };
    if fd >= 0 {
        let tree = clone_tree(fd, b"\0", libc::AT_EMPTY_PATH);
        set_read_only(tree);
        move_to(tree, path);
        unsafe { libc::close(fd) };
    }
}

fn clone_tree(at: c_int, path: &[u8], flags: c_int) -> c_int {
    let flags = flags as u32 | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    must!(libc::syscall(libc::SYS_open_tree, at, p(path), flags))
}

fn set_read_only(tree: c_int) {
    let mut attr: libc::mount_attr = unsafe { std::mem::zeroed() };
    attr.attr_set = libc::MOUNT_ATTR_RDONLY;
    let (size, empty) = (size_of::<libc::mount_attr>(), libc::AT_EMPTY_PATH);
    must!(libc::syscall(
        libc::SYS_mount_setattr,
        tree,
        p(b"\0"),
        empty,
        addr_of!(attr),
        size
    ));
}

fn move_to(tree: c_int, path: &[u8]) {
    let (at, flags) = (libc::AT_FDCWD, 0x4 /* MOVE_MOUNT_F_EMPTY_PATH */);
    must!(libc::syscall(
        libc::SYS_move_mount,
        tree,
        p(b"\0"),
        at,
        p(path),
        flags
    ));
    unsafe { libc::close(tree) };
}

fn mounts(groups: &Groups) {
    let (nosuid, noexec, nodev) = (libc::MS_NOSUID, libc::MS_NOEXEC, libc::MS_NODEV);
    mount(b"proc\0", b"proc\0", b"proc\0", 0, b"\0");
    let flags = nosuid | libc::MS_STRICTATIME;
    mount(
        b"tmpfs\0",
        b"dev\0",
        b"tmpfs\0",
        flags,
        b"mode=755,size=65536k\0",
    );
    for dir in [&b"dev/pts\0"[..], b"dev/shm\0", b"dev/mqueue\0"] {
        must!(libc::mkdir(p(dir), 0o755));
    }
    let data = b"newinstance,ptmxmode=0666,mode=0620,gid=5\0";
    mount(
        b"devpts\0",
        b"dev/pts\0",
        b"devpts\0",
        nosuid | noexec,
        data,
    );
    let all = nosuid | noexec | nodev;
    mount(
        b"shm\0",
        b"dev/shm\0",
        b"tmpfs\0",
        all,
        b"mode=1777,size=65536k\0",
    );
    mount(b"mqueue\0", b"dev/mqueue\0", b"mqueue\0", all, b"\0");
    mount(
        b"sysfs\0",
        b"sys\0",
        b"sysfs\0",
        all | libc::MS_RDONLY,
        b"\0",
    );
    mount(
        b"tmpfs\0",
        b"sys/fs/cgroup\0",
        b"tmpfs\0",
        all,
        b"mode=755\0",
    );
    for (dir, name) in groups.each() {
        let target = join(b"sys/fs/cgroup/", name);
        must!(libc::mkdir(p(&target), 0o755));
        let tree = clone_tree(libc::AT_FDCWD, &join(dir, b""), 0);
        set_read_only(tree);
        move_to(tree, &target);
    }
    devices();
}

fn devices() {
    for (name, minor) in [
        (&b"dev/null\0"[..], (1, 3)),
        (b"dev/zero\0", (1, 5)),
        (b"dev/full\0", (1, 7)),
        (b"dev/random\0", (1, 8)),
        (b"dev/urandom\0", (1, 9)),
        (b"dev/tty\0", (5, 0)),
    ] {
        must!(libc::mknod(
            p(name),
            libc::S_IFCHR | 0o666,
            libc::makedev(minor.0, minor.1)
        ));
    }
    for (to, name) in [
        (&b"pts/ptmx\0"[..], &b"dev/ptmx\0"[..]),
        (b"/proc/self/fd\0", b"dev/fd\0"),
        (b"/proc/self/fd/0\0", b"dev/stdin\0"),
        (b"/proc/self/fd/1\0", b"dev/stdout\0"),
        (b"/proc/self/fd/2\0", b"dev/stderr\0"),
    ] {
        must!(libc::symlink(p(to), p(name)));
    }
}

fn masks() {
    for path in [
        &b"/proc/bus\0"[..],
        b"/proc/fs\0",
        b"/proc/irq\0",
        b"/proc/sys\0",
        b"/proc/sysrq-trigger\0",
    ] {
        read_only(path);
    }
    let null = must!(libc::open(
        p(b"/dev/null\0"),
        libc::O_PATH | libc::O_CLOEXEC
    ));
    for path in [
        &b"/proc/kcore\0"[..],
        b"/proc/keys\0",
        b"/proc/latency_stats\0",
        b"/proc/timer_list\0",
        b"/proc/timer_stats\0",
        b"/proc/sched_debug\0",
    ] {
        if unsafe { libc::access(p(path), libc::F_OK) } == 0 {
            move_to(clone_tree(null, b"\0", libc::AT_EMPTY_PATH), path);
        }
    }
    for path in [
        &b"/proc/acpi\0"[..],
        b"/proc/asound\0",
        b"/proc/scsi\0",
        b"/sys/firmware\0",
    ] {
        if unsafe { libc::access(p(path), libc::F_OK) } == 0 {
            mount(b"tmpfs\0", path, b"tmpfs\0", libc::MS_RDONLY, b"\0");
        }
    }
}

/// The capabilities of the default bundle: audit_write, kill, net_bind_service.
const CAPS: u32 = 1 << 29 | 1 << 5 | 1 << 10;

fn rights() {
    let limit = libc::rlimit {
        rlim_cur: 1024,
        rlim_max: 1024,
    };
    must!(libc::setrlimit(libc::RLIMIT_NOFILE, addr_of!(limit)));
    must!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    for cap in 0..41 {
        if CAPS.checked_shr(cap).unwrap_or(0) & 1 == 0 {
            must!(libc::prctl(libc::PR_CAPBSET_DROP, cap, 0, 0, 0));
        }
    }
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets: [u32; 6] = [CAPS, CAPS, 0, 0, 0, 0];
    must!(libc::syscall(
        libc::SYS_capset,
        addr_of!(header),
        addr_of!(sets)
    ));
}

fn child(groups: &Groups, rootfs: *const c_char, program: *const c_char) -> ! {
    groups.enter();
    must!(libc::setsid());
    let private = libc::MS_REC | libc::MS_SLAVE;
    must!(libc::mount(null(), p(b"/\0"), null(), private, null()));
    let bind = libc::MS_BIND | libc::MS_REC;
    must!(libc::mount(rootfs, rootfs, null(), bind, null()));
    must!(libc::chdir(rootfs));
    mounts(groups);
    must!(libc::syscall(libc::SYS_pivot_root, p(b".\0"), p(b".\0")));
    must!(libc::umount2(p(b".\0"), libc::MNT_DETACH));
    must!(libc::chdir(p(b"/\0")));
    must!(libc::sethostname(p(b"floor\0"), 5));
    let root = must!(libc::open(p(b"/\0"), libc::O_PATH | libc::O_CLOEXEC));
    set_read_only(root);
    masks();
    rights();
    let args = [program, null()];
    let env = [
        p(b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\0"),
        null(),
    ];
    must!(libc::execve(program, args.as_ptr(), env.as_ptr()));
    give_up(line!())
}

#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    if argc != 3 {
        give_up(line!());
    }
    let (rootfs, program) = unsafe { (*argv.add(1), *argv.add(2)) };
    let groups = Groups::find();
    groups.make();
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let mut pidfd: c_int = -1;
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_PIDFD;
    args.flags = namespaces as u32 as u64;
    args.pidfd = addr_of_mut!(pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    let pid = must!(libc::syscall(
        libc::SYS_clone3,
        addr_of!(args),
        size_of::<libc::clone_args>()
    ));
    if pid == 0 {
        child(&groups, rootfs, program);
    }
    let mut status = 0;
    must!(libc::waitpid(pid, addr_of_mut!(status), 0));
    groups.remove();
    libc::WEXITSTATUS(status)
}
