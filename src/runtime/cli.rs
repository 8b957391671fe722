//! The command line, compatible with runc's. Types only: each verb reads its own.

use super::cli_checkpoint::{Checkpoint, Restore};
use crate::completion::Completion;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// An OCI runtime for Linux: runs a bundle's config.json on its root filesystem.
#[derive(Debug, Parser)]
#[command(
    name = "runtime",
    disable_version_flag = true,
    subcommand_required = true,
    // As with every other runtime, the last one counts.
    args_override_self = true
)]
#[command(version = VERSION, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `--version` prints behind the name; engines read the second line.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0");

#[derive(Debug, Args)]
pub struct Global {
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Where the state of containers is kept [default: /run/runtime, or below $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Write errors and warnings to a file, as engines read them, or to journald:NAME or syslog:NAME
    #[arg(long, value_name = "FILE")]
    pub log: Option<OsString>,
    /// The form of the log
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// The least level that is logged
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub log_level: LogLevel,
    /// As --log-level debug
    #[arg(long)]
    pub debug: bool,
    /// Let systemd make the cgroup; linux.cgroupsPath is then SLICE:PREFIX:NAME
    #[arg(long)]
    pub systemd_cgroup: bool,
    /// Who makes the cgroups, in crun's words [default: cgroupfs]
    #[arg(long, value_name = "MANAGER", conflicts_with = "systemd_cgroup")]
    pub cgroup_manager: Option<CgroupManager>,
    /// Whether to do without the rights of root: true, false or auto
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub rootless: Rootless,
    /// The criu that checkpoints and restores [default: criu on PATH]
    #[arg(long, value_name = "PATH")]
    pub criu: Option<PathBuf>,
}

/// Who makes the cgroup of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum CgroupManager {
    /// This program
    #[default]
    Cgroupfs,
    /// systemd, as with --systemd-cgroup
    Systemd,
    /// Nobody: the container stays in the caller's cgroups, and limits are refused
    Disabled,
}

