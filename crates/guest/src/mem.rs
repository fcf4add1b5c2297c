//! `memcpy` and its kin, which the compiler calls and no C library provides here. Never called by name.
//! String instructions: fast from the first byte on processors with FSRM, and immune to the compiler
//! turning a loop back into a call.

use core::arch::asm;

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller promises `len` readable and writable bytes; the direction flag is clear by the ABI.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: copying forwards never reads a byte already written; the caller promises the rest.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: backwards from the last byte, for ranges that overlap with the target above; the flag is cleared.
    unsafe {
        asm!("std", "rep movsb", "cld",
             inout("rcx") len => _,
             inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
             inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _,
             options(nostack));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the caller promises `len` writable bytes.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte.to_le_bytes()[0],
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller promises `len` readable bytes.
    let a = unsafe { core::slice::from_raw_parts(a, len) };
    // SAFETY: as above.
    let b = unsafe { core::slice::from_raw_parts(b, len) };
    let unequal = a.iter().zip(b).find(|(a, b)| a != b);
    unequal.map_or(0, |(a, b)| i32::from(*a) - i32::from(*b))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { memcmp(a, b, len) }
}
