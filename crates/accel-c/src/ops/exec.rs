//! Functions of libraries, and OpenCV: operations whose arguments only their callee understands.
//! Called by C programs. What is read and written is passed as it is, but that what is read never changes meanwhile.

use std::{
    ffi::{CStr, c_char, c_int},
    ptr::NonNull,
};

use kernlet_accel::{
    Dtype, Operation,
    operation::{Exec, Library, OpenCv, Task, TypedIn, TypedOut},
};

use super::{Call, check_apart, checked, perform};
use crate::{
    arg,
    errno::{EINVAL, Result},
    pointer::{ItemsMut, Text},
    session,
    types::{Arg, RESOURCE_LIB, Resource, Session},
};

type ExecFunction =
    unsafe extern "C" fn(*mut Session, *const c_char, *const c_char, *mut Arg, usize, *mut Arg, usize) -> c_int;
type ExecResourceFunction =
    unsafe extern "C" fn(*mut Session, *mut Resource, *const c_char, *mut Arg, usize, *mut Arg, usize) -> c_int;
type OpenCvFunction = unsafe extern "C" fn(*mut Session, *mut Arg, c_int, *mut Arg, c_int) -> c_int;

/// Arguments that are read, and those that are written.
#[derive(Clone, Copy)]
pub(super) struct Arguments {
    pub read: *mut Arg,
    pub read_len: usize,
    pub write: *mut Arg,
    pub write_len: usize,
}

impl Arguments {
    /// Arguments that are somewhere, if there are any.
    pub(super) fn new(
        read: &ItemsMut<'_, Arg>,
        read_len: usize,
        write: &ItemsMut<'_, Arg>,
        write_len: usize,
    ) -> Result<Self> {
        if read.is_null() && read_len > 0 || write.is_null() && write_len > 0 {
            return Err(EINVAL);
        }
        Ok(Self { read: read.address(), read_len, write: write.address(), write_len })
    }

    /// Lends the arguments to the runtime, whose plugins say how much they wrote.
    fn lend<T>(&self, work: impl FnOnce(Vec<TypedIn<'_>>, Vec<TypedOut<'_>>) -> Result<T>) -> Result<T> {
        // SAFETY: C gave the counts with the arguments.
        let read = unsafe { ItemsMut::at(self.read).slice(self.read_len) }?;
        // SAFETY: as above. The two are arrays of their own, or none is looked at while the other is used.
        let write: Vec<Arg> = unsafe { ItemsMut::at(self.write).slice(self.write_len) }?.to_vec();
        for (index, one) in write.iter().enumerate() {
            for other in write.iter().skip(index + 1) {
                check_apart(one.buf.cast::<u8>(), one.size, other.buf.cast::<u8>(), other.size)?;
            }
        }
        // What is both read and written is read from a copy.
        let mut copies = Vec::new();
        for arg in read.iter() {
            let is_apart = |other: &Arg| is_apart(arg, other);
            copies.push(if write.iter().all(is_apart) { None } else { Some(arg.bytes()?.to_vec()) });
        }
        let mut inputs = Vec::with_capacity(read.len());
        for (arg, copy) in read.iter().zip(&copies) {
            let (dtype, array) = dtype(arg.kind)?;
            let bytes = copy.as_deref().map_or_else(|| arg.bytes(), Ok)?;
            inputs.push(TypedIn { dtype, custom: arg.custom_type_id, array, bytes });
        }
        let mut write = write;
        let mut lens = vec![0; write.len()];
        let mut outputs = Vec::with_capacity(write.len());
        for (arg, written) in write.iter_mut().zip(&mut lens) {
            let (dtype, array) = dtype(arg.kind)?;
            let custom = arg.custom_type_id;
            outputs.push(TypedOut { dtype, custom, array, bytes: arg.bytes_mut()?, written });
        }
        work(inputs, outputs)
    }
}

fn is_apart(one: &Arg, other: &Arg) -> bool {
    let (one, other) = ((one.buf.addr(), one.size), (other.buf.addr(), other.size));
    one.1 == 0 || other.1 == 0 || one.0.saturating_add(one.1) <= other.0 || other.0.saturating_add(other.1) <= one.0
}

