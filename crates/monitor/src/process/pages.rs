//! Which pages of a machine's memory are there at all, and how they become the template's again. Used by the process
//! backend, which has no log of the pages that a guest wrote: it looks at all that the host had to give.

use std::{io, ops::Range, os::fd::BorrowedFd, ptr::NonNull};

use kernlet_abi::{Span, map::PAGE_SIZE};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::memory::{FrozenMemory, GuestMemory, OutOfBounds, zero_page};

/// Pages beyond the template's from which on a rewind gives them back to the host instead of comparing them: 8 MiB, so
/// that a function that once touched much memory does not keep it.
const DROP_ABOVE: u64 = 2048;

const ZEROES: [u8; 4096] = [0; 4096];
const _: () = assert!(ZEROES.len() as u64 == PAGE_SIZE);

/// The pages of a template that are not all zero: addresses, ascending.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    held: Vec<u64>,
}

impl Pages {
    /// Those of a stopped guest.
    pub(crate) fn that_hold_something(memory: &GuestMemory) -> io::Result<Self> {
        let mut held = Vec::new();
        for extent in extents(memory)? {
            for page in extent.step_by(STEP) {
                if !is_zero(ours(memory, page)?) {
                    held.push(page);
                }
            }
        }
        Ok(Self { held })
    }

    /// A template of them.
    pub(crate) fn freeze(&self, memory: &GuestMemory) -> io::Result<FrozenMemory> {
        let copy = GuestMemory::new(memory.size())?;
        let mut contents = ZEROES;
        for &page in &self.held {
            memory.read(page, &mut contents)?;
            copy.fill(page, &contents)?;
        }
        copy.into_frozen()
    }

    /// Copies them into memory that is all zero.
    pub(crate) fn copy(&self, from: &FrozenMemory, to: &GuestMemory) -> io::Result<()> {
        for &page in &self.held {
            copy_page(theirs(from, page)?, ours(to, page)?);
        }
        Ok(())
    }

    /// Makes a stopped guest's memory equal to the template's.
    pub(crate) fn restore(&self, template: &FrozenMemory, memory: &GuestMemory) -> io::Result<()> {
        let extents = extents(memory)?;
        if count(&extents) > self.held.len() as u64 + DROP_ABOVE {
            fallocate(file(memory)?, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, memory.size())?;
            return self.copy(template, memory);
        }
        // Both ascend. A page that the template holds is never missing: nothing but the line above takes pages away.
        let mut held = self.held.iter().copied().peekable();
        for page in extents.into_iter().flat_map(|extent| extent.step_by(STEP)) {
            let now = ours(memory, page)?;
            while held.next_if(|held| *held < page).is_some() {}
            if held.next_if_eq(&page).is_none() {
                // SAFETY: a whole page; the guest is stopped, and nothing is borrowed from its memory.
                unsafe { zero_page(now) };
                continue;
            }
            let kept = theirs(template, page)?;
            if !equal(kept, now) {
                copy_page(kept, now);
            }
        }
        Ok(())
    }
}

/// How many pages the host has given to a machine's memory.
pub(crate) fn there(memory: &GuestMemory) -> io::Result<u64> {
    extents(memory).map(|extents| count(&extents))
}

fn count(extents: &[Range<u64>]) -> u64 {
    extents.iter().map(|extent| (extent.end - extent.start) / PAGE_SIZE).sum()
}

/// A page, as a step between addresses.
const STEP: usize = ZEROES.len();

/// Runs of pages that the host has given to a machine's memory.
fn extents(memory: &GuestMemory) -> io::Result<Vec<Range<u64>>> {
    let file = file(memory)?;
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < memory.size() {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No more data.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(memory.size());
        extents.push(start..end);
        at = end;
    }
    Ok(extents)
}

fn file(memory: &GuestMemory) -> io::Result<BorrowedFd<'_>> {
    Ok(memory.file().ok_or(OutOfBounds)?)
}

/// A whole page of a stopped guest.
fn ours(memory: &GuestMemory, page: u64) -> Result<NonNull<u8>, OutOfBounds> {
    memory.pointer(Span { offset: page, len: PAGE_SIZE })
}

/// A whole page of a template.
fn theirs(template: &FrozenMemory, page: u64) -> Result<NonNull<u8>, OutOfBounds> {
    template.pointer(Span { offset: page, len: PAGE_SIZE })
}

fn is_zero(page: NonNull<u8>) -> bool {
    equal(page, NonNull::from(&ZEROES).cast())
}

/// Whether two pages, as [`ours`] and [`theirs`] give them, hold the same.
fn equal(one: NonNull<u8>, other: NonNull<u8>) -> bool {
    // SAFETY: both are whole pages of memory that is mapped and does not change; no reference is made to it.
    unsafe { libc::memcmp(one.as_ptr().cast(), other.as_ptr().cast(), STEP) == 0 }
}

/// Copies a page, as [`theirs`] gives it, to one of a stopped guest.
fn copy_page(from: NonNull<u8>, to: NonNull<u8>) {
    // SAFETY: both are whole pages, of different mappings; the guest is stopped, and nothing is borrowed from its
    // memory.
    unsafe { from.copy_to_nonoverlapping(to, STEP) };
}
