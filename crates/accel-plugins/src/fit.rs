//! What does not fit between a call and its model.
//! Made by the plugins that run models. Never loses a status: too little room is not the same as wrong.

use kernlet_accel::{ArgError, Dtype, PluginError};

/// What does not fit between a call and its model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FitError {
    /// Another number of tensors.
    #[error("the model has {model_inputs} inputs and {model_outputs} outputs; {inputs} and {outputs} were passed")]
    Count { model_inputs: usize, model_outputs: usize, inputs: usize, outputs: usize },
    /// A tensor of another type or shape.
    #[error("input {index} is {given}, and the model takes {takes}")]
    Input { index: usize, given: String, takes: String },
    /// A 64-bit integer that the plugin cannot hold.
    #[error("input {index} holds {value}, and the plugin computes integers in 32 bits; pass smaller ones")]
    Integer { index: usize, value: i64 },
    /// Elements that the plugin cannot hold.
    #[error("input {index} is of {dtype}, and the plugin computes in f32, i32, u8 and i8")]
    Type { index: usize, dtype: Dtype },
    /// Truth values that are neither.
    #[error("input {index} holds truth values that are neither 0 nor 1")]
    NotTruth { index: usize },
    /// A size that is none.
    #[error("a size of input {index} is beyond the address space")]
    Size { index: usize },
    /// An output that is no tensor.
    #[error("output {index} of the model is a {found}, and only tensors can be given back")]
    NotATensor { index: usize, found: String },
    /// What is wrong with the room for an output.
    #[error("output {index} does not fit")]
    Output { index: usize, source: ArgError },
}

impl From<FitError> for PluginError {
    fn from(error: FitError) -> Self {
        match error {
            // Keeps its status: too little room is not the same as wrong.
            FitError::Output { source: source @ ArgError::OutputTooSmall { .. }, .. } => Self::Arg(source),
            error => Self::invalid(error),
        }
    }
}
