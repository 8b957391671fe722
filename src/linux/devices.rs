//! Device nodes (config-linux.md, "Devices" and "Default Devices").

use super::Problem;
use super::mounts::{MountStep, check_point};
use super::root::{LastDir, Root};
use crate::sys::fds;
use crate::sys::mount as sys;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDeviceType, Spec};
use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A node that the container shall have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Where, in the container.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// The numbers; 0 for a FIFO.
    pub major: u64,
    /// See `major`.
    pub minor: u64,
    /// Permission bits; none given means 0666, or what a bound node has.
    pub mode: Option<u32>,
    /// The owner; none given means root, or what a bound node has.
    pub uid: Option<u32>,
    /// The group; see `uid`.
    pub gid: Option<u32>,
    /// A user namespace may not make nodes; there the host's node is bound.
    pub bind: bool,
}

/// The devices that every container has.
const DEFAULTS: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// The links that every container has (config-linux.md, "Default Devices" and "/dev symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// The devices of the spec and the default ones that it does not name. A /dev that is bound from
/// elsewhere, the host's say, is not ours to change.
pub fn plan(spec: &Spec, bind: bool, problems: &mut Vec<Problem>) -> Vec<MountStep> {
    let mut devices = Vec::new();
    let configured = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.devices().as_deref());
    for (index, device) in configured.unwrap_or_default().iter().enumerate() {
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => {
                problems.push(Problem {
                    path: format!("linux.devices[{index}].type"),
                    what: "\"a\" stands for all kinds in a rule; a node is one of b, c, u and p"
                        .into(),
                });
                continue;
            }
        };
        let fifo = kind == SFlag::S_IFIFO;
        devices.push(Device {
            path: device.path().clone(),
            kind: kind.bits(),
            major: if fifo { 0 } else { device.major() as u64 },
            minor: if fifo { 0 } else { device.minor() as u64 },
            mode: device.file_mode().map(|mode| mode & 0o7777),
            uid: device.uid(),
            gid: device.gid(),
            bind: bind && !fifo,
        });
    }
    if dev_is_bound(spec) {
        return devices.into_iter().map(MountStep::Device).collect();
    }
    for (path, major, minor) in DEFAULTS {
        if devices.iter().all(|device| device.path != Path::new(path)) {
            devices.push(default_device(path, major, minor, bind));
        }
    }
    let links = LINKS.iter().map(|(target, link)| MountStep::Symlink {
        target: PathBuf::from(target),
        link: PathBuf::from(link),
    });
    devices
        .into_iter()
        .map(MountStep::Device)
        .chain(links)
        .collect()
}

fn default_device(path: &str, major: u64, minor: u64, bind: bool) -> Device {
    Device {
        path: PathBuf::from(path),
        kind: SFlag::S_IFCHR.bits(),
        major,
        minor,
        mode: None,
        uid: None,
        gid: None,
        bind,
    }
}

fn dev_is_bound(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| {
        let bound = mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|word| word == "bind" || word == "rbind");
        bound
            && mount
                .destination()
                .components()
                .eq(Path::new("/dev").components())
    })
}

/// Makes a node, exactly as asked whatever the umask.
pub fn apply(root: &Root, device: &Device, dir: &mut LastDir) -> Result<()> {
    let what = || format!("device {}", device.path.display());
    if device.bind {
        return bind(root, device).with_context(what);
    }
    make(root, device, dir).with_context(what)
}

fn make(root: &Root, device: &Device, dir: &mut LastDir) -> Result<()> {
    let (parent, name) = root.parent_again(&device.path, dir)?;
    let kind = SFlag::from_bits_truncate(device.kind);
    let mode = Mode::from_bits_truncate(device.mode.unwrap_or(0o666));
    let number = makedev(device.major, device.minor);
    let is_new = match mknodat(parent, name, kind, mode, number) {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(Errno::EPERM) => return bind(root, device),
        Err(error) => return Err(error).context("mknod"),
    };
    if is_new && device.uid.is_none() && device.gid.is_none() {
        return Ok(());
    }
    // By descriptor from here on: who shares the directory could exchange the name for a link that
    // leads out.
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let node = openat(parent, name, flags, Mode::empty()).context("open it")?;
    let found = fstat(&node).context("stat it")?;
    if found.st_mode & libc::S_IFMT != device.kind || found.st_rdev != number {
        bail!("there is another file of that name in the image");
    }
    if found.st_mode & 0o7777 != mode.bits() {
        let place = fds::path(&node);
        fchmodat(
            AT_FDCWD,
            place.as_path(),
            mode,
            FchmodatFlags::FollowSymlink,
        )
        .context("set its mode")?;
    }
    if device.uid.is_some() || device.gid.is_some() {
        let (uid, gid) = (device.uid.map(Uid::from_raw), device.gid.map(Gid::from_raw));
        fchownat(&node, "", uid, gid, AtFlags::AT_EMPTY_PATH).context("set its owner")?;
    }
    Ok(())
}

