//! A function that misbehaves ends with a named error, and harms neither its platform nor the next request.

use std::thread;

use crate::support::{Deployment, Watchdog, kvm};

/// Calls a path that ends the machine: a 502 which says each of these words, logged with its call id; then the
/// function serves again, on a machine that has seen nothing.
fn assert_crash(watchdog: &Watchdog, path: &str, words: &[&str]) {
    let answer = watchdog.request("GET", path, &format!("X-Call-Id: {path}\r\n"), b"");
    let text = answer.text();
    assert_eq!(answer.status, 502, "{path}: {text}");
    assert!(text.starts_with("function faults crashed: "), "{path}: {text}");
    for word in words {
        assert!(text.contains(word), "{path}: {word:?} is missing in {text:?}");
    }
    let logged = watchdog.log_line(|line| line["call_id"] == path);
    assert_eq!((&logged["level"], &logged["source"]), (&"error".into(), &"watchdog".into()));
    assert_eq!(logged["text"].as_str(), Some(text.trim_end()));
    assert_eq!(watchdog.get("/count").text(), "1", "after {path}");
}

#[test]
fn a_panic_is_answered_with_its_message_and_place() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    assert_crash(&watchdog, "/panic", &["panicked", "asked to panic on request 1", "main.rs:"]);
}

#[test]
fn memory_and_stack_end_where_they_end() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    assert_crash(&watchdog, "/oom", &["ran out of memory", "65536 bytes", "dev.kernlet.memory"]);
    assert_crash(&watchdog, "/one-huge-allocation", &["ran out of memory", "1099511627776 bytes"]);
    assert_crash(&watchdog, "/stack-overflow", &["stack", "recurse"]);
}

#[test]
fn an_access_outside_the_memory_map_is_named_with_address_and_symbol() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    for (name, words) in [
        ("read-null", &["read", "0x0"][..]),
        ("read-far", &["read", "0x7fff00000000"]),
        ("read-descriptor-tables", &["read", "0x1000"]),
        ("read-page-tables", &["read", "0x10000"]),
        ("write-null", &["wrote", "0x8"]),
        ("write-far", &["wrote", "0x7fff00000000"]),
        ("write-page-tables", &["wrote", "0x10000"]),
        ("write-boot-page", &["wrote", "0x100000"]),
        ("write-hypercall-page", &["wrote", "0x104000"]),
        ("write-stack-guard", &["wrote", "0x10fff8"]),
        ("write-code", &["wrote"]),
        ("write-request", &["wrote"]),
        ("execute-null", &["executed", "0x0"]),
        ("execute-data", &["executed"]),
        ("execute-stack", &["executed"]),
        ("execute-far", &["executed", "0x7fff00000000"]),
    ] {
        assert_crash(&watchdog, &format!("/instruction/{name}"), words);
    }
    assert_crash(&watchdog, "/instruction/read-null", &["faults::instructions::"]);
}

#[test]
fn an_instruction_that_a_guest_may_not_carry_out_ends_it() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    for name in [
        "undefined",
        "divide",
        "breakpoint",
        "interrupt",
        "halt",
        "disable-interrupts",
        "read-control-register",
        "write-control-register",
        "write-model-register",
        "load-descriptor-table",
        "syscall",
        "sysenter",
        "write-port",
        "read-port",
        "write-fault-port",
        "misaligned-vector",
        "trap-flag",
        "read-not-canonical",
        "stack-nowhere",
    ] {
        assert_crash(&watchdog, &format!("/instruction/{name}"), &[]);
    }
}

#[test]
fn a_hypercall_with_a_range_that_is_not_the_guests_ends_it() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    for name in [
        "unknown-number",
        "number-zero",
        "block-null",
        "block-outside",
        "block-in-page-tables",
        "block-read-only",
        "block-across-the-end",
        "narrow-write",
        "log-outside",
        "log-overflowing",
        "log-supervisor",
        "log-endless",
        "entropy-outside",
        "entropy-read-only",
        "entropy-into-code",
        "resource-outside",
        "resource-endless",
        "next-without-response",
        "response-outside",
        "response-body-outside",
        "response-body-overflowing",
        "response-headers-outside",
        "response-headers-endless",
        "response-headers-cut",
        "response-is-supervisor-memory",
        "accel-args-outside",
        "accel-too-many",
        "accel-arg-outside",
        "accel-arg-overflowing",
        "accel-writes-boot-page",
        "accel-overlap",
        "exit-message-outside",
    ] {
        assert_crash(&watchdog, &format!("/hypercall/{name}"), &[]);
    }
    assert_crash(&watchdog, "/hypercall/exit-finished", &["ended by itself"]);
}

