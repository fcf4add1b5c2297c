//! Runs an accelerator operation as often as the query says: `/noop?count=…`, `/payload?bytes=…&count=…` (a product that
//! reads none of them), `/sgemm?n=…&count=…` (n×n matrices; with `&batch=…`, that many batches of so many). Called by the
//! benchmarks of accelerators: of operations without work they take the difference between two counts; products take long
//! enough that the function says by its own clock what they took, in nanoseconds.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::{format, string::ToString as _, vec};
use core::time::Duration;

use kernlet_guest::{
    Request, Response,
    accel::{self, AccelError, Sgemm},
    clock, function,
};

function!(offload);

/// Largest matrix, in rows.
const ROWS_MAX: u64 = 2048;

/// Most products of a batch.
const BATCH_MAX: u64 = 64;

/// Largest payload, in bytes.
const BYTES_MAX: u64 = 16 * 1024 * 1024;

fn offload(request: &Request) -> Response<'_> {
    let number = |name, max: u64| {
        let found = request.parameter(name).and_then(|text| text.parse::<u64>().ok());
        found.filter(|number| *number <= max).ok_or_else(|| format!("?{name}=… is a number up to {max}\n"))
    };
    let outcome = match request.path() {
        "/noop" => number("count", 1_000_000).map(noops),
        "/payload" => number("bytes", BYTES_MAX).and_then(|bytes| Ok(payloads(bytes, number("count", 100_000)?))),
        "/sgemm" if request.parameter("batch").is_some() => number("n", ROWS_MAX)
            .and_then(|rows| Ok(batches(rows, number("count", 100_000)?, number("batch", BATCH_MAX)?))),
        "/sgemm" => number("n", ROWS_MAX).and_then(|rows| Ok(products(rows, number("count", 100_000)?))),
        _ => return Response::new(404).body("/noop, /payload and /sgemm are what there is\n"),
    };
    match outcome {
        Ok(Ok(took)) => Response::new(200).body(took.as_nanos().to_string()),
        Ok(Err(error)) => Response::new(500).body(error.message),
        Err(wrong) => Response::new(400).body(wrong),
    }
}

/// How long some work takes, by two looks at the host's clock: an exit each, of which one is counted.
fn timed(work: impl FnOnce() -> Result<(), AccelError>) -> Result<Duration, AccelError> {
    let begun = clock::monotonic();
    work()?;
    Ok(clock::monotonic().saturating_sub(begun))
}

fn noops(count: u64) -> Result<Duration, AccelError> {
    (0..count).try_for_each(|_| accel::noop())?;
    Ok(Duration::ZERO)
}

/// A row times a column, with a factor of zero: BLAS reads neither.
fn payloads(bytes: u64, count: u64) -> Result<Duration, AccelError> {
    let inner = bytes / 8;
    let (row, column, mut c) = (vec![1.0; inner as usize], vec![1.0; inner as usize], [2.0]);
    let k = inner as i64;
    let params = Sgemm { m: 1, n: 1, k, lda: k, ldb: 1, ldc: 1, alpha: 0.0, beta: 1.0 };
    (0..count).try_for_each(|_| accel::sgemm(&params, &row, &column, &mut c))?;
    Ok(Duration::ZERO)
}

fn products(rows: u64, count: u64) -> Result<Duration, AccelError> {
    let elements = (rows * rows) as usize;
    let (a, b, mut c) = (vec![1.0; elements], vec![1.0; elements], vec![0.0; elements]);
    let n = rows as i64;
    let params = Sgemm { m: n, n, k: n, lda: n, ldb: n, ldc: n, alpha: 1.0, beta: 0.0 };
    timed(|| (0..count).try_for_each(|_| accel::sgemm(&params, &a, &b, &mut c)))
}

/// The same, so many at once, each with a C of its own.
fn batches(rows: u64, count: u64, at_once: u64) -> Result<Duration, AccelError> {
    let elements = (rows * rows).max(1) as usize;
    let (a, b) = (vec![1.0; elements], vec![1.0; elements]);
    let mut products = vec![0.0; elements * at_once as usize];
    let n = rows as i64;
    let params = Sgemm { m: n, n, k: n, lda: n, ldb: n, ldc: n, alpha: 1.0, beta: 0.0 };
    timed(|| {
        (0..count).try_for_each(|_| {
            let mut batch = accel::batch();
            for c in products.chunks_exact_mut(elements) {
                batch.sgemm(&params, &a, &b, c);
            }
            batch.run().into_iter().collect()
        })
    })
}
