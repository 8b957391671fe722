//! The options of the verbs that move images: types only, as in `cli.rs`.

use super::image::{Compression, Limits};
use super::platform::Platform;
use super::values::{self, Bytes};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Unpacked {
    /// What a compressed archive may unpack to [default: 2g and 200 times its size]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes)]
    max_unpacked: Option<Bytes>,
}

impl Unpacked {
    pub(super) fn limits(&self) -> Limits {
        let most = self.max_unpacked.as_ref();
        Limits::of(most.map(|most| most.count.unsigned_abs()))
    }
}

#[derive(Debug, Args)]
pub struct Load {
    /// An archive, or a directory that is an OCI image layout [default: standard input]
    #[arg(short, long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Of images for several platforms this one, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    #[command(flatten)]
    pub unpacked: Unpacked,
    /// Do not show how it goes
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Save {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Compress the layers that are not: gzip or zstd; their manifest gets another digest
    #[arg(long, value_name = "HOW", value_enum, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "gzip")]
    pub compress: Option<Compression>,
    /// Only if it is for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    /// Do not show how it goes
    #[arg(short, long)]
    pub quiet: bool,
    /// The images; a name without a tag stands for all its tags
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

#[derive(Debug, Args)]
pub struct History {
    /// Sizes and times for people; false gives bytes and dates
    #[arg(short = 'H', long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Whole ids and commands
    #[arg(long)]
    pub no_trunc: bool,
    /// Ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// table, json, or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Only if it is for this platform, such as linux/arm64
    #[arg(long, value_name = "OS/ARCH", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    /// The image
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

#[derive(Debug, Args)]
pub struct Export {
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}
