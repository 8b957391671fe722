//! The options of the verbs that speak to registries: types only, as in `cli.rs`.

use super::cli_images::Unpacked;
use super::platform::Platform;
use clap::Args;

// How a registry is trusted.
#[derive(Debug, Clone, Args)]
pub struct Insecure {
    /// Accept any certificate, and no encryption; on this machine's own addresses that is the
    /// default, which --insecure=false changes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", action = clap::ArgAction::Set)]
    pub insecure: Option<bool>,
}

#[derive(Debug, Args)]
pub struct Pull {
    /// Print nothing but the image's name
    #[arg(short, long)]
    pub quiet: bool,
    /// The platform of the image, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = Platform::parse)]
    pub platform: Option<Platform>,
    #[command(flatten)]
    pub unpacked: Unpacked,
    #[command(flatten)]
    pub insecure: Insecure,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    pub image: String,
}

#[derive(Debug, Args)]
pub struct Push {
    /// All tags of the name
    #[arg(short, long)]
    pub all_tags: bool,
    /// Print nothing but the digest
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub insecure: Insecure,
    /// The image; its name says where to
    #[arg(value_name = "NAME[:TAG]")]
    pub image: String,
}

#[derive(Debug, Args)]
pub struct Login {
    /// The user
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// The password or token; others can see it: rather use --password-stdin
    #[arg(short, long, value_name = "TEXT", conflicts_with = "password_stdin")]
    pub password: Option<String>,
    /// Read the password from standard input
    #[arg(long)]
    pub password_stdin: bool,
    #[command(flatten)]
    pub insecure: Insecure,
    /// The registry
    #[arg(value_name = "HOST[:PORT]", default_value = "docker.io")]
    pub server: String,
}

#[derive(Debug, Args)]
pub struct Logout {
    /// The registry
    #[arg(value_name = "HOST[:PORT]", default_value = "docker.io")]
    pub server: String,
}
