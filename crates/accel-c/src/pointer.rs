//! What C hands over, as types: pointers that may be null, with the count that belongs to them.
//! Used by every function of the API. Never looks at more than the count says.

use std::{
    ffi::{CStr, c_char},
    marker::PhantomData,
    mem::MaybeUninit,
};

use crate::errno::{EINVAL, Result};

/// Where a result goes that C need not have initialized.
pub(crate) type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// The place of a result.
pub(crate) fn out<T>(place: Out<'_, T>) -> Result<&mut MaybeUninit<T>> {
    place.ok_or(EINVAL)
}

/// A string of C's.
#[repr(transparent)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a>(*const c_char, PhantomData<&'a CStr>);

impl<'a> Text<'a> {
    /// The string, unless it is null.
    pub(crate) fn get(self) -> Option<&'a CStr> {
        if self.0.is_null() {
            return None;
        }
        // SAFETY: C promises that strings end with a zero and stay as they are during the call.
        Some(unsafe { CStr::from_ptr(self.0) })
    }

    /// The string; null is an error.
    pub(crate) fn required(self) -> Result<&'a CStr> {
        self.get().ok_or(EINVAL)
    }
}

/// Values of C's, whose count comes with them.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Items<'a, T>(*const T, PhantomData<&'a [T]>);

impl<T> Clone for Items<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Items<'_, T> {}

impl<'a, T> Items<'a, T> {
    /// Whether there are none.
    pub(crate) const fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// Where they are.
    pub(crate) const fn address(self) -> *const T {
        self.0
    }

    /// The values; null is an error unless there are none, as is an address that no `T` can have.
    ///
    /// # Safety
    /// `count` is what C gave with the pointer.
    pub(crate) unsafe fn slice(self, count: usize) -> Result<&'a [T]> {
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() || !self.0.is_aligned() || !fits::<T>(count) {
            return Err(EINVAL);
        }
        // SAFETY: C promises `count` values there, and the address and length are possible.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) })
    }
}

/// Values of C's that are written, whose count comes with them.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct ItemsMut<'a, T>(*mut T, PhantomData<&'a mut [T]>);

impl<'a, T> ItemsMut<'a, T> {
    /// The values at an address.
    pub(crate) const fn at(address: *mut T) -> Self {
        Self(address, PhantomData)
    }

    /// Whether there are none.
    pub(crate) const fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// Where they are.
    pub(crate) const fn address(&self) -> *mut T {
        self.0
    }

    /// The values; null is an error unless there are none, as is an address that no `T` can have.
    ///
    /// # Safety
    /// `count` is what C gave with the pointer, and nothing else uses the values during the call.
    pub(crate) unsafe fn slice(self, count: usize) -> Result<&'a mut [T]> {
        if count == 0 {
            return Ok(&mut []);
        }
        if self.0.is_null() || !self.0.is_aligned() || !fits::<T>(count) {
            return Err(EINVAL);
        }
        // SAFETY: C promises `count` values there that are the call's alone; the address and length are possible.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0, count) })
    }
}

/// Whether so many values can be in memory at all.
fn fits<T>(count: usize) -> bool {
    count.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok())
}
