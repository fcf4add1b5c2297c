//! Operations on plain arrays of numbers.
//! Made by the decoder and by host programs through the checks here; read by plugins.

use super::ArgError;

/// Says that an array is shorter than the one it goes with.
const fn same_length(a: usize, b: usize, element: usize) -> Result<(), ArgError> {
    if a == b {
        return Ok(());
    }
    Err(ArgError::Length { expected: (a * element) as u64, got: (b * element) as u64 })
}

/// Copy an array.
#[derive(Debug)]
#[non_exhaustive]
pub struct ArrayCopy<'a> {
    /// What is copied.
    pub from: &'a [i32],
    /// Where to; as long.
    pub to: &'a mut [i32],
}

impl<'a> ArrayCopy<'a> {
    /// The copy of `from` in `to`.
    ///
    /// # Errors
    /// [`ArgError::Length`] unless both are of one length.
    pub fn new(from: &'a [i32], to: &'a mut [i32]) -> Result<Self, ArgError> {
        same_length(from.len(), to.len(), 4)?;
        Ok(Self { from, to })
    }

    pub(super) const fn reborrow(&mut self) -> ArrayCopy<'_> {
        ArrayCopy { from: self.from, to: self.to }
    }
}

/// Multiply square matrices, row by row in memory.
#[derive(Debug)]
#[non_exhaustive]
pub struct MatrixProduct<'a> {
    /// Rows and columns of each.
    pub size: usize,
    /// The left one.
    pub a: &'a [f32],
    /// The right one.
    pub b: &'a [f32],
    /// Where the product goes.
    pub c: &'a mut [f32],
}

impl<'a> MatrixProduct<'a> {
    /// The product of `a` and `b` in `c`.
    ///
    /// # Errors
    /// [`ArgError::Length`] unless all are of one length, [`ArgError::NotSquare`] unless that is a square number.
    pub fn new(a: &'a [f32], b: &'a [f32], c: &'a mut [f32]) -> Result<Self, ArgError> {
        same_length(a.len(), b.len(), 4)?;
        same_length(a.len(), c.len(), 4)?;
        let size = a.len().isqrt();
        if size * size != a.len() {
            return Err(ArgError::NotSquare { elements: a.len() as u64 });
        }
        Ok(Self { size, a, b, c })
    }

    pub(super) const fn reborrow(&mut self) -> MatrixProduct<'_> {
        MatrixProduct { size: self.size, a: self.a, b: self.b, c: self.c }
    }
}

/// Add and multiply element by element.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parallel<'a> {
    /// The first array.
    pub a: &'a [f32],
    /// The second; as long, like all.
    pub b: &'a [f32],
    /// Where the sums go.
    pub sum: &'a mut [f32],
    /// Where the products go.
    pub product: &'a mut [f32],
}

impl<'a> Parallel<'a> {
    /// Sums and products of `a` and `b`.
    ///
    /// # Errors
    /// [`ArgError::Length`] unless all are of one length.
    pub fn new(a: &'a [f32], b: &'a [f32], sum: &'a mut [f32], product: &'a mut [f32]) -> Result<Self, ArgError> {
        same_length(a.len(), b.len(), 4)?;
        same_length(a.len(), sum.len(), 4)?;
        same_length(a.len(), product.len(), 4)?;
        Ok(Self { a, b, sum, product })
    }

    pub(super) const fn reborrow(&mut self) -> Parallel<'_> {
        Parallel { a: self.a, b: self.b, sum: self.sum, product: self.product }
    }
}

/// Add element by element.
#[derive(Debug)]
#[non_exhaustive]
pub struct VectorAdd<'a> {
    /// The first array.
    pub a: &'a [f32],
    /// The second; as long, like all.
    pub b: &'a [f32],
    /// Where the sums go.
    pub sum: &'a mut [f32],
}

impl<'a> VectorAdd<'a> {
    /// Sums of `a` and `b`.
    ///
    /// # Errors
    /// [`ArgError::Length`] unless all are of one length.
    pub fn new(a: &'a [f32], b: &'a [f32], sum: &'a mut [f32]) -> Result<Self, ArgError> {
        same_length(a.len(), b.len(), 4)?;
        same_length(a.len(), sum.len(), 4)?;
        Ok(Self { a, b, sum })
    }

    pub(super) const fn reborrow(&mut self) -> VectorAdd<'_> {
        VectorAdd { a: self.a, b: self.b, sum: self.sum }
    }
}

/// Smallest and largest of some numbers, and the numbers held between `low` and `high`.
#[derive(Debug)]
#[non_exhaustive]
pub struct MinMax<'a> {
    /// What smaller numbers become.
    pub low: i32,
    /// What larger numbers become.
    pub high: i32,
    /// The numbers.
    pub from: &'a [f64],
    /// Where the numbers go once they are held between both; as long.
    pub to: &'a mut [f64],
    /// Where the smallest goes.
    pub min: &'a mut f64,
    /// Where the largest goes.
    pub max: &'a mut f64,
}

impl<'a> MinMax<'a> {
    /// Smallest and largest of `from`, and its numbers held between `low` and `high` in `to`.
    ///
    /// # Errors
    /// [`ArgError::Length`] unless both are of one length, [`ArgError::Empty`] when that is zero.
    pub fn new(
        (low, high): (i32, i32),
        from: &'a [f64],
        to: &'a mut [f64],
        min: &'a mut f64,
        max: &'a mut f64,
    ) -> Result<Self, ArgError> {
        same_length(from.len(), to.len(), 8)?;
        if from.is_empty() {
            return Err(ArgError::Empty);
        }
        Ok(Self { low, high, from, to, min, max })
    }

    pub(super) const fn reborrow(&mut self) -> MinMax<'_> {
        MinMax { low: self.low, high: self.high, from: self.from, to: self.to, min: self.min, max: self.max }
    }
}
