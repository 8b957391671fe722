//! The OCI runtime: everything between a config.json and execve.

pub mod cli;
pub mod hooks;
pub mod host;
pub mod log;
//pub mod store;
pub mod sync;
pub mod spawn;
