//! The command line: types only. `flags.rs` has turned the spellings that clap does not know
//! (`-name x`, `-cpuset=0`, `--ti`) into those here. The options of `run` are in `cli_run.rs`.

use super::values::{self, When};
use crate::completion::Completion;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub use super::cli_build::{Build, BuilderPrune};
pub use super::cli_images::{Export, History, Load, Save};
pub use super::cli_more::{
    Boot, Check, Cp, Df, Doctor, DoctorFormat, Events, Prune, PruneAll, Rename, Stats, Update, Why,
};
pub use super::cli_registry::{Login, Logout, Pull, Push};
pub use super::cli_run::{PullWhen, Run};
pub use super::cli_volume::{
    SystemPrune, VolumeCreate, VolumeInspect, VolumeLs, VolumePrune, VolumeRm,
};

/// Containers without a daemon.
#[derive(Debug, Parser)]
#[command(name = "mydocker", version, subcommand_required = true)]
#[command(arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

// What every verb understands.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Show the chain of causes of an error
    #[arg(long, global = true)]
    pub debug: bool,
    /// How errors are printed
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// The OCI runtime to use: a path, or a name on PATH [env: MYDOCKER_RUNTIME]
    #[arg(long, global = true, value_name = "PROGRAM")]
    pub runtime: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

// Deferred: only the options of the verb that is run are made. What a structure of options had as its
// documentation would then be the help of its verb, so that those have comments.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Run a program in a new container
    Run(Box<Run>),
    /// Make a container without starting it
    Create(Box<Run>),
    /// List containers
    Ps(Ps),
    /// Show what a container printed
    Logs(Logs),
    /// Sit down at a running container: its output, and its input
    Attach(Attach),
    /// Run another program in a running container
    Exec(Exec),
    /// Stop containers: a signal, time to comply, SIGKILL
    Stop(Stop),
    /// Send a signal to containers
    Kill(Kill),
    /// Start stopped containers
    Start(Start),
    /// Stop and start containers
    Restart(Restart),
    /// Freeze all processes of containers
    Pause(Containers),
    /// Let paused containers go on
    Unpause(Containers),
    /// Give a container another name
    Rename(Rename),
    /// Change the limits and the restart policy of containers
    Update(Box<Update>),
    /// Remove containers
    Rm(Rm),
    /// Wait until containers have ended, and print their exit codes
    Wait(Containers),
    /// List the processes of a container
    Top(Top),
    /// Show what containers use, live
    Stats(Stats),
    /// Show how containers ended, and why
    Why(Why),
    /// Show the evidence behind the status of containers, and heal what can be healed
    Check(Check),
    /// Show what happens to containers, as it happens
    Events(Events),
    /// Show what a container changed in its file system
    Diff(Diff),
    /// Copy files between a container and the host
    Cp(Cp),
    /// Make an image of a container
    Commit(Commit),
    /// List images
    Images(Images),
    /// Remove images
    Rmi(Rmi),
    /// Make an image from an archive or a directory
    Import(Import),
    /// Make an image by a Dockerfile
    Build(Box<Build>),
    /// Take in images from an archive
    Load(Load),
    /// Write images to an archive
    Save(Save),
    /// Show how an image was made
    History(History),
    /// Write all files of a container to an archive
    Export(Export),
    /// Give an image another name
    Tag(Tag),
    /// Bring an image from a registry
    Pull(Pull),
    /// Give an image to a registry
    Push(Push),
    /// Be known to a registry from now on
    Login(Login),
    /// Be forgotten by it
    Logout(Logout),
    /// Show everything about containers, images and volumes
    Inspect(Inspect),
    /// Remove all containers that do not run
    #[command(name = "container prune")]
    ContainerPrune(Prune),
    /// Remove images without a name and a container
    #[command(name = "image prune")]
    ImagePrune(PruneAll),
    /// Remove what builds keep for the next one
    #[command(name = "builder prune")]
    BuilderPrune(BuilderPrune),
    /// Make a volume
    #[command(name = "volume create")]
    VolumeCreate(VolumeCreate),
    /// List volumes
    #[command(name = "volume ls")]
    VolumeLs(VolumeLs),
    /// Show everything about volumes
    #[command(name = "volume inspect")]
    VolumeInspect(VolumeInspect),
    /// Remove volumes that no container uses
    #[command(name = "volume rm")]
    VolumeRm(VolumeRm),
    /// Remove volumes that no container uses and nobody gave a name
    #[command(name = "volume prune")]
    VolumePrune(VolumePrune),
    /// Remove containers that do not run, and images without a name and a container
    #[command(name = "system prune")]
    SystemPrune(SystemPrune),
    /// Show how much room everything takes
    #[command(name = "system df")]
    SystemDf(Df),
    /// Start what its restart policy wants to run after a reboot
    Boot(Boot),
    /// Tell what this machine and user can do, and how to make good what is missing
    Doctor(Doctor),
    /// Show the versions
    Version(Version),
    /// Show what is there
    Info(Info),
    /// Print a script that completes this command line in a shell
    Completion(Completion),
}

