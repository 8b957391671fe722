//! The cgroup of a container: one interface over v1, hybrid and v2.
//!
//! A [`Cgroup`] is a directory in each mounted hierarchy. Controllers that share a hierarchy are one
//! directory, one mkdir and one attach. Hybrid is v1 plus a directory in the v2 tree, where
//! `cgroup.kill` and the cheap `CLONE_INTO_CGROUP` are to be had.
//!
//! Limits are data first ([`v1`], [`v2`], [`devices`]: pure functions from `LinuxResources` to the
//! writes), and one executor ([`limit`]) does them and names file and value when one fails.
//!
//! Who makes the directories is another question ([`Manager`]): this program, before there is a
//! process, or systemd ([`systemd`]), around one.

#[cfg(test)]
mod acting;
mod attach;
mod before;
mod claim;
mod controllers;
mod create;
mod dbus;
mod dbus_value;
pub mod devices;
pub mod freeze;
mod gvariant;
mod host;
pub mod limit;
pub mod oom;
pub mod owner;
pub mod read;
mod systemd;
mod systemd_unit;
pub mod usage;
pub mod v1;
pub mod v2;

pub use attach::Doors;
pub use controllers::{DELEGABLE, delegation};
pub use create::{ATTEMPTS, Created, KEEPS_VANISHING};
pub use host::{Host, kernel_paths};
pub use systemd::enter_user_scope;

use crate::error::{Problem, ResultExt};
use anyhow::{Context, Result, anyhow, bail};
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// Which file interfaces the hierarchies of a machine have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Only v1 hierarchies.
    V1,
    /// v1 hierarchies that hold the controllers, and a v2 tree besides.
    Hybrid,
    /// One v2 tree.
    V2,
}

/// Who makes the directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// This program, in the file system.
    Fs,
    /// The machine's systemd, over D-Bus.
    Systemd,
    /// The systemd of this user's session.
    SystemdUser,
    /// Nobody: the container stays in the cgroup of its creator, and limits are refused.
    None,
}

/// The directories of one container, one per hierarchy. Part of the container's saved state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    pub(crate) layout: Layout,
    pub(crate) manager: Manager,
    pub(crate) dirs: Vec<Dir>,
    /// The scope that the directories belong to, when systemd makes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<systemd_unit::Unit>,
}

/// The directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dir {
    /// Empty for v2; otherwise as in `/proc/<pid>/cgroup`, sorted.
    pub(crate) controllers: Vec<String>,
    pub(crate) mount_point: PathBuf,
    /// Below the mount point, with a leading slash and never `/` itself.
    pub(crate) path: PathBuf,
    /// It was there before the container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) found: bool,
}

impl Dir {
    /// The directory as an absolute path on the host.
    pub(crate) fn full(&self) -> PathBuf {
        join(&self.mount_point, &self.path)
    }

    pub(crate) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// What a mount of type `cgroup` in a container needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Every hierarchy. On v2 there is exactly one, with empty `options`.
    pub hierarchies: Vec<HierarchyView>,
}

/// One hierarchy for a `cgroup` mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HierarchyView {
    /// The last part of the mount point on the host: `cpu,cpuacct`, `systemd`, `unified`.
    pub name: String,
    /// Where the hierarchy is mounted on the host.
    pub mount_point: PathBuf,
    /// The data of a fresh v1 mount, `cpu,cpuacct` or `none,name=systemd`; empty for v2.
    pub options: String,
    /// The container's directory on the host, the source of a bind mount.
    pub source: PathBuf,
    /// Whether this is the v2 tree.
    pub v2: bool,
}

impl View {
    /// Whether the machine has the v2 tree and nothing else.
    pub fn is_v2(&self) -> bool {
        matches!(self.hierarchies.as_slice(), [only] if only.v2)
    }
}

impl Cgroup {
    /// Where the container's cgroup is to be. Pure, but that the user's systemd is asked where it is.
    ///
    /// `linux.cgroupsPath` (config-linux.md, "Cgroups Path"): an absolute one is below each
    /// hierarchy's mount point; a relative one below the cgroup of this process (on v2: below its
    /// parent, for a cgroup with processes can have no controllers for its children); none means
    /// the id as a relative one. `..` cannot leave the hierarchy.
    pub fn plan(
        host: &Host,
        cgroups_path: Option<&Path>,
        id: &str,
        manager: Manager,
    ) -> Result<Cgroup> {
        match manager {
            Manager::Systemd | Manager::SystemdUser => {
                return Cgroup::plan_unit(host, cgroups_path, id, manager);
            }
            Manager::None => return Ok(Cgroup::none(host)),
            Manager::Fs => {}
        }
        let wanted = match cgroups_path {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => Path::new(id),
        };
        let absolute = wanted.is_absolute();
        let clean = contain(wanted);
        if clean == Path::new("/") {
            return Err(anyhow::anyhow!(
                "linux.cgroupsPath {wanted:?} is the root of the cgroup hierarchies"
            ))
            .hint("name a cgroup below it, such as \"/my/container\"; limits on the root would hit the machine");
        }
        let dirs = host
            .hierarchies
            .iter()
            .map(|h| {
                let path = if absolute {
                    clean.clone()
                } else if host.layout == Layout::V2 {
                    join(h.own.parent().unwrap_or(Path::new("/")), &clean)
                } else {
                    join(&h.own, &clean)
                };
                Dir {
                    controllers: h.controllers.clone(),
                    mount_point: h.mount_point.clone(),
                    path,
                    found: false,
                }
            })
            .collect();
        Ok(Cgroup {
            layout: host.layout,
            manager,
            dirs,
            unit: None,
        })
    }

