//! The ring of calls in shared memory: slots, a queue of submitted slots, and how each side waits.
//! The client's side submits and waits for a slot; the agent's side takes, and finishes. Every word that the peer can
//! write is checked when it is read, once.
//!
//! ```text
//!  0x0000  tail    slots submitted so far, counted by the client
//!  0x0040  parked  1 while the agent sleeps and has to be woken (it has an eventfd for that)
//!  0x0080  queue   64 numbers of slots
//!  0x1000  slots   64 of 4096 bytes: state, waiting, CallBody, ArgBody × 32, ReplyBody, message
//!  0x41000 payload
//! ```

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{
            AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed, SeqCst},
            fence,
        },
    },
    time::{Duration, Instant},
};

use rustix::{fs::Timespec, thread::futex};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    memory::SharedMemory,
    wire::{ArgBody, ArgResult, CALL_ARGS_MAX, Call, CallBody, MESSAGE_MAX, Reply, ReplyBody},
};

/// Calls under way at the same time.
pub(crate) const SLOTS: u32 = 64;
const SLOT: usize = 4096;
const TAIL: usize = 0;
const PARKED: usize = 0x40;
const QUEUE: usize = 0x80;
const FIRST: usize = 4096;
/// Where payload begins.
pub(crate) const PAYLOAD: usize = FIRST + SLOTS as usize * SLOT;
/// Least memory that can be shared.
pub(crate) const MEMORY_MIN: usize = PAYLOAD + 4096;

/// Offsets in a slot.
const STATE: usize = 0;
const WAITING: usize = 4;
const CALL: usize = 64;
const ARGS: usize = CALL + size_of::<CallBody>();
const REPLY: usize = 3008;
const MESSAGE: usize = REPLY + size_of::<ReplyBody>();

const _: () = assert!(ARGS + CALL_ARGS_MAX * size_of::<ArgBody>() <= REPLY && MESSAGE + MESSAGE_MAX <= SLOT);

/// States of a slot.
const IDLE: u32 = 0;
const SUBMITTED: u32 = 1;
const DONE: u32 = 2;
/// The connection is at its end: nobody will finish it.
const LOST: u32 = 3;

/// Longest time that either side looks again and again before it sleeps.
const SPIN_MAX: Duration = Duration::from_micros(50);

/// How long one side spins: longer where that was worth it, not at all where it was not.
#[derive(Debug)]
pub(crate) struct Patience(AtomicU32);

impl Patience {
    /// Spins at first, unless there is one processor only: then what is waited for cannot happen meanwhile.
    pub(crate) fn new() -> Self {
        let several = std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1);
        Self(AtomicU32::new(if several { 16 } else { u32::MAX }))
    }

    /// Looks until it is so or the time is over; whether it is so.
    pub(crate) fn spin(&self, mut is_so: impl FnMut() -> bool) -> bool {
        if is_so() {
            return true;
        }
        let share = self.0.load(Relaxed);
        if share == 0 || share == u32::MAX {
            return false;
        }
        let end = Instant::now() + SPIN_MAX * share / 16;
        loop {
            for _ in 0..32 {
                if is_so() {
                    self.0.store((share * 2).min(16), Relaxed);
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= end {
                // Twice in vain is once too often: nobody is to burn a processor for a peer that is slow.
                self.0.store(share / 2, Relaxed);
                return false;
            }
        }
    }

    /// What was waited for came this soon after all: next time it is looked for, and long enough, since a side that is
    /// woken takes longer than one that looks. (Otherwise both would go on waking each other for ever.)
    pub(crate) fn slept(&self, time: Duration) {
        if time < SPIN_MAX * 2 && self.0.load(Relaxed) != u32::MAX {
            self.0.store(16, Relaxed);
        }
    }
}

/// A word of the ring.
fn word(memory: &SharedMemory, at: usize) -> &AtomicU32 {
    static NOWHERE: AtomicU32 = AtomicU32::new(0);
    // Every offset here is a constant, or a slot's number below SLOTS, and the memory is at least MEMORY_MIN long.
    memory.word(at).unwrap_or(&NOWHERE)
}

const fn slot_at(slot: u32) -> usize {
    FIRST + slot as usize * SLOT
}

/// The client's side of a slot, to be filled in, submitted and waited for.
#[derive(Debug)]
pub(crate) struct Submitter {
    memory: Arc<SharedMemory>,
    patience: Patience,
}

/// How waiting for a slot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    Done,
    Late,
    Lost,
}

