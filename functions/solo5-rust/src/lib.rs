//! What the guests in `bin/` stand on: Solo5's interface to its hvt tender (ABI 2) as Rust, and a small runtime above it.
//! Written from the interface, for whoever wants to begin with one of them; it needs nothing but `core`, and shares nothing
//! with Solo5's own bindings. Without descriptor tables of its own: a trap ends the guest by its tender.
#![no_std]

#[path = "../../../crates/guest/src/mem.rs"]
mod mem;

use core::{
    arch::{asm, x86_64::_rdtsc},
    ffi::CStr,
    fmt::{self, Write},
    panic::PanicInfo,
    sync::atomic::{AtomicBool, Ordering},
};

/// Hypercalls: a port each, from [`PORT_BASE`] on, at which the guest writes the 32-bit address of a structure.
mod number {
    pub const WALL_TIME: u16 = 1;
    pub const PUTS: u16 = 2;
    pub const POLL: u16 = 3;
    pub const BLOCK_WRITE: u16 = 4;
    pub const BLOCK_READ: u16 = 5;
    pub const HALT: u16 = 8;
}

const PORT_BASE: u16 = 0x500;

/// Bytes that a tender has for the command line.
const COMMAND_LINE_ROOM: usize = 8192;

/// Status of a guest that gave up.
const ABORTED: i32 = 255;

/// What the tender says at the start, as far as it is needed here.
#[repr(C)]
pub struct BootInfo {
    memory_size: u64,
    kernel_end: u64,
    cycles_per_second: u64,
    command_line: u64,
    manifest: u64,
}

/// What a device is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// A device of blocks.
    Block = 1,
    /// A device of Ethernet frames.
    Net = 2,
}

/// One entry of the manifest.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    name: [u8; 68],
    kind: u32,
    /// Of a block device: its capacity, then the size of a block.
    properties: [u64; 2],
    descriptor: u64,
    attached: u8,
    padding: [u8; 7],
}

impl Entry {
    /// The first one, which is no device.
    pub const FIRST: Self =
        Self { name: [0; 68], kind: 1 << 30, properties: [0; 2], descriptor: 0, attached: 0, padding: [0; 7] };

    /// A device that the guest has.
    #[must_use]
    pub const fn new(name: &str, kind: Kind) -> Self {
        let mut entry = Self { kind: kind as u32, ..Self::FIRST };
        let mut at = 0;
        while at < name.len() {
            entry.name[at] = name.as_bytes()[at];
            at += 1;
        }
        entry
    }
}

/// The note that says for which tender a guest is.
#[repr(C, align(4))]
pub struct AbiNote {
    head: [u32; 3],
    owner: [u8; 8],
    target: [u32; 4],
}

impl AbiNote {
    /// For hvt, in version 2.
    pub const HVT: Self = Self { head: [6, 16, 0x3149_4241], owner: *b"Solo5\0\0\0", target: [1, 2, 0, 0] };
}

/// The note that says which devices a guest has.
#[repr(C, align(8))]
pub struct ManifestNote<const N: usize> {
    head: [u32; 3],
    owner: [u8; 8],
    padding: u32,
    version: u32,
    count: u32,
    entries: [Entry; N],
}

impl<const N: usize> ManifestNote<N> {
    /// A manifest of these.
    #[must_use]
    pub const fn new(entries: [Entry; N]) -> Self {
        let count = N as u32;
        let head = [6, 12 + count * size_of::<Entry>() as u32, 0x3154_464d];
        Self { head, owner: *b"Solo5\0\0\0", padding: 0, version: 1, count, entries }
    }
}

const _: () = assert!(size_of::<Entry>() == 104 && size_of::<ManifestNote<1>>() == 32 + 104);

