//! Accelerators in another process or on another machine.
//! `kernlet accel agent` runs an [`Agent`]; the plugin [`Remote`] and anyone who has a [`Connection`] are its clients.
//! Neither side trusts the other: whatever it says is checked, and costs at most the connection.
#![deny(unsafe_code)]

mod address;
mod arena;
mod bulk;
mod client;
mod connection;
mod dial;
mod digest;
mod error;
mod link;
#[allow(unsafe_code, reason = "memory that another process maps as well")]
mod memory;
mod oversight;
mod pool;
mod remote;
mod ring;
mod server;
mod supervisor;
mod tls;
pub mod wire;

pub use address::{Address, AddressError, HostPort};
pub use arena::SharedBuffer;
pub use client::{CallReport, Connection, Options, RemoteSession};
pub use dial::{Dialler, dial};
pub use digest::digest;
pub use error::AgentError;
pub use remote::{Preference, Remote, RemoteError};
pub use server::{Agent, Instance, Limits, Listener, Stats};
pub use supervisor::{BindError, Bound, Start, Supervisor, Worker};
pub use tls::{ClientTls, ServerTls, TlsError, TlsFiles};
