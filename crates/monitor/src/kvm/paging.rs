//! Builds a machine's page tables: four levels, one to one, 2 MiB pages where a whole one has one
//! permission. Called while a machine is made. Never maps what the layout does not name.

use std::ops::Range;

use kernlet_abi::map::{PAGE_SIZE, PAGE_TABLE_BASE, PAGE_TABLE_END};

use crate::{
    layout::{Area, LayoutError, Permission},
    memory::GuestMemory,
};

// Page-table entry bits, Intel SDM volume 3A, section 4.5.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const LARGE_PAGE: u64 = 2 << 20;

/// Who may use a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// The processor and the fault stubs.
    Supervisor,
    /// The guest.
    User,
}

/// Page tables under construction in guest memory.
#[derive(Debug)]
pub(crate) struct PageTables<'a> {
    memory: &'a GuestMemory,
    root: u64,
    next: u64,
    end: u64,
}

impl<'a> PageTables<'a> {
    /// An empty PML4 at [`PAGE_TABLE_BASE`].
    pub(crate) fn new(memory: &'a GuestMemory) -> Self {
        Self::within(memory, PAGE_TABLE_BASE..PAGE_TABLE_END)
    }

    /// An empty PML4 at the beginning of this room, which is zero; the others follow.
    pub(crate) fn within(memory: &'a GuestMemory, room: Range<u64>) -> Self {
        Self { memory, root: room.start, next: room.start + PAGE_SIZE, end: room.end }
    }

    /// Those that were made in this room. What is mapped now must have its tables.
    pub(crate) fn again(memory: &'a GuestMemory, room: Range<u64>) -> Self {
        Self { memory, root: room.start, next: room.end, end: room.end }
    }

    /// Takes back a run of pages that has tables of its own.
    pub(crate) fn unmap(&mut self, pages: Range<u64>) -> Result<(), LayoutError> {
        for at in pages.step_by(4096) {
            let pointers = self.descend(self.root, at >> 39)?;
            let directory = self.descend(pointers, at >> 30)?;
            let table = self.descend(directory, at >> 21)?;
            self.set(table, at >> 12, 0)?;
        }
        Ok(())
    }

    /// Maps a run of pages one to one.
    pub(crate) fn map(&mut self, area: &Area, ring: Ring) -> Result<(), LayoutError> {
        let Range { start, end } = area.pages;
        let bits = leaf_bits(area.permission, ring);
        let mut at = start;
        while at < end {
            let pointers = self.descend(self.root, at >> 39)?;
            let directory = self.descend(pointers, at >> 30)?;
            if at.is_multiple_of(LARGE_PAGE) && end - at >= LARGE_PAGE {
                self.set(directory, at >> 21, at | bits | LARGE)?;
                at += LARGE_PAGE;
            } else {
                let table = self.descend(directory, at >> 21)?;
                self.set(table, at >> 12, at | bits)?;
                at += PAGE_SIZE;
            }
        }
        Ok(())
    }

    /// The table that entry `index` of `table` points to, made if there is none.
    fn descend(&mut self, table: u64, index: u64) -> Result<u64, LayoutError> {
        let entry: u64 = self.memory.load(slot(table, index)).map_err(|_| LayoutError::PageTables)?;
        if entry & PRESENT != 0 {
            return Ok(entry & ADDRESS);
        }
        let made = self.next;
        if made >= self.end {
            return Err(LayoutError::PageTables);
        }
        self.next += PAGE_SIZE;
        self.set(table, index, made | PRESENT | WRITABLE | USER | ACCESSED)?;
        Ok(made)
    }

    fn set(&self, table: u64, index: u64, entry: u64) -> Result<(), LayoutError> {
        self.memory.store(slot(table, index), &entry).map_err(|_| LayoutError::PageTables)
    }
}

fn slot(table: u64, index: u64) -> u64 {
    table + (index % 512) * 8
}

/// Accessed and dirty are set from the start, so that the processor never writes to the tables.
fn leaf_bits(permission: Permission, ring: Ring) -> u64 {
    let mut bits = PRESENT | ACCESSED | DIRTY;
    if permission.write {
        bits |= WRITABLE;
    }
    if !permission.execute {
        bits |= NO_EXECUTE;
    }
    if ring == Ring::User {
        bits |= USER;
    }
    bits
}
