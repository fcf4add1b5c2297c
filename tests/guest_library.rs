//! What the guest library offers a function, asked of real functions over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use common::{Platform, deployment, eventually, home, kvm_is_usable, stdout, succeeded};
use http::Method;
use serde_json::json;

fn nanos_since_1970() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

#[test]
fn a_function_sees_the_whole_request_and_its_environment() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    let mut tour = deployment("tour", "tour");
    tour["envVars"] = json!({"GREETING": "hello = there"});
    assert!(platform.system(Method::POST, "/system/functions", Some(&tour)).status.is_success());
    let headers = [("X-One", "1"), ("X-Call-Id", "tour-1")];
    let seen = platform.send(Method::PUT, "/function/tour/request?a=b%20c&d", &headers, "12345").text();
    for line in ["method PUT", "path /request", "query a=b%20c&d", "call id tour-1", "body 5 bytes", "header x-one 1"] {
        assert!(seen.lines().any(|found| found == line), "{line:?} is missing in:\n{seen}");
    }
    let environment = |name: &str| platform.send(Method::GET, &format!("/function/tour/env/{name}"), &[], "").text();
    assert_eq!(environment("GREETING"), "hello = there");
    assert_eq!(environment("NOTHING"), "not set");
}

#[test]
fn clock_entropy_and_log_are_the_hosts() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("tour");
    let ask = |path: &str| platform.send(Method::GET, &format!("/function/tour{path}"), &[], "");
    let before = nanos_since_1970();
    let clocks = ask("/clock").text();
    let realtime: u128 = clocks.split(' ').next().unwrap().parse().unwrap();
    assert!((before..=nanos_since_1970()).contains(&realtime), "{clocks}");
    let (first, second) = (ask("/entropy").body, ask("/entropy").body);
    assert_eq!(first.len(), 32);
    assert_ne!(first, second);
    assert!(ask("/log/a-line-of-the-tour").status.is_success());
    eventually("the line in the log", || {
        let log = stdout(&succeeded(platform.run(["logs", "tour"])));
        log.contains("a-line-of-the-tour").then_some(())
    });
}

#[test]
fn every_request_finds_what_the_function_initialised_once() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("tour");
    let started = || platform.send(Method::GET, "/function/tour/start", &[], "").text();
    let first = started();
    assert_ne!(first, "0\n");
    assert_eq!(started(), first);
}

#[test]
fn a_function_runs_a_model_on_its_own_tensors() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("tour");
    let ask = |path: &str| platform.send(Method::GET, &format!("/function/tour{path}"), &[], "");
    assert_eq!(ask("/noop").text(), "done\n");
    assert_eq!(ask("/resource/model").text(), "7153383\n");
    let missing = ask("/resource/nothing");
    assert_eq!(missing.status, 500);
    assert!(missing.text().contains("\"nothing\""), "{}", missing.text());
    let model = ask("/model");
    assert_eq!(model.status, 200, "{}", model.text());
    assert!(model.text().ends_with("output [1, 1000]\n"), "{}", model.text());
}

#[test]
fn matrices_are_multiplied_where_they_lie() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("sgemm");
    let (m, n, k) = (37, 29, 61);
    // Small whole numbers: every sum is exact, in whatever order.
    let number = |i: usize| f32::from(u8::try_from(i * 7 % 11).unwrap()) - 5.0;
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..m * k).map(number).collect(), (0..k * n).map(|i| number(i + 3)).collect());
    let body: Vec<u8> = a.iter().chain(&b).flat_map(|value| value.to_le_bytes()).collect();
    let reply = platform.send(Method::POST, &format!("/function/sgemm?m={m}&n={n}&k={k}"), &[], body.clone());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let product: Vec<f32> = reply.body.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let expected = (0..m * n).map(|at| (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum::<f32>());
    assert_eq!(product, expected.collect::<Vec<_>>());
    for (query, word) in
        [("?m=37&n=29", "k is a number"), ("?m=37&n=29&k=60", "are 15840 bytes"), ("", "m is a number")]
    {
        let refused = platform.send(Method::POST, &format!("/function/sgemm{query}"), &[], body.clone());
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains(word), "{}", refused.text());
    }
}
