//! How a Solo5 unikernel is a function: by a command line and what it prints, or by serving HTTP itself. Read from
//! annotations; used by the watchdog. It never looks into the unikernel.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest command line of a server's, in bytes; what the platform adds to it fits behind.
const ARGUMENTS_MAX: usize = 4096;

/// What a request is to a Solo5 unikernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Solo5Mode {
    /// Its body is the command line, and what the unikernel prints is the response.
    #[default]
    Command,
    /// It goes to the unikernel by HTTP, on a network that only the two are on.
    Server,
}

/// How a Solo5 unikernel is a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Solo5Config {
    /// What a request is to it.
    pub mode: Solo5Mode,
    /// A server's address.
    pub ipv4: GuestAddress,
    /// The port on which it serves HTTP.
    pub port: u16,
    /// A server's command line; `{ipv4}`, `{address}`, `{prefix}`, `{gateway}` and `{port}` in it become those.
    pub arguments: String,
}

impl Default for Solo5Config {
    fn default() -> Self {
        Self {
            mode: Solo5Mode::default(),
            ipv4: GuestAddress::default(),
            port: 8080,
            // As MirageOS takes it.
            arguments: "--ipv4={ipv4}".to_owned(),
        }
    }
}

/// An IPv4 address with the bits that its network has in common, such as `10.0.0.2/24`: a private one, and neither the
/// network's own nor its broadcast address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestAddress {
    address: Ipv4Addr,
    prefix: u8,
}

impl GuestAddress {
    /// The address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The bits, 8 to 30.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }
}

impl Default for GuestAddress {
    fn default() -> Self {
        Self { address: Ipv4Addr::new(10, 0, 0, 2), prefix: 24 }
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for GuestAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?} is no address for a guest: {why}; write it as 10.0.0.2/24");
        let (address, prefix) = text.split_once('/').ok_or_else(|| refused("it says no network"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refused("it is not IPv4"))?;
        let prefix = prefix.bytes().all(|byte| byte.is_ascii_digit()).then(|| prefix.parse::<u8>().ok()).flatten();
        let prefix = prefix.filter(|prefix| (8..=30).contains(prefix));
        let prefix = prefix.ok_or_else(|| refused("a network has 8 to 30 bits in common"))?;
        if !address.is_private() {
            return Err(refused("it is not a private one (10/8, 172.16/12, 192.168/16)"));
        }
        let host_bits = u32::MAX >> prefix;
        let host = u32::from(address) & host_bits;
        if host == 0 || host == host_bits {
            return Err(refused("it is the network's own or its broadcast address"));
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for GuestAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GuestAddress> for String {
    fn from(address: GuestAddress) -> Self {
        address.to_string()
    }
}

impl FromStr for Solo5Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "command" => Ok(Self::Command),
            "server" => Ok(Self::Server),
            _ => Err(format!("{text:?} is not a mode of Solo5 functions: use command or server")),
        }
    }
}

/// A port that something can serve on.
pub(crate) fn parse_port(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok().filter(|port| *port != 0) } else { None };
    port.ok_or_else(|| format!("{text:?} is not a port; write it as 8080"))
}

/// A command line for a server.
pub(crate) fn parse_arguments(text: &str) -> Result<String, String> {
    if text.len() > ARGUMENTS_MAX || text.contains(char::is_control) {
        return Err(format!("a command line has at most {ARGUMENTS_MAX} bytes and no control characters"));
    }
    Ok(text.to_owned())
}
