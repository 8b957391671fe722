//! The front-end.
pub mod image;
