//! Block devices of functions: a file that no machine writes, and what a machine writes over it, or over nothing, kept in
//! memory and forgotten with its request. Given to an image by whoever runs the function; each machine has devices of its
//! own, and what one writes no other ever reads.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Seek as _, SeekFrom},
    ops::Range,
    os::unix::fs::FileExt as _,
    sync::Arc,
};

use super::{
    device::{BLOCK_SIZE, BlockDevice},
    manifest::{DeviceKind, Manifest},
};

/// Bytes that are kept together of what is written.
const PAGE: usize = 4096;

/// Pages whose memory stays with a machine between two requests.
const KEPT: usize = 64;

/// What a block device of a function's machines is made of. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Disk {
    /// What lies below all that is written; zeroes where it is no file.
    file: Option<Arc<File>>,
    capacity: u64,
    sector: u16,
    /// Most bytes of what a machine writes; nothing where it writes nothing.
    room: Option<u64>,
    /// What was written before the template was taken.
    frozen: Option<Arc<Written>>,
}

/// Why disks are not those of a unikernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The unikernel has none of this name.
    #[error("the unikernel declares no block device {name:?}; it declares {declared}")]
    Undeclared {
        /// The name.
        name: String,
        /// Those that there are.
        declared: String,
    },
    /// Two have one name.
    #[error("the block device {name:?} is given twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// The unikernel has one that nothing is given for.
    #[error(
        "the unikernel declares the block device {name:?}, and nothing is given for it; give it a file or scratch space"
    )]
    Missing {
        /// The name.
        name: String,
    },
    /// Its size is none.
    #[error(
        "the block device {name:?} has {capacity} bytes, which is no whole number of blocks of {sector} bytes, or none"
    )]
    Size {
        /// The name.
        name: String,
        /// Its size in bytes.
        capacity: u64,
        /// Bytes of a block.
        sector: u16,
    },
    /// Block devices are Solo5's.
    #[error("a unikernel of the guest library has no block devices; its files are resources")]
    NoDevices,
}

/// Whether these are all block devices that the unikernel declares, and fit.
pub(super) fn check(manifest: &Manifest, disks: &[(String, Disk)]) -> Result<(), DiskError> {
    let declared: Vec<&str> = manifest
        .entries()
        .filter(|(_, entry)| entry.kind() == Some(DeviceKind::Block))
        .map(|(_, entry)| entry.name())
        .collect();
    for (index, (name, disk)) in disks.iter().enumerate() {
        let name = name.clone();
        if !declared.contains(&name.as_str()) {
            let declared = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
            return Err(DiskError::Undeclared { name, declared });
        }
        if disks[..index].iter().any(|(other, _)| *other == name) {
            return Err(DiskError::Twice { name });
        }
        let Disk { capacity, sector, .. } = *disk;
        if capacity < u64::from(sector) || !capacity.is_multiple_of(u64::from(sector)) {
            return Err(DiskError::Size { name, capacity, sector });
        }
    }
    let missing = declared.iter().find(|name| !disks.iter().any(|(other, _)| other == *name));
    missing.map_or(Ok(()), |name| Err(DiskError::Missing { name: (*name).to_owned() }))
}

impl Disk {
    /// A file that no machine writes; its size stays as it is now.
    ///
    /// # Errors
    /// Its size cannot be found out.
    pub fn read_only(file: File) -> io::Result<Self> {
        let mut file = file;
        let capacity = file.seek(SeekFrom::End(0))?;
        Ok(Self { file: Some(Arc::new(file)), capacity, sector: BLOCK_SIZE, room: None, frozen: None })
    }

    /// A file over which each machine may write so many bytes of its own.
    ///
    /// # Errors
    /// Its size cannot be found out.
    pub fn copy_on_write(file: File, room: u64) -> io::Result<Self> {
        Ok(Self { room: Some(room), ..Self::read_only(file)? })
    }

    /// So many zeroes, which each machine may write.
    #[must_use]
    pub fn scratch(capacity: u64) -> Self {
        // Whole pages: the last one may be larger than what is left of the disk.
        let room = Some(capacity.saturating_add(PAGE as u64 - 1));
        Self { file: None, capacity, sector: BLOCK_SIZE, room, frozen: None }
    }

