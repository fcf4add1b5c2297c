//! The plugin `remote`: an agent's operations as if they were here.
//! Made from configuration by host programs, bindings and watchdogs. Resources go there when they are first used, and go
//! again when nobody has them; a connection that is lost is made again for the next operation.

use std::{
    collections::HashMap,
    fmt,
    os::fd::OwnedFd,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use kernlet_abi::hypercall::status;
use kernlet_accel::{
    Answer, Arg, Config, ConfigError, Cost, Data, Deadline, Dims, Done, Dtype, Encoded, EncodedArg, EncodedData, Kinds,
    Operation, Plugin, PluginError, RawCall, Resource, ResourceIdentity, ResourceWatch, operation::Task,
};
use rustix::event::PollFlags;

use crate::{
    address::{Address, AddressError},
    client::{Connection, Options, RemoteSession},
    dial::Dialler,
    error::AgentError,
    link::{Inbox, Link, lock, wait_for},
    tls::{ClientTls, TlsError},
};

/// How long an operation waits for an agent to come back, unless its deadline is earlier.
const REDIAL: Duration = Duration::from_secs(5);
/// First and longest pause between two attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// Room for a tensor whose size nobody knows, in bytes, at first and at most.
const GROWING: (usize, usize) = (64 * 1024, 64 * 1024 * 1024);
/// Most operations that go to an agent at once: those of a function's batch.
const BATCH_MAX: usize = kernlet_abi::accel::BATCH_MAX as usize;
/// What it takes to ask an agent at all, as against a plugin in this process.
const ROUND_TRIP: Cost = Cost::micros(10);

/// When an operation goes to the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Whenever it has it.
    #[default]
    Always,
    /// Only when no plugin here has it, or those decline.
    Missing,
}

