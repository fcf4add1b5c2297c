//! An agent and clients for the tests, with a plugin that does what a test says.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "each test file uses its part")]

use std::{
    os::unix::net::UnixListener,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, Instant},
};

use kernlet_abi::accel::ModelParams;
use kernlet_accel::{Arg, Cost, Data, Deadline, Dims, Done, Dtype, Operation, Plugin, PluginError, operation::Task};
use kernlet_accel_agent::{Address, Agent, AgentError, Connection, Limits, Listener, Options, RemoteSession, Stats};
use zerocopy::IntoBytes as _;

/// Opened and closed by tests; operations that are told to wait for it.
#[derive(Debug, Default)]
pub(crate) struct Door {
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Door {
    pub(crate) fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until so many operations stand before it.
    pub(crate) fn wait_for(&self, count: usize) {
        let state = self.state.lock().unwrap();
        drop(self.changed.wait_while(state, |state| state.1 < count).unwrap());
    }

    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| !state.0).unwrap();
        state.1 -= 1;
    }
}

/// Copies, says what it was given, waits, or breaks, as the first argument of `opencv` says.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) door: Arc<Door>,
}

impl Plugin for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn operations(&self) -> &[Operation] {
        &[Operation::Noop, Operation::FpgaArrayCopy, Operation::OpenCv, Operation::OnnxModelLoad, Operation::Exec]
    }

    fn cost(&self, _: &Task<'_>) -> Cost {
        Cost::nanos(1)
    }

    fn run(&self, task: Task<'_>, deadline: Deadline) -> Result<Done, PluginError> {
        match task {
            Task::FpgaArrayCopy(task) => task.to.copy_from_slice(task.from),
            // What the model says is told, so that a test sees which it was.
            Task::OnnxModelLoad(task) => {
                return Err(PluginError::invalid(String::from_utf8_lossy(task.model.bytes()).into_owned()));
            }
            Task::OpenCv(mut task) => match task.read.first().map(|arg| arg.bytes) {
                Some(b"wait") => self.door.pass(),
                Some(b"until the deadline") => {
                    while !deadline.has_passed() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    deadline.check("it ended")?;
                }
                Some(b"panic") => std::panic::panic_any("as it was told"),
                Some(b"die") => {
                    // The standard library's handler gives the signal back to the system the first time.
                    loop {
                        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::SEGV)
                            .unwrap();
                    }
                }
                Some(b"hang") => loop {
                    std::thread::park();
                },
                _ => {
                    for (from, to) in task.read.iter().zip(&mut task.write) {
                        let len = from.bytes.len().min(to.bytes.len());
                        to.bytes[..len].copy_from_slice(&from.bytes[..len]);
                        *to.written = len as u64;
                    }
                }
            },
            _ => {}
        }
        Ok(Done::default())
    }
}

/// An agent at a unix socket in a folder of its own.
pub(crate) struct Home {
    pub(crate) agent: Agent,
    pub(crate) door: Arc<Door>,
    pub(crate) address: Address,
    _folder: tempfile::TempDir,
}

pub(crate) fn home() -> Home {
    home_with(Limits::default())
}

pub(crate) fn home_with(limits: Limits) -> Home {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    let door = Arc::new(Door::default());
    let plugin: Arc<dyn Plugin> = Arc::new(Probe { door: Arc::clone(&door) });
    let agent = Agent::start(vec![plugin], limits, Box::new(|_| {})).unwrap();
    agent.listen(Listener::Unix(UnixListener::bind(&path).unwrap())).unwrap();
    Home { agent, door, address: Address::Unix(path), _folder: folder }
}

impl Home {
    pub(crate) fn connect(&self) -> Connection {
        Connection::open(&self.address, &Options { memory: 4 << 20, ..Options::default() }).unwrap()
    }

    /// Without shared memory: everything is sent.
    pub(crate) fn connect_by_stream(&self) -> Connection {
        Connection::open(&self.address, &Options { memory: 0, ..Options::default() }).unwrap()
    }

    /// Waits until the agent holds that.
    pub(crate) fn wait_until(&self, is_so: impl Fn(Stats) -> bool) {
        wait_until(|| is_so(self.agent.stats()), || format!("{:?}", self.agent.stats()));
    }
}

/// Waits for what has no event of its own, for as long as a test may take.
pub(crate) fn wait_until(mut is_so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let end = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < end, "{}", what());
        std::thread::yield_now();
    }
}

pub(crate) fn numbers(session: &RemoteSession, from: &[i32], to: &mut [i32]) -> Result<u64, AgentError> {
    let mut args = [
        Arg::new(Data::In(from.as_bytes()), Dtype::I32, Dims::NONE),
        Arg::new(Data::Out(to.as_mut_bytes()), Dtype::I32, Dims::NONE),
    ];
    session.run(Operation::FpgaArrayCopy.abi_number(), &mut args, None).map(|report| report.bytes_copied)
}

pub(crate) fn tell(session: &RemoteSession, words: &[u8], deadline: Option<Instant>) -> Result<(), AgentError> {
    let mut args = [Arg::bytes(Data::In(words))];
    session.run(Operation::OpenCv.abi_number(), &mut args, deadline).map(|_| ())
}

/// What a resource holds, by the plugin's words.
pub(crate) fn content(session: &RemoteSession, model: u32) -> String {
    let params = ModelParams { model, inputs: 0 };
    let mut args = [Arg::bytes(Data::In(params.as_bytes()))];
    session.run(Operation::OnnxModelLoad.abi_number(), &mut args, None).unwrap_err().to_string()
}

pub(crate) fn in_a_second() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(1))
}

pub(crate) fn in_a_minute() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(60))
}

/// Shut again, for the next.
pub(crate) fn close(door: &Door) {
    door.state.lock().unwrap().0 = false;
}

/// Ends a connection as the end of its process would.
pub(crate) fn cut(connection: &Connection) {
    connection.cut();
}
