//! What can go wrong with an invocation and with a watchdog as a whole, and the HTTP status of each.
//! Made by every module here, shown to callers over HTTP and to operators in the log.
//! The one place where an error meets a status; no other module picks one.

use std::{error::Error as _, io, path::PathBuf, time::Duration};

use http::StatusCode;
use kernlet_accel::{AccelError, chain};
use kernlet_image::GoDuration;
use kernlet_jail::JailError;
use kernlet_monitor::{Cause, Crash, HypervisorError, ProgramError, Usage};

use crate::{connection::BodyError, limit::TimeLimit, listen::ListenError, oversight::Overrun};

/// Why a watchdog did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum WatchdogError {
    /// The chosen backend does not work.
    #[error("no machine can run on this host")]
    Hypervisor(#[from] HypervisorError),
    /// The unikernel's file cannot be read.
    #[error("the unikernel of function {function} could not be read from {}; deploy the function again", .path.display())]
    ReadKernel {
        /// The function.
        function: String,
        /// Where its unikernel should be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The unikernel cannot run.
    #[error("the unikernel of function {function} cannot run; build its image again")]
    Kernel {
        /// The function.
        function: String,
        /// What is wrong with it.
        source: ProgramError,
    },
    /// Its block devices are not those that its unikernel declares, or cannot be opened.
    #[error(
        "the block devices of function {function} cannot be used; build its image again, or deploy it with other ones"
    )]
    Disks {
        /// The function.
        function: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A resource cannot be used.
    #[error("resource {name} of function {function} could not be registered; deploy the function again")]
    Resource {
        /// The function.
        function: String,
        /// The resource's name.
        name: String,
        /// Why not.
        source: Box<AccelError>,
    },
    /// There is no place to listen.
    #[error("the watchdog has no socket to serve")]
    Listen(#[from] ListenError),
    /// The rights of the process could not be taken away as they have to be.
    #[error("the watchdog cannot serve outside of its jail")]
    Jail(#[from] JailError),
    /// Nothing but the end of the process ends an operation.
    #[error(
        "the watchdog of function {function} ends, and another one takes its place: {overrun}, and nothing else ends it; give the \
         function a model of smaller operators without endless loops, or more time (dev.kernlet.limits.timeout, \
         dev.kernlet.limits.accel-time)"
    )]
    Overrun {
        /// The function.
        function: String,
        /// The operation.
        overrun: Overrun,
    },
    /// The system gave no thread, event queue or signal handler.
    #[error("the watchdog could not {action}; the host is out of threads, descriptors or memory")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Why a request has no response from its function.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// The request's target is no path, as with `CONNECT` and `OPTIONS *`.
    #[error("{target:?} is not a path; a function is called by a path that begins with /")]
    BadTarget {
        /// The target.
        target: String,
    },
    /// The `X-Timeout` header cannot be read.
    #[error("the X-Timeout header {value:?} is not a duration; write it as 1.5s or 200ms")]
    BadTimeout {
        /// Its value.
        value: String,
    },
    /// The body broke off or was not valid HTTP.
    #[error("the request's body broke off; send it again")]
    BodyBroken {
        /// What the connection said.
        source: BodyError,
    },
    /// The body did not arrive in time.
    #[error("the request's body did not arrive within {}; send it faster", GoDuration(*.limit))]
    BodyTooSlow {
        /// The time it had.
        limit: Duration,
    },
    /// The body is over the limit.
    #[error(
        "the request's body{} is over the limit of function {function}, {limit} bytes; send less or raise the \
         annotation dev.kernlet.limits.request",
        .size.map_or_else(String::new, |size| format!(", {size} bytes,"))
    )]
    BodyTooLarge {
        /// The function.
        function: String,
        /// The body's size, where the request states it.
        size: Option<u64>,
        /// The limit, in bytes.
        limit: u64,
    },
    /// Path, query and headers are over the limit.
    #[error("the request's path, query and headers take {size} bytes; no more than {limit} fit, so send fewer")]
    HeadTooLarge {
        /// As the guest would get them, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// As many requests as allowed are under way.
    #[error(
        "function {function} already serves {limit} requests, its limit; try again later, scale it, or raise {raise}"
    )]
    Saturated {
        /// The function.
        function: String,
        /// The limit.
        limit: usize,
        /// What raises it.
        raise: &'static str,
    },
    /// The function's models are not loaded yet.
    #[error("function {function} is still loading its models; try again later")]
    Loading {
        /// The function.
        function: String,
    },
    /// The function's models cannot be loaded.
    #[error("function {function} cannot serve: {why}; deploy it with a working model")]
    LoadFailed {
        /// The function.
        function: String,
        /// What the accelerator runtime said.
        why: String,
    },
    /// The function took longer than allowed.
    #[error("function {function} did not answer within {limit}")]
    TimedOut {
        /// The function.
        function: String,
        /// The time it had, and what set it.
        limit: TimeLimit,
        /// Where the machine was stopped; `None` when an accelerator operation outlasts the limit.
        source: Option<Box<Crash>>,
    },
    /// The function used up what one invocation may have of something.
    #[error("function {function} may not go on")]
    UsedUp {
        /// The function.
        function: String,
        /// Of what, and where its machine was stopped.
        source: Box<Crash>,
    },
    /// The function's machine ended.
    #[error("function {function} crashed")]
    Crashed {
        /// The function.
        function: String,
        /// How.
        source: Box<Crash>,
    },
    /// The function's response has a header that HTTP does not allow.
    #[error("function {function} gave a response header that is not one: {header}; {why}")]
    BadHeader {
        /// The function.
        function: String,
        /// The header's name, escaped.
        header: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No thread for another connection.
    #[error("function {function} has no thread for another connection; the host is out of threads or memory")]
    NoThread {
        /// The function.
        function: String,
        /// Why not.
        source: io::Error,
    },
    /// What runs machines failed itself.
    #[error("the monitor or an accelerator plugin failed while function {function} ran; its standard error has more")]
    Lost {
        /// The function.
        function: String,
    },
}

