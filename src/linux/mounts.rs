//! Mounts (config.md, "Mounts"; config-linux.md, masked and read-only paths): a spec becomes a list
//! of steps, and each step is applied by descriptor below the root.

use super::filesystem::{ReadOnlyLast, new_fs};
use super::mount_options::{self, Options};
use super::root::{LastDir, Root};
use super::sources::{self, Sources};
use super::sysctl::is_procfs;
use super::{Problem, cgroup_mount, devices, hidden, idmap, lsm, pivot, remount};
use crate::cgroup::View;
use crate::error::{ResultExt, with_hint};
use crate::sys::mount::{self as sys, Attributes};
use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::stat::fstat;
use nix::sys::statfs::{PROC_SUPER_MAGIC, SYSFS_MAGIC, fstatfs};
use oci_spec::runtime::{Linux, LinuxIdMapping, Mount, Spec};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// One thing that is done to the tree of a container.
#[derive(Debug, Clone, PartialEq)]
pub enum MountStep {
    /// A file or directory of the host appears in the container.
    Bind {
        /// The place in `mounts`, by which [`Sources`] knows it.
        index: usize,
        source: PathBuf,
        target: PathBuf,
        options: Options,
        /// Maps of an id-mapped mount; empty means those of the container.
        uid_maps: Vec<LinuxIdMapping>,
        gid_maps: Vec<LinuxIdMapping>,
    },
    /// A new file system.
    Fs {
        kind: String,
        source: String,
        target: PathBuf,
        options: Options,
        /// A group that is not mapped cannot own a devpts: then the option is left out.
        in_user_namespace: bool,
    },
    /// Other options for what is mounted there already.
    Remount { target: PathBuf, options: Options },
    /// The cgroup hierarchies, as the container sees its own.
    Cgroup {
        target: PathBuf,
        view: View,
        options: Options,
    },
    /// A device node.
    Device(devices::Device),
    /// A symbolic link below /dev.
    Symlink { target: PathBuf, link: PathBuf },
    /// `linux.maskedPaths`
    Mask(Vec<PathBuf>),
    /// `linux.readonlyPaths`
    ReadOnly(PathBuf),
    /// `root.readonly`
    ReadOnlyRoot,
    /// `linux.rootfsPropagation`, as seen from inside.
    Propagation(u64),
}

/// What a plan of mounts depends on besides the spec.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The container, or the runtime itself, is in a user namespace other than the machine's first.
    pub userns: bool,
    /// The container's network namespace is not the caller's.
    pub netns_own: bool,
    /// The container's pid namespace is not the caller's.
    pub pidns_own: bool,
    /// The container's ipc namespace is not the caller's.
    pub ipcns_own: bool,
    /// The container's cgroup namespace is not the caller's.
    pub cgroupns: bool,
    /// The kernel runs SELinux.
    pub selinux: bool,
    /// The hierarchies of the machine and the container's place in each.
    pub cgroup: &'a View,
}

/// The only files below /proc that may be mounted over: what lxcfs and its kin provide. Anything
/// else there could deceive the runtime or break the container's confinement (CVE-2019-16884).
const OVER_PROC: [&str; 12] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/pressure",
];

/// Everything up to pivot_root(2): `mounts` in their order, then devices.
pub fn plan(spec: &Spec, bundle: &Path, facts: &Facts<'_>) -> (Vec<MountStep>, Vec<Problem>) {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let (mut steps, mut problems) = plan_list(mounts, spec, bundle, facts);
    let propagation = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref());
    problems.extend(pivot::check(propagation));
    steps.extend(devices::plan(spec, facts.userns, &mut problems));
    (steps, problems)
}

/// A list of mounts, in their order, with the label that the spec gives to all.
pub fn plan_list(
    mounts: &[Mount],
    spec: &Spec,
    bundle: &Path,
    facts: &Facts<'_>,
) -> (Vec<MountStep>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut steps = Vec::new();
    for (index, entry) in mounts.iter().enumerate() {
        match plan_one(index, entry, bundle, facts, &steps) {
            Ok(step) => steps.push(step),
            // What is wrong begins with the field, if it is one.
            Err(what) => problems.push(match what.split_once(": ") {
                Some((field, what)) if field == "options" => Problem {
                    path: format!("mounts[{index}].{field}"),
                    what: what.to_owned(),
                },
                _ => Problem {
                    path: format!("mounts[{index}]"),
                    what,
                },
            }),
        }
    }
    if facts.selinux
        && let Some(label) = lsm::mount_label(spec)
    {
        lsm::label_mounts(&mut steps, label);
    }
    (steps, problems)
}

