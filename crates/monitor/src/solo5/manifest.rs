//! The manifest of a Solo5 unikernel: which devices it has. Read from its note, completed with what is attached, and
//! copied into its memory. Never trusts a count or a name that the file has.

use std::mem;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const VERSION: u32 = 1;

/// Most entries, of which the first is no device.
const ENTRIES_MAX: u32 = 64;

/// Type of the first entry.
const RESERVED_FIRST: u32 = 1 << 30;

/// Longest name of a device, in bytes.
pub(crate) const NAME_MAX: usize = 67;

/// One entry as the guest has it, `struct mft_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RawEntry {
    pub(crate) name: [u8; NAME_MAX + 1],
    pub(crate) kind: u32,
    /// A block device's capacity and block size, or a network device's address and MTU.
    pub(crate) properties: [u8; 16],
    /// What spt's guests hand to the kernel; nothing in a virtual machine.
    pub(crate) descriptor: u64,
    pub(crate) attached: u8,
    pub(crate) padding: [u8; 7],
}

const _: () = assert!(mem::size_of::<RawEntry>() == 104);

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `BLOCK_BASIC`.
    Block,
    /// `NET_BASIC`.
    Net,
}

impl DeviceKind {
    const fn number(self) -> u32 {
        match self {
            Self::Block => 1,
            Self::Net => 2,
        }
    }
}

/// One device that a unikernel declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    kind: u32,
}

impl Entry {
    /// Its name; what is no text in it is shown as such.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is; nothing where the number is none that Solo5 has.
    #[must_use]
    pub fn kind(&self) -> Option<DeviceKind> {
        [DeviceKind::Block, DeviceKind::Net].into_iter().find(|kind| kind.number() == self.kind)
    }

    /// Its type's name.
    #[must_use]
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            1 => "BLOCK_BASIC",
            2 => "NET_BASIC",
            RESERVED_FIRST => "RESERVED_FIRST",
            _ => "<undefined type>",
        }
    }

    /// Whether it has to be attached.
    pub(crate) fn is_device(&self) -> bool {
        self.kind < RESERVED_FIRST
    }
}

/// A manifest whose form is right.
#[derive(Clone, Debug)]
pub struct Manifest {
    raw: Vec<RawEntry>,
    entries: Vec<Entry>,
}

impl Manifest {
    /// Reads `struct mft`.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let ([version, count], rest) = <[u32; 2]>::read_from_prefix(bytes).ok()?;
        let size = usize::try_from(count).ok()?.checked_mul(mem::size_of::<RawEntry>())?;
        if version != VERSION || !(1..=ENTRIES_MAX).contains(&count) || rest.len() != size {
            return None;
        }
        let raw: Result<Vec<_>, _> =
            rest.chunks_exact(mem::size_of::<RawEntry>()).map(RawEntry::read_from_bytes).collect();
        let mut raw = raw.ok()?;
        if raw[0].kind != RESERVED_FIRST || raw[0].name[0] != 0 {
            return None;
        }
        if raw.iter().any(|entry| entry.name[NAME_MAX] != 0 || entry.attached != 0) {
            return None;
        }
        // What the tender fills in, the file has no say in.
        for entry in &mut raw {
            (entry.properties, entry.descriptor, entry.padding) = ([0; 16], 0, [0; 7]);
        }
        let entries = raw.iter().map(|entry| Entry { name: name(entry), kind: entry.kind }).collect();
        Some(Self { raw, entries })
    }

    /// Its devices, each with the number by which the guest knows it.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().skip(1)
    }

    /// The number of a device.
    #[must_use]
    pub fn find(&self, name: &str, kind: DeviceKind) -> Option<usize> {
        self.entries.iter().position(|entry| entry.kind == kind.number() && entry.name == name)
    }

    /// Entries, as the guest counts them.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The block size of an attached block device.
    pub(crate) fn block_size(&self, index: usize) -> u16 {
        self.raw.get(index).map_or(0, |entry| u16::from_le_bytes([entry.properties[8], entry.properties[9]]))
    }

    pub(crate) fn raw_mut(&mut self, index: usize) -> Option<&mut RawEntry> {
        self.raw.get_mut(index)
    }

    /// As the guest has it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let count = u32::try_from(self.raw.len()).unwrap_or(ENTRIES_MAX);
        let entries = self.raw.iter().flat_map(|entry| entry.as_bytes().iter().copied());
        VERSION.to_le_bytes().into_iter().chain(count.to_le_bytes()).chain(entries).collect()
    }
}

fn name(entry: &RawEntry) -> String {
    let bytes = entry.name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}
