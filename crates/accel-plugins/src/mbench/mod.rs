//! The plugin that takes as long as it is told to: what measures limits, fairness and concurrency needs work of a known
//! length.
//! Called by the runtime for exec, where library or function are called `mbench`. Never outlasts a deadline.

use std::time::{Duration, Instant};

use kernlet_accel::{
    Cost, Deadline, Done, Kinds, Operation, Plugin, PluginError,
    operation::{Exec, Library, Task, TypedIn},
};

/// What library or function are called.
const NAME: &str = "mbench";

/// Longest time, in milliseconds, as vAccel has it.
const MILLIS_MAX: u64 = 300_000;

/// The plugin `mbench`.
#[derive(Debug, Default)]
pub struct Mbench;

impl Mbench {
    /// The plugin.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

/// That the first argument is no time.
#[derive(Debug, thiserror::Error)]
#[error("the first argument must be a time from 1 to {MILLIS_MAX} milliseconds, as digits or an integer")]
struct NoTime;

impl Plugin for Mbench {
    fn name(&self) -> &'static str {
        NAME
    }

    fn operations(&self) -> &[Operation] {
        &OPERATIONS
    }

    fn cost(&self, task: &Task<'_>) -> Cost {
        match task {
            Task::Exec(task) if is_ours(task) => {
                Cost::micros(task.read.first().and_then(millis).unwrap_or_default().saturating_mul(1000))
            }
            _ => Cost::nanos(u64::MAX),
        }
    }

    fn kinds(&self) -> Kinds {
        Kinds::CPU | Kinds::SOFTWARE | Kinds::DEBUG
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::Exec(task) if is_ours(&task) => {
                let millis = task.read.first().and_then(millis).ok_or_else(|| PluginError::invalid(NoTime))?;
                let end = Instant::now() + Duration::from_millis(millis);
                while Instant::now() < end {
                    deadline.check("the time that was asked for")?;
                    std::hint::spin_loop();
                }
                Ok(Done::default())
            }
            Task::Exec(_) => Err(PluginError::declined("it has the library mbench alone")),
            other => Err(PluginError::NotOffered { operation: other.operation() }),
        }
    }
}

/// What it has.
pub(crate) const OPERATIONS: [Operation; 1] = [Operation::Exec];

fn is_ours(task: &Exec<'_>) -> bool {
    matches!(task.library, Library::Name(NAME)) || task.function == NAME
}

/// A time as vAccel's programs pass it, in digits, or as an integer.
fn millis(arg: &TypedIn<'_>) -> Option<u64> {
    let text =
        std::str::from_utf8(arg.bytes).ok().map(|text| text.trim_matches(|c: char| c == '\0' || c.is_whitespace()));
    let digits = text.and_then(|text| text.parse().ok());
    let number = || match *arg.bytes {
        [a, b, c, d] => Some(u64::from(u32::from_le_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    };
    digits.or_else(number).filter(|millis| (1..=MILLIS_MAX).contains(millis))
}
