//! One accelerator call: its arguments as descriptors, and the way to the host. Used by the operations of this module,
//! which hold the borrows of all that an argument points to until the call is over.

use alloc::string::String;

use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelCall, ERROR_MAX, access, dtype},
    hypercall::{CallHead, number, status},
};
use zerocopy::{Immutable, IntoBytes};

use super::{AccelError, Element, Input, Output};
use crate::hypercall::{self, span, span_mut};

/// Most arguments of a call, for those that take any number.
pub(super) const MOST: usize = ARGS_MAX as usize;

/// A call of an operation with at most `N` arguments.
pub(super) struct Call<const N: usize> {
    operation: u32,
    args: [AccelArg; N],
    /// How many there are, or would be if there were room for all.
    count: usize,
}

impl<const N: usize> Call<N> {
    pub(super) fn new(operation: u32) -> Self {
        Self { operation, args: [AccelArg::default(); N], count: 0 }
    }

    fn push(&mut self, data: Span, access: u32, dtype: u32) -> &mut Self {
        self.push_arg(AccelArg { data, access, dtype, ..AccelArg::default() })
    }

    pub(super) fn push_arg(&mut self, arg: AccelArg) -> &mut Self {
        if let Some(free) = self.args.get_mut(self.count) {
            *free = arg;
        }
        self.count += 1;
        self
    }

    /// A structure, or several, that the host reads.
    pub(super) fn params<T: IntoBytes + Immutable + ?Sized>(&mut self, params: &T) -> &mut Self {
        self.push(span(params.as_bytes()), access::IN, dtype::BYTES)
    }

    /// Text that the host reads.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.push(span(text.as_bytes()), access::IN, dtype::STRING)
    }

    /// Structures or bytes that the host writes.
    pub(super) fn room<T: IntoBytes + zerocopy::FromBytes>(&mut self, room: &mut [T]) -> &mut Self {
        self.push(span_mut(room.as_mut_bytes()), access::OUT, dtype::BYTES)
    }

    /// Numbers that the host reads.
    pub(super) fn input<T: Element>(&mut self, numbers: &[T]) -> &mut Self {
        self.push(span(numbers.as_bytes()), access::IN, T::DTYPE)
    }

    /// Numbers that the host writes.
    pub(super) fn output<T: Element>(&mut self, numbers: &mut [T]) -> &mut Self {
        self.push(span_mut(numbers.as_mut_bytes()), access::OUT, T::DTYPE)
    }

    /// Numbers that the host reads and writes.
    pub(super) fn in_output<T: Element>(&mut self, numbers: &mut [T]) -> &mut Self {
        self.push(span_mut(numbers.as_mut_bytes()), access::IN_OUT, T::DTYPE)
    }

    /// The tensors of one run of a model.
    pub(super) fn tensors(&mut self, inputs: &[Input<'_>], outputs: &mut [Output<'_>]) -> &mut Self {
        for input in inputs {
            self.push_arg(input.arg());
        }
        for output in outputs {
            self.push_arg(output.arg());
        }
        self
    }

    /// How many arguments there are so far.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Makes the call; the arguments then say what the host wrote.
    pub(super) fn run(&mut self) -> Result<&[AccelArg], AccelError> {
        let count = self.count;
        let Some(args) = self.args.get_mut(..count) else {
            return Err(AccelError::invalid(alloc::format!(
                "the operation got {count} arguments; the most is {ARGS_MAX}"
            )));
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
        if call.head.status == status::OK {
            return Ok(args);
        }
        let text = message.get(..call.error_len as usize).unwrap_or_default();
        Err(AccelError { status: call.head.status, message: String::from_utf8_lossy(text).into_owned() })
    }
}
