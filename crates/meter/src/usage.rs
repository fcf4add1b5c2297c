//! The record of one invocation's use, and sums of many. Written into headers and log lines by the watchdog, read
//! and added up by the gateway. A record that is read is never trusted further than to be added.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;

use crate::text::{Kind, Text};

/// Largest integer of a structured field (RFC 8941, section 3.3.1).
const FIELD_MAX: u64 = 999_999_999_999_999;

/// What one invocation took. Times are in nanoseconds, sizes in bytes.
///
/// Its text is a dictionary of RFC 8941: `wall=45123, cpu=12034, accel=0, exits=1, pages=3, in=64, out=64, copied=0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UsageRecord {
    /// From handing the request to the machine until its response was there, accelerators included.
    pub wall: u64,
    /// Processor time of the guest itself.
    pub cpu: u64,
    /// Time in accelerators.
    pub accel: u64,
    /// Times that the guest left the processor to the monitor.
    pub exits: u64,
    /// Pages of the machine that have to be made pristine after the request.
    pub pages: u64,
    /// Bytes of the request's body.
    #[serde(rename = "in")]
    pub bytes_in: u64,
    /// Bytes of the response's body.
    #[serde(rename = "out")]
    pub bytes_out: u64,
    /// Bytes copied between the guest's memory and accelerators.
    pub copied: u64,
}

/// The fields' names, in the order in which they are written and summed.
const NAMES: [&str; 8] = ["wall", "cpu", "accel", "exits", "pages", "in", "out", "copied"];

/// How each sum is called in metrics, and what it is.
const SUMS: [(&str, &str); 8] = [
    ("kernlet_wall_seconds_total", "Time in machines, accelerators included."),
    ("kernlet_guest_cpu_seconds_total", "Processor time of guests."),
    ("kernlet_accelerator_seconds_total", "Time in accelerators."),
    ("kernlet_exits_total", "Times that guests left the processor to the monitor."),
    ("kernlet_pages_dirtied_total", "Pages of machines that were made pristine after requests."),
    ("kernlet_request_bytes_total", "Bytes of request bodies."),
    ("kernlet_response_bytes_total", "Bytes of response bodies."),
    ("kernlet_accelerator_copied_bytes_total", "Bytes copied between guests and accelerators."),
];

/// The first of the sums are times.
const TIMES: usize = 3;

impl UsageRecord {
    /// The header that carries a record in an answer, and that asks for one in a request, whatever its value there.
    pub const HEADER: &'static str = "x-kernlet-usage";

    fn values(&self) -> [u64; 8] {
        let Self { wall, cpu, accel, exits, pages, bytes_in, bytes_out, copied } = *self;
        [wall, cpu, accel, exits, pages, bytes_in, bytes_out, copied]
    }

    fn of_values([wall, cpu, accel, exits, pages, bytes_in, bytes_out, copied]: [u64; 8]) -> Self {
        Self { wall, cpu, accel, exits, pages, bytes_in, bytes_out, copied }
    }

    /// Writes the record's text behind another one's bytes.
    pub fn append_to(&self, text: &mut Vec<u8>) {
        // Nothing fails here.
        let _ = self.in_pieces(|piece| {
            text.extend_from_slice(piece.as_bytes());
            Ok(())
        });
    }

    fn in_pieces(&self, mut push: impl FnMut(&str) -> fmt::Result) -> fmt::Result {
        let mut separator = "";
        for (name, value) in NAMES.iter().zip(self.values()) {
            push(separator)?;
            push(name)?;
            push("=")?;
            push(itoa::Buffer::new().format(value.min(FIELD_MAX)))?;
            separator = ", ";
        }
        Ok(())
    }

