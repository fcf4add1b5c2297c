//! A function that runs as a process: what that process has, what it cannot do, and what others can do to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "common/attack.rs"]
mod attack;
mod common;
#[path = "common/image.rs"]
mod image;

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use attack::{Code, assemble};
use common::{Function, in_seconds, request};
use iced_x86::code_asm::*;
use image::Elf;
use kernlet_abi::map::BOOT_BASE;
use kernlet_monitor::{Backend, Cause, Hypervisor, Machine};
use rustix::process::{Pid, Signal, kill_process};

/// The tests here look at this program's children, so they go one after the other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn function(name: &str) -> Function {
    Function::of(Hypervisor::processes().expect("processes can be traced here"), &common::elf(name))
}

/// Every child of this program, zombies too.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let lists: Vec<String> = threads.map(|thread| of_thread(thread.unwrap())).collect();
    lists
        .iter()
        .flat_map(|list| list.split_whitespace())
        .filter_map(|pid| Pid::from_raw(pid.parse().unwrap()))
        .collect()
}

/// A machine, and the process that it is.
fn machine(function: &Function) -> (Machine, Pid) {
    let before = children();
    let machine = function.boot().unwrap();
    let new: Vec<Pid> = children().into_iter().filter(|pid| !before.contains(pid)).collect();
    let [pid] = new[..] else { panic!("one machine is one process, not {new:?}") };
    (machine, pid)
}

fn proc_file(pid: Pid, name: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap()
}

/// One letter: R for running.
fn state(pid: Pid) -> char {
    proc_file(pid, "stat").rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_functions_process_has_its_guests_memory_and_nothing_else() {
    let _alone = alone();
    let function = function("echo");
    let (_machine, pid) = machine(&function);
    let maps = proc_file(pid, "maps");
    for line in maps.lines().filter(|line| !line.ends_with("[vsyscall]")) {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        assert!(start >= BOOT_BASE && end <= function.config.memory, "{line}");
        assert!(line.contains("/memfd:kernlet-machine"), "{line}");
        assert!(["r--s", "r-xs", "rw-s"].iter().any(|access| rest.starts_with(access)), "{line}");
        // One to one, as under KVM.
        let offset = u64::from_str_radix(rest.split_whitespace().nth(1).unwrap(), 16).unwrap();
        assert_eq!(offset, start, "{line}");
    }
    assert!(maps.lines().count() > 5, "{maps}");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count();
    assert_eq!(descriptors, 0);
    let status = proc_file(pid, "status");
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t1", "SigBlk:\t0000000000000000"] {
        assert!(status.contains(line), "{line}: {status}");
    }
}

#[test]
fn no_system_call_of_a_function_is_carried_out_in_any_mode() {
    let _alone = alone();
    let hypervisor = Hypervisor::processes().unwrap();
    /// To the 32-bit segment that Linux has for its programs.
    fn narrow(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
        let mut next = a.create_label();
        a.lea(rcx, ptr(next))?;
        a.push(0x23)?;
        a.push(rcx)?;
        a.db(&[0x48, 0xcb])?;
        a.set_label(&mut next)?;
        // `mov eax, 1; xor ebx, ebx`: exit, in 32-bit system calls.
        a.db(&[0xb8, 1, 0, 0, 0, 0x31, 0xdb])
    }
    let calls: [(&str, Code); 7] = [
        ("exit_group", |a| {
            a.mov(eax, 231)?;
            a.xor(edi, edi)?;
            a.syscall()
        }),
        ("kill oneself", |a| {
            a.mov(eax, 62)?;
            a.xor(edi, edi)?;
            a.mov(esi, 9)?;
            a.syscall()
        }),
        ("exit, by the 32-bit gate", |a| {
            a.mov(eax, 1)?;
            a.xor(ebx, ebx)?;
            a.int(0x80)
        }),
        ("exit of the x32 interface", |a| {
            a.mov(eax, 0x4000_0000 + 231)?;
            a.xor(edi, edi)?;
            a.syscall()
        }),
        ("exit in a 32-bit segment, by its gate", |a| {
            narrow(a)?;
            a.db(&[0xcd, 0x80])
        }),
        ("exit in a 32-bit segment, by syscall", |a| {
            narrow(a)?;
            a.db(&[0x0f, 0x05])
        }),
        ("exit in a 32-bit segment, by sysenter", |a| {
            narrow(a)?;
            a.db(&[0x0f, 0x34])
        }),
    ];
    for (name, code) in calls {
        let function = Function::of(hypervisor.clone(), &Elf::with_code(&assemble(code), &[]).build());
        let crash = function.boot().expect_err(name);
        assert!(matches!(crash.cause(), Cause::Exception { vector: 6 | 13, .. }), "{name}: {crash}");
        assert_eq!(children(), [], "{name}");
    }
}

