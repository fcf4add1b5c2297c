//! Loads a function's models before its first request, on a thread of its own.
//! Started by the function, waited for by its workers, asked by `/_/ready`. Never loads a model twice.

use std::{
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use kernlet_accel::Session;
use kernlet_jail::{Role, confine};

use crate::error::{InvokeError, WatchdogError};

/// How long it may take, as long as an operation of an agent. What goes on for longer is a model that never ends, by which the
/// watchdog ends.
const LOAD_MAX: Duration = Duration::from_secs(300);

/// The loading of a function's models.
#[derive(Debug)]
pub(crate) struct Preload {
    function: Arc<str>,
    outcome: OnceLock<Result<(), String>>,
    waiting: Mutex<()>,
    done: Condvar,
}

impl Preload {
    /// Starts to load the models registered in `session`; `failed` is told why they could not be loaded.
    pub(crate) fn start(
        function: Arc<str>,
        session: Arc<Session>,
        failed: impl FnOnce(&str) + Send + 'static,
    ) -> Result<Arc<Self>, WatchdogError> {
        let preload =
            Arc::new(Self { function, outcome: OnceLock::new(), waiting: Mutex::new(()), done: Condvar::new() });
        let loading = Arc::clone(&preload);
        let load = move || {
            confine(Role::Loader);
            let outcome = session.preload_until(Instant::now().checked_add(LOAD_MAX)).map_err(|error| error.message());
            if let Err(why) = &outcome {
                failed(why);
            }
            loading.finish(outcome);
        };
        thread::Builder::new()
            .name("preload".to_owned())
            .spawn(load)
            .map_err(|source| WatchdogError::System { action: "start the thread that loads models", source })?;
        Ok(preload)
    }

    fn finish(&self, outcome: Result<(), String>) {
        let _held = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // Only this thread sets it.
        let _ = self.outcome.set(outcome);
        self.done.notify_all();
    }

    /// Whether the models are loaded; the error says why not.
    pub(crate) fn ready(&self) -> Result<(), InvokeError> {
        let function = || self.function.to_string();
        match self.outcome.get() {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(InvokeError::LoadFailed { function: function(), why: why.clone() }),
            None => Err(InvokeError::Loading { function: function() }),
        }
    }

    /// Waits for the models until `deadline`. Costs next to nothing once they are loaded.
    pub(crate) fn wait(&self, deadline: Instant) -> Result<(), InvokeError> {
        if self.outcome.get().is_none() {
            let held = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = deadline.saturating_duration_since(Instant::now());
            drop(self.done.wait_timeout_while(held, patience, |()| self.outcome.get().is_none()));
        }
        self.ready()
    }
}
