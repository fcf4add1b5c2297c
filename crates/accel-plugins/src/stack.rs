//! Several sets of inputs as one run: the tensors of all sets stacked along their first dimension, and what the model makes
//! of them taken apart again.
//! Called by the plugins that run models. A name of a dimension proves nothing, so that a model is believed to keep the
//! sets apart only once it was seen to: its first batch is run both ways and compared.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use kernlet_accel::{
    ArgError, Dims, Done, Dtype, PluginError, Resource,
    operation::{BatchRun, BatchSet, Elements, ModelRun, Tensor, TensorBuf, TensorOut},
};
use zerocopy::IntoBytes as _;

use crate::cache::ResourceCache;

/// Most bytes that are stacked at a time, so that copying them costs less than a run does.
const STACK_MAX: usize = 4 * 1024 * 1024;

/// What is known of each model.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    verdicts: ResourceCache<Verdict, Infallible>,
}

/// Whether a model gives of a stack what it gives of its parts.
#[derive(Debug, Default)]
struct Verdict(AtomicU8);

const UNKNOWN: u8 = 0;
const KEEPS_APART: u8 = 1;
const MIXES: u8 = 2;

impl Stacks {
    /// Runs a batch as one where that may be, by `run`, which runs the model once. `declares` says whether the model has one
    /// first dimension, of any size, in all of its inputs and outputs.
    ///
    /// # Errors
    /// It is declined, and nothing is written, where the sets have to be run one by one.
    pub(crate) fn run(
        &self,
        mut batch: BatchRun<'_>,
        declares: impl FnOnce() -> bool,
        run: impl Fn(ModelRun<'_>) -> Result<Done, PluginError>,
    ) -> Result<Done, PluginError> {
        let Some(stack) = Stack::of(&batch) else {
            return Err(PluginError::declined("the sets cannot be stacked"));
        };
        let verdict = match self.verdicts.get(&batch.model, |_| Ok(Verdict::default())) {
            Ok(verdict) => verdict,
            Err(never) => match never {},
        };
        match verdict.0.load(Relaxed) {
            KEEPS_APART => {
                let (done, results) = stack.run(&batch.model, &run)?;
                stack.hand_out(&mut batch, &results)?;
                Ok(Done { bytes_copied: done.bytes_copied + stack.bytes() + bytes(&results) })
            }
            UNKNOWN if declares() => {
                let done = one_by_one(&mut batch, &run)?;
                // Sets that are all the same would look kept apart whatever is made of them together.
                if !differ(&batch) {
                    return Ok(done);
                }
                let stacked = stack.run(&batch.model, &run);
                let same = stacked.is_ok_and(|(_, results)| stack.is_same(&mut batch, &results));
                verdict.0.store(if same { KEEPS_APART } else { MIXES }, Relaxed);
                Ok(done)
            }
            _ => {
                verdict.0.store(MIXES, Relaxed);
                Err(PluginError::declined("the model does not keep sets apart"))
            }
        }
    }

    /// Forgets what is known of a model.
    pub(crate) fn remove(&self, model: &Resource) {
        self.verdicts.remove(model);
    }
}

fn one_by_one(
    batch: &mut BatchRun<'_>,
    run: &impl Fn(ModelRun<'_>) -> Result<Done, PluginError>,
) -> Result<Done, PluginError> {
    batch
        .runs()
        .try_fold(Done::default(), |total, one| Ok(Done { bytes_copied: total.bytes_copied + run(one)?.bytes_copied }))
}

fn differ(batch: &BatchRun<'_>) -> bool {
    let first = batch.sets.first().map(contents);
    batch.sets.iter().any(|set| Some(contents(set)) != first)
}

fn contents<'a>(set: &BatchSet<'a>) -> Vec<&'a [u8]> {
    set.inputs.iter().map(|input| input.elements().bytes()).collect()
}

fn bytes(results: &[TensorBuf]) -> u64 {
    results.iter().map(|result| result.len() as u64).sum()
}

