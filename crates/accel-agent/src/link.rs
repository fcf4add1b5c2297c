//! A stream of frames over a socket of any kind, under TLS or not.
//! Used by both ends: many threads send, one receives. Never knows what a frame means, and never waits beyond the deadline
//! of who sends.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::Timespec,
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        Shutdown, recv, recvmsg, sendmsg, shutdown,
    },
};
use zerocopy::FromBytes;

use crate::wire::{HEAD, Head};

/// Bytes that one look at the socket takes at most, unless more are wanted at once.
const BUFFER: usize = 64 * 1024;
/// Descriptors that a peer may have sent before anybody asked for them.
const DESCRIPTORS_MAX: usize = 4;
/// Bytes of a handshake that are taken at a time: fewer than TLS holds of what follows it.
const HANDSHAKE_CHUNK: usize = 4 * 1024;
/// Bytes that are encrypted at a time.
const TLS_CHUNK: usize = 256 * 1024;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    tls: Option<Mutex<Box<rustls::Connection>>>,
    sending: Mutex<bool>,
    sent: Condvar,
}

/// The right to send.
struct Turn<'a>(&'a Link);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.0.sending) = false;
        self.0.sent.notify_one();
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements, so that a panic elsewhere leaves it usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the peer did not take what was sent in time")
}

