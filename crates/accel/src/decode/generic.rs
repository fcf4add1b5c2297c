//! vAccel's generic operation: an operation's number, then its arguments in the layout that vAccel gave each.
//! Called by sessions for guests and agents, and by the C interface. A length that vAccel leaves to the caller is
//! checked here against the buffer that it speaks of.

use kernlet_abi::accel::SgemmParams;

use super::{Found, Layouts, one, read};
use crate::{
    AccelError, Dtype, Operation, Resource,
    operation::{
        ArgError, ArrayCopy, Element, Exec, Library, MatrixProduct, MinMax, OpenCv, Parallel, Picture, Task, TextOut,
        TypedIn, TypedOut, VectorAdd, slice, slice_mut,
    },
};

/// What a generic operation turned out to be.
#[derive(Debug)]
pub enum Generic<'a> {
    /// An operation with its arguments.
    Task(Task<'a>),
    /// The classification of a picture, whose best class is to be said in a text.
    ClassifyText {
        /// A JPEG or PNG file; not empty.
        picture: &'a [u8],
        /// Where the text goes.
        text: TextOut<'a>,
    },
}

/// Checks arguments in vAccel's layout for the operation that the first of them names.
///
/// # Errors
/// As [`decode`](super::decode). [`AccelError::NotGeneric`] for an operation that has no such layout.
pub fn generic<'a>(
    read: Vec<TypedIn<'a>>,
    write: Vec<TypedOut<'a>>,
    resource: impl Fn(u32) -> Option<Resource>,
) -> Found<Generic<'a>> {
    let count = read.len() + write.len();
    let mut read = read.into_iter();
    let Some(first) = read.next() else {
        return Err(AccelError::WrongArgCount { operation: Operation::Generic.name(), expected: "1 or more", count });
    };
    let number = match (first.dtype, first.bytes) {
        (Dtype::U8 | Dtype::Bytes | Dtype::Uchar, &[number]) => u32::from(number),
        _ => {
            let expected = "the number of an operation in one byte";
            return Err(AccelError::bad_arg(Operation::Generic, 0, "operation", ArgError::Value { expected }));
        }
    };
    let operation = Operation::from_abi(number)?;
    let layout = Layout { operation, read: read.collect(), write };
    layout.parse(resource)
}

/// Arguments of an operation in vAccel's layout.
struct Layout<'a> {
    operation: Operation,
    read: Vec<TypedIn<'a>>,
    write: Vec<TypedOut<'a>>,
}

