//! Promises about matrix products: BLAS's numbers and BLAS's rules, within the rows that a guest gave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::{
    sync::{Barrier, OnceLock},
    time::Instant,
};

use kernlet_abi::{
    accel::{SgemmParams, operation},
    hypercall::status,
};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, Report, Session};
use kernlet_accel_plugins::{Gemm, OpenBlas, OpenBlasOptions, OpenCl};
use proptest::prelude::*;
use support::{native, session_on};
use zerocopy::IntoBytes as _;

/// A session on each plugin that multiplies matrices, alone.
fn sessions() -> &'static [Session] {
    static SESSIONS: OnceLock<Vec<Session>> = OnceLock::new();
    SESSIONS.get_or_init(|| {
        let openblas = native("openblas", OpenBlas::open(&OpenBlasOptions::default()));
        let opencl = native("opencl", OpenCl::open());
        let mut sessions = vec![session_on(Gemm::new())];
        sessions.extend(openblas.inspect(|plugin| println!("{}", plugin.found())).map(session_on));
        sessions.extend(opencl.inspect(|plugin| println!("{}", plugin.found())).map(session_on));
        sessions
    })
}

/// The same product on each plugin; what `check` gets is in C before.
fn sgemm(params: SgemmParams, a: &[f32], b: &[f32], c: &[f32], check: impl Fn(Result<Report, AccelError>, &[f32])) {
    sgemm_until(params, a, b, c, None, check);
}

fn sgemm_until(
    params: SgemmParams,
    a: &[f32],
    b: &[f32],
    c: &[f32],
    deadline: Option<Instant>,
    check: impl Fn(Result<Report, AccelError>, &[f32]),
) {
    for session in sessions() {
        let mut c = c.to_vec();
        let mut args = [
            Arg::bytes(Data::In(params.as_bytes())),
            Arg::new(Data::In(a.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::In(b.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::InOut(c.as_mut_bytes()), Dtype::F32, Dims::NONE),
        ];
        let result = session.run(operation::BLAS_SGEMM, &mut args, deadline);
        check(result, &c);
    }
}

/// The definition, in f64, with BLAS's rules for zero factors. Gives the magnitude of the sum as well.
fn reference(p: &SgemmParams, a: &[f32], b: &[f32], c: f32, i: usize, j: usize) -> (f64, f64) {
    let size = |value: i64| usize::try_from(value).unwrap();
    let (mut sum, mut magnitude) = (0.0_f64, 0.0_f64);
    if p.alpha != 0.0 && p.k > 0 {
        for l in 0..size(p.k) {
            let product = f64::from(a[i * size(p.lda) + l]) * f64::from(b[l * size(p.ldb) + j]);
            sum += product;
            magnitude += product.abs();
        }
        sum *= f64::from(p.alpha);
    }
    if p.beta != 0.0 {
        sum += f64::from(p.beta) * f64::from(c);
        magnitude += (f64::from(p.beta) * f64::from(c)).abs();
    }
    (sum, magnitude * f64::from(p.alpha.abs().max(1.0)))
}

fn agrees(got: f32, (expected, magnitude): (f64, f64)) -> bool {
    if expected.is_nan() {
        return got.is_nan();
    }
    f64::from(got) == expected || (f64::from(got) - expected).abs() <= 1e-4 * magnitude + 1e-6
}

/// An infinite factor is left out: BLAS does not say whether it meets the elements or their sum, and infinity times
/// zero is not a number.
fn factor() -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), Just(-0.0), Just(1.0), -3.0_f32..3.0, Just(f32::NAN)]
}

fn element() -> impl Strategy<Value = f32> {
    prop_oneof![40 => -2.0_f32..2.0, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => Just(0.0)]
}

