//! How times are taken and summed up: sides in turn, medians of paired ratios, a time limit for every loop.
//! Used by every suite. Never prints, and never throws a sample away.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Times or ratios, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Half of the samples are below.
    pub(crate) median: f64,
    /// 99 % of the samples are at or below.
    pub(crate) p99: f64,
    /// Number of samples.
    pub(crate) count: usize,
}

impl Summary {
    /// Sums up samples in whatever order; of none, everything is zero.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self { median: median_of_sorted(&sorted), p99: quantile(&sorted, 99), count: sorted.len() }
    }
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The smallest sample that is not below this many percent of them.
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// How long and how often something is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Calls of every side before the first that counts.
    pub(crate) warm_up: usize,
    /// No new round begins after this.
    pub(crate) time: Duration,
    /// Rounds at most.
    pub(crate) rounds: usize,
    /// Calls of a side in each round. One, where what comes before a call does not matter; more, where a side
    /// is to be measured as it runs by itself, with its own data in the caches.
    pub(crate) calls: usize,
}

impl Plan {
    /// One call of each side in turn, until the time is over.
    pub(crate) const fn singly(time: Duration) -> Self {
        Self { warm_up: 3, time, rounds: usize::MAX, calls: 1 }
    }
}

/// What is measured: it runs once and says how long the part that counts took.
pub(crate) type Side<'a> = &'a mut dyn FnMut() -> anyhow::Result<Duration>;

/// The times of one side.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    /// Every call.
    calls: Vec<Duration>,
    /// The median of each round, in seconds.
    rounds: Vec<f64>,
}

impl Times {
    /// All calls, in microseconds.
    pub(crate) fn micros(&self) -> Summary {
        Summary::of(self.calls.iter().map(|time| time.as_secs_f64() * 1e6))
    }

    /// All calls, in milliseconds.
    pub(crate) fn millis(&self) -> Summary {
        Summary::of(self.calls.iter().map(|time| time.as_secs_f64() * 1e3))
    }

    /// Calls a second, one after the other.
    pub(crate) fn per_second(&self) -> f64 {
        let total: Duration = self.calls.iter().sum();
        Summary::of([Times::count(self.calls.len()) / total.as_secs_f64()]).median
    }

    /// How many times as long as `base` this takes: each round's median over that of the same round.
    pub(crate) fn over(&self, base: &Self) -> Summary {
        Summary::of(self.rounds.iter().zip(&base.rounds).map(|(ours, theirs)| ours / theirs))
    }

    /// By how many milliseconds this takes longer than `base`: each round's median less that of the same round.
    pub(crate) fn millis_beyond(&self, base: &Self) -> Summary {
        Summary::of(self.rounds.iter().zip(&base.rounds).map(|(ours, theirs)| (ours - theirs) * 1e3))
    }

    #[allow(clippy::cast_precision_loss, reason = "no loop here runs 2^52 times")]
    fn count(calls: usize) -> f64 {
        calls as f64
    }

    fn add_round(&mut self, calls: Vec<Duration>) {
        self.rounds.push(Summary::of(calls.iter().map(Duration::as_secs_f64)).median);
        self.calls.extend(calls);
    }
}

/// Measures the sides in turn: A B A B …, each round all of them, so that what disturbs the machine disturbs all.
///
/// # Errors
/// The first error of a side ends the measurement.
pub(crate) fn in_turn<const N: usize>(plan: Plan, mut sides: [Side<'_>; N]) -> anyhow::Result<[Times; N]> {
    for _ in 0..plan.warm_up {
        for side in &mut sides {
            side()?;
        }
    }
    let mut times = [const { Times { calls: Vec::new(), rounds: Vec::new() } }; N];
    let start = Instant::now();
    for _ in 0..plan.rounds {
        for (side, times) in sides.iter_mut().zip(&mut times) {
            times.add_round((0..plan.calls).map(|_| side()).collect::<Result<_, _>>()?);
        }
        if start.elapsed() >= plan.time {
            break;
        }
    }
    Ok(times)
}

/// Measures one thing by itself.
///
/// # Errors
/// Its first error ends the measurement.
pub(crate) fn alone(plan: Plan, side: Side<'_>) -> anyhow::Result<Times> {
    let [times] = in_turn(plan, [side])?;
    Ok(times)
}

/// How long something took, and what it gave.
pub(crate) fn timed<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<(Duration, T), E> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed(), result))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(micros: u64, calls: &std::cell::Cell<u64>) -> impl FnMut() -> anyhow::Result<Duration> {
        move || {
            calls.set(calls.get() + 1);
            Ok(Duration::from_micros(micros))
        }
    }

    #[test]
    fn a_summary_has_the_middle_and_the_tail_whatever_the_order() {
        let summary = Summary::of((1..=200).rev().map(f64::from));
        assert_eq!(summary, Summary { median: 100.5, p99: 198.0, count: 200 });
        assert_eq!(Summary::of([3.0, 1.0, 2.0]), Summary { median: 2.0, p99: 3.0, count: 3 });
        assert_eq!(Summary::of([]), Summary { median: 0.0, p99: 0.0, count: 0 });
    }

    #[test]
    fn sides_run_equally_often_and_warming_up_does_not_count() -> anyhow::Result<()> {
        let (one, other) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let plan = Plan { warm_up: 2, time: Duration::MAX, rounds: 5, calls: 3 };
        let [slow, fast] = in_turn(plan, [&mut constant(30, &one), &mut constant(10, &other)])?;
        assert_eq!((one.get(), other.get()), (17, 17));
        assert_eq!(slow.micros().count, 15);
        assert_eq!(slow.over(&fast).count, 5);
        assert!((slow.over(&fast).median - 3.0).abs() < 1e-9);
        assert!((fast.per_second() - 1e5).abs() < 1e-3);
        Ok(())
    }

    #[test]
    fn a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians() {
        let times = |rounds: [f64; 3]| Times { calls: Vec::new(), rounds: rounds.into() };
        // Whatever slowed the second round down slowed both sides down.
        let ratio = times([2.0, 20.0, 6.0]).over(&times([1.0, 10.0, 1.0]));
        assert!((ratio.median - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_failing_side_ends_the_measurement() {
        let failed = in_turn(Plan::singly(Duration::MAX), [&mut || anyhow::bail!("broken")]);
        assert!(failed.is_err());
    }
}
