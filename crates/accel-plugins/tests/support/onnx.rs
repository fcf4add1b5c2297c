//! Small ONNX models, written byte by byte; field numbers are those of onnx.proto.
//! Used by the tests of several crates. Never checks that a model makes sense: some of them must not.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

pub(crate) const FLOAT: u64 = 1;
pub(crate) const INT32: u64 = 6;
pub(crate) const INT64: u64 = 7;
pub(crate) const BOOL: u64 = 9;

/// A dimension: fixed, or with a name.
#[derive(Clone, Copy)]
pub(crate) enum Dim {
    Fixed(u64),
    Named(&'static str),
}

pub(crate) fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub(crate) fn bytes(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [varint(field << 3 | 2), varint(u64::try_from(content.len()).unwrap()), content.to_vec()].concat()
}

pub(crate) fn value(name: &str, dtype: u64, dims: &[Dim]) -> Vec<u8> {
    let dims: Vec<u8> = dims
        .iter()
        .flat_map(|dim| match dim {
            Dim::Fixed(size) => bytes(1, number(1, *size)),
            Dim::Named(name) => bytes(1, bytes(2, name)),
        })
        .collect();
    let tensor = [number(1, dtype), bytes(2, dims)].concat();
    [bytes(1, name), bytes(2, bytes(1, tensor))].concat()
}

pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[u8]) -> Vec<u8> {
    let inputs = inputs.iter().flat_map(|name| bytes(1, name));
    let outputs = outputs.iter().flat_map(|name| bytes(2, name));
    inputs.chain(outputs).chain(bytes(4, op)).chain(attributes.to_vec()).collect()
}

pub(crate) fn model(nodes: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>], initializers: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 8), bytes(7, graph(nodes, inputs, outputs, initializers)), bytes(8, number(2, 13))].concat()
}

fn graph(nodes: &[Vec<u8>], inputs: &[Vec<u8>], outputs: &[Vec<u8>], initializers: &[Vec<u8>]) -> Vec<u8> {
    let mut graph = Vec::new();
    for node in nodes {
        graph.extend(bytes(1, node));
    }
    graph.extend(bytes(2, "graph"));
    for (field, values) in [(5, initializers), (11, inputs), (12, outputs)] {
        for value in values {
            graph.extend(bytes(field, value));
        }
    }
    graph
}

/// A loop that hands `from` from round to round and never ends.
pub(crate) fn endless(from: &str, to: &str) -> Vec<u8> {
    let nodes = [node("Identity", &["on"], &["still"], &[]), node("Relu", &["v"], &["w"], &[])];
    let values = |names: [(&str, u64); 2]| names.map(|(name, dtype)| value(name, dtype, &[]));
    let inputs = [vec![value("round", INT64, &[])], values([("on", BOOL), ("v", FLOAT)]).to_vec()].concat();
    let body = graph(&nodes, &inputs, &values([("still", BOOL), ("w", FLOAT)]), &[]);
    let attribute = [bytes(1, "body"), bytes(6, body), number(20, 5)].concat();
    node("Loop", &["", "", from], &[to], &bytes(5, attribute))
}

/// One operator with one input and one output.
pub(crate) fn unary(op: &str, dtype: u64, input: &[Dim], output: &[Dim]) -> Vec<u8> {
    let nodes = [node(op, &["x"], &["y"], &[])];
    model(&nodes, &[value("x", dtype, input)], &[value("y", dtype, output)], &[])
}

/// A classifier of 8×8 pictures into red, green and blue, by the mean of each channel.
pub(crate) fn mean_colour() -> Vec<u8> {
    classifier(&[mean("x", "y")])
}

/// The same, but that it never comes to an end.
pub(crate) fn endless_colour() -> Vec<u8> {
    classifier(&[mean("x", "mean"), endless("mean", "y")])
}

/// The mean of each channel.
fn mean(from: &str, to: &str) -> Vec<u8> {
    let axes = [bytes(1, "axes"), number(8, 2), number(8, 3), number(20, 7)].concat();
    let keepdims = [bytes(1, "keepdims"), number(3, 0), number(20, 2)].concat();
    node("ReduceMean", &[from], &[to], &[bytes(5, axes), bytes(5, keepdims)].concat())
}

fn classifier(nodes: &[Vec<u8>]) -> Vec<u8> {
    let input = [Dim::Named("N"), Dim::Fixed(3), Dim::Fixed(8), Dim::Fixed(8)];
    let output = [Dim::Named("N"), Dim::Fixed(3)];
    model(nodes, &[value("x", FLOAT, &input)], &[value("y", FLOAT, &output)], &[])
}
