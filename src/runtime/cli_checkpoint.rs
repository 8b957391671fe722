//! The command lines of `checkpoint` and `restore`, with the names that runc and criu(8) give their
//! options.

use super::cli::Making;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

// What both have: where the images are, and what criu may do.
#[derive(Debug, Clone, Args)]
pub struct Criu {
    /// Where criu's image files are
    #[arg(long, value_name = "DIR", default_value = "checkpoint")]
    pub image_path: PathBuf,
    /// Where criu's log and other working files go [default: --image-path]
    #[arg(long, value_name = "DIR")]
    pub work_path: Option<PathBuf>,
    /// Allow established TCP connections
    #[arg(long)]
    pub tcp_established: bool,
    /// Allow unix sockets whose other end is outside the container
    #[arg(long)]
    pub ext_unix_sk: bool,
    /// Allow a terminal that is not the container's own
    #[arg(long)]
    pub shell_job: bool,
    /// Allow file locks
    #[arg(long)]
    pub file_locks: bool,
    /// What criu does with cgroups below the container's
    #[arg(long, value_name = "MODE", default_value = "soft")]
    pub manage_cgroups_mode: CgroupsMode,
    /// Leave out what is in this namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub empty_ns: Vec<EmptyNamespace>,
    /// Drop pages from older images as newer ones replace them
    #[arg(long)]
    pub auto_dedup: bool,
    /// Move memory pages when they are needed, by userfaultfd(2)
    #[arg(long)]
    pub lazy_pages: bool,
}

/// criu's `--manage-cgroups`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CgroupsMode {
    /// Cgroups that are missing are made, with their properties
    Soft,
    /// Properties are restored in any case
    Full,
    /// A cgroup that is there already is an error
    Strict,
    /// All processes are restored into the container's cgroup
    Ignore,
}

/// What `--empty-ns` knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EmptyNamespace {
    /// Network devices, addresses, routes and firewall
    Network,
}

#[derive(Debug, Args)]
pub struct Checkpoint {
    #[command(flatten)]
    pub criu: Criu,
    /// Images of a --pre-dump that came before, relative to --image-path
    #[arg(long, value_name = "DIR")]
    pub parent_path: Option<PathBuf>,
    /// Let the container go on afterwards
    #[arg(long)]
    pub leave_running: bool,
    /// Save memory only, as a parent of the next images, and let the container go on
    #[arg(long)]
    pub pre_dump: bool,
    /// Pass over connections that are just being established
    #[arg(long)]
    pub tcp_skip_in_flight: bool,
    /// Give files that are open but deleted a name for the time being
    #[arg(long)]
    pub link_remap: bool,
    /// Send the pages to a page server, or with --lazy-pages be one
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = page_server)]
    pub page_server: Option<PageServer>,
    /// Write a zero byte to this descriptor when --lazy-pages is ready
    #[arg(
        long,
        value_name = "FD",
        default_value_t = -1,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub status_fd: i32,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

/// Where memory pages are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    pub address: String,
    pub port: u16,
}

fn page_server(text: &str) -> Result<PageServer, String> {
    let (address, port) = text.rsplit_once(':').ok_or("it is not ADDRESS:PORT")?;
    // An IPv6 address is in brackets, which criu does not want.
    let address = address
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(address);
    if address.is_empty() {
        return Err("the address is missing".into());
    }
    let port = port
        .parse()
        .map_err(|_| format!("{port:?} is not a port"))?;
    Ok(PageServer {
        address: address.to_owned(),
        port,
    })
}

#[derive(Debug, Args)]
pub struct Restore {
    #[command(flatten)]
    pub criu: Criu,
    #[command(flatten)]
    pub making: Making,
    /// Do not wait for the container
    #[arg(short, long)]
    pub detach: bool,
    /// Do not become the parent of the container's orphans
    #[arg(long)]
    pub no_subreaper: bool,
    /// Refused: criu enters the root with pivot_root(2) only
    #[arg(long)]
    pub no_pivot: bool,
    /// Another LSM profile than the saved one, as apparmor:NAME or selinux:LABEL
    #[arg(long, value_name = "TYPE:NAME")]
    pub lsm_profile: Option<String>,
    /// Another SELinux context for mounts that have one
    #[arg(long, value_name = "CONTEXT")]
    pub lsm_mount_context: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers() {
        for (text, address, port) in [
            ("127.0.0.1:27", "127.0.0.1", 27),
            ("[::1]:27", "::1", 27),
            ("host:65535", "host", 65535),
        ] {
            let server = page_server(text).unwrap();
            assert_eq!((server.address.as_str(), server.port), (address, port));
        }
        for text in ["host", ":27", "host:", "host:65536", "host:x"] {
            assert!(page_server(text).is_err(), "{text}");
        }
    }
}