#[test]
fn a_hypercall_that_is_only_wrong_is_answered_with_a_status() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    for (name, status) in
        [("log-not-utf-8", "0"), ("entropy-too-much", "22"), ("resource-unknown", "2"), ("accel-unknown", "95")]
    {
        let answer = watchdog.get(&format!("/hypercall/{name}"));
        assert_eq!((answer.status, answer.text()), (200, status), "{name}");
    }
}

#[test]
fn a_response_that_cannot_be_sent_is_named() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.response_limit = "64Ki".parse().unwrap()).serve();
    assert_eq!(watchdog.get("/size/65536").body.len(), 65536);
    assert_crash(&watchdog, "/size/65537", &["65537 bytes", "65536", "dev.kernlet.limits.response"]);
    for status in [0, 100, 199, 600, 65535] {
        assert_crash(&watchdog, &format!("/status/{status}"), &[&status.to_string()]);
    }
    for (path, name) in [("/bad-header", "not a name"), ("/split-header", "X-Split")] {
        let answer = watchdog.get(path);
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.text().contains(name) && answer.header("set-cookie").is_none(), "{answer:?}");
    }
    assert_eq!(watchdog.get("/status/204").status, 204);
}

#[test]
fn a_guest_cannot_forge_what_the_platform_writes() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let mut client = watchdog.connect();
    client.request("GET", "/forged-headers", "X-Call-Id: real\r\n", b"");
    let answer = client.answer("GET");
    assert_eq!((answer.status, answer.text()), (200, "whole"));
    assert_eq!((answer.header("x-call-id"), answer.header("x-own")), (Some("real"), Some("kept")));
    for name in ["x-openfaas-internal", "connection", "transfer-encoding"] {
        assert_eq!(answer.header(name), None);
    }
    client.request("GET", "/count", "", b"");
    assert_eq!(client.answer("GET").text(), "2", "the connection is still open");
}

#[test]
fn a_function_that_floods_its_log_neither_stops_nor_silences_the_platform() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    assert_eq!(watchdog.get("/log-flood/20000").status, 200);
    let dropped = |line: &serde_json::Value| line["text"].as_str().unwrap().contains("log lines dropped");
    let report = watchdog.log_line(dropped);
    assert_eq!((&report["source"], &report["level"]), (&"watchdog".into(), &"warn".into()));
    assert_crash(&watchdog, "/panic", &[]);
}

#[test]
fn a_functions_log_lines_carry_their_call_id() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    watchdog.request("GET", "/log/hello", "X-Call-Id: c-1\r\n", b"");
    let line = watchdog.log_line(|line| line["source"] == "function");
    assert_eq!((&line["text"], &line["level"], &line["call_id"]), (&"hello".into(), &"info".into(), &"c-1".into()));
}

#[test]
fn many_crashes_at_the_same_time_leave_nothing_behind() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    for _ in 0..5 {
        let mut clients: Vec<_> = (0..8).map(|_| watchdog.connect()).collect();
        for client in &mut clients {
            client.request("GET", "/instruction/write-null", "", b"");
        }
        for client in &mut clients {
            assert_eq!(client.answer("GET").status, 502);
        }
    }
    assert_eq!(watchdog.get("/count").text(), "1");
    let vcpus = || {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", watchdog.child.id())).unwrap();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        targets.filter(|target| target.to_string_lossy().contains("kvm-vcpu")).count()
    };
    // The machine that counted, and two shells for the next ones; the others are closed in the background.
    while vcpus() > 3 {
        thread::yield_now();
    }
}
