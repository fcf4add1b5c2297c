//! A file that claims to be a Solo5 unikernel: read, and where it can be loaded, run in a machine for a moment.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use kernlet_monitor::{
    Hypervisor,
    solo5::{
        BlockDevice, BootError, Config, Console, ConsoleError, DeviceKind, Devices, Image, Machine, Ring, Target,
        target_of,
    },
};

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
    match Machine::boot(hypervisor, &image, devices, b"fuzz", config) {
        Ok(mut machine) => {
            // However it ends; that it does is what counts.
            let _ended = machine.run(&mut Output(0), Some(Instant::now() + TIME));
        }
        Err(BootError::Host(cause)) => panic!("the host does not do its part: {cause}"),
        Err(_) => {}
    }
}
