//! What a guest's processor tells the monitor when it stops. Given by the backends, understood by `guest`.

/// Why a guest stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It makes the hypercall whose argument block is at this address.
    Hypercall {
        /// Guest-virtual address, unchecked.
        block: u32,
    },
    /// Its instruction raised an exception.
    Fault(Fault),
    /// A signal came: the deadline's kick, or one that has nothing to do with it.
    Interrupted,
    /// The backend had something to do that is done.
    Again,
    /// Something that no guest should be able to bring about.
    Unknown {
        /// What the backend says of it.
        detail: String,
    },
}

/// A processor exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// 0 to 31.
    pub(crate) vector: u8,
    /// Zero where the exception has none.
    pub(crate) error_code: u64,
    /// Address of the instruction.
    pub(crate) at: u64,
    /// Of a page fault: the address that was touched.
    pub(crate) address: u64,
}

/// The general registers of a stopped guest, as the guest itself would find them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "they have the processor's names")]
pub struct Registers {
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
}

impl Registers {
    /// Each with its name.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 18] {
        [
            ("rip", self.rip),
            ("rsp", self.rsp),
            ("rflags", self.rflags),
            ("rax", self.rax),
            ("rbx", self.rbx),
            ("rcx", self.rcx),
            ("rdx", self.rdx),
            ("rsi", self.rsi),
            ("rdi", self.rdi),
            ("rbp", self.rbp),
            ("r8", self.r8),
            ("r9", self.r9),
            ("r10", self.r10),
            ("r11", self.r11),
            ("r12", self.r12),
            ("r13", self.r13),
            ("r14", self.r14),
            ("r15", self.r15),
        ]
    }
}

impl Fault {
    /// The vector of a page fault.
    pub(crate) const PAGE_FAULT: u8 = 14;
    // Error code bits of a page fault (Intel SDM volume 3A, section 4.7).
    pub(crate) const WRITE: u64 = 1 << 1;
    pub(crate) const FETCH: u64 = 1 << 4;

    /// The exception's name, with its article.
    pub(crate) fn name(&self) -> &'static str {
        match self.vector {
            0 => "a division error",
            1 => "a debug exception",
            3 => "a breakpoint",
            4 => "an overflow",
            5 => "a bound range exception",
            6 => "an invalid opcode",
            7 => "a missing coprocessor",
            8 => "a double fault",
            10..=12 => "a segment fault",
            13 => "a general protection fault (a privileged instruction, a forbidden port or a wild address)",
            16 | 19 => "a floating-point exception",
            17 => "an alignment check",
            18 => "a machine check",
            21 => "a control protection exception",
            _ => "an exception",
        }
    }
}
