//! What cgroup hierarchies this machine has, and where this process is in each. Read once.

use super::Layout;
use crate::sys::fds;
use anyhow::{Context, Result, bail};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};
use std::path::{Component, Path, PathBuf};

/// The cgroup hierarchies mounted on this machine and this process's place in each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub(super) layout: Layout,
    pub(super) hierarchies: Vec<Hierarchy>,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Its controllers as the kernel names them, `name=systemd` for a named one; empty for v2.
    pub(super) controllers: Vec<String>,
    pub(super) mount_point: PathBuf,
    /// Which part of the hierarchy is mounted there, `/` for all.
    pub(super) root: PathBuf,
    /// Where this process is, below the mount point: `/` or `/a/b`.
    pub(super) own: PathBuf,
    /// It is mounted read-only.
    pub(super) read_only: bool,
}

impl Host {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup` (cgroups(7)). Fails when no hierarchy
    /// is mounted at all.
    pub fn probe() -> Result<Host> {
        let mounts = fds::read("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
        let own = fds::read("/proc/self/cgroup").context("read /proc/self/cgroup")?;
        Host::from_proc(&mounts, &own)
    }

    /// Which file interfaces the hierarchies have.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Whether all hierarchies are mounted so that cgroups can be made.
    pub(super) fn is_writable(&self) -> bool {
        self.hierarchies.iter().all(|h| !h.read_only)
    }

    /// The controllers that this machine has, by their names in its layout.
    pub fn controllers(&self) -> Vec<String> {
        if self.layout != Layout::V2 {
            let of_v1 = self.hierarchies.iter().flat_map(|h| h.controllers.clone());
            return of_v1.filter(|name| !name.starts_with("name=")).collect();
        }
        let files = self
            .hierarchies
            .iter()
            .map(|h| h.mount_point.join("cgroup.controllers"));
        let texts = files.map(|file| crate::sys::fds::read_to_string(file).unwrap_or_default());
        let all: String = texts.collect();
        all.split_whitespace().map(str::to_string).collect()
    }

    /// What of the v2 tree is delegated to this process (cgroup-v2.rst, "Delegation"): the topmost cgroup,
    /// from its own up, in which it may make others and move its processes to. As a path below the
    /// mount point, and as a directory. `None` with v1, of which nothing can be delegated safely.
    pub fn delegated(&self) -> Option<(PathBuf, PathBuf)> {
        let may = |path: &Path| {
            let access = AccessFlags::W_OK;
            faccessat(AT_FDCWD, path, access, AtFlags::AT_EACCESS).is_ok()
        };
        let (own, mount_point) = self.own_of_v2()?;
        let full = |path: &Path| super::join(mount_point, path);
        let is_ours = |path: &&Path| {
            let dir = full(path);
            let files = ["cgroup.procs", "cgroup.subtree_control"];
            may(&dir) && files.iter().all(|file| may(&dir.join(file)))
        };
        let top = own.ancestors().take_while(is_ours).last()?;
        Some((top.to_owned(), full(top)))
    }

    fn own_of_v2(&self) -> Option<(&Path, &Path)> {
        let v2 = self
            .hierarchies
            .iter()
            .filter(|_| self.layout == Layout::V2);
        v2.map(|h| (h.own.as_path(), h.mount_point.as_path()))
            .next()
    }

    /// The v2 cgroup that is delegated to this user's systemd, if there is one that answers: as
    /// [`Host::delegated`].
    pub fn user_manager_tree(&self) -> Option<(PathBuf, PathBuf)> {
        let (_, mount_point) = self.own_of_v2()?;
        let path = super::systemd::user_tree().ok()?;
        let dir = super::join(mount_point, &path);
        dir.exists().then_some((path, dir))
    }

    /// The same from the text of the two files.
    pub(super) fn from_proc(mountinfo: &[u8], cgroup: &[u8]) -> Result<Host> {
        let places = places(cgroup);
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        for mount in mountinfo.split(|b| *b == b'\n').filter_map(parse_mount) {
            // A hierarchy can be mounted more than once (a container's view of itself, say); the
            // first mount that shows the place of this process serves.
            if hierarchies
                .iter()
                .any(|h| h.controllers == mount.controllers)
            {
                continue;
            }
            let place = places
                .iter()
                .find(|(controllers, _)| *controllers == mount.controllers);
            let own = match place {
                Some((_, path)) => below(path, &mount.root),
                // Mounted, but /proc/self/cgroup does not know it: disabled meanwhile.
                None => continue,
            };
            hierarchies.push(Hierarchy {
                controllers: mount.controllers,
                mount_point: mount.point,
                root: mount.root,
                own,
                read_only: mount.read_only,
            });
        }
        let v1 = hierarchies.iter().any(|h| !h.controllers.is_empty());
        let v2 = hierarchies.iter().any(|h| h.controllers.is_empty());
        let layout = match (v1, v2) {
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::V1,
            (false, true) => Layout::V2,
            (false, false) => bail!("no cgroup hierarchy is mounted on this machine"),
        };
        Ok(Host {
            layout,
            hierarchies,
        })
    }
}

struct Mount {
    controllers: Vec<String>,
    point: PathBuf,
    root: PathBuf,
    read_only: bool,
}

/// A line of mountinfo when it is a cgroup mount (proc_pid_mountinfo(5)).
fn parse_mount(line: &[u8]) -> Option<Mount> {
    // Most lines are of other file systems: decide by the part after " - " before anything else.
    let at = line.windows(3).position(|w| w == b" - ")?;
    let (head, tail) = (&line[..at], &line[at + 3..]);
    let v2 = tail.starts_with(b"cgroup2 ");
    if !v2 && !tail.starts_with(b"cgroup ") {
        return None;
    }
    let head = std::str::from_utf8(head).ok()?;
    let tail = std::str::from_utf8(tail).ok()?;
    let mut fields = head.split(' ').skip(3);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let of_mount = fields.next()?;
    let options = tail.split(' ').nth(2)?;
    let mut words = of_mount.split(',').chain(options.split(','));
    let controllers = if v2 {
        Vec::new()
    } else {
        sorted(options.split(',').filter(|o| is_controller(o)))
    };
    Some(Mount {
        controllers,
        point: PathBuf::from(point),
        root: PathBuf::from(root),
        read_only: words.any(|word| word == "ro"),
    })
}

/// The super options of a v1 mount that are no controllers (kernel/cgroup/cgroup-v1.c).
fn is_controller(option: &str) -> bool {
    !matches!(
        option,
        "rw" | "ro" | "noprefix" | "clone_children" | "xattr" | "cpuset_v2_mode" | "favordynmods"
    ) && !option.starts_with("release_agent=")
        && !option.starts_with("memory_")
        && option != "nsdelegate"
}

/// The cgroups of a process as the kernel names them: each controller (a v1 hierarchy without one
/// has `name=…`, v2 the empty name), and the path in its hierarchy.
pub fn kernel_paths(pid: i32) -> Result<Vec<(String, PathBuf)>> {
    let file = format!("/proc/{pid}/cgroup");
    let text = std::fs::read(&file).with_context(|| format!("read {file}"))?;
    let mut paths = Vec::new();
    for (controllers, path) in places(&text) {
        if controllers.is_empty() {
            paths.push((String::new(), path));
        } else {
            paths.extend(controllers.into_iter().map(|name| (name, path.clone())));
        }
    }
    Ok(paths)
}

/// The lines of /proc/<pid>/cgroup: controllers (none: v2) and path.
pub(super) fn places(text: &[u8]) -> Vec<(Vec<String>, PathBuf)> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':');
            let _hierarchy = parts.next()?;
            let controllers = parts.next()?;
            let path = parts.next()?;
            let path = path.strip_suffix(" (deleted)").unwrap_or(path);
            Some((
                sorted(controllers.split(',').filter(|c| !c.is_empty())),
                PathBuf::from(path),
            ))
        })
        .collect()
}

fn sorted<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = names.map(str::to_string).collect();
    names.sort_unstable();
    names
}

/// `path` of /proc/self/cgroup as seen below a mount whose root is `root`. Where the mount shows
/// another part of the tree, its top stands in.
pub(super) fn below(path: &Path, root: &Path) -> PathBuf {
    if path.components().any(|c| c == Component::ParentDir) {
        return PathBuf::from("/");
    }
    match path.strip_prefix(root) {
        Ok(rest) => Path::new("/").join(rest),
        Err(_) => PathBuf::from("/"),
    }
}

/// Undoes the octal escapes of mountinfo.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_string();
    }
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
23 1 0:20 / / rw - ext4 /dev/vda rw\n\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n\
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";
    const PLACES: &str = "9:name=systemd:/\n4:memory:/process_api/65\n2:cpuacct,cpu:/a\n0::/\n";

    #[test]
    fn hybrid_is_read() {
        let host = Host::from_proc(HYBRID.as_bytes(), PLACES.as_bytes()).expect("probe");
        assert_eq!(host.layout(), Layout::Hybrid);
        let shown: Vec<_> = host
            .hierarchies
            .iter()
            .map(|h| (h.controllers.join(","), h.own.display().to_string()))
            .collect();
        let expected = [
            ("cpu,cpuacct", "/a"),
            ("memory", "/process_api/65"),
            ("name=systemd", "/"),
            ("", "/"),
        ];
        assert_eq!(shown, expected.map(|(c, p)| (c.to_string(), p.to_string())));
    }

    #[test]
    fn v2_alone_below_another_root() {
        let host = Host::from_proc(
            b"1 2 0:3 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            b"0::/docker/x/init\n",
        )
        .expect("probe");
        assert_eq!(host.layout(), Layout::V2);
        assert_eq!(host.hierarchies[0].own, Path::new("/init"));
    }

    #[test]
    fn read_only_mounts_are_known() {
        let is_writable = |text: &str| {
            let host = Host::from_proc(text.as_bytes(), PLACES.as_bytes());
            host.expect("probe").is_writable()
        };
        assert!(is_writable(HYBRID));
        let of_mount = HYBRID.replace("memory rw,relatime", "memory ro,relatime");
        let of_all = HYBRID.replace("- cgroup cgroup rw,memory", "- cgroup cgroup ro,memory");
        assert!(of_mount != HYBRID && !is_writable(&of_mount));
        assert!(of_all != HYBRID && !is_writable(&of_all));
    }

    #[test]
    fn nothing_mounted_is_an_error() {
        assert!(Host::from_proc(b"", b"0::/\n").is_err());
    }
}
