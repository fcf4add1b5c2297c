//! What requests took and what their invocations used: a record for each, sums for `/_/metrics`.
//! Told by the exchange of every answer. It measures nothing itself: the monitor does.

use std::time::Duration;

use http::StatusCode;
use kernlet_meter::{Kind, Requests, Series, Text, UsageRecord, UsageTotals};
use kernlet_monitor::Usage;

use crate::{Function, response::Answer};

/// One watchdog's sums, since it started.
#[derive(Debug, Default)]
pub(crate) struct Metering {
    answers: Requests<(u16, &'static str)>,
    usage: UsageTotals,
}

/// The record of an invocation.
pub(crate) fn record(usage: &Usage) -> UsageRecord {
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    UsageRecord {
        wall: nanoseconds(usage.wall),
        cpu: nanoseconds(usage.cpu),
        accel: nanoseconds(usage.accel),
        exits: usage.exits.into(),
        pages: usage.pages.into(),
        bytes_in: usage.bytes_in,
        bytes_out: usage.bytes_out,
        copied: usage.bytes_copied,
    }
}

impl Metering {
    /// Counts one answer.
    pub(crate) fn answered(&self, method: &'static str, status: StatusCode, took: Duration, used: &UsageRecord) {
        self.answers.add((status.as_u16(), method), took);
        self.usage.add(used);
    }

    /// Everything, in Prometheus's text format, under of-watchdog's names and ours.
    pub(crate) fn expose(&self, function: &Function) -> Answer {
        let mut text = Text::default();
        let answers: Vec<_> = self
            .answers
            .series()
            .into_iter()
            .map(|((code, method), series)| (code.to_string(), method, series))
            .collect();
        let labelled: Vec<_> = answers
            .iter()
            .map(|(code, method, series)| (vec![("code", code.as_str()), ("method", *method)], *series))
            .collect();
        text.family("http_requests_total", Kind::Counter, "Requests that were answered.");
        for (labels, series) in &labelled {
            text.sample("http_requests_total", labels, series.count);
        }
        Series::expose(&mut text, "http_request_duration_seconds", "Time until the answer.", &labelled);
        text.family("http_requests_in_flight", Kind::Gauge, "Requests under way.");
        text.sample("http_requests_in_flight", &[], function.shared().inflight.under_way());
        text.family("kernlet_machines", Kind::Gauge, "Machines that wait for a request, and that requests have.");
        let busy = function.shared().inflight.under_way();
        for (state, count) in [("idle", function.pool().idle()), ("busy", busy)] {
            text.sample("kernlet_machines", &[("state", state)], count);
        }
        UsageTotals::expose(&mut text, &[(&[], &self.usage)]);
        Answer::metrics(text.finish().trim_end())
    }
}

/// A method as metrics name it: the number of series stays bounded whatever clients send.
pub(crate) fn method_name(method: &str) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_knows_makes_no_series_of_its_own() {
        assert_eq!(method_name("PATCH"), "PATCH");
        for unknown in ["BREW", "get", "X"] {
            assert_eq!(method_name(unknown), "other");
        }
    }
}
