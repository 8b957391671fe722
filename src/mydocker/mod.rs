//! The front-end.
pub mod image;
pub mod log;
pub mod record;
pub mod rm;
pub mod runtime_cli;
pub mod state_dirs;
pub mod wait;
