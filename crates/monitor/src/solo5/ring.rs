//! The ring by which a guest and its tender exchange frames without a hypercall for each. Looked at when the guest says
//! that there is something in it, which it is told always to do: it stands still meanwhile, so that nothing changes under
//! our feet. Its indices are the guest's to lie with: no more is done than the ring has entries.

use kernlet_abi::Span;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    device::{Attached, FRAME_MAX},
    layout::Layout,
    machine::End,
};
use crate::memory::{FrozenMemory, GuestMemory};

const ENTRIES: u32 = 1024;

// Offsets of the indices, which only grow; the host's are the last three.
const ENTRY_TAIL: u64 = 0;
const COMMIT_HEAD: u64 = 4;
const ENTRY_HEAD: u64 = 64;
const COMMIT_TAIL: u64 = 68;
const NEEDS_KICK: u64 = 72;
const ENTRY_TABLE: u64 = 128;
const COMMIT_TABLE: u64 = ENTRY_TABLE + ENTRIES as u64 * size_of::<Entry>() as u64;

const WRITE: u32 = 1;
const READ: u32 = 2;

/// What a guest wants done, `struct hvt_ring_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Entry {
    operation: u32,
    handle: u32,
    data: u64,
    len: u32,
    id: u32,
    reserved: u64,
}

/// That it was done, `struct hvt_ring_commit`.
#[derive(Clone, Copy, Debug, IntoBytes, Immutable)]
#[repr(C)]
struct Commit {
    id: u32,
    result: i32,
    len: u32,
    reserved: u32,
}

/// Asks the guest to say when it has put something into a new ring.
pub(crate) fn prepare(memory: &GuestMemory, ring: u64) -> Result<(), End> {
    store(memory, ring + NEEDS_KICK, &1_u32)
}

/// Whether a template's ring has nothing in it: no frame that the guest gave and the host has not taken, nor one that came and
/// the guest has not seen.
pub(crate) fn is_idle(memory: &FrozenMemory, ring: u64) -> bool {
    let index = |at: u64| {
        let mut index = [0; 4];
        memory.read(ring + at, &mut index).map(|()| u32::from_le_bytes(index)).ok()
    };
    index(ENTRY_TAIL) == index(ENTRY_HEAD) && index(COMMIT_HEAD) == index(COMMIT_TAIL)
}

/// Does what is in the ring.
pub(crate) fn serve(
    memory: &GuestMemory,
    layout: &Layout,
    devices: &mut Attached,
    frame: &mut Vec<u8>,
) -> Result<(), End> {
    let Some(ring) = layout.ring else { return Err(End::InvalidPort { port: super::processor::PORT_KICK }) };
    let tail: u32 = load(memory, ring + ENTRY_TAIL)?;
    let mut head: u32 = load(memory, ring + ENTRY_HEAD)?;
    for _ in 0..tail.wrapping_sub(head).min(ENTRIES) {
        let entry: Entry = load(memory, ring + ENTRY_TABLE + u64::from(head % ENTRIES) * size_of::<Entry>() as u64)?;
        match entry.operation {
            WRITE => write(memory, layout, devices, frame, entry)?,
            READ => {
                let commit = read(memory, layout, devices, frame, entry)?;
                let tail: u32 = load(memory, ring + COMMIT_TAIL)?;
                let at = ring + COMMIT_TABLE + u64::from(tail % ENTRIES) * size_of::<Commit>() as u64;
                store(memory, at, &commit)?;
                store(memory, ring + COMMIT_TAIL, &tail.wrapping_add(1))?;
            }
            _ => {}
        }
        head = head.wrapping_add(1);
        store(memory, ring + ENTRY_HEAD, &head)?;
    }
    Ok(())
}

fn write(
    memory: &GuestMemory,
    layout: &Layout,
    devices: &mut Attached,
    frame: &mut Vec<u8>,
    entry: Entry,
) -> Result<(), End> {
    let Some(device) = devices.net(entry.handle.into()) else { return Ok(()) };
    let span = span(layout, entry, false)?;
    frame.clear();
    if entry.len as usize > FRAME_MAX {
        return Err(End::write_failed(&std::io::Error::from_raw_os_error(libc::EMSGSIZE)));
    }
    memory.read_span(span, frame).map_err(|_| End::access(span))?;
    device.send(frame).map_err(|error| End::write_failed(&error))
}

