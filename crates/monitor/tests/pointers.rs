//! Every address that a guest hands to the monitor, in every call, at every edge of its memory: what the guest may not
//! use itself ends its machine by name, what it may use works, and nothing else changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "common/attack.rs"]
mod attack;
mod common;
#[path = "common/image.rs"]
mod image;

use attack::{BLOCK, SCRATCH, assemble, hypercall, next_request};
use common::{Function, MIB, in_seconds, request};
use image::{CODE, CONSTANTS, DATA, DATA_LEN, Elf};
use kernlet_abi::{
    Span,
    accel::{ARGS_MAX, AccelArg, AccelBatch, AccelCall, RANK_MAX, access, dtype, operation},
    hypercall::{
        CallHead, Clock, Entropy, Exit, FindResource, LOG_MESSAGE_MAX, Log, NextRequest, exit_reason, number, status,
    },
    map::{
        BOOT_BASE, BOOT_SIZE, HYPERCALL_PAGE, PAGE_SIZE, PAGE_TABLE_BASE, STACK_BASE, SUPERVISOR_BASE, VECTORS_PAGE,
    },
    message::{RESPONSE_HEADERS_MAX, ResponseHead},
};
use kernlet_monitor::{Cause, Crash, Hypervisor, Response};
use zerocopy::{FromZeros, Immutable, IntoBytes};

/// Memory of the machines here, and where their heap and request window begin (see [`Function::of`]).
const MEMORY: u64 = 16 * MIB;
const WINDOW: u64 = MEMORY - MIB - 0x1_0000;
const HEAP: u64 = DATA + DATA_LEN;

/// Ranges that a guest may not even read.
const UNREADABLE: &[(u64, u64)] = &[
    (0, 1),
    (8, 8),
    (SUPERVISOR_BASE - 1, 2),
    (SUPERVISOR_BASE, 1),
    (0x4068, 8),
    (0x5fff, 1),
    (PAGE_TABLE_BASE, PAGE_SIZE),
    (BOOT_BASE - 1, 2),
    (VECTORS_PAGE + PAGE_SIZE - 1, 2),
    (VECTORS_PAGE + PAGE_SIZE, 1),
    (STACK_BASE - 1, 1),
    (STACK_BASE - 1, 2),
    (BOOT_BASE, DATA - BOOT_BASE),
    (CODE + PAGE_SIZE - 1, 2),
    (CODE + PAGE_SIZE, 1),
    (DATA - 1, 2),
    (MEMORY - 1, 2),
    (MEMORY, 1),
    (MEMORY + PAGE_SIZE, 8),
    (u32::MAX as u64, 1),
    (u32::MAX as u64 - 1, 100),
    (1 << 32, 8),
    (1 << 63, 8),
    (u64::MAX, 1),
    (u64::MAX - 7, 8),
    (u64::MAX - 10, 100),
    (DATA, u64::MAX),
    (DATA, u64::MAX - DATA + 1),
    (DATA, u64::MAX - DATA),
    (DATA, MEMORY - DATA + 1),
    (DATA, 1 << 63),
];

/// Ranges that a guest may read but not write.
const READ_ONLY: &[(u64, u64)] = &[
    (BOOT_BASE, 8),
    (BOOT_BASE, BOOT_SIZE + PAGE_SIZE),
    (HYPERCALL_PAGE, 8),
    (HYPERCALL_PAGE + PAGE_SIZE - 1, 2),
    (VECTORS_PAGE, 8),
    (VECTORS_PAGE + PAGE_SIZE - 1, 1),
    (CODE, 8),
    (CODE - 1, 2),
    (CONSTANTS + PAGE_SIZE - 8, 8),
    (WINDOW, 8),
    (WINDOW - 1, 2),
    (WINDOW - 8, 64),
    (MEMORY - 8, 8),
    (MEMORY - 1, 1),
    (DATA, MEMORY - DATA),
];

