//! How the functions of the C API are written: as Rust functions that return a `Result`, with a fence against panics.
//! Used by every module that has such functions. Never lets a panic reach C.

use std::panic::{AssertUnwindSafe, catch_unwind};

use libc::c_int;

use crate::errno::{EBACKEND, Result};

/// Defines functions of the C API: those without a result type return 0 or an error number.
macro_rules! api {
    () => {};
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block $($rest:tt)*) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> ::libc::c_int {
            $crate::api::status(move || $body)
        }
        api! { $($rest)* }
    };
    ($(#[$attribute:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $result:ty $body:block $($rest:tt)*) => {
        $(#[$attribute])*
        #[unsafe(no_mangle)]
        extern "C" fn $name($($argument: $type),*) -> $result {
            $crate::api::value(move || $body)
        }
        api! { $($rest)* }
    };
}

/// A result as C has it.
pub(crate) fn status(body: impl FnOnce() -> Result) -> c_int {
    // What a panic leaves half done is behind locks that are taken all the same, or the caller's own memory.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(errno)) => errno.get(),
        Err(_) => EBACKEND.get(),
    }
}

/// What a function without an error returns.
pub(crate) trait Fallback {
    /// What C gets instead of a panic.
    const FALLBACK: Self;
}

/// A value for C.
pub(crate) fn value<T: Fallback>(body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(T::FALLBACK)
}

impl Fallback for () {
    const FALLBACK: Self = ();
}
impl Fallback for bool {
    const FALLBACK: Self = false;
}
impl Fallback for usize {
    const FALLBACK: Self = 0;
}
impl Fallback for libc::c_long {
    const FALLBACK: Self = -(libc::EPROTO as Self);
}
impl<T> Fallback for *mut T {
    const FALLBACK: Self = std::ptr::null_mut();
}
impl<T> Fallback for *const T {
    const FALLBACK: Self = std::ptr::null();
}
