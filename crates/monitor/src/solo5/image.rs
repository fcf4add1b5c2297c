//! Reads a Solo5 unikernel: an ELF file with two notes, one that says for which tender it was built and one with its
//! manifest. Used before a machine is made, on bytes that a stranger wrote. Never copies anything to where it could run.
//!
//! What is refused, in which order and with which words, is as Solo5's own tenders have it, so that scripts which know
//! them know these.

use std::{ops::Range, sync::Arc};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    ABI_VERSION, Devices, GUEST_MIN, PAGE_SIZE,
    device::AttachError,
    disk::{self, Disk, DiskError},
    manifest::Manifest,
};

/// What the bytes of an ELF file for x86-64 begin with: magic number, 64 bits, little-endian.
const IDENTITY: [u8; 6] = *b"\x7fELF\x02\x01";
const TYPE_EXECUTABLE: u16 = 2;
const MACHINE_X86_64: u16 = 62;

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

// Flags of a segment.
const EXECUTE: u32 = 1;
const WRITE: u32 = 2;
const READ: u32 = 4;

const NOTE_NAME: &[u8; 6] = b"Solo5\0";
/// "ABI1".
const NOTE_ABI: NoteKind = NoteKind { kind: 0x3149_4241, align: 4, size_max: 32 };
/// "MFT1".
const NOTE_MANIFEST: NoteKind = NoteKind { kind: 0x3154_464d, align: 8, size_max: 12 + 64 * 104 };

/// A note that Solo5 has.
#[derive(Clone, Copy)]
struct NoteKind {
    kind: u32,
    /// To how many bytes its contents are aligned, counted from the note's begin.
    align: usize,
    /// Most bytes that its header may say its contents have.
    size_max: u32,
}

/// `Elf64_Ehdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct FileHeader {
    pub(super) identity: [u8; 16],
    pub(super) kind: u16,
    pub(super) machine: u16,
    pub(super) version: u32,
    pub(super) entry: u64,
    pub(super) program_headers: u64,
    pub(super) section_headers: u64,
    pub(super) flags: u32,
    pub(super) size: u16,
    pub(super) program_header_size: u16,
    pub(super) program_header_count: u16,
    pub(super) section: [u16; 3],
}

/// `Elf64_Phdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct ProgramHeader {
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) physical: u64,
    pub(super) file_size: u64,
    pub(super) memory_size: u64,
    pub(super) align: u64,
}

const _: () = assert!(size_of::<FileHeader>() == 64 && size_of::<ProgramHeader>() == 56);

/// What begins a note, with the name that Solo5's have.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct NoteHeader {
    name_size: u32,
    size: u32,
    kind: u32,
    name: [u8; 8],
}

/// The tender for which a unikernel was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A virtual machine.
    Hvt,
    /// A process that the kernel lets do little.
    Spt,
}

impl Target {
    /// Its number in a note.
    const fn number(self) -> u32 {
        match self {
            Self::Hvt => 1,
            Self::Spt => 2,
        }
    }

    /// The name of its tender.
    #[must_use]
    pub const fn tender(self) -> &'static str {
        match self {
            Self::Hvt => "solo5-hvt",
            Self::Spt => "solo5-spt",
        }
    }
}

/// A unikernel whose notes are right. What it loads is looked at when the size of its machine is known.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Arc<[u8]>,
    entry: u64,
    headers: Vec<ProgramHeader>,
    manifest: Manifest,
    /// Block devices that every machine has of its own.
    disks: Vec<(String, Disk)>,
}

/// What is to be in a machine's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// Ascending, without overlaps, whole pages.
    pub(crate) segments: Vec<Segment>,
    /// First address behind the last.
    pub(crate) end: u64,
}

/// A segment of a unikernel in its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// The pages that are its own.
    pub(crate) pages: Range<u64>,
    /// Where its bytes begin.
    pub(crate) start: u64,
    /// The bytes of the file that go there.
    pub(crate) file: Range<usize>,
    pub(crate) access: Access,
}

/// What a guest may do with pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

