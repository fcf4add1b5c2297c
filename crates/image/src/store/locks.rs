//! Who may touch the store's files when, between threads as well as between processes. Used by the store only.
//! Always `.blobs.lock` before `.index.lock`; nobody waits for the first while holding the second.

use std::{
    fs::{File, TryLockError},
    path::PathBuf,
};

use super::{IoError, Store};

/// A file of the layout that other processes respect; gives the lock up when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Store {
    fn lock_file(&self, name: &str) -> Result<(File, PathBuf), IoError> {
        let path = self.blobs.beside(name);
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        Ok((file.map_err(IoError::on("open", &path))?, path))
    }

    /// As long as this is held, no blob and nothing unpacked goes away.
    pub(super) fn keep_blobs(&self) -> Result<Lock, IoError> {
        let (file, path) = self.lock_file(".blobs.lock")?;
        file.lock_shared().map_err(IoError::on("lock", path))?;
        Ok(Lock { _file: file })
    }

    /// As long as this is held, nobody writes or reads blobs.
    pub(super) fn delete_blobs(&self) -> Result<Lock, IoError> {
        let (file, path) = self.lock_file(".blobs.lock")?;
        file.lock().map_err(IoError::on("lock", path))?;
        Ok(Lock { _file: file })
    }

    /// As [`Store::delete_blobs`], or nothing if somebody uses blobs just now.
    pub(super) fn try_delete_blobs(&self) -> Result<Option<Lock>, IoError> {
        let (file, path) = self.lock_file(".blobs.lock")?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(IoError::on("lock", path)(error)),
        }
    }

    /// As long as this is held, nobody else changes the index.
    pub(super) fn change_index(&self) -> Result<Lock, IoError> {
        let (file, path) = self.lock_file(".index.lock")?;
        file.lock().map_err(IoError::on("lock", path))?;
        Ok(Lock { _file: file })
    }
}
