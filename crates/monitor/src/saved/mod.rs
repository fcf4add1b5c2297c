//! A template in a file, so that the next process of a function need not boot it again, of either machine type. Written by the watchdog that
//! booted the template, read by those that start later; what is read is a stranger's bytes, and never trusted.
//!
//! ```text
//! head       magic, format, ABI version, digests of what it is of, memory size, counts     [Header]
//! processor  KVM's structures, see `CpuState`
//! runs       (first page, pages) each, ascending                                           [Run]
//! pages      4096 bytes each, in that order
//! CRC-32     of all that comes before
//! ```
//!
//! Integers are little-endian. Pages of zeroes are left out, and so is what no guest can write: the monitor's own pages
//! and the boot page, with the environment, are made anew from what they are made of at a boot. The head is written
//! last, so that a file whose writer was stopped has none; the checksum covers what the disk lost. A file that passes
//! all checks can still hold any memory and any general registers of a guest: whoever may write it chooses what its
//! function does, in its own machines at CPL 3, and nothing else.

mod key;

use std::{
    fs::File,
    io::{self, BufWriter, Read, Write as _},
    os::unix::fs::FileExt as _,
};

use crc32fast::Hasher;
use kernlet_abi::{
    Span,
    map::{PAGE_SIZE, STACK_BASE},
};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes};

pub use key::TemplateKey;

use self::key::Sha;
use crate::{
    Cause, MachineConfig,
    guest::write_platform,
    kvm,
    layout::Layout,
    memory::{FrozenMemory, GuestMemory},
};

const MAGIC: [u8; 8] = *b"KERNLETT";

/// Version of the format.
const FORMAT: u32 = 1;

const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_SIZE);

/// Pages read at once.
const CHUNK: u64 = 16;

/// The head of the file.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    format: u32,
    abi: u32,
    program: Sha,
    unikernel: Sha,
    settings: Sha,
    processor: Sha,
    /// The machine's memory, in bytes.
    memory: u64,
    /// Bytes of processor state, runs, pages.
    counts: [u64; 3],
}

/// Pages of the file that follow one another in memory as well.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Run {
    /// Page number.
    first: u64,
    count: u64,
}

/// Why a file is not the template that is looked for.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("the saved template cannot be read")]
    Read(#[source] io::Error),
    /// Whoever wrote it has not finished, or never will.
    #[error("the saved template was not written to its end")]
    Unfinished,
    /// It is of something else.
    #[error("the saved template is of {what}")]
    Stale {
        /// What it is of.
        what: &'static str,
    },
    /// It is not what was written.
    #[error("the saved template is damaged: {why}")]
    Damaged {
        /// How that shows.
        why: &'static str,
    },
    /// There is no memory for it, or the machine cannot be laid out.
    #[error("the saved template cannot be put into memory")]
    Machine(#[from] Cause),
}

impl LoadError {
    /// Whether something is wrong, rather than out of date.
    #[must_use]
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Unfinished | Self::Stale { .. })
    }
}

pub(crate) const fn damaged(why: &'static str) -> LoadError {
    LoadError::Damaged { why }
}

/// What of a machine type's templates a file holds.
pub(crate) trait Shape {
    /// Bytes of a machine's memory, the monitor's own pages included.
    fn memory(&self) -> u64;
    /// Bytes of the processor's state.
    fn cpu_len(&self) -> usize;
    /// Whether these pages, which lie in memory, are the guest's and come from the file: none that the guest cannot have.
    fn keeps(&self, span: Span) -> bool;
    /// Writes what does not come from the file, as at a boot.
    fn write_own(&self, memory: &GuestMemory) -> Result<(), Cause>;
}

/// The shape of native machines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Native<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) config: &'a MachineConfig,
}

impl Shape for Native<'_> {
    fn memory(&self) -> u64 {
        self.layout.memory
    }

    fn cpu_len(&self) -> usize {
        kvm::CpuState::ENCODED_LEN
    }

    /// None of the request window's either, which is empty in every template.
    fn keeps(&self, span: Span) -> bool {
        let end = span.offset.checked_add(span.len);
        span.offset >= STACK_BASE
            && end.is_some_and(|end| end <= self.layout.window.offset)
            && self.layout.allows(span, false)
    }

    fn write_own(&self, memory: &GuestMemory) -> Result<(), Cause> {
        write_platform(memory, self.layout, self.config)
    }
}

