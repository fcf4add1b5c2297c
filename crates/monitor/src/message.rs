//! What goes into a machine and comes out of it, in the host's terms. Used by the watchdog.
//! Plain data; never touches guest memory.

use std::{fmt, sync::Arc, time::Duration};

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

/// A function's answer. Status is 200 to 599; names and values of headers are as the guest wrote them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers in their order; names are UTF-8, nothing else is checked.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Body.
    pub body: Vec<u8>,
    /// What the invocation took.
    pub usage: Usage,
}

/// What one invocation took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From handing the request to the machine until its response was read, accelerator included.
    pub wall: Duration,
    /// In accelerator plugins.
    pub accel: Duration,
    /// Times that the guest left the processor to the monitor.
    pub exits: u32,
    /// Bytes copied between the guest's memory and accelerator plugins.
    pub bytes_copied: u64,
}
