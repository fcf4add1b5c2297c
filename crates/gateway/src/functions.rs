//! Every deployed function: deploying, updating, scaling and removing them, and bringing them back at the start.
//! The system handlers change it, the proxy looks functions up in it.
//! It never acknowledges what is not on disk yet, and never takes a working function away for one that fails.

use crate::admission::Admission;
use crate::answer::chain;
use crate::deploy::{self, DeployError, Identity, key};
use crate::function::{Function, TIMEOUT_MARGIN};
use crate::logs::Logs;
use crate::metrics::Account;
use crate::replica::{Launcher, Replica, StartError};
use crate::state::{Record, State, StateError};
use crate::time;
use crate::wire::{FunctionDeployment, FunctionStatus};
use kernlet_image::{NameError, Namespace, Store};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;
use tokio::task::{JoinError, JoinSet};

/// Most replicas of one function.
pub(crate) const REPLICAS_MAX: u32 = 64;
/// How long replicas of a function without a time limit may finish what they do when they are let go of.
const UNLIMITED_PATIENCE: Duration = Duration::from_secs(60);

/// Why a change was refused or failed.
#[derive(Debug, Error)]
pub(crate) enum FunctionsError {
    /// No such function.
    #[error(
        "error finding function {0}: it is not deployed here. \"kernlet list\" shows what is; \"kernlet deploy\" deploys it"
    )]
    NotFound(String),
    /// A name breaks RFC 1123.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The deployment was refused.
    #[error(transparent)]
    Deploy(#[from] DeployError),
    /// Too many replicas.
    #[error("{0} replicas are more than a function can have here: ask for 0 to {REPLICAS_MAX}")]
    Replicas(u64),
    /// A replica could not be started.
    #[error("The function's replicas cannot be started")]
    Start(#[from] StartError),
    /// The change could not be kept.
    #[error("The change cannot be kept, and is undone")]
    State(#[from] StateError),
    /// A task of the gateway failed.
    #[error("The gateway failed at it: see its log")]
    Task(#[from] JoinError),
}

/// Whether a deployment may be the first one under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// POST: deploys, or replaces what is there.
    Create,
    /// PUT: only replaces; `faas-cli` goes on with a POST when it hears that there is nothing.
    Update,
}

/// All functions.
#[derive(Debug)]
pub(crate) struct Functions {
    by_key: RwLock<HashMap<String, Arc<Function>>>,
    store: Arc<Store>,
    state: Arc<State>,
    logs: Arc<Logs>,
    launcher: Arc<Launcher>,
    admission: Arc<Admission>,
    /// Held while a function is deployed, scaled or removed: one change at a time.
    changing: tokio::sync::Mutex<()>,
    /// Replicas on their way out.
    retiring: Mutex<JoinSet<()>>,
}

impl Functions {
    /// No functions yet: [`Functions::recover`] brings them back.
    pub(crate) fn new(
        store: Store,
        state: State,
        logs: Logs,
        launcher: Launcher,
        admission: Arc<Admission>,
    ) -> Functions {
        Functions {
            by_key: RwLock::default(),
            store: Arc::new(store),
            state: Arc::new(state),
            logs: Arc::new(logs),
            launcher: Arc::new(launcher),
            admission,
            changing: tokio::sync::Mutex::default(),
            retiring: Mutex::default(),
        }
    }

    /// Brings back every function that was acknowledged before the gateway ended, however it ended.
    pub(crate) async fn recover(&self) -> Result<(), FunctionsError> {
        let (state, store) = (Arc::clone(&self.state), Arc::clone(&self.store));
        let records = tokio::task::spawn_blocking(move || -> Result<_, StateError> {
            let records = state.all()?;
            let records: Vec<_> = records.into_iter().map(|(key, record)| (key, with_files(record, &store))).collect();
            let in_use: BTreeSet<String> = records.iter().map(|(_, record)| record.spec.digest.clone()).collect();
            if let Err(error) = store.prune(&in_use) {
                tracing::warn!(error = %chain(&error), "Unpacked images that nothing needs cannot be deleted");
            }
            Ok(records)
        })
        .await??;
        let names = |record: &Record| (record.spec.namespace.to_string(), record.spec.name.to_string());
        self.launcher.templates.keep_only(&records.iter().map(|(_, record)| names(record)).collect());
        for (key, record) in records {
            let function = self.make(record, None);
            // One that cannot start stays deployed: its invocations say why, and try again.
            if let Err(error) = function.scale(function.record().replicas) {
                tracing::error!(function = %key, error = %chain(&error), "A function cannot be brought back yet");
            }
            self.insert(key, function);
        }
        Ok(())
    }

    /// The function of these names.
    pub(crate) fn find(&self, name: &str, namespace: Option<&str>) -> Result<Arc<Function>, FunctionsError> {
        let key = match namespace {
            Some(namespace) => key(name, namespace),
            None => key(name, Namespace::default().as_str()),
        };
        self.get(&key).ok_or(FunctionsError::NotFound(key))
    }

    /// Every function, by its full name.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        let mut functions: Vec<Arc<Function>> = self.read().values().cloned().collect();
        functions.sort_by(|left, right| left.full_name().cmp(right.full_name()));
        functions
    }

    /// The functions of a namespace, by name.
    pub(crate) fn list(&self, namespace: &str) -> Vec<FunctionStatus> {
        let functions: Vec<Arc<Function>> = self.read().values().cloned().collect();
        let mut statuses: Vec<FunctionStatus> = functions
            .iter()
            .filter(|function| function.spec().namespace.as_str() == namespace)
            .map(|function| function.status())
            .collect();
        statuses.sort_by(|left, right| left.name.cmp(&right.name));
        statuses
    }

    /// The default namespace and every other one that holds a function.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let default = Namespace::default();
        let others: BTreeSet<String> = self
            .read()
            .values()
            .map(|function| &function.spec().namespace)
            .filter(|namespace| **namespace != default)
            .map(Namespace::to_string)
            .collect();
        std::iter::once(default.to_string()).chain(others).collect()
    }

    /// Deploys or updates a function. When this returns, it is on disk and its processes are started.
    pub(crate) async fn deploy(
        &self,
        deployment: FunctionDeployment,
        namespace: Option<&str>,
        mode: Mode,
    ) -> Result<(), FunctionsError> {
        let identity = Identity::parse(&deployment.service, deployment.namespace.as_deref(), namespace)?;
        let key = identity.key();
        if mode == Mode::Update && self.get(&key).is_none() {
            return Err(FunctionsError::NotFound(key));
        }
        let (store, launcher) = (Arc::clone(&self.store), Arc::clone(&self.launcher));
        let record = tokio::task::spawn_blocking(move || -> Result<Record, DeployError> {
            let spec = deploy::check(&deployment, &identity, &store, launcher.agents.as_deref())?;
            Ok(Record { deployment, spec, replicas: 1, created_at: time::now() })
        })
        .await??;
        let _one_at_a_time = self.changing.lock().await;
        let old = self.get(&key);
        if mode == Mode::Update && old.is_none() {
            return Err(FunctionsError::NotFound(key));
        }
        let replicas = old.as_ref().map_or(1, |old| old.record().replicas.max(1));
        let function = self.make(Record { replicas, ..record }, old.as_deref());
        if let Err(error) = self.start_and_keep(&key, &function).await {
            self.retire(&function, function.retire());
            return Err(error);
        }
        self.insert(key, function);
        if let Some(old) = old {
            self.retire(&old, old.retire());
        }
        Ok(())
    }

    /// Sets how many replicas a function has; 0 is none until the next invocation.
    pub(crate) async fn scale(&self, identity: &Identity, replicas: u64) -> Result<(), FunctionsError> {
        let wanted = u32::try_from(replicas).ok().filter(|wanted| *wanted <= REPLICAS_MAX);
        let wanted = wanted.ok_or(FunctionsError::Replicas(replicas))?;
        let key = identity.key();
        let _one_at_a_time = self.changing.lock().await;
        let function = self.get(&key).ok_or_else(|| FunctionsError::NotFound(key.clone()))?;
        self.keep(&key, Record { replicas: wanted, ..function.record() }).await?;
        let surplus = function.scale(wanted)?;
        self.retire(&function, surplus);
        Ok(())
    }

    /// Removes a function: it is gone from the disk when this returns, while invocations under way still finish.
    pub(crate) async fn remove(&self, identity: &Identity) -> Result<(), FunctionsError> {
        let key = identity.key();
        let _one_at_a_time = self.changing.lock().await;
        let function = self.get(&key).ok_or_else(|| FunctionsError::NotFound(key.clone()))?;
        let state = Arc::clone(&self.state);
        let log = Arc::clone(function.log());
        let removed = key.clone();
        let (launcher, names) = (Arc::clone(&self.launcher), identity.clone());
        tokio::task::spawn_blocking(move || -> Result<(), StateError> {
            state.remove(&removed)?;
            log.remove();
            launcher.templates.remove(&names.name, &names.namespace);
            Ok(())
        })
        .await??;
        self.by_key.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.retire(&function, function.retire());
        Ok(())
    }

    /// Ends every process in order, and writes what is left of the logs. The deployments stay on disk.
    pub(crate) async fn shut_down(&self) {
        // A request that is still looking for one finds none, rather than a retired one again and again.
        let functions = std::mem::take(&mut *self.by_key.write().unwrap_or_else(PoisonError::into_inner));
        for function in functions.into_values() {
            self.retire(&function, function.retire());
        }
        let retiring = std::mem::take(&mut *self.retiring.lock().unwrap_or_else(PoisonError::into_inner));
        retiring.join_all().await;
        let logs = Arc::clone(&self.logs);
        if let Err(error) = tokio::task::spawn_blocking(move || logs.finish()).await {
            tracing::error!(%error, "The functions' logs may lack their last lines");
        }
    }

    fn make(&self, record: Record, old: Option<&Function>) -> Arc<Function> {
        let (log, account) = match old {
            Some(old) => (Arc::clone(old.log()), Arc::clone(old.account())),
            None => {
                let log = self.logs.function(record.spec.name.as_str(), record.spec.namespace.as_str());
                (Arc::new(log), Account::new(&self.admission))
            }
        };
        Arc::new(Function::new(record, log, account, Arc::clone(&self.launcher)))
    }

    async fn start_and_keep(&self, key: &str, function: &Function) -> Result<(), FunctionsError> {
        let record = function.record();
        function.scale(record.replicas)?;
        self.keep(key, record).await
    }

    async fn keep(&self, key: &str, record: Record) -> Result<(), FunctionsError> {
        let (state, key) = (Arc::clone(&self.state), key.to_owned());
        tokio::task::spawn_blocking(move || state.put(&key, &record)).await??;
        Ok(())
    }

    /// Lets replicas finish what they do and ends them, in the background.
    fn retire(&self, function: &Function, replicas: Vec<Arc<Replica>>) {
        let patience = function.upstream_timeout().unwrap_or(UNLIMITED_PATIENCE + TIMEOUT_MARGIN);
        let mut retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        while retiring.try_join_next().is_some() {}
        for replica in replicas {
            retiring.spawn(async move { replica.retire(patience).await });
        }
    }

    fn get(&self, key: &str) -> Option<Arc<Function>> {
        self.read().get(key).cloned()
    }

    fn insert(&self, key: String, function: Arc<Function>) {
        self.by_key.write().unwrap_or_else(PoisonError::into_inner).insert(key, function);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<String, Arc<Function>>> {
        self.by_key.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record, with its image unpacked again where someone deleted the files.
fn with_files(mut record: Record, store: &Store) -> Record {
    let mut files = record.spec.resources.iter().chain(&record.spec.blocks);
    let complete = record.spec.kernel.exists() && files.all(|(_, path)| path.exists());
    if complete {
        return record;
    }
    let unpacked = record
        .deployment
        .image
        .parse()
        .map_err(|error: kernlet_image::ReferenceError| chain(&error))
        .and_then(|reference| store.unpack(&reference).map_err(|error| chain(&error)));
    match unpacked {
        Ok(unpacked) => {
            if unpacked.digest != record.spec.digest {
                tracing::warn!(function = %record.spec.name, image = %record.spec.image,
                    "The files of the image that was deployed are gone: the function goes on with what has its name now");
            }
            record.spec.digest = unpacked.digest;
            record.spec.kernel = unpacked.kernel;
            record.spec.resources = unpacked.resources;
            record.spec.blocks = unpacked.blocks;
        }
        Err(error) => {
            tracing::error!(function = %record.spec.name, %error, "A function's image is gone: deploy it again")
        }
    }
    record
}
