//! Two programs: `runtime`, an OCI runtime, and `mydocker`, a front-end without a daemon.
//!
//! ```text
//! bin/runtime  ─▶ runtime ─▶ linux, cgroup ─▶ sys          error, completion: anyone
//! bin/mydocker ─▶ mydocker ─▶ linux::{root, console, caps, signals, idmap, idmap_mount} ─▶ sys
//!                    ├▶ cgroup::{read, usage, Host, Cgroup} ─▶ sys
//!                    ┊
//!                    └┈▶ runtime, only as a program, by the OCI command line
//! ```
//!
//! `scripts/check` enforces these directions.
//!
//! - [`runtime`]: everything between a config.json and execve(2). A reader can follow `create` in one
//!   direction: `bin/runtime.rs`, `create.rs` (the parent's story), `plan.rs` (decides everything,
//!   changes nothing), `spawn.rs` (one clone3), `sync.rs` (the protocol of parent and child),
//!   `init.rs` (the child's story, which ends in execve). `check.rs` and `schema.rs` read config.json;
//!   `store.rs` remembers containers and asks the kernel for their status. `checkpoint.rs` and
//!   `restore.rs` have criu do the work (`criu.rs`), and tell it what is not the container's own
//!   (`outside.rs`).
//! - [`linux`]: what a step does, by kernel subject: mounts, devices, capabilities, seccomp, terminals.
//!   It knows no verbs, no store, no protocol. Every path inside of a container is resolved by the
//!   kernel within its root, and used by descriptor.
//! - [`cgroup`]: one interface over v1, hybrid and v2. Limits are data first, then one executor writes
//!   them and names the file when one fails. `systemd.rs` asks systemd for the directory instead.
//! - [`mydocker`]: the front-end, a file a verb. `flags.rs` turns people's spellings into clap's,
//!   `bundle.rs` and its parts make a config.json of flags and an image, `monitor.rs` stands beside each
//!   container (`background.rs` starts it), `record.rs`, `record_file.rs` and `state_dirs.rs` keep what is
//!   known of them, `etc.rs` has the files that are mounted over those of an image, `image/` is an OCI image
//!   layout whose layers are unpacked once and shared, `dockerfile/` reads the language of Dockerfiles and
//!   `build/` makes images by them,
//!   `volume/` is what outlives containers. For an ordinary user all of it runs in a user namespace, which
//!   `rootless.rs` enters at the beginning of a command; `reach.rs` knows which cgroups he has, and
//!   `doctor.rs` tells what he lacks.
//! - [`sys`]: the only `unsafe` code, thin wrappers of system calls without any policy.
//! - [`completion`]: the completion scripts of both.
//! - [`error`]: what a person reads when something fails: what, why, and a hint.

pub mod cgroup;
pub mod completion;
pub mod error;
pub mod linux;
pub mod mydocker;
pub mod runtime;
pub mod sys;
