//! A loaded ONNX model, and whether it is a classifier of pictures.
//! Made once a resource by the plugin's cache. Never keeps the file's bytes: rten copies the weights it needs.

use std::sync::atomic::{AtomicBool, Ordering};

use kernlet_accel::Resource;
use rten::{Dimension, LoadErrorKind, Model, NodeId, NodeInfo, ValueType};

use super::stages::Stages;
use crate::vision::{InputSize, NoClassifier};

/// Why rten does not take a model.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the resource is no ONNX model that rten can run ({reason}); check the file, its opset and its operators")]
pub(super) struct NotLoadable {
    /// What rten says.
    reason: String,
    /// Whether it is an operator that rten does not have or not so, which another plugin may.
    pub(super) is_unsupported: bool,
}

/// A model that is ready to run.
#[derive(Debug)]
pub(super) struct LoadedModel {
    pub(super) model: Model,
    pub(super) stages: Stages,
    classifier: Result<Classifier, NoClassifier>,
    /// Whether [`LoadedModel::take_warm_up`] was called.
    warm: AtomicBool,
}

/// What a classifier of pictures takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Classifier {
    pub(super) input: NodeId,
    pub(super) output: NodeId,
    pub(super) size: InputSize,
}

impl LoadedModel {
    /// Loads a model from its file's bytes.
    pub(super) fn load(resource: &Resource) -> Result<Self, NotLoadable> {
        let model = Model::load(resource.bytes().to_vec()).map_err(|error| NotLoadable {
            reason: error.to_string(),
            is_unsupported: error.kind() == LoadErrorKind::OperatorInvalid,
        })?;
        let classifier = classifier(&model);
        let stages = Stages::of(&model, resource.bytes());
        Ok(Self { model, stages, classifier, warm: AtomicBool::new(false) })
    }

    /// Whether the caller is the first to ask, and so the one who warms the model up.
    pub(super) fn take_warm_up(&self) -> bool {
        !self.warm.swap(true, Ordering::Relaxed)
    }

    /// Whether one dimension, of any size, is the first of all inputs and outputs.
    pub(super) fn shares_first_dimension(&self) -> bool {
        let nodes = self.model.input_ids().iter().chain(self.model.output_ids());
        let names = nodes.map(|&node| match self.model.node_info(node)?.shape()?.into_iter().next() {
            Some(Dimension::Symbolic(name)) => Some(name),
            _ => None,
        });
        names.collect::<Option<Vec<_>>>().is_some_and(|names| names.windows(2).all(|pair| pair[0] == pair[1]))
    }

    /// How to classify pictures with it.
    pub(super) fn classifier(&self) -> Result<Classifier, NoClassifier> {
        self.classifier.clone()
    }
}

fn classifier(model: &Model) -> Result<Classifier, NoClassifier> {
    let (input, size) =
        picture_input(model).ok_or_else(|| NoClassifier::Input { found: describe_all(model, model.input_ids()) })?;
    let output =
        classes_output(model).ok_or_else(|| NoClassifier::Output { found: describe_all(model, model.output_ids()) })?;
    Ok(Classifier { input, output, size })
}

fn picture_input(model: &Model) -> Option<(NodeId, InputSize)> {
    let &[input] = model.input_ids() else {
        return None;
    };
    let info = model.node_info(input)?;
    match info.shape()?.as_slice() {
        [n, Dimension::Fixed(3), Dimension::Fixed(height), Dimension::Fixed(width)]
            if may_be_one(n) && is_f32(&info) =>
        {
            Some((input, InputSize::new(*height, *width)?))
        }
        _ => None,
    }
}

/// The one output; a model that does not declare its shape is believed until it has run.
fn classes_output(model: &Model) -> Option<NodeId> {
    let &[output] = model.output_ids() else {
        return None;
    };
    let info = model.node_info(output)?;
    let fits = match info.shape().as_deref() {
        Some([n, Dimension::Fixed(1..) | Dimension::Symbolic(_)]) => may_be_one(n),
        Some(_) => false,
        None => true,
    };
    (fits && is_f32(&info)).then_some(output)
}

const fn may_be_one(n: &Dimension) -> bool {
    matches!(n, Dimension::Symbolic(_) | Dimension::Fixed(1))
}

fn is_f32(info: &NodeInfo<'_>) -> bool {
    matches!(info.dtype(), None | Some(ValueType::Tensor(rten::DataType::Float)))
}

/// Such as `f32 [N,3,224,224]`, one after another.
fn describe_all(model: &Model, nodes: &[NodeId]) -> String {
    let nodes: Vec<_> = nodes.iter().filter_map(|&node| model.node_info(node)).map(|info| describe(&info)).collect();
    if nodes.is_empty() { "nothing".to_owned() } else { nodes.join(" and ") }
}

fn describe(info: &NodeInfo<'_>) -> String {
    let dtype = info.dtype().map_or_else(|| "something".to_owned(), |dtype| dtype.to_string());
    let Some(shape) = info.shape() else {
        return format!("{dtype} of unknown shape");
    };
    let size = |dimension: &Dimension| match dimension {
        Dimension::Fixed(size) => size.to_string(),
        Dimension::Symbolic(name) => name.clone(),
    };
    format!("{dtype} [{}]", shape.iter().map(size).collect::<Vec<_>>().join(","))
}
