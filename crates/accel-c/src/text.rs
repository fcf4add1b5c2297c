//! Strings for C: cut to their room, in lower case.
//! Used by the functions that write strings. Never writes more than there is room for.

use std::ffi::c_char;

use crate::{
    errno::EINVAL,
    memory,
    pointer::{ItemsMut, Out, Text},
};

api! {
    fn vaccel_str_to_lower(text: Text<'_>, lower: ItemsMut<'_, c_char>, size: usize, allocated: Out<'_, *mut c_char>) {
        let lowered = text.required()?.to_bytes_with_nul().to_ascii_lowercase();
        if let Some(allocated) = allocated {
            allocated.write(memory::copy(&lowered)?.cast());
            return Ok(());
        }
        if lower.is_null() || size == 0 {
            return Err(EINVAL);
        }
        // SAFETY: C gave `size` with `lower`.
        write_cut(unsafe { ItemsMut::at(lower.address().cast::<u8>()).slice(size) }?, &lowered);
        Ok(())
    }
}

/// Writes a string with its zero, cut to the room.
pub(crate) fn write_cut(room: &mut [u8], text: &[u8]) {
    let Some((last, room)) = room.split_last_mut() else { return };
    *last = 0;
    for (to, from) in room.iter_mut().zip(text.iter().chain([&0])) {
        *to = *from;
    }
}
