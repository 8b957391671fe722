//! The only `unsafe`: thin typed wrappers of system calls that nix lacks. No policy.
