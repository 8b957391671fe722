//! The verbs of volumes: types only, as in `cli.rs`.

use super::values;
use clap::Args;

#[derive(Debug, Args)]
pub struct VolumeCreate {
    /// The driver: there is local only
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    pub driver: String,
    /// Add a label
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = values::label)]
    pub label: Vec<String>,
    /// What it is made of: type=tmpfs and o=OPTIONS, or type=none, o=bind and device=DIR
    #[arg(short, long = "opt", value_name = "NAME=VALUE")]
    pub opt: Vec<String>,
    /// Its name [default: a new id]
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Args)]
pub struct VolumeLs {
    /// Names only
    #[arg(short, long)]
    pub quiet: bool,
    /// NAME=VALUE: dangling, driver, label, name
    #[arg(short, long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
}

#[derive(Debug, Args)]
pub struct VolumeInspect {
    /// A Go template, or json
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// The volumes
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct VolumeRm {
    /// One that is not there is no error
    #[arg(short, long)]
    pub force: bool,
    /// The volumes
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct VolumePrune {
    /// Also those that somebody gave a name
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// all=true, label=NAME[=VALUE], label!=NAME[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}

// `system prune`
#[derive(Debug, Args)]
pub struct SystemPrune {
    /// Also images with a name, if they have no container
    #[arg(short, long)]
    pub all: bool,
    /// Also volumes that nobody gave a name, if no container uses them
    #[arg(long)]
    pub volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// until=TIME, label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
}
