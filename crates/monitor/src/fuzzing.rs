//! The parts of the monitor that hostile bytes reach, without a processor: guest memory with an image in it, calls,
//! responses, and page tables read back as a processor reads them. Used by property tests and fuzz targets only; it is
//! not built otherwise. Panics where a promise is broken.
#![allow(clippy::panic, clippy::unwrap_used, missing_docs, reason = "it is for tests")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::{
    Span,
    map::{BOOT_BASE, PAGE_SIZE, PAGE_TABLE_BASE, PAGE_TABLE_END, STACK_BASE, VECTORS_PAGE},
};
use kernlet_accel::Session;
use kvm_bindings::CpuId;

use crate::{
    Cause, Event, Frame, Level, LogSink, MachineConfig, Observer, Registers, Request, Response, Services, Unikernel,
    backtrace, exchange,
    guest::write_image,
    hypercall::{CallContext, Flow, GuestView},
    kvm,
    layout::Layout,
    memory::GuestMemory,
    saved::{self, LoadError, TemplateKey, forge},
    solo5,
    trace::Trace,
};

/// What the page tables say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub physical: u64,
    pub user: bool,
    pub write: bool,
    pub execute: bool,
}

/// The file of a Solo5 unikernel of one page of code, with these devices.
#[must_use]
pub fn solo5_unikernel(code: &[u8], devices: &[(&str, u32)]) -> Vec<u8> {
    crate::solo5::image::unikernel(code, devices)
}

/// A machine's memory as it is when the guest starts, without the machine.
#[derive(Debug)]
pub struct Sandbox {
    view: GuestView,
    unikernel: Unikernel,
    context: CallContext,
    response_limit: u64,
    /// The parts of memory that no guest can write, as they were at first.
    sealed: Vec<(u64, Vec<u8>)>,
}

/// Logs nothing.
#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _call_id: &str, _level: Level, _text: &str) {}
}

impl Observer for NoLog {
    fn event(&mut self, event: &Event) {
        assert!(!event.to_string().contains(char::is_control), "{event}");
    }
}

impl Sandbox {
    /// Lays out and fills the memory of a machine.
    ///
    /// # Errors
    /// As [`crate::Template::boot`], as far as no processor is concerned.
    pub fn new(unikernel: &Unikernel, config: &MachineConfig, accel: Arc<Session>) -> Result<Self, Cause> {
        let layout = Layout::new(unikernel, config)?;
        let size = layout.memory;
        let memory = GuestMemory::new(size).map_err(|source| Cause::Memory { size, source })?;
        write_image(&memory, &layout, unikernel, config)?;
        let services = Services { accel, log: Arc::new(NoLog) };
        let deadline = Instant::now() + Duration::from_secs(3600);
        let context = CallContext::new(services, deadline);
        let response_limit = config.response_limit;
        let (view, unikernel) = (GuestView { memory, layout }, unikernel.clone());
        let mut sandbox = Self { view, unikernel, context, response_limit, sealed: Vec::new() };
        sandbox.sealed = sandbox.unwritable().map(|span| (span.offset, sandbox.read_span(span))).collect();
        Ok(sandbox)
    }

    /// Ranges that the guest cannot write, other than the window, which is the host's to write, and room for page
    /// tables that none took.
    fn unwritable(&self) -> impl Iterator<Item = Span> {
        let layout = &self.view.layout;
        let is_free = |page: &u64| self.read(*page, PAGE_SIZE).iter().all(|byte| *byte == 0);
        let tables = (PAGE_TABLE_BASE..PAGE_TABLE_END).step_by(4096);
        let free = tables.into_iter().find(is_free).unwrap_or(PAGE_TABLE_END);
        let fixed = [0..free, BOOT_BASE..STACK_BASE];
        let constant = layout.areas.iter().filter(|area| !area.permission.write && area.pages.start >= STACK_BASE);
        let constant = constant.filter(|area| area.pages.start != layout.window.offset);
        let ranges = fixed.into_iter().chain(constant.map(|area| area.pages.clone()));
        ranges.map(|range| Span { offset: range.start, len: range.end - range.start })
    }

