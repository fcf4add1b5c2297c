//! Core dumps of guests that give up: an ELF file with the registers and the memory of the machine, for gdb. Used by
//! `kernlet solo5-hvt --dumpcore`. The file is sparse: pages that hold nothing take no room.
//!
//! ```text
//! ELF header, two program headers
//! notes      registers as Linux gives them for a process, and the vector registers
//! memory     from address zero, at the next multiple of a page
//! ```
//!
//! Structures as in the System V ABI and Linux's `elf_prstatus`.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, Mode, OFlags, access, open, openat};
use zerocopy::{Immutable, IntoBytes};

use super::{
    image::{FileHeader, ProgramHeader},
    machine::{Halted, Machine, Trap},
};
use crate::{crash::Cause, processor::Registers};

/// Status of a guest that gave up.
pub(super) const ABORTED: i32 = 255;

const PAGE: usize = 4096;

/// Where cores go.
#[derive(Debug)]
pub struct CoreDump {
    folder: OwnedFd,
    path: PathBuf,
}

/// Why there will be none.
#[derive(Debug, thiserror::Error)]
pub enum CoreDumpError {
    /// It is no folder.
    #[error("dumpcore: cannot open dir")]
    Folder,
    /// Nothing can be made there.
    #[error("dumpcore: dir not writable")]
    ReadOnly,
}

/// A core that was written.
#[derive(Debug)]
pub struct Core {
    /// Pages that hold something.
    pub dumped: u64,
    /// Pages of the guest.
    pub total: u64,
}

/// `struct elf_prstatus`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Status {
    signal: [u32; 3],
    current_signal: u16,
    padding: [u16; 1],
    pending: [u64; 2],
    process: [u32; 4],
    times: [u64; 8],
    registers: [u64; 27],
    has_float: u32,
    end: u32,
}

const _: () = assert!(size_of::<Status>() == 336);

// Of notes: `NT_PRSTATUS`, `NT_FPREGSET`.
const STATUS: u32 = 1;
const FLOATS: u32 = 2;

impl CoreDump {
    /// Into this folder.
    ///
    /// # Errors
    /// No file can be made there.
    pub fn into_folder(path: &Path) -> Result<Self, CoreDumpError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(path, flags, Mode::empty()).map_err(|_| CoreDumpError::Folder)?;
        access(path, Access::WRITE_OK).map_err(|_| CoreDumpError::ReadOnly)?;
        Ok(Self { folder, path: path.to_owned() })
    }

    /// Makes the file of a process's guest, which must not be there yet; and its path.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(&self, process: u32) -> io::Result<(File, PathBuf)> {
        let name = format!("core.solo5-hvt.{process}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok((File::from(file), self.path.join(name)))
    }
}

impl Halted {
    /// Whether the guest gave up, rather than come to its end.
    #[must_use]
    pub fn gave_up(&self) -> bool {
        self.status == ABORTED
    }
}

impl Machine {
    /// Writes the core of a guest that has halted to an empty file.
    ///
    /// # Errors
    /// The file cannot be written, or KVM does not show the registers.
    pub fn dump_core(&mut self, halted: &Halted, file: &File) -> io::Result<Core> {
        let trap = self.trap(halted);
        let registers = self.processor.registers(&self.memory);
        let selectors = self.processor.other_registers().map_err(failed)?;
        let notes = [
            note(
                STATUS,
                status(&registers, selectors.selectors, self.processor.bases().map_err(failed)?, trap).as_bytes(),
            ),
            note(FLOATS, &self.processor.legacy_vectors().map_err(failed)?),
        ]
        .concat();
        let size = self.layout.memory;
        let headers = size_of::<FileHeader>() + 2 * size_of::<ProgramHeader>();
        let begin = (headers + notes.len()).next_multiple_of(PAGE) as u64;
        let header = |kind, flags, offset, size, align| ProgramHeader {
            kind,
            flags,
            offset,
            address: 0,
            physical: 0,
            file_size: size,
            memory_size: if kind == 1 { size } else { 0 },
            align,
        };
        let mut head = file_header().as_bytes().to_vec();
        head.extend(header(4, 0, headers as u64, notes.len() as u64, 4).as_bytes());
        head.extend(header(1, 7, begin, size, PAGE as u64).as_bytes());
        head.extend(notes);
        file.write_all_at(&head, 0)?;
        file.set_len(begin + size)?;
        let mut dumped = 0;
        let mut page = [0; PAGE];
        let mut at = 0;
        while let Some(data) = self.memory.next_data(at)?.filter(|data| data.start < size) {
            for offset in (data.start..data.end.min(size)).step_by(PAGE) {
                self.memory.peek(offset, &mut page)?;
                if page.iter().any(|byte| *byte != 0) {
                    file.write_all_at(&page, begin + offset)?;
                    dumped += 1;
                }
            }
            at = data.end;
        }
        Ok(Core { dumped, total: size / PAGE as u64 })
    }
}

fn failed(cause: Cause) -> io::Error {
    io::Error::other(cause)
}

fn file_header() -> FileHeader {
    FileHeader {
        // 64 bits, little-endian, version 1.
        identity: *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0",
        kind: 4,
        machine: 62,
        version: 1,
        entry: 0,
        program_headers: size_of::<FileHeader>() as u64,
        section_headers: 0,
        flags: 0,
        size: 64,
        program_header_size: 56,
        program_header_count: 2,
        section: [0; 3],
    }
}

/// A note of the name that a process's have.
fn note(kind: u32, contents: &[u8]) -> Vec<u8> {
    let size = u32::try_from(contents.len()).unwrap_or_default();
    let head = [5, size, kind].map(u32::to_le_bytes).concat();
    let mut note = [&head[..], b"CORE\0\0\0\0", contents].concat();
    note.resize(note.len().next_multiple_of(4), 0);
    note
}

/// The registers as Linux gives them, `struct user_regs_struct`. After a trap, those that the guest kept.
fn status(registers: &Registers, selectors: [u16; 6], bases: [u64; 2], trap: Option<Trap>) -> Status {
    let Registers { rip, rsp, rflags, rax, rbx, rcx, rdx, rsi, rdi, rbp, .. } = *registers;
    let Registers { r8, r9, r10, r11, r12, r13, r14, r15, .. } = *registers;
    let [cs, ss, ds, es, fs, gs] = selectors.map(u64::from);
    let (rip, cs, rflags, rsp, ss) =
        trap.map_or((rip, cs, rflags, rsp, ss), |trap| (trap.rip, trap.cs, trap.rflags, trap.rsp, trap.ss));
    let [fs_base, gs_base] = bases;
    let signal: u16 = if trap.is_some() { 11 } else { 6 };
    Status {
        signal: [signal.into(), 0, 0],
        current_signal: signal,
        process: [1, 0, 1, 1],
        registers: [
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            u64::MAX,
            rip,
            cs,
            rflags,
            rsp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        ],
        has_float: 1,
        ..Status::default()
    }
}
