//! Promises about several operations at once, as a host program asks for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use kernlet_abi::accel::operation;
use kernlet_accel::{
    AccelError, Answer, Arg, Cost, Data, Deadline, Dims, Done, Dtype, Operation, Plugin, PluginError, Quota, RawCall,
    Runtime, host::Sgemm, operation::Task,
};
use zerocopy::IntoBytes as _;

/// How a plugin behaves that has arrays, products and nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// As it should.
    Well,
    /// It declines copies.
    Declines,
    /// It fails at copies.
    Fails,
    /// It panics when it has a copy.
    Panics,
    /// It says nothing of the last.
    Forgets,
}

/// Keeps how many operations it got at once.
#[derive(Debug)]
struct Arrays {
    name: &'static str,
    at_once: usize,
    manner: Manner,
    had: Arc<Mutex<Vec<(&'static str, usize)>>>,
}

impl Plugin for Arrays {
    fn name(&self) -> &'static str {
        self.name
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop, Operation::FpgaVectorAdd, Operation::FpgaArrayCopy, Operation::BlasSgemm]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(if self.name == "first" { 1 } else { 2 })
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        deadline.check("it")?;
        match (task, self.manner) {
            (Task::FpgaArrayCopy(_), Manner::Declines) => return Err(PluginError::declined("no copies here")),
            (Task::FpgaArrayCopy(_), Manner::Fails) => return Err(PluginError::failed("the copier is out of ink")),
            (Task::FpgaArrayCopy(_), Manner::Panics) => panic!("a copy"),
            (Task::FpgaArrayCopy(task), _) => task.to.copy_from_slice(task.from),
            (Task::FpgaVectorAdd(task), _) => {
                task.sum.iter_mut().zip(task.a.iter().zip(task.b)).for_each(|(sum, (a, b))| *sum = a + b);
            }
            (Task::BlasSgemm(mut task), _) => task.matrices().2.elements_mut().fill(1.0),
            _ => {}
        }
        Ok(Done { bytes_copied: 1 })
    }

    fn batch_max(&self) -> usize {
        self.at_once
    }

    fn run_batch(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
        self.had.lock().unwrap().push((self.name, tasks.len()));
        let count = tasks.len() - usize::from(self.manner == Manner::Forgets);
        let run = |task| Answer { outcome: self.run(task, deadline), elapsed: Duration::from_micros(7) };
        tasks.into_iter().take(count).map(run).collect()
    }
}

