//! Carries out the instructions that a Solo5 guest executes as if it were at ring 0, and takes traps to its own handlers
//! as the processor would there. Used by the processor when a guest at CPL 3 faults. It gives the guest nothing that the
//! guest's own memory and registers are not.
//!
//! Instructions, descriptors and interrupts as in Intel's SDM, volumes 2 and 3A (chapters 3, 6 and 7).

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use kvm_bindings::kvm_regs;

use super::{
    GUEST_MIN, PAGE_SIZE,
    layout::{LOW, Layout, Stock},
};
use crate::memory::GuestMemory;

/// Longest instruction, in bytes.
const INSTRUCTION_MAX: usize = 15;

/// Most instructions that are carried out for one exit. A guest can make any of them in a circle, and has a deadline.
const STEPS_MAX: u32 = 1024;

/// Most ordinary ones of them once the guest has its interrupt table, with which bindings are through with their tables: what
/// comes later is rarely followed by another privileged one.
const BETWEEN_MAX: u32 = 8;

// Vectors of exceptions.
const DEBUG: u8 = 1;
const BREAKPOINT: u8 = 3;
const UNDEFINED: u8 = 6;
const DOUBLE_FAULT: u8 = 8;
pub(crate) const PROTECTION: u8 = 13;
pub(crate) const PAGE_FAULT: u8 = 14;

/// `syscall`, which is not enabled.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

// Model-specific registers.
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const EFER: u32 = 0xc000_0080;

// What a guest of the tender finds in its control registers.
const CR0: u64 = 0x8001_0021;
const CR3: u64 = 0x2000;
const CR4: u64 = 0x620;
const EFER_VALUE: u64 = 0x500;

// Flags: trap, interrupts, direction's neighbours that a trap clears.
const TF: u64 = 1 << 8;
const IF: u64 = 1 << 9;
const NT: u64 = 1 << 14;
const RF: u64 = 1 << 16;
/// Those that a guest can set by itself; never the I/O privilege level.
const USER_FLAGS: u64 = 0x0024_4dd5;

/// The state that a guest at ring 0 would have in its processor, and ours has here.
#[derive(Clone, Debug)]
pub(crate) struct Privileged {
    gdt: Table,
    idt: Table,
    /// Base of its task state segment.
    task: Option<u64>,
    code: u16,
    stack: u16,
    /// The address of the last page fault.
    pub(crate) fault_address: u64,
    /// Base that `swapgs` brings.
    other_gs: u64,
}

impl Privileged {
    /// Its numbers, for a file.
    pub(crate) fn encode(&self) -> [u64; 10] {
        let Self { gdt, idt, task, code, stack, fault_address, other_gs } = self;
        let (has_task, task) = (u64::from(task.is_some()), task.unwrap_or_default());
        let (gdt_limit, idt_limit) = (gdt.limit.into(), idt.limit.into());
        let (code, stack) = ((*code).into(), (*stack).into());
        [gdt.base, gdt_limit, idt.base, idt_limit, has_task, task, code, stack, *fault_address, *other_gs]
    }

    /// From a file. Whatever the numbers are, they are the guest's own to choose: each is looked at when it is used.
    pub(crate) fn decode(numbers: [u64; 10]) -> Option<Self> {
        let [gdt, gdt_limit, idt, idt_limit, has_task, task, code, stack, fault_address, other_gs] = numbers;
        Some(Self {
            gdt: Table { base: gdt, limit: gdt_limit.try_into().ok()? },
            idt: Table { base: idt, limit: idt_limit.try_into().ok()? },
            task: (has_task != 0).then_some(task),
            code: code.try_into().ok()?,
            stack: stack.try_into().ok()?,
            fault_address,
            other_gs,
        })
    }
}

/// A descriptor table's register.
#[derive(Clone, Copy, Debug, Default)]
struct Table {
    base: u64,
    limit: u16,
}

