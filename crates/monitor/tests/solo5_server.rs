//! Solo5 guests that serve HTTP by themselves, through the library: what reaches them and comes back, that each request
//! meets the template, that one machine can serve many at once, and that nothing a server does hurts its host.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Lines, MIB, in_seconds, patience, solo5_guest};
use kernlet_accel::Runtime;
use kernlet_monitor::{
    Backend, Cause, Crash, Hypervisor, Limits, LoadError, MachineConfig, Program, ProgramMachine, ProgramTemplate,
    Request, Response, Services, TemplateKey,
    solo5::{
        Image, Target,
        server::{Serve, Server, ServerMachine},
    },
};

struct Function {
    hypervisor: Hypervisor,
    server: Server,
    config: MachineConfig,
    log: Arc<Lines>,
}

impl Function {
    fn of(name: &str) -> Option<Self> {
        Self::with(name, "--ipv4={ipv4} --port={port}")
    }

    fn with(name: &str, arguments: &str) -> Option<Self> {
        let hypervisor = common::hypervisors().find(|hypervisor| hypervisor.backend() == Backend::Kvm)?;
        let image = Image::parse(solo5_guest(name).into(), Target::Hvt).expect("a unikernel");
        let serve = Serve {
            address: [10, 0, 0, 2].into(),
            prefix: 24,
            port: 8080,
            arguments: arguments.to_owned(),
            shares: false,
        };
        let server = Server { image, serve };
        let config = MachineConfig {
            memory: 16 * MIB,
            request_limit: MIB,
            response_limit: MIB,
            environment: vec![("solo5_log".to_owned(), "info".to_owned())],
        };
        Some(Self { hypervisor, server, config, log: Arc::default() })
    }

    fn shared(name: &str) -> Option<Self> {
        let mut function = Self::of(name)?;
        function.server.serve.shares = true;
        Some(function)
    }

    fn services(&self) -> Services {
        Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log: self.log.clone() }
    }

    fn try_boot(&self, time: Duration) -> Result<(ProgramTemplate, ProgramMachine), Box<Crash>> {
        let program = Program::Solo5Server(self.server.clone());
        let deadline = Instant::now() + time * patience();
        ProgramTemplate::boot(&self.hypervisor, &program, &self.config, self.services(), deadline)
    }

    fn boot(&self) -> (ProgramTemplate, ProgramMachine) {
        self.try_boot(Duration::from_secs(10)).map_err(|crash| format!("{crash}\n{:?}", crash.report())).unwrap()
    }

    fn another(&self, template: &ProgramTemplate) -> ProgramMachine {
        template.machine(&self.hypervisor, self.services()).expect("a machine")
    }
}

fn request<'a>(method: &'a str, path: &'a str, body: &'a [u8]) -> Request<'a> {
    Request { method, path, query: "", headers: &[("x-one", b"1")], body, call_id: "call" }
}

fn send(
    machine: ProgramMachine,
    request: &Request<'_>,
    time: Duration,
) -> Result<(ProgramMachine, Response), Box<Crash>> {
    let mut response = Response::default();
    let used = machine.invoke_into(request, Instant::now() + time, &mut response)?;
    Ok((used.keep().expect("a machine"), response))
}

