//! A function that misbehaves ends with its cause, where in its code, and what it used until then; its log lines stay;
//! the next machine of the same function starts anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Function, MIB, in_seconds, patience, request};
use kernlet_monitor::{Cause, Crash, FaultAccess, MachineConfig, Unikernel};

/// The end of a new machine that is asked for `path`; the next machine answers.
fn crash(function: &Function, path: &str) -> Box<Crash> {
    let crash = function.ask(path, b"").expect_err(path);
    let next = function.ask("/count", b"").expect("the next machine answers");
    assert_eq!(next.body, b"1", "{path}: the next machine is a new one");
    crash
}

#[test]
fn a_panic_is_reported_with_its_message_and_place() {
    for function in Function::on_each_backend("faults") {
        let crash = crash(&function, "/panic");
        let Cause::Panic { message, file, line, .. } = crash.cause() else { panic!("{crash}") };
        assert_eq!(message, "asked to panic on request 1");
        assert!(file.ends_with("main.rs") && *line > 0, "{crash}");
    }
}

#[test]
fn exhausted_memory_is_reported_with_what_was_asked_for() {
    for function in Function::on_each_backend("faults") {
        for path in ["/oom", "/one-huge-allocation"] {
            let crash = crash(&function, path);
            assert!(matches!(crash.cause(), Cause::OutOfMemory { memory, .. } if *memory == 16 * MIB), "{crash}");
            assert!(crash.to_string().contains("dev.kernlet.memory"), "{crash}");
        }
        assert!(crash(&function, "/one-huge-allocation").to_string().contains(&(1_u64 << 40).to_string()));
    }
}

#[test]
fn an_overflowing_stack_meets_its_guard_and_is_called_that() {
    for function in Function::on_each_backend("faults") {
        let crash = crash(&function, "/stack-overflow");
        let Cause::PageFault { access: FaultAccess::Write, region, at, .. } = crash.cause() else { panic!("{crash}") };
        assert!(region.contains("the stack overflowed"), "{crash}");
        assert!(at.symbol.as_ref().is_some_and(|(name, _)| name.starts_with("faults::")), "{crash}");
    }
}

#[test]
fn an_endless_loop_is_stopped_and_the_report_names_where() {
    for function in Function::on_each_backend("faults") {
        let limit = Duration::from_millis(100) * patience();
        let crash = function.boot().unwrap().invoke(&request("/loop", b""), Instant::now() + limit).unwrap_err();
        let Cause::Timeout { limit: found, at, .. } = crash.cause() else { panic!("{crash}") };
        assert!(*found <= limit, "{crash}");
        assert!(at.symbol.as_ref().is_some_and(|(name, _)| name.starts_with("faults::")), "{crash}");
        assert!(crash.usage().wall >= *found, "{:?}", crash.usage());
    }
}

#[test]
fn a_deadline_that_has_passed_already_stops_the_function_too() {
    for function in Function::on_each_backend("faults") {
        let crash = function.boot().unwrap().invoke(&request("/loop", b""), Instant::now()).unwrap_err();
        assert!(matches!(crash.cause(), Cause::Timeout { limit: Duration::ZERO, .. }), "{crash}");
        let Err(crash) = function.boot_until(Instant::now() - Duration::from_secs(1)) else { return };
        assert!(matches!(crash.cause(), Cause::Timeout { .. }), "{crash}");
    }
}

