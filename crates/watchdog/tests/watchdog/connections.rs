//! Connections have threads, machines serve whichever has a request.

use crate::support::{Deployment, kvm};

#[test]
fn a_machine_serves_whichever_connection_has_a_request() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let mut clients: Vec<_> = (0..20).map(|_| watchdog.connect()).collect();
    for round in 0..3 {
        for (index, client) in clients.iter_mut().enumerate() {
            client.request("GET", "/count", "", b"");
            assert_eq!(client.answer("GET").text(), (round * 20 + index + 1).to_string(), "always the same machine");
        }
    }
}

#[test]
fn who_has_an_answer_may_send_the_next_request_at_once_on_any_connection() {
    if !kvm() {
        return;
    }
    for (deployment, same_machine) in [(Deployment::faults(), true), (Deployment::faults().rewind(), false)] {
        let watchdog = deployment.with(|config| config.max_inflight = 1).serve();
        let mut clients = [watchdog.connect(), watchdog.connect()];
        for count in 1..=400 {
            let client = &mut clients[count % 2];
            client.request("GET", "/count", "", b"");
            let answer = client.answer("GET");
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!(answer.text(), if same_machine { count.to_string() } else { "1".to_owned() });
        }
    }
}

#[test]
fn a_client_that_stalls_in_its_body_holds_no_machine() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let mut stalled = watchdog.connect();
    stalled.send(b"POST /count HTTP/1.1\r\nHost: f\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(stalled.status_line(), "HTTP/1.1 100 Continue");
    stalled.send(b"ha");
    assert_eq!([watchdog.get("/count").text(), watchdog.get("/count").text()], ["1", "2"]);
    stalled.send(b"lf");
    assert_eq!(stalled.answer("POST").text(), "3", "the same machine");
}

#[test]
fn a_client_that_does_not_take_its_answer_holds_no_machine() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().with(|config| config.max_inflight = 1).serve();
    let mut unread = watchdog.connect();
    unread.request("GET", "/size/4000000", "X-Call-Id: large\r\n", b"");
    // Not before it is let in, and so the only one.
    unread.wait_for_answer();
    // Its place is free once the machine has answered, whatever the client takes of it.
    let count = loop {
        let answer = watchdog.get("/count");
        if answer.status == 200 {
            break answer.text().to_owned();
        }
        assert_eq!(answer.status, 429);
    };
    assert_eq!(count, "2", "the same machine");
    assert_eq!(unread.answer("GET").body.len(), 4_000_000);
    assert_eq!(watchdog.get("/count").text(), "3", "the same machine");
}

#[test]
fn a_connection_whose_machine_crashed_goes_on() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::faults().serve();
    let mut client = watchdog.connect();
    for _ in 0..3 {
        client.request("GET", "/panic", "", b"");
        assert_eq!(client.answer("GET").status, 502);
        client.request("GET", "/count", "", b"");
        assert_eq!(client.answer("GET").text(), "1", "a new machine on the same connection");
    }
}

#[test]
fn many_connections_at_the_same_time_get_their_own_answers() {
    if !kvm() {
        return;
    }
    let watchdog = Deployment::echo().with(|config| config.max_inflight = 0).serve();
    std::thread::scope(|scope| {
        for number in 0..64 {
            let mut client = watchdog.connect();
            scope.spawn(move || {
                for request in 0..50 {
                    let body = format!("{number}.{request}");
                    client.request("POST", "/", "", body.as_bytes());
                    assert_eq!(client.answer("POST").text(), body);
                }
            });
        }
    });
}
