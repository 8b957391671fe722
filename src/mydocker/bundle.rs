//! From an image's configuration and the flags of `run` to a bundle. It reads the image and the
//! host, and changes nothing.

use super::cli::Run;
use super::etc::Etc;
use super::ids;
use super::image::Image;
use super::keep_id::KeepId;
use super::mount_table;
use super::mounts::Mount;
use super::process;
use super::propagation;
use super::reach::Reach;
use super::rights::{self, Security};
use super::shown::{self, Shown};
use super::state_dirs::State;
use super::values::Restart;
use super::volume::{self, Wanted};
use super::{log, values};
use crate::error::{ResultExt, with_exit_code, with_hint};
use anyhow::{Context, Result, anyhow};
use oci_spec::runtime::Spec;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the bundle is made from.
pub struct Request<'a> {
    /// The container's id, 64 digits.
    pub id: &'a str,
    /// Where volumes and other containers are.
    pub state: &'a State,
    /// Its image.
    pub image: &'a Image,
    /// What follows the image on the command line.
    pub command: &'a [String],
    /// The flags.
    pub flags: &'a Run,
    /// Where the overlay will be mounted: `root.path`.
    pub rootfs: &'a Path,
    /// The caller's environment, for `-e NAME`.
    pub caller_env: &'a dyn Fn(&str) -> Option<String>,
    /// The capabilities that the caller may pass on.
    pub bounding: u64,
    /// Where its cgroup is, unless that is as usual for root.
    pub(super) reach: Option<&'a Reach>,
    /// Whose ids it keeps; the image's layers are for such containers then.
    pub(super) keep_id: Option<&'a KeepId>,
}

/// The bundle, and what of the flags the monitor and the other verbs need.
#[derive(Debug)]
pub struct Bundle {
    /// config.json
    pub spec: Spec,
    /// Host directories of `-v` that are made if they are missing (D10).
    pub host_dirs: Vec<PathBuf>,
    /// The volumes that it is to have.
    pub(super) volumes: Vec<Wanted>,
    /// What is mounted over files of the image's /etc, when it is started.
    pub(super) etc: Etc,
    /// What is added to files of the image's /etc, if they are there.
    pub(super) accounts: Vec<(&'static str, String)>,
    /// The program and its arguments.
    pub args: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    pub log: log::Bounds,
    pub restart: Restart,
    /// For `inspect`, `commit` and `diff`.
    pub shown: Shown,
}

/// Makes the bundle, or says what is wrong with the flags (exit code 125).
pub fn build(request: &Request<'_>) -> Result<Bundle> {
    let flags = request.flags;
    supported(flags)?;
    let hostname = hostname(request)?;
    let args = program(request)?;
    let mut line = args.clone();
    if flags.init {
        line.splice(0..0, [super::init::PATH.to_owned(), "--".to_owned()]);
    }
    let cwd = directory(request)?;
    let own = mount_table::of_user(request)?;
    let accounts = accounts(request, &cwd, &own)?;
    let user_text = user_text(request);
    let user = process::user(&user_text, &flags.group_add, &|path| {
        let added = |(file, _): &&(&str, String)| path.strip_prefix("/etc/") == Some(*file);
        let added = accounts.iter().find(added);
        let line = added.map_or("", |(_, line)| line.as_str());
        Ok(read(request, path)? + line)
    })?
    .checked(&user_text, request.keep_id)?;
    let env = process::environment(request.image, flags, &hostname, request.caller_env)?;
    let held = rights::capabilities(flags, request.bounding)?;
    let security = rights::security(flags, &held)?;
    let linux = linux(request, &security, &own)?;
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": request.rootfs, "readonly": flags.read_only},
        "process": {
            "terminal": flags.tty, "user": user.json(), "args": line, "env": env, "cwd": cwd,
            "capabilities": rights::sets(&held, user.uid == 0),
            "noNewPrivileges": security.no_new_privileges,
            "rlimits": each(&flags.ulimit, rights::ulimit)?,
        },
        "mounts": mount_table::whole(request, &own),
        "annotations": annotations(flags)?,
        "linux": linux,
    });
    if flags.uts.as_deref() != Some("host") {
        spec["hostname"] = json!(hostname);
    }
    if let (Some(name), true) = (&flags.domainname, ids::are_mapped()) {
        // The file of the sysctl is root's.
        spec["domainname"] = json!(name);
    }
    let process = &mut spec["process"];
    if let Some(mask) = flags.umask {
        process["user"]["umask"] = json!(mask);
    }
    optional(process, "oomScoreAdj", flags.oom_score_adj.as_ref());
    optional(process, "apparmorProfile", security.apparmor.as_ref());
    optional(process, "selinuxLabel", security.label.as_ref());
    let placeholders = shown::placeholders(&spec);
    let shown = Shown {
        config: shown::config(request, &hostname, &user_text, &env, &args)?,
        host_config: shown::host_config(flags),
        mounts: own.iter().map(|mount| mount.shown.clone()).collect(),
        placeholders,
    };
    let mut spec: Spec =
        serde_json::from_value(spec).context("make the container's config.json")?;
    // Hundreds of names, which are not copied from one value into the next.
    if let Some(linux) = spec.linux_mut() {
        linux.set_seccomp(security.seccomp);
    }
    Ok(Bundle {
        spec,
        host_dirs: own.iter().filter_map(|m| m.host_dir.clone()).collect(),
        volumes: own.iter().filter_map(|m| m.volume.clone()).collect(),
        etc: Etc::of_flags(flags, &hostname)?,
        accounts,
        args,
        labels: labels(request.image, flags)?,
        stop_signal: stop_signal(request)?,
        log: log_bounds(flags)?,
        restart: flags.restart.unwrap_or_default(),
        shown,
    })
}

