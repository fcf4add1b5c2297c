//! What an invocation used is told in its answer on demand, in the log and in the metrics.

use crate::support::{Answer, Deployment, Watchdog, kvm, usage};
use kernlet_watchdog::Listen;
use rustix::process::Signal;
use std::process::Stdio;

/// A sample of `/_/metrics`.
fn sample(watchdog: &Watchdog, name: &str) -> f64 {
    let metrics = watchdog.get("/_/metrics");
    let value = metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} is not in {}", metrics.text())).parse().unwrap()
}

/// Started by hand: nobody adds up what it says.
fn serve_alone(deployment: Deployment) -> Watchdog {
    let socket = deployment.folder.path().join("own");
    let watchdog = deployment.start_on(&Listen::Unix(socket.clone()), socket.clone(), Stdio::null());
    watchdog.log_line(|line| line["text"].as_str().is_some_and(|text| text.starts_with("serving")));
    while watchdog.get("/_/ready").status != 200 {
        std::thread::yield_now();
    }
    watchdog
}

#[test]
fn an_answer_says_on_demand_what_the_invocation_used() {
    if !kvm() {
        return;
    }
    let watchdog = serve_alone(Deployment::echo());
    let silent = watchdog.post("/", b"four");
    assert_eq!(silent.header("x-kernlet-usage"), None);
    let told = watchdog.request("POST", "/", "X-Kernlet-Usage: 1\r\n", b"four");
    assert_eq!([usage(&told, "exits"), usage(&told, "in"), usage(&told, "out"), usage(&told, "accel")], [1, 4, 4, 0]);
    assert!(usage(&told, "pages") > 0, "{told:?}");
    let (wall, cpu) = (usage(&told, "wall"), usage(&told, "cpu"));
    assert!(0 < cpu && cpu <= wall, "{told:?}");
}

#[test]
fn a_gateway_is_told_of_every_invocation_and_of_none_that_never_ran() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.request_limit = "1Ki".parse().unwrap()).serve();
    let has_record = |answer: &Answer| answer.header("x-kernlet-usage").is_some();
    assert!(has_record(&watchdog.get("/count")));
    assert!(has_record(&watchdog.get("/panic")), "who crashes has used something");
    assert!(!has_record(&watchdog.post("/count", &[0; 2000])));
    assert!(!has_record(&watchdog.get("/_/health")));
}

#[test]
fn a_function_that_works_more_is_billed_more() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let used = |path: &str, field: &str| usage(&watchdog.get(path), field);
    assert!(used("/burn/20", "cpu") > 10 * used("/count", "cpu"));
    assert_eq!(used("/size/5000", "out"), 5000);
    assert!(used("/noop", "exits") > used("/count", "exits"));
    assert!(used("/noop", "accel") > 0);
    let before = used("/count", "pages");
    assert!(used("/size/400000", "pages") >= before + 90, "a hundred pages of response");
}

#[test]
fn the_log_says_on_demand_what_each_invocation_used_and_always_what_a_bad_one_did() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().env("write_debug", "true").serve();
    watchdog.request("POST", "/count", "X-Call-Id: fine\r\n", b"four");
    let line = watchdog.log_line(|line| line["call_id"] == "fine");
    assert_eq!((&line["level"], &line["usage"]["in"]), (&"debug".into(), &4.into()));
    let quiet = Deployment::faults().serve();
    quiet.request("GET", "/panic", "X-Call-Id: bad\r\n", b"");
    let line = quiet.log_line(|line| line["call_id"] == "bad" && line["source"] == "watchdog");
    assert!(line["usage"]["wall"].as_u64().unwrap() > 0, "{line}");
}

#[test]
fn metrics_have_of_watchdogs_names_and_the_sums_of_what_was_used() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let (_, told) = (watchdog.get("/status/404"), watchdog.post("/count", b"four"));
    watchdog.request("BREW", "/count", "", b"");
    for (name, value) in [
        ("http_requests_total{code=\"200\",method=\"POST\"}", 1.0),
        ("http_requests_total{code=\"404\",method=\"GET\"}", 1.0),
        ("http_requests_total{code=\"200\",method=\"other\"}", 1.0),
        ("http_request_duration_seconds_count{code=\"200\",method=\"POST\"}", 1.0),
        ("http_requests_in_flight", 0.0),
        ("kernlet_exits_total", 3.0),
        ("kernlet_request_bytes_total", 4.0),
        ("kernlet_machines{state=\"idle\"}", 1.0),
        ("kernlet_machines{state=\"busy\"}", 0.0),
    ] {
        assert_eq!(sample(&watchdog, name), value, "{name}");
    }
    let cpu = sample(&watchdog, "kernlet_guest_cpu_seconds_total");
    assert!(cpu * 1e9 >= usage(&told, "cpu") as f64, "{cpu}");
}

#[test]
fn a_profile_of_guest_and_host_is_in_the_log_when_the_watchdog_ends() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::operations().env("VACCEL_PROFILING_ENABLED", "1").serve();
    for path in ["/noop", "/profile-without-report", "/profile"] {
        assert_eq!(watchdog.get(path).status, 200);
    }
    watchdog.signal(Signal::TERM);
    for (region, entries) in [("inner", 2), ("noop (noop)", 3), ("unreported", 1)] {
        let line = watchdog
            .log_line(|line| line["text"].as_str().unwrap().starts_with(&format!("[prof] {region}: total_time: ")));
        let text = line["text"].as_str().unwrap();
        assert!(text.ends_with(&format!(" nsec nr_entries: {entries}")), "{text}");
    }
    assert!(watchdog.wait().success());
}

#[test]
fn nothing_is_profiled_unless_it_is_enabled() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::operations().env("KERNLET_PROFILING_ENABLED", "0").serve();
    let answer = watchdog.get("/profile");
    assert_eq!((answer.status, answer.text()), (200, ""));
    watchdog.signal(Signal::TERM);
    assert!(watchdog.wait().success());
    let lines = watchdog.rest_of_log();
    assert!(!lines.iter().any(|line| line["text"].as_str().unwrap().contains("[prof]")), "{lines:?}");
}
