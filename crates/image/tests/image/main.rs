//! What kernlet-image promises, through its public surface. One program, so that it is linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod build;
mod config;
mod forge;
mod processes;
mod store;
mod untrusted;
mod values;