impl InvokeError {
    /// The HTTP status of an answer that carries this error.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadTarget { .. } | Self::BadTimeout { .. } | Self::BodyBroken { .. } => StatusCode::BAD_REQUEST,
            Self::BodyTooSlow { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Saturated { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Loading { .. } | Self::LoadFailed { .. } | Self::NoThread { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut { .. } | Self::UsedUp { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Crashed { .. } | Self::BadHeader { .. } | Self::Lost { .. } => StatusCode::BAD_GATEWAY,
        }
    }

    /// Seconds after which trying again may help.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Saturated { .. } | Self::Loading { .. } | Self::NoThread { .. } => Some(1),
            // Only another deployment mends it.
            Self::LoadFailed { .. } => Some(30),
            _ => None,
        }
    }

    /// Whether a part of the request's body may still be on its way, so that the connection cannot go on.
    pub(crate) fn leaves_body_unread(&self) -> bool {
        matches!(self, Self::BodyTooLarge { .. } | Self::BodyTooSlow { .. } | Self::BodyBroken { .. })
    }

    /// What the machine took before it ended; zero when none ran.
    #[must_use]
    pub fn usage(&self) -> Usage {
        match self {
            Self::Crashed { source, .. }
            | Self::UsedUp { source, .. }
            | Self::TimedOut { source: Some(source), .. } => source.usage(),
            _ => Usage::default(),
        }
    }

    /// The error with everything that led to it, in one sentence.
    #[must_use]
    pub fn message(&self) -> String {
        let mut text = chain(self);
        if let Self::Crashed { source, .. } = self
            && let Some(further) = Crash::cause(source).source()
        {
            text = format!("{text}: {}", chain(further));
        }
        text
    }

    /// Sorts a machine's end into running out of time and everything else.
    pub(crate) fn from_crash(function: &str, limit: TimeLimit, crash: Box<Crash>) -> Self {
        let function = function.to_owned();
        match Crash::cause(&crash) {
            Cause::Timeout { .. } | Cause::Unanswered { .. } => Self::TimedOut { function, limit, source: Some(crash) },
            Cause::CpuTime { .. } => Self::UsedUp { function, source: crash },
            _ => Self::Crashed { function, source: crash },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_names_its_limit_and_what_to_do() {
        let function = || "echo".to_owned();
        let cases = [
            (
                InvokeError::BodyTooLarge { function: function(), size: Some(9), limit: 8 },
                413,
                "the request's body, 9 bytes, is over the limit of function echo, 8 bytes; send less or raise the \
                 annotation dev.kernlet.limits.request",
            ),
            (
                InvokeError::BodyTooLarge { function: function(), size: None, limit: 8 },
                413,
                "the request's body is over the limit of function echo, 8 bytes; send less or raise the annotation \
                 dev.kernlet.limits.request",
            ),
            (
                InvokeError::BodyTooSlow { limit: Duration::from_secs(30) },
                408,
                "the request's body did not arrive within 30s; send it faster",
            ),
            (
                InvokeError::TimedOut {
                    function: function(),
                    limit: TimeLimit::of_function(Duration::from_millis(1500)),
                    source: None,
                },
                504,
                "function echo did not answer within 1.5s, its exec_timeout (raise it with the annotation \
                 dev.kernlet.limits.timeout or the environment variable exec_timeout)",
            ),
        ];
        for (error, status, text) in cases {
            assert_eq!(error.status(), status);
            assert_eq!(error.message(), text);
        }
    }

    #[test]
    fn a_start_that_failed_prints_its_causes_once_each() {
        let error = WatchdogError::from(HypervisorError::NotPermitted);
        let text = chain(&error);
        assert!(text.starts_with("no machine can run on this host: /dev/kvm may not be opened"), "{text}");
        assert_eq!(text.matches("/dev/kvm").count(), 1);
    }
}
