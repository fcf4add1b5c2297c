//! The guest inside a machine: its processor and memory, and the loop that runs it from one exit to the next.
//! Used by machines and templates. It knows hypercalls and faults, but nothing of requests.

use std::{ops::Range, time::Instant};

use kernlet_abi::{
    ABI_VERSION, Span,
    boot::{BOOT_MAGIC, BootPage},
    map::{BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE},
};
use kvm_bindings::kvm_fpu;

use crate::{
    backtrace,
    crash::{Cause, CodeAddress, Crash, FaultAccess},
    deadline::Timer,
    debugger::{self, BREAKPOINT_CODE, Debuggee, Debugger, Stub, StubOf, Verdict},
    elf::Unikernel,
    hypercall::{self, CallContext, Flow, GuestView},
    hypervisor::Hypervisor,
    kvm::{self, OtherRegisters, Step},
    layout::{Layout, LayoutError, MachineConfig},
    limits::Limits,
    memory::{FrozenMemory, GuestMemory},
    message::{Request, Services, Usage},
    processor::{CpuState, Exit, Fault, Processor, Registers},
    report::{FaultDetail, Report, RequestSummary},
    template::{Template, Watchers},
    trace::Trace,
};

/// A guest between two runs.
#[derive(Debug)]
pub(crate) struct Guest {
    // The processor goes before the memory that it refers to.
    pub(crate) processor: Processor,
    pub(crate) view: GuestView,
    unikernel: Unikernel,
    pub(crate) context: CallContext,
    pub(crate) begun: Instant,
    /// Bytes of the request window that hold something.
    pub(crate) window_used: u64,
    /// The fault that ended it.
    fault: Option<Fault>,
    /// Whoever watches it.
    pub(crate) trace: Option<Box<Trace>>,
    /// Whoever debugs it.
    pub(crate) debugger: Option<Box<Debugger>>,
}

impl Guest {
    /// A guest before its first instruction, in memory of its own.
    pub(crate) fn boot(
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
        let processor = Processor::boot(hypervisor, &memory, &layout, unikernel.entry())?;
        let context = CallContext::new(services, deadline);
        Ok(Self::new(processor, GuestView { memory, layout }, unikernel, context))
    }

    /// A guest that stands where its template was taken.
    pub(crate) fn from_template(
        hypervisor: &Hypervisor,
        template: &Template,
        services: Services,
    ) -> Result<Self, Cause> {
        let layout = template.layout().clone();
        let (processor, memory) = Processor::from_template(hypervisor, &layout, template.memory(), template.cpu())?;
        let view = GuestView { memory, layout };
        let context = CallContext::new(services, Instant::now());
        Ok(Self::new(processor, view, template.unikernel(), context))
    }

    fn new(processor: Processor, view: GuestView, unikernel: &Unikernel, context: CallContext) -> Self {
        let (unikernel, begun) = (unikernel.clone(), Instant::now());
        Self { processor, view, unikernel, context, begun, window_used: 0, fault: None, trace: None, debugger: None }
    }

    pub(crate) fn watch(&mut self, watchers: Watchers) {
        self.trace = watchers.observer.map(|observer| Box::new(Trace::new(observer)));
        self.debugger = watchers.debugger;
    }

    pub(crate) fn into_watchers(self) -> Watchers {
        Watchers { observer: self.trace.map(|trace| trace.into_observer()), debugger: self.debugger }
    }

    /// Freezes the guest, which waits for its first request, as a template; it goes on as a view of it.
    pub(crate) fn freeze(&mut self) -> Result<(FrozenMemory, CpuState), Cause> {
        self.processor.freeze(&mut self.view.memory)
    }

    /// Makes the guest equal to its template.
    pub(crate) fn rewind(&mut self, template: &Template) -> Result<(), Cause> {
        let GuestView { memory, layout } = &mut self.view;
        let zeroed = memory.zero_unmarked(layout.window.offset, self.window_used);
        zeroed.map_err(|_| LayoutError::MemorySize { memory: layout.memory })?;
        self.window_used = 0;
        self.context.started = None;
        self.processor.rewind(memory, template.memory(), template.cpu())
    }