impl Default for Privileged {
    fn default() -> Self {
        Self {
            gdt: Table { base: 0x1000, limit: 23 },
            idt: Table::default(),
            task: None,
            code: 8,
            stack: 0x10,
            fault_address: 0,
            other_gs: 0,
        }
    }
}

/// A guest that has faulted: its registers, and what else can be changed about it.
#[derive(Debug)]
pub(crate) struct Faulted<'a> {
    pub(crate) memory: &'a GuestMemory,
    pub(crate) layout: &'a Layout,
    pub(crate) state: &'a mut Privileged,
    /// General registers, the guest's own also of what the processor put aside.
    pub(crate) regs: kvm_regs,
    /// Bases of FS and GS as they are, and as they shall be.
    pub(crate) bases: Bases,
}

/// Bases of the segments that have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bases {
    pub(crate) fs: u64,
    pub(crate) gs: u64,
}

/// What an exception came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest goes on where its registers say.
    Resume,
    /// It writes to a port.
    Out {
        /// The port.
        port: u16,
        /// What it writes.
        value: u32,
    },
    /// It does something else with a port.
    BadPort {
        /// The port.
        port: u16,
    },
    /// The host does not let it use memory that is its own.
    TranslationFault,
    /// It stops its processor for good.
    Halt,
    /// Its handlers cannot be reached.
    Shutdown,
    /// It executes something that is not carried out here.
    Unsupported {
        /// Its name. (The decoder's names of all that there are would make every start of a tender slower.)
        name: &'static str,
    },
}

/// What carrying out one instruction came to.
enum Step {
    Done,
    End(Outcome),
    /// It raises an exception, as it would at ring 0.
    Raise {
        vector: u8,
        error_code: u64,
    },
}

