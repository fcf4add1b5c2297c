//! The text that Prometheus reads (exposition format 0.0.4). Filled by whoever has something to expose.
//! It never checks that a family is written once; its callers write them one after the other.

use std::fmt::{self, Write as _};

/// What the numbers of a family mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size, with their sum.
    Histogram,
}

/// Metrics as text, under construction.
#[derive(Debug, Default)]
pub struct Text(String);

/// The text's media type.
const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Text {
    /// The text's media type.
    pub const MEDIA_TYPE: &'static str = MEDIA_TYPE;

    /// Begins a family of samples.
    pub fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Adds a sample to the family that was begun last.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            self.0.push_str(if index == 0 { "{" } else { "," });
            self.0.push_str(label);
            self.0.push_str("=\"");
            self.quote(text);
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// Adds a sample of a time, given in nanoseconds.
    pub fn seconds(&mut self, name: &str, labels: &[(&str, &str)], nanoseconds: u64) {
        self.sample(name, labels, Seconds(nanoseconds));
    }

    /// The text.
    #[must_use]
    pub fn finish(self) -> String {
        self.0
    }

    fn quote(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }
}

/// Nanoseconds, written as seconds without losing any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seconds(pub(crate) u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        let text = format!("{whole}.{rest:09}");
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_times_keep_their_nanoseconds() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "As.");
        text.sample("a_total", &[], 7);
        text.seconds("a_total", &[("x", "a\\b\"c\nd"), ("y", "")], 1_500_000_001);
        text.seconds("a_total", &[("z", "z")], 0);
        assert_eq!(
            text.finish(),
            "# HELP a_total As.\n# TYPE a_total counter\na_total 7\n\
             a_total{x=\"a\\\\b\\\"c\\nd\",y=\"\"} 1.500000001\na_total{z=\"z\"} 0\n"
        );
    }
}
