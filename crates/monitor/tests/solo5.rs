//! Solo5's hvt interface at both rings, through the library: what guests of our own find, and that a function's machine is
//! its template again after each request. Runs on a standard KVM as well, where ring 0 is the processor's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    fs,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use common::{Lines, MIB, in_seconds, patience, request, solo5_guest as file};
use kernlet_accel::Runtime;
use kernlet_monitor::{
    Backend, Cause, Hypervisor, LoadError, MachineConfig, Program, ProgramMachine, ProgramTemplate, Request, Response,
    Services, TemplateKey,
    solo5::{
        BlockDevice, Config, Console, ConsoleError, Devices, End, Halted, Image, Machine, PacketNet, Ring, RingSpeed,
        Target,
    },
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

fn image(name: &str) -> Image {
    Image::parse(file(name).into(), Target::Hvt).expect("a unikernel")
}

fn kvm() -> Option<Hypervisor> {
    common::hypervisors().find(|hypervisor| hypervisor.backend() == Backend::Kvm)
}

/// All that a guest prints.
#[derive(Default)]
struct Printed(Vec<u8>);

impl Console for Printed {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// A disk in memory.
#[derive(Debug)]
struct Disk(Vec<u8>);

impl BlockDevice for Disk {
    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> std::io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        to.copy_from_slice(&self.0[offset..offset + to.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        self.0[offset..offset + from.len()].copy_from_slice(from);
        Ok(())
    }
}

const RINGS: [Ring; 2] = [Ring::Three, Ring::Zero];

/// Runs a guest; gives how it ended and what it printed.
fn run(
    hypervisor: &Hypervisor,
    ring: Ring,
    name: &str,
    words: &str,
    attach: impl FnOnce(&mut Devices),
) -> (Result<Halted, End>, String) {
    let image = image(name);
    let mut devices = Devices::new(image.manifest());
    attach(&mut devices);
    let line = format!("--solo5:quiet {words}");
    let config = Config { memory: 16 * MIB, ring };
    let mut machine = Machine::boot(hypervisor, &image, devices, line.as_bytes(), config, None).expect("a machine");
    let mut printed = Printed::default();
    let deadline = Instant::now() + Duration::from_secs(60) * patience();
    let ended = machine.run(&mut printed, Some(deadline));
    (ended, String::from_utf8_lossy(&printed.0).into_owned())
}

#[test]
fn guests_of_solo5_succeed_at_both_rings() {
    let Some(hypervisor) = kvm() else { return };
    let ring0_is_real = RingSpeed::measure(&hypervisor).unwrap().better == Ring::Zero;
    for ring in RINGS {
        for name in ["hello", "tls", "clock", "float"] {
            // Emulated, ring 0 has no vector registers.
            if name == "float" && ring == Ring::Zero && !ring0_is_real {
                continue;
            }
            let (ended, printed) = run(&hypervisor, ring, name, "", |_| {});
            assert_eq!(ended.expect(name).status, 0, "{name} at {ring}: {printed}");
            assert!(printed.ends_with("SUCCESS\n"), "{name} at {ring}: {printed}");
        }
        let (ended, printed) = run(&hypervisor, ring, "block", "", |devices| {
            devices.attach_block("storage", Box::new(Disk(vec![0; 1 << 18]))).unwrap();
        });
        assert_eq!(ended.expect("block").status, 0, "{printed}");
    }
}

/// What a guest prints of a trap without the flag that a processor sets where an instruction failed, and KVM likewise where it
/// raises an exception: QEMU's emulated processor does not.
fn without_resume_flag(printed: &str) -> String {
    let Some((before, (flags, after))) =
        printed.split_once(" rflags=0x").and_then(|(before, after)| Some((before, after.split_once('\n')?)))
    else {
        return printed.to_owned();
    };
    format!("{before} rflags={:#x}\n{after}", u64::from_str_radix(flags, 16).unwrap() & !(1 << 16))
}

#[test]
fn traps_are_the_same_at_both_rings() {
    let Some(hypervisor) = kvm() else { return };
    for what in ["divide", "undefined", "null", "low", "wild", "noncanonical", "msr", "return", "between", "flags"] {
        let [three, zero] = RINGS.map(|ring| run(&hypervisor, ring, "traps", what, |_| {}));
        assert_eq!(three.0.expect(what).status, zero.0.expect(what).status, "{what}");
        assert_eq!(without_resume_flag(&three.1), without_resume_flag(&zero.1), "{what}");
    }
    for what in ["text", "rodata"] {
        for ring in RINGS {
            let (ended, _) = run(&hypervisor, ring, "traps", what, |_| {});
            assert!(matches!(ended, Err(End::TranslationFault { .. })), "{what} at {ring}: {ended:?}");
        }
    }
}

#[test]
fn frames_pass_at_both_rings() {
    let Some(hypervisor) = kvm() else { return };
    for (ring, how) in RINGS.iter().flat_map(|ring| [(*ring, ""), (*ring, "hypercalls ")]) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs): (OwnedFd, OwnedFd) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        // Who has 10.0.0.2? Asked three times before the guest runs, and answered as often.
        let question = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1],
            &[0; 6],
            &[10, 0, 0, 2],
        ]
        .concat();
        for _ in 0..3 {
            rustix::io::write(&ours, &question).unwrap();
        }
        let (ended, printed) = run(&hypervisor, ring, "net", &format!("{how}limit 3"), |devices| {
            devices.attach_net("service", Box::new(PacketNet::new(theirs, 1500))).unwrap();
        });
        assert_eq!(ended.expect("net").status, 0, "{printed}");
        for _ in 0..3 {
            let mut answer = [0; 64];
            assert_eq!(rustix::io::read(&ours, &mut answer).unwrap(), 42);
            assert_eq!((answer[21], &answer[28..32]), (2, &[10, 0, 0, 2][..]));
        }
    }
}

