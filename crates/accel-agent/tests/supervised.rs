//! Workers that die or hang are replaced, and their clients are told and served on; the plugin `remote` finds its way back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../../accel-plugins/tests/support/onnx.rs"]
mod onnx;
mod support;

use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use kernlet_abi::{accel::ModelParams, hypercall::status};
use kernlet_accel::{
    AccelError, Arg, Data, Dims, Operation, Resource, Runtime, Session,
    operation::{Elements, ModelRun, Task, Tensor, TensorBuf, TensorOut},
};
use kernlet_accel_agent::{Address, Bound, Connection, Limits, Options, Preference, Remote, Supervisor, Worker};
use kernlet_accel_plugins::Rten;
use rustix::process::{Pid, Signal, kill_process};
use zerocopy::IntoBytes as _;

use support::{Probe, content, tell, wait_until};

const WORKER: &str = "KERNLET_TEST_AGENT_WORKER";

/// Not a test: what the supervisor of the tests starts, which is this very program.
#[test]
fn the_worker_of_the_tests() {
    if std::env::var_os(WORKER).is_none() {
        return;
    }
    let limits = Limits { grace: Duration::from_millis(100), ..Limits::default() };
    let runtime = Runtime::new(vec![Arc::new(Probe::default()), Arc::new(Rten::new())]);
    Worker::from_stdin().unwrap().serve(&runtime, limits, None).unwrap();
}

struct Supervised {
    supervisor: Supervisor,
    address: Address,
    _folder: tempfile::TempDir,
}

fn supervised() -> Supervised {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("agent.sock"));
    let start = || {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--exact", "the_worker_of_the_tests", "--nocapture"]).env(WORKER, "1").stdout(Stdio::null());
        Ok(command)
    };
    let supervisor = Supervisor::start(vec![Bound::bind(&address, false).unwrap()], Box::new(start)).unwrap();
    Supervised { supervisor, address, _folder: folder }
}

impl Supervised {
    fn kill(&self) {
        let (worker, _) = self.supervisor.worker();
        kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), Signal::KILL).unwrap();
    }

    fn session(&self, lifeline: bool) -> Session {
        let options = Options { lifeline, memory: 4 << 20, ..Options::default() };
        let remote = Remote::connect(self.address.clone(), options, Preference::Always).unwrap();
        Runtime::new(vec![Arc::new(remote)]).session()
    }
}

fn ask(session: &Session, words: &[u8], deadline: Option<Instant>) -> Result<(), (i32, String)> {
    let mut args = [Arg::bytes(Data::In(words))];
    let outcome = session.run(Operation::OpenCv.abi_number(), &mut args, deadline);
    outcome.map(|_| ()).map_err(|error| (error.status(), error.message()))
}

#[test]
fn a_plugin_that_crashes_costs_its_caller_an_error_that_names_it_and_the_signal() {
    let home = supervised();
    for lifeline in [false, true] {
        let session = home.session(lifeline);
        ask(&session, b"go on", None).unwrap();
        let (number, message) = ask(&session, b"die", None).unwrap_err();
        assert_eq!(number, status::EIO, "{message}");
        for part in ["plugin probe carried out opencv", "SIGSEGV", "signal 11"] {
            assert!(message.contains(part), "{message}");
        }
        ask(&session, b"go on", None).unwrap();
    }
}

#[test]
fn a_plugin_that_hangs_beyond_its_deadline_is_ended_and_others_are_served_on() {
    let home = supervised();
    let (hanging, other) = (home.session(false), home.session(true));
    ask(&other, b"go on", None).unwrap();
    let deadline = Instant::now() + Duration::from_millis(50);
    let (number, message) = ask(&hanging, b"hang", Some(deadline)).unwrap_err();
    assert_eq!(number, status::ETIMEDOUT, "{message}");
    wait_until(|| home.supervisor.worker().1 == 2, || "the worker is not replaced".to_owned());
    // It may take the loss for the error of an operation that ran: it is told, and not done a second time.
    let served = (0..3).any(|_| ask(&other, b"go on", None).is_ok());
    assert!(served);
    ask(&hanging, b"go on", None).unwrap();
    let connection = Connection::open(&home.address, &Options::default()).unwrap();
    let (instance, died) = connection.instance();
    assert_eq!(instance, 2);
    assert!(died.contains("plugin probe carried out opencv beyond its deadline"), "{died}");
}

/// Runs a model of one input and one output of any size.
fn infer(session: &Session, model: &Resource, input: Elements<'_>, time: Duration) -> Result<TensorBuf, AccelError> {
    let mut output = TensorBuf::new();
    let dims = Dims::new(&[input.len() as u64]).unwrap();
    let run = ModelRun {
        model: model.clone(),
        options: &[],
        names: "",
        inputs: vec![Tensor::new(input, dims).unwrap()],
        outputs: vec![TensorOut::from(&mut output)],
    };
    session.perform(Task::OnnxModelRun(run), Some(Instant::now() + time)).map(|_| output)
}

