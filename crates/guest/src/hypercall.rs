//! One hypercall: an argument block's address in `edi`, a call to the entry that the boot page names. Used
//! by every module here; never used by functions directly.

use core::arch::asm;

use kernlet_abi::{Span, boot::BootPage, map::BOOT_BASE};

/// The boot page, which the monitor fills in before the first instruction and nobody changes.
pub(crate) fn boot_page() -> &'static BootPage {
    let page: *const BootPage = core::ptr::with_exposed_provenance(BOOT_BASE as usize);
    // SAFETY: the monitor maps a boot page there, readable and constant for the machine's life; `entry` checked
    // its magic and version.
    unsafe { &*page }
}

/// Makes the call that `block` describes; the monitor writes its answer into the block.
pub(crate) fn call<T>(block: &mut T) {
    let entry = boot_page().hypercall_entry;
    let address = core::ptr::from_mut(block).expose_provenance();
    // SAFETY: the hypercall page is a C function of one argument that returns; it changes memory only where
    // the block, or a range that the block names, allows. The block outlives the call.
    unsafe { asm!("call {entry}", entry = in(reg) entry, in("rdi") address, clobber_abi("C")) };
}

/// The range of guest memory that bytes occupy.
pub(crate) fn span(bytes: &[u8]) -> Span {
    Span { offset: bytes.as_ptr().expose_provenance() as u64, len: bytes.len() as u64 }
}

/// As [`span`], for bytes that the monitor writes.
pub(crate) fn span_mut(bytes: &mut [u8]) -> Span {
    Span { offset: bytes.as_mut_ptr().expose_provenance() as u64, len: bytes.len() as u64 }
}

/// Bytes that the monitor laid into memory that stays as it is for 'a.
///
/// # Safety
/// `span` must be readable memory that does not change during 'a.
pub(crate) unsafe fn bytes_at<'a>(span: Span) -> &'a [u8] {
    if span.len == 0 {
        return &[];
    }
    let start = core::ptr::with_exposed_provenance(span.offset as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, span.len as usize) }
}