#[test]
fn the_same_guest_code_runs_at_either_ring_where_nobody_chooses() {
    let Some(hypervisor) = kvm() else { return };
    let (ended, printed) = run(&hypervisor, Ring::Auto, "hello", "", |_| {});
    assert_eq!(ended.expect("hello").status, 0, "{printed}");
}

struct Function {
    hypervisor: Hypervisor,
    program: Program,
    config: MachineConfig,
    log: Arc<Lines>,
}

impl Function {
    fn of(name: &str) -> Option<Self> {
        let environment = vec![("solo5_log".to_owned(), "info".to_owned())];
        let config = MachineConfig { memory: 4 * MIB, request_limit: MIB, response_limit: MIB, environment };
        Some(Self { hypervisor: kvm()?, program: Program::parse(&file(name)).unwrap(), config, log: Arc::default() })
    }

    fn services(&self) -> Services {
        Services { accel: Arc::new(Runtime::new(Vec::new()).session()), log: self.log.clone() }
    }

    fn boot(&self) -> (ProgramTemplate, ProgramMachine) {
        ProgramTemplate::boot(&self.hypervisor, &self.program, &self.config, self.services(), in_seconds(5)).unwrap()
    }
}

fn ask(machine: ProgramMachine, request: &Request<'_>) -> (ProgramMachine, Response) {
    let mut response = Response::default();
    let used = machine.invoke_into(request, in_seconds(5), &mut response).expect("an answer");
    (used.rewind().expect("a machine"), response)
}

fn audit(machine: &mut ProgramMachine) {
    let ProgramMachine::Solo5(machine) = machine else { panic!("a Solo5 machine") };
    machine.audit().unwrap();
}

#[test]
fn a_solo5_machine_is_its_template_again_after_each_request() {
    for name in ["echo", "hello", "float", "tls"] {
        let Some(function) = Function::of(name) else { return };
        let (template, mut machine) = function.boot();
        audit(&mut machine);
        for round in 0..4 {
            let body = format!("request {round} {}", "x".repeat(round * 2000));
            let (rewound, response) = ask(machine, &request("/", body.as_bytes()));
            machine = rewound;
            assert_eq!(response.status, 200);
            if name == "echo" {
                assert_eq!(String::from_utf8(response.body).unwrap(), body);
            }
            audit(&mut machine);
        }
        let mut other = template.machine(&function.hypervisor, function.services()).unwrap();
        audit(&mut other);
        let (_, response) = ask(other, &request("/", b"another"));
        assert_eq!(response.status, 200);
    }
}

/// The key of a function's template.
fn key(function: &Function, program: &Program, config: &MachineConfig) -> TemplateKey {
    let accel = Runtime::new(Vec::new()).session();
    TemplateKey::of_program(&function.hypervisor, program, config, &accel, "sha256:image")
}

/// A template's file.
fn saved(template: &ProgramTemplate, key: &TemplateKey) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("template");
    template.save(&fs::File::create(&path).unwrap(), key).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_solo5_template_from_a_file_is_the_one_that_was_saved() {
    for name in ["echo", "hello", "tls"] {
        let Some(function) = Function::of(name) else { return };
        let (template, _) = function.boot();
        let Function { hypervisor, program, config, .. } = &function;
        let key = key(&function, program, config);
        let bytes = saved(&template, &key);
        let loaded = ProgramTemplate::load(&bytes[..], &key, hypervisor, program, config).unwrap();
        assert!(saved(&loaded, &key) == bytes, "saving a loaded template makes the same file");
        let mut machine = loaded.machine(hypervisor, function.services()).unwrap();
        audit(&mut machine);
        for round in 0..3 {
            let body = format!("request {round}");
            let (rewound, response) = ask(machine, &request("/", body.as_bytes()));
            machine = rewound;
            assert_eq!(response.status, 200, "{name}");
            if name == "echo" {
                assert_eq!(response.body, body.as_bytes());
            }
            audit(&mut machine);
        }
    }
}

