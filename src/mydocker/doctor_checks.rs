//! The single looks of `doctor`.

use super::cli::Global;
use super::copy::can_share;
use super::doctor::Finding;
use super::format::size;
use super::ids::Ids;
use super::overlay;
use super::passwd::User;
use super::reach::{Place, Reach};
use super::report::Report;
use super::rootless::{self, Fewer};
use super::runtime_cli::{choose, on_path};
use super::state_dirs::{State, fallback_run, make_dir};
use crate::cgroup::{DELEGABLE, Layout};
use crate::error::{ResultExt, hint_of, message};
use crate::sys::process::{Cloned, clone_single_threaded, exit_now, wait};
use crate::sys::xattr;
use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Everything, for whoever calls it.
pub(super) fn all(state: &State, global: &Global) -> Vec<Finding> {
    let user = User::caller();
    let is_user = user.uid != 0;
    let mut found = vec![kernel(is_user)];
    if is_user {
        found.push(user_namespaces(&user));
        found.push(subordinate_ids(&user));
    }
    found.extend(store(state, is_user.then_some(&user)));
    found.push(run_directory(state, is_user.then_some(&user)));
    found.push(runtime(global));
    found.extend(cgroups());
    found.push(other_namespaces());
    found.push(idmapped_mounts(is_user));
    found.push(seccomp());
    found.push(security_module());
    found.push(criu(is_user));
    found
}

/// Major and minor version of the running kernel.
fn version() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    parse_version(&name.release().to_string_lossy())
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel(is_user: bool) -> Finding {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
    let release = release.unwrap_or_default().to_string_lossy().into_owned();
    // clone3, openat2 and pidfd_getfd; overlays in user namespaces.
    let needed = if is_user { (5, 11) } else { (5, 6) };
    let detail = format!("Linux {release}");
    match version() {
        Some(version) if version < needed => Finding::missing(
            "kernel",
            detail,
            format!("boot Linux {}.{} or later", needed.0, needed.1),
        ),
        _ => Finding::ok("kernel", detail),
    }
}

/// Does something in a process of its own, whose namespaces go with it.
fn in_child(action: impl FnOnce() -> Result<()>) -> Result<()> {
    let (mut ours, theirs) = std::io::pipe().context("make a pipe")?;
    let cloned = clone_single_threaded(0, None).context("make a process")?;
    let Cloned::Parent { pidfd, .. } = cloned else {
        drop(ours);
        let report = match action() {
            Ok(()) => Report::Started,
            Err(error) => Report::failed(&error),
        };
        report.send(File::from(OwnedFd::from(theirs)));
        exit_now(0);
    };
    drop(theirs);
    let mut text = Vec::new();
    let _ = ours.read_to_end(&mut text);
    let _ = wait(pidfd.as_fd());
    Report::read(&text).context("the process that tried it was killed")?
}

fn sysctl(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    Some(text.trim().to_owned())
}

