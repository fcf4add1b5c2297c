//! How fast a plugin multiplies matrices on this very host, by size: measured once, and only where there is a choice.
//! Made by the plugins that multiply on the processor; filled in when a runtime has several of them, read by the cost of each
//! product. Never measures while a product is waited for, and never takes longer than it may.

use std::{
    iter,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use kernlet_accel::{
    Cost,
    operation::{Matrix, MatrixLayout, MatrixMut, Task},
};

/// Rows and columns of the products that are measured, if there is time; beyond, products are as fast as the last of them.
const SIZES: [usize; 6] = [16, 64, 128, 256, 512, 1024];

/// What the measurement of a plugin may take: no product is begun that would take longer than what is left of it.
const BUDGET: Duration = Duration::from_millis(20);

/// Products of a size: of each the quickest counts, since what disturbs a product only makes it slower.
const ROUNDS: u32 = 3;

/// What a size may be repeated for beyond that: short products are disturbed more.
const REPEATED_FOR: Duration = Duration::from_micros(300);

/// What is spent on a product before its first multiplication, in nanoseconds.
const CALL: Cost = Cost::nanos(50);

/// Multiplications in a microsecond of one thread, until somebody measured: what processors of these years do. All plugins are
/// expected to be as fast then.
const UNMEASURED: u64 = 40_000;

/// Multiplications that are worth a second thread.
const WORTH_A_THREAD: u64 = 1 << 22;

/// One plugin's speed.
#[derive(Debug, Default)]
pub(crate) struct Speed(OnceLock<Vec<Rate>>);

/// How fast products of a size are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    rows: usize,
    /// Multiplications in a microsecond.
    per_micro: u64,
}

impl Speed {
    /// Nothing is known yet.
    pub(crate) const fn unmeasured() -> Self {
        Self(OnceLock::new())
    }

    /// Measures, unless that was done. `multiply` gives C = AB of square matrices.
    pub(crate) fn measure(&self, plugin: &str, mut multiply: impl FnMut(Matrix<'_>, Matrix<'_>, &mut MatrixMut<'_>)) {
        /// Two at a time would measure each other.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.get_or_init(|| {
            let rates = rates(|rows| time_of(rows, &mut multiply));
            let gflops: Vec<_> =
                rates.iter().map(|rate| (rate.rows, rate.per_micro.saturating_mul(2) / 1000)).collect();
            tracing::debug!(plugin, ?gflops, "products of so many rows were measured");
            rates
        });
    }

    /// What a product is expected to take, on so many threads if nobody measured.
    pub(crate) fn cost(&self, task: &Task<'_>, threads: usize) -> Cost {
        let products = match task {
            Task::BlasSgemm(task) | Task::TorchSgemm(task) => task.products(),
            Task::FpgaMmult(task) => (task.size as u64).saturating_pow(3),
            _ => return Cost::nanos(u64::MAX),
        };
        let unmeasured = || {
            let threads = if products < WORTH_A_THREAD { 1 } else { threads as u64 };
            UNMEASURED.saturating_mul(threads)
        };
        let measured = self.0.get().and_then(|rates| rate_of(rates, products));
        Cost::of_work(CALL, products, measured.unwrap_or_else(unmeasured))
    }
}

/// The speed of products of so many multiplications: that of the nearest size, by ratio.
fn rate_of(rates: &[Rate], products: u64) -> Option<u64> {
    // Between two sizes lies their geometric mean: (r₁r₂)^(3/2) multiplications.
    let squared = u128::from(products) * u128::from(products);
    let is_beyond = |pair: &&[Rate]| match pair {
        [one, next] => squared >= (one.rows as u128 * next.rows as u128).pow(3),
        _ => false,
    };
    rates.get(rates.windows(2).take_while(is_beyond).count()).map(|rate| rate.per_micro)
}

/// The speeds of as many sizes as there is time for. `time_of` multiplies matrices of so many rows once; `None` ends it.
fn rates(mut time_of: impl FnMut(usize) -> Option<Duration>) -> Vec<Rate> {
    let (mut rates, mut left, mut quickest) = (Vec::new(), BUDGET, Duration::ZERO);
    let growth = iter::once(0).chain(SIZES.windows(2).map(|pair| match pair {
        [one, next] => (next / one).pow(3),
        _ => 0,
    }));
    for (rows, growth) in SIZES.into_iter().zip(growth) {
        let expected = quickest * u32::try_from(growth).unwrap_or(u32::MAX);
        if expected * ROUNDS > left {
            break;
        }
        let (mut spent, mut rounds) = (Duration::ZERO, 0);
        quickest = Duration::MAX;
        while spent < left && (rounds < ROUNDS || spent < REPEATED_FOR) {
            let Some(time) = time_of(rows) else { return rates };
            quickest = quickest.min(time);
            // A clock that stands still must not keep this going.
            spent += time.max(Duration::from_nanos(100));
            rounds += 1;
        }
        left = left.saturating_sub(spent);
        if rounds < ROUNDS {
            break;
        }
        let products = (rows as u64).pow(3).saturating_mul(1000);
        let nanos = u64::try_from(quickest.as_nanos()).unwrap_or(u64::MAX);
        rates.push(Rate { rows, per_micro: (products / nanos.max(1)).max(1) });
    }
    rates
}

