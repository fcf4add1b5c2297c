//! Guest memory: one mapping, reached only by volatile copies, and the frozen memory of a template, of which
//! machines are copy-on-write views. Used by the machine and the hypercalls; only `borrow` goes around it.
//! Every access is bounds-checked against the mapping.

use std::{
    cell::RefCell,
    ffi::c_void,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::{PoisonError, RwLock},
};

use kernlet_abi::{Span, map::PAGE_SIZE};
use rustix::{
    fs::{MemfdFlags, SealFlags, SeekFrom, fcntl_add_seals, ftruncate, memfd_create, seek},
    io::{Errno, pread, pwrite, retry_on_intr},
    mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap},
};
use vm_memory::VolatileSlice;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::dirty::{DirtyPages, PageSet};

/// A guest offset as an index into the mapping.
#[allow(clippy::cast_possible_truncation, reason = "the monitor exists for 64-bit hosts only, asserted below")]
const fn index(offset: u64) -> usize {
    offset as usize
}

const _: () = assert!(size_of::<usize>() == 8);

/// The memory of one machine, from guest-physical address zero.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    mapping: Mapping,
    /// What backs it until it is frozen, if it can be.
    file: Option<OwnedFd>,
    /// Pages that differ from the template, as far as the host wrote them or KVM said so.
    dirty: RefCell<DirtyPages>,
}

/// The memory of a template: nobody can write it any more.
#[derive(Debug)]
pub(crate) struct FrozenMemory {
    mapping: Mapping,
    file: OwnedFd,
    /// The pages that the file held when it was sealed. All others are zero, and stay so.
    held: PageSet,
}

impl FrozenMemory {
    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.mapping.size
    }

    /// Takes over a file that nobody maps for writing.
    fn seal(file: OwnedFd, size: u64) -> Result<Self, io::Error> {
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        let mapping = Mapping::new(&file, size, ProtFlags::READ, MapFlags::SHARED)?;
        let mut frozen = Self { mapping, file, held: PageSet::none(size) };
        let mut from = 0;
        while let Some(data) = frozen.next_data(from)? {
            for page in data.start / PAGE_SIZE..data.end.div_ceil(PAGE_SIZE) {
                frozen.held.insert(page);
            }
            from = data.end;
        }
        Ok(frozen)
    }

    /// The next run of bytes at or after `offset` that take host memory; whatever lies between two runs is zero, and
    /// reading it through the mapping would give it memory.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, io::Error> {
        next_data(&self.file, offset)
    }

    /// Pointer to a range, which never changes.
    pub(crate) fn pointer(&self, span: Span) -> Result<NonNull<u8>, OutOfBounds> {
        self.mapping.pointer(span)
    }

    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.mapping.pointer(Span { offset, len: to.len() as u64 })?;
        let (len, pointer) = (to.len(), NonNull::from(to).cast());
        // SAFETY: as many bytes as `to` has lie in the mapping from there on, and nobody can change them.
        unsafe { from.copy_to_nonoverlapping(pointer, len) };
        Ok(())
    }
}

fn next_data(file: &OwnedFd, offset: u64) -> Result<Option<Range<u64>>, io::Error> {
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(Some(start..seek(file, SeekFrom::Hole(start))?))
}

/// A mapping of this process.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for Mapping {}

// SAFETY: a shared reference only lets read, and only a frozen mapping, which never changes, is shared: the
// other kind sits in a `GuestMemory`, which its `RefCell` keeps to one thread at a time.
unsafe impl Sync for Mapping {}

/// Held while a mapping has been made that children would still inherit, and, exclusively, while one is forked.
static INHERITABLE: RwLock<()> = RwLock::new(());

/// Forks, by what is given, at a moment when no guest's memory can get into the child.
pub(crate) fn while_none_is_inheritable<T>(fork: impl FnOnce() -> T) -> T {
    let _none = INHERITABLE.write().unwrap_or_else(PoisonError::into_inner);
    fork()
}

impl Mapping {
    fn new(file: &OwnedFd, size: u64, access: ProtFlags, flags: MapFlags) -> Result<Self, io::Error> {
        let _until_it_is_kept = INHERITABLE.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe { mmap(std::ptr::null_mut(), index(size), access, flags | MapFlags::NORESERVE, file, 0) }?;
        Self::kept(base, size)
    }

