//! Templates of Solo5 machines in files: which of their memory comes from there, and which is made anew. Used by the template
//! of a function. What a device has of its own, its ring of frames above all, is in no file.

use std::{fs::File, io, io::Read};

use kernlet_abi::Span;

use super::{
    Config, GUEST_MIN, Image,
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

/// Bytes of the processor's state in a file: the clock's speed, which the guest was told, goes before the registers.
const CPU_LEN: usize = size_of::<u64>() + CpuState::ENCODED_LEN;

/// The shape of a unikernel's templates.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) layout: Layout,
    /// As its machines have it.
    manifest: Manifest,
    /// The command line, where it is the same for all requests.
    line: Vec<u8>,
}

impl Shape for Saved {
    fn memory(&self) -> u64 {
        self.layout.tables().end
    }

    fn cpu_len(&self) -> usize {
        CPU_LEN
    }

    /// The unikernel, its heap and its stack: not what it was told at the start, nor the ring above.
    fn keeps(&self, span: Span) -> bool {
        span.offset >= GUEST_MIN && span.offset.checked_add(span.len).is_some_and(|end| end <= self.layout.memory)
    }

    fn write_own(&self, memory: &GuestMemory) -> Result<(), Cause> {
        write_tables(memory, &self.layout)?;
        self.layout.ring.map_or(Ok(()), |at| ring::prepare(memory, at).map_err(|_| Cause::Shutdown))
    }
}

impl Saved {
    /// Of a unikernel with so much memory, whose devices are its disks, and whose template has this command line.
    pub(crate) fn new(image: &Image, memory: u64, line: &[u8]) -> Result<Self, Cause> {
        let devices = image.devices(&[]).map_err(|error| boot_cause(error.into()))?;
        let with_ring = devices.has_net();
        let manifest = devices.complete().map_err(|error| boot_cause(error.into()))?.manifest;
        let memory = Config::round_memory(memory);
        let loaded = image.load(memory).map_err(|error| boot_cause(error.into()))?;
        let mut layout = Layout::new(memory, with_ring, loaded);
        layout.extension = Some(extension::told(true));
        Ok(Self { layout, manifest, line: line.to_owned() })
    }

    pub(crate) fn write(
        &self,
        file: &File,
        key: &TemplateKey,
        memory: &FrozenMemory,
        cpu: &CpuState,
    ) -> io::Result<()> {
        let cpu = [&told_cycles(memory).to_le_bytes()[..], &cpu.encode()].concat();
        saved::write(file, key, memory, self, &cpu)
    }

    pub(crate) fn read(&self, from: impl Read, key: &TemplateKey) -> Result<(FrozenMemory, CpuState), LoadError> {
        let (memory, cpu) = saved::read(from, key, self)?;
        let (cycles, cpu) = cpu.split_first_chunk().ok_or(saved::damaged("its registers are cut short"))?;
        let cpu = CpuState::decode(cpu, &self.layout).map_err(saved::damaged)?;
        let told = self.layout.write_boot_info(&memory, &self.manifest.encode(), u64::from_le_bytes(*cycles));
        let told = told.and_then(|()| write_command_line(&memory, &self.line));
        told.map_err(|_| Cause::Shutdown)?;
        Ok((saved::freeze(memory)?, cpu))
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl Saved {
    /// The processor's part of a file, of a guest that has not run.
    pub(crate) fn first_cpu(&self) -> Vec<u8> {
        [&[0; 8][..], &CpuState::first(&self.layout).encode()].concat()
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
