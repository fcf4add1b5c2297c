//! What functions did and used, added up for as long as the gateway runs, as text for Prometheus under OpenFaaS's
//! names and ours. The proxy tells each function's account of every answer; the server shows them all at `/metrics`.
//! It never asks a watchdog: what an invocation used comes back with its answer, so a watchdog's death loses nothing.

use crate::admission::{Admission, Refused, Seat, Share};
use crate::function::Function;
use bytes::Bytes;
use http::StatusCode;
use kernlet_meter::{Kind, Requests, Series, Text, UsageRecord, UsageTotals};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is known of a function under one name, over all its deployments, since the gateway started.
#[derive(Debug)]
pub(crate) struct Account {
    started: AtomicU64,
    share: Arc<Share>,
    answers: Requests<u16>,
    usage: UsageTotals,
}

impl Account {
    /// Of a function that was never called.
    pub(crate) fn new(admission: &Arc<Admission>) -> Arc<Account> {
        Arc::new(Account {
            started: AtomicU64::new(0),
            share: admission.share(),
            answers: Requests::default(),
            usage: UsageTotals::default(),
        })
    }

    /// An invocation asks to be let in.
    pub(crate) fn enter(&self) -> Result<Seat, Refused> {
        self.share.enter()
    }

    /// Invocations that were begun.
    pub(crate) fn started(&self) -> &AtomicU64 {
        &self.started
    }

    /// An invocation has its answer, and maybe a record of what it used.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration, usage: Option<&[u8]>) {
        self.answers.add(status.as_u16(), took);
        if let Some(usage) = usage.and_then(|usage| str::from_utf8(usage).ok()) {
            self.usage.add(&UsageRecord::parse(usage));
        }
    }
}

/// Everything, in Prometheus's text format.
pub(crate) fn expose(functions: &[Arc<Function>]) -> Bytes {
    let mut text = Text::default();
    let names: Vec<[(&str, &str); 1]> =
        functions.iter().map(|function| [("function_name", function.full_name())]).collect();
    let labelled = || names.iter().zip(functions);
    text.family("gateway_service_count", Kind::Gauge, "Replicas that there should be.");
    for (labels, function) in labelled() {
        text.sample("gateway_service_count", labels, function.record().replicas);
    }
    text.family("gateway_function_invocation_started", Kind::Counter, "Invocations that were begun.");
    for (labels, function) in labelled() {
        let started = function.account().started.load(Ordering::Relaxed);
        text.sample("gateway_function_invocation_started", labels, started);
    }
    let answers: Vec<(&str, String, Series)> = functions
        .iter()
        .flat_map(|function| {
            let name = function.full_name();
            function.account().answers.series().into_iter().map(move |(code, series)| (name, code.to_string(), series))
        })
        .collect();
    text.family("gateway_function_invocation_total", Kind::Counter, "Invocations that were answered.");
    for (name, code, series) in &answers {
        let labels = [("function_name", *name), ("code", code.as_str())];
        text.sample("gateway_function_invocation_total", &labels, series.count);
    }
    let timed: Vec<_> = answers
        .iter()
        .map(|(name, code, series)| (vec![("function_name", *name), ("code", code.as_str())], *series))
        .collect();
    Series::expose(&mut text, "gateway_functions_seconds", "Time until the answer began.", &timed);
    let used: Vec<_> = labelled().map(|(labels, function)| (&labels[..], &function.account().usage)).collect();
    UsageTotals::expose(&mut text, &used);
    text.finish().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn what_an_invocation_used_is_added_to_what_its_function_did() {
        let account = Account::new(&Admission::new(None));
        for _ in 0..2 {
            let usage = &b"wall=5, cpu=3, exits=1, pages=2, in=7, out=8"[..];
            account.answered(StatusCode::OK, Duration::from_millis(1), Some(usage));
        }
        account.answered(StatusCode::BAD_GATEWAY, Duration::ZERO, None);
        account.answered(StatusCode::BAD_GATEWAY, Duration::ZERO, Some(b"\xff"));
        let sums = account.usage.sums();
        assert_eq!((sums.wall, sums.cpu, sums.exits, sums.bytes_out), (10, 6, 2, 16));
        let counts: Vec<_> = account.answers.series().iter().map(|(code, series)| (*code, series.count)).collect();
        assert_eq!(counts, [(200, 2), (502, 2)]);
    }
}
