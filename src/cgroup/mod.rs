//! The cgroup of a container: one interface over v1, hybrid and v2.
