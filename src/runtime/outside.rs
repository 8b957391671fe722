//! What a container has that belongs to the outside: mounts of the host's files, joined namespaces,
//! the other ends of its standard streams. A checkpoint holds names for these only, and a restore
//! says what they are then.

use super::criu_messages::{ExternalMount, InheritFd, JoinNamespace};
use super::{hooks, plan};
use crate::error::ResultExt;
use crate::linux::devices;
use crate::linux::mounts::MountStep;
use crate::linux::namespaces::Namespaces;
use crate::linux::root::Root;
use crate::sys::fds;
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Spec};
use procfs::FromRead;
use procfs::process::MountInfos;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// In the image directory, as runc and crun have it: what the standard streams were, as an array of
/// strings.
pub const DESCRIPTORS: &str = "descriptors.json";

/// The mounts of files of the host: where in the container, and from where.
pub fn mounts(steps: &[MountStep]) -> Vec<(PathBuf, PathBuf)> {
    let mut mounts = Vec::new();
    for step in steps {
        match step {
            MountStep::Bind { source, target, .. } => mounts.push((target.clone(), source.clone())),
            MountStep::Device(device) if device.bind => {
                mounts.push((device.path.clone(), devices::of_host(device)));
            }
            MountStep::Cgroup { target, view, .. } => match view.hierarchies.as_slice() {
                [only] if only.v2 => mounts.push((target.clone(), only.source.clone())),
                all => mounts.extend(
                    all.iter()
                        .map(|one| (target.join(&one.name), one.source.clone())),
                ),
            },
            _ => {}
        }
    }
    mounts
}

/// For a dump: which mount points criu is to leave to the outside, and their names in the images,
/// which are their destinations in config.json. `root` is the container's root directory.
pub fn mounts_to_leave(steps: &[MountStep], root: &Root) -> Vec<ExternalMount> {
    let name = |path: &Path| path.display().to_string();
    let mounts = mounts(steps);
    mounts
        .iter()
        .map(|(target, _)| ExternalMount {
            // A symbolic link may have led elsewhere. What is not there any more is no mount.
            key: name(&real(root, target).unwrap_or_else(|| target.clone())),
            val: name(target),
        })
        .collect()
}

fn real(root: &Root, path: &Path) -> Option<PathBuf> {
    let file: OwnedFd = root.resolve(path).ok()?;
    fs::read_link(fds::path(&file)).ok()
}

/// For a restore: what stands behind the names.
pub fn mounts_to_give(steps: &[MountStep]) -> Vec<ExternalMount> {
    mounts(steps)
        .iter()
        .map(|(target, source)| ExternalMount {
            key: target.display().to_string(),
            val: source.display().to_string(),
        })
        .collect()
}

/// An error for a container that criu cannot take out of its surroundings, or put back.
pub fn check(namespaces: &Namespaces, steps: &[MountStep]) -> Result<()> {
    for step in steps {
        if let MountStep::Bind { index, options, .. } = step
            && options.idmap.is_some()
        {
            return Err(anyhow!(
                "mounts[{index}]: criu cannot map the ids of a mount"
            ))
            .hint("a container with such mounts cannot be checkpointed");
        }
    }
    check_namespaces(namespaces)
}

fn check_namespaces(namespaces: &Namespaces) -> Result<()> {
    if !namespaces.has(Kind::Mount) {
        return Err(anyhow!(
            "the container has no mount namespace of its own, and criu could not tell its files from the host's"
        ))
        .hint("add one to linux.namespaces");
    }
    for (kind, path) in namespaces.joined() {
        if external_name(*kind).is_none() && joined_name(*kind).is_none() {
            return Err(anyhow!(
                "the container shares its {kind} namespace, {}, and criu cannot leave that out",
                path.display()
            ))
            .hint("network, pid, ipc, uts and time namespaces can be shared");
        }
    }
    Ok(())
}

/// The name in the images of a namespace that criu leaves out, as runc has it.
fn external_name(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Network => Some(("net", "extRootNetNS")),
        Kind::Pid => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Namespaces that criu saves with their contents, and at a restore joins without them.
fn joined_name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Ipc => Some("ipc"),
        Kind::Uts => Some("uts"),
        Kind::Time => Some("time"),
        _ => None,
    }
}

/// For a dump: the joined namespaces of process `pid` that stay out of the images.
pub fn namespaces_to_leave(namespaces: &Namespaces, pid: i32) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (kind, _) in namespaces.joined() {
        if let Some((file, name)) = external_name(*kind) {
            let path = format!("/proc/{pid}/ns/{file}");
            let inode = fs::metadata(&path).with_context(|| path)?.ino();
            names.push(format!("{file}[{inode}]:{name}"));
        }
    }
    Ok(names)
}

