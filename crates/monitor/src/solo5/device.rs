//! Devices of a Solo5 guest: block devices and network devices, whatever is behind them, and which of them the guest
//! has. Attached before a machine is made, used by its hypercalls. Nothing here knows guest memory.

use std::{
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt as _,
    },
    sync::Arc,
};

use rustix::io::Errno;

use super::{
    disk::Disk,
    manifest::{DeviceKind, Manifest},
    server::{Link, Plug},
};

/// Block size where nobody says another, in bytes.
pub const BLOCK_SIZE: u16 = 512;

/// Frames up to this many bytes are taken and given; a network's largest, with an Ethernet header.
pub(crate) const FRAME_MAX: usize = 65_536 + 64;

/// A device of blocks. Offsets and lengths that it is given lie within its capacity.
pub trait BlockDevice: Send + fmt::Debug {
    /// Its size in bytes.
    fn capacity(&self) -> u64;
    /// Reads as many bytes as `to` has.
    ///
    /// # Errors
    /// What is behind it failed.
    fn read(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()>;
    /// Writes all of `from`.
    ///
    /// # Errors
    /// What is behind it failed, or does not take it.
    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()>;
    /// Whether a write there is refused: the guest is told so, and goes on.
    fn refuses(&self, _offset: u64, _len: u64) -> bool {
        false
    }
    /// What it holds now becomes what it is rewound to. Gives the same for further machines, where they can have it.
    fn freeze(&mut self) -> Option<Disk> {
        None
    }
    /// Forgets what was written since it was made or frozen.
    fn rewind(&mut self) {}
    /// Whether nothing was written since then.
    fn is_clean(&self) -> bool {
        true
    }
    /// What the kernel itself can read and write in its place, if there is such a thing.
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A device of Ethernet frames.
pub trait NetDevice: Send + fmt::Debug {
    /// Largest packet in a frame, in bytes.
    fn mtu(&self) -> u16;
    /// Takes the next frame that came; nothing where there is none. What does not fit into `to` is lost.
    ///
    /// # Errors
    /// What is behind it failed.
    fn receive(&mut self, to: &mut [u8]) -> io::Result<Option<usize>>;
    /// Sends a frame.
    ///
    /// # Errors
    /// What is behind it failed.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Becomes readable when a frame comes; nothing where a guest waits for it otherwise.
    fn ready(&self) -> Option<BorrowedFd<'_>>;
    /// Forgets what came and went since the guest's template was taken.
    fn rewind(&mut self) {}
}

/// A file, or a block device of the host's.
#[derive(Debug)]
pub struct FileBlock {
    file: File,
    capacity: u64,
}

impl FileBlock {
    /// This file, whose size stays as it is now.
    ///
    /// # Errors
    /// Its size cannot be found out.
    pub fn new(mut file: File) -> io::Result<Self> {
        // Not from its metadata, which say nothing of a block device's size.
        let capacity = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(Self { file, capacity })
    }
}

impl BlockDevice for FileBlock {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn read(&mut self, offset: u64, to: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(to, offset)
    }

    fn write(&mut self, offset: u64, from: &[u8]) -> io::Result<()> {
        self.file.write_all_at(from, offset)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// A descriptor that gives and takes one frame at a time: a tap interface, or a socket of packets.
#[derive(Debug)]
pub struct PacketNet {
    descriptor: OwnedFd,
    mtu: u16,
}

impl PacketNet {
    /// This descriptor, which does not block.
    #[must_use]
    pub fn new(descriptor: OwnedFd, mtu: u16) -> Self {
        Self { descriptor, mtu }
    }
}

impl NetDevice for PacketNet {
    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn receive(&mut self, to: &mut [u8]) -> io::Result<Option<usize>> {
        match rustix::io::read(&self.descriptor, to) {
            Ok(0) | Err(Errno::AGAIN) => Ok(None),
            Ok(len) => Ok(Some(len)),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let sent = rustix::io::write(&self.descriptor, frame)?;
        if sent == frame.len() {
            return Ok(());
        }
        Err(io::Error::other(format!("wrote only {sent} out of {} bytes", frame.len())))
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        Some(self.descriptor.as_fd())
    }
}

/// Something attached.
#[derive(Debug)]
pub(crate) enum Device {
    Block(Box<dyn BlockDevice>),
    Net(Box<dyn NetDevice>),
}

/// Why a device cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The manifest has no such device.
    #[error("Resource not declared in manifest: '{name}'")]
    Undeclared {
        /// The name.
        name: String,
    },
    /// The block size is none.
    #[error("Block size must be a multiple of 2 greater than or equal 512")]
    BlockSize,
    /// The capacity is not a whole number of blocks.
    #[error("{name}: Backing storage size must be block aligned ({block_size} bytes)")]
    Unaligned {
        /// The device.
        name: String,
        /// Its block size, in bytes.
        block_size: u16,
    },
    /// The capacity is less than a block.
    #[error("{name}: Backing storage must be at least 1 block ({block_size} bytes) in size")]
    Empty {
        /// The device.
        name: String,
        /// Its block size, in bytes.
        block_size: u16,
    },
    /// Devices that the guest declares are missing.
    #[error("{}", .0.iter().map(|(name, kind)| format!("Device '{name}' of type {kind} declared but not attached.")).collect::<Vec<_>>().join("\n"))]
    Missing(
        /// Name and type of each.
        Vec<(String, &'static str)>,
    ),
}

/// The devices of a guest, as far as they are attached.
#[derive(Debug)]
pub struct Devices {
    manifest: Manifest,
    slots: Vec<Slot>,
    link: Option<(usize, Arc<Link>)>,
}

#[derive(Debug, Default)]
struct Slot {
    device: Option<Device>,
    block_size: Option<u16>,
    mac: Option<[u8; 6]>,
}

impl Devices {
    /// None attached, of a guest with this manifest.
    #[must_use]
    pub fn new(manifest: &Manifest) -> Self {
        let slots = (0..manifest.len()).map(|_| Slot::default()).collect();
        Self { manifest: manifest.clone(), slots, link: None }
    }

    fn slot(&mut self, name: &str, kind: DeviceKind) -> Result<&mut Slot, AttachError> {
        let undeclared = || AttachError::Undeclared { name: name.to_owned() };
        let index = self.manifest.find(name, kind).ok_or_else(undeclared)?;
        self.slots.get_mut(index).ok_or_else(undeclared)
    }

    /// Whether a guest declares this.
    ///
    /// # Errors
    /// It does not.
    pub fn declared(&mut self, name: &str, kind: DeviceKind) -> Result<(), AttachError> {
        self.slot(name, kind).map(drop)
    }

    /// Attaches a block device, in place of one that was there.
    ///
    /// # Errors
    /// The guest declares no such device.
    pub fn attach_block(&mut self, name: &str, device: Box<dyn BlockDevice>) -> Result<(), AttachError> {
        self.slot(name, DeviceKind::Block)?.device = Some(Device::Block(device));
        Ok(())
    }

    /// Says how large a device's blocks are, in bytes.
    ///
    /// # Errors
    /// No block has that size, or the guest declares no such device.
    pub fn set_block_size(&mut self, name: &str, size: u16) -> Result<(), AttachError> {
        if size < 512 || !size.is_power_of_two() {
            return Err(AttachError::BlockSize);
        }
        self.slot(name, DeviceKind::Block)?.block_size = Some(size);
        Ok(())
    }

    /// Attaches a network device, in place of one that was there.
    ///
    /// # Errors
    /// The guest declares no such device.
    pub fn attach_net(&mut self, name: &str, device: Box<dyn NetDevice>) -> Result<(), AttachError> {
        self.slot(name, DeviceKind::Net)?.device = Some(Device::Net(device));
        Ok(())
    }

    /// Attaches this process's own end of a link as a network device.
    ///
    /// # Errors
    /// The guest declares no such device.
    pub(crate) fn attach_link(&mut self, name: &str, link: Arc<Link>) -> Result<(), AttachError> {
        self.attach_net(name, Box::new(Plug(Arc::clone(&link))))?;
        self.link = self.manifest.find(name, DeviceKind::Net).map(|number| (number, link));
        Ok(())
    }

    /// Says which address a network device has, in place of a random one.
    ///
    /// # Errors
    /// The guest declares no such device.
    pub fn set_mac(&mut self, name: &str, mac: [u8; 6]) -> Result<(), AttachError> {
        self.slot(name, DeviceKind::Net)?.mac = Some(mac);
        Ok(())
    }

    /// Whether any network device is attached.
    pub(crate) fn has_net(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.device, Some(Device::Net(_))))
    }

    pub(crate) fn has_block(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.device, Some(Device::Block(_))))
    }

    /// Checks that all is attached, and writes into the manifest what the guest is to know of it.
    ///
    /// # Errors
    /// Something is missing, or cannot be what the guest declares.
    pub fn complete(mut self) -> Result<Attached, AttachError> {
        for (index, slot) in self.slots.iter().enumerate() {
            let (Some(device), Some(entry)) = (&slot.device, self.manifest.raw_mut(index)) else { continue };
            entry.attached = 1;
            match device {
                Device::Block(device) => {
                    let block_size = slot.block_size.unwrap_or(BLOCK_SIZE);
                    let (capacity, size) = (device.capacity(), u64::from(block_size));
                    entry.properties[..8].copy_from_slice(&capacity.to_le_bytes());
                    entry.properties[8..10].copy_from_slice(&block_size.to_le_bytes());
                    let name = || {
                        self.manifest
                            .entries()
                            .nth(index - 1)
                            .map_or_else(String::new, |(_, entry)| entry.name().to_owned())
                    };
                    if !capacity.is_multiple_of(size) {
                        return Err(AttachError::Unaligned { name: name(), block_size });
                    }
                    if capacity < size {
                        return Err(AttachError::Empty { name: name(), block_size });
                    }
                }
                Device::Net(device) => {
                    let mac = slot.mac.filter(|mac| *mac != [0; 6]).unwrap_or_else(random_mac);
                    entry.properties[..6].copy_from_slice(&mac);
                    entry.properties[6..8].copy_from_slice(&device.mtu().to_le_bytes());
                }
            }
        }
        let missing =
            self.manifest.entries().filter(|(index, entry)| entry.is_device() && self.slots[*index].device.is_none());
        let missing: Vec<_> = missing.map(|(_, entry)| (entry.name().to_owned(), entry.kind_name())).collect();
        if !missing.is_empty() {
            return Err(AttachError::Missing(missing));
        }
        let (has_block, has_net) = (self.has_block(), self.has_net());
        let devices = self.slots.into_iter().map(|slot| slot.device).collect();
        Ok(Attached { manifest: self.manifest, devices, has_block, has_net, link: self.link })
    }
}

/// All devices of a guest.
#[derive(Debug)]
pub struct Attached {
    pub(crate) manifest: Manifest,
    devices: Vec<Option<Device>>,
    /// Whether there are any of the kind: without, its hypercalls do not exist.
    pub(crate) has_block: bool,
    pub(crate) has_net: bool,
    /// The network device whose other end is in this process, with its number.
    pub(crate) link: Option<(usize, Arc<Link>)>,
}

impl Attached {
    /// The block device that the guest knows by this number.
    pub(crate) fn block(&mut self, handle: u64) -> Option<&mut dyn BlockDevice> {
        match self.devices.get_mut(usize::try_from(handle).ok()?)? {
            Some(Device::Block(device)) => Some(device.as_mut()),
            _ => None,
        }
    }

