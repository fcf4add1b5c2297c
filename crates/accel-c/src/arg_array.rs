//! Arrays of arguments, which are filled and read in order.
//! Made by C programs and plugins; read by the generic operation. An array never reads past its end, and never grows
//! where the memory is somebody else's.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::MaybeUninit,
    ops::Range,
    ptr::{self, NonNull},
};

use crate::{
    arg,
    errno::{EINVAL, ENOMEM, ERANGE, Errno, Result},
    memory,
    pointer::{Items, ItemsMut, Out, Text, out},
    types::{Arg, ArgArray, Flag},
};

/// Room that a new array has when nobody says how much.
const CAPACITY_DEFAULT: usize = 8;

type Validator = Option<unsafe extern "C" fn(*const c_void, usize, u32) -> Flag>;
type Serializer = Option<unsafe extern "C" fn(*const c_void, usize, u32, *mut *mut c_void, *mut usize) -> c_int>;
type Deserializer = Option<unsafe extern "C" fn(*const c_void, usize, u32, usize, *mut c_void) -> c_int>;

impl ArgArray {
    /// An array of somebody else's arguments.
    pub(crate) fn wrap(args: &ItemsMut<'_, Arg>, count: usize) -> Result<Self> {
        if args.is_null() && count > 0 {
            return Err(EINVAL);
        }
        Ok(Self { args: args.address(), count, capacity: count, position: 0, owned: Flag::NO })
    }

    /// Its arguments.
    fn args_mut(&mut self) -> Result<&mut [Arg]> {
        // SAFETY: C promises that a struct holds as many arguments as it says.
        unsafe { ItemsMut::at(self.args).slice(self.count) }
    }

    /// The next argument to be read.
    pub(crate) fn next(&mut self) -> Result<&mut Arg> {
        let position = self.position;
        if position >= self.count {
            return Err(ERANGE);
        }
        self.args_mut()?.get_mut(position).ok_or(ERANGE)
    }

    /// The next argument to be read, which has to be of this type and to hold it.
    pub(crate) fn next_of(&mut self, kind: u32) -> Result<&mut Arg> {
        let arg = self.next()?;
        if arg.kind == kind && arg.is_valid() { Ok(arg) } else { Err(EINVAL) }
    }

    /// Makes room for so many more.
    fn reserve(&mut self, more: usize) -> Result {
        let needed = self.count.checked_add(more).ok_or(ENOMEM)?;
        if needed <= self.capacity && !self.args.is_null() {
            return Ok(());
        }
        if !self.owned.get() {
            return Err(ERANGE);
        }
        let capacity = needed.max(self.capacity.saturating_mul(2));
        let size = capacity.checked_mul(size_of::<Arg>()).ok_or(ENOMEM)?;
        // SAFETY: the arguments of an array that owns them are malloc's, or null.
        let args = unsafe { libc::realloc(self.args.cast(), size) };
        self.args = NonNull::new(args).ok_or(ENOMEM)?.as_ptr().cast();
        self.capacity = capacity;
        Ok(())
    }

    /// Adds an argument, for which there is room.
    fn push(&mut self, arg: Arg) {
        // SAFETY: `reserve` made room for it, and the place after the last is within that.
        let place = unsafe { self.args.add(self.count) };
        // SAFETY: as above.
        unsafe { place.write(arg) };
        self.count += 1;
    }

    /// Adds an argument whose memory can hold its type.
    fn add(&mut self, arg: Arg) -> Result {
        self.reserve(1)?;
        if !arg.is_valid() {
            return Err(EINVAL);
        }
        self.push(arg);
        Ok(())
    }

    fn release(&mut self) -> Result {
        if self.args.is_null() {
            return Err(EINVAL);
        }
        if self.owned.get() {
            self.args_mut()?.iter_mut().for_each(Arg::release);
            // SAFETY: the arguments of an array that owns them are malloc's.
            unsafe { memory::free(self.args) };
        }
        *self = Self { args: ptr::null_mut(), count: 0, capacity: 0, position: 0, owned: Flag::NO };
        Ok(())
    }
}

