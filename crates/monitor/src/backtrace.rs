//! Who called whom when a guest ended: the chain of frame pointers, and where it breaks what looks like return addresses
//! on the stack. Used for crash reports, on a stack that a hostile guest may have written: every read is checked, the
//! walk only goes up, and it ends after [`FRAMES_MAX`] frames whatever it finds.

use kernlet_abi::{
    Span,
    map::{HYPERCALL_PAGE, PAGE_SIZE, STACK_BASE},
};

use crate::{
    crash::CodeAddress,
    elf::{Segment, Unikernel},
    hypercall::GuestView,
    processor::Registers,
};

/// Most frames of a backtrace.
pub(crate) const FRAMES_MAX: usize = 32;

/// Bytes of the stack that are searched for return addresses.
const SEARCH_MAX: u64 = 16 * 1024;

const WORD: u64 = 8;

/// A function that had not returned when the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The instruction that was next in it.
    pub at: CodeAddress,
    /// How sure that is.
    pub found: Found,
}

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is where the processor stood.
    Processor,
    /// The frames before it lead to it.
    Chain,
    /// Its return address lies on the stack, perhaps of a call that has long returned.
    Search,
}

impl Found {
    /// One word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Chain => "chain",
            Self::Search => "search",
        }
    }
}

/// The frames of a guest with these registers, innermost first; at least one.
pub(crate) fn walk(view: &GuestView, unikernel: &Unikernel, registers: &Registers) -> Vec<Frame> {
    let at = here(registers.rip, unikernel);
    let mut walk = Walk { view, unikernel, frames: vec![Frame { at, found: Found::Processor }], stack: registers.rsp };
    walk.take_caller_of_a_leaf(registers);
    if !walk.follow(registers.rbp) {
        walk.search();
    }
    walk.frames
}

/// Where the processor stands. The hypercall page is nobody's, and has a name all the same.
fn here(address: u64, unikernel: &Unikernel) -> CodeAddress {
    match address.checked_sub(HYPERCALL_PAGE).filter(|offset| *offset < PAGE_SIZE) {
        Some(offset) => CodeAddress { address, symbol: Some(("the hypercall page".to_owned(), offset)) },
        None => CodeAddress::new(address, unikernel),
    }
}

struct Walk<'a> {
    view: &'a GuestView,
    unikernel: &'a Unikernel,
    frames: Vec<Frame>,
    /// The frames so far lie below this address.
    stack: u64,
}

impl Walk<'_> {
    /// Code that has no frame yet or never has one: the hypercall page, a call to where no code is, and a function's
    /// first instructions. Its return address is the last thing on the stack.
    fn take_caller_of_a_leaf(&mut self, registers: &Registers) {
        let depth = match (code_at(self.unikernel, registers.rip), &self.frames[0].at.symbol) {
            (None, _) | (_, Some((_, 0))) => 0,
            // Behind `push rbp`.
            (Some((code, at)), Some((_, 1))) if code[at - 1] == 0x55 => WORD,
            _ => return,
        };
        let slot = registers.rsp.saturating_add(depth);
        if let Some(address) = self.word(slot).filter(|address| self.is_return(*address)) {
            self.push(address, Found::Chain);
            self.stack = slot.saturating_add(WORD);
        }
    }

    /// Goes from frame to frame, and says whether that came to the outermost.
    fn follow(&mut self, first: u64) -> bool {
        let mut frame = first;
        while frame != 0 {
            if frame < self.stack || !frame.is_multiple_of(WORD) || self.frames.len() == FRAMES_MAX {
                return false;
            }
            let (Some(next), Some(address)) = (self.word(frame), self.word(frame.saturating_add(WORD))) else {
                return false;
            };
            if address == 0 {
                // The entry point is not called by anybody.
                return true;
            }
            if !self.is_return(address) {
                return false;
            }
            self.push(address, Found::Chain);
            self.stack = frame.saturating_add(2 * WORD);
            frame = next;
        }
        self.frames.len() > 1
    }

    fn search(&mut self) {
        let guard = HYPERCALL_PAGE + PAGE_SIZE..STACK_BASE;
        let start = if guard.contains(&self.stack) { STACK_BASE } else { self.stack };
        let Some(start) = start.checked_next_multiple_of(WORD) else { return };
        let words = (0..SEARCH_MAX / WORD).map_while(|index| self.word(start.checked_add(index * WORD)?));
        let room = FRAMES_MAX - self.frames.len();
        let found: Vec<_> = words.filter(|address| self.is_return(*address)).take(room).collect();
        found.into_iter().for_each(|address| self.push(address, Found::Search));
    }

    fn push(&mut self, address: u64, found: Found) {
        self.frames.push(Frame { at: CodeAddress::of_return(address, self.unikernel), found });
    }

    /// A word that the guest itself could read.
    fn word(&self, offset: u64) -> Option<u64> {
        let allowed = self.view.layout.allows(Span { offset, len: WORD }, false);
        allowed.then(|| self.view.memory.load(offset).ok()).flatten()
    }

    fn is_return(&self, address: u64) -> bool {
        let last = address.checked_sub(1).and_then(|last| code_at(self.unikernel, last));
        last.is_some_and(|(code, at)| ends_with_call(&code[..=at]))
    }
}