/// Waits until something can be done with a descriptor; whether it can before the deadline.
pub(crate) fn wait_for(fd: impl AsFd, what: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let time = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::new(&fd, what)], time.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Link {
    /// A plain stream.
    pub(crate) fn plain(socket: OwnedFd) -> Self {
        Self { socket, tls: None, sending: Mutex::new(false), sent: Condvar::new() }
    }

    /// A stream under TLS, whose handshake is made here.
    pub(crate) fn secured(socket: OwnedFd, mut tls: rustls::Connection, deadline: Instant) -> io::Result<Self> {
        tls.set_buffer_limit(None);
        let link = Self::plain(socket);
        while tls.is_handshaking() || tls.wants_write() {
            if tls.wants_write() {
                link.send_plain(&[&encrypted(&mut tls)?], &[], Some(deadline))?;
                continue;
            }
            if !wait_for(&link.socket, PollFlags::IN, Some(deadline))? {
                return Err(late());
            }
            let mut some = [0; HANDSHAKE_CHUNK];
            let count = receive(&link.socket, &mut some, &mut VecDeque::new())?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer went away in its handshake"));
            }
            let mut rest = &some[..count];
            while !rest.is_empty() {
                tls.read_tls(&mut rest)?;
                if let Err(error) = tls.process_new_packets() {
                    // It is told why, if it still listens.
                    let _ = link.send_plain(&[&encrypted(&mut tls)?], &[], Some(deadline));
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            }
        }
        Ok(Self { tls: Some(Mutex::new(Box::new(tls))), ..link })
    }

    /// The peer's certificates, its own first; none without TLS.
    pub(crate) fn certificates(&self) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let tls = self.tls.as_ref().map(lock);
        tls.and_then(|tls| tls.peer_certificates().map(<[_]>::to_vec)).unwrap_or_default()
    }

    /// The socket, to wait for.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Waits until something can be heard; whether it can before the deadline.
    pub(crate) fn await_input(&self, deadline: Instant) -> io::Result<bool> {
        if let Some(tls) = &self.tls {
            // It may have come with the end of the handshake.
            let state = lock(tls).process_new_packets();
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if state.plaintext_bytes_to_read() > 0 {
                return Ok(true);
            }
        }
        wait_for(&self.socket, PollFlags::IN, Some(deadline))
    }

    /// Ends the connection in both directions; whoever waits for it wakes.
    pub(crate) fn close(&self) {
        // It may be at its end already.
        let _ = shutdown(&self.socket, Shutdown::Both);
    }

    /// Sends parts one after the other, without anybody else's between them. What is cut short by the deadline ends the
    /// connection, since the peer could not tell where the next frame begins.
    pub(crate) fn send(
        &self,
        parts: &[&[u8]],
        descriptors: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let _turn = self.turn(deadline)?;
        let sent = match &self.tls {
            None => self.send_plain(parts, descriptors, deadline),
            Some(tls) => parts.iter().flat_map(|part| part.chunks(TLS_CHUNK)).try_for_each(|chunk| {
                let encrypted = {
                    let mut tls = lock(tls);
                    tls.writer().write_all(chunk)?;
                    encrypted(&mut tls)?
                };
                self.send_plain(&[&encrypted], &[], deadline)
            }),
        };
        if sent.is_err() {
            self.close();
        }
        sent
    }

    fn turn(&self, deadline: Option<Instant>) -> io::Result<Turn<'_>> {
        let mut sending = lock(&self.sending);
        while *sending {
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Err(late());
            }
            let left = left.min(Duration::from_secs(3600));
            sending = self.sent.wait_timeout(sending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *sending = true;
        Ok(Turn(self))
    }

    fn send_plain(
        &self,
        parts: &[&[u8]],
        mut descriptors: &[BorrowedFd<'_>],
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            // As many as the system takes at once.
            let some = &rest[..rest.len().min(64)];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            match sendmsg(&self.socket, some, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    descriptors = &[];
                    IoSlice::advance_slices(&mut rest, sent);
                }
                Err(Errno::AGAIN) => {
                    if !wait_for(&self.socket, PollFlags::OUT, deadline)? {
                        return Err(late());
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What TLS has to send.
fn encrypted(tls: &mut rustls::Connection) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes)?;
    }
    Ok(bytes)
}

/// The receiving side of a link.
#[derive(Debug)]
pub(crate) struct Inbox {
    link: Arc<Link>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl Inbox {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, buffer: vec![0; BUFFER], start: 0, end: 0, descriptors: VecDeque::new() }
    }

    /// Whether something was received already.
    pub(crate) const fn has_more(&self) -> bool {
        self.start < self.end
    }

    /// The next head; `None` where the peer ended the conversation between two frames.
    pub(crate) fn head(&mut self) -> io::Result<Option<Head>> {
        if !self.has_more() && self.fill()? == 0 {
            return Ok(None);
        }
        let mut bytes = [0; HEAD];
        self.exact(&mut bytes)?;
        Ok(Head::read_from_bytes(&bytes).ok())
    }

    /// A body of so many bytes, whose number was checked.
    pub(crate) fn body(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; length];
        self.exact(&mut body)?;
        Ok(body)
    }

    /// As many bytes as there is room for.
    pub(crate) fn exact(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            if self.has_more() {
                let count = into.len().min(self.end - self.start);
                let (now, rest) = into.split_at_mut(count);
                now.copy_from_slice(&self.buffer[self.start..self.start + count]);
                self.start += count;
                into = rest;
            } else {
                let direct = self.link.tls.is_none() && into.len() >= BUFFER;
                let count =
                    if direct { receive(&self.link.socket, into, &mut self.descriptors)? } else { self.fill()? };
                if count == 0 {
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer went away in mid-sentence"));
                }
                if direct {
                    into = &mut into[count..];
                }
            }
        }
        Ok(())
    }

    /// A descriptor that came with what was received.
    pub(crate) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Takes what the socket has, at least a byte; zero at the end.
    fn fill(&mut self) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        let Some(tls) = &self.link.tls else {
            self.end = receive(&self.link.socket, &mut self.buffer, &mut self.descriptors)?;
            return Ok(self.end);
        };
        let mut encrypted = [0; 32 * 1024];
        loop {
            match lock(tls).reader().read(&mut self.buffer) {
                Ok(count) => {
                    self.end = count;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let count = receive(&self.link.socket, &mut encrypted, &mut self.descriptors)?;
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the peer went away without a word"));
            }
            let mut rest = &encrypted[..count];
            while !rest.is_empty() {
                let mut tls = lock(tls);
                tls.read_tls(&mut rest)?;
                tls.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if rest.is_empty() {
                    break;
                }
                // More than one record's plaintext waits: it is taken before the rest is looked at.
                let count = tls
                    .reader()
                    .read(&mut self.buffer[self.end..])
                    .or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Ok(0) } else { Err(error) })?;
                self.end += count;
            }
            if self.end > 0 {
                return Ok(self.end);
            }
        }
    }
}

/// Receives at least a byte, unless the peer ended; keeps descriptors that come with it.
fn receive(socket: &OwnedFd, into: &mut [u8], descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        match recvmsg(socket, &mut [IoSliceMut::new(into)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => {
                let rights = control.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(rights) => Some(rights),
                    _ => None,
                });
                // Those beyond what anybody would ask for are closed.
                rights.flatten().for_each(|descriptor| {
                    if descriptors.len() < DESCRIPTORS_MAX {
                        descriptors.push_back(descriptor);
                    }
                });
                return Ok(received.bytes);
            }
            Err(Errno::INTR) => {}
            // Whoever receives has the socket's own word that there is something, or waits.
            Err(Errno::AGAIN) => return Err(late()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether bytes can be received right now; an end counts as well.
pub(crate) fn is_readable(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    !matches!(recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT), Err(Errno::AGAIN | Errno::INTR))
}
