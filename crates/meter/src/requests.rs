//! Requests, counted and timed by what came of them. One a watchdog, one a function of the gateway.
//! The number of series is bounded by the number of keys, which the caller sees to.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::text::{Kind, Seconds, Text};

/// Upper bounds of the histograms' buckets, in microseconds: Prometheus's own, which begin at 5 ms, and some below
/// them, since a function here may take some tens of microseconds.
pub const BUCKETS: [u64; 17] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// How many requests there were, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// Requests.
    pub count: u64,
    /// Their time together, in nanoseconds.
    pub nanoseconds: u64,
    buckets: [u64; BUCKETS.len()],
}

impl Series {
    fn add(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count += 1;
        self.nanoseconds = self.nanoseconds.saturating_add(nanoseconds);
        let bucket = BUCKETS.partition_point(|bound| bound * 1_000 < nanoseconds);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }
}

/// Requests by a key, such as their status.
#[derive(Debug)]
pub struct Requests<K>(Mutex<Vec<(K, Series)>>);

impl<K> Default for Requests<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Copy + Ord> Requests<K> {
    /// Counts one request.
    pub fn add(&self, key: K, took: Duration) {
        let mut all = self.lock();
        match all.iter_mut().find(|(known, _)| *known == key) {
            Some((_, series)) => series.add(took),
            None => {
                let mut series = Series::default();
                series.add(took);
                all.push((key, series));
            }
        }
    }

    /// What was counted so far, in the keys' order.
    #[must_use]
    pub fn series(&self) -> Vec<(K, Series)> {
        let mut all = self.lock().clone();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(K, Series)>> {
        // A count is whole between any two statements.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Series {
    /// Writes several histograms as one family, each under labels of its own.
    pub fn expose(text: &mut Text, name: &str, help: &str, all: &[(Vec<(&str, &str)>, Series)]) {
        text.family(name, Kind::Histogram, help);
        for (labels, series) in all {
            let mut bucket = |bound: &str, count: u64| {
                let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
                text.sample(&format!("{name}_bucket"), &labels, count);
            };
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(series.buckets) {
                below += count;
                bucket(&Seconds(bound * 1_000).to_string(), below);
            }
            bucket("+Inf", series.count);
            text.seconds(&format!("{name}_sum"), labels, series.nanoseconds);
            text.sample(&format!("{name}_count"), labels, series.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_up_to_and_including_its_bounds() {
        let requests = Requests::default();
        for micros in [50, 51, 10_000_000, 10_000_001] {
            requests.add(200, Duration::from_micros(micros));
        }
        requests.add(100, Duration::ZERO);
        let series = requests.series();
        assert_eq!(series.iter().map(|(key, series)| (*key, series.count)).collect::<Vec<_>>(), [(100, 1), (200, 4)]);
        let mut text = Text::default();
        Series::expose(&mut text, "took", "Time.", &[(vec![("code", "200")], series[1].1)]);
        let text = text.finish();
        for line in [
            "took_bucket{code=\"200\",le=\"0.00005\"} 1",
            "took_bucket{code=\"200\",le=\"0.0001\"} 2",
            "took_bucket{code=\"200\",le=\"2.5\"} 2",
            "took_bucket{code=\"200\",le=\"10\"} 3",
            "took_bucket{code=\"200\",le=\"+Inf\"} 4",
            "took_sum{code=\"200\"} 20.000102",
            "took_count{code=\"200\"} 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
