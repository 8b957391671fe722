//! The options of `run` and `create`: types only, as in `cli.rs`.

use super::platform::Platform;
use super::values::{self, Bytes};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

// `run` and `create`.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    /// Print this help (-h is the host name)
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// Run in the background and print the container's id; it stays until `rm`
    #[arg(short, long)]
    pub detach: bool,
    /// The keys by which to leave a container with -it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Keep a foreground container when it ends (as --rm=false); else it is removed
    #[arg(long, conflicts_with = "rm")]
    pub keep: bool,
    /// Remove the container when it ends; the default in the foreground
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set)]
    pub rm: Option<bool>,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// The image; then all words are the command
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Set an environment variable; without a value, the caller's
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Mount a directory or file of the host, or a volume by its name or without one
    #[arg(short, long, value_name = "[SOURCE:]CONTAINER[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount something: type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC")]
    pub mount: Vec<String>,
    /// Mount a tmpfs: PATH[:OPTIONS]
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Mount what another container has of the host and of volumes
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub volumes_from: Vec<String>,
    /// The driver of volumes: there is local only
    #[arg(long, value_name = "DRIVER")]
    pub volume_driver: Option<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// The file mode creation mask, octal [default: 0022]
    #[arg(long, value_name = "MASK", value_parser = values::umask)]
    pub umask: Option<u32>,
    /// Further groups
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Replace the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,
    /// Memory limit, such as 100m
    #[arg(short, long, value_name = "BYTES", visible_alias = "mem", value_parser = values::bytes)]
    pub memory: Option<Bytes>,
    /// Memory and swap together, twice -m by default; -1 for no limit on swap
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_or_unlimited, allow_hyphen_values = true)]
    pub memory_swap: Option<Bytes>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub memory_reservation: Option<Bytes>,
    /// Relative weight of CPU time (1024 is usual)
    #[arg(
        short,
        long = "cpu-shares",
        value_name = "WEIGHT",
        visible_alias = "cpushare",
        alias = "cpushares"
    )]
    #[arg(value_parser = values::cpu_shares)]
    pub cpu_shares: Option<u64>,
    /// CPUs to run on, such as 0-1 or 0,2
    #[arg(long = "cpuset-cpus", value_name = "CPUS", visible_alias = "cpuset", value_parser = values::cpu_list)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES", value_parser = values::cpu_list)]
    pub cpuset_mems: Option<String>,
    /// How many CPUs' worth of time, such as 1.5; 0 for no limit
    #[arg(long, value_name = "N", visible_alias = "cpu", value_parser = values::cpus)]
    pub cpus: Option<f64>,
    /// Period of the CPU limit in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// How many processes there may be (-1: no limit)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O (10 to 1000)
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub blkio_weight: Option<u16>,
    /// Do without the limits that this user or kernel has no controller for, and say so
    #[arg(long)]
    pub best_effort: bool,
    /// The score by which the kernel chooses whom to kill for memory (-1000 to 1000)
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(-1000..=1000))]
    pub oom_score_adj: Option<i32>,
    /// Put the container's cgroup below this one
    #[arg(long, value_name = "PATH", value_parser = values::cgroup_parent)]
    pub cgroup_parent: Option<String>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub shm_size: Option<Bytes>,
    /// The network: none (a network namespace of its own with lo) or host
    #[arg(long, value_name = "NETWORK", visible_alias = "net")]
    pub network: Option<String>,
    /// Publish a port (not supported yet)
    #[arg(short, long, value_name = "HOST:CONTAINER")]
    pub publish: Vec<String>,
    /// Publish all exposed ports (not supported yet)
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Note a port that the program listens on, such as 80 or 53/udp
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub expose: Vec<String>,
    /// The host name [default: the id's first 12 digits]
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// The NIS domain name
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Add a line to /etc/hosts: NAME:ADDRESS
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// A name server for /etc/resolv.conf
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// A search domain for /etc/resolv.conf
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// An option for /etc/resolv.conf
    #[arg(long, value_name = "OPTION", alias = "dns-opt")]
    pub dns_option: Vec<String>,
    /// Run a small init that reaps processes and passes signals on
    #[arg(long)]
    pub init: bool,
    /// Restart policy: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = values::restart)]
    pub restart: Option<values::Restart>,
    /// Check the container's health by this line of the shell
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub health_cmd: Option<String>,
    /// The time from a check to the next [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::pause)]
    pub health_interval: Option<Duration>,
    /// How long a check may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = values::pause)]
    pub health_timeout: Option<Duration>,
    /// How many failures, one after the other, make it unhealthy [default: 3]
    #[arg(long, value_name = "N")]
    pub health_retries: Option<u64>,
    /// How long failures do not count after the start [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = values::pause)]
    pub health_start_period: Option<Duration>,
    /// The time between checks meanwhile [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = values::pause)]
    pub health_start_interval: Option<Duration>,
    /// Do not check its health, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,
    /// When to pull the image: missing, always, never [default: missing, for full names]
    #[arg(long, value_name = "WHEN", value_enum)]
    pub pull: Option<PullWhen>,
    /// The platform of the image, such as linux/amd64
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    /// Add a label
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = values::label)]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<PathBuf>,
    /// Add an annotation to the bundle
    #[arg(long, value_name = "NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Where output goes: json-file (the default), local or none
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// A bound of the log: max-size=10m, max-file=3
    #[arg(long, value_name = "NAME=VALUE")]
    pub log_opt: Vec<String>,
    /// Give all capabilities and all devices
    #[arg(long)]
    pub privileged: bool,
    /// Add a capability
    #[arg(long, value_name = "CAP")]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long, value_name = "CAP")]
    pub cap_drop: Vec<String>,
    /// seccomp=FILE|unconfined, apparmor=PROFILE, label=…, no-new-privileges, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Give it a device of the host: HOST[:CONTAINER[:rwm]]
    #[arg(long, value_name = "DEVICE")]
    pub device: Vec<String>,
    /// A rule for the device cgroup, such as "c 1:3 rwm"
    #[arg(long, value_name = "RULE")]
    pub device_cgroup_rule: Vec<String>,
    /// A resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// A kernel parameter: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE")]
    pub sysctl: Vec<String>,
    /// The ipc namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// The pid namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// The uts namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// The cgroup namespace: private or host
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// The user namespace: host, or keep-id for a user without root, who has his own ids in it then
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// The signal that asks the container to end
    #[arg(long, value_name = "SIGNAL", value_parser = values::signal)]
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it kills [default: 10]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub stop_timeout: Option<i64>,
    /// Pass signals on to the container; false keeps them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    /// Write the container's id to this file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Print nothing that is not the container's
    #[arg(short, long)]
    pub quiet: bool,
    /// IMAGE [COMMAND [ARGUMENT...]], or only a command of the default image
    #[arg(
        value_name = "IMAGE|COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<String>,
}

super::values::leave_out_controllers!(Run);

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PullWhen {
    Missing,
    Never,
    Always,
}
