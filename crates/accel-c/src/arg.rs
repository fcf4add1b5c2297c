//! Single arguments: memory with a type.
//! Made by C programs; checked by arrays of arguments and by the generic operation. Never guesses a type.

use std::{
    ffi::c_void,
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use crate::{
    errno::{EINVAL, Result},
    memory,
    pointer::{Items, ItemsMut, Out, out},
    types::{Arg, Flag},
};

/// `VACCEL_ARG_*`
pub(crate) const RAW: u32 = 0;
pub(crate) const STRING: u32 = 27;
pub(crate) const BUFFER: u32 = 28;
pub(crate) const CUSTOM: u32 = 29;
pub(crate) const TYPE_MAX: u32 = 30;

const BOOL: u32 = 21;
const BOOL_ARRAY: u32 = 22;

/// Bytes of an element of the types between `RAW` and `STRING`, each of which is there for one and for an array.
const ELEMENT_SIZES: [usize; 13] = [1, 2, 4, 8, 1, 2, 4, 8, 4, 8, 1, 1, 1];

impl Arg {
    /// An argument that refers to memory of the caller's.
    pub(crate) const fn lent(buf: *mut c_void, size: usize, kind: u32, custom_type_id: u32) -> Self {
        Self { buf, size, kind, custom_type_id, owned: Flag::NO }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> Result<&[u8]> {
        // SAFETY: C promises `size` bytes at `buf`.
        unsafe { ItemsMut::at(self.buf.cast::<u8>()).slice(self.size) }.map(|bytes| &*bytes)
    }

    /// Its bytes, to be written.
    pub(crate) fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        // SAFETY: C promises `size` bytes at `buf`, which are the call's alone.
        unsafe { ItemsMut::at(self.buf.cast::<u8>()).slice(self.size) }
    }

    /// Whether its memory can hold its type.
    pub(crate) fn is_valid(&self) -> bool {
        let kind = self.kind;
        if kind == RAW || kind == CUSTOM {
            return true;
        }
        if self.buf.is_null() || self.size == 0 {
            return false;
        }
        let Ok(bytes) = self.bytes() else { return false };
        let index = kind.div_ceil(2).checked_sub(1).and_then(|index| usize::try_from(index).ok());
        match kind {
            STRING => bytes.last() == Some(&0),
            BUFFER => true,
            BOOL => bytes.len() == 1 && bytes.iter().all(|&byte| byte <= 1),
            BOOL_ARRAY => bytes.iter().all(|&byte| byte <= 1),
            _ => match index.and_then(|index| ELEMENT_SIZES.get(index)) {
                Some(&size) if kind % 2 == 1 => bytes.len() == size,
                Some(&size) => bytes.len() % size == 0,
                None => false,
            },
        }
    }

    /// Frees what belongs to it, and makes it an argument without a type.
    pub(crate) fn release(&mut self) {
        if self.owned.get() {
            // SAFETY: owned memory is malloc's, and the argument's alone.
            unsafe { memory::free(self.buf) };
        }
        *self = Self::lent(ptr::null_mut(), 0, TYPE_MAX, 0);
    }
}

api! {
    fn vaccel_arg_init(arg: Out<'_, Arg>, buf: Items<'_, u8>, size: usize, kind: u32, custom_id: u32) {
        init(out(arg)?, buf, size, kind, custom_id)
    }

    fn vaccel_arg_init_from_buf(arg: Out<'_, Arg>, buf: *mut c_void, size: usize, kind: u32, custom_id: u32) {
        lend(out(arg)?, buf, size, kind, custom_id)
    }

    fn vaccel_arg_release(arg: Option<&mut Arg>) {
        arg.ok_or(EINVAL)?.release();
        Ok(())
    }

    fn vaccel_arg_new(arg: Out<'_, *mut Arg>, buf: Items<'_, u8>, size: usize, kind: u32, custom_id: u32) {
        memory::new(arg, |arg| init(arg, buf, size, kind, custom_id))
    }

    fn vaccel_arg_from_buf(arg: Out<'_, *mut Arg>, buf: *mut c_void, size: usize, kind: u32, custom_id: u32) {
        memory::new(arg, |arg| lend(arg, buf, size, kind, custom_id))
    }

    fn vaccel_arg_delete(arg: Option<NonNull<Arg>>) {
        memory::delete(arg, |arg| {
            arg.release();
            Ok(())
        })
    }
}

fn init(arg: &mut MaybeUninit<Arg>, buf: Items<'_, u8>, size: usize, kind: u32, custom_id: u32) -> Result {
    let buf = match (buf.is_null(), size) {
        (true, 0) => ptr::null_mut(),
        (false, 0) => return Err(EINVAL),
        (true, size) => memory::zeroed(size)?.as_ptr(),
        // SAFETY: C gave `size` with `buf`.
        (false, size) => memory::copy(unsafe { buf.slice(size) }?)?,
    };
    arg.write(Arg { buf, size, kind, custom_type_id: custom_id, owned: Flag::YES });
    Ok(())
}

pub(crate) fn lend(arg: &mut MaybeUninit<Arg>, buf: *mut c_void, size: usize, kind: u32, custom_id: u32) -> Result {
    if buf.is_null() != (size == 0) {
        return Err(EINVAL);
    }
    arg.write(Arg::lent(buf, size, kind, custom_id));
    Ok(())
}
