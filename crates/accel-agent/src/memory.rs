//! Memory that two processes map: a memfd that cannot change its size. The one module here that is `unsafe`.
//! Used by both ends of a unix connection, for the ring and for payload. Never hands out the same byte twice for writing
//! within this process, and never trusts that the other process leaves a byte alone.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU32},
};

use kernlet_accel::Data;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, fstatfs, ftruncate, memfd_create},
    mm::{MapFlags, ProtFlags, mmap, munmap},
};

/// `TMPFS_MAGIC` of `linux/magic.h`: what a memfd of ordinary pages lies on. (One of huge pages does not, and reading it
/// can end a process, by SIGBUS, when there are none left.)
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Seals that keep every byte there as long as it is mapped.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A mapping of a sealed memfd, zeroed where nobody wrote.
///
/// What holds for every access: the mapping stays until this value goes, and its size cannot change, so that an offset
/// that was checked against it stays good. The other process may write at any time. That is why nothing in here is ever
/// a reference to anything but bytes and atomic numbers, for which every bit pattern is valid; who uses a [`Loan`] may
/// see other bytes at a second look, so that what is to be parsed is copied first ([`SharedMemory::read`]).
#[derive(Debug)]
pub(crate) struct SharedMemory {
    base: NonNull<u8>,
    len: usize,
    file: OwnedFd,
    lent: Mutex<Lent>,
}

/// Ranges that are lent out in this process.
#[derive(Debug, Default)]
struct Lent {
    /// For writing, by their start: they do not overlap.
    exclusive: BTreeMap<usize, usize>,
    /// For reading.
    shared: Vec<(usize, usize)>,
}

// SAFETY: the mapping belongs to this value and not to a thread; what is done with it is either atomic, a copy of bytes,
// or through a loan, which no second one overlaps.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

/// Why memory of a peer is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdoptError {
    #[error("it is not sealed against shrinking and growing")]
    Unsealed,
    #[error("it is not a memfd of ordinary pages")]
    NotMemfd,
    #[error("it has {got} bytes; it must have from {min} to {max}")]
    Size { got: u64, min: usize, max: usize },
    #[error("it cannot be mapped: {0}")]
    Map(io::Error),
}

impl SharedMemory {
    /// New memory of this many bytes, which are taken from the system as they are used.
    pub(crate) fn create(len: usize) -> io::Result<Self> {
        let file = memfd_create("kernlet-accel", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, len as u64)?;
        fcntl_add_seals(&file, SIZE_SEALS | SealFlags::SEAL)?;
        Self::map(file, len)
    }

    /// The memory that a peer shares.
    pub(crate) fn adopt(file: OwnedFd, min: usize, max: usize) -> Result<Self, AdoptError> {
        let seals = fcntl_get_seals(&file).map_err(|_| AdoptError::NotMemfd)?;
        if !seals.contains(SIZE_SEALS) {
            return Err(AdoptError::Unsealed);
        }
        let map = |error: rustix::io::Errno| AdoptError::Map(error.into());
        if fstatfs(&file).map_err(map)?.f_type != TMPFS_MAGIC {
            return Err(AdoptError::NotMemfd);
        }
        let got = u64::try_from(fstat(&file).map_err(map)?.st_size).unwrap_or(0);
        match usize::try_from(got) {
            Ok(len) if (min..=max).contains(&len) => Self::map(file, len).map_err(AdoptError::Map),
            _ => Err(AdoptError::Size { got, min, max }),
        }
    }

    fn map(file: OwnedFd, len: usize) -> io::Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice, so that no existing memory is affected.
        let base = unsafe { mmap(ptr::null_mut(), len, rights, flags, &file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("memory was mapped at address zero"))?;
        Ok(Self { base, len, file, lent: Mutex::default() })
    }

    /// Its descriptor, for the peer.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Its length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Where in it bytes of this process lie, if they do.
    pub(crate) fn offset_of(&self, bytes: &[u8]) -> Option<usize> {
        let at = bytes.as_ptr().addr().checked_sub(self.base.as_ptr().addr())?;
        (at.checked_add(bytes.len())? <= self.len && !bytes.is_empty()).then_some(at)
    }

    /// The number at an offset, which both processes change atomically; `None` outside, or unaligned.
    pub(crate) fn word(&self, at: usize) -> Option<&AtomicU32> {
        if !at.is_multiple_of(align_of::<AtomicU32>()) {
            return None;
        }
        let pointer = self.pointer(at, size_of::<AtomicU32>())?;
        // SAFETY: within the mapping, which outlives the reference, and aligned, since mappings begin at a page. All
        // accesses in this process are atomic: words lie in the ring, which is never lent.
        Some(unsafe { AtomicU32::from_ptr(pointer.cast().as_ptr()) })
    }