/// What follows pivot_root(2). The order matters: masked paths win over read-only ones, and
/// an unbindable root could not be bound from.
pub fn plan_late(spec: &Spec) -> Vec<MountStep> {
    let empty = Linux::default();
    let linux = spec.linux().as_ref().unwrap_or(&empty);
    let mut steps = Vec::new();
    if spec
        .root()
        .as_ref()
        .is_some_and(|root| root.readonly().unwrap_or(false))
    {
        steps.push(MountStep::ReadOnlyRoot);
    }
    let paths = linux.readonly_paths().iter().flatten();
    steps.extend(paths.map(|path| MountStep::ReadOnly(PathBuf::from(path))));
    let masked: Vec<_> = linux
        .masked_paths()
        .iter()
        .flatten()
        .map(PathBuf::from)
        .collect();
    if !masked.is_empty() {
        steps.push(MountStep::Mask(masked));
    }
    let word = linux.rootfs_propagation().as_deref().unwrap_or_default();
    if let Some(flags) = mount_options::propagation(word) {
        steps.push(MountStep::Propagation(flags.bits()));
    }
    steps
}

fn plan_one(
    index: usize,
    entry: &Mount,
    bundle: &Path,
    facts: &Facts<'_>,
    before: &[MountStep],
) -> Result<MountStep, String> {
    // A relative destination is deprecated, and means one below the root.
    let target = clean(entry.destination());
    let options = mount_options::parse(entry.options().as_deref().unwrap_or_default());
    let mut kind = entry.typ().clone().unwrap_or_default();
    let bind = options.bind.is_some() || kind == "bind" || kind == "rbind";
    if kind.is_empty() && !bind {
        kind = "none".into();
    }
    if options.remount {
        return remount::plan(target, options, before);
    }
    let has_maps = entry.uid_mappings().is_some() || entry.gid_mappings().is_some();
    if !bind && (options.idmap.is_some() || has_maps) {
        return Err("ids can be mapped on bind mounts only".into());
    }
    if bind && options.tmpcopyup {
        return Err("options: tmpcopyup is for a tmpfs, not for a bind mount".into());
    }
    if bind {
        let all = options.bind.unwrap_or(kind == "rbind");
        return plan_bind(index, entry, bundle, target, options, all);
    }
    let source = entry.source().clone();
    if options.tmpcopyup && kind != "tmpfs" {
        return Err(format!(
            "options: tmpcopyup is for a tmpfs, not for {kind:?}"
        ));
    }
    if kind == "cgroup" || (kind == "cgroup2" && facts.cgroup.is_v2()) {
        return Ok(MountStep::Cgroup {
            target,
            view: facts.cgroup.clone(),
            options,
        });
    }
    if kind != "proc" {
        check_over_proc(&target, Path::new(&kind))?;
    }
    // A user namespace may mount only what belongs to namespaces that it owns; what belongs to the
    // caller's is shown as the caller sees it.
    let instead = match kind.as_str() {
        "sysfs" if facts.userns && !facts.netns_own => Some("/sys"),
        "proc" if facts.userns && !facts.pidns_own => Some("/proc"),
        "mqueue" if facts.userns && !facts.ipcns_own => Some("/dev/mqueue"),
        _ => None,
    };
    if let Some(host) = instead {
        return Ok(MountStep::Bind {
            index,
            source: PathBuf::from(host),
            target,
            options: Options {
                bind: Some(true),
                data: Vec::new(),
                ..options
            },
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
        });
    }
    Ok(MountStep::Fs {
        source: source.map_or_else(
            || kind.clone(),
            |source| source.to_string_lossy().into_owned(),
        ),
        kind,
        target,
        options,
        in_user_namespace: facts.userns,
    })
}