fn user_namespaces(user: &User) -> Finding {
    let what = "user namespaces";
    let tried = in_child(|| rootless::become_root_of_namespace(user, Fewer::Accept));
    let restricted = "kernel/apparmor_restrict_unprivileged_userns";
    match tried {
        Ok(()) => Finding::ok(what, "this user can make them"),
        Err(_) if sysctl(restricted).as_deref() == Some("1") => Finding::missing(
            what,
            "AppArmor takes their rights away from ordinary users",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        Err(error) => Finding::missing(
            what,
            message(&error),
            hint_of(&error)
                .unwrap_or("is this a container or a chroot? call mydocker outside of it"),
        ),
    }
}

fn subordinate_ids(user: &User) -> Finding {
    let what = "subordinate ids";
    let ids = Ids::of(user);
    if let Some((lack, fix)) = ids.lack {
        let detail = format!("{lack}: containers have one id, which is yours");
        return Finding::limited(what, detail, fix);
    }
    for program in ["newuidmap", "newgidmap"] {
        if let Some(path) = on_path(Path::new(program))
            && !may_map(&path)
        {
            return Finding::limited(
                what,
                format!("{} has no right to map ids", path.display()),
                "sudo apt-get install --reinstall uidmap",
            );
        }
    }
    // The namespace itself is another finding's.
    let maps = |fewer| in_child(|| rootless::become_root_of_namespace(user, fewer));
    if let (Err(refused), Ok(())) = (maps(Fewer::Refuse), maps(Fewer::Accept)) {
        return Finding::limited(
            what,
            format!(
                "{}: containers have one id, which is yours",
                message(&refused)
            ),
            "mend the lines of this user in /etc/subuid and /etc/subgid: sudoedit /etc/subuid /etc/subgid",
        );
    }
    let count: u64 = ids.maps.uid.iter().map(|map| u64::from(map.size())).sum();
    Finding::ok(what, format!("{count} ids, by /etc/subuid and newuidmap"))
}

/// It is set-user-id, or has capabilities.
fn may_map(program: &Path) -> bool {
    let is_suid = |mode: u32| mode & 0o4000 != 0;
    program
        .metadata()
        .is_ok_and(|facts| is_suid(facts.permissions().mode()))
        || matches!(
            xattr::get(program, "security.capability".as_ref()),
            Ok(Some(_))
        )
}

/// A directory for a moment, on the file system of the store.
struct Scratch(PathBuf);

impl Scratch {
    /// In the store, or where it would be made.
    fn new(store: &Path) -> Result<Scratch> {
        let home = store.ancestors().find(|dir| dir.exists());
        let home = home.context("nothing of its path is there")?;
        let dir = home.join(format!(".mydocker-doctor-{}", std::process::id()));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .with_context(|| format!("write in {}", home.display()))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The overlay closes a directory in `work` to its owner.
        let closed = self.0.join("work/work");
        let _ = std::fs::set_permissions(closed, PermissionsExt::from_mode(0o700));
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn store(state: &State, user: Option<&User>) -> Vec<Finding> {
    let what = "store";
    let scratch = match Scratch::new(&state.root) {
        Ok(scratch) => scratch,
        Err(error) => {
            let detail = format!("{}: {}", state.root.display(), message(&error));
            let fix = "MYDOCKER_ROOT names another directory";
            return vec![Finding::missing(what, detail, fix)];
        }
    };
    vec![room(state, &scratch.0), overlays(&scratch.0, user)]
}

/// Less than this and images have no room.
const LITTLE: u64 = 1 << 30;

fn room(state: &State, dir: &Path) -> Finding {
    let free = statvfs(dir).map_or(0, |facts| facts.blocks_available() * facts.fragment_size());
    let attributes = match xattr::set(dir, "user.doctor".as_ref(), b"y") {
        Ok(()) => "",
        Err(_) => "no ",
    };
    let reflinks = match can_share(dir) {
        true => "",
        false => "no ",
    };
    let detail = format!(
        "{}: {} free, {attributes}attributes, {reflinks}reflinks",
        state.root.display(),
        size(free)
    );
    if free < LITTLE {
        let fix = "mydocker system prune; or MYDOCKER_ROOT on a larger file system";
        return Finding::limited("store", detail, fix);
    }
    match attributes.is_empty() {
        true => Finding::ok("store", detail),
        false => Finding::limited(
            "store",
            detail,
            "MYDOCKER_ROOT on ext4, xfs or btrfs: without attributes a file's capabilities are lost",
        ),
    }
}

fn overlays(dir: &Path, user: Option<&User>) -> Finding {
    let what = "overlay";
    let parts = ["lower", "upper", "work", "root"].map(|name| dir.join(name));
    let mount = || -> Result<()> {
        parts.iter().try_for_each(|part| make_dir(part))?;
        if let Some(user) = user {
            rootless::become_root_of_namespace(user, Fewer::Accept)?;
        }
        overlay::own_namespace(dir, &[])?;
        let [lower, upper, work, root] = &parts;
        let writable = overlay::Writable {
            upper,
            work,
            volatile: false,
        };
        overlay::mount_root(std::slice::from_ref(lower), writable, root)?;
        std::fs::write(root.join("x"), "x").context("write in the overlay")
    };
    match in_child(mount) {
        Ok(()) if user.is_some() => Finding::ok(what, "mounts in a user namespace"),
        Ok(()) => Finding::ok(what, "mounts"),
        Err(error) => Finding::missing(
            what,
            message(&error),
            "sudo modprobe overlay; a user needs Linux 5.11; a network file system will not do: \
             MYDOCKER_ROOT names another directory",
        ),
    }
}

fn run_directory(state: &State, user: Option<&User>) -> Finding {
    let what = "run directory";
    let tried = match user {
        Some(user) => rootless::own_directory(&state.run, user.uid),
        None => make_dir(&state.run),
    };
    let shown = state.run.display().to_string();
    match tried.and_then(|()| Scratch::new(&state.run).map(drop)) {
        Err(error) => Finding::missing(
            what,
            message(&error),
            "MYDOCKER_RUN names another directory, of yours and closed to others",
        ),
        Ok(()) if user.is_some_and(|user| state.run == fallback_run(user.uid)) => Finding::limited(
            what,
            format!(
                "{shown}: XDG_RUNTIME_DIR {}",
                why_fallback(std::env::var_os("XDG_RUNTIME_DIR"))
            ),
            own_run_directory(user.map_or("", |user| &user.name)),
        ),
        Ok(()) => Finding::ok(what, shown),
    }
}

/// What is wrong with the variable of a user whose run directory is the fallback.
fn why_fallback(named: Option<OsString>) -> &'static str {
    match named.filter(|named| !named.is_empty()) {
        None => "is not set",
        Some(_) => "is no directory of yours",
    }
}

/// The line by which a user who is not logged in has a runtime directory.
fn own_run_directory(name: &str) -> String {
    match Path::new("/run/systemd/system").exists() {
        true => format!("log in as {name} (su does not), or: sudo loginctl enable-linger {name}"),
        false => format!("sudo install -d -m 700 -o {name} /run/user/$(id -u {name})"),
    }
}

/// What a program says of its version, in a line.
fn line_of(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} --version: {}", program.display(), output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn runtime(global: &Global) -> Finding {
    let found = choose(global.runtime.as_deref())
        .and_then(|path| Ok((line_of(&path).hint("--runtime PATH names another")?, path)));
    match found {
        Ok((line, path)) => Finding::ok("runtime", format!("{} ({line})", path.display())),
        Err(error) => {
            let fix = hint_of(&error).unwrap_or_default().to_owned();
            Finding::missing("runtime", message(&error), fix)
        }
    }
}

fn cgroups() -> Vec<Finding> {
    let what = "cgroups";
    let superuser = super::is_superuser();
    let reach = match Reach::look(!superuser) {
        Ok(reach) => reach,
        Err(error) => {
            let fix = "sudo mount -t cgroup2 cgroup2 /sys/fs/cgroup";
            return vec![Finding::limited(what, message(&error), fix)];
        }
    };
    let layout = match reach.layout {
        Layout::V1 => "v1",
        Layout::Hybrid => "v1 and an empty v2 (hybrid)",
        Layout::V2 => "v2",
    };
    let place = match &reach.place {
        Place::Below(_) if superuser => "all of it".to_owned(),
        Place::Below(path) => format!("delegated: {}", path.display()),
        Place::Nowhere => "none for this user".to_owned(),
    };
    let detail = format!("{layout}; {place}");
    let mut found = vec![match reach.place {
        Place::Nowhere => Finding::limited(
            what,
            format!("{detail}: no limits, no pause, no stats"),
            reach.remedy("memory"),
        ),
        _ => Finding::ok(what, detail),
    }];
    if reach.place != Place::Nowhere {
        let lacks = |name: &&str| !reach.controllers.iter().any(|has| has == name);
        let lacking: Vec<&str> = DELEGABLE.into_iter().filter(lacks).collect();
        let all = reach.controllers.join(" ");
        found.push(match lacking.first() {
            None => Finding::ok("controllers", all),
            Some(first) => Finding::limited(
                "controllers",
                format!("{all}; not {}", lacking.join(" ")),
                reach.remedy(first),
            ),
        });
    }
    found
}

fn other_namespaces() -> Finding {
    let lacking: Vec<&str> = ["cgroup", "time", "ipc", "net", "pid", "uts"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    match lacking.is_empty() {
        true => Finding::ok("other namespaces", "cgroup, time, ipc, net, pid, uts"),
        false => Finding::limited(
            "other namespaces",
            format!("this kernel has none of {}", lacking.join(", ")),
            "boot a kernel with CONFIG_NAMESPACES, CONFIG_CGROUPS and CONFIG_TIME_NS",
        ),
    }
}

fn idmapped_mounts(is_user: bool) -> Finding {
    let what = "idmapped mounts";
    match version() {
        Some(version) if version < (5, 12) => {
            Finding::limited(what, "none", "boot Linux 5.12 or later")
        }
        // They need rights over the file system, which is the machine's.
        _ if is_user => Finding::limited(
            what,
            "only root may make them of the machine's file systems",
            "--userns keep-id gives a container your own ids; for other owners in volumes run it as root",
        ),
        _ => Finding::ok(what, "by this kernel, where the file system can"),
    }
}

fn seccomp() -> Finding {
    match sysctl("kernel/seccomp/actions_avail") {
        Some(actions) => Finding::ok("seccomp", actions),
        None => Finding::limited(
            "seccomp",
            "this kernel has none: containers may make every system call",
            "boot a kernel with CONFIG_SECCOMP_FILTER",
        ),
    }
}

fn security_module() -> Finding {
    let what = "security module";
    let reads = |path: &str, value: &str| {
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
    };
    if reads("/sys/module/apparmor/parameters/enabled", "Y") {
        return Finding::ok(what, "AppArmor: --security-opt apparmor=PROFILE");
    }
    match std::fs::read_to_string("/sys/fs/selinux/enforce") {
        Ok(text) if text.trim() == "1" => {
            Finding::ok(what, "SELinux, enforcing: --security-opt label=…")
        }
        Ok(_) => Finding::ok(what, "SELinux, permissive"),
        Err(_) => Finding::ok(what, "neither AppArmor nor SELinux is in force"),
    }
}

fn criu(is_user: bool) -> Finding {
    let found = on_path(Path::new("criu")).or_else(|| {
        // Not on an ordinary user's path.
        Some(PathBuf::from("/usr/sbin/criu")).filter(|path| path.is_file())
    });
    match found {
        None => Finding::limited(
            "criu",
            "not there: no `runtime checkpoint`",
            "sudo apt-get install criu",
        ),
        Some(path) if is_user => Finding::limited(
            "criu",
            format!("{}: it needs root", path.display()),
            "run `runtime checkpoint` as root",
        ),
        Some(path) => match line_of(&path) {
            Ok(line) => Finding::ok("criu", line),
            Err(error) => Finding::limited(
                "criu",
                message(&error),
                "sudo apt-get install --reinstall criu",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_not_set_is_nobodys_directory() {
        assert_eq!(why_fallback(None), "is not set");
        assert_eq!(why_fallback(Some("".into())), "is not set");
        assert_eq!(why_fallback(Some("/".into())), "is no directory of yours");
    }

    #[test]
    fn versions_of_kernels() {
        assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse_version("5.10-rc1"), Some((5, 10)));
        assert_eq!(parse_version("x"), None);
    }

    /// A copy of a process is made by one that has no other threads: the heap of this one may be locked
    /// by another test at that moment, for ever in the copy.
    #[test]
    fn a_failure_in_another_process_comes_back() {
        const NAME: &str =
            "mydocker::doctor_checks::tests::a_failure_in_another_process_comes_back";
        if std::env::var_os("ALONE").is_none() {
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            alone.args(["--exact", NAME, "--test-threads=1"]);
            let done = alone.env("ALONE", "yes").output().unwrap();
            let said = String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        assert!(in_child(|| Ok(())).is_ok());
        let failed = in_child(|| bail!("so")).unwrap_err();
        assert_eq!(message(&failed), "so");
    }
}
