//! The mount namespace in which criu(8) works. What is mounted there goes with criu, however it ends.

use crate::cgroup::View;
use crate::sys::process::unshare;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;

/// Makes the namespace for the calling process. Mounts of the host come in, its own do not go out.
pub fn enter() -> Result<()> {
    unshare(libc::CLONE_NEWNS).context("make a mount namespace")?;
    let slave = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(NONE, "/", NONE, slave, NONE).context("set the propagation of the mount tree")
}

/// Shows the root filesystem at `point`: criu wants a mount point that nothing lies on.
pub fn show_root(rootfs: &Path, point: &Path) -> Result<()> {
    bind(rootfs, point, MsFlags::MS_REC).context("the root filesystem")
}

/// Shows all cgroup hierarchies below `point`, by the names that criu looks for (criu(8),
/// `--cgroup-yard`). Without them it would mount each anew, and to mount cgroup2 without its options
/// turns those off on the whole machine: `nsdelegate` among them, which guards delegated cgroups.
pub fn make_yard(view: &View, point: &Path) -> Result<()> {
    let text = fs::read_to_string("/proc/self/cgroup").context("read /proc/self/cgroup")?;
    let kind = Some("tmpfs");
    mount(kind, point, kind, MsFlags::empty(), Some("mode=700"))
        .with_context(|| format!("mount a tmpfs on {}", point.display()))?;
    for (name, source) in yard(view, &text) {
        let place = point.join(name);
        fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
        match source {
            Source::Mounted(from) => bind(&from, &place, MsFlags::empty())?,
            Source::New { kind, data } => {
                mount(
                    Some("none"),
                    &place,
                    Some(kind),
                    MsFlags::empty(),
                    Some(data.as_str()),
                )
                .with_context(|| format!("mount {kind} with {data:?}"))?;
            }
        }
    }
    Ok(())
}

/// Where a hierarchy comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// It is mounted here.
    Mounted(PathBuf),
    /// It is not mounted anywhere that we can see.
    New { kind: &'static str, data: String },
}

/// The directories of the yard, by /proc/self/cgroup (cgroups(7)), whose order of controllers they
/// have.
fn yard(view: &View, text: &str) -> Vec<(String, Source)> {
    let controllers = text.lines().filter_map(|line| line.split(':').nth(1));
    controllers
        .map(|controllers| {
            let (name, options) = match controllers.strip_prefix("name=") {
                _ if controllers.is_empty() => ("unified", String::new()),
                Some(name) => (name, format!("none,{controllers}")),
                None => (controllers, controllers.to_owned()),
            };
            let known = view
                .hierarchies
                .iter()
                .find(|one| one.v2 == controllers.is_empty() && same(&one.options, &options));
            let source = match known {
                Some(hierarchy) => Source::Mounted(hierarchy.mount_point.clone()),
                None if controllers.is_empty() => Source::New {
                    kind: "cgroup2",
                    data: options,
                },
                None => Source::New {
                    kind: "cgroup",
                    data: options,
                },
            };
            (name.to_owned(), source)
        })
        .collect()
}

/// Whether two lists have the same words.
fn same(one: &str, other: &str) -> bool {
    let sorted = |text: &str| {
        let mut words: Vec<_> = text.split(',').map(str::to_owned).collect();
        words.sort();
        words
    };
    sorted(one) == sorted(other)
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND | flags, NONE)
        .with_context(|| format!("bind {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::HierarchyView;

    fn hierarchy(name: &str, options: &str, v2: bool) -> HierarchyView {
        HierarchyView {
            name: name.to_owned(),
            mount_point: PathBuf::from("/c").join(name),
            options: options.to_owned(),
            source: PathBuf::new(),
            v2,
        }
    }

    #[test]
    fn every_hierarchy_has_its_place() {
        let view = View {
            hierarchies: vec![
                hierarchy("cpu", "cpu,cpuacct", false),
                hierarchy("systemd", "none,name=systemd", false),
                hierarchy("all", "", true),
            ],
        };
        let text = "3:cpuacct,cpu:/\n2:misc:/\n1:name=systemd:/\n0::/\n";
        let at = |path: &str| Source::Mounted(PathBuf::from(path));
        let misc = Source::New {
            kind: "cgroup",
            data: "misc".into(),
        };
        let expected = [
            ("cpuacct,cpu", at("/c/cpu")),
            ("misc", misc),
            ("systemd", at("/c/systemd")),
            ("unified", at("/c/all")),
        ];
        let expected = expected.map(|(name, source)| (name.to_owned(), source));
        assert_eq!(yard(&view, text), expected);
        let none = View::default();
        let new = Source::New {
            kind: "cgroup2",
            data: String::new(),
        };
        assert_eq!(yard(&none, "0::/\n"), [("unified".to_owned(), new)]);
    }
}