/// `all`: what is mounted below it as well.
fn plan_bind(
    index: usize,
    entry: &Mount,
    bundle: &Path,
    target: PathBuf,
    options: Options,
    all: bool,
) -> Result<MountStep, String> {
    let has_maps = entry.uid_mappings().is_some() || entry.gid_mappings().is_some();
    // Data of a bind mount is passed over by the kernel. A size or a mode is for the file system
    // (tmpfs(5)), which has its own already, and engines pass them on; other words are mistakes, and so
    // is a value for one that has none.
    let is_wrong = |word: &&String| match word.split_once('=') {
        Some((name, _)) => mount_options::parse(&[name.to_owned()]).data.is_empty(),
        None => true,
    };
    if let Some(unknown) = options.data.iter().find(is_wrong) {
        return Err(format!("options: unknown option {unknown:?}"));
    }
    let source = entry
        .source()
        .as_ref()
        .ok_or("source: a bind mount needs one")?;
    check_over_proc(&target, source)?;
    let (uid_maps, gid_maps) = id_maps(entry, options.id_ranges.as_deref())?;
    Ok(MountStep::Bind {
        index,
        source: bundle.join(source),
        options: Options {
            bind: Some(all),
            idmap: options.idmap.or(has_maps.then_some(false)),
            ..options
        },
        target,
        uid_maps,
        gid_maps,
    })
}

/// The maps of a mount's own, by its fields or by the option `idmap=…`.
fn id_maps(
    entry: &Mount,
    ranges: Option<&str>,
) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>), String> {
    let own = |maps: &Option<Vec<_>>| maps.clone().unwrap_or_default();
    let (uids, gids) = (own(entry.uid_mappings()), own(entry.gid_mappings()));
    let Some(ranges) = ranges else {
        return Ok((uids, gids));
    };
    let wrong = |what: &str| Err(format!("options: idmap: {what}"));
    if !uids.is_empty() || !gids.is_empty() {
        return wrong("the mount has uidMappings or gidMappings as well");
    }
    match idmap::of_option(ranges) {
        Ok([Some(uids), Some(gids)]) => Ok((uids, gids)),
        Ok([None, _]) => wrong("uids= is missing"),
        Ok([_, None]) => wrong("gids= is missing"),
        Err(what) => wrong(&what),
    }
}

/// The path with `.` and `..` taken out, as `/` would hold it.
pub fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    clean
}

fn check_over_proc(target: &Path, what: &Path) -> Result<(), String> {
    if !target.starts_with("/proc") {
        return Ok(());
    }
    // Whether the source is a procfs is seen when it is opened.
    if target == Path::new("/proc") && what.is_absolute() {
        return Ok(());
    }
    if OVER_PROC.iter().any(|allowed| target == Path::new(allowed)) {
        return Ok(());
    }
    Err(format!(
        "destination: {} cannot be mounted over: only a procfs belongs on /proc",
        target.display()
    ))
}

/// Applies all steps below `root`, in their order.
pub fn apply_all(root: &Root, steps: &[MountStep], sources: &Sources) -> Result<ReadOnlyLast> {
    let mut dir = LastDir::default();
    let mut late = ReadOnlyLast::default();
    for step in steps {
        if !matches!(step, MountStep::Device(_) | MountStep::Symlink { .. }) {
            // It may be a mount on that directory.
            dir = LastDir::default();
        }
        apply(root, step, sources, &mut dir, &mut late)?;
    }
    Ok(late)
}

fn apply(
    root: &Root,
    step: &MountStep,
    sources: &Sources,
    dir: &mut LastDir,
    late: &mut ReadOnlyLast,
) -> Result<()> {
    match step {
        MountStep::Bind {
            index,
            source,
            target,
            options,
            ..
        } => bind(root, sources.get(*index), source, target, options).with_context(|| {
            format!(
                "mounts[{index}]: bind {} to {}",
                source.display(),
                target.display()
            )
        }),
        MountStep::Fs {
            kind,
            source,
            target,
            options,
            in_user_namespace,
        } => new_fs(
            root,
            kind,
            source,
            target,
            options,
            *in_user_namespace,
            late,
        )
        .map_err(|error| match error.downcast_ref() {
            Some(Errno::ENODEV) if kind == "none" => with_hint(
                error,
                "without a type, bind or rbind must be among the options",
            ),
            Some(Errno::ENODEV) => with_hint(error, "/proc/filesystems lists what there is"),
            Some(Errno::EINVAL) => with_hint(error, "the file system refuses one of the options"),
            _ => error,
        })
        .with_context(|| format!("mount {kind} on {}", target.display())),
        MountStep::Remount { target, options } => {
            // The later word counts.
            if options.tell_read_only() {
                late.forget(target);
            }
            remount::apply(root, target, options)
                .with_context(|| format!("remount {}", target.display()))
        }
        MountStep::Cgroup {
            target,
            view,
            options,
        } => cgroup_mount::apply(root, target, view, options)
            .with_context(|| format!("mount cgroup on {}", target.display())),
        MountStep::Device(device) => devices::apply(root, device, dir),
        MountStep::Symlink { target, link } => devices::link(root, target, link, dir),
        MountStep::Mask(paths) => hidden::mask(root, paths),
        MountStep::ReadOnly(path) => hidden::read_only(root, path)
            .with_context(|| format!("linux.readonlyPaths: {}", path.display())),
        MountStep::ReadOnlyRoot => {
            set(root.as_fd(), sys::MOUNT_ATTR_RDONLY).context("root.readonly")
        }
        MountStep::Propagation(flags) => {
            propagate(root.as_fd(), *flags).context("linux.rootfsPropagation")
        }
    }
}

