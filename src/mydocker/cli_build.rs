//! The options of `build`: types only, as in `cli.rs`.

use super::cli_run::Run;
use super::platform::Platform;
use super::values::{self, Bytes};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Build {
    /// Name the image; may be given several times
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// The Dockerfile, or - for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Set a variable that an ARG of the Dockerfile names
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Build this stage, and no other that it does not need
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Carry out every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Pull the images of FROM and --from also when they are here
    #[arg(long)]
    pub pull: bool,
    /// Print nothing but the id; what a failed step printed, too
    #[arg(short, long)]
    pub quiet: bool,
    /// How it goes is shown: auto and plain are lines of text, quiet is -q
    #[arg(long, value_name = "KIND", value_enum, default_value = "auto")]
    pub progress: ProgressKind,
    /// Add a label
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::label)]
    pub label: Vec<String>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// The network of RUN: default, none or host
    #[arg(long, value_name = "NETWORK", visible_alias = "net")]
    pub network: Option<String>,
    /// The platform of the image, such as linux/amd64
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    /// A secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE
    #[arg(long, value_name = "SPEC")]
    pub secret: Vec<String>,
    #[command(flatten)]
    pub limits: Limits,
    /// The directory with what is copied from, or - for a tar archive from standard input
    #[arg(value_name = "DIR|-")]
    pub context: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressKind {
    Auto,
    Plain,
    Quiet,
}

impl Build {
    /// Whether nothing is shown.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet || self.progress == ProgressKind::Quiet
    }
}

// What the containers of RUN get, by the options of `run`.
#[derive(Debug, Args)]
pub struct Limits {
    /// Add a line to /etc/hosts while RUN runs
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Memory limit of RUN, such as 100m
    #[arg(short, long, value_name = "BYTES", value_parser = values::bytes)]
    pub memory: Option<Bytes>,
    /// Memory and swap together; -1 for no limit on swap
    #[arg(long, value_name = "BYTES", value_parser = values::bytes_or_unlimited, allow_hyphen_values = true)]
    pub memory_swap: Option<Bytes>,
    /// Relative weight of CPU time (1024 is usual)
    #[arg(short, long, value_name = "WEIGHT", value_parser = values::cpu_shares)]
    pub cpu_shares: Option<u64>,
    /// CPUs to run on, such as 0-1 or 0,2
    #[arg(long, value_name = "CPUS", value_parser = values::cpu_list)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use
    #[arg(long, value_name = "NODES", value_parser = values::cpu_list)]
    pub cpuset_mems: Option<String>,
    /// Period of the CPU limit in microseconds
    #[arg(long, value_name = "US")]
    pub cpu_period: Option<u64>,
    /// CPU time in a period in microseconds
    #[arg(long, value_name = "US", allow_hyphen_values = true)]
    pub cpu_quota: Option<i64>,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    pub shm_size: Option<Bytes>,
    /// A resource limit: NAME=SOFT[:HARD]
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// seccomp=FILE|unconfined, apparmor=PROFILE, label=…, no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
}

impl Limits {
    /// Gives them to a container.
    pub(super) fn give(&self, run: &mut Run) {
        run.add_host.clone_from(&self.add_host);
        run.memory.clone_from(&self.memory);
        run.memory_swap.clone_from(&self.memory_swap);
        run.cpu_shares = self.cpu_shares;
        run.cpuset_cpus.clone_from(&self.cpuset_cpus);
        run.cpuset_mems.clone_from(&self.cpuset_mems);
        run.cpu_period = self.cpu_period;
        run.cpu_quota = self.cpu_quota;
        run.shm_size.clone_from(&self.shm_size);
        run.ulimit.clone_from(&self.ulimit);
        run.security_opt.clone_from(&self.security_opt);
    }
}

#[derive(Debug, Args)]
pub struct BuilderPrune {
    /// Also what images share, which takes no room of its own
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
