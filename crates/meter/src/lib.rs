//! What invocations took, and how it is told: a record with one wording for header and log, sums, and the text that
//! Prometheus reads. Used by the watchdog, which meters, and the gateway, which adds up.
//! It measures nothing itself and keeps no global state.
#![forbid(unsafe_code)]

mod requests;
mod text;
mod usage;

pub use requests::{BUCKETS, Requests, Series};
pub use text::{Kind, Text};
pub use usage::{UsageRecord, UsageTotals};