api! {
    fn vaccel_arg_array_init(array: Out<'_, ArgArray>, initial_capacity: usize) {
        init(out(array)?, initial_capacity)
    }

    fn vaccel_arg_array_release(array: Option<&mut ArgArray>) {
        array.ok_or(EINVAL)?.release()
    }

    fn vaccel_arg_array_new(array: Out<'_, *mut ArgArray>, initial_capacity: usize) {
        memory::new(array, |array| init(array, initial_capacity))
    }

    fn vaccel_arg_array_delete(array: Option<NonNull<ArgArray>>) {
        memory::delete(array, ArgArray::release)
    }

    fn vaccel_arg_array_wrap(array: Out<'_, ArgArray>, args: ItemsMut<'_, Arg>, count: usize) {
        out(array)?.write(ArgArray::wrap(&args, count)?);
        Ok(())
    }

    fn vaccel_arg_array_clear(array: Option<&mut ArgArray>) -> () {
        let Some(array) = array.filter(|array| !array.args.is_null()) else { return };
        if let Ok(args) = array.args_mut() {
            args.iter_mut().for_each(Arg::release);
        }
        array.count = 0;
        array.position = 0;
    }

    fn vaccel_arg_array_add_raw(array: Option<&mut ArgArray>, buf: *mut c_void, size: usize) {
        let array = array.ok_or(EINVAL)?;
        array.reserve(1)?;
        let mut raw = MaybeUninit::uninit();
        arg::lend(&mut raw, buf, size, arg::RAW, 0)?;
        array.push(Arg::lent(buf, size, arg::RAW, 0));
        Ok(())
    }

    fn vaccel_arg_array_add_string(array: Option<&mut ArgArray>, text: ItemsMut<'_, c_char>) {
        let array = array.ok_or(EINVAL)?;
        let address = text.address();
        if address.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: C promises that strings end with a zero.
        let size = unsafe { CStr::from_ptr(address) }.count_bytes() + 1;
        array.add(Arg::lent(address.cast(), size, arg::STRING, 0))
    }

    fn vaccel_arg_array_add_buffer(array: Option<&mut ArgArray>, buf: *mut c_void, size: usize) {
        array.ok_or(EINVAL)?.add(Arg::lent(buf, size, arg::BUFFER, 0))
    }

    fn vaccel_arg_array_add_custom(
        array: Option<&mut ArgArray>,
        custom_id: u32,
        buf: *mut c_void,
        size: usize,
        validator: Validator,
    ) {
        let array = array.ok_or(EINVAL)?;
        check_custom(validator, buf, size, custom_id)?;
        array.add(Arg::lent(buf, size, arg::CUSTOM, custom_id))
    }

    fn vaccel_arg_array_add_serialized(
        array: Option<&mut ArgArray>,
        kind: u32,
        custom_id: u32,
        data: *const c_void,
        data_size: usize,
        serializer: Serializer,
    ) {
        let array = array.ok_or(EINVAL)?;
        let (buf, size) = serialize(serializer, data, data_size, custom_id)?;
        let mut arg = Arg { owned: Flag::YES, ..Arg::lent(buf, size, kind, custom_id) };
        let added = array.add(arg);
        if added.is_err() {
            arg.release();
        }
        added
    }

    fn vaccel_arg_array_add_range(
        dest: Option<NonNull<ArgArray>>,
        src: Option<NonNull<ArgArray>>,
        start: usize,
        count: usize,
        copy: Flag,
    ) {
        let range = |src: &ArgArray| {
            let end = start.checked_add(count).filter(|&end| end <= src.count).ok_or(ERANGE)?;
            if start < src.count { Ok(start..end) } else { Err(ERANGE) }
        };
        add_range(dest, src, range, copy)
    }

    fn vaccel_arg_array_add_remaining(dest: Option<NonNull<ArgArray>>, src: Option<NonNull<ArgArray>>, copy: Flag) {
        add_range(dest, src, |src| Ok(src.position.min(src.count)..src.count), copy)
    }

    fn vaccel_arg_array_add_all(dest: Option<NonNull<ArgArray>>, src: Option<NonNull<ArgArray>>, copy: Flag) {
        add_range(dest, src, |src| Ok(0..src.count), copy)
    }

    fn vaccel_arg_array_get_raw(array: Option<&mut ArgArray>, buf: Out<'_, *mut c_void>, size: Out<'_, usize>) {
        let (array, buf, size) = (array.ok_or(EINVAL)?, out(buf)?, out(size)?);
        let raw = *array.next()?;
        if raw.kind != arg::RAW {
            return Err(EINVAL);
        }
        buf.write(raw.buf);
        size.write(raw.size);
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_get_string(array: Option<&mut ArgArray>, text: Out<'_, *mut c_char>) {
        let (array, text) = (array.ok_or(EINVAL)?, out(text)?);
        text.write(array.next_of(arg::STRING)?.buf.cast());
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_get_buffer(array: Option<&mut ArgArray>, buf: Out<'_, *mut c_void>, size: Out<'_, usize>) {
        let (array, buf, size) = (array.ok_or(EINVAL)?, out(buf)?, out(size)?);
        let buffer = *array.next_of(arg::BUFFER)?;
        buf.write(buffer.buf);
        size.write(buffer.size);
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_get_custom(
        array: Option<&mut ArgArray>,
        expected_id: u32,
        buf: Out<'_, *mut c_void>,
        size: Out<'_, usize>,
        validator: Validator,
    ) {
        let (array, buf) = (array.ok_or(EINVAL)?, out(buf)?);
        let custom = next_custom(array, expected_id)?;
        check_custom(validator, custom.buf, custom.size, custom.custom_type_id)?;
        buf.write(custom.buf);
        if let Some(size) = size {
            size.write(custom.size);
        }
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_get_serialized(
        array: Option<&mut ArgArray>,
        expected_kind: u32,
        expected_id: u32,
        data: *mut c_void,
        expected_size: usize,
        deserializer: Deserializer,
    ) {
        let (array, deserializer) = (array.ok_or(EINVAL)?, deserializer.ok_or(EINVAL)?);
        if data.is_null() {
            return Err(EINVAL);
        }
        let (arg, id) = next_serialized(array, expected_kind, expected_id)?;
        // SAFETY: C promises that the function takes what the argument holds, and fills `expected_size` bytes of data.
        Errno::check(unsafe { deserializer(arg.buf, arg.size, id, expected_size, data) })?;
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_set_raw(array: Option<&mut ArgArray>, buf: Items<'_, u8>, size: usize) {
        let array = array.ok_or(EINVAL)?;
        let raw = array.next()?;
        if raw.kind != arg::RAW {
            return Err(EINVAL);
        }
        if !buf.is_null() && size > 0 {
            // SAFETY: C gave `size` with `buf`.
            write(raw, unsafe { buf.slice(size) }?)?;
        } else if !raw.buf.is_null() && raw.size > 0 {
            return Err(EINVAL);
        }
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_set_string(array: Option<&mut ArgArray>, text: Text<'_>) {
        let (array, text) = (array.ok_or(EINVAL)?, text.required()?);
        let arg = array.next()?;
        if arg.kind != arg::STRING {
            return Err(EINVAL);
        }
        write(arg, text.to_bytes_with_nul())?;
        // The rest of the room is zeroes too, so that the last byte is one.
        arg.bytes_mut()?.iter_mut().skip(text.count_bytes()).for_each(|byte| *byte = 0);
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_set_buffer(array: Option<&mut ArgArray>, buf: Items<'_, u8>, size: usize) {
        let array = array.ok_or(EINVAL)?;
        if buf.is_null() || size == 0 {
            return Err(EINVAL);
        }
        let arg = array.next()?;
        if arg.kind != arg::BUFFER {
            return Err(EINVAL);
        }
        // SAFETY: C gave `size` with `buf`.
        write(arg, unsafe { buf.slice(size) }?)?;
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_set_custom(
        array: Option<&mut ArgArray>,
        expected_id: u32,
        buf: Items<'_, u8>,
        size: usize,
        validator: Validator,
    ) {
        let array = array.ok_or(EINVAL)?;
        let mut custom = next_custom(array, expected_id)?;
        // SAFETY: C gave `size` with `buf`.
        let bytes = unsafe { buf.slice(size) }?;
        if custom.size != size {
            return Err(EINVAL);
        }
        check_custom(validator, bytes.as_ptr().cast(), size, custom.custom_type_id)?;
        write(&mut custom, bytes)?;
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_set_serialized(
        array: Option<&mut ArgArray>,
        expected_kind: u32,
        expected_id: u32,
        data: *mut c_void,
        data_size: usize,
        serializer: Serializer,
    ) {
        let array = array.ok_or(EINVAL)?;
        if data.is_null() || serializer.is_none() {
            return Err(EINVAL);
        }
        let (mut arg, id) = next_serialized(array, expected_kind, expected_id)?;
        let (buf, size) = serialize(serializer, data, data_size, id)?;
        let mut made = Arg { owned: Flag::YES, ..Arg::lent(buf, size, arg.kind, id) };
        let written = if made.size == arg.size { made.bytes().and_then(|bytes| write(&mut arg, bytes)) } else { Err(EINVAL) };
        made.release();
        written?;
        array.position += 1;
        Ok(())
    }

    fn vaccel_arg_array_get_remaining(array: Option<&mut ArgArray>, args: Out<'_, *mut Arg>, count: Out<'_, usize>) {
        let (array, args, count) = (array.ok_or(EINVAL)?, out(args)?, out(count)?);
        let position = array.position;
        let rest = array.args_mut()?.get_mut(position..).unwrap_or_default();
        args.write(if rest.is_empty() { ptr::null_mut() } else { rest.as_mut_ptr() });
        count.write(rest.len());
        Ok(())
    }

    fn vaccel_arg_array_remaining_count(array: Option<&ArgArray>) -> usize {
        array.map_or(0, |array| array.count.saturating_sub(array.position))
    }

    fn vaccel_arg_array_position(array: Option<&ArgArray>) -> usize {
        array.map_or(0, |array| array.position)
    }

    fn vaccel_arg_array_set_position(array: Option<&mut ArgArray>, position: usize) -> () {
        if let Some(array) = array {
            array.position = position.min(array.count);
        }
    }

    fn vaccel_arg_array_reset_position(array: Option<&mut ArgArray>) -> () {
        if let Some(array) = array {
            array.position = 0;
        }
    }

    fn vaccel_arg_array_count(array: Option<&ArgArray>) -> usize {
        array.map_or(0, |array| array.count)
    }

    fn vaccel_arg_array_raw(array: Option<&ArgArray>) -> *mut Arg {
        array.map_or(ptr::null_mut(), |array| array.args)
    }
}

/// The six functions of each number type, whose type for an array is the one after that for one.
macro_rules! numbers {
    ($($name:ident: $type:ty = $kind:literal;)*) => {$(
        mod $name {
            use super::*;

            #[unsafe(export_name = concat!("vaccel_arg_array_add_", stringify!($name)))]
            extern "C" fn add(array: Option<&mut ArgArray>, value: *mut $type) -> c_int {
                crate::api::status(|| add_values(array, value, 1, $kind))
            }

            #[unsafe(export_name = concat!("vaccel_arg_array_add_", stringify!($name), "_array"))]
            extern "C" fn add_array(array: Option<&mut ArgArray>, values: *mut $type, count: usize) -> c_int {
                crate::api::status(|| add_values(array, values, count, $kind + 1))
            }

            #[unsafe(export_name = concat!("vaccel_arg_array_get_", stringify!($name)))]
            extern "C" fn get(array: Option<&mut ArgArray>, value: Out<'_, $type>) -> c_int {
                crate::api::status(|| get_one(array, value, $kind))
            }

            #[unsafe(export_name = concat!("vaccel_arg_array_get_", stringify!($name), "_array"))]
            extern "C" fn get_array(
                array: Option<&mut ArgArray>,
                values: Out<'_, *mut $type>,
                count: Out<'_, usize>,
            ) -> c_int {
                crate::api::status(|| get_many(array, values, count, $kind + 1))
            }

            #[unsafe(export_name = concat!("vaccel_arg_array_set_", stringify!($name)))]
            extern "C" fn set(array: Option<&mut ArgArray>, value: Items<'_, $type>) -> c_int {
                crate::api::status(|| set_values(array, value, 1, $kind))
            }

            #[unsafe(export_name = concat!("vaccel_arg_array_set_", stringify!($name), "_array"))]
            extern "C" fn set_array(array: Option<&mut ArgArray>, values: Items<'_, $type>, count: usize) -> c_int {
                crate::api::status(|| set_values(array, values, count, $kind + 1))
            }
        }
    )*};
}

numbers! {
    int8: i8 = 1;
    int16: i16 = 3;
    int32: i32 = 5;
    int64: i64 = 7;
    uint8: u8 = 9;
    uint16: u16 = 11;
    uint32: u32 = 13;
    uint64: u64 = 15;
    float: f32 = 17;
    double: f64 = 19;
    bool: Flag = 21;
    char: c_char = 23;
    uchar: u8 = 25;
}

fn add_values<T>(array: Option<&mut ArgArray>, values: *mut T, count: usize, kind: u32) -> Result {
    let array = array.ok_or(EINVAL)?;
    let size = count.checked_mul(size_of::<T>()).ok_or(EINVAL)?;
    array.add(Arg::lent(values.cast(), size, kind, 0))
}

pub(crate) fn get_one<T: Copy>(array: Option<&mut ArgArray>, value: Out<'_, T>, kind: u32) -> Result {
    let (array, value) = (array.ok_or(EINVAL)?, out(value)?);
    let arg = array.next()?;
    if arg.kind != kind || arg.size != size_of::<T>() || arg.buf.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: the argument has a value's size; wherever it lies, and every bit pattern is a `T`.
    value.write(unsafe { arg.buf.cast::<T>().read_unaligned() });
    array.position += 1;
    Ok(())
}

pub(crate) fn get_many<T>(
    array: Option<&mut ArgArray>,
    values: Out<'_, *mut T>,
    count: Out<'_, usize>,
    kind: u32,
) -> Result {
    let (array, values) = (array.ok_or(EINVAL)?, out(values)?);
    let arg = array.next()?;
    if arg.kind != kind || arg.buf.is_null() || arg.size == 0 || arg.size % size_of::<T>() != 0 {
        return Err(EINVAL);
    }
    values.write(arg.buf.cast());
    if let Some(count) = count {
        count.write(arg.size / size_of::<T>());
    }
    array.position += 1;
    Ok(())
}

fn set_values<T>(array: Option<&mut ArgArray>, values: Items<'_, T>, count: usize, kind: u32) -> Result {
    let array = array.ok_or(EINVAL)?;
    if values.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: C gave `count` with the pointer.
    let values = unsafe { values.slice(count) }?;
    let size = size_of_val(values);
    let is_one = kind % 2 == 1;
    let arg = array.next()?;
    let fits = if is_one { arg.size == size } else { arg.size > 0 && arg.size % size_of::<T>() == 0 };
    if arg.kind != kind || !fits {
        return Err(EINVAL);
    }
    // SAFETY: the values are plain, without padding.
    let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast::<u8>(), size) };
    write(arg, bytes)?;
    array.position += 1;
    Ok(())
}

fn init(array: &mut MaybeUninit<ArgArray>, capacity: usize) -> Result {
    let capacity = if capacity == 0 { CAPACITY_DEFAULT } else { capacity };
    let args = memory::array(capacity)?;
    array.write(ArgArray { args, count: 0, capacity, position: 0, owned: Flag::YES });
    Ok(())
}

/// Copies bytes to where an argument has them.
fn write(arg: &mut Arg, bytes: &[u8]) -> Result {
    if arg.buf.is_null() || arg.size < bytes.len() {
        return Err(EINVAL);
    }
    // SAFETY: there is room; source and target may be the same memory.
    unsafe { ptr::copy(bytes.as_ptr(), arg.buf.cast::<u8>(), bytes.len()) };
    Ok(())
}

fn next_custom(array: &mut ArgArray, id: u32) -> Result<Arg> {
    let arg = *array.next()?;
    if arg.kind == arg::CUSTOM && arg.custom_type_id == id { Ok(arg) } else { Err(EINVAL) }
}

/// The next argument for a serializer, and the id that the serializer is told.
fn next_serialized(array: &mut ArgArray, kind: u32, id: u32) -> Result<(Arg, u32)> {
    let arg = *array.next()?;
    if arg.kind != kind {
        return Err(EINVAL);
    }
    if kind == arg::CUSTOM {
        return if arg.custom_type_id == id { Ok((arg, id)) } else { Err(EINVAL) };
    }
    if arg.is_valid() { Ok((arg, 0)) } else { Err(EINVAL) }
}

fn check_custom(validator: Validator, buf: *const c_void, size: usize, id: u32) -> Result {
    let validator = validator.ok_or(EINVAL)?;
    // SAFETY: C promises that the function takes `size` bytes at `buf`.
    if unsafe { validator(buf, size, id) }.get() { Ok(()) } else { Err(EINVAL) }
}

fn serialize(serializer: Serializer, data: *const c_void, size: usize, id: u32) -> Result<(*mut c_void, usize)> {
    let serializer = serializer.ok_or(EINVAL)?;
    let mut buf = ptr::null_mut();
    let mut made = 0;
    // SAFETY: C promises that the function takes `size` bytes at `data` and fills in both results.
    Errno::check(unsafe { serializer(data, size, id, &raw mut buf, &raw mut made) })?;
    Ok((buf, made))
}

/// Adds a range of arguments of one array to another, which may be the same.
fn add_range(
    dest: Option<NonNull<ArgArray>>,
    src: Option<NonNull<ArgArray>>,
    range: impl FnOnce(&ArgArray) -> Result<Range<usize>>,
    copy: Flag,
) -> Result {
    let (mut dest, mut src) = (dest.ok_or(EINVAL)?, src.ok_or(EINVAL)?);
    // What is added is taken before anything moves: both may be one array.
    let taken: Vec<Arg> = {
        // SAFETY: C promises that it is an array; the reference ends before the other is made.
        let src = unsafe { src.as_mut() };
        let range = range(src)?;
        if range.is_empty() {
            return Ok(());
        }
        src.args_mut()?.get(range).ok_or(ERANGE)?.to_vec()
    };
    // SAFETY: C promises that it is an array.
    let dest = unsafe { dest.as_mut() };
    dest.reserve(taken.len())?;
    let mut added: Vec<Arg> = Vec::with_capacity(taken.len());
    for arg in taken {
        let copied = if copy.get() && !arg.buf.is_null() { arg.bytes().and_then(memory::copy) } else { Ok(arg.buf) };
        match copied {
            Ok(buf) => added.push(Arg { buf, owned: (copy.get() && !arg.buf.is_null()).into(), ..arg }),
            Err(errno) => {
                added.iter_mut().for_each(Arg::release);
                return Err(errno);
            }
        }
    }
    added.into_iter().for_each(|arg| dest.push(arg));
    Ok(())
}
