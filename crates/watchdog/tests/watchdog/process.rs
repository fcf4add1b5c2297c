//! The watchdog as a process: its socket, its start, its end.

use std::{
    fs::File,
    os::unix::{net::UnixStream, process::ExitStatusExt as _},
    process::Stdio,
};

use kernlet_watchdog::Listen;
use rustix::process::Signal;

use crate::{
    onnx::{self, Dim},
    support::{Client, Deployment, kvm},
};

#[test]
fn on_sigterm_requests_under_way_are_finished_and_the_process_ends_well() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::echo().serve();
    let mut idle = watchdog.connect();
    idle.request("POST", "/", "", b"kept alive");
    assert_eq!(idle.answer("POST").body, b"kept alive");
    // Under way: its body is still to come.
    let mut open = watchdog.connect();
    open.send(b"POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(open.status_line(), "HTTP/1.1 100 Continue");

    watchdog.signal(Signal::TERM);
    watchdog.log_line(|line| line["text"].as_str().unwrap().starts_with("shutting down"));
    assert!(idle.is_closed());
    open.send(b"last");
    let answer = open.answer("POST");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"last"[..]));
    assert!(watchdog.wait().success());
}

#[test]
fn while_it_drains_the_watchdog_is_neither_ready_nor_healthy() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::echo().serve();
    // Half a request each, read before the one that is answered.
    let mut early = ["/_/ready", "/_/health"].map(|path| {
        let mut client = watchdog.connect();
        client.send(format!("GET {path} HTTP/1.1\r\n").as_bytes());
        client
    });
    assert_eq!(watchdog.post("/", b"x").status, 200);
    watchdog.signal(Signal::TERM);
    watchdog.log_line(|line| line["text"].as_str().unwrap().starts_with("shutting down"));
    for client in &mut early {
        client.send(b"Host: f\r\n\r\n");
        let answer = client.answer("GET");
        assert_eq!(answer.status, 503);
        assert!(answer.text().contains("shutting down"), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert!(watchdog.wait().success());
}

#[test]
fn a_watchdog_that_was_handed_its_socket_ends_with_who_started_it() {
    if !kvm() {
        return;
    }
    // To the kernel a child's parent is the thread that started it.
    let mut watchdog = std::thread::spawn(|| Deployment::echo().serve()).join().unwrap();
    assert_eq!(watchdog.wait().signal(), Some(Signal::KILL.as_raw()));
}

#[test]
fn a_drain_takes_no_longer_than_an_invocation_may() {
    if !kvm() {
        return;
    }
    let mut watchdog =
        Deployment::faults().with(|config| config.exec_timeout = std::time::Duration::from_millis(300)).serve();
    let mut stuck = watchdog.connect();
    stuck.request("GET", "/log-and-loop/looping", "", b"");
    watchdog.log_line(|line| line["text"] == "looping");
    // Never sends its body.
    let mut silent = watchdog.connect();
    silent.send(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 4\r\n\r\n");
    watchdog.signal(Signal::TERM);
    assert!(watchdog.wait().success());
}

#[test]
fn connections_wait_in_the_socket_while_a_watchdog_is_replaced() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::echo();
    let path = deployment.folder.path().join("kept");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let handed = || Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
    let mut first = deployment.start_on(&Listen::Stdin, path.clone(), handed());
    assert_eq!(first.post("/", b"first").body, b"first");
    first.signal(Signal::KILL);
    first.wait();

    let mut waiting = Client::new(UnixStream::connect(&path).unwrap());
    waiting.request("POST", "/", "", b"second");
    let _second = Deployment::echo().start_on(&Listen::Stdin, path, handed());
    assert_eq!(waiting.answer("POST").body, b"second");
}

#[test]
fn a_socket_of_its_own_is_made_where_it_is_told() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::echo();
    let path = deployment.folder.path().join("own");
    let watchdog = deployment.start_on(&Listen::Unix(path.clone()), path.clone(), Stdio::null());
    let line = watchdog.log_line(|line| line["level"] == "info");
    let text = line["text"].as_str().unwrap();
    for part in ["echo.openfaas-fn", "own", "sha256:", "32Mi a machine", "16 requests at once", "30s each", "rewind"] {
        assert!(text.contains(part), "{part:?} is missing in {text:?}");
    }
    assert_eq!(watchdog.post("/", b"x").body, b"x");
}

#[test]
fn a_watchdog_that_cannot_start_says_why_in_its_log_and_fails() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::echo();
    let socket = deployment.folder.path().join("unused");
    let mut no_socket = deployment.start_on(&Listen::Stdin, socket.clone(), File::open("/dev/null").unwrap().into());
    assert!(!no_socket.wait().success());
    let log = no_socket.rest_of_log();
    let text = log.last().unwrap()["text"].as_str().unwrap();
    assert!(text.contains("standard input is not a listening unix socket") && text.contains("unix:PATH"), "{text}");

    let mut no_kernel = Deployment::new("broken", b"\x7fELF").start();
    assert!(!no_kernel.wait().success());
    let last = no_kernel.rest_of_log().pop().unwrap();
    assert_eq!(last["level"], "error");
    assert!(last["text"].as_str().unwrap().contains("build its image again"), "{last}");
}

#[test]
fn a_reader_of_the_log_that_is_gone_stops_nothing() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::faults().serve();
    watchdog.close_log();
    assert_eq!(watchdog.get("/log-flood/5000").status, 200);
    assert_eq!(watchdog.get("/panic").status, 502);
    assert_eq!(watchdog.get("/count").text(), "1");
    watchdog.signal(Signal::TERM);
    // The test harness around it fails, for want of a place to write.
    watchdog.wait();
}

#[test]
fn an_operation_that_never_ends_ends_its_watchdog_and_the_next_one_serves() {
    if !kvm() {
        return;
    }
    let rows = [Dim::Named("N")];
    let endless = onnx::model(
        &[onnx::endless("x", "y"), onnx::node("Identity", &["k"], &["l"], &[])],
        &[onnx::value("x", onnx::FLOAT, &rows), onnx::value("k", onnx::INT64, &[])],
        &[onnx::value("y", onnx::FLOAT, &rows), onnx::value("l", onnx::INT64, &[])],
        &[],
    );
    let mut deployment = Deployment::operations();
    let model = deployment.folder.path().join("model");
    std::fs::write(&model, endless).unwrap();
    deployment.spec.resources.push(("model".to_owned(), model));
    let path = deployment.folder.path().join("kept");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let handed = || Stdio::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
    let mut first = deployment.start_on(&Listen::Stdin, path.clone(), handed());

    let late = first.request("POST", "/onnx-model", "X-Timeout: 300ms\r\n", b"");
    assert_eq!(late.status, 504, "{late:?}");
    assert!(!first.wait().success());
    let line = first.rest_of_log().last().unwrap().to_string();
    for part in ["plugin rten carried out onnx-model-run", "beyond its deadline", "another one takes its place"] {
        assert!(line.contains(part), "{part:?} is missing in {line}");
    }
    let mut waiting = Client::new(UnixStream::connect(&path).unwrap());
    waiting.request("POST", "/", "", b"again");
    let _second = Deployment::echo().start_on(&Listen::Stdin, path, handed());
    assert_eq!(waiting.answer("POST").body, b"again");
}