    /// What lies in the guest's memory there.
    #[must_use]
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        self.read_span(Span { offset, len })
    }

    fn read_span(&self, span: Span) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.view.memory.read_span(span, &mut bytes).unwrap();
        bytes
    }

    /// Whether the guest may read (or write) all of a range, as the monitor answers it.
    #[must_use]
    pub fn allows(&self, span: Span, write: bool) -> bool {
        self.view.layout.allows(span, write)
    }

    /// The heap, which the guest may write.
    #[must_use]
    pub fn heap(&self) -> Span {
        self.view.layout.heap
    }

    /// Writes as the guest does: where it may, and as much as fits there.
    pub fn place(&self, offset: u64, bytes: &[u8]) {
        let fits = |len: &usize| self.view.layout.allows(Span { offset, len: *len as u64 }, true);
        let len = if fits(&bytes.len()) { bytes.len() } else { (0..bytes.len()).rev().find(fits).unwrap_or(0) };
        if len > 0 {
            self.view.memory.write(offset, &bytes[..len]).unwrap();
        }
    }

    /// Makes the hypercall whose block is at `block`; the address of a response, when it hands one over.
    ///
    /// # Errors
    /// How the call ended the machine.
    pub fn call(&mut self, block: u32) -> Result<Option<u64>, Cause> {
        // Traced, since a trace reads the same hostile bytes.
        let mut trace = Trace::new(Box::new(NoLog));
        Ok(match trace.serve(&mut self.view, &mut self.context, u64::from(block))? {
            Flow::Continue => None,
            Flow::Wait { response } => Some(response),
        })
    }

    /// Reads the response whose head is at `head`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn response(&self, head: u64) -> Result<Response, Cause> {
        let mut response = Response::default();
        exchange::read_response(&self.view, head, self.response_limit, &mut response)?;
        Ok(response)
    }

    /// Lays a request into the window and gives the window's bytes.
    ///
    /// # Errors
    /// It does not fit.
    pub fn request(&self, request: &Request<'_>) -> Result<(u64, Vec<u8>), Cause> {
        exchange::write_request(&self.view, &mut Vec::new(), request, Duration::from_secs(1))?;
        let window = self.view.layout.window;
        Ok((window.offset, self.read_span(window)))
    }

    /// The frames of a guest with these registers.
    #[must_use]
    pub fn backtrace(&self, registers: &Registers) -> Vec<Frame> {
        backtrace::walk(&self.view, &self.unikernel, registers)
    }

    /// What the guest cannot write is as it was.
    ///
    /// # Panics
    /// When it is not.
    pub fn assert_sealed(&self) {
        for (offset, before) in &self.sealed {
            let now = self.read(*offset, before.len() as u64);
            assert!(now == *before, "memory from {offset:#x} that the guest cannot write has changed");
        }
    }

    /// What the page tables map an address to, as a processor walks them (Intel SDM volume 3A, section 4.5).
    #[must_use]
    pub fn walk(&self, address: u64) -> Option<Mapping> {
        let (mut table, mut user, mut write, mut execute) = (PAGE_TABLE_BASE, true, true, true);
        for shift in [39, 30, 21, 12] {
            assert!((PAGE_TABLE_BASE..PAGE_TABLE_END).contains(&table), "a page table at {table:#x}");
            let entry: u64 = self.view.memory.load(table + (address >> shift) % 512 * 8).unwrap();
            if entry & 1 == 0 {
                return None;
            }
            write &= entry & 1 << 1 != 0;
            user &= entry & 1 << 2 != 0;
            execute &= entry >> 63 == 0;
            let next = entry & 0x000f_ffff_ffff_f000;
            let size = 1_u64 << shift;
            if shift == 12 || entry & 1 << 7 != 0 {
                assert!(next.is_multiple_of(size), "a page of {size:#x} bytes at {next:#x}");
                return Some(Mapping { physical: next + address % size, user, write, execute });
            }
            table = next;
        }
        None
    }

    /// Page tables and layout say the same of every page, and what they say is safe.
    ///
    /// # Panics
    /// When it is not so.
    pub fn assert_mapped_as_laid_out(&self) {
        let layout = &self.view.layout;
        let supervisor = kvm::supervisor_areas();
        for page in (0..layout.memory).step_by(4096) {
            let mapping = self.walk(page);
            let span = Span { offset: page, len: PAGE_SIZE };
            let user = mapping.is_some_and(|mapping| mapping.user);
            assert_eq!(layout.allows(span, false), user, "reading {page:#x}: {mapping:?}");
            assert_eq!(layout.allows(span, true), user && mapping.unwrap().write, "writing {page:#x}: {mapping:?}");
            let system = supervisor.iter().any(|area| area.pages.contains(&page));
            assert_eq!(mapping.is_some() && !user, system, "the monitor's page {page:#x}: {mapping:?}");
            if let Some(mapping) = mapping {
                assert_eq!(mapping.physical, page, "memory is mapped one to one");
                assert!(!(mapping.write && mapping.execute), "{page:#x} is writable and executable");
            }
            let outside = page < BOOT_BASE || (VECTORS_PAGE + PAGE_SIZE..STACK_BASE).contains(&page);
            assert!(!(outside && user), "the guest has page {page:#x}: {mapping:?}");
        }
        for beyond in [layout.memory, layout.memory + (1 << 30), 1 << 32, 1 << 39, 1 << 47, u64::MAX - 4095] {
            assert_eq!(self.walk(beyond), None, "beyond memory");
        }
    }
}

/// What reads saved templates, without a processor to run them.
#[derive(Debug)]
pub struct TemplateReader {
    unikernel: Unikernel,
    config: MachineConfig,
    layout: Layout,
    key: TemplateKey,
    cpuid: CpuId,
}