    /// Zeroes of no file.
    fn anonymous(size: u64) -> Result<Self, io::Error> {
        let _until_it_is_kept = INHERITABLE.read().unwrap_or_else(PoisonError::into_inner);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: no address is asked for, so no existing mapping is replaced.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), index(size), READ_WRITE, flags) }?;
        let mapping = Self::kept(base, size)?;
        // A guest that touches a few pages is not to have megabytes zeroed. A kernel without large pages refuses, and has none.
        // SAFETY: the mapping is our own, and its contents do not change.
        let _ = unsafe { madvise(base, index(size), Advice::LinuxNoHugepage) };
        Ok(mapping)
    }

    fn kept(base: *mut c_void, size: u64) -> Result<Self, io::Error> {
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let mapping = Self { base, size };
        mapping.keep_from_children()?;
        Ok(mapping)
    }

    /// No child that this process forks has the mapping, not even before it gives up what it inherited.
    fn keep_from_children(&self) -> Result<(), io::Error> {
        // SAFETY: the mapping is our own, and its contents do not change.
        unsafe { madvise(self.base.as_ptr().cast(), index(self.size), Advice::LinuxDontFork) }?;
        Ok(())
    }

    /// Pointer to `span`, if it lies in the mapping.
    fn pointer(&self, span: Span) -> Result<NonNull<u8>, OutOfBounds> {
        let end = span.offset.checked_add(span.len).ok_or(OutOfBounds)?;
        if end > self.size {
            return Err(OutOfBounds);
        }
        // SAFETY: the offset is at most the mapping's size, checked above.
        Ok(unsafe { self.base.add(index(span.offset)) })
    }
}

/// Pages by which [`Mapping::look_ahead`] is ahead of the work.
const LOOK_AHEAD: usize = 2;

impl Mapping {
    /// Lets the processor look up where a page is, and fetch its beginning, while it still works on another: after a guest
    /// has run, the host's own translations are not cached any more.
    fn look_ahead(&self, offset: u64) {
        #[cfg(target_arch = "x86_64")]
        if let Ok(page) = self.pointer(Span { offset, len: PAGE_SIZE }) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            for line in 0..4 {
                // SAFETY: a hint, which changes nothing and cannot fault.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(page.as_ptr().wrapping_add(line * 64).cast()) };
            }
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and size are those of the mapping made in `new`; nothing borrows from it any more.
        // Unmapping a whole mapping of one's own cannot fail.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), index(self.size)) };
    }
}

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// What of a page is looked at, and zeroed where it has to be, at once: few enough bytes that little is written
/// besides what changed, enough that looking runs at the speed of the cache.
type Block = [u64; 32];

const _: () = assert!(PAGE_SIZE.is_multiple_of(size_of::<Block>() as u64));

/// Makes a page zero. It is read first, and only what is not zero yet is written: a guest writes to few bytes of most
/// pages, and to write a page takes a cache twice the traffic that reading it does.
///
/// # Safety
/// There is a whole page of mapped memory from `page` on, aligned as one, which nobody else uses meanwhile.
pub(crate) unsafe fn zero_page(page: NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it, and the caller says the rest.
        return unsafe { zero_page_by_avx2(page) };
    }
    // SAFETY: the caller says so.
    unsafe { zero_blocks(page) }
}

/// The same code, with registers twice as wide: half the loads, and a page comes at the speed of the second cache.
///
/// # Safety
/// As [`zero_page`], on a processor that has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn zero_page_by_avx2(page: NonNull<u8>) {
    // SAFETY: the caller says so.
    unsafe { zero_blocks(page) }
}

/// # Safety
/// As [`zero_page`].
#[inline(always)]
#[allow(clippy::inline_always, reason = "it takes over the instructions that its caller may use")]
unsafe fn zero_blocks(page: NonNull<u8>) {
    let blocks = page.cast::<Block>();
    for number in 0..index(PAGE_SIZE) / size_of::<Block>() {
        // SAFETY: so many blocks are a page, which is there.
        let block = unsafe { blocks.add(number) };
        // SAFETY: it is mapped, aligned, and nobody writes it while it is looked at.
        let bits = unsafe { block.as_ref() }.iter().fold(0, |bits, word| bits | word);
        if bits != 0 {
            // SAFETY: as above, and the reference is gone.
            unsafe { block.write_bytes(0, 1) };
        }
    }
}

/// An access beyond the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfBounds;

impl From<OutOfBounds> for io::Error {
    fn from(_: OutOfBounds) -> Self {
        io::ErrorKind::InvalidInput.into()
    }
}

