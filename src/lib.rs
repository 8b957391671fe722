//! Two programs: `runtime`, an OCI runtime, and `mydocker`, a front-end without a daemon.

pub mod cgroup;
pub mod error;
pub mod linux;
pub mod mydocker;
pub mod runtime;
pub mod sys;
