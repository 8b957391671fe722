//! The probe: a static program that says, as one JSON object, what a process in a container sees of
//! itself. Tests compare single facts. With a subcommand it does one thing instead:
//!
//! ```text
//! probe call NUMBER        makes a system call with zeros as arguments: prints its errno
//! probe open PATH          opens a file for reading and writing: prints errno, 0 if it can
//! probe alloc BYTES        touches that much memory
//! probe exchange A B       exchanges two files over and over, until it is killed
//! probe watch FILE         looks into every other process until FILE is there: prints what led elsewhere
//! probe send TEXT...       sends a datagram for each TEXT to $NOTIFY_SOCKET, as sd_notify(3) does
//! ```

// It speaks to whoever runs it, and may end where nobody listens.
#![allow(clippy::print_stdout)]

use nix::sys::stat::{Mode, SFlag, major, minor, umask};
use serde_json::{Map, Value, json};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [_, "call", number] => {
            let number = number.parse().unwrap_or(-1);
            println!("{}", containers::sys::process::bare_call(number));
        }
        [_, "open", path] => {
            let opened = fs::File::options().read(true).write(true).open(path);
            println!(
                "{}",
                opened.map_or_else(|e| e.raw_os_error().unwrap_or(-1), |_| 0)
            );
        }
        [_, "alloc", bytes] => {
            let memory = std::hint::black_box(vec![1u8; bytes.parse().unwrap_or(0)]);
            println!("{}", memory.iter().step_by(4096).count());
        }
        [_, "send", texts @ ..] => {
            let path = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
            for text in texts {
                let sent = UnixDatagram::unbound().and_then(|s| s.send_to(text.as_bytes(), &path));
                if let Err(error) = sent {
                    println!("probe: send to {}: {error}", path.display());
                    return ExitCode::FAILURE;
                }
            }
        }
        [_, "watch", end] => println!("{:?}", watch(end)),
        [_, "exchange", one, other] => exchange(one, other),
        [_] => println!("{}", facts()),
        _ => {
            println!("probe: unknown arguments {:?}", &args[1..]);
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The ways out that processes of this pid namespace have had: a root or a working directory that is
/// not ours, an open directory with another one above it. proc(5): they may be followed with
/// CAP_SYS_PTRACE.
fn watch(end: &str) -> std::collections::BTreeSet<String> {
    let place = |path: &str| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let (root, mut ways) = (place("/"), std::collections::BTreeSet::new());
    let is_number =
        |name: &std::ffi::OsStr| name.to_string_lossy().parse::<u32>().is_ok_and(|n| n > 1);
    while !fs::exists(end).unwrap_or(true) {
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if !is_number(&process.file_name()) {
                continue;
            }
            let dir = process.path().display().to_string();
            for name in ["root", "cwd"] {
                let found = place(&format!("{dir}/{name}"));
                if found.is_some() && found != root {
                    ways.insert(name.to_owned());
                }
            }
            for fd in fs::read_dir(format!("{dir}/fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let target = fs::read_link(fd.path()).unwrap_or_default();
                let path = fd.path().display().to_string();
                let (here, above) = (place(&path), place(&format!("{path}/..")));
                if !target.starts_with("/proc") && above.is_some() && above != here && here != root
                {
                    ways.insert(target.display().to_string());
                }
            }
        }
    }
    ways
}

fn exchange(one: &str, other: &str) {
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    loop {
        // Another probe may have one of them under its hands.
        let _ = renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE);
    }
}