/// Ranges that a guest may write.
const WRITABLE: &[(u64, u64)] =
    &[(STACK_BASE, 8), (CODE - 8, 8), (SCRATCH, 64), (HEAP - 4, 8), (HEAP, 1), (WINDOW - 8, 8), (WINDOW - 1, 1)];

fn spans(ranges: &[(u64, u64)]) -> impl Iterator<Item = Span> {
    ranges.iter().map(|&(offset, len)| Span { offset, len })
}

/// Ranges without a byte, wherever they are.
fn empty() -> impl Iterator<Item = Span> {
    UNREADABLE.iter().chain(READ_ONLY).map(|&(offset, _)| Span { offset, len: 0 })
}

const fn head(number: u32) -> CallHead {
    CallHead { number, status: -1 }
}

/// What a guest of one call can ask of the host.
struct Caller {
    arena: attack::Arena,
}

impl Caller {
    fn on_each_backend() -> impl Iterator<Item = Self> {
        attack::Arena::on_each_backend().map(|arena| Self { arena })
    }

    /// Makes one call, with `more` in [`SCRATCH`]; its status, given as a response's by a guest that goes on.
    fn call_with<T: IntoBytes + Immutable>(&self, block: &T, more: &[u8]) -> Result<i32, Box<Crash>> {
        let mut data = block.as_bytes().to_vec();
        data.resize(usize::try_from(SCRATCH - BLOCK).unwrap(), 0);
        data.extend_from_slice(more);
        let code = assemble(|a| {
            use iced_x86::code_asm::*;
            hypercall(a, BLOCK)?;
            // A response head with 200 plus the call's status.
            a.mov(eax, dword_ptr(BLOCK + 4))?;
            a.add(eax, 200)?;
            a.mov(dword_ptr(HEAP), eax)?;
            next_request(a, HEAP + 0x100, 0)?;
            next_request(a, HEAP + 0x100, u32::try_from(HEAP).unwrap())
        });
        let machine = self.arena.run_elf(&Elf::with_code(&code, &data))?;
        let response = machine.invoke(&request("/", b""), in_seconds(5)).map(|(_, response)| response)?;
        Ok(i32::from(response.status) - 200)
    }

    fn call<T: IntoBytes + Immutable>(&self, block: &T) -> Result<i32, Box<Crash>> {
        self.call_with(block, &[])
    }

    /// The end that a call must have because of `span`.
    fn assert_refused<T: IntoBytes + Immutable>(&self, block: &T, more: &[u8], span: Span, writes: bool) {
        match self.call_with(block, more) {
            Ok(status) => panic!("{span:?} was taken, with status {status}"),
            Err(crash) => assert_bad_pointer(&crash, span, writes),
        }
    }
}

fn assert_bad_pointer(crash: &Crash, span: Span, writes: bool) {
    let Cause::BadPointer { offset, len, write, .. } = crash.cause() else { panic!("{span:?}: {crash}") };
    assert_eq!((*offset, *len, *write), (span.offset, span.len, writes), "{span:?}: {crash}");
    assert!(crash.to_string().contains(&format!("{:#x}", span.offset)), "{crash}");
}

fn log(message: Span) -> Log {
    Log { head: head(number::LOG), level: 3, reserved: 0, message }
}

fn entropy(buffer: Span) -> Entropy {
    Entropy { head: head(number::ENTROPY), buffer }
}

fn find(name: Span) -> FindResource {
    FindResource { head: head(number::FIND_RESOURCE), name, ..FindResource::default() }
}

fn exit(message: Span, file: Span) -> Exit {
    Exit { head: head(number::EXIT), reason: exit_reason::PANIC, message, file, ..Exit::default() }
}

fn accel(args: u64, arg_count: u32, error: Span) -> AccelCall {
    AccelCall { head: head(number::ACCEL), operation: operation::NOOP, arg_count, args, error, error_len: 0 }
}

fn argument(data: Span, access: u32) -> AccelArg {
    AccelArg { data, access, dtype: dtype::BYTES, ..AccelArg::default() }
}

