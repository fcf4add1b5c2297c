//! A machine: one VM, one vCPU, one function. Made and driven by the watchdog, always on one thread.
//! [`Machine`] is a machine that waits for a request; one that crashed does not exist any more, so it
//! cannot be used again.

use std::time::{Duration, Instant};

use kernlet_abi::{
    ABI_VERSION, Span,
    boot::{BOOT_MAGIC, BootPage},
    fields::{Fields, encode_lengths},
    hypercall::HYPERCALL_PORT,
    map::{BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE},
    message::{RESPONSE_HEADERS_MAX, RequestHead, ResponseHead},
};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use zerocopy::IntoBytes;

use crate::{
    arch::{self, FAULT_PORT, FaultFrame},
    crash::{Cause, CodeAddress, Crash, FaultAccess, kvm},
    deadline::Timer,
    elf::Unikernel,
    hypercall::{self, CallContext, Flow, GuestView},
    hypervisor::Hypervisor,
    layout::{Layout, LayoutError, MachineConfig},
    memory::GuestMemory,
    message::{Request, Response, Services, Usage},
    paging::{PageTables, Ring},
};

/// Alignment of a request's body in guest memory, so that numbers in it can be used in place.
const BODY_ALIGNMENT: u64 = 64;

/// A machine whose guest has initialised and waits for a request.
#[derive(Debug)]
pub struct Machine {
    timer: Timer,
    guest: Guest,
    /// Head of the request being written; kept for its allocation.
    head: Vec<u8>,
    response_limit: u64,
}

#[derive(Debug)]
struct Guest {
    // The vCPU and the VM go before the memory that they refer to.
    vcpu: VcpuFd,
    _vm: VmFd,
    view: GuestView,
    unikernel: Unikernel,
    context: CallContext,
    begun: Instant,
}

