//! Runs a model in parts, so that one whose deadline is over ends: rten itself runs a model to its end.
//! Made once a model, called for each inference. A part ends where few values are between the operators before and those
//! after it. Never changes a result, and does without parts where one would take no time, or nobody waits for a deadline.

use std::{
    collections::HashMap,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    time::{Duration, Instant},
};

use kernlet_accel::{
    Deadline, PluginError,
    onnx::{Flow, flow},
};
use rten::{Model, NodeId, RunErrorKind, RunOptions, Value, ValueOrView};

use super::run::run_error;

/// How long a part is to take. To plan one takes rten some tens of microseconds.
const PART: Duration = Duration::from_millis(10);
/// Parts of an inference at first, when nobody knows how long it takes, and at most.
const PARTS: (u64, u64) = (16, 64);
/// Values that one part may hand to the next.
const VALUES_MAX: usize = 4;
/// Places to end a part that are remembered.
const CUTS_MAX: usize = 1024;

/// Where a model's parts may end.
#[derive(Debug, Default)]
pub(super) struct Stages {
    operators: usize,
    cuts: Vec<Cut>,
    /// What the last inference took, in nanoseconds; 0 before the first.
    took: AtomicU64,
    /// What the model says of its values is not so: they cannot be handed over.
    is_whole: AtomicBool,
}

/// A place between two operators.
#[derive(Debug)]
struct Cut {
    /// How many operators are before it.
    after: usize,
    /// What those behind it take of what those before it give.
    values: Vec<NodeId>,
    /// rten has made one operator of some on both sides of it.
    is_gone: AtomicBool,
}

impl Stages {
    /// Looks for them in a model's file.
    pub(super) fn of(model: &Model, file: &[u8]) -> Self {
        let Some(flow) = flow(file) else { return Self::default() };
        Self { operators: flow.operators.len(), cuts: cuts(model, &flow), ..Self::default() }
    }

    /// Runs a model that has these.
    pub(super) fn run(
        &self,
        model: &Model,
        inputs: &[(NodeId, ValueOrView<'_>)],
        outputs: &[NodeId],
        options: &RunOptions,
        deadline: Deadline,
    ) -> Result<Vec<Value>, PluginError> {
        let begun = Instant::now();
        let results = match self.stride(deadline) {
            Some(stride) => self.run_parts(model, inputs, outputs, options, deadline, stride)?,
            None => model.run(lend(inputs, &[]), outputs, Some(options.clone())).map_err(run_error)?,
        };
        self.took.store(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Relaxed);
        Ok(results)
    }

    /// How many operators make a part; `None` where the whole is one.
    fn stride(&self, deadline: Deadline) -> Option<usize> {
        deadline.instant()?;
        let took = Duration::from_nanos(self.took.load(Relaxed));
        let parts = if took.is_zero() { PARTS.0 } else { u64::try_from(took.as_nanos() / PART.as_nanos()).ok()? };
        let parts = usize::try_from(parts.min(PARTS.1)).ok()?;
        (parts > 1 && !self.cuts.is_empty() && !self.is_whole.load(SeqCst)).then(|| (self.operators / parts).max(1))
    }

    fn run_parts(
        &self,
        model: &Model,
        inputs: &[(NodeId, ValueOrView<'_>)],
        outputs: &[NodeId],
        options: &RunOptions,
        deadline: Deadline,
        stride: usize,
    ) -> Result<Vec<Value>, PluginError> {
        let mut given = Vec::new();
        let mut next = stride;
        let ends = self.cuts.iter().map(|cut| (cut.after, cut.values.as_slice(), Some(cut)));
        for (after, values, cut) in ends.chain([(usize::MAX, outputs, None)]) {
            if after < next || cut.is_some_and(|cut| cut.is_gone.load(Relaxed)) {
                continue;
            }
            deadline.check("the model had run to its end")?;
            match (model.run(lend(inputs, &given), values, Some(options.clone())), cut) {
                (Ok(results), None) => return Ok(results),
                (Ok(results), Some(_)) => {
                    given = values.iter().copied().zip(results).collect();
                    next = after.saturating_add(stride);
                }
                (Err(error), Some(cut)) if error.kind() == RunErrorKind::PlanningError => {
                    cut.is_gone.store(true, Relaxed);
                }
                (Err(error), _) if error.kind() != RunErrorKind::OperatorError && !given.is_empty() => {
                    self.is_whole.store(true, SeqCst);
                    return model.run(lend(inputs, &[]), outputs, Some(options.clone())).map_err(run_error);
                }
                (Err(error), _) => return Err(run_error(error)),
            }
        }
        Err(PluginError::failed("the model has no end"))
    }
}

/// The model's inputs and what came out of the parts before, for one more run.
fn lend<'a>(inputs: &'a [(NodeId, ValueOrView<'_>)], given: &'a [(NodeId, Value)]) -> Vec<(NodeId, ValueOrView<'a>)> {
    let inputs = inputs.iter().map(|(node, value)| (*node, value.as_view().into()));
    inputs.chain(given.iter().map(|(node, value)| (*node, value.as_view().into()))).collect()
}

fn cuts(model: &Model, flow: &Flow<'_>) -> Vec<Cut> {
    let end = flow.operators.len();
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (index, operator) in flow.operators.iter().enumerate() {
        last_use.extend(operator.takes.iter().map(|name| (*name, index)));
    }
    last_use.extend(flow.outputs.iter().map(|name| (*name, end)));
    let mut cuts = Vec::new();
    let mut live: Vec<&str> = Vec::new();
    for (index, operator) in flow.operators.iter().enumerate() {
        live.retain(|name| last_use.get(name).is_some_and(|last| *last > index));
        // Constants are the model's, wherever it is cut.
        if operator.kind != "Constant" {
            let is_used = |name: &&&str| last_use.get(**name).is_some_and(|last| *last > index);
            live.extend(operator.gives.iter().filter(is_used));
        }
        if index + 1 < end && (1..=VALUES_MAX).contains(&live.len()) && cuts.len() < CUTS_MAX {
            let values: Option<Vec<NodeId>> = live.iter().map(|name| model.find_node(name)).collect();
            cuts.extend(values.map(|values| Cut { after: index + 1, values, is_gone: AtomicBool::new(false) }));
        }
    }
    cuts
}