fn case() -> impl Strategy<Value = (SgemmParams, Vec<f32>, Vec<f32>, Vec<f32>)> {
    let size = 0_i64..40;
    (size.clone(), size.clone(), size, 0_i64..5, 0_i64..5, 0_i64..5, factor(), factor()).prop_flat_map(
        |(m, n, k, gap_a, gap_b, gap_c, alpha, beta)| {
            let (lda, ldb, ldc) = (k + gap_a, n + gap_b, n + gap_c);
            let p = SgemmParams { m, n, k, lda, ldb, ldc, alpha, beta };
            let len = |rows: i64, stride: i64| usize::try_from(rows * stride).unwrap();
            let elements = |len| prop::collection::vec(element(), len);
            (Just(p), elements(len(m, lda)), elements(len(k, ldb)), elements(len(m, ldc)))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_product_is_what_the_definition_says((p, a, b, c) in case()) {
        sgemm(p, &a, &b, &c, |report, got| {
            let report = report.unwrap();
            if report.plugin != "opencl" {
                assert_eq!(report.bytes_copied, 0, "{}", report.plugin);
            }
            let (n, stride) = (usize::try_from(p.n).unwrap(), usize::try_from(p.ldc).unwrap());
            for (at, (&got, &before)) in got.iter().zip(&c).enumerate() {
                let (i, j) = (at / stride, at % stride);
                if j >= n {
                    assert_eq!(got.to_bits(), before.to_bits(), "{} wrote the gap behind row {i}", report.plugin);
                } else {
                    let expected = reference(&p, &a, &b, before, i, j);
                    assert!(agrees(got, expected), "{}: ({i}, {j}): {got} for {expected:?} of {p:?}", report.plugin);
                }
            }
        });
    }
}

#[test]
fn what_c_held_does_not_matter_when_beta_is_zero() {
    let p = SgemmParams { m: 2, n: 2, k: 1, lda: 1, ldb: 2, ldc: 2, alpha: 2.0, beta: 0.0 };
    sgemm(p, &[1.0, 2.0], &[3.0, 4.0], &[f32::NAN; 4], |report, c| {
        report.unwrap();
        assert_eq!(c, [6.0, 8.0, 12.0, 16.0]);
    });
}

#[test]
fn a_and_b_do_not_matter_when_alpha_or_k_is_zero() {
    let p = SgemmParams { m: 1, n: 2, k: 1, lda: 1, ldb: 2, ldc: 2, alpha: 0.0, beta: 0.5 };
    sgemm(p, &[f32::NAN], &[f32::NAN; 2], &[4.0, 6.0], |_, c| assert_eq!(c, [2.0, 3.0]));
    let p = SgemmParams { k: 0, lda: 0, alpha: 1.0, ..p };
    sgemm(p, &[], &[], &[2.0, 3.0], |_, c| assert_eq!(c, [1.0, 1.5]));
}

#[test]
fn numbers_that_are_none_and_denormals_are_multiplied_as_they_are() {
    let p = SgemmParams { m: 2, n: 2, k: 1, lda: 1, ldb: 2, ldc: 2, alpha: 1.0, beta: 0.0 };
    sgemm(p, &[f32::NAN, 1.0], &[1.0, 1e-42], &[0.0; 4], |report, c| {
        report.unwrap();
        assert!(c[0].is_nan() && c[1].is_nan());
        assert_eq!(c[2..].iter().map(|value| value.to_bits()).collect::<Vec<_>>(), [1.0, 1e-42].map(f32::to_bits));
    });
}

#[test]
fn a_large_product_on_all_cores_is_right() {
    let (m, n, k) = (700_i64, 513_i64, 600_i64);
    let p = SgemmParams { m, n, k, lda: k, ldb: n, ldc: n, alpha: 1.0, beta: 0.0 };
    let values = |len: i64, step: i64| (0..len).map(|at| ((at * step % 17) as f32 - 8.0) / 8.0).collect::<Vec<_>>();
    let (a, b) = (values(m * k, 7), values(k * n, 5));
    sgemm(p, &a, &b, &vec![f32::NAN; usize::try_from(m * n).unwrap()], |report, c| {
        report.unwrap();
        for (at, &got) in c.iter().enumerate().step_by(37) {
            let width = usize::try_from(n).unwrap();
            assert!(agrees(got, reference(&p, &a, &b, 0.0, at / width, at % width)));
        }
    });
}

#[test]
fn many_threads_multiply_at_once() {
    let p = SgemmParams { m: 64, n: 64, k: 64, lda: 64, ldb: 64, ldc: 64, alpha: 1.0, beta: 0.0 };
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 1..=8_u8 {
            let start = &start;
            scope.spawn(move || {
                let (a, b, c) = (vec![f32::from(thread); 4096], vec![1.0; 4096], vec![0.0; 4096]);
                start.wait();
                for _ in 0..20 {
                    sgemm(p, &a, &b, &c, |_, c| assert!(c.iter().all(|&c| c == 64.0 * f32::from(thread))));
                }
            });
        }
    });
}