#[test]
fn the_argument_block_itself_must_be_writable() {
    for caller in Caller::on_each_backend() {
        let blocks =
            [0, 0xfff, SUPERVISOR_BASE, PAGE_TABLE_BASE, BOOT_BASE, HYPERCALL_PAGE, VECTORS_PAGE, STACK_BASE - 8];
        let more = [CODE, CONSTANTS, WINDOW, WINDOW - 4, MEMORY - 4, MEMORY - 8, MEMORY, 0xffff_fffc, 0xffff_ffff];
        for block in blocks.into_iter().chain(more) {
            let code = assemble(|a| hypercall(a, block));
            let Err(crash) = caller.arena.run_elf(&Elf::with_code(&code, &[])) else { panic!("{block:#x} was taken") };
            assert_bad_pointer(&crash, Span { offset: block, len: 8 }, true);
        }
    }
}

#[test]
fn a_block_that_begins_in_the_guests_memory_must_end_there() {
    for caller in Caller::on_each_backend() {
        for (number, len) in [
            (number::NEXT_REQUEST, size_of::<NextRequest>()),
            (number::LOG, size_of::<Log>()),
            (number::CLOCK, size_of::<Clock>()),
            (number::ENTROPY, size_of::<Entropy>()),
            (number::ACCEL, size_of::<AccelCall>()),
            (number::ACCEL_BATCH, size_of::<AccelBatch>()),
            (number::FIND_RESOURCE, size_of::<FindResource>()),
            (number::EXIT, size_of::<Exit>()),
        ] {
            // The head is the last that fits before the read-only window.
            let block = WINDOW - 8;
            let code = assemble(|a| {
                use iced_x86::code_asm::*;
                a.mov(dword_ptr(block), i32::try_from(number).unwrap())?;
                hypercall(a, block)
            });
            let Err(crash) = caller.arena.run_elf(&Elf::with_code(&code, &[])) else {
                panic!("call {number} was made")
            };
            assert_bad_pointer(&crash, Span { offset: block, len: len as u64 }, true);
        }
    }
}

#[test]
fn calls_that_do_not_exist_end_the_machine_by_their_number() {
    for caller in Caller::on_each_backend() {
        for unknown in [0, 9, 10, 0x100, 0x8000_0001, u32::MAX] {
            let crash = caller.call(&head(unknown)).unwrap_err();
            assert!(matches!(crash.cause(), Cause::UnknownHypercall { number } if *number == unknown), "{crash}");
        }
    }
}

#[test]
fn a_range_that_the_host_reads_must_be_the_guests_to_read() {
    for caller in Caller::on_each_backend() {
        for span in spans(UNREADABLE) {
            caller.assert_refused(&log(span), &[], span, false);
            caller.assert_refused(&find(span), &[], span, false);
            caller.assert_refused(&exit(span, Span::default()), &[], span, false);
            caller.assert_refused(&exit(Span::default(), span), &[], span, false);
            let args = argument(span, access::IN);
            caller.assert_refused(&accel(SCRATCH, 1, Span::default()), args.as_bytes(), span, false);
        }
        for span in spans(READ_ONLY).chain(spans(WRITABLE)).chain(empty()) {
            assert_eq!(caller.call(&log(span)).unwrap(), status::OK, "{span:?}");
            assert_eq!(caller.call(&find(span)).unwrap(), status::ENOENT, "{span:?}");
            let crash = caller.call(&exit(span, span)).unwrap_err();
            assert!(matches!(crash.cause(), Cause::Panic { .. }), "{span:?}: {crash}");
            let args = argument(span, access::IN);
            let status = caller.call_with(&accel(SCRATCH, 1, Span::default()), args.as_bytes()).unwrap();
            assert_ne!(status, status::OK, "no plugin has the operation");
        }
    }
}

