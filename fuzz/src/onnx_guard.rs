//! What inspects ONNX models before plugins see them: a function or its image brings the bytes.

use kernlet_accel::onnx::{Refused, check, flow};

/// Looks at any bytes as a model.
///
/// # Panics
/// When one that passes no longer does behind itself (protobuf merges such), or passes although it is given a tensor that
/// lies in another file.
pub fn onnx_guard(data: &[u8]) {
    let values = flow(data);
    if check(data).is_err() {
        return;
    }
    assert_eq!(check(&[data, data].concat()), Ok(()), "one model behind the other is a model");
    if let (Some(once), Some(twice)) = (values, flow(&[data, data].concat())) {
        assert_eq!(twice.operators.len(), 2 * once.operators.len());
    }
    // data_location = EXTERNAL, and external_data with an empty entry, of an initializer of the graph.
    for tensor in [&[0x70, 1][..], &[0x6a, 0]] {
        let elsewhere = [data, &field(7, &field(5, tensor))].concat();
        assert_eq!(check(&elsewhere), Err(Refused::ExternalData));
    }
    // The operator's name in a node of the graph.
    let compiled = [data, &field(7, &field(1, &field(4, b"EPContext")))].concat();
    assert_eq!(check(&compiled), Err(Refused::CompiledElsewhere));
}

/// A field of bytes.
pub(crate) fn field(number: usize, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len()), content.to_vec()].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    bytes.push(value.to_le_bytes()[0]);
    bytes
}
