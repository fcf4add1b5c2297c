//! Guests of a few chosen instructions, and the check that whatever they do ends only themselves. Used by the tests
//! that attack the monitor.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests; each uses a part")]

use std::time::{Duration, Instant};

use iced_x86::{
    IcedError,
    code_asm::{CodeAssembler, dword_ptr, eax, edi, rax},
};
use kernlet_abi::{hypercall::number, map::HYPERCALL_PAGE};
use kernlet_monitor::{Backend, Crash, Hypervisor, Machine};

use crate::{
    common::{Function, patience},
    image::{CODE, DATA, Elf},
};

/// Writes instructions.
pub(crate) type Code = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Where an attack's own hypercall block is, of which the first bytes are given to [`Arena::run`].
pub(crate) const BLOCK: u64 = DATA;

/// Where an attack's last hypercall block is: `next_request`, by which it shows that it survived.
const LAST_BLOCK: u64 = DATA + 0x800;

/// Where a response's head lies, of status 201 and nothing else, in the guests of [`Arena::answering`].
pub(crate) const RESPONSE: u64 = DATA + 0x900;

/// Data that an attack may use as it likes, aligned to 64 bytes.
pub(crate) const SCRATCH: u64 = DATA + 0x1000;

/// How long a guest may run that is expected to run for ever.
fn soon() -> Instant {
    Instant::now() + Duration::from_millis(250) * patience()
}

/// A host with a well-behaved function on it, which must not notice the others.
pub(crate) struct Arena {
    echo: Function,
}

impl Arena {
    /// On one backend after the other.
    pub(crate) fn on_each_backend() -> impl Iterator<Item = Self> {
        Function::on_each_backend("echo").map(|echo| Self { echo })
    }

    /// On KVM; `None` where there is none.
    pub(crate) fn on_kvm() -> Option<Self> {
        Self::on_each_backend().find(|arena| arena.hypervisor().backend() == Backend::Kvm)
    }

    pub(crate) fn hypervisor(&self) -> &Hypervisor {
        &self.echo.hypervisor
    }

    /// Boots a machine of this code, followed by `next_request`, and then proves on the same thread that a machine
    /// of another function works.
    pub(crate) fn run(&self, code: Code, block: &[u8]) -> Result<Machine, Box<Crash>> {
        self.run_elf(&Elf::with_code(&assemble(code), block))
    }

    /// The same for a whole image.
    pub(crate) fn run_elf(&self, elf: &Elf) -> Result<Machine, Box<Crash>> {
        let attacker = Function::of(self.echo.hypervisor.clone(), &elf.build());
        let outcome = attacker.boot_until(soon());
        self.assert_unharmed();
        outcome
    }

    /// A machine whose guest waits for a request, carries out this code, and answers, again and again.
    pub(crate) fn answering(&self, code: Code) -> Option<Machine> {
        let assembled = CodeAssembler::new(64).and_then(|mut a| {
            next_request(&mut a, LAST_BLOCK, 0)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            code(&mut a)?;
            next_request(&mut a, LAST_BLOCK, u32::try_from(RESPONSE).unwrap())?;
            a.jmp(again)?;
            a.assemble(CODE)
        });
        let mut data = vec![0; usize::try_from(SCRATCH - DATA).unwrap()];
        let at = usize::try_from(RESPONSE - DATA).unwrap();
        data[at..at + 4].copy_from_slice(&201_u32.to_le_bytes());
        let elf = Elf::with_code(&assembled.expect("instructions that exist"), &data).build();
        Function::of(self.echo.hypervisor.clone(), &elf).boot().ok()
    }

    /// How the attack ended, which it must have.
    pub(crate) fn crash(&self, name: &str, code: Code) -> Box<Crash> {
        match self.run(code, &[]) {
            Ok(_) => panic!("{name}: the guest went on"),
            Err(crash) => crash,
        }
    }

    /// Another function's new machine answers as ever.
    pub(crate) fn assert_unharmed(&self) {
        let response = self.echo.ask("/", b"unharmed").expect("another function's machine answers");
        assert_eq!((response.status, response.body.as_slice()), (200, &b"unharmed"[..]));
    }
}

/// The bytes of some code at [`CODE`], with `next_request` behind it.
pub(crate) fn assemble(code: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Vec<u8> {
    let assembled = CodeAssembler::new(64).and_then(|mut a| {
        code(&mut a)?;
        next_request(&mut a, LAST_BLOCK, 0)?;
        a.assemble(CODE)
    });
    assembled.expect("instructions that exist")
}

/// Hands over `response` and waits for a request.
pub(crate) fn next_request(a: &mut CodeAssembler, block: u64, response: u32) -> Result<(), IcedError> {
    let block = i64::try_from(block).unwrap();
    let signed = |value: u32| i32::from_ne_bytes(value.to_ne_bytes());
    for (offset, value) in [(0, number::NEXT_REQUEST), (4, 0), (8, response), (12, 0)] {
        a.mov(dword_ptr(block + offset), signed(value))?;
    }
    hypercall(a, u64::try_from(block).unwrap())
}

/// Makes the call whose block is at `block`.
pub(crate) fn hypercall(a: &mut CodeAssembler, block: u64) -> Result<(), IcedError> {
    a.mov(edi, u32::try_from(block).unwrap())?;
    a.mov(eax, u32::try_from(HYPERCALL_PAGE).unwrap())?;
    a.call(rax)
}