/// The answer, and the machine rewound.
fn ask(machine: ProgramMachine, method: &str, path: &str, body: &[u8]) -> (ProgramMachine, Response) {
    let time = Duration::from_secs(20) * patience();
    send(machine, &request(method, path, body), time).unwrap_or_else(|crash| panic!("{path}: {crash}"))
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

fn audit(machine: &mut ProgramMachine) {
    let ProgramMachine::Solo5Server(machine) = machine else { panic!("a server") };
    machine.audit().unwrap();
}

/// What may not be found in a guest's memory, with each byte one more, so that the question is not the answer.
fn masked(text: &str) -> Vec<u8> {
    text.bytes().map(|byte| byte + 1).collect()
}

#[test]
fn a_server_answers_requests_of_every_kind() {
    for arguments in ["--ipv4={ipv4} --port={port}", "--ipv4={ipv4} --hypercalls"] {
        let Some(function) = Function::with("server", arguments) else { return };
        let (_, machine) = function.boot();
        let (machine, response) = ask(machine, "GET", "/", b"");
        assert_eq!((response.status, text(&response).as_str()), (200, "Hello from a guest that serves by itself\n"));
        assert!(response.headers.iter().any(|(name, _)| name == "content-type"), "{response:?}");
        let (machine, response) = ask(machine, "GET", "/head", b"");
        assert_eq!(
            text(&response),
            "GET /head HTTP/1.1\r\nhost: 10.0.0.2\r\nx-one: 1\r\nx-call-id: call\r\nconnection: close\r\n\r\n"
        );
        let (machine, response) = ask(machine, "HEAD", "/", b"");
        assert_eq!((response.status, response.body.len()), (200, 0));
        let (mut machine, response) = ask(machine, "PUT", "/nowhere", b"x");
        assert_eq!(response.status, 404);
        for size in [0, 1, 1459, 1460, 1461, 65_535, 65_536, 500_000] {
            let body: Vec<u8> = (0..size).map(|at: u32| u8::try_from(at % 251).unwrap()).collect();
            let (rewound, response) = ask(machine, "POST", "/echo", &body);
            machine = rewound;
            assert!(response.body == body, "{size} bytes");
            assert_eq!((response.usage.bytes_in, response.usage.bytes_out), (u64::from(size), u64::from(size)));
            assert!(response.usage.exits > 0 && response.usage.pages > 0 && !response.usage.cpu.is_zero());
        }
    }
}

/// A template's file.
fn saved(function: &Function, template: &ProgramTemplate) -> (TemplateKey, Vec<u8>) {
    let program = Program::Solo5Server(function.server.clone());
    let accel = Runtime::new(Vec::new()).session();
    let key = TemplateKey::of_program(&function.hypervisor, &program, &function.config, &accel, "sha256:image");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template");
    template.save(&std::fs::File::create(&path).unwrap(), &key).unwrap();
    (key, std::fs::read(path).unwrap())
}

fn load(function: &Function, key: &TemplateKey, bytes: &[u8]) -> Result<ProgramTemplate, LoadError> {
    let program = Program::Solo5Server(function.server.clone());
    ProgramTemplate::load(bytes, key, &function.hypervisor, &program, &function.config)
}

#[test]
fn a_servers_template_from_a_file_serves_as_the_one_that_was_saved() {
    for (arguments, shares) in [("", false), (" --hypercalls", false), ("", true)] {
        let Some(mut function) = Function::with("server", &format!("--ipv4={{ipv4}} --port={{port}}{arguments}"))
        else {
            return;
        };
        function.server.serve.shares = shares;
        let (template, machine) = function.boot();
        // What a request did is in no file.
        ask(machine, "POST", "/echo", b"before");
        let (key, bytes) = saved(&function, &template);
        let loaded = load(&function, &key, &bytes).unwrap();
        let mut machine = function.another(&loaded);
        for round in 0..3 {
            if !shares {
                audit(&mut machine);
            }
            let body = vec![round; 5000];
            let (rewound, response) = ask(machine, "POST", "/echo", &body);
            machine = rewound;
            assert!(response.status == 200 && response.body == body, "{arguments} {shares}: {response:?}");
        }
    }
}

#[test]
fn a_servers_template_of_other_addresses_or_damaged_is_refused() {
    let Some(function) = Function::of("server") else { return };
    let (template, _) = function.boot();
    let (key, bytes) = saved(&function, &template);
    for change in [
        |serve: &mut Serve| serve.address = [10, 0, 0, 3].into(),
        |serve: &mut Serve| serve.prefix = 16,
        |serve: &mut Serve| serve.port = 80,
        |serve: &mut Serve| serve.arguments.push(' '),
        |serve: &mut Serve| serve.shares = true,
    ] {
        let mut other = Function::of("server").unwrap();
        change(&mut other.server.serve);
        let (template, _) = other.boot();
        let (other_key, _) = saved(&other, &template);
        assert_ne!(key, other_key);
        assert!(matches!(load(&other, &other_key, &bytes), Err(LoadError::Stale { .. })));
    }
    for at in (0..bytes.len()).step_by(997) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(load(&function, &key, &changed).is_err(), "byte {at} changed");
    }
    assert!(load(&function, &key, &bytes).is_ok());
}