impl GuestMemory {
    /// Maps `size` bytes of zeroes, which take host memory only once touched.
    pub(crate) fn new(size: u64) -> Result<Self, io::Error> {
        let file = memfd_create(c"kernlet-machine", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, size)?;
        let mapping = Mapping::new(&file, size, READ_WRITE, MapFlags::SHARED)?;
        Ok(Self { mapping, file: Some(file), dirty: RefCell::new(DirtyPages::none(size)) })
    }

    /// The same for one run: nothing can be frozen, and nobody else can map it. The host gives it pages, and takes them
    /// back, in less time than those of a file.
    pub(crate) fn for_one_run(size: u64) -> Result<Self, io::Error> {
        let mapping = Mapping::anonymous(size)?;
        Ok(Self { mapping, file: None, dirty: RefCell::new(DirtyPages::none(size)) })
    }

    /// A copy-on-write view of a template's memory.
    pub(crate) fn view(template: &FrozenMemory) -> Result<Self, io::Error> {
        let size = template.mapping.size;
        let mapping = Mapping::new(&template.file, size, READ_WRITE, MapFlags::PRIVATE)?;
        Ok(Self { mapping, file: None, dirty: RefCell::new(DirtyPages::none(size)) })
    }

    /// Freezes what the memory holds now as a template's. The memory itself becomes a view of it.
    pub(crate) fn freeze(&mut self) -> Result<FrozenMemory, io::Error> {
        let file = self.take_file()?;
        let (address, size) = (self.mapping.base.as_ptr().cast(), self.mapping.size);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        let until_it_is_kept = INHERITABLE.read().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the new mapping takes the place of the old one, whole, with the same contents; the guest is
        // stopped, and KVM follows a mapping that changes under a memory region.
        unsafe { mmap(address, index(size), READ_WRITE, flags, &file, 0) }?;
        self.mapping.keep_from_children()?;
        drop(until_it_is_kept);
        self.dirty = RefCell::new(DirtyPages::none(size));
        FrozenMemory::seal(file, size)
    }

    /// Freezes it for templates only.
    pub(crate) fn into_frozen(mut self) -> Result<FrozenMemory, io::Error> {
        let (file, size) = (self.take_file()?, self.mapping.size);
        // Nobody may still have it mapped for writing.
        drop(self);
        FrozenMemory::seal(file, size)
    }

    fn take_file(&mut self) -> Result<OwnedFd, io::Error> {
        self.file.take().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
    }

