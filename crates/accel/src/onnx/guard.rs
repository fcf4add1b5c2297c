//! Reads a model's protobuf as far as it may refer to something outside of it, before ONNX Runtime sees it.
//! Called once a model. Never follows a reference, and never trusts a length: what is not plainly a model is refused.
//!
//! ONNX Runtime opens the files that tensors with external data name. A resource is bytes in memory, beside which
//! there is no folder, so that such a name could only mean a file of the host's.

use super::take_varint;

/// Nested messages deeper than this are refused, as protobuf's own parser does beyond 100.
const DEPTH_MAX: u32 = 64;

/// What is wrong with a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no protobuf, or ends too early.
    #[error("it is no ONNX model, or not a whole one")]
    Malformed,
    /// It nests too deeply.
    #[error("its graphs are nested more than {DEPTH_MAX} deep")]
    TooDeep,
    /// It has tensors in other files.
    #[error("it keeps tensors in files beside it (external data); save it as one file")]
    ExternalData,
    /// It has operators that load compiled code or caches from files.
    #[error("it has an operator EPContext, which refers to a compiled model elsewhere; export it without")]
    CompiledElsewhere,
}

/// Messages of onnx.proto (IR version 13), as far as tensors can be below them.
#[derive(Clone, Copy, Debug)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

impl Message {
    /// The message in a field of this one, if tensors can be in it.
    const fn child(self, field: u64) -> Option<Self> {
        Some(match (self, field) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Self::Tensor,
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            _ => return None,
        })
    }
}

/// Lets a model pass that is complete in itself.
///
/// # Errors
/// [`Refused`] says what it lacks, or refers to.
pub fn check(model: &[u8]) -> Result<(), Refused> {
    walk(Message::Model, model, 0)
}

fn walk(message: Message, mut bytes: &[u8], depth: u32) -> Result<(), Refused> {
    if depth > DEPTH_MAX {
        return Err(Refused::TooDeep);
    }
    while !bytes.is_empty() {
        let (field, value) = take_field(&mut bytes).ok_or(Refused::Malformed)?;
        match (message, field, value) {
            // external_data, and data_location, of which only DEFAULT = 0 is here.
            (Message::Tensor, 13, _) => return Err(Refused::ExternalData),
            (Message::Tensor, 14, Value::Number(location)) if location != 0 => return Err(Refused::ExternalData),
            (Message::Node, 4, Value::Bytes(b"EPContext")) => return Err(Refused::CompiledElsewhere),
            (_, _, Value::Bytes(content)) => {
                if let Some(child) = message.child(field) {
                    walk(child, content, depth + 1)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed,
}

/// Takes one field; `None` when it is cut short or of a kind that ONNX does not use.
pub(super) fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = take_varint(bytes)?;
    let value = match tag & 7 {
        0 => Value::Number(take_varint(bytes)?),
        1 => take(bytes, 8).map(|_| Value::Fixed)?,
        2 => {
            let len = usize::try_from(take_varint(bytes)?).ok()?;
            Value::Bytes(take(bytes, len)?)
        }
        5 => take(bytes, 4).map(|_| Value::Fixed)?,
        // Groups.
        _ => return None,
    };
    // Field numbers have 29 bits; a parser that cut a longer one would see another field than this one does.
    (1..1 << 29).contains(&(tag >> 3)).then_some((tag >> 3, value))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
            value >>= 7;
        }
        bytes.push(u8::try_from(value).unwrap());
        bytes
    }

    fn message(path: &[usize], innermost: &[u8]) -> Vec<u8> {
        path.iter().rev().fold(innermost.to_vec(), |content, field| {
            [varint(field << 3 | 2), varint(content.len()), content].concat()
        })
    }

    #[test]
    fn external_data_is_found_wherever_a_tensor_may_be() {
        // data_location = EXTERNAL, and a key without it.
        for tensor in [&[14 << 3, 1][..], &[13 << 3 | 2, 0]] {
            for path in [
                &[7, 5][..],       // initializer
                &[7, 15, 1],       // sparse initializer's values
                &[7, 15, 2],       // and indices
                &[7, 1, 5, 5],     // a node's tensor
                &[7, 1, 5, 10],    // of several
                &[7, 1, 5, 22, 1], // sparse
                &[7, 1, 5, 6, 5],  // in a branch of If
                &[7, 1, 5, 11, 1, 5, 6, 5],
                &[20, 1, 5],    // training
                &[25, 7, 5, 5], // a function's node
                &[25, 11, 5],   // a default of a function's attribute
            ] {
                assert_eq!(check(&message(path, tensor)), Err(Refused::ExternalData), "{path:?}");
            }
        }
        assert_eq!(check(&message(&[7, 5], &[14 << 3, 0])), Ok(()));
        assert_eq!(check(&message(&[7, 1, 4], b"EPContext")), Err(Refused::CompiledElsewhere));
    }

    #[test]
    fn what_is_cut_short_or_nested_without_end_is_refused() {
        let whole = message(&[7, 5], &[14 << 3, 0]);
        for len in 1..whole.len() {
            assert_eq!(check(&whole[..len]), Err(Refused::Malformed), "{len}");
        }
        let deep = std::iter::once(7).chain([1, 5, 6].into_iter().cycle().take(300)).collect::<Vec<_>>();
        assert_eq!(check(&message(&deep, &[])), Err(Refused::TooDeep));
        assert_eq!(check(&[7 << 3 | 3]), Err(Refused::Malformed));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_checked_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = check(&bytes);
        }
    }
}
