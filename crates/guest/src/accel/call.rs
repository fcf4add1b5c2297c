//! Accelerator calls: their arguments as descriptors, and the way to the host. Used by the operations of this module,
//! which hold the borrows of all that an argument points to until the call is over.

use alloc::string::String;
use core::mem::size_of;

use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelCall, ERROR_MAX, SgemmParams, access, dtype},
    hypercall::{CallHead, number, status},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{AccelError, Element, Input, Output};
use crate::hypercall::{self, span, span_mut};

/// Most arguments of a call, for those that take any number.
pub(super) const MOST: usize = ARGS_MAX as usize;

/// Largest parameters of an operation, in bytes. No operation has more than one structure of them.
const PARAMS_MAX: usize = size_of::<SgemmParams>();

/// What takes the arguments of an operation: a call, or one of a batch.
pub(super) trait Arguments: Sized {
    /// One more argument.
    fn push_arg(&mut self, arg: AccelArg) -> &mut Self;

    /// A structure that the host reads, which need not outlive this.
    fn params<T: IntoBytes + Immutable>(&mut self, params: &T) -> &mut Self;

    fn push(&mut self, data: Span, access: u32, dtype: u32) -> &mut Self {
        self.push_arg(AccelArg { data, access, dtype, ..AccelArg::default() })
    }

    /// Bytes that the host reads.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.push(span(bytes), access::IN, dtype::BYTES)
    }

    /// Text that the host reads.
    fn text(&mut self, text: &str) -> &mut Self {
        self.push(span(text.as_bytes()), access::IN, dtype::STRING)
    }

    /// Structures or bytes that the host writes.
    fn room<T: IntoBytes + FromBytes>(&mut self, room: &mut [T]) -> &mut Self {
        self.push(span_mut(room.as_mut_bytes()), access::OUT, dtype::BYTES)
    }

    /// Numbers that the host reads.
    fn input<T: Element>(&mut self, numbers: &[T]) -> &mut Self {
        self.push(span(numbers.as_bytes()), access::IN, T::DTYPE)
    }

    /// Numbers that the host writes.
    fn output<T: Element>(&mut self, numbers: &mut [T]) -> &mut Self {
        self.push(span_mut(numbers.as_mut_bytes()), access::OUT, T::DTYPE)
    }

    /// Numbers that the host reads and writes.
    fn in_output<T: Element>(&mut self, numbers: &mut [T]) -> &mut Self {
        self.push(span_mut(numbers.as_mut_bytes()), access::IN_OUT, T::DTYPE)
    }

    /// The tensors of one run of a model.
    fn tensors(&mut self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> &mut Self {
        for input in inputs {
            self.push_arg(input.arg());
        }
        for output in outputs {
            self.push_arg(output.arg());
        }
        self
    }
}

/// A call of an operation with at most `N` arguments.
pub(super) struct Call<const N: usize> {
    operation: u32,
    args: [AccelArg; N],
    /// How many there are, or would be if there were room for all.
    count: usize,
    params: [u8; PARAMS_MAX],
    /// The argument that is the parameters.
    own: Option<usize>,
}

impl<const N: usize> Call<N> {
    pub(super) fn new(operation: u32) -> Self {
        Self { operation, args: [AccelArg::default(); N], count: 0, params: [0; PARAMS_MAX], own: None }
    }

    /// How many arguments there are so far.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Makes the call, while all that its arguments point to is still there; they then say what the host wrote.
    pub(super) fn run(&mut self) -> Result<&[AccelArg], AccelError> {
        let count = self.count;
        if let Some(arg) = self.own.and_then(|index| self.args.get_mut(index)) {
            // Now that they move no more.
            arg.data.offset = span(&self.params).offset;
        }
        let Some(args) = self.args.get_mut(..count) else {
            return Err(too_many(count));
        };
        let mut message = [0; ERROR_MAX as usize];
        let mut call = AccelCall {
            head: CallHead { number: number::ACCEL, status: 0 },
            operation: self.operation,
            arg_count: count as u32,
            args: args.as_mut_ptr().expose_provenance() as u64,
            error: span_mut(&mut message),
            error_len: 0,
        };
        hypercall::call(&mut call);
        outcome(&call, &message).map(|()| &*args)
    }
}

impl<const N: usize> Arguments for Call<N> {
    fn push_arg(&mut self, arg: AccelArg) -> &mut Self {
        if let Some(free) = self.args.get_mut(self.count) {
            *free = arg;
        }
        self.count += 1;
        self
    }

    fn params<T: IntoBytes + Immutable>(&mut self, params: &T) -> &mut Self {
        const { assert!(size_of::<T>() <= PARAMS_MAX) };
        let room = &mut self.params[..size_of::<T>()];
        room.copy_from_slice(params.as_bytes());
        let data = span(room);
        self.own = Some(self.count);
        self.push(data, access::IN, dtype::BYTES)
    }
}

/// What the host says of a call whose message is here.
pub(super) fn outcome(call: &AccelCall, message: &[u8]) -> Result<(), AccelError> {
    if call.head.status == status::OK {
        return Ok(());
    }
    let text = message.get(..call.error_len as usize).unwrap_or_default();
    Err(AccelError { status: call.head.status, message: String::from_utf8_lossy(text).into_owned() })
}

pub(super) fn too_many(count: usize) -> AccelError {
    AccelError::invalid(alloc::format!("the operation got {count} arguments; the most is {ARGS_MAX}"))
}