impl Faulted<'_> {
    /// Deals with an exception.
    pub(crate) fn exception(&mut self, vector: u8, error_code: u64, address: u64) -> Outcome {
        match vector {
            PROTECTION => self.protection(error_code),
            PAGE_FAULT => self.page_fault(error_code, address),
            _ => self.raise(vector, error_code),
        }
    }

    fn page_fault(&mut self, error_code: u64, address: u64) -> Outcome {
        const PRESENT: u64 = 1;
        const WRITE: u64 = 2;
        if self.regs.rip == 0 && address == 0 && self.comes_from_syscall() {
            self.regs.rip = self.regs.rcx - SYSCALL.len() as u64;
            self.regs.rflags = self.regs.r11;
            return self.raise(UNDEFINED, 0);
        }
        if self.layout.under_stock(address, error_code & WRITE != 0) == Stock::Host {
            return Outcome::TranslationFault;
        }
        self.state.fault_address = address;
        // As at ring 0, in page tables without our pages and without a bit that forbids execution.
        let present = if address < LOW { 0 } else { error_code & PRESENT };
        self.raise(PAGE_FAULT, present | error_code & WRITE)
    }

    /// Nested PVM carries `syscall` out although it is not enabled, and enters it at address zero.
    fn comes_from_syscall(&self) -> bool {
        let at = self.regs.rcx.checked_sub(SYSCALL.len() as u64);
        at.and_then(|at| self.load::<[u8; 2]>(at)) == Some(SYSCALL)
    }

    /// A privileged instruction, or something that the processor does not allow at ring 0 either.
    fn protection(&mut self, error_code: u64) -> Outcome {
        let mut carried_out = false;
        let mut between = BETWEEN_MAX;
        for _ in 0..STEPS_MAX {
            // One who steps sees each instruction.
            if carried_out && self.regs.rflags & TF != 0 {
                return Outcome::Resume;
            }
            if carried_out && between > 0 && self.step_ahead().is_some() {
                between -= u32::from(self.state.idt.limit != 0);
                continue;
            }
            match self.known() {
                Some(Step::Done) => {
                    carried_out = true;
                    self.regs.rflags &= !RF;
                    continue;
                }
                Some(Step::End(outcome)) => return outcome,
                Some(Step::Raise { vector, error_code }) => return self.raise(vector, error_code),
                None => {}
            }
            if carried_out && self.load(self.regs.rip).is_some_and(|bytes| !can_be_privileged(bytes)) {
                return Outcome::Resume;
            }
            let Some(instruction) = self.instruction().filter(|next| is_privileged(next, !carried_out)) else {
                return if carried_out { Outcome::Resume } else { self.raise(PROTECTION, error_code) };
            };
            match self.carry_out(&instruction, error_code) {
                // The next may be one as well: each that the processor does not meet spares an exit.
                Step::Done => {
                    carried_out = true;
                    self.regs.rflags &= !RF;
                }
                Step::End(outcome) => return outcome,
                Step::Raise { vector, error_code } => return self.raise(vector, error_code),
            }
        }
        Outcome::Resume
    }

    /// What bindings do at their start, in the encodings that assemblers choose: the decoder's tables take longer to make
    /// than all of it to carry out. Nothing where it is anything else.
    fn known(&mut self) -> Option<Step> {
        let bytes: [u8; 8] = self.load(self.regs.rip)?;
        let raised = Step::Raise { vector: PROTECTION, error_code: 0 };
        let (done, len) = match bytes {
            [0x0f, 0x30, ..] => (self.write_msr(), 2),
            [0x8e, modes @ (0xc0..=0xff), ..] => {
                let segment = SEGMENTS.get(usize::from(modes >> 3 & 7)).copied()?;
                let selector = *slot(&mut self.regs, GENERAL[usize::from(modes & 7)])?;
                (self.set_segment(selector, segment), 2)
            }
            [0x0f, 0x00, modes @ (0xd8..=0xdf), ..] => {
                let selector = *slot(&mut self.regs, GENERAL[usize::from(modes & 7)])?;
                (self.set_task(selector), 3)
            }
            [0x48, 0xcb, ..] => return Some(if self.retf(true, 0).is_some() { Step::Done } else { raised }),
            [0x48, 0xcf, ..] => return Some(if self.iretq().is_some() { Step::Done } else { raised }),
            [0x0f, 0x01, modes, low, a, b, c, _] if matches!(modes >> 3, 2 | 3 | 10 | 11 | 18 | 19) => {
                let offset = u32::from_le_bytes([low, a, b, c]);
                let (base, displacement, len) = match (modes >> 6, modes & 7) {
                    (_, 4) => return None,
                    (0, 5) => (self.regs.rip + 7, sign_extend(offset), 7),
                    (0, base) => (*slot(&mut self.regs, GENERAL[usize::from(base)])?, 0, 3),
                    (1, base) => {
                        let offset = i64::from(low.cast_signed()).cast_unsigned();
                        (*slot(&mut self.regs, GENERAL[usize::from(base)])?, offset, 4)
                    }
                    (_, base) => (*slot(&mut self.regs, GENERAL[usize::from(base)])?, sign_extend(offset), 7),
                };
                let table = self.table_at(base.wrapping_add(displacement));
                let is_gdt = modes >> 3 & 1 == 0;
                (table.map(|table| *if is_gdt { &mut self.state.gdt } else { &mut self.state.idt } = table), len)
            }
            _ => return None,
        };
        self.regs.rip += if done.is_some() { len } else { 0 };
        Some(if done.is_some() { Step::Done } else { raised })
    }

    fn instruction(&self) -> Option<Instruction> {
        let rip = self.regs.rip;
        // It was executable a moment ago if it is the one that faulted; another one that is not faults by itself.
        let room = self.layout.end().checked_sub(rip).filter(|_| rip >= LOW)?;
        let mut bytes = [0; INSTRUCTION_MAX];
        let bytes = &mut bytes[..usize::try_from(room).map_or(INSTRUCTION_MAX, |room| room.min(INSTRUCTION_MAX))];
        self.memory.read(rip, bytes).ok()?;
        let instruction = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn carry_out(&mut self, instruction: &Instruction, error_code: u64) -> Step {
        let next = instruction.next_ip();
        let done = match instruction.mnemonic() {
            Mnemonic::Lgdt => self.table(instruction).map(|table| self.state.gdt = table),
            Mnemonic::Lidt => self.table(instruction).map(|table| self.state.idt = table),
            Mnemonic::Ltr => self.load_task(instruction),
            Mnemonic::Lldt
            | Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Clts
            | Mnemonic::Wbinvd
            | Mnemonic::Invd
            | Mnemonic::Invlpg
            | Mnemonic::Lmsw => Some(()),
            Mnemonic::Mov => return self.moved(instruction),
            Mnemonic::Wrmsr => self.write_msr(),
            Mnemonic::Rdmsr => self.read_msr(),
            Mnemonic::Swapgs => {
                std::mem::swap(&mut self.bases.gs, &mut self.state.other_gs);
                Some(())
            }
            Mnemonic::Retf | Mnemonic::Iretq => {
                let wide = matches!(instruction.code(), Code::Retfq | Code::Retfq_imm16);
                let released = if instruction.op_count() == 1 { u64::from(instruction.immediate16()) } else { 0 };
                let is_iret = instruction.mnemonic() == Mnemonic::Iretq;
                let returned = if is_iret { self.iretq() } else { self.retf(wide, released) };
                return returned.map_or(Step::Raise { vector: PROTECTION, error_code }, |()| Step::Done);
            }
            Mnemonic::Hlt => return Step::End(Outcome::Halt),
            Mnemonic::In
            | Mnemonic::Insb
            | Mnemonic::Insd
            | Mnemonic::Insw
            | Mnemonic::Out
            | Mnemonic::Outsb
            | Mnemonic::Outsd
            | Mnemonic::Outsw => return Step::End(self.port(instruction)),
            Mnemonic::Int3 => return self.interrupt(BREAKPOINT, next),
            Mnemonic::Int1 => return self.interrupt(DEBUG, next),
            Mnemonic::Int => return self.interrupt(instruction.immediate8(), next),
            Mnemonic::Rdpmc => return Step::End(Outcome::Unsupported { name: "rdpmc" }),
            // All others that are privileged are above.
            _ => return Step::End(Outcome::Unsupported { name: "xsetbv" }),
        };
        match done {
            Some(()) => {
                self.regs.rip = next;
                Step::Done
            }
            None => Step::Raise { vector: PROTECTION, error_code: 0 },
        }
    }

    /// `mov` to a segment register, or from and to a control or debug register.
    fn moved(&mut self, instruction: &Instruction) -> Step {
        let (to, from) = (instruction.op0_register(), instruction.op1_register());
        let done = if is_segment(to) {
            self.load_segment(instruction, to)
        } else {
            match (to, from) {
                (_, Register::CR0) => self.set_register(to, CR0),
                (_, Register::CR2) => self.set_register(to, self.state.fault_address),
                (_, Register::CR3) => self.set_register(to, CR3),
                (_, Register::CR4) => self.set_register(to, CR4),
                (_, Register::CR8 | Register::DR0 | Register::DR1 | Register::DR2 | Register::DR3) => {
                    self.set_register(to, 0)
                }
                (_, Register::DR6) => self.set_register(to, 0xffff_0ff0),
                (_, Register::DR7) => self.set_register(to, 0x400),
                (Register::CR2, _) => self.register(from).map(|value| self.state.fault_address = value),
                // What changes nothing is let be.
                (Register::CR3, _) if self.register(from) == Some(CR3) => Some(()),
                (Register::CR0, _) if self.register(from).is_some_and(|value| (value ^ CR0) & !0x1a == 0) => Some(()),
                (Register::CR4, _) if self.register(from).is_some_and(|value| (value ^ CR4) & !0x80 == 0) => Some(()),
                _ => return Step::End(Outcome::Unsupported { name: "mov" }),
            }
        };
        if done.is_none() {
            return Step::Raise { vector: PROTECTION, error_code: 0 };
        }
        self.regs.rip = instruction.next_ip();
        Step::Done
    }

    /// A selector goes into a segment register: of the guest's descriptor only a base counts in 64-bit mode.
    fn load_segment(&mut self, instruction: &Instruction, segment: Register) -> Option<()> {
        let selector = match instruction.op1_kind() {
            OpKind::Register => self.register(instruction.op1_register())?,
            _ => u64::from(self.load::<u16>(self.address(instruction)?)?),
        };
        self.set_segment(selector, segment)
    }

    fn set_segment(&mut self, selector: u64, segment: Register) -> Option<()> {
        #[allow(clippy::cast_possible_truncation, reason = "a selector has 16 bits")]
        let selector = selector as u16;
        let descriptor = if selector & !3 == 0 { 0 } else { self.descriptor(selector)? };
        let base = (descriptor >> 16 & 0xff_ffff) | (descriptor >> 56 << 24);
        match segment {
            Register::SS => self.state.stack = selector,
            Register::FS => self.bases.fs = base,
            Register::GS => self.bases.gs = base,
            _ => {}
        }
        Some(())
    }

    fn load_task(&mut self, instruction: &Instruction) -> Option<()> {
        let selector = match instruction.op0_kind() {
            OpKind::Register => self.register(instruction.op0_register())?,
            _ => u64::from(self.load::<u16>(self.address(instruction)?)?),
        };
        self.set_task(selector)
    }

    fn set_task(&mut self, selector: u64) -> Option<()> {
        #[allow(clippy::cast_possible_truncation, reason = "a selector has 16 bits")]
        let selector = selector as u16;
        let low = self.descriptor(selector)?;
        let high = self.descriptor(selector.checked_add(8)?)?;
        self.state.task = Some((low >> 16 & 0xff_ffff) | (low >> 56 << 24) | high << 32);
        Some(())
    }

    /// A descriptor of the guest's table.
    fn descriptor(&self, selector: u16) -> Option<u64> {
        let (Table { base, limit }, offset) = (self.state.gdt, selector & !7);
        if offset.checked_add(7)? > limit {
            return None;
        }
        // The first table is the one that a machine at ring 0 starts with.
        if base == 0x1000 {
            return [0, 0x00af_9900_0000_ffff, 0x00cf_9300_0000_ffff].get(usize::from(offset / 8)).copied();
        }
        self.load(base.checked_add(u64::from(offset))?)
    }

    fn table(&self, instruction: &Instruction) -> Option<Table> {
        self.table_at(self.address(instruction)?)
    }

    fn table_at(&self, at: u64) -> Option<Table> {
        Some(Table { limit: self.load(at)?, base: self.load(at.checked_add(2)?)? })
    }

    fn write_msr(&mut self) -> Option<()> {
        let value = self.regs.rdx << 32 | self.regs.rax & 0xffff_ffff;
        #[allow(clippy::cast_possible_truncation, reason = "ecx is the register's number")]
        match self.regs.rcx as u32 {
            FS_BASE => self.bases.fs = value,
            GS_BASE => self.bases.gs = value,
            KERNEL_GS_BASE => self.state.other_gs = value,
            EFER if value & !0x400 == EFER_VALUE & !0x400 => {}
            _ => return None,
        }
        Some(())
    }

    fn read_msr(&mut self) -> Option<()> {
        #[allow(clippy::cast_possible_truncation, reason = "ecx is the register's number")]
        let value = match self.regs.rcx as u32 {
            FS_BASE => self.bases.fs,
            GS_BASE => self.bases.gs,
            KERNEL_GS_BASE => self.state.other_gs,
            EFER => EFER_VALUE,
            _ => return None,
        };
        (self.regs.rax, self.regs.rdx) = (value & 0xffff_ffff, value >> 32);
        Some(())
    }

    fn retf(&mut self, wide: bool, released: u64) -> Option<()> {
        let stack = self.regs.rsp;
        let (rip, code, size) = if wide {
            (self.load(stack)?, self.load::<u64>(stack.checked_add(8)?)?, 16)
        } else {
            (u64::from(self.load::<u32>(stack)?), u64::from(self.load::<u32>(stack.checked_add(4)?)?), 8)
        };
        self.enter_code(code)?;
        self.regs.rip = rip;
        self.regs.rsp = stack.wrapping_add(size + released);
        Some(())
    }

    fn iretq(&mut self) -> Option<()> {
        let stack = self.regs.rsp;
        let [rip, code, flags, rsp, segment] = self.load::<[u64; 5]>(stack)?;
        self.enter_code(code)?;
        self.regs.rip = rip;
        self.regs.rflags = flags & USER_FLAGS | 2;
        self.regs.rsp = rsp;
        #[allow(clippy::cast_possible_truncation, reason = "a selector has 16 bits")]
        let segment = segment as u16;
        self.state.stack = segment;
        Some(())
    }

    /// Goes on in a code segment of the guest's, which is a 64-bit one.
    fn enter_code(&mut self, selector: u64) -> Option<()> {
        const LONG_CODE: u64 = 1 << 53 | 1 << 47 | 1 << 44 | 1 << 43;
        #[allow(clippy::cast_possible_truncation, reason = "a selector has 16 bits")]
        let selector = selector as u16;
        let descriptor = self.descriptor(selector)?;
        if descriptor & LONG_CODE != LONG_CODE {
            return None;
        }
        self.state.code = selector;
        Some(())
    }

    /// An access to a port that the processor did not let through.
    fn port(&self, instruction: &Instruction) -> Outcome {
        let is_out = instruction.mnemonic() == Mnemonic::Out;
        let operand = if is_out { instruction.op0_kind() } else { instruction.op1_kind() };
        #[allow(clippy::cast_possible_truncation, reason = "dx is the port")]
        let port = if operand == OpKind::Immediate8 { instruction.immediate8().into() } else { self.regs.rdx as u16 };
        if is_out && instruction.op1_register() == Register::EAX {
            #[allow(clippy::cast_possible_truncation, reason = "eax is what is written")]
            return Outcome::Out { port, value: self.regs.rax as u32 };
        }
        Outcome::BadPort { port }
    }

    /// A software interrupt.
    fn interrupt(&mut self, vector: u8, next: u64) -> Step {
        self.regs.rip = next;
        Step::End(self.raise(vector, 0))
    }

    /// Takes the guest to its own handler; to that of a double fault where it has none, and nowhere without that.
    fn raise(&mut self, vector: u8, error_code: u64) -> Outcome {
        let error_code = has_error_code(vector).then_some(error_code);
        if self.deliver(vector, error_code).or_else(|| self.deliver(DOUBLE_FAULT, Some(0))).is_some() {
            Outcome::Resume
        } else {
            Outcome::Shutdown
        }
    }

    /// As the processor does it (SDM volume 3A, section 6.14).
    fn deliver(&mut self, vector: u8, error_code: Option<u64>) -> Option<()> {
        let Table { base, limit } = self.state.idt;
        let offset = u16::from(vector) * 16;
        if offset + 15 > limit {
            return None;
        }
        let gate = base.checked_add(u64::from(offset))?;
        let [low, high] = self.load::<[u64; 2]>(gate)?;
        let kind = low >> 40 & 0x9f;
        // Present, and an interrupt gate or a trap gate.
        if kind & 0x9e != 0x8e {
            return None;
        }
        let handler = low & 0xffff | low >> 48 << 16 | high << 32;
        let mut stack = match low >> 32 & 7 {
            0 => self.regs.rsp,
            index => self.load(self.state.task?.checked_add(36 + (index - 1) * 8)?)?,
        } & !15;
        let kvm_regs { rip, rsp, rflags, .. } = self.regs;
        // The interrupt flag is one that our guest has no say in, and that a guest at ring 0 finds cleared.
        let pushed = [u64::from(self.state.stack), rsp, rflags & !IF, u64::from(self.state.code), rip];
        for value in pushed.into_iter().chain(error_code) {
            stack = stack.checked_sub(8)?;
            self.store(stack, value)?;
        }
        self.regs.rip = handler;
        self.regs.rsp = stack;
        self.regs.rflags = rflags & USER_FLAGS & !(TF | NT | RF) | 2;
        Some(())
    }

    fn store(&self, at: u64, value: u64) -> Option<()> {
        let end = at.checked_add(8).filter(|end| at >= GUEST_MIN && *end <= self.layout.end())?;
        if !self.layout.is_writable(at..end) {
            return None;
        }
        self.memory.store(at, &value).ok()
    }

    fn load<T: zerocopy::FromBytes + zerocopy::IntoBytes>(&self, at: u64) -> Option<T> {
        at.checked_add(size_of::<T>() as u64).filter(|end| at >= LOW && *end <= self.layout.end())?;
        self.memory.load(at).ok()
    }

    /// Where a memory operand is.
    fn address(&self, instruction: &Instruction) -> Option<u64> {
        let operand = (0..instruction.op_count()).find(|operand| instruction.op_kind(*operand) == OpKind::Memory)?;
        instruction.virtual_address(operand, 0, |register, _, _| match register {
            Register::FS => Some(self.bases.fs),
            Register::GS => Some(self.bases.gs),
            register if is_segment(register) => Some(0),
            register => self.register(register),
        })
    }

    /// What is in a general register, as far as its size goes.
    fn register(&self, register: Register) -> Option<u64> {
        let mut regs = self.regs;
        let (full, bytes) = full_register(register)?;
        let value = *slot(&mut regs, full)?;
        Some(match bytes {
            2 => value & 0xffff,
            4 => value & 0xffff_ffff,
            _ => value,
        })
    }

    fn set_register(&mut self, register: Register, value: u64) -> Option<()> {
        *slot(&mut self.regs, full_register(register)?.0)? = value;
        Some(())
    }
}