    /// The disk with blocks of this many bytes.
    #[must_use]
    pub fn with_sector(self, sector: u16) -> Self {
        Self { sector, ..self }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes of a block.
    #[must_use]
    pub fn sector(&self) -> u16 {
        self.sector
    }

    /// Whether something was written to it before the template was taken.
    pub(crate) fn is_written(&self) -> bool {
        self.frozen.is_some()
    }

    /// The device of one machine.
    pub(crate) fn device(&self) -> DiskDevice {
        DiskDevice { disk: self.clone(), written: Written::default() }
    }

    /// Reads what lies below what a machine writes.
    fn read_below(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        match &self.frozen {
            None => self.read_base(offset, to),
            Some(frozen) => pieces(offset, to.len()).try_for_each(|piece| match frozen.page(piece.page) {
                Some(page) => {
                    to[piece.part].copy_from_slice(&page[piece.within]);
                    Ok(())
                }
                None => self.read_base(piece.offset, &mut to[piece.part]),
            }),
        }
    }

    fn read_base(&self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        match &self.file {
            Some(file) => file.read_exact_at(to, offset),
            None => {
                to.fill(0);
                Ok(())
            }
        }
    }
}

/// A disk in one machine.
#[derive(Debug)]
pub(crate) struct DiskDevice {
    disk: Disk,
    written: Written,
}

/// What was written, by pages.
#[derive(Clone, Debug, Default)]
struct Written {
    /// Where in `pages` a page of the disk is.
    index: HashMap<u64, usize>,
    /// The first of them hold something; the others are memory for more.
    pages: Vec<Box<[u8; PAGE]>>,
}

impl Written {
    fn page(&self, number: u64) -> Option<&[u8; PAGE]> {
        self.pages.get(*self.index.get(&number)?).map(Box::as_ref)
    }

    fn clear(&mut self) {
        self.index.clear();
        self.index.shrink_to(KEPT);
        self.pages.truncate(KEPT);
    }

    /// Memory for a page that there is not yet. What it holds is another's: it is filled before anything of it is read.
    fn fresh(&mut self) -> (usize, &mut [u8; PAGE]) {
        let slot = self.index.len();
        if slot == self.pages.len() {
            self.pages.push(Box::new([0; PAGE]));
        }
        (slot, &mut self.pages[slot])
    }
}

/// The part of an access that lies in one page.
struct Piece {
    page: u64,
    /// Where it begins on the disk.
    offset: u64,
    /// Which bytes of the page it is.
    within: Range<usize>,
    /// Which bytes of the access it is.
    part: Range<usize>,
}

/// An access by pages.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, start) = ((offset + done as u64) / PAGE as u64, (offset + done as u64) % PAGE as u64);
        let start = usize::try_from(start).unwrap_or_default();
        let size = (PAGE - start).min(len - done);
        let piece = Piece { page, offset: offset + done as u64, within: start..start + size, part: done..done + size };
        done += size;
        (size > 0).then_some(piece)
    })
}

impl BlockDevice for DiskDevice {
    fn capacity(&self) -> u64 {
        self.disk.capacity
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        if self.written.index.is_empty() {
            return self.disk.read_below(offset, to);
        }
        pieces(offset, to.len()).try_for_each(|piece| match self.written.page(piece.page) {
            Some(page) => {
                to[piece.part].copy_from_slice(&page[piece.within]);
                Ok(())
            }
            None => self.disk.read_below(piece.offset, &mut to[piece.part]),
        })
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        for piece in pieces(offset, from.len()) {
            let slot = match self.written.index.get(&piece.page) {
                Some(slot) => *slot,
                None => {
                    let (slot, page) = self.written.fresh();
                    if piece.within.len() < PAGE {
                        let start = piece.page * PAGE as u64;
                        let there = (self.disk.capacity - start).min(PAGE as u64);
                        let there = usize::try_from(there).unwrap_or(PAGE);
                        self.disk.read_below(start, &mut page[..there])?;
                        page[there..].fill(0);
                    }
                    self.written.index.insert(piece.page, slot);
                    slot
                }
            };
            self.written.pages[slot][piece.within].copy_from_slice(&from[piece.part]);
        }
        Ok(())
    }

    fn refuses(&self, offset: u64, len: u64) -> bool {
        let Some(room) = self.disk.room else { return true };
        let Some(last) = len.checked_sub(1) else { return false };
        let pages = offset / PAGE as u64..=(offset + last) / PAGE as u64;
        let room = room / PAGE as u64;
        if pages.end() - pages.start() >= room {
            return true;
        }
        let more = pages.filter(|page| !self.written.index.contains_key(page)).count();
        (self.written.index.len() + more) as u64 > room
    }

