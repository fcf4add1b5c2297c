//! `kernlet run`, as people type it: one machine in the foreground, its trace, its crash report, and gdb.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::{failed, gdb, home, kernlet, kvm_is_usable, root, stderr, stdout, succeeded};
use serde_json::Value;

/// The unikernel of an example function, built.
fn unikernel(function: &str) -> PathBuf {
    let functions = root().join("functions");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", function])
        .current_dir(&functions)
        .status()
        .unwrap();
    assert!(built.success(), "functions/{function} builds");
    functions.join("target/release").join(function)
}

fn run(function: &str, args: &[&str]) -> Output {
    kernlet().arg("run").arg(unikernel(function)).args(args).output().unwrap()
}

#[test]
fn a_function_answers_in_the_foreground_without_a_platform() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let mut child = kernlet()
        .args(["run", "echo", "--body", "-", "--include", "--verbose", "--home"])
        .arg(home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    let output = succeeded(child.wait_with_output().unwrap());
    assert_eq!(stdout(&output), "HTTP/1.1 200 OK\nContent-Type: text/plain\n\nhello");
    let said = stderr(&output);
    assert!(said.contains("booted in ") && said.contains("200 OK: ") && said.contains(" exits"), "{said}");
}

#[test]
fn a_request_in_the_foreground_is_the_one_that_was_asked_for() {
    if !kvm_is_usable() {
        return;
    }
    let output = succeeded(run(
        "tour",
        &["-X", "PATCH", "--path", "/request", "--query", "a=1 2", "-H", "X-One: 1", "--env", "GREETING=hi"],
    ));
    let text = stdout(&output);
    assert!(text.contains("PATCH") && text.contains("/request") && text.contains("a=1%202"), "{text}");
    assert!(text.contains("header x-one 1"), "{text}");
    let env = succeeded(run("tour", &["--path", "/env/GREETING", "--env", "GREETING=hi"]));
    assert!(stdout(&env).contains("hi"));
}

#[test]
fn a_status_that_is_a_failure_is_exit_code_1_with_the_answer() {
    if !kvm_is_usable() {
        return;
    }
    let output = run("faults", &["--path", "/status/418"]);
    assert!(failed(&output).contains("418"));
    assert_eq!(stdout(&output), "a body");
    succeeded(run("faults", &["--path", "/status/304"]));
}