#[test]
fn square_matrices_are_multiplied_by_their_own_operation() {
    let (a, b) = ([1.0_f32, 2.0, 3.0, 4.0], [1.0_f32, 0.0, 1.0, 2.0]);
    for session in sessions() {
        let mut c = [f32::NAN; 4];
        let mut args = [
            Arg::new(Data::In(a.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::In(b.as_bytes()), Dtype::F32, Dims::NONE),
            Arg::new(Data::Out(c.as_mut_bytes()), Dtype::F32, Dims::NONE),
        ];
        session.run(operation::FPGA_MMULT, &mut args, None).unwrap();
        assert_eq!(c, [3.0, 4.0, 7.0, 8.0]);
    }
}

#[test]
fn matrices_without_elements_are_fine() {
    let p = SgemmParams { m: i64::MAX, n: 0, k: 0, lda: 0, ldb: 0, ldc: 0, alpha: 1.0, beta: 1.0 };
    sgemm(p, &[], &[], &[], |report, _| assert!(report.is_ok()));
}

#[test]
fn sizes_beyond_the_buffers_are_refused() {
    let p = SgemmParams { m: 2, n: 2, k: 2, lda: 2, ldb: 2, ldc: 2, alpha: 1.0, beta: 1.0 };
    let check = |p: SgemmParams, a: usize, b: usize, c: usize, status: i32, words: &str| {
        sgemm(p, &[0.0; 8][..a], &[0.0; 8][..b], &[0.0; 8][..c], |result, _| {
            let error = result.unwrap_err();
            assert_eq!(error.status(), status, "{}", error.message());
            assert!(error.message().contains(words), "{}", error.message());
        });
    };
    check(p, 3, 4, 4, status::EINVAL, "argument 1 (A)");
    check(p, 4, 3, 4, status::EINVAL, "argument 2 (B)");
    check(p, 4, 4, 3, status::ERANGE, "argument 3 (C)");
    check(SgemmParams { lda: 1, ..p }, 4, 4, 4, status::EINVAL, "lda is 1");
    check(SgemmParams { ldb: i64::MAX, ..p }, 4, 4, 4, status::EINVAL, "argument 2 (B)");
    check(SgemmParams { m: -1, ..p }, 4, 4, 4, status::EINVAL, "m is -1");
    check(SgemmParams { m: 1 << 62, ldc: 1 << 62, ..p }, 4, 4, 4, status::EINVAL, "larger than any buffer");
}

#[test]
fn a_deadline_that_is_over_stops_a_product_before_it_begins() {
    let p = SgemmParams { m: 1, n: 1, k: 1, lda: 1, ldb: 1, ldc: 1, alpha: 1.0, beta: 0.0 };
    sgemm_until(p, &[1.0], &[1.0], &[5.0], Some(Instant::now()), |result, c| {
        assert_eq!(result.unwrap_err().status(), status::ETIMEDOUT);
        assert_eq!(c, [5.0]);
    });
}
