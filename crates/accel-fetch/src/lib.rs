//! Gets a resource from an http or https address, as far as the operator allows it.
//! Called by the C API and Python's package for programs of the host; never for a function, whose resources come with its image.
//! Never connects to what is not allowed, be it by a redirect, and never takes more or waits longer than configured.
#![forbid(unsafe_code)]

mod client;
mod url;

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use http::StatusCode;
use kernlet_accel::{FetchConfig, ResourceFile};
use kernlet_http1::{BadChunk, BadHead};

use crate::{client::Answer, url::Url};

/// Most addresses that lead on to another.
const REDIRECTS_MAX: usize = 3;

/// Why there is no resource.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// It is no address, or one that could be read in two ways.
    #[error("{url:?} is no address of a resource: {why}")]
    Address {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The operator does not allow it.
    #[error(
        "{url} may not be fetched; allow it, or what it begins with, by fetch.allow in the file of \
         KERNLET_ACCEL_CONFIG, or give a local file"
    )]
    NotAllowed {
        /// The address.
        url: String,
    },
    /// The authorities that servers' certificates are checked by cannot be read.
    #[error("cannot read the authorities of certificates in {} (fetch.ca)", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The server cannot be reached, or the connection broke off.
    #[error("cannot fetch {url}")]
    Connection {
        /// The address.
        url: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("{url} was not there within {} ms (fetch.time-ms)", limit.as_millis())]
    TimedOut {
        /// The address.
        url: String,
        /// The time there was.
        limit: Duration,
    },
    /// The server says that there is no resource.
    #[error("the server of {url} answers {status}")]
    Status {
        /// The address.
        url: String,
        /// What it says.
        status: StatusCode,
    },
    /// It is too long.
    #[error("{url} is longer than {limit} bytes (fetch.bytes)")]
    TooLarge {
        /// The address.
        url: String,
        /// What may be taken.
        limit: u64,
    },
    /// The server's head is none.
    #[error("what answers at {url} does not speak HTTP")]
    Head {
        /// The address.
        url: String,
        /// What is wrong.
        source: BadHead,
    },
    /// The server's chunks are none.
    #[error("what answers at {url} does not speak HTTP")]
    Chunk {
        /// The address.
        url: String,
        /// What is wrong.
        source: BadChunk,
    },
    /// The answer cannot be used.
    #[error("the answer of {url} cannot be used: {why}")]
    Answer {
        /// The address.
        url: String,
        /// Why not.
        why: &'static str,
    },
}

/// Gets the file at an address. Its name is the last part of the address.
///
/// # Errors
/// [`FetchError`]: it is not allowed, not there, too long or too late.
pub fn fetch(url: &str, config: &FetchConfig) -> Result<ResourceFile, FetchError> {
    let end = Instant::now() + config.time();
    let mut at = Url::parse(url)?;
    for _ in 0..=REDIRECTS_MAX {
        // Each time: an allowed server must not choose what else is connected to.
        if !at.is_allowed(&config.allow) {
            return Err(FetchError::NotAllowed { url: at.to_string() });
        }
        match client::get(&at, config, end)? {
            Answer::Body(bytes) => return Ok(ResourceFile { name: at.file_name(), bytes: bytes.into() }),
            Answer::Elsewhere(location) => at = at.join(&location)?,
        }
    }
    Err(FetchError::Answer { url: at.to_string(), why: "it leads from one address to another without an end" })
}

/// Where the authorities are that this system trusts.
fn authorities(config: &FetchConfig) -> &Path {
    config.ca.as_deref().unwrap_or(Path::new("/etc/ssl/certs/ca-certificates.crt"))
}
