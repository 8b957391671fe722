//! The front-end: flags, images, supervision. It talks to the runtime only as a program.
pub mod bundle;
pub mod cli;
pub mod image;
pub mod log;
pub mod monitor;
pub mod record;
pub mod rm;
pub mod runtime_cli;
pub mod state_dirs;
pub mod values;
pub mod wait;
