//! What goes into a machine and comes out of it, in the host's terms. Used by the watchdog.
//! Plain data; never touches guest memory.

use std::{fmt, sync::Arc, time::Duration};

use kernlet_abi::fields::{Fields, encode_lengths};
use kernlet_accel::Session;

/// What the host does for a guest besides running it.
#[derive(Clone, Debug)]
pub struct Services {
    /// The function's accelerator session, with its resources.
    pub accel: Arc<Session>,
    /// Where the function's log lines go.
    pub log: Arc<dyn LogSink>,
}

/// Receives a function's log lines. Called on the machine's thread while the guest waits, so it must not block.
pub trait LogSink: Send + Sync + fmt::Debug {
    /// One line, without its newline, at most [`kernlet_abi::hypercall::LOG_MESSAGE_MAX`] bytes; `call_id`
    /// is empty while the guest initialises.
    fn line(&self, call_id: &str, level: Level, text: &str);
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed.
    Error,
    /// Something may fail soon.
    Warn,
    /// What a reader of the log wants to know.
    Info,
    /// What the author of the function wants to know.
    Debug,
    /// Every step.
    Trace,
}

impl Level {
    pub(crate) fn from_abi(level: u32) -> Self {
        match level {
            1 => Self::Error,
            2 => Self::Warn,
            4 => Self::Debug,
            5 => Self::Trace,
            _ => Self::Info,
        }
    }

    /// The level's name, in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// One HTTP request, for the function to answer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method, such as `POST`.
    pub method: &'a str,
    /// Path after the function's name; starts with `/`.
    pub path: &'a str,
    /// Query without the `?`.
    pub query: &'a str,
    /// Headers in their order.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Body.
    pub body: &'a [u8],
    /// The call id.
    pub call_id: &'a str,
}

/// A function's answer. Status is 200 to 599; names and values of headers are as the guest wrote them. An invocation
/// that is given the last one's fills its memory again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers in their order.
    pub headers: Headers,
    /// Body.
    pub body: Vec<u8>,
    /// What the invocation took.
    pub usage: Usage,
}

/// Headers in their order, one run of bytes. Names are UTF-8, nothing else of them is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// As [`kernlet_abi::fields`], checked to be whole and to have names of UTF-8.
    fields: Vec<u8>,
}

impl Headers {
    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        Fields::new(&self.fields).flatten().map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
    }

    /// These headers; `None` where one is longer than [`kernlet_abi::fields::FIELD_MAX`].
    #[must_use]
    pub fn of(headers: &[(&str, &[u8])]) -> Option<Self> {
        let mut fields = Vec::new();
        encode_headers(&mut fields, headers)?;
        Some(Self { fields })
    }

    /// Where fields of unknown content are put, to be checked.
    pub(crate) fn fields_mut(&mut self) -> &mut Vec<u8> {
        &mut self.fields
    }

    /// What is wrong with fields that a hostile guest may have written.
    pub(crate) fn check(&self) -> Result<(), String> {
        Fields::new(&self.fields).try_for_each(|field| {
            let (name, _) = field.map_err(|error| error.to_string())?;
            str::from_utf8(name).map(drop).map_err(|_| "a header's name is not UTF-8".to_owned())
        })
    }
}

/// Appends headers as [`kernlet_abi::fields`]; `None` where one is too long for them.
pub(crate) fn encode_headers(to: &mut Vec<u8>, headers: &[(&str, &[u8])]) -> Option<()> {
    for (name, value) in headers {
        to.extend_from_slice(&encode_lengths(name.len(), value.len())?);
        to.extend_from_slice(name.as_bytes());
        to.extend_from_slice(value);
    }
    Some(())
}

/// What one invocation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From handing the request to the machine until its response was read, accelerator included.
    pub wall: Duration,
    /// Processor time of the guest itself.
    pub cpu: Duration,
    /// In accelerator plugins.
    pub accel: Duration,
    /// Waiting because the function has used up its share of the processors.
    pub paused: Duration,
    /// Times that the guest left the processor to the monitor.
    pub exits: u32,
    /// Bytes copied between the guest's memory and accelerator plugins.
    pub bytes_copied: u64,
    /// Pages that differ from the function's template, or did once on this machine: those that a rewind restores.
    pub pages: u32,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
}