#[test]
fn a_server_is_its_template_again_after_each_request() {
    let Some(function) = Function::of("server") else { return };
    let (template, mut machine) = function.boot();
    audit(&mut machine);
    let mut other = function.another(&template);
    audit(&mut other);
    for machine in [&mut machine, &mut other] {
        for (method, path) in
            [("POST", "/keep"), ("GET", "/kept"), ("GET", "/count"), ("POST", "/echo"), ("GET", "/meet")]
        {
            let body = if method == "POST" { b"a secret of the first".as_slice() } else { b"" };
            let mut response = Response::default();
            let taken = std::mem::replace(machine, function.another(&template));
            if path == "/meet" {
                // Nobody else comes, so that this machine does not come back.
                let crash =
                    send(taken, &request(method, path, body), Duration::from_millis(200)).map(|_| ()).unwrap_err();
                assert!(matches!(crash.cause(), Cause::Timeout { .. }), "{crash}");
                continue;
            }
            let used = taken.invoke_into(&request(method, path, body), in_seconds(20), &mut response).unwrap();
            *machine = used.rewind().unwrap();
            audit(machine);
            match path {
                "/kept" => assert_eq!(text(&response), ""),
                "/count" => assert_eq!(text(&response), "1"),
                _ => {}
            }
        }
    }
}

#[test]
fn no_byte_of_a_request_is_in_the_memory_that_the_next_one_meets() {
    let Some(function) = Function::of("server") else { return };
    let (_, machine) = function.boot();
    // What is there is found.
    let (machine, response) = ask(machine, "POST", "/search", &masked("Hello from a guest"));
    assert_eq!(text(&response), "1");
    let secret = "canary-7f3a91";
    let (machine, _) = ask(machine, "POST", "/keep", secret.as_bytes());
    let (machine, _) = ask(machine, "POST", "/echo", secret.repeat(3000).as_bytes());
    let (machine, response) = ask(machine, "POST", "/search", &masked(secret));
    assert_eq!(text(&response), "0");
    drop(machine);
    // A machine that is kept still has it.
    let Some(function) = Function::shared("server") else { return };
    let (_, machine) = function.boot();
    let (machine, _) = ask(machine, "POST", "/keep", secret.as_bytes());
    let (_, response) = ask(machine, "POST", "/search", &masked(secret));
    assert_ne!(text(&response), "0");
}

#[test]
fn each_request_comes_from_another_port_with_another_sequence_number_at_its_own_time() {
    let Some(function) = Function::of("server") else { return };
    let (template, mut machine) = function.boot();
    let (mut peers, mut last) = (Vec::new(), 0_u64);
    for _ in 0..4 {
        let (rewound, response) = ask(machine, "GET", "/peer", b"");
        peers.push(text(&response));
        let (_, response) = ask(function.another(&template), "GET", "/clock", b"");
        machine = rewound;
        let (monotonic, wall) = text(&response).split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let (monotonic, wall): (u64, u64) = (monotonic.parse().unwrap(), wall.parse().unwrap());
        assert!(monotonic > last, "{monotonic} after {last}");
        // Since the guest was booted, not since its machine was made, and not longer than this test runs.
        assert!(monotonic < 60_000_000_000 * u64::from(patience()), "{monotonic}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        assert!(now - u128::from(wall) < 60_000_000_000 * u128::from(patience()), "{wall} at {now}");
        last = monotonic;
    }
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), 4, "{peers:?}");
}