fn bind(
    root: &Root,
    opened: Option<BorrowedFd<'_>>,
    source: &Path,
    target: &Path,
    options: &Options,
) -> Result<()> {
    let own;
    let tree = match opened {
        Some(tree) => tree,
        None => {
            own = sources::open(source, options)?;
            own.as_fd()
        }
    };
    attach(root, tree, target, options)
}

/// Attaches a mount that is attached nowhere yet.
pub(super) fn attach(
    root: &Root,
    tree: BorrowedFd<'_>,
    target: &Path,
    options: &Options,
) -> Result<()> {
    let is_dir = fstat(tree).context("stat the source")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if target == Path::new("/proc") && !is_procfs(&tree)? {
        bail!("only a procfs belongs on /proc");
    }
    let point = if is_dir {
        root.mkdir_all(target, 0o755)?
    } else {
        root.create_file(target, 0o644)?
    };
    check_point(&point, target)?;
    let is_on_dir =
        fstat(&point).context("stat the target")?.st_mode & libc::S_IFMT == libc::S_IFDIR;
    if is_dir != is_on_dir {
        let name = |is_dir: bool| if is_dir { "a directory" } else { "a file" };
        return Err(anyhow!(
            "the source is {}, and the destination {}",
            name(is_dir),
            name(is_on_dir)
        ))
        .hint("directories are mounted on directories, and files on files");
    }
    // Attributes come before the mount is seen: there is no moment in which it is writable.
    set_options(tree, options)?;
    sys::move_mount(tree, point.as_fd()).context("attach the mount")?;
    for flags in &options.propagation {
        propagate(tree, *flags)?;
    }
    Ok(())
}

/// Sets and clears the attributes that the options name, and leaves others as the source has them.
pub fn set_options(tree: BorrowedFd<'_>, options: &Options) -> Result<()> {
    let alone = (options.set, options.clear);
    let below = (options.recursive_set, options.recursive_clear);
    for (recursive, (set, clear)) in [(false, alone), (true, below)] {
        if set | clear == 0 {
            continue;
        }
        let attributes = Attributes {
            set,
            clear,
            ..Attributes::default()
        };
        sys::set_attr(tree, recursive, &attributes).context("set the options of the mount")?;
    }
    Ok(())
}

fn set(mount: BorrowedFd<'_>, attribute: u64) -> Result<()> {
    let attributes = Attributes {
        set: attribute,
        ..Attributes::default()
    };
    sys::set_attr(mount, false, &attributes).context("mount_setattr")
}

pub(super) fn propagate(mount: BorrowedFd<'_>, flags: u64) -> Result<()> {
    let recursive = flags & MsFlags::MS_REC.bits() != 0;
    let attributes = Attributes {
        propagation: flags & !MsFlags::MS_REC.bits(),
        ..Attributes::default()
    };
    sys::set_attr(mount, recursive, &attributes).context("set the propagation of the mount")
}

/// A target that a symbolic link has led into a procfs, or that is no file the spec has named, is
/// refused (CVE-2019-19921, CVE-2023-27561).
pub(super) fn check_point(point: &OwnedFd, target: &Path) -> Result<()> {
    let found = fstatfs(point)
        .context("statfs the target")?
        .filesystem_type();
    if found == PROC_SUPER_MAGIC && !target.starts_with("/proc") {
        bail!("{} leads into a procfs", target.display());
    }
    if found == SYSFS_MAGIC && !target.starts_with("/sys") {
        bail!("{} leads into a sysfs", target.display());
    }
    Ok(())
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
