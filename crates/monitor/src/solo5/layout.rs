//! Where things lie in the memory of a Solo5 machine, and who may use them. Written before its first instruction, asked
//! at every hypercall.
//!
//! ```text
//! 0x1000    descriptor tables, fault stubs and their stack; at ring 0 the guest's first GDT
//! 0x2000    page tables, at ring 0 only
//! 0x10000   boot information, the extension where there is one, manifest, command line   read-only
//! 0x100000  the unikernel
//!    ...    heap, stack
//! end       the ring of frames, 2 MiB, if there is a network device
//!           page tables, at CPL 3 only: beyond what the guest has
//! ```

use std::{mem::offset_of, ops::Range};

use kernlet_abi::{Span, solo5::Extension};
use zerocopy::{Immutable, IntoBytes};

use super::{
    GUEST_MIN, LARGE_PAGE, PAGE_SIZE,
    image::{Access, Image, Loaded},
};
use crate::{
    layout::{Area, Permission},
    memory::{FrozenMemory, GuestMemory, OutOfBounds},
};

/// The guest's first pages.
pub(crate) const LOW: u64 = 0x1_0000;

/// Boot information.
pub(crate) const BOOT_INFO: u64 = LOW;

/// Where the command line is: on pages of its own, so that it can be seen when a guest first looks at it.
pub(crate) const COMMAND_LINE: u64 = 0x1_3000;

/// Room for the command line, in bytes; the last one is zero.
pub(crate) const COMMAND_LINE_SIZE: u64 = 8192;

/// Bytes at the end of memory that are the ring's.
const RING_ROOM: u64 = LARGE_PAGE;

/// How much of an image counts as its beginning.
const IMAGE_BEGIN: u64 = 64 * PAGE_SIZE;

/// The host takes frames from a ring.
const FEATURE_RING_IO: u32 = 1;

/// `struct hvt_boot_info`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct BootInfo {
    memory_size: u64,
    kernel_end: u64,
    cycles_per_second: u64,
    command_line: u64,
    manifest: u64,
    host_features: u32,
    guest_features: u32,
    ring: u64,
}

/// The memory map of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// What the guest has, its ring left out; a multiple of 2 MiB.
    pub(crate) memory: u64,
    /// The ring's address.
    pub(crate) ring: Option<u64>,
    /// What the guest is told of the extension, if it has it.
    pub(crate) extension: Option<Extension>,
    loaded: Loaded,
}

/// What an access of the guest to an address that faulted would have met under a stock tender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stock {
    /// A page fault as well.
    Fault,
    /// A page that the guest's page tables allow and the host does not.
    Host,
}

impl Layout {
    /// `memory` is a multiple of 2 MiB; where there is a ring, it comes on top.
    pub(crate) fn new(memory: u64, with_ring: bool, loaded: Loaded) -> Self {
        Self { memory, ring: with_ring.then_some(memory), extension: None, loaded }
    }

    /// End of all that the guest can reach.
    pub(crate) fn end(&self) -> u64 {
        self.ring.map_or(self.memory, |ring| ring + RING_ROOM)
    }

    /// The guest's page tables: as many as its segments can need.
    pub(crate) fn tables(&self) -> Range<u64> {
        // A PML4, a page of pointers, a directory for each of 4 GiB, and a table wherever 2 MiB are not all of one kind.
        let pages = 2 + 5 + 3 + 2 * self.loaded.segments.len() as u64;
        self.end()..self.end() + pages * PAGE_SIZE
    }

    /// What the guest may do where, ascending and without overlaps.
    pub(crate) fn areas(&self) -> Vec<Area> {
        let mut areas = vec![area(LOW..GUEST_MIN, Access { write: false, ..Access::ALL })];
        let mut at = GUEST_MIN;
        for segment in &self.loaded.segments {
            areas.push(area(at..segment.pages.start, Access::ALL));
            if segment.access.read {
                areas.push(area(segment.pages.clone(), segment.access));
            }
            at = segment.pages.end;
        }
        areas.push(area(at..self.end(), Access::ALL));
        areas
    }

    /// Pages that the host does not let the guest use as its page tables do, with what it may do there.
    pub(crate) fn restricted(&self) -> impl Iterator<Item = (Range<u64>, Access)> {
        self.loaded.segments.iter().map(|segment| (segment.pages.clone(), segment.access))
    }

    /// Pages that every guest and its monitor touch at the start: those below the guest, the beginning of its image and of the
    /// page tables, and the top of the stack.
    pub(crate) fn touched_at_start(&self) -> [Range<u64>; 5] {
        let tables = self.tables().start;
        [
            PAGE_SIZE..6 * PAGE_SIZE,
            LOW..COMMAND_LINE + PAGE_SIZE,
            GUEST_MIN..self.loaded.end.next_multiple_of(PAGE_SIZE).clamp(GUEST_MIN, GUEST_MIN + IMAGE_BEGIN),
            self.memory - 2 * PAGE_SIZE..self.memory,
            tables..tables + 4 * PAGE_SIZE,
        ]
    }

    /// Whether a tender may use memory at an address that a guest gives it. Solo5's own take the last byte of memory
    /// for one too many, and let guests have what lies below theirs, which is the monitor's.
    pub(crate) fn allows(&self, span: Span, write: bool) -> bool {
        let Some(end) = span.offset.checked_add(span.len).filter(|end| *end < self.memory) else { return false };
        let low = if write { GUEST_MIN } else { LOW };
        span.offset >= low && (!write || self.is_writable(span.offset..end))
    }

    /// Whether no segment forbids writing there.
    pub(crate) fn is_writable(&self, range: Range<u64>) -> bool {
        !self.has_segment(&range, |access| !access.write)
    }