type Had = Arc<Mutex<Vec<(&'static str, usize)>>>;

/// Two plugins that take so many at once, of which the first is cheaper and behaves so; and what they had at once.
fn plugins(at_once: usize, manner: Manner) -> (Runtime, Had) {
    let had = Had::default();
    let plugin = |name, manner| Arc::new(Arrays { name, at_once, manner, had: Arc::clone(&had) }) as Arc<dyn Plugin>;
    (Runtime::new(vec![plugin("first", manner), plugin("second", Manner::Well)]), had)
}

/// A sum, a copy, a copy that cannot be, a product: what came of them in words, and what was written.
fn carry_out(session: &kernlet_accel::Session) -> (Vec<String>, [f32; 2], [i32; 2], [f32; 1]) {
    let (mut sum, mut copy, mut short, mut c) = ([0.0; 2], [0; 2], [0; 1], [0.0]);
    let params = Sgemm { m: 1, n: 1, k: 1, lda: 1, ldb: 1, ldc: 1, alpha: 1.0, beta: 0.0 };
    let mut batch = session.batch();
    batch
        .vector_add(&[1.0, 2.0], &[3.0, 4.0], &mut sum)
        .array_copy(&[5, 6], &mut copy)
        .array_copy(&[5, 6], &mut short)
        .sgemm(&params, &[1.0], &[1.0], &mut c);
    assert_eq!((batch.len(), batch.is_empty()), (4, false));
    let said = |outcome: Result<kernlet_accel::Report, AccelError>| match outcome {
        Ok(report) => format!("{} {:?} {}", report.plugin, report.fallback_from, report.bytes_copied),
        Err(error) => error.message(),
    };
    (batch.run().into_iter().map(said).collect(), sum, copy, c)
}

const WRONG: &str = "argument 1 (copy) of fpga-array-copy is wrong: it has 4 bytes and must have exactly 8";

#[test]
fn each_operation_of_a_batch_has_its_own_outcome_whether_it_goes_alone_or_not() {
    for at_once in [1, 2, 8] {
        let (runtime, had) = plugins(at_once, Manner::Well);
        let (said, sum, copy, c) = carry_out(&runtime.session());
        assert_eq!(said, ["first None 1", "first None 1", WRONG, "first None 1"]);
        assert_eq!((sum, copy, c), ([4.0, 6.0], [5, 6], [1.0]));
        let expected: &[usize] = match at_once {
            1 => &[],
            2 => &[2, 1],
            _ => &[3],
        };
        assert_eq!(had.lock().unwrap().iter().map(|(_, count)| *count).collect::<Vec<_>>(), expected);
        assert!(runtime.session().batch().run().is_empty());
    }
}

#[test]
fn what_is_declined_from_a_batch_goes_to_the_next_best_and_what_fails_does_not() {
    for at_once in [1, 8] {
        let (runtime, _) = plugins(at_once, Manner::Declines);
        let (said, _, copy, _) = carry_out(&runtime.session());
        assert_eq!(said, ["first None 1", "second Some(\"first\") 1", WRONG, "first None 1"]);
        assert_eq!(copy, [5, 6]);
        let (runtime, _) = plugins(at_once, Manner::Fails);
        let (said, _, copy, c) = carry_out(&runtime.session());
        let failed = "plugin first cannot carry out fpga-array-copy: the copier is out of ink";
        assert_eq!(said, ["first None 1", failed, WRONG, "first None 1"]);
        assert_eq!((copy, c), ([0, 0], [1.0]));
    }
}

#[test]
fn a_plugin_that_panics_or_forgets_costs_the_operations_that_went_with_it() {
    let (runtime, _) = plugins(8, Manner::Panics);
    let (said, ..) = carry_out(&runtime.session());
    let broke = |name| format!("plugin first broke down during {name}: a copy; this is a bug of the plugin");
    assert_eq!(said, [broke("fpga-vector-add"), broke("fpga-array-copy"), WRONG.to_owned(), broke("blas-sgemm")]);
    let (runtime, _) = plugins(8, Manner::Forgets);
    let (said, ..) = carry_out(&runtime.session());
    assert_eq!(said[3], "plugin first cannot carry out blas-sgemm: it does not say what became of the operation");
    assert_eq!(said[..2], ["first None 1", "first None 1"]);
}

#[test]
fn limits_hold_for_a_batch_and_each_of_its_operations() {
    for at_once in [1, 8] {
        let (runtime, had) = plugins(at_once, Manner::Well);
        let session = runtime.session();
        let late = {
            let mut batch = session.batch().within(Duration::ZERO);
            batch.noop().noop();
            batch.run()
        };
        assert_eq!(late.len(), 2);
        for outcome in late {
            assert!(matches!(outcome, Err(AccelError::DeadlinePassed { operation: "noop" })), "{outcome:?}");
        }
        let none = runtime.session_with(Quota { concurrency: 0, ..Quota::default() });
        let mut batch = none.batch();
        batch.noop().noop();
        for outcome in batch.run() {
            assert!(matches!(outcome, Err(AccelError::TooManyOperations { max: 0, .. })), "{outcome:?}");
        }
        // A batch is one operation at a time, and each has a time of its own.
        let one = Quota { concurrency: 1, operation_time: Some(Duration::from_secs(60)), ..Quota::default() };
        let (said, ..) = carry_out(&runtime.session_with(one));
        assert_eq!(said.iter().filter(|said| said.starts_with("first")).count(), 3);
        assert_eq!(*had.lock().unwrap(), [], "whose time is limited goes alone");
    }
}

#[test]
fn a_batchs_operations_are_in_the_profile_one_by_one() {
    let (runtime, _) = plugins(8, Manner::Fails);
    let session = runtime.session();
    session.profile().enable(true);
    carry_out(&session);
    let regions: Vec<_> = session.profile().regions().into_iter().collect();
    let shown: Vec<_> = regions.iter().map(|(name, region)| (name.as_str(), region.entries, region.total)).collect();
    let micros = Duration::from_micros(7);
    assert_eq!(
        shown,
        [
            ("blas-sgemm (first)", 1, micros),
            ("fpga-array-copy (failed)", 1, micros),
            ("fpga-vector-add (first)", 1, micros)
        ]
    );
}

#[test]
fn raw_operations_at_once_are_as_one_by_one() {
    for at_once in [1, 8] {
        for with_generic in [false, true] {
            let (runtime, had) = plugins(at_once, Manner::Well);
            let session = runtime.session();
            let (a, mut sum, mut copy) = ([1.0_f32, 2.0], [0.0_f32; 2], [9_i32; 2]);
            let arg = |data, dtype| Arg::new(data, dtype, Dims::NONE);
            let mut sums = [
                arg(Data::In(a.as_bytes()), Dtype::F32),
                arg(Data::In(a.as_bytes()), Dtype::F32),
                arg(Data::Out(sum.as_mut_bytes()), Dtype::F32),
            ];
            // It lacks what it copies.
            let mut copies = [arg(Data::Out(copy.as_mut_bytes()), Dtype::I32)];
            let mut number = [Arg::new(Data::In(&[0]), Dtype::U8, Dims::NONE)];
            let mut calls = vec![
                RawCall { operation: operation::FPGA_VECTOR_ADD, args: &mut sums },
                RawCall { operation: operation::FPGA_ARRAY_COPY, args: &mut copies },
                RawCall { operation: 0xdead, args: &mut [] },
                RawCall { operation: operation::NOOP, args: &mut [] },
            ];
            if with_generic {
                calls.push(RawCall { operation: operation::GENERIC, args: &mut number });
            }
            let outcomes = session.run_batch(&mut calls, Some(Instant::now() + Duration::from_secs(60)));
            drop(calls);
            assert_eq!((sums[2].written, copies[0].written), (8, 0));
            assert!(matches!(outcomes[1], Err(AccelError::WrongArgCount { .. })));
            assert!(matches!(outcomes[2], Err(AccelError::UnknownOperation { number: 0xdead })));
            assert!(outcomes[3].is_ok() && outcomes.get(4).is_none_or(Result::is_ok), "{outcomes:?}");
            assert_eq!(sum, [2.0, 4.0]);
            let together = at_once > 1 && !with_generic;
            assert_eq!(had.lock().unwrap().len(), usize::from(together));
        }
    }
}