/// A file of the image, or nothing.
fn read(request: &Request<'_>, path: &str) -> Result<String> {
    let bytes = request.image.read_file(path)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Who it runs as: as -u or the image says, or else root, or the one whose ids are kept.
fn user_text(request: &Request<'_>) -> String {
    let of_image = request.image.config.config().as_ref();
    let of_image = || of_image.and_then(|config| config.user().clone());
    let named = request.flags.user.clone().or_else(of_image);
    match (named.filter(|user| !user.is_empty()), request.keep_id) {
        (Some(user), _) => user,
        (None, Some(keep)) => keep.user(),
        (None, None) => String::new(),
    }
}

/// The lines by which the one whose ids are kept is known. He is at home where he is outside, if that
/// is mounted, and else where the program starts.
fn accounts(
    request: &Request<'_>,
    cwd: &str,
    own: &[Mount],
) -> Result<Vec<(&'static str, String)>> {
    let Some(keep) = request.keep_id else {
        return Ok(Vec::new());
    };
    let is_mounted = |home: &&str| {
        own.iter()
            .any(|mount| Path::new(home).starts_with(&mount.target))
    };
    // A field ends with a colon.
    let fits = |home: &&str| !home.contains([':', '\n']);
    let home = |outside: Option<&str>| {
        let home = outside.filter(is_mounted).unwrap_or(cwd);
        Some(home).filter(fits).unwrap_or("/").to_owned()
    };
    keep.accounts(&|path| read(request, path), home)
}

/// The program and its arguments.
fn program(request: &Request<'_>) -> Result<Vec<String>> {
    let args = process::args(request.image, request.flags, request.command);
    if args.first().is_some_and(String::is_empty) {
        let error = anyhow!("the name of the program is empty");
        let hint = "name one behind the image, or leave the word out: the image's own program runs";
        return Err(with_exit_code(with_hint(error, hint), 127));
    }
    Ok(args)
}

/// Where it starts: as -w or the image says.
fn directory(request: &Request<'_>) -> Result<String> {
    let of_image = request.image.config.config().as_ref();
    let of_image = of_image.and_then(|config| config.working_dir().as_ref());
    match (&request.flags.workdir, of_image) {
        (Some(dir), _) => process::directory("-w", dir),
        (None, Some(dir)) if dir.starts_with('/') => Ok(dir.clone()),
        _ => Ok("/".to_owned()),
    }
}

pub(super) fn each<T>(texts: &[String], parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().map(|text| parse(text)).collect()
}

fn optional<T: serde::Serialize>(object: &mut Value, key: &str, value: Option<&T>) {
    if let Some(value) = value {
        object[key] = json!(value);
    }
}

/// What is known of Docker and not there yet is refused, never ignored.
fn supported(flags: &Run) -> Result<()> {
    let no = |what: String, hint: &str| {
        Err(with_exit_code(
            with_hint(anyhow!("{what}: not supported yet"), hint),
            125,
        ))
    };
    if let Some(port) = flags.publish.first() {
        let hint = "without a network between containers, use --network host";
        return no(format!("-p {port}"), hint);
    }
    if flags.publish_all {
        return no("-P".into(), "use --network host");
    }
    if let Some(other) = flags.volume_driver.as_deref()
        && other != volume::DRIVER
    {
        return no(format!("--volume-driver {other}"), "there is local");
    }
    match flags.network.as_deref() {
        None | Some("none" | "host") => {}
        Some(other) => return no(format!("--network {other}"), "there are none and host"),
    }
    for (flag, mode) in [
        ("--ipc", &flags.ipc),
        ("--pid", &flags.pid),
        ("--uts", &flags.uts),
        ("--cgroupns", &flags.cgroupns),
    ] {
        match mode.as_deref() {
            None | Some("host" | "private") => {}
            Some(other) => return no(format!("{flag} {other}"), "there are private and host"),
        }
    }
    let both = flags.cpus.is_some() && (flags.cpu_quota.is_some() || flags.cpu_period.is_some());
    if both {
        let error = anyhow!("--cpus does not go with --cpu-quota and --cpu-period");
        return Err(with_exit_code(with_hint(error, "give either"), 125));
    }
    Ok(())
}

fn hostname(request: &Request<'_>) -> Result<String> {
    let flags = request.flags;
    let host = || -> Result<String> {
        let name = nix::unistd::gethostname().context("gethostname")?;
        Ok(name.to_string_lossy().into_owned())
    };
    let Some(name) = &flags.hostname else {
        if flags.network.as_deref() == Some("host") || flags.uts.as_deref() == Some("host") {
            return host();
        }
        return Ok(super::state_dirs::short(request.id).to_owned());
    };
    let fine = !name.is_empty()
        && name.len() <= 64
        && !name.starts_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    if !fine || flags.uts.as_deref() == Some("host") {
        let what = if fine {
            "--uts host keeps the host's name"
        } else {
            "letters, digits, - and ."
        };
        let error = anyhow!("invalid --hostname value '{name}' ({what})");
        return Err(with_exit_code(with_hint(error, "as in -h web1"), 125));
    }
    Ok(name.clone())
}

/// 0 is Docker's "not set": a tmpfs of size 0 would have no bound.
pub(super) fn shm_size(flags: &Run) -> i64 {
    let size = flags.shm_size.as_ref().map_or(0, |size| size.count);
    if size == 0 { 64 << 20 } else { size }
}

/// In a network of its own nothing has to be kept from a container's ordinary users: as with Docker, they
/// may listen on low ports, and ping. Groups can be let only where all of them are mapped; and nothing can
/// be said where /proc is the user's, or the host's.
fn network_defaults(request: &Request<'_>, own: &[Mount]) -> Map<String, Value> {
    let mut all = Map::new();
    let flags = request.flags;
    let is_covered = own
        .iter()
        .any(|mount| Path::new("/proc").starts_with(&mount.target));
    let is_of_host = flags.pid.as_deref() == Some("host") && ids::are_mapped();
    if flags.network.as_deref().unwrap_or("none") != "none" || is_covered || is_of_host {
        return all;
    }
    let mut set = |name: &str, value: &str| {
        if Path::new("/proc/sys").join(name.replace('.', "/")).exists() {
            all.insert(name.to_owned(), value.into());
        }
    };
    set("net.ipv4.ip_unprivileged_port_start", "0");
    if !ids::are_mapped() && request.keep_id.is_none() {
        set("net.ipv4.ping_group_range", "0 2147483647");
    }
    all
}

fn linux(request: &Request<'_>, security: &Security, own: &[Mount]) -> Result<Value> {
    let flags = request.flags;
    let host = |mode: &Option<String>| mode.as_deref() == Some("host");
    let mut namespaces = vec![json!({"type": "mount"})];
    for (kind, mode) in [
        ("pid", &flags.pid),
        ("ipc", &flags.ipc),
        ("uts", &flags.uts),
        ("network", &flags.network),
        ("cgroup", &flags.cgroupns),
    ] {
        if !host(mode) {
            namespaces.push(json!({"type": kind}));
        }
    }
    let (nodes, rules) = rights::devices(flags)?;
    let mut linux = json!({
        "namespaces": namespaces,
        "devices": nodes,
        "resources": resources(flags, rules)?,
    });
    let parent = flags.cgroup_parent.as_deref();
    let cgroup = match request.reach {
        Some(reach) => reach.path_of(parent, request.id)?,
        None => Some(format!("/{}/{}", parent.unwrap_or("mydocker"), request.id)),
    };
    optional(&mut linux, "cgroupsPath", cgroup.as_ref());
    let mut sysctl = network_defaults(request, own);
    for text in &flags.sysctl {
        let (name, value) = rights::pair("--sysctl", text)?;
        sysctl.insert(name, value.into());
    }
    if let (Some(name), false) = (&flags.domainname, ids::are_mapped()) {
        // runc knows `domainname` of the specification from 1.2 on, and says nothing before.
        sysctl.insert("kernel.domainname".into(), name.clone().into());
    }
    linux["sysctl"] = sysctl.into();
    if let Some(keep) = request.keep_id {
        keep.add_to(&mut linux);
    }
    if !security.unmasked {
        linux["maskedPaths"] = json!(rights::MASKED);
        linux["readonlyPaths"] = json!(rights::READ_ONLY);
    }
    let propagation = |mount: &Mount| {
        mount.shown["Propagation"]
            .as_str()
            .map(propagation::goes_out)
    };
    if own.iter().any(|mount| propagation(mount) == Some(true)) {
        // A mount made in the container can only come out of a tree that is shared.
        linux["rootfsPropagation"] = json!("rshared");
    }
    Ok(linux)
}

/// Microseconds; the kernel's own period.
pub(super) const PERIOD: u64 = 100_000;

/// `linux.resources`.
pub(super) fn resources(flags: &Run, devices: Vec<Value>) -> Result<Value> {
    let mut memory = Map::new();
    if let Some(limit) = &flags.memory
        && limit.count > 0
    {
        memory.insert("limit".into(), limit.count.into());
    }
    match (&flags.memory_swap, &flags.memory) {
        (Some(swap), Some(limit)) if swap.count == -1 || swap.count >= limit.count => {
            memory.insert("swap".into(), swap.count.into());
        }
        (Some(swap), Some(limit)) => {
            let error = anyhow!("--memory-swap {} is less than -m {}", swap.text, limit.text);
            let hint = "it is memory and swap together";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
        (Some(_), None) => {
            let error = anyhow!("--memory-swap needs -m");
            return Err(with_exit_code(
                with_hint(error, "as in -m 100m --memory-swap 200m"),
                125,
            ));
        }
        (None, _) => {}
    }
    if let Some(soft) = &flags.memory_reservation {
        memory.insert("reservation".into(), soft.count.into());
    }
    let mut cpu = Map::new();
    if let Some(shares) = flags.cpu_shares.filter(|shares| *shares > 0) {
        cpu.insert("shares".into(), shares.into());
    }
    if let Some(cpus) = flags.cpus {
        cpu.insert(
            "quota".into(),
            ((cpus * PERIOD as f64).round() as i64).into(),
        );
        cpu.insert("period".into(), PERIOD.into());
    }
    for (key, value) in [
        ("quota", flags.cpu_quota.map(Value::from)),
        ("period", flags.cpu_period.map(Value::from)),
        ("cpus", flags.cpuset_cpus.clone().map(Value::from)),
        ("mems", flags.cpuset_mems.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            cpu.insert(key.into(), value);
        }
    }
    let mut resources = json!({"devices": devices, "memory": memory, "cpu": cpu});
    if let Some(limit) = flags.pids_limit.filter(|limit| *limit != 0) {
        resources["pids"] = json!({"limit": limit});
    }
    if let Some(weight) = flags.blkio_weight.filter(|weight| *weight != 0) {
        resources["blockIO"] = json!({"weight": weight});
    }
    Ok(resources)
}

fn annotations(flags: &Run) -> Result<BTreeMap<String, String>> {
    flags
        .annotation
        .iter()
        .map(|text| rights::pair("--annotation", text))
        .collect()
}

fn labels(image: &Image, flags: &Run) -> Result<BTreeMap<String, String>> {
    let config = image.config.config().as_ref();
    let of_image = config.and_then(|c| c.labels().clone()).unwrap_or_default();
    let mut all: BTreeMap<String, String> = of_image.into_iter().collect();
    for file in &flags.label_file {
        all.extend(process::map(&process::lines(file, "--label-file")?));
    }
    all.extend(process::map(&flags.label));
    Ok(all)
}

/// The flag's, which is checked, or else the image's, which is not.
fn stop_signal(request: &Request<'_>) -> Result<Option<String>> {
    if let Some(signal) = &request.flags.stop_signal {
        return Ok(Some(signal.clone()));
    }
    let config = request.image.config.config().as_ref();
    let Some(signal) = config.and_then(|config| config.stop_signal().clone()) else {
        return Ok(None);
    };
    match values::signal(&signal) {
        Ok(signal) => Ok(Some(signal)),
        Err(why) => {
            let error = anyhow!("the image's StopSignal {signal:?} is no signal ({why})");
            let hint = "give another: mydocker run --stop-signal TERM";
            Err(with_exit_code(with_hint(error, hint), 125))
        }
    }
}

fn log_bounds(flags: &Run) -> Result<log::Bounds> {
    let mut bounds = log::Bounds::default();
    match flags.log_driver.as_deref() {
        None | Some("json-file" | "local" | "k8s-file") => {}
        Some("none") => bounds.none = true,
        Some(other) => {
            let error = anyhow!("--log-driver {other}: not supported");
            let hint = "there are json-file, local (the same files) and none";
            return Err(with_exit_code(with_hint(error, hint), 125));
        }
    }
    for text in &flags.log_opt {
        let parse = || -> Option<()> {
            let (name, value) = text.split_once('=')?;
            match name {
                // A line of the log needs some room.
                "max-size" if value == "-1" => bounds.max_size = u64::MAX,
                "max-size" => {
                    let size = values::bytes(value).ok().filter(|size| size.count > 0)?;
                    bounds.max_size = size.count.max(1024) as u64;
                }
                // For `logs --details`.
                "labels" | "env" => {}
                "max-file" => bounds.max_file = value.parse().ok().filter(|n| *n > 0)?,
                _ => return None,
            }
            Some(())
        };
        let mut parse = parse;
        parse()
            .with_context(|| format!("invalid --log-opt value '{text}'"))
            .hint("as in --log-opt max-size=10m --log-opt max-file=3")
            .exit_code(125)?;
    }
    Ok(bounds)
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
