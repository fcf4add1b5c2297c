//! The vector registers of a clean machine are its template's from the first instruction on, and the code that loads
//! them is of no use to a guest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, reason = "a guest's own addresses fit 31 bits")]

#[path = "common/attack.rs"]
mod attack;
mod common;
#[path = "common/image.rs"]
mod image;

use attack::{Arena, BLOCK, Code, RESPONSE, SCRATCH};
use common::{MIB, in_seconds, request};
use iced_x86::{IcedError, code_asm::*};
use kernlet_abi::{
    hypercall::number,
    map::{HYPERCALL_PAGE, PAGE_SIZE, STACK_TOP},
};
use kernlet_monitor::Machine;

/// The request window of the machines here: 16 MiB of memory, requests of 1 MiB.
const WINDOW: u64 = 16 * MIB - MIB - 64 * 1024;

/// Bytes of the state that a guest shows: x87, SSE and the XSAVE header, then AVX and AVX-512.
const SHOWN: u64 = 2688;

const CANARY: u8 = 0xa7;

/// Answers with all registers of `xsave` as they are when the request comes in.
fn show(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(eax, -1)?;
    a.mov(edx, -1)?;
    if std::arch::is_x86_feature_detected!("xsave") {
        a.xsave64(ptr(SCRATCH))?;
    } else {
        a.fxsave64(ptr(SCRATCH))?;
    }
    a.mov(qword_ptr(RESPONSE + 24), SCRATCH as i32)?;
    a.mov(qword_ptr(RESPONSE + 32), SHOWN as i32)?;
    a.mov(rax, u64::from_ne_bytes([CANARY; 8]))?;
    a.push(rax)?;
    for _ in 0..8 {
        a.fild(qword_ptr(rsp))?;
    }
    a.mov(dword_ptr(rsp), 0x0f7f)?;
    a.fldcw(word_ptr(rsp))?;
    a.mov(dword_ptr(rsp), 0x7fc0)?;
    a.ldmxcsr(dword_ptr(rsp))?;
    a.pop(rcx)
}

fn fill_sse(a: &mut CodeAssembler) -> Result<(), IcedError> {
    show(a)?;
    for register in
        [xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15]
    {
        a.movq(register, rax)?;
        a.punpcklqdq(register, register)?;
    }
    Ok(())
}

fn fill_avx(a: &mut CodeAssembler) -> Result<(), IcedError> {
    fill_sse(a)?;
    for (wide, narrow) in [(ymm0, xmm0), (ymm7, xmm7), (ymm15, xmm15)] {
        a.vinsertf128(wide, wide, narrow, 1)?;
    }
    Ok(())
}

fn fill_avx512(a: &mut CodeAssembler) -> Result<(), IcedError> {
    fill_avx(a)?;
    for register in [zmm1, zmm6, zmm14, zmm16, zmm21, zmm31] {
        a.vpbroadcastq(register, rax)?;
    }
    for mask in [k1, k3, k7] {
        a.kmovw(mask, eax)?;
    }
    Ok(())
}

fn fill_everything() -> Code {
    if std::arch::is_x86_feature_detected!("avx512f") {
        fill_avx512
    } else if std::arch::is_x86_feature_detected!("avx") {
        fill_avx
    } else {
        fill_sse
    }
}

/// What a guest saw, other than which components are in use, which the processor may say either way.
fn shown(machine: Machine) -> (kernlet_monitor::Used, Vec<u8>) {
    let (used, mut response) = machine.invoke(&request("/", b""), in_seconds(5)).unwrap();
    assert_eq!(response.body.len() as u64, SHOWN);
    response.body[512..576].fill(0);
    (used, response.body)
}

fn canaries(state: &[u8]) -> usize {
    state.windows(8).filter(|bytes| bytes == &[CANARY; 8]).count()
}

#[test]
fn no_register_of_one_request_is_visible_to_the_next() {
    let Some(arena) = Arena::on_kvm() else { return };
    let (used, clean) = shown(arena.answering(fill_everything()).expect("the guest starts"));
    let (used, left) = shown(used.keep());
    assert!(canaries(&left) > 16, "without a rewind the next request finds the last one's registers");
    let mut machine = used.rewind().unwrap();
    for round in 0..100 {
        let (used, seen) = shown(machine);
        assert_eq!(canaries(&seen), 0, "round {round}");
        assert!(seen == clean, "round {round}: the registers are those of the first request");
        machine = used.rewind().unwrap();
        if round % 10 == 0 {
            machine.audit().unwrap_or_else(|difference| panic!("round {round}: {difference} differs"));
        }
    }
}

/// Jumps to where the request's body says, with registers that fit nothing and a stack that leads to the guest's own
/// answer, or on that stack to nowhere.
fn jump(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut answer = a.create_label();
    for (offset, value) in [(0, number::NEXT_REQUEST), (4, 0), (8, RESPONSE as u32), (12, 0)] {
        a.mov(dword_ptr(BLOCK + offset), value as i32)?;
    }
    a.mov(rcx, qword_ptr(WINDOW + 64))?;
    a.mov(ecx, dword_ptr(rcx))?;
    a.pcmpeqd(xmm0, xmm0)?;
    a.movdqa(xmm9, xmm0)?;
    a.mov(eax, 0x0dea_dbee)?;
    a.mov(edx, 0x55)?;
    a.mov(ebx, 0x77)?;
    a.mov(edi, BLOCK as u32)?;
    a.mov(rsp, SCRATCH + 0x808)?;
    a.lea(rsi, ptr(answer))?;
    a.mov(qword_ptr(rsp), rsi)?;
    a.jmp(rcx)?;
    a.set_label(&mut answer)?;
    a.mov(edi, BLOCK as u32)?;
    a.mov(rsp, STACK_TOP - 64)?;
    a.mov(eax, HYPERCALL_PAGE as u32)?;
    a.call(rax)
}

#[test]
fn whoever_jumps_into_the_hypercall_page_harms_only_itself() {
    let Some(arena) = Arena::on_kvm() else { return };
    let mut answered = 0;
    let mut ready = None;
    for address in (HYPERCALL_PAGE..HYPERCALL_PAGE + 160).chain([HYPERCALL_PAGE + PAGE_SIZE - 1]) {
        let machine: Machine = ready.take().or_else(|| arena.answering(jump)).expect("the guest starts");
        // A jump into the middle of an instruction may wait for ever.
        let deadline = std::time::Instant::now() + std::time::Duration::from_millis(50) * common::patience();
        if let Ok((used, _)) = machine.invoke(&request("/", &(address as u32).to_le_bytes()), deadline) {
            answered += 1;
            let mut machine = used.rewind().unwrap();
            machine.audit().unwrap_or_else(|difference| panic!("{address:#x}: {difference} differs"));
            ready = Some(machine);
        }
    }
    assert!(answered >= 2, "the ways that lead back to the guest do");
    arena.assert_unharmed();
}
