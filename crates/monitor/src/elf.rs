//! Reads a unikernel: a static x86-64 ELF executable linked for the guest's memory map. Called once per
//! function, on bytes that a stranger wrote. Never copies anything to where it could run.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use elf::{
    ElfBytes,
    abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_NOTE, PT_TLS, SHT_SYMTAB, STT_FUNC},
    endian::LittleEndian,
    file::Class,
    note::Note,
    segment::ProgramHeader,
};
use kernlet_abi::{
    ABI_NOTE_NAME, ABI_NOTE_TYPE, ABI_VERSION,
    map::{IMAGE_BASE, MEMORY_MAX, PAGE_SIZE},
};
use sha2::{Digest as _, Sha256};

/// Most program headers; a linked guest has four. Each may name the whole file, so that their number bounds
/// the time that reading them takes.
const HEADERS_MAX: usize = 32;

/// Most function symbols kept for crash reports.
const SYMBOLS_MAX: usize = 1 << 16;

/// Longest name of a function that is looked at and shown, in bytes.
const NAME_MAX: usize = 512;

/// A unikernel that can be loaded: every segment checked against the memory map. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Unikernel {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    bytes: Arc<[u8]>,
    segments: Vec<Segment>,
    entry: u64,
    end: u64,
    /// Read when the first crash is reported: a machine needs none.
    symbols: OnceLock<Vec<Symbol>>,
}

/// A loadable segment; ranges are page-disjoint and ascending.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Index of its program header.
    index: usize,
    /// Guest addresses that it fills, not rounded.
    pub(crate) memory: Range<u64>,
    /// Bytes of the file that go to its start; the rest is zero.
    file: Range<usize>,
    /// Whether the guest may write it.
    pub(crate) write: bool,
    /// Whether the guest may execute it.
    pub(crate) execute: bool,
}

impl Segment {
    /// Guest addresses of the pages that it touches.
    pub(crate) fn pages(&self) -> Range<u64> {
        page_down(self.memory.start)..page_up(self.memory.end)
    }
}

#[derive(Debug)]
struct Symbol {
    address: u64,
    size: u64,
    /// Bytes of the file that hold its name; more than that where no zero byte ends it.
    name: Range<usize>,
}

const fn page_down(address: u64) -> u64 {
    address & !(PAGE_SIZE - 1)
}

const fn page_up(address: u64) -> u64 {
    page_down(address + PAGE_SIZE - 1)
}

/// Why a file is not a unikernel that can run here.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum ElfError {
    #[error("the file is not an ELF executable; build the function with `kernlet build`")]
    NotElf(#[source] elf::ParseError),
    #[error("the ELF file is damaged")]
    Damaged(#[source] elf::ParseError),
    #[error("the ELF file is a 32-bit one, not 64-bit; build the function for x86-64")]
    WrongClass,
    #[error("the ELF file is for machine {machine}, not x86-64 (62)")]
    WrongMachine { machine: u16 },
    #[error("the ELF file is not a static executable (its type is {kind}, not 2); link it with -static -no-pie")]
    NotStatic { kind: u16 },
    #[error("the ELF file needs {what}, which a unikernel cannot have; use the guest library's build script")]
    Unsupported { what: &'static str },
    #[error("the ELF file has nothing to load")]
    Empty,
    #[error("the ELF file has {count} program headers; the most is {HEADERS_MAX}")]
    TooManySegments { count: usize },
    #[error(
        "segment {index} ({start:#x}, {len} bytes) lies outside {IMAGE_BASE:#x} to {MEMORY_MAX:#x}, where an image can be"
    )]
    OutsideMemory { index: usize, start: u64, len: u64 },
    #[error("segment {index} has {file} bytes in the file but only {memory} in memory")]
    LargerInFile { index: usize, file: u64, memory: u64 },
    #[error("segment {index} lies outside the file")]
    OutsideFile { index: usize },
    #[error("segments {first} and {second} overlap, or share a page")]
    Overlap { first: usize, second: usize },
    #[error("segment {index} is writable and executable; a page can be one of the two")]
    WritableCode { index: usize },
    #[error("the entry point {entry:#x} is not in an executable segment")]
    BadEntry { entry: u64 },
    #[error("the file says nothing of the guest interface it was built for; link the kernlet-guest library")]
    NoAbiNote,
    #[error(
        "the unikernel was built for version {found} of the guest interface, this is version {ABI_VERSION}; rebuild it"
    )]
    WrongAbi { found: u32 },
}

