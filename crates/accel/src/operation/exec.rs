//! Operations whose arguments only their callee understands.
//! Made by the decoder and by host programs; read by plugins that call into libraries.

use crate::{Dtype, Resource};

/// An argument that the callee reads.
#[derive(Clone, Copy, Debug)]
pub struct TypedIn<'a> {
    /// Its element type.
    pub dtype: Dtype,
    /// Which type of [`Dtype::Custom`]; zero for others.
    pub custom: u32,
    /// Whether it is an array, be it of one element, rather than a single value.
    pub array: bool,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// An argument that the callee writes; what it held before can be read.
#[derive(Debug)]
pub struct TypedOut<'a> {
    /// Its element type.
    pub dtype: Dtype,
    /// Which type of [`Dtype::Custom`]; zero for others.
    pub custom: u32,
    /// Whether it is an array, be it of one element, rather than a single value.
    pub array: bool,
    /// Its bytes.
    pub bytes: &'a mut [u8],
    /// How many of them the callee wrote, from the start; to be filled in.
    pub written: &'a mut u64,
}

impl TypedOut<'_> {
    const fn reborrow(&mut self) -> TypedOut<'_> {
        let Self { dtype, custom, array, .. } = *self;
        TypedOut { dtype, custom, array, bytes: self.bytes, written: self.written }
    }
}

/// Where the callee is.
#[derive(Clone, Debug)]
pub enum Library<'a> {
    /// A library of the host, by the name that the plugin's allow-list has.
    Name(&'a str),
    /// A resource: the last of its files, which may need those before it.
    Resource(Resource),
}

/// Call a function of a library.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The library.
    pub library: Library<'a>,
    /// The function's symbol.
    pub function: &'a str,
    /// What it reads, in its order.
    pub read: Vec<TypedIn<'a>>,
    /// What it writes, in its order.
    pub write: Vec<TypedOut<'a>>,
}

impl Exec<'_> {
    pub(super) fn reborrow(&mut self) -> Exec<'_> {
        Exec {
            library: self.library.clone(),
            function: self.function,
            read: self.read.clone(),
            write: self.write.iter_mut().map(TypedOut::reborrow).collect(),
        }
    }
}

/// A function of OpenCV, as the plugin defines them.
#[derive(Debug)]
pub struct OpenCv<'a> {
    /// What it reads, in its order.
    pub read: Vec<TypedIn<'a>>,
    /// What it writes, in its order.
    pub write: Vec<TypedOut<'a>>,
}

impl OpenCv<'_> {
    pub(super) fn reborrow(&mut self) -> OpenCv<'_> {
        OpenCv { read: self.read.clone(), write: self.write.iter_mut().map(TypedOut::reborrow).collect() }
    }
}
