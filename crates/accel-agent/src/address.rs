//! Where an agent is: `unix:///path`, `tls://host:port`, `tcp://host:port`, `vsock://cid:port`.
//! Parsed from options and the environment, used by whoever listens or connects. Never looks a name up by itself.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    str::FromStr,
};

/// Longest path of a unix socket, in bytes: `sun_path` of `sockaddr_un` less its end (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// An agent's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A unix socket; payload travels in shared memory.
    Unix(PathBuf),
    /// Plain TCP. Listened on only when asked for, and on loopback only.
    Tcp(HostPort),
    /// TCP under TLS, both sides with a certificate.
    Tls(HostPort),
    /// A virtual machine's socket: context id and port.
    Vsock {
        /// Context id of the machine: 1 is this one, 2 the host.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// A host, by name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a text is no address.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{text}` is no agent's address: {reason}; write unix:///PATH, tls://HOST:PORT, tcp://HOST:PORT or vsock://CID:PORT"
)]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = |reason| AddressError { text: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        match scheme {
            "unix" if rest.is_empty() => Err(wrong("it has no path")),
            "unix" if rest.len() > UNIX_PATH_MAX => Err(wrong("its path is longer than a unix socket's may be")),
            "unix" if rest.contains('\0') => Err(wrong("its path has a zero byte")),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" => host_port(rest).map(Self::Tcp).map_err(wrong),
            "tls" => host_port(rest).map(Self::Tls).map_err(wrong),
            "vsock" => {
                let (cid, port) = rest.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
                let cid = cid.parse().map_err(|_| wrong("its context id is no number"))?;
                Ok(Self::Vsock { cid, port: port.parse().map_err(|_| wrong("its port is no number"))? })
            }
            _ => Err(wrong("its scheme is unknown")),
        }
    }
}

fn host_port(text: &str) -> Result<HostPort, &'static str> {
    let (host, port) = text.rsplit_once(':').ok_or("it has no port")?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.is_empty() {
        return Err("it has no host");
    }
    Ok(HostPort { host: host.to_owned(), port: port.parse().map_err(|_| "its port is no number up to 65535")? })
}

impl HostPort {
    /// The socket addresses it stands for; asks the resolver where it is a name.
    ///
    /// # Errors
    /// The name stands for none.
    pub fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        (self.host.as_str(), self.port).to_socket_addrs().map(Iterator::collect)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(at) => write!(f, "tcp://{at}"),
            Self::Tls(at) => write!(f, "tls://{at}"),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in [
            "unix:///run/kernlet/agent.sock",
            "tcp://127.0.0.1:7000",
            "tls://accel.example:7443",
            "tls://[::1]:7443",
            "vsock://2:5000",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_named_with_what_would_be_one() {
        let long = format!("unix:///{}", "x".repeat(120));
        for text in ["", "agent", "unix://", "http://a:1", "tcp://:1", "tcp://a", "tls://a:66000", "vsock://x:1", &long]
        {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("unix:///PATH"), "{error}");
        }
    }
}