    /// Copies bytes out; `None` outside. The peer may write meanwhile: then they are whatever it wrote, or a mixture.
    pub(crate) fn read(&self, at: usize, into: &mut [u8]) -> Option<()> {
        let from = self.pointer(at, into.len())?;
        // SAFETY: `from` is valid for as many bytes as `into` has, inside the mapping; `into` is borrowed exclusively, so
        // that it is not part of the mapping (a loan for writing would be exclusive as well, and is not looked at here).
        unsafe { ptr::copy(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        Some(())
    }

    /// Copies bytes in; `None` outside.
    pub(crate) fn write(&self, at: usize, from: &[u8]) -> Option<()> {
        let to = self.pointer(at, from.len())?;
        // SAFETY: as in `read`, the other way round.
        unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), from.len()) };
        Some(())
    }

    fn pointer(&self, at: usize, len: usize) -> Option<NonNull<u8>> {
        if at.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: at most one past the end of the mapping.
        Some(unsafe { self.base.add(at) })
    }

    /// Lends ranges, each for reading or for writing, as long as the loan lives. `None` when one is outside, or overlaps
    /// one that is written, of this loan or of another.
    pub(crate) fn lend(self: &Arc<Self>, ranges: Vec<Lease>) -> Option<Loan> {
        let mut lent = self.lent();
        let mut taken = 0;
        let all = ranges.iter().all(|lease| {
            let fits = lease.range.start <= lease.range.end && lease.range.end <= self.len && lent.add(lease);
            taken += usize::from(fits);
            fits
        });
        if !all {
            ranges.iter().take(taken).for_each(|lease| lent.remove(lease));
            return None;
        }
        drop(lent);
        Some(Loan { memory: Arc::clone(self), ranges })
    }

    fn lent(&self) -> MutexGuard<'_, Lent> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference to it is left: each borrows this value or holds it.
        if let Err(error) = unsafe { munmap(self.base.as_ptr().cast(), self.len) } {
            tracing::warn!(%error, "Shared memory cannot be unmapped");
        }
    }
}

impl Lent {
    /// Whether the range is free for that, which it then is no more.
    fn add(&mut self, lease: &Lease) -> bool {
        let Range { start, end } = lease.range;
        if start == end {
            return true;
        }
        let written = self.exclusive.range(..end).next_back().is_some_and(|(_, &other)| other > start);
        let read = lease.access != Access::In && self.shared.iter().any(|&(from, to)| from < end && start < to);
        if written || read {
            return false;
        }
        if lease.access == Access::In {
            self.shared.push((start, end));
        } else {
            self.exclusive.insert(start, end);
        }
        true
    }

    fn remove(&mut self, lease: &Lease) {
        let Range { start, end } = lease.range;
        if start == end {
            return;
        }
        if lease.access != Access::In {
            self.exclusive.remove(&start);
        } else if let Some(index) = self.shared.iter().position(|range| *range == (start, end)) {
            self.shared.swap_remove(index);
        }
    }
}

/// How a range is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    In,
    Out,
    InOut,
}

/// A range, to be lent.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) range: Range<usize>,
    pub(crate) access: Access,
}

/// Ranges that nobody else in this process has.
#[derive(Debug)]
pub(crate) struct Loan {
    memory: Arc<SharedMemory>,
    ranges: Vec<Lease>,
}