/// Writes a template to an empty file, its head last.
pub(crate) fn write(
    file: &File,
    key: &TemplateKey,
    memory: &FrozenMemory,
    shape: &impl Shape,
    cpu: &[u8],
) -> io::Result<()> {
    let runs = runs(memory, shape)?;
    let count: u64 = runs.iter().map(|run| run.count).sum();
    let header = Header { counts: [cpu.len() as u64, runs.len() as u64, count], ..key.header() };
    let mut to = Checked::new(BufWriter::with_capacity(PAGE * 16, file));
    to.crc.update(header.as_bytes());
    to.inner.write_all(Header::new_zeroed().as_bytes())?;
    to.write(cpu)?;
    to.write(runs.as_bytes())?;
    let mut page = [0; PAGE];
    for number in runs.iter().flat_map(|run| run.first..run.first + run.count) {
        read_page(memory, number, &mut page)?;
        to.write(&page)?;
    }
    let crc = to.crc.finalize();
    to.inner.write_all(&crc.to_le_bytes())?;
    to.inner.flush()?;
    file.write_all_at(header.as_bytes(), 0)
}

/// The pages that a guest can write or its image fills, and that hold something.
fn runs(memory: &FrozenMemory, shape: &impl Shape) -> io::Result<Vec<Run>> {
    let (mut runs, mut page, mut from): (Vec<Run>, _, _) = (Vec::new(), [0; PAGE], 0);
    while let Some(data) = memory.next_data(from)? {
        for number in data.start / PAGE_SIZE..data.end.div_ceil(PAGE_SIZE) {
            if !belongs(shape, Run { first: number, count: 1 }) {
                continue;
            }
            read_page(memory, number, &mut page)?;
            if page.iter().all(|byte| *byte == 0) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.first + run.count == number => run.count += 1,
                _ => runs.push(Run { first: number, count: 1 }),
            }
        }
        from = data.end;
    }
    Ok(runs)
}