fn read(
    memory: &GuestMemory,
    layout: &Layout,
    devices: &mut Attached,
    frame: &mut Vec<u8>,
    entry: Entry,
) -> Result<Commit, End> {
    use super::hypercall::result;
    let commit = |result, len| Commit { id: entry.id, result, len, reserved: 0 };
    let Some(device) = devices.net(entry.handle.into()) else { return Ok(commit(result::EINVAL, 0)) };
    let span = span(layout, entry, true)?;
    frame.resize((entry.len as usize).min(FRAME_MAX), 0);
    Ok(match device.receive(frame) {
        Ok(Some(len)) => {
            memory.write(span.offset, &frame[..len]).map_err(|_| End::access(span))?;
            commit(result::OK, u32::try_from(len).unwrap_or_default())
        }
        Ok(None) => commit(result::AGAIN, 0),
        Err(_) => commit(result::EINVAL, 0),
    })
}

fn span(layout: &Layout, entry: Entry, write: bool) -> Result<Span, End> {
    let span = Span { offset: entry.data, len: entry.len.into() };
    if layout.allows(span, write) { Ok(span) } else { Err(End::access(span)) }
}

fn load<T: FromBytes + IntoBytes>(memory: &GuestMemory, at: u64) -> Result<T, End> {
    memory.load(at).map_err(|_| End::access(Span { offset: at, len: size_of::<T>() as u64 }))
}

fn store<T: IntoBytes + Immutable>(memory: &GuestMemory, at: u64, value: &T) -> Result<(), End> {
    memory.store(at, value).map_err(|_| End::access(Span { offset: at, len: size_of::<T>() as u64 }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::solo5::{
        Devices, Image, PacketNet, Target,
        image::{Loaded, unikernel},
    };

    const RING: u64 = 2 << 20;

    /// A guest's memory with a ring, and a network device with its other end.
    fn guest() -> (GuestMemory, Layout, Attached, OwnedFd) {
        let image = Image::parse(unikernel(&[0xf4], &[("service", 2)]).into(), Target::Hvt).unwrap();
        let layout = Layout::new(RING, true, Loaded { segments: Vec::new(), end: 0x10_0000 });
        let memory = GuestMemory::new(layout.tables().end).unwrap();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        let mut devices = Devices::new(image.manifest());
        devices.attach_net("service", Box::new(PacketNet::new(theirs, 1500))).unwrap();
        (memory, layout, devices.complete().unwrap(), ours)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the indices and entries say: all writes are in the ring's own commits and indices, or where the guest
        /// may write.
        #[test]
        fn a_ring_that_lies_is_served_once_around_and_within_the_guests_memory(
            indices in any::<[u32; 4]>(),
            near in any::<bool>(),
            entries in prop::collection::vec((0_u32..4, 0_u32..3, any::<u64>(), any::<u32>()), 1..16),
        ) {
            let (memory, layout, mut devices, ours) = guest();
            let [tail, head, com_head, com_tail] = indices;
            let tail = if near { head.wrapping_add(tail % 8) } else { tail };
            for (at, value) in [(ENTRY_TAIL, tail), (4, com_head), (ENTRY_HEAD, head), (COMMIT_TAIL, com_tail)] {
                memory.store(RING + at, &value).unwrap();
            }
            for index in 0..ENTRIES {
                let (operation, handle, data, len) = entries[index as usize % entries.len()];
                // Half of the addresses are the guest's.
                let data = if data % 2 == 0 { 0x10_0000 + data % 0x10_0000 } else { data };
                let len = if len % 2 == 0 { len % 2048 } else { len };
                let entry = Entry { operation, handle, data, len, id: index, reserved: 0 };
                memory.store(RING + ENTRY_TABLE + u64::from(index) * size_of::<Entry>() as u64, &entry).unwrap();
            }
            rustix::io::write(&ours, b"a frame").unwrap();
            let _named_end = serve(&memory, &layout, &mut devices, &mut Vec::new());
            let now: u32 = memory.load(RING + ENTRY_HEAD).unwrap();
            prop_assert!(now.wrapping_sub(head) <= ENTRIES.min(tail.wrapping_sub(head)));
            // What is the monitor's is as it was.
            for outside in [0_u64..0x10_0000, layout.tables()] {
                let mut bytes = vec![0; usize::try_from(outside.end - outside.start).unwrap()];
                memory.read(outside.start, &mut bytes).unwrap();
                prop_assert!(bytes.iter().all(|byte| *byte == 0));
            }
        }
    }
}
