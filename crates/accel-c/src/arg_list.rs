//! The lists of arguments that vAccel had before arrays.
//! Called by programs of that time. Never writes more than an argument's size.

use std::{
    ffi::{c_int, c_void},
    ptr::{self, NonNull},
};

use crate::{
    arg,
    errno::{EINVAL, Result},
    memory,
    pointer::ItemsMut,
    types::{Arg, ArgList, Flag},
};

type Serializer = Option<unsafe extern "C" fn(*mut c_void, *mut u32) -> *mut c_void>;
type Deserializer = Option<unsafe extern "C" fn(*mut c_void, u32) -> *mut c_void>;

impl ArgList {
    /// Adds an argument, whose memory is the list's when the argument owns it.
    fn add(&mut self, arg: Arg) -> Result {
        let index = usize::try_from(self.curr_idx).map_err(|_| EINVAL)?;
        let size = usize::try_from(self.size).map_err(|_| EINVAL)?;
        // SAFETY: C promises as many arguments as the list says.
        let args = unsafe { ItemsMut::at(self.list).slice(size) }?;
        // SAFETY: and as many marks.
        let marks = unsafe { ItemsMut::at(self.allocated).slice(size) }?;
        let (place, mark) = (args.get_mut(index).ok_or(EINVAL)?, marks.get_mut(index).ok_or(EINVAL)?);
        *mark = arg.owned.get().into();
        *place = arg;
        self.curr_idx += 1;
        Ok(())
    }

    /// Whether another argument has room.
    fn check_room(&self) -> Result {
        if i64::from(self.curr_idx) < i64::from(self.size) { Ok(()) } else { Err(EINVAL) }
    }
}

api! {
    fn vaccel_args_init(size: u32) -> *mut ArgList {
        make(size).unwrap_or(ptr::null_mut())
    }

    fn vaccel_add_serial_arg(args: Option<&mut ArgList>, buf: *mut c_void, size: u32) {
        add_lent(args, buf, size)
    }

    fn vaccel_expect_serial_arg(args: Option<&mut ArgList>, buf: *mut c_void, size: u32) {
        add_lent(args, buf, size)
    }

    fn vaccel_add_nonserial_arg(args: Option<&mut ArgList>, buf: *mut c_void, kind: u32, serializer: Serializer) {
        let args = args.ok_or(EINVAL)?;
        args.check_room()?;
        let (buf, size) = serialize(serializer, buf)?;
        args.add(Arg { owned: Flag::YES, ..Arg::lent(buf, size, arg::CUSTOM, kind) })
    }

    fn vaccel_expect_nonserial_arg(args: Option<&mut ArgList>, expected_size: u32) {
        let args = args.ok_or(EINVAL)?;
        args.check_room()?;
        let size = usize::try_from(expected_size).map_err(|_| EINVAL)?;
        if size == 0 {
            return Err(EINVAL);
        }
        let buf = memory::zeroed(size)?.as_ptr();
        args.add(Arg { owned: Flag::YES, ..Arg::lent(buf, size, arg::RAW, 0) })
    }

    fn vaccel_extract_serial_arg(args: *mut Arg, index: c_int) -> *mut c_void {
        at(args, index).map_or(ptr::null_mut(), |arg| arg.buf)
    }

    fn vaccel_extract_nonserial_arg(args: *mut Arg, index: c_int, deserializer: Deserializer) -> *mut c_void {
        let (Ok(arg), Some(deserializer)) = (at(args, index), deserializer) else { return ptr::null_mut() };
        let Ok(size) = u32::try_from(arg.size) else { return ptr::null_mut() };
        // SAFETY: C promises that the function takes what the argument holds.
        unsafe { deserializer(arg.buf, size) }
    }

    fn vaccel_write_serial_arg(args: *mut Arg, index: c_int, buf: *mut c_void) {
        let arg = at(args, index)?;
        write(arg, buf, arg.size)
    }

    fn vaccel_write_nonserial_arg(args: *mut Arg, index: c_int, buf: *mut c_void, serializer: Serializer) {
        let arg = at(args, index)?;
        let (made, size) = serialize(serializer, buf)?;
        let written = if size <= arg.size { write(arg, made, size) } else { Err(EINVAL) };
        // SAFETY: a serializer's bytes are malloc's and the caller's.
        unsafe { memory::free(made) };
        written
    }

    fn vaccel_delete_args(args: Option<NonNull<ArgList>>) {
        memory::delete(args, |args| {
            if args.list.is_null() || args.size == 0 || args.allocated.is_null() {
                return Err(EINVAL);
            }
            // Only what was added is looked at: the rest was never initialized.
            let count = usize::try_from(args.curr_idx).map_err(|_| EINVAL)?;
            // SAFETY: C promises as many arguments as were added.
            let list = unsafe { ItemsMut::at(args.list).slice(count) }?;
            // SAFETY: and as many marks.
            let marks = unsafe { ItemsMut::at(args.allocated).slice(count) }?;
            for (arg, _) in list.iter().zip(marks).filter(|(_, mark)| **mark == 1) {
                // SAFETY: what is marked is malloc's and the list's.
                unsafe { memory::free(arg.buf) };
            }
            // SAFETY: the array is malloc's and the list's.
            unsafe { memory::free_field(&mut args.list) };
            // SAFETY: as above.
            unsafe { memory::free_field(&mut args.allocated) };
            Ok(())
        })
    }
}