fn facts() -> Value {
    let status = status();
    let mask = umask(Mode::empty());
    umask(mask);
    json!({
        "pid": std::process::id(),
        "uid": nix::unistd::getuid().as_raw(),
        "gid": nix::unistd::getgid().as_raw(),
        "groups": nix::unistd::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect::<Vec<_>>(),
        "umask": format!("{:04o}", mask.bits()),
        "cwd": std::env::current_dir().unwrap_or_default(),
        "env": std::env::vars().collect::<std::collections::BTreeMap<_, _>>(),
        "hostname": read("/proc/sys/kernel/hostname"),
        "domainname": read("/proc/sys/kernel/domainname"),
        "capabilities": capabilities(&status),
        "no_new_privs": status.get("NoNewPrivs").cloned().unwrap_or_default(),
        "seccomp": status.get("Seccomp").cloned().unwrap_or_default(),
        "cpus": status.get("Cpus_allowed_list").cloned().unwrap_or_default(),
        "limits": limits(),
        "oom_score_adj": read("/proc/self/oom_score_adj"),
        "namespaces": namespaces(),
        "mounts": mounts(),
        "devices": devices(),
        "uid_map": read("/proc/self/uid_map").split_whitespace().collect::<Vec<_>>().join(" "),
        "descriptors": descriptors(),
        "terminal": nix::unistd::isatty(std::io::stdout()).unwrap_or(false),
        "personality": read("/proc/self/personality"),
        "schedule": schedule(),
        "time_offsets": read("/proc/self/timens_offsets").split_whitespace().collect::<Vec<_>>().join(" "),
        "sysctl": sysctl(),
        "interfaces": names("/sys/class/net"),
        "root": names("/"),
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// proc_pid_status(5)
fn status() -> Map<String, Value> {
    read("/proc/self/status")
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().into()))
        .collect()
}

fn capabilities(status: &Map<String, Value>) -> Value {
    let set = |name: &str| -> Vec<String> {
        let text = status.get(name).and_then(Value::as_str).unwrap_or("0");
        let bits = u64::from_str_radix(text, 16).unwrap_or(0);
        (0..64)
            .filter(|n| bits & (1 << n) != 0)
            .map(|n| containers::linux::caps::name(n).unwrap_or_else(|| n.to_string()))
            .collect()
    };
    json!({
        "bounding": set("CapBnd"), "effective": set("CapEff"), "permitted": set("CapPrm"),
        "inheritable": set("CapInh"), "ambient": set("CapAmb"),
    })
}

/// proc_pid_limits(5): `Max open files  1024  2048  files`
fn limits() -> Value {
    let mut all = Map::new();
    for line in read("/proc/self/limits").lines().skip(1) {
        let Some((name, rest)) = line.split_at_checked(26) else {
            continue;
        };
        let values: Vec<&str> = rest.split_whitespace().take(2).collect();
        let name = name.trim().trim_start_matches("Max ").to_owned();
        all.insert(name, json!(values.join(" ")));
    }
    all.into()
}

fn namespaces() -> Value {
    names("/proc/self/ns")
        .into_iter()
        .map(|name| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).unwrap_or_default();
            (name, Value::from(link.display().to_string()))
        })
        .collect::<Map<_, _>>()
        .into()
}

/// proc_pid_mountinfo(5), by the place of the last mount there.
fn mounts() -> Value {
    let mut all = Map::new();
    for line in read("/proc/self/mountinfo").lines() {
        let Some((head, tail)) = line.split_once(" - ") else {
            continue;
        };
        let head: Vec<&str> = head.split(' ').collect();
        let tail: Vec<&str> = tail.split(' ').collect();
        let options: Vec<&str> = head[5].split(',').collect();
        let has = |name: &str| options.contains(&name);
        let tag = |name: &str| head[6..].iter().any(|field| field.starts_with(name));
        all.insert(
            head[4].to_owned(),
            json!({
                "type": tail[0],
                "ro": has("ro"), "nosuid": has("nosuid"), "nodev": has("nodev"),
                "noexec": has("noexec"), "relatime": has("relatime"), "noatime": has("noatime"),
                "shared": tag("shared:"), "slave": tag("master:"), "unbindable": tag("unbindable"),
                "data": tail.get(2).unwrap_or(&""),
            }),
        );
    }
    all.into()
}

fn devices() -> Value {
    let mut all = Map::new();
    for name in names("/dev") {
        let path = format!("/dev/{name}");
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        let kind = SFlag::from_bits_truncate(found.mode() & SFlag::S_IFMT.bits());
        let described = match kind {
            SFlag::S_IFCHR => format!("c {}:{}", major(found.rdev()), minor(found.rdev())),
            SFlag::S_IFBLK => format!("b {}:{}", major(found.rdev()), minor(found.rdev())),
            SFlag::S_IFIFO => "p".to_owned(),
            SFlag::S_IFLNK => fs::read_link(&path)
                .unwrap_or_default()
                .display()
                .to_string(),
            _ => continue,
        };
        all.insert(
            name,
            json!({
                "is": described, "mode": format!("{:04o}", found.mode() & 0o7777),
                "owner": format!("{}:{}", found.uid(), found.gid()),
            }),
        );
    }
    all.into()
}

fn descriptors() -> Vec<String> {
    let mut open = names("/proc/self/fd");
    // That of the directory that is being read.
    open.retain(|name| fs::read_link(format!("/proc/self/fd/{name}")).is_ok());
    open
}

/// Policy, realtime priority and nice value: fields 41, 40 and 19 of proc_pid_stat(5).
fn schedule() -> Value {
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ')
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    json!({"policy": field(41), "priority": field(40), "nice": field(19),
           "io": containers::sys::sched::ioprio_get().unwrap_or(-1)})
}

fn sysctl() -> Value {
    json!({
        "net.ipv4.ip_forward": read("/proc/sys/net/ipv4/ip_forward"),
        "net.ipv4.ping_group_range": read("/proc/sys/net/ipv4/ping_group_range"),
        "kernel.msgmax": read("/proc/sys/kernel/msgmax"),
        "fs.mqueue.msg_max": read("/proc/sys/fs/mqueue/msg_max"),
    })
}

fn names(dir: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