impl Access {
    /// As a tender gives a guest the memory that no segment claims.
    pub(crate) const ALL: Self = Self { read: true, write: true, execute: true };
}

/// Why a file is no unikernel for this tender.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum ImageError {
    #[error("invalid executable: elf header does not match the expected size ({size} != 64)")]
    Short { size: usize },
    #[error("invalid executable: invalid or unsupported executable (elf header invalid while loading note)")]
    Header,
    #[error(
        "invalid executable: program header does not match the expected size ({found} != {expected} while loading note)"
    )]
    ProgramHeaders { found: usize, expected: usize },
    #[error("invalid executable: phdr[{index}].p_filesz note does not fall within valid size ({size} < 12)")]
    ShortNote { index: usize, size: u64 },
    #[error("phdr[{index}] bytes read mismatches note size ({found} != {expected})")]
    CutNote { index: usize, found: usize, expected: usize },
    #[error("invalid executable: phdr[{index}] note does not fall within valid size ({size} < 1 || {size} > {max})")]
    NoteSize { index: usize, size: u64, max: u64 },
    #[error("invalid executable: phdr[{index}] note does not fall within valid size ({size} < {needed})")]
    NoteOutside { index: usize, size: u64, needed: u64 },
    #[error("No Solo5 ABI information found in executable")]
    NoAbi,
    #[error("Executable is not for the {tender} target")]
    OtherTarget { tender: &'static str },
    #[error("Executable requests unsupported ABI version {version}")]
    AbiVersion { version: u32 },
    #[error("No Solo5 manifest found in executable")]
    NoManifest,
    #[error("Solo5 manifest is invalid")]
    Manifest,
    #[error(
        "invalid executable: e_entry does not fall within the memory allocation range ({entry} < {GUEST_MIN} || {entry} >= {memory})"
    )]
    Entry { entry: u64, memory: u64 },
    #[error("invalid executable: phdr[{index}].p_vaddr outside of valid memory range ({address} < {GUEST_MIN})")]
    Low { index: usize, address: u64 },
    #[error("invalid executable: phdr[{index}].p_vaddr is not in ascending order ({address} < {last})")]
    Order { index: usize, address: u64, last: u64 },
    #[error(
        "invalid executable: phdr[{index}].p_vaddr is outside of memory range (align_down with {address} (p_vaddr) and {align} (p_align) failed)"
    )]
    Align { index: usize, address: u64, align: u64 },
    #[error("invalid executable: phdr[{index}].p_vaddr_start is outside of memory range ({start} < {least})")]
    Start { index: usize, start: u64, least: u64 },
    #[error(
        "invalid executable: phdr[{index}] program file segment falls outside of valid range ({address} (p_vaddr) + {size} (p_filesz), {memory} (mem_size))"
    )]
    FileRange { index: usize, address: u64, size: u64, memory: u64 },
    #[error(
        "invalid executable: phdr[{index}] program memory segment falls outside of valid range ({address} (p_vaddr) + {size} (p_memsz), {memory} (mem_size))"
    )]
    MemoryRange { index: usize, address: u64, size: u64, memory: u64 },
    #[error("phdr[{index}] host file segment mismatched (pread_in_full returned {found} != {size} (p_filesz))")]
    CutSegment { index: usize, found: usize, size: u64 },
    #[error("invalid executable: phdr[{index}] {what} not aligned with architectural page size ({address} & 4095)")]
    Unaligned { index: usize, what: &'static str, address: u64 },
    #[error("invalid executable: phdr[{index}] requests WRITE and EXEC permissions")]
    WritableCode { index: usize },
}

/// Whether a file says that it was built for one of Solo5's tenders; whether it is right is seen later.
#[must_use]
pub fn target_of(bytes: &[u8]) -> Option<Target> {
    let headers = program_headers(bytes).ok()?.1;
    let note = note(bytes, &headers, NOTE_ABI).ok()??;
    let (number, _) = u32::read_from_prefix(note).ok()?;
    [Target::Hvt, Target::Spt].into_iter().find(|target| target.number() == number)
}