    /// The same when systemd makes it: `linux.cgroupsPath` is `SLICE:PREFIX:NAME`.
    fn plan_unit(
        host: &Host,
        cgroups_path: Option<&Path>,
        id: &str,
        manager: Manager,
    ) -> Result<Cgroup> {
        let (base, slice) = match manager {
            Manager::SystemdUser => (systemd::user_tree()?, "user.slice"),
            _ => (PathBuf::from("/"), "system.slice"),
        };
        let unit = systemd_unit::Unit::parse(cgroups_path, id, slice)?;
        let path = join(&base, &unit.place()?);
        let dirs = host
            .hierarchies
            .iter()
            .map(|h| Dir {
                controllers: h.controllers.clone(),
                mount_point: h.mount_point.clone(),
                path: path.clone(),
                found: false,
            })
            .collect();
        Ok(Cgroup {
            layout: host.layout,
            manager,
            dirs,
            unit: Some(unit),
        })
    }

    /// The cgroup of this absolute path in each hierarchy.
    pub fn at(host: &Host, path: &Path) -> Result<Cgroup> {
        Cgroup::plan(host, Some(path), "", Manager::Fs)
    }

    /// As [`Cgroup::plan`] for [`Manager::Fs`], but without any cgroup when this process may not
    /// make one (EACCES, EPERM or EROFS where its directory would go) and no limit is asked.
    /// `may_write`: it may write to any directory (CAP_DAC_OVERRIDE), so that only what is mounted
    /// read-only is in its way, and nobody is asked of each.
    pub fn plan_or_none(
        host: &Host,
        cgroups_path: Option<&Path>,
        id: &str,
        resources: Option<&LinuxResources>,
        may_write: bool,
    ) -> Result<Cgroup> {
        let cgroup = Cgroup::plan(host, cgroups_path, id, Manager::Fs)?;
        let may_be_made = || (may_write && host.is_writable()) || cgroup.may_be_made();
        if limit::asks_nothing(resources) && !may_be_made() {
            return Ok(Cgroup::none(host));
        }
        Ok(cgroup)
    }

    /// An error for what can only be done by way of a cgroup.
    pub fn needed_for(&self, what: &str) -> Result<()> {
        if !self.is_none() {
            return Ok(());
        }
        Err(anyhow!("{what}: the container has no cgroup of its own"))
            .hint("create it with --cgroup-manager cgroupfs or systemd")
    }

    fn none(host: &Host) -> Cgroup {
        Cgroup {
            layout: host.layout,
            manager: Manager::None,
            dirs: Vec::new(),
            unit: None,
        }
    }

    /// The cgroup that holds `pid`, in every hierarchy, whoever made it. For statistics.
    pub fn of_pid(host: &Host, pid: i32) -> Result<Cgroup> {
        let file = format!("/proc/{pid}/cgroup");
        let text = std::fs::read(&file).with_context(|| format!("read {file}"))?;
        let places = host::places(&text);
        let dirs = host
            .hierarchies
            .iter()
            .filter_map(|h| {
                let (_, path) = places.iter().find(|(c, _)| *c == h.controllers)?;
                Some(Dir {
                    controllers: h.controllers.clone(),
                    mount_point: h.mount_point.clone(),
                    path: host::below(path, &h.root),
                    found: false,
                })
            })
            .collect();
        Ok(Cgroup {
            layout: host.layout,
            manager: Manager::Fs,
            dirs,
            unit: None,
        })
    }

    /// Whether there is no cgroup of the container's own.
    pub fn is_none(&self) -> bool {
        self.dirs.is_empty()
    }

