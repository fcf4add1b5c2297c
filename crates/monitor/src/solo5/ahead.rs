//! Carries out the guest's ordinary instructions between one privileged instruction and the next, when the bindings of a
//! guest load their tables at the start: an exit takes as long as thousands of them do here. Used by `emulate` alone. Whatever
//! it does not know, and memory that the guest may not use, it leaves to the processor, with nothing of it done.
//!
//! Encodings and flags as in Intel's SDM, volume 2: integer moves, additions, comparisons, logic, shifts by constants, jumps,
//! calls and the stack. What is undefined there is as processors do it.

use kvm_bindings::kvm_regs;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    GUEST_MIN,
    emulate::{Faulted, sign_extend},
};

/// Longest instruction, in bytes.
const LONGEST: usize = 15;

const STACK: u8 = 4;

// Flags.
const CARRY: u64 = 1 << 0;
const PARITY: u64 = 1 << 2;
const ADJUST: u64 = 1 << 4;
const ZERO: u64 = 1 << 6;
const SIGN: u64 = 1 << 7;
const OVERFLOW: u64 = 1 << 11;
const FLAGS: u64 = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW;

/// An instruction that is being read, with its prefixes.
struct Code {
    bytes: [u8; LONGEST],
    at: usize,
    rex: u8,
    is_short: bool,
}

/// Where an operand is.
#[derive(Clone, Copy)]
enum Place {
    Register(u8),
    Memory(u64),
    /// From the next instruction on.
    Relative(u64),
}

/// A width of operands, in bytes: 1, 2, 4 or 8.
type Width = u32;

impl Code {
    fn new(bytes: [u8; LONGEST]) -> Self {
        let is_short = bytes[0] == 0x66;
        let at = usize::from(is_short);
        let rex = Some(bytes[at]).filter(|byte| byte & 0xf0 == 0x40);
        Self { bytes, at: at + usize::from(rex.is_some()), rex: rex.unwrap_or_default(), is_short }
    }