    fn freeze(&mut self) -> Option<Disk> {
        if !self.written.index.is_empty() {
            let Written { index, pages } = std::mem::take(&mut self.written);
            let mut all = self.disk.frozen.as_deref().cloned().unwrap_or_default();
            for (number, slot) in index {
                let (at, page) = match all.index.get(&number) {
                    Some(at) => (*at, &mut all.pages[*at]),
                    None => {
                        let at = all.index.len();
                        all.pages.truncate(at);
                        all.pages.push(Box::new([0; PAGE]));
                        (at, &mut all.pages[at])
                    }
                };
                page.copy_from_slice(pages[slot].as_ref());
                all.index.insert(number, at);
            }
            self.disk.frozen = Some(Arc::new(all));
        }
        Some(self.disk.clone())
    }

    fn rewind(&mut self) {
        self.written.clear();
    }

    fn is_clean(&self) -> bool {
        self.written.index.is_empty()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 5 * PAGE + 512;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn contents(device: &mut DiskDevice) -> Vec<u8> {
        let mut bytes = vec![0xee; usize::try_from(device.capacity()).unwrap()];
        device.read(0, &mut bytes).unwrap();
        bytes
    }

    proptest! {
        /// Against a model that is one array of bytes.
        #[test]
        fn a_disk_holds_what_was_written_until_it_is_rewound_and_then_what_it_held_at_first(
            before in prop::collection::vec((0..SIZE, 1..3 * PAGE, any::<u8>()), 0..4),
            after in prop::collection::vec((0..SIZE, 1..3 * PAGE, any::<u8>()), 1..8),
            on_file: bool,
        ) {
            let base: Vec<u8> = if on_file { (1..=251).cycle().take(SIZE).collect() } else { vec![0; SIZE] };
            let disk = if on_file {
                Disk::copy_on_write(file(&base), 8 * PAGE as u64).unwrap()
            } else {
                Disk::scratch(SIZE as u64)
            };
            let (mut device, mut model) = (disk.device(), base.clone());
            let write = |device: &mut DiskDevice, model: &mut Vec<u8>, (at, len, byte): (usize, usize, u8)| {
                let end = (at + len).min(SIZE);
                assert!(!device.refuses(at as u64, (end - at) as u64));
                device.write(at as u64, &vec![byte; end - at]).unwrap();
                model[at..end].fill(byte);
            };
            before.into_iter().for_each(|each| write(&mut device, &mut model, each));
            prop_assert_eq!(contents(&mut device), model.clone());
            let frozen = device.freeze().unwrap();
            let clean = model.clone();
            for each in after {
                write(&mut device, &mut model, each);
                prop_assert_eq!(contents(&mut device), model.clone());
            }
            prop_assert!(!device.is_clean());
            device.rewind();
            prop_assert!(device.is_clean());
            prop_assert_eq!(contents(&mut device), clean.clone());
            prop_assert_eq!(contents(&mut frozen.device()), clean);
            prop_assert_eq!(contents(&mut disk.device()), base);
        }
    }

    #[test]
    fn what_a_machine_writes_takes_no_more_memory_than_it_may() {
        let mut device = Disk::copy_on_write(file(&[7; 16 * PAGE]), 2 * PAGE as u64).unwrap().device();
        for page in [3, 9] {
            assert!(!device.refuses(page * PAGE as u64, 512));
            device.write(page * PAGE as u64, &[1; 512]).unwrap();
        }
        assert!(device.refuses(0, 512) && device.refuses(9 * PAGE as u64 + 4000, 512), "a third page");
        assert!(!device.refuses(3 * PAGE as u64 + 512, PAGE as u64 - 512), "what is there already");
        device.rewind();
        assert!(!device.refuses(0, 2 * PAGE as u64) && device.refuses(0, 2 * PAGE as u64 + 1));
        let mut large = Disk::scratch(1000 * PAGE as u64).device();
        large.write(0, &vec![1; 1000 * PAGE]).unwrap();
        large.rewind();
        assert_eq!(large.written.pages.len(), KEPT);
    }

    #[test]
    fn a_file_that_is_read_only_refuses_every_write() {
        let mut device = Disk::read_only(file(&[7; PAGE])).unwrap().device();
        assert!(device.refuses(0, 512) && device.refuses(0, 0));
        assert_eq!(contents(&mut device), [7; PAGE]);
    }
}