    /// Fills in what a template's memory is to hold, without mapping it.
    pub(crate) fn fill(&self, mut offset: u64, mut bytes: &[u8]) -> Result<(), io::Error> {
        let file = self.file.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.mapping.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        while !bytes.is_empty() {
            let written = retry_on_intr(|| pwrite(file, bytes, offset))?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            bytes = bytes.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// The next run of bytes at or after `offset` that take host memory, as [`FrozenMemory::next_data`]; of memory that has
    /// a file.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, io::Error> {
        let file = self.file.as_ref().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        next_data(file, offset)
    }

    /// Reads what the host's own tables may forbid to be read: for debuggers.
    pub(crate) fn peek(&self, mut offset: u64, mut to: &mut [u8]) -> Result<(), io::Error> {
        let Some(file) = &self.file else { return Ok(self.read(offset, to)?) };
        self.mapping.pointer(Span { offset, len: to.len() as u64 })?;
        while !to.is_empty() {
            let read = retry_on_intr(|| pread(file, &mut *to, offset))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += read as u64;
            to = &mut to[read..];
        }
        Ok(())
    }

    /// Writes what the host's own tables may forbid to be written: for debuggers.
    pub(crate) fn poke(&self, offset: u64, from: &[u8]) -> Result<(), io::Error> {
        if self.file.is_some() { self.fill(offset, from) } else { Ok(self.write(offset, from)?) }
    }

    /// Forbids the guest by the host's own tables what it may not do with these pages, and this process as well: nobody
    /// may read or write them through here against it.
    pub(crate) fn protect(&self, pages: Range<u64>, read: bool, write: bool) -> Result<(), io::Error> {
        let len = pages.end.saturating_sub(pages.start);
        let start = self.mapping.pointer(Span { offset: pages.start, len })?;
        let mut access = rustix::mm::MprotectFlags::empty();
        access.set(rustix::mm::MprotectFlags::READ, read);
        access.set(rustix::mm::MprotectFlags::WRITE, write);
        // SAFETY: whole pages of a mapping of our own, whose contents do not change.
        unsafe { rustix::mm::mprotect(start.as_ptr().cast(), index(len), access) }?;
        Ok(())
    }

    /// Gives pages host memory now, for a part of what a page fault for each of them would take. Where the host does not, they
    /// get it by faults.
    pub(crate) fn populate(&self, pages: Range<u64>) {
        let len = pages.end.saturating_sub(pages.start);
        if let Ok(start) = self.mapping.pointer(Span { offset: pages.start, len }) {
            // SAFETY: whole pages of a mapping of our own, whose contents do not change.
            let _ = unsafe { madvise(start.as_ptr().cast(), index(len), Advice::LinuxPopulateWrite) };
        }
    }

    /// Host address of the guest's address zero, for KVM.
    pub(crate) fn host_address(&self) -> u64 {
        self.mapping.base.as_ptr().expose_provenance() as u64
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.mapping.size
    }

    /// The file that the memory is a shared mapping of; none of a view, nor of memory for one run.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// The pages that differ from the template.
    pub(crate) fn dirty(&mut self) -> &mut DirtyPages {
        self.dirty.get_mut()
    }

    /// Pointer to a range that is only read.
    pub(crate) fn pointer(&self, span: Span) -> Result<NonNull<u8>, OutOfBounds> {
        self.mapping.pointer(span)
    }

    /// Pointer to a range that will be written.
    pub(crate) fn pointer_for_writing(&self, span: Span) -> Result<NonNull<u8>, OutOfBounds> {
        let pointer = self.mapping.pointer(span)?;
        self.dirty.borrow_mut().insert_range(span.offset, span.len);
        Ok(pointer)
    }

    /// Makes every dirty page equal to the template's again. They stay in the set, since putting a page right that
    /// did not change costs less than finding out whether the guest wrote to it.
    ///
    /// Pages that the template has no memory for are zeroed rather than copied: stacks, heaps and tables that a function
    /// begins to use with a request are such pages as a rule. Fifty pages and what they would be copied from are most of
    /// a second-level cache; this goes through half of that, and writes next to nothing.
    pub(crate) fn restore(&mut self, template: &FrozenMemory) -> Result<(), OutOfBounds> {
        let pages = self.dirty.get_mut().pages();
        for (number, page) in pages.iter().enumerate() {
            if let Some(ahead) = pages.get(number + LOOK_AHEAD) {
                self.mapping.look_ahead(ahead * PAGE_SIZE);
            }
            let span = Span { offset: page * PAGE_SIZE, len: PAGE_SIZE };
            let to = self.mapping.pointer(span)?;
            if template.held.contains(*page) {
                let from = template.mapping.pointer(span)?;
                // SAFETY: both are whole pages inside mappings of their own; the guest is stopped, and nothing is
                // borrowed from its memory.
                unsafe { from.copy_to_nonoverlapping(to, index(PAGE_SIZE)) };
            } else {
                // SAFETY: a whole page; as above.
                unsafe { zero_page(to) };
            }
        }
        Ok(())
    }

    /// Address of the first byte that differs from the template's.
    pub(crate) fn first_difference(&self, template: &FrozenMemory) -> Result<Option<u64>, OutOfBounds> {
        let (mut ours, mut theirs) = ([0; index(PAGE_SIZE)], [0; index(PAGE_SIZE)]);
        for offset in (0..self.mapping.size).step_by(index(PAGE_SIZE)) {
            self.read(offset, &mut ours)?;
            template.read(offset, &mut theirs)?;
            if ours != theirs {
                let at = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
                return Ok(at.map(|at| offset + at as u64));
            }
        }
        Ok(None)
    }

    /// Forgets all that was written since the memory became a view, and gives the pages back to the host.
    pub(crate) fn drop_written(&mut self) -> Result<(), io::Error> {
        let base = self.mapping.base.as_ptr().cast();
        // SAFETY: the whole of a private mapping of our own; what it reads as next is the template.
        unsafe { madvise(base, index(self.mapping.size), Advice::LinuxDontNeed) }?;
        self.dirty.get_mut().clear();
        Ok(())
    }

    /// Zeroes a range that is zero in every template, without marking it dirty.
    pub(crate) fn zero_unmarked(&self, offset: u64, len: u64) -> Result<(), OutOfBounds> {
        let pointer = self.mapping.pointer(Span { offset, len })?;
        // SAFETY: the range is inside the mapping; the guest is stopped.
        unsafe { pointer.write_bytes(0, index(len)) };
        Ok(())
    }

    fn slice(&self, offset: u64, len: usize) -> Result<VolatileSlice<'_>, OutOfBounds> {
        let pointer = self.pointer(Span { offset, len: len as u64 })?;
        // SAFETY: `len` bytes from `pointer` are inside the mapping, which lives as long as `self`.
        Ok(unsafe { VolatileSlice::new(pointer.as_ptr(), len) })
    }

