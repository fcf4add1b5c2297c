//! What a crash report says of a function that ended: where it was, who called that, its registers, its last words, its
//! request; and what it never says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{Duration, Instant};

use common::{Function, patience, request};
use kernlet_abi::map::{STACK_BASE, STACK_TOP};
use kernlet_monitor::{Crash, Found, Level, Report, Request};

fn names(report: &Report) -> Vec<String> {
    let name =
        |frame: &kernlet_monitor::Frame| frame.at.symbol.as_ref().map_or(String::new(), |(name, _)| name.clone());
    report.backtrace.iter().map(name).collect()
}

fn report(crash: &Crash) -> &Report {
    crash.report().unwrap_or_else(|| panic!("a report of: {crash}"))
}

#[test]
fn a_crash_report_names_the_functions_that_had_not_returned() {
    for function in Function::on_each_backend("faults") {
        for path in ["/panic", "/instruction/read-null", "/instruction/undefined", "/oom"] {
            let crash = function.ask(path, b"").expect_err(path);
            let report = report(&crash);
            let names = names(report);
            assert!(names.iter().any(|name| name == "faults::misbehave"), "{path}: {names:?}");
            assert!(names.last().is_some_and(|name| name == "_start"), "{path}: {names:?}");
            let sure = report.backtrace.iter().all(|frame| frame.found != Found::Search);
            assert!(sure, "{path}: frame pointers lead all the way: {:?}", report.backtrace);
        }
    }
}

#[test]
fn a_crash_report_has_the_functions_own_registers() {
    for function in Function::on_each_backend("faults") {
        let crash = function.ask("/instruction/read-null", b"").unwrap_err();
        let report = report(&crash);
        assert!((STACK_BASE..STACK_TOP).contains(&report.registers.rsp), "{:x?}", report.registers);
        assert_eq!(report.registers.rip, report.backtrace[0].at.address);
        let fault = report.fault.expect("a fault");
        assert_eq!((fault.vector, fault.error_code & 1), (14, 0), "nothing is mapped there: {fault:?}");
        assert!(fault.address.is_some_and(|address| address < 4096), "{fault:?}");
        assert_eq!(crash_of(&function, "/instruction/divide").fault.unwrap().vector, 0);
        assert_eq!(crash_of(&function, "/panic").fault, None);
    }
}

fn crash_of(function: &Function, path: &str) -> Report {
    report(&function.ask(path, b"").expect_err(path)).clone()
}

#[test]
fn an_overflown_stack_is_walked_as_far_as_a_report_goes() {
    for function in Function::on_each_backend("faults") {
        let report = crash_of(&function, "/stack-overflow");
        let names = names(&report);
        assert!(names.len() > 8 && names[4..].iter().all(|name| name == "faults::recurse"), "{names:?}");
    }
}

#[test]
fn a_function_that_is_stopped_is_reported_with_where_it_was_and_its_last_words() {
    for function in Function::on_each_backend("faults") {
        let deadline = Instant::now() + Duration::from_millis(100) * patience();
        let asked = Request {
            headers: &[("Authorization", b"secret-header")],
            query: "token=secret-query",
            ..request("/log-and-loop/last-words", b"secret-body")
        };
        let crash = function.boot().unwrap().invoke(&asked, deadline).unwrap_err();
        let report = report(&crash);
        assert!(names(report).iter().any(|name| name == "faults::misbehave"), "{:?}", report.backtrace);
        assert_eq!(report.last_lines, [(Level::Info, "last-words".to_owned())]);
        let summary = report.request.as_ref().unwrap();
        assert_eq!((summary.method.as_str(), summary.call_id.as_str()), ("POST", "call-1"));
        assert_eq!((summary.path.as_str(), summary.headers), ("/log-and-loop/last-words", 1));
        assert_eq!((summary.query_bytes, summary.body_bytes), (18, 11));
        let everything = format!("{report:?} {crash}");
        assert!(!everything.contains("secret"), "{everything}");
        assert!(!everything.contains("GREETING"), "{everything}");
    }
}