/// The contents of the code segment that holds an address, and where in it that is. The file's bytes: code is never
/// writable.
fn code_at(unikernel: &Unikernel, address: u64) -> Option<(&[u8], usize)> {
    let holds = |segment: &&Segment| segment.execute && segment.memory.contains(&address);
    let segment = unikernel.segments().iter().find(holds)?;
    let at = usize::try_from(address - segment.memory.start).ok()?;
    let code = unikernel.contents(segment);
    (at < code.len()).then_some((code, at))
}

/// Whether the last instruction may be a call: `e8` with a distance, or `ff /2` (Intel SDM volume 2A, CALL).
fn ends_with_call(code: &[u8]) -> bool {
    let tail = |len: usize| code.len().checked_sub(len).map(|start| &code[start..]);
    tail(5).is_some_and(|call| call[0] == 0xe8)
        || [2, 3, 4, 6, 7].into_iter().filter_map(tail).any(|call| {
            call[0] == 0xff && call[1] >> 3 & 7 == 2 && call.len() == 1 + operand_len(call[1], call.get(2).copied())
        })
}

/// Length of a ModRM byte with what belongs to it (SDM volume 2A, tables 2-2 and 2-3).
fn operand_len(modrm: u8, sib: Option<u8>) -> usize {
    let (mode, register) = (modrm >> 6, modrm & 7);
    let has_sib = mode != 3 && register == 4;
    let base_is_a_distance = has_sib && sib.is_some_and(|sib| sib & 7 == 5);
    let distance = match mode {
        0 if register == 5 || base_is_a_distance => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    1 + usize::from(has_sib) + distance
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use std::sync::Arc;

    use kernlet_abi::map::STACK_TOP;
    use kernlet_accel::Runtime;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        MachineConfig,
        fuzzing::Sandbox,
        image::{CODE, Elf},
    };

    /// `call` forward five times, each returning to the next.
    const CALLS: [u8; 25] = [0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0, 0xe8, 0, 0, 0, 0];
    const MIB: u64 = 1 << 20;

    fn sandbox() -> Sandbox {
        let unikernel = Unikernel::parse(&Elf::with_code(&CALLS, b"").build()).expect("a unikernel");
        let config =
            MachineConfig { memory: 8 * MIB, request_limit: MIB, response_limit: MIB, environment: Vec::new() };
        Sandbox::new(&unikernel, &config, Arc::new(Runtime::new(Vec::new()).session())).expect("a machine")
    }

    /// Writes words to the stack, from `offset` on.
    fn place(sandbox: &Sandbox, offset: u64, words: &[u64]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        sandbox.place(offset, &bytes);
    }

    fn shown(frames: &[Frame]) -> Vec<(u64, Found)> {
        frames.iter().map(|frame| (frame.at.address, frame.found)).collect()
    }

    #[test]
    fn a_chain_of_frames_is_followed_to_its_end() {
        let sandbox = sandbox();
        let top = STACK_TOP - 64;
        place(&sandbox, top, &[0xdead, CODE + 20, top + 32, CODE + 5, 0, 0, 0]);
        let registers = Registers { rip: CODE + 12, rsp: top, rbp: top + 16, ..Registers::default() };
        let frames = sandbox.backtrace(&registers);
        assert_eq!(shown(&frames), [(CODE + 12, Found::Processor), (CODE + 5, Found::Chain)]);
    }

    #[test]
    fn a_broken_chain_is_searched_for_return_addresses_which_are_marked() {
        let sandbox = sandbox();
        let top = STACK_TOP - 64;
        place(&sandbox, top, &[0xdead, CODE + 20, CODE + 3, CODE + 5, u64::MAX]);
        for rbp in [1, 8, top + 3, STACK_TOP, u64::MAX, u64::MAX - 7] {
            let registers = Registers { rip: CODE + 12, rsp: top, rbp, ..Registers::default() };
            let frames = sandbox.backtrace(&registers);
            let expected = [(CODE + 12, Found::Processor), (CODE + 20, Found::Search), (CODE + 5, Found::Search)];
            assert_eq!(shown(&frames), expected, "{rbp:#x}");
        }
    }

    #[test]
    fn a_jump_to_nowhere_is_reported_with_where_it_came_from() {
        let sandbox = sandbox();
        let top = STACK_TOP - 64;
        place(&sandbox, top, &[CODE + 10]);
        for rip in [0, HYPERCALL_PAGE + 2, u64::MAX] {
            let frames = sandbox.backtrace(&Registers { rip, rsp: top, ..Registers::default() });
            assert_eq!(shown(&frames), [(rip, Found::Processor), (CODE + 10, Found::Chain)]);
        }
    }

    #[test]
    fn calls_of_every_form_are_known_by_their_bytes() {
        for call in [
            &[0xff, 0xd0][..],               // call rax
            &[0x41, 0xff, 0xd3],             // call r11
            &[0xff, 0x10],                   // call [rax]
            &[0xff, 0x50, 0x18],             // call [rax+24]
            &[0xff, 0x54, 0x24, 0x08],       // call [rsp+8]
            &[0xff, 0x14, 0xc8],             // call [rax+rcx*8]
            &[0xff, 0x15, 1, 2, 3, 4],       // call [rip+...]
            &[0xff, 0x90, 1, 2, 3, 4],       // call [rax+...]
            &[0xff, 0x94, 0x24, 1, 2, 3, 4], // call [rsp+...]
            &[0xff, 0x14, 0xc5, 1, 2, 3, 4], // call [rax*8+...]
            &[0xe8, 1, 2, 3, 4],             // call ...
        ] {
            assert!(ends_with_call(call), "{call:x?}");
        }
        for other in [&[][..], &[0xff], &[0xff, 0xe0], &[0xff, 0x50], &[0x90; 8], &[0xe9, 1, 2, 3, 4]] {
            assert!(!ends_with_call(other), "{other:x?}");
        }
    }

    proptest! {
        #[test]
        fn a_hostile_stack_is_walked_within_bounds(
            words in proptest::collection::vec(
                prop_oneof![
                    any::<u64>(),
                    CODE..CODE + 26,
                    STACK_TOP - 600..STACK_TOP + 16,
                    Just(STACK_TOP - 512),
                    Just(0),
                ],
                64,
            ),
            rsp in prop_oneof![any::<u64>(), STACK_TOP - 520..STACK_TOP + 16, STACK_BASE - 64..STACK_BASE + 64],
            rbp in prop_oneof![any::<u64>(), (STACK_TOP - 520..STACK_TOP + 16), Just(STACK_TOP - 512)],
            rip in prop_oneof![any::<u64>(), CODE..CODE + 26],
        ) {
            let sandbox = sandbox();
            place(&sandbox, STACK_TOP - 512, &words);
            let frames = sandbox.backtrace(&Registers { rip, rsp, rbp, ..Registers::default() });
            prop_assert!((1..=FRAMES_MAX).contains(&frames.len()));
            prop_assert_eq!((frames[0].at.address, frames[0].found), (rip, Found::Processor));
            for frame in &frames[1..] {
                let offset = frame.at.address.wrapping_sub(CODE);
                prop_assert!(offset > 0 && offset <= 25 && offset % 5 == 0, "{:x?}", frame);
            }
        }
    }
}
