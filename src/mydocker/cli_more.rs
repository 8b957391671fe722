//! The options of the verbs that look after containers: types only, as in `cli.rs`.

use super::values::{self, Bytes};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub struct Rename {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Stats {
    /// Also those that do not run
    #[arg(short, long)]
    pub all: bool,
    /// Once, instead of every second
    #[arg(long)]
    pub no_stream: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The containers [default: all that run]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct Update {
    /// Memory limit, such as 100m
    #[arg(short, long, value_name = "BYTES", alias = "mem", value_parser = values::bytes)]
    pub memory: Option<Bytes>,
    /// Memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_or_unlimited, allow_hyphen_values = true)]
    pub memory_swap: Option<Bytes>,
    /// Soft memory limit
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub memory_reservation: Option<Bytes>,
    /// Relative weight of CPU time (1024 is usual)
    #[arg(short, long = "cpu-shares", value_name = "WEIGHT", aliases = ["cpushare", "cpushares"])]
    #[arg(value_parser = values::cpu_shares)]
    pub cpu_shares: Option<u64>,
    /// CPUs to run on, such as 0-1 or 0,2
    #[arg(long = "cpuset-cpus", value_name = "CPUS", alias = "cpuset", value_parser = values::cpu_list)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES", value_parser = values::cpu_list)]
    pub cpuset_mems: Option<String>,
    /// How many CPUs' worth of time, such as 1.5; 0 for no limit
    #[arg(long, value_name = "N", alias = "cpu", value_parser = values::cpus)]
    pub cpus: Option<f64>,
    /// Period of the CPU limit in microseconds
    #[arg(long, value_name = "US", conflicts_with = "cpus")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period in microseconds
    #[arg(
        long,
        value_name = "US",
        allow_hyphen_values = true,
        conflicts_with = "cpus"
    )]
    pub cpu_quota: Option<i64>,
    /// How many processes there may be (-1: no limit)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub pids_limit: Option<i64>,
    /// Relative weight of block I/O (10 to 1000)
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u16).range(10..=1000))]
    pub blkio_weight: Option<u16>,
    /// Do without the limits that this user or kernel has no controller for, and say so
    #[arg(long)]
    pub best_effort: bool,
    /// Restart policy: no, on-failure[:N], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = values::restart)]
    pub restart: Option<values::Restart>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

super::values::leave_out_controllers!(Update);

#[derive(Debug, Args)]
pub struct Doctor {
    /// text or json
    #[arg(long, value_name = "FORMAT", value_enum, default_value = "text")]
    pub format: DoctorFormat,
}

/// How `doctor` tells what it has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
pub struct Cp {
    /// Keep the owners of the files; else they are the caller's, or root's in the container
    #[arg(short, long)]
    pub archive: bool,
    /// If the source is a symbolic link, copy what it leads to
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// Do not say how much was copied
    #[arg(short, long)]
    pub quiet: bool,
    /// CONTAINER:PATH, a path of the host, or - for a tar archive from standard input
    #[arg(value_name = "FROM")]
    pub from: String,
    /// The other one; - for a tar archive to standard output
    #[arg(value_name = "TO")]
    pub to: String,
}

#[derive(Debug, Args)]
pub struct Why {
    /// How many lines of the log
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    pub tail: usize,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The containers [default: all]
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Events {
    /// What has happened from this time on, too: a time, or how long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<values::When>,
    /// Only until this time; then it ends
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub until: Option<values::When>,
    /// NAME=VALUE: container, event, image, label, type
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Boot {
    /// Only name those that would be started
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Prune {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PruneAll {
    /// Also images with a name, if they have no container
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Df {
    /// Each image, container and volume
    #[arg(short, long, conflicts_with = "format")]
    pub verbose: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}
