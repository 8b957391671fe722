//! What a step does, by kernel subject. Nothing here knows the verbs, the store or the protocol
//! between parent and init.

pub mod caps;
pub mod console;
pub mod fds;
pub mod keyring;
pub mod lsm;
pub mod namespaces;
pub mod rlimits;
pub mod sched;
pub mod sysctl;
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