#[test]
fn a_solo5_template_of_something_else_or_damaged_is_refused() {
    let Some(function) = Function::of("echo") else { return };
    let (template, _) = function.boot();
    let Function { hypervisor, program, config, .. } = &function;
    let right = key(&function, program, config);
    let bytes = saved(&template, &right);
    let load = |bytes: &[u8], program: &Program, config: &MachineConfig| {
        ProgramTemplate::load(bytes, &key(&function, program, config), hypervisor, program, config).map(drop)
    };
    let stale = |program: &Program, config: &MachineConfig| match load(&bytes, program, config) {
        Err(error @ LoadError::Stale { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(stale(&Program::parse(&file("hello")).unwrap(), config).contains("another unikernel"));
    let larger = MachineConfig { memory: config.memory + 2 * MIB, ..config.clone() };
    assert!(stale(program, &larger).contains("another memory size"));
    let other = MachineConfig { response_limit: 1, ..config.clone() };
    assert!(stale(program, &other).contains("other limits, resources or environment variables"));
    for len in (0..bytes.len()).step_by(997) {
        assert!(load(&bytes[..len], program, config).is_err(), "{len} bytes");
    }
    for at in (0..bytes.len()).step_by(499) {
        let mut changed = bytes.clone();
        changed[at] ^= 0x10;
        assert!(load(&changed, program, config).is_err(), "byte {at} changed");
    }
    assert!(load(&bytes, program, config).is_ok());
}

#[test]
fn a_solo5_functions_time_never_runs_backwards() {
    let Some(function) = Function::of("clock") else { return };
    let begun = Instant::now();
    // The guest's clock has begun by the time that its template is taken.
    let (template, mut machine) = function.boot();
    let mut last = Duration::ZERO;
    let mut look = |machine| {
        let (machine, response) = ask(machine, &request("/", b"now"));
        let now = Duration::from_nanos(String::from_utf8(response.body).unwrap().trim().parse().unwrap());
        // A clock that is behind its own beginning shows centuries.
        assert!(now > last && now < begun.elapsed() * 2, "{now:?} after {last:?}, {:?} passed", begun.elapsed());
        last = now;
        machine
    };
    for _ in 0..3 {
        machine = look(machine);
    }
    for _ in 0..3 {
        look(template.machine(&function.hypervisor, function.services()).unwrap());
    }
    let Function { hypervisor, program, config, .. } = &function;
    let key = key(&function, program, config);
    let loaded = ProgramTemplate::load(&saved(&template, &key)[..], &key, hypervisor, program, config).unwrap();
    look(loaded.machine(hypervisor, function.services()).unwrap());
    look(machine);
}

#[test]
fn what_bindings_do_at_the_start_is_done_once_a_function() {
    let Some(function) = Function::of("echo") else { return };
    let (_, machine) = function.boot();
    let (_, response) = ask(machine, &request("/", b"hello"));
    // Eleven lines of a banner, the line of the end, the answer and the halt: no descriptor table is loaded any more.
    assert_eq!((response.body.as_slice(), response.usage.exits), (&b"hello"[..], 14));
}

#[test]
fn a_solo5_guest_with_devices_is_no_function_without_them() {
    let Some(function) = Function::of("block") else { return };
    let booted = ProgramTemplate::boot(
        &function.hypervisor,
        &function.program,
        &function.config,
        function.services(),
        in_seconds(5),
    );
    let crash = booted.map(|_| ()).unwrap_err();
    assert!(matches!(crash.cause(), Cause::Solo5Boot(_)));
    assert!(crash.to_string().contains("Device 'storage' of type BLOCK_BASIC declared but not attached."), "{crash}");
}

/// A machine each.
fn few() -> proptest::prelude::ProptestConfig {
    let usual = proptest::prelude::ProptestConfig::default();
    proptest::prelude::ProptestConfig { cases: usual.cases.min(48), ..usual }
}

proptest::proptest! {
    #![proptest_config(few())]

    /// A guest's file with some bytes changed: mostly its code and its headers.
    #[test]
    fn any_solo5_file_is_refused_or_runs_to_a_named_end(
        name in proptest::sample::select(vec!["hello", "traps", "tls"]),
        changes in proptest::collection::vec((0_usize..0x2800, proptest::prelude::any::<u8>()), 1..6),
    ) {
        let Some(hypervisor) = kvm() else { return Ok(()) };
        let mut bytes = file(name);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let Ok(image) = Image::parse(bytes.into(), Target::Hvt) else { return Ok(()) };
        let devices = Devices::new(image.manifest());
        let config = Config { memory: 4 * MIB, ring: Ring::Three };
        if let Ok(mut machine) = Machine::boot(&hypervisor, &image, devices, b"divide", config, None) {
            let ended = machine.run(&mut Printed::default(), Some(Instant::now() + Duration::from_millis(50) * patience()));
            if let Err(end) = ended {
                proptest::prop_assert!(!matches!(end, End::Host(_)), "{}", end);
                proptest::prop_assert!(!end.to_string().is_empty());
            }
        }
    }
}