    /// What of the guest differs from its template, if anything does.
    pub(crate) fn first_difference(&mut self, template: &Template) -> Result<Option<String>, Cause> {
        let registers = self.processor.first_difference(&mut self.view.memory, template.cpu())?;
        let memory = self.view.memory.first_difference(template.memory());
        let memory = memory.map_err(|_| LayoutError::MemorySize { memory: self.view.layout.memory })?;
        Ok(memory.map(|address| format!("memory at {address:#x}")).or_else(|| registers.map(str::to_owned)))
    }

    /// Runs on this thread until the guest waits for a request or its deadline is over.
    pub(crate) fn run_guarded(&mut self, timer: &Timer) -> Result<u64, Cause> {
        let kick = self.processor.kick();
        if self.debugger.is_none() {
            return timer.guard(self.context.deadline, kick, || self.run(timer));
        }
        debugger::enter(self)?;
        // A deadline that is over: the kicks that come of it are when the debugger's connection is looked at.
        let ended = timer.guard(self.begun, kick, || self.run(timer));
        debugger::leave(self)?;
        ended
    }

    /// Begins an invocation.
    pub(crate) fn begin(&mut self, call_id: &str, deadline: Instant) {
        self.begun = Instant::now();
        self.context.started.get_or_insert(self.begun);
        self.context.deadline = deadline;
        self.context.usage = Usage::default();
        self.context.last_lines.clear();
        self.context.call_id.clear();
        self.context.call_id.push_str(call_id);
    }

    /// What the invocation took so far.
    pub(crate) fn usage(&mut self) -> Usage {
        let pages = u32::try_from(self.processor.dirty_pages(&mut self.view.memory)).unwrap_or(u32::MAX);
        Usage { wall: self.begun.elapsed(), pages, ..self.context.usage }
    }

    /// Runs until the guest waits for a request; the address of its response, zero for none.
    fn run(&mut self, timer: &Timer) -> Result<u64, Cause> {
        loop {
            match self.run_once(timer)? {
                Exit::Hypercall { block } => {
                    let (view, context, block) = (&mut self.view, &mut self.context, u64::from(block));
                    let served = match &mut self.trace {
                        None => hypercall::serve(view, context, block),
                        Some(trace) => trace.serve(view, context, block),
                    };
                    if served.is_err() {
                        debugger::dying(self)?;
                    }
                    let flow = served?;
                    if let Flow::Wait { response } = flow {
                        return Ok(response);
                    }
                }
                Exit::Fault(fault) => {
                    if self.debugger.is_some() && debugger::fault(self, &fault)? == Verdict::Resume {
                        continue;
                    }
                    self.fault = Some(fault);
                    return Err(self.name(fault));
                }
                Exit::Interrupted => self.interrupted()?,
                Exit::Again => {}
                Exit::Unknown { detail } => return Err(Cause::Stuck { at: self.code_address(), detail }),
            }
        }
    }

    /// Runs the guest until it stops, and counts what it took.
    fn run_once(&mut self, timer: &Timer) -> Result<Exit, Cause> {
        let CallContext { limits, usage, deadline, .. } = &mut self.context;
        usage.paused += limits.pause(*deadline);
        let run = Limits::enter(usage.cpu, || self.processor.clock());
        // A debugger is looked at whenever there is a kick.
        if self.debugger.is_none() {
            timer.kick_at(limits.look_at(run, usage.cpu, *deadline));
        }
        let exit = self.processor.run(&mut self.view.memory);
        let interrupted = matches!(exit, Ok(Exit::Interrupted));
        usage.cpu += limits.leave(run, interrupted, || self.processor.clock());
        usage.exits += u32::from(!interrupted);
        match limits.cpu_exceeded(usage.cpu) {
            Some(limit) => Err(Cause::CpuTime { limit, at: self.code_address() }),
            None => exit,
        }
    }

    /// Whether the deadline is over.
    fn interrupted(&mut self) -> Result<(), Cause> {
        if self.debugger.is_some() {
            debugger::poll(self)?;
        }
        if Instant::now() < self.context.deadline {
            return Ok(());
        }
        let limit = self.context.deadline.saturating_duration_since(self.begun);
        Err(Cause::Timeout { limit, paused: self.context.usage.paused, at: self.code_address() })
    }