impl Image {
    /// Reads the notes of a unikernel.
    ///
    /// # Errors
    /// As its tender would say it.
    pub fn parse(bytes: Arc<[u8]>, target: Target) -> Result<Self, ImageError> {
        let (header, headers) = program_headers(&bytes)?;
        let abi = note(&bytes, &headers, NOTE_ABI)?.ok_or(ImageError::NoAbi)?;
        let ([number, version], _) = <[u32; 2]>::read_from_prefix(abi).map_err(|_| ImageError::NoAbi)?;
        if number != target.number() {
            return Err(ImageError::OtherTarget { tender: target.tender() });
        }
        if version != ABI_VERSION {
            return Err(ImageError::AbiVersion { version });
        }
        let manifest = note(&bytes, &headers, NOTE_MANIFEST)?.ok_or(ImageError::NoManifest)?;
        let manifest = Manifest::parse(manifest).ok_or(ImageError::Manifest)?;
        Ok(Self { entry: header.entry, headers, manifest, bytes, disks: Vec::new() })
    }

    /// The unikernel with these block devices, of which every machine that is a function's has its own.
    ///
    /// # Errors
    /// The unikernel declares another number of block devices, or others.
    pub fn with_disks(self, disks: Vec<(String, Disk)>) -> Result<Self, DiskError> {
        disk::check(&self.manifest, &disks)?;
        Ok(Self { disks, ..self })
    }

    /// Block devices that every machine has of its own.
    pub(crate) fn disks(&self) -> &[(String, Disk)] {
        &self.disks
    }

    /// The devices of a machine whose disks are these; as they are in a file where there are none.
    pub(crate) fn devices(&self, disks: &[(String, Disk)]) -> Result<Devices, AttachError> {
        let mut devices = Devices::new(&self.manifest);
        for (name, disk) in if disks.is_empty() { &self.disks } else { disks } {
            devices.attach_block(name, Box::new(disk.device()))?;
            devices.set_block_size(name, disk.sector())?;
        }
        Ok(devices)
    }

    /// Address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// The devices that it has.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn bytes(&self) -> Arc<[u8]> {
        Arc::clone(&self.bytes)
    }

    pub(crate) fn contents(&self, segment: &Segment) -> &[u8] {
        self.bytes.get(segment.file.clone()).unwrap_or_default()
    }

    /// What goes where in a machine that has this much memory.
    pub(crate) fn load(&self, memory: u64) -> Result<Loaded, ImageError> {
        let entry = self.entry;
        if !(GUEST_MIN..memory).contains(&entry) {
            return Err(ImageError::Entry { entry, memory });
        }
        let mut loaded = Loaded { segments: Vec::new(), end: 0 };
        let mut last = 0;
        for (index, header) in self.headers.iter().enumerate() {
            // Memory that no file fills is zero anyway, and the guest's to use.
            if header.kind == PT_LOAD && header.file_size > 0 {
                let segment = self.segment(index, header, last, loaded.end, memory)?;
                last = header.address;
                loaded.end = segment.pages.end;
                loaded.segments.push(segment);
            }
        }
        Ok(loaded)
    }

    fn segment(
        &self,
        index: usize,
        header: &ProgramHeader,
        last: u64,
        end: u64,
        memory: u64,
    ) -> Result<Segment, ImageError> {
        let &ProgramHeader { address, align, file_size, memory_size, .. } = header;
        if address < GUEST_MIN {
            return Err(ImageError::Low { index, address });
        }
        if address < last {
            return Err(ImageError::Order { index, address, last });
        }
        if !align.is_power_of_two() {
            return Err(ImageError::Align { index, address, align });
        }
        let start = address & !(align - 1);
        if start < GUEST_MIN.max(end) {
            return Err(ImageError::Start { index, start, least: GUEST_MIN.max(end) });
        }
        if address.checked_add(file_size).is_none_or(|end| end > memory) {
            return Err(ImageError::FileRange { index, address, size: file_size, memory });
        }
        let outside = ImageError::MemoryRange { index, address, size: memory_size, memory };
        if memory_size < file_size {
            return Err(outside);
        }
        let end = address.checked_add(memory_size).and_then(|end| end.checked_next_multiple_of(align));
        let end = end.filter(|end| *end <= memory).ok_or(outside)?;
        let file = file_range(&self.bytes, header.offset, file_size);
        if file.len() as u64 != file_size {
            return Err(ImageError::CutSegment { index, found: file.len(), size: file_size });
        }
        for (what, address) in [("p_vaddr_start", start), ("p_vaddr_end", end)] {
            if !address.is_multiple_of(PAGE_SIZE) {
                return Err(ImageError::Unaligned { index, what, address });
            }
        }
        let has = |flag| header.flags & flag != 0;
        if has(WRITE) && has(EXECUTE) {
            return Err(ImageError::WritableCode { index });
        }
        // Pages that can be executed can be read: hvt's have to be, and nobody loses by it.
        let access = Access { read: has(READ) || has(WRITE) || has(EXECUTE), write: has(WRITE), execute: has(EXECUTE) };
        Ok(Segment { pages: start..end, start: address, file, access })
    }
}