impl Global {
    /// What `--cgroup-manager` and `--systemd-cgroup` say.
    pub fn manager(&self) -> CgroupManager {
        match self.systemd_cgroup {
            true => CgroupManager::Systemd,
            false => self.cgroup_manager.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(alias = "warning")]
    Warn,
    Info,
    Debug,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rootless {
    True,
    False,
    Auto,
}

// Deferred: only the options of the verb that is run are made. What a structure of options had as its
// documentation would then be the help of its verb, so that those have comments.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Make a container; its program waits for `start`
    Create(Create),
    /// Run the program of a created container
    Start(Id),
    /// Create, start, wait and delete in one
    Run(Run),
    /// Print the state of a container as JSON
    State(Id),
    /// Send a signal to a container's first process, or to all
    Kill(Kill),
    /// Remove a stopped container
    Delete(Delete),
    /// Run another program in a running container
    Exec(Box<Exec>),
    /// List the containers below --root
    List(List),
    /// List the processes of a container
    Ps(Ps),
    /// Freeze all processes of a container
    Pause(Id),
    /// Let a paused container go on
    Resume(Id),
    /// Change the limits of a container
    Update(Box<Update>),
    /// Print statistics and out-of-memory events as JSON
    Events(Events),
    /// Save a running container to files, and delete it
    Checkpoint(Box<Checkpoint>),
    /// Make a container from the files of `checkpoint`, and let it go on
    Restore(Box<Restore>),
    /// Add or remove mounts of a container that runs
    #[command(subcommand)]
    Mounts(Mounts),
    /// Write an example config.json
    Spec(Spec),
    /// Print what this runtime can do, as JSON
    Features,
    /// Print a script that completes this command line in a shell
    Completion(Completion),
}

#[derive(Debug, Args)]
pub struct Id {
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

// What `create`, `run` and `restore` have in common.
#[derive(Debug, Args)]
pub struct Making {
    /// The directory that holds config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Another config than the bundle's config.json
    #[arg(short = 'f', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A unix socket that receives the terminal's master
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// Write the process id here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
}

// What `create` and `run` have in common.
#[derive(Debug, Args)]
pub struct Creation {
    #[command(flatten)]
    pub making: Making,
    /// A unix socket that receives a pidfd of the container's first process
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// Move the root mount instead of pivot_root(2), for a root on a ramdisk
    #[arg(long)]
    pub no_pivot: bool,
    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Pass on the descriptors that are open among the first N from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// Do not become the parent of the container's orphans; `create` never does
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    pub creation: Creation,
    #[command(flatten)]
    pub id: Id,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub creation: Creation,
    /// Do not wait for the container
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the container after its end, for `state` and `delete`
    #[arg(long)]
    pub keep: bool,
    #[command(flatten)]
    pub id: Id,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// Signal every process of the container
    #[arg(short, long)]
    pub all: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// A name or a number [default: of org.opencontainers.image.stopSignal, or SIGTERM]
    #[arg(value_name = "SIGNAL")]
    pub signal: Option<String>,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Kill it first if it runs; a container that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// A unix socket that receives the terminal's master
    #[arg(long, value_name = "PATH")]
    pub console_socket: Option<PathBuf>,
    /// A unix socket that receives a pidfd of the new process
    #[arg(long, value_name = "PATH")]
    pub pidfd_socket: Option<PathBuf>,
    /// The working directory in the container
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Run as this user
    #[arg(short, long, value_name = "UID[:GID]")]
    pub user: Option<String>,
    /// Further groups of the user, besides those of config.json
    #[arg(short = 'g', long, value_name = "GID")]
    pub additional_gids: Vec<u32>,
    /// A file with the process as JSON, instead of the options here
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Do not wait for the program
    #[arg(short, long)]
    pub detach: bool,
    /// Write the process id here
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// The SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// Forbid new privileges by setuid programs and file capabilities
    #[arg(long)]
    pub no_new_privs: bool,
    /// Add a capability
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// A cgroup below the container's: PATH, or CONTROLLER[,CONTROLLER]:PATH on v1
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<String>,
    /// Run in a paused container too; it waits until `resume`
    #[arg(long)]
    pub ignore_paused: bool,
    /// Pass on the descriptors that are open among the first N from 3 on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub preserve_fds: u32,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// The program and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct List {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: TableFormat,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    Table,
    Json,
}

#[derive(Debug, Args)]
pub struct Ps {
    /// table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub format: TableFormat,
    /// The container's id, and then options for ps(1) [default: -ef]
    #[arg(
        value_names = ["ID", "OPTION"],
        num_args = 1..,
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Update {
    /// Read linux.resources from this file, or from standard input (-); what is 0 stays as it is,
    /// and so do the device rules
    #[arg(short, long, value_name = "FILE")]
    pub resources: Option<PathBuf>,
    /// Relative weight of block I/O (10 to 1000)
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,
    /// Period of the CPU limit in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// CPU time that may be saved up for a burst in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_burst: Option<u64>,
    /// Relative weight of CPU time
    #[arg(long, value_name = "SHARES")]
    pub cpu_share: Option<u64>,
    /// Period of the realtime limit in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_rt_period: Option<u64>,
    /// Realtime CPU time in a period in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_rt_runtime: Option<i64>,
    /// CPUs, as a list such as 0-2,7
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, as a list
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,
    /// 1 to schedule the container only when nothing else wants to run
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    pub cpu_idle: Option<i64>,
    /// Memory limit in bytes (-1: none)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Soft memory limit in bytes
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together in bytes (-1: no limit on swap)
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Obsolete: the kernel has no such limit any more
    #[arg(long, value_name = "BYTES", hide = true)]
    pub kernel_memory: Option<String>,
    /// Obsolete: the kernel has no such limit any more
    #[arg(long, value_name = "BYTES", hide = true)]
    pub kernel_memory_tcp: Option<String>,
    /// How many processes there may be (-1: no limit)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Share of the L3 cache (resctrl), such as L3:0=7f0;1=1f
    #[arg(long, value_name = "SCHEMA")]
    pub l3_cache_schema: Option<String>,
    /// Share of the memory bandwidth (resctrl), such as MB:0=20;1=70
    #[arg(long, value_name = "SCHEMA")]
    pub mem_bw_schema: Option<String>,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Print the statistics once and end
    #[arg(long)]
    pub stats: bool,
    /// Time between two prints, such as 5s
    #[arg(long, value_name = "DURATION", default_value = "5s")]
    pub interval: String,
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
}

#[derive(Debug, Subcommand)]
pub enum Mounts {
    /// Make these mounts in the container
    Add(MountsOf),
    /// Unmount what is at their destinations
    Remove(MountsOf),
}

#[derive(Debug, Args)]
pub struct MountsOf {
    /// The container's id
    #[arg(value_name = "ID")]
    pub id: String,
    /// A list of mounts as in config.json, or standard input (-)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Debug, Args)]
pub struct Spec {
    /// Write config.json into this directory
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Write it under another name than config.json
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// For a container that an ordinary user runs
    #[arg(long)]
    pub rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    #[test]
    fn help_and_version_are_found_as_with_runc() {
        for (word, kind) in [
            ("-v", ErrorKind::DisplayVersion),
            ("-V", ErrorKind::DisplayVersion),
            ("--version", ErrorKind::DisplayVersion),
            ("-h", ErrorKind::DisplayHelp),
            ("help", ErrorKind::DisplayHelp),
        ] {
            let error = Cli::try_parse_from(["runtime", word]).unwrap_err();
            assert_eq!(error.kind(), kind, "{word}");
        }
    }
}
