//! `linux.intelRdt` (config-linux.md): shares of the processor's caches and memory bandwidth, by
//! directories of a resctrl file system (Documentation/filesystems/resctrl.rst of the kernel).

use super::Problem;
use crate::error::ResultExt;
use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use oci_spec::runtime::{Linux, LinuxIntelRdt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

const TASKS: &str = "tasks";
const SCHEMATA: &str = "schemata";
const MONITORS: &str = "mon_groups";

/// A resctrl file system, by its directory.
#[derive(Debug)]
pub struct Rdt(OwnedFd);

/// The directories of a container there, as they are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The class of service; empty for the default one.
    class: PathBuf,
    /// It was made for this container alone.
    own: bool,
    /// The monitoring group.
    monitor: Option<PathBuf>,
}

impl Group {
    /// Removes what was made for the container alone. It went with the mount if there is none.
    pub fn remove(&self) -> Result<()> {
        Rdt::find()?.map_or(Ok(()), |resctrl| resctrl.remove(self))
    }
}

/// What can be said of the values without looking at the machine.
pub fn check(linux: &Linux) -> Vec<Problem> {
    linux.intel_rdt().as_ref().map_or_else(Vec::new, problems)
}

/// The same of the object alone.
pub fn problems(rdt: &LinuxIntelRdt) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut wrong = |field: &str, what: &str| {
        problems.push(Problem {
            path: format!("linux.intelRdt.{field}"),
            what: what.to_owned(),
        });
    };
    if rdt.clos_id().as_deref().is_some_and(|id| !is_class(id)) {
        wrong(
            "closID",
            "it must be a plain name, or / for the default class",
        );
    }
    if let Some(schema) = rdt.mem_bw_schema()
        && (!schema.starts_with("MB:") || schema.contains('\n'))
    {
        wrong("memBwSchema", "it must start with MB: and be one line");
    }
    if rdt
        .schemata()
        .iter()
        .flatten()
        .any(|line| line.contains('\n'))
    {
        wrong("schemata", "each must be one line");
    }
    problems
}

/// A name of a directory that the file system does not use for itself.
fn is_class(id: &str) -> bool {
    id == "/"
        || !(id.is_empty()
            || id.contains('/')
            || matches!(id, "." | ".." | "info" | "mon_data" | MONITORS))
}

impl Rdt {
    /// The one that is mounted.
    ///
    /// # Errors
    /// None is: the processor or the kernel may have no such control.
    pub fn open() -> Result<Rdt> {
        Rdt::find()?
            .context("linux.intelRdt: no resctrl file system is mounted")
            .hint(
                "mount -t resctrl resctrl /sys/fs/resctrl, which needs a processor with RDT; or \
                 take linux.intelRdt out of config.json",
            )
    }

