//! The functions of slog that vAccel's headers refer to.
//! Called by programs and plugins that log with vAccel's macros. Their lines go the way of the library's own.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    mem::MaybeUninit,
};

use crate::{
    log,
    pointer::{Out, Text},
    types::SlogConfig,
};

/// Longest line, in bytes, with its zero.
const LINE_MAX: usize = 8196;

/// `nToScreen`
const TO_SCREEN: u8 = 1 << 1;

unsafe extern "C" {
    /// C's own, with a `va_list` by its address.
    fn vsnprintf(to: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

api! {
    fn slog_version(short: u8) -> *const c_char {
        if short != 0 { c"1.8.22" } else { c"1.8 build 22 (of Kernlet)" }.as_ptr()
    }

    fn slog_config_get(config: Out<'_, SlogConfig>) -> () {
        if let Some(config) = config {
            config.write(SlogConfig {
                file_name: [0; 256],
                file_path: [0; 2048],
                color: 0,
                flags: TO_SCREEN,
                levels: log::kinds(),
            });
        }
    }

    fn slog_config_set(config: Option<&SlogConfig>) -> () {
        if let Some(config) = config {
            log::set_kinds(config.levels);
        }
    }

    fn slog_enable(kind: u32) -> () {
        log::set_kinds(log::kinds() | kinds(kind));
    }

    fn slog_disable(kind: u32) -> () {
        log::set_kinds(log::kinds() & !kinds(kind));
    }

    fn slog_init(_name: Text<'_>, kinds: u16, _locked: u8) -> () {
        log::set_kinds(kinds);
    }

    fn slog_destroy() -> () {}
}

fn kinds(kind: u32) -> u16 {
    u16::try_from(kind).unwrap_or_default()
}

/// `void slog_print(SLOG_FLAGS_E kind, uint8_t newline, const char *format, ...)`
///
/// Rust cannot define functions with `...`, so this makes the `va_list` as the System V ABI has it: the registers that
/// may hold arguments are saved, three of which are named ones, and [`slog_vprint`] gets the address of the list.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn slog_print() {
    core::arch::naked_asm!(
        // The list at rsp, the saved registers from rsp + 32 on; rsp is a multiple of 16 at the call.
        "sub rsp, 216",
        "mov [rsp + 56], rcx",
        "mov [rsp + 64], r8",
        "mov [rsp + 72], r9",
        // al says whether vector registers are in use.
        "test al, al",
        "je 2f",
        "movaps [rsp + 80], xmm0",
        "movaps [rsp + 96], xmm1",
        "movaps [rsp + 112], xmm2",
        "movaps [rsp + 128], xmm3",
        "movaps [rsp + 144], xmm4",
        "movaps [rsp + 160], xmm5",
        "movaps [rsp + 176], xmm6",
        "movaps [rsp + 192], xmm7",
        "2:",
        // gp_offset: three general registers are used up; fp_offset: no vector register is.
        "mov dword ptr [rsp], 24",
        "mov dword ptr [rsp + 4], 48",
        // overflow_arg_area: above the return address; reg_save_area.
        "lea rax, [rsp + 224]",
        "mov [rsp + 8], rax",
        "lea rax, [rsp + 32]",
        "mov [rsp + 16], rax",
        "mov rcx, rsp",
        "call {print}",
        "add rsp, 216",
        "ret",
        print = sym slog_vprint,
    )
}

/// Formats a line and writes it.
extern "C" fn slog_vprint(kind: u32, newline: u8, format: Text<'_>, arguments: *mut c_void) {
    crate::api::value(|| {
        let (kind, Some(format)) = (kinds(kind), format.get()) else { return };
        if log::kinds() & kind == 0 {
            return;
        }
        let mut line = [MaybeUninit::<c_char>::uninit(); LINE_MAX];
        // SAFETY: the room is that long, and C promises that the arguments are what the format says.
        let len = unsafe { vsnprintf(line.as_mut_ptr().cast(), LINE_MAX, format.as_ptr(), arguments) };
        if len >= 0 {
            // SAFETY: `vsnprintf` ends what it writes with a zero, within the room.
            let line = unsafe { CStr::from_ptr(line.as_ptr().cast()) };
            log::write_line(kind, &line.to_string_lossy(), newline != 0);
        }
    });
}