fn read_page(memory: &FrozenMemory, number: u64, page: &mut [u8; PAGE]) -> io::Result<()> {
    memory.read(number * PAGE_SIZE, page).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Whether pages may come from a file.
fn belongs(shape: &impl Shape, run: Run) -> bool {
    let offset = run.first.checked_mul(PAGE_SIZE);
    let span = offset.zip(run.count.checked_mul(PAGE_SIZE)).map(|(offset, len)| Span { offset, len });
    span.is_some_and(|span| {
        let end = span.offset.checked_add(span.len);
        span.len > 0 && end.is_some_and(|end| end <= shape.memory()) && shape.keeps(span)
    })
}

/// Reads a template that was written under this key: its memory, and the bytes of its processor's state, which nobody has
/// looked at yet. Takes no more memory than a machine has, whatever the file says.
pub(crate) fn read(
    from: impl Read,
    key: &TemplateKey,
    shape: &impl Shape,
) -> Result<(GuestMemory, Vec<u8>), LoadError> {
    let mut from = Checked::new(from);
    let mut header = Header::new_zeroed();
    from.read(header.as_mut_bytes(), || LoadError::Unfinished)?;
    match header.magic {
        MAGIC => {}
        [0, 0, 0, 0, 0, 0, 0, 0] => return Err(LoadError::Unfinished),
        _ => return Err(damaged("it does not begin as one")),
    }
    if let Some(what) = key.first_difference(&header) {
        return Err(LoadError::Stale { what });
    }
    let [cpu_len, run_count, page_count] = header.counts;
    let all = shape.memory() / PAGE_SIZE;
    if cpu_len != shape.cpu_len() as u64 || page_count > all || run_count > page_count {
        return Err(damaged("its head has impossible numbers"));
    }
    let mut cpu = vec![0; shape.cpu_len()];
    from.read(&mut cpu, cut_short)?;
    let runs = read_runs(&mut from, shape, run_count, page_count)?;
    let size = shape.memory();
    let no_memory = |source| LoadError::Machine(Cause::Memory { size, source });
    let memory = GuestMemory::new(size).map_err(no_memory)?;
    shape.write_own(&memory)?;
    let mut buffer = vec![0; PAGE * 16];
    for Run { mut first, mut count } in runs {
        while count > 0 {
            let pages = count.min(CHUNK);
            let len = usize::try_from(pages * PAGE_SIZE).unwrap_or_default();
            let part = buffer.get_mut(..len).ok_or(damaged("its runs are too long"))?;
            from.read(part, cut_short)?;
            memory.fill(first * PAGE_SIZE, part).map_err(no_memory)?;
            (first, count) = (first + pages, count - pages);
        }
    }
    from.check_sum()?;
    Ok((memory, cpu))
}

/// Seals the memory of a template that was read.
pub(crate) fn freeze(memory: GuestMemory) -> Result<FrozenMemory, LoadError> {
    let size = memory.size();
    memory.into_frozen().map_err(|source| LoadError::Machine(Cause::Memory { size, source }))
}

fn cut_short() -> LoadError {
    damaged("it is cut short")
}

fn read_runs<R: Read>(
    from: &mut Checked<R>,
    shape: &impl Shape,
    run_count: u64,
    page_count: u64,
) -> Result<Vec<Run>, LoadError> {
    let (mut runs, mut end, mut pages) = (Vec::new(), 0, 0_u64);
    for _ in 0..run_count {
        let mut run = Run::new_zeroed();
        from.read(run.as_mut_bytes(), cut_short)?;
        if !belongs(shape, run) || run.first < end {
            return Err(damaged("it has pages where a guest has none"));
        }
        // Both fit, since the run lies in memory.
        (end, pages) = (run.first + run.count, pages + run.count);
        runs.push(run);
    }
    if pages == page_count { Ok(runs) } else { Err(damaged("its numbers of pages disagree")) }
}

/// A stream, with the checksum of what went through it.
struct Checked<T> {
    inner: T,
    crc: Hasher,
}

impl<T> Checked<T> {
    fn new(inner: T) -> Self {
        Self { inner, crc: Hasher::new() }
    }
}

impl<T: io::Write> Checked<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Checked<T> {
    fn read(&mut self, to: &mut [u8], ended: impl FnOnce() -> LoadError) -> Result<(), LoadError> {
        match self.inner.read_exact(to) {
            Ok(()) => {
                self.crc.update(to);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ended()),
            Err(error) => Err(LoadError::Read(error)),
        }
    }

    /// What is left has to be the checksum, and nothing behind it.
    fn check_sum(mut self) -> Result<(), LoadError> {
        let wanted = self.crc.clone().finalize();
        let mut found = [0; 4];
        self.read(&mut found, cut_short)?;
        if u32::from_le_bytes(found) != wanted {
            return Err(damaged("its checksum is another"));
        }
        match self.inner.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(damaged("something follows its end")),
            Err(error) => Err(LoadError::Read(error)),
        }
    }
}

