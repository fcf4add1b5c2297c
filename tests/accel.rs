//! Accelerators by themselves and functions that use an agent: the real programs, in their jail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{Platform, children_of, eventually, failed, home, kernlet, kvm_is_usable, picture, stdout, succeeded};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// `kernlet accel agent`.
struct Agent {
    process: Child,
    address: String,
}

impl Agent {
    /// At a socket in a folder.
    fn start(folder: &Path, options: &[&str]) -> Self {
        let address = format!("unix://{}", folder.join("agent.sock").display());
        let mut command = kernlet();
        command.args(["accel", "agent", "--listen", &address]).args(options);
        let agent = Self::listen(command);
        assert_eq!(agent.address, address);
        agent
    }

    fn listen(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.trim_end().split_once("is listening on ").unwrap_or_else(|| panic!("{line}"));
        let address = address.to_owned();
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

fn is_answered(platform: &Platform) -> Result<(), String> {
    let reply = platform.call("classify", fs::read(picture("cat.jpg")).unwrap());
    if reply.status.as_u16() == 200 { Ok(()) } else { Err(format!("{}: {}", reply.status, reply.text())) }
}

/// An agent that is gone is an error that names it, and it is used again when it is back, by the same watchdog, which cannot
/// connect to anything.
fn is_used_again_when_it_is_back(platform: &Platform, agent: Agent, again: impl FnOnce() -> Agent) {
    is_answered(platform).unwrap();
    let watchdogs = platform.watchdogs();
    let address = agent.address.clone();
    drop(agent);
    let said = is_answered(platform).unwrap_err();
    assert!(said.contains("500") && said.contains(&address), "{said}");
    let agent = again();
    assert_eq!(agent.address, address);
    is_answered(platform).unwrap();
    assert_eq!(platform.watchdogs(), watchdogs, "the watchdog is the same");
    drop(agent);
}

fn platform_with(config: &Path, home: &Path) -> Platform {
    let mut up = kernlet();
    up.env("KERNLET_ACCEL_CONFIG", config).env("KERNLET_JAIL", "best-effort");
    Platform::start_with(up, home)
}

#[test]
fn a_function_asks_for_an_agent_of_the_operators_by_name_and_finds_it_when_it_is_back() {
    if !kvm_is_usable() {
        return;
    }
    let (folder, home) = (home(), home());
    let agent = Agent::start(folder.path(), &["--plugins", "noop,rten"]);
    let config = folder.path().join("accel.toml");
    fs::write(&config, format!("[agents]\nnear = \"{}\"\n", agent.address)).unwrap();
    let platform = platform_with(&config, home.path());
    let deploy = |agent: &str| {
        let annotation = format!("dev.kernlet.accel.agent={agent}");
        platform.run(["deploy", "classify", "--image", "classify", "--annotation", &annotation])
    };
    let said = failed(&deploy("far"));
    assert!(said.contains("no accelerator agent \"far\", only near"), "{said}");
    // Whoever deploys a function does not choose what the host connects to.
    let said = failed(&deploy(&agent.address));
    assert!(said.contains("is not an agent's name"), "{said}");
    succeeded(deploy("near"));
    is_used_again_when_it_is_back(&platform, agent, || Agent::start(folder.path(), &[]));
}

/// The configuration's file of an agent or of its clients, with a certificate for `name`.
struct Papers {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(folder.path().join("ca"), authority.pem()).unwrap();
        Self { folder, authority }
    }

    fn config(&self, name: &str, text: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let file = |kind: &str| self.folder.path().join(format!("{name}.{kind}"));
        fs::write(file("crt"), params.signed_by(&key, &self.authority).unwrap().pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        let files = [self.folder.path().join("ca"), file("crt"), file("key")];
        let [ca, certificate, key] = files.map(|path| format!("{:?}", path.display().to_string()));
        let config = format!("{text}\n[tls]\nca = {ca}\ncertificate = {certificate}\nkey = {key}\n");
        fs::write(file("toml"), config).unwrap();
        file("toml")
    }
}

#[test]
fn a_jailed_function_uses_an_agent_over_the_network_by_configuration_alone() {
    if !kvm_is_usable() {
        return;
    }
    let papers = Papers::new();
    let its_own = papers.config("localhost", "");
    let listen = |address: &str| {
        let mut command = kernlet();
        command.args(["accel", "agent", "--insecure-tcp", "--plugins", "noop,rten", "--listen", address]);
        command.env("KERNLET_ACCEL_CONFIG", &its_own);
        Agent::listen(command)
    };
    for any in ["tcp://127.0.0.1:0", "tls://localhost:0"] {
        let agent = listen(any);
        let address = agent.address.clone();
        let config = papers.config("worker.example", &format!("agent = \"near\"\n[agents]\nnear = \"{address}\""));
        let home = home();
        let platform = platform_with(&config, home.path());
        platform.deploy("classify");
        is_used_again_when_it_is_back(&platform, agent, || listen(&address));
    }
}