/// For a restore: the namespaces that are given to criu open, and those that it joins by path.
pub fn namespaces_to_give(
    namespaces: &Namespaces,
    open: &[(Kind, OwnedFd)],
) -> (Vec<InheritFd>, Vec<JoinNamespace>) {
    let inherited = open.iter().filter_map(|(kind, fd)| {
        external_name(*kind).map(|(_, name)| InheritFd {
            key: name.to_owned(),
            fd: fd.as_raw_fd(),
        })
    });
    let joined = namespaces.joined().iter().filter_map(|(kind, path)| {
        joined_name(*kind).map(|name| JoinNamespace {
            ns: name.to_owned(),
            ns_file: path.display().to_string(),
        })
    });
    (inherited.collect(), joined.collect())
}

/// Whether the container's own network namespace is furnished from outside: by hooks, which are to
/// do so again at a restore, or with `linux.netDevices`. criu knows nothing of the other ends of such
/// devices, and leaves the namespace empty.
pub fn furnishes_network(spec: &Spec, namespaces: &Namespaces) -> bool {
    let all = spec.hooks().as_ref();
    let has_hooks =
        all.is_some_and(|all| hooks::any(all.prestart()) || hooks::any(all.create_runtime()));
    namespaces.makes(Kind::Network) && (has_hooks || plan::has_net_devices(spec))
}

/// For a dump: what the standard streams of process `pid` are, by the names that criu gives them. A
/// file that lies in none of the container's mounts is named so that criu takes it as foreign.
pub fn descriptors(pid: i32) -> Result<Vec<String>> {
    let mountinfo = format!("/proc/{pid}/mountinfo");
    let mounts = MountInfos::from_file(&mountinfo).with_context(|| format!("read {mountinfo}"))?;
    let ids = mounts
        .iter()
        .filter_map(|mount| u64::try_from(mount.mnt_id).ok());
    let own: BTreeSet<u64> = ids.collect();
    (0..=2)
        .map(|number| descriptor(pid, number, &own))
        .collect()
}

fn descriptor(pid: i32, number: i32, own_mounts: &BTreeSet<u64>) -> Result<String> {
    let path = format!("/proc/{pid}/fd/{number}");
    let link = match fs::read_link(&path) {
        // The program has closed it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        other => other.with_context(|| format!("read {path}"))?,
    };
    let mount = fds::mount_id(pid, number).with_context(|| format!("the mount of {path}"))?;
    if !link.is_absolute() || own_mounts.contains(&mount) {
        return Ok(link.display().to_string());
    }
    let inode = fs::metadata(&path).with_context(|| path)?.ino();
    Ok(format!("file[{mount:x}:{inode:x}]"))
}