/// What the runtime calls a type, and whether it is an array.
fn dtype(kind: u32) -> Result<(Dtype, bool)> {
    const NUMBERS: [Dtype; 13] = [
        Dtype::I8,
        Dtype::I16,
        Dtype::I32,
        Dtype::I64,
        Dtype::U8,
        Dtype::U16,
        Dtype::U32,
        Dtype::U64,
        Dtype::F32,
        Dtype::F64,
        Dtype::Bool,
        Dtype::Char,
        Dtype::Uchar,
    ];
    Ok(match kind {
        arg::RAW => (Dtype::Bytes, true),
        arg::STRING => (Dtype::Text, true),
        arg::BUFFER => (Dtype::Buffer, true),
        arg::CUSTOM => (Dtype::Custom, true),
        kind => {
            let index = usize::try_from(kind.div_ceil(2)).ok().and_then(|index| index.checked_sub(1));
            (*index.and_then(|index| NUMBERS.get(index)).ok_or(EINVAL)?, kind % 2 == 0)
        }
    })
}

pub(super) fn exec(session: Option<NonNull<Session>>, library: &CStr, function: &CStr, arguments: Arguments) -> Result {
    let Arguments { read, read_len, write, write_len } = arguments;
    // SAFETY: that is the function's type; it gets what C gave.
    let call =
        |f: ExecFunction, s| unsafe { f(s, library.as_ptr(), function.as_ptr(), read, read_len, write, write_len) };
    let own = |call: &Call| {
        let (library, function) = (utf8(library)?, utf8(function)?);
        arguments
            .lend(|read, write| call.run(Task::Exec(Exec { library: Library::Name(library), function, read, write })))
    };
    // SAFETY: as above.
    unsafe { perform(session, Operation::Exec, call, own) }
}

pub(super) fn exec_with_resource(
    session: Option<NonNull<Session>>,
    resource: Option<NonNull<Resource>>,
    function: &CStr,
    arguments: Arguments,
) -> Result {
    let place = checked(session, resource, RESOURCE_LIB)?;
    let Arguments { read, read_len, write, write_len } = arguments;
    let call = |f: ExecResourceFunction, s| {
        // SAFETY: that is the function's type; it gets what C gave.
        unsafe { f(s, place.as_ptr(), function.as_ptr(), read, read_len, write, write_len) }
    };
    let own = |call: &Call| {
        let library = Library::Resource(session::adopt(&call.binding, place, None)?);
        let function = utf8(function)?;
        arguments.lend(|read, write| {
            call.run(Task::ExecWithResource(Exec { library: library.clone(), function, read, write }))
        })
    };
    // SAFETY: as above.
    unsafe { perform(session, Operation::ExecWithResource, call, own) }
}

fn utf8(text: &CStr) -> Result<&str> {
    text.to_str().map_err(|_| EINVAL)
}

api! {
    fn vaccel_exec(
        session: Option<NonNull<Session>>,
        library: Text<'_>,
        function: Text<'_>,
        read: ItemsMut<'_, Arg>,
        read_len: usize,
        write: ItemsMut<'_, Arg>,
        write_len: usize,
    ) {
        let arguments = Arguments::new(&read, read_len, &write, write_len)?;
        exec(session, library.required()?, function.required()?, arguments)
    }

    fn vaccel_exec_with_resource(
        session: Option<NonNull<Session>>,
        resource: Option<NonNull<Resource>>,
        function: Text<'_>,
        read: ItemsMut<'_, Arg>,
        read_len: usize,
        write: ItemsMut<'_, Arg>,
        write_len: usize,
    ) {
        let arguments = Arguments::new(&read, read_len, &write, write_len)?;
        exec_with_resource(session, resource, function.required()?, arguments)
    }

    fn vaccel_opencv_unpack(
        session: Option<NonNull<Session>>,
        read: ItemsMut<'_, Arg>,
        read_len: c_int,
        write: ItemsMut<'_, Arg>,
        write_len: c_int,
    ) {
        let count = |count: c_int| usize::try_from(count).map_err(|_| EINVAL);
        let arguments = Arguments::new(&read, count(read_len)?, &write, count(write_len)?)?;
        opencv(session, arguments)
    }
}

pub(super) fn opencv(session: Option<NonNull<Session>>, arguments: Arguments) -> Result {
    let Arguments { read, read_len, write, write_len } = arguments;
    let count = |count: usize| c_int::try_from(count).map_err(|_| EINVAL);
    let (read_count, write_count) = (count(read_len)?, count(write_len)?);
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: OpenCvFunction, s| unsafe { f(s, read, read_count, write, write_count) };
    let own = |call: &Call| arguments.lend(|read, write| call.run(Task::OpenCv(OpenCv { read, write })));
    // SAFETY: as above.
    unsafe { perform(session, Operation::OpenCv, call, own) }
}
