//! A file that claims to be a Solo5 unikernel: read, and where it can be loaded, run in a machine for a moment, by itself and
//! as a function with disks.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use kernlet_monitor::{
    Hypervisor, Level, LogSink, MachineConfig, Program, ProgramMachine, ProgramTemplate, Request, Response, Services,
    solo5::{
        BlockDevice, BootError, Config, Console, ConsoleError, DeviceKind, Devices, Disk, Image, Machine, Ring, Target,
        target_of,
    },
};

use crate::touch::session;

/// How long a guest runs at most: what it does, it does at once.
const TIME: Duration = Duration::from_millis(20);

/// What a guest may print.
const OUTPUT_MAX: usize = 1 << 16;

struct Output(usize);

impl Console for Output {
    fn write(&mut self, bytes: &[u8]) -> Result<(), ConsoleError> {
        self.0 += bytes.len();
        if self.0 > OUTPUT_MAX { Err(ConsoleError::Full { limit: OUTPUT_MAX as u64 }) } else { Ok(()) }
    }
}

/// A disk of zeroes that forgets what is written.
#[derive(Debug)]
struct Zeroes;

impl BlockDevice for Zeroes {
    fn capacity(&self) -> u64 {
        4096
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> std::io::Result<()> {
        assert!(offset + to.len() as u64 <= self.capacity(), "a read within the device");
        to.fill(0);
        Ok(())
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> std::io::Result<()> {
        assert!(offset + from.len() as u64 <= self.capacity(), "a write within the device");
        Ok(())
    }
}

/// Whatever the bytes are, they are refused or run to an end that has a name. Without KVM they are only read.
pub fn solo5_guest(data: &[u8]) {
    let target = target_of(data);
    let Ok(image) = Image::parse(data.into(), Target::Hvt) else { return };
    assert_eq!(target, Some(Target::Hvt));
    let mut devices = Devices::new(image.manifest());
    for (_, entry) in image.manifest().entries() {
        if entry.kind() == Some(DeviceKind::Block) {
            devices.attach_block(entry.name(), Box::new(Zeroes)).expect("a device that is declared");
        }
    }
    static HYPERVISOR: OnceLock<Option<Hypervisor>> = OnceLock::new();
    let Some(hypervisor) = HYPERVISOR.get_or_init(|| Hypervisor::open().ok()) else { return };
    let config = Config { memory: 4 << 20, ring: Ring::Three };
    match Machine::boot(hypervisor, &image, devices, b"fuzz", config, None) {
        Ok(mut machine) => {
            // However it ends; that it does is what counts.
            let _ended = machine.run(&mut Output(0), Some(Instant::now() + TIME));
        }
        Err(BootError::Host(cause)) => panic!("the host does not do its part: {cause}"),
        Err(_) => {}
    }
    as_function(hypervisor, image);
}

#[derive(Debug)]
struct NoLog;

impl LogSink for NoLog {
    fn line(&self, _call_id: &str, _level: Level, _text: &str) {}
}

/// After each request the machine is its template again, and its disks are empty.
fn as_function(hypervisor: &Hypervisor, image: Image) {
    let blocks = image.manifest().entries().filter(|(_, entry)| entry.kind() == Some(DeviceKind::Block));
    let disks = blocks.map(|(_, entry)| (entry.name().to_owned(), Disk::scratch(8192))).collect();
    let Ok(program) = Program::Solo5(image).with_disks(disks) else { return };
    let config = MachineConfig { memory: 4 << 20, request_limit: 4096, response_limit: 4096, environment: Vec::new() };
    let services = Services { accel: session(), log: Arc::new(NoLog) };
    let Ok((_, mut machine)) = ProgramTemplate::boot(hypervisor, &program, &config, services, Instant::now() + TIME)
    else {
        return;
    };
    let request = Request { method: "POST", path: "/", query: "", headers: &[], body: b"fuzz", call_id: "fuzz" };
    for _ in 0..2 {
        let mut response = Response::default();
        let Ok(used) = machine.invoke_into(&request, Instant::now() + TIME, &mut response) else { return };
        machine = used.rewind().expect("a machine that is its template again");
        let ProgramMachine::Solo5(solo5) = &mut machine else { unreachable!("it is Solo5's") };
        solo5.audit().expect("nothing of the request is left in the machine and on its disks");
    }
}
