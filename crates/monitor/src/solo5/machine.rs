//! A Solo5 machine: a unikernel with its devices in a VM of its own, and the loop that runs it until it halts. Made by
//! the command line and by [`super::command`]. It knows hypercalls and faults, but nothing of requests.

use std::{
    fmt, io,
    time::{Duration, Instant},
};

use kernlet_abi::{Span, solo5::EXTENSION_PORT};
use zerocopy::{FromBytes, IntoBytes};

use super::{
    LARGE_PAGE,
    device::{AttachError, Attached, Devices},
    extension::{self, Exchange, Extension},
    hypercall::{self, Call, Flow},
    image::{Image, ImageError},
    layout::{self, COMMAND_LINE_SIZE, Layout},
    processor::{CpuState, Exit, HYPERCALLS, PORT_BASE, PORT_KICK, Processor, Ring},
    ring,
};
use crate::{
    crash::Cause,
    deadline::{Kick, Timer},
    debugger::{self, Debugger, Verdict},
    hypervisor::{Host, Hypervisor, KvmHost},
    kvm::Purpose,
    limits::{self, Limits},
    memory::{FrozenMemory, GuestMemory, OutOfBounds},
    message::Usage,
};

/// Most memory of a guest, in bytes.
pub const MEMORY_MAX: u64 = 4 << 30;

/// Most characters of a command line.
#[allow(clippy::cast_possible_truncation, reason = "a few pages")]
pub const COMMAND_LINE_MAX: usize = COMMAND_LINE_SIZE as usize - 1;

/// Where what a guest prints goes.
pub trait Console {
    /// Takes some of it.
    ///
    /// # Errors
    /// It could not be taken, which ends the guest.
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError>;

    /// The request that the guest is to answer, for one that asks; there is none under a tender.
    fn exchange(&mut self) -> Option<Exchange<'_>> {
        None
    }
}

/// Why a console takes no more.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// What is behind it failed.
    #[error("the console could not be written")]
    Io(#[from] io::Error),
    /// A response has no room for more.
    #[error("the console's limit of {limit} bytes is reached")]
    Full {
        /// Bytes that there are.
        limit: u64,
    },
}

/// How a machine is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Guest memory, in bytes: rounded down to 2 MiB, and no less than that.
    pub memory: u64,
    /// The ring that it runs at.
    pub ring: Ring,
}

impl Config {
    /// The memory that a guest gets for this much.
    #[must_use]
    pub fn round_memory(memory: u64) -> u64 {
        (memory / LARGE_PAGE * LARGE_PAGE).max(LARGE_PAGE)
    }
}

