//! The generic operation: any of the others by its number, with typed arguments in the layout that vAccel gave it.
//! Called by C programs. Each argument has the type that the layout has there, and as many bytes as the others say.

use std::{
    ffi::{CStr, c_char, c_int},
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use kernlet_accel::Operation;

use super::{exec, image, matrix};
use crate::{
    arg,
    arg_array::{get_many, get_one},
    errno::{EINVAL, ENOTSUP, Result},
    pointer::ItemsMut,
    registry::{self, Place},
    types::{Arg, ArgArray, OPERATIONS, Resource, Session},
};

const INT64: u32 = 7;
const UINT8: u32 = 9;
const FLOAT32: u32 = 17;
const FLOAT32_ARRAY: u32 = 18;
const UCHAR_ARRAY: u32 = 26;

api! {
    fn vaccel_genop(
        session: Option<NonNull<Session>>,
        read: ItemsMut<'_, Arg>,
        read_len: c_int,
        write: ItemsMut<'_, Arg>,
        write_len: c_int,
    ) {
        let count = |count: c_int| usize::try_from(count).map_err(|_| EINVAL);
        let read = Reader(ArgArray::wrap(&read, count(read_len)?)?);
        let write = Reader(ArgArray::wrap(&write, count(write_len)?)?);
        if session.is_none() {
            return Err(EINVAL);
        }
        run(session, read, write)
    }
}

fn run(session: Option<NonNull<Session>>, mut read: Reader, mut write: Reader) -> Result {
    let number = u32::from(read.one::<u8>(UINT8)?);
    let operation = Operation::from_abi(number).map_err(|_| EINVAL)?;
    if usize::try_from(number).is_ok_and(|number| number >= OPERATIONS) {
        return Err(EINVAL);
    }
    match operation {
        Operation::Noop => {
            read.expect(0)?;
            write.expect(0)?;
            super::noop(session)
        }
        Operation::BlasSgemm => sgemm(session, read, write),
        Operation::ImageClassify => picture(session, operation, read, write, 2),
        Operation::ImageDetect | Operation::ImageSegment | Operation::ImagePose | Operation::ImageDepth => {
            picture(session, operation, read, write, 1)
        }
        Operation::Exec => {
            let library = read.text()?;
            let function = read.text()?;
            exec::exec(session, library, function, arguments(&mut read, &mut write)?)
        }
        Operation::ExecWithResource => {
            let id = read.one::<i64>(INT64)?;
            let function = read.text()?;
            let resource = registry::read().resource_by_id(id).map(Place::as_ptr).and_then(NonNull::<Resource>::new);
            let resource = resource.ok_or(crate::errno::ENOENT)?;
            exec::exec_with_resource(session, Some(resource), function, arguments(&mut read, &mut write)?)
        }
        Operation::OpenCv => exec::opencv(session, arguments(&mut read, &mut write)?),
        Operation::FpgaArrayCopy => {
            read.expect(1)?;
            write.expect(1)?;
            let (from, len) = read.numbers::<c_int>()?;
            super::arrays::copy(session, from, write.room(len)?, len)
        }
        Operation::FpgaMmult => {
            let ([a, b], len) = pair(&mut read)?;
            write.expect(1)?;
            super::arrays::product(session, [a, b, write.room(len)?], len)
        }
        Operation::FpgaParallel => {
            let ([a, b], len) = pair(&mut read)?;
            write.expect(2)?;
            super::arrays::parallel(session, [a, b, write.room(len)?, write.room(len)?], len)
        }
        Operation::FpgaVectorAdd => {
            let ([a, b], len) = pair(&mut read)?;
            write.expect(1)?;
            super::arrays::add(session, [a, b, write.room(len)?], len)
        }
        Operation::MinMax => minmax(session, read, write),
        _ => {
            error!("{operation} has no generic form");
            Err(ENOTSUP)
        }
    }
}

fn sgemm(session: Option<NonNull<Session>>, mut read: Reader, mut write: Reader) -> Result {
    read.expect(10)?;
    write.expect(1)?;
    let sizes = [read.one(INT64)?, read.one(INT64)?, read.one(INT64)?];
    let alpha = read.one(FLOAT32)?;
    let (a, room_a) = read.many(FLOAT32_ARRAY)?;
    let lda = read.one(INT64)?;
    let (b, room_b) = read.many(FLOAT32_ARRAY)?;
    let ldb = read.one(INT64)?;
    let beta = read.one(FLOAT32)?;
    let ldc = read.one(INT64)?;
    let (c, room_c) = write.many(FLOAT32_ARRAY)?;
    let product = matrix::Product {
        sizes,
        factors: [alpha, beta],
        matrices: [a, b, c],
        strides: [lda, ldb, ldc],
        room: [room_a, room_b, room_c],
    };
    product.run(session)
}

fn picture(
    session: Option<NonNull<Session>>,
    operation: Operation,
    mut read: Reader,
    mut write: Reader,
    results: usize,
) -> Result {
    read.expect(1)?;
    write.expect(results)?;
    let picture = *read.0.next_of(arg::BUFFER)?;
    let (name, name_len) = write.many::<u8>(UCHAR_ARRAY)?;
    let (text, text_len) = if results > 1 { write.many::<u8>(UCHAR_ARRAY)? } else { (ptr::null_mut(), 0) };
    let arguments = image::Arguments { picture: picture.buf.cast(), len: picture.size, text, text_len, name, name_len };
    arguments.run(session, operation)
}

fn minmax(session: Option<NonNull<Session>>, mut read: Reader, mut write: Reader) -> Result {
    read.expect(4)?;
    write.expect(3)?;
    let (from, len) = read.numbers::<f64>()?;
    let count = read.number::<c_int>()?;
    let (low, high) = (read.number::<c_int>()?, read.number::<c_int>()?);
    let needed = usize::try_from(count).map_err(|_| EINVAL)?;
    if needed > len {
        return Err(EINVAL);
    }
    let to = write.room(needed)?;
    super::arrays::minmax(session, from, [count, low, high], [to, write.room(1)?, write.room(1)?])
}

/// Two arrays of one length.
fn pair(read: &mut Reader) -> Result<([*mut f32; 2], usize)> {
    read.expect(2)?;
    let ((a, len), (b, len_b)) = (read.numbers()?, read.numbers()?);
    if len == len_b { Ok(([a, b], len)) } else { Err(EINVAL) }
}

/// All that is left.
fn arguments(read: &mut Reader, write: &mut Reader) -> Result<exec::Arguments> {
    let ((read, read_len), (write, write_len)) = (read.rest(), write.rest());
    exec::Arguments::new(&ItemsMut::at(read), read_len, &ItemsMut::at(write), write_len)
}

/// Arguments that are taken one after the other.
struct Reader(ArgArray);

impl Reader {
    /// An error unless so many are left.
    fn expect(&self, count: usize) -> Result {
        let left = self.0.count.saturating_sub(self.0.position);
        if left == count {
            return Ok(());
        }
        error!("a generic operation takes {count} arguments there and got {left}");
        Err(EINVAL)
    }

    /// A value of this type.
    fn one<T: Copy>(&mut self, kind: u32) -> Result<T> {
        let mut value = MaybeUninit::uninit();
        get_one(Some(&mut self.0), Some(&mut value), kind).map_err(|_| EINVAL)?;
        // SAFETY: `get_one` has written it.
        Ok(unsafe { value.assume_init() })
    }

    /// An array of this type.
    fn many<T>(&mut self, kind: u32) -> Result<(*mut T, usize)> {
        let (mut values, mut count) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        get_many(Some(&mut self.0), Some(&mut values), Some(&mut count), kind).map_err(|_| EINVAL)?;
        // SAFETY: `get_many` has written both.
        let values = unsafe { values.assume_init() };
        // SAFETY: as above.
        Ok((values, unsafe { count.assume_init() }))
    }

    /// The next argument as numbers, whatever its type: programs pass those of these operations raw.
    fn numbers<T>(&mut self) -> Result<(*mut T, usize)> {
        let arg = *self.0.next().map_err(|_| EINVAL)?;
        if arg.buf.is_null() || arg.size == 0 || arg.size % size_of::<T>() != 0 {
            return Err(EINVAL);
        }
        self.0.position += 1;
        Ok((arg.buf.cast(), arg.size / size_of::<T>()))
    }

    /// The next argument as one number.
    fn number<T: Copy>(&mut self) -> Result<T> {
        match self.numbers::<T>()? {
            // SAFETY: the argument has a value's size, wherever it lies.
            (address, 1) => Ok(unsafe { address.read_unaligned() }),
            _ => Err(EINVAL),
        }
    }

    /// The next argument as room for so many numbers.
    fn room<T>(&mut self, count: usize) -> Result<*mut T> {
        let (room, len) = self.numbers()?;
        if len >= count { Ok(room) } else { Err(EINVAL) }
    }

    /// A string.
    fn text(&mut self) -> Result<&'static CStr> {
        let text = self.0.next_of(arg::STRING).map_err(|_| EINVAL)?.buf.cast::<c_char>();
        self.0.position += 1;
        // SAFETY: a valid string ends with a zero; it is C's, and stays during the call.
        Ok(unsafe { CStr::from_ptr(text) })
    }

    /// All that is left.
    fn rest(&self) -> (*mut Arg, usize) {
        let left = self.0.count.saturating_sub(self.0.position);
        if left == 0 {
            return (ptr::null_mut(), 0);
        }
        // SAFETY: the position is less than the count, which C gave with the arguments.
        (unsafe { self.0.args.add(self.0.position) }, left)
    }
}
