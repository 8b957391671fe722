//! The OCI runtime: everything between a config.json and execve.

pub mod cli;
pub mod hooks;
pub mod log;
pub mod sync;
