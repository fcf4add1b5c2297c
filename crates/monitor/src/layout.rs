//! Where things lie in one machine's memory, and what the guest may do with them. Made once per machine
//! from the unikernel and the limits; asked at every hypercall. Never touches memory.

use std::ops::Range;

use kernlet_abi::{
    Span,
    map::{
        BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE, IMAGE_BASE, MEMORY_MAX, MEMORY_MIN, PAGE_SIZE, REQUEST_HEAD_ROOM,
        STACK_BASE, STACK_TOP, SUPERVISOR_BASE, VECTORS_PAGE,
    },
};

use crate::elf::Unikernel;

/// Smallest heap that a machine is given, in bytes.
const HEAP_MIN: u64 = 64 * 1024;

const VECTORS_END: u64 = VECTORS_PAGE + PAGE_SIZE;

/// How a machine is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Guest memory, in bytes; rounded up to a page.
    pub memory: u64,
    /// Largest request body, in bytes.
    pub request_limit: u64,
    /// Largest response body, in bytes.
    pub response_limit: u64,
    /// Environment of the function.
    pub environment: Vec<(String, String)>,
}

/// Why a machine cannot be laid out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The memory size is out of range.
    #[error("a machine has {MEMORY_MIN} to {MEMORY_MAX} bytes of memory, not {memory}")]
    MemorySize {
        /// Bytes asked for.
        memory: u64,
    },
    /// The image, the smallest heap and the request window need more.
    #[error(
        "its image, heap and requests of up to {request_limit} bytes need {needed} bytes of memory, the machine has \
         {memory} (raise dev.kernlet.memory or lower dev.kernlet.limits.request)"
    )]
    TooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes there are.
        memory: u64,
        /// The request limit, in bytes.
        request_limit: u64,
    },
    /// The environment does not fit behind the boot page.
    #[error("its environment takes {size} bytes, the most is {max}")]
    Environment {
        /// Bytes needed.
        size: usize,
        /// Bytes there are.
        max: u64,
    },
    /// The page tables do not fit.
    #[error("its segments need more page tables than there is room for; use fewer or smaller segments")]
    PageTables,
}

/// What the guest may do with an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

const READ: Permission = Permission { write: false, execute: false };
const WRITE: Permission = Permission { write: true, execute: false };
const EXECUTE: Permission = Permission { write: false, execute: true };

/// A run of pages that the guest may use in one way.
#[derive(Clone, Debug)]
pub(crate) struct Area {
    pub(crate) pages: Range<u64>,
    pub(crate) permission: Permission,
}

/// The memory map of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Guest memory, in bytes.
    pub(crate) memory: u64,
    /// The guest's own areas, ascending and disjoint.
    pub(crate) areas: Vec<Area>,
    /// The heap.
    pub(crate) heap: Span,
    /// The request window.
    pub(crate) window: Span,
}

impl Layout {
    pub(crate) fn new(unikernel: &Unikernel, config: &MachineConfig) -> Result<Self, LayoutError> {
        let memory = config.memory;
        if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory) {
            return Err(LayoutError::MemorySize { memory });
        }
        let memory = memory.next_multiple_of(PAGE_SIZE);
        let request_limit = config.request_limit;
        let window_len = request_limit.saturating_add(REQUEST_HEAD_ROOM).checked_next_multiple_of(PAGE_SIZE);
        let window_len = window_len.unwrap_or(u64::MAX);
        let needed = unikernel.end().saturating_add(HEAP_MIN).saturating_add(window_len);
        if needed > memory {
            return Err(LayoutError::TooSmall { needed, memory, request_limit });
        }
        let window = Span { offset: memory - window_len, len: window_len };
        let heap = Span { offset: unikernel.end(), len: window.offset - unikernel.end() };

