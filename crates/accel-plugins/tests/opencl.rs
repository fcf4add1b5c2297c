//! Promises about arrays and pictures on an OpenCL device; products of matrices are in `sgemm.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::time::Duration;

use kernlet_abi::hypercall::status;
use kernlet_accel::Session;
use kernlet_accel_plugins::OpenCl;
use proptest::prelude::*;
use support::{native, session_on};

fn opencl() -> Option<&'static Session> {
    static SESSION: std::sync::OnceLock<Option<Session>> = std::sync::OnceLock::new();
    let open = || native("opencl", OpenCl::open()).inspect(|plugin| println!("{}", plugin.found())).map(session_on);
    SESSION.get_or_init(open).as_ref()
}

/// A picture resized by the definition: a triangle filter over what a pixel covers, in f64.
fn resized(size: (u32, u32), channels: u32, from: &[u8], to_size: (u32, u32)) -> Vec<f64> {
    let taps = |at: u32, from: u32, to: u32| -> Vec<(u32, f64)> {
        let scale = f64::from(from) / f64::from(to);
        let (reach, centre) = (scale.max(1.0), (f64::from(at) + 0.5) * scale);
        (0..from)
            .map(|x| (x, (1.0 - (f64::from(x) + 0.5 - centre).abs() / reach).max(0.0)))
            .filter(|tap| tap.1 > 0.0)
            .collect()
    };
    let mut result = Vec::new();
    for y in 0..to_size.1 {
        for x in 0..to_size.0 {
            for channel in 0..channels {
                let (mut sum, mut total) = (0.0, 0.0);
                for (row, weight_y) in taps(y, size.1, to_size.1) {
                    for (column, weight_x) in taps(x, size.0, to_size.0) {
                        let at = ((row * size.0 + column) * channels + channel) as usize;
                        sum += weight_x * weight_y * f64::from(from[at]);
                        total += weight_x * weight_y;
                    }
                }
                result.push(sum / total);
            }
        }
    }
    result
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn arrays_of_any_length_are_copied_added_and_multiplied(
        numbers in prop::collection::vec((any::<i32>(), -1e3_f32..1e3, -1e3_f32..1e3), 0..300),
    ) {
        let Some(session) = opencl() else { return Ok(()) };
        let integers: Vec<_> = numbers.iter().map(|numbers| numbers.0).collect();
        let (a, b): (Vec<_>, Vec<_>) = numbers.iter().map(|numbers| (numbers.1, numbers.2)).unzip();
        let mut copy = vec![7; integers.len()];
        let report = session.ops().array_copy(&integers, &mut copy).unwrap();
        prop_assert_eq!(report.bytes_copied, 8 * integers.len() as u64);
        prop_assert_eq!(&copy, &integers);
        let (mut sum, mut product) = (vec![f32::NAN; a.len()], vec![f32::NAN; a.len()]);
        session.ops().vector_add(&a, &b, &mut sum).unwrap();
        prop_assert!(sum.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == a + b));
        sum.fill(f32::NAN);
        session.ops().parallel(&a, &b, &mut sum, &mut product).unwrap();
        prop_assert!(sum.iter().zip(a.iter().zip(&b)).all(|(sum, (a, b))| *sum == a + b));
        prop_assert!(product.iter().zip(a.iter().zip(&b)).all(|(product, (a, b))| *product == a * b));
    }

    #[test]
    fn a_picture_of_any_size_is_resized_as_the_definition_says(
        size in (1_u32..40, 1_u32..40), to_size in (1_u32..40, 1_u32..40), channels in 1_u32..5, seed in any::<u32>(),
    ) {
        let Some(session) = opencl() else { return Ok(()) };
        let noise = |at: u32| ((at ^ seed).wrapping_mul(2_654_435_761) >> 24) as u8;
        let from: Vec<_> = (0..size.0 * size.1 * channels).map(noise).collect();
        let mut to = vec![0; (to_size.0 * to_size.1 * channels) as usize];
        session.ops().resize(size, channels, &from, to_size, &mut to).unwrap();
        for (at, (got, expected)) in to.iter().zip(resized(size, channels, &from, to_size)).enumerate() {
            prop_assert!((f64::from(*got) - expected).abs() <= 1.0, "{}: {} for {}", at, got, expected);
        }
    }
}

#[test]
fn numbers_that_are_none_and_denormals_are_added_as_they_are() {
    let Some(session) = opencl() else { return };
    let (a, b, mut sum) = ([f32::NAN, f32::INFINITY, 1e-42, -0.0], [1.0, 1.0, 1e-42, -0.0], [0.0; 4]);
    session.ops().vector_add(&a, &b, &mut sum).unwrap();
    assert!(sum[0].is_nan());
    assert_eq!((sum[1].to_bits(), sum[3].to_bits()), (f32::INFINITY.to_bits(), (-0.0_f32).to_bits()));
    // A device may take a denormal for zero.
    assert!([0.0, 1e-42 + 1e-42].contains(&sum[2]), "{}", sum[2]);
}

#[test]
fn a_deadline_that_is_over_stops_a_device_before_it_begins() {
    let Some(session) = opencl() else { return };
    let mut sum = [7.0];
    let late = session.ops().within(Duration::ZERO);
    let error = late.vector_add(&[1.0], &[1.0], &mut sum).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT);
    assert_eq!(sum, [7.0]);
}

#[test]
fn many_threads_use_a_device_at_once() {
    let Some(session) = opencl() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            scope.spawn(move || {
                let (a, mut sum) = (vec![f32::from(thread); 1000], vec![0.0; 1000]);
                for _ in 0..20 {
                    session.ops().vector_add(&a, &a, &mut sum).unwrap();
                    assert!(sum.iter().all(|&sum| sum == 2.0 * f32::from(thread)));
                }
            });
        }
    });
}