impl TemplateReader {
    /// One for templates of this.
    ///
    /// # Errors
    /// It cannot be laid out.
    pub fn new(unikernel: &Unikernel, config: &MachineConfig, accel: &Session) -> Result<Self, Cause> {
        let layout = Layout::new(unikernel, config)?;
        let cpuid = CpuId::new(0).unwrap();
        let key = TemplateKey::of(Some(&cpuid), unikernel, config, accel, "");
        Ok(Self { unikernel: unikernel.clone(), config: config.clone(), layout, key, cpuid })
    }

    /// Gives bytes the head and the checksum that they need to be looked at further.
    pub fn repair(&self, bytes: &mut [u8]) {
        forge::repair(bytes, &self.key);
    }

    /// A file with these runs of pages (first, count), and registers of zeroes but for the flags.
    #[must_use]
    pub fn forge(&self, runs: &[(u64, u64)], pages: &[u8]) -> Vec<u8> {
        let registers = kvm::CpuState::first(&self.cpuid).encode();
        forge::file(&self.key, &registers, runs, pages)
    }

    /// Reads a file; what it gives holds what no guest can write as every machine has it, and writes the same file again.
    ///
    /// # Errors
    /// Why it is refused.
    ///
    /// # Panics
    /// When it is not so.
    pub fn read(&self, bytes: &[u8]) -> Result<(), LoadError> {
        let shape = saved::Native { layout: &self.layout, config: &self.config };
        let (memory, cpu) = saved::read(bytes, &self.key, &shape)?;
        let cpu = kvm::CpuState::decode(&cpu, &self.cpuid).map_err(saved::damaged)?;
        cpu.place(&memory)?;
        let memory = saved::freeze(memory)?;
        let untouched = GuestMemory::new(self.layout.memory).unwrap();
        write_image(&untouched, &self.layout, &self.unikernel, &self.config).unwrap();
        cpu.place(&untouched).unwrap();
        let window = self.layout.window.offset..self.layout.memory;
        for offset in (0..STACK_BASE).chain(window).step_by(4096) {
            let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
            memory.read(offset, &mut ours).unwrap();
            untouched.read(offset, &mut theirs).unwrap();
            assert!(ours == theirs, "the monitor's page at {offset:#x} came from the file");
        }
        assert_eq!(cpu.encode().len(), kvm::CpuState::ENCODED_LEN);
        Ok(())
    }
}

/// What reads saved templates of Solo5 machines, without a processor to run them.
#[derive(Debug)]
pub struct Solo5TemplateReader {
    shape: solo5::saved::Saved,
    key: TemplateKey,
}

impl Solo5TemplateReader {
    /// One for templates of a unikernel without network devices, with this much memory.
    ///
    /// # Errors
    /// It cannot be laid out.
    pub fn new(image: &solo5::Image, memory: u64, accel: &Session) -> Result<Self, Cause> {
        let shape = solo5::saved::Saved::new(image, memory)?;
        let config = MachineConfig { memory, request_limit: 4096, response_limit: 4096, environment: Vec::new() };
        let key = TemplateKey::of_solo5(Some(&CpuId::new(0).unwrap()), image, &config, accel, "");
        Ok(Self { shape, key })
    }

    /// Gives bytes the head and the checksum that they need to be looked at further.
    pub fn repair(&self, bytes: &mut [u8]) {
        forge::repair(bytes, &self.key);
    }

    /// A file with these runs of pages (first, count), and registers of zeroes but for the flags.
    #[must_use]
    pub fn forge(&self, runs: &[(u64, u64)], pages: &[u8]) -> Vec<u8> {
        forge::file(&self.key, &self.shape.first_cpu(), runs, pages)
    }

    /// Reads a file; in what it gives, everything that is the monitor's is as every machine has it.
    ///
    /// # Errors
    /// Why it is refused.
    ///
    /// # Panics
    /// When it is not so.
    pub fn read(&self, bytes: &[u8]) -> Result<(), LoadError> {
        let (memory, cpu) = self.shape.read(bytes, &self.key)?;
        let untouched = GuestMemory::new(memory.size()).unwrap();
        saved::Shape::write_own(&self.shape, &untouched).unwrap();
        let layout = &self.shape.layout;
        // Not what a guest was told at the start, where its clock's speed is the file's to say.
        for offset in (0..0x1_0000).chain(0x1_3000..0x10_0000).chain(layout.memory..memory.size()).step_by(4096) {
            let (mut ours, mut theirs) = ([0; 4096], [0; 4096]);
            memory.read(offset, &mut ours).unwrap();
            untouched.read(offset, &mut theirs).unwrap();
            assert!(ours == theirs, "the monitor's page at {offset:#x} came from the file");
        }
        assert_eq!(cpu.encode().len() + 8, self.shape.first_cpu().len());
        Ok(())
    }
}
