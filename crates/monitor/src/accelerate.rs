//! Serves accelerator calls, one or a batch of them: the ranges that a hostile guest names are checked and lent to the
//! runtime while the guest stands still, and the outcome is written back. Called for hypercalls only. Never keeps a
//! range beyond the operation that it belongs to.

use std::{sync::Arc, time::Instant};

use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelBatch, AccelCall, BATCH_MAX, ERROR_MAX},
    hypercall::{CallHead, number, status},
};
use kernlet_accel::{AccelError, Arg, Data, Dims, Dtype, RawCall, Report, Session};

use crate::{
    borrow::{self, Argument},
    crash::Cause,
    hypercall::{BLOCK, CallContext, GuestView},
};

/// Carries out the operation whose call is at `block`; the status of the call.
pub(crate) fn one(guest: &mut GuestView, context: &mut CallContext, block: u64) -> Result<i32, Cause> {
    let prepared = Prepared::load(guest, block)?;
    let arguments = prepared.arguments()?;
    let checked = borrow::check(&guest.layout, &arguments)?;
    let data = borrow::lend(&mut guest.memory, &checked)?;
    let outcome = prepared.typed(&mut data.into_iter()).and_then(|mut args| {
        let turn = Turn::begin(context);
        let outcome = turn.session.run(prepared.call.operation, &mut args, Some(turn.deadline));
        turn.end(context);
        turn.outcome(context, outcome, &args)
    });
    prepared.finish(guest, outcome)
}

/// Carries out several operations in their order; the status of the batch as a whole.
///
/// Each is read, checked and carried out when it is its turn, as if it were called by itself, so that one may use what
/// another wrote, be it a later call's own arguments. Where a plugin takes several at once, those of a batch go there
/// together if none has to do with another, so that nobody can tell it from the outcome.
pub(crate) fn batch(guest: &mut GuestView, context: &mut CallContext, batch: &AccelBatch) -> Result<i32, Cause> {
    if batch.count > BATCH_MAX || batch.reserved != 0 {
        return Ok(status::EINVAL);
    }
    let size = size_of::<AccelCall>() as u64;
    let table = Span { offset: batch.calls, len: u64::from(batch.count) * size };
    guest.check("the table of a batch's calls", table, true)?;
    let blocks = (0..u64::from(batch.count)).map(|index| batch.calls + index * size);
    if context.services.accel.takes_batches() && together(guest, context, blocks.clone())? {
        return Ok(status::OK);
    }
    for block in blocks {
        let head: CallHead = guest.load(BLOCK, block, true)?;
        let result = if head.number == number::ACCEL { one(guest, context, block)? } else { status::EINVAL };
        guest.store(block, &CallHead { status: result, ..head })?;
    }
    Ok(status::OK)
}

/// Carries out the operations of a batch at once. `false`, and nothing is done, where that could be told from one after
/// the other, and where one of them would end the machine: it does so when it is its turn.
fn together(
    guest: &mut GuestView,
    context: &mut CallContext,
    blocks: impl Iterator<Item = u64>,
) -> Result<bool, Cause> {
    let Ok(prepared) = blocks.map(|block| Prepared::load(guest, block)).collect::<Result<Vec<_>, _>>() else {
        return Ok(false);
    };
    let Ok(arguments) = prepared.iter().map(Prepared::arguments).collect::<Result<Vec<_>, _>>() else {
        return Ok(false);
    };
    let arguments = arguments.concat();
    let kept: Vec<Span> = prepared.iter().flat_map(Prepared::kept).collect();
    let Some(checked) = borrow::check_apart(&guest.layout, &arguments, &kept) else {
        return Ok(false);
    };
    if prepared.iter().any(|prepared| prepared.call.head.number != number::ACCEL) {
        return Ok(false);
    }
    let mut data = borrow::lend(&mut guest.memory, &checked)?.into_iter();
    let Ok(mut args) = prepared.iter().map(|one| one.typed(&mut data)).collect::<Result<Vec<_>, _>>() else {
        return Ok(false);
    };
    let turn = Turn::begin(context);
    let calls = prepared.iter().zip(&mut args).map(|(one, args)| RawCall { operation: one.call.operation, args });
    let outcomes = turn.session.run_batch(&mut calls.collect::<Vec<_>>(), Some(turn.deadline));
    turn.end(context);
    let outcomes = outcomes.into_iter().zip(&args).map(|(outcome, args)| turn.outcome(context, outcome, args));
    for (one, outcome) in prepared.into_iter().zip(outcomes.collect::<Vec<_>>()) {
        let (block, head) = (one.block, one.call.head);
        let result = one.finish(guest, outcome)?;
        guest.store(block, &CallHead { status: result, ..head })?;
    }
    Ok(true)
}