#[test]
fn machines_that_loop_at_the_same_time_are_each_stopped_and_the_others_go_on() {
    for function in Function::on_each_backend("faults") {
        std::thread::scope(|scope| {
            for looping in [true, false, true, false, true] {
                let function = &function;
                scope.spawn(move || {
                    let mut machine = function.boot().unwrap();
                    if looping {
                        let limit = Duration::from_millis(100) * patience();
                        let crash = machine.invoke(&request("/loop", b""), Instant::now() + limit).unwrap_err();
                        assert!(matches!(crash.cause(), Cause::Timeout { .. }), "{crash}");
                    } else {
                        for count in 1..50 {
                            let (next, response) = machine.invoke(&request("/count", b""), in_seconds(20)).unwrap();
                            assert_eq!(response.body, count.to_string().as_bytes());
                            machine = next.keep();
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn log_lines_before_a_crash_are_kept_with_their_call_id() {
    for function in Function::on_each_backend("faults") {
        let limit = Duration::from_millis(100) * patience();
        let asked = request("/log-and-loop/last-words", b"");
        function.boot().unwrap().invoke(&asked, Instant::now() + limit).expect_err("it loops");
        let lines = function.log.0.lock().unwrap();
        assert!(lines.iter().any(|(id, _, text)| id == "call-1" && text == "last-words"), "{lines:?}");
    }
}

#[test]
fn a_function_that_ends_itself_is_said_to() {
    for function in Function::on_each_backend("faults") {
        assert!(matches!(crash(&function, "/hypercall/exit-finished").cause(), Cause::Finished));
        assert!(matches!(crash(&function, "/hypercall/exit-unknown-reason").cause(), Cause::Finished));
    }
}

#[test]
fn a_fault_names_the_function_and_offset_that_made_it() {
    for function in Function::on_each_backend("faults") {
        for path in ["/instruction/read-null", "/instruction/undefined", "/instruction/halt", "/instruction/divide"] {
            let text = crash(&function, path).to_string();
            assert!(text.contains("faults::instructions::") && text.contains("+0x"), "{text}");
        }
    }
}

#[test]
fn responses_at_and_beyond_their_limit() {
    for mut function in Function::on_each_backend("faults") {
        function.config.response_limit = 1000;
        assert_eq!(function.ask("/size/1000", b"").unwrap().body.len(), 1000);
        let crash = crash(&function, "/size/1001");
        assert!(matches!(crash.cause(), Cause::ResponseTooLarge { size: 1001, limit: 1000 }), "{crash}");
        assert!(crash.to_string().contains("dev.kernlet.limits.response"), "{crash}");
    }
}

#[test]
fn a_request_at_the_window_and_beyond() {
    for mut function in Function::on_each_backend("faults") {
        function.config.request_limit = 0;
        // 64 KiB of room for the head, less the head's structure, method, path and call id, rounded up to 64 bytes.
        let window = 64 * 1024;
        let fits = window - 128;
        function.ask("/", &vec![0; fits]).expect("the request fits");
        let crash = function.ask("/", &vec![0; fits + 1]).unwrap_err();
        assert!(matches!(crash.cause(), Cause::RequestTooLarge { window: 65536, .. }), "{crash}");
        let name = "n".repeat(70_000);
        let asked = kernlet_monitor::Request { headers: &[(&name, b"")], ..request("/", b"") };
        let crash = function.boot().unwrap().invoke(&asked, in_seconds(5)).unwrap_err();
        assert!(matches!(crash.cause(), Cause::RequestTooLarge { .. }), "{crash}");
    }
}

#[test]
fn a_machine_that_cannot_be_laid_out_is_refused_before_it_is_made() {
    for mut function in Function::on_each_backend("faults") {
        let good = function.config.clone();
        let nothing = || ("A".to_owned(), "b".repeat(20_000));
        for (config, word) in [
            (MachineConfig { memory: 0, ..good.clone() }, "bytes of memory, not 0"),
            (MachineConfig { memory: 4 * MIB - 1, ..good.clone() }, "bytes of memory"),
            (MachineConfig { memory: 4 << 30, ..good.clone() }, "bytes of memory"),
            (MachineConfig { memory: u64::MAX, ..good.clone() }, "bytes of memory"),
            (MachineConfig { request_limit: 16 * MIB, ..good.clone() }, "dev.kernlet.memory"),
            (MachineConfig { request_limit: u64::MAX, ..good.clone() }, "dev.kernlet.limits.request"),
            (MachineConfig { environment: vec![nothing()], ..good.clone() }, "environment takes 20003 bytes"),
        ] {
            function.config = config;
            let crash = function.boot().expect_err(word);
            let Cause::Layout(source) = crash.cause() else { panic!("{crash}") };
            assert!(source.to_string().contains(word), "{source}");
        }
        function.config = MachineConfig { response_limit: u64::MAX, ..good };
        function.ask("/count", b"").expect("a response limit beyond memory limits nothing");
    }
}

#[test]
fn the_largest_machine_takes_only_the_memory_that_it_touches() {
    for mut function in Function::on_each_backend("faults") {
        function.config.memory = 3 << 30;
        assert_eq!(function.ask("/count", b"").unwrap().body, b"1");
    }
}

#[test]
fn a_unikernel_is_read_once_and_runs_in_many_machines() {
    for function in Function::on_each_backend("faults") {
        let unikernel: Unikernel = function.unikernel.clone();
        assert_eq!(unikernel.entry(), function.unikernel.entry());
        let machines: Vec<_> = (0..8).map(|_| function.boot().unwrap()).collect();
        for machine in machines {
            let (_, response) = machine.invoke(&request("/count", b""), in_seconds(5)).unwrap();
            assert_eq!(response.body, b"1");
        }
    }
}
