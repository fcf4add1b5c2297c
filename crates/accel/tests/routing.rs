//! Promises about the way of an operation to a plugin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::Arc;

use kernlet_abi::{
    accel::{SgemmParams, operation},
    hypercall::status,
};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, Operation, Runtime};
use support::{Break, tell};
use zerocopy::IntoBytes as _;

#[test]
fn each_operation_goes_to_the_cheapest_plugin_that_has_it() {
    let session = Runtime::new(vec![
        tell("slow", &[(Operation::Noop, 9), (Operation::BlasSgemm, 1)]),
        tell("fast", &[(Operation::Noop, 2)]),
        tell("as fast", &[(Operation::Noop, 2), (Operation::BlasSgemm, 5)]),
    ])
    .session();
    assert_eq!(session.run(operation::NOOP, &mut [], None).unwrap().plugin, "fast");
    let params = SgemmParams::default();
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::new(Data::In(&[]), Dtype::F32, Dims::NONE),
        Arg::new(Data::In(&[]), Dtype::F32, Dims::NONE),
        Arg::new(Data::InOut(&mut []), Dtype::F32, Dims::NONE),
    ];
    let report = session.run(operation::BLAS_SGEMM, &mut args, None).unwrap();
    assert_eq!((report.plugin, report.bytes_copied), ("slow", 3));
}

#[test]
fn a_missing_operation_names_the_plugins_there_are() {
    let session = Runtime::new(vec![
        tell("one", &[(Operation::Noop, 1)]),
        tell("two", &[(Operation::BlasSgemm, 1), (Operation::Noop, 1)]),
    ])
    .session();
    let error = session.run(operation::IMAGE_CLASSIFY, &mut [], None).unwrap_err();
    assert_eq!(error.status(), status::ENOTSUP);
    assert_eq!(error.message(), "no plugin has image-classify; loaded are one (noop), two (blas-sgemm, noop)");
    let error = Runtime::new(Vec::new()).session().run(operation::NOOP, &mut [], None).unwrap_err();
    assert_eq!(error.message(), "no plugin has noop; no plugin is loaded");
}

#[test]
fn an_unknown_operation_is_refused() {
    for number in [24, 0x107, u32::MAX] {
        let error = support::session().run(number, &mut [], None).unwrap_err();
        assert!(matches!(error, AccelError::UnknownOperation { number: got } if got == number));
        assert_eq!(error.status(), status::ENOTSUP);
    }
}

#[test]
fn every_operation_keeps_its_number() {
    for &operation in Operation::ALL {
        assert_eq!(Operation::from_abi(operation.abi_number()).unwrap(), operation);
    }
}

#[test]
fn a_plugin_that_panics_costs_one_operation() {
    let session = Runtime::new(vec![Arc::new(Break)]).session();
    for _ in 0..2 {
        let error = session.run(operation::NOOP, &mut [], None).unwrap_err();
        assert_eq!(error.status(), status::EIO);
        assert!(error.to_string().contains("break") && error.to_string().contains("index out of bounds"), "{error}");
    }
}
