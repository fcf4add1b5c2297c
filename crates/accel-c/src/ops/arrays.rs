//! Operations on arrays: what vAccel has for FPGAs, and minmax.
//! Called by C programs, directly or through the generic operation. Every array has as many elements as the count says.

use std::{ffi::c_int, ptr::NonNull};

use kernlet_accel::{
    ArgError, Operation,
    operation::{ArrayCopy, MatrixProduct, MinMax, Parallel, Task, VectorAdd},
};

use super::{check_apart, perform};
use crate::{
    errno::{EINVAL, Errno, Result},
    pointer::ItemsMut,
    types::Session,
};

type CopyFunction = unsafe extern "C" fn(*mut Session, *mut c_int, *mut c_int, usize) -> c_int;
type ProductFunction = unsafe extern "C" fn(*mut Session, *mut f32, *mut f32, *mut f32, usize) -> c_int;
type ParallelFunction = unsafe extern "C" fn(*mut Session, *mut f32, *mut f32, *mut f32, *mut f32, usize) -> c_int;
type AddFunction = unsafe extern "C" fn(*mut Session, *mut f32, *mut f32, *mut f32, usize, usize) -> c_int;
type MinMaxFunction =
    unsafe extern "C" fn(*mut Session, *const f64, c_int, c_int, c_int, *mut f64, *mut f64, *mut f64) -> c_int;

api! {
    fn vaccel_fpga_arraycopy(session: Option<NonNull<Session>>, from: *mut c_int, to: *mut c_int, len: usize) {
        copy(session, from, to, len)
    }

    fn vaccel_fpga_mmult(session: Option<NonNull<Session>>, a: *mut f32, b: *mut f32, c: *mut f32, len: usize) {
        product(session, [a, b, c], len)
    }

    fn vaccel_fpga_parallel(
        session: Option<NonNull<Session>>,
        a: *mut f32,
        b: *mut f32,
        sum: *mut f32,
        product: *mut f32,
        len: usize,
    ) {
        parallel(session, [a, b, sum, product], len)
    }

    fn vaccel_fpga_vadd(
        session: Option<NonNull<Session>>,
        a: *mut f32,
        b: *mut f32,
        sum: *mut f32,
        len_a: usize,
        len_b: usize,
    ) {
        if len_a != len_b {
            error!("vectors of {len_a} and {len_b} elements cannot be added");
            return Err(EINVAL);
        }
        add(session, [a, b, sum], len_a)
    }

    fn vaccel_minmax(
        session: Option<NonNull<Session>>,
        from: *const f64,
        count: c_int,
        low: c_int,
        high: c_int,
        to: *mut f64,
        min: *mut f64,
        max: *mut f64,
    ) {
        minmax(session, from.cast_mut(), [count, low, high], [to, min, max])
    }
}

pub(super) fn copy(session: Option<NonNull<Session>>, from: *mut c_int, to: *mut c_int, len: usize) -> Result {
    check(&[from, to], len)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: CopyFunction, s| unsafe { f(s, from, to, len) };
    // SAFETY: as above.
    unsafe {
        perform(session, Operation::FpgaArrayCopy, call, |call| {
            let ([from], [to]) = lend([from], [to], len)?;
            call.run(Task::FpgaArrayCopy(ArrayCopy::new(from, to).map_err(wrong)?))
        })
    }
}

pub(super) fn product(session: Option<NonNull<Session>>, [a, b, c]: [*mut f32; 3], len: usize) -> Result {
    check(&[a, b, c], len)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: ProductFunction, s| unsafe { f(s, a, b, c, len) };
    // SAFETY: as above.
    unsafe {
        perform(session, Operation::FpgaMmult, call, |call| {
            let ([a, b], [c]) = lend([a, b], [c], len)?;
            call.run(Task::FpgaMmult(MatrixProduct::new(a, b, c).map_err(wrong)?))
        })
    }
}

