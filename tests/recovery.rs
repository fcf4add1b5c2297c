//! What survives a death: of the gateway, of a watchdog, of a request. Each is killed for real.
//! It never asks a process kindly where a power cut would not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::{Platform, eventually, home, kvm_is_usable};
use http::{Method, StatusCode};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::json;

#[test]
fn functions_come_back_after_the_gateway_was_killed() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let password = platform.authorization();
    platform.kill();

    let platform = Platform::start(home.path());
    assert_eq!(platform.authorization(), password, "the password is kept");
    platform.still_serves_echo();
    let listed = platform.system(Method::GET, "/system/functions", None).json();
    assert_eq!(listed[0]["name"], json!("echo"), "{listed}");
}

#[test]
fn watchdogs_do_not_outlive_a_gateway_that_was_killed() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let watchdogs = platform.watchdogs();
    assert!(!watchdogs.is_empty());
    platform.kill();
    for pid in watchdogs {
        eventually("the watchdog's end", || test_kill_process(pid).is_err().then_some(()));
    }
}

#[test]
fn the_next_request_is_served_after_a_watchdog_was_killed() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let watchdogs = platform.watchdogs();
    assert_eq!(watchdogs.len(), 1);
    kill_process(watchdogs[0], Signal::KILL).unwrap();
    // What was handed to it before its death is lost with it; what comes after is not.
    eventually("its death", || test_kill_process(watchdogs[0]).is_err().then_some(()));
    platform.still_serves_echo();
    assert_ne!(platform.watchdogs(), watchdogs);
}

#[test]
fn a_removed_function_does_not_come_back() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    common::succeeded(platform.run(["remove", "echo"]));
    platform.kill();
    let platform = Platform::start(home.path());
    assert_eq!(platform.system(Method::GET, "/system/functions", None).json(), json!([]));
    assert_eq!(platform.call("echo", "").status, StatusCode::NOT_FOUND);
}

#[test]
fn a_gateway_that_is_asked_to_stop_ends_well_and_leaves_nothing_running() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let platform = Platform::start(home.path());
    platform.deploy("echo");
    platform.still_serves_echo();
    let watchdogs = platform.watchdogs();
    assert_eq!(platform.stop(), Some(0));
    for pid in watchdogs {
        eventually("the watchdog's end", || test_kill_process(pid).is_err().then_some(()));
    }
}