impl Submitter {
    pub(crate) fn new(memory: Arc<SharedMemory>) -> Self {
        Self { memory, patience: Patience::new() }
    }

    /// Fills in a slot, which is idle.
    pub(crate) fn fill(&self, slot: u32, head: &CallBody, args: &[ArgBody]) {
        let at = slot_at(slot);
        // The slot has room for both.
        let _ = self.memory.write(at + CALL, head.as_bytes());
        let _ = self.memory.write(at + ARGS, args.as_bytes());
        word(&self.memory, at + WAITING).store(0, Relaxed);
        word(&self.memory, at + STATE).store(SUBMITTED, Relaxed);
    }

    /// Hands slots that are filled in over to the agent, in this order. One thread at a time.
    pub(crate) fn submit(&self, slots: impl IntoIterator<Item = u32>, doorbell: impl AsFd) {
        let tail = word(&self.memory, TAIL);
        let mut position = tail.load(Relaxed);
        for slot in slots {
            word(&self.memory, QUEUE + (position % SLOTS) as usize * 4).store(slot, Relaxed);
            position = position.wrapping_add(1);
        }
        tail.store(position, SeqCst);
        fence(SeqCst);
        if word(&self.memory, PARKED).load(SeqCst) != 0 && word(&self.memory, PARKED).swap(0, AcqRel) != 0 {
            // A counter that is full wakes as well.
            let _ = rustix::io::write(doorbell, &1_u64.to_ne_bytes());
        }
    }

    /// Waits until the slot is finished, the deadline is over, or the connection ends.
    pub(crate) fn wait(&self, slot: u32, deadline: Option<Instant>) -> Waited {
        let at = slot_at(slot);
        let state = word(&self.memory, at + STATE);
        if !self.patience.spin(|| state.load(Acquire) != SUBMITTED) {
            let start = Instant::now();
            loop {
                word(&self.memory, at + WAITING).store(1, SeqCst);
                if state.load(SeqCst) != SUBMITTED {
                    break;
                }
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                if left.is_some_and(|left| left.is_zero()) {
                    return Waited::Late;
                }
                let left = left.and_then(|left| Timespec::try_from(left).ok());
                // Woken, interrupted, late, or changed meanwhile: it is looked at again.
                let _ = futex::wait(state, futex::Flags::empty(), SUBMITTED, left.as_ref());
            }
            self.patience.slept(start.elapsed());
        }
        if state.load(Acquire) == DONE { Waited::Done } else { Waited::Lost }
    }

    /// Whether the agent is through with a slot that nobody waited for to its end.
    pub(crate) fn is_done(&self, slot: u32) -> bool {
        word(&self.memory, slot_at(slot) + STATE).load(Acquire) == DONE
    }

    /// What the agent wrote into a finished slot, whatever that is.
    pub(crate) fn reply(&self, slot: u32, args: usize) -> Reply {
        let at = slot_at(slot);
        let mut head = ReplyBody::new_zeroed();
        // Of the slot's size, so that it lies within.
        let _ = self.memory.read(at + REPLY, head.as_mut_bytes());
        let mut results = vec![ArgBody::new_zeroed(); args.min(CALL_ARGS_MAX)];
        if args > 0 {
            let _ = self.memory.read(at + ARGS, results.as_mut_bytes());
        }
        let length = usize::try_from(head.message.get()).unwrap_or(usize::MAX).min(MESSAGE_MAX);
        let mut message = vec![0; length];
        let _ = self.memory.read(at + MESSAGE, &mut message);
        let args = results.iter().map(|arg| arg.result).collect();
        Reply { head, args, message: String::from_utf8_lossy(&message).into_owned() }
    }

    /// The connection is at its end: wakes everyone who waits, for good.
    pub(crate) fn lose_all(&self) {
        for slot in 0..SLOTS {
            let state = word(&self.memory, slot_at(slot) + STATE);
            if state.compare_exchange(SUBMITTED, LOST, SeqCst, SeqCst).is_ok() {
                let _ = futex::wake(state, futex::Flags::empty(), u32::MAX >> 1);
            }
        }
    }