pub(super) fn parallel(session: Option<NonNull<Session>>, [a, b, sum, product]: [*mut f32; 4], len: usize) -> Result {
    check(&[a, b, sum, product], len)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: ParallelFunction, s| unsafe { f(s, a, b, sum, product, len) };
    // SAFETY: as above.
    unsafe {
        perform(session, Operation::FpgaParallel, call, |call| {
            let ([a, b], [sum, product]) = lend([a, b], [sum, product], len)?;
            call.run(Task::FpgaParallel(Parallel::new(a, b, sum, product).map_err(wrong)?))
        })
    }
}

pub(super) fn add(session: Option<NonNull<Session>>, [a, b, sum]: [*mut f32; 3], len: usize) -> Result {
    check(&[a, b, sum], len)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: AddFunction, s| unsafe { f(s, a, b, sum, len, len) };
    // SAFETY: as above.
    unsafe {
        perform(session, Operation::FpgaVectorAdd, call, |call| {
            let ([a, b], [sum]) = lend([a, b], [sum], len)?;
            call.run(Task::FpgaVectorAdd(VectorAdd::new(a, b, sum).map_err(wrong)?))
        })
    }
}

pub(super) fn minmax(
    session: Option<NonNull<Session>>,
    from: *mut f64,
    [count, low, high]: [c_int; 3],
    [to, min, max]: [*mut f64; 3],
) -> Result {
    let len = usize::try_from(count).map_err(|_| EINVAL)?;
    check(&[from, to], len)?;
    check(&[min, max], 1)?;
    // SAFETY: that is the function's type; it gets what C gave.
    let call = |f: MinMaxFunction, s| unsafe { f(s, from, count, low, high, to, min, max) };
    // SAFETY: as above.
    unsafe {
        perform(session, Operation::MinMax, call, |call| {
            for place in [min, max] {
                check_apart(place, 1, from, len)?;
                check_apart(place, 1, to, len)?;
            }
            let ([from], [to]) = lend([from], [to], len)?;
            let ([], [min, max]) = lend([], [min, max], 1)?;
            let (Some(min), Some(max)) = (min.first_mut(), max.first_mut()) else { return Err(EINVAL) };
            call.run(Task::MinMax(MinMax::new((low, high), from, to, min, max).map_err(wrong)?))
        })
    }
}

/// An error when an array of some elements is nowhere.
fn check<T>(arrays: &[*mut T], len: usize) -> Result {
    if len > 0 && arrays.iter().any(|array| array.is_null()) { Err(EINVAL) } else { Ok(()) }
}

/// Slices that are read, and slices that are written.
type Lent<'a, T, const READ: usize, const WRITE: usize> = ([&'a [T]; READ], [&'a mut [T]; WRITE]);

/// Arrays of `len` elements as slices: those that are read, and those that are written, which have to be apart.
fn lend<'a, T, const READ: usize, const WRITE: usize>(
    read: [*mut T; READ],
    write: [*mut T; WRITE],
    len: usize,
) -> Result<Lent<'a, T, READ, WRITE>> {
    for (index, written) in write.iter().enumerate() {
        for other in read.iter().chain(write.iter().skip(index + 1)) {
            check_apart(*written, len, *other, len)?;
        }
    }
    let mut inputs: [&[T]; READ] = [&[]; READ];
    for (slice, address) in inputs.iter_mut().zip(read) {
        // SAFETY: C promises `len` elements there, which nothing writes.
        *slice = unsafe { ItemsMut::at(address).slice(len) }?;
    }
    let mut outputs: [&mut [T]; WRITE] = std::array::from_fn(|_| [].as_mut_slice());
    for (slice, address) in outputs.iter_mut().zip(write) {
        // SAFETY: C promises `len` elements there, and none of the other arrays is.
        *slice = unsafe { ItemsMut::at(address).slice(len) }?;
    }
    Ok((inputs, outputs))
}

#[expect(clippy::needless_pass_by_value, reason = "it maps errors")]
fn wrong(error: ArgError) -> Errno {
    error!("{error}");
    EINVAL
}
