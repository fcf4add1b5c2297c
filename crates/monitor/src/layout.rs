//! Where things lie in one machine's memory, and what the guest may do with them. Made once per machine
//! from the unikernel and the limits; asked at every hypercall. Never touches memory.

use std::ops::Range;

use kernlet_abi::{
    Span,
    map::{
        BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE, IMAGE_BASE, MEMORY_MAX, MEMORY_MIN, PAGE_SIZE, REQUEST_HEAD_ROOM,
        STACK_BASE, STACK_TOP, SUPERVISOR_BASE,
    },
};

use crate::elf::Unikernel;

/// Smallest heap that a machine is given, in bytes.
const HEAP_MIN: u64 = 64 * 1024;

const HYPERCALL_END: u64 = HYPERCALL_PAGE + PAGE_SIZE;

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
            area(HYPERCALL_PAGE..HYPERCALL_PAGE + PAGE_SIZE, EXECUTE),
            area(STACK_BASE..STACK_TOP, WRITE),
        ];
        areas.extend(unikernel.segments().iter().map(|segment| {
            area(segment.pages(), Permission { write: segment.write, execute: segment.execute })
        }));
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
            HYPERCALL_PAGE..HYPERCALL_END => "the read-only hypercall page",
            HYPERCALL_END..STACK_BASE => "the stack's guard (the stack overflowed)",
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