/// Why a machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file does not fit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The devices are not right.
    #[error(transparent)]
    Devices(#[from] AttachError),
    /// The command line is too long.
    #[error("Guest command line too long (max={COMMAND_LINE_MAX} characters)")]
    CommandLine,
    /// More memory than a guest can have.
    #[error("guest memory size {memory} bytes exceeds the max size {MEMORY_MAX} bytes")]
    Memory {
        /// Bytes asked for.
        memory: u64,
    },
    /// A server has a network device, and not several.
    #[error("a unikernel that serves has one network device; this one declares {count}")]
    NetworkDevices {
        /// How many.
        count: usize,
    },
    /// It needs a virtual machine, and functions run as processes.
    #[error("a Solo5 unikernel for hvt needs KVM; it cannot run as a process")]
    NoKvm,
    /// The host did not do its part.
    #[error(transparent)]
    Host(#[from] Cause),
}

/// How a guest ended other than by halting. Its words are the tender's.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// It gave an address that is not its own.
    #[error("Invalid guest access: gpa={gpa:#x}, sz={size}")]
    InvalidAccess {
        /// The address.
        gpa: u64,
        /// Bytes from there on.
        size: u64,
    },
    /// It used a port that there is not, or one in a way that there is not.
    #[error("Invalid guest port access: port={port:#x}")]
    InvalidPort {
        /// The port.
        port: u16,
    },
    /// It made a hypercall that there is not.
    #[error("Invalid guest hypercall: num={number}")]
    InvalidHypercall {
        /// The number.
        number: u16,
    },
    /// It used memory in a way that the host forbids.
    #[error("KVM: host/guest translation fault: rip={rip:#x}")]
    TranslationFault {
        /// The instruction.
        rip: u64,
    },
    /// KVM could not go on.
    #[error("KVM: internal error exit: suberror={suberror:#x}")]
    InternalError {
        /// KVM's number.
        suberror: u32,
    },
    /// It did something that no tender serves.
    #[error("KVM: unhandled exit: exit_reason={reason:#x}, rip={rip:#x}")]
    Unhandled {
        /// KVM's number.
        reason: u32,
        /// The instruction.
        rip: u64,
    },
    /// It executes something that is not carried out for it.
    #[error("the instruction {name} at {rip:#x} is not carried out for guests at ring 3; run it with --ring 0")]
    Unsupported {
        /// The instruction.
        name: &'static str,
        /// Its address.
        rip: u64,
    },
    /// It made a call of the extension that cannot be answered.
    #[error(transparent)]
    Call(Cause),
    /// It was to ask for its request by the extension's call.
    #[error(
        "it halted with status {status} before it asked for a request; where its command line is to be the request, leave \
         solo5_arguments out of the function's environment"
    )]
    NoRequest {
        /// Its exit status.
        status: i32,
    },
    /// A device failed.
    #[error("{text}")]
    Fatal {
        /// What the tender says of it.
        text: String,
    },
    /// The console takes no more.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// Its time is over.
    #[error("it ran for longer than it may")]
    Timeout,
    /// Its processor time is used up.
    #[error("it used up its {limit:?} of processor time")]
    CpuTime {
        /// The time it was given.
        limit: Duration,
    },
    /// The host did not do its part.
    #[error(transparent)]
    Host(#[from] Cause),
}

impl End {
    pub(crate) fn access(span: Span) -> Self {
        Self::InvalidAccess { gpa: span.offset, size: span.len }
    }

    pub(crate) fn write_failed(error: &io::Error) -> Self {
        Self::Fatal { text: format!("Fatal error when writing: {}", message(error)) }
    }

    pub(crate) fn read_failed(error: &io::Error) -> Self {
        Self::Fatal { text: format!("Fatal error when reading: {}", message(error)) }
    }
}

/// An error in the words of C's library.
fn message(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// How a guest halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halted {
    /// Its exit status: 0 where all went well, 255 where it gave up.
    pub status: i32,
    /// Address of what it leaves for a core dump; zero where that is nothing.
    pub cookie: u64,
}

/// A guest in its machine.
pub struct Machine {
    // The processor goes before the memory that it refers to.
    pub(crate) processor: Processor,
    pub(crate) memory: GuestMemory,
    pub(crate) layout: Layout,
    pub(crate) devices: Attached,
    pub(crate) extension: Option<Extension>,
    /// What ends runs that have a deadline; made with the first of them, since it takes a thread.
    timer: Option<Timer>,
    pub(crate) limits: Limits,
    pub(crate) usage: Usage,
    /// Where the structure of the call is in which it waits for packets; it goes on there.
    pub(crate) waits_at: Option<u32>,
    buffer: Vec<u8>,
    /// Whoever debugs it.
    pub(super) debugger: Option<Box<Debugger>>,
    /// It has been given a request, or needs none.
    pub(super) has_request: bool,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("memory", &self.layout.memory)
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

/// What a trap leaves behind, as bindings give it to the tender: `struct trap_regs`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes)]
#[repr(C)]
pub(super) struct Trap {
    pub(super) cr2: u64,
    pub(super) error_code: u64,
    pub(super) rip: u64,
    pub(super) cs: u64,
    pub(super) rflags: u64,
    pub(super) rsp: u64,
    pub(super) ss: u64,
}

/// What ended a run.
pub(crate) enum Stopped {
    Halted(Halted),
    /// It looked at its command line, which was hidden.
    AtCommandLine,
    /// It is about to make its first hypercall, and was to be stopped there.
    AtHypercall,
    /// Whoever drives it by its link has what he wants.
    ByLink,
}

/// Until when a guest is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    Halt,
    /// Until it does something that depends on the request: looks at its command line, or makes a hypercall.
    Request,
    /// Until it asks for the request by the extension's call.
    Asked,
}

