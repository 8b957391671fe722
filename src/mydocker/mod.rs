//! The front-end: flags, images, supervision. It talks to the runtime only as a program.
pub mod bundle;
pub mod cli;
pub mod flags;
pub mod image;
pub mod init;
pub mod log;
pub mod monitor;
mod process;
pub mod record;
mod rights;
pub mod rm;
pub mod runtime_cli;
mod seccomp_default;
pub mod state_dirs;
pub mod values;
mod volumes;
pub mod wait;
