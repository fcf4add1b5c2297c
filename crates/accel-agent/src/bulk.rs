//! The bytes of a call's arguments at the agent: lent from shared memory, or received.
//! Made by connections, used by whoever runs the call. Never believes a length, an offset or a type before its check, and
//! copies first what somebody will parse.

use std::{io, sync::Arc};

use kernlet_abi::accel::{access, operation};
use kernlet_accel::{Arg, Data, Dims, Dtype};
use zerocopy::IntoBytes;

use crate::{
    link::Inbox,
    memory::{Access, Lease, Loan, SharedMemory},
    ring::PAYLOAD,
    wire::{ArgBody, ArgResult, Call},
};

/// What is shorter is copied whatever it is: parameters and single values, which decide over sizes.
const SMALL: usize = 64;

/// What is wrong with an argument of a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BulkError {
    #[error("argument {0} has an access that there is not")]
    Access(usize),
    #[error("argument {0} has an element type that there is not")]
    Dtype(usize),
    #[error("argument {0} has more dimensions than a tensor may have")]
    Rank(usize),
    #[error("argument {0} lies outside of the memory that is shared")]
    Outside(usize),
    #[error("a range that is written overlaps another one, of this call or of one that is under way")]
    Overlap,
    #[error("the arguments have {got} bytes together; the most is {max}")]
    TooLarge {
        /// What they have.
        got: u64,
        /// What a connection may have under way.
        max: u64,
    },
    #[error("the arguments cannot be received")]
    Receive(#[from] io::Error),
}

/// Bytes that begin where any element may.
#[derive(Debug, Default)]
pub(crate) struct AlignedBytes {
    words: Vec<u64>,
    len: usize,
}

impl AlignedBytes {
    pub(crate) fn zeroed(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(8)], len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.words.as_bytes().get(..self.len).unwrap_or_default()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        self.words.as_mut_bytes().get_mut(..self.len).unwrap_or_default()
    }
}

/// An argument that was looked at.
#[derive(Clone, Copy, Debug)]
struct Checked {
    access: Access,
    dtype: Dtype,
    dims: Dims,
    custom: u32,
    offset: u64,
    len: u64,
}

fn check(call: &Call) -> Result<Vec<Checked>, BulkError> {
    let check = |(index, arg): (usize, &ArgBody)| {
        let access = match arg.access.get() {
            access::IN => Access::In,
            access::OUT => Access::Out,
            access::IN_OUT => Access::InOut,
            _ => return Err(BulkError::Access(index)),
        };
        let dtype = Dtype::from_abi(arg.result.dtype.get()).map_err(|_| BulkError::Dtype(index))?;
        let shape = arg.result.shape().ok_or(BulkError::Rank(index))?;
        let dims = Dims::new(&shape).map_err(|_| BulkError::Rank(index))?;
        let (offset, len) = (arg.offset.get(), arg.len.get());
        Ok(Checked { access, dtype, dims, custom: arg.custom.get(), offset, len })
    };
    call.args.iter().enumerate().map(check).collect()
}

/// Bytes of all arguments; `None` beyond 64 bits.
pub(crate) fn size(call: &Call) -> Option<u64> {
    call.args.iter().try_fold(0_u64, |sum, arg| sum.checked_add(arg.len.get()))
}

/// Where the bytes of each argument are.
#[derive(Debug)]
enum Place {
    /// In memory of our own.
    Own(AlignedBytes),
    /// In shared memory; the next range of the loan.
    Lent,
}

/// The arguments of a call.
#[derive(Debug)]
pub(crate) struct Bulk {
    checked: Vec<Checked>,
    places: Vec<Place>,
    loan: Option<Loan>,
    /// Bytes that were copied on the way here; what came on a stream is counted by its sender.
    pub(crate) copied: u64,
}

/// Whether bytes are numbers in bulk, of which nobody takes a length or an index.
const fn is_numbers(dtype: Dtype) -> bool {
    matches!(
        dtype,
        Dtype::F16
            | Dtype::Bf16
            | Dtype::F32
            | Dtype::F64
            | Dtype::I8
            | Dtype::I16
            | Dtype::I32
            | Dtype::I64
            | Dtype::U8
            | Dtype::U16
            | Dtype::U32
            | Dtype::U64
    )
}

