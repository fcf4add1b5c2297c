//! Machines in a watchdog's jail: each thread that makes one, runs it or ends it may do what that takes. A child of the
//! test enters the jail, whose filters end it at any call that they do not allow.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{env, process::Command, thread};

use common::{Function, in_seconds, request};
use kernlet_jail::{Jail, Layer, Machines, Mode, Role, confine};
use kernlet_monitor::Backend;

/// Names the child's backend.
const CHILD: &str = "KERNLET_JAILED_CHILD";

/// Does something on a thread of a role.
fn on<T: Send>(role: Role, job: impl FnOnce() -> T + Send) -> T {
    let run = || {
        confine(role);
        job()
    };
    thread::scope(|scope| scope.spawn(run).join()).unwrap()
}

/// What becomes of a watchdog's machines, in the order of its life.
fn live(function: &Function) {
    let machines = match function.hypervisor.backend() {
        Backend::Process => Machines::Processes,
        Backend::Kvm | Backend::Auto => Machines::Kvm,
    };
    let jail = Jail::plan(Mode::BestEffort).only(&[Layer::SystemCalls]).machines(machines);
    assert!(jail.enter().unwrap().lost().is_empty());
    function.hypervisor.keep_shells().unwrap();
    let (template, first) = on(Role::Machine, || function.template().unwrap());
    let second = on(Role::Connection, || {
        let machine = template.machine(&function.hypervisor, function.services()).unwrap();
        let (used, response) = machine.invoke(&request("/", b"hello"), in_seconds(5)).unwrap();
        assert!(response.body == b"hello");
        used.rewind().unwrap()
    });
    // One that was idle for long.
    on(Role::Keeper, || drop(second));
    on(Role::Connection, || drop(first));
}

#[test]
fn every_thread_of_a_watchdog_may_do_what_its_machines_take() {
    const NAME: &str = "every_thread_of_a_watchdog_may_do_what_its_machines_take";
    let child = env::var(CHILD).ok();
    for function in Function::on_each_backend("echo") {
        let backend = function.hypervisor.backend().to_string();
        match &child {
            None => {
                let mut command = Command::new(env::current_exe().unwrap());
                command.args(["--exact", NAME, "--test-threads=1", "--nocapture"]).env(CHILD, &backend);
                let output = command.output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{backend}: {}: {said}", output.status);
            }
            Some(child) if *child == backend => {
                live(&function);
                // SAFETY: ends the process at once, before the harness makes calls that the jail does not allow.
                unsafe { libc::_exit(0) }
            }
            Some(_) => {}
        }
    }
}
