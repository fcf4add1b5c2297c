//! What C functions return when they fail: positive numbers of errno's.
//! Used everywhere. Never zero.

use std::io;

use libc::c_int;

/// Why a function failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(c_int);

/// What the functions of this crate return.
pub(crate) type Result<T = ()> = std::result::Result<T, Errno>;

/// A plugin broke down.
pub(crate) const EBACKEND: Errno = Errno(libc::EPROTO);
pub(crate) const EEXIST: Errno = Errno(libc::EEXIST);
pub(crate) const EINVAL: Errno = Errno(libc::EINVAL);
pub(crate) const EIO: Errno = Errno(libc::EIO);
pub(crate) const ELIBBAD: Errno = Errno(libc::ELIBBAD);
pub(crate) const ENAMETOOLONG: Errno = Errno(libc::ENAMETOOLONG);
pub(crate) const ENODEV: Errno = Errno(libc::ENODEV);
pub(crate) const ENOENT: Errno = Errno(libc::ENOENT);
pub(crate) const ENOMEM: Errno = Errno(libc::ENOMEM);
pub(crate) const ENOTSUP: Errno = Errno(libc::ENOTSUP);
pub(crate) const EPERM: Errno = Errno(libc::EPERM);
/// Another machine failed.
pub(crate) const EREMOTEIO: Errno = Errno(libc::EREMOTEIO);
pub(crate) const ERANGE: Errno = Errno(libc::ERANGE);
/// The library is not initialized.
pub(crate) const ESESS: Errno = Errno(libc::ECONNRESET);

impl Errno {
    /// The number.
    pub(crate) const fn get(self) -> c_int {
        self.0
    }

    /// What a C function returned.
    pub(crate) const fn check(number: c_int) -> Result {
        if number == 0 { Ok(()) } else { Err(Self(number)) }
    }
}

impl From<&io::Error> for Errno {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) if number > 0 => Self(number),
            _ => EIO,
        }
    }
}