    /// The one that is mounted, if one is.
    pub fn find() -> Result<Option<Rdt>> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").context("read the mounts")?;
        let path = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (dir, kind) = (fields.next()?, fields.next()?);
            (kind == "resctrl").then_some(dir)
        });
        let dir = path.map(|path| File::open(path).with_context(|| format!("open {path}")));
        Ok(dir.transpose()?.map(|dir| Rdt(dir.into())))
    }

    /// Makes or finds the container's class, with these shares. Nothing stays of a failure.
    pub fn set_up(&self, rdt: &LinuxIntelRdt, id: &str) -> Result<Group> {
        let class = match rdt.clos_id().as_deref() {
            Some("/") => PathBuf::new(),
            Some(class) => PathBuf::from(class),
            None => PathBuf::from(id),
        };
        let own = rdt.clos_id().is_none();
        let monitor = rdt.enable_monitoring().unwrap_or(false);
        let made = self.class(rdt, &class, own)?;
        let mut group = Group {
            class,
            own: made,
            monitor: None,
        };
        let result = self.write_shares(rdt, &group, made).and_then(|()| {
            if monitor {
                let path = group.class.join(MONITORS).join(id);
                mkdirat(&self.0, &path, Mode::from_bits_truncate(0o755))
                    .with_context(|| {
                        format!(
                            "linux.intelRdt: make the monitoring group {}",
                            path.display()
                        )
                    })
                    .hint(
                        "there are only so many; `rmdir` those below mon_groups that nobody uses",
                    )?;
                group.monitor = Some(path);
            }
            Ok(())
        });
        if let Err(error) = result {
            // The first error is the one to tell.
            let _ = self.remove(&group);
            return Err(error);
        }
        // A class with a name is for others to use as well.
        group.own = own;
        Ok(group)
    }

    /// Whether the directory of the class has been made just now.
    fn class(&self, rdt: &LinuxIntelRdt, class: &Path, own: bool) -> Result<bool> {
        let what = || format!("linux.intelRdt: the class {}", class.display());
        if class.as_os_str().is_empty() {
            return Ok(false);
        }
        if !own && lines(rdt).is_empty() {
            return match openat(
                &self.0,
                class,
                OFlag::O_PATH | OFlag::O_CLOEXEC,
                Mode::empty(),
            ) {
                Ok(_) => Ok(false),
                Err(error) => Err(error).with_context(what).hint(
                    "make it beforehand, or give it shares: l3CacheSchema, memBwSchema or schemata",
                ),
            };
        }
        match mkdirat(&self.0, class, Mode::from_bits_truncate(0o755)) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) if !own => Ok(false),
            Err(Errno::EEXIST) => Err(anyhow!("it exists already"))
                .with_context(what)
                .hint("name it in closID to share it, or remove it"),
            Err(Errno::ENOSPC) => Err(Errno::ENOSPC)
                .with_context(what)
                .hint("the processor has no more classes of service; share one by closID"),
            Err(error) => Err(error).with_context(what),
        }
    }

    /// The shares of a new class are written; those of one that was there must be the same, but for
    /// `schemata`, which is written in any case.
    fn write_shares(&self, rdt: &LinuxIntelRdt, group: &Group, new: bool) -> Result<()> {
        let simple = simple_lines(rdt);
        let path = group.class.join(SCHEMATA);
        if new && !simple.is_empty() {
            self.write_schemata(&path, &simple)?;
        } else if !simple.is_empty() {
            let found = self.read(&path)?;
            if let Some(line) = simple.iter().find(|line| !agrees(&found, line)) {
                return Err(anyhow!(
                    "linux.intelRdt: the class {} is there with other shares than {line:?}",
                    group.class.display()
                ))
                .hint("use another closID, or the shares in its file schemata");
            }
        }
        let more: Vec<&str> = rdt
            .schemata()
            .iter()
            .flatten()
            .map(String::as_str)
            .collect();
        match more.is_empty() {
            true => Ok(()),
            // By itself: the kernel wants each resource once in a write.
            false => self.write_schemata(&path, &more),
        }
    }

    /// Other shares for a container that lives.
    pub fn update(&self, group: &Group, rdt: &LinuxIntelRdt) -> Result<()> {
        self.write_schemata(&group.class.join(SCHEMATA), &simple_lines(rdt))
    }

    /// Moves a process into the class, and into the monitoring group below it.
    pub fn enter(&self, group: &Group, pid: i32) -> Result<()> {
        let dirs = [Some(&group.class), group.monitor.as_ref()];
        for dir in dirs.into_iter().flatten() {
            self.write(&dir.join(TASKS), &pid.to_string())
                .with_context(|| format!("linux.intelRdt: move process {pid}"))?;
        }
        Ok(())
    }

    /// Removes what was made for the container alone.
    pub fn remove(&self, group: &Group) -> Result<()> {
        let own = group.own.then_some(&group.class);
        for dir in group.monitor.iter().chain(own) {
            match unlinkat(&self.0, dir, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("remove {} in resctrl", dir.display()));
                }
            }
        }
        Ok(())
    }

    fn write_schemata(&self, path: &Path, lines: &[&str]) -> Result<()> {
        let text = lines.join("\n") + "\n";
        let written = self.write(path, &text);
        written
            .map_err(|error| {
                let why = self
                    .read(Path::new("info/last_cmd_status"))
                    .unwrap_or_default();
                match why.trim() {
                    "" | "ok" => error,
                    why => error.context(why.to_owned()),
                }
            })
            .with_context(|| format!("linux.intelRdt: write {text:?} to {}", path.display()))
    }

    fn write(&self, path: &Path, text: &str) -> Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_CLOEXEC;
        let file = openat(&self.0, path, flags, Mode::from_bits_truncate(0o644))?;
        File::from(file).write_all(text.as_bytes())?;
        Ok(())
    }

    fn read(&self, path: &Path) -> Result<String> {
        let what = || format!("linux.intelRdt: read {}", path.display());
        let file = openat(
            &self.0,
            path,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .with_context(what)?;
        let mut text = String::new();
        File::from(file)
            .read_to_string(&mut text)
            .with_context(what)?;
        Ok(text)
    }
}

