//! `solo5-hvt`, as a program of its own: what `kernlet solo5-hvt` is, without the platform, which takes longer to load than
//! a short guest to run. Called by people, scripts and container runtimes. The C library starts it, without what Rust does
//! before a program's `main`, of which [`kernlet_tender::main`] does what matters here.
#![no_main]

use std::ffi::{c_char, c_int};

// SAFETY: this is the `main` that the C library calls, with this signature; nothing else here has that name.
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    kernlet_tender::main(kernlet_tender::Target::Hvt).into()
}