impl Unikernel {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// What is wrong with the file, where, and what to do about it.
    pub fn parse(bytes: &[u8]) -> Result<Self, ElfError> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(ElfError::NotElf)?;
        if file.ehdr.class != Class::ELF64 {
            return Err(ElfError::WrongClass);
        }
        if file.ehdr.e_machine != EM_X86_64 {
            return Err(ElfError::WrongMachine { machine: file.ehdr.e_machine });
        }
        if file.ehdr.e_type != ET_EXEC {
            return Err(ElfError::NotStatic { kind: file.ehdr.e_type });
        }
        let table = file.segments().ok_or(ElfError::Empty)?;
        if table.len() > HEADERS_MAX {
            return Err(ElfError::TooManySegments { count: table.len() });
        }
        let mut segments = Vec::new();
        let mut abi = None;
        for (index, header) in table.iter().enumerate() {
            match header.p_type {
                PT_INTERP => return Err(ElfError::Unsupported { what: "an interpreter" }),
                PT_DYNAMIC => return Err(ElfError::Unsupported { what: "dynamic linking" }),
                PT_TLS if header.p_memsz > 0 => {
                    return Err(ElfError::Unsupported { what: "thread-local storage" });
                }
                PT_LOAD if header.p_memsz > 0 => segments.push(segment(index, &header, bytes.len())?),
                PT_NOTE => abi = abi.or(abi_note(&file, &header)?),
                _ => {}
            }
        }
        segments.sort_by_key(|segment| segment.memory.start);
        for pair in segments.windows(2) {
            if pair[0].pages().end > pair[1].pages().start {
                return Err(ElfError::Overlap { first: pair[0].index, second: pair[1].index });
            }
        }
        let end = segments.last().ok_or(ElfError::Empty)?.pages().end;
        let entry = file.ehdr.e_entry;
        if !segments.iter().any(|segment| segment.execute && segment.memory.contains(&entry)) {
            return Err(ElfError::BadEntry { entry });
        }
        match abi {
            None => return Err(ElfError::NoAbiNote),
            Some(ABI_VERSION) => {}
            Some(found) => return Err(ElfError::WrongAbi { found }),
        }
        let (bytes, symbols) = (bytes.into(), OnceLock::new());
        Ok(Self { inner: Arc::new(Inner { bytes, segments, entry, end, symbols }) })
    }

    /// One page of code at [`IMAGE_BASE`], for probes.
    pub(crate) fn from_code(code: &[u8]) -> Self {
        let end = IMAGE_BASE + PAGE_SIZE;
        let file = 0..code.len().min(4096);
        let segment = Segment { index: 0, memory: IMAGE_BASE..end, file, write: false, execute: true };
        let (bytes, segments, symbols) = (code.into(), vec![segment], OnceLock::from(Vec::new()));
        Self { inner: Arc::new(Inner { bytes, segments, entry: IMAGE_BASE, end, symbols }) }
    }

    /// A file of another machine type's, of which only the names of functions are asked for.
    pub(crate) fn of_symbols(bytes: Arc<[u8]>) -> Self {
        let (segments, symbols) = (Vec::new(), OnceLock::new());
        Self { inner: Arc::new(Inner { bytes, segments, entry: 0, end: 0, symbols }) }
    }

    /// Address of the first instruction.
    #[must_use]
    pub fn entry(&self) -> u64 {
        self.inner.entry
    }

    /// First address after the last segment, page-aligned.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.inner.end
    }

    /// SHA-256 of the file.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(&self.inner.bytes).into()
    }

    pub(crate) fn segments(&self) -> &[Segment] {
        &self.inner.segments
    }

    pub(crate) fn contents(&self, segment: &Segment) -> &[u8] {
        self.inner.bytes.get(segment.file.clone()).unwrap_or_default()
    }

    /// The function that holds `address`: its demangled name, and the offset of `address` in it.
    #[must_use]
    pub fn symbol(&self, address: u64) -> Option<(String, u64)> {
        let symbols = self.inner.symbols.get_or_init(|| symbols(&self.inner.bytes));
        let after = symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = symbols.get(after.checked_sub(1)?)?;
        let offset = address - symbol.address;
        (offset < symbol.size.max(1)).then(|| (self.name(symbol), offset))
    }

    /// A symbol's name for people. The file may hold anything there: it is cut before and after demangling, since
    /// a name can demangle to one a thousand times as long, and nothing of it steers a terminal.
    fn name(&self, symbol: &Symbol) -> String {
        let bytes = self.inner.bytes.get(symbol.name.clone()).unwrap_or_default();
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let name = format!("{:#}", rustc_demangle::demangle(&String::from_utf8_lossy(bytes)));
        name.chars().take(NAME_MAX).map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
    }
}

