//! Accelerators by themselves and functions that use an agent: the real programs, in their jail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use common::{Platform, children_of, eventually, failed, home, kernlet, kvm_is_usable, picture, stdout, succeeded};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `kernlet accel agent` at a socket in a folder.
struct Agent {
    process: Child,
    address: String,
}

impl Agent {
    fn start(folder: &Path, options: &[&str]) -> Self {
        let address = format!("unix://{}", folder.join("agent.sock").display());
        let mut command = kernlet();
        command.args(["accel", "agent", "--listen", &address]).args(options).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains(&format!("is listening on {address}")), "{line}");
        Self { process, address }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    fn bench(&self) -> Value {
        let output = kernlet().args(["accel", "bench", "--json", "--agent", &self.address]).output().unwrap();
        serde_json::from_str(&stdout(&succeeded(output))).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::TERM);
        let _ = self.process.wait();
    }
}

#[test]
fn an_agent_is_listed_measured_replaced_and_stopped() {
    let folder = home();
    let agent = Agent::start(folder.path(), &[]);
    let listed = kernlet().args(["accel", "list", "--json", "--agent", &agent.address]).output().unwrap();
    let listed: Value = serde_json::from_str(&stdout(&succeeded(listed))).unwrap();
    let plugins: Vec<_> = listed.as_array().unwrap().iter().map(|line| line["plugin"].as_str().unwrap()).collect();
    assert!(plugins.contains(&"noop") && plugins.contains(&"rten"), "{plugins:?}");
    let lines = agent.bench();
    assert_eq!(lines.as_array().unwrap().len(), 5);
    // The parameters, of 56 bytes, lie in the client's own memory and are copied there and by who reads them.
    assert!(lines.as_array().unwrap().iter().all(|line| line["bytes_copied"].as_u64().unwrap() <= 2 * 56), "{lines}");
    let [worker] = children_of(agent.pid())[..] else { panic!("not one worker") };
    kill_process(worker, Signal::KILL).unwrap();
    eventually("another worker", || children_of(agent.pid()).into_iter().find(|child| *child != worker));
    agent.bench();
    let path = folder.path().join("agent.sock");
    drop(agent);
    assert!(!path.exists(), "the socket goes with its agent");
}

#[test]
fn what_an_agent_cannot_do_is_said_with_what_to_do() {
    let folder = home();
    let address = format!("unix://{}", folder.path().join("agent.sock").display());
    let says = |args: &[&str]| failed(&kernlet().arg("accel").args(args).output().unwrap());
    assert!(says(&["list", "--agent", &address]).contains("kernlet accel agent --listen"));
    assert!(says(&["agent", "--listen", "tcp://127.0.0.1:0"]).contains("--insecure-tcp"));
    assert!(says(&["agent", "--listen", "tls://127.0.0.1:0"]).contains("--cert"));
    assert!(says(&["agent", "--listen", &address, "--plugins", "warp"]).contains("there is no plugin `warp`"));
}

/// Inside the jail nothing can be connected to, so that the agent's supervisor hands new connections over.
#[test]
fn a_jailed_function_uses_an_agent_and_finds_it_again_when_its_worker_was_killed() {
    if !kvm_is_usable() {
        return;
    }
    let folder = home();
    let agent = Agent::start(folder.path(), &[]);
    let mut up = kernlet();
    up.env("KERNLET_ACCEL_AGENT", &agent.address).env("KERNLET_JAIL", "best-effort");
    let home = home();
    let platform = Platform::start_with(up, home.path());
    platform.deploy("classify");
    let photograph = std::fs::read(picture("cat.jpg")).unwrap();
    let classify = || {
        let reply = platform.call("classify", photograph.clone());
        (reply.status.as_u16(), reply.text())
    };
    let (status, text) = classify();
    assert_eq!(status, 200, "{text}");
    let done = || {
        let [worker] = children_of(agent.pid())[..] else { panic!("not one worker") };
        worker
    };
    let worker = done();
    kill_process(worker, Signal::KILL).unwrap();
    eventually("another worker", || children_of(agent.pid()).into_iter().find(|child| *child != worker));
    let (status, text) = classify();
    assert_eq!(status, 200, "{text}");
    assert_eq!(platform.watchdogs().len(), 1, "the watchdog is the same");
}

#[test]
fn a_platform_runs_an_agent_of_its_own_when_it_is_told_to() {
    if !kvm_is_usable() {
        return;
    }
    let home = home();
    let mut up = kernlet();
    up.env("KERNLET_WITH_ACCEL_AGENT", "true");
    let platform = Platform::start_with(up, home.path());
    platform.deploy("classify");
    let reply = platform.call("classify", std::fs::read(picture("cat.jpg")).unwrap());
    assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
    let listed = kernlet()
        .args(["accel", "list", "--agent"])
        .arg(format!("unix://{}", home.path().join("accel.sock").display()))
        .output()
        .unwrap();
    assert!(stdout(&succeeded(listed)).contains("rten"));
    platform.stop();
}