impl<'a> Layout<'a> {
    fn parse(self, resource: impl Fn(u32) -> Option<Resource>) -> Found<Generic<'a>> {
        let operation = self.operation;
        Ok(Generic::Task(match operation {
            Operation::Noop => {
                let ([], []) = self.take("no")?;
                Task::Noop
            }
            Operation::BlasSgemm => self.sgemm()?,
            Operation::ImageClassify => {
                let ([picture], [_name, text]) = self.take("3: a picture, room for a name and for a text")?;
                let text = TextOut::new(text.bytes, text.written);
                return Ok(Generic::ClassifyText { picture: not_empty(operation, picture)?, text });
            }
            Operation::ImageDetect => Task::ImageDetect(self.picture(resource)?),
            Operation::ImageSegment => Task::ImageSegment(self.picture(resource)?),
            Operation::ImagePose => Task::ImagePose(self.picture(resource)?),
            Operation::ImageDepth => Task::ImageDepth(self.picture(resource)?),
            Operation::Exec | Operation::ExecWithResource => self.exec(resource)?,
            Operation::MinMax => self.min_max()?,
            Operation::FpgaArrayCopy => {
                let ([from], [to]) = self.take("2: an array and room for its copy")?;
                let (from, to) = (array(operation, 0, &from)?, room(operation, 1, to)?);
                Task::FpgaArrayCopy(ArrayCopy::new(from, to).map_err(bad(operation, 1))?)
            }
            Operation::FpgaMmult => {
                let ([a, b], [c]) = self.take("3: two matrices and room for their product")?;
                let (a, b, c) = (array(operation, 0, &a)?, array(operation, 1, &b)?, room(operation, 2, c)?);
                Task::FpgaMmult(MatrixProduct::new(a, b, c).map_err(bad(operation, 0))?)
            }
            Operation::FpgaParallel => {
                let ([a, b], [sum, product]) = self.take("4: two arrays, room for sums and products")?;
                let (a, b) = (array(operation, 0, &a)?, array(operation, 1, &b)?);
                let (sum, product) = (room(operation, 2, sum)?, room(operation, 3, product)?);
                Task::FpgaParallel(Parallel::new(a, b, sum, product).map_err(bad(operation, 1))?)
            }
            Operation::FpgaVectorAdd => {
                let ([a, b], [sum]) = self.take("3: two arrays and room for their sums")?;
                let (a, b, sum) = (array(operation, 0, &a)?, array(operation, 1, &b)?, room(operation, 2, sum)?);
                Task::FpgaVectorAdd(VectorAdd::new(a, b, sum).map_err(bad(operation, 1))?)
            }
            Operation::OpenCv => Task::OpenCv(OpenCv { read: self.read, write: self.write }),
            other => return Err(AccelError::NotGeneric { operation: other.name() }),
        }))
    }

    /// As many arguments as the layout has.
    fn take<const R: usize, const W: usize>(
        self,
        expected: &'static str,
    ) -> Found<([TypedIn<'a>; R], [TypedOut<'a>; W])> {
        let Self { operation, read, write } = self;
        let count = read.len() + write.len();
        match (read.try_into(), write.try_into()) {
            (Ok(read), Ok(write)) => Ok((read, write)),
            _ => Err(AccelError::WrongArgCount { operation: operation.name(), expected, count }),
        }
    }

    fn picture(self, resource: impl Fn(u32) -> Option<Resource>) -> Found<Picture<'a>> {
        let operation = self.operation;
        let ([picture], [name]) = self.take("2: a picture and room for a name")?;
        let picture = not_empty(operation, picture)?;
        Ok(Picture { model: resource(0), labels: None, picture, text: TextOut::new(name.bytes, name.written) })
    }

    fn sgemm(self) -> Found<Task<'a>> {
        let operation = self.operation;
        let ([m, n, k, alpha, a, lda, b, ldb, beta, ldc], [c]) =
            self.take("11: m, n, k, alpha, A, lda, B, ldb, beta, ldc and C")?;
        let params = SgemmParams {
            m: value(operation, 0, &m)?,
            n: value(operation, 1, &n)?,
            k: value(operation, 2, &k)?,
            lda: value(operation, 5, &lda)?,
            ldb: value(operation, 7, &ldb)?,
            ldc: value(operation, 9, &ldc)?,
            alpha: value(operation, 3, &alpha)?,
            beta: value(operation, 8, &beta)?,
        };
        let layouts = Layouts::new(&params).map_err(bad(operation, 0))?;
        let a = read::matrix_of(a.bytes, layouts.a).map_err(bad(operation, 4))?;
        let b = read::matrix_of(b.bytes, layouts.b).map_err(bad(operation, 6))?;
        let c = read::matrix_room_of(c.bytes, c.written, layouts.c).map_err(bad(operation, 10))?;
        layouts.product(&params, a, b, c).map(Task::BlasSgemm).map_err(bad(operation, 0))
    }

    fn min_max(self) -> Found<Task<'a>> {
        let operation = self.operation;
        let ([from, count, low, high], [to, min, max]) =
            self.take("7: numbers, their count, two thresholds, room for numbers, smallest and largest")?;
        let announced: i32 = value(operation, 1, &count)?;
        let numbers: &[f64] = array(operation, 0, &from)?;
        let to: &mut [f64] = room(operation, 4, to)?;
        let size = || ArgError::Size { field: "count", value: announced.into(), min: 0, max: numbers.len() as i64 };
        let wanted = usize::try_from(announced).map_err(|_| bad(operation, 1)(size()))?;
        let from = numbers.get(..wanted).ok_or_else(|| bad(operation, 1)(size()))?;
        let got = size_of_val(to) as u64;
        let too_small = ArgError::OutputTooSmall { needed: size_of_val(from) as u64, got };
        let to = to.get_mut(..wanted).ok_or_else(|| bad(operation, 4)(too_small))?;
        let min = room(operation, 5, min).and_then(|room| one(room).map_err(bad(operation, 5)))?;
        let max = room(operation, 6, max).and_then(|room| one(room).map_err(bad(operation, 6)))?;
        let range = (value(operation, 2, &low)?, value(operation, 3, &high)?);
        MinMax::new(range, from, to, min, max).map(Task::MinMax).map_err(bad(operation, 0))
    }

    fn exec(self, resource: impl Fn(u32) -> Option<Resource>) -> Found<Task<'a>> {
        let Self { operation, read, write } = self;
        let count = read.len() + write.len();
        let mut read = read.into_iter();
        let (Some(library), Some(function)) = (read.next(), read.next()) else {
            let expected = "2 or more: a library and a function";
            return Err(AccelError::WrongArgCount { operation: operation.name(), expected, count });
        };
        let function = read::name(function.bytes).map_err(bad(operation, 1))?;
        let (read, is_resource) = (read.collect(), operation == Operation::ExecWithResource);
        if !is_resource {
            let library = Library::Name(read::name(library.bytes).map_err(bad(operation, 0))?);
            return Ok(Task::Exec(Exec { library, function, read, write }));
        }
        let id: i64 = value(operation, 0, &library)?;
        let id = u32::try_from(id).ok().filter(|&id| id > 0).unwrap_or(u32::MAX);
        let library = Library::Resource(resource(id).ok_or(AccelError::UnknownResource { id })?);
        Ok(Task::ExecWithResource(Exec { library, function, read, write }))
    }
}

