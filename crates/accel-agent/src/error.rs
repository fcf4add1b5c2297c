//! What a client meets: an agent that cannot be reached, is lost, talks nonsense, or refuses.
//! Made by connections and the plugin `remote`. Each says which agent, what happened, and what to do.

use std::io;

use kernlet_abi::hypercall::status;
use kernlet_accel::PluginError;

use crate::{tls::TlsError, wire::WireError};

/// Why an agent did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// Nobody answers there.
    #[error("no agent answers at {address}; start one with `kernlet accel agent --listen {address}`")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// TLS cannot be used.
    #[error("the agent at {address} cannot be reached by TLS")]
    Tls {
        /// Where.
        address: String,
        /// Why.
        source: TlsError,
    },
    /// The address asks for TLS, and there is no certificate.
    #[error("{address} asks for TLS; name a certificate, its key and the authority of the agent's certificate")]
    NoCertificate {
        /// Where.
        address: String,
    },
    /// It speaks something else, or nonsense.
    #[error("what answers at {address} does not keep to the protocol")]
    Protocol {
        /// Where.
        address: String,
        /// What is wrong.
        source: WireError,
    },
    /// It says what it must not say then.
    #[error("what answers at {address} does not keep to the protocol: {what}")]
    Nonsense {
        /// Where.
        address: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The connection ended before the answer came.
    #[error("the agent at {address} is gone{why}")]
    Lost {
        /// Where.
        address: String,
        /// How its worker ended, as far as that is known: `: …`.
        why: String,
    },
    /// Nothing came in time.
    #[error("the agent at {address} did not answer in time")]
    TimedOut {
        /// Where.
        address: String,
    },
    /// It refused, or what was asked failed there.
    #[error("{message}")]
    Refused {
        /// One of [`kernlet_abi::hypercall::status`].
        status: i32,
        /// What was wrong, in the agent's words.
        message: String,
    },
    /// More than a connection may have.
    #[error("{0}")]
    TooLarge(String),
    /// The system did not do its part.
    #[error("cannot {0}")]
    System(&'static str, #[source] io::Error),
}

impl AgentError {
    /// The status that says the same: one of [`kernlet_abi::hypercall::status`], never `OK`.
    #[must_use]
    pub const fn status(&self) -> i32 {
        match self {
            Self::TimedOut { .. } => status::ETIMEDOUT,
            Self::Refused { status: status::OK, .. } => status::EIO,
            Self::Refused { status, .. } => *status,
            Self::TooLarge(_) => status::ENOMEM,
            _ => status::EIO,
        }
    }

    /// Whether another connection may do what this one did not.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Protocol { .. } | Self::Nonsense { .. })
    }
}

impl From<AgentError> for PluginError {
    fn from(error: AgentError) -> Self {
        match error {
            AgentError::Refused { status, message } => Self::Elsewhere { status, message },
            error @ AgentError::TimedOut { .. } => {
                Self::Elsewhere { status: status::ETIMEDOUT, message: error.to_string() }
            }
            error @ AgentError::TooLarge(_) => Self::out_of_memory(error),
            error => Self::Lost(error.into()),
        }
    }
}