        let area = |pages, permission| Area { pages, permission };
        let mut areas = vec![
            area(BOOT_BASE..BOOT_BASE + BOOT_SIZE, READ),
            area(HYPERCALL_PAGE..VECTORS_PAGE, EXECUTE),
            area(VECTORS_PAGE..VECTORS_END, READ),
            area(STACK_BASE..STACK_TOP, WRITE),
        ];
        areas.extend(
            unikernel
                .segments()
                .iter()
                .map(|segment| area(segment.pages(), Permission { write: segment.write, execute: segment.execute })),
        );
        areas.push(area(heap.offset..window.offset, WRITE));
        areas.push(area(window.offset..memory, READ));
        Ok(Self { memory, areas, heap, window })
    }

    /// Whether the guest itself may read (or write) all of `span`; an empty span is nowhere, so it may.
    pub(crate) fn allows(&self, span: Span, write: bool) -> bool {
        if span.len == 0 {
            return true;
        }
        let Some(end) = span.offset.checked_add(span.len) else {
            return false;
        };
        let mut at = span.offset;
        for area in &self.areas {
            if area.pages.contains(&at) && (area.permission.write || !write) {
                if end <= area.pages.end {
                    return true;
                }
                at = area.pages.end;
            }
        }
        false
    }

    /// What lies at an address, in a reader's words.
    pub(crate) fn describe(&self, address: u64) -> &'static str {
        match address {
            0..SUPERVISOR_BASE => "the null page",
            SUPERVISOR_BASE..BOOT_BASE => "the monitor's memory",
            BOOT_BASE..HYPERCALL_PAGE => "the read-only boot page",
            HYPERCALL_PAGE..VECTORS_PAGE => "the read-only hypercall page",
            VECTORS_PAGE..VECTORS_END => "the read-only vector registers of the template",
            VECTORS_END..STACK_BASE => "the stack's guard (the stack overflowed)",
            STACK_BASE..STACK_TOP => "the stack, which is not executable",
            IMAGE_BASE.. if address >= self.memory => "outside the machine's memory",
            IMAGE_BASE.. if address >= self.window.offset => "the read-only request window",
            IMAGE_BASE.. if address >= self.heap.offset => "the heap, which is not executable",
            IMAGE_BASE.. => self.describe_image(address),
        }
    }

    fn describe_image(&self, address: u64) -> &'static str {
        let area = self.areas.iter().find(|area| area.pages.contains(&address));
        match area.map(|area| area.permission) {
            None => "between the image's segments",
            Some(Permission { execute: true, .. }) => "code, which is read-only",
            Some(Permission { write: true, .. }) => "data, which is not executable",
            Some(_) => "constant data, which is read-only and not executable",
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use kernlet_abi::map::PAGE_TABLE_BASE;
    use kernlet_accel::Runtime;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        fuzzing::Sandbox,
        image::{self, Elf, Segment, abi_note},
    };

    const MIB: u64 = 1 << 20;

    fn sandbox(unikernel: &Unikernel, memory: u64, request_limit: u64) -> Result<Sandbox, crate::Cause> {
        let environment = vec![("NAME".to_owned(), "value".to_owned())];
        let config = MachineConfig { memory, request_limit, response_limit: MIB, environment };
        Sandbox::new(unikernel, &config, Arc::new(Runtime::new(Vec::new()).session()))
    }

    /// Segments behind one another, some pages apart, as a linker might lay them.
    fn any_unikernel() -> impl Strategy<Value = Unikernel> {
        let size = prop_oneof![1..0x5000_u64, 1..0x60_0000_u64, Just(2 * MIB), Just(4 * MIB)];
        let gap = prop_oneof![Just(0), 0..4_u64, 500..600_u64];
        let flags = prop_oneof![Just(4_u32), Just(5), Just(6)];
        let segments = proptest::collection::vec((size, gap, 0..PAGE_SIZE, flags), 0..8);
        segments.prop_map(|segments| {
            let mut elf = Elf::with_code(&[0xc3], b"data");
            elf.segments = vec![abi_note(kernlet_abi::ABI_VERSION), Segment::load(5, IMAGE_BASE, &[0xc3], 1)];
            let mut at = IMAGE_BASE + PAGE_SIZE;
            for (size, gap, skew, flags) in segments {
                let start = at + gap * PAGE_SIZE + skew;
                elf.segments.push(Segment::load(flags, start, b"x", size));
                at = (start + size).next_multiple_of(PAGE_SIZE);
            }
            Unikernel::parse(&elf.build()).expect("a unikernel")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(48)))]

        #[test]
        fn what_the_layout_allows_is_what_the_page_tables_map(
            unikernel in any_unikernel(),
            spare in prop_oneof![0..MIB, 0..40 * MIB],
            request_limit in prop_oneof![Just(0), 0..4 * MIB],
        ) {
            let memory = (unikernel.end() + HEAP_MIN + request_limit + REQUEST_HEAD_ROOM + 2 * PAGE_SIZE + spare)
                .max(MEMORY_MIN);
            let sandbox = sandbox(&unikernel, memory, request_limit).expect("a machine with spare memory");
            sandbox.assert_mapped_as_laid_out();
            sandbox.assert_sealed();
        }

        #[test]
        fn a_range_is_allowed_if_and_only_if_each_of_its_bytes_is(
            unikernel in any_unikernel(),
            spans in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 64),
        ) {
            let memory = unikernel.end() + 8 * MIB;
            let sandbox = sandbox(&unikernel, memory, MIB).expect("a machine");
            for (offset, len, write) in spans {
                let span = Span { offset: offset % (memory + PAGE_SIZE), len: 1 + len % (3 * PAGE_SIZE) };
                let byte = |offset| {
                    let mapping = sandbox.walk(offset);
                    mapping.is_some_and(|mapping| mapping.user && (mapping.write || !write))
                };
                let last = span.offset + span.len - 1;
                let pages = (span.offset / PAGE_SIZE..=last / PAGE_SIZE).map(|page| page * PAGE_SIZE);
                prop_assert_eq!(sandbox.allows(span, write), pages.into_iter().all(byte), "{:?} {}", span, write);
            }
        }

        #[test]
        fn a_range_that_wraps_around_is_never_allowed(offset in any::<u64>(), len in 1..u64::MAX, write: bool) {
            let unikernel = Unikernel::parse(&Elf::with_code(&[0xc3], b"").build()).expect("a unikernel");
            let sandbox = sandbox(&unikernel, 8 * MIB, MIB).expect("a machine");
            if offset.checked_add(len).is_none_or(|end| end > 8 * MIB) {
                let allowed = sandbox.allows(Span { offset, len }, write);
                prop_assert!(!allowed, "{:#x}, {} bytes", offset, len);
            }
        }
    }

    #[test]
    fn the_largest_machine_with_the_most_segments_has_room_for_its_page_tables() {
        let mut elf = Elf::with_code(&[0xc3], b"");
        elf.segments = vec![abi_note(kernlet_abi::ABI_VERSION), Segment::load(5, IMAGE_BASE, &[0xc3], 1)];
        // 30 more, each ragged at both ends and in a gigabyte region of its own as far as there are some.
        for index in 0..30_u64 {
            let start = IMAGE_BASE + (index + 1) * 96 * MIB + 0x1000;
            elf.segments.push(Segment::load(6, start, b"", 5 * MIB));
        }
        let unikernel = Unikernel::parse(&elf.build()).expect("a unikernel");
        let sandbox = sandbox(&unikernel, MEMORY_MAX, 8 * MIB).expect("a machine");
        let of = |address| sandbox.walk(address).expect("mapped");
        assert!(of(IMAGE_BASE).execute && !of(IMAGE_BASE).write);
        assert!(of(IMAGE_BASE + 96 * MIB + 0x1000).write);
        assert_eq!(sandbox.walk(IMAGE_BASE + 96 * MIB), None);
        assert!(of(MEMORY_MAX - 1).user && !of(MEMORY_MAX - 1).write);
    }

    #[test]
    fn null_and_the_stacks_guard_are_not_mapped_and_the_monitors_pages_are_not_the_guests() {
        let unikernel = Unikernel::parse(&Elf::with_code(&[0xc3], b"").build()).expect("a unikernel");
        let sandbox = sandbox(&unikernel, 4 * MIB, MIB).expect("a machine");
        for unmapped in [0, 0xfff, VECTORS_END, STACK_BASE - 1, PAGE_TABLE_BASE, BOOT_BASE - 1, 4 * MIB] {
            assert_eq!(sandbox.walk(unmapped), None, "{unmapped:#x}");
        }
        for supervisor in [SUPERVISOR_BASE, 0x2000, 0x3000, 0x4000, 0x5000] {
            assert!(!sandbox.walk(supervisor).expect("mapped").user, "{supervisor:#x}");
        }
        assert!(sandbox.walk(image::CODE).expect("mapped").execute);
    }

    #[test]
    fn a_machine_too_small_for_its_image_is_refused_with_what_it_needs() {
        let unikernel = Unikernel::parse(&Elf::with_code(&[0xc3], b"").build()).expect("a unikernel");
        let needed = unikernel.end() + HEAP_MIN + MIB + REQUEST_HEAD_ROOM;
        let least = |memory, request_limit| {
            let config = MachineConfig { memory, request_limit, response_limit: 0, environment: Vec::new() };
            Layout::new(&unikernel, &config)
        };
        let limit = 2 * MIB;
        assert_eq!(
            least(needed + MIB - PAGE_SIZE, limit).unwrap_err(),
            LayoutError::TooSmall { needed: needed + MIB, memory: needed + MIB - PAGE_SIZE, request_limit: limit }
        );
        assert_eq!(least(needed + MIB, limit).unwrap().heap.len, HEAP_MIN);
        assert!(matches!(least(MEMORY_MAX, u64::MAX), Err(LayoutError::TooSmall { .. })));
        assert!(matches!(least(MEMORY_MAX + 1, 0), Err(LayoutError::MemorySize { .. })));
        assert_eq!(least(MEMORY_MIN + 1, 0).unwrap().memory, MEMORY_MIN + PAGE_SIZE);
    }
}
