//! The heap: everything from the image's end to the request window, managed by `talc`. Set up by the entry
//! point; used through `alloc`. Exhaustion ends the machine with the size that was asked for.

use core::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    ptr,
};

use kernlet_abi::Span;
use talc::{TalcCell, source::Manual};

struct Heap {
    talc: TalcCell<Manual>,
    /// Size of the allocation that failed last.
    failed: Cell<usize>,
}

// SAFETY: a machine has one processor and no interrupts, so there is one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { talc: TalcCell::new(Manual), failed: Cell::new(0) };

/// Hands the machine's heap to the allocator. Called once, before the first allocation.
pub(crate) fn init(heap: Span) {
    let base = ptr::with_exposed_provenance_mut(heap.offset as usize);
    // SAFETY: the monitor reserves this range, mapped and writable, for the heap alone.
    unsafe { HEAP.talc.claim(base, heap.len as usize) };
}

/// Size of the allocation that failed last, zero if none did.
pub(crate) fn failed_allocation() -> usize {
    HEAP.failed.get()
}

// SAFETY: every call is passed on to talc, which keeps the contract; a failure is noted and passed on.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.noted(unsafe { self.talc.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { self.talc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        self.noted(unsafe { self.talc.realloc(pointer, layout, size) }, size)
    }
}

impl Heap {
    fn noted(&self, pointer: *mut u8, size: usize) -> *mut u8 {
        if pointer.is_null() {
            self.failed.set(size);
        }
        pointer
    }
}
