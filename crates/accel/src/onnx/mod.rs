//! What is to be known of ONNX models before a plugin sees them: whether bytes are one, so that it can be loaded before the
//! first request, and whether it is complete in itself.
//! Called by resources and plugins. Never trusts a length, and never follows a reference; loading is a plugin's work.

mod flow;
mod guard;

pub use flow::{Flow, Operator, flow};
pub use guard::{Refused, check};

/// Field numbers and wire types of `ModelProto`, as onnx.proto (IR version 13) has them.
const GRAPH: u64 = 7;
const VARINT: u64 = 0;
const DELIMITED: u64 = 2;

/// Whether `bytes` are, field by field to the end, an ONNX `ModelProto` with a graph.
pub(crate) fn has_model_outline(mut bytes: &[u8]) -> bool {
    let mut has_graph = false;
    while !bytes.is_empty() {
        let Some(field) = take_field(&mut bytes) else {
            return false;
        };
        has_graph |= field == GRAPH;
    }
    has_graph
}

/// Skips one field of `ModelProto` and says which; `None` when it is none or cut short.
fn take_field(bytes: &mut &[u8]) -> Option<u64> {
    let tag = take_varint(bytes)?;
    let field = tag >> 3;
    match (field, tag & 7) {
        // ir_version, model_version
        (1 | 5, VARINT) => {
            take_varint(bytes)?;
        }
        // producer_name, producer_version, domain, doc_string, graph, opset_import, metadata_props,
        // training_info, functions, configuration
        (2..=4 | 6..=8 | 14 | 20 | 25 | 26, DELIMITED) => {
            let len = usize::try_from(take_varint(bytes)?).ok()?;
            *bytes = bytes.get(len..)?;
        }
        _ => return None,
    }
    Some(field)
}

/// Takes a base-128 number of at most ten bytes, as protobuf has them; `None` when it is longer or cut short.
fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