/// Whether an instruction that begins so can be [privileged](is_privileged) after another one: most cannot, and the
/// decoder's tables are large.
fn can_be_privileged(bytes: [u8; 8]) -> bool {
    let is_prefix =
        |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    let opcode = bytes.iter().position(|byte| !is_prefix(byte)).and_then(|at| bytes.get(at..));
    match opcode {
        Some([0x0f, second, ..]) => {
            matches!(second, 0x00 | 0x01 | 0x06 | 0x08 | 0x09 | 0x20..=0x23 | 0x30 | 0x32 | 0x33)
        }
        Some([first, _, ..]) => matches!(first, 0x8e | 0xf4 | 0xfa | 0xfb),
        _ => true,
    }
}

/// Whether it is one that only ring 0 can execute, or that raises an interrupt. Of the first instruction after a fault it
/// is enough that it may be: `mov` to a segment register can be anybody's.
fn is_privileged(instruction: &Instruction, faulted: bool) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Lgdt
        | Mnemonic::Lidt
        | Mnemonic::Ltr
        | Mnemonic::Lldt
        | Mnemonic::Cli
        | Mnemonic::Sti
        | Mnemonic::Clts
        | Mnemonic::Wbinvd
        | Mnemonic::Invd
        | Mnemonic::Invlpg
        | Mnemonic::Lmsw
        | Mnemonic::Wrmsr
        | Mnemonic::Rdmsr
        | Mnemonic::Swapgs
        | Mnemonic::Hlt
        | Mnemonic::Xsetbv
        | Mnemonic::Rdpmc => true,
        Mnemonic::Mov => {
            let (to, from) = (instruction.op0_register(), instruction.op1_register());
            is_segment(to) || is_control(to) || is_control(from)
        }
        Mnemonic::Retf
        | Mnemonic::Iretq
        | Mnemonic::In
        | Mnemonic::Insb
        | Mnemonic::Insd
        | Mnemonic::Insw
        | Mnemonic::Out
        | Mnemonic::Outsb
        | Mnemonic::Outsd
        | Mnemonic::Outsw
        | Mnemonic::Int3
        | Mnemonic::Int1
        | Mnemonic::Int => faulted,
        _ => false,
    }
}