/// Makes a binary a guest: `guest!(main)`, or `guest!(main, "storage": Block)` for one with devices. `main` takes a
/// [`Guest`] and gives its exit status.
#[macro_export]
macro_rules! guest {
    ($main:path $(, $name:literal: $kind:ident)* $(,)?) => {
        const _: () = {
            const DEVICES: &[$crate::Entry] =
                &[$crate::Entry::FIRST $(, $crate::Entry::new($name, $crate::Kind::$kind))*];

            #[used]
            #[unsafe(link_section = ".note.solo5.abi")]
            static ABI: $crate::AbiNote = $crate::AbiNote::HVT;

            #[used]
            #[unsafe(link_section = ".note.solo5.manifest")]
            static MANIFEST: $crate::ManifestNote<{ DEVICES.len() }> =
                $crate::ManifestNote::new(*DEVICES.first_chunk().unwrap());

            // The host's loader finds no such interpreter, so that nobody runs a guest as a program of the host.
            #[used]
            #[unsafe(link_section = ".interp")]
            static INTERPRETER: [u8; 20] = *b"/nonexistent/solo5/\0";

            #[unsafe(no_mangle)]
            extern "C" fn _start(boot: &'static $crate::BootInfo) -> ! {
                $crate::start(boot, $main)
            }
        };
    };
}

/// Prints a line, as `println!` does.
#[macro_export]
macro_rules! say {
    ($($format:tt)*) => {
        $crate::Line::print(format_args!($($format)*))
    };
}

/// Whether the runtime keeps its own words to itself.
static QUIET: AtomicBool = AtomicBool::new(false);

/// What a guest knows of its machine.
pub struct Guest {
    boot: &'static BootInfo,
    first_cycle: u64,
}

/// Where a guest begins; called by what [`guest!`] makes.
pub fn start(boot: &'static BootInfo, main: fn(&Guest) -> i32) -> ! {
    // SAFETY: every processor that this runs on has it.
    let guest = Guest { boot, first_cycle: unsafe { _rdtsc() } };
    let quiet = ["--solo5:quiet", "--solo5:error", "--solo5:warn"];
    QUIET.store(guest.words().any(|word| quiet.contains(&word)), Ordering::Relaxed);
    if !QUIET.load(Ordering::Relaxed) {
        say!("Solo5: a guest of Kernlet's in Rust, {} MB", boot.memory_size >> 20);
    }
    let status = main(&guest);
    if !QUIET.load(Ordering::Relaxed) {
        say!("Solo5: solo5_exit({status}) called");
    }
    halt(status)
}

impl Guest {
    fn whole_line(&self) -> &'static str {
        let at = core::ptr::with_exposed_provenance(self.boot.command_line as usize);
        // SAFETY: the tender has as many bytes there, a zero byte among them, in memory that never changes.
        let room = unsafe { core::slice::from_raw_parts(at, COMMAND_LINE_ROOM) };
        let text = CStr::from_bytes_until_nul(room).unwrap_or_default();
        text.to_str().unwrap_or_default()
    }

    /// The words at its beginning that are for the runtime.
    fn words(&self) -> impl Iterator<Item = &'static str> {
        self.whole_line().split(' ').take_while(|word| word.is_empty() || word.starts_with("--solo5:"))
    }

    /// The command line, without the words for the runtime.
    #[must_use]
    pub fn command_line(&self) -> &'static str {
        let mut rest = self.whole_line();
        loop {
            rest = rest.trim_start_matches(' ');
            let word = rest.split(' ').next().unwrap_or_default();
            match rest.strip_prefix(word) {
                Some(behind) if word.starts_with("--solo5:") => rest = behind,
                _ => return rest,
            }
        }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn monotonic(&self) -> u64 {
        // SAFETY: as in `start`.
        let cycles = unsafe { _rdtsc() }.wrapping_sub(self.first_cycle);
        (u128::from(cycles) * 1_000_000_000 / u128::from(self.boot.cycles_per_second.max(1))) as u64
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn wall(&self) -> u64 {
        let mut nanoseconds = 0_u64;
        hypercall(number::WALL_TIME, &mut nanoseconds);
        nanoseconds
    }

    /// Waits for so many nanoseconds; a guest without network devices waits for nothing else.
    pub fn wait(&self, nanoseconds: u64) {
        #[repr(C)]
        struct Poll {
            timeout: u64,
            ready: u64,
            result: i32,
        }
        hypercall(number::POLL, &mut Poll { timeout: nanoseconds, ready: 0, result: 0 });
    }

    /// A block device of the manifest.
    ///
    /// # Panics
    /// There is none of that name.
    #[must_use]
    pub fn block(&self, name: &str) -> Block {
        // SAFETY: the tender has put a manifest there, in memory that never changes: its version, the number of entries,
        // the entries.
        let count = unsafe { *core::ptr::with_exposed_provenance::<u32>(self.boot.manifest as usize + 4) } as usize;
        let first = core::ptr::with_exposed_provenance::<Entry>(self.boot.manifest as usize + 8);
        // SAFETY: as above.
        let entries = unsafe { core::slice::from_raw_parts(first, count) };
        let is = |entry: &&Entry| {
            let named = CStr::from_bytes_until_nul(&entry.name).is_ok_and(|own| own.to_bytes() == name.as_bytes());
            named && entry.kind == Kind::Block as u32
        };
        let found = entries.iter().enumerate().find(|(_, entry)| is(entry));
        let (handle, entry) = found.expect("a block device of this name");
        assert!(entry.attached == 1, "the block device is attached");
        let [capacity, size] = entry.properties;
        Block { handle: handle as u64, capacity, block_size: size & 0xffff }
    }
}

