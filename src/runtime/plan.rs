//! Decide first, act later: a spec and a host become a plan. Nothing is changed here, and every
//! problem is reported at once.

use super::annotations;
use super::check::{self, Checked};
use super::cli::CgroupManager;
use super::host::Host;
use super::{log, notify};
use crate::cgroup::{self, Cgroup, Manager, owner};
use crate::error::with_hint;
use crate::linux::idmap::IdMaps;
use crate::linux::mounts::{self, Facts, MountStep};
use crate::linux::namespaces::Namespaces;
use crate::linux::{Problem, lsm, netdev, rdt};
use crate::sys::tty::Size;
use anyhow::{Context, Result, bail};
use oci_spec::runtime::{
    Hooks, Linux, LinuxNamespaceType as Kind, LinuxResources, Mount, Process, Spec,
};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// Everything that is decided about a container before anything is done.
#[derive(Debug)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root filesystem, absolute, without symbolic links.
    pub rootfs: PathBuf,
    /// The config.json that all of this is from.
    pub spec: Spec,
    /// `spec.process`.
    pub process: Process,
    /// New and joined namespaces.
    pub namespaces: Namespaces,
    /// The id maps of a new user namespace.
    pub maps: IdMaps,
    /// What happens to the root filesystem before pivot_root(2), in order.
    pub mounts: Vec<MountStep>,
    /// And after it: masked and read-only paths, the read-only root.
    pub late_mounts: Vec<MountStep>,
    /// The cgroup of the container.
    pub cgroup: Cgroup,
    /// What the command line asks for.
    pub options: Options,
}

/// Wishes of the command line that are not in the spec.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--no-pivot`
    pub no_pivot: bool,
    /// `--no-new-keyring`
    pub no_new_keyring: bool,
    /// `--preserve-fds`, with those of systemd's socket activation.
    pub preserve_fds: u32,
    /// How many of those are systemd's (sd_listen_fds(3)).
    pub listen_fds: u32,
    /// `--cgroup-manager`
    pub manager: CgroupManager,
    /// The program gets a socket for sd_notify(3).
    pub notify: bool,
}

impl Plan {
    /// Makes the plan, or says everything that is wrong with the spec on this host.
    pub fn new(
        id: &str,
        checked: Checked<Spec>,
        bundle: &Path,
        host: &Host,
        options: Options,
    ) -> Result<Plan> {
        let mut spec = checked.value;
        annotations::apply(&mut spec);
        let mut process = match spec.process() {
            Some(process) => process.clone(),
            // runtime.md, "Create": all but that is applied.
            None => no_process()?,
        };
        if options.notify {
            notify::add_variable(&mut process);
        }
        let linux = linux_of(&spec);
        let namespaces = Namespaces::new(linux);
        lsm::check(&process)?;
        if lsm::mount_label(&spec).is_some() && !lsm::has_selinux() {
            log::warn("linux.mountLabel: ignored: this kernel does not run SELinux");
        }
        let resources = linux.resources().as_ref();
        let cgroups_path = linux.cgroups_path().as_deref();
        let plan_for = |manager| Cgroup::plan(&host.cgroups, cgroups_path, id, manager);
        let cgroup = match options.manager {
            CgroupManager::Systemd => plan_for(systemd(host))?,
            CgroupManager::Disabled => plan_for(Manager::None)?,
            CgroupManager::Cgroupfs => {
                let may_write = host.may_write();
                Cgroup::plan_or_none(&host.cgroups, cgroups_path, id, resources, may_write)?
            }
        };
        warn_without(&cgroup, cgroups_path, resources, host);
        let ignored = resources.map(cgroup::limit::ignored).unwrap_or_default();
        ignored
            .iter()
            .for_each(|problem| log::warn(&problem.to_string()));
        let view = cgroup.view(&host.cgroups);
        let facts = facts(&namespaces, host, &view);
        let (mounts, of_mounts) = mounts::plan(&spec, bundle, &facts);
        let mut problems = checked.problems;
        if options.manager == CgroupManager::Systemd {
            let annotations = spec.annotations().clone().unwrap_or_default();
            problems.extend(cgroup::unit_problems(&annotations));
        }
        problems.extend(of_mounts);
        problems.extend(annotations::check(&spec));
        problems.extend(without_mount_namespace(&spec, &namespaces));
        problems.extend(netdev::check(linux, &namespaces));
        problems.extend(rdt::check(linux));
        report(problems)?;
        let rootfs = rootfs(&spec, bundle)?;
        let late_mounts = mounts::plan_late(&spec);
        Ok(Plan {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs,
            maps: IdMaps::new(linux),
            process,
            namespaces,
            mounts,
            late_mounts,
            cgroup,
            options,
            spec,
        })
    }

