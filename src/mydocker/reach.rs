//! How far the caller's rights over cgroups reach: where those of containers can be, and which
//! controllers can limit them. Root has all that the machine has. An ordinary user has what was
//! delegated to him, on cgroup v2 alone (cgroup-v2.rst, "Delegation"); a limit beyond that is an error,
//! or with --best-effort a warning.

use super::ids;
use super::passwd::User;
use crate::cgroup::{Cgroup, DELEGABLE, Host, Layout, delegation, enter_user_scope, read};
use crate::error::{with_exit_code, with_hint};
use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the cgroups of containers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below `mydocker` in this cgroup.
    Below(PathBuf),
    /// They have none of their own.
    Nowhere,
}

/// Where, and with which controllers.
#[derive(Debug)]
pub(super) struct Reach {
    pub(super) place: Place,
    pub(super) layout: Layout,
    /// By their names on v2.
    pub(super) controllers: Vec<String>,
    /// The file that lists them, where there is one.
    pub(super) listed: Option<PathBuf>,
}

/// What may be limited: how config.json groups it, the controller, and the options.
const LIMITS: [(&str, &[&str], &str, &str); 5] = [
    ("memory", &["limit", "swap", "reservation"], "memory", "-m"),
    (
        "cpu",
        &["shares", "quota", "period"],
        "cpu",
        "-cpushare, --cpus",
    ),
    ("cpu", &["cpus", "mems"], "cpuset", "-cpuset"),
    ("pids", &["limit"], "pids", "--pids-limit"),
    ("blockIO", &["weight"], "io", "--blkio-weight"),
];

impl Reach {
    /// For a caller to whom the usual does not apply: who is root of a user namespace alone, or who wants
    /// what cannot be had to be left out.
    pub(super) fn if_limited(best_effort: bool) -> Result<Option<Reach>> {
        match ids::are_mapped() || best_effort {
            true => Reach::look(ids::are_mapped()).map(Some),
            false => Ok(None),
        }
    }

    /// Looks at the files. `delegated`: what is not delegated is out of reach.
    pub(super) fn look(delegated: bool) -> Result<Reach> {
        let host = Host::probe()?;
        let reach = |place, controllers, listed| Reach {
            place,
            layout: host.layout(),
            controllers,
            listed,
        };
        if !delegated {
            let all = host.controllers().into_iter().map(of_v2).collect();
            return Ok(reach(Place::Below("/".into()), all, None));
        }
        if let Some((path, dir)) = host.delegated().or_else(|| host.user_manager_tree()) {
            let listed = dir.join("cgroup.controllers");
            return Ok(reach(Place::Below(path), words(&listed), Some(listed)));
        }
        Ok(reach(Place::Nowhere, Vec::new(), None))
    }

    /// `linux.cgroupsPath` of a container, below `parent` if that is asked for. Without one a runtime makes
    /// a cgroup where it may.
    pub(super) fn path_of(&self, parent: Option<&str>, id: &str) -> Result<Option<String>> {
        match (&self.place, parent) {
            (Place::Below(base), parent) => {
                let path = base.join(parent.unwrap_or("mydocker")).join(id);
                Ok(Some(path.display().to_string()))
            }
            (Place::Nowhere, None) => Ok(None),
            (Place::Nowhere, Some(parent)) => {
                let error =
                    anyhow!("--cgroup-parent {parent}: no cgroup is delegated to this user");
                let hint = format!("{}; or leave it out", self.remedy("memory"));
                Err(with_exit_code(with_hint(error, hint), 125))
            }
        }
    }

    /// The controllers that `resources` of a config.json name and that are out of reach, so that they must
    /// be left out: an error for the first that would limit, or with `best_effort` a warning for each.
    pub(super) fn lacking(
        &self,
        resources: &Value,
        best_effort: bool,
    ) -> Result<Vec<&'static str>> {
        let mut lacking = Vec::new();
        for (group, keys, controller, options) in LIMITS {
            let asked = keys.iter().filter_map(|key| resources[group].get(*key));
            let asked: Vec<&Value> = asked.collect();
            if asked.is_empty() || self.controllers.iter().any(|name| name == controller) {
                continue;
            }
            // -1 is no limit, as there is none without the controller.
            if asked.iter().all(|value| value.as_i64() == Some(-1)) {
                lacking.push(controller);
                continue;
            }
            let what = format!("{options}: {}", self.why_not(controller));
            if !best_effort {
                let hint = format!("{}; --best-effort does without", self.remedy(controller));
                return Err(with_exit_code(with_hint(anyhow!(what), hint), 125));
            }
            super::note(&format!("{what}; not applied"));
            lacking.push(controller);
        }
        Ok(lacking)
    }

    /// Why a controller cannot be had.
    pub(super) fn why_not(&self, controller: &str) -> String {
        let name = match self.layout {
            Layout::V2 => controller,
            _ => of_v1(controller),
        };
        match (self.layout, &self.place, &self.listed) {
            (_, _, Some(listed)) => format!(
                "the controller {name} is not delegated to this user: {} has {}",
                listed.display(),
                match self.controllers.as_slice() {
                    [] => "none".to_owned(),
                    names => names.join(" "),
                }
            ),
            (Layout::V2, Place::Nowhere, _) => {
                format!("the controller {name} is not delegated to this user, nor is any cgroup")
            }
            (_, Place::Nowhere, _) => {
                format!("the controller {name} is on cgroup v1, which only root may use")
            }
            _ => format!("this kernel has no controller {name}"),
        }
    }

    /// The line that makes it good.
    pub(super) fn remedy(&self, controller: &str) -> String {
        let has_systemd = Path::new("/run/systemd/system").exists();
        match (self.layout, &self.place) {
            (_, Place::Below(_)) if self.listed.is_none() => format!(
                "boot a kernel with it, and without cgroup_disable={}",
                of_v1(controller)
            ),
            (Layout::V1 | Layout::Hybrid, _) if has_systemd => {
                "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line, for cgroup v2"
                    .to_owned()
            }
            (Layout::V1 | Layout::Hybrid, _) => {
                "boot with cgroup_no_v1=all on the kernel's command line, for cgroup v2".to_owned()
            }
            (Layout::V2, _) if has_systemd && self.listed.is_some() => delegation(),
            (Layout::V2, _) if has_systemd => {
                "log in as this user (su does not), or call it by systemd-run --user --scope -p Delegate=yes"
                    .to_owned()
            }
            (Layout::V2, _) => by_hand(&User::caller()),
        }
    }
}