fn segment(index: usize, header: &ProgramHeader, file_len: usize) -> Result<Segment, ElfError> {
    let (start, len) = (header.p_vaddr, header.p_memsz);
    let end = start.checked_add(len).filter(|end| start >= IMAGE_BASE && *end <= MEMORY_MAX);
    let end = end.ok_or(ElfError::OutsideMemory { index, start, len })?;
    if header.p_filesz > len {
        return Err(ElfError::LargerInFile { index, file: header.p_filesz, memory: len });
    }
    let file_end = header.p_offset.checked_add(header.p_filesz);
    let file = usize::try_from(header.p_offset).ok().zip(file_end.and_then(|end| usize::try_from(end).ok()));
    let (file_start, file_end) = file.filter(|(_, end)| *end <= file_len).ok_or(ElfError::OutsideFile { index })?;
    let (write, execute) = (header.p_flags & PF_W != 0, header.p_flags & PF_X != 0);
    if write && execute {
        return Err(ElfError::WritableCode { index });
    }
    Ok(Segment { index, memory: start..end, file: file_start..file_end, write, execute })
}

fn abi_note(file: &ElfBytes<'_, LittleEndian>, header: &ProgramHeader) -> Result<Option<u32>, ElfError> {
    let notes = file.segment_data_as_notes(header).map_err(ElfError::Damaged)?;
    for note in notes {
        if let Note::Unknown(note) = note
            && note.n_type == u64::from(ABI_NOTE_TYPE)
            && note.name.strip_suffix(b"\0").unwrap_or(note.name) == ABI_NOTE_NAME.as_bytes()
            && let Some(version) = note.desc.first_chunk::<4>()
        {
            return Ok(Some(u32::from_le_bytes(*version)));
        }
    }
    Ok(None)
}

/// Function symbols by address; a file without them, or with damaged ones, only loses names in reports.
fn symbols(bytes: &[u8]) -> Vec<Symbol> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).ok();
    let mut symbols = file.and_then(|file| symbol_table(&file)).unwrap_or_default();
    symbols.sort_by_key(|symbol| symbol.address);
    symbols
}

/// Notes where names lie and reads none: a hostile table can have a million of them, each as long as the file.
fn symbol_table(file: &ElfBytes<'_, LittleEndian>) -> Option<Vec<Symbol>> {
    let (table, _) = file.symbol_table().ok()??;
    let sections = file.section_headers()?;
    let header = sections.iter().find(|section| section.sh_type == SHT_SYMTAB)?;
    let names = sections.get(usize::try_from(header.sh_link).ok()?).ok()?;
    let names_start = usize::try_from(names.sh_offset).ok()?;
    let names_end = names_start.checked_add(usize::try_from(names.sh_size).ok()?)?;
    let functions = table.iter().filter(|symbol| symbol.st_symtype() == STT_FUNC);
    let symbols = functions.filter_map(|symbol| {
        let start = names_start.checked_add(usize::try_from(symbol.st_name).ok()?)?;
        let name = start..names_end.min(start.saturating_add(NAME_MAX));
        (!name.is_empty()).then_some(Symbol { address: symbol.st_value, size: symbol.st_size, name })
    });
    Some(symbols.take(SYMBOLS_MAX).collect())
}
