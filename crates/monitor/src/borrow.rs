//! The one place where guest memory becomes a slice: the arguments of an accelerator call. Used by the
//! hypercalls only. It hands out nothing that the layout does not allow the guest itself to use that way.

use kernlet_abi::{
    Span,
    accel::{AccelArg, access},
};
use kernlet_accel::Data;

use crate::{crash::Cause, layout::Layout, memory::GuestMemory};

/// How the host uses a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    In,
    Out,
    InOut,
}

/// A range that an accelerator call names, and how the host will use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Argument {
    span: Span,
    access: Access,
}

impl Argument {
    /// Reads what the guest wrote of argument `index`.
    pub(crate) fn new(index: usize, argument: &AccelArg) -> Result<Self, Cause> {
        let access = match argument.access {
            access::IN => Access::In,
            access::OUT => Access::Out,
            access::IN_OUT => Access::InOut,
            access => return Err(Cause::UnknownAccess { index, access }),
        };
        Ok(Self { span: argument.data, access })
    }

    fn is_written(&self) -> bool {
        self.access != Access::In
    }

    fn overlaps(&self, other: &Self) -> bool {
        let end = |span: Span| span.offset.saturating_add(span.len);
        self.span.len > 0
            && other.span.len > 0
            && self.span.offset < end(other.span)
            && other.span.offset < end(self.span)
    }
}

/// Arguments that were checked against one machine's layout and against each other.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    arguments: &'a [Argument],
}

/// Checks that the guest may use each range as it says, and that no written range overlaps another.
pub(crate) fn check<'a>(layout: &Layout, arguments: &'a [Argument]) -> Result<Checked<'a>, Cause> {
    for (second, argument) in arguments.iter().enumerate() {
        let write = argument.is_written();
        if !layout.allows(argument.span, write) {
            let Span { offset, len } = argument.span;
            return Err(Cause::BadPointer { what: "an accelerator argument", offset, len, write });
        }
        let clash = |other: &Argument| (write || other.is_written()) && other.overlaps(argument);
        if let Some(first) = arguments[..second].iter().position(clash) {
            return Err(Cause::OverlappingArguments { first, second });
        }
    }
    Ok(Checked { arguments })
}

/// Checks the ranges of several calls that are carried out at once: `None` where the guest may not use one as it says, or
/// where a range that is written overlaps any other one or one of `kept`, of which no two may overlap either.
pub(crate) fn check_apart<'a>(layout: &Layout, arguments: &'a [Argument], kept: &[Span]) -> Option<Checked<'a>> {
    if !arguments.iter().all(|argument| layout.allows(argument.span, argument.is_written())) {
        return None;
    }
    let used = arguments.iter().map(|argument| (argument.span, argument.is_written()));
    let mut ranges: Vec<(Span, bool)> = used.chain(kept.iter().map(|span| (*span, true))).collect();
    ranges.retain(|(span, _)| span.len > 0);
    ranges.sort_unstable_by_key(|(span, _)| span.offset);
    // By their starts: one overlaps an earlier one exactly if it begins before the end of those so far.
    let (mut end, mut written_to) = (0, 0);
    for (span, written) in ranges {
        if span.offset < if written { end } else { written_to } {
            return None;
        }
        let ends = span.offset.saturating_add(span.len);
        end = end.max(ends);
        if written {
            written_to = written_to.max(ends);
        }
    }
    Some(Checked { arguments })
}

/// Lends the ranges as slices, for as long as the machine's memory is borrowed exclusively.
pub(crate) fn lend<'m>(memory: &'m mut GuestMemory, checked: &Checked<'_>) -> Result<Vec<Data<'m>>, Cause> {
    checked.arguments.iter().map(|argument| lend_one(memory, *argument)).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "the length is within the mapping, on a 64-bit host")]
fn lend_one<'m>(memory: &GuestMemory, argument: Argument) -> Result<Data<'m>, Cause> {
    let Argument { span, access } = argument;
    if span.len == 0 {
        return Ok(match access {
            Access::In => Data::In(&[]),
            Access::Out => Data::Out(&mut []),
            Access::InOut => Data::InOut(&mut []),
        });
    }
    let (offset, len) = (span.offset, span.len);
    let write = argument.is_written();
    let pointer = if write { memory.pointer_for_writing(span) } else { memory.pointer(span) };
    let pointer =
        pointer.map_err(|_| Cause::BadPointer { what: "an accelerator argument", offset, len, write })?.as_ptr();
    let len = len as usize;
    // SAFETY, for the slices below: `pointer` is valid for `len` bytes inside the mapping, which `lend`
    // borrows exclusively for 'm, so the host makes no other access. The guest makes none: the machine has one
    // vCPU, which is stopped in this very call, and no device. All bit patterns are valid bytes, and mapped
    // memory is initialised. `check` and `check_apart` made sure that a written range overlaps no other that is lent.
    Ok(match access {
        // SAFETY: see above.
        Access::In => Data::In(unsafe { std::slice::from_raw_parts(pointer, len) }),
        // SAFETY: see above.
        Access::Out => Data::Out(unsafe { std::slice::from_raw_parts_mut(pointer, len) }),
        // SAFETY: see above.
        Access::InOut => Data::InOut(unsafe { std::slice::from_raw_parts_mut(pointer, len) }),
    })
}
