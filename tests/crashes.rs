//! A function that misbehaves, seen from outside: the caller learns the cause, everybody else notices nothing.
//! Driven by `functions/faults`, through HTTP. It never trusts the platform's word: it asks a neighbour.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Platform, eventually, home, kvm_is_usable, stdout, succeeded};
use http::{Method, StatusCode};

/// A platform with a function that misbehaves and a neighbour that does not.
fn platform() -> (tempfile::TempDir, Platform) {
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    succeeded(platform.run(["deploy", "faults", "--image", "faults", "--env", "exec_timeout=500ms"]));
    (home, platform)
}

#[test]
fn a_crash_is_502_with_its_cause_and_the_next_request_is_served() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    let crashes = [
        ("panic", "asked to panic"),
        ("oom", "memory"),
        ("one-huge-allocation", "memory"),
        ("stack-overflow", "stack"),
    ];
    for (path, cause) in crashes {
        let reply = platform.send(Method::GET, &format!("/function/faults/{path}"), &[], "");
        assert_eq!(reply.status, StatusCode::BAD_GATEWAY, "{path}: {}", reply.text());
        assert!(reply.text().contains(cause), "{path}: {}", reply.text());
        assert!(!reply.header("x-openfaas-internal").is_empty(), "{path}: the platform says so");
        let next = platform.send(Method::GET, "/function/faults/count", &[], "");
        assert_eq!((next.status, next.text().as_str()), (StatusCode::OK, "1"), "after {path}: a new machine");
        platform.still_serves_echo();
    }
}

#[test]
fn a_function_that_loops_is_504_with_the_limit() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    let reply = platform.send(Method::GET, "/function/faults/loop", &[], "");
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT, "{}", reply.text());
    assert!(reply.text().contains("500ms") && reply.text().contains("exec_timeout"), "{}", reply.text());
    platform.still_serves_echo();
}

#[test]
fn a_crash_is_in_the_functions_log_under_its_call_id() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    platform.send(Method::GET, "/function/faults/panic", &[("x-call-id", "call-of-doom")], "");
    eventually("the crash in the log", || {
        let log = stdout(&succeeded(platform.run(["logs", "faults"])));
        log.lines().any(|line| line.contains("asked to panic")).then_some(())
    });
}

#[test]
fn the_log_has_a_crash_report_and_the_caller_gets_none_of_it() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    let asked = [("x-call-id", "call-of-doom"), ("authorization", "secret-header")];
    let reply = platform.send(Method::POST, "/function/faults/instruction/read-null", &asked, "secret-body");
    for inner in ["registers", "rsp", "backtrace", "_start"] {
        assert!(!reply.text().contains(inner), "{}", reply.text());
    }
    let log = eventually("the report in the log", || {
        let log = stdout(&succeeded(platform.run(["logs", "faults"])));
        log.contains("backtrace:").then_some(log)
    });
    for part in ["registers:   rip 0x", "faults::misbehave+0x", "a page fault (vector 14)", "call id call-of-doom"] {
        assert!(log.contains(part), "{part} is not in {log}");
    }
    let json = stdout(&succeeded(platform.run(["logs", "faults", "--json"])));
    let lines = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let report = lines.into_iter().find(|line| line["report"].is_object()).expect("the report as JSON");
    assert!(report["text"].as_str().unwrap().contains("crash report: faults::instructions::run < "), "{report}");
    assert_eq!(report["report"]["request"]["body_bytes"], "secret-body".len());
    assert!(!json.contains("secret"), "{json}");
}

#[test]
fn what_a_function_logs_is_in_its_log() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    platform.send(Method::GET, "/function/faults/log/a-line-of-its-own", &[], "");
    eventually("the line in the log", || {
        let log = stdout(&succeeded(platform.run(["logs", "faults", "--since", "10m"])));
        log.contains("a-line-of-its-own").then_some(())
    });
}

#[test]
fn a_functions_own_status_is_passed_on() {
    if !kvm_is_usable() {
        return;
    }
    let (_home, platform) = platform();
    let reply = platform.send(Method::GET, "/function/faults/status/418", &[], "");
    assert_eq!((reply.status.as_u16(), reply.text().as_str()), (418, "a body"));
    let said = common::failed(&platform.run(["invoke", "faults", "--method", "GET", "--path", "/status/418"]));
    assert!(said.contains("418") && said.contains("a body"), "{said}");
}
