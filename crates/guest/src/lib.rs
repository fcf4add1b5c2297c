//! The library that a function links: entry point, heap, request loop, and what a guest may ask the monitor
//! for. Called by functions; it talks to nothing but the hypercall page.
//!
//! ```ignore
//! #![no_std]
//! #![no_main]
//! use kernlet_guest::{Request, Response, function};
//!
//! function!(echo);
//!
//! fn echo(request: &Request) -> Response<'_> {
//!     Response::ok(request.body())
//! }
//! ```
#![no_std]
#![allow(
    clippy::cast_possible_truncation,
    reason = "a guest is 64-bit and its memory ends below 4 GiB, so lengths fit both usize and u32"
)]

extern crate alloc;

pub mod accel;
pub mod clock;
pub mod entropy;
mod entry;
pub mod env;
mod global;
mod heap;
mod hypercall;
pub mod log;
mod mem;
mod panic;
mod request;
mod response;

pub use entry::serve;
pub use global::Global;
pub use request::Request;
pub use response::Response;

/// Makes a crate a function: names what answers its requests, and optionally what runs once before the first.
///
/// `function!(handler)` or `function!(handler, init)`, with `fn handler(&Request) -> Response<'_>` and
/// `fn init()`. What `init` leaves in statics is what every request finds.
#[macro_export]
macro_rules! function {
    ($handler:path) => {
        $crate::function!($handler, ::core::convert::identity::<()>, ());
    };
    ($handler:path, $init:path) => {
        $crate::function!($handler, $init,);
    };
    ($handler:path, $init:path, $($argument:expr)?) => {
        /// Called once by the entry point, with the heap ready.
        #[unsafe(no_mangle)]
        extern "Rust" fn kernlet_function() -> ! {
            $init($($argument)?);
            $crate::serve($handler)
        }
    };
}
