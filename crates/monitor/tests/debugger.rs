//! A debugger speaks gdb's protocol with a guest: what it may see and change, where it stops, and that nothing of it
//! stays. Spoken by the test itself, so that gdb need not be there and bad packets can be sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use common::{Function, MIB, elf, in_seconds, request};
use elf::{ElfBytes, endian::LittleEndian};
use kernlet_abi::map::{BOOT_BASE, STACK_TOP};
use kernlet_monitor::{Cause, Crash, Debugger, Machine, Response, StopAt, Template, Watchers};

/// The other end of a debugger's connection.
struct Gdb(TcpStream);

impl Gdb {
    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).unwrap();
    }

    fn receive(&mut self) -> String {
        let mut byte = [0];
        while byte[0] != b'$' {
            self.0.read_exact(&mut byte).unwrap();
        }
        let mut packet = Vec::new();
        loop {
            self.0.read_exact(&mut byte).unwrap();
            if byte[0] == b'#' {
                break;
            }
            packet.push(byte[0]);
        }
        self.0.read_exact(&mut [0; 2]).unwrap();
        self.0.write_all(b"+").unwrap();
        String::from_utf8(packet).unwrap()
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    /// Lets the guest go on, until it stops with this signal (two hexadecimal digits); what else the stop says.
    #[track_caller]
    fn go(&mut self, packet: &str, signal: &str) -> String {
        let stopped = self.ask(packet);
        assert!(stopped.starts_with(['S', 'T']) && stopped[1..3] == *signal, "{packet}: {stopped}, not {signal}");
        stopped
    }

    /// The value of a register by its place in `g`: 0 to 15 are rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15.
    fn register(&mut self, index: usize) -> u64 {
        let all = self.ask("g");
        u64::from_str_radix(&all[16 * index..16 * (index + 1)], 16).unwrap().swap_bytes()
    }
}

// Signals, as gdb numbers them.
const INTERRUPT: &str = "02";
const TRAP: &str = "05";
const SEGMENT_FAULT: &str = "0b";

const RIP: usize = 16;
const RSP: usize = 7;
const RDI: usize = 5;

/// Runs what a test does with gdb beside a machine that is asked for `path` twice, rewound and compared with its
/// template in between.
fn debug(path: &str, stop_at: StopAt, gdb: impl FnOnce(Gdb, &Function) + Send) -> Option<Result<Response, Box<Crash>>> {
    let function = Function::new("faults")?;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (connection, _) = listener.accept().unwrap();
    let debugger = Box::new(Debugger::new(connection, stop_at));
    Some(std::thread::scope(|scope| {
        let function = &function;
        scope.spawn(move || gdb(Gdb(client), function));
        run(function, path, debugger)
    }))
}

fn run(function: &Function, path: &str, debugger: Box<Debugger>) -> Result<Response, Box<Crash>> {
    let (hypervisor, services) = (&function.hypervisor, function.services());
    let watchers = Watchers { debugger: Some(debugger), ..Watchers::default() };
    let deadline = in_seconds(60);
    let booted =
        Template::boot_watched(hypervisor, &function.unikernel, &function.config, services, deadline, watchers);
    let machine: Machine = booted?.1;
    let (used, _) = machine.invoke(&request(path, b""), deadline)?;
    let mut machine = used.rewind()?;
    machine.audit().expect("nothing of the debugger is in the rewound machine");
    let (used, response) = machine.invoke(&request(path, b""), deadline)?;
    used.keep().finish();
    Ok(response)
}

/// Address of the function whose mangled name has `part` in it.
fn address_of(part: &str) -> u64 {
    let file = elf("faults");
    let file = ElfBytes::<LittleEndian>::minimal_parse(&file).unwrap();
    let (symbols, names) = file.symbol_table().unwrap().unwrap();
    let found = symbols.iter().find(|symbol| names.get(symbol.st_name as usize).unwrap().contains(part));
    found.unwrap_or_else(|| panic!("a symbol with {part}")).st_value
}

#[test]
fn a_debugger_sees_the_first_instruction_and_steps_from_there() {
    let outcome = debug("/count", StopAt::Entry, |mut gdb, function| {
        assert!(gdb.ask("?").starts_with(['S', 'T']));
        assert_eq!(gdb.register(RIP), function.unikernel.entry());
        assert_eq!(gdb.register(RSP), STACK_TOP - 8);
        assert_eq!(gdb.register(RDI), BOOT_BASE);
        gdb.go("s", TRAP);
        let second = gdb.register(RIP);
        assert!(second > function.unikernel.entry() && second < function.unikernel.entry() + 16, "{second:#x}");
        gdb.send("D");
    });
    let Some(outcome) = outcome else { return };
    assert_eq!(outcome.unwrap().body, b"1", "a function without its debugger goes on");
}