impl Machine {
    /// A guest before its first instruction, with more than Solo5 gives it where there is an extension.
    ///
    /// # Errors
    /// It does not fit, or the host cannot give it a machine.
    pub fn boot(
        hypervisor: &Hypervisor,
        image: &Image,
        devices: Devices,
        command_line: &[u8],
        config: Config,
        extension: Option<Extension>,
    ) -> Result<Self, BootError> {
        Self::boot_for(Purpose::Function, hypervisor, image, devices, command_line, config, extension)
    }

    /// The same, for a guest that is run once and of which no template is made, nor a core: it is there sooner.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_once(
        hypervisor: &Hypervisor,
        image: &Image,
        devices: Devices,
        command_line: &[u8],
        config: Config,
        extension: Option<Extension>,
    ) -> Result<Self, BootError> {
        Self::boot_for(Purpose::Once, hypervisor, image, devices, command_line, config, extension)
    }

    fn boot_for(
        purpose: Purpose,
        hypervisor: &Hypervisor,
        image: &Image,
        devices: Devices,
        command_line: &[u8],
        config: Config,
        extension: Option<Extension>,
    ) -> Result<Self, BootError> {
        let host = kvm_host(hypervisor)?;
        let ring = match config.ring {
            Ring::Auto => super::probe::better_ring(host)?,
            ring => ring,
        };
        let size = Config::round_memory(config.memory);
        if size > MEMORY_MAX {
            return Err(BootError::Memory { memory: size });
        }
        let with_ring = devices.has_net();
        // The ring takes the place of memory only where there can be no more.
        let size = if with_ring { size.min(MEMORY_MAX - LARGE_PAGE) } else { size };
        let mut layout = Layout::new(size, with_ring, image.load(size)?);
        layout.extension = extension.as_ref().map(|extension| extension::told(extension.requests));
        let devices = devices.complete()?;
        let all = layout.tables().end;
        // What the host forbids a guest at ring 0 is also forbidden to us, but for the file.
        let without_file = purpose == Purpose::Once && ring == Ring::Three;
        let memory = if without_file { GuestMemory::for_one_run(all) } else { GuestMemory::new(all) };
        let memory = memory.map_err(|source| Cause::Memory { size: all, source })?;
        if command_line.len() > COMMAND_LINE_MAX {
            return Err(BootError::CommandLine);
        }
        if without_file {
            layout.touched_at_start().into_iter().for_each(|pages| memory.populate(pages));
        }
        let outside = |_: OutOfBounds| Cause::Shutdown;
        layout.write_image(&memory, image).map_err(outside)?;
        let mut processor = Processor::boot(host, &memory, &layout, image.entry(), ring, purpose)?;
        let cycles = processor.cycles_per_second()?;
        layout.write_boot_info(&memory, &devices.manifest.encode(), cycles).map_err(outside)?;
        layout::write_command_line(&memory, command_line).map_err(outside)?;
        if let Some(at) = layout.ring {
            ring::prepare(&memory, at).map_err(|_| Cause::Shutdown)?;
        }
        Ok(Self { extension, ..Self::new(processor, memory, layout, devices) })
    }

    pub(crate) fn new(processor: Processor, memory: GuestMemory, layout: Layout, devices: Attached) -> Self {
        let (limits, usage) = (Limits::default(), Usage::default());
        Self {
            processor,
            memory,
            layout,
            devices,
            extension: None,
            timer: None,
            limits,
            usage,
            waits_at: None,
            buffer: Vec::new(),
            debugger: None,
            has_request: false,
        }
    }

    /// A guest in the state of a template, without devices.
    pub(crate) fn from_template(
        hypervisor: &Hypervisor,
        memory: &FrozenMemory,
        state: &CpuState,
        layout: Layout,
        devices: Attached,
    ) -> Result<Self, Cause> {
        let Host::Kvm(host) = hypervisor.host() else { return Err(Cause::OtherBackend) };
        let (processor, memory) = Processor::from_template(host, memory, state)?;
        Ok(Self::new(processor, memory, layout, devices))
    }

    /// Runs the guest on this thread until it halts, or until the deadline, if there is one.
    ///
    /// # Errors
    /// How it ended otherwise.
    pub fn run(&mut self, console: &mut dyn Console, deadline: Option<Instant>) -> Result<Halted, End> {
        match self.run_until(console, deadline, Until::Halt)? {
            Stopped::Halted(halted) => Ok(halted),
            Stopped::AtCommandLine | Stopped::AtHypercall | Stopped::ByLink => Err(End::Host(Cause::Shutdown)),
        }
    }

    /// The registers of a guest's last trap, if it gave up because of one.
    pub(super) fn trap(&self, halted: &Halted) -> Option<Trap> {
        if halted.gave_up() && halted.cookie != 0 { self.memory.load(halted.cookie).ok() } else { None }
    }

    pub(crate) fn run_until(
        &mut self,
        console: &mut dyn Console,
        deadline: Option<Instant>,
        until: Until,
    ) -> Result<Stopped, End> {
        if self.debugger.is_some() {
            return self.run_debugged(console, until);
        }
        let Some(end) = deadline else { return self.run_guarded(None, console, None, until) };
        // Moved out, so that the loop can use the rest while the timer guards it.
        let timer = self.timer.take().unwrap_or_else(Timer::new);
        let kick = Kick::Kvm(self.processor.run_page());
        let stopped = timer.guard(end, kick, || self.run_guarded(Some(&timer), console, deadline, until));
        self.timer = Some(timer);
        stopped
    }

    /// Runs the guest as gdb has it.
    fn run_debugged(&mut self, console: &mut dyn Console, until: Until) -> Result<Stopped, End> {
        debugger::enter(self)?;
        let timer = self.timer.take().unwrap_or_else(Timer::new);
        let kick = Kick::Kvm(self.processor.run_page());
        // A deadline that is over: the kicks that come of it are when the debugger's connection is looked at.
        let stopped = timer.guard(Instant::now(), kick, || self.run_guarded(None, console, None, until));
        self.timer = Some(timer);
        match stopped {
            Ok(_) => debugger::leave(self)?,
            Err(End::Host(Cause::Killed)) => {}
            Err(_) => debugger::dying(self)?,
        }
        stopped
    }

    fn run_guarded(
        &mut self,
        timer: Option<&Timer>,
        console: &mut dyn Console,
        deadline: Option<Instant>,
        until: Until,
    ) -> Result<Stopped, End> {
        if let Some(at) = self.waits_at
            && let Some(stopped) = self.serve(hypercall::number::POLL, at, console, deadline)?
        {
            return Ok(stopped);
        }
        loop {
            match self.next_exit(timer, deadline)? {
                Exit::Out { port: PORT_KICK, .. } => {
                    let began = self.devices.link.is_some().then(Instant::now);
                    ring::serve(&self.memory, &self.layout, &mut self.devices, &mut self.buffer)?;
                    if let Some(stopped) = self.after_frames(began)? {
                        return Ok(stopped);
                    }
                }
                Exit::Out { port, value } if (PORT_BASE..PORT_BASE + HYPERCALLS).contains(&port) => {
                    if until == Until::Request {
                        return Ok(Stopped::AtHypercall);
                    }
                    if let Some(stopped) = self.serve(port - PORT_BASE, value, console, deadline)? {
                        return Ok(stopped);
                    }
                }
                Exit::Out { port: EXTENSION_PORT, value } if self.extension.is_some() => {
                    let stops = match until {
                        Until::Halt => false,
                        Until::Request => true,
                        Until::Asked => extension::is_about_request(&self.memory, value),
                    };
                    if stops {
                        return Ok(Stopped::AtHypercall);
                    }
                    self.serve_extension(console, deadline, value)?;
                }
                Exit::Out { port, .. } | Exit::BadPort { port } => return Err(End::InvalidPort { port }),
                Exit::TranslationFault { rip } => return Err(End::TranslationFault { rip }),
                Exit::InternalError { suberror } => return Err(End::InternalError { suberror }),
                Exit::Unhandled { reason, rip } => return Err(End::Unhandled { reason, rip }),
                Exit::Unsupported { name, rip } => return Err(End::Unsupported { name, rip }),
                Exit::LooksAtCommandLine => return Ok(Stopped::AtCommandLine),
                Exit::Trapped(fault) => return Err(End::Unhandled { reason: u32::from(fault.vector), rip: fault.at }),
                Exit::Interrupted => {
                    if self.debugger.is_some() {
                        debugger::poll(self)?;
                    }
                    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(End::Timeout);
                    }
                }
                Exit::Again => {}
            }
        }
    }

    fn serve_extension(&mut self, console: &mut dyn Console, deadline: Option<Instant>, block: u32) -> Result<(), End> {
        let Self { memory, layout, extension, limits, usage, .. } = self;
        let Some(extension) = extension else { return Err(End::InvalidPort { port: EXTENSION_PORT }) };
        extension::Call { memory, layout, extension, limits, usage, console, deadline }.serve(block)?;
        // An operation may have taken all the time that there was.
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) { Err(End::Timeout) } else { Ok(()) }
    }

    /// Runs the guest until it does something that is no debugger's doing.
    fn next_exit(&mut self, timer: Option<&Timer>, deadline: Option<Instant>) -> Result<Exit, End> {
        loop {
            let exit = self.run_once(timer, deadline)?;
            let Exit::Trapped(fault) = exit else { return Ok(exit) };
            if debugger::fault(self, &fault)? == Verdict::Pass {
                return Ok(self.processor.pass_fault(&mut self.memory, &self.layout)?);
            }
        }
    }

    /// Serves a hypercall; tells how the guest stops, if it does.
    fn serve(
        &mut self,
        number: u16,
        at: u32,
        console: &mut dyn Console,
        deadline: Option<Instant>,
    ) -> Result<Option<Stopped>, End> {
        let waits = number == hypercall::number::POLL;
        // Whoever goes on with a guest that was stopped there makes the call again.
        self.waits_at = waits.then_some(at);
        let began = (self.devices.link.is_some() && !waits).then(Instant::now);
        let Self { memory, layout, devices, buffer, .. } = self;
        let mut call = Call { memory, layout, devices, console, deadline, buffer };
        match call.serve(number, at)? {
            Flow::Resume => {
                self.waits_at = None;
                self.after_frames(began)
            }
            Flow::Wait => Ok(Some(Stopped::ByLink)),
            Flow::Halt { status, cookie } => Ok(Some(Stopped::Halted(Halted { status, cookie }))),
        }
    }

    /// After frames may have come or gone by a link since then: what the host did with them is the guest's time, so that
    /// it cannot have more of that than it may by sending many.
    fn after_frames(&mut self, began: Option<Instant>) -> Result<Option<Stopped>, End> {
        let Some((_, link)) = &self.devices.link else { return Ok(None) };
        if let Some(began) = began {
            let took = began.elapsed();
            self.limits.charge(took);
            self.usage.cpu += link.charge(took);
        }
        if link.stops() {
            return Ok(Some(Stopped::ByLink));
        }
        self.limits.cpu_exceeded(self.usage.cpu).map_or(Ok(None), |limit| Err(End::CpuTime { limit }))
    }

    /// Runs the guest until it stops, and counts what it took.
    fn run_once(&mut self, timer: Option<&Timer>, deadline: Option<Instant>) -> Result<Exit, End> {
        let (Some(timer), Some(far)) = (timer, deadline) else {
            return Ok(self.processor.run(&mut self.memory, &self.layout)?);
        };
        self.usage.paused += self.limits.pause(far);
        let run = Limits::enter(self.usage.cpu, limits::thread_clock);
        timer.kick_at(self.limits.look_at(run, self.usage.cpu, far));
        let exit = self.processor.run(&mut self.memory, &self.layout);
        let interrupted = matches!(exit, Ok(Exit::Interrupted));
        let took = self.limits.leave(run, interrupted, limits::thread_clock);
        self.usage.cpu += self.devices.link.as_ref().map_or(took, |(_, link)| link.charge(took));
        self.usage.exits += u32::from(!interrupted);
        match self.limits.cpu_exceeded(self.usage.cpu) {
            Some(limit) => Err(End::CpuTime { limit }),
            None => Ok(exit?),
        }
    }
}

pub(crate) fn kvm_host(hypervisor: &Hypervisor) -> Result<&KvmHost, BootError> {
    match hypervisor.host() {
        Host::Kvm(host) => Ok(host),
        Host::Processes(_) => Err(BootError::NoKvm),
    }
}
