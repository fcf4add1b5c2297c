//! The one place of the plugin with `unsafe`: the `gemm` crate takes pointers and strides.
//! Called by the plugin with matrices that fit each other. Never sees a size that was not checked: the types
//! [`Matrix`] and [`MatrixMut`] exist only for elements that hold all their rows.
#![allow(unsafe_code, reason = "the gemm crate takes raw pointers")]

use std::num::NonZeroUsize;

use kernlet_accel::operation::{Matrix, MatrixLayout, MatrixMut};

/// C = αAB + βC; C is not read where β is zero. Matrices that do not fit each other are left alone.
/// Threads are as many as rayon has where none are said.
pub(super) fn multiply(
    alpha: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    beta: f32,
    c: &mut MatrixMut<'_>,
    threads: Option<NonZeroUsize>,
) {
    let parallelism = match threads.map(NonZeroUsize::get) {
        Some(1) => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads.unwrap_or(0)),
    };
    let (m, n, k) = (c.layout().rows(), c.layout().columns(), a.layout().columns());
    let fit = a.layout().rows() == m && b.layout().rows() == k && b.layout().columns() == n;
    let (Some(lda), Some(ldb), Some(ldc)) = (stride(a.layout()), stride(b.layout()), stride(c.layout())) else {
        return;
    };
    if !fit {
        return;
    }
    // The crate's α is the factor of what it writes to, and its β that of the product: ours swapped.
    // SAFETY: A, B and C are row-major (column stride 1) with m×k, k×n and m×n elements, which the comparison
    // above makes sure of. Element (i, j) lies i * stride + j elements from the start, and the constructors of
    // Matrix and MatrixMut have checked that this is within the slice for every row and column. C is borrowed
    // exclusively, so that it overlaps neither A nor B, and its rows do not overlap each other, as a stride is
    // at least a row's width.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.elements_mut().as_mut_ptr(),
            1,
            ldc,
            beta != 0.0,
            a.elements().as_ptr(),
            1,
            lda,
            b.elements().as_ptr(),
            1,
            ldb,
            beta,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn stride(layout: MatrixLayout) -> Option<isize> {
    isize::try_from(layout.stride()).ok()
}
