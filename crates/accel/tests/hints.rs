//! Promises about which plugin gets an operation: what a session would like, what plugins decline, and what is said where
//! nobody has it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod support;

use std::sync::{Arc, Barrier};

use kernlet_abi::{
    accel::{BatchParams, operation},
    hypercall::status,
};
use kernlet_accel::{
    Absent, AccelError, Arg, Cost, Data, Deadline, Dims, Done, Dtype, Hint, Kinds, Operation, Plugin, PluginError,
    Report, Resource, Runtime, Session, operation::Task,
};
use zerocopy::IntoBytes as _;

/// A plugin of some kind and cost, which may decline, fail or panic.
#[derive(Debug)]
struct Like {
    name: &'static str,
    operations: &'static [Operation],
    cost: u64,
    kinds: Kinds,
    does: Does,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    It,
    Decline,
    Fail,
    PanicOverItsCost,
}

impl Plugin for Like {
    fn name(&self) -> &'static str {
        self.name
    }

    fn operations(&self) -> &[Operation] {
        self.operations
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        assert_ne!(self.does, Does::PanicOverItsCost);
        Cost::nanos(self.cost)
    }

    fn kinds(&self) -> Kinds {
        self.kinds
    }

    fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        match (self.does, task) {
            (Does::Decline, _) => Err(PluginError::declined(format!("{} would rather not", self.name))),
            (Does::Fail, _) => Err(PluginError::failed("it is broken")),
            (_, Task::OnnxModelRun(mut task)) => {
                let input = task.inputs[0].elements().bytes()[0];
                task.outputs[0].claim::<u8>(Dims::new(&[1]).unwrap())?[0] = input + 1;
                Ok(Done { bytes_copied: 1 })
            }
            (_, Task::OnnxModelRunBatch(task)) => Ok(Done { bytes_copied: 100 * task.sets.len() as u64 }),
            _ => Ok(Done::default()),
        }
    }
}

const NOOP: &[Operation] = &[Operation::Noop];

fn plugin(name: &'static str, cost: u64, kinds: Kinds, does: Does) -> Arc<dyn Plugin> {
    Arc::new(Like { name, operations: NOOP, cost, kinds, does })
}

/// A cheap one, one on a graphics processor, one for finding faults.
fn three() -> Session {
    let plugins = vec![
        plugin("cheap", 1, Kinds::CPU, Does::It),
        plugin("gpu", 2, Kinds::GPU, Does::It),
        plugin("debug", 3, Kinds::DEBUG | Kinds::CPU, Does::It),
    ];
    Runtime::new(plugins).session()
}

fn noop(session: &Session) -> Result<Report, AccelError> {
    session.run(operation::NOOP, &mut [], None)
}

fn named(plugin: &str) -> Hint {
    Hint { plugin: Some(plugin.to_owned()), ..Hint::default() }
}

#[test]
fn a_hint_goes_before_the_cost() {
    let session = three();
    assert_eq!(noop(&session).unwrap().plugin, "cheap");
    for (hint, plugin) in [
        (named("debug"), "debug"),
        (named("gpu"), "gpu"),
        (named("not there"), "cheap"),
        (Hint { kinds: Kinds::GPU, ..Hint::default() }, "gpu"),
        (Hint { kinds: Kinds::DEBUG | Kinds::GPU, ..Hint::default() }, "gpu"),
        (Hint { kinds: Kinds::FPGA, ..Hint::default() }, "cheap"),
        // The name goes before the kind.
        (Hint { kinds: Kinds::GPU, ..named("debug") }, "debug"),
        (Hint::default(), "cheap"),
    ] {
        session.prefer(hint.clone());
        assert_eq!(noop(&session).unwrap().plugin, plugin, "{hint:?}");
    }
}

#[test]
fn a_hint_is_each_sessions_own() {
    let one = three();
    let other = one.runtime().session();
    one.prefer(named("gpu"));
    assert_eq!((noop(&one).unwrap().plugin, noop(&other).unwrap().plugin), ("gpu", "cheap"));
}

