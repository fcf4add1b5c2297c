//! Why an operation failed. Given to functions; it only keeps what the host said.

use alloc::string::String;
use core::fmt;

use kernlet_abi::hypercall::status;

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccelError {
    /// One of [`kernlet_abi::hypercall::status`]: an errno.
    pub status: i32,
    /// What was wrong, in the host's words.
    pub message: String,
}

impl fmt::Display for AccelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for AccelError {}

impl AccelError {
    /// Whether what it was asked to do takes more than the host grants: a picture of too many pixels, say.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        self.status == status::ENOMEM
    }

    /// Whether the function's own input is at fault, rather than the host.
    #[must_use]
    pub fn is_invalid_input(&self) -> bool {
        matches!(self.status, status::EINVAL | status::ERANGE)
    }

    /// Whether no plugin of this host has the operation.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        self.status == status::ENOTSUP
    }

    /// Of arguments that the host would not even look at.
    pub(super) fn invalid(message: String) -> Self {
        Self { status: status::EINVAL, message }
    }
}