    fn width(&self) -> Width {
        if self.rex & 8 != 0 {
            8
        } else if self.is_short {
            2
        } else {
            4
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let taken = self.bytes.get(self.at..)?.first_chunk().copied();
        self.at += N;
        taken
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A constant of one byte, sign-extended.
    fn small(&mut self) -> Option<u64> {
        self.byte().map(|byte| i64::from(byte.cast_signed()).cast_unsigned())
    }

    /// A constant of four bytes, sign-extended.
    fn large(&mut self) -> Option<u64> {
        self.take().map(|bytes| sign_extend(u32::from_le_bytes(bytes)))
    }

    /// A constant of the operands' width, but of four bytes for eight.
    fn constant(&mut self) -> Option<u64> {
        if self.width() == 2 { self.take().map(|bytes| u16::from_le_bytes(bytes).into()) } else { self.large() }
    }

    /// A register that the opcode names.
    fn named(&self, opcode: u8) -> u8 {
        opcode & 7 | (self.rex & 1) << 3
    }

    /// What the byte behind the opcode, and what belongs to it, says: a register, or more of the opcode, and a place.
    fn operands(&mut self, regs: &kvm_regs) -> Option<(u8, Place)> {
        let modes = self.byte()?;
        let register = modes >> 3 & 7 | (self.rex & 4) << 1;
        let (mode, base) = (modes >> 6, modes & 7);
        if mode == 3 {
            return Some((register, Place::Register(self.named(base))));
        }
        if mode == 0 && base == 5 {
            return Some((register, Place::Relative(self.large()?)));
        }
        let address = if base == 4 { self.scaled(mode, regs)? } else { numbered(regs, self.named(base)) };
        let offset = match mode {
            0 => 0,
            1 => self.small()?,
            _ => self.large()?,
        };
        Some((register, Place::Memory(address.wrapping_add(offset))))
    }

    fn scaled(&mut self, mode: u8, regs: &kvm_regs) -> Option<u64> {
        let parts = self.byte()?;
        let index = match parts >> 3 & 7 | (self.rex & 2) << 2 {
            STACK => 0,
            index => numbered(regs, index) << (parts >> 6),
        };
        let base = if mode == 0 && parts & 7 == 5 { self.large()? } else { numbered(regs, self.named(parts)) };
        Some(index.wrapping_add(base))
    }
}

impl Faulted<'_> {
    /// Carries out one instruction; nothing where it is none of those that are known here.
    pub(super) fn step_ahead(&mut self) -> Option<()> {
        let mut code = Code::new(self.look(self.regs.rip)?);
        let opcode = code.byte()?;
        if matches!(opcode, 0x50..=0x5f | 0x68 | 0x6a | 0x70..=0x7f | 0xc3 | 0xe8 | 0xe9 | 0xeb) && !code.is_short {
            return self.stack_or_jump(&mut code, opcode);
        }
        let width = code.width();
        match opcode {
            0x00..=0x3f if opcode & 6 == 4 => {
                let (kind, second) = (opcode >> 3, if opcode & 1 == 1 { code.constant()? } else { return None });
                self.compute(&code, kind, Place::Register(0), second, width)?;
            }
            0x00..=0x3f if matches!(opcode & 7, 1 | 3) => {
                let (register, place) = code.operands(&self.regs)?;
                let (to, from) = if opcode & 2 == 0 {
                    (place, Place::Register(register))
                } else {
                    (Place::Register(register), place)
                };
                let second = self.get(&code, from, width)?;
                self.compute(&code, opcode >> 3, to, second, width)?;
            }
            0x81 | 0x83 => {
                let (kind, place) = code.operands(&self.regs)?;
                let second = if opcode == 0x81 { code.constant()? } else { code.small()? };
                self.compute(&code, kind & 7, place, second, width)?;
            }
            0x85 => {
                let (register, place) = code.operands(&self.regs)?;
                let (first, second) =
                    (self.get(&code, place, width)?, self.get(&code, Place::Register(register), width)?);
                self.set_flags(arithmetic(4, first, second, width)?.1);
            }
            0x89 | 0x8b => {
                let (register, place) = code.operands(&self.regs)?;
                let register = Place::Register(register);
                let (to, from) = if opcode == 0x89 { (place, register) } else { (register, place) };
                let value = self.get(&code, from, width)?;
                self.put(&code, to, value, width)?;
            }
            0x8d => {
                let (register, place) = code.operands(&self.regs)?;
                let address = self.address_of(&code, place)?;
                self.put(&code, Place::Register(register), address, width)?;
            }
            0x90 if code.rex & 1 == 0 => {}
            0xb8..=0xbf if width != 2 => {
                let value = if width == 8 { u64::from_le_bytes(code.take()?) } else { code.large()? };
                self.put(&code, Place::Register(code.named(opcode)), value, width)?;
            }
            0xc1 | 0xd1 => {
                let (kind, place) = code.operands(&self.regs)?;
                let count = if opcode == 0xc1 { code.byte()? } else { 1 };
                let (value, flags) = shift(kind & 7, self.get(&code, place, width)?, count.into(), width)?;
                self.put(&code, place, value, width)?;
                self.set_flags(flags);
            }
            0xc6 | 0xc7 => {
                let (kind, place) = code.operands(&self.regs)?;
                let is_byte = opcode == 0xc6;
                let value = if is_byte { code.small()? } else { code.constant()? };
                if kind & 7 != 0 || is_byte && matches!(place, Place::Register(_)) {
                    return None;
                }
                self.put(&code, place, value, if is_byte { 1 } else { width })?;
            }
            0x0f => return self.two_byte(&mut code),
            _ => return None,
        }
        self.pass(&code)
    }

    /// An instruction whose opcode has two bytes.
    fn two_byte(&mut self, code: &mut Code) -> Option<()> {
        let (opcode, width) = (code.byte()?, code.width());
        match opcode {
            0x1f => {
                let _nothing_is_done_there = code.operands(&self.regs)?;
            }
            0x80..=0x8f if !code.is_short => {
                let offset = code.large()?;
                if self.holds(opcode) {
                    return self.jump(code, offset);
                }
            }
            0xb6 | 0xb7 => {
                let (register, place) = code.operands(&self.regs)?;
                if opcode == 0xb6 && matches!(place, Place::Register(_)) && code.rex == 0 {
                    // It may be the second byte of another one.
                    return None;
                }
                let value = self.get(code, place, if opcode == 0xb6 { 1 } else { 2 })?;
                self.put(code, Place::Register(register), value, width)?;
            }
            _ => return None,
        }
        self.pass(code)
    }

    /// An instruction whose operands have eight bytes whatever its prefixes are.
    fn stack_or_jump(&mut self, code: &mut Code, opcode: u8) -> Option<()> {
        match opcode {
            0x50..=0x57 => self.push(numbered(&self.regs, code.named(opcode)))?,
            0x58..=0x5f => {
                let value = self.look(self.regs.rsp)?;
                self.regs.rsp = self.regs.rsp.wrapping_add(8);
                *slot(&mut self.regs, code.named(opcode)) = value;
            }
            0x68 | 0x6a => {
                let value = if opcode == 0x68 { code.large()? } else { code.small()? };
                self.push(value)?;
            }
            0xc3 => {
                let to = self.look(self.regs.rsp)?;
                // Where there is no code the processor takes exception to the return, not to what is there.
                self.look::<u8>(to)?;
                self.regs.rsp = self.regs.rsp.wrapping_add(8);
                self.regs.rip = to;
                return Some(());
            }
            0xe8 => {
                let offset = code.large()?;
                self.push(self.behind(code))?;
                return self.jump(code, offset);
            }
            0xe9 | 0xeb => {
                let offset = if opcode == 0xe9 { code.large()? } else { code.small()? };
                return self.jump(code, offset);
            }
            _ => {
                let offset = code.small()?;
                if self.holds(opcode) {
                    return self.jump(code, offset);
                }
            }
        }
        self.pass(code)
    }

    /// Address of the next instruction.
    fn behind(&self, code: &Code) -> u64 {
        self.regs.rip.wrapping_add(code.at as u64)
    }

    fn pass(&mut self, code: &Code) -> Option<()> {
        self.regs.rip = self.behind(code);
        Some(())
    }

    fn jump(&mut self, code: &Code, offset: u64) -> Option<()> {
        self.regs.rip = self.behind(code).wrapping_add(offset);
        Some(())
    }

    /// Whether the condition that an opcode ends with holds.
    fn holds(&self, opcode: u8) -> bool {
        let is = |flag| self.regs.rflags & flag != 0;
        let differ = is(SIGN) != is(OVERFLOW);
        let holds = match opcode >> 1 & 7 {
            0 => is(OVERFLOW),
            1 => is(CARRY),
            2 => is(ZERO),
            3 => is(CARRY) || is(ZERO),
            4 => is(SIGN),
            5 => is(PARITY),
            6 => differ,
            _ => differ || is(ZERO),
        };
        holds != (opcode & 1 == 1)
    }

    fn compute(&mut self, code: &Code, kind: u8, to: Place, second: u64, width: Width) -> Option<()> {
        const COMPARE: u8 = 7;
        let (value, flags) = arithmetic(kind, self.get(code, to, width)?, second, width)?;
        if kind != COMPARE {
            self.put(code, to, value, width)?;
        }
        self.set_flags(flags);
        Some(())
    }

    fn set_flags(&mut self, flags: u64) {
        self.regs.rflags = self.regs.rflags & !FLAGS | flags;
    }

    fn address_of(&self, code: &Code, place: Place) -> Option<u64> {
        match place {
            Place::Register(_) => None,
            Place::Memory(address) => Some(address),
            Place::Relative(offset) => Some(self.behind(code).wrapping_add(offset)),
        }
    }

    fn get(&self, code: &Code, place: Place, width: Width) -> Option<u64> {
        if let Place::Register(number) = place {
            return Some(numbered(&self.regs, number) & mask(width));
        }
        let at = self.address_of(code, place)?;
        match width {
            1 => self.look::<u8>(at).map(u64::from),
            2 => self.look::<u16>(at).map(u64::from),
            4 => self.look::<u32>(at).map(u64::from),
            _ => self.look(at),
        }
    }

    #[allow(clippy::cast_possible_truncation, reason = "the width says what is meant of the value")]
    fn put(&mut self, code: &Code, place: Place, value: u64, width: Width) -> Option<()> {
        if let Place::Register(number) = place {
            let register = slot(&mut self.regs, number);
            // Four bytes make the upper ones zero, fewer leave them.
            let kept = if width < 4 { *register & !mask(width) } else { 0 };
            *register = value & mask(width) | kept;
            return Some(());
        }
        let at = self.address_of(code, place)?;
        match width {
            1 => self.leave(at, &(value as u8)),
            2 => self.leave(at, &(value as u16)),
            4 => self.leave(at, &(value as u32)),
            _ => self.leave(at, &value),
        }
    }

    /// What the guest itself can read, and nothing that is hidden from it or that it is told of at the start.
    fn look<T: FromBytes + IntoBytes>(&self, at: u64) -> Option<T> {
        let end = at.checked_add(size_of::<T>() as u64).filter(|end| at >= GUEST_MIN && *end <= self.layout.end())?;
        if !self.layout.is_readable(at..end) {
            return None;
        }
        self.memory.load(at).ok()
    }

    /// Writes where the guest itself can.
    fn leave<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Option<()> {
        let end = at.checked_add(size_of::<T>() as u64).filter(|end| at >= GUEST_MIN && *end <= self.layout.end())?;
        if !self.layout.is_writable(at..end) || !self.layout.is_readable(at..end) {
            return None;
        }
        self.memory.store(at, value).ok()
    }

    fn push(&mut self, value: u64) -> Option<()> {
        let at = self.regs.rsp.checked_sub(8)?;
        self.leave(at, &value)?;
        self.regs.rsp = at;
        Some(())
    }
}

fn mask(width: Width) -> u64 {
    u64::MAX >> (64 - 8 * width)
}

/// Result and flags of an operation by the number that opcodes have for it.
fn arithmetic(kind: u8, first: u64, second: u64, width: Width) -> Option<(u64, u64)> {
    let (mask, sign) = (mask(width), 1 << (8 * width - 1));
    let (first, second) = (first & mask, second & mask);
    let (result, carry, overflow) = match kind {
        0 => {
            let sum = first.wrapping_add(second) & mask;
            (sum, sum < first, (first ^ sum) & (second ^ sum) & sign != 0)
        }
        1 => (first | second, false, false),
        4 => (first & second, false, false),
        5 | 7 => {
            let less = first.wrapping_sub(second) & mask;
            (less, first < second, (first ^ second) & (first ^ less) & sign != 0)
        }
        6 => (first ^ second, false, false),
        _ => return None,
    };
    let adjust = if matches!(kind, 0 | 5 | 7) { (first ^ second ^ result) & ADJUST } else { 0 };
    Some((result, adjust | flags_of(result, sign, carry, overflow)))
}

/// The same of a shift.
fn shift(kind: u8, value: u64, count: u32, width: Width) -> Option<(u64, u64)> {
    let (bits, mask, sign) = (8 * width, mask(width), 1 << (8 * width - 1));
    if count == 0 || count >= bits {
        return None;
    }
    let last_out = value >> (count - 1) & 1 != 0;
    let (result, carry, overflow) = match kind {
        4 => {
            let (result, carry) = (value << count & mask, value >> (bits - count) & 1 != 0);
            (result, carry, (result & sign != 0) != carry)
        }
        5 => (value >> count, last_out, value & sign != 0),
        7 => {
            let wide = (value << (64 - bits)).cast_signed() >> (64 - bits);
            ((wide >> count).cast_unsigned() & mask, last_out, false)
        }
        _ => return None,
    };
    Some((result, flags_of(result, sign, carry, overflow)))
}

fn flags_of(result: u64, sign: u64, carry: bool, overflow: bool) -> u64 {
    let set = |is, flag| if is { flag } else { 0 };
    set(carry, CARRY)
        | set(overflow, OVERFLOW)
        | set(result == 0, ZERO)
        | set(result & sign != 0, SIGN)
        | set((result & 0xff).count_ones().is_multiple_of(2), PARITY)
}

/// A general register by the number that instructions have for it.
fn slot(regs: &mut kvm_regs, number: u8) -> &mut u64 {
    match number {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        STACK => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    }
}

fn numbered(regs: &kvm_regs, number: u8) -> u64 {
    let mut regs = *regs;
    *slot(&mut regs, number)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use std::{
        env,
        time::{Duration, Instant},
    };

    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::{
        Hypervisor,
        solo5::{
            Config, Console, ConsoleError, Devices, End, Image, Machine, Ring, Target, image::unikernel,
            processor::PORT_BASE,
        },
    };

    /// What the code under test reads and writes, its stack in the middle.
    const DATA: u64 = GUEST_MIN + 0x1_0000;
    const DATA_LEN: usize = 0x2000;
    const STACK_TOP: u64 = DATA + 0x1000;
    /// Where it leaves its registers.
    const LEFT: u32 = 0x1800;

    const BASE: u8 = 8;
    const INDEX: u8 = 9;
    const CLI: u8 = 0xfa;
    const NOP: u8 = 0x90;

    struct Silent;

    impl Console for Silent {
        fn write(&mut self, _: &[u8]) -> Result<(), ConsoleError> {
            Ok(())
        }
    }

    fn kvm() -> Option<Hypervisor> {
        match Hypervisor::open() {
            Ok(hypervisor) => Some(hypervisor),
            Err(error) => {
                let required = env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
                assert!(!required, "KERNLET_REQUIRE_KVM=1, and {error}");
                None
            }
        }
    }

    /// A guest of this code, when it has ended or has run for so long.
    fn run(hypervisor: &Hypervisor, code: &[u8], time: Duration) -> (Machine, Result<(), End>) {
        let image = Image::parse(unikernel(code, &[]).into(), Target::Hvt).unwrap();
        let (devices, config) = (Devices::new(image.manifest()), Config { memory: 4 << 20, ring: Ring::Three });
        let mut machine = Machine::boot(hypervisor, &image, devices, b"", config, None).unwrap();
        let ended = machine.run(&mut Silent, Some(Instant::now() + time)).map(drop);
        (machine, ended)
    }

    #[derive(Clone, Copy, Debug)]
    enum Operand {
        Register(u8),
        Near(i8),
        Far(u16),
        Scaled(i8),
        Relative(u16),
    }

    /// Instructions as an assembler writes them.
    #[derive(Clone, Debug, Default)]
    struct Text(Vec<u8>);

    impl Text {
        fn instruction(&mut self, width: u32, opcode: &[u8], register: u8, operand: Operand, constant: &[u8]) {
            let high = |number: u8, bit: u8| if number > 7 { bit } else { 0 };
            let base = match operand {
                Operand::Register(number) => high(number, 1),
                Operand::Near(_) | Operand::Far(_) => 1,
                Operand::Scaled(_) => 3,
                Operand::Relative(_) => 0,
            };
            self.0.extend((width == 2).then_some(0x66));
            self.0.push(0x40 | if width == 8 { 8 } else { 0 } | high(register, 4) | base);
            self.0.extend(opcode);
            let modes = |mode: u8, rm: u8| mode << 6 | (register & 7) << 3 | rm;
            match operand {
                Operand::Register(number) => self.0.push(modes(3, number & 7)),
                Operand::Near(offset) => self.0.extend([modes(1, BASE & 7), offset.cast_unsigned()]),
                Operand::Far(offset) => {
                    self.0.push(modes(2, BASE & 7));
                    self.0.extend(u32::from(offset).to_le_bytes());
                }
                Operand::Scaled(offset) => {
                    self.0.extend([modes(1, 4), 2 << 6 | (INDEX & 7) << 3 | BASE & 7, offset.cast_unsigned()]);
                }
                Operand::Relative(offset) => {
                    self.0.push(modes(0, 5));
                    let next = GUEST_MIN + (self.0.len() + 4 + constant.len()) as u64;
                    let distance = DATA + u64::from(offset) - next;
                    self.0.extend(u32::try_from(distance).unwrap().to_le_bytes());
                }
            }
            self.0.extend(constant);
        }

        fn set(&mut self, register: u8, value: u64) {
            self.0.extend([0x48 | u8::from(register > 7), 0xb8 | register & 7]);
            self.0.extend(value.to_le_bytes());
        }
    }

    /// One or a few instructions that are carried out ahead.
    #[derive(Clone, Debug)]
    enum Unit {
        Compute { kind: u8, form: u8, width: u32, register: u8, operand: Operand, constant: u32 },
        Shift { kind: u8, width: u32, operand: Operand, count: u8 },
        Move { form: u8, width: u32, register: u8, operand: Operand, constant: u32 },
        Skip { condition: u8, long: bool, skipped: Box<Unit> },
        Stack { register: u8, to: u8, constant: u32 },
        Call,
    }

    impl Unit {
        fn write(&self, text: &mut Text) {
            match *self {
                Self::Compute { kind, form, width, register, operand, constant } => match form {
                    0 => text.instruction(width, &[kind << 3 | 1], register, operand, &[]),
                    1 => text.instruction(width, &[kind << 3 | 3], register, operand, &[]),
                    2 => text.instruction(width, &[0x81], kind, operand, &bytes(constant, width)),
                    3 => text.instruction(width, &[0x83], kind, operand, &bytes(constant, 1)),
                    4 => text.instruction(width, &[0x85], register, operand, &[]),
                    _ => {
                        text.0.extend((width == 2).then_some(0x66));
                        text.0.extend([0x40 | if width == 8 { 8 } else { 0 }, kind << 3 | 5]);
                        text.0.extend(bytes(constant, width));
                    }
                },
                Self::Shift { kind, width, operand, count } => {
                    let count = count % u8::try_from(8 * width).unwrap();
                    if count < 2 {
                        text.instruction(width, &[0xd1], kind, operand, &[]);
                    } else {
                        text.instruction(width, &[0xc1], kind, operand, &[count]);
                        // The flag of overflows is undefined now.
                        text.instruction(8, &[0x85], 0, Operand::Register(0), &[]);
                    }
                }
                Self::Move { form, width, register, operand, constant } => match (form, operand) {
                    (0, _) => text.instruction(width, &[0x89], register, operand, &[]),
                    (1, _) => text.instruction(width, &[0x8b], register, operand, &[]),
                    (2, _) => text.instruction(width, &[0xc7], 0, operand, &bytes(constant, width)),
                    (3, Operand::Register(_)) | (4, _) => {
                        text.instruction(width, &[0x0f, 0xb6], register, operand, &[])
                    }
                    (3, _) => text.instruction(width, &[0xc6], 0, operand, &bytes(constant, 1)),
                    (5, _) => text.instruction(width, &[0x0f, 0xb7], register, operand, &[]),
                    (6, Operand::Register(_)) => text.set(register, u64::from(constant) * 0x1_0000_0001),
                    (6, _) => text.instruction(width, &[0x8d], register, operand, &[]),
                    _ => text.instruction(width, &[0x0f, 0x1f], 0, operand, &[]),
                },
                Self::Skip { condition, long, ref skipped } => {
                    // As long where it will be: what it refers to is relative to it.
                    let mut there = text.clone();
                    there.0.extend([0; 6][..if long { 6 } else { 2 }].iter());
                    let begin = there.0.len();
                    skipped.write(&mut there);
                    let len = there.0.len() - begin;
                    if long {
                        text.0.extend([0x0f, 0x80 | condition]);
                        text.0.extend(u32::try_from(len).unwrap().to_le_bytes());
                    } else {
                        text.0.extend([0x70 | condition, u8::try_from(len).unwrap()]);
                    }
                    text.0.extend(&there.0[begin..]);
                }
                Self::Stack { register, to, constant } => {
                    text.0.extend([0x40 | u8::from(register > 7), 0x50 | register & 7, 0x68]);
                    text.0.extend(constant.to_le_bytes());
                    text.0.extend([0x6a, constant.to_le_bytes()[0]]);
                    for _ in 0..3 {
                        text.0.extend([0x40 | u8::from(to > 7), 0x58 | to & 7]);
                    }
                }
                // call 1f; jmp 2f; 1: ret; 2:
                Self::Call => text.0.extend([0xe8, 2, 0, 0, 0, 0xeb, 1, 0xc3]),
            }
        }
    }

    fn bytes(constant: u32, width: u32) -> Vec<u8> {
        constant.to_le_bytes()[..usize::try_from(width.min(4)).unwrap()].to_vec()
    }

    /// Not the stack's, nor those by which memory is found.
    fn register() -> impl Strategy<Value = u8> {
        select(vec![0, 1, 2, 3, 5, 6, 7, 10, 11, 12, 13, 14, 15])
    }

    fn operand() -> impl Strategy<Value = Operand> {
        prop_oneof![
            register().prop_map(Operand::Register),
            (0..=i8::MAX).prop_map(Operand::Near),
            (0..0x700_u16).prop_map(Operand::Far),
            any::<i8>().prop_map(Operand::Scaled),
            (0..0x700_u16).prop_map(Operand::Relative),
        ]
    }

    fn unit() -> impl Strategy<Value = Unit> {
        let width = || select(vec![2_u32, 4, 8]);
        let constant = || prop_oneof![any::<u32>(), select(vec![0, 1, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, u32::MAX])];
        let simple = prop_oneof![
            4 => (select(vec![0, 1, 4, 5, 6, 7]), 0..6_u8, width(), register(), operand(), constant()).prop_map(
                |(kind, form, width, register, operand, constant)| Unit::Compute { kind, form, width, register, operand, constant }
            ),
            2 => (select(vec![4, 5, 7]), width(), operand(), any::<u8>())
                .prop_map(|(kind, width, operand, count)| Unit::Shift { kind, width, operand, count }),
            4 => (0..8_u8, width(), register(), operand(), constant()).prop_map(
                |(form, width, register, operand, constant)| Unit::Move { form, width, register, operand, constant }
            ),
            1 => (register(), register(), constant()).prop_map(|(register, to, constant)| Unit::Stack { register, to, constant }),
            1 => Just(Unit::Call),
        ];
        simple.prop_recursive(1, 2, 1, |skipped| {
            (0..16_u8, any::<bool>(), skipped.prop_map(Box::new)).prop_map(|(condition, long, skipped)| Unit::Skip {
                condition,
                long,
                skipped,
            })
        })
    }

    /// The units between two instructions, with registers set before and left behind.
    fn program(units: &[Unit], seeds: &[u64], between: u8) -> Vec<u8> {
        let mut text = Text::default();
        for (number, seed) in (0..).zip(seeds) {
            text.set(number, *seed);
        }
        text.set(STACK, STACK_TOP);
        text.set(BASE, DATA);
        text.set(INDEX, 0x100);
        text.0.push(between);
        units.iter().for_each(|unit| unit.write(&mut text));
        // All flags are defined now.
        text.instruction(4, &[0x81], 7, Operand::Register(0), &[1, 2, 3, 4]);
        text.0.push(between);
        for number in 0..16 {
            text.instruction(
                8,
                &[0x89],
                number,
                Operand::Far(u16::try_from(LEFT).unwrap() + u16::from(number) * 8),
                &[],
            );
        }
        text.0.extend([0x9c, 0x58]);
        text.instruction(8, &[0x89], 0, Operand::Far(u16::try_from(LEFT).unwrap() + 128), &[]);
        // halt, with what is zero at the end of the data
        text.set(0, DATA + DATA_LEN as u64);
        text.set(2, u64::from(PORT_BASE + crate::solo5::hypercall::number::HALT));
        text.0.push(0xef);
        text.0
    }

    fn left(machine: &Machine) -> Vec<u8> {
        let mut data = vec![0; DATA_LEN];
        machine.memory.read(DATA, &mut data).unwrap();
        data
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.min(96)))]

        #[test]
        fn what_is_carried_out_ahead_is_what_the_processor_does(
            units in prop::collection::vec(unit(), 1..60),
            seeds in prop::collection::vec(prop_oneof![any::<u64>(), select(vec![0, 1, u64::MAX, 1 << 63])], 16),
        ) {
            let Some(hypervisor) = kvm() else { return Ok(()) };
            let time = Duration::from_secs(60);
            let (by_processor, ended) = run(&hypervisor, &program(&units, &seeds, NOP), time);
            prop_assert!(ended.is_ok() && by_processor.usage.exits == 1, "{ended:?}");
            let (ahead, ended) = run(&hypervisor, &program(&units, &seeds, CLI), time);
            prop_assert!(ended.is_ok(), "{ended:?}");
            prop_assert_eq!(ahead.usage.exits, 2, "some of it was left to the processor");
            prop_assert!(left(&ahead) == left(&by_processor));
        }
    }

    #[test]
    fn a_guest_that_goes_in_circles_by_privileged_instructions_is_held_to_its_deadline() {
        let Some(hypervisor) = kvm() else { return };
        // 1: cli; jmp 1b
        let (_, ended) = run(&hypervisor, &[CLI, 0xeb, 0xfd], Duration::from_millis(50));
        assert!(matches!(ended, Err(End::Timeout)), "{ended:?}");
        // push 0x10; push rsp; pushfq; push 8; lea rax, [rip + 1]; push rax; iretq, to itself, from the same stack
        let mut text = Text::default();
        text.set(STACK, STACK_TOP);
        text.set(0, GUEST_MIN);
        text.0.extend([0x6a, 0x10, 0x68]);
        text.0.extend(u32::try_from(STACK_TOP - 40).unwrap().to_le_bytes());
        text.0.extend([0x6a, 2, 0x6a, 8, 0x68]);
        let iretq = GUEST_MIN + text.0.len() as u64 + 4;
        text.0.extend(u32::try_from(iretq).unwrap().to_le_bytes());
        text.0.extend([0x48, 0xcf]);
        let (_, ended) = run(&hypervisor, &text.0, Duration::from_millis(50));
        assert!(matches!(ended, Err(End::Timeout)), "{ended:?}");
    }

    #[test]
    fn what_the_guest_may_not_use_is_left_to_the_processor() {
        let Some(hypervisor) = kvm() else { return };
        // Each is a page fault for which there is no handler: a store to the code, a load beyond memory, a return to nowhere.
        for code in [
            &[0xc7, 0x05, 0, 0, 0, 0, 1, 0, 0, 0][..],
            &[0x48, 0xb8, 0, 0, 0, 0, 1, 0, 0, 0, 0x48, 0x8b, 0],
            &[0x68, 0, 0, 0, 0x70, 0xc3],
        ] {
            for first in [CLI, NOP] {
                let (_, ended) = run(&hypervisor, &[&[first], code].concat(), Duration::from_secs(60));
                let ended = ended.map_err(|error| error.to_string()).unwrap_err();
                let (_, natively) = run(&hypervisor, &[&[NOP], code].concat(), Duration::from_secs(60));
                assert_eq!(ended, natively.unwrap_err().to_string(), "{code:x?}");
            }
        }
    }
}
