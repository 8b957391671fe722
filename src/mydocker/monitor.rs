//! The process beside a container.

/// The hidden verb by which mydocker runs itself as the monitor of a detached container.
pub const VERB: &str = "monitor";
