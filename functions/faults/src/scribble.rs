//! Scribbles over everything that a guest can reach, and then answers: memory, vector registers, x87, segment
//! bases and selectors, flags. For the proof that a rewind leaves nothing of it. The body is the seed.

use core::{arch::asm, mem::MaybeUninit};

use kernlet_abi::{
    Span,
    boot::BootPage,
    hypercall::{CallHead, NextRequest, number},
    map::{BOOT_BASE, PAGE_SIZE, STACK_BASE, STACK_TOP},
    message::ResponseHead,
};
use kernlet_guest::Request;

/// Room below the stack pointer that the scribbling itself needs.
const OWN_STACK: u64 = 64 * 1024;

/// Pseudo-random numbers (xorshift64*), so that each seed scribbles elsewhere.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// Scribbles, gives the request's body back, and never sees the next request.
pub(crate) fn over_everything(request: &Request, data: *const u32) -> ! {
    let body = request.body();
    let mut seed = [0; 8];
    for (to, from) in seed.iter_mut().zip(body) {
        *to = *from;
    }
    let mut noise = Noise(u64::from_le_bytes(seed) | 1);
    // SAFETY: the monitor maps the boot page there.
    let boot = unsafe { &*(BOOT_BASE as *const BootPage) };
    let here = (&raw const noise).expose_provenance() as u64;
    let statics = data.expose_provenance() as u64 & !(PAGE_SIZE - 1);
    let (mut block, mut head) = (MaybeUninit::<NextRequest>::uninit(), MaybeUninit::<ResponseHead>::uninit());
    let body = Span { offset: body.as_ptr().expose_provenance() as u64, len: body.len() as u64 };
    head.write(ResponseHead { status: 200, body, ..ResponseHead::default() });
    let response = head.as_ptr().expose_provenance() as u64;
    block.write(NextRequest { head: CallHead { number: number::NEXT_REQUEST, status: 0 }, response });

    // From here on nothing may allocate or return: what the allocator and the callers know is overwritten.
    let heap_pages = boot.heap.len / PAGE_SIZE;
    let writes = noise.next() % (2 * heap_pages);
    for _ in 0..writes {
        let page = boot.heap.offset + noise.next() % heap_pages * PAGE_SIZE;
        write(page + noise.next() % (PAGE_SIZE / 8) * 8, noise.next());
    }
    for at in (statics..statics + PAGE_SIZE).step_by(8) {
        write(at, noise.next());
    }
    let stack_pages = (here - OWN_STACK - STACK_BASE) / PAGE_SIZE;
    for _ in 0..noise.next() % 64 {
        write(STACK_BASE + noise.next() % stack_pages * PAGE_SIZE, noise.next());
    }
    finish(&mut noise, boot.hypercall_entry, block.as_ptr().expose_provenance() as u64)
}

fn write(address: u64, value: u64) {
    // SAFETY: the address is aligned and in memory that the guest may write; see the caller.
    unsafe { (address as *mut u64).write_volatile(value) };
}

/// Fills the registers and leaves by the hypercall at once, from assembly: compiled code would use them.
fn finish(noise: &mut Noise, entry: u64, block: u64) -> ! {
    let (a, b) = (noise.next(), noise.next());
    // A canonical address, for the segment bases.
    let base = noise.next() >> 18;
    // SAFETY: nothing of the program's state is needed any more; the instructions are allowed at CPL 3 (the
    // monitor enables FSGSBASE), and those of AVX and AVX-512 are skipped where XCR0 says they are not there.
    unsafe {
        asm!(
            "wrfsbase r10",
            "wrgsbase r10",
            "xor ecx, ecx",
            "xgetbv",
            "mov r11d, eax",
            "movq xmm0, r8",
            "movq xmm1, r9",
            "punpcklqdq xmm0, xmm1",
            "movdqa xmm7, xmm0",
            "movdqa xmm15, xmm0",
            "test r11d, 4",
            "jz 2f",
            "vinsertf128 ymm3, ymm0, xmm1, 1",
            "vinsertf128 ymm12, ymm0, xmm0, 1",
            "mov eax, r11d",
            "and eax, 0xe0",
            "cmp eax, 0xe0",
            "jne 2f",
            "vpbroadcastq zmm4, r8",
            "vpbroadcastq zmm31, r9",
            "kmovw k3, r8d",
            "2:",
            "push r8",
            "fild qword ptr [rsp]",
            "fild qword ptr [rsp]",
            "mov word ptr [rsp], 0x0f7f",
            "fldcw word ptr [rsp]",
            "mov dword ptr [rsp], 0x7fc0",
            "ldmxcsr [rsp]",
            "mov eax, 0x23",
            "mov fs, eax",
            "xor eax, eax",
            "mov gs, eax",
            "mov ds, eax",
            "mov es, eax",
            "push 0x200ad7",
            "popfq",
            "mov rbx, r8",
            "mov rbp, r9",
            "mov r12, r8",
            "mov r13, r9",
            "mov r14, r8",
            "mov r15, r9",
            "call rsi",
            "ud2",
            in("r10") base,
            in("r8") a,
            in("r9") b,
            in("rsi") entry,
            in("rdi") block,
            options(noreturn),
        )
    }
}

/// Sixteen times this byte in a row, how often in heap, stack and request window.
pub(crate) fn count_in_memory(byte: u8) -> usize {
    let pattern = u64::from_le_bytes([byte; 8]);
    // SAFETY: the monitor maps the boot page there.
    let boot = unsafe { &*(BOOT_BASE as *const BootPage) };
    let window = boot.request_window;
    let readable = [(STACK_BASE, STACK_TOP), (boot.heap.offset, window.offset + window.len)];
    let words = readable.into_iter().flat_map(|(start, end)| (start..end).step_by(16));
    // SAFETY: both words lie in memory that the guest may read.
    let word = |at: u64| unsafe { (at as *const u64).read_volatile() };
    words.filter(|at| word(*at) == pattern && word(at + 8) == pattern).count()
}
