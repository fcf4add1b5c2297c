//! No request gets more than its function's limits allow.

use std::time::{Duration, Instant};

use crate::support::{Answer, Client, Deployment, Watchdog, kvm, usage};

/// A request that occupies a machine until its time is over.
fn occupy(watchdog: &Watchdog, mark: &str) -> Client {
    let mut client = watchdog.connect();
    client.request("GET", &format!("/log-and-loop/{mark}"), "", b"");
    watchdog.log_line(|line| line["text"] == mark);
    client
}

fn assert_says(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.text());
    for word in words {
        assert!(answer.text().contains(word), "{word:?} is missing in {:?}", answer.text());
    }
    assert_eq!(answer.header("x-openfaas-internal"), Some("watchdog"));
}

#[test]
fn a_function_that_takes_too_long_is_stopped_and_serves_the_next_request() {
    if !kvm() {
        return;
    }
    let watchdog =
        Deployment::faults().with(|config| config.exec_timeout = std::time::Duration::from_millis(200)).serve();
    let answer = watchdog.request("GET", "/loop", "X-Call-Id: long\r\n", b"");
    assert_says(&answer, 504, &["faults", "200ms", "exec_timeout", "dev.kernlet.limits.timeout", "stopped at"]);
    let logged = watchdog.log_line(|line| line["source"] == "watchdog" && line["call_id"] == "long");
    assert_eq!(logged["level"], "error");
    assert_eq!(watchdog.get("/count").text(), "1", "a new machine");
}

#[test]
fn a_caller_shortens_the_time_limit_and_never_lengthens_it() {
    if !kvm() {
        return;
    }
    let watchdog =
        Deployment::faults().with(|config| config.exec_timeout = std::time::Duration::from_millis(300)).serve();
    let shorter = watchdog.request("GET", "/loop", "X-Timeout: 100ms\r\n", b"");
    assert_says(&shorter, 504, &["100ms", "X-Timeout"]);
    let longer = watchdog.request("GET", "/loop", "X-Timeout: 1h\r\n", b"");
    assert_says(&longer, 504, &["300ms", "exec_timeout"]);
}

#[test]
fn no_more_requests_than_allowed_are_under_way() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults()
        .with(|config| {
            config.max_inflight = 2;
            config.exec_timeout = std::time::Duration::from_secs(5);
        })
        .serve();
    let mut occupied = [occupy(&watchdog, "first"), occupy(&watchdog, "second")];
    let refused = watchdog.get("/count");
    assert_says(&refused, 429, &["2 requests", "max_inflight", "dev.kernlet.limits.inflight"]);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(watchdog.get("/_/ready").status, 429);
    assert_eq!(watchdog.get("/_/health").status, 200);
    for client in &mut occupied {
        assert_eq!(client.answer("GET").status, 504);
    }
    assert_eq!(watchdog.get("/_/ready").status, 200);
    assert_eq!(watchdog.get("/count").status, 200);
}

#[test]
fn a_function_that_uses_up_its_processor_time_is_stopped_and_serves_the_next_request() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.cpu_time = Duration::from_millis(50)).serve();
    let answer = watchdog.request("GET", "/loop", "X-Call-Id: spent\r\nX-Kernlet-Usage: 1\r\n", b"");
    assert_says(&answer, 504, &["faults", "50ms of processor time", "dev.kernlet.limits.cpu-time", "stopped at"]);
    assert!(usage(&answer, "cpu") >= 50_000_000, "{answer:?}");
    let logged = watchdog.log_line(|line| line["source"] == "watchdog" && line["call_id"] == "spent");
    assert_eq!(logged["level"], "error");
    assert!(logged["usage"]["cpu"].as_u64().unwrap() >= 50_000_000, "{logged}");
    // Many short runs count like a long one.
    let calls = watchdog.get("/log-flood/1000000");
    assert_says(&calls, 504, &["processor time"]);
    assert_eq!(watchdog.get("/count").text(), "1", "a new machine");
}

#[test]
fn a_function_gets_no_more_than_its_share_of_the_processors() {
    if !kvm() {
        return;
    }
    // A fifth of a processor: 20 ms in each tenth of a second.
    let watchdog = Deployment::faults().with(|config| config.cpu = "200m".parse().unwrap()).serve();
    let (mut clients, start) = ([watchdog.connect(), watchdog.connect()], Instant::now());
    for client in &mut clients {
        client.request("GET", "/burn/60", "X-Kernlet-Usage: 1\r\n", b"");
    }
    let used: u64 = clients.iter_mut().map(|client| usage(&client.answer("GET"), "cpu")).sum();
    let took = u64::try_from(start.elapsed().as_nanos()).unwrap();
    assert!(used > 30_000_000, "the test uses more than one burst: {used}");
    // A burst, and what each machine may take before it is looked at, are allowed beyond the share.
    assert!(used <= took / 5 + 20_000_000 + 2 * 15_000_000, "{used} ns in {took} ns");
    assert_eq!(watchdog.get("/count").status, 200);
}

