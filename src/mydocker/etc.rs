//! The files that are mounted over a container's /etc/hosts, /etc/hostname and /etc/resolv.conf. As with
//! Docker they are made anew at each start; they lie in the run directory and go with that.

use super::cli::Run;
use super::record::Record;
use super::state_dirs::State;
use crate::error::ResultExt;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown};

/// What they hold, by their names in the run directory.
pub(super) type Files = BTreeMap<String, String>;

/// Their names in the run directory, and where they are mounted.
pub(super) const PLACES: [(&str, &str); 3] = [
    ("hosts", "/etc/hosts"),
    ("hostname", "/etc/hostname"),
    ("resolv.conf", "/etc/resolv.conf"),
];

/// What they hold in a container of these flags.
///
/// # Errors
/// A flag has no such value (exit code 125).
pub(super) fn files(flags: &Run, hostname: &str) -> Result<Files> {
    let host_network = flags.network.as_deref() == Some("host");
    let mut hosts = if host_network {
        std::fs::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        format!("127.0.0.1\tlocalhost {hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n")
    };
    for text in &flags.add_host {
        let (name, address) = text
            .split_once([':', '='])
            .filter(|(name, address)| {
                !name.is_empty() && address.parse::<std::net::IpAddr>().is_ok()
            })
            .with_context(|| format!("invalid --add-host value '{text}'"))
            .hint("as in --add-host db:10.0.0.2")
            .exit_code(125)?;
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let given =
        !(flags.dns.is_empty() && flags.dns_search.is_empty() && flags.dns_option.is_empty());
    let mut resolv = String::new();
    if given {
        for server in &flags.dns {
            server
                .parse::<std::net::IpAddr>()
                .with_context(|| format!("invalid --dns value '{server}'"))
                .hint("as in --dns 9.9.9.9")
                .exit_code(125)?;
            resolv.push_str(&format!("nameserver {server}\n"));
        }
        for (word, values) in [
            ("search", &flags.dns_search),
            ("options", &flags.dns_option),
        ] {
            if !values.is_empty() {
                resolv.push_str(&format!("{word} {}\n", values.join(" ")));
            }
        }
    } else {
        resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    }
    let files = [
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv),
    ];
    Ok(files.map(|(name, text)| (name.to_owned(), text)).into())
}

/// Writes them for a container that is about to be started.
pub(super) fn write(state: &State, record: &Record) -> Result<()> {
    let dir = state.run_dir(&record.id);
    let owner = record.keep_id.and_then(|keep| keep.outside((0, 0)));
    for (name, text) in &record.files {
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