    /// Reads what [`fmt::Display`] wrote. What is missing counts as zero; what cannot be read is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut values = [0; 8];
        let fields = text.split(',').filter_map(|field| field.trim_ascii().split_once('='));
        for (likely, (name, value)) in fields.enumerate() {
            // They mostly come in their order.
            let is_likely = NAMES.get(likely) == Some(&name);
            let index = if is_likely { Some(likely) } else { NAMES.iter().position(|known| *known == name) };
            let slot = index.and_then(|index| values.get_mut(index));
            if let (Some(slot), Ok(value)) = (slot, value.parse()) {
                *slot = value;
            }
        }
        Self::of_values(values)
    }
}

impl fmt::Display for UsageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.in_pieces(|piece| f.write_str(piece))
    }
}

/// Sums of many records. Adding takes no lock.
#[derive(Debug, Default)]
pub struct UsageTotals([AtomicU64; 8]);

impl UsageTotals {
    /// Adds one invocation.
    pub fn add(&self, record: &UsageRecord) {
        for (sum, value) in self.0.iter().zip(record.values()) {
            if value != 0 {
                sum.fetch_add(value.min(FIELD_MAX), Relaxed);
            }
        }
    }

    /// The sums so far, as one record.
    #[must_use]
    pub fn sums(&self) -> UsageRecord {
        let mut values = [0; 8];
        for (value, sum) in values.iter_mut().zip(&self.0) {
            *value = sum.load(Relaxed);
        }
        UsageRecord::of_values(values)
    }

    /// Writes the sums of several, each under labels of its own, as counters for Prometheus.
    pub fn expose(text: &mut Text, totals: &[(&[(&str, &str)], &UsageTotals)]) {
        for (index, (name, help)) in SUMS.iter().enumerate() {
            text.family(name, Kind::Counter, help);
            for (labels, totals) in totals {
                let sum = totals.0.get(index).map_or(0, |sum| sum.load(Relaxed));
                if index < TIMES { text.seconds(name, labels, sum) } else { text.sample(name, labels, sum) }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RECORD: UsageRecord =
        UsageRecord { wall: 45_123, cpu: 12_034, accel: 0, exits: 1, pages: 3, bytes_in: 64, bytes_out: 65, copied: 2 };

    #[test]
    fn a_record_has_one_wording_in_headers_and_logs() {
        assert_eq!(RECORD.to_string(), "wall=45123, cpu=12034, accel=0, exits=1, pages=3, in=64, out=65, copied=2");
        assert_eq!(
            serde_json::to_string(&RECORD).unwrap(),
            r#"{"wall":45123,"cpu":12034,"accel":0,"exits":1,"pages":3,"in":64,"out":65,"copied":2}"#
        );
    }

    #[test]
    fn sums_are_exposed_in_seconds_and_bytes_under_their_labels() {
        let totals = UsageTotals::default();
        totals.add(&RECORD);
        totals.add(&RECORD);
        let mut text = Text::default();
        UsageTotals::expose(&mut text, &[(&[("function_name", "echo.openfaas-fn")], &totals)]);
        let text = text.finish();
        for line in [
            "# TYPE kernlet_guest_cpu_seconds_total counter",
            "kernlet_wall_seconds_total{function_name=\"echo.openfaas-fn\"} 0.000090246",
            "kernlet_guest_cpu_seconds_total{function_name=\"echo.openfaas-fn\"} 0.000024068",
            "kernlet_pages_dirtied_total{function_name=\"echo.openfaas-fn\"} 6",
            "kernlet_response_bytes_total{function_name=\"echo.openfaas-fn\"} 130",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(values: [u32; 8]) {
            let record = UsageRecord::of_values(values.map(u64::from));
            prop_assert_eq!(UsageRecord::parse(&record.to_string()), record);
        }

        #[test]
        fn no_text_makes_the_reader_panic_and_none_overflows_a_sum(text in "((wall|cpu|in|x)=[0-9]{0,24}|\\PC{0,8}|, ?){0,12}") {
            let totals = UsageTotals::default();
            let record = UsageRecord::parse(&text);
            totals.add(&record);
            prop_assert!(totals.sums().wall <= record.wall);
        }
    }
}