/// A block device.
pub struct Block {
    handle: u64,
    /// Its size, in bytes.
    pub capacity: u64,
    /// A block's, in bytes.
    pub block_size: u64,
}

/// A device's offset was beyond it, or the length no block's.
#[derive(Debug, PartialEq, Eq)]
pub struct Outside;

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// It lies outside.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), Outside> {
        self.call(number::BLOCK_READ, offset, to.as_mut_ptr().expose_provenance(), to.len())
    }

    /// Writes a block.
    ///
    /// # Errors
    /// It lies outside.
    pub fn write(&self, offset: u64, from: &[u8]) -> Result<(), Outside> {
        self.call(number::BLOCK_WRITE, offset, from.as_ptr().expose_provenance(), from.len())
    }

    fn call(&self, number: u16, offset: u64, data: usize, len: usize) -> Result<(), Outside> {
        #[repr(C)]
        struct Transfer {
            handle: u64,
            offset: u64,
            data: u64,
            len: u64,
            result: i32,
        }
        let mut call = Transfer { handle: self.handle, offset, data: data as u64, len: len as u64, result: 0 };
        hypercall(number, &mut call);
        if call.result == 0 { Ok(()) } else { Err(Outside) }
    }
}

/// A line on its way to the console, in one call if it is not longer than most.
pub struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Line {
    /// Prints a line.
    pub fn print(text: fmt::Arguments<'_>) {
        let mut line = Self { bytes: [0; 512], len: 0 };
        // It takes whatever it is given.
        let _ = line.write_fmt(text).and_then(|()| line.write_str("\n"));
        line.flush();
    }

    fn flush(&mut self) {
        hypercall(number::PUTS, &mut [self.bytes.as_ptr().expose_provenance() as u64, self.len as u64]);
        self.len = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.len == self.bytes.len() {
                self.flush();
            }
            self.bytes[self.len] = byte;
            self.len += 1;
        }
        Ok(())
    }
}

fn hypercall<T>(number: u16, structure: &mut T) {
    let address = (&raw mut *structure).expose_provenance() as u32;
    // SAFETY: the tender reads and writes the structure and what it names, all of which the callers borrow for as long; a
    // guest's memory lies below 4 GiB.
    unsafe { asm!("out dx, eax", in("dx") PORT_BASE + number, in("eax") address, options(nostack, preserves_flags)) };
}

fn halt(status: i32) -> ! {
    #[repr(C)]
    struct Halt {
        cookie: u64,
        status: i32,
    }
    hypercall(number::HALT, &mut Halt { cookie: 0, status });
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => say!("Solo5: ABORT: {}:{}: {}", at.file(), at.line(), info.message()),
        None => say!("Solo5: ABORT: {}", info.message()),
    }
    halt(ABORTED)
}