#[test]
fn a_process_that_is_killed_from_outside_is_reported_and_the_next_one_works() {
    let _alone = alone();
    let function = function("faults");
    let killed = |cause: &Cause| matches!(cause, Cause::ProcessEnded { signal: Some(9) });

    let (waiting, pid) = machine(&function);
    kill_process(pid, Signal::KILL).unwrap();
    let crash = waiting.invoke(&request("/count", b""), in_seconds(5)).unwrap_err();
    assert!(killed(crash.cause()), "{crash}");
    assert!(crash.to_string().contains("by signal 9"), "{crash}");

    let (looping, pid) = machine(&function);
    let crash = thread::scope(|scope| {
        let invoked = scope.spawn(|| looping.invoke(&request("/loop", b""), in_seconds(60)).unwrap_err());
        while state(pid) != 'R' {
            thread::yield_now();
        }
        kill_process(pid, Signal::KILL).unwrap();
        invoked.join().unwrap()
    });
    assert!(killed(crash.cause()), "{crash}");
    assert_eq!(function.ask("/count", b"").unwrap().body, b"1");
}

#[test]
fn signals_from_outside_reach_the_monitor_and_not_the_function() {
    let _alone = alone();
    let function = function("faults");
    let (mut machine, pid) = machine(&function);
    let signals = [
        Signal::TERM,
        Signal::INT,
        Signal::STOP,
        Signal::CONT,
        Signal::USR1,
        Signal::SEGV,
        Signal::TRAP,
        Signal::ILL,
        Signal::ALARM,
        Signal::CHILD,
        Signal::SYS,
    ];
    for signal in signals {
        kill_process(pid, signal).unwrap();
        let (used, response) = machine.invoke(&request("/count", b""), in_seconds(5)).unwrap();
        assert_eq!(response.body, b"1", "{signal:?}");
        kill_process(pid, signal).unwrap();
        machine = used.rewind().unwrap();
        machine.audit().unwrap_or_else(|difference| panic!("{signal:?}: {difference} differs"));
    }
}

#[test]
fn no_process_outlives_its_machine() {
    let _alone = alone();
    let function = function("faults");
    assert_eq!(children(), []);
    let machines: Vec<Machine> = (0..5).map(|_| function.boot().unwrap()).collect();
    assert_eq!(children().len(), 5);
    drop(machines);
    assert_eq!(children(), [], "neither alive nor as a zombie");
    function.ask("/panic", b"").unwrap_err();
    function.boot().unwrap().invoke(&request("/instruction/undefined", b""), in_seconds(5)).unwrap_err();
    assert_eq!(children(), []);
}

#[test]
fn a_process_may_be_driven_from_one_thread_after_the_other() {
    let _alone = alone();
    let function = function("faults");
    // The thread that made it is gone when it is used.
    let mut machine = thread::scope(|scope| scope.spawn(|| function.boot().unwrap()).join().unwrap());
    for _ in 0..3 {
        machine = thread::scope(|scope| {
            let turn = scope.spawn(|| {
                let (used, response) = machine.invoke(&request("/count", b""), in_seconds(5)).unwrap();
                assert_eq!(response.body, b"1");
                used.rewind().unwrap()
            });
            turn.join().unwrap()
        });
        machine.audit().unwrap();
    }
}

#[test]
fn the_operator_chooses_the_backend() {
    let _alone = alone();
    let processes = Hypervisor::choose(Backend::Process).unwrap();
    assert_eq!((processes.backend(), processes.warning().is_some()), (Backend::Process, false));
    let chosen = Hypervisor::choose(Backend::Auto).unwrap();
    match Hypervisor::choose(Backend::Kvm) {
        Ok(kvm) => {
            assert_eq!((kvm.backend(), kvm.warning().is_some()), (Backend::Kvm, false));
            assert_eq!((chosen.backend(), chosen.warning().is_some()), (Backend::Kvm, false));
        }
        Err(error) => {
            assert_eq!(chosen.backend(), Backend::Process);
            assert_eq!(chosen.warning().unwrap().to_string(), error.to_string());
        }
    }
    for (name, backend) in [("auto", Backend::Auto), ("kvm", Backend::Kvm), ("process", Backend::Process)] {
        assert_eq!((name.parse(), backend.to_string().as_str()), (Ok(backend), name));
    }
    let error = "qemu".parse::<Backend>().unwrap_err().to_string();
    assert!(error.contains("\"qemu\"") && error.contains("auto, kvm or process"), "{error}");
}