    /// The network device that the guest knows by this number.
    pub(crate) fn net(&mut self, handle: u64) -> Option<&mut dyn NetDevice> {
        match self.devices.get_mut(usize::try_from(handle).ok()?)? {
            Some(Device::Net(device)) => Some(device.as_mut()),
            _ => None,
        }
    }

    /// What block devices hold now becomes what they are rewound to. Gives those that further machines can have as well,
    /// each with its name.
    pub(crate) fn freeze(&mut self) -> Vec<(String, Disk)> {
        let Self { manifest, devices, .. } = self;
        let named = manifest.entries().filter_map(|(index, entry)| match devices.get_mut(index) {
            Some(Some(Device::Block(device))) => Some((entry.name().to_owned(), device.freeze()?)),
            _ => None,
        });
        named.collect()
    }

    /// Makes all devices what they were when the template was taken: no request finds anything of another's in them.
    pub(crate) fn rewind(&mut self) {
        for device in self.devices.iter_mut().flatten() {
            match device {
                Device::Block(device) => device.rewind(),
                Device::Net(device) => device.rewind(),
            }
        }
    }

    /// Whether no block device holds anything that was written since the template was taken.
    pub(crate) fn are_clean(&self) -> bool {
        self.blocks().all(|(_, device)| device.is_clean())
    }

    /// All block devices with their numbers.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (usize, &dyn BlockDevice)> {
        self.devices.iter().enumerate().filter_map(|(index, device)| match device {
            Some(Device::Block(device)) => Some((index, device.as_ref())),
            _ => None,
        })
    }

    /// All network devices with their numbers.
    pub(crate) fn nets(&self) -> impl Iterator<Item = (usize, &dyn NetDevice)> {
        self.devices.iter().enumerate().filter_map(|(index, device)| match device {
            Some(Device::Net(device)) => Some((index, device.as_ref())),
            _ => None,
        })
    }
}

/// Locally administered, one host's.
fn random_mac() -> [u8; 6] {
    let mut mac = [0; 6];
    // Without entropy the address is one that is as good as any other.
    let _ = getrandom::fill(&mut mac);
    mac[0] = mac[0] & 0xfe | 0x02;
    mac
}
