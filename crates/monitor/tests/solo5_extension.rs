//! What Solo5's guests have beyond Solo5's interface, through the library: that it is metered and limited as native guests'
//! operations are, that machines are their template again after it, and where the template is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use common::{Lines, MIB, in_seconds, request};
use kernlet_accel::{Cost, Deadline, Done, Operation, Plugin, PluginError, Runtime, Session, operation::Task};
use kernlet_monitor::{
    Backend, Cause, Crash, Hypervisor, Limits, MachineConfig, Program, ProgramMachine, ProgramTemplate, Request,
    Response, Services, TemplateKey,
};

/// The file of a guest of `functions/solo5`, built.
fn file(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("solo5-extension");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions/solo5/build.sh");
        let names = ["mirror", "sgemm", "hello", "accel"];
        assert!(Command::new("sh").arg(script).arg("hvt").arg(&folder).args(names).status().unwrap().success());
        folder
    });
    fs::read(folder.join(format!("{name}.hvt"))).expect("a guest")
}

/// Multiplies whatever comes to what one element says, in as much time as another says, in milliseconds.
#[derive(Debug)]
struct Slow;

impl Plugin for Slow {
    fn name(&self) -> &'static str {
        "slow"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::BlasSgemm]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        let Task::BlasSgemm(mut task) = task else { return Err(PluginError::declined("it only multiplies")) };
        let (a, _, c) = task.matrices();
        let time = Duration::from_secs_f32(a.elements()[0] / 1000.0);
        let end = Instant::now() + time;
        while Instant::now() < end {
            deadline.check("the next step")?;
            std::thread::yield_now();
        }
        c.elements_mut().fill(7.0);
        Ok(Done::default())
    }
}

struct Function {
    hypervisor: Hypervisor,
    program: Program,
    config: MachineConfig,
    session: Arc<Session>,
    log: Arc<Lines>,
}

impl Function {
    /// A function that takes its requests by the call, if `asks`.
    fn of(name: &str, asks: bool) -> Option<Self> {
        let hypervisor = common::hypervisors().find(|hypervisor| hypervisor.backend() == Backend::Kvm)?;
        let environment = if asks { vec![("solo5_arguments".to_owned(), "none".to_owned())] } else { Vec::new() };
        let config = MachineConfig { memory: 8 * MIB, request_limit: MIB, response_limit: MIB, environment };
        let session = Arc::new(Runtime::new(vec![Arc::new(Slow)]).session());
        let program = Program::parse(&file(name)).unwrap();
        Some(Self { hypervisor, program, config, session, log: Arc::default() })
    }

    fn services(&self) -> Services {
        Services { accel: Arc::clone(&self.session), log: self.log.clone() }
    }

    fn boot(&self) -> Result<(ProgramTemplate, ProgramMachine), Box<Crash>> {
        ProgramTemplate::boot(&self.hypervisor, &self.program, &self.config, self.services(), in_seconds(20))
    }
}

fn audit(machine: &mut ProgramMachine) {
    let ProgramMachine::Solo5(machine) = machine else { panic!("a Solo5 machine") };
    machine.audit().unwrap();
}

fn ask(machine: ProgramMachine, request: &Request<'_>) -> (ProgramMachine, Response) {
    let mut response = Response::default();
    let used = machine.invoke_into(request, in_seconds(20), &mut response).expect("an answer");
    (used.rewind().expect("a machine"), response)
}

/// A product of one number that takes so many milliseconds.
fn product(milliseconds: f32) -> Vec<u8> {
    [milliseconds, 1.0].into_iter().flat_map(f32::to_le_bytes).collect()
}

fn multiply(body: &[u8]) -> Request<'_> {
    Request { query: "m=1&n=1&k=1", ..request("/", body) }
}

