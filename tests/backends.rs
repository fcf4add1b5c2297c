//! The platform without KVM: functions run as confined processes, because the operator asked for it or because there is
//! no KVM here. Driven through the real binary and real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Platform, children_of, eventually, home, kernlet, stdout, succeeded};
use http::{Method, StatusCode};
use rustix::process::{Signal, kill_process};

/// A platform whose functions are processes.
fn platform() -> (tempfile::TempDir, Platform) {
    let home = home();
    let mut program = kernlet();
    program.env("KERNLET_BACKEND", "process");
    let platform = Platform::start_with(program, home.path());
    platform.deploy("echo");
    (home, platform)
}

#[test]
fn functions_run_as_processes_where_the_operator_asks_for_it() {
    let (_home, platform) = platform();
    for body in ["", "hello", "hello again"] {
        let reply = platform.call("echo", body);
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, body));
    }
    let logged = stdout(&succeeded(platform.run(["logs", "echo"])));
    assert!(logged.contains("backend process"), "{logged}");

    succeeded(platform.run(["deploy", "faults", "--image", "faults", "--env", "exec_timeout=500ms"]));
    for (path, status, cause) in [
        ("panic", StatusCode::BAD_GATEWAY, "asked to panic"),
        ("stack-overflow", StatusCode::BAD_GATEWAY, "the stack overflowed"),
        ("instruction/read-null", StatusCode::BAD_GATEWAY, "the null page"),
        ("instruction/halt", StatusCode::BAD_GATEWAY, "general protection"),
        ("loop", StatusCode::GATEWAY_TIMEOUT, "500ms"),
    ] {
        let reply = platform.send(Method::GET, &format!("/function/faults/{path}"), &[], "");
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        assert!(reply.text().contains(cause), "{path}: {}", reply.text());
        let next = platform.send(Method::GET, "/function/faults/count", &[], "");
        assert_eq!((next.status, next.text().as_str()), (StatusCode::OK, "1"), "after {path}: a new machine");
    }
    platform.still_serves_echo();
}

#[test]
fn a_watchdog_that_is_killed_takes_its_functions_processes_with_it() {
    let (_home, platform) = platform();
    platform.still_serves_echo();
    let [watchdog] = platform.watchdogs()[..] else { panic!("one function has one watchdog") };
    let processes = children_of(watchdog);
    assert!(!processes.is_empty(), "a machine is a child of its watchdog");
    kill_process(watchdog, Signal::KILL).unwrap();
    let gone = |pid: &rustix::process::Pid| rustix::process::test_kill_process(*pid).is_err();
    eventually("the end of the processes", || processes.iter().all(gone).then_some(()));
    eventually("another watchdog", || (platform.call("echo", "again").status == StatusCode::OK).then_some(()));
}

#[test]
fn a_function_that_is_a_process_has_its_limit_of_processor_time() {
    let (_home, platform) = platform();
    let limit = "dev.kernlet.limits.cpu-time=50ms";
    succeeded(platform.run(["deploy", "faults", "--image", "faults", "--annotation", limit]));
    let reply = platform.send(Method::GET, "/function/faults/loop", &[], "");
    assert!(reply.status.is_server_error(), "{}", reply.text());
    assert!(reply.text().contains("cpu-time"), "{}", reply.text());
    platform.still_serves_echo();
}

#[test]
fn a_picture_is_classified_by_a_function_that_is_a_process() {
    let (_home, platform) = platform();
    platform.deploy("classify");
    let picture = std::fs::read(common::picture("cat.jpg")).unwrap();
    let reply = platform.call("classify", picture);
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert!(reply.text().contains("cat"), "{}", reply.text());
}

#[test]
fn a_backend_that_does_not_exist_is_refused_by_name() {
    let output = kernlet().args(["up", "--backend", "qemu"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = common::stderr(&output);
    assert!(said.contains("qemu") && said.contains("auto, kvm or process"), "{said}");
}

#[test]
fn one_run_can_be_a_process() {
    let home = home();
    let run = |path: &str| {
        let mut command = kernlet();
        command.args(["run", "faults", "--backend", "process", "--path", path, "--home"]).arg(home.path());
        command.output().unwrap()
    };
    assert_eq!(stdout(&succeeded(run("/count"))), "1");
    let said = failed_report(&run("/instruction/read-null"));
    assert!(said.contains("the null page") && said.contains("rip"), "{said}");
}

/// What a run says whose function crashed.
fn failed_report(output: &std::process::Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    common::stderr(output)
}
