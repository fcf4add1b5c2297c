//! Memory that C and the library hand to each other: malloc's, so that either side may free it.
//! Used by whatever makes structs, strings or arrays for C. Never frees what it was not told to.

use std::{
    ffi::{CStr, c_char, c_void},
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use crate::{
    errno::{EINVAL, ENOMEM, Result},
    pointer::{Out, out},
};

/// Zeroed memory.
pub(crate) fn zeroed(size: usize) -> Result<NonNull<c_void>> {
    // SAFETY: calloc takes any numbers. One byte at least, since it may return null for none.
    NonNull::new(unsafe { libc::calloc(1, size.max(1)) }).ok_or(ENOMEM)
}

/// Zeroed memory for an array.
pub(crate) fn array<T>(count: usize) -> Result<*mut T> {
    let size = count.checked_mul(size_of::<T>()).ok_or(ENOMEM)?;
    Ok(zeroed(size)?.as_ptr().cast())
}

/// A copy of bytes.
pub(crate) fn copy(bytes: &[u8]) -> Result<*mut c_void> {
    let place = zeroed(bytes.len())?.as_ptr();
    // SAFETY: the memory is new and as long.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast::<u8>(), bytes.len()) };
    Ok(place)
}

/// A copy of an array of plain values.
pub(crate) fn copy_array<T: Copy>(values: &[T]) -> Result<*mut T> {
    let place = array::<T>(values.len())?;
    // SAFETY: the memory is new and as long, and malloc's alignment is enough for every type of the API.
    unsafe { ptr::copy_nonoverlapping(values.as_ptr(), place, values.len()) };
    Ok(place)
}

/// A copy of a string.
pub(crate) fn copy_text(text: &CStr) -> Result<*mut c_char> {
    Ok(copy(text.to_bytes_with_nul())?.cast())
}

/// A copy of a string that may be missing.
pub(crate) fn copy_optional(text: Option<&CStr>) -> Result<*mut c_char> {
    text.map_or(Ok(ptr::null_mut()), copy_text)
}

/// Frees memory of malloc's.
///
/// # Safety
/// The pointer is null or malloc's, and nobody uses what it points to any more.
pub(crate) unsafe fn free<T>(pointer: *mut T) {
    // SAFETY: as promised by the caller.
    unsafe { libc::free(pointer.cast()) }
}

/// Frees what a field of a struct points to, and forgets it.
///
/// # Safety
/// As for [`free`].
pub(crate) unsafe fn free_field<T>(field: &mut *mut T) {
    // SAFETY: as promised by the caller.
    unsafe { free(std::mem::replace(field, ptr::null_mut())) }
}

/// Makes a struct on the heap, as `*_new` functions do: room for it, then `init`, then the caller's pointer.
pub(crate) fn new<T>(place: Out<'_, *mut T>, init: impl FnOnce(&mut MaybeUninit<T>) -> Result) -> Result {
    let place = out(place)?;
    let object = array::<T>(1)?;
    // SAFETY: the memory is new and of that size.
    let result = init(unsafe { &mut *object.cast::<MaybeUninit<T>>() });
    if result.is_err() {
        // SAFETY: it is the memory from above, which nobody got.
        unsafe { free(object) };
        return result;
    }
    place.write(object);
    Ok(())
}

/// Releases a struct on the heap and frees it, as `*_delete` functions do.
pub(crate) fn delete<T>(object: Option<NonNull<T>>, release: impl FnOnce(&mut T) -> Result) -> Result {
    let mut object = object.ok_or(EINVAL)?;
    // SAFETY: C promises that it is a struct that a `*_new` function made and that nobody else uses.
    release(unsafe { object.as_mut() })?;
    // SAFETY: the struct is malloc's, and the reference is gone.
    unsafe { free(object.as_ptr()) };
    Ok(())
}
