//! The function's environment, as its deployment gives it. Used by functions.

use crate::hypercall::{boot_page, bytes_at};

/// Names and values.
pub fn vars() -> impl Iterator<Item = (&'static str, &'static str)> {
    // SAFETY: the monitor wrote the environment behind the boot page, where it stays.
    let bytes: &'static [u8] = unsafe { bytes_at(boot_page().environment) };
    bytes.split(|byte| *byte == 0).filter_map(|entry| str::from_utf8(entry).ok()?.split_once('='))
}

/// Value of a variable.
#[must_use]
pub fn var(name: &str) -> Option<&'static str> {
    vars().find(|(found, _)| *found == name).map(|(_, value)| value)
}