/// Holds its operation until a test has changed what the session prefers.
#[derive(Debug)]
struct Held {
    begun: Barrier,
    may_end: Barrier,
}

impl Plugin for Held {
    fn name(&self) -> &'static str {
        "held"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, _: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
        self.begun.wait();
        self.may_end.wait();
        Ok(Done::default())
    }
}

#[test]
fn a_preference_may_change_while_an_operation_runs_and_is_the_next_ones() {
    let held = Arc::new(Held { begun: Barrier::new(2), may_end: Barrier::new(2) });
    let other = plugin("other", 2, Kinds::CPU, Does::It);
    let session = Runtime::new(vec![Arc::clone(&held) as Arc<dyn Plugin>, other]).session();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| noop(&session).unwrap().plugin);
        held.begun.wait();
        session.prefer(named("other"));
        assert_eq!(noop(&session).unwrap().plugin, "other");
        held.may_end.wait();
        assert_eq!(running.join().unwrap(), "held");
    });
}

#[test]
fn a_strict_hint_leaves_no_other_plugin() {
    let session = three();
    session.prefer(Hint { strict: true, ..named("gpu") });
    assert_eq!(noop(&session).unwrap().plugin, "gpu");
    session.prefer(Hint { strict: true, ..named("opencl") });
    let error = noop(&session).unwrap_err();
    assert_eq!(error.status(), status::ENOTSUP);
    assert!(error.message().contains("only plugin opencl is to be used, and loaded are cheap (noop)"), "{error}");
    session.prefer(Hint { strict: true, kinds: Kinds::FPGA, plugin: None });
    let error = noop(&session).unwrap_err();
    assert!(error.message().contains("a plugin of kinds 0x4"), "{error}");
}

#[test]
fn what_a_plugin_declines_goes_to_the_next_best_which_the_report_says() {
    let runtime = Runtime::new(vec![
        plugin("third", 3, Kinds::CPU, Does::It),
        plugin("first", 1, Kinds::CPU, Does::Decline),
        plugin("second", 2, Kinds::CPU, Does::Decline),
    ]);
    let report = noop(&runtime.session()).unwrap();
    assert_eq!((report.plugin, report.fallback_from), ("third", Some("first")));
    // A hint does not make anyone do what it declines.
    let session = runtime.session();
    session.prefer(named("second"));
    let report = noop(&session).unwrap();
    assert_eq!((report.plugin, report.fallback_from), ("third", Some("second")));
}

#[test]
fn what_all_plugins_decline_is_refused_with_the_last_ones_reason() {
    let runtime = Runtime::new(vec![
        plugin("first", 1, Kinds::CPU, Does::Decline),
        plugin("second", 2, Kinds::CPU, Does::Decline),
    ]);
    let error = noop(&runtime.session()).unwrap_err();
    assert_eq!(error.status(), status::ENOTSUP);
    assert!(error.message().contains("second would rather not"), "{error}");
}

#[test]
fn what_a_plugin_fails_at_goes_to_no_other() {
    let runtime =
        Runtime::new(vec![plugin("first", 1, Kinds::CPU, Does::Fail), plugin("second", 2, Kinds::CPU, Does::It)]);
    let error = noop(&runtime.session()).unwrap_err();
    assert_eq!(error.status(), status::EIO);
    assert!(error.message().contains("first") && error.message().contains("it is broken"), "{error}");
}

#[test]
fn a_plugin_that_breaks_down_over_its_cost_is_the_last_choice() {
    let runtime = Runtime::new(vec![
        plugin("broken", 1, Kinds::CPU, Does::PanicOverItsCost),
        plugin("sound", 1000, Kinds::CPU, Does::It),
    ]);
    assert_eq!(noop(&runtime.session()).unwrap().plugin, "sound");
}