    /// The end of the guest, for those who wrote it and those who watch it.
    pub(crate) fn crash(&mut self, cause: Cause, request: Option<&Request<'_>>) -> Box<Crash> {
        if let Some(trace) = &mut self.trace {
            trace.end(&cause);
        }
        debugger::end(self, None);
        // Who killed it has seen it.
        let report = if matches!(cause, Cause::Killed) { None } else { self.report(request) };
        Crash::with_report(cause, self.usage(), report)
    }

    fn report(&self, request: Option<&Request<'_>>) -> Option<Report> {
        let registers = self.processor.registers(&self.view.memory)?;
        Some(Report {
            backtrace: backtrace::walk(&self.view, &self.unikernel, &registers),
            registers,
            fault: self.fault.map(FaultDetail::from),
            last_lines: self.context.last_lines.iter().cloned().collect(),
            request: request.map(RequestSummary::of),
        })
    }

    fn code_address(&self) -> CodeAddress {
        CodeAddress::new(self.processor.instruction_pointer(), &self.unikernel)
    }

    /// What a fault means to those who wrote the function.
    fn name(&self, fault: Fault) -> Cause {
        let at = CodeAddress::new(fault.at, &self.unikernel);
        let Fault { vector, error_code, address, .. } = fault;
        if vector != Fault::PAGE_FAULT {
            return Cause::Exception { name: fault.name(), vector, error_code, at };
        }
        let access = match error_code {
            code if code & Fault::FETCH != 0 => FaultAccess::Execute,
            code if code & Fault::WRITE != 0 => FaultAccess::Write,
            _ => FaultAccess::Read,
        };
        Cause::PageFault { access, address, region: self.view.layout.describe(address), at }
    }
}

impl Debuggee for Guest {
    fn breakpoint(&self) -> u8 {
        BREAKPOINT_CODE
    }

    fn tells_faults(&self) -> bool {
        true
    }

    fn writable(&self) -> Range<u64> {
        BOOT_BASE..self.view.memory.size()
    }

    fn has_request(&self) -> bool {
        self.context.started.is_some()
    }

    fn debugger(&mut self) -> &mut Option<Box<Debugger>> {
        &mut self.debugger
    }

    fn memory(&self) -> &GuestMemory {
        &self.view.memory
    }

    fn is_reporting(&mut self) -> Result<bool, Cause> {
        Ok(self.processor.debuggable()?.is_in_fault_stub())
    }

    fn finish_exit(&mut self) -> Result<(), Cause> {
        self.processor.debuggable()?.finish_exit()
    }

    fn registers(&mut self) -> Result<Registers, Cause> {
        Ok(self.processor.debuggable()?.registers_to_debug(&self.view.memory))
    }

    fn resume_at(&mut self, registers: &Registers, step: Step) -> Result<(), Cause> {
        self.processor.debuggable()?.resume_at(registers, step)
    }

    fn forget_traps(&mut self) -> Result<(), Cause> {
        self.processor.debuggable()?.forget_traps()
    }

    fn other_registers(&mut self) -> Result<OtherRegisters, Cause> {
        self.processor.debuggable()?.other_registers()
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Cause> {
        self.processor.debuggable()?.set_fpu(fpu)
    }

    fn wrap(stub: StubOf<Self>) -> Stub {
        Stub::Native(stub)
    }

    fn unwrap(stub: Stub) -> Option<StubOf<Self>> {
        if let Stub::Native(stub) = stub { Some(stub) } else { None }
    }
}

/// Fills a new machine's memory: what its processor needs, boot page, the image's segments.
pub(crate) fn write_image(
    memory: &GuestMemory,
    layout: &Layout,
    unikernel: &Unikernel,
    config: &MachineConfig,
) -> Result<(), Cause> {
    let outside = |_| Cause::Layout(LayoutError::MemorySize { memory: layout.memory });
    write_platform(memory, layout, config)?;
    for segment in unikernel.segments() {
        memory.write(segment.memory.start, unikernel.contents(segment)).map_err(outside)?;
    }
    Ok(())
}

/// The part of it that no guest can write.
pub(crate) fn write_platform(memory: &GuestMemory, layout: &Layout, config: &MachineConfig) -> Result<(), Cause> {
    kvm::write_tables(memory, layout)?;
    write_boot_page(memory, layout, config)
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