#[test]
fn a_machine_is_its_template_again_after_requests_as_bytes() {
    let Some(function) = Function::of("mirror", true) else { return };
    let (template, mut machine) = function.boot().unwrap();
    audit(&mut machine);
    for body in [vec![0; 70_000], Vec::new(), vec![0xff; 300_000], b"text".to_vec()] {
        let (rewound, response) = ask(machine, &request("/", &body));
        machine = rewound;
        assert!(response.body == body);
        assert_eq!(response.usage.bytes_in, body.len() as u64);
        assert_eq!(response.usage.bytes_out, body.len() as u64);
        audit(&mut machine);
    }
    let mut other = template.machine(&function.hypervisor, function.services()).unwrap();
    audit(&mut other);
    assert_eq!(ask(other, &request("/", b"another")).1.body, b"another");
    // What came before the first request was done once.
    let lines = function.log.0.lock().unwrap();
    let started: Vec<_> = lines.iter().filter(|(_, _, text)| text.starts_with("started")).collect();
    assert!(
        matches!(started.as_slice(), [(call, _, text)] if call.is_empty() && text == "started 1 times"),
        "{started:?}"
    );
}

#[test]
fn a_template_that_is_at_its_request_goes_through_a_file() {
    let Some(function) = Function::of("mirror", true) else { return };
    let (template, mut booted) = function.boot().unwrap();
    let Function { hypervisor, program, config, session, .. } = &function;
    let key = TemplateKey::of_program(hypervisor, program, config, session, "sha256:image");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template");
    template.save(&fs::File::create(&path).unwrap(), &key).unwrap();
    let loaded = ProgramTemplate::load(&fs::read(&path).unwrap()[..], &key, hypervisor, program, config).unwrap();
    let mut machine = loaded.machine(hypervisor, function.services()).unwrap();
    for body in [&b"one"[..], &[0; 5000], b"two"] {
        audit(&mut machine);
        let (rewound, response) = ask(machine, &request("/", body));
        machine = rewound;
        assert!(response.status == 200 && response.body == body);
    }
    audit(&mut machine);
    // What it prints before its first request was said once, by the machine that was booted.
    audit(&mut booted);
    assert_eq!(function.log.0.lock().unwrap().iter().filter(|(_, _, text)| text.starts_with("started")).count(), 1);
}

#[test]
fn a_guest_that_asks_is_at_its_request_when_its_machine_gets_it() {
    let Some(function) = Function::of("sgemm", true) else { return };
    let (_, machine) = function.boot().unwrap();
    let (_, response) = ask(machine, &multiply(&product(0.0)));
    // Query, size and body, the product, the response, the halt.
    assert_eq!((response.status, response.usage.exits), (200, 6));
    assert_eq!(response.body, 7.0_f32.to_le_bytes());
}

#[test]
fn a_guest_with_a_command_line_can_ask_for_its_request_as_well() {
    let Some(function) = Function::of("sgemm", false) else { return };
    let (_, machine) = function.boot().unwrap();
    let (_, response) = ask(machine, &multiply(b"short"));
    assert_eq!((response.status, response.body.as_slice()), (400, &b"the body is not as long as A and B\n"[..]));
}

#[test]
fn accelerator_time_of_a_solo5_guest_is_counted_and_limited() {
    let Some(function) = Function::of("sgemm", true) else { return };
    let (_, machine) = function.boot().unwrap();
    let (machine, response) = ask(machine, &multiply(&product(30.0)));
    assert!(response.usage.accel >= Duration::from_millis(30), "{:?}", response.usage);
    assert!(response.usage.wall >= response.usage.accel && response.usage.bytes_copied == 0, "{:?}", response.usage);
    let limits = Limits { accel_time: Some(Duration::from_millis(20)), ..Limits::default() };
    let machine = machine.with_limits(limits);
    let (machine, response) = ask(machine, &multiply(&product(3_600_000.0)));
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status, 500);
    assert!(text.contains("20ms") && text.contains("dev.kernlet.limits.accel-time"), "{text}");
    // The request's own deadline as well, which ends the guest.
    let machine = machine.with_limits(Limits::default());
    let deadline = Instant::now() + Duration::from_millis(50);
    let ended = machine.invoke_into(&multiply(&product(3_600_000.0)), deadline, &mut Response::default());
    assert!(matches!(ended.map(|_| ()).unwrap_err().cause(), Cause::Timeout { .. }));
}

#[test]
fn a_guest_that_halts_before_it_asks_is_no_function_that_takes_requests_by_the_call() {
    let Some(function) = Function::of("hello", true) else { return };
    let crash = function.boot().map(|_| ()).unwrap_err();
    assert!(matches!(crash.cause(), Cause::Solo5(_)));
    assert!(crash.to_string().contains("it halted with status 0 before it asked for a request"), "{crash}");
}
