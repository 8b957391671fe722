//! What is mounted over a container's /etc/hosts, /etc/hostname and /etc/resolv.conf. As with Docker these
//! files are made anew at each start, of what the host has then. They lie in memory, on a file system of
//! their own in the monitor's mount namespace: they go with that, and what a container writes to them
//! fills nothing of the host.

use super::cli::Run;
use super::record::Record;
use super::state_dirs::{State, make_dir};
use crate::error::ResultExt;
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use std::fs::{Permissions, set_permissions};
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

/// What they hold besides what is the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Etc {
    hostname: String,
    /// The lines of /etc/hosts.
    hosts: String,
    /// The host's come before them.
    with_hosts_of_host: bool,
    /// The lines of /etc/resolv.conf; the host's if `None`.
    resolv: Option<String>,
}

/// Their names in [`dir`], and where they are mounted.
pub(super) const PLACES: [(&str, &str); 3] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
];

/// How much a container can write to them.
const ROOM: &str = "mode=711,size=16m,nr_inodes=16";

/// Where they are in the monitor's mount namespace.
pub(super) fn dir(state: &State, id: &str) -> PathBuf {
    state.run_dir(id).join("etc")
}

impl Etc {
    /// As the flags say.
    ///
    /// # Errors
    /// A flag has no such value (exit code 125).
    pub(super) fn of_flags(flags: &Run, hostname: &str) -> Result<Etc> {
        let with_hosts_of_host = flags.network.as_deref() == Some("host");
        let mut hosts = match with_hosts_of_host {
            true => String::new(),
            false => {
                format!(
                    "127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
                )
            }
        };
        for text in &flags.add_host {
            let (name, address) = host_of_flag(text)
                .with_context(|| format!("invalid --add-host value '{text}'"))
                .hint(match text.ends_with("host-gateway") {
                    true => {
                        "there is no bridge, so that no gateway leads to the host; give an address"
                    }
                    false => "as in --add-host db:10.0.0.2",
                })
                .exit_code(125)?;
            hosts.push_str(&format!("{address}\t{name}\n"));
        }
        Ok(Etc {
            hostname: hostname.to_owned(),
            hosts,
            with_hosts_of_host,
            resolv: resolv_of_flags(flags)?,
        })
    }
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; an IPv6 address may be in brackets.
fn host_of_flag(text: &str) -> Option<(&str, IpAddr)> {
    let (name, address) = text.split_once([':', '='])?;
    let within = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
    let address = match within {
        Some(address) => address.parse().ok().filter(IpAddr::is_ipv6)?,
        None => address.parse().ok()?,
    };
    (!name.is_empty()).then_some((name, address))
}

fn resolv_of_flags(flags: &Run) -> Result<Option<String>> {
    let mut lines = String::new();
    for server in &flags.dns {
        server
            .parse::<IpAddr>()
            .with_context(|| format!("invalid --dns value '{server}'"))
            .hint("as in --dns 9.9.9.9")
            .exit_code(125)?;
        lines.push_str(&format!("nameserver {server}\n"));
    }
    for (word, values) in [
        ("search", &flags.dns_search),
        ("options", &flags.dns_option),
    ] {
        if !values.is_empty() {
            lines.push_str(&format!("{word} {}\n", values.join(" ")));
        }
    }
    Ok(Some(lines).filter(|lines| !lines.is_empty()))
}

/// Makes them for a container that is about to be started, in a mount namespace of its monitor's own.
pub(super) fn make(state: &State, record: &Record) -> Result<()> {
    let (etc, dir) = (&record.etc, dir(state, &record.id));
    make_dir(&dir)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("etc"), &dir, Some("tmpfs"), flags, Some(ROOM))
        .with_context(|| format!("mount {}", dir.display()))?;
    let of_host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let hosts = match etc.with_hosts_of_host {
        true => of_host("/etc/hosts") + &etc.hosts,
        false => etc.hosts.clone(),
    };
    let resolv = etc.resolv.clone();
    let resolv = resolv.unwrap_or_else(|| of_host("/etc/resolv.conf"));
    let owner = record.keep_id.and_then(|keep| keep.outside((0, 0)));
    let texts = [hosts, format!("{}\n", etc.hostname), resolv];
    for ((name, _), text) in PLACES.iter().zip(texts) {
        let path = dir.join(name);
        std::fs::write(&path, text)
            .and_then(|()| set_permissions(&path, Permissions::from_mode(0o644)))
            .and_then(|()| match owner {
                Some((uid, gid)) => chown(&path, Some(uid), Some(gid)),
                None => Ok(()),
            })
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