fn make(size: u32) -> Result<*mut ArgList> {
    let count = usize::try_from(size).map_err(|_| EINVAL)?;
    if count == 0 {
        return Err(EINVAL);
    }
    let mut made = std::mem::MaybeUninit::uninit();
    memory::new(Some(&mut made), |list| {
        let mut args: *mut Arg = memory::array(count)?;
        let allocated = memory::array(count).inspect_err(|_| {
            // SAFETY: the array was made above.
            unsafe { memory::free_field(&mut args) }
        })?;
        list.write(ArgList { size, list: args, curr_idx: 0, allocated });
        Ok(())
    })?;
    // SAFETY: `new` has written it.
    Ok(unsafe { made.assume_init() })
}

fn add_lent(args: Option<&mut ArgList>, buf: *mut c_void, size: u32) -> Result {
    let args = args.ok_or(EINVAL)?;
    let size = usize::try_from(size).map_err(|_| EINVAL)?;
    if buf.is_null() || size == 0 {
        return Err(EINVAL);
    }
    args.add(Arg::lent(buf, size, arg::RAW, 0))
}

fn at<'a>(args: *mut Arg, index: c_int) -> Result<&'a Arg> {
    let index = usize::try_from(index).map_err(|_| EINVAL)?;
    if args.is_null() || !args.is_aligned() {
        return Err(EINVAL);
    }
    // SAFETY: C promises an argument of this index, in which it gives no count.
    let arg = unsafe { args.add(index) };
    // SAFETY: as above.
    Ok(unsafe { &*arg })
}

fn serialize(serializer: Serializer, buf: *mut c_void) -> Result<(*mut c_void, usize)> {
    let serializer = serializer.ok_or(EINVAL)?;
    if buf.is_null() {
        return Err(EINVAL);
    }
    let mut size = 0_u32;
    // SAFETY: C promises that the function takes what is at `buf` and says how much it made.
    let made = unsafe { serializer(buf, &raw mut size) };
    let size = usize::try_from(size).map_err(|_| EINVAL)?;
    if made.is_null() || size == 0 { Err(EINVAL) } else { Ok((made, size)) }
}

fn write(arg: &Arg, from: *const c_void, size: usize) -> Result {
    if from.is_null() || arg.buf.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: C promises an argument's worth of bytes at either place; they may be one.
    unsafe { ptr::copy(from.cast::<u8>(), arg.buf.cast::<u8>(), size) };
    Ok(())
}
