//! The doubly linked lists inside of C's structs.
//! Kept by the registry for programs that look at them; the library itself never does.

use std::ptr;

use crate::types::ListEntry;

/// Makes an entry an empty list.
pub(crate) fn clear(list: &mut ListEntry) {
    let this = ptr::from_mut(list);
    *list = ListEntry { next: this, prev: this };
}

/// Adds an entry at a list's end.
///
/// # Safety
/// Both are alive, and the list is one.
pub(crate) unsafe fn push(list: *mut ListEntry, entry: *mut ListEntry) {
    // SAFETY: the list is alive, and so is the last of its entries.
    let last = unsafe { (*list).prev };
    // SAFETY: the entry is alive.
    unsafe { *entry = ListEntry { next: list, prev: last } };
    // SAFETY: the last entry of a list is alive.
    unsafe { (*last).next = entry };
    // SAFETY: the list is alive.
    unsafe { (*list).prev = entry };
}

/// Takes an entry out of its list.
///
/// # Safety
/// The entry and its neighbours are alive.
pub(crate) unsafe fn remove(entry: *mut ListEntry) {
    // SAFETY: the entry is alive.
    let ListEntry { next, prev } = unsafe { *entry };
    // SAFETY: its neighbours are alive.
    unsafe { (*prev).next = next };
    // SAFETY: as above.
    unsafe { (*next).prev = prev };
    // SAFETY: the entry is alive.
    clear(unsafe { &mut *entry });
}