/// A call and the descriptors of its arguments, as the guest wrote them.
struct Prepared {
    block: u64,
    call: AccelCall,
    descriptors: Vec<AccelArg>,
}

/// What the host filled into an argument.
struct Output {
    dtype: Dtype,
    dims: Dims,
    written: u64,
}

impl Prepared {
    fn load(guest: &GuestView, block: u64) -> Result<Self, Cause> {
        let call: AccelCall = guest.load(BLOCK, block, true)?;
        if call.arg_count > ARGS_MAX {
            return Err(Cause::TooManyArguments { count: call.arg_count, max: ARGS_MAX });
        }
        let size = size_of::<AccelArg>() as u64;
        let table = Span { offset: call.args, len: u64::from(call.arg_count) * size };
        guest.check("the table of accelerator arguments", table, true)?;
        let load = |index| guest.load("an accelerator argument", call.args + index * size, true);
        let descriptors = (0..u64::from(call.arg_count)).map(load).collect::<Result<_, _>>()?;
        guest.check("the buffer for an error's message", call.error, true)?;
        Ok(Self { block, call, descriptors })
    }

    /// The ranges that its arguments name.
    fn arguments(&self) -> Result<Vec<Argument>, Cause> {
        self.descriptors.iter().enumerate().map(|(index, arg)| Argument::new(index, arg)).collect()
    }

    /// What the host itself reads and writes of it.
    fn kept(&self) -> [Span; 3] {
        let (block, table) = (size_of::<AccelCall>() as u64, size_of_val(&*self.descriptors) as u64);
        [
            Span { offset: self.block, len: block },
            Span { offset: self.call.args, len: table },
            Span { offset: self.call.error.offset, len: self.call.error.len.min(ERROR_MAX) },
        ]
    }

    /// Its arguments, with the next of `data` as theirs.
    fn typed<'m>(&self, data: &mut impl Iterator<Item = Data<'m>>) -> Result<Vec<Arg<'m>>, AccelError> {
        let typed = self.descriptors.iter().zip(data).map(|(descriptor, data)| {
            let rank = usize::try_from(descriptor.rank).unwrap_or(usize::MAX);
            let sizes = descriptor.dims.get(..rank).ok_or(AccelError::TooManyDims { rank })?;
            let mut arg = Arg::new(data, Dtype::from_abi(descriptor.dtype)?, Dims::new(sizes)?);
            arg.custom = descriptor.custom;
            Ok(arg)
        });
        typed.collect()
    }

    /// Tells the guest what became of it; the status of the call.
    fn finish(mut self, guest: &GuestView, outcome: Result<Vec<Output>, AccelError>) -> Result<i32, Cause> {
        let (result, message) = match outcome {
            Ok(outputs) => {
                self.write_outputs(guest, &outputs)?;
                (status::OK, String::new())
            }
            Err(error) => (error.status(), error.message()),
        };
        let room = usize::try_from(self.call.error.len.min(ERROR_MAX)).unwrap_or_default();
        let message = &message.as_bytes()[..message.floor_char_boundary(room)];
        guest.write(self.call.error.offset, message)?;
        self.call.error_len = message.len() as u64;
        guest.store(self.block, &self.call)?;
        Ok(result)
    }

    fn write_outputs(&mut self, guest: &GuestView, outputs: &[Output]) -> Result<(), Cause> {
        let mut at = self.call.args;
        for (descriptor, output) in self.descriptors.iter_mut().zip(outputs) {
            let sizes = output.dims.sizes();
            descriptor.written = output.written;
            descriptor.dtype = output.dtype.abi_number();
            descriptor.rank = u32::try_from(sizes.len()).unwrap_or_default();
            descriptor.dims[..sizes.len()].copy_from_slice(sizes);
            guest.store(at, descriptor)?;
            at += size_of::<AccelArg>() as u64;
        }
        Ok(())
    }
}

/// An invocation's turn at the accelerators.
struct Turn {
    session: Arc<Session>,
    begun: Instant,
    deadline: Instant,
}

impl Turn {
    fn begin(context: &CallContext) -> Self {
        let (session, begun) = (Arc::clone(&context.services.accel), Instant::now());
        let deadline = match context.limits.accel_time {
            Some(limit) => context.deadline.min(begun + limit.saturating_sub(context.usage.accel)),
            None => context.deadline,
        };
        Self { session, begun, deadline }
    }