/// The part of a range that lies in the file.
fn file_range(bytes: &[u8], offset: u64, size: u64) -> Range<usize> {
    let index = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).min(bytes.len());
    index(offset)..index(offset.saturating_add(size))
}

fn program_headers(bytes: &[u8]) -> Result<(FileHeader, Vec<ProgramHeader>), ImageError> {
    let (header, _) = FileHeader::read_from_prefix(bytes).map_err(|_| ImageError::Short { size: bytes.len() })?;
    let right = header.identity.starts_with(&IDENTITY)
        && header.version == 1
        && usize::from(header.size) == size_of::<FileHeader>()
        && header.program_header_count >= 1
        && usize::from(header.program_header_size) == size_of::<ProgramHeader>()
        && header.kind == TYPE_EXECUTABLE
        && header.machine == MACHINE_X86_64;
    if !right {
        return Err(ImageError::Header);
    }
    let expected = usize::from(header.program_header_count) * size_of::<ProgramHeader>();
    let table = &bytes[file_range(bytes, header.program_headers, expected as u64)];
    if table.len() != expected {
        return Err(ImageError::ProgramHeaders { found: table.len(), expected });
    }
    let headers = table.chunks_exact(size_of::<ProgramHeader>()).map(ProgramHeader::read_from_bytes);
    Ok((header, headers.collect::<Result<_, _>>().map_err(|_| ImageError::Header)?))
}

/// The contents of the first note of a kind. Of each segment of notes the first note alone is looked at.
fn note<'a>(bytes: &'a [u8], headers: &[ProgramHeader], kind: NoteKind) -> Result<Option<&'a [u8]>, ImageError> {
    const HEADER: usize = size_of::<NoteHeader>();
    for (index, segment) in headers.iter().enumerate().filter(|(_, segment)| segment.kind == PT_NOTE) {
        let size = segment.file_size;
        if size < 12 {
            return Err(ImageError::ShortNote { index, size });
        }
        if size < HEADER as u64 {
            continue;
        }
        let head = &bytes[file_range(bytes, segment.offset, HEADER as u64)];
        let cut = |found, expected| ImageError::CutNote { index, found, expected };
        let header = NoteHeader::read_from_bytes(head).map_err(|_| cut(head.len(), HEADER))?;
        if header.name_size != 6 || !header.name.starts_with(NOTE_NAME) || header.kind != kind.kind {
            continue;
        }
        if !(1..=kind.size_max).contains(&header.size) {
            return Err(ImageError::NoteSize { index, size: header.size.into(), max: kind.size_max.into() });
        }
        let needed = HEADER as u64 + u64::from(header.size);
        if size < needed {
            return Err(ImageError::NoteOutside { index, size, needed });
        }
        let start = HEADER.next_multiple_of(kind.align);
        let len = needed.saturating_sub(start as u64);
        if len == 0 {
            return Err(ImageError::NoteSize { index, size: 0, max: header.size.into() });
        }
        let contents = &bytes[file_range(bytes, segment.offset.saturating_add(start as u64), len)];
        if contents.len() as u64 != len {
            return Err(cut(contents.len(), usize::try_from(len).unwrap_or(usize::MAX)));
        }
        return Ok(Some(contents));
    }
    Ok(None)
}

