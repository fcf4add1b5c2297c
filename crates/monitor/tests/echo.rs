//! A machine answers requests: what goes in comes out, whatever its size, again and again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Function, MIB, in_seconds, request};
use kernlet_monitor::Request;

#[test]
fn bodies_of_every_size_up_to_the_limit_come_back() {
    for function in Function::on_each_backend("echo") {
        let mut machine = function.boot().unwrap();
        let limit = usize::try_from(MIB).unwrap();
        for size in [0, 1, 63, 64, 4095, 4096, 4097, 100_000, limit] {
            let body: Vec<u8> = (0..=250).cycle().take(size).collect();
            let (next, response) = machine.invoke(&request("/", &body), in_seconds(5)).unwrap();
            assert_eq!((response.status, response.body.len()), (200, size));
            assert!(response.body == body, "a body of {size} bytes came back changed");
            machine = next.rewind().unwrap();
        }
    }
}

#[test]
fn an_echo_takes_one_exit() {
    for function in Function::on_each_backend("echo") {
        let (used, _) = function.boot().unwrap().invoke(&request("/", b"one"), in_seconds(5)).unwrap();
        let machine = used.rewind().unwrap();
        let (_, response) = machine.invoke(&request("/", b"two"), in_seconds(5)).unwrap();
        assert_eq!(response.usage.exits, 1);
        assert_eq!(response.body, b"two");
    }
}

#[test]
fn headers_reach_the_function_and_come_back() {
    for function in Function::on_each_backend("echo") {
        let headers: &[(&str, &[u8])] = &[("X-One", b"1"), ("X-Bytes", &[0xff, 0x20])];
        let asked = Request { headers, ..request("/headers", b"") };
        let (_, response) = function.boot().unwrap().invoke(&asked, in_seconds(5)).unwrap();
        assert_eq!(response.body, b"X-One: 1\nX-Bytes: \xff \n");
        let headers: Vec<_> = response.headers.iter().collect();
        assert_eq!(headers, [("Content-Type", &b"text/plain; charset=utf-8"[..])]);
    }
}

#[test]
fn a_request_beyond_the_window_is_refused_by_name() {
    for function in Function::on_each_backend("echo") {
        let body = vec![0; usize::try_from(2 * MIB).unwrap()];
        let crash = function.ask("/", &body).unwrap_err();
        assert!(crash.to_string().contains("request window"), "{crash}");
    }
}