    /// A slot is free again.
    pub(crate) fn retire(&self, slot: u32) {
        word(&self.memory, slot_at(slot) + STATE).store(IDLE, Relaxed);
    }
}

/// The client broke the ring's rules.
#[derive(Debug, thiserror::Error)]
#[error("the client's ring of calls is broken: {0}")]
pub(crate) struct RingError(&'static str);

/// The agent's side.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Arc<SharedMemory>,
    head: u32,
    patience: Patience,
}

impl Ring {
    pub(crate) fn new(memory: Arc<SharedMemory>) -> Self {
        Self { memory, head: 0, patience: Patience::new() }
    }

    /// The next slot that was submitted.
    pub(crate) fn take(&mut self) -> Result<Option<u32>, RingError> {
        let tail = word(&self.memory, TAIL).load(Acquire);
        match tail.wrapping_sub(self.head) {
            0 => return Ok(None),
            1..=SLOTS => {}
            _ => return Err(RingError("more calls are submitted than there are slots")),
        }
        let slot = word(&self.memory, QUEUE + (self.head % SLOTS) as usize * 4).load(Relaxed);
        self.head = self.head.wrapping_add(1);
        if slot < SLOTS { Ok(Some(slot)) } else { Err(RingError("a slot is submitted that there is not")) }
    }

    /// Looks for a call for a while; whether there may be one.
    pub(crate) fn spin(&self) -> bool {
        let tail = word(&self.memory, TAIL);
        self.patience.spin(|| tail.load(Acquire) != self.head)
    }

    /// Says that this side sleeps, unless there is a call. After `true`, the doorbell rings for the next.
    pub(crate) fn park(&self) -> bool {
        word(&self.memory, PARKED).store(1, SeqCst);
        fence(SeqCst);
        let empty = word(&self.memory, TAIL).load(SeqCst) == self.head;
        if !empty {
            self.unpark(None);
        }
        empty
    }

    /// Says that this side is awake again, after so long.
    pub(crate) fn unpark(&self, slept: Option<Duration>) {
        word(&self.memory, PARKED).store(0, SeqCst);
        if let Some(time) = slept {
            self.patience.slept(time);
        }
    }
}

/// The call in a slot, read once.
pub(crate) fn call(memory: &SharedMemory, slot: u32) -> Result<Call, RingError> {
    let at = slot_at(slot);
    let mut head = CallBody::new_zeroed();
    memory.read(at + CALL, head.as_mut_bytes()).ok_or(RingError("a slot lies outside"))?;
    let count = usize::try_from(head.args.get()).unwrap_or(usize::MAX);
    if count > CALL_ARGS_MAX {
        return Err(RingError("a call has too many arguments"));
    }
    let mut args = vec![0; count * size_of::<ArgBody>()];
    memory.read(at + ARGS, &mut args).ok_or(RingError("a slot lies outside"))?;
    let args = <[ArgBody]>::ref_from_bytes(&args).map_err(|_| RingError("arguments are cut short"))?;
    Ok(Call { head, args: args.to_vec() })
}

/// Writes what became of a call into its slot, and wakes who waits for it.
pub(crate) fn finish(memory: &SharedMemory, slot: u32, reply: &Reply) {
    let at = slot_at(slot);
    let message = &reply.message.as_bytes()[..reply.message.floor_char_boundary(MESSAGE_MAX)];
    let mut head = reply.head;
    head.message = u32::try_from(message.len()).unwrap_or(0).into();
    // The slot has room for all of it.
    let _ = memory.write(at + REPLY, head.as_bytes());
    let _ = memory.write(at + MESSAGE, message);
    let result = std::mem::offset_of!(ArgBody, result);
    for (index, outcome) in reply.args.iter().enumerate().take(CALL_ARGS_MAX) {
        let outcome: &ArgResult = outcome;
        let _ = memory.write(at + ARGS + index * size_of::<ArgBody>() + result, outcome.as_bytes());
    }
    let state = word(memory, at + STATE);
    state.store(DONE, SeqCst);
    if word(memory, at + WAITING).load(SeqCst) != 0 {
        let _ = futex::wake(state, futex::Flags::empty(), u32::MAX >> 1);
    }
}