impl Machine {
    /// Makes a machine and runs the guest until it waits for its first request.
    ///
    /// # Errors
    /// The machine cannot be made, or the guest ended or overran `deadline` while it initialised.
    pub fn boot(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<Self, Box<Crash>> {
        let crash = |cause| Crash::new(cause, Usage::default());
        let guest = Guest::new(hypervisor, unikernel, config, services, deadline).map_err(crash)?;
        let mut machine =
            Self { timer: Timer::new(), guest, head: Vec::new(), response_limit: config.response_limit };
        match machine.run() {
            Ok(0) => Ok(machine),
            Ok(_) => Err(machine.crash(bad_response("it came before the first request"))),
            Err(cause) => Err(machine.crash(cause)),
        }
    }

    /// Lets the function answer a request. A machine that crashes is consumed.
    ///
    /// # Errors
    /// How the guest ended, or what is wrong with its response.
    pub fn invoke(mut self, request: &Request<'_>, deadline: Instant) -> Result<(Self, Response), Box<Crash>> {
        match self.try_invoke(request, deadline) {
            Ok(response) => Ok((self, response)),
            Err(cause) => Err(self.crash(cause)),
        }
    }

    fn try_invoke(&mut self, request: &Request<'_>, deadline: Instant) -> Result<Response, Cause> {
        self.guest.begin(request.call_id, deadline);
        self.write_request(request)?;
        let response = self.run()?;
        self.read_response(response)
    }

    fn run(&mut self) -> Result<u64, Cause> {
        let run: *mut kvm_bindings::kvm_run = self.guest.vcpu.get_kvm_run();
        let guest = &mut self.guest;
        self.timer.guard(guest.context.deadline, run, || guest.run())
    }

    fn crash(self, cause: Cause) -> Box<Crash> {
        Crash::new(cause, self.guest.usage())
    }

    fn write_request(&mut self, request: &Request<'_>) -> Result<(), Cause> {
        let window = self.guest.view.layout.window;
        let head = &mut self.head;
        head.clear();
        head.resize(size_of::<RequestHead>(), 0);
        let mut append = |bytes: &[u8]| {
            let span = Span { offset: window.offset + head.len() as u64, len: bytes.len() as u64 };
            head.extend_from_slice(bytes);
            span
        };
        let mut message = RequestHead {
            method: append(request.method.as_bytes()),
            path: append(request.path.as_bytes()),
            query: append(request.query.as_bytes()),
            call_id: append(request.call_id.as_bytes()),
            time_limit_ns: nanos(self.guest.context.deadline.saturating_duration_since(self.guest.begun)),
            ..RequestHead::default()
        };
        let headers = head.len() as u64;
        encode_headers(head, request.headers).ok_or_else(|| too_large(u64::MAX, window))?;
        message.headers = Span { offset: window.offset + headers, len: head.len() as u64 - headers };
        let body = (head.len() as u64).next_multiple_of(BODY_ALIGNMENT);
        message.body = Span { offset: window.offset + body, len: request.body.len() as u64 };
        let size = body + message.body.len;
        if size > window.len {
            return Err(too_large(size, window));
        }
        head[..size_of::<RequestHead>()].copy_from_slice(message.as_bytes());
        let memory = &self.guest.view.memory;
        let written = memory.write(window.offset, head).and_then(|()| memory.write(message.body.offset, request.body));
        written.map_err(|_| too_large(size, window))
    }

    fn read_response(&mut self, offset: u64) -> Result<Response, Cause> {
        if offset == 0 {
            return Err(bad_response("the function asked for the next request without answering this one"));
        }
        let view = &self.guest.view;
        let head: ResponseHead = view.load("a response", offset, false)?;
        let status = u16::try_from(head.status).ok().filter(|status| (200..=599).contains(status));
        let status = status.ok_or_else(|| bad_response(format!("status {} is not from 200 to 599", head.status)))?;
        if head.headers.len > RESPONSE_HEADERS_MAX {
            let why = format!("its headers take {} bytes, the most is {RESPONSE_HEADERS_MAX}", head.headers.len);
            return Err(bad_response(why));
        }
        if head.body.len > self.response_limit {
            return Err(Cause::ResponseTooLarge { size: head.body.len, limit: self.response_limit });
        }
        let headers = decode_headers(&view.read("a response's headers", head.headers)?)?;
        let body = view.read("a response's body", head.body)?;
        Ok(Response { status, headers, body, usage: self.guest.usage() })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn too_large(size: u64, window: Span) -> Cause {
    Cause::RequestTooLarge { size, window: window.len }
}

fn bad_response(why: impl Into<String>) -> Cause {
    Cause::BadResponse { why: why.into() }
}

fn encode_headers(to: &mut Vec<u8>, headers: &[(&str, &[u8])]) -> Option<()> {
    for (name, value) in headers {
        to.extend_from_slice(&encode_lengths(name.len(), value.len())?);
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(value);
    }
    Some(())
}

/// Reads the headers of a response, which a hostile guest may have written.
fn decode_headers(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Cause> {
    Fields::new(bytes)
        .map(|field| {
            let (name, value) = field.map_err(|error| bad_response(error.to_string()))?;
            let name = std::str::from_utf8(name).map_err(|_| bad_response("a header's name is not UTF-8"))?;
            Ok((name.to_owned(), value.to_vec()))
        })
        .collect()
}

impl Guest {
    fn new(
        hypervisor: &Hypervisor,
        unikernel: &Unikernel,
        config: &MachineConfig,
        services: Services,
        deadline: Instant,
    ) -> Result<Self, Cause> {
        let layout = Layout::new(unikernel, config)?;
        let size = layout.memory;
        let memory = GuestMemory::new(size).map_err(|source| Cause::Memory { size, source })?;
        write_image(&memory, &layout, unikernel, config)?;
        let vm = hypervisor.create_vm()?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: size,
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the region is the whole mapping of `memory`, which lives until after the VM (field order of
        // `Guest`); the host looks at it only through volatile copies or with the vCPU stopped (`borrow`).
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm("give the machine its memory"))?;
        let vcpu = vm.create_vcpu(0).map_err(kvm("create a processor"))?;
        arch::set_up_vcpu(&vcpu, hypervisor.cpuid(), unikernel.entry())?;
        let context =
            CallContext { services, usage: Usage::default(), call_id: String::new(), deadline, started: None };
        let view = GuestView { memory, layout };
        Ok(Self { vcpu, _vm: vm, view, unikernel: unikernel.clone(), context, begun: Instant::now() })
    }

    fn begin(&mut self, call_id: &str, deadline: Instant) {
        self.begun = Instant::now();
        self.context.started.get_or_insert(self.begun);
        self.context.deadline = deadline;
        self.context.usage = Usage::default();
        self.context.call_id.clear();
        self.context.call_id.push_str(call_id);
    }

    fn usage(&self) -> Usage {
        Usage { wall: self.begun.elapsed(), ..self.context.usage }
    }

    /// Runs until the guest waits for a request; the address of its response, zero for none.
    fn run(&mut self) -> Result<u64, Cause> {
        loop {
            self.context.usage.exits += 1;
            let block = match self.vcpu.run() {
                Ok(VcpuExit::IoOut(HYPERCALL_PORT, data)) => match data.first_chunk::<4>() {
                    Some(block) if data.len() == 4 => u32::from_le_bytes(*block),
                    _ => return Err(Cause::ForbiddenPort { port: HYPERCALL_PORT }),
                },
                Ok(VcpuExit::IoOut(FAULT_PORT, _)) => self.fault()?,
                Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) => return Err(Cause::ForbiddenPort { port }),
                Ok(VcpuExit::MmioRead(address, _) | VcpuExit::MmioWrite(address, _)) => {
                    return Err(Cause::OutsideMemory { address });
                }
                Ok(VcpuExit::Shutdown) => return Err(Cause::Shutdown),
                Ok(exit) => {
                    let detail = format!("{exit:?}");
                    return Err(Cause::Stuck { at: self.code_address(), detail });
                }
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                    self.interrupted()?;
                    continue;
                }
                Err(error) => return Err(kvm("run the processor")(error)),
            };
            match hypercall::serve(&mut self.view, &mut self.context, u64::from(block))? {
                Flow::Continue => {}
                Flow::Wait { response } => return Ok(response),
            }
        }
    }

    /// A signal came: the deadline's kick, or one that has nothing to do with it.
    fn interrupted(&mut self) -> Result<(), Cause> {
        self.vcpu.set_kvm_immediate_exit(0);
        if Instant::now() < self.context.deadline {
            return Ok(());
        }
        let limit = self.context.deadline.saturating_duration_since(self.begun);
        Err(Cause::Timeout { limit, at: self.code_address() })
    }

    fn code_address(&self) -> CodeAddress {
        let rip = self.vcpu.get_regs().map(|regs| regs.rip).unwrap_or_default();
        CodeAddress::new(rip, &self.unikernel)
    }

    /// A fault stub reported an exception: its cause, or the argument block of a refused hypercall.
    fn fault(&mut self) -> Result<u32, Cause> {
        let regs = self.vcpu.get_regs().map_err(kvm("read the processor's registers"))?;
        if !arch::is_in_fault_stub(&regs) {
            return Err(Cause::ForbiddenPort { port: FAULT_PORT });
        }
        let frame = FaultFrame::read(&self.view.memory).map_err(|_| Cause::Shutdown)?;
        if frame.is_refused_hypercall() {
            frame.resume_after_hypercall(&self.vcpu, regs)?;
            #[allow(clippy::cast_possible_truncation, reason = "the call's argument is eax")]
            return Ok(regs.rax as u32);
        }
        let at = CodeAddress::new(frame.rip, &self.unikernel);
        let vector = u8::try_from(frame.vector).unwrap_or(u8::MAX);
        if vector != arch::PAGE_FAULT {
            let name = arch::exception_name(vector);
            return Err(Cause::Exception { name, vector, error_code: frame.error_code, at });
        }
        let address = self.vcpu.get_sregs().map_err(kvm("read the processor's state"))?.cr2;
        let access = match frame.error_code {
            code if code & arch::PAGE_FAULT_FETCH != 0 => FaultAccess::Execute,
            code if code & arch::PAGE_FAULT_WRITE != 0 => FaultAccess::Write,
            _ => FaultAccess::Read,
        };
        Err(Cause::PageFault { access, address, region: self.view.layout.describe(address), at })
    }
}

/// Fills a new machine's memory: page tables, descriptor tables, boot page, the image's segments.
fn write_image(
    memory: &GuestMemory,
    layout: &Layout,
    unikernel: &Unikernel,
    config: &MachineConfig,
) -> Result<(), Cause> {
    let outside = |_| Cause::Layout(LayoutError::MemorySize { memory: layout.memory });
    let mut tables = PageTables::new(memory);
    for area in arch::supervisor_areas() {
        tables.map(&area, Ring::Supervisor)?;
    }
    for area in &layout.areas {
        tables.map(area, Ring::User)?;
    }
    arch::write_tables(memory).map_err(outside)?;
    write_boot_page(memory, layout, config)?;
    for segment in unikernel.segments() {
        memory.write(segment.memory.start, unikernel.contents(segment)).map_err(outside)?;
    }
    Ok(())
}

fn write_boot_page(memory: &GuestMemory, layout: &Layout, config: &MachineConfig) -> Result<(), Cause> {
    let mut environment = Vec::new();
    for (name, value) in &config.environment {
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            environment.extend_from_slice(part);
        }
    }
    let offset = BOOT_BASE + size_of::<BootPage>() as u64;
    let max = BOOT_SIZE - size_of::<BootPage>() as u64;
    if environment.len() as u64 > max {
        return Err(LayoutError::Environment { size: environment.len(), max }.into());
    }
    let page = BootPage {
        magic: BOOT_MAGIC,
        abi_version: ABI_VERSION,
        size: BootPage::SIZE,
        hypercall_entry: HYPERCALL_PAGE,
        memory_size: layout.memory,
        heap: layout.heap,
        request_window: layout.window,
        response_limit: config.response_limit,
        environment: Span { offset, len: environment.len() as u64 },
    };
    let written = memory.store(BOOT_BASE, &page).and_then(|()| memory.write(offset, &environment));
    written.map_err(|_| LayoutError::MemorySize { memory: layout.memory }.into())
}
