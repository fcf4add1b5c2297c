//! Which values the operators of an ONNX model take and give, for plugins whose library runs a model as a whole only.
//! Called once a model. Never trusts a length, and gives up on models with more operators and names than it may remember.

use super::guard::{Value, take_field};

/// Nested graphs deeper than this are not looked into.
const DEPTH_MAX: u32 = 64;
/// Operators and names of values that are remembered: a file of some hundred megabytes could hold as many names.
const NAMES_MAX: usize = 1 << 20;

/// Fields of onnx.proto (IR version 13): `ModelProto.graph`, `GraphProto.node` and `.output`, `NodeProto.attribute`.
const GRAPH: u64 = 7;
const NODE: u64 = 1;
const OUTPUT: u64 = 12;
const ATTRIBUTE: u64 = 5;

/// An operator of a model's own graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operator<'a> {
    /// What it does, such as `Conv`.
    pub kind: &'a str,
    /// Names of values that it takes, those included that graphs inside of it take from outside. Others may be among them.
    pub takes: Vec<&'a str>,
    /// Names of values that it gives.
    pub gives: Vec<&'a str>,
}

/// A model's own graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow<'a> {
    /// Its operators, each behind those whose values it takes.
    pub operators: Vec<Operator<'a>>,
    /// Names of its outputs.
    pub outputs: Vec<&'a str>,
    names: usize,
}

/// How values flow through a model; `None` where it is none that can be read, or too large to remember.
#[must_use]
pub fn flow(model: &[u8]) -> Option<Flow<'_>> {
    let mut flow = Flow::default();
    each(model, |field, content| if field == GRAPH { flow.add_graph(content) } else { Some(()) })?;
    Some(flow)
}

/// Calls with the number and the bytes of each field that has some.
fn each<'a>(mut message: &'a [u8], mut found: impl FnMut(u64, &'a [u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        if let (field, Value::Bytes(content)) = take_field(&mut message)? {
            found(field, content)?;
        }
    }
    Some(())
}

impl<'a> Flow<'a> {
    fn add_graph(&mut self, graph: &'a [u8]) -> Option<()> {
        each(graph, |field, content| {
            if field == NODE {
                let mut operator = Operator::default();
                self.read_node(content, &mut operator, 0)?;
                self.operators.push(operator);
            } else if field == OUTPUT {
                let name = self.value_name(content)?;
                self.outputs.push(name);
            }
            Some(())
        })
    }

    /// Adds what a node takes and gives to an operator: itself, or the one that it is inside of.
    fn read_node(&mut self, node: &'a [u8], operator: &mut Operator<'a>, depth: u32) -> Option<()> {
        self.count()?;
        each(node, |field, content| {
            match field {
                1 => operator.takes.push(self.name(content)?),
                2 if depth == 0 => operator.gives.push(self.name(content)?),
                4 if depth == 0 => operator.kind = std::str::from_utf8(content).ok()?,
                ATTRIBUTE => each(content, |field, content| match field {
                    // A graph, or several.
                    6 | 11 if depth < DEPTH_MAX => self.read_inner(content, operator, depth + 1),
                    6 | 11 => None,
                    _ => Some(()),
                })?,
                _ => {}
            }
            Some(())
        })
    }

    fn read_inner(&mut self, graph: &'a [u8], operator: &mut Operator<'a>, depth: u32) -> Option<()> {
        each(graph, |field, content| {
            if field == NODE {
                self.read_node(content, operator, depth)?;
            } else if field == OUTPUT {
                // It may be a value from outside, as it is.
                operator.takes.push(self.value_name(content)?);
            }
            Some(())
        })
    }

    fn value_name(&mut self, value: &'a [u8]) -> Option<&'a str> {
        let mut name = "";
        each(value, |field, content| {
            if field == 1 {
                name = self.name(content)?;
            }
            Some(())
        })?;
        Some(name)
    }

    fn name(&mut self, bytes: &'a [u8]) -> Option<&'a str> {
        self.count()?;
        std::str::from_utf8(bytes).ok()
    }

    fn count(&mut self) -> Option<()> {
        self.names += 1;
        (self.names <= NAMES_MAX).then_some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        // Lengths of up to 14 bits.
        let [low, high] = [content.len() & 0x7f, content.len() >> 7].map(|part| u8::try_from(part).unwrap());
        [&[number << 3 | 2, low | 0x80, high], content].concat()
    }

    fn node(kind: &str, takes: &[&str], gives: &[&str]) -> Vec<u8> {
        let takes = takes.iter().flat_map(|name| field(1, name.as_bytes()));
        let gives = gives.iter().flat_map(|name| field(2, name.as_bytes()));
        takes.chain(gives).chain(field(4, kind.as_bytes())).collect()
    }

    #[test]
    fn what_an_operator_takes_includes_what_graphs_inside_of_it_take() {
        let inner = [field(1, &node("Add", &["outer", "i"], &["j"])), field(12, &field(1, b"passed"))].concat();
        let with_graph = [node("If", &["yes"], &["z"]), field(5, &field(6, &inner))].concat();
        let graph =
            [field(1, &node("Relu", &["x"], &["y"])), field(1, &with_graph), field(12, &field(1, b"z"))].concat();
        let model = field(7, &graph);
        let found = flow(&model).unwrap();
        assert_eq!(found.outputs, ["z"]);
        assert_eq!(found.operators[0], Operator { kind: "Relu", takes: vec!["x"], gives: vec!["y"] });
        assert_eq!(found.operators[1].takes, ["yes", "outer", "i", "passed"]);
        assert_eq!(found.operators[1].gives, ["z"]);
    }

    #[test]
    fn a_model_that_is_cut_short_or_nests_without_end_has_no_flow() {
        let model = field(7, &field(1, &node("Relu", &["x"], &["y"])));
        assert!(flow(&model[..model.len() - 1]).is_none());
        let deep = (0..100).fold(Vec::new(), |inner, _| field(1, &field(5, &field(6, &inner))));
        assert!(flow(&field(7, &deep)).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_flow_or_none(bytes: Vec<u8>) {
            let _ = flow(&bytes);
        }
    }
}