const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// General registers and segments by the numbers that instructions have for them.
const GENERAL: [Register; 8] = [
    Register::RAX,
    Register::RCX,
    Register::RDX,
    Register::RBX,
    Register::RSP,
    Register::RBP,
    Register::RSI,
    Register::RDI,
];
const SEGMENTS: [Register; 6] = [Register::ES, Register::CS, Register::SS, Register::DS, Register::FS, Register::GS];

pub(super) fn sign_extend(value: u32) -> u64 {
    i64::from(value.cast_signed()).cast_unsigned()
}

fn is_segment(register: Register) -> bool {
    (Register::ES as u32..=Register::GS as u32).contains(&(register as u32))
}

fn is_control(register: Register) -> bool {
    let number = register as u32;
    (Register::CR0 as u32..=Register::CR15 as u32).contains(&number)
        || (Register::DR0 as u32..=Register::DR15 as u32).contains(&number)
}

/// The 64 bits that a register of two bytes or more is a part of, and its size in bytes. The decoder numbers registers
/// of one size one after the other.
fn full_register(register: Register) -> Option<(Register, usize)> {
    [(Register::AX, 2), (Register::EAX, 4), (Register::RAX, 8)].into_iter().find_map(|(first, bytes)| {
        let index = (register as u32).checked_sub(first as u32).filter(|index| *index < 16)?;
        Register::values().nth(usize::try_from(Register::RAX as u32 + index).ok()?).map(|full| (full, bytes))
    })
}