    /// The directory of each controller; the v2 one under the empty name, as in `runc state`.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut paths = BTreeMap::new();
        for dir in &self.dirs {
            if dir.is_v2() {
                paths.insert(String::new(), dir.full());
            }
            for controller in &dir.controllers {
                paths.insert(controller.clone(), dir.full());
            }
        }
        paths
    }

    /// What a mount of type `cgroup` shows of this container.
    pub fn view(&self, host: &Host) -> View {
        let hierarchies = host
            .hierarchies
            .iter()
            .map(|h| HierarchyView {
                name: h
                    .mount_point
                    .file_name()
                    .map(|n| n.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                mount_point: h.mount_point.clone(),
                options: mount_data(&h.controllers),
                source: match self.dirs.iter().find(|d| d.controllers == h.controllers) {
                    Some(dir) => dir.full(),
                    None => join(&h.mount_point, &h.own),
                },
                v2: h.controllers.is_empty(),
            })
            .collect();
        View { hierarchies }
    }

    /// The same cgroup with a directory below it chosen in some hierarchies: `exec --cgroup`.
    /// Each of `sub` is `PATH` (every hierarchy) or `CONTROLLER[,CONTROLLER]:PATH` (v1 only).
    pub fn sub(&self, sub: &[String]) -> Result<Cgroup> {
        let mut below = self.clone();
        for item in sub {
            let (controllers, path) = match item.split_once(':') {
                Some((names, path)) => (names.split(',').filter(|n| !n.is_empty()).collect(), path),
                None => (Vec::new(), item.as_str()),
            };
            if self.is_none() {
                bail!("--cgroup {item}: the container has no cgroup of its own");
            }
            let path = Path::new(path);
            if path.components().any(|part| part == Component::ParentDir) {
                bail!("--cgroup {item}: it is not below the container's cgroup");
            }
            let path = contain(path);
            if controllers.is_empty() {
                for (dir, base) in below.dirs.iter_mut().zip(&self.dirs) {
                    dir.path = join(&base.path, &path);
                }
                continue;
            }
            for name in controllers {
                let at = self
                    .dirs
                    .iter()
                    .position(|d| d.has(name) || d.has(&format!("name={name}")))
                    .with_context(|| {
                        format!("--cgroup {item}: no hierarchy has controller {name}")
                    })?;
                below.dirs[at].path = join(&self.dirs[at].path, &path);
            }
        }
        Ok(below)
    }

    pub(crate) fn v2_dir(&self) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.is_v2())
    }

    pub(crate) fn v1_dir(&self, controller: &str) -> Option<&Dir> {
        self.dirs.iter().find(|d| d.has(controller))
    }
}

pub use systemd_unit::ANNOTATION as UNIT_PROPERTIES;

/// What is wrong with annotations `org.systemd.property.NAME`, which systemd's units get.
pub fn unit_problems(annotations: &HashMap<String, String>) -> Vec<Problem> {
    systemd_unit::of_annotations(annotations)
        .err()
        .unwrap_or_default()
}

/// `cpu,cpuacct`, or `none,name=systemd` for a hierarchy without controllers (cgroups(7)).
fn mount_data(controllers: &[String]) -> String {
    let joined = controllers.join(",");
    if joined.starts_with("name=") {
        return format!("none,{joined}");
    }
    joined
}

