//! Memory for payload in what a connection shares: buffers that the agent uses where they are.
//! Used by connections and by whoever allocates from them. Never gives a byte to somebody else while a call may use it.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

use crate::{
    link::lock,
    memory::{Access, Lease, Loan, SharedMemory},
    ring::PAYLOAD,
};

/// Buffers begin at multiples of a cache line.
const ALIGN: usize = 64;

/// The payload part of shared memory.
#[derive(Debug)]
pub(crate) struct Arena {
    pub(crate) memory: Arc<SharedMemory>,
    blocks: Mutex<Blocks>,
}

/// Free ranges by their start, and the others.
#[derive(Debug)]
struct Blocks {
    free: BTreeMap<usize, usize>,
    taken: BTreeMap<usize, Taken>,
}

#[derive(Debug)]
struct Taken {
    len: usize,
    /// Its owner, and calls that use it.
    holders: usize,
}

/// Keeps a range from being given to somebody else.
#[derive(Debug)]
pub(crate) struct Hold {
    arena: Arc<Arena>,
    at: usize,
}

impl Hold {
    pub(crate) const fn at(&self) -> usize {
        self.at
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.arena.blocks).release(self.at);
    }
}

impl Arena {
    pub(crate) fn new(memory: Arc<SharedMemory>) -> Self {
        let free = BTreeMap::from([(PAYLOAD, memory.len() - PAYLOAD)]);
        Self { memory, blocks: Mutex::new(Blocks { free, taken: BTreeMap::new() }) }
    }

    /// Room for so many bytes; `None` when there is none.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<Hold> {
        let at = lock(&self.blocks).take(len.checked_next_multiple_of(ALIGN)?.max(ALIGN))?;
        Some(Hold { arena: Arc::clone(self), at })
    }

    /// Keeps the buffer in which these bytes lie; where they lie.
    pub(crate) fn hold(self: &Arc<Self>, bytes: &[u8]) -> Option<(Hold, usize)> {
        let at = self.memory.offset_of(bytes)?;
        let mut blocks = lock(&self.blocks);
        let (&start, taken) = blocks.taken.range_mut(..=at).next_back()?;
        if at + bytes.len() > start + taken.len {
            return None;
        }
        taken.holders += 1;
        drop(blocks);
        Some((Hold { arena: Arc::clone(self), at: start }, at))
    }

    /// A buffer of zeros or of what was left there, whoever asks first.
    pub(crate) fn buffer(self: &Arc<Self>, len: usize) -> Option<SharedBuffer> {
        let hold = self.take(len)?;
        let lease = Lease { range: hold.at..hold.at + len, access: Access::InOut };
        let loan = self.memory.lend(vec![lease])?;
        Some(SharedBuffer { loan, _hold: hold, len })
    }
}

impl Blocks {
    /// The first free range that is long enough.
    fn take(&mut self, len: usize) -> Option<usize> {
        let (&at, &room) = self.free.iter().find(|(_, room)| **room >= len)?;
        self.free.remove(&at);
        if room > len {
            self.free.insert(at + len, room - len);
        }
        self.taken.insert(at, Taken { len, holders: 1 });
        Some(at)
    }

    fn release(&mut self, at: usize) {
        let Some(taken) = self.taken.get_mut(&at) else { return };
        taken.holders -= 1;
        if taken.holders > 0 {
            return;
        }
        let (mut start, mut len) = (at, taken.len);
        self.taken.remove(&at);
        if let Some(next) = self.free.remove(&(start + len)) {
            len += next;
        }
        if let Some((&before, &room)) = self.free.range(..start).next_back()
            && before + room == start
        {
            (start, len) = (before, len + room);
        }
        self.free.insert(start, len);
    }
}

/// Bytes in memory that the agent has as well: passed to a call they are not copied. They belong to this side, but an
/// agent that is hostile can change them at any time.
pub struct SharedBuffer {
    loan: Loan,
    _hold: Hold,
    len: usize,
}

impl fmt::Debug for SharedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBuffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Deref for SharedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.loan.bytes()
    }
}

impl DerefMut for SharedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.loan.bytes_mut()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    fn arena(len: usize) -> Arc<Arena> {
        Arc::new(Arena::new(Arc::new(SharedMemory::create(PAYLOAD + len).unwrap())))
    }

    #[test]
    fn what_is_given_back_is_given_again_as_a_whole() {
        let arena = arena(4096);
        let buffers: Vec<_> = (0..4).map(|_| arena.buffer(1024).unwrap()).collect();
        assert!(arena.buffer(1).is_none());
        let mut order = [2, 0, 3, 1].into_iter();
        let mut buffers: Vec<_> = buffers.into_iter().map(Some).collect();
        order.by_ref().for_each(|index| drop(buffers[index].take()));
        assert_eq!(arena.buffer(4096).unwrap().len(), 4096);
    }

    #[test]
    fn a_buffer_that_a_call_uses_is_not_given_to_anybody_else() {
        let arena = arena(1024);
        let mut buffer = arena.buffer(1000).unwrap();
        buffer[..5].copy_from_slice(b"hello");
        let (hold, at) = arena.hold(&buffer[1..3]).unwrap();
        assert_eq!(at, PAYLOAD + 1);
        drop(buffer);
        assert!(arena.buffer(64).is_none(), "a call still uses it");
        drop(hold);
        assert!(arena.buffer(64).is_some());
    }

    #[test]
    fn bytes_from_elsewhere_are_not_in_it() {
        let arena = arena(1024);
        assert!(arena.hold(b"elsewhere").is_none());
        assert!(arena.buffer(usize::MAX).is_none() && arena.buffer(2048).is_none());
        assert!(arena.buffer(0).unwrap().is_empty());
    }
}
