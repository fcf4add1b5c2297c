//! The gateway over real HTTP on loopback, with stand-in watchdog processes where a fault or an exact echo of what
//! arrives is needed. Functions that are unikernels are tested through the `kernlet` program, not here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod api;
mod auth;
mod clients;
mod invoke;
mod lifecycle;
mod logs;
mod overload;
mod standin;
mod start;
mod support;