    /// `spec.linux`, or oci-spec's default. It is not copied: with a seccomp profile it is large.
    pub fn linux(&self) -> &Linux {
        linux_of(&self.spec)
    }

    /// Whether the program gets a terminal.
    pub fn terminal(&self) -> bool {
        self.process.terminal().unwrap_or(false)
    }

    /// The size of the terminal that the spec asks for.
    pub fn console_size(&self) -> Option<Size> {
        let size = self.process.console_size()?;
        let fit = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        Some(Size {
            rows: fit(size.height()),
            columns: fit(size.width()),
        })
    }

    /// Whether network devices are moved into the container.
    pub fn net_devices(&self) -> bool {
        has_net_devices(&self.spec)
    }

    /// Whether the mounts are made in the caller's mount namespace, below one that covers the root
    /// filesystem.
    pub fn covers_root(&self) -> bool {
        !self.namespaces.has(Kind::Mount) && !self.namespaces.has(Kind::User)
    }

    /// The user of the host that gets the container's cgroup, if it has a cgroup namespace and can
    /// write the cgroup there.
    pub fn cgroup_owner(&self) -> Option<u32> {
        let mounts = self.spec.mounts().as_deref().unwrap_or_default();
        let uid = self.process.user().uid();
        owner_of_cgroup(&self.namespaces, &self.maps, mounts, uid)
    }

    /// The hooks of the spec, or none.
    pub fn hooks(&self) -> Hooks {
        self.spec.hooks().clone().unwrap_or_default()
    }
}

/// Whether network devices are to be moved into the container.
pub(super) fn has_net_devices(spec: &Spec) -> bool {
    let devices = linux_of(spec).net_devices().as_ref();
    devices.is_some_and(|devices| !devices.is_empty())
}

/// `linux`, or an empty one.
pub(super) fn linux_of(spec: &Spec) -> &Linux {
    static NONE: LazyLock<Linux> = LazyLock::new(Linux::default);
    spec.linux().as_ref().unwrap_or_else(|| &NONE)
}

fn owner_of_cgroup(
    namespaces: &Namespaces,
    maps: &IdMaps,
    mounts: &[Mount],
    uid: u32,
) -> Option<u32> {
    let is_own = namespaces.makes(Kind::Cgroup) && owner::is_writable(mounts);
    match (is_own, namespaces.has(Kind::User)) {
        (false, _) => None,
        (true, false) => Some(uid),
        (true, true) => maps.host_uid(uid),
    }
}

/// What comes to nothing without a cgroup; limits that are asked for are an error later.
fn warn_without(
    cgroup: &Cgroup,
    path: Option<&Path>,
    resources: Option<&LinuxResources>,
    host: &Host,
) {
    if !cgroup.is_none() {
        return;
    }
    if let Some(path) = path {
        log::warn(&format!(
            "linux.cgroupsPath: ignored: {} is not made, the container stays in the cgroup of its creator",
            path.display()
        ));
    }
    // Others have no devices but those that they are given.
    let has_rules = resources.is_some_and(|r| r.devices().as_ref().is_some_and(|d| !d.is_empty()));
    if has_rules && host.superuser() {
        log::warn("linux.resources.devices: ignored: without a cgroup every device may be used");
    }
}

/// What stands for a process that config.json does not have: root, without rights and without a program.
pub(super) fn no_process() -> Result<Process> {
    let nobody = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": []});
    serde_json::from_value(nobody).context("make a process")
}

