//! The function's log: `log::info!("…")` and its kin write one line each, marked with the call id. Used by
//! functions. A line longer than 16 KiB is cut.

use core::fmt;

use alloc::fmt::format;
use kernlet_abi::hypercall::{CallHead, Log, number};

use crate::hypercall;

/// Severity of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Level {
    /// Something failed.
    Error = 1,
    /// Something may fail soon.
    Warn = 2,
    /// What a reader of the log wants to know.
    Info = 3,
    /// What the author of the function wants to know.
    Debug = 4,
    /// Every step.
    Trace = 5,
}

/// Writes one line.
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let owned;
    let text = match message.as_str() {
        Some(text) => text,
        None => {
            owned = format(message);
            &owned
        }
    };
    let head = CallHead { number: number::LOG, status: 0 };
    let message = hypercall::span(text.as_bytes());
    hypercall::call(&mut Log { head, level: level as u32, reserved: 0, message });
}

/// Writes an error line; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($argument:tt)*) => {
        $crate::log::write($crate::log::Level::Error, ::core::format_args!($($argument)*))
    };
}

/// Writes a warning line; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($argument:tt)*) => {
        $crate::log::write($crate::log::Level::Warn, ::core::format_args!($($argument)*))
    };
}

/// Writes an information line; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($argument:tt)*) => {
        $crate::log::write($crate::log::Level::Info, ::core::format_args!($($argument)*))
    };
}

/// Writes a debug line; takes what `format!` takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($argument:tt)*) => {
        $crate::log::write($crate::log::Level::Debug, ::core::format_args!($($argument)*))
    };
}

#[doc(inline)]
pub use {__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};
