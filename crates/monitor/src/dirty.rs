//! Which pages of a machine differ from its template: what its processor saw the guest write, and what the host
//! wrote on the guest's behalf. Used by rewind. Never forgets a page before it is told to.

use kernlet_abi::map::PAGE_SIZE;

/// Some of a machine's pages, by their numbers.
#[derive(Debug)]
pub(crate) struct PageSet {
    words: Vec<u64>,
}

impl PageSet {
    /// None, of a machine of `memory` bytes.
    pub(crate) fn none(memory: u64) -> Self {
        let words = usize::try_from(memory.div_ceil(64 * PAGE_SIZE)).unwrap_or_default();
        Self { words: vec![0; words] }
    }

    /// Adds a page; whether it is new. One beyond the machine's memory is left out.
    pub(crate) fn insert(&mut self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|index| self.words.get_mut(index));
        let Some(word) = word else { return false };
        let bit = 1 << (page % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Whether a page is one of them.
    pub(crate) fn contains(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|index| self.words.get(index));
        word.is_some_and(|word| word & 1 << (page % 64) != 0)
    }

    fn clear(&mut self) {
        self.words.fill(0);
    }
}

/// The pages that a rewind restores: every page that was ever seen dirty, until they are dropped.
#[derive(Debug)]
pub(crate) struct DirtyPages {
    seen: PageSet,
    pages: Vec<u64>,
}

impl DirtyPages {
    /// None, of a machine of `memory` bytes.
    pub(crate) fn none(memory: u64) -> Self {
        Self { seen: PageSet::none(memory), pages: Vec::new() }
    }

    /// Adds the pages that a range touches.
    pub(crate) fn insert_range(&mut self, offset: u64, len: u64) {
        if let Some(last) = len.checked_sub(1) {
            (offset / PAGE_SIZE..=(offset + last) / PAGE_SIZE).for_each(|page| self.insert(page));
        }
    }

    /// Adds a page; one beyond the machine's memory, which KVM would never log, is left out.
    pub(crate) fn insert(&mut self, page: u64) {
        if self.seen.insert(page) {
            self.pages.push(page);
        }
    }

    /// Page numbers, in the order in which they were first written.
    pub(crate) fn pages(&self) -> &[u64] {
        &self.pages
    }

    pub(crate) fn clear(&mut self) {
        self.seen.clear();
        self.pages.clear();
    }
}
