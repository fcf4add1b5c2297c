//! Calls a function the way vAccel's libraries expect it: arrays of arguments that are read and that are written.
//! Called by the plugin. Never believes what a function says about its results beyond the room that it was given.
#![allow(unsafe_code, reason = "it calls a C function")]

use std::{
    ffi::{c_int, c_void},
    fmt,
};

use kernlet_accel::{
    Done, Dtype, PluginError,
    operation::{TypedIn, TypedOut},
};
use libloading::os::unix;

/// vAccel's `struct vaccel_arg` (0.8.0, x86-64): 32 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct VaccelArg {
    buf: *mut c_void,
    size: usize,
    kind: u32,
    custom_type_id: u32,
    owned: bool,
}

const _: () = assert!(size_of::<VaccelArg>() == 32);

/// The largest number of an error of Linux's.
const ERRNO_MAX: c_int = 4095;

/// A function that is called.
pub(super) type Callee = unsafe extern "C" fn(*mut VaccelArg, usize, *mut VaccelArg, usize) -> c_int;

/// One of a library that is open.
pub(super) struct Function<'l> {
    callee: unix::Symbol<Callee>,
    library: std::marker::PhantomData<&'l ()>,
}

impl Function<'_> {
    pub(super) const fn new(callee: unix::Symbol<Callee>) -> Self {
        Self { callee, library: std::marker::PhantomData }
    }
}

impl fmt::Debug for Function<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function").finish_non_exhaustive()
    }
}

/// What a function did that it may not.
#[derive(Debug, thiserror::Error)]
enum BadResult {
    #[error("function `{function}` says that it wrote {size} bytes to argument {index}, which has room for {room}")]
    TooMuch { function: String, index: usize, size: usize, room: usize },
    #[error("function `{function}` put argument {index} into memory of its own instead of where it was asked for")]
    Elsewhere { function: String, index: usize },
}

/// Calls it on these arguments, in place.
pub(super) fn call(
    function: &Function<'_>,
    name: &str,
    read: &[TypedIn<'_>],
    write: &mut [TypedOut<'_>],
) -> Result<Done, PluginError> {
    let argument = |buf: *mut u8, size, dtype, custom, array| VaccelArg {
        buf: buf.cast(),
        size,
        kind: kind(dtype, array),
        custom_type_id: custom,
        owned: false,
    };
    let mut inputs: Vec<_> = read
        .iter()
        .map(|arg| argument(arg.bytes.as_ptr().cast_mut(), arg.bytes.len(), arg.dtype, arg.custom, arg.array))
        .collect();
    let mut outputs: Vec<_> = write
        .iter_mut()
        .map(|arg| argument(arg.bytes.as_mut_ptr(), arg.bytes.len(), arg.dtype, arg.custom, arg.array))
        .collect();
    let given: Vec<_> = outputs.iter().map(|output| output.buf).collect();
    // SAFETY: the function is of a library that the host allows, which means that it was read: it has this type, reads
    // the inputs, writes the outputs within their sizes, and keeps none of them. All are borrowed until after the call.
    let code = unsafe { (function.callee)(inputs.as_mut_ptr(), inputs.len(), outputs.as_mut_ptr(), outputs.len()) };
    if code != 0 {
        // The numbers of vAccel's errors are Linux's; what is none is a failure.
        let status = if (1..=ERRNO_MAX).contains(&code) { code } else { libc::EIO };
        return Err(PluginError::Elsewhere { status, message: format!("function `{name}` returned {code}") });
    }
    for (index, ((output, given), arg)) in outputs.iter().zip(given).zip(write).enumerate() {
        if output.buf != given {
            return Err(PluginError::failed(BadResult::Elsewhere { function: name.to_owned(), index }));
        }
        if output.size > arg.bytes.len() {
            let (size, room) = (output.size, arg.bytes.len());
            return Err(PluginError::failed(BadResult::TooMuch { function: name.to_owned(), index, size, room }));
        }
        *arg.written = output.size as u64;
    }
    Ok(Done::default())
}

/// vAccel's number of a type (`vaccel_arg_type_t`): those of arrays follow those of single values.
const fn kind(dtype: Dtype, array: bool) -> u32 {
    let single = match dtype {
        Dtype::I8 => 1,
        Dtype::I16 => 3,
        Dtype::I32 => 5,
        Dtype::I64 => 7,
        Dtype::U8 => 9,
        Dtype::U16 => 11,
        Dtype::U32 => 13,
        Dtype::U64 => 15,
        Dtype::F32 => 17,
        Dtype::F64 => 19,
        Dtype::Bool => 21,
        Dtype::Char => 23,
        Dtype::Uchar => 25,
        Dtype::Text => return 27,
        Dtype::Buffer => return 28,
        Dtype::Custom => return 29,
        Dtype::Bytes | Dtype::F16 | Dtype::Bf16 | Dtype::Any => return 0,
    };
    if array { single + 1 } else { single }
}