/// Why there is no plugin `remote`.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The agent has no name that the operator gave.
    #[error(transparent)]
    Name(#[from] ConfigError),
    /// The address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The agent cannot be reached.
    #[error(transparent)]
    Agent(#[from] AgentError),
}

/// The plugin `remote`.
pub struct Remote {
    address: Address,
    options: Options,
    preference: Preference,
    operations: Vec<Operation>,
    kinds: Kinds,
    line: Mutex<Line>,
}

/// The way to the agent.
#[derive(Debug)]
struct Line {
    live: Option<Arc<Live>>,
    way: Way,
}

/// Where a connection comes from when one is lost.
#[derive(Debug)]
enum Way {
    /// This process makes it.
    Direct,
    /// The agent's supervisor hands it over, when the worker at the other end has ended.
    Lifeline(OwnedFd),
    /// Somebody makes it who may.
    Dialler(Dialler),
}

/// A connection with a session, and what is registered in it.
#[derive(Debug)]
struct Live {
    session: RemoteSession,
    registered: Mutex<HashMap<ResourceIdentity, Registered>>,
}

#[derive(Debug)]
struct Registered {
    id: u32,
    watch: ResourceWatch,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Remote {
    /// Connects to an agent, to see what it has.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn connect(address: Address, options: Options, preference: Preference) -> Result<Self, AgentError> {
        let connection = Connection::open(&address, &options)?;
        let way = connection.take_lifeline().map_or(Way::Direct, Way::Lifeline);
        Ok(Self::over(connection, way, address, options, preference))
    }

    /// The same by somebody else, who makes every connection to it.
    ///
    /// # Errors
    /// It cannot be reached.
    pub fn connect_by(
        mut dialler: Dialler,
        address: Address,
        options: Options,
        preference: Preference,
    ) -> Result<Self, AgentError> {
        let options = Options { lifeline: false, ..options };
        let connection = dialled(&mut dialler, &address, &options, Instant::now() + options.connect_time)?;
        Ok(Self::over(connection, Way::Dialler(dialler), address, options, preference))
    }

    fn over(connection: Connection, way: Way, address: Address, options: Options, preference: Preference) -> Self {
        let mut operations = Vec::new();
        let mut kinds = Kinds::REMOTE;
        for offered in connection.operations() {
            let Ok(operation) = Operation::from_abi(offered.operation) else { continue };
            let is_its_own = matches!(operation, Operation::Generic | Operation::Profile);
            if !is_its_own && !operations.contains(&operation) {
                operations.push(operation);
            }
            kinds = kinds | Kinds::from_bits(offered.kinds);
        }
        // No session yet, since that would need a thread.
        let session = RemoteSession::unopened(connection);
        let line = Line { way, live: Some(Arc::new(Live { session, registered: Mutex::default() })) };
        Self { address, options, preference, operations, kinds, line: Mutex::new(line) }
    }

    /// The agent that a configuration names; `None` when it names none.
    ///
    /// # Errors
    /// The configuration is wrong, or the agent cannot be reached.
    pub fn from_config(config: &Config) -> Result<Option<Self>, RemoteError> {
        let Some(agent) = config.agent_address(None)? else { return Ok(None) };
        let options = Options { tls: ClientTls::from_config(&config.tls)?, ..Options::default() };
        Ok(Some(Self::connect(agent.parse()?, options, Preference::Always)?))
    }

    /// The connection, made again if it was lost.
    fn live(&self, deadline: Instant) -> Result<Arc<Live>, AgentError> {
        let mut line = lock(&self.line);
        if let Some(live) = line.live.as_ref().filter(|live| !live.session.connection().is_lost()) {
            if live.session.is_open() {
                return Ok(Arc::clone(live));
            }
            let session = live.session.connection().session_by(None, deadline);
            if let Ok(session) = session {
                let live = Arc::new(Live { session, registered: Mutex::default() });
                line.live = Some(Arc::clone(&live));
                return Ok(live);
            }
        }
        line.live = None;
        let live = Arc::new(self.redial(&mut line, deadline)?);
        line.live = Some(Arc::clone(&live));
        Ok(live)
    }

    fn redial(&self, line: &mut Line, deadline: Instant) -> Result<Live, AgentError> {
        let mut pause = PAUSE.0;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE.0);
            let options = Options { connect_time: left, ..self.options.clone() };
            let connection = match &mut line.way {
                Way::Direct => Connection::open(&self.address, &options),
                Way::Lifeline(lifeline) => self.await_connection(lifeline, options, deadline),
                Way::Dialler(dialler) => dialled(dialler, &self.address, &options, deadline),
            };
            let session = connection.and_then(|connection| {
                if matches!(line.way, Way::Direct)
                    && let Some(lifeline) = connection.take_lifeline()
                {
                    line.way = Way::Lifeline(lifeline);
                }
                connection.session_by(None, deadline)
            });
            match session {
                Ok(session) => return Ok(Live { session, registered: Mutex::default() }),
                Err(error) if Instant::now() + pause >= deadline => return Err(error),
                Err(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The connection that the agent's supervisor hands over when the worker was replaced.
    fn await_connection(
        &self,
        lifeline: &OwnedFd,
        options: Options,
        deadline: Instant,
    ) -> Result<Connection, AgentError> {
        let address = self.address.to_string();
        let lost = |why: String| AgentError::Lost { address: address.clone(), why };
        let lifeline = lifeline.try_clone().map_err(|error| AgentError::System("hold on to the agent", error))?;
        if !wait_for(&lifeline, PollFlags::IN, Some(deadline)).map_err(|error| lost(format!(": {error}")))? {
            return Err(AgentError::TimedOut { address });
        }
        let mut inbox = Inbox::new(Arc::new(Link::plain(lifeline)));
        let mut byte = [0];
        inbox.exact(&mut byte).map_err(|_| lost(", and so is its supervisor".to_owned()))?;
        let socket = inbox.descriptor().ok_or_else(|| lost(", and its supervisor hands over nothing".to_owned()))?;
        Connection::over(socket, &self.address, &Options { lifeline: false, ..options })
    }

    /// What became of a worker that was lost with an operation.
    fn explain(&self, live: &Live, operation: Operation, deadline: Instant) -> PluginError {
        let (lost, _) = live.session.connection().instance();
        let address = &self.address;
        let why = match self.live(deadline) {
            Ok(next) => match next.session.connection().instance() {
                (number, died) if number > lost && !died.is_empty() => format!(": {died}; another one serves now"),
                _ => "; it can be reached again".to_owned(),
            },
            Err(error) => format!(", and cannot be reached again: {error}"),
        };
        let text = format!("the agent at {address} was lost while it carried out {operation}{why}");
        PluginError::Lost(text.into())
    }

    fn perform(&self, mut task: Task<'_>, deadline: Option<Instant>) -> Result<Done, PluginError> {
        let operation = task.operation();
        let patience = || {
            let end = Instant::now() + REDIAL;
            deadline.map_or(end, |deadline| deadline.min(end))
        };
        let mut again = true;
        let mut room = GROWING.0;
        loop {
            let live = self.live(patience())?;
            live.sweep();
            let encoded = match task.encode(|resource| live.id_of(resource, deadline)) {
                Ok(encoded) => encoded,
                // Nothing was begun: another connection may do.
                Err(error) if error.is_lost() && again => {
                    again = false;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let grows = encoded.args.iter().any(|arg| matches!(arg.data, EncodedData::Growing(_)));
            match run(&live.session, encoded, room, deadline) {
                Ok(copied) => return Ok(Done { bytes_copied: copied }),
                Err(Failed::Agent(error)) if error.is_lost() => return Err(self.explain(&live, operation, patience())),
                Err(Failed::Agent(error)) if grows && error.status() == status::ERANGE && room < GROWING.1 => {
                    room *= 8;
                }
                Err(Failed::Agent(error)) if error.status() == status::ENOTSUP => {
                    return Err(PluginError::declined(error.to_string()));
                }
                Err(Failed::Agent(error)) => return Err(error.into()),
                Err(Failed::Result(error)) => return Err(error),
            }
        }
    }
}

impl Remote {
    /// Several tasks with one word to the agent; `None`, and nothing is begun, where that cannot be.
    fn perform_batch(&self, tasks: &mut [Task<'_>], deadline: Option<Instant>) -> Option<Vec<Answer>> {
        let end = Instant::now() + REDIAL;
        let patience = deadline.map_or(end, |deadline| deadline.min(end));
        let live = self.live(patience).ok()?;
        live.sweep();
        let operations: Vec<Operation> = tasks.iter().map(Task::operation).collect();
        let encoded = tasks.iter_mut().map(|task| task.encode(|resource| live.id_of(resource, deadline)));
        let mut encoded = encoded.collect::<Result<Vec<_>, _>>().ok()?;
        // Of what grows nobody knows how often it has to be asked for.
        if encoded.iter().flat_map(|task| &task.args).any(|arg| matches!(arg.data, EncodedData::Growing(_))) {
            return None;
        }
        let mut grown: Vec<Vec<Vec<u64>>> = encoded.iter().map(|task| vec![Vec::new(); task.args.len()]).collect();
        let begun = Instant::now();
        let numbers: Vec<u32> = encoded.iter().map(|task| task.operation).collect();
        let mut args: Vec<Vec<Arg<'_>>> =
            encoded.iter_mut().zip(&mut grown).map(|(task, grown)| raw(task, grown)).collect();
        let calls = numbers.iter().zip(&mut args).map(|(operation, args)| RawCall { operation: *operation, args });
        let reports = live.session.run_batch(&mut calls.collect::<Vec<_>>(), deadline);
        let results: Vec<Vec<Written>> = args.iter().map(|args| args.iter().map(result_of).collect()).collect();
        drop(args);
        // Each has its own time at the agent, and its share of the way there.
        let there: Duration = reports.iter().flatten().map(|report| report.elapsed).sum();
        let count = u32::try_from(reports.len()).unwrap_or(u32::MAX).max(1);
        let way = begun.elapsed().saturating_sub(there) / count;
        let mut answers = Vec::with_capacity(reports.len());
        for (((report, task), results), operation) in reports.into_iter().zip(encoded).zip(results).zip(operations) {
            let elapsed = way + report.as_ref().map_or(Duration::ZERO, |report| report.elapsed);
            let outcome = match report {
                Ok(report) => {
                    let none = vec![Vec::new(); task.args.len()];
                    tell(task, &none, results).map(|()| Done { bytes_copied: report.bytes_copied })
                }
                Err(error) if error.is_lost() => Err(self.explain(&live, operation, patience)),
                Err(error) if error.status() == status::ENOTSUP => Err(PluginError::declined(error.to_string())),
                Err(error) => Err(error.into()),
            };
            answers.push(Answer { outcome, elapsed });
        }
        Some(answers)
    }
}

/// A connection that somebody else makes.
fn dialled(
    dialler: &mut Dialler,
    address: &Address,
    options: &Options,
    deadline: Instant,
) -> Result<Connection, AgentError> {
    let unreachable = |source| AgentError::Connect { address: address.to_string(), source };
    Connection::over(dialler.dial(deadline).map_err(unreachable)?, address, options)
}

/// Why an operation has no result.
enum Failed {
    Agent(AgentError),
    /// The agent's result does not fit.
    Result(PluginError),
}

/// Carries out a task that was turned into raw arguments, and tells it what was written.
fn run(
    session: &RemoteSession,
    mut encoded: Encoded<'_>,
    room: usize,
    deadline: Option<Instant>,
) -> Result<u64, Failed> {
    let mut grown: Vec<Vec<u64>> = encoded
        .args
        .iter()
        .map(|arg| if matches!(arg.data, EncodedData::Growing(_)) { vec![0; room / 8] } else { Vec::new() })
        .collect();
    let operation = encoded.operation;
    let mut args = raw(&mut encoded, &mut grown);
    let report = session.run(operation, &mut args, deadline).map_err(Failed::Agent)?;
    let results = args.iter().map(result_of).collect();
    tell(encoded, &grown, results).map_err(Failed::Result)?;
    Ok(report.bytes_copied)
}

/// The raw arguments of a task; those that grow have `grown`.
fn raw<'a>(encoded: &'a mut Encoded<'_>, grown: &'a mut [Vec<u64>]) -> Vec<Arg<'a>> {
    let arg = |(arg, grown): (&'a mut EncodedArg<'_>, &'a mut Vec<u64>)| {
        let data = match &mut arg.data {
            EncodedData::Params(bytes) => Data::In(bytes),
            EncodedData::In(bytes) => Data::In(bytes),
            EncodedData::Out(bytes) => Data::Out(bytes),
            EncodedData::InOut(bytes) => Data::InOut(bytes),
            EncodedData::Growing(_) => Data::Out(zerocopy::IntoBytes::as_mut_bytes(grown.as_mut_slice())),
        };
        Arg { custom: arg.custom, ..Arg::new(data, arg.dtype, arg.dims) }
    };
    encoded.args.iter_mut().zip(grown).map(arg).collect()
}

/// Type, shape and length of what was written.
type Written = (Dtype, Dims, u64);

const fn result_of(arg: &Arg<'_>) -> Written {
    (arg.dtype, arg.dims, arg.written)
}

/// Tells a task what was written.
fn tell(encoded: Encoded<'_>, grown: &[Vec<u64>], results: Vec<Written>) -> Result<(), PluginError> {
    for ((arg, grown), (dtype, dims, written)) in encoded.args.into_iter().zip(grown).zip(results) {
        if let EncodedData::Growing(buf) = arg.data {
            let to = buf.claim(dtype, dims)?;
            let from = zerocopy::IntoBytes::as_bytes(grown.as_slice());
            let len = to.len().min(from.len());
            to[..len].copy_from_slice(&from[..len]);
        } else {
            arg.finish(dtype, dims, written)?;
        }
    }
    Ok(())
}

impl Live {
    /// What a resource is called there; it is sent if it is not there yet.
    fn id_of(&self, resource: &Resource, deadline: Option<Instant>) -> Result<u32, AgentError> {
        let mut registered = lock(&self.registered);
        if let Some(known) = registered.get(&resource.identity()) {
            return Ok(known.id);
        }
        let id = self.session.add(resource, deadline)?;
        registered.insert(resource.identity(), Registered { id, watch: resource.watch() });
        Ok(id)
    }

    /// Takes back what nobody here has any more.
    fn sweep(&self) {
        let mut registered = lock(&self.registered);
        let gone: Vec<_> =
            registered.iter().filter(|(_, entry)| entry.watch.is_gone()).map(|(key, entry)| (*key, entry.id)).collect();
        for (identity, id) in gone {
            registered.remove(&identity);
            self.session.forget(id);
        }
    }
}

impl Plugin for Remote {
    fn name(&self) -> &'static str {
        "remote"
    }

    fn operations(&self) -> &[Operation] {
        &self.operations
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        match self.preference {
            // Whoever names an agent wants it used; only what is no work at all is done here.
            Preference::Always => ROUND_TRIP,
            Preference::Missing => Cost::nanos(u64::MAX),
        }
    }

    fn kinds(&self) -> Kinds {
        self.kinds
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        self.perform(task, deadline.instant())
    }

    fn batch_max(&self) -> usize {
        BATCH_MAX
    }

    fn run_batch(&self, mut tasks: Vec<Task<'_>>, deadline: Deadline) -> Vec<Answer> {
        if let Some(answers) = self.perform_batch(&mut tasks, deadline.instant()) {
            return answers;
        }
        let one_by_one = tasks.into_iter().map(|task| {
            let begun = Instant::now();
            let outcome = self.perform(task, deadline.instant());
            Answer { outcome, elapsed: begun.elapsed() }
        });
        one_by_one.collect()
    }
}
