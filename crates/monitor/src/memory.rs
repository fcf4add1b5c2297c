//! Guest memory: one private mapping, reached only by volatile copies. Used by the machine and the
//! hypercalls; only `borrow` goes around it. Every access is bounds-checked against the mapping.

use std::{io, ptr::NonNull};

use kernlet_abi::Span;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A guest offset as an index into the mapping.
#[allow(clippy::cast_possible_truncation, reason = "the monitor exists for 64-bit hosts only, asserted below")]
const fn index(offset: u64) -> usize {
    offset as usize
}

const _: () = assert!(size_of::<usize>() == 8);

/// The memory of one machine, from guest-physical address zero.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for GuestMemory {}

/// An access beyond the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

impl GuestMemory {
    /// Maps `size` bytes of zeroes, which take host memory only once touched.
    pub(crate) fn new(size: u64) -> Result<Self, io::Error> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), index(size), ProtFlags::READ | ProtFlags::WRITE, flags) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { base, size })
    }

    /// Host address of the guest's address zero, for KVM.
    pub(crate) fn host_address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    /// Pointer to `span`, if it lies in the mapping.
    pub(crate) fn pointer(&self, span: Span) -> Result<NonNull<u8>, OutOfBounds> {
        let end = span.offset.checked_add(span.len).ok_or(OutOfBounds)?;
        if end > self.size {
            return Err(OutOfBounds);
        }
        // SAFETY: the offset is at most the mapping's size, checked above.
        Ok(unsafe { self.base.add(index(span.offset)) })
    }

    fn slice(&self, offset: u64, len: usize) -> Result<VolatileSlice<'_>, OutOfBounds> {
        let pointer = self.pointer(Span { offset, len: len as u64 })?;
        // SAFETY: `len` bytes from `pointer` are inside the mapping, which lives as long as `self`.
        Ok(unsafe { VolatileSlice::new(pointer.as_ptr(), len) })
    }

    /// Copies bytes out of the guest.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), OutOfBounds> {
        self.slice(offset, to.len())?.copy_to(to);
        Ok(())
    }

    /// Copies bytes into the guest.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.slice(offset, from.len())?.copy_from(from);
        Ok(())
    }

    /// Copies a structure out of the guest; what the guest does to it later has no effect.
    pub(crate) fn load<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, OutOfBounds> {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure into the guest.
    pub(crate) fn store<T: IntoBytes + Immutable>(&self, offset: u64, value: &T) -> Result<(), OutOfBounds> {
        self.write(offset, value.as_bytes())
    }

    /// Copies a span out of the guest.
    pub(crate) fn read_span(&self, span: Span) -> Result<Vec<u8>, OutOfBounds> {
        self.pointer(span)?;
        let mut bytes = vec![0; index(span.len)];
        self.read(span.offset, &mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: base and size are those of the mapping made in `new`; nothing borrows from it any more.
        // Unmapping a whole mapping of one's own cannot fail.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), index(self.size)) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn accesses_beyond_the_mapping_are_refused() {
        let memory = GuestMemory::new(0x2000).unwrap();
        assert_eq!(memory.write(0x1ffe, b"ab"), Ok(()));
        assert_eq!(memory.write(0x1fff, b"ab"), Err(OutOfBounds));
        assert_eq!(memory.read(u64::MAX, &mut [0]), Err(OutOfBounds));
        assert_eq!(memory.load::<u64>(0x1ff9), Err(OutOfBounds));
        assert!(memory.read_span(Span { offset: 0, len: u64::MAX }).is_err());
        assert_eq!(memory.load::<[u8; 2]>(0x1ffe), Ok(*b"ab"));
    }
}
