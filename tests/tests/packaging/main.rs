//! What is released: the image, the packages, and the way from nothing to an encrypted object.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod container;
mod debian;
mod glibc;
mod image;
mod install;
mod made;
mod oci;
mod rpm;