/// The files among them that criu must be told of.
pub fn foreign_files(descriptors: &[String]) -> Vec<String> {
    let files = descriptors.iter().filter(|name| name.starts_with("file["));
    files
        .cloned()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// For a restore: our own standard streams take the places of pipes and foreign files.
pub fn descriptors_to_give(descriptors: &[String]) -> Vec<InheritFd> {
    let given = |name: &str| name.starts_with("pipe:") || name.starts_with("file[");
    (0..3)
        .zip(descriptors)
        .filter(|(_, name)| given(name))
        .map(|(fd, name)| InheritFd {
            key: name.clone(),
            fd,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linux::mounts::Facts;
    use oci_spec::runtime::Linux;
    use serde_json::json;

    fn steps(userns: bool, cgroup: crate::cgroup::View) -> Vec<MountStep> {
        let spec: Spec = serde_json::from_value(json!({
            "ociVersion": "1.0.2",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/data", "source": "src", "options": ["rbind"]},
                {"destination": "/cg", "type": "cgroup"},
            ],
            "linux": {"devices": [
                {"path": "/dev/no-such-name", "type": "c", "major": 1, "minor": 3},
            ]},
        }))
        .unwrap();
        let facts = Facts {
            userns,
            netns_own: true,
            pidns_own: true,
            ipcns_own: true,
            cgroupns: true,
            selinux: false,
            cgroup: &cgroup,
        };
        let (steps, problems) = crate::linux::mounts::plan(&spec, Path::new("/b"), &facts);
        assert!(problems.is_empty(), "{problems:?}");
        steps
    }

    fn view(hierarchies: &[(&str, bool)]) -> crate::cgroup::View {
        let one = |(name, v2): &(&str, bool)| crate::cgroup::HierarchyView {
            name: (*name).to_owned(),
            mount_point: PathBuf::from("/h").join(name),
            options: String::new(),
            source: PathBuf::from("/h").join(name).join("id"),
            v2: *v2,
        };
        crate::cgroup::View {
            hierarchies: hierarchies.iter().map(one).collect(),
        }
    }

    fn pairs(list: &[ExternalMount]) -> Vec<(&str, &str)> {
        list.iter()
            .map(|mount| (mount.key.as_str(), mount.val.as_str()))
            .collect()
    }

    #[test]
    fn what_the_host_lends_is_given_again() {
        let given = mounts_to_give(&steps(false, view(&[("unified", true)])));
        let expected = [("/data", "/b/src"), ("/cg", "/h/unified/id")];
        assert_eq!(pairs(&given), expected);
        let given = mounts_to_give(&steps(
            false,
            view(&[("cpu,cpuacct", false), ("unified", true)]),
        ));
        let expected = [
            ("/data", "/b/src"),
            ("/cg/cpu,cpuacct", "/h/cpu,cpuacct/id"),
            ("/cg/unified", "/h/unified/id"),
        ];
        assert_eq!(pairs(&given), expected);
        // Nodes that a user namespace cannot make are the host's.
        let given = mounts_to_give(&steps(true, view(&[("unified", true)])));
        assert!(pairs(&given).contains(&("/dev/null", "/dev/null")));
        // What has another name there is found by its numbers.
        assert!(pairs(&given).contains(&("/dev/no-such-name", "/dev/null")));
    }

    #[test]
    fn a_mount_is_left_where_a_link_has_led_it() {
        let dir = std::env::temp_dir().join(format!("outside-{}", std::process::id()));
        fs::create_dir_all(dir.join("real")).unwrap();
        std::os::unix::fs::symlink("/real", dir.join("data")).unwrap();
        let root = Root::open(&dir).unwrap();
        let left = mounts_to_leave(&steps(false, view(&[("unified", true)])), &root);
        fs::remove_dir_all(&dir).unwrap();
        let real = dir.join("real").display().to_string();
        // Seen from the container's own root this is /real.
        assert_eq!(pairs(&left), [(real.as_str(), "/data"), ("/cg", "/cg")]);
    }

    fn namespaces(json: serde_json::Value) -> Namespaces {
        let linux: Linux = serde_json::from_value(json!({ "namespaces": json })).unwrap();
        Namespaces::new(&linux)
    }

    #[test]
    fn shared_namespaces_are_left_or_refused() {
        let me = std::process::id() as i32;
        let shared = namespaces(json!([{"type": "mount"}, {"type": "uts", "path": "/u"},
            {"type": "network", "path": "/n"}]));
        check_namespaces(&shared).unwrap();
        let left = namespaces_to_leave(&shared, me).unwrap();
        let inode = fs::metadata("/proc/self/ns/net").unwrap().ino();
        assert_eq!(left, [format!("net[{inode}]:extRootNetNS")]);
        let open = vec![(
            Kind::Network,
            OwnedFd::from(fs::File::open("/dev/null").unwrap()),
        )];
        let (given, joined) = namespaces_to_give(&shared, &open);
        assert_eq!(given[0].key, "extRootNetNS");
        assert_eq!(
            (joined[0].ns.as_str(), joined[0].ns_file.as_str()),
            ("uts", "/u")
        );
        for bad in [
            json!([{"type": "pid"}]),
            json!([{"type": "mount"}, {"type": "user", "path": "/u"}]),
        ] {
            assert!(check_namespaces(&namespaces(bad)).is_err());
        }
    }

    #[test]
    fn a_network_from_outside_is_known() {
        let hook = json!([{"path": "/bin/true"}]);
        let own = json!({"namespaces": [{"type": "network"}]});
        let with_device = json!({"namespaces": [{"type": "network"}], "netDevices": {"eth0": {}}});
        let joined = json!({"namespaces": [{"type": "network", "path": "/n"}]});
        for (expected, hooks, linux) in [
            (true, json!({"prestart": hook}), &own),
            (true, json!({"createRuntime": hook}), &own),
            (true, json!({}), &with_device),
            (false, json!({"createRuntime": [], "poststop": hook}), &own),
            (false, json!({"prestart": hook}), &joined),
            (false, json!({"prestart": hook}), &json!({})),
        ] {
            let config = json!({"ociVersion": "1.0.2", "hooks": hooks, "linux": linux});
            let spec: Spec = serde_json::from_value(config.clone()).unwrap();
            let namespaces = Namespaces::new(spec.linux().as_ref().unwrap());
            assert_eq!(furnishes_network(&spec, &namespaces), expected, "{config}");
        }
    }

    #[test]
    fn streams_that_are_foreign_are_given_again() {
        let names = ["/dev/null", "pipe:[7]", "file[1a:2b]"].map(str::to_owned);
        assert_eq!(foreign_files(&names), ["file[1a:2b]"]);
        let given = descriptors_to_give(&names);
        let given: Vec<_> = given.iter().map(|one| (one.fd, one.key.as_str())).collect();
        assert_eq!(given, [(1, "pipe:[7]"), (2, "file[1a:2b]")]);
    }

    #[test]
    fn a_file_of_another_mount_is_foreign() {
        let file = fs::File::open("/").unwrap();
        let (me, number) = (std::process::id() as i32, file.as_raw_fd());
        let inode = file.metadata().unwrap().ino();
        let name = descriptor(me, number, &BTreeSet::new()).unwrap();
        assert!(
            name.starts_with("file[") && name.ends_with(&format!(":{inode:x}]")),
            "{name}"
        );
        let (reader, _writer) = std::io::pipe().unwrap();
        let name = descriptor(me, reader.as_raw_fd(), &BTreeSet::new()).unwrap();
        assert!(name.starts_with("pipe:["), "{name}");
        assert_eq!(descriptor(me, 1 << 20, &BTreeSet::new()).unwrap(), "");
    }
}