#[test]
fn every_rewound_machine_passes_the_audit() {
    if !kvm_is_usable() {
        return;
    }
    let output = succeeded(run("faults", &["--path", "/count", "--repeat", "20", "--audit", "--json"]));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let requests = report["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 20);
    for request in requests {
        assert_eq!((&request["status"], &request["body"]), (&Value::from(200), &Value::from("1")), "a clean machine");
        assert!(request["settle_us"].is_number() && request["exits"].is_number(), "{request}");
    }
    let reused = succeeded(run("faults", &["--path", "/count", "--repeat", "3", "--isolation", "reuse"]));
    assert_eq!(stdout(&reused), "123");
    let fresh = succeeded(run("faults", &["--path", "/count", "--repeat", "3", "--isolation", "fresh"]));
    assert_eq!(stdout(&fresh), "111");
    assert!(failed(&run("faults", &["--audit", "--isolation", "reuse"])).contains("--isolation rewind"));
}

#[test]
fn a_trace_shows_each_hypercall_on_a_line_of_its_own() {
    if !kvm_is_usable() {
        return;
    }
    let output = succeeded(run("faults", &["--path", "/log/a-line", "--trace"]));
    let said = stderr(&output);
    let calls: Vec<&str> = said.lines().filter(|line| line.contains("µs ")).collect();
    assert_eq!(calls.len(), 3, "{said}");
    assert!(calls[0].contains("next_request(none) = waits <"), "{said}");
    assert!(calls[1].contains("log(info, \"a-line\") = ok <"), "{said}");
    assert!(calls[2].contains("next_request(status 200, "), "{said}");
    assert!(said.contains("[info] a-line"), "{said}");
}

#[test]
fn a_crash_in_the_foreground_is_shown_with_registers_callers_and_last_lines() {
    if !kvm_is_usable() {
        return;
    }
    let output = run("faults", &["--path", "/log-and-loop/last-words", "--timeout", "200ms"]);
    let said = failed(&output);
    for part in ["was stopped at faults::", "registers:   rip 0x", "faults::misbehave+0x", "_start+0x"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    let lines = said.split("last lines of its log:").nth(1).expect("the log's lines");
    assert!(lines.contains("[info] last-words"), "{said}");
    let said = failed(&run("faults", &["--path", "/instruction/read-null"]));
    assert!(said.contains("a page fault (vector 14), error code 0x") && said.contains("address 0x0"), "{said}");
    let json: Value = serde_json::from_str(&stdout(&run("faults", &["--path", "/panic", "--json"]))).unwrap();
    assert!(json["error"].as_str().unwrap().contains("asked to panic"), "{json}");
    let functions = json["crash"]["backtrace"].as_array().unwrap();
    assert!(functions.iter().any(|call| call["function"] == "faults::misbehave"), "{json}");
}

#[test]
fn what_cannot_be_run_is_named_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let run = |image: &str| failed(&kernlet().args(["run", image, "--home"]).arg(home.path()).output().unwrap());
    assert!(run("functions/echo").contains("`kernlet build functions/echo`"));
    assert!(run("./no-such-file").contains("there is no file ./no-such-file"));
    assert!(run("no-such-image").contains("no image no-such-image:latest"));
    if kvm_is_usable() {
        assert!(run("README.md").contains("not an ELF executable"));
    }
}

/// What gdb says to these commands, given to a function that is asked for `path`; and what the function's program said.
fn debug(path: &str, commands: &[&str]) -> Option<(String, Output)> {
    if !kvm_is_usable() || !gdb::is_there() {
        return None;
    }
    let unikernel = unikernel("faults");
    let mut child = kernlet()
        .arg("run")
        .arg(&unikernel)
        .args(["--path", path, "--gdb", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut waiting = String::new();
    said.read_line(&mut waiting).unwrap();
    let target = waiting.split('\'').nth(1).unwrap_or_else(|| panic!("{waiting}"));
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-batch", "-ex", target]).arg(&unikernel);
    for command in commands {
        gdb.args(["-ex", command]);
    }
    let gdb = gdb.stdin(Stdio::null()).output().unwrap();
    let mut rest = Vec::new();
    said.read_to_end(&mut rest).unwrap();
    let mut output = child.wait_with_output().unwrap();
    output.stderr = rest;
    Some((format!("{}{}", stdout(&gdb), stderr(&gdb)), output))
}

#[test]
fn gdb_breaks_at_a_function_steps_and_lets_it_finish() {
    let commands = [
        "info registers rip rdi",
        "rbreak ^faults::misbehave",
        "continue",
        "bt",
        "x/4xg $rsp",
        "stepi",
        "stepi",
        "info registers",
        "print $xmm0.uint128",
        "delete",
        "continue",
    ];
    let Some((said, output)) = debug("/count", &commands) else { return };
    for part in ["_start ()", "Breakpoint 1, ", "faults::misbehave", "#1 ", "kernlet_guest::entry::serve", "rflags"] {
        let part = if part == "rflags" { "eflags" } else { part };
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let frames = ["#0 ", "#1 ", "#2 ", "#3 "].iter().filter(|frame| said.contains(**frame)).count();
    assert_eq!(frames, 4, "handler, loop, function, entry:\n{said}");
    assert!(said.contains("exited normally"), "{said}");
    assert_eq!(stdout(&succeeded(output)), "1");
}

#[test]
fn gdb_sees_a_fault_where_it_happened() {
    let Some((said, output)) = debug("/instruction/read-null", &["continue", "bt", "continue"]) else { return };
    assert!(said.contains("SIGSEGV") && said.contains("faults::instructions::run"), "{said}");
    assert!(said.contains("Program terminated"), "{said}");
    assert!(failed(&output).contains("the null page"));
}

#[test]
fn gdb_sees_who_panicked() {
    let Some((said, output)) = debug("/panic", &["continue", "bt", "detach"]) else { return };
    assert!(said.contains("SIGABRT") && said.contains("panic_fmt") && said.contains("faults::misbehave"), "{said}");
    assert!(failed(&output).contains("asked to panic"));
}

#[test]
fn gdb_ends_a_function_by_kill() {
    let Some((_, output)) = debug("/loop", &["kill"]) else { return };
    assert!(failed(&output).contains("ended by its debugger"));
}
