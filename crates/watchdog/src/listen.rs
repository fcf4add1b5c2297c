//! Where the watchdog takes its connections from: a socket it is handed, a unix socket, or a TCP address.
//! Used by the server; the command line parses into [`Listen`]. Never accepts a connection.

use std::{
    fmt, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::net::{AddressFamily, sockopt};

/// Where to listen. Written `fd:0`, `unix:PATH` or `tcp:ADDRESS:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Standard input is a listening unix socket, as inetd's "wait" services get it. Whoever started the
    /// watchdog keeps the socket, so connections wait in it while a watchdog is replaced.
    Stdin,
    /// A unix socket, made at this path.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// Why a text does not say where to listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenParseError {
    /// No known kind.
    #[error("`{0}` is no place to listen: write fd:0, unix:PATH or tcp:ADDRESS:PORT")]
    Unknown(String),
    /// Only standard input can be handed over.
    #[error("`{0}` cannot be listened on: only fd:0, standard input, can be handed to a watchdog")]
    NotStdin(String),
    /// The part after `unix:` is empty.
    #[error("`unix:` lacks the socket's path: write unix:PATH")]
    NoPath,
    /// The part after `tcp:` is no address.
    #[error("`tcp:{text}` is no TCP address: write tcp:127.0.0.1:8080 or tcp:[::1]:8080")]
    Address {
        /// As given.
        text: String,
        /// What is wrong with it.
        source: std::net::AddrParseError,
    },
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Standard input is something else.
    #[error("standard input is not a listening unix socket ({found}); start the watchdog with one, or use unix:PATH")]
    NotASocket {
        /// What it is instead.
        found: &'static str,
    },
    /// Standard input cannot be used.
    #[error("standard input could not be taken over as a socket")]
    Stdin(#[source] io::Error),
    /// Another program serves at this address.
    #[error("{0} is in use by another program; stop it or listen elsewhere")]
    InUse(Listen),
    /// Binding failed otherwise.
    #[error("could not listen on {at}")]
    Bind {
        /// Where.
        at: Listen,
        /// Why not.
        source: io::Error,
    },
}

/// A bound socket, not blocking, not yet known to any runtime.
#[derive(Debug)]
pub(crate) enum Bound {
    Unix(UnixListener),
    Tcp(std::net::TcpListener),
}

impl FromStr for Listen {
    type Err = ListenParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some(("fd", "0")) => Ok(Self::Stdin),
            Some(("fd", _)) => Err(ListenParseError::NotStdin(text.to_owned())),
            Some(("unix", "")) => Err(ListenParseError::NoPath),
            Some(("unix", path)) => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) => match address.parse() {
                Ok(address) => Ok(Self::Tcp(address)),
                Err(source) => Err(ListenParseError::Address { text: address.to_owned(), source }),
            },
            _ => Err(ListenParseError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("fd:0"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl Listen {
    pub(crate) fn bind(&self) -> Result<Bound, ListenError> {
        let bound = match self {
            Self::Stdin => Bound::Unix(stdin_listener()?),
            Self::Unix(path) => Bound::Unix(unix_listener(path).map_err(|error| self.failed(error))?),
            Self::Tcp(address) => Bound::Tcp(std::net::TcpListener::bind(address).map_err(|error| self.failed(error))?),
        };
        let nonblocking = match &bound {
            Bound::Unix(listener) => listener.set_nonblocking(true),
            Bound::Tcp(listener) => listener.set_nonblocking(true),
        };
        nonblocking.map_err(|error| self.failed(error))?;
        Ok(bound)
    }

    fn failed(&self, source: io::Error) -> ListenError {
        match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(self.clone()),
            _ => ListenError::Bind { at: self.clone(), source },
        }
    }
}

fn stdin_listener() -> Result<UnixListener, ListenError> {
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(ListenError::Stdin)?;
    check_listening(&socket)?;
    Ok(UnixListener::from(socket))
}

/// Refuses a descriptor that is not a listening unix socket.
fn check_listening(socket: &OwnedFd) -> Result<(), ListenError> {
    match sockopt::socket_acceptconn(socket) {
        Ok(true) => {}
        Ok(false) => return Err(ListenError::NotASocket { found: "a socket that does not listen" }),
        Err(rustix::io::Errno::NOTSOCK) => return Err(ListenError::NotASocket { found: "not a socket" }),
        Err(error) => return Err(ListenError::Stdin(error.into())),
    }
    match sockopt::socket_domain(socket) {
        Ok(AddressFamily::UNIX) => Ok(()),
        Ok(_) => Err(ListenError::NotASocket { found: "a network socket" }),
        Err(error) => Err(ListenError::Stdin(error.into())),
    }
}

/// Binds a unix socket; one that a dead program left behind is replaced.
fn unix_listener(path: &Path) -> Result<UnixListener, io::Error> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match std::os::unix::net::UnixStream::connect(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_parsed() {
        for text in ["fd:0", "unix:/run/a b.sock", "tcp:127.0.0.1:8080", "tcp:[::1]:0"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_place_that_is_none_is_refused_with_what_to_write() {
        for (text, hint) in [
            ("", "fd:0, unix:PATH or tcp:"),
            ("http://x", "fd:0, unix:PATH or tcp:"),
            ("fd:3", "only fd:0"),
            ("unix:", "unix:PATH"),
            ("tcp:localhost", "tcp:127.0.0.1:8080"),
        ] {
            let error = text.parse::<Listen>().unwrap_err().to_string();
            assert!(error.contains(hint), "{error}");
        }
    }

    #[test]
    fn only_a_listening_unix_socket_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(folder.path().join("file")).unwrap();
        let listening = UnixListener::bind(folder.path().join("s")).unwrap();
        let (connected, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let network = std::net::TcpListener::bind("127.0.0.1:0").unwrap();

        check_listening(&OwnedFd::from(listening)).unwrap();
        for (other, found) in [
            (OwnedFd::from(file), "not a socket"),
            (OwnedFd::from(connected), "does not listen"),
            (OwnedFd::from(network), "network"),
        ] {
            let error = check_listening(&other).unwrap_err().to_string();
            assert!(error.contains(found) && error.contains("unix:PATH"), "{error}");
        }
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = Listen::Unix(folder.path().join("s"));
        let first = at.bind().unwrap();
        let error = at.bind().unwrap_err();
        assert!(matches!(error, ListenError::InUse(_)), "{error}");
        drop(first);
        at.bind().unwrap();
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let error = Listen::Unix("/nonexistent/s".into()).bind().unwrap_err();
        assert_eq!(error.to_string(), "could not listen on unix:/nonexistent/s");
    }
}
