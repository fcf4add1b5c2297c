//! Operations whose arguments only their callee understands. Used by functions. The host checks no more of them than
//! that they lie in the machine's memory.

use kernlet_abi::accel::{AccelArg, ResourceParams, access, dtype, operation};
use zerocopy::IntoBytes as _;

use super::{
    AccelError, Batch, Element, Resource,
    call::{Arguments, Call, MOST},
};
use crate::hypercall::{span, span_mut};

/// An argument that the callee reads.
#[derive(Clone, Copy, Debug)]
pub struct TypedIn<'a> {
    /// One of [`super::dtype`].
    pub dtype: u32,
    /// Which type of [`super::dtype::CUSTOM`]; zero for others.
    pub custom: u32,
    /// Whether it is an array, be it of one element, rather than a single value.
    pub array: bool,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> TypedIn<'a> {
    /// A single value.
    #[must_use]
    pub fn value<T: Element>(value: &'a T) -> Self {
        Self { dtype: T::DTYPE, custom: 0, array: false, bytes: value.as_bytes() }
    }

    /// An array of values.
    #[must_use]
    pub fn array<T: Element>(values: &'a [T]) -> Self {
        Self { dtype: T::DTYPE, custom: 0, array: true, bytes: values.as_bytes() }
    }

    /// Text.
    #[must_use]
    pub const fn text(text: &'a str) -> Self {
        Self { dtype: dtype::STRING, custom: 0, array: false, bytes: text.as_bytes() }
    }

    /// Bytes without a type.
    #[must_use]
    pub const fn bytes(bytes: &'a [u8]) -> Self {
        Self { dtype: dtype::BYTES, custom: 0, array: false, bytes }
    }

    /// Bytes of a type that function and callee agreed on.
    #[must_use]
    pub const fn custom(custom: u32, bytes: &'a [u8]) -> Self {
        Self { dtype: dtype::CUSTOM, custom, array: false, bytes }
    }

    fn arg(&self) -> AccelArg {
        described(AccelArg { data: span(self.bytes), access: access::IN, ..AccelArg::default() }, *self)
    }
}

/// An argument that the callee writes; what it held before can be read.
#[derive(Debug)]
pub struct TypedOut<'a> {
    /// One of [`super::dtype`].
    pub dtype: u32,
    /// Which type of [`super::dtype::CUSTOM`]; zero for others.
    pub custom: u32,
    /// Whether it is an array, be it of one element, rather than a single value.
    pub array: bool,
    /// Its bytes.
    pub bytes: &'a mut [u8],
    /// How many of them the callee wrote, from the start; filled in.
    pub written: u64,
}

impl<'a> TypedOut<'a> {
    /// A single value.
    #[must_use]
    pub fn value<T: Element>(value: &'a mut T) -> Self {
        Self { dtype: T::DTYPE, array: false, ..Self::bytes(value.as_mut_bytes()) }
    }

    /// An array of values.
    #[must_use]
    pub fn array<T: Element>(values: &'a mut [T]) -> Self {
        Self { dtype: T::DTYPE, array: true, ..Self::bytes(values.as_mut_bytes()) }
    }

    /// Bytes without a type.
    #[must_use]
    pub const fn bytes(bytes: &'a mut [u8]) -> Self {
        Self { dtype: dtype::BYTES, custom: 0, array: false, bytes, written: 0 }
    }

    /// Bytes of a type that function and callee agreed on.
    #[must_use]
    pub const fn custom(custom: u32, bytes: &'a mut [u8]) -> Self {
        Self { dtype: dtype::CUSTOM, custom, array: false, bytes, written: 0 }
    }

    fn arg(&mut self) -> AccelArg {
        let data = span_mut(self.bytes);
        let typed = TypedIn { dtype: self.dtype, custom: self.custom, array: self.array, bytes: self.bytes };
        described(AccelArg { data, access: access::IN_OUT, ..AccelArg::default() }, typed)
    }
}

/// `arg` with the type of `typed`: an array has one dimension, a value none.
fn described(arg: AccelArg, typed: TypedIn<'_>) -> AccelArg {
    let mut arg = AccelArg { dtype: typed.dtype, custom: typed.custom, rank: u32::from(typed.array), ..arg };
    if typed.array {
        arg.dims[0] = arg.data.len / element_size(typed.dtype);
    }
    arg
}

/// Bytes of an element; of what is none, one.
const fn element_size(dtype: u32) -> u64 {
    match dtype {
        dtype::F64 | dtype::I64 | dtype::U64 => 8,
        dtype::F32 | dtype::I32 | dtype::U32 => 4,
        dtype::F16 | dtype::BF16 | dtype::I16 | dtype::U16 => 2,
        _ => 1,
    }
}

/// Calls a function of a library that the host allows, by both names.
///
/// # Errors
/// The host does not allow the library, it has no such function, or the function failed.
pub fn exec(library: &str, function: &str, read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) -> Result<(), AccelError> {
    let mut call = Call::<MOST>::new(operation::EXEC);
    call.text(library).text(function);
    run_typed(call, read, write)
}

/// Calls a function of a library that is a resource.
///
/// # Errors
/// The host does not allow the library, it has no such function, or the function failed.
pub fn exec_with_resource(
    library: Resource,
    function: &str,
    read: &[TypedIn<'_>],
    write: &mut [TypedOut<'_>],
) -> Result<(), AccelError> {
    let params = ResourceParams { resource: library.id() };
    let mut call = Call::<MOST>::new(operation::EXEC_WITH_RESOURCE);
    call.params(&params).text(function);
    run_typed(call, read, write)
}

/// Calls a function of OpenCV, with the arguments that the plugin defines.
///
/// # Errors
/// No plugin has it, or the arguments are not the function's.
pub fn opencv(read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) -> Result<(), AccelError> {
    run_typed(Call::<MOST>::new(operation::OPENCV), read, write)
}

/// An operation in the layout of vAccel's generic operation: the first of `read` is its number, a single `u8`, and its
/// arguments follow.
///
/// # Errors
/// The operation has no such layout, or the arguments do not fit it.
pub fn generic(read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) -> Result<(), AccelError> {
    run_typed(Call::<MOST>::new(operation::GENERIC), read, write)
}

/// Adds arguments to those of a call and makes it.
fn run_typed(mut call: Call<MOST>, read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) -> Result<(), AccelError> {
    let first = call.count() + read.len();
    add_typed(&mut call, read, write);
    fill_typed(write, call.run()?.get(first..).unwrap_or_default());
    Ok(())
}

fn add_typed(call: &mut impl Arguments, read: &[TypedIn<'_>], write: &mut [TypedOut<'_>]) {
    for arg in read {
        call.push_arg(arg.arg());
    }
    for arg in write {
        call.push_arg(arg.arg());
    }
}

fn fill_typed(write: &mut [TypedOut<'_>], args: &[AccelArg]) {
    for (out, arg) in write.iter_mut().zip(args) {
        out.written = arg.written;
    }
}

/// Functions of libraries.
impl<'a> Batch<'a> {
    /// As [`exec`].
    pub fn exec(
        &mut self,
        library: &'a str,
        function: &'a str,
        read: &[TypedIn<'a>],
        write: &'a mut [TypedOut<'_>],
    ) -> &mut Self {
        let call = self.begin(operation::EXEC).text(library).text(function);
        add_typed(call, read, write);
        let first = 2 + read.len();
        call.then(move |args| fill_typed(write, args.get(first..).unwrap_or_default()))
    }
}
