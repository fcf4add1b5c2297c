//! A guest's processor on a host without KVM: a child process that holds the guest's memory and nothing else, run
//! under ptrace. Driven by `guest`; it knows stops and registers, and nothing of what a hypercall means. No system
//! call of the guest is ever carried out.
//!
//! | module | duty |
//! |---|---|
//! | `tracee` | one child under ptrace: fork, wait, registers, calls made on its behalf |
//! | `confine` | takes everything from a new child but the guest's memory |
//! | `driver` | the thread that a child is traced from |
//! | `maker` | the thread that those threads come from |
//! | `stop` | what a stop means |
//! | `pages` | which pages of a machine's memory are there, and how they become the template's |
//! | `x86_64` | registers, the frame of a signal, port instructions |

mod confine;
mod driver;
mod maker;
mod pages;
mod stop;
mod tracee;
mod x86_64;

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    sync::Arc,
    time::Duration,
};

use kernlet_abi::map::STACK_TOP;

pub(crate) use maker::ProcessHost;

use crate::{
    crash::Cause,
    layout::{Layout, LayoutError},
    memory::{FrozenMemory, GuestMemory},
    process::{
        confine::Workbench,
        driver::Driver,
        pages::Pages,
        stop::{FRAME_ROOM, Meaning},
        tracee::{Failure, Tracee},
        x86_64::Registers,
    },
    processor::Exit,
};

/// A child that runs a guest. Its thread is the driver's, so the machine may go from thread to thread.
#[derive(Debug)]
pub(crate) struct Processor {
    driver: Driver,
    /// As they were at the last stop, or as they are to be at the next run.
    registers: Registers,
    /// To be set before the next run.
    pending: Pending,
}

/// What the child has to be given before it goes on.
#[derive(Clone, Debug, Default)]
#[allow(clippy::large_enum_variant, reason = "a machine has one")]
enum Pending {
    #[default]
    Nothing,
    /// It goes on behind its hypercall.
    Instruction(u64),
    Everything {
        registers: Registers,
        vectors: Option<Arc<[u8]>>,
    },
}

/// What a guest can change about its processor, and which of a template's pages hold something.
#[derive(Debug)]
pub(crate) struct CpuState {
    registers: Registers,
    vectors: Arc<[u8]>,
    pages: Pages,
}

impl Processor {
    /// A processor before the guest's first instruction, which is at `entry`.
    pub(crate) fn boot(host: &ProcessHost, memory: &GuestMemory, layout: &Layout, entry: u64) -> Result<Self, Cause> {
        Self::new(host, memory, layout, Registers::at_entry(entry), None)
    }

    /// A processor in the state in which a template was frozen, with a copy of its memory.
    pub(crate) fn from_template(
        host: &ProcessHost,
        layout: &Layout,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(Self, GuestMemory), Cause> {
        let size = template.size();
        let no_memory = |source| Cause::Memory { size, source };
        let memory = GuestMemory::new(size).map_err(no_memory)?;
        state.pages.copy(template, &memory).map_err(no_memory)?;
        let processor = Self::new(host, &memory, layout, state.registers, Some(Arc::clone(&state.vectors)))?;
        Ok((processor, memory))
    }

    fn new(
        host: &ProcessHost,
        memory: &GuestMemory,
        layout: &Layout,
        registers: Registers,
        vectors: Option<Arc<[u8]>>,
    ) -> Result<Self, Cause> {
        let file = memory.file().ok_or_else(|| process("find a machine's memory")(io::ErrorKind::NotFound.into()))?;
        let workbench = Workbench::lay_out(memory, layout)?;
        let driver = Driver::start(host, file.as_fd(), layout.areas.clone());
        // Not a byte of it stays, whether the child came up or not.
        workbench.clear()?;
        Ok(Self { driver: driver?, registers, pending: Pending::Everything { registers, vectors } })
    }

    /// Copies the memory and registers of a guest that waits for its first request.
    pub(crate) fn freeze(&mut self, memory: &mut GuestMemory) -> Result<(FrozenMemory, CpuState), Cause> {
        let size = memory.size();
        let no_memory = |source| Cause::Memory { size, source };
        let pages = Pages::that_hold_something(memory).map_err(no_memory)?;
        let frozen = pages.freeze(memory).map_err(no_memory)?;
        let registers = self.registers;
        // Setting them now shows whether a rewind can: a tracer may not set segments and their bases to all that a
        // program may.
        self.pending = Pending::Nothing;
        let vectors = self.driver.call(
            "keep a function's segment registers, which it set to what no process can be put back to",
            move |child| {
                child.set_registers(&registers)?;
                child.vectors()
            },
        )?;
        Ok((frozen, CpuState { registers, vectors: vectors.into(), pages }))
    }

    /// Makes memory and registers equal to the template's.
    pub(crate) fn rewind(
        &mut self,
        memory: &mut GuestMemory,
        template: &FrozenMemory,
        state: &CpuState,
    ) -> Result<(), Cause> {
        let size = memory.size();
        if x86_64::differ_beyond_ptrace(&self.registers, &state.registers) {
            let popped = confine::FlagsPopped::lay_out(memory, &state.registers)?;
            let action = "restore a function's flags";
            let restored = self.driver.call(action, confine::FlagsPopped::pop);
            popped.clear()?;
            restored?;
        }
        state.pages.restore(template, memory).map_err(|source| Cause::Memory { size, source })?;
        self.registers = state.registers;
        self.pending = Pending::Everything { registers: state.registers, vectors: Some(Arc::clone(&state.vectors)) };
        Ok(())
    }

    /// Which of its registers differ from the template's, if any do.
    pub(crate) fn first_difference(&mut self, state: &CpuState) -> Result<Option<&'static str>, Cause> {
        let pending = std::mem::take(&mut self.pending);
        let (registers, vectors) = self.driver.call("read a function's registers", move |child| {
            pending.apply(child)?;
            Ok((child.registers()?, child.vectors()?))
        })?;
        Ok([
            ("a general or segment register", registers == state.registers),
            ("a vector register", x86_64::same_vectors(&vectors, &state.vectors)),
        ]
        .into_iter()
        .find_map(|(what, equal)| (!equal).then_some(what)))
    }

