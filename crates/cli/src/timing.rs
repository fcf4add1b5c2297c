//! Reads the `Server-Timing` header of an answer: where an invocation's time went.
//! Used by `invoke --timing` and `demo`. It never measures anything itself.

use http::HeaderMap;

/// The request header that asks the platform for [`StageTimes`]; any value does.
pub(crate) const REQUEST_HEADER: &str = "x-kernlet-timing";

/// The response header that answers it (W3C Server Timing).
const RESPONSE_HEADER: &str = "server-timing";

/// Time that an invocation spent in each stage itself, in milliseconds, without the stages below it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StageTimes {
    /// Routing, queueing and copying in the gateway.
    pub(crate) gateway: Option<f64>,
    /// Finding a machine and handing the request over, in the watchdog.
    pub(crate) watchdog: Option<f64>,
    /// The function's own code, in its machine.
    pub(crate) guest: Option<f64>,
    /// The accelerator's plugins.
    pub(crate) accel: Option<f64>,
    /// How often the machine stopped to ask the monitor for something.
    pub(crate) exits: Option<u64>,
}

impl StageTimes {
    /// Collects every `Server-Timing` header; metrics of other names are left out.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let mut times = Self::default();
        let values = headers.get_all(RESPONSE_HEADER).iter().filter_map(|value| value.to_str().ok());
        for metric in values.flat_map(|value| value.split(',')) {
            times.add(metric);
        }
        times
    }

    /// The stages in the order that a request meets them.
    pub(crate) fn stages(&self) -> [(&'static str, Option<f64>); 4] {
        [("gateway", self.gateway), ("watchdog", self.watchdog), ("guest", self.guest), ("accelerator", self.accel)]
    }

    /// Takes in one metric: a name, then `;`-separated parameters.
    fn add(&mut self, metric: &str) {
        let mut parts = metric.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        for (key, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
            let value = value.trim_matches('"');
            match (name, key) {
                ("gateway", "dur") => self.gateway = value.parse().ok(),
                ("watchdog", "dur") => self.watchdog = value.parse().ok(),
                ("guest", "dur") => self.guest = value.parse().ok(),
                ("accel", "dur") => self.accel = value.parse().ok(),
                ("exits", "desc") => self.exits = value.parse().ok(),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn stage_times_are_read_from_one_header_or_several() {
        let mut headers = HeaderMap::new();
        headers.append(
            RESPONSE_HEADER,
            "watchdog;dur=0.25, guest;dur=1.5, accel;dur=12, exits;desc=\"3\"".parse().unwrap(),
        );
        headers.append(RESPONSE_HEADER, "gateway;dur=0.1, other;dur=9".parse().unwrap());
        let expected = StageTimes {
            gateway: Some(0.1),
            watchdog: Some(0.25),
            guest: Some(1.5),
            accel: Some(12.0),
            exits: Some(3),
        };
        assert_eq!(StageTimes::from_headers(&headers), expected);
    }

    #[test]
    fn a_stage_that_was_not_reported_is_unknown_rather_than_zero() {
        assert_eq!(StageTimes::from_headers(&HeaderMap::new()), StageTimes::default());
    }
}
