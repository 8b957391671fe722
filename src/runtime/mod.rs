//! The OCI runtime: everything between a config.json and execve.

pub mod cli;
