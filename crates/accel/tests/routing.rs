//! Promises about the way of an operation to a plugin.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use kernlet_abi::{
    accel::{SgemmParams, operation},
    hypercall::status,
};
use kernlet_accel::{
    AccelError, Arg, Cost, Data, Deadline, Dims, Done, Dtype, Operation, Plugin, PluginError, Runtime, operation::Task,
};
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

/// A plugin that knows what it costs once it has found out, and may break down over it.
#[derive(Debug)]
struct Finds {
    name: &'static str,
    costs: u64,
    found_out: AtomicUsize,
    breaks: bool,
}

impl Finds {
    fn new(name: &'static str, costs: u64, breaks: bool) -> Arc<Self> {
        Arc::new(Self { name, costs, found_out: AtomicUsize::new(0), breaks })
    }
}

impl Plugin for Finds {
    fn name(&self) -> &'static str {
        self.name
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(if self.found_out.load(Relaxed) > 0 { self.costs } else { 5 })
    }

    fn calibrate(&self) {
        assert!(!self.breaks, "no clock");
        self.found_out.fetch_add(1, Relaxed);
    }

    fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        Ok(Done::default())
    }
}

#[test]
fn plugins_that_share_an_operation_find_out_what_it_costs_here_before_it_is_asked_for() {
    let (first, second) = (Finds::new("first", 9, false), Finds::new("second", 3, false));
    let session = Runtime::new(vec![first.clone() as Arc<dyn Plugin>, second.clone()]).session();
    for _ in 0..3 {
        assert_eq!(session.run(operation::NOOP, &mut [], None).unwrap().plugin, "second");
    }
    assert_eq!((first.found_out.load(Relaxed), second.found_out.load(Relaxed)), (1, 1));
    // Nobody asks a plugin that is alone with what it has, nor one beside others that have something else.
    let alone = Finds::new("alone", 1, false);
    let _runtime = Runtime::new(vec![alone.clone() as Arc<dyn Plugin>, tell("other", &[(Operation::BlasSgemm, 1)])]);
    assert_eq!(alone.found_out.load(Relaxed), 0);
}

#[test]
fn a_plugin_that_breaks_down_over_its_speed_is_compared_as_it_is() {
    let session = Runtime::new(vec![Finds::new("broken", 1, true), tell("other", &[(Operation::Noop, 6)])]).session();
    assert_eq!(session.run(operation::NOOP, &mut [], None).unwrap().plugin, "broken");
}