impl Loan {
    /// The ranges as arguments.
    pub(crate) fn data(&mut self) -> Vec<Data<'_>> {
        let memory = &self.memory;
        let data = self.ranges.iter().map(|lease| {
            let len = lease.range.len();
            if len == 0 {
                return match lease.access {
                    Access::In => Data::In(&[]),
                    Access::Out => Data::Out(&mut []),
                    Access::InOut => Data::InOut(&mut []),
                };
            }
            // SAFETY: `lend` checked that the range lies within the mapping.
            let pointer = unsafe { memory.base.add(lease.range.start) }.as_ptr();
            // SAFETY, for the slices below: `pointer` is valid for `len` bytes of the mapping, which `self.memory` keeps.
            // Within this process no other reference to a byte that is written exists: `lend` refused ranges that
            // overlap, of this loan or another, and this loan is borrowed exclusively for as long as the slices live.
            // The other process may write: plugins take from these bytes numbers only, for which every bit pattern is
            // valid, and no length, index or pointer, so that a value which changes between two looks makes a wrong
            // result for the process that changed it, and nothing else.
            match lease.access {
                // SAFETY: see above.
                Access::In => Data::In(unsafe { std::slice::from_raw_parts(pointer, len) }),
                // SAFETY: see above.
                Access::Out => Data::Out(unsafe { std::slice::from_raw_parts_mut(pointer, len) }),
                // SAFETY: see above.
                Access::InOut => Data::InOut(unsafe { std::slice::from_raw_parts_mut(pointer, len) }),
            }
        });
        data.collect()
    }

    /// The bytes of the first range.
    pub(crate) fn bytes(&self) -> &[u8] {
        let Some(lease) = self.ranges.first().filter(|lease| !lease.range.is_empty()) else { return &[] };
        // SAFETY: `lend` checked that the range lies within the mapping.
        let pointer = unsafe { self.memory.base.add(lease.range.start) }.as_ptr();
        // SAFETY: as in `data`; the loan is borrowed, so that nobody here writes.
        unsafe { std::slice::from_raw_parts(pointer, lease.range.len()) }
    }

    /// The bytes of the first range, to be written; none when it was lent for reading.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let lease = self.ranges.first().filter(|lease| !lease.range.is_empty() && lease.access != Access::In);
        let Some(lease) = lease else { return &mut [] };
        // SAFETY: `lend` checked that the range lies within the mapping.
        let pointer = unsafe { self.memory.base.add(lease.range.start) }.as_ptr();
        // SAFETY: as in `data`; the loan is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(pointer, lease.range.len()) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut lent = self.memory.lent();
        self.ranges.iter().for_each(|lease| lent.remove(lease));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use std::sync::atomic::Ordering;

    use super::*;

    fn lease(range: Range<usize>, access: Access) -> Lease {
        Lease { range, access }
    }

    #[test]
    fn what_one_mapping_writes_the_other_reads() {
        let one = SharedMemory::create(8192).unwrap();
        let other = SharedMemory::adopt(one.file().try_clone_to_owned().unwrap(), 1, 8192).unwrap();
        one.write(100, b"hello").unwrap();
        let mut read = [0; 5];
        other.read(100, &mut read).unwrap();
        assert_eq!(&read, b"hello");
        other.word(8).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(one.word(8).unwrap().load(Ordering::Relaxed), 7);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let memory = Arc::new(SharedMemory::create(4096).unwrap());
        assert!(memory.write(4095, b"ab").is_none());
        assert!(memory.read(usize::MAX, &mut [0; 2]).is_none());
        assert!(memory.word(4094).is_none() && memory.word(4096).is_none() && memory.word(1).is_none());
        assert!(memory.lend(vec![lease(4000..4097, Access::In)]).is_none());
        #[allow(clippy::reversed_empty_ranges, reason = "that is what is tried")]
        let reversed = 8..4;
        assert!(memory.lend(vec![lease(reversed, Access::In)]).is_none());
    }

    #[test]
    fn a_range_that_is_written_is_lent_once() {
        let memory = Arc::new(SharedMemory::create(4096).unwrap());
        let written = memory.lend(vec![lease(64..128, Access::Out)]).unwrap();
        assert!(memory.lend(vec![lease(127..129, Access::In)]).is_none());
        assert!(memory.lend(vec![lease(0..65, Access::InOut)]).is_none());
        let read = memory.lend(vec![lease(0..64, Access::In), lease(0..64, Access::In)]).unwrap();
        assert!(memory.lend(vec![lease(128..256, Access::Out), lease(32..33, Access::InOut)]).is_none());
        drop((written, read));
        let loan = memory.lend(vec![lease(0..256, Access::InOut), lease(0..0, Access::Out)]);
        assert_eq!(loan.unwrap().data().len(), 2);
        assert!(memory.lend(vec![lease(0..8, Access::Out), lease(4..12, Access::In)]).is_none());
        assert!(memory.lend(vec![lease(0..8, Access::Out)]).is_some(), "what was refused holds nothing");
    }

    #[test]
    fn memory_that_could_shrink_under_our_feet_is_refused() {
        let unsealed = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&unsealed, 4096).unwrap();
        let half = unsealed.try_clone().unwrap();
        assert!(matches!(SharedMemory::adopt(unsealed, 1, 8192), Err(AdoptError::Unsealed)));
        fcntl_add_seals(&half, SealFlags::GROW).unwrap();
        assert!(matches!(SharedMemory::adopt(half, 1, 8192), Err(AdoptError::Unsealed)));
        let file = tempfile::tempfile().unwrap();
        assert!(matches!(SharedMemory::adopt(file.into(), 1, 8192), Err(AdoptError::Unsealed | AdoptError::NotMemfd)));
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert!(matches!(SharedMemory::adopt(pipe, 1, 8192), Err(AdoptError::NotMemfd)));
        let small = SharedMemory::create(4096).unwrap().file().try_clone_to_owned().unwrap();
        assert!(matches!(SharedMemory::adopt(small, 8192, 8192), Err(AdoptError::Size { got: 4096, .. })));
    }
}