#[test]
fn a_range_that_the_host_writes_must_be_the_guests_to_write() {
    for caller in Caller::on_each_backend() {
        for span in spans(UNREADABLE).chain(spans(READ_ONLY)) {
            caller.assert_refused(&entropy(span), &[], span, true);
            caller.assert_refused(&accel(SCRATCH, 0, span), &[], span, true);
            for access in [access::OUT, access::IN_OUT] {
                let args = argument(span, access);
                caller.assert_refused(&accel(SCRATCH, 1, Span::default()), args.as_bytes(), span, true);
            }
        }
        for span in spans(WRITABLE).chain(empty()) {
            assert_eq!(caller.call(&entropy(span)).unwrap(), status::OK, "{span:?}");
            assert_ne!(caller.call(&accel(SCRATCH, 0, span)).unwrap(), status::OK, "{span:?}");
            for access in [access::OUT, access::IN_OUT] {
                let args = argument(span, access);
                let made = caller.call_with(&accel(SCRATCH, 1, span), args.as_bytes());
                assert_ne!(made.unwrap(), status::OK, "{span:?}");
            }
        }
    }
}

#[test]
fn the_table_of_arguments_must_be_the_guests_to_write() {
    for caller in Caller::on_each_backend() {
        let len = size_of::<AccelArg>() as u64;
        for (at, _) in UNREADABLE.iter().chain(READ_ONLY).filter(|(at, len)| !(*at == DATA && *len > 64)) {
            caller.assert_refused(&accel(*at, 1, Span::default()), &[], Span { offset: *at, len }, true);
        }
        let last = WINDOW - len * 2 + 1;
        caller.assert_refused(&accel(last, 2, Span::default()), &[], Span { offset: last, len: len * 2 }, true);
        assert_ne!(caller.call(&accel(u64::MAX, 0, Span::default())).unwrap(), status::OK, "no table is no range");
        for count in [ARGS_MAX + 1, 1 << 16, u32::MAX] {
            let crash = caller.call(&accel(SCRATCH, count, Span::default())).unwrap_err();
            assert!(
                matches!(crash.cause(), Cause::TooManyArguments { count: found, .. } if *found == count),
                "{crash}"
            );
        }
    }
}

#[test]
fn an_argument_of_an_accelerator_call_says_what_it_is() {
    for caller in Caller::on_each_backend() {
        let data = Span { offset: HEAP + PAGE_SIZE, len: 64 };
        for unknown in [0, 4, u32::MAX] {
            let crash = caller.call_with(&accel(SCRATCH, 1, data), argument(data, unknown).as_bytes()).unwrap_err();
            assert!(
                matches!(crash.cause(), Cause::UnknownAccess { index: 0, access } if *access == unknown),
                "{crash}"
            );
        }
        for dtype in [19, u32::MAX] {
            let args = AccelArg { dtype, ..argument(data, access::IN) };
            assert_eq!(caller.call_with(&accel(SCRATCH, 1, data), args.as_bytes()).unwrap(), status::EINVAL);
        }
        for rank in [u32::try_from(RANK_MAX).unwrap() + 1, u32::MAX] {
            let args = AccelArg { rank, ..argument(data, access::IN) };
            assert_eq!(caller.call_with(&accel(SCRATCH, 1, data), args.as_bytes()).unwrap(), status::EINVAL);
        }
    }
}

#[test]
fn arguments_that_overlap_where_one_is_written_end_the_machine() {
    for caller in Caller::on_each_backend() {
        let at = |offset, len| Span { offset, len };
        let (whole, inner, last, behind) = (at(HEAP, 256), at(HEAP + 64, 64), at(HEAP + 255, 10), at(HEAP + 256, 10));
        let both = |first, a, second, b| {
            let args = [argument(first, a), argument(second, b)];
            caller.call_with(&accel(SCRATCH, 2, Span::default()), args.as_bytes())
        };
        for (first, second) in [(whole, whole), (whole, inner), (inner, whole), (whole, last), (last, whole)] {
            for (a, b) in [(access::OUT, access::IN), (access::IN, access::OUT), (access::IN_OUT, access::IN_OUT)] {
                let crash = both(first, a, second, b).unwrap_err();
                assert!(matches!(crash.cause(), Cause::OverlappingArguments { first: 0, second: 1 }), "{crash}");
            }
            assert_ne!(both(first, access::IN, second, access::IN).unwrap(), status::OK, "two readers may share");
        }
        for (first, second) in [(whole, behind), (behind, whole), (whole, at(HEAP + 64, 0)), (at(HEAP + 64, 0), whole)]
        {
            assert_ne!(both(first, access::IN_OUT, second, access::OUT).unwrap(), status::OK, "they do not overlap");
        }
    }
}

