//! Products of matrices.
//! Called by C programs. Sizes that are negative, strides that are shorter than rows, and products into an operand are
//! errors; where the room is known, so is whatever lies beyond it.

use std::{
    ffi::c_int,
    ptr::{self, NonNull},
};

use kernlet_accel::{
    Operation,
    operation::{Matrix, MatrixLayout, MatrixMut, Sgemm, Task},
};

use super::{Call, check_apart, model, perform};
use crate::{
    errno::{EINVAL, ENOMEM, Result},
    memory,
    pointer::ItemsMut,
    types::{Session, TorchTensor},
};

type SgemmFunction =
    unsafe extern "C" fn(*mut Session, i64, i64, i64, f32, *mut f32, i64, *mut f32, i64, f32, *mut f32, i64) -> c_int;

type TorchSgemmFunction = unsafe extern "C" fn(
    *mut Session,
    *mut *mut TorchTensor,
    *mut *mut TorchTensor,
    *mut *mut TorchTensor,
    c_int,
    c_int,
    c_int,
    *mut *mut TorchTensor,
) -> c_int;

/// The arguments of `vaccel_sgemm`, and how many elements there are at each pointer, as far as that is known.
pub(super) struct Product {
    pub sizes: [i64; 3],
    pub factors: [f32; 2],
    pub matrices: [*mut f32; 3],
    pub strides: [i64; 3],
    pub room: [usize; 3],
}

impl Product {
    /// Rows and columns of each matrix.
    fn shapes(&self) -> Result<[(usize, usize); 3]> {
        let size = |size: i64| usize::try_from(size).map_err(|_| EINVAL);
        let [m, n, k] = self.sizes;
        let (m, n, k) = (size(m)?, size(n)?, size(k)?);
        Ok([(m, k), (k, n), (m, n)])
    }

    /// An error unless each matrix has as many elements, in whatever order they are.
    fn check_room(&self) -> Result {
        for ((rows, columns), room) in self.shapes()?.into_iter().zip(self.room) {
            if rows.checked_mul(columns).is_none_or(|elements| elements > room) {
                error!("a matrix of {rows} x {columns} is passed as {room} elements");
                return Err(EINVAL);
            }
        }
        if self.matrices.iter().any(|matrix| matrix.is_null()) {
            return Err(EINVAL);
        }
        Ok(())
    }

    pub(super) fn run(self, session: Option<NonNull<Session>>) -> Result {
        self.check_room()?;
        let Self { sizes: [m, n, k], factors: [alpha, beta], matrices: [a, b, c], strides: [lda, ldb, ldc], .. } = self;
        // SAFETY: that is the function's type; it gets what C gave.
        let call = |f: SgemmFunction, s| unsafe { f(s, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) };
        // SAFETY: as above.
        unsafe { perform(session, Operation::BlasSgemm, call, |call| self.own(call)) }
    }

    fn own(&self, call: &Call) -> Result {
        let [a, b, c] = self.matrices;
        let [shape_a, shape_b, shape_c] = self.shapes()?;
        let [lda, ldb, ldc] = self.strides;
        let [room_a, room_b, room_c] = self.room;
        let (layout_a, len_a) = layout(shape_a, lda, room_a)?;
        let (layout_b, len_b) = layout(shape_b, ldb, room_b)?;
        let (layout_c, len_c) = layout(shape_c, ldc, room_c)?;
        check_apart(c, len_c, a, len_a)?;
        check_apart(c, len_c, b, len_b)?;
        // SAFETY: C promises as many elements as sizes and stride say.
        let a = unsafe { ItemsMut::at(a).slice(len_a) }?;
        // SAFETY: as above.
        let b = unsafe { ItemsMut::at(b).slice(len_b) }?;
        // SAFETY: as above; neither A nor B is there.
        let c = unsafe { ItemsMut::at(c).slice(len_c) }?;
        let (a, b, c) = (Matrix::new(a, layout_a), Matrix::new(b, layout_b), MatrixMut::new(c, layout_c));
        let (Some(a), Some(b), Some(c)) = (a, b, c) else { return Err(EINVAL) };
        let [alpha, beta] = self.factors;
        call.run(Task::BlasSgemm(Sgemm::new(alpha, a, b, beta, c).ok_or(EINVAL)?))
    }
}