/// Inputs of several sets, each stacked.
struct Stack {
    inputs: Vec<StackedInput>,
    outputs: usize,
    /// Of each set.
    rows: Vec<u64>,
}

struct StackedInput {
    dtype: Dtype,
    dims: Dims,
    /// Of 64-bit words, so that every element is aligned.
    words: Vec<u64>,
    len: usize,
}

impl StackedInput {
    fn tensor(&self) -> Result<Tensor<'_>, ArgError> {
        let bytes = self.words.as_bytes().get(..self.len).unwrap_or_default();
        Tensor::new(Elements::from_bytes(self.dtype, bytes)?, self.dims)
    }
}

impl Stack {
    /// The sets' inputs as one, if they differ in nothing but their first dimension, which all inputs of a set share.
    fn of(batch: &BatchRun<'_>) -> Option<Self> {
        let first = batch.sets.first().filter(|set| !set.inputs.is_empty() && !set.outputs.is_empty())?;
        if batch.sets.len() < 2 {
            return None;
        }
        let rows: Vec<u64> = batch.sets.iter().map(|set| rows_of(&set.inputs)).collect::<Option<_>>()?;
        let total = rows.iter().try_fold(0_u64, |sum, rows| sum.checked_add(*rows))?;
        let size: usize =
            batch.sets.iter().flat_map(|set| &set.inputs).map(|input| input.elements().bytes().len()).sum();
        if size > STACK_MAX {
            return None;
        }
        let stacked = |index: usize| {
            let one = first.inputs.get(index)?;
            let (dtype, shape) = (one.elements().dtype(), one.dims().sizes().get(1..)?);
            let parts = batch.sets.iter().map(|set| set.inputs.get(index).filter(|input| is_like(input, dtype, shape)));
            let parts: Vec<&Tensor<'_>> = parts.collect::<Option<_>>()?;
            let bytes: Vec<&[u8]> = parts.iter().map(|part| part.elements().bytes()).collect();
            let len = bytes.iter().map(|bytes| bytes.len()).sum();
            let mut words = vec![0_u64; usize::div_ceil(len, 8)];
            let mut at = words.as_mut_bytes();
            for part in bytes {
                let (here, rest) = at.split_at_mut_checked(part.len())?;
                here.copy_from_slice(part);
                at = rest;
            }
            Some(StackedInput { dtype, dims: with_rows(total, shape)?, words, len })
        };
        let inputs = (0..first.inputs.len()).map(stacked).collect::<Option<_>>()?;
        Some(Self { inputs, outputs: first.outputs.len(), rows })
    }

    /// Bytes of the inputs.
    fn bytes(&self) -> u64 {
        self.inputs.iter().map(|input| input.len as u64).sum()
    }

    /// Runs the model once on all of it; its outputs have as many rows as there are. Whatever is wrong with it is to be said
    /// of the set that it is wrong with, hence it declines.
    fn run(
        &self,
        model: &Resource,
        run: &impl Fn(ModelRun<'_>) -> Result<Done, PluginError>,
    ) -> Result<(Done, Vec<TensorBuf>), PluginError> {
        let inputs = self.inputs.iter().map(StackedInput::tensor).collect::<Result<_, _>>()?;
        let mut results: Vec<TensorBuf> = (0..self.outputs).map(|_| TensorBuf::new()).collect();
        let outputs = results.iter_mut().map(TensorOut::from).collect();
        let done =
            run(ModelRun { model: model.clone(), options: &[], names: "", inputs, outputs }).map_err(|error| {
                match error {
                    late @ PluginError::DeadlinePassed { .. } => late,
                    error => PluginError::declined(error.to_string()),
                }
            })?;
        let total: u64 = self.rows.iter().sum();
        if results.iter().all(|result| result.dims().sizes().first() == Some(&total)) {
            Ok((done, results))
        } else {
            Err(PluginError::declined("the model's outputs have another number of rows"))
        }
    }

    /// Each set's part of each result, with its shape.
    fn parts<'r>(&self, result: &'r TensorBuf) -> Option<Vec<(Dims, &'r [u8])>> {
        let total: u64 = self.rows.iter().sum();
        let row = result.len().checked_div(usize::try_from(total).ok()?)?;
        let shape = result.dims().sizes().get(1..)?;
        let mut rest = result.bytes();
        let part = |rows: &u64| {
            let (here, after) = rest.split_at_checked(usize::try_from(*rows).ok()?.checked_mul(row)?)?;
            rest = after;
            Some((with_rows(*rows, shape)?, here))
        };
        self.rows.iter().map(part).collect()
    }

