//! One gateway a home: a lock on `<home>/gateway.lock`, held for as long as the gateway runs.
//! [`crate::Gateway::start`] takes it before it touches anything else.
//! It never outlives the process: the system gives it up however the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

/// The lock. Dropping it gives the home up.
#[derive(Debug)]
pub(crate) struct HomeLock {
    file: File,
}

/// Why the lock was not taken.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another gateway has it; what it says of itself.
    Held(String),
    /// The file cannot be used.
    File(io::Error),
}

impl HomeLock {
    /// Takes the lock, or says who has it.
    pub(crate) fn take(home: &Path) -> Result<HomeLock, LockError> {
        let path = home.join("gateway.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(LockError::File)?;
        match file.try_lock() {
            Ok(()) => Ok(HomeLock { file }),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                file.read_to_string(&mut holder).map_err(LockError::File)?;
                Err(LockError::Held(holder.trim().to_owned()))
            }
            Err(TryLockError::Error(error)) => Err(LockError::File(error)),
        }
    }

    /// Writes down who holds the lock, for whoever finds it held.
    pub(crate) fn sign(&mut self, address: SocketAddr) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "process {} at http://{address}", std::process::id())
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // A child that is just being started has the file open as well, until it runs its program.
        let _ = self.file.unlock();
    }
}
