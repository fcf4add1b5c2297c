//! Where things lie in a machine's memory. Addresses are guest-physical and, since the monitor maps
//! memory one to one, guest-virtual as well. All in bytes.

/// Size of a page.
pub const PAGE_SIZE: u64 = 4096;

/// First page that only the processor and the monitor use: descriptor tables, fault stubs, their stack.
pub const SUPERVISOR_BASE: u64 = 0x1000;

/// First page table (the PML4); the others follow.
pub const PAGE_TABLE_BASE: u64 = 0x1_0000;

/// End of the room for page tables.
pub const PAGE_TABLE_END: u64 = BOOT_BASE;

/// The boot page ([`crate::boot::BootPage`]) and, behind it, the environment.
pub const BOOT_BASE: u64 = 0x10_0000;

/// Room for the boot page and the environment.
pub const BOOT_SIZE: u64 = 4 * PAGE_SIZE;

/// The hypercall page; its first byte is the entry point of every hypercall.
pub const HYPERCALL_PAGE: u64 = BOOT_BASE + BOOT_SIZE;

/// Where the monitor keeps the vector registers of the function's template; read-only to the guest.
pub const VECTORS_PAGE: u64 = HYPERCALL_PAGE + PAGE_SIZE;

/// Lowest address of the stack; the pages between the vector registers and here are unmapped.
pub const STACK_BASE: u64 = 0x11_0000;

/// First address above the stack, where the stack pointer starts.
pub const STACK_TOP: u64 = IMAGE_BASE;

/// Lowest address that a segment of the unikernel may have; guests are linked here.
pub const IMAGE_BASE: u64 = 0x20_0000;

/// Smallest memory a machine can have: the fixed part, and 2 MiB for image, heap and request window.
pub const MEMORY_MIN: u64 = 0x40_0000;

/// Largest memory a machine can have; argument blocks are named by 32-bit offsets.
pub const MEMORY_MAX: u64 = 0xc000_0000;

/// Bytes of the request window beyond the body limit: request header, path, query, HTTP headers.
pub const REQUEST_HEAD_ROOM: u64 = 0x1_0000;

/// Pages that the page tables of one machine may take.
pub const PAGE_TABLE_PAGES: u64 = (PAGE_TABLE_END - PAGE_TABLE_BASE) / PAGE_SIZE;

const _: () = {
    assert!(HYPERCALL_PAGE == 0x10_4000);
    assert!(VECTORS_PAGE + PAGE_SIZE < STACK_BASE, "the stack has a guard page");
    assert!(STACK_TOP.is_multiple_of(PAGE_SIZE) && STACK_BASE.is_multiple_of(PAGE_SIZE));
    assert!(PAGE_TABLE_PAGES == 240);
    assert!(MEMORY_MAX <= u32::MAX as u64 + 1);
};