#[test]
fn who_runs_out_of_time_while_paused_is_told_of_the_share() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.cpu = "10m".parse().unwrap()).serve();
    let answer = watchdog.request("GET", "/loop", "X-Timeout: 300ms\r\n", b"");
    assert_says(&answer, 504, &["X-Timeout", "paused by its share of the processors", "dev.kernlet.limits.cpu"]);
}

#[test]
fn an_invocation_that_used_up_its_accelerator_time_is_told_by_which_limit() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.accel_time = Duration::from_nanos(1)).serve();
    let refused = watchdog.get("/noop");
    assert_eq!(refused.status, 500, "the function passes the error on");
    assert!(refused.text().contains("1ns of accelerator time (raise dev.kernlet.limits.accel-time)"), "{refused:?}");
    let generous = Deployment::faults().with(|config| config.accel_time = Duration::from_secs(60)).serve();
    assert_eq!(generous.get("/noop").status, 200);
}

#[test]
fn a_functions_log_is_cut_to_the_rate_that_it_was_given() {
    if !kvm() {
        return;
    }
    let mut watchdog = Deployment::faults().with(|config| config.log_rate = 5).serve();
    assert_eq!(watchdog.get("/log-flood/300").status, 200);
    watchdog.signal(rustix::process::Signal::TERM);
    watchdog.wait();
    let lines = watchdog.rest_of_log();
    let kept = lines.iter().filter(|line| line["source"] == "function").count();
    assert!((20..300).contains(&kept), "{kept}");
    let report = lines.iter().find(|line| line["text"].as_str().unwrap().contains("log lines dropped")).unwrap();
    assert!(report["text"].as_str().unwrap().contains("more than 5 a second"), "{report}");
}

#[test]
fn every_refusal_of_a_full_function_says_when_to_come_back() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults()
        .with(|config| {
            config.max_inflight = 1;
            config.exec_timeout = Duration::from_secs(5);
        })
        .serve();
    let mut occupied = occupy(&watchdog, "busy");
    for path in ["/count", "/_/ready"] {
        let refused = watchdog.get(path);
        assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{path}");
    }
    assert_eq!(occupied.answer("GET").status, 504);
}

#[test]
fn requests_at_the_same_time_have_machines_of_their_own() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.exec_timeout = std::time::Duration::from_secs(1)).serve();
    assert_eq!(watchdog.get("/count").text(), "1");
    let mut occupied = occupy(&watchdog, "busy");
    assert_eq!(watchdog.get("/count").text(), "1", "another machine than the busy one");
    assert_eq!(watchdog.get("/count").text(), "2", "and the same again");
    assert_eq!(occupied.answer("GET").status, 504);
}

#[test]
fn a_clean_function_never_meets_its_own_past() {
    if !kvm() {
        return;
    }
    let reused = Deployment::faults().serve();
    assert_eq!([reused.get("/count").body, reused.get("/count").body], [b"1", b"2"]);
    let fresh = Deployment::faults().fresh().serve();
    assert_eq!([fresh.get("/count").body, fresh.get("/count").body], [b"1", b"1"]);
    let rewound = Deployment::faults().rewind().serve();
    assert_eq!([rewound.get("/count").body, rewound.get("/count").body], [b"1", b"1"]);
}

#[test]
fn a_request_head_beyond_the_guests_room_is_refused_with_the_limit() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let fitting = format!("X-Long: {}\r\n", "v".repeat(60_000));
    assert_eq!(watchdog.request("GET", "/", &fitting, b"").status, 200);
    let too_long = format!("X-Long: {}\r\nX-Too: {}\r\n", "v".repeat(60_000), "v".repeat(6_000));
    assert_says(&watchdog.request("GET", "/", &too_long, b""), 431, &["65536"]);
    let many: String = (0..5_000).map(|index| format!("x-{index}: 1\r\n")).collect();
    assert_eq!(watchdog.request("GET", "/", &many, b"").status, 431);
}

#[test]
fn a_client_that_sends_too_slowly_is_told_so() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().env("read_timeout", "200ms").serve();
    let mut slow_head = watchdog.connect();
    slow_head.send(b"GET / HTTP/1.1\r\nHost:");
    assert_says(&slow_head.answer("GET"), 408, &["head"]);
    assert!(slow_head.is_closed());

    let mut slow_body = watchdog.connect();
    slow_body.send(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 10\r\n\r\nabc");
    assert_says(&slow_body.answer("POST"), 408, &["body", "200ms"]);

    let mut idle = watchdog.connect();
    assert!(idle.is_closed(), "a connection without a request is closed without a word");
    assert_eq!(watchdog.get("/").status, 200);
}

#[test]
fn nonsense_instead_of_http_harms_nobody() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    for nonsense in
        [&b"\0\0\0\0\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nA B: c\r\n\r\n"]
    {
        let mut client = watchdog.connect();
        client.send(nonsense);
        assert_eq!(client.answer("GET").status, 400);
    }
    for target in ["*", "example.org:80"] {
        let method = if target == "*" { "OPTIONS" } else { "CONNECT" };
        let answer = watchdog.request(method, target, "", b"");
        assert_says(&answer, 400, &[target]);
    }
    assert_eq!(watchdog.post("/", b"fine").body, b"fine");
}
