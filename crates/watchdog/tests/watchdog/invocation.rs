//! What goes in comes out: bodies, headers, connections.

use std::io::Write as _;

use crate::support::{Deployment, kvm};

#[test]
fn every_body_up_to_the_limit_comes_back_as_it_was() {
    if !kvm() {
        return;
    }
    let limit = 300 * 1024;
    let watchdog = Deployment::echo().with(|config| config.request_limit = "300Ki".parse().unwrap()).serve();
    for size in [0, 1, 4095, 4096, 4097, limit - 1, limit] {
        let body: Vec<u8> = (0..size).map(|index| u8::try_from(index % 251).unwrap()).collect();
        let answer = watchdog.post("/", &body);
        assert_eq!(answer.status, 200, "{size}: {}", answer.text());
        assert!(answer.body == body, "{size} bytes came back changed");
    }
    let refused = watchdog.post("/", &vec![0; limit + 1]);
    assert_eq!(refused.status, 413);
    assert!(refused.text().contains("307201 bytes") && refused.text().contains("307200 bytes"), "{}", refused.text());
    assert!(refused.text().contains("dev.kernlet.limits.request"), "{}", refused.text());
    assert_eq!(refused.header("x-openfaas-internal"), Some("watchdog"));
    assert_eq!(watchdog.post("/", b"still").body, b"still");
}

#[test]
fn chunked_bodies_are_put_together_and_held_to_the_limit() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().with(|config| config.request_limit = "64Ki".parse().unwrap()).serve();
    let head = b"POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = watchdog.connect();
    client.send(head);
    client.send(b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
    assert_eq!(client.answer("POST").body, b"abcd");

    let chunk = [b"8000\r\n".to_vec(), vec![b'x'; 0x8000], b"\r\n".to_vec()].concat();
    client.send(head);
    client.send(&chunk.repeat(2));
    client.send(b"0\r\n\r\n");
    assert_eq!(client.answer("POST").body.len(), 64 * 1024);

    client.send(head);
    client.send(&chunk.repeat(3));
    client.send(b"0\r\n\r\n");
    let refused = client.answer("POST");
    assert_eq!((refused.status, refused.header("connection")), (413, Some("close")));
    assert!(refused.text().contains("65536 bytes"), "{}", refused.text());
    assert!(client.is_closed());
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let mut client = watchdog.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.answer("POST").status, 413);
    let mut client = watchdog.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(client.answer("POST").status, 413);
}

#[test]
fn a_client_that_sends_a_refused_body_to_its_end_still_gets_the_answer() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().with(|config| config.request_limit = "1Ki".parse().unwrap()).serve();
    let mut client = watchdog.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 10000000\r\n\r\n");
    client.stream.write_all(&vec![0; 10_000_000]).unwrap();
    assert_eq!(client.answer("POST").status, 413);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_waits_for_100_continue_is_served() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let mut client = watchdog.connect();
    client.send(b"POST / HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    client.send(b"ab");
    assert_eq!(client.answer("POST").body, b"ab");
}

#[test]
fn one_connection_carries_many_requests_also_when_they_are_sent_at_once() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let mut client = watchdog.connect();
    for body in [&b"one"[..], b"two", b"three"] {
        client.request("POST", "/", "", body);
        assert_eq!(client.answer("POST").body, body);
    }
    let bodies: Vec<String> = (0..20).map(|index| format!("request {index}")).collect();
    let all: String = bodies
        .iter()
        .map(|body| format!("PUT /p HTTP/1.1\r\nHost: f\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
        .collect();
    client.send(all.as_bytes());
    for body in &bodies {
        assert_eq!(client.answer("PUT").text(), body);
    }
}

#[test]
fn every_method_reaches_the_function_and_head_has_no_body() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
        let answer = watchdog.request(method, "/", "", b"body");
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"body"[..]), "{method}");
    }
    let mut client = watchdog.connect();
    client.request("HEAD", "/", "", b"body");
    let head = client.answer("HEAD");
    assert_eq!((head.status, head.header("content-length")), (200, Some("4")));
    client.request("GET", "/", "", b"next");
    assert_eq!(client.answer("GET").body, b"next", "no byte of the body was sent");
}

#[test]
fn the_function_sees_the_request_as_it_was_sent() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let answer = watchdog.request("GET", "/headers?a=1&b=%20", "X-One: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n", b"");
    let seen = answer.text().to_lowercase();
    assert!(seen.contains("x-one: 1"), "{seen}");
    assert!(!seen.contains("x-hop"), "{seen}");
}

#[test]
fn an_answer_names_its_call_and_on_demand_where_the_time_went() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    let named = watchdog.request("GET", "/", "X-Call-Id: mine\r\nX-Kernlet-Timing: 1\r\n", b"");
    assert_eq!(named.header("x-call-id"), Some("mine"));
    assert!(named.header("x-duration-seconds").unwrap().parse::<f64>().unwrap() > 0.0);
    let timing = named.header("server-timing").unwrap();
    let parts: Vec<&str> = timing.split(", ").collect();
    for (part, prefix) in parts.iter().zip(["watchdog;dur=", "guest;dur=", "accel;dur=0.000", "exits;desc=\""]) {
        assert!(part.starts_with(prefix), "{timing}");
    }
    assert_eq!(parts.len(), 4, "{timing}");

    let unnamed = watchdog.get("/");
    assert_eq!(unnamed.header("x-call-id").map(str::len), Some(36));
    assert_eq!(unnamed.header("server-timing"), None);
    let refused = watchdog.request("GET", "/", "X-Call-Id: mine\r\nX-Timeout: soon\r\n", b"");
    assert_eq!((refused.status, refused.header("x-call-id")), (400, Some("mine")));
}

#[test]
fn a_client_that_hangs_up_costs_nothing() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.max_inflight = 1).serve();
    let mut client = watchdog.connect();
    client.request("GET", "/log/started", "", b"");
    watchdog.log_line(|line| line["text"] == "started");
    drop(client);
    // Its request may still be under way for a moment; then its place and its machine are free again.
    loop {
        let answer = watchdog.get("/count");
        if answer.status == 200 {
            assert_eq!(answer.text(), "2", "the same machine serves the next request");
            break;
        }
        assert_eq!(answer.status, 429);
    }
    for half in ["POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 10\r\n\r\nabc", "GET / HT", ""] {
        watchdog.connect().send(half.as_bytes());
    }
    loop {
        let answer = watchdog.get("/count");
        if answer.status == 200 {
            break;
        }
        assert_eq!(answer.status, 429);
    }
}

#[test]
fn health_and_readiness_are_the_watchdogs_own() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().serve();
    for path in ["/_/health", "/_/ready"] {
        let answer = watchdog.get(path);
        assert_eq!((answer.status, answer.text()), (200, "OK\n"));
    }
    assert_eq!(watchdog.post("/_/other", b"to the function").body, b"to the function");
}
