//! Makes the sockets to agents, and asks for them where this process must not make any.
//! Called by connections, by the plugin `remote`, and by whoever connects functions to their agents. Never waits beyond a
//! deadline, but for the resolver of names.

use std::{
    io,
    net::TcpStream,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::Errno,
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use crate::{
    address::{Address, HostPort},
    link::{Inbox, Link, wait_for},
};

/// What is said to ask for a connection.
const ASK: [u8; 1] = [1];

/// Connects a socket to where an agent listens; nothing is said over it yet.
///
/// # Errors
/// Nobody listens there, or not within the limit.
pub fn dial(address: &Address, limit: Duration) -> io::Result<OwnedFd> {
    match address {
        Address::Unix(path) => unix(path, limit),
        Address::Tcp(at) | Address::Tls(at) => tcp(at, limit),
        Address::Vsock { cid, port } => {
            let stream = vsock::VsockStream::connect_with_cid_port(*cid, *port)?;
            stream.as_fd().try_clone_to_owned()
        }
    }
}

fn unix(path: &Path, limit: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It waits where the agent accepts nobody.
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket)
}

fn tcp(at: &HostPort, limit: Duration) -> io::Result<OwnedFd> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name stands for no address");
    for address in at.resolve()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream.into());
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Somebody who connects to an agent in the place of this process: a function in its jail has no right to.
///
/// Over a unix socket, a byte asks. The answer is a number of four bytes, little-endian: 0 with a connected socket, or the
/// system's error. Which agent that is, who answers knows; it cannot be said.
#[derive(Debug)]
pub struct Dialler {
    link: Arc<Link>,
    inbox: Inbox,
    /// An answer is due: the last one who asked did not wait for it.
    asked: bool,
}

impl Dialler {
    /// The one who listens at a socket.
    ///
    /// # Errors
    /// Nobody does.
    pub fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::over(UnixStream::connect(path)?.into()))
    }

    /// The one at the other end of a socket.
    #[must_use]
    pub fn over(socket: OwnedFd) -> Self {
        let link = Arc::new(Link::plain(socket));
        Self { inbox: Inbox::new(Arc::clone(&link)), link, asked: false }
    }

    /// A new connection to the agent.
    ///
    /// # Errors
    /// There is none by the deadline, or who connects is gone.
    pub(crate) fn dial(&mut self, deadline: Instant) -> io::Result<OwnedFd> {
        if !self.asked {
            self.link.send(&[&ASK], &[], Some(deadline))?;
            self.asked = true;
        }
        if !wait_for(self.link.socket(), PollFlags::IN, Some(deadline))? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut answer = [0; 4];
        self.inbox.exact(&mut answer)?;
        self.asked = false;
        match (i32::from_le_bytes(answer), self.inbox.descriptor()) {
            (0, Some(socket)) => Ok(socket),
            (0, None) => Err(Errno::BADMSG.into()),
            (error, _) => Err(io::Error::from_raw_os_error(error)),
        }
    }
}