#[derive(Debug, Args)]
pub struct Ps {
    /// Accepted for Docker's users: all are shown anyway
    #[arg(short, long)]
    pub all: bool,
    /// Only those that run
    #[arg(long)]
    pub running: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Also how much each has written
    #[arg(short, long)]
    pub size: bool,
    /// The newest N
    #[arg(short = 'n', long, value_name = "N")]
    pub last: Option<usize>,
    /// The newest one
    #[arg(short, long)]
    pub latest: bool,
    /// NAME=VALUE: status, name, id, label, ancestor, exited, health, volume, network, before, since
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Logs {
    /// Go on until the container ends
    #[arg(short, long)]
    pub follow: bool,
    /// The last N lines, or all
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        value_parser = values::tail,
        default_value = "all",
        allow_hyphen_values = true
    )]
    pub tail: values::Tail,
    /// With the time of each line
    #[arg(short, long)]
    pub timestamps: bool,
    /// With what --log-opt labels and env name
    #[arg(long)]
    pub details: bool,
    /// Not before: a time, or how long ago (10m)
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<When>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub until: Option<When>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
pub struct Attach {
    /// Pass no input on
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to a container without a terminal; false keeps them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    /// The keys to leave by
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Default, Args)]
pub struct Exec {
    /// In the background
    #[arg(short, long)]
    pub detach: bool,
    /// The keys by which to leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Pass standard input on; the default
    #[arg(short, long)]
    pub interactive: bool,
    /// Give it a terminal; the default when the caller has one
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The user: NAME|UID[:GROUP|GID]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Give it all capabilities
    #[arg(long)]
    pub privileged: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The program and its arguments [default: sh]
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds to wait before SIGKILL; -1: for ever [default: 10]
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        visible_alias = "timeout",
        allow_hyphen_values = true
    )]
    pub time: Option<i64>,
    /// Another signal than SIGTERM
    #[arg(short, long, value_name = "SIGNAL", value_parser = values::signal)]
    pub signal: Option<String>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Kill {
    /// The signal
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = values::signal)]
    pub signal: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Start {
    /// Show its output, and end with its exit code
    #[arg(short, long)]
    pub attach: bool,
    /// Pass standard input on
    #[arg(short, long)]
    pub interactive: bool,
    /// The keys by which to leave it running
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Restart {
    /// Seconds to wait before SIGKILL [default: 10]
    #[arg(
        short,
        long,
        value_name = "SECONDS",
        visible_alias = "timeout",
        allow_hyphen_values = true
    )]
    pub time: Option<i64>,
    /// Another signal than SIGTERM
    #[arg(short, long, value_name = "SIGNAL", value_parser = values::signal)]
    pub signal: Option<String>,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

// A verb that takes nothing but containers.
#[derive(Debug, Args)]
pub struct Containers {
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Rm {
    /// Running ones too; one that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// With their anonymous volumes
    #[arg(short, long)]
    pub volumes: bool,
    /// The containers
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Top {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Options for ps(1) [default: -ef]
    #[arg(
        value_name = "OPTION",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Diff {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Debug, Args)]
pub struct Commit {
    /// A comment for the history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Who made it
    #[arg(short, long, value_name = "NAME")]
    pub author: Option<String>,
    /// A Dockerfile instruction for the image's configuration
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// Freeze the container while it is read; false does not
    #[arg(short, long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
    /// Print nothing but the id
    #[arg(short, long)]
    pub quiet: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The new image's name
    #[arg(value_name = "IMAGE[:TAG]")]
    pub image: Option<String>,
}

#[derive(Debug, Args)]
pub struct Images {
    /// Accepted for Docker's users
    #[arg(short, long)]
    pub all: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Whole ids
    #[arg(long)]
    pub no_trunc: bool,
    /// With the manifests' digests
    #[arg(long)]
    pub digests: bool,
    /// NAME=VALUE: dangling, reference, label, before, since
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only this name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct Rmi {
    /// Also one with several names or of stopped containers; one that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Import {
    /// A Dockerfile instruction for the image's configuration
    #[arg(short, long, value_name = "INSTRUCTION")]
    pub change: Vec<String>,
    /// A comment for the history
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Print nothing but the id
    #[arg(short, long)]
    pub quiet: bool,
    /// An archive, a directory, the URL of an archive, or - for standard input
    #[arg(value_name = "FILE|DIR|URL|-")]
    pub source: PathBuf,
    /// The new image's name
    #[arg(value_name = "IMAGE[:TAG]")]
    pub image: Option<String>,
}

#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Its further name
    #[arg(value_name = "NAME[:TAG]")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// A Go template, or json
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Also how much a container has written
    #[arg(short, long)]
    pub size: bool,
    /// container, image or volume
    #[arg(long, value_name = "KIND", value_enum)]
    pub r#type: Option<InspectType>,
    /// The containers, images or volumes
    #[arg(value_name = "NAME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectType {
    Container,
    Image,
    Volume,
}

#[derive(Debug, Args)]
pub struct Version {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Debug, Args)]
pub struct Info {
    /// json, or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
}