#[test]
fn a_missing_operation_names_the_plugins_that_would_have_it_and_why_they_are_not_there() {
    let absent = |plugin, operations, why: &str| Absent { plugin, operations, why: why.to_owned() };
    let runtime = Runtime::with_absent(
        vec![plugin("cheap", 1, Kinds::CPU, Does::It)],
        vec![
            absent("openblas", &[Operation::BlasSgemm], "libopenblas.so.0 is not found; install libopenblas0"),
            absent("opencl", &[Operation::BlasSgemm, Operation::FpgaVectorAdd], "there is no device"),
        ],
    );
    let error = runtime.session().run(operation::FPGA_VECTOR_ADD, &mut [], None).unwrap_err();
    assert_eq!(
        error.message(),
        "no plugin has fpga-vector-add; loaded are cheap (noop); opencl would have it: there is no device"
    );
    let error = runtime.session().run(operation::BLAS_SGEMM, &mut [], None).unwrap_err();
    assert!(error.message().contains("openblas would have it: libopenblas.so.0 is not found"), "{error}");
    assert!(error.message().contains("opencl would have it"), "{error}");
    let error = runtime.session().run(operation::MINMAX, &mut [], None).unwrap_err();
    assert!(!error.message().contains("would have it"), "{error}");
}

/// Runs a batch of two sets; gives the report and what was written.
fn batch(runtime: &Runtime) -> Result<(Report, [u8; 2]), AccelError> {
    let session = runtime.session();
    let model = session.register("model", Resource::from_bytes(*b"model")).unwrap().get();
    let params = BatchParams { model, inputs: 1, outputs: 1, sets: 2 };
    let (one, other) = ([10_u8], [20_u8]);
    let mut out = [[0_u8; 1]; 2];
    let [first, second] = &mut out;
    let shape = Dims::new(&[1]).unwrap();
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        Arg::new(Data::In(&one), Dtype::U8, shape),
        Arg::new(Data::Out(first), Dtype::U8, Dims::NONE),
        Arg::new(Data::In(&other), Dtype::U8, shape),
        Arg::new(Data::Out(second), Dtype::U8, Dims::NONE),
    ];
    let report = session.run(operation::ONNX_MODEL_RUN_BATCH, &mut args, None)?;
    Ok((report, [out[0][0], out[1][0]]))
}

fn of(operations: &'static [Operation], name: &'static str, does: Does) -> Arc<dyn Plugin> {
    Arc::new(Like { name, operations, cost: 1, kinds: Kinds::CPU, does })
}

#[test]
fn a_batch_that_no_plugin_has_is_run_set_by_set() {
    let (report, written) = batch(&Runtime::new(vec![of(&[Operation::OnnxModelRun], "runs", Does::It)])).unwrap();
    assert_eq!((report.plugin, report.bytes_copied, written), ("runs", 2, [11, 21]));
    let error = batch(&Runtime::new(vec![plugin("noop", 1, Kinds::CPU, Does::It)])).unwrap_err();
    assert!(matches!(error, AccelError::NoPlugin { operation: "onnx-model-run-batch", .. }), "{error}");
}

#[test]
fn a_batch_goes_to_who_has_it_and_set_by_set_where_it_is_declined() {
    let whole = |does| of(&[Operation::OnnxModelRunBatch], "whole", does);
    let runs = || of(&[Operation::OnnxModelRun], "runs", Does::It);
    let (report, written) = batch(&Runtime::new(vec![runs(), whole(Does::It)])).unwrap();
    assert_eq!((report.plugin, report.bytes_copied, written), ("whole", 200, [0, 0]));
    let (report, written) = batch(&Runtime::new(vec![runs(), whole(Does::Decline)])).unwrap();
    assert_eq!((report.plugin, report.fallback_from, written), ("runs", Some("whole"), [11, 21]));
    let error = batch(&Runtime::new(vec![whole(Does::Decline)])).unwrap_err();
    assert!(error.message().contains("would rather not"), "{error}");
    // One set that fails is the batch's failure.
    let error = batch(&Runtime::new(vec![of(&[Operation::OnnxModelRun], "runs", Does::Fail)])).unwrap_err();
    assert_eq!(error.status(), status::EIO);
}