fn bad(operation: Operation, index: usize) -> impl Fn(ArgError) -> AccelError {
    // The number of the operation itself comes before its arguments.
    move |error| AccelError::bad_arg(operation, index + 1, "in vAccel's layout", error)
}

fn not_empty<'a>(operation: Operation, picture: TypedIn<'a>) -> Found<&'a [u8]> {
    if picture.bytes.is_empty() {
        return Err(bad(operation, 0)(ArgError::Empty));
    }
    Ok(picture.bytes)
}

/// A single value. It may lie at any address.
fn value<T: Element>(operation: Operation, index: usize, arg: &TypedIn<'_>) -> Found<T> {
    let (expected, got) = (size_of::<T>() as u64, arg.bytes.len() as u64);
    check_type::<T>(arg.dtype).map_err(bad(operation, index))?;
    T::read_from_bytes(arg.bytes).map_err(|_| bad(operation, index)(ArgError::Length { expected, got }))
}

fn array<'a, T: Element>(operation: Operation, index: usize, arg: &TypedIn<'a>) -> Found<&'a [T]> {
    check_type::<T>(arg.dtype).and_then(|()| slice(arg.bytes)).map_err(bad(operation, index))
}

fn room<'a, T: Element>(operation: Operation, index: usize, arg: TypedOut<'a>) -> Found<&'a mut [T]> {
    let TypedOut { dtype, bytes, written, .. } = arg;
    check_type::<T>(dtype).map_err(bad(operation, index))?;
    *written = bytes.len() as u64;
    slice_mut(bytes).map_err(bad(operation, index))
}

/// Programs of older versions of vAccel give no types.
fn check_type<T: Element>(dtype: Dtype) -> Result<(), ArgError> {
    if dtype == T::DTYPE || matches!(dtype, Dtype::Bytes | Dtype::Buffer) {
        return Ok(());
    }
    Err(ArgError::Type { expected: T::DTYPE.name(), got: dtype.name() })
}
