//! Hand-made ELF files, well-formed unless told otherwise. Used by the tests and fuzz targets of the loader, and by
//! tests that need a guest of a few chosen instructions. Depends on the contract alone.
#![allow(dead_code, missing_docs, unreachable_pub, reason = "tests; each uses a part")]

use kernlet_abi::{
    ABI_VERSION,
    map::{IMAGE_BASE, PAGE_SIZE},
};

pub const PT_LOAD: u32 = 1;
pub const PT_DYNAMIC: u32 = 2;
pub const PT_INTERP: u32 = 3;
pub const PT_NOTE: u32 = 4;
pub const PT_TLS: u32 = 7;

pub const EXECUTE: u32 = 1;
pub const WRITE: u32 = 2;
pub const READ: u32 = 4;

/// Where [`Elf::with_code`] puts the code.
pub const CODE: u64 = IMAGE_BASE;
/// Where [`Elf::with_code`] puts a page of constants, all bytes 0x90 (`nop`).
pub const CONSTANTS: u64 = IMAGE_BASE + 0x10_000;
/// Where [`Elf::with_code`] puts four pages of data, zero besides what is given.
pub const DATA: u64 = IMAGE_BASE + 0x20_000;
pub const DATA_LEN: u64 = 4 * PAGE_SIZE;

const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

/// A program header and what it names in the file.
#[derive(Clone, Debug)]
pub struct Segment {
    pub kind: u32,
    pub flags: u32,
    pub address: u64,
    /// Its bytes, put somewhere in the file.
    pub data: Vec<u8>,
    /// Size in memory.
    pub memory: u64,
    pub align: u64,
    /// What the header says instead of where the bytes are.
    pub offset: Option<u64>,
    /// What the header says instead of how many bytes there are.
    pub file_size: Option<u64>,
}

impl Segment {
    pub fn new(kind: u32, flags: u32, address: u64, data: &[u8]) -> Self {
        let memory = data.len() as u64;
        Self { kind, flags, address, data: data.to_vec(), memory, align: 4, offset: None, file_size: None }
    }

    pub fn load(flags: u32, address: u64, data: &[u8], memory: u64) -> Self {
        Self { memory, ..Self::new(PT_LOAD, flags, address, data) }
    }
}

/// One entry of the symbol table: a function.
#[derive(Clone, Debug)]
pub struct Symbol {
    pub address: u64,
    pub size: u64,
    /// Offset of its name in [`Elf::names`].
    pub name: u32,
}

/// An ELF file under construction. Fields are what a test wants to be wrong.
#[derive(Clone, Debug)]
pub struct Elf {
    pub class: u8,
    pub byte_order: u8,
    pub kind: u16,
    pub machine: u16,
    pub entry: u64,
    pub segments: Vec<Segment>,
    /// What the header says instead of how many program headers there are.
    pub header_count: Option<u16>,
    pub symbols: Vec<Symbol>,
    /// The symbols' string table.
    pub names: Vec<u8>,
}

impl Elf {
    /// A static x86-64 executable without any segment.
    pub fn empty() -> Self {
        Self {
            class: 2,
            byte_order: 1,
            kind: 2,
            machine: 62,
            entry: CODE,
            segments: Vec::new(),
            header_count: None,
            symbols: Vec::new(),
            names: vec![0],
        }
    }

    /// A unikernel of this code, entered at its start, with constants and data.
    pub fn with_code(code: &[u8], data: &[u8]) -> Self {
        let segments = vec![
            abi_note(ABI_VERSION),
            Segment::load(READ | EXECUTE, CODE, code, code.len() as u64),
            Segment::load(READ, CONSTANTS, &[0x90; 4096], PAGE_SIZE),
            Segment::load(READ | WRITE, DATA, data, DATA_LEN),
        ];
        Self { segments, ..Self::empty() }
    }

    /// Names a function.
    pub fn symbol(mut self, name: &str, address: u64, size: u64) -> Self {
        self.symbols.push(Symbol { address, size, name: u32::try_from(self.names.len()).unwrap_or_default() });
        self.names.extend_from_slice(name.as_bytes());
        self.names.push(0);
        self
    }

    /// The file: header, program headers, what they name, symbols, section headers.
    pub fn build(&self) -> Vec<u8> {
        let headers_end = FILE_HEADER + self.segments.len() * PROGRAM_HEADER;
        let (mut headers, mut data) = (Vec::new(), Vec::new());
        for segment in &self.segments {
            let offset = (headers_end + data.len()) as u64;
            data.extend_from_slice(&segment.data);
            put(&mut headers, u64::from(segment.kind) | u64::from(segment.flags) << 32);
            for field in [
                segment.offset.unwrap_or(offset),
                segment.address,
                segment.address,
                segment.file_size.unwrap_or(segment.data.len() as u64),
                segment.memory,
                segment.align,
            ] {
                put(&mut headers, field);
            }
        }
        let symbols_start = headers_end + data.len();
        let mut symbols = vec![0; 24];
        for symbol in &self.symbols {
            // A global function in section 1.
            put(&mut symbols, u64::from(symbol.name) | 0x12 << 32 | 1 << 48);
            put(&mut symbols, symbol.address);
            put(&mut symbols, symbol.size);
        }
        let names_start = symbols_start + symbols.len();
        let sections_start = names_start + self.names.len();
        let mut file = self.file_header(sections_start as u64);
        file.extend([headers, data].concat());
        file.extend([symbols.as_slice(), &self.names, &[0; SECTION_HEADER]].concat());
        let sections = [(2_u64, symbols_start, symbols.len(), 2_u64, 24_u64), (3, names_start, self.names.len(), 0, 0)];
        for (kind, start, len, link, entry) in sections {
            for field in [kind << 32, 0, 0, start as u64, len as u64, link, 1, entry] {
                put(&mut file, field);
            }
        }
        file
    }

    fn file_header(&self, sections: u64) -> Vec<u8> {
        let mut header = vec![0x7f, b'E', b'L', b'F', self.class, self.byte_order, 1];
        header.resize(16, 0);
        put(&mut header, u64::from(self.kind) | u64::from(self.machine) << 16 | 1 << 32);
        put(&mut header, self.entry);
        put(&mut header, FILE_HEADER as u64);
        put(&mut header, sections);
        header.extend_from_slice(&[0; 4]);
        let count = self.header_count.unwrap_or(u16::try_from(self.segments.len()).unwrap_or(u16::MAX));
        for field in [64, 56, count, 64, 3, 0] {
            header.extend_from_slice(&field.to_le_bytes());
        }
        header
    }
}

/// The note that says for which version of the contract a unikernel was built.
pub fn abi_note(version: u32) -> Segment {
    let mut note = Vec::new();
    for word in [8, 4, 1] {
        note.extend_from_slice(&u32::to_le_bytes(word));
    }
    note.extend_from_slice(b"Kernlet\0");
    note.extend_from_slice(&version.to_le_bytes());
    Segment::new(PT_NOTE, READ, 0, &note)
}

fn put(to: &mut Vec<u8>, value: u64) {
    to.extend_from_slice(&value.to_le_bytes());
}
