//! The hypercalls of a Solo5 guest: a structure in, the same structure with answers out. Used by the machine for each
//! `out` to one of their ports. Every address that a guest gives is checked; what its tender would die of ends the guest.

use std::{
    io,
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use kernlet_abi::Span;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    device::{Attached, FRAME_MAX},
    layout::Layout,
    machine::{Console, End},
    server::Waited,
};
use crate::memory::GuestMemory;

/// Numbers of hypercalls.
pub(crate) mod number {
    pub(super) const WALL_TIME: u16 = 1;
    pub(super) const PUTS: u16 = 2;
    pub(crate) const POLL: u16 = 3;
    pub(super) const BLOCK_WRITE: u16 = 4;
    pub(super) const BLOCK_READ: u16 = 5;
    pub(super) const NET_WRITE: u16 = 6;
    pub(super) const NET_READ: u16 = 7;
    pub(crate) const HALT: u16 = 8;
}

/// What calls give back.
pub(crate) mod result {
    pub(crate) const OK: i32 = 0;
    pub(crate) const AGAIN: i32 = 1;
    pub(crate) const EINVAL: i32 = 2;
    pub(crate) const EUNSPEC: i32 = 3;
}

/// Bytes of the cookie that a guest gives when it halts.
const COOKIE_SIZE: u64 = 512;

/// How long is slept at once where nothing ends it.
const FOREVER: Duration = Duration::from_secs(3600);

/// Bytes that are copied at once.
const CHUNK: u64 = 1 << 20;

/// `struct hvt_hc_poll`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Poll {
    timeout_ns: u64,
    ready: u64,
    result: i32,
    padding: u32,
}

/// `struct hvt_hc_block_write` and `_read`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Block {
    handle: u64,
    offset: u64,
    data: u64,
    len: u64,
    result: i32,
    padding: u32,
}

/// `struct hvt_hc_net_write` and `_read`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Net {
    handle: u64,
    data: u64,
    len: u64,
    result: i32,
    padding: u32,
}

/// `struct hvt_hc_halt`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Halt {
    cookie: u64,
    status: i32,
    padding: u32,
}

/// How a guest goes on after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Behind it.
    Resume,
    /// At the call again, some time: it waits, and whoever drives it has what he wants.
    Wait,
    /// Not at all.
    Halt {
        /// Its exit status.
        status: i32,
        /// Address of what it leaves behind; zero where that is nothing.
        cookie: u64,
    },
}

/// All that a call can see and change.
pub(crate) struct Call<'a> {
    pub(crate) memory: &'a GuestMemory,
    pub(crate) layout: &'a Layout,
    pub(crate) devices: &'a mut Attached,
    pub(crate) console: &'a mut dyn Console,
    pub(crate) deadline: Option<Instant>,
    /// For frames and blocks; kept for its allocation.
    pub(crate) buffer: &'a mut Vec<u8>,
}

fn readable(descriptor: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::from_borrowed_fd(descriptor, PollFlags::IN)
}