/// For fuzz targets: files that pass the key and the checksum, so that what lies behind these is reached.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod forge {
    use super::{Hasher, Header, IntoBytes as _, MAGIC, TemplateKey};

    /// Gives a file another key's head and its right checksum, and leaves its counts.
    pub(crate) fn repair(bytes: &mut [u8], key: &TemplateKey) {
        let head = size_of::<Header>();
        let Some(body) = bytes.len().checked_sub(4).filter(|end| *end >= head) else { return };
        let wanted = key.header();
        let counts = head - size_of::<[u64; 3]>();
        bytes[..counts].copy_from_slice(&wanted.as_bytes()[..counts]);
        let mut crc = Hasher::new();
        crc.update(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.finalize().to_le_bytes());
    }

    /// A file with this head, state, runs and pages, whatever they say.
    pub(crate) fn file(key: &TemplateKey, cpu: &[u8], runs: &[(u64, u64)], pages: &[u8]) -> Vec<u8> {
        let count = runs.iter().fold(0_u64, |sum, (_, count)| sum.wrapping_add(*count));
        let header = Header { magic: MAGIC, counts: [cpu.len() as u64, runs.len() as u64, count], ..key.header() };
        let mut bytes = [header.as_bytes(), cpu].concat();
        for (first, count) in runs {
            bytes.extend([first.to_le_bytes(), count.to_le_bytes()].concat());
        }
        bytes.extend(pages);
        bytes.extend([0; 4]);
        repair(&mut bytes, key);
        bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use kernlet_abi::map::{BOOT_BASE, HYPERCALL_PAGE, IMAGE_BASE, STACK_TOP, SUPERVISOR_BASE};
    use kernlet_accel::Runtime;
    use proptest::prelude::*;

    use super::*;
    use crate::{Unikernel, fuzzing::TemplateReader, image::Elf};

    const MEMORY: u64 = 4 << 20;

    fn reader() -> TemplateReader {
        let unikernel = Unikernel::parse(&Elf::with_code(&[0xc3], b"data").build()).unwrap();
        let environment = vec![("NAME".to_owned(), "value".to_owned())];
        let config = MachineConfig { memory: MEMORY, request_limit: 4096, response_limit: 4096, environment };
        TemplateReader::new(&unikernel, &config, &Runtime::new(Vec::new()).session()).unwrap()
    }

    fn read(runs: &[(u64, u64)], pages: usize) -> Result<(), LoadError> {
        let reader = reader();
        reader.read(&reader.forge(runs, &vec![1; pages * PAGE]))
    }

    #[test]
    fn pages_that_are_not_the_guests_are_refused() {
        let page = |address: u64| address / PAGE_SIZE;
        assert!(read(&[(page(STACK_BASE), 2), (page(STACK_TOP) - 1, 1), (page(IMAGE_BASE), 1)], 4).is_ok());
        for first in [0, page(SUPERVISOR_BASE), page(BOOT_BASE), page(HYPERCALL_PAGE), page(STACK_BASE) - 1] {
            assert!(matches!(read(&[(first, 1)], 1), Err(LoadError::Damaged { .. })), "page {first:#x}");
        }
        let in_stack = page(STACK_BASE);
        let bad: [&[(u64, u64)]; 9] = [
            &[(in_stack, 0)],
            &[(in_stack, 1), (in_stack, 1)],
            &[(in_stack + 1, 1), (in_stack, 1)],
            &[(in_stack, 2), (in_stack + 1, 1)],
            // The stack and its guard.
            &[(in_stack - 1, 2)],
            &[(page(MEMORY) - 1, 1)],
            &[(page(MEMORY), 1)],
            &[(u64::MAX, 1)],
            &[(in_stack, u64::MAX)],
        ];
        for runs in bad {
            assert!(matches!(read(runs, 2), Err(LoadError::Damaged { .. })), "{runs:?}");
        }
        assert!(matches!(read(&[(in_stack, 2)], 1), Err(LoadError::Damaged { .. })), "a page too few");
        assert!(matches!(read(&[(in_stack, 1)], 2), Err(LoadError::Damaged { .. })), "a page too many");
    }

    proptest! {
        #[test]
        fn any_bytes_are_loaded_or_refused_as_a_template(
            bytes in prop::collection::vec(any::<u8>(), 0..6000),
            repaired: bool,
        ) {
            let (reader, mut bytes) = (reader(), bytes);
            if repaired {
                reader.repair(&mut bytes);
            }
            let _ = reader.read(&bytes);
        }

        #[test]
        fn a_good_template_with_bytes_changed_is_loaded_or_refused(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            first in 0..STACK_TOP / PAGE_SIZE,
        ) {
            let reader = reader();
            let mut bytes = reader.forge(&[(first, 1), (IMAGE_BASE / PAGE_SIZE, 1)], &[7; 2 * PAGE]);
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            reader.repair(&mut bytes);
            let _ = reader.read(&bytes);
        }
    }
}
