//! Finds out on this host whether guest code at ring 0 runs as fast as elsewhere. Used where a machine is made without a
//! ring being asked for, and by `kernlet doctor`, which always measures.

use std::time::{Duration, Instant};

use super::{
    GUEST_MIN, LARGE_PAGE,
    image::Loaded,
    layout::Layout,
    machine::{BootError, kvm_host},
    processor::{Exit, PORT_BASE, Processor, Ring},
};
use crate::{
    crash::Cause,
    hypervisor::{Hypervisor, KvmHost},
    kvm::Purpose,
    memory::GuestMemory,
};

/// Rounds of the loop that is timed. Emulated, one takes a microsecond and more.
const ROUNDS: u32 = 100;

/// What these rounds may take more than an exit does, where code runs at the processor's speed: a fraction of the time
/// that emulating them takes, and a hundred times of what they need.
const FAST: Duration = Duration::from_micros(20);

/// Where the `out` is in the code.
const OUT: u64 = 13;

/// What a probe of guest ring 0 found.
#[derive(Clone, Copy, Debug)]
pub struct RingSpeed {
    /// Time of one instruction there, as far as it can be told from an exit's.
    pub instruction: Duration,
    /// The ring that guests run at where nobody asks for one.
    pub better: Ring,
}

impl RingSpeed {
    /// Measures it in a machine of its own.
    ///
    /// # Errors
    /// No machine can be made.
    pub fn measure(hypervisor: &Hypervisor) -> Result<Self, BootError> {
        Ok(measure(kvm_host(hypervisor)?)?)
    }
}

pub(crate) fn better_ring(host: &KvmHost) -> Result<Ring, Cause> {
    // Such a KVM emulates guest ring 0; nothing has to be measured.
    if KvmHost::is_nested_by_page_tables() { Ok(Ring::Three) } else { Ok(measure(host)?.better) }
}

fn measure(host: &KvmHost) -> Result<RingSpeed, Cause> {
    let layout = Layout::new(LARGE_PAGE, false, Loaded { segments: Vec::new(), end: GUEST_MIN });
    let mut memory = GuestMemory::new(LARGE_PAGE).map_err(|source| Cause::Memory { size: LARGE_PAGE, source })?;
    let (rounds, [low, high]) = (ROUNDS.to_le_bytes(), PORT_BASE.to_le_bytes());
    // mov dx, PORT; mov ecx, ROUNDS; dec ecx; jnz -4; out dx, eax
    let code: [&[u8]; 4] = [&[0x66, 0xba, low, high], &[0xb9], &rounds, &[0xff, 0xc9, 0x75, 0xfc, 0xef]];
    memory.write(GUEST_MIN, &code.concat()).map_err(|_| Cause::Shutdown)?;
    let mut processor = Processor::boot(host, &memory, &layout, GUEST_MIN, Ring::Zero, Purpose::Once)?;
    let mut time = |offset| {
        processor.go_to(GUEST_MIN + offset)?;
        let begun = Instant::now();
        loop {
            match processor.run(&mut memory, &layout)? {
                Exit::Out { .. } => return Ok(begun.elapsed()),
                Exit::Interrupted | Exit::Again => {}
                _ => return Err(Cause::Shutdown),
            }
        }
    };
    // Once for what comes with the first run of all, then without the loop, then with it.
    let (_, exit, all) = (time(OUT)?, time(OUT)?, time(0)?);
    let more = all.saturating_sub(exit);
    let better = if more > FAST { Ring::Three } else { Ring::Zero };
    Ok(RingSpeed { instruction: more / (2 * ROUNDS), better })
}
