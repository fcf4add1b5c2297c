//! What is specific to a processor architecture. Used by the machine; knows nothing of hypercalls' meaning.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