/// Binds the host's node of the same path, or if there is none, of the same numbers: it must be the
/// same device. What it is owned by and who may use it cannot be changed then: a wish for something
/// else is an error.
fn bind(root: &Root, device: &Device) -> Result<()> {
    let clone = |path: &Path| {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC;
        sys::open_tree(None, &path, flags)
    };
    let tree = clone(&of_host(device)).context("bind it from the host")?;
    let found = fstat(&tree).context("stat it")?;
    let (host, asked) = (
        (major(found.st_rdev), minor(found.st_rdev)),
        (device.major, device.minor),
    );
    if found.st_mode & libc::S_IFMT != device.kind || host != asked {
        bail!(
            "a user namespace cannot make nodes, and the host's is another device: {}:{}, not {}:{}",
            host.0,
            host.1,
            asked.0,
            asked.1
        );
    }
    let mode = found.st_mode & 0o7777;
    if device.mode.is_some_and(|wanted| wanted != mode) {
        bail!("a user namespace cannot make nodes, and the host's has mode {mode:o}");
    }
    let point = root.create_file(&device.path, 0o644)?;
    check_point(&point, &device.path)?;
    sys::move_mount(tree.as_fd(), point.as_fd()).context("attach it")
}

/// Where the host has the device that is bound: at the same path, or if nothing is there, where its
/// numbers lead.
pub fn of_host(device: &Device) -> PathBuf {
    let same = &device.path;
    match std::fs::symlink_metadata(same) {
        Err(error) if error.kind() == ErrorKind::NotFound => name_of_host(device),
        _ => None,
    }
    .unwrap_or_else(|| same.clone())
}

/// What the kernel calls the device on the host (sysfs, "uevent").
fn name_of_host(device: &Device) -> Option<PathBuf> {
    let kind = match SFlag::from_bits_truncate(device.kind) {
        SFlag::S_IFBLK => "block",
        _ => "char",
    };
    let file = format!("/sys/dev/{kind}/{}:{}/uevent", device.major, device.minor);
    let text = std::fs::read_to_string(file).ok()?;
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

/// Makes one of the links in /dev. What the image or a mount has put there already is replaced if
/// it is a link, and left if it is not.
pub fn link(root: &Root, target: &Path, link: &Path, dir: &mut LastDir) -> Result<()> {
    let what = || format!("link {} to {}", target.display(), link.display());
    let (parent, name) = root.parent_again(target, dir)?;
    match symlinkat(link, parent, name) {
        Err(Errno::EEXIST) => {}
        other => return other.with_context(what),
    }
    let found = nix::fcntl::readlinkat(parent, name);
    if found.as_deref() == Ok(link.as_os_str()) || found == Err(Errno::EINVAL) {
        return Ok(());
    }
    unlinkat(parent, name, nix::unistd::UnlinkatFlags::NoRemoveDir).with_context(what)?;
    symlinkat(link, parent, name).with_context(what)
}

/// Puts the terminal on /dev/console. The slave is bound by its descriptor: a name in a devpts that
/// the container could reach would be up to the container (CVE-2025-52565).
pub fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let bind = || -> Result<()> {
        let path = Path::new("/dev/console");
        let point = match root.resolve_without_links(path) {
            Err(Errno::ENOENT) => root.create_file(path, 0o620)?,
            other => other.context("it must not be a link, nor behind one")?,
        };
        check_point(&point, path)?;
        let flags = sys::OPEN_TREE_CLONE | sys::OPEN_TREE_CLOEXEC | sys::AT_EMPTY_PATH;
        let tree = sys::open_tree(Some(slave), c"", flags).context("open_tree of the terminal")?;
        sys::move_mount(tree.as_fd(), point.as_fd()).context("attach the terminal")
    };
    bind().context("/dev/console")
}

/// The container's /dev/null, checked to be the real one (CVE-2025-31133).
pub fn null(root: &Root) -> Result<OwnedFd> {
    let how = nix::fcntl::OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(
            nix::fcntl::ResolveFlag::RESOLVE_IN_ROOT | nix::fcntl::ResolveFlag::RESOLVE_NO_SYMLINKS,
        );
    let fd = nix::fcntl::openat2(root.as_fd(), "dev/null", how).context("open /dev/null")?;
    let found = fstat(&fd).context("stat /dev/null")?;
    if found.st_mode & libc::S_IFMT != libc::S_IFCHR || found.st_rdev != makedev(1, 3) {
        bail!("/dev/null in the container is not the null device");
    }
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rest: &str) -> Spec {
        serde_json::from_str(&format!(r#"{{"ociVersion":"1.2.0"{rest}}}"#)).unwrap()
    }

    #[test]
    fn the_spec_wins_over_the_defaults() {
        let spec = spec(
            r#","linux":{"devices":[{"path":"/dev/null","type":"c","major":1,"minor":3,"fileMode":384}]}"#,
        );
        let mut problems = Vec::new();
        let steps = plan(&spec, false, &mut problems);
        let nulls: Vec<_> = steps
            .iter()
            .filter_map(|step| match step {
                MountStep::Device(device) if device.path == Path::new("/dev/null") => {
                    Some(device.mode)
                }
                _ => None,
            })
            .collect();
        assert_eq!(nulls, [Some(0o600)]);
        assert_eq!(steps.len(), DEFAULTS.len() + LINKS.len());
        assert!(problems.is_empty());
    }

    #[test]
    fn a_bound_dev_is_left_alone() {
        let spec =
            spec(r#","mounts":[{"destination":"/dev/","source":"/dev","options":["rbind"]}]"#);
        assert!(plan(&spec, false, &mut Vec::new()).is_empty());
    }

    #[test]
    fn all_kinds_at_once_are_no_node() {
        let spec = spec(r#","linux":{"devices":[{"path":"/dev/x","type":"a"}]}"#);
        let mut problems = Vec::new();
        plan(&spec, false, &mut problems);
        assert_eq!(problems.len(), 1);
    }
}