/// The steps of [`Plan::mounts`] for a container that is there.
pub fn mounts_of(
    spec: &Spec,
    bundle: &Path,
    namespaces: &Namespaces,
    host: &Host,
    cgroup: &Cgroup,
) -> Vec<MountStep> {
    let view = cgroup.view(&host.cgroups);
    // What was wrong with it was said when it was created.
    mounts::plan(spec, bundle, &facts(namespaces, host, &view)).0
}

/// The steps for mounts that are added to a container that is there, and what is wrong with them.
pub fn added_mounts(
    entries: &[Mount],
    spec: &Spec,
    bundle: &Path,
    namespaces: &Namespaces,
    host: &Host,
    cgroup: &Cgroup,
) -> (Vec<MountStep>, Vec<Problem>) {
    let view = cgroup.view(&host.cgroups);
    let facts = facts(namespaces, host, &view);
    mounts::plan_list(entries, spec, bundle, &facts)
}

fn facts<'a>(namespaces: &Namespaces, host: &Host, cgroup: &'a cgroup::View) -> Facts<'a> {
    Facts {
        userns: namespaces.has(Kind::User) || host.nested,
        netns_own: namespaces.has(Kind::Network),
        pidns_own: namespaces.has(Kind::Pid),
        ipcns_own: namespaces.has(Kind::Ipc),
        cgroupns: namespaces.has(Kind::Cgroup),
        selinux: lsm::has_selinux(),
        cgroup,
    }
}

/// Which systemd makes the cgroup: the machine's own does as its superuser says.
pub(super) fn systemd(host: &Host) -> Manager {
    if host.superuser() {
        Manager::Systemd
    } else {
        Manager::SystemdUser
    }
}

/// The root filesystem of a spec, which must be a directory.
fn rootfs(spec: &Spec, bundle: &Path) -> Result<PathBuf> {
    let root = spec.root().as_ref().context("root: it is required")?;
    let path = bundle.join(root.path());
    let what = || format!("root.path: {}", path.display());
    let real = path
        .canonicalize()
        .with_context(what)
        .map_err(|error| with_hint(error, rootfs_hint(bundle)))?;
    if !real.is_dir() {
        bail!("{}: it is not a directory", what());
    }
    if real == Path::new("/") {
        bail!("{}: the container's root would be the host's", what());
    }
    Ok(real)
}

/// The bundles that come with this project share a root filesystem that a script makes.
fn rootfs_hint(bundle: &Path) -> &'static str {
    let script = bundle
        .parent()
        .and_then(Path::parent)
        .map(|top| top.join("scripts/rootfs"));
    if script.is_some_and(|script| script.exists()) {
        "make the root filesystem of these bundles with ./scripts/rootfs"
    } else {
        "unpack a root filesystem there; a relative root.path starts at the bundle"
    }
}

/// In the caller's mount namespace nothing can be mounted from within another user namespace.
fn without_mount_namespace(spec: &Spec, namespaces: &Namespaces) -> Vec<Problem> {
    let none = spec.mounts().as_ref().is_none_or(Vec::is_empty);
    if namespaces.has(Kind::Mount) || !namespaces.has(Kind::User) || none {
        return Vec::new();
    }
    vec![Problem {
        path: "mounts".into(),
        what: "with a user namespace they need a mount namespace in linux.namespaces".into(),
    }]
}

fn report(problems: Vec<Problem>) -> Result<()> {
    match problems.as_slice() {
        [] => Ok(()),
        some => Err(check::error_of("config.json", some)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_cgroup_is_given_with_its_own_namespace_only() {
        let mounts =
            json!([{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}]);
        let mounts: Vec<Mount> = serde_json::from_value(mounts).unwrap();
        let owner = |namespaces: Value| {
            let linux = json!({"namespaces": namespaces,
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}]});
            let linux: Linux = serde_json::from_value(linux).unwrap();
            owner_of_cgroup(&Namespaces::new(&linux), &IdMaps::new(&linux), &mounts, 7)
        };
        assert_eq!(owner(json!([{"type": "cgroup"}])), Some(7));
        assert_eq!(
            owner(json!([{"type": "cgroup"}, {"type": "user"}])),
            Some(1007)
        );
        assert_eq!(
            owner(json!([{"type": "cgroup", "path": "/proc/1/ns/cgroup"}])),
            None
        );
        assert_eq!(owner(json!([{"type": "user"}])), None);
    }
}
