//! Templates of Solo5 machines in files: which of their memory comes from there, and which is made anew. Used by the templates
//! of functions. No frame that is on its way is in a file: a ring of frames is in one only where there is nothing in it.

use std::{fs::File, io, io::Read};

use kernlet_abi::Span;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    Config, Devices, GUEST_MIN, Image, LARGE_PAGE, MEMORY_MAX,
    command::boot_cause,
    extension,
    layout::{Layout, told_cycles, write_command_line},
    manifest::Manifest,
    processor::{CpuState, write_tables},
    ring,
};
use crate::{
    crash::Cause,
    memory::{FrozenMemory, GuestMemory},
    saved::{self, LoadError, Shape, TemplateKey},
};

/// Bytes of the processor's state in a file: what else is to be known goes before the registers.
const CPU_LEN: usize = size_of::<Moment>() + CpuState::ENCODED_LEN;

/// What a file says of the moment at which a template was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Moment {
    /// The speed of its clock that the guest was told, in cycles a second.
    pub(crate) cycles_per_second: u64,
    /// What its clock showed, in cycles, where it has looked at it.
    pub(crate) clock: u64,
    /// When that was, in nanoseconds since 1970.
    pub(crate) time: u64,
    /// Where the structure of the call is in which it waits for packets, if it does.
    pub(crate) waits_at: u64,
    /// Where its frames go, of which the first six bytes count.
    pub(crate) guest: [u8; 8],
}

/// The shape of a unikernel's templates.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) layout: Layout,
    /// As its machines have it.
    manifest: Manifest,
    /// The command line, where it is the same for all requests.
    command_line: Vec<u8>,
}

impl Shape for Saved {
    fn memory(&self) -> u64 {
        self.layout.tables().end
    }

    fn cpu_len(&self) -> usize {
        CPU_LEN
    }

    /// The unikernel, its heap, its stack, and the ring above: not what it was told at the start.
    fn keeps(&self, span: Span) -> bool {
        span.offset >= GUEST_MIN && span.offset.checked_add(span.len).is_some_and(|end| end <= self.layout.end())
    }

    fn write_own(&self, memory: &GuestMemory) -> Result<(), Cause> {
        write_tables(memory, &self.layout)?;
        write_command_line(memory, &self.command_line).map_err(|_| Cause::Shutdown)
    }
}

impl Saved {
    /// Of a unikernel with so much memory, whose devices are its disks, and whose template has this command line.
    pub(crate) fn new(image: &Image, memory: u64, line: &[u8]) -> Result<Self, Cause> {
        let devices = image.devices(&[]).map_err(|error| boot_cause(error.into()))?;
        Self::with_devices(image, devices, memory, line.to_owned(), true)
    }

    /// Of a unikernel with these devices, and this command line from the start, which may or may not ask for requests.
    pub(crate) fn with_devices(
        image: &Image,
        devices: Devices,
        memory: u64,
        command_line: Vec<u8>,
        requests: bool,
    ) -> Result<Self, Cause> {
        let with_ring = devices.has_net();
        let manifest = devices.complete().map_err(|error| boot_cause(error.into()))?.manifest;
        let memory = Config::round_memory(memory);
        let memory = if with_ring { memory.min(MEMORY_MAX - LARGE_PAGE) } else { memory };
        let loaded = image.load(memory).map_err(|error| boot_cause(error.into()))?;
        let mut layout = Layout::new(memory, with_ring, loaded);
        layout.extension = Some(extension::told(requests));
        Ok(Self { layout, manifest, command_line })
    }

    /// Writes a template to an empty file, its head last. The speed of the clock is the one that the guest was told.
    pub(crate) fn write(
        &self,
        file: &File,
        key: &TemplateKey,
        memory: &FrozenMemory,
        cpu: &CpuState,
        moment: Moment,
    ) -> io::Result<()> {
        if self.layout.ring.is_some_and(|at| !ring::is_idle(memory, at)) {
            return Err(io::Error::other("frames are on their way in it"));
        }
        let moment = Moment { cycles_per_second: told_cycles(memory), ..moment };
        saved::write(file, key, memory, self, &[moment.as_bytes(), &cpu.encode()].concat())
    }

    pub(crate) fn read(
        &self,
        from: impl Read,
        key: &TemplateKey,
    ) -> Result<(FrozenMemory, CpuState, Moment), LoadError> {
        let (memory, cpu) = saved::read(from, key, self)?;
        let (moment, cpu) =
            Moment::read_from_prefix(&cpu).map_err(|_| saved::damaged("its registers are cut short"))?;
        let cpu = CpuState::decode(cpu, &self.layout).map_err(saved::damaged)?;
        let told = self.layout.write_boot_info(&memory, &self.manifest.encode(), moment.cycles_per_second);
        told.map_err(|_| Cause::Shutdown)?;
        Ok((saved::freeze(memory)?, cpu, moment))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Saved {
    /// The processor's part of a file, of a guest that has not run.
    pub(crate) fn first_cpu(&self) -> Vec<u8> {
        [Moment::default().as_bytes(), &CpuState::first(&self.layout).encode()].concat()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use kernlet_accel::Runtime;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        fuzzing::Solo5TemplateReader,
        solo5::{Target, image::unikernel},
    };

    const MEMORY: u64 = 4 << 20;

    fn reader() -> Solo5TemplateReader {
        let image = Image::parse(unikernel(&[0xf4], &[]).into(), Target::Hvt).unwrap();
        Solo5TemplateReader::new(&image, MEMORY, &Runtime::new(Vec::new()).session()).unwrap()
    }

    #[test]
    fn pages_that_are_no_solo5_guests_are_refused() {
        let reader = reader();
        let read = |runs: &[(u64, u64)]| reader.read(&reader.forge(runs, &[1; 8192]));
        let last = MEMORY / 4096 - 1;
        assert!(read(&[(0x100, 1), (last, 1)]).is_ok());
        // Descriptor tables, stubs, what the guest is told, the command line, page tables, and beyond.
        for first in [0, 1, 3, 5, 0x10, 0x13, 0xff, last + 1, last + 8, u64::MAX, u64::MAX / 4096] {
            assert!(matches!(read(&[(0x100, 1), (first, 1)]), Err(LoadError::Damaged { .. })), "page {first:#x}");
        }
        assert!(matches!(read(&[(0xff, 2)]), Err(LoadError::Damaged { .. })));
        assert!(matches!(read(&[(last, 2)]), Err(LoadError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_loaded_or_refused_as_a_solo5_template(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            first in 0..MEMORY / 4096,
        ) {
            let reader = reader();
            let mut bytes = reader.forge(&[(0x100, 1), (first, 1)], &[7; 8192]);
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            let _ = reader.read(&bytes);
            reader.repair(&mut bytes);
            let _ = reader.read(&bytes);
        }
    }
}
