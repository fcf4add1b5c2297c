//! One deployed function: its record, its replicas, and the choice of one for each invocation.
//! The manager makes a new one for each deployment or update and retires the old; the proxy leases from it.
//! It never changes after it was made, save for its replicas.

use crate::admission::Refused;
use crate::deploy::key;
use crate::logs::FunctionLog;
use crate::metrics::Account;
use crate::replica::{Failure, Launcher, Lease, Phase, Replica, StartError};
use crate::state::Record;
use crate::wire::FunctionStatus;
use kernlet_image::{FunctionSpec, Namespace};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;

/// What the gateway waits beyond the function's own `exec_timeout`, so that the watchdog, which knows more, is the
/// one to say that the time is over.
pub(crate) const TIMEOUT_MARGIN: Duration = Duration::from_secs(5);

/// Why no replica can take an invocation.
#[derive(Debug, Error)]
pub(crate) enum LeaseError {
    /// A newer deployment has taken this one's place, or the function was removed.
    #[error("The deployment is retired")]
    Retired,
    /// Every replica's process keeps dying.
    #[error("Its {}", .0.cause)]
    Failing(Arc<Failure>),
    /// The gateway has as much to do as it takes.
    #[error("It {0}")]
    Full(Refused),
    /// The first replica could not be started.
    #[error("No replica can be started")]
    Start(#[from] StartError),
}

/// A deployed function.
#[derive(Debug)]
pub(crate) struct Function {
    /// `NAME.NAMESPACE`.
    full_name: String,
    record: Record,
    log: Arc<FunctionLog>,
    account: Arc<Account>,
    launcher: Arc<Launcher>,
    replicas: Mutex<Replicas>,
}

#[derive(Debug)]
struct Replicas {
    live: Vec<Arc<Replica>>,
    desired: u32,
    /// Ordinal of the next replica that is started.
    next: u32,
    /// Where the search for a free replica begins, so that equals take turns.
    turn: usize,
    retired: bool,
}

impl Function {
    /// A function without replicas; `record.replicas` of them are wanted.
    pub(crate) fn new(
        record: Record,
        log: Arc<FunctionLog>,
        account: Arc<Account>,
        launcher: Arc<Launcher>,
    ) -> Function {
        let replicas = Replicas { live: Vec::new(), desired: record.replicas, next: 0, turn: 0, retired: false };
        let full_name = key(record.spec.name.as_str(), record.spec.namespace.as_str());
        Function { full_name, record, log, account, launcher, replicas: Mutex::new(replicas) }
    }

    /// `NAME.NAMESPACE`.
    pub(crate) fn full_name(&self) -> &str {
        &self.full_name
    }

    /// The command that shows what the function said.
    pub(crate) fn log_command(&self) -> String {
        let FunctionSpec { name, namespace, .. } = &self.record.spec;
        if *namespace == Namespace::default() {
            format!("kernlet logs {name}")
        } else {
            format!("kernlet logs {name} --namespace {namespace}")
        }
    }

    /// What is kept of the function, with the number of replicas that is wanted now.
    pub(crate) fn record(&self) -> Record {
        Record { replicas: self.lock().desired, ..self.record.clone() }
    }

    /// How the function is run.
    pub(crate) fn spec(&self) -> &FunctionSpec {
        &self.record.spec
    }

    /// The function's log.
    pub(crate) fn log(&self) -> &Arc<FunctionLog> {
        &self.log
    }

    /// What the function did and used.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// The longest that an invocation may take here, if there is a limit.
    pub(crate) fn upstream_timeout(&self) -> Option<Duration> {
        let exec_timeout = self.record.spec.config.exec_timeout;
        (!exec_timeout.is_zero()).then(|| exec_timeout + TIMEOUT_MARGIN)
    }

    /// Starts or lets go of replicas until there are as many as wanted. Those let go of are returned, to be retired.
    pub(crate) fn scale(&self, wanted: u32) -> Result<Vec<Arc<Replica>>, StartError> {
        let mut replicas = self.lock();
        replicas.desired = wanted;
        let wanted = wanted as usize;
        while replicas.live.len() < wanted {
            self.start_one(&mut replicas)?;
        }
        Ok(replicas.live.split_off(wanted))
    }

    /// Lets go of every replica for good and returns them, to be retired.
    pub(crate) fn retire(&self) -> Vec<Arc<Replica>> {
        let mut replicas = self.lock();
        replicas.retired = true;
        std::mem::take(&mut replicas.live)
    }

    /// Takes the replica with the fewest invocations under way. With none at all, the first one is started.
    pub(crate) fn lease(&self) -> Result<Lease, LeaseError> {
        let seat = self.account.enter().map_err(LeaseError::Full)?;
        let mut replicas = self.lock();
        if replicas.retired {
            return Err(LeaseError::Retired);
        }
        if replicas.live.is_empty() {
            self.start_one(&mut replicas)?;
            replicas.desired = replicas.desired.max(1);
        }
        let count = replicas.live.len();
        let start = replicas.turn;
        replicas.turn = (start + 1) % count;
        let mut best: Option<&Arc<Replica>> = None;
        let mut failure = None;
        for replica in replicas.live.iter().cycle().skip(start % count).take(count) {
            match replica.phase() {
                Phase::Failing(why) => failure = Some(why),
                Phase::Starting | Phase::Ready => {
                    if best.is_none_or(|best| replica.in_flight() < best.in_flight()) {
                        best = Some(replica);
                    }
                }
            }
        }
        match (best, failure) {
            (Some(replica), _) => Ok(replica.lease(seat)),
            (None, Some(why)) => Err(LeaseError::Failing(why)),
            (None, None) => Err(LeaseError::Retired),
        }
    }

    /// The function as lists and descriptions show it.
    pub(crate) fn status(&self) -> FunctionStatus {
        let replicas = self.lock();
        let available = replicas.live.iter().filter(|replica| matches!(replica.phase(), Phase::Ready)).count();
        let Record { deployment, spec, created_at, .. } = &self.record;
        FunctionStatus {
            name: spec.name.to_string(),
            image: deployment.image.clone(),
            namespace: spec.namespace.to_string(),
            env_process: deployment.env_process.clone().filter(|process| !process.is_empty()),
            env_vars: deployment.env_vars.clone().unwrap_or_default(),
            constraints: deployment.constraints.clone().unwrap_or_default(),
            labels: deployment.labels.clone().unwrap_or_default(),
            annotations: deployment.annotations.clone().unwrap_or_default(),
            limits: deployment.limits.clone(),
            requests: deployment.requests.clone(),
            read_only_root_filesystem: deployment.read_only_root_filesystem.unwrap_or_default(),
            invocation_count: self.account.started().load(Ordering::Relaxed),
            replicas: replicas.desired,
            available_replicas: u32::try_from(available).unwrap_or(u32::MAX),
            created_at: created_at.clone(),
            usage: None,
        }
    }

    /// The processes of its replicas.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.lock().live.iter().filter_map(|replica| replica.process()).collect()
    }

    fn start_one(&self, replicas: &mut Replicas) -> Result<(), StartError> {
        let template = self.launcher.templates.place(&self.record.spec);
        let spec = FunctionSpec { replica: replicas.next, template, ..self.record.spec.clone() };
        replicas.live.push(Replica::start(&self.launcher, &spec, &self.log)?);
        replicas.next += 1;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Replicas> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
