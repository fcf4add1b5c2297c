//! libvaccel.so: vAccel 0.8.0's C API on Kernlet's accelerator runtime, for C programs and plugin libraries that were
//! written for vAccel. `include/` has its headers, `functions.txt` the list of what it exports.
//! Called by C only. Never exits or aborts the process, never lets a panic out, and needs no folder to be there.
//!
//! What C promises, here and everywhere below: a pointer is null or points to what its type says, with as much room as
//! the count beside it says, and stays so during the call; memory that it hands over is from `malloc`. What is null,
//! too long, out of order or of another type is an error, never a crash.

#[macro_use]
mod api;
#[macro_use]
mod log;

mod arg;
mod arg_array;
mod arg_list;
mod binding;
mod blob;
mod config;
mod core;
mod errno;
mod file;
mod library;
mod list;
mod memory;
mod ops;
mod pointer;
mod profile;
mod registry;
mod resource;
mod rundir;
mod session;
mod slog;
mod tensor;
mod text;
mod trace;
mod types;
