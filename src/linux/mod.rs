//! What a step does, by kernel subject. Nothing here knows the verbs, the store or the protocol
//! between parent and init.

pub mod caps;
pub mod cgroup_mount;
pub mod console;
pub mod cover;
pub mod criu_mounts;
pub mod devices;
pub mod fds;
mod filesystem;
pub mod hidden;
pub mod hot_mount;
pub mod idmap;
pub mod idmap_mount;
pub mod keyring;
pub mod lsm;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod netdev;
pub mod pivot;
pub mod rdt;
mod remount;
pub mod rlimits;
pub mod root;
pub mod rtnetlink;
pub mod sched;
pub mod seccomp;
pub mod signals;
pub mod sources;
pub mod sysctl;
pub mod tmpcopyup;
pub mod user;

pub use crate::error::Problem;