/// A table, a block and an error buffer may lie in what an argument writes: the guest harms only itself.
#[test]
fn an_argument_over_the_calls_own_block_harms_only_the_guest() {
    for caller in Caller::on_each_backend() {
        for over in [BLOCK, SCRATCH] {
            let args = argument(Span { offset: over, len: 64 }, access::OUT);
            let error = Span { offset: over, len: 64 };
            let _ = caller.call_with(&accel(SCRATCH, 1, error), args.as_bytes());
        }
    }
}

#[test]
fn texts_and_entropy_beyond_their_limits_are_cut_or_refused() {
    for caller in Caller::on_each_backend() {
        let long = Span { offset: HEAP, len: WINDOW - HEAP };
        assert_eq!(caller.call(&entropy(long)).unwrap(), status::EINVAL);
        assert_eq!(caller.call(&log(long)).unwrap(), status::OK);
        assert_eq!(caller.call(&find(long)).unwrap(), status::ENOENT);
        let crash = caller.call(&exit(long, long)).unwrap_err();
        assert!(crash.to_string().len() as u64 <= 2 * LOG_MESSAGE_MAX + 100, "{} bytes", crash.to_string().len());
    }
}

/// The answer of a guest whose response's head lies at `at`, where its image has these bytes.
fn respond(hypervisor: &Hypervisor, at: u64, head: &ResponseHead, more: &[u8]) -> Result<Response, Box<Crash>> {
    let mut data = vec![0; usize::try_from(SCRATCH - DATA).unwrap()];
    data[..size_of::<ResponseHead>()].copy_from_slice(head.as_bytes());
    data.extend_from_slice(more);
    let code = assemble(|a| {
        next_request(a, HEAP, 0)?;
        next_request(a, HEAP, u32::try_from(at & 0xffff_ffff).unwrap())?;
        next_request(a, HEAP, u32::try_from(at & 0xffff_ffff).unwrap())
    });
    let function = Function::of(hypervisor.clone(), &Elf::with_code(&code, &data).build());
    let outcome = function.boot().unwrap().invoke(&request("/", b"body"), in_seconds(5));
    outcome.map(|(_, response)| response)
}

fn response(headers: Span, body: Span) -> ResponseHead {
    ResponseHead { status: 200, reserved: 0, headers, body }
}

#[test]
fn a_response_must_be_the_guests_to_read() {
    for hypervisor in common::hypervisors() {
        for (at, _) in UNREADABLE.iter().filter(|(at, len)| *at <= u64::from(u32::MAX) && *at != 0 && *len < PAGE_SIZE)
        {
            let outcome = respond(&hypervisor, *at, &ResponseHead::default(), &[]);
            assert_bad_pointer(&outcome.unwrap_err(), Span { offset: *at, len: 40 }, false);
        }
        let none = respond(&hypervisor, 0, &ResponseHead::default(), &[]).unwrap_err();
        assert!(matches!(none.cause(), Cause::BadResponse { .. }), "{none}");
        for span in spans(UNREADABLE) {
            let body = respond(&hypervisor, DATA, &response(Span::default(), span), &[]).unwrap_err();
            let headers = respond(&hypervisor, DATA, &response(span, Span::default()), &[]).unwrap_err();
            if span.len <= MIB {
                assert_bad_pointer(&body, span, false);
            } else {
                assert!(matches!(body.cause(), Cause::ResponseTooLarge { size, .. } if *size == span.len), "{body}");
            }
            if span.len <= RESPONSE_HEADERS_MAX {
                assert_bad_pointer(&headers, span, false);
            } else {
                assert!(matches!(headers.cause(), Cause::BadResponse { .. }), "{headers}");
            }
        }
        for span in spans(READ_ONLY).chain(spans(WRITABLE)).filter(|span| span.len <= MIB).chain(empty()) {
            let body = respond(&hypervisor, DATA, &response(Span::default(), span), &[]).unwrap();
            assert_eq!(body.body.len() as u64, span.len, "{span:?}");
        }
    }
}

