//! What functions use is limited, metered and shown, and one that asks for too much does not take the others' share.
//! Through the real program and real HTTP. It never asserts how long something takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{Platform, Reply, deployment, eventually, home, kernlet, kvm_is_usable, stdout, succeeded};
use http::{Method, StatusCode};
use rustix::process::{Signal, kill_process};
use serde_json::json;

/// Clients of the function that asks for too much.
const HEAVY_CLIENTS: usize = 64;

/// Requests of the one client of the other.
const LIGHT_REQUESTS: usize = 40;

fn metrics(platform: &Platform) -> String {
    let reply = platform.send(Method::GET, "/metrics", &[], "");
    assert_eq!(reply.status, StatusCode::OK);
    reply.text()
}

/// A sample of the gateway's metrics.
fn sample(platform: &Platform, name: &str) -> f64 {
    let text = metrics(platform);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

fn of(function: &str, name: &str) -> String {
    format!("{name}{{function_name=\"{function}.openfaas-fn\"}}")
}

#[test]
fn what_an_invocation_used_is_in_the_answer_on_demand_in_the_log_and_in_the_metrics() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    let mut body = deployment("echo", "echo");
    body["envVars"] = json!({"write_debug": "true"});
    assert_eq!(platform.system(Method::POST, "/system/functions", Some(&body)).status, StatusCode::ACCEPTED);
    let call = |headers: &[(&str, &str)]| platform.send(Method::POST, "/function/echo", headers, "sixteen bytes ..");
    assert_eq!(call(&[]).header("x-kernlet-usage"), "");
    let told = call(&[("x-kernlet-usage", "1"), ("x-call-id", "told")]);
    let record = told.header("x-kernlet-usage").to_owned();
    for field in ["accel=0", "exits=1", "in=16", "out=16", "copied=0"] {
        assert!(record.split(", ").any(|found| found == field), "{field} is not in {record}");
    }
    assert_eq!(sample(&platform, &of("echo", "kernlet_request_bytes_total")), 32.0);
    assert_eq!(sample(&platform, &of("echo", "kernlet_exits_total")), 2.0);
    assert!(sample(&platform, &of("echo", "kernlet_guest_cpu_seconds_total")) > 0.0);
    let line = eventually("the line about the call", || {
        let log = stdout(&succeeded(platform.run(["logs", "echo"])));
        log.lines().find(|line| line.contains("[told]")).map(str::to_owned)
    });
    assert!(line.contains("200 in ") && line.contains("exits=1") && line.contains("in=16"), "{line}");

    let described = platform.system(Method::GET, "/system/function/echo?usage=1", None).json();
    assert!(described["usage"]["totalMemoryBytes"].as_u64().unwrap() > 0, "{described}");
    assert!(described["usage"]["cpu"].is_number(), "{described}");
    assert!(stdout(&succeeded(platform.run(["describe", "echo"]))).contains("Memory"));

    // The sums are the gateway's: the death of a watchdog takes nothing from them.
    for watchdog in platform.watchdogs() {
        kill_process(watchdog, Signal::KILL).unwrap();
    }
    eventually("the next answer", || (call(&[]).status == StatusCode::OK).then_some(()));
    assert!(sample(&platform, &of("echo", "kernlet_request_bytes_total")) >= 48.0);
}

#[test]
fn limits_come_from_annotations_and_from_openfaas_own_fields() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    let mut body = deployment("faults", "faults");
    body["annotations"] = json!({"dev.kernlet.limits.cpu-time": "40ms"});
    // A tenth of a processor, so that the machine pauses on its way there.
    body["limits"] = json!({"cpu": "100m"});
    assert_eq!(platform.system(Method::POST, "/system/functions", Some(&body)).status, StatusCode::ACCEPTED);
    let stopped = platform.call("faults/loop", "");
    assert_eq!(stopped.status, StatusCode::GATEWAY_TIMEOUT, "{}", stopped.text());
    assert!(stopped.text().contains("40ms of processor time"), "{}", stopped.text());

    body["limits"] = json!({"cpu": "half of one"});
    body["annotations"] = json!({"dev.kernlet.limits.log-rate": "some"});
    let refused = platform.system(Method::PUT, "/system/functions", Some(&body));
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    for words in ["limits.cpu: \"half of one\"", "dev.kernlet.limits.log-rate: \"some\""] {
        assert!(refused.text().contains(words), "{}", refused.text());
    }
}

#[test]
fn a_heavy_function_is_shed_with_when_to_come_back_while_a_light_one_is_served() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let mut program = kernlet();
    program.env("KERNLET_MAX_INFLIGHT", "16");
    let platform = Arc::new(Platform::start_with(program, home.path()));
    platform.deploy("echo");
    platform.deploy("faults");
    platform.still_serves_echo();
    let (done, shed, served) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..HEAVY_CLIENTS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let reply = platform.call("faults/burn/100", "");
                    match reply.status {
                        StatusCode::OK => served.fetch_add(1, Ordering::Relaxed),
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                            assert_ne!(reply.header("retry-after"), "", "{}", reply.text());
                            shed.fetch_add(1, Ordering::Relaxed)
                        }
                        other => panic!("{other}: {}", reply.text()),
                    };
                }
            });
        }
        let _heavy_ends_with_the_test = Flag(&done);
        eventually("the first refusal", || (shed.load(Ordering::Relaxed) > 0).then_some(()));
        let light: Vec<Reply> = (0..LIGHT_REQUESTS).map(|_| platform.call("echo", "a little")).collect();
        for reply in light {
            assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "a little"));
        }
        eventually("an answer of the heavy one", || (served.load(Ordering::Relaxed) > 0).then_some(()));
    });
    assert!(shed.load(Ordering::Relaxed) > 0);
}

/// Ends the heavy clients, also when the test fails.
struct Flag<'a>(&'a AtomicBool);

impl Drop for Flag<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
