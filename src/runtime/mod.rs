//! The OCI runtime: everything between a config.json and execve.

pub mod check;
pub mod cli;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod features;
pub mod hooks;
pub mod host;
pub mod init;
pub mod kill;
pub mod list;
pub mod log;
pub mod notify;
pub mod plan;
pub mod program;
pub mod relay;
pub mod root;
mod schema;
pub mod seal;
pub mod spawn;
pub mod spec;
pub mod start;
pub mod store;
pub mod sync;
pub mod update;
mod values;