    fn end(&self, context: &mut CallContext) {
        context.usage.accel += self.begun.elapsed();
    }

    /// What became of an operation: what the host wrote, or the error that the guest is told.
    fn outcome(
        &self,
        context: &mut CallContext,
        outcome: Result<Report, AccelError>,
        args: &[Arg<'_>],
    ) -> Result<Vec<Output>, AccelError> {
        context.accelerated = outcome.as_ref().ok().copied();
        let Report { bytes_copied, .. } = match (outcome, context.limits.accel_time) {
            (Err(error), Some(limit)) if error.status() == status::ETIMEDOUT && Instant::now() < context.deadline => {
                return Err(AccelError::TimeUsedUp { limit });
            }
            (outcome, _) => outcome?,
        };
        context.usage.bytes_copied += bytes_copied;
        let output = |arg: &Arg<'_>| Output { dtype: arg.dtype, dims: arg.dims, written: arg.written };
        Ok(args.iter().map(output).collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::{
        ops::Range,
        sync::{Arc, Mutex, PoisonError},
    };

    use kernlet_abi::accel::{access, dtype, operation};
    use kernlet_accel::{Answer, Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, operation::Task};
    use proptest::prelude::*;
    use zerocopy::{FromBytes as _, IntoBytes as _};

    use super::*;
    use crate::{
        MachineConfig, Unikernel,
        fuzzing::Sandbox,
        image::{DATA, Elf},
    };

    /// Where the block, the calls, their arguments, the numbers and the messages are.
    const BLOCK_AT: u64 = DATA;
    const CALLS: u64 = DATA + 0x100;
    const ARGS: u64 = DATA + 0x800;
    const NUMBERS: u64 = DATA + 0x2000;
    const MESSAGES: u64 = DATA + 0x3000;
    const CALL: u64 = size_of::<AccelCall>() as u64;
    const ARG: u64 = size_of::<AccelArg>() as u64;

    /// Adds arrays and copies them, several at once or one by one, and keeps how many it had at once.
    #[derive(Debug)]
    struct Sums {
        at_once: usize,
        had: Mutex<Vec<usize>>,
    }

    impl Sums {
        fn new(at_once: usize) -> Arc<Self> {
            Arc::new(Self { at_once, had: Mutex::default() })
        }

        fn had(&self) -> Vec<usize> {
            self.had.lock().unwrap_or_else(PoisonError::into_inner).clone()
        }
    }

    impl Plugin for Sums {
        fn name(&self) -> &'static str {
            "sums"
        }

        fn operations(&self) -> &[Operation] {
            &[Operation::FpgaVectorAdd, Operation::FpgaArrayCopy]
        }

        fn cost(&self, _: &Task<'_>) -> Cost {
            Cost::nanos(1)
        }

        fn run(&self, task: Task<'_>, _: Deadline) -> Result<Done, PluginError> {
            match task {
                Task::FpgaVectorAdd(task) => {
                    task.sum.iter_mut().zip(task.a.iter().zip(task.b)).for_each(|(sum, (a, b))| *sum = a + b);
                }
                Task::FpgaArrayCopy(task) => task.to.copy_from_slice(task.from),
                other => return Err(PluginError::NotOffered { operation: other.operation() }),
            }
            Ok(Done::default())
        }

        fn batch_max(&self) -> usize {
            self.at_once
        }

        fn run_batch(&self, tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
            self.had.lock().unwrap_or_else(PoisonError::into_inner).push(tasks.len());
            let run = |task| Answer { outcome: self.run(task, deadline), elapsed: std::time::Duration::ZERO };
            tasks.into_iter().map(run).collect()
        }
    }

    fn sandbox(plugin: Arc<Sums>) -> Sandbox {
        let unikernel = Unikernel::parse(&Elf::with_code(&[0xc3], b"data").build()).unwrap();
        let config =
            MachineConfig { memory: 8 << 20, request_limit: 0, response_limit: 0x1000, environment: Vec::new() };
        let sandbox = Sandbox::new(&unikernel, &config, Arc::new(Runtime::new(vec![plugin]).session())).unwrap();
        let numbers: Vec<f32> = (0_u8..64).map(f32::from).collect();
        sandbox.place(NUMBERS, numbers.as_bytes());
        sandbox
    }

    /// A call whose arguments are the `index`th table.
    fn call(operation: u32, index: u64, arg_count: u32) -> AccelCall {
        AccelCall {
            head: CallHead { number: number::ACCEL, status: -1 },
            operation,
            arg_count,
            args: ARGS + index * 4 * ARG,
            error: Span { offset: MESSAGES + index * 64, len: 64 },
            error_len: 0,
        }
    }

    /// Some of the numbers.
    fn numbers(range: Range<u64>, access: u32, dtype: u32) -> AccelArg {
        let data = Span { offset: NUMBERS + range.start * 4, len: (range.end - range.start) * 4 };
        AccelArg { data, access, dtype, ..AccelArg::default() }
    }

    fn sum(a: u64, b: u64, to: u64, len: u64) -> [AccelArg; 3] {
        let of = |at, access| numbers(at..at + len, access, dtype::F32);
        [of(a, access::IN), of(b, access::IN), of(to, access::OUT)]
    }

    /// Lays out sums as one batch.
    fn lay_out(sandbox: &Sandbox, sums: &[[AccelArg; 3]]) -> AccelBatch {
        for (index, args) in (0..).zip(sums) {
            sandbox.place(CALLS + index * CALL, call(operation::FPGA_VECTOR_ADD, index, 3).as_bytes());
            sandbox.place(ARGS + index * 4 * ARG, args.as_bytes());
        }
        let head = CallHead { number: number::ACCEL_BATCH, status: -1 };
        AccelBatch { head, count: u32::try_from(sums.len()).unwrap(), reserved: 0, calls: CALLS }
    }

    fn run(sandbox: &mut Sandbox, batch: &AccelBatch) -> Result<i32, Cause> {
        sandbox.place(BLOCK_AT, batch.as_bytes());
        sandbox.call(u32::try_from(BLOCK_AT).unwrap())?;
        Ok(AccelBatch::read_from_bytes(&sandbox.read(BLOCK_AT, size_of::<AccelBatch>() as u64)).unwrap().head.status)
    }

    fn status_of(sandbox: &Sandbox, index: u64) -> i32 {
        AccelCall::read_from_bytes(&sandbox.read(CALLS + index * CALL, CALL)).unwrap().head.status
    }

    fn number(sandbox: &Sandbox, index: u64) -> f32 {
        f32::read_from_bytes(&sandbox.read(NUMBERS + index * 4, 4)).unwrap()
    }

    #[test]
    fn an_operation_of_a_batch_reads_what_one_before_it_wrote() {
        for plugin in [Sums::new(1), Sums::new(8)] {
            let mut sandbox = sandbox(Arc::clone(&plugin));
            // 10 = 1 + 2; 11 = 10 + 3.
            let batch = lay_out(&sandbox, &[sum(1, 2, 10, 1), sum(10, 3, 11, 1)]);
            assert_eq!(run(&mut sandbox, &batch).unwrap(), status::OK);
            assert_eq!((number(&sandbox, 10), number(&sandbox, 11)), (3.0, 6.0));
            assert_eq!(plugin.had(), [0; 0], "they have to do with each other");
        }
    }

    #[test]
    fn operations_that_have_nothing_to_do_with_each_other_go_to_a_plugin_at_once() {
        let plugin = Sums::new(8);
        let mut sandbox = sandbox(Arc::clone(&plugin));
        // Both read the same.
        let batch = lay_out(&sandbox, &[sum(1, 2, 10, 2), sum(1, 2, 12, 2), sum(3, 3, 14, 1)]);
        assert_eq!(run(&mut sandbox, &batch).unwrap(), status::OK);
        assert_eq!([10, 11, 12, 13, 14].map(|at| number(&sandbox, at)), [3.0, 5.0, 3.0, 5.0, 6.0]);
        assert_eq!(plugin.had(), [3]);
    }

    #[test]
    fn an_operation_of_a_batch_may_write_the_arguments_of_the_next() {
        for plugin in [Sums::new(1), Sums::new(8)] {
            let mut sandbox = sandbox(plugin);
            // The first copies another table over that of the second.
            let batch = lay_out(&sandbox, &[sum(0, 0, 0, 1), sum(1, 2, 10, 1)]);
            sandbox.place(NUMBERS + 0x800, sum(5, 6, 20, 1).as_bytes());
            let copied = |offset, access| AccelArg {
                data: Span { offset, len: 3 * ARG },
                access,
                dtype: dtype::I32,
                ..AccelArg::default()
            };
            let copy = [copied(NUMBERS + 0x800, access::IN), copied(ARGS + 4 * ARG, access::OUT)];
            sandbox.place(ARGS, copy.as_bytes());
            sandbox.place(CALLS, call(operation::FPGA_ARRAY_COPY, 0, 2).as_bytes());
            assert_eq!(run(&mut sandbox, &batch).unwrap(), status::OK);
            assert_eq!((number(&sandbox, 10), number(&sandbox, 20)), (10.0, 11.0));
        }
    }

    #[test]
    fn an_operation_that_ends_the_machine_does_so_when_it_is_its_turn() {
        for plugin in [Sums::new(1), Sums::new(8)] {
            for outside in [0, 0xf000_0000, u64::MAX - 3] {
                let mut sandbox = sandbox(Arc::clone(&plugin));
                let mut wrong = sum(1, 2, 11, 1);
                wrong[1].data.offset = outside;
                let batch = lay_out(&sandbox, &[sum(1, 2, 10, 1), wrong, sum(1, 2, 12, 1)]);
                let cause = run(&mut sandbox, &batch).unwrap_err();
                assert!(matches!(cause, Cause::BadPointer { offset, .. } if offset == outside), "{cause}");
                assert_eq!([10, 11, 12].map(|at| number(&sandbox, at)), [3.0, 11.0, 12.0]);
            }
        }
    }

    #[test]
    fn a_batch_that_is_none_is_a_status() {
        for plugin in [Sums::new(1), Sums::new(8)] {
            let mut sandbox = sandbox(plugin);
            let batch = lay_out(&sandbox, &[sum(1, 2, 10, 1), sum(1, 2, 11, 1)]);
            assert_eq!(run(&mut sandbox, &AccelBatch { count: BATCH_MAX + 1, ..batch }).unwrap(), status::EINVAL);
            assert_eq!(run(&mut sandbox, &AccelBatch { reserved: 1, ..batch }).unwrap(), status::EINVAL);
            assert_eq!(number(&sandbox, 10), 10.0, "nothing is done");
            assert_eq!(run(&mut sandbox, &AccelBatch { count: 0, calls: u64::MAX, ..batch }).unwrap(), status::OK);
            let mut other = call(operation::FPGA_VECTOR_ADD, 0, 3);
            other.head.number = number::EXIT;
            sandbox.place(CALLS, other.as_bytes());
            assert_eq!(run(&mut sandbox, &batch).unwrap(), status::OK);
            assert_eq!([0, 1].map(|index| status_of(&sandbox, index)), [status::EINVAL, status::OK]);
            assert_eq!((number(&sandbox, 10), number(&sandbox, 11)), (10.0, 3.0));
            for calls in [0, NUMBERS + 3, 0xf000_0000, u64::MAX - 10] {
                let cause = run(&mut sandbox, &AccelBatch { calls, count: BATCH_MAX, ..batch });
                assert!(
                    calls == NUMBERS + 3 || matches!(cause, Err(Cause::BadPointer { .. })),
                    "{calls:#x}: {cause:?}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(256)))]

        /// Whatever the operations of a batch have to do with each other: the same as one by one, to the last byte.
        #[test]
        fn a_batch_is_as_if_its_operations_were_called_one_by_one(
            sums in proptest::collection::vec((0..12_u64, 0..12_u64, 0..40_u64, 0..4_u64, 0..3_u64), 1..6),
        ) {
            let args: Vec<_> = sums.iter().map(|(a, b, to, len, _)| sum(*a, *b, *to, *len)).collect();
            let mut ends = Vec::new();
            for at_once in [0, 1, 8] {
                let mut sandbox = sandbox(Sums::new(at_once));
                let batch = lay_out(&sandbox, &args);
                for (index, (.., shared)) in (0..).zip(&sums) {
                    // Some share their tables of arguments, or the room for their messages.
                    let own = call(operation::FPGA_VECTOR_ADD, index, 3);
                    let other = call(operation::FPGA_VECTOR_ADD, 0, 3);
                    let made = match shared {
                        1 => AccelCall { args: other.args, ..own },
                        2 => AccelCall { error: other.error, ..own },
                        _ => own,
                    };
                    sandbox.place(CALLS + index * CALL, made.as_bytes());
                }
                let end = if at_once > 0 {
                    run(&mut sandbox, &batch).map(|_| ())
                } else {
                    let calls = (0..u64::from(batch.count)).map(|index| u32::try_from(CALLS + index * CALL).unwrap());
                    calls.into_iter().try_for_each(|block| sandbox.call(block).map(|_| ()))
                };
                // All but the batch's own block.
                ends.push((end.map_err(|cause| cause.to_string()), sandbox.read(CALLS, 0x4000 - 0x100)));
            }
            prop_assert_eq!(&ends[0], &ends[1]);
            prop_assert_eq!(&ends[0], &ends[2]);
        }
    }
}