#[test]
fn a_debugger_reaches_the_machines_memory_and_none_beyond() {
    let outcome = debug("/count", StopAt::Entry, |mut gdb, function| {
        let end = 16 * MIB;
        assert_eq!(gdb.ask(&format!("m{:x},4", function.unikernel.entry())).len(), 8);
        assert_eq!(gdb.ask(&format!("m{:x},8", end - 4)).len(), 8, "as far as there is memory");
        for beyond in [end, end + 4096, 1 << 40, u64::MAX - 3, u64::MAX] {
            assert!(gdb.ask(&format!("m{beyond:x},8")).starts_with('E'), "reading {beyond:#x}");
            assert!(gdb.ask(&format!("M{beyond:x},1:00")).starts_with('E'), "writing {beyond:#x}");
            assert_ne!(gdb.ask(&format!("Z0,{beyond:x},1")), "OK", "a breakpoint at {beyond:#x}");
            assert_ne!(gdb.ask(&format!("Z2,{beyond:x},8")), "OK", "a watchpoint at {beyond:#x}");
        }
        for monitors in [0, 0x1000, 0x3000, BOOT_BASE - 1] {
            assert!(gdb.ask(&format!("M{monitors:x},1:00")).starts_with('E'), "writing {monitors:#x}");
            assert_ne!(gdb.ask(&format!("Z0,{monitors:x},1")), "OK", "a breakpoint at {monitors:#x}");
        }
        let stack = STACK_TOP - 64;
        assert_eq!(gdb.ask(&format!("M{stack:x},2:abcd")), "OK");
        assert_eq!(gdb.ask(&format!("m{stack:x},2")), "abcd");
        assert_eq!(gdb.ask(&format!("M{stack:x},2:0000")), "OK");
        gdb.send("D");
    });
    let Some(outcome) = outcome else { return };
    outcome.unwrap();
}

#[test]
fn a_breakpoint_stops_every_request_and_is_in_no_template() {
    let outcome = debug("/count", StopAt::Entry, |mut gdb, _| {
        let handler = address_of("misbehave");
        let code = gdb.ask(&format!("m{handler:x},4"));
        for _ in 0..2 {
            assert_eq!(gdb.ask(&format!("Z0,{handler:x},1")), "OK");
            gdb.go("c", TRAP);
            assert_eq!(gdb.register(RIP), handler);
            assert_eq!(gdb.ask(&format!("m{handler:x},4")), code, "memory is shown without the breakpoint");
            assert_eq!(gdb.ask(&format!("z0,{handler:x},1")), "OK");
            gdb.go("s", TRAP);
        }
        assert_eq!(gdb.ask("c"), "W00", "the machine is finished");
    });
    let Some(outcome) = outcome else { return };
    assert_eq!(outcome.unwrap().body, b"1", "both requests met a clean machine");
}

#[test]
fn a_watchpoint_stops_behind_the_write() {
    let outcome = debug("/count", StopAt::Request, |mut gdb, _| {
        let count = address_of("COUNT");
        assert_eq!(gdb.ask(&format!("m{count:x},4")), "00000000");
        assert_eq!(gdb.ask(&format!("Z2,{count:x},4")), "OK");
        let stopped = gdb.go("c", TRAP);
        assert!(stopped.contains(&format!("watch:{count:x}")), "{stopped}");
        assert_eq!(gdb.ask(&format!("m{count:x},4")), "01000000");
        assert_ne!(gdb.ask(&format!("Z3,{count:x},4")), "OK", "who reads cannot be seen");
        gdb.send("D");
    });
    let Some(outcome) = outcome else { return };
    outcome.unwrap();
}

#[test]
fn a_fault_can_be_looked_at_before_it_ends_the_machine() {
    let outcome = debug("/instruction/read-null", StopAt::Request, |mut gdb, _| {
        gdb.go("c", SEGMENT_FAULT);
        let at = gdb.register(RIP);
        // Without the signal it is tried again.
        gdb.go("c", SEGMENT_FAULT);
        assert_eq!(gdb.register(RIP), at);
        assert_eq!(gdb.ask("vCont;C0b:1"), "X06", "with it the machine ends");
    });
    let Some(outcome) = outcome else { return };
    let crash = outcome.unwrap_err();
    assert!(matches!(crash.cause(), Cause::PageFault { address: 0..4096, .. }), "{crash}");
    assert!(crash.report().is_some());
}

#[test]
fn an_endless_loop_is_interrupted_and_killed() {
    let outcome = debug("/loop", StopAt::Request, |mut gdb, _| {
        gdb.send("c");
        gdb.0.write_all(&[3]).unwrap();
        assert_eq!(gdb.receive()[1..3], *INTERRUPT);
        let (at, start) = (gdb.register(RIP), address_of("loop_for_ever"));
        assert!((start..start + 64).contains(&at), "{at:#x}");
        gdb.send("k");
    });
    let Some(outcome) = outcome else { return };
    let crash = outcome.unwrap_err();
    assert!(matches!(crash.cause(), Cause::Killed), "{crash}");
}

#[test]
fn a_debugger_that_goes_away_or_talks_nonsense_harms_nobody() {
    for nonsense in
        [&b""[..], b"$g#67", b"$$$$#00", b"+-\x03\x03$zzz#00", &[0xff; 4096], b"$m0,ffffffffffffffff#00", b"$c#63"]
    {
        let outcome = debug("/count", StopAt::Entry, |mut gdb, _| {
            // Whatever is answered is not read.
            let _closed = gdb.0.write_all(nonsense);
        });
        let Some(outcome) = outcome else { return };
        assert_eq!(outcome.unwrap().body, b"1", "{nonsense:?}");
    }
}