/// A unikernel of one page of code.
#[cfg(any(test, feature = "fuzzing"))]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) fn unikernel(code: &[u8], entries: &[(&str, u32)]) -> Vec<u8> {
    let mut manifest = vec![0; 4];
    manifest.extend(1_u32.to_le_bytes());
    manifest.extend((u32::try_from(entries.len()).unwrap() + 1).to_le_bytes());
    for (name, kind) in [("", 0x4000_0000)].iter().chain(entries) {
        let mut entry = [0; 104];
        entry[..name.len()].copy_from_slice(name.as_bytes());
        entry[68..72].copy_from_slice(&kind.to_le_bytes());
        manifest.extend(entry);
    }
    let abi = [1_u32, 2, 0, 0].map(u32::to_le_bytes).concat();
    let note = |kind: u32, contents: &[u8]| {
        let size = u32::try_from(contents.len()).unwrap();
        [&[6, size, kind].map(u32::to_le_bytes).concat(), &b"Solo5\0\0\0"[..], contents].concat()
    };
    let notes = [note(NOTE_ABI.kind, &abi), note(NOTE_MANIFEST.kind, &manifest)];
    let mut file = Vec::new();
    file.extend(IDENTITY);
    file.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    file.extend([GUEST_MIN, 64, 0].map(u64::to_le_bytes).concat());
    file.extend([0; 4]);
    file.extend([64_u16, 56, 3, 0, 0, 0].map(u16::to_le_bytes).concat());
    let mut at = 0x1000 + 0x1000_u64;
    let mut header = |kind: u32, flags: u32, offset: u64, address: u64, size: u64| {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        file.extend([offset, address, address, size, size, 0x1000].map(u64::to_le_bytes).concat());
    };
    header(PT_LOAD, EXECUTE, 0x1000, GUEST_MIN, code.len() as u64);
    for note in &notes {
        header(PT_NOTE, READ, at, 0, note.len() as u64);
        at += note.len() as u64;
    }
    file.resize(0x1000, 0);
    file.extend(code);
    file.resize(0x2000, 0);
    notes.iter().for_each(|note| file.extend(note));
    file
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Image, ImageError> {
        Image::parse(bytes.into(), Target::Hvt)
    }

    #[test]
    fn a_unikernel_is_read_with_its_devices() {
        let image = parse(&unikernel(&[0xf4], &[("storage", 1), ("service", 2)])).unwrap();
        let names: Vec<_> = image.manifest().entries().map(|(_, entry)| entry.name().to_owned()).collect();
        assert_eq!(names, ["storage", "service"]);
        let loaded = image.load(2 << 20).unwrap();
        assert_eq!((loaded.end, loaded.segments.len()), (GUEST_MIN + 0x1000, 1));
        assert_eq!(image.contents(&loaded.segments[0]), [0xf4]);
        assert_eq!(loaded.segments[0].access, Access { read: true, write: false, execute: true });
    }

    #[test]
    fn a_unikernel_has_63_devices_and_no_64() {
        let names: Vec<String> = (0..64).map(|number| format!("device{number}")).collect();
        let devices: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        assert_eq!(parse(&unikernel(&[0xf4], &devices[..63])).unwrap().manifest().entries().count(), 63);
        let error = parse(&unikernel(&[0xf4], &devices)).unwrap_err().to_string();
        assert!(error.contains("note does not fall within valid size"), "{error}");
    }

    /// Offsets of fields in what [`unikernel`] makes.
    const PROGRAM: usize = 64;
    const ABI: usize = 0x2000;
    const MANIFEST: usize = ABI + 36;

    #[test]
    fn what_is_wrong_with_a_file_is_said_in_its_tenders_words() {
        let good = unikernel(&[0xf4], &[("storage", 1)]);
        let put = |at: usize, bytes: &[u8]| {
            let mut file = good.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            let image = parse(&file);
            image.and_then(|image| image.load(2 << 20)).map(|_| ()).unwrap_err().to_string()
        };
        let wrong_header =
            "invalid executable: invalid or unsupported executable (elf header invalid while loading note)";
        for at in [0, 4, 5, 16, 18, 20, 52, 54] {
            assert_eq!(put(at, &[9]), wrong_header, "{at}");
        }
        assert_eq!(put(ABI, &[7]), "No Solo5 ABI information found in executable");
        assert_eq!(put(ABI + 20, &[2]), "Executable is not for the solo5-hvt target");
        assert_eq!(put(ABI + 24, &[1]), "Executable requests unsupported ABI version 1");
        assert_eq!(put(MANIFEST + 8, &[0]), "No Solo5 manifest found in executable");
        let too_long = put(MANIFEST + 4, &6669_u32.to_le_bytes());
        assert!(too_long.contains("note does not fall within valid size"), "{too_long}");
        assert_eq!(put(MANIFEST + 24, &[2]), "Solo5 manifest is invalid");
        assert_eq!(put(MANIFEST + 28, &[65]), "Solo5 manifest is invalid");
        assert_eq!(put(MANIFEST + 28, &[0]), "Solo5 manifest is invalid");
        // The first entry has a type of its own and no name, names end, and nothing is attached.
        for at in [32, 32 + 68, 32 + 67, 32 + 96, 136 + 67, 136 + 96] {
            assert_eq!(put(MANIFEST + at, &[1]), "Solo5 manifest is invalid", "{at}");
        }
        let entry = put(24, &(2_u64 << 20).to_le_bytes());
        assert!(entry.contains("e_entry does not fall within the memory allocation range"), "{entry}");
        for (at, value, what) in [
            (4, 3, "requests WRITE and EXEC permissions"),
            (16, 0xff000, "p_vaddr outside of valid memory range"),
            (16, 0x200000, "program file segment falls outside of valid range"),
            (40, 0, "program memory segment falls outside of valid range"),
            (40, u64::MAX, "program memory segment falls outside of valid range"),
            (40, 0x100001, "program memory segment falls outside of valid range"),
            (48, 3, "align_down with"),
            (48, 0x10, "not aligned with architectural page size"),
            (8, 0x10000, "host file segment mismatched"),
        ] {
            let size = if at == 4 { 4 } else { 8 };
            let text = put(PROGRAM + at, &value.to_le_bytes()[..size]);
            assert!(text.contains(what), "{at}: {text}");
        }
        assert_eq!(parse(&good[..63]).unwrap_err(), ImageError::Short { size: 63 });
        assert!(matches!(parse(&good[..200]).unwrap_err(), ImageError::ProgramHeaders { expected: 168, .. }));
    }

    proptest! {
        #[test]
        fn whatever_a_file_says_is_refused_or_lies_in_memory_without_overlap(
            changes in prop::collection::vec((0_usize..0x2000 + 36 + 24 + 8 + 208, any::<u8>()), 0..12),
            cut in 0_usize..0x3000,
            memory in 1_u64..64,
        ) {
            let mut file = unikernel(&[0xf4; 100], &[("storage", 1)]);
            for (at, byte) in changes {
                // Headers and notes; the page of code says nothing.
                let at = if (256..0x2000).contains(&at) { at % 256 } else { at };
                if let Some(there) = file.get_mut(at) { *there = byte; }
            }
            file.truncate(cut.max(64));
            let memory = memory << 20;
            let _ = target_of(&file);
            if let Ok(image) = parse(&file) && let Ok(loaded) = image.load(memory) {
                let mut end = GUEST_MIN;
                for segment in &loaded.segments {
                    prop_assert!(segment.pages.start >= end && segment.pages.end <= memory);
                    prop_assert!(segment.pages.start <= segment.start);
                    prop_assert!(segment.start + image.contents(segment).len() as u64 <= segment.pages.end);
                    prop_assert!(!(segment.access.write && segment.access.execute));
                    end = segment.pages.end;
                }
            }
        }
    }
}
