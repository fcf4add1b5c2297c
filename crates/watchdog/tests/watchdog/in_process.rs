//! A function without HTTP, as benchmarks use it.

use kernlet_monitor::Request;
use kernlet_watchdog::{Function, InvokeError, Log};

use crate::support::{Deployment, kvm};

fn request(path: &'static str, body: &'static [u8]) -> Request<'static> {
    Request { method: "POST", path, query: "", headers: &[("content-type", b"x/y")], body, call_id: "id" }
}

fn open(deployment: &Deployment) -> Function {
    let log = Log::start(std::io::sink(), false).unwrap();
    Function::open(&deployment.spec, &log).unwrap()
}

#[test]
fn a_worker_answers_on_the_callers_thread_and_keeps_its_machine() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::echo();
    let mut worker = open(&deployment).worker();
    assert!(!worker.has_machine());
    for body in [&b"one"[..], b"", b"three"] {
        let response = worker.invoke(&request("/", body)).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, body));
        assert!(worker.has_machine());
    }
}

#[test]
fn a_crashed_machine_is_never_reused() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::faults();
    let mut worker = open(&deployment).worker();
    let mut count = || String::from_utf8(worker.invoke(&request("/count", b"")).unwrap().body).unwrap();
    assert_eq!([count(), count()], ["1", "2"]);
    let error = worker.invoke(&request("/panic", b"")).unwrap_err();
    assert!(matches!(error, InvokeError::Crashed { .. }), "{error}");
    assert!(!worker.has_machine());
    assert_eq!(worker.invoke(&request("/count", b"")).unwrap().body, b"1");
}

#[test]
fn a_worker_holds_requests_to_the_functions_limits() {
    if !kvm() {
        return;
    }
    let deployment = Deployment::echo().with(|config| {
        config.request_limit = "4".parse().unwrap();
        config.max_inflight = 1;
    });
    let mut worker = open(&deployment).worker();
    assert_eq!(worker.invoke(&request("/", b"12345")).unwrap_err().status(), 413);
    assert_eq!(worker.invoke(&request("/", b"1234")).unwrap().status, 200);
}

#[test]
fn a_function_whose_files_cannot_be_used_is_not_opened() {
    if !kvm() {
        return;
    }
    let log = Log::start(std::io::sink(), false).unwrap();
    let mut deployment = Deployment::new("broken", b"not an ELF");
    let error = Function::open(&deployment.spec, &log).unwrap_err();
    assert_eq!(error.to_string(), "the unikernel of function broken cannot run; build its image again");
    deployment.spec.kernel = "/nonexistent/kernel".into();
    let error = Function::open(&deployment.spec, &log).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/kernel") && error.contains("deploy the function again"), "{error}");

    let mut echo = Deployment::echo();
    echo.spec.resources = vec![("model".to_owned(), "/nonexistent/model".into())];
    let error = Function::open(&echo.spec, &log).unwrap_err().to_string();
    assert!(error.starts_with("resource model of function echo"), "{error}");
}

#[test]
fn a_function_whose_model_cannot_be_loaded_says_so_instead_of_serving() {
    if !kvm() {
        return;
    }
    let mut deployment = Deployment::echo();
    let model = deployment.folder.path().join("model.onnx");
    // IR version 8, and a graph of one node whose operator does not exist.
    std::fs::write(&model, b"\x08\x08\x3a\x08\x0a\x06\x22\x04Nope").unwrap();
    deployment.spec.resources = vec![("model.onnx".to_owned(), model)];
    let error = open(&deployment).worker().invoke(&request("/", b"")).unwrap_err();
    assert_eq!(error.status(), 503);
    assert!(error.message().contains("model.onnx"), "{}", error.message());
}
