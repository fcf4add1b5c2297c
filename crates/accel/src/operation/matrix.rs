//! Matrices, and the operation on them.
//! Made by the decoder and by host programs through the checks here; read by plugins. A row never lies outside the
//! elements.

use kernlet_abi::accel::SgemmParams;

/// A row-major `f32` matrix that is read: every row lies within the elements.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    elements: &'a [f32],
    layout: MatrixLayout,
}

/// A row-major `f32` matrix that is written: every row lies within the elements.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    elements: &'a mut [f32],
    layout: MatrixLayout,
}

/// Rows, columns, and elements from one row to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    rows: usize,
    columns: usize,
    stride: usize,
}

impl MatrixLayout {
    /// A layout whose rows do not overlap; a stride that no second row uses is not kept.
    /// `None` when `stride` is less than `columns`.
    #[must_use]
    pub const fn new(rows: usize, columns: usize, stride: usize) -> Option<Self> {
        if stride < columns {
            return None;
        }
        let stride = if rows > 1 { stride } else { columns };
        Some(Self { rows, columns, stride })
    }

    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Elements of a row.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Elements from the start of one row to that of the next.
    #[must_use]
    pub const fn stride(&self) -> usize {
        self.stride
    }

    /// Elements from the first of the first row to the last of the last; `None` beyond the address space.
    #[must_use]
    pub fn extent(&self) -> Option<usize> {
        if self.rows == 0 || self.columns == 0 {
            return Some(0);
        }
        (self.rows - 1).checked_mul(self.stride)?.checked_add(self.columns)
    }
}

impl<'a> Matrix<'a> {
    /// The matrix at the start of `elements`; `None` when it does not fit there.
    #[must_use]
    pub fn new(elements: &'a [f32], layout: MatrixLayout) -> Option<Self> {
        let elements = elements.get(..layout.extent()?)?;
        Some(Self { elements, layout })
    }

    /// Its elements, as many as [`MatrixLayout::extent`] says.
    #[must_use]
    pub const fn elements(&self) -> &'a [f32] {
        self.elements
    }

    /// Its layout.
    #[must_use]
    pub const fn layout(&self) -> MatrixLayout {
        self.layout
    }
}

impl<'a> MatrixMut<'a> {
    /// The matrix at the start of `elements`; `None` when it does not fit there.
    #[must_use]
    pub fn new(elements: &'a mut [f32], layout: MatrixLayout) -> Option<Self> {
        let elements = elements.get_mut(..layout.extent()?)?;
        Some(Self { elements, layout })
    }

    /// Its elements, as many as [`MatrixLayout::extent`] says.
    #[must_use]
    pub const fn elements_mut(&mut self) -> &mut [f32] {
        self.elements
    }

    /// Its layout.
    #[must_use]
    pub const fn layout(&self) -> MatrixLayout {
        self.layout
    }
}

/// C = αAB + βC with A of m×k, B of k×n and C of m×n.
///
/// As in BLAS: where `beta` is zero, C is not read, and where `alpha` or k is zero, neither A nor B is.
#[derive(Debug)]
pub struct Sgemm<'a> {
    alpha: f32,
    beta: f32,
    a: Matrix<'a>,
    b: Matrix<'a>,
    c: MatrixMut<'a>,
}

impl<'a> Sgemm<'a> {
    /// The product of these matrices; `None` when their sizes do not fit each other.
    #[must_use]
    pub fn new(alpha: f32, a: Matrix<'a>, b: Matrix<'a>, beta: f32, c: MatrixMut<'a>) -> Option<Self> {
        let fits =
            a.layout.columns == b.layout.rows && a.layout.rows == c.layout.rows && b.layout.columns == c.layout.columns;
        fits.then_some(Self { alpha, beta, a, b, c })
    }

    /// The factors, α and β.
    #[must_use]
    pub const fn factors(&self) -> (f32, f32) {
        (self.alpha, self.beta)
    }

    /// The matrices; A's columns are B's rows, and A's rows and B's columns are C's.
    #[must_use]
    pub const fn matrices(&mut self) -> (Matrix<'a>, Matrix<'a>, &mut MatrixMut<'a>) {
        (self.a, self.b, &mut self.c)
    }

    /// The layouts of A, B and C.
    #[must_use]
    pub const fn layouts(&self) -> (MatrixLayout, MatrixLayout, MatrixLayout) {
        (self.a.layout, self.b.layout, self.c.layout)
    }

    pub(super) const fn reborrow(&mut self) -> Sgemm<'_> {
        let c = MatrixMut { elements: self.c.elements, layout: self.c.layout };
        Sgemm { alpha: self.alpha, beta: self.beta, a: self.a, b: self.b, c }
    }

    /// Its parameters and matrices, for who sends it elsewhere.
    pub(crate) const fn parts(&mut self) -> (SgemmParams, &'a [f32], &'a [f32], &mut [f32]) {
        let (a, b, c) = (&self.a.layout, &self.b.layout, &self.c.layout);
        let params = SgemmParams {
            m: c.rows as i64,
            n: c.columns as i64,
            k: a.columns as i64,
            lda: a.stride as i64,
            ldb: b.stride as i64,
            ldc: c.stride as i64,
            alpha: self.alpha,
            beta: self.beta,
        };
        (params, self.a.elements, self.b.elements, self.c.elements)
    }

    /// Multiplications that it takes, for a plugin's cost; the largest number when there are more.
    #[must_use]
    pub const fn products(&self) -> u64 {
        let (rows, columns) = (self.c.layout.rows as u64, self.c.layout.columns as u64);
        rows.saturating_mul(columns).saturating_mul(self.a.layout.columns as u64)
    }
}
