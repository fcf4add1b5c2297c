//! What a watchdog promises, tried out on real ones: each test starts a watchdog process on a socket of its own,
//! with a unikernel built from `functions/`, and talks HTTP/1.1 to it.
//! Without KVM a test prints a notice and passes; with `KERNLET_REQUIRE_KVM=1` it fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod connections;
mod faults;
mod in_process;
mod invocation;
mod limits;
mod metering;
#[path = "../../../accel-plugins/tests/support/onnx.rs"]
mod onnx;
mod process;
mod support;
mod templates;