#[test]
fn a_model_that_never_ends_or_takes_all_memory_costs_its_caller_an_error_and_others_a_new_worker_at_most() {
    let home = supervised();
    let session = home.session(true);
    let rows = [onnx::Dim::Named("N")];
    let value = |name, dtype| onnx::value(name, dtype, &rows);
    let model = |node, dtype| onnx::model(&[node], &[value("x", dtype)], &[value("y", onnx::FLOAT)], &[]);
    let relu = onnx::node("Relu", &["x"], &["y"], &[]);
    // As many numbers as its input's product says.
    let bomb = onnx::node("ConstantOfShape", &["x"], &["y"], &[]);
    let [relu, endless, bomb] =
        [model(relu, onnx::FLOAT), model(onnx::endless("x", "y"), onnx::FLOAT), model(bomb, onnx::INT64)]
            .map(Resource::from_bytes);
    let works = |session: &Session| {
        let run = || infer(session, &relu, (&[1.0_f32, -1.0][..]).into(), Duration::from_secs(60));
        // A worker that was lost meanwhile is told of once.
        let outcome = run().or_else(|_| run()).unwrap();
        assert_eq!(outcome.bytes(), [1.0_f32, 0.0].as_bytes());
    };
    works(&session);
    let error = infer(&session, &endless, (&[1.0_f32][..]).into(), Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.status(), status::ETIMEDOUT, "{}", error.message());
    wait_until(|| home.supervisor.worker().1 == 2, || "the worker is not replaced".to_owned());
    let connection = Connection::open(&home.address, &Options::default()).unwrap();
    let (_, died) = connection.instance();
    assert!(died.contains("plugin rten carried out onnx-model-run beyond its deadline"), "{died}");
    works(&session);
    // More than a number can count, and more than any address space has: the first is a panic, the second ends the process.
    for (side, words) in [(i64::from(i32::MAX), "capacity overflow"), (1 << 23, "signal 6")] {
        let error = infer(&session, &bomb, (&[side, side][..]).into(), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.status(), status::EIO, "{}", error.message());
        assert!(error.message().contains(words), "{}", error.message());
        works(&session);
    }
}

#[test]
fn an_agent_killed_under_load_is_back_and_resources_are_registered_again() {
    let home = supervised();
    let session = home.session(true);
    let model = session.register("model", Resource::from_bytes(*b"the model")).unwrap().get();
    let told = |session: &Session| {
        let params = ModelParams { model, inputs: 0 };
        let mut args = [Arg::bytes(Data::In(params.as_bytes()))];
        session.run(Operation::OnnxModelLoad.abi_number(), &mut args, None).unwrap_err().message()
    };
    assert!(told(&session).ends_with("the model"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    if let Err((number, message)) = ask(&session, b"go on", None) {
                        assert_eq!(number, status::EIO, "{message}");
                    }
                }
            });
        }
        home.kill();
    });
    ask(&session, b"go on", None).unwrap();
    assert!(told(&session).ends_with("the model"), "it was sent again to the new worker");
    assert_eq!(home.supervisor.worker().1, 2);
}

#[test]
fn resources_that_nobody_has_any_more_are_taken_back_from_the_agent() {
    let home = support::home();
    let remote = Remote::connect(home.address.clone(), Options::default(), Preference::Always).unwrap();
    let session = Runtime::new(vec![Arc::new(remote)]).session();
    let id = session.register("model", Resource::from_bytes(*b"the model")).unwrap().get();
    let params = ModelParams { model: id, inputs: 0 };
    for _ in 0..3 {
        let mut args = [Arg::bytes(Data::In(params.as_bytes()))];
        let error = session.run(Operation::OnnxModelLoad.abi_number(), &mut args, None).unwrap_err();
        assert!(error.message().ends_with("the model"), "{}", error.message());
    }
    assert_eq!(home.agent.stats().resources, 1, "it was sent once");
    session.unregister(id).unwrap();
    session.run(Operation::Noop.abi_number(), &mut [], None).unwrap();
    home.wait_until(|stats| stats.resources == 0);
}

#[test]
fn an_agent_that_is_not_there_is_named_with_how_to_start_one() {
    let nowhere: Address = "unix:///nowhere/agent.sock".parse().unwrap();
    let error = Remote::connect(nowhere, Options::default(), Preference::Always).unwrap_err();
    assert!(error.to_string().contains("kernlet accel agent --listen unix:///nowhere/agent.sock"), "{error}");
}

#[test]
fn a_client_that_is_killed_in_mid_operation_frees_all_it_had() {
    const CLIENT: &str = "KERNLET_TEST_AGENT_CLIENT";
    if let Some(path) = std::env::var_os(CLIENT) {
        let connection = Connection::open(&Address::Unix(path.into()), &Options::default()).unwrap();
        let session = connection.session(None).unwrap();
        let model = session.register("model", &Resource::from_bytes(vec![1; 1 << 20])).unwrap();
        assert!(!content(&session, model).is_empty());
        tell(&session, b"wait", None).unwrap();
        return;
    }
    let home = support::home();
    let Address::Unix(path) = &home.address else { panic!("another address") };
    let name = "a_client_that_is_killed_in_mid_operation_frees_all_it_had";
    let mut client = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CLIENT, path)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    home.door.wait_for(1);
    assert_eq!(home.agent.stats().resource_bytes, 1 << 20);
    client.kill().unwrap();
    client.wait().unwrap();
    home.wait_until(|stats| stats.connections == 0 && stats.resources == 0 && stats.resource_bytes == 0);
    home.door.open();
    home.wait_until(|stats| stats.sessions == 0 && stats.calls == 0);
}

#[test]
fn a_second_agent_at_one_socket_is_refused_and_a_dead_ones_socket_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("agent.sock"));
    let first = Bound::bind(&address, false).unwrap();
    let error = Bound::bind(&address, false).unwrap_err().to_string();
    assert!(error.contains("another agent"), "{error}");
    drop(first);
    Bound::bind(&address, false).unwrap();
}

#[test]
fn plain_tcp_is_refused_unless_it_is_asked_for_and_on_loopback() {
    let loopback: Address = "tcp://127.0.0.1:0".parse().unwrap();
    for (address, insecure) in [(loopback.clone(), false), ("tcp://0.0.0.0:0".parse().unwrap(), true)] {
        let error = Bound::bind(&address, insecure).unwrap_err().to_string();
        assert!(error.contains("tls://"), "{error}");
    }
    Bound::bind(&loopback, true).unwrap();
}