#[test]
fn one_machine_serves_many_at_once_where_it_keeps_its_state() {
    let Some(function) = Function::shared("server") else { return };
    let (template, first) = function.boot();
    // Two that wait for each other, several times over, beside others.
    let threads: Vec<_> = (0..8)
        .map(|number| {
            let machine = function.another(&template);
            thread::spawn(move || {
                let mut machine = machine;
                for round in 0..5 {
                    let body = format!("{number} {round} ").repeat(2000);
                    let (kept, response) = ask(machine, "POST", "/echo", body.as_bytes());
                    machine = kept;
                    assert_eq!(text(&response), body);
                    if number < 2 {
                        let (kept, response) = ask(machine, "GET", "/meet", b"");
                        machine = kept;
                        assert_eq!(text(&response), "met");
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (_, response) = ask(first, "GET", "/count", b"");
    assert_eq!(text(&response), (8 * 5 + 2 * 5 + 1).to_string());
}

#[test]
fn a_request_that_is_late_on_a_shared_machine_does_not_take_the_others_along() {
    let Some(function) = Function::shared("server") else { return };
    let (template, first) = function.boot();
    let late = send(first, &request("GET", "/meet", b""), Duration::from_millis(300)).map(|_| ()).unwrap_err();
    assert!(matches!(late.cause(), Cause::Timeout { .. }), "{late}");
    // The next one meets a machine of its own.
    let (machine, response) = ask(function.another(&template), "GET", "/count", b"");
    assert_eq!(text(&response), "1");
    drop(machine);
    // One that waits has its answer though another one gives up.
    let Some(function) = Function::shared("rogue") else { return };
    let (template, first) = function.boot();
    let patient = thread::spawn(move || ask(first, "GET", "/slow", b"").1);
    let has_begun = || function.log.0.lock().unwrap().iter().any(|(_, _, text)| text == "slow");
    while !has_begun() && !patient.is_finished() {
        thread::yield_now();
    }
    let late = send(function.another(&template), &request("GET", "/silent", b""), Duration::from_millis(200));
    let late = late.map(|_| ()).unwrap_err();
    assert!(matches!(late.cause(), Cause::Unanswered { .. } | Cause::Timeout { .. }), "{late}");
    let (_, response) = ask(function.another(&template), "GET", "/", b"");
    assert_eq!(text(&response), "ok");
    assert_eq!(text(&patient.join().unwrap()), "at last");
}

#[test]
fn a_shared_machine_that_ends_is_replaced() {
    let Some(function) = Function::shared("rogue") else { return };
    let (template, machine) = function.boot();
    for (path, cause) in
        [("/null", "ended with status 255"), ("/halt", "ended by itself"), ("/spin", "ran for more than")]
    {
        let time = Duration::from_millis(400) * patience();
        let crash = send(function.another(&template), &request("GET", path, b""), time).map(|_| ()).unwrap_err();
        assert!(crash.to_string().contains(cause), "{path}: {crash}");
        let (_, response) = ask(function.another(&template), "GET", "/", b"");
        assert_eq!(text(&response), "ok");
    }
    // An answer that is none costs the others nothing.
    let crash = send(machine, &request("GET", "/garbage", b""), Duration::from_secs(5)).map(|_| ()).unwrap_err();
    assert!(matches!(crash.cause(), Cause::BadResponse { .. }), "{crash}");
}

#[test]
fn whatever_a_server_does_ends_in_an_answer_or_a_named_end() {
    let Some(mut function) = Function::of("rogue") else { return };
    function.config.response_limit = 1 << 16;
    let (template, _) = function.boot();
    let cases = [
        ("/reset", "it cut off the connection"),
        ("/close", "its connection ended before its head did"),
        ("/silent", "ran for more than"),
        ("/short", "its connection ended before its body did"),
        ("/huge", "its limit is 65536"),
        ("/twice", "Content-Length is not one number"),
        ("/garbage", "it is not HTTP/1.1"),
        ("/upgrade", "it changes the protocol"),
        ("/status", "its status is 999"),
        ("/split", "it is not HTTP/1.1"),
        ("/head", "its head has more than 65536 bytes"),
        ("/large", "its limit is 65536"),
        ("/spin", "ran for more than"),
        ("/flood", "ran for more than"),
        ("/print", "ran for more than"),
        ("/null", "ended with status 255: Solo5: ABORT"),
        ("/abort", "ended with status 255: Solo5: ABORT"),
        ("/halt", "ended by itself"),
    ];
    for (path, words) in cases {
        let time = Duration::from_millis(500) * patience();
        let ended = send(function.another(&template), &request("GET", path, b""), time);
        let crash = ended.map(|(_, response)| panic!("{path}: {response:?}")).unwrap_err();
        assert!(crash.to_string().contains(words), "{path}: {crash}");
    }
    // A connection whose segments were forged need not be of use afterwards.
    for (path, seconds) in [("/", 30), ("/forge", 2)] {
        let time = Duration::from_secs(seconds) * patience();
        match send(function.another(&template), &request("GET", path, b""), time) {
            Ok((_, response)) => assert_eq!(text(&response), "ok"),
            Err(crash) => {
                let named = matches!(crash.cause(), Cause::BadResponse { .. } | Cause::Timeout { .. });
                assert!(path == "/forge" && named, "{path}: {crash}");
            }
        }
    }
    // What it printed is in the log, but not all of what it printed without end.
    let lines = function.log.0.lock().unwrap();
    assert!(lines.iter().any(|(_, _, text)| text == "again and again"));
    assert!(lines.iter().map(|(_, _, text)| text.len()).sum::<usize>() < 256 * 1024);
}

#[test]
fn a_server_is_held_to_its_processor_time_also_for_the_frames_that_it_sends() {
    let Some(function) = Function::of("rogue") else { return };
    let (template, _) = function.boot();
    for path in ["/spin", "/flood"] {
        let limits = Limits { cpu_time: Some(Duration::from_millis(50)), ..Limits::default() };
        let machine = function.another(&template).with_limits(limits);
        let crash =
            send(machine, &request("GET", path, b""), Duration::from_secs(30) * patience()).map(|_| ()).unwrap_err();
        assert!(matches!(crash.cause(), Cause::CpuTime { .. }), "{path}: {crash}");
    }
}

#[test]
fn a_guest_that_does_not_serve_is_said_to_not_to() {
    for (arguments, words) in [
        ("deaf", "nothing answers at that address"),
        ("spin", "nothing answers at that address"),
        ("--ipv4=10.0.0.9/24", "nothing answers at that address"),
        ("--port=81", "refuses connections"),
        ("exit", "ended with status 3"),
    ] {
        let Some(function) = Function::with("rogue", arguments) else { return };
        let crash = function.try_boot(Duration::from_millis(700)).map(|_| ()).unwrap_err();
        assert!(crash.to_string().contains(words), "{arguments}: {crash}");
    }
    let Some(mut function) = Function::of("hello") else { return };
    let crash = function.try_boot(Duration::from_secs(5)).map(|_| ()).unwrap_err();
    assert!(crash.to_string().contains("has one network device; this one declares 0"), "{crash}");
    // Elsewhere than usual, it does.
    function = Function::of("server").unwrap();
    let serve = &mut function.server.serve;
    (serve.address, serve.prefix, serve.port) = ([192, 168, 77, 1].into(), 30, 80);
    let (_, machine) = function.boot();
    let (_, response) = ask(machine, "GET", "/head", b"");
    assert!(text(&response).contains("host: 192.168.77.1\r\n"), "{}", text(&response));
    assert!(function.log.0.lock().unwrap().iter().any(|(_, _, text)| text == "serves at 192.168.77.1:80"));
}

#[test]
fn a_request_that_would_be_two_is_not_sent() {
    let Some(function) = Function::of("server") else { return };
    let (_, machine) = function.boot();
    let headers: [(&str, &[u8]); 1] = [("x-one", b"1\r\nx-two: 2")];
    let mut response = Response::default();
    let request = Request { headers: &headers, ..request("GET", "/head", b"") };
    let used = machine.invoke_into(&request, in_seconds(5), &mut response).unwrap();
    assert_eq!((response.status, response.usage.exits), (400, 0));
    let mut machine = used.rewind().unwrap();
    audit(&mut machine);
}

#[test]
fn a_machine_that_serves_many_has_no_template_to_be_compared_with() {
    let Some(function) = Function::shared("server") else { return };
    let (_, machine) = function.boot();
    let ProgramMachine::Solo5Server(mut machine) = machine else { panic!("a server") };
    assert!(matches!(machine, ServerMachine::Place(_)));
    assert!(machine.audit().is_err());
}
