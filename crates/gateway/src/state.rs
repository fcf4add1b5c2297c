//! The deployments, on disk: one redb file whose commits survive a crash of the gateway and of the machine.
//! The function manager writes before it acknowledges and reads everything at its start.
//! It never blocks the async threads: its callers move it to a blocking one.

use crate::wire::FunctionDeployment;
use kernlet_image::FunctionSpec;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use thiserror::Error;

/// Deployments as JSON under "NAME.NAMESPACE". The number is the format's version: another format is another table.
const DEPLOYMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("deployments.1");

/// Why the state could not be read or written.
#[derive(Debug, Error)]
#[error("The state file {} cannot be {action}: check the disk, its free space and who owns the file", path.display())]
pub struct StateError {
    path: PathBuf,
    action: &'static str,
    source: Box<Cause>,
}

#[derive(Debug, Error)]
enum Cause {
    #[error(transparent)]
    Store(#[from] redb::Error),
    #[error("A deployment cannot be written as JSON")]
    Encode(#[from] serde_json::Error),
}

/// What is kept of one function.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The request, letter for letter.
    pub(crate) deployment: FunctionDeployment,
    /// What came out of checking it: the image's files and the function's configuration.
    pub(crate) spec: FunctionSpec,
    /// Replicas that there should be.
    pub(crate) replicas: u32,
    /// RFC 3339.
    pub(crate) created_at: String,
}

/// The state file.
#[derive(Debug)]
pub(crate) struct State {
    /// Closed after an error, until it is used again: redb refuses all work after an error of the disk, and opening
    /// goes back to the last commit. So a disk that was full needs no new gateway.
    database: Mutex<Option<Database>>,
    path: PathBuf,
}

impl State {
    /// Opens or creates `<home>/state.redb`, repairing it after a crash.
    pub(crate) fn open(home: &Path) -> Result<State, StateError> {
        let path = home.join("state.redb");
        match open(&path) {
            Ok(database) => Ok(State { database: Mutex::new(Some(database)), path }),
            Err(source) => Err(StateError { path, action: "opened", source: Box::new(source.into()) }),
        }
    }

    /// Every record with its key. One that cannot be read is left where it is and reported: the others still run.
    pub(crate) fn all(&self) -> Result<Vec<(String, Record)>, StateError> {
        let entries = self.entries().map_err(|source| self.failed("read", source.into()))?;
        let readable = entries.into_iter().filter_map(|(key, value)| match serde_json::from_slice(&value) {
            Ok(record) => Some((key, record)),
            Err(error) => {
                tracing::error!(%key, %error, "A stored deployment cannot be read: deploy the function again");
                None
            }
        });
        Ok(readable.collect())
    }

    /// Keeps a record; it is on disk when this returns.
    pub(crate) fn put(&self, key: &str, record: &Record) -> Result<(), StateError> {
        let write = || -> Result<(), Cause> {
            let value = serde_json::to_vec(record)?;
            self.change(|table| table.insert(key, value.as_slice()).map(drop))?;
            Ok(())
        };
        write().map_err(|source| self.failed("written", source))
    }

    /// Forgets a record; it is gone from the disk when this returns.
    pub(crate) fn remove(&self, key: &str) -> Result<(), StateError> {
        self.change(|table| table.remove(key).map(drop)).map_err(|source| self.failed("written", source.into()))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &str, &[u8]>) -> Result<(), redb::StorageError>,
    ) -> Result<(), redb::Error> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            change(&mut transaction.open_table(DEPLOYMENTS)?)?;
            transaction.commit()?;
            Ok(())
        })
    }

    fn entries(&self) -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        self.with(|database| {
            let table = database.begin_read()?.open_table(DEPLOYMENTS)?;
            let mut entries = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                entries.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(entries)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut held = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match held.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let done = work(&database)?;
        *held = Some(database);
        Ok(done)
    }

    fn failed(&self, action: &'static str, source: Cause) -> StateError {
        StateError { path: self.path.clone(), action, source: Box::new(source) }
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::create(path)?;
    let transaction = database.begin_write()?;
    transaction.open_table(DEPLOYMENTS)?;
    transaction.commit()?;
    Ok(database)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
    use super::*;
    use kernlet_image::{FunctionConfig, Namespace};

    fn record(replicas: u32) -> Record {
        Record {
            deployment: FunctionDeployment { service: "echo".into(), image: "echo".into(), ..Default::default() },
            spec: FunctionSpec {
                name: "echo".parse().unwrap(),
                namespace: Namespace::default(),
                replica: 0,
                image: "echo:latest".into(),
                digest: "sha256:00".into(),
                kernel: "/kernel".into(),
                resources: Vec::new(),
                blocks: Vec::new(),
                config: FunctionConfig::default(),
                environment: Default::default(),
                template: None,
            },
            replicas,
            created_at: crate::time::now(),
        }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(home.path()).unwrap();
        state.put("echo.openfaas-fn", &record(1)).unwrap();
        state.put("echo.openfaas-fn", &record(3)).unwrap();
        state.put("gone.openfaas-fn", &record(1)).unwrap();
        state.remove("gone.openfaas-fn").unwrap();
        drop(state);
        let all = State::open(home.path()).unwrap().all().unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].0, "echo.openfaas-fn");
        assert_eq!(all[0].1.replicas, 3);
    }

    #[test]
    fn a_change_that_failed_is_undone_and_the_next_one_works() {
        let home = tempfile::tempdir().unwrap();
        let state = State::open(home.path()).unwrap();
        state.put("echo.openfaas-fn", &record(1)).unwrap();
        let failed: Result<(), _> = state.with(|database| {
            database.begin_write()?.open_table(DEPLOYMENTS)?.remove("echo.openfaas-fn")?;
            Err(redb::Error::Io(std::io::ErrorKind::StorageFull.into()))
        });
        assert!(failed.is_err());
        assert_eq!(state.all().unwrap().len(), 1);
        state.put("second.openfaas-fn", &record(1)).unwrap();
        assert_eq!(state.all().unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_is_no_state_is_refused_with_its_path() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("state.redb"), "not a database, and longer than nothing").unwrap();
        let message = State::open(home.path()).unwrap_err().to_string();
        assert!(message.contains("state.redb"), "{message}");
    }
}