/// How long one product of matrices of so many rows takes.
fn time_of(rows: usize, multiply: &mut impl FnMut(Matrix<'_>, Matrix<'_>, &mut MatrixMut<'_>)) -> Option<Duration> {
    let layout = MatrixLayout::new(rows, rows, rows)?;
    let (ones, mut c) = (vec![1.0; rows * rows], vec![0.0; rows * rows]);
    let (a, b) = (Matrix::new(&ones, layout)?, Matrix::new(&ones, layout)?);
    let mut c = MatrixMut::new(&mut c, layout)?;
    let begun = Instant::now();
    multiply(a, b, &mut c);
    Some(begun.elapsed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use kernlet_accel::operation::MatrixProduct;
    use proptest::prelude::*;

    use super::*;

    /// A host on which matrices of so many rows have so many multiplications in a microsecond.
    fn host(per_micro: impl Fn(usize) -> u64) -> impl FnMut(usize) -> Option<Duration> {
        move |rows| Some(Duration::from_nanos((rows as u64).pow(3) * 1000 / per_micro(rows)))
    }

    fn measured(per_micro: impl Fn(usize) -> u64) -> Speed {
        Speed(OnceLock::from(rates(host(per_micro))))
    }

    fn cost(speed: &Speed, rows: usize) -> Cost {
        let (a, mut c) = (vec![0.0; rows * rows], vec![0.0; rows * rows]);
        speed.cost(&Task::FpgaMmult(MatrixProduct::new(&a, &a, &mut c).unwrap()), 2)
    }

    #[test]
    fn the_plugin_that_is_faster_at_a_size_on_this_host_is_expected_to_be() {
        // One is faster at small sizes, the other from 256 rows on, wherever that is measured to.
        let falling = measured(|rows| if rows < 256 { 60_000 } else { 40_000 });
        let rising = measured(|rows| if rows < 256 { 30_000 } else { 70_000 });
        for (rows, falling_is) in
            [(16, true), (64, true), (128, true), (180, true), (182, false), (256, false), (2048, false)]
        {
            assert_eq!(cost(&falling, rows) < cost(&rising, rows), falling_is, "{rows}");
        }
        // And the same two on a host where it is the other way round.
        assert!(cost(&measured(|_| 50_000), 512) > cost(&measured(|_| 50_500), 512));
    }

    #[test]
    fn what_nobody_measured_is_expected_to_be_the_same_of_all() {
        let (one, other) = (Speed::unmeasured(), Speed::unmeasured());
        assert_eq!(cost(&one, 512), cost(&other, 512));
        assert!(cost(&one, 16) < cost(&one, 64));
    }

    #[test]
    fn it_is_measured_once() {
        let (speed, mut calls) = (Speed::unmeasured(), 0);
        speed.measure("a", |_, _, _| calls += 1);
        let first = calls;
        assert!(first > 0);
        speed.measure("a", |_, _, _| calls += 1);
        assert_eq!(calls, first);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

        /// Whatever the host's speed, from that of a broken clock to hours a product.
        #[test]
        fn a_measurement_has_an_end_and_begins_nothing_that_it_has_no_time_for(
            nanos in prop::collection::vec(0_u64..1 << 45, 1..40),
        ) {
            let (mut times, mut spent) = (nanos.iter().cycle(), Duration::ZERO);
            let mut calls = 0;
            let rates = rates(|_| {
                assert!(spent < BUDGET, "a product is begun after the time was over");
                let time = Duration::from_nanos(*times.next().unwrap());
                spent += time;
                calls += 1;
                Some(time)
            });
            prop_assert!(rates.iter().all(|rate| rate.per_micro > 0));
            prop_assert!(calls <= SIZES.len() * 3_003);
        }
    }

    #[test]
    fn a_slow_host_is_measured_at_small_sizes_only() {
        let rows = |per_micro: u64| rates(host(|_| per_micro)).last().map(|rate| rate.rows);
        // 0.2, 20 and 2,000 GFLOP/s.
        assert_eq!([rows(100), rows(10_000), rows(1_000_000)], [Some(64), Some(256), Some(1024)]);
    }
}