    /// Copies bytes out of the guest.
    pub(crate) fn read(&self, offset: u64, to: &mut [u8]) -> Result<(), OutOfBounds> {
        self.slice(offset, to.len())?.copy_to(to);
        Ok(())
    }

    /// Copies bytes into the guest.
    pub(crate) fn write(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.write_unmarked(offset, from)?;
        self.dirty.borrow_mut().insert_range(offset, from.len() as u64);
        Ok(())
    }

    /// Copies bytes into the guest without marking them dirty; the caller keeps count of them.
    pub(crate) fn write_unmarked(&self, offset: u64, from: &[u8]) -> Result<(), OutOfBounds> {
        self.slice(offset, from.len())?.copy_from(from);
        Ok(())
    }

    /// Copies a structure out of the guest; what the guest does to it later has no effect.
    pub(crate) fn load<T: FromBytes + IntoBytes>(&self, offset: u64) -> Result<T, OutOfBounds> {
        let mut value = T::new_zeroed();
        self.read(offset, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies a structure into the guest.
    pub(crate) fn store<T: IntoBytes + Immutable>(&self, offset: u64, value: &T) -> Result<(), OutOfBounds> {
        self.write(offset, value.as_bytes())
    }

    /// Copies a span out of the guest, in place of what `to` holds.
    pub(crate) fn read_span(&self, span: Span, to: &mut Vec<u8>) -> Result<(), OutOfBounds> {
        if span.len == 0 {
            // Nowhere, so anywhere.
            to.clear();
            return Ok(());
        }
        self.pointer(span)?;
        // Zeroes only what is new.
        to.resize(index(span.len), 0);
        self.read(span.offset, to)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGES: u64 = 70;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(48)))]

        #[test]
        fn every_byte_that_was_written_is_the_templates_again_whether_it_holds_zeroes_or_not(
            template in prop::collection::btree_map(0..PAGES * PAGE_SIZE, 1..=u8::MAX, 0..40),
            rounds in prop::collection::vec(
                prop::collection::vec((0..PAGES * PAGE_SIZE, prop::collection::vec(any::<u8>(), 1..9000)), 0..12),
                1..4,
            ),
        ) {
            let mut memory = GuestMemory::new(PAGES * PAGE_SIZE).unwrap();
            for (offset, byte) in &template {
                memory.write(*offset, &[*byte]).unwrap();
            }
            let frozen = memory.freeze().unwrap();
            let mut view = GuestMemory::view(&frozen).unwrap();
            for writes in &rounds {
                for (offset, bytes) in writes {
                    let room = usize::try_from(PAGES * PAGE_SIZE - offset).unwrap();
                    let bytes = &bytes[..bytes.len().min(room)];
                    for memory in [&memory, &view] {
                        memory.write(*offset, bytes).unwrap();
                    }
                }
                for memory in [&mut memory, &mut view] {
                    memory.restore(&frozen).unwrap();
                    prop_assert_eq!(memory.first_difference(&frozen).unwrap(), None);
                }
            }
            for (offset, byte) in &template {
                prop_assert_eq!(view.load::<u8>(*offset).unwrap(), *byte);
            }
        }
    }

    #[test]
    fn accesses_beyond_the_mapping_are_refused() {
        let memory = GuestMemory::new(0x2000).unwrap();
        assert_eq!(memory.write(0x1ffe, b"ab"), Ok(()));
        assert_eq!(memory.write(0x1fff, b"ab"), Err(OutOfBounds));
        assert_eq!(memory.read(u64::MAX, &mut [0]), Err(OutOfBounds));
        assert_eq!(memory.load::<u64>(0x1ff9), Err(OutOfBounds));
        assert!(memory.read_span(Span { offset: 0, len: u64::MAX }, &mut Vec::new()).is_err());
        assert_eq!(memory.load::<[u8; 2]>(0x1ffe), Ok(*b"ab"));
    }
}