fn slot(regs: &mut kvm_regs, register: Register) -> Option<&mut u64> {
    Some(match register {
        Register::RAX => &mut regs.rax,
        Register::RBX => &mut regs.rbx,
        Register::RCX => &mut regs.rcx,
        Register::RDX => &mut regs.rdx,
        Register::RSI => &mut regs.rsi,
        Register::RDI => &mut regs.rdi,
        Register::RBP => &mut regs.rbp,
        Register::RSP => &mut regs.rsp,
        Register::R8 => &mut regs.r8,
        Register::R9 => &mut regs.r9,
        Register::R10 => &mut regs.r10,
        Register::R11 => &mut regs.r11,
        Register::R12 => &mut regs.r12,
        Register::R13 => &mut regs.r13,
        Register::R14 => &mut regs.r14,
        Register::R15 => &mut regs.r15,
        _ => return None,
    })
}

const _: () = assert!(PAGE_SIZE == 4096);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = u8> {
        prop_oneof![
            prop::sample::select(vec![0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3]),
            0x40..=0x4f_u8
        ]
    }

    proptest! {
        #[test]
        fn no_privileged_instruction_is_passed_over(
            prefixes in prop::collection::vec(prefix(), 0..9),
            opcode in prop_oneof![any::<u8>().prop_map(|second| vec![0x0f, second]), any::<u8>().prop_map(|first| vec![first])],
            rest in any::<[u8; 15]>(),
        ) {
            let bytes = [prefixes, opcode, rest.to_vec()].concat();
            let instruction = Decoder::with_ip(64, &bytes[..15], 0x10_0000, DecoderOptions::NONE).decode();
            if !instruction.is_invalid() && is_privileged(&instruction, false) {
                let head = bytes.first_chunk::<8>().copied().unwrap_or_default();
                prop_assert!(can_be_privileged(head), "{instruction:?} {bytes:x?}");
            }
        }
    }
}
