//! The clock of a guest, its processor's time stamp counter, over its machines: a new one's counter begins at zero on most
//! hosts, and a guest of a template has seen more. Used by the templates of functions; a rewind leaves a counter as it is.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{processor::Processor, saved::Moment};
use crate::crash::Cause;

/// What the clock of a template's guest showed, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When the template was taken.
    taken: Moment,
    /// What it showed here, or would have, at this time.
    shown: (u64, Instant),
    /// It comes from a file, perhaps of a host whose clock has another speed.
    is_loaded: bool,
}

impl Clock {
    /// Of a guest that is stopped.
    pub(super) fn of(processor: &mut Processor) -> Result<Self, Cause> {
        let (cycles_per_second, clock) = (processor.cycles_per_second()?, processor.clock()?);
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let taken = Moment { cycles_per_second, clock, time, ..Moment::default() };
        Ok(Self { taken, shown: (clock, Instant::now()), is_loaded: false })
    }

    /// Of a template from a file: it has gone on by the host's, as it would have.
    pub(super) fn loaded(moment: &Moment) -> Self {
        let Moment { cycles_per_second, clock, time, .. } = *moment;
        let taken = Moment { cycles_per_second, clock, time, ..Moment::default() };
        let since = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_nanos(time)).unwrap_or_default();
        let shown = clock.saturating_add(cycles(since, cycles_per_second));
        Self { taken, shown: (shown, Instant::now()), is_loaded: true }
    }

    /// When the template was taken, for its file.
    pub(super) fn taken(&self) -> Moment {
        self.taken
    }

    /// Sets that of a new machine, whose guest has been told its speed already.
    pub(super) fn set(&self, processor: &mut Processor) -> Result<(), Cause> {
        if self.is_loaded && processor.cycles_per_second()? != self.taken.cycles_per_second {
            return Err(Cause::OtherClock);
        }
        let (shown, at) = self.shown;
        processor.set_clock(shown.saturating_add(cycles(at.elapsed(), self.taken.cycles_per_second)))
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.is_loaded
    }
}

/// So much time in cycles of a clock of this speed.
fn cycles(time: Duration, speed: u64) -> u64 {
    u64::try_from(time.as_nanos().saturating_mul(u128::from(speed)) / 1_000_000_000).unwrap_or(u64::MAX)
}
