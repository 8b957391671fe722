//! Images: an OCI layout on disk.
