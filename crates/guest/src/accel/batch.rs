//! Several operations in one call of the host. Used by functions with operations so short that the way to the host
//! counts: it is gone once for all of them. The operations' own modules have the methods.

use alloc::{boxed::Box, vec, vec::Vec};
use core::{fmt, marker::PhantomData, mem::size_of};

use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelBatch, AccelCall, BATCH_MAX, access, dtype, operation},
    hypercall::{CallHead, number, status},
};
use zerocopy::{Immutable, IntoBytes};

use super::{
    AccelError,
    call::{self, Arguments},
};
use crate::hypercall::{self, span, span_mut};

/// Longest message that an operation of a batch gets, in bytes.
const MESSAGE_MAX: usize = 256;

/// Operations that the host is asked for together. It carries them out in their order, each as if it were alone: one that
/// fails keeps no other from being done.
///
/// ```ignore
/// let mut batch = accel::batch();
/// for (a, c) in rows.iter().zip(&mut results) {
///     batch.sgemm(&params, a, &weights, c);
/// }
/// batch.run().into_iter().collect::<Result<(), _>>()?;
/// ```
#[must_use = "nothing is done until it is run"]
#[derive(Default)]
pub struct Batch<'a> {
    operations: Vec<Asked<'a>>,
    args: Vec<AccelArg>,
    /// Parameters, one after the other.
    params: Vec<u8>,
    /// The arguments that are parameters: their offsets count from the start of those.
    own: Vec<usize>,
    _data: PhantomData<&'a mut [u8]>,
}

/// What is to be done with an operation's arguments once they say what the host wrote.
type Then<'a> = Box<dyn FnOnce(&[AccelArg]) + 'a>;

struct Asked<'a> {
    operation: u32,
    first: usize,
    count: usize,
    then: Option<Then<'a>>,
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("operations", &self.operations.len()).finish_non_exhaustive()
    }
}

/// Operations to be carried out together.
pub fn batch<'a>() -> Batch<'a> {
    Batch::default()
}

impl<'a> Batch<'a> {
    /// How many operations there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// As [`super::noop`].
    pub fn noop(&mut self) -> &mut Self {
        self.begin(operation::NOOP)
    }

    /// One more operation, whose arguments follow.
    pub(super) fn begin(&mut self, operation: u32) -> &mut Self {
        self.operations.push(Asked { operation, first: self.args.len(), count: 0, then: None });
        self
    }

    /// What the last operation's arguments are for, once it is done.
    pub(super) fn then(&mut self, then: impl FnOnce(&[AccelArg]) + 'a) -> &mut Self {
        if let Some(asked) = self.operations.last_mut() {
            asked.then = Some(Box::new(then));
        }
        self
    }

    /// Carries them out, 256 at a time, and says of each what became of it.
    pub fn run(mut self) -> Vec<Result<(), AccelError>> {
        let params = span(&self.params).offset;
        for index in &self.own {
            if let Some(arg) = self.args.get_mut(*index) {
                arg.data.offset += params;
            }
        }
        let mut messages = vec![[0; MESSAGE_MAX]; self.operations.len()];
        let args = self.args.as_mut_ptr().expose_provenance() as u64;
        let call = |(asked, message): (&Asked<'a>, &mut [u8; MESSAGE_MAX])| AccelCall {
            // Until the host says what it is.
            head: CallHead { number: number::ACCEL, status: status::EIO },
            operation: asked.operation,
            arg_count: asked.count as u32,
            args: args + (asked.first * size_of::<AccelArg>()) as u64,
            error: span_mut(message),
            error_len: 0,
        };
        let fit = self.operations.iter().zip(&mut messages).filter(|(asked, _)| asked.fits());
        let mut calls: Vec<AccelCall> = fit.map(call).collect();
        for calls in calls.chunks_mut(BATCH_MAX as usize) {
            ask(calls);
        }
        let mut calls = calls.iter();
        let outcome = |(asked, message): (Asked<'a>, &[u8; MESSAGE_MAX])| {
            if !asked.fits() {
                return Err(call::too_many(asked.count));
            }
            calls.next().map_or(Ok(()), |call| call::outcome(call, message))?;
            if let Some(then) = asked.then {
                then(self.args.get(asked.first..asked.first + asked.count).unwrap_or_default());
            }
            Ok(())
        };
        self.operations.into_iter().zip(&messages).map(outcome).collect()
    }
}

impl Asked<'_> {
    const fn fits(&self) -> bool {
        self.count <= ARGS_MAX as usize
    }
}

/// Makes the call; each operation's own has its outcome then.
fn ask(calls: &mut [AccelCall]) {
    let mut batch = AccelBatch {
        head: CallHead { number: number::ACCEL_BATCH, status: 0 },
        count: calls.len() as u32,
        reserved: 0,
        calls: calls.as_mut_ptr().expose_provenance() as u64,
    };
    hypercall::call(&mut batch);
}

impl Arguments for Batch<'_> {
    fn push_arg(&mut self, arg: AccelArg) -> &mut Self {
        self.args.push(arg);
        if let Some(asked) = self.operations.last_mut() {
            asked.count += 1;
        }
        self
    }

    fn params<T: IntoBytes + Immutable>(&mut self, params: &T) -> &mut Self {
        self.own.push(self.args.len());
        let data = Span { offset: self.params.len() as u64, len: size_of::<T>() as u64 };
        self.params.extend_from_slice(params.as_bytes());
        self.push_arg(AccelArg { data, access: access::IN, dtype: dtype::BYTES, ..AccelArg::default() })
    }
}