/// An absolute path without `.`, `..` or doubled slashes; `..` at the top stays there.
fn contain(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// `base` with the absolute `path` below it.
fn join(base: &Path, path: &Path) -> PathBuf {
    let (base, path) = (base.as_os_str().as_bytes(), path.as_os_str().as_bytes());
    // By hand: `Path::join` takes both apart first, and this is asked a hundred times for a container.
    let base = base.strip_suffix(b"/").unwrap_or(base);
    let rest = path.strip_prefix(b"/").unwrap_or(path);
    let joined = match rest.is_empty() {
        true => base.to_vec(),
        false => [base, rest].join(&b'/'),
    };
    match joined.is_empty() {
        true => PathBuf::from("/"),
        false => PathBuf::from(OsString::from_vec(joined)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hybrid() -> Host {
        Host::from_proc(
            b"1 2 0:3 / /c/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
              1 2 0:3 / /c/memory rw - cgroup cgroup rw,memory\n\
              1 2 0:3 / /c/systemd rw - cgroup cgroup rw,name=systemd\n\
              1 2 0:3 / /c/unified rw - cgroup2 cgroup rw\n",
            b"3:cpu,cpuacct:/\n2:memory:/own\n1:name=systemd:/\n0::/u\n",
        )
        .expect("host")
    }

    fn paths(path: Option<&str>) -> Vec<String> {
        Cgroup::plan(&hybrid(), path.map(Path::new), "id", Manager::Fs)
            .expect("plan")
            .dirs
            .iter()
            .map(|d| d.full().display().to_string())
            .collect()
    }

    #[test]
    fn paths_are_joined_as_paths() {
        let joined = |base, path| join(Path::new(base), Path::new(path));
        for (base, path, expected) in [
            ("/", "/", "/"),
            ("/", "/a/b", "/a/b"),
            ("/sys/x", "/", "/sys/x"),
            ("/sys/x", "/a", "/sys/x/a"),
            ("/own", "a/b", "/own/a/b"),
        ] {
            assert_eq!(joined(base, path).as_os_str(), expected, "{base} {path}");
        }
    }

    #[test]
    fn where_it_goes() {
        let cases: [(Option<&str>, [&str; 4]); 4] = [
            (
                Some("/a/b"),
                [
                    "/c/cpu/a/b",
                    "/c/memory/a/b",
                    "/c/systemd/a/b",
                    "/c/unified/a/b",
                ],
            ),
            (
                Some("a"),
                [
                    "/c/cpu/a",
                    "/c/memory/own/a",
                    "/c/systemd/a",
                    "/c/unified/u/a",
                ],
            ),
            (
                None,
                [
                    "/c/cpu/id",
                    "/c/memory/own/id",
                    "/c/systemd/id",
                    "/c/unified/u/id",
                ],
            ),
            (
                Some("../../a"),
                [
                    "/c/cpu/a",
                    "/c/memory/own/a",
                    "/c/systemd/a",
                    "/c/unified/u/a",
                ],
            ),
        ];
        for (asked, expected) in cases {
            assert_eq!(paths(asked), expected, "{asked:?}");
        }
    }

    #[test]
    fn v2_relative_goes_beside_the_caller() {
        let host = Host::from_proc(b"1 2 0:3 / /c rw - cgroup2 cgroup rw\n", b"0::/user/me\n")
            .expect("host");
        let cgroup = Cgroup::plan(&host, None, "id", Manager::Fs).expect("plan");
        assert_eq!(cgroup.dirs[0].full(), Path::new("/c/user/id"));
        assert!(cgroup.view(&host).is_v2());
    }

    #[test]
    fn a_root_is_refused() {
        for path in ["/", "..", "/a/..", "."] {
            let error = Cgroup::plan(&hybrid(), Some(Path::new(path)), "id", Manager::Fs);
            assert!(error.is_err(), "{path}");
        }
    }

    #[test]
    fn systemd_has_a_scope_in_every_hierarchy_and_none_is_empty() {
        let path = Path::new("a-b.slice:x:y");
        let scope = Cgroup::plan(&hybrid(), Some(path), "id", Manager::Systemd).expect("scope");
        let below = "a.slice/a-b.slice/x-y.scope";
        assert_eq!(scope.paths()["cpu"], Path::new("/c/cpu").join(below));
        assert_eq!(scope.paths()[""], Path::new("/c/unified").join(below));
        assert!(scope.needs_a_process());
        let text = serde_json::to_string(&scope).expect("json");
        assert_eq!(serde_json::from_str::<Cgroup>(&text).expect("json"), scope);
        let path = Some(Path::new("/a"));
        assert!(Cgroup::plan(&hybrid(), path, "id", Manager::Systemd).is_err());
        let none = Cgroup::plan(&hybrid(), None, "id", Manager::None).expect("none");
        assert!(none.is_none() && none.paths().is_empty());
    }

    #[test]
    fn a_sub_cgroup_stays_below() {
        let cgroup =
            Cgroup::plan(&hybrid(), Some(Path::new("/a")), "id", Manager::Fs).expect("plan");
        for above in ["memory:../../x", "..", "/x/../y"] {
            assert!(cgroup.sub(&[above.into()]).is_err(), "{above}");
        }
        let sub = cgroup.sub(&["memory:x".into()]).expect("sub");
        assert_eq!(sub.paths()["memory"], Path::new("/c/memory/a/x"));
        assert_eq!(sub.paths()["cpu"], Path::new("/c/cpu/a"));
        let all = cgroup.sub(&["/y".into()]).expect("sub");
        assert_eq!(all.paths()[""], Path::new("/c/unified/a/y"));
        assert!(cgroup.sub(&["nope:x".into()]).is_err());
    }

    #[test]
    fn what_a_cgroup_mount_sees() {
        let host = hybrid();
        let view = Cgroup::plan(&host, Some(Path::new("/a")), "id", Manager::Fs)
            .expect("plan")
            .view(&host);
        let shown: Vec<_> = view
            .hierarchies
            .iter()
            .map(|h| (h.name.as_str(), h.options.as_str(), h.v2))
            .collect();
        assert_eq!(
            shown,
            [
                ("cpu", "cpu,cpuacct", false),
                ("memory", "memory", false),
                ("systemd", "none,name=systemd", false),
                ("unified", "", true)
            ]
        );
        assert!(!view.is_v2());
    }
}