impl Bulk {
    /// Arguments in shared memory. Numbers in bulk stay there; everything else is copied, and written back from the copy,
    /// so that who parses it sees it stand still.
    pub(crate) fn lend(memory: &Arc<SharedMemory>, call: &Call) -> Result<Self, BulkError> {
        let checked = check(call)?;
        // Somebody else's code, which may take anything for a length.
        let foreign = matches!(call.head.operation.get(), operation::EXEC | operation::EXEC_WITH_RESOURCE);
        let (mut places, mut leases, mut copied) = (Vec::new(), Vec::new(), 0);
        for (index, arg) in checked.iter().enumerate() {
            let outside = || BulkError::Outside(index);
            let start = usize::try_from(arg.offset).map_err(|_| outside())?;
            let len = usize::try_from(arg.len).map_err(|_| outside())?;
            let end = start.checked_add(len).ok_or_else(outside)?;
            if len > 0 && (start < PAYLOAD || end > memory.len()) {
                return Err(outside());
            }
            if len == 0 || (is_numbers(arg.dtype) && len > SMALL && !foreign) {
                let range = if len == 0 { 0..0 } else { start..end };
                leases.push(Lease { range, access: arg.access });
                places.push(Place::Lent);
                continue;
            }
            let mut own = AlignedBytes::zeroed(len);
            if arg.access != Access::Out {
                memory.read(start, own.bytes_mut()).ok_or_else(outside)?;
            }
            copied += arg.len;
            places.push(Place::Own(own));
        }
        let loan = memory.lend(leases).ok_or(BulkError::Overlap)?;
        Ok(Self { checked, places, loan: Some(loan), copied })
    }

    /// Arguments that follow on a stream, `max` bytes at most.
    pub(crate) fn receive(inbox: &mut Inbox, call: &Call, max: u64) -> Result<Self, BulkError> {
        let got = size(call).unwrap_or(u64::MAX);
        if got > max {
            return Err(BulkError::TooLarge { got, max });
        }
        let checked = check(call)?;
        let mut places = Vec::new();
        for arg in &checked {
            let mut own = AlignedBytes::zeroed(usize::try_from(arg.len).unwrap_or(0));
            if arg.access != Access::Out {
                inbox.exact(own.bytes_mut())?;
            }
            places.push(Place::Own(own));
        }
        Ok(Self { checked, places, loan: None, copied: 0 })
    }

    /// Runs something on the arguments, and says what became of each.
    pub(crate) fn run<T>(&mut self, run: impl FnOnce(&mut [Arg<'_>]) -> T) -> (T, Vec<ArgResult>) {
        let Self { checked, places, loan, .. } = self;
        let mut lent = loan.as_mut().map(Loan::data).unwrap_or_default().into_iter();
        let data = checked.iter().zip(places).map(|(arg, place)| match place {
            Place::Lent => lent.next().unwrap_or(Data::In(&[])),
            Place::Own(own) => match arg.access {
                Access::In => Data::In(own.bytes()),
                Access::Out => Data::Out(own.bytes_mut()),
                Access::InOut => Data::InOut(own.bytes_mut()),
            },
        });
        let mut args = Vec::with_capacity(checked.len());
        for (checked, data) in checked.iter().zip(data) {
            args.push(Arg { custom: checked.custom, ..Arg::new(data, checked.dtype, checked.dims) });
        }
        let outcome = run(&mut args);
        let result = |arg: &Arg<'_>| {
            let written = arg.written.min(arg.data.len() as u64);
            ArgResult::new(written, arg.dtype.abi_number(), arg.dims.sizes())
        };
        (outcome, args.iter().map(result).collect())
    }

    /// Puts what was written to copies where the client looks for it; then gives the ranges back.
    pub(crate) fn write_back(mut self, memory: &SharedMemory, results: &[ArgResult]) {
        for ((arg, place), result) in self.checked.iter().zip(&self.places).zip(results) {
            if let (Place::Own(own), true) = (place, arg.access != Access::In) {
                let written = written(own, arg.access, result);
                // It was checked when it was lent.
                let _ = usize::try_from(arg.offset).ok().and_then(|at| memory.write(at, written));
            }
        }
        self.loan = None;
    }

    /// What was written, argument by argument, to be sent.
    pub(crate) fn outputs(&self, results: &[ArgResult]) -> Vec<&[u8]> {
        let mut outputs = Vec::new();
        for ((arg, place), result) in self.checked.iter().zip(&self.places).zip(results) {
            if let (Place::Own(own), true) = (place, arg.access != Access::In) {
                outputs.push(written(own, Access::Out, result));
            }
        }
        outputs
    }
}

/// The part of an output that was written. Of what was read and written, that is all of it in shared memory.
fn written<'a>(own: &'a AlignedBytes, access: Access, result: &ArgResult) -> &'a [u8] {
    let bytes = own.bytes();
    if access == Access::InOut {
        return bytes;
    }
    let written = usize::try_from(result.written.get()).unwrap_or(usize::MAX);
    bytes.get(..written).unwrap_or(bytes)
}