#[test]
fn a_response_that_is_none_is_named() {
    for hypervisor in common::hypervisors() {
        for status in [0, 1, 100, 199, 600, 65_736, u32::MAX] {
            let head = ResponseHead { status, ..ResponseHead::default() };
            let crash = respond(&hypervisor, DATA, &head, &[]).unwrap_err();
            assert!(crash.to_string().contains(&format!("status {status} is not")), "{crash}");
        }
        let cut: [&[u8]; 6] =
            [b"\x01", b"\x01\0\0", b"\x01\0\0\0", b"\x01\0\x01\0a", b"\xff\xff\xff\xff", b"\x01\0\0\0a\x05\0\x01\0abc"];
        for bytes in cut {
            let headers = Span { offset: SCRATCH, len: bytes.len() as u64 };
            let crash = respond(&hypervisor, DATA, &response(headers, Span::default()), bytes).unwrap_err();
            assert!(crash.to_string().contains("past the end of the headers"), "{crash}");
        }
        let latin = b"\x01\0\x01\0\xe9v";
        let crash = respond(&hypervisor, DATA, &response(Span { offset: SCRATCH, len: 6 }, Span::default()), latin);
        assert!(crash.unwrap_err().to_string().contains("UTF-8"));
        for (size, fits) in [(MIB, true), (MIB + 1, false), (u64::MAX, false)] {
            let outcome = respond(&hypervisor, DATA, &response(Span::default(), Span { offset: HEAP, len: size }), &[]);
            match outcome {
                Ok(response) => assert!(fits && response.body.len() as u64 == size),
                Err(crash) => assert!(
                    !fits
                        && matches!(crash.cause(), Cause::ResponseTooLarge { size: found, limit: MIB } if *found == size),
                    "{crash}"
                ),
            }
        }
    }
}

#[test]
fn the_smallest_headers_in_the_largest_room_are_read() {
    for hypervisor in common::hypervisors() {
        let count = usize::try_from(RESPONSE_HEADERS_MAX / 4).unwrap();
        let headers = Span { offset: HEAP + PAGE_SIZE, len: RESPONSE_HEADERS_MAX };
        let outcome = respond(&hypervisor, DATA, &response(headers, Span::default()), &[]);
        assert_eq!(outcome.unwrap().headers.iter().count(), count, "a zeroed heap is so many empty fields");
        let beyond = Span { len: RESPONSE_HEADERS_MAX + 1, ..headers };
        let crash = respond(&hypervisor, DATA, &response(beyond, Span::default()), &[]).unwrap_err();
        assert!(matches!(crash.cause(), Cause::BadResponse { .. }), "{crash}");
    }
}

#[test]
fn a_response_before_the_first_request_is_named() {
    for caller in Caller::on_each_backend() {
        let code = assemble(|a| next_request(a, HEAP, u32::try_from(DATA).unwrap()));
        let Err(crash) = caller.arena.run_elf(&Elf::with_code(&code, &[])) else { panic!("it was taken") };
        assert!(crash.to_string().contains("before the first request"), "{crash}");
    }
}

/// Block and argument of a zeroed call are themselves harmless.
#[test]
fn zeroes_are_no_call() {
    for caller in Caller::on_each_backend() {
        let crash = caller.call(&AccelCall::new_zeroed()).unwrap_err();
        assert!(matches!(crash.cause(), Cause::UnknownHypercall { number: 0 }), "{crash}");
    }
}