/// The same where nobody manages cgroups.
fn by_hand(user: &User) -> String {
    let dir = format!("/sys/fs/cgroup/user-{}", user.name);
    let plus = DELEGABLE.map(|name| format!("+{name}")).join(" ");
    format!(
        "sudo sh -c 'echo {plus} >/sys/fs/cgroup/cgroup.subtree_control; mkdir -p {dir}/shell; \
         chown -R {} {dir}; echo '$$' >{dir}/shell/cgroup.procs'",
        user.name
    )
}

fn words(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

fn of_v2(name: String) -> String {
    match name.as_str() {
        "blkio" => "io".to_owned(),
        _ => name,
    }
}

fn of_v1(name: &str) -> &str {
    match name {
        "io" => "blkio",
        name => name,
    }
}

/// Moves this process into the delegated tree, if it is in a session beside that: a process there can
/// only be made by who may write to the first cgroup above both (cgroup-v2.rst, "Delegation
/// Containment"). systemd may, and makes a scope around it.
pub(super) fn go_in() -> Result<()> {
    let host = Host::probe()?;
    if host.delegated().is_some() || host.user_manager_tree().is_none() {
        return Ok(());
    }
    // An older process of that number may have left somebody in its scope.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_nanos());
    enter_user_scope(&format!("mydocker-{}-{now}", std::process::id()))
}

/// The cgroup of a container by a process of it. `None`: it has none of its own, and that of `pid` is
/// its caller's.
///
/// # Errors
/// The process has ended: on v1 it is in the first cgroup of all then.
pub(super) fn cgroup_of(id: &str, pid: i32) -> Result<Option<Cgroup>> {
    let own = read::cgroup_of_pid(pid)?.only_with(id);
    match own.is_none() {
        false => Ok(Some(own)),
        true if ids::are_mapped() => Ok(None),
        true => bail!("process {pid} has just ended"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{hint_of, message};
    use serde_json::json;

    fn reach(layout: Layout, place: Place, controllers: &[&str], listed: Option<&str>) -> Reach {
        Reach {
            place,
            layout,
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
            listed: listed.map(PathBuf::from),
        }
    }

    fn asked() -> Value {
        json!({
            "memory": {"limit": 5, "swap": 10}, "cpu": {"shares": 512, "cpus": "0"},
            "pids": {"limit": 3}, "devices": [],
        })
    }

    #[test]
    fn what_is_not_delegated_is_refused_with_the_line_that_delegates_it() {
        let file = "/c/cgroup.controllers";
        let below = Place::Below("/user".into());
        let some = reach(Layout::V2, below, &["memory", "pids"], Some(file));
        let error = some.lacking(&asked(), false).unwrap_err();
        let told = message(&error);
        assert!(
            told.starts_with("-cpushare, --cpus: the controller cpu "),
            "{told}"
        );
        assert!(
            told.ends_with("/c/cgroup.controllers has memory pids"),
            "{told}"
        );
        assert!(hint_of(&error).unwrap().contains("--best-effort"));
        assert!(delegation().contains("Delegate=cpu cpuset io memory pids\\n"));
        assert_eq!(some.lacking(&asked(), true).unwrap(), ["cpu", "cpuset"]);
        let lifted = json!({"cpu": {"quota": -1}});
        assert_eq!(some.lacking(&lifted, false).unwrap(), ["cpu"]);
    }

    #[test]
    fn cgroup_v1_is_roots() {
        let none = reach(Layout::Hybrid, Place::Nowhere, &[], None);
        let error = none.lacking(&asked(), false).unwrap_err();
        assert!(message(&error).contains("memory is on cgroup v1, which only root may use"));
        assert!(hint_of(&error).unwrap().contains("kernel's command line"));
        assert!(none.lacking(&json!({}), false).unwrap().is_empty());
        let roots = reach(Layout::V1, Place::Below("/".into()), &["memory"], None);
        let told = message(&roots.lacking(&asked(), false).unwrap_err());
        assert!(
            told.ends_with("this kernel has no controller cpu"),
            "{told}"
        );
    }

    #[test]
    fn places_of_cgroups() {
        let at = |place, parent| reach(Layout::V2, place, &[], None).path_of(parent, "i");
        let below = |base: &str, parent| at(Place::Below(base.into()), parent).unwrap().unwrap();
        assert_eq!(below("/", None), "/mydocker/i");
        assert_eq!(below("/a/b", None), "/a/b/mydocker/i");
        assert_eq!(below("/a", Some("team")), "/a/team/i");
        assert_eq!(at(Place::Nowhere, None).unwrap(), None);
        assert!(at(Place::Nowhere, Some("team")).is_err());
    }
}