    /// Writes to each set what is its own, if each has room for it.
    fn hand_out(&self, batch: &mut BatchRun<'_>, results: &[TensorBuf]) -> Result<(), PluginError> {
        for (index, result) in results.iter().enumerate() {
            let parts = self.parts(result).ok_or_else(|| PluginError::declined("the model's outputs have no rows"))?;
            for (set, (_, bytes)) in batch.sets.iter().zip(parts) {
                let fits = set.outputs.get(index).is_some_and(|room| {
                    room.dtype().is_none_or(|dtype| dtype == result.dtype())
                        && room.room().is_none_or(|room| room >= bytes.len())
                });
                if !fits {
                    return Err(PluginError::declined("a set has no room for its output"));
                }
            }
        }
        for (index, result) in results.iter().enumerate() {
            for (set, (dims, bytes)) in batch.sets.iter_mut().zip(self.parts(result).unwrap_or_default()) {
                if let Some(room) = set.outputs.get_mut(index) {
                    room.claim_bytes(result.dtype(), dims)?.copy_from_slice(bytes);
                }
            }
        }
        Ok(())
    }

    /// Whether what was written set by set is what the stack gives.
    fn is_same(&self, batch: &mut BatchRun<'_>, results: &[TensorBuf]) -> bool {
        results.iter().enumerate().all(|(index, result)| {
            let parts = self.parts(result).unwrap_or_default();
            parts.len() == batch.sets.len()
                && batch.sets.iter_mut().zip(parts).all(|(set, (dims, bytes))| {
                    // To claim it again changes nothing of what is there.
                    let room = set.outputs.get_mut(index).map(|room| room.claim_bytes(result.dtype(), dims));
                    matches!(room, Some(Ok(written)) if is_close(result.dtype(), written, bytes))
                })
        })
    }
}

/// The first dimension of a set's inputs, if they have one in common that is not empty.
fn rows_of(inputs: &[Tensor<'_>]) -> Option<u64> {
    let rows = *inputs.first()?.dims().sizes().first()?;
    (rows > 0 && inputs.iter().all(|input| input.dims().sizes().first() == Some(&rows))).then_some(rows)
}

fn is_like(tensor: &Tensor<'_>, dtype: Dtype, shape: &[u64]) -> bool {
    tensor.elements().dtype() == dtype && tensor.dims().sizes().get(1..) == Some(shape)
}

fn with_rows(rows: u64, shape: &[u64]) -> Option<Dims> {
    Dims::new(&[&[rows], shape].concat()).ok()
}

/// The same numbers, but for what another order of sums makes of fractions.
fn is_close(dtype: Dtype, one: &[u8], other: &[u8]) -> bool {
    let (Dtype::F32, Ok(one), Ok(other)) =
        (dtype, Elements::from_bytes(dtype, one), Elements::from_bytes(dtype, other))
    else {
        return one == other;
    };
    let (Elements::F32(one), Elements::F32(other)) = (one, other) else { return false };
    let close = |(one, other): (&f32, &f32)| {
        one.to_bits() == other.to_bits() || (one - other).abs() <= 1e-4 * one.abs().max(other.abs()).max(1e-3)
    };
    one.len() == other.len() && one.iter().zip(other).all(close)
}
