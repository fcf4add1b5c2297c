//! A rewound machine is the template again, whatever the guest did to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Function, MIB, in_seconds, patience, request};
use kernlet_monitor::{Backend, MachineConfig};

/// Random requests of the property test; fewer where everything is emulated.
const ROUNDS: u64 = 2000;

fn faults() -> impl Iterator<Item = Function> {
    Function::on_each_backend("faults").map(|function| {
        let config = MachineConfig { memory: 12 * MIB, request_limit: 64 * 1024, ..function.config.clone() };
        Function { config, ..function }
    })
}

#[test]
fn whatever_a_guest_scribbles_over_is_as_it_was_after_a_rewind() {
    for function in faults() {
        let mut machine = function.boot().unwrap();
        machine.audit().expect("the first machine is its template");
        // Comparing a process gives it every page of its memory, which the next rewind takes back: ten times the work.
        let fewer = if function.hypervisor.backend() == Backend::Process { 4 } else { 1 };
        for seed in 0..ROUNDS / u64::from(patience()) / fewer {
            // SplitMix64's increment: neighbouring seeds are far apart.
            let body = seed
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
                .repeat(1 + usize::try_from(seed % 2000).unwrap());
            let (used, response) = machine.invoke(&request("/scribble", &body), in_seconds(10)).unwrap();
            assert!(response.body == body, "round {seed}: another request's body");
            machine = used.rewind().unwrap();
            if let Err(difference) = machine.audit() {
                panic!("round {seed}: {difference} differs from the template");
            }
        }
    }
}

#[test]
fn the_audit_notices_what_a_request_leaves_behind() {
    for function in faults() {
        let (used, _) = function.boot().unwrap().invoke(&request("/count", b""), in_seconds(5)).unwrap();
        let difference = used.keep().audit().unwrap_err();
        assert!(difference.starts_with("memory at"), "{difference}");
    }
}

#[test]
fn a_machine_that_wrote_more_than_it_keeps_is_its_template_all_the_same() {
    let Some(function) = Function::new("pages") else { return };
    let mut machine = function.boot().unwrap();
    for round in 0..4 {
        let (used, response) = machine.invoke(&request("/", b"2500"), in_seconds(10)).unwrap();
        assert_eq!(response.body, b"clean", "round {round}");
        machine = used.rewind().unwrap();
        // At first its pages are dropped; then, for a while, copied.
        assert!(round > 0 || machine.pages_restored() == 0, "{}", machine.pages_restored());
        machine.audit().unwrap_or_else(|difference| panic!("round {round}: {difference} differs"));
    }
}

#[test]
fn machines_of_one_template_are_equal_and_do_not_see_each_other() {
    for function in faults() {
        let (template, first) = function.template().unwrap();
        let mut second = template.machine(&function.hypervisor, function.services()).unwrap();
        second.audit().expect("a machine of the template is the template");
        let count = |machine: kernlet_monitor::Machine| {
            let (used, response) = machine.invoke(&request("/count", b""), in_seconds(5)).unwrap();
            (used, String::from_utf8(response.body).unwrap())
        };
        let (used, counted) = count(first);
        assert_eq!(counted, "1");
        let (_, counted) = count(used.keep());
        assert_eq!(counted, "2");
        assert_eq!(count(second).1, "1");
    }
}

#[test]
fn two_machines_of_one_template_never_draw_the_same_bytes() {
    for function in faults() {
        let (template, first) = function.template().unwrap();
        let second = template.machine(&function.hypervisor, function.services()).unwrap();
        let draw = |machine: kernlet_monitor::Machine| {
            let (used, response) = machine.invoke(&request("/entropy", b""), in_seconds(5)).unwrap();
            (used, response.body)
        };
        let (used, one) = draw(first);
        let (_, two) = draw(used.rewind().unwrap());
        let (_, three) = draw(second);
        assert_eq!(one.len(), 32);
        assert!(one != two && two != three && one != three);
    }
}

#[test]
fn no_byte_of_one_request_is_visible_to_the_next() {
    for function in faults() {
        let canary = [0xa7; 40_000];
        let (used, _) = function.boot().unwrap().invoke(&request("/keep", &canary), in_seconds(5)).unwrap();
        let kept = used.keep();
        let (used, seen) = kept.invoke(&request("/find/167", b""), in_seconds(5)).unwrap();
        assert_ne!(seen.body, b"0", "without a rewind the next request finds the last one's bytes");
        drop(used);
        let (used, _) = function.boot().unwrap().invoke(&request("/keep", &canary), in_seconds(5)).unwrap();
        let (_, seen) = used.rewind().unwrap().invoke(&request("/find/167", b""), in_seconds(5)).unwrap();
        assert_eq!(seen.body, b"0");
    }
}
