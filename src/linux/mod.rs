//! What a step does, by kernel subject. Nothing here knows the verbs, the store or the protocol
//! between parent and init.

pub mod caps;
pub mod cgroup_mount;
pub mod console;
pub mod devices;
pub mod fds;
pub mod idmap;
pub mod idmap_mount;
pub mod keyring;
pub mod lsm;
pub mod mount_options;
pub mod mounts;
pub mod namespaces;
pub mod pivot;
pub mod rlimits;
pub mod root;
pub mod sched;
pub mod seccomp;
pub mod sysctl;
pub mod tmpcopyup;
pub mod user;

/// Something wrong in a config.json: where, as a JSON path like `mounts[3].options`, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The JSON path; empty for the document as a whole.
    pub path: String,
    /// What is wrong with it, in words that name the value.
    pub what: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            return write!(f, "{}", self.what);
        }
        write!(f, "{}: {}", self.path, self.what)
    }
}