/// How a matrix lies in memory, and how many elements that takes.
fn layout((rows, columns): (usize, usize), stride: i64, room: usize) -> Result<(MatrixLayout, usize)> {
    let stride = usize::try_from(stride).map_err(|_| EINVAL)?;
    let layout = MatrixLayout::new(rows, columns, stride).ok_or(EINVAL)?;
    let len = layout.extent().filter(|&len| len <= room).ok_or(EINVAL)?;
    Ok((layout, len))
}

api! {
    fn vaccel_sgemm(
        session: Option<NonNull<Session>>,
        m: i64,
        n: i64,
        k: i64,
        alpha: f32,
        a: *mut f32,
        lda: i64,
        b: *mut f32,
        ldb: i64,
        beta: f32,
        c: *mut f32,
        ldc: i64,
    ) {
        let product = Product {
            sizes: [m, n, k],
            factors: [alpha, beta],
            matrices: [a, b, c],
            strides: [lda, ldb, ldc],
            room: [usize::MAX; 3],
        };
        product.run(session)
    }

    fn vaccel_torch_sgemm(
        session: Option<NonNull<Session>>,
        a: *mut *mut TorchTensor,
        b: *mut *mut TorchTensor,
        c: *mut *mut TorchTensor,
        m: c_int,
        n: c_int,
        k: c_int,
        result: *mut *mut TorchTensor,
    ) {
        if a.is_null() || b.is_null() || result.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: that is the function's type; it gets what C gave.
        let call = |f: TorchSgemmFunction, s| unsafe { f(s, a, b, c, m, n, k, result) };
        let own = |call: &Call| {
            let made = torch(call, [a, b, c], [m, n, k])?;
            // SAFETY: C promises room for a pointer there.
            unsafe { result.write(made) };
            Ok(())
        };
        // SAFETY: as above.
        unsafe { perform(session, Operation::TorchSgemm, call, own) }
    }
}

/// AB, or AB + C, as a new tensor.
fn torch(call: &Call, [a, b, c]: [*mut *mut TorchTensor; 3], [m, n, k]: [c_int; 3]) -> Result<*mut TorchTensor> {
    let size = |size: c_int| usize::try_from(size).map_err(|_| EINVAL);
    let (m, n, k) = (size(m)?, size(n)?, size(k)?);
    let matrix = |tensor: *mut *mut TorchTensor, rows: usize, columns: usize| -> Result<&[f32]> {
        // SAFETY: C promises a pointer to a tensor, or to none, there.
        let tensor = unsafe { tensor.as_ref() }.and_then(|tensor| unsafe { tensor.as_ref() }).ok_or(EINVAL)?;
        let len = rows.checked_mul(columns).ok_or(EINVAL)?;
        if tensor.data_type != model::TORCH_FLOAT || len.checked_mul(4).is_none_or(|size| size > tensor.size) {
            return Err(EINVAL);
        }
        // SAFETY: C promises as many bytes as the tensor says.
        unsafe { ItemsMut::at(tensor.data.cast::<f32>()).slice(len) }.map(|elements| &*elements)
    };
    // SAFETY: C promises a pointer to a tensor, or to none, there, unless it is null itself.
    let addend = unsafe { c.as_ref() }.is_some_and(|tensor| !tensor.is_null());
    let (a, b) = (matrix(a, m, k)?, matrix(b, k, n)?);
    let len = m.checked_mul(n).ok_or(ENOMEM)?;
    let mut sum = if addend { matrix(c, m, n)?.to_vec() } else { vec![0.0; len] };
    let layout = |rows, columns| MatrixLayout::new(rows, columns, columns).ok_or(EINVAL);
    let a = Matrix::new(a, layout(m, k)?).ok_or(EINVAL)?;
    let b = Matrix::new(b, layout(k, n)?).ok_or(EINVAL)?;
    let room = MatrixMut::new(&mut sum, layout(m, n)?).ok_or(EINVAL)?;
    let beta = if addend { 1.0 } else { 0.0 };
    call.run(Task::TorchSgemm(Sgemm::new(1.0, a, b, beta, room).ok_or(EINVAL)?))?;
    let bytes: Vec<u8> = sum.iter().flat_map(|element| element.to_ne_bytes()).collect();
    let dims = [m, n].map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    let mut made = std::mem::MaybeUninit::new(ptr::null_mut());
    memory::new(Some(&mut made), |place| {
        place.write(model::tensor(&bytes, &dims, model::TORCH_FLOAT)?);
        Ok(())
    })?;
    // SAFETY: it was null, and `new` has written over that.
    Ok(unsafe { made.assume_init() })
}
