//! An observer sees every hypercall of its guest, with arguments and results that can be read, and nothing of a body.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::sync::{Arc, Mutex};

use common::{Function, in_seconds, request};
use kernlet_monitor::{Event, Machine, Observer, Template, Used, Watchers, What};

/// Keeps what it is told.
#[derive(Clone, Debug, Default)]
struct Seen(Arc<Mutex<Vec<Event>>>);

impl Observer for Seen {
    fn event(&mut self, event: &Event) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Seen {
    fn watchers(&self) -> Watchers {
        Watchers { observer: Some(Box::new(self.clone())), debugger: None }
    }

    /// Takes the calls seen so far, each as `call = result`; a request and an end as they are shown.
    fn take(&self) -> Vec<String> {
        let show = |event: Event| match event.what {
            What::Call { call, result, .. } => format!("{call} = {result}"),
            What::Request(request) => format!("request {request}"),
            What::End { cause, .. } => format!("end: {cause}"),
        };
        self.0.lock().unwrap().drain(..).map(show).collect()
    }
}

fn boot(function: &Function, seen: &Seen) -> Machine {
    let (hypervisor, services) = (&function.hypervisor, function.services());
    let watchers = seen.watchers();
    Template::boot_watched(hypervisor, &function.unikernel, &function.config, services, in_seconds(5), watchers)
        .unwrap()
        .1
}

fn ask(machine: Machine, path: &str) -> Used {
    machine.invoke(&request(path, b"a body"), in_seconds(5)).unwrap().0
}

#[test]
fn a_trace_has_every_hypercall_with_its_arguments_and_its_result() {
    for function in Function::on_each_backend("tour") {
        let seen = Seen::default();
        let mut machine = boot(&function, &seen);
        let booting = seen.take();
        assert!(booting[0].starts_with("clock() = ") && booting[0].contains("ns since 1970"), "{booting:?}");
        assert_eq!(booting[1..], ["next_request(none) = waits"]);
        for (path, expected) in [
            ("/log/a line\u{1b}[2J", "log(info, \"a line\\u{1b}[2J\") = ok"),
            ("/resource/none", "find_resource(\"none\") = ENOENT"),
            ("/noop", "accel(noop) = ENOTSUP \""),
        ] {
            machine = ask(machine, path).rewind().unwrap();
            let events = seen.take();
            assert!(events[0].starts_with("request POST \"/"), "{events:?}");
            assert!(events[0].contains("6 bytes of body, call id call-1"), "{events:?}");
            assert!(events[1].starts_with(expected), "{events:?}");
            assert!(events.last().unwrap().starts_with("next_request(status "), "{events:?}");
            assert!(!events.concat().contains("a body"), "{events:?}");
        }
        ask(machine, "/entropy");
        let events = seen.take();
        assert!(events[1].starts_with("entropy(32 bytes at 0x") && events[1].ends_with(" = ok"), "{events:?}");
    }
}

#[test]
fn a_trace_ends_with_the_cause() {
    for function in Function::on_each_backend("faults") {
        let seen = Seen::default();
        for (path, call, cause) in [
            ("/panic", Some("exit(panic, \"asked to panic on request 1\", "), "the function panicked at"),
            ("/instruction/read-null", None, "the function read address 0x"),
            ("/hypercall/unknown-number", Some("hypercall_"), "which does not exist"),
            ("/hypercall/next-without-response", Some("next_request(none)"), "without answering"),
            ("/hypercall/block-outside", Some("hypercall(0x"), "the function named"),
        ] {
            let crash = boot(&function, &seen).invoke(&request(path, b""), in_seconds(5)).unwrap_err();
            let events = seen.take();
            let (last, before) = events.split_last().unwrap();
            assert_eq!(*last, format!("end: {crash}"));
            assert!(last.contains(cause), "{last}");
            if let Some(call) = call {
                assert!(before.last().unwrap().starts_with(call), "{events:?}");
                let result = if path.contains("next") { " = waits" } else { " = ?" };
                assert!(before.last().unwrap().ends_with(result), "{events:?}");
            }
        }
    }
}

#[test]
fn an_event_is_one_line_with_its_times() {
    for function in Function::on_each_backend("faults") {
        let seen = Seen::default();
        ask(boot(&function, &seen), "/log/x");
        let events = seen.0.lock().unwrap().clone();
        let mut before = std::time::Duration::ZERO;
        for event in &events {
            let line = event.to_string();
            assert!(!line.contains(char::is_control), "{line}");
            assert!(event.at >= before, "{events:?}");
            before = event.at;
        }
        let log = events.iter().map(ToString::to_string).find(|line| line.contains("log(")).unwrap();
        assert!(log.contains("µs log(info, \"x\") = ok <"), "{log}");
    }
}

#[test]
fn who_watched_a_machine_can_watch_the_next_one() {
    for function in Function::on_each_backend("faults") {
        let seen = Seen::default();
        let watchers = ask(boot(&function, &seen), "/count").into_watchers();
        seen.take();
        let mut next = function.boot().unwrap();
        next.watch(watchers);
        ask(next, "/log/again");
        assert!(seen.take().iter().any(|event| event.starts_with("log(info, \"again\")")));
    }
}
