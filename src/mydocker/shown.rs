//! A container in Docker's words: what `inspect` shows, and `commit` and `diff` go by.

use super::bundle::{self, Request};
use super::cli::Run;
use super::dockerfile::ports_of;
use super::process;
use super::values::{Bytes, Restart};
use crate::error::ResultExt;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The container in Docker's words, for `inspect`, `commit` and `diff`; kept in its record.
#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Shown {
    /// Docker's `Config`.
    pub config: Map<String, Value>,
    /// Docker's `HostConfig`.
    pub host_config: Map<String, Value>,
    /// Docker's `Mounts`.
    pub mounts: Vec<Value>,
    /// Mount points and devices, where the runtime leaves empty files that are no change.
    pub placeholders: Vec<PathBuf>,
}

/// Every place where the runtime puts something in the way of the image.
pub(super) fn placeholders(spec: &Value) -> Vec<PathBuf> {
    let list = |value: &Value, key: &str| -> Vec<PathBuf> {
        let entries = value.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| entry[key].as_str().map(PathBuf::from))
            .collect()
    };
    let mut all = list(&spec["mounts"], "destination");
    all.extend(list(&spec["linux"]["devices"], "path"));
    all.sort();
    all.dedup();
    all
}

pub(super) fn config(
    request: &Request<'_>,
    hostname: &str,
    user: &str,
    env: &[String],
    args: &[String],
) -> Result<Map<String, Value>> {
    let flags = request.flags;
    let of_image = request.image.config.config().as_ref();
    let mut ports = object(request, "ExposedPorts");
    for text in &flags.expose {
        let more = ports_of(text)
            .with_context(|| format!("invalid --expose value '{text}'"))
            .hint("as in --expose 80 or --expose 53/udp")
            .exit_code(125)?;
        ports.extend(more.into_iter().map(|port| (port, json!({}))));
    }
    let mut volumes = object(request, "Volumes");
    let anonymous = flags.volume.iter().filter(|text| !text.contains(':'));
    volumes.extend(anonymous.map(|path| (path.clone(), json!({}))));
    let entrypoint = match &flags.entrypoint {
        Some(program) => (!program.is_empty()).then(|| vec![program.clone()]),
        None => of_image.and_then(|c| c.entrypoint().clone()),
    };
    let cmd = &args[entrypoint.as_ref().map_or(0, Vec::len).min(args.len())..];
    let own = |line: &&String| !line.starts_with("HOSTNAME=") && *line != "TERM=xterm";
    let config = json!({
        "Hostname": hostname, "Domainname": flags.domainname.clone().unwrap_or_default(),
        "User": user, "AttachStdin": flags.interactive && !flags.detach,
        "AttachStdout": !flags.detach, "AttachStderr": !flags.detach,
        "Tty": flags.tty, "OpenStdin": flags.interactive, "StdinOnce": flags.interactive,
        "Env": env.iter().filter(own).collect::<Vec<_>>(), "Cmd": cmd, "Entrypoint": entrypoint,
        "WorkingDir": flags.workdir.clone().or_else(|| of_image.and_then(|c| c.working_dir().clone()))
            .unwrap_or_default(),
        "ExposedPorts": ports, "Volumes": volumes,
    });
    Ok(config.as_object().cloned().unwrap_or_default())
}

/// A set of the image's configuration.
fn object(request: &Request<'_>, name: &str) -> Map<String, Value> {
    let set = request.image.raw_config["config"][name].as_object();
    set.cloned().unwrap_or_default()
}

/// Docker's `RestartPolicy`.
pub(super) fn restart_policy(restart: Restart) -> Value {
    let (name, retries) = match restart {
        Restart::OnFailure(count) => ("on-failure".to_owned(), count.unwrap_or(0)),
        other => (other.to_string(), 0),
    };
    json!({"Name": name, "MaximumRetryCount": retries})
}

pub(super) fn host_config(flags: &Run) -> Map<String, Value> {
    let bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, |value| value.count);
    let mode = |value: &Option<String>, usual: &str| value.clone().unwrap_or_else(|| usual.into());
    let config = json!({
        "Binds": flags.volume, "VolumesFrom": flags.volumes_from, "NetworkMode": flags.network.as_deref().unwrap_or("none"),
        "RestartPolicy": restart_policy(flags.restart.unwrap_or_default()),
        "CapAdd": flags.cap_add, "CapDrop": flags.cap_drop, "Privileged": flags.privileged,
        "ReadonlyRootfs": flags.read_only, "SecurityOpt": flags.security_opt,
        "Memory": bytes(&flags.memory), "MemorySwap": bytes(&flags.memory_swap),
        "MemoryReservation": bytes(&flags.memory_reservation),
        "CpuShares": flags.cpu_shares.unwrap_or(0),
        "NanoCpus": flags.cpus.map_or(0, |cpus| (cpus * 1e9) as i64),
        "CpuPeriod": flags.cpu_period.unwrap_or(0), "CpuQuota": flags.cpu_quota.unwrap_or(0),
        "CpusetCpus": flags.cpuset_cpus.clone().unwrap_or_default(),
        "CpusetMems": flags.cpuset_mems.clone().unwrap_or_default(),
        "PidsLimit": flags.pids_limit, "BlkioWeight": flags.blkio_weight.unwrap_or(0),
        "OomScoreAdj": flags.oom_score_adj.unwrap_or(0),
        "ShmSize": bundle::shm_size(flags),
        "Init": flags.init, "ExtraHosts": flags.add_host, "Dns": flags.dns,
        "DnsSearch": flags.dns_search, "DnsOptions": flags.dns_option,
        "GroupAdd": flags.group_add, "CgroupParent": flags.cgroup_parent, "PortBindings": {},
        "PidMode": mode(&flags.pid, ""), "IpcMode": mode(&flags.ipc, "private"),
        "UTSMode": mode(&flags.uts, ""), "UsernsMode": mode(&flags.userns, ""), "CgroupnsMode": mode(&flags.cgroupns, "private"),
        "LogConfig": {
            "Type": flags.log_driver.as_deref().unwrap_or("json-file"),
            "Config": process::map(&flags.log_opt),
        },
        "Ulimits": flags.ulimit, "Sysctls": process::map(&flags.sysctl),
    });
    config.as_object().cloned().unwrap_or_default()
}