    /// Whether no segment forbids reading there.
    pub(crate) fn is_readable(&self, range: Range<u64>) -> bool {
        !self.has_segment(&range, |access| !access.read)
    }

    fn has_segment(&self, range: &Range<u64>, of: impl Fn(Access) -> bool) -> bool {
        let within = |pages: &Range<u64>| range.start < pages.end && pages.start < range.end;
        self.loaded.segments.iter().any(|segment| of(segment.access) && within(&segment.pages))
    }

    /// What a stock tender's guest would meet where ours met a page fault.
    pub(crate) fn under_stock(&self, address: u64, write: bool) -> Stock {
        match address {
            LOW..GUEST_MIN if !write => Stock::Host,
            GUEST_MIN.. if address < self.end() => Stock::Host,
            _ => Stock::Fault,
        }
    }

    /// Writes the unikernel, before the host forbids it.
    pub(crate) fn write_image(&self, memory: &GuestMemory, image: &Image) -> Result<(), OutOfBounds> {
        self.loaded.segments.iter().try_for_each(|segment| memory.write(segment.start, image.contents(segment)))
    }

    /// Writes what the guest is told at the start.
    pub(crate) fn write_boot_info(
        &self,
        memory: &GuestMemory,
        manifest: &[u8],
        cycles_per_second: u64,
    ) -> Result<(), OutOfBounds> {
        // Between what Solo5's tender says and the manifest, wherever that begins.
        let extension = BOOT_INFO + size_of::<BootInfo>() as u64;
        let more = if self.extension.is_some() { size_of::<Extension>() as u64 } else { 0 };
        let info = BootInfo {
            memory_size: self.memory,
            kernel_end: self.loaded.end,
            cycles_per_second,
            command_line: COMMAND_LINE,
            manifest: extension + more,
            host_features: if self.ring.is_some() { FEATURE_RING_IO } else { 0 },
            guest_features: 0,
            ring: self.ring.unwrap_or_default(),
        };
        memory.store(BOOT_INFO, &info)?;
        if let Some(told) = &self.extension {
            memory.store(extension, told)?;
        }
        memory.write(info.manifest, manifest)
    }
}

/// What a guest was told of its clock's speed, in cycles a second.
pub(crate) fn told_cycles(memory: &FrozenMemory) -> u64 {
    let mut cycles = [0; 8];
    // The boot information lies in every machine's memory.
    let _ = memory.read(BOOT_INFO + offset_of!(BootInfo, cycles_per_second) as u64, &mut cycles);
    u64::from_le_bytes(cycles)
}

/// Writes the command line, in place of an empty one.
pub(crate) fn write_command_line(memory: &GuestMemory, text: &[u8]) -> Result<(), OutOfBounds> {
    if text.len() as u64 >= COMMAND_LINE_SIZE {
        return Err(OutOfBounds);
    }
    memory.write(COMMAND_LINE, text)
}

/// Whatever can be read can be executed: as it is at ring 0, where no stock tender can forbid it.
fn area(pages: Range<u64>, access: Access) -> Area {
    Area { pages, permission: Permission { write: access.write, execute: true } }
}

const _: () = {
    assert!(
        BOOT_INFO == kernlet_abi::solo5::BOOT_INFO && size_of::<BootInfo>() as u64 == kernlet_abi::solo5::BOOT_INFO_LEN
    );
    assert!(BOOT_INFO + (size_of::<BootInfo>() + size_of::<Extension>()) as u64 + 8 + 64 * 104 <= COMMAND_LINE);
    assert!(COMMAND_LINE + COMMAND_LINE_SIZE < GUEST_MIN);
};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::solo5::image::Segment;

    fn segment(pages: Range<u64>, write: bool) -> Segment {
        Segment { start: pages.start, pages, file: 0..0, access: Access { read: true, write, execute: !write } }
    }

    #[test]
    fn a_guests_pointer_is_its_own_memory_short_of_the_last_byte() {
        let text = GUEST_MIN..GUEST_MIN + 0x1000;
        let loaded = Loaded {
            end: text.end + 0x1000,
            segments: vec![segment(text.clone(), false), segment(text.end..text.end + 0x1000, true)],
        };
        let layout = Layout::new(4 << 20, false, loaded);
        let allows = |offset, len, write| layout.allows(Span { offset, len }, write);
        let top = layout.memory;
        assert!(allows(top - 9, 8, true) && !allows(top - 8, 8, true), "the last byte is one too many");
        assert!(allows(top - 1, 0, false) && !allows(top, 0, false));
        assert!(!allows(u64::MAX, 2, false) && !allows(u64::MAX - 7, 8, true) && !allows(8, u64::MAX, false));
        assert!(!allows(0x1000, 8, false) && !allows(0x5ff8, 8, true), "descriptor tables and the fault stack");
        assert!(allows(BOOT_INFO, 8, false) && !allows(BOOT_INFO, 8, true));
        assert!(allows(text.start, 8, false) && !allows(text.end - 8, 8, true) && !allows(text.end - 4, 8, true));
        assert!(allows(text.end, 8, true));
        assert!(!allows(layout.tables().start, 8, true));
    }

    #[test]
    fn a_ring_lies_above_the_guests_memory() {
        let layout = Layout::new(2 << 20, true, Loaded { segments: Vec::new(), end: 0 });
        assert_eq!((layout.ring, layout.end()), (Some(2 << 20), 4 << 20));
        assert!(!layout.allows(Span { offset: 2 << 20, len: 8 }, true));
        assert!(layout.tables().start >= layout.end());
    }
}
