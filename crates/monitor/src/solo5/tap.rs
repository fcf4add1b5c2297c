//! Opens a tap interface of the host's for a guest, or takes one over that is open. Used by the command line. It makes no
//! interface: one that does not exist is an error.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    net::{AddressFamily, SocketType},
};

use super::device::PacketNet;

/// Largest packet where a descriptor does not say, in bytes.
const MTU: u16 = 1500;

// `linux/if_tun.h` and `linux/ethtool.h`, which libc does not have.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2;
const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_SGSO: u32 = 0x24;
const ETHTOOL_SGRO: u32 = 0x2c;

/// `struct ifreq`: a name, and one of many things.
#[repr(C)]
struct Request {
    name: [u8; 16],
    value: Value,
}

#[repr(C)]
union Value {
    flags: i16,
    number: i32,
    data: *mut EthtoolValue,
    room: [u8; 24],
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// The network device that `interface` names: an interface that is there and up, or `@` and the number of a descriptor
/// that is open. The descriptor is taken over, so none may be named twice.
///
/// # Errors
/// There is none such, or it cannot be used; as the operating system calls it.
pub fn attach(interface: &str) -> io::Result<PacketNet> {
    match interface.strip_prefix('@') {
        Some(number) => attach_descriptor(number),
        None => attach_interface(interface),
    }
}

fn error(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn attach_descriptor(number: &str) -> io::Result<PacketNet> {
    let number: i32 = number.parse().map_err(|_| error(libc::EINVAL))?;
    if number < 0 {
        return Err(error(libc::ERANGE));
    }
    // SAFETY: a plain system call; whether the descriptor is open is what it tells.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and whoever started this process gave it for this.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::ioctl_fionbio(&descriptor, true)?;
    let mut request = Request::named("");
    let is_tap = control(descriptor.as_fd(), TUNGETIFF, &mut request).is_ok();
    let mtu = if is_tap { mtu(&mut Request { name: request.name, value: Value { room: [0; 24] } })? } else { MTU };
    Ok(PacketNet::new(descriptor, mtu))
}

fn attach_interface(name: &str) -> io::Result<PacketNet> {
    if name.len() >= 16 {
        return Err(error(libc::ENAMETOOLONG));
    }
    let socket = socket()?;
    let mut request = Request::named(name);
    control(socket.as_fd(), libc::SIOCGIFFLAGS, &mut request)
        .map_err(|found| if found.raw_os_error() == Some(libc::ENODEV) { error(libc::ENOENT) } else { found })?;
    // SAFETY: the call has filled in the flags.
    let flags = i32::from(unsafe { request.value.flags });
    if flags & (libc::IFF_UP | libc::IFF_RUNNING) == 0 {
        return Err(error(libc::ENETDOWN));
    }
    let tap = rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let mut request = Request::named(name);
    request.value.flags = IFF_TAP | IFF_NO_PI;
    control(tap.as_fd(), TUNSETIFF, &mut request)?;
    if request.name != Request::named(name).name {
        return Err(error(libc::EINVAL));
    }
    let mtu = mtu(&mut Request::named(name))?;
    // Frames larger than a guest's buffer would be cut; a kernel that cannot do without says so, and is let be.
    for command in [ETHTOOL_SGRO, ETHTOOL_SGSO] {
        let mut value = EthtoolValue { command, data: 0 };
        let mut request = Request::named(name);
        request.value.data = &raw mut value;
        let _ = control(socket.as_fd(), SIOCETHTOOL, &mut request);
    }
    Ok(PacketNet::new(tap, mtu))
}

fn socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?)
}

fn mtu(request: &mut Request) -> io::Result<u16> {
    control(socket()?.as_fd(), libc::SIOCGIFMTU, request)?;
    // SAFETY: the call has filled in the number.
    let mtu = unsafe { request.value.number };
    u16::try_from(mtu).map_err(|_| error(libc::ERANGE))
}

impl Request {
    fn named(text: &str) -> Self {
        let mut name = [0; 16];
        let len = text.len().min(15);
        name[..len].copy_from_slice(&text.as_bytes()[..len]);
        Self { name, value: Value { room: [0; 24] } }
    }
}

fn control(descriptor: BorrowedFd<'_>, call: libc::Ioctl, request: &mut Request) -> io::Result<()> {
    // SAFETY: each of the calls above takes a `struct ifreq`, which this is; what it points to outlives the call.
    let done = unsafe { libc::ioctl(descriptor.as_raw_fd(), call, std::ptr::from_mut(request)) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