/// `l3CacheSchema` and `memBwSchema`, in this order.
fn simple_lines(rdt: &LinuxIntelRdt) -> Vec<&str> {
    [rdt.l3_cache_schema(), rdt.mem_bw_schema()]
        .into_iter()
        .flatten()
        .flat_map(|schema| schema.lines())
        .filter(|line| !line.trim().is_empty())
        .collect()
}

fn lines(rdt: &LinuxIntelRdt) -> Vec<&str> {
    let mut all = simple_lines(rdt);
    all.extend(rdt.schemata().iter().flatten().map(String::as_str));
    all
}

/// Whether the file `schemata` says the same as a line, of all that the line speaks of.
fn agrees(found: &str, line: &str) -> bool {
    let Some((resource, wanted)) = parse(line) else {
        return false;
    };
    let found = found.lines().filter_map(parse);
    let Some((_, shares)) = found.into_iter().find(|(name, _)| *name == resource) else {
        return false;
    };
    wanted
        .iter()
        .all(|(domain, share)| shares.get(domain) == Some(share))
}

/// `L3:0=7f0;1=1f` as the resource and the share of each domain. The kernel pads with spaces and
/// zeros.
fn parse(line: &str) -> Option<(&str, BTreeMap<&str, String>)> {
    let (resource, shares) = line.trim().split_once(':')?;
    let shares = shares.split(';').map(|share| {
        let (domain, share) = share.split_once('=')?;
        let share = share.trim().trim_start_matches('0').to_ascii_lowercase();
        Some((domain.trim(), share))
    });
    Some((resource, shares.collect::<Option<_>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory that looks like a resctrl file system with a class `shared`.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> (Fake, Rdt) {
            let dir = std::env::temp_dir().join(format!("rdt-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            for sub in ["shared/mon_groups", "mon_groups", "info"] {
                fs::create_dir_all(dir.join(sub)).unwrap();
            }
            let text = "    MB:0= 20;1= 70\n    L3:0=07f0;1=001f\n";
            for file in ["schemata", "shared/schemata"] {
                fs::write(dir.join(file), text).unwrap();
            }
            let rdt = Rdt(File::open(&dir).unwrap().into());
            (Fake(dir), rdt)
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }

        fn has(&self, path: &str) -> bool {
            self.0.join(path).exists()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn spec(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_class_of_its_own_is_made_and_removed() {
        let (fake, rdt) = Fake::new("own");
        let spec = spec(
            r#"{"memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f", "enableMonitoring": true}"#,
        );
        fs::create_dir_all(fake.0.join("c1")).unwrap();
        let error = rdt.set_up(&spec, "c1").unwrap_err();
        assert!(format!("{error:#}").contains("exists already"), "{error:#}");
        assert!(fake.has("c1"), "it was not ours to remove");
        fs::remove_dir(fake.0.join("c1")).unwrap();
        let error = rdt.set_up(&spec, "c1").unwrap_err();
        assert!(
            format!("{error:#}").contains("monitoring group"),
            "{error:#}"
        );
        // A plain directory cannot be removed with a file in it; a class can.
        assert_eq!(fake.read("c1/schemata"), "L3:0=f\nMB:0=20\n");
        fs::remove_dir_all(fake.0.join("c1")).unwrap();
        let plain = self::spec("{}");
        let group = rdt.set_up(&plain, "c1").unwrap();
        assert!(!fake.has("c1/schemata"), "nothing was asked for");
        rdt.remove(&group).unwrap();
        assert!(!fake.has("c1"));
        rdt.remove(&group).unwrap();
    }

    #[test]
    fn a_named_class_is_shared_and_stays() {
        let (fake, rdt) = Fake::new("shared");
        let same = spec(
            r#"{"closID": "shared", "l3CacheSchema": "L3:1=1F", "memBwSchema": "MB:1=70;0=20",
                "schemata": ["L2:0=f", "L3:0=1"], "enableMonitoring": true}"#,
        );
        let group = rdt.set_up(&same, "c1").unwrap();
        assert_eq!(fake.read("shared/schemata"), "L2:0=f\nL3:0=1\n");
        rdt.enter(&group, 42).unwrap();
        assert_eq!(fake.read("shared/tasks"), "42");
        assert_eq!(fake.read("shared/mon_groups/c1/tasks"), "42");
        fs::remove_file(fake.0.join("shared/mon_groups/c1/tasks")).unwrap();
        rdt.remove(&group).unwrap();
        assert!(fake.has("shared") && !fake.has("shared/mon_groups/c1"));
        rdt.update(&group, &spec(r#"{"memBwSchema": "MB:0=1"}"#))
            .unwrap();
        assert_eq!(fake.read("shared/schemata"), "MB:0=1\n");
    }

    #[test]
    fn a_named_class_with_other_shares_is_refused() {
        let (fake, rdt) = Fake::new("other");
        let before = fake.read("shared/schemata");
        for other in [
            r#"{"closID": "shared", "l3CacheSchema": "L3:0=1"}"#,
            r#"{"closID": "shared", "l3CacheSchema": "L3:7=7f0"}"#,
            r#"{"closID": "shared", "memBwSchema": "MB:0=30"}"#,
            r#"{"closID": "/", "l3CacheSchema": "L2:0=1"}"#,
        ] {
            let error = rdt.set_up(&spec(other), "c1").unwrap_err();
            assert!(format!("{error:#}").contains("other shares"), "{error:#}");
        }
        assert_eq!(fake.read("shared/schemata"), before);
        assert!(fake.has("shared"));
        // Without shares it must be there, and is not made.
        assert!(rdt.set_up(&spec(r#"{"closID": "new"}"#), "c1").is_err());
        assert!(!fake.has("new"));
        rdt.set_up(&spec(r#"{"closID": "shared"}"#), "c1").unwrap();
        let group = rdt.set_up(&spec(r#"{"closID": "new", "schemata": ["L3:0=1"]}"#), "c1");
        rdt.remove(&group.unwrap()).unwrap();
        assert!(fake.has("new"), "a named class stays");
    }

    #[test]
    fn the_default_class_is_the_root() {
        let (fake, rdt) = Fake::new("default");
        let group = rdt
            .set_up(&spec(r#"{"closID": "/", "enableMonitoring": true}"#), "c1")
            .unwrap();
        rdt.enter(&group, 7).unwrap();
        assert_eq!(fake.read("tasks"), "7");
        assert_eq!(fake.read("mon_groups/c1/tasks"), "7");
    }

    #[test]
    fn values_are_checked() {
        for (bad, field) in [
            (r#"{"closID": "a/b"}"#, "closID"),
            (r#"{"closID": ".."}"#, "closID"),
            (r#"{"closID": ""}"#, "closID"),
            (r#"{"closID": "info"}"#, "closID"),
            (r#"{"memBwSchema": "L3:0=f"}"#, "memBwSchema"),
            (r#"{"memBwSchema": "MB:0=1\nMB:1=1"}"#, "memBwSchema"),
            (r#"{"schemata": ["L3:0=f\nL3:1=f"]}"#, "schemata"),
        ] {
            let linux = serde_json::from_str(&format!(r#"{{"intelRdt": {bad}}}"#)).unwrap();
            let told = check(&linux);
            assert_eq!(told.len(), 1, "{bad}");
            assert_eq!(told[0].path, format!("linux.intelRdt.{field}"));
        }
        let good =
            r#"{"intelRdt": {"closID": "/", "l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=1"}}"#;
        assert!(check(&serde_json::from_str(good).unwrap()).is_empty());
    }
}