impl Call<'_> {
    /// Serves the call with this number, whose structure is at `at`.
    pub(crate) fn serve(&mut self, number: u16, at: u32) -> Result<Flow, End> {
        let at = u64::from(at);
        let exists = match number {
            number::BLOCK_WRITE | number::BLOCK_READ => self.devices.has_block,
            number::NET_WRITE | number::NET_READ => self.devices.has_net,
            number::WALL_TIME..=number::POLL | number::HALT => true,
            _ => false,
        };
        if !exists {
            return Err(End::InvalidHypercall { number });
        }
        match number {
            number::WALL_TIME => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                self.store(at, &u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))?;
            }
            number::PUTS => self.puts(at)?,
            number::POLL => return self.poll(at),
            number::BLOCK_WRITE | number::BLOCK_READ => self.block(at, number == number::BLOCK_WRITE)?,
            number::NET_WRITE => self.net_write(at)?,
            number::NET_READ => self.net_read(at)?,
            _ => {
                let Halt { cookie, status, .. } = self.load(at)?;
                if cookie != 0 {
                    self.check(cookie, COOKIE_SIZE, false)?;
                }
                return Ok(Flow::Halt { status, cookie });
            }
        }
        Ok(Flow::Resume)
    }

    fn puts(&mut self, at: u64) -> Result<(), End> {
        let [data, len]: [u64; 2] = self.load(at)?;
        self.check(data, len, false)?;
        for offset in (0..len).step_by(1 << 20) {
            let part = Span { offset: data + offset, len: CHUNK.min(len - offset) };
            self.memory.read_span(part, self.buffer).map_err(|_| End::access(part))?;
            self.console.write(self.buffer)?;
        }
        Ok(())
    }

    /// Waits until a network device has something or the time is over.
    fn poll(&mut self, at: u64) -> Result<Flow, End> {
        let asked: Poll = self.load(at)?;
        self.check(at, size_of::<Poll>() as u64, true)?;
        let end = Instant::now().checked_add(Duration::from_nanos(asked.timeout_ns));
        let ready = match self.devices.link.clone() {
            None => self.wait(end)?,
            Some((number, link)) => match link.wait(end.into_iter().chain(self.deadline).min()) {
                Waited::Stop => return Ok(Flow::Wait),
                Waited::Frame => 1 << number,
                Waited::Late if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Err(End::Timeout);
                }
                Waited::Late => 0_u64,
            },
        };
        let count = i32::try_from(ready.count_ones()).unwrap_or_default();
        self.store(at + 8, &ready)?;
        self.store(at + 16, &count)?;
        Ok(Flow::Resume)
    }

    fn wait(&mut self, end: Option<Instant>) -> Result<u64, End> {
        let with_descriptor = self.devices.nets().filter(|(_, device)| device.ready().is_some());
        let numbers: Vec<usize> = with_descriptor.map(|(number, _)| number).collect();
        let mut fds: Vec<PollFd<'_>> =
            self.devices.nets().filter_map(|(_, device)| device.ready()).map(readable).collect();
        loop {
            let now = Instant::now();
            let left = end.map(|end| end.saturating_duration_since(now));
            let allowed = self.deadline.map(|deadline| deadline.saturating_duration_since(now));
            let shorter = left.into_iter().chain(allowed).min();
            let polled = if fds.is_empty() {
                // Nothing can come, and a function's jail has no call that would wait for it.
                thread::sleep(shorter.unwrap_or(FOREVER));
                Ok(0)
            } else {
                poll(&mut fds, shorter.and_then(|time| Timespec::try_from(time).ok()).as_ref())
            };
            match polled {
                Ok(0) if left.is_none_or(|left| !left.is_zero()) => {
                    if allowed.is_some_and(|allowed| allowed.is_zero()) {
                        return Err(End::Timeout);
                    }
                }
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => {
                    return Err(End::Fatal { text: format!("epoll_pwait() failed: {}", io::Error::from(error)) });
                }
            }
        }
        let ready = fds.iter().zip(numbers).filter(|(fd, _)| !fd.revents().is_empty());
        Ok(ready.fold(0, |set, (_, number)| set | 1 << number))
    }

    fn block(&mut self, at: u64, write: bool) -> Result<(), End> {
        let asked: Block = self.load(at)?;
        self.check(at + 32, 4, true)?;
        let Block { handle, offset, data, len, .. } = asked;
        let inside = |capacity: u64| offset < capacity && offset.checked_add(len).is_some_and(|end| end <= capacity);
        let fits =
            i64::try_from(len).is_ok() && self.devices.block(handle).is_some_and(|device| inside(device.capacity()));
        if !fits {
            return self.store(at + 32, &result::EINVAL);
        }
        self.check_memory(data, len)?;
        if !write && !self.layout.allows(Span { offset: data, len }, true) {
            return Err(End::read_failed(&io::Error::from_raw_os_error(libc::EFAULT)));
        }
        if write && self.devices.block(handle).is_some_and(|device| device.refuses(offset, len)) {
            return self.store(at + 32, &result::EUNSPEC);
        }
        for done in (0..len).step_by(1 << 20) {
            let span = Span { offset: data + done, len: CHUNK.min(len - done) };
            let Some(device) = self.devices.block(handle) else { break };
            if write {
                self.memory.read_span(span, self.buffer).map_err(|_| End::access(span))?;
                device.write(offset + done, self.buffer).map_err(|error| End::write_failed(&error))?;
            } else {
                self.buffer.resize(usize::try_from(span.len).unwrap_or_default(), 0);
                device.read(offset + done, self.buffer).map_err(|error| End::read_failed(&error))?;
                self.memory.write(span.offset, self.buffer).map_err(|_| End::access(span))?;
            }
        }
        self.store(at + 32, &result::OK)
    }

    fn net_write(&mut self, at: u64) -> Result<(), End> {
        let Net { handle, data, len, .. } = self.load(at)?;
        self.check(at + 24, 4, true)?;
        if self.devices.net(handle).is_none() {
            return self.store(at + 24, &result::EINVAL);
        }
        self.check(data, len, false)?;
        if len > FRAME_MAX as u64 {
            return Err(End::write_failed(&io::Error::from_raw_os_error(libc::EMSGSIZE)));
        }
        let span = Span { offset: data, len };
        self.memory.read_span(span, self.buffer).map_err(|_| End::access(span))?;
        if let Some(device) = self.devices.net(handle) {
            device.send(self.buffer).map_err(|error| End::write_failed(&error))?;
        }
        self.store(at + 24, &result::OK)
    }

    fn net_read(&mut self, at: u64) -> Result<(), End> {
        let Net { handle, data, len, .. } = self.load(at)?;
        self.check(at + 16, 12, true)?;
        if self.devices.net(handle).is_none() {
            return self.store(at + 24, &result::EINVAL);
        }
        self.check_memory(data, len)?;
        if !self.layout.allows(Span { offset: data, len }, true) {
            return Err(End::read_failed(&io::Error::from_raw_os_error(libc::EFAULT)));
        }
        self.buffer.resize(usize::try_from(len).unwrap_or(FRAME_MAX).min(FRAME_MAX), 0);
        let Some(device) = self.devices.net(handle) else { return Ok(()) };
        match device.receive(self.buffer).map_err(|error| End::read_failed(&error))? {
            None => self.store(at + 24, &result::AGAIN),
            Some(received) => {
                let frame = &self.buffer[..received];
                self.memory.write(data, frame).map_err(|_| End::access(Span { offset: data, len }))?;
                self.store(at + 16, &(received as u64))?;
                self.store(at + 24, &result::OK)
            }
        }
    }

    /// Checks an address as a stock tender does: it may be read.
    fn check_memory(&self, offset: u64, len: u64) -> Result<(), End> {
        self.check(offset, len, false)
    }

    fn check(&self, offset: u64, len: u64, write: bool) -> Result<(), End> {
        let span = Span { offset, len };
        if self.layout.allows(span, write) { Ok(()) } else { Err(End::access(span)) }
    }

    fn load<T: FromBytes + IntoBytes>(&self, at: u64) -> Result<T, End> {
        let span = Span { offset: at, len: size_of::<T>() as u64 };
        self.check(span.offset, span.len, false)?;
        self.memory.load(at).map_err(|_| End::access(span))
    }

    fn store<T: IntoBytes + Immutable>(&self, at: u64, value: &T) -> Result<(), End> {
        let span = Span { offset: at, len: size_of::<T>() as u64 };
        self.check(span.offset, span.len, true)?;
        self.memory.store(at, value).map_err(|_| End::access(span))
    }
}