    /// Runs the guest until it needs the monitor.
    pub(crate) fn run(&mut self, memory: &GuestMemory) -> Result<Exit, Cause> {
        let pending = std::mem::take(&mut self.pending);
        let stop = self.driver.call("run a function's process", move |child| {
            pending.apply(child)?;
            child.resume()
        })?;
        self.registers = stop.registers;
        match stop::meaning(&stop, memory)? {
            Meaning::Hypercall { block, length } => {
                self.registers.rip += length;
                self.pending = Pending::Instruction(self.registers.rip);
                Ok(Exit::Hypercall { block })
            }
            Meaning::Exit(exit) => Ok(exit),
            Meaning::Exception { signal } => self.exception(memory, signal),
        }
    }

    /// Descriptor of the child, by which a run is ended from outside.
    pub(crate) fn handle(&self) -> RawFd {
        self.driver.handle().as_raw_fd()
    }

    /// Processor time that the child has used.
    pub(crate) fn clock(&self) -> Duration {
        self.driver.clock()
    }

    /// The registers of the guest, which is stopped.
    pub(crate) fn registers(&self) -> crate::processor::Registers {
        self.registers.general()
    }

    /// Where the guest is.
    pub(crate) fn instruction_pointer(&self) -> u64 {
        self.registers.rip
    }

    /// Lets the kernel say what the processor said of an exception: it writes that into the frame of a signal's
    /// handler, which here goes to the end of the guest's stack and is taken away again. The handler never runs.
    fn exception(&self, memory: &GuestMemory, signal: i32) -> Result<Exit, Cause> {
        let outside = |_| Cause::Layout(LayoutError::MemorySize { memory: memory.size() });
        let room = STACK_TOP - FRAME_ROOM;
        let mut before = vec![0; usize::try_from(FRAME_ROOM).unwrap_or_default()];
        memory.read(room, &mut before).map_err(outside)?;
        let registers = Registers::at_stop(STACK_TOP);
        let entered = self.driver.call("learn of a function's exception", move |child| {
            child.set_registers(&registers)?;
            child.enter_handler(signal)
        })?;
        let fault = stop::read_frame(memory, &entered, self.registers.rip);
        memory.write_unmarked(room, &before).map_err(outside)?;
        Ok(match fault {
            Some(fault) => Exit::Fault(x86_64::disguise(fault)),
            None => Exit::Unknown { detail: format!("signal {signal}, of which the kernel says no more") },
        })
    }
}

impl Pending {
    fn apply(self, child: &mut Tracee) -> Result<(), Failure> {
        match self {
            Self::Nothing => Ok(()),
            Self::Instruction(at) => child.set_instruction(at),
            Self::Everything { registers, vectors } => {
                vectors.map_or(Ok(()), |vectors| child.set_vectors(&vectors))?;
                child.set_registers(&registers)
            }
        }
    }
}

/// How many pages a rewind compares with the template's: nobody logs which of them the guest wrote.
pub(crate) fn pages_looked_at(memory: &GuestMemory) -> usize {
    pages::there(memory).ok().and_then(|pages| usize::try_from(pages).ok()).unwrap_or_default()
}

/// Attaches what was being done to an error of the host.
fn process(action: &'static str) -> impl FnOnce(io::Error) -> Cause {
    move |source| Cause::Process { action, source }
}
