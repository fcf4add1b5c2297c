//! Which pages of a machine differ from its template: what its processor saw the guest write, and what the host
//! wrote on the guest's behalf. Used by rewind. Never forgets a page before it is told to.

use kernlet_abi::map::PAGE_SIZE;

/// The pages that a rewind restores: every page that was ever seen dirty, until they are dropped.
#[derive(Debug)]
pub(crate) struct DirtyPages {
    seen: Vec<u64>,
    pages: Vec<u64>,
}

impl DirtyPages {
    /// None, of a machine of `memory` bytes.
    pub(crate) fn none(memory: u64) -> Self {
        let words = usize::try_from(memory.div_ceil(64 * PAGE_SIZE)).unwrap_or_default();
        Self { seen: vec![0; words], pages: Vec::new() }
    }

    /// Adds the pages that a range touches.
    pub(crate) fn insert_range(&mut self, offset: u64, len: u64) {
        if let Some(last) = len.checked_sub(1) {
            (offset / PAGE_SIZE..=(offset + last) / PAGE_SIZE).for_each(|page| self.insert(page));
        }
    }

    /// Adds a page; one beyond the machine's memory, which KVM would never log, is left out.
    pub(crate) fn insert(&mut self, page: u64) {
        let word = usize::try_from(page / 64).ok().and_then(|index| self.seen.get_mut(index));
        if let Some(word) = word
            && *word & 1 << (page % 64) == 0
        {
            *word |= 1 << (page % 64);
            self.pages.push(page);
        }
    }

    /// Page numbers, in the order in which they were first written.
    pub(crate) fn pages(&self) -> &[u64] {
        &self.pages
    }

    pub(crate) fn clear(&mut self) {
        self.seen.fill(0);
        self.pages.clear();
    }
}
