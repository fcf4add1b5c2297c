//! Accelerator operations at an agent in another process: what the way there and back takes, over a unix socket with
//! shared memory and over TCP, and what it adds to a classification.

use std::{
    net::TcpListener,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use kernlet_abi::accel::{Classification, ClassifyParams, SgemmParams, operation};
use kernlet_accel::{Arg, Data, Dims, Dtype, RawCall, Resource, Runtime};
use kernlet_accel_agent::{Address, Agent, Connection, Limits, Listener, Options, RemoteSession};
use kernlet_accel_plugins::{Noop, default_plugins};
use zerocopy::{FromZeros as _, IntoBytes as _};

use super::accel_guest::{Sink, plugin};
use crate::{
    native,
    stats::{Plan, alone, in_turn, timed},
    table::{Row, Target},
    workshop::{Workshop, model_file, picture},
};

/// Operations that are timed together: one alone is not much longer than reading the clock.
const BATCH: u32 = 100;

/// Sizes of payload.
const SIZES: [(usize, &str); 4] =
    [(0, "us_at_0"), (4 << 10, "us_at_4_KiB"), (1 << 20, "us_at_1_MiB"), (16 << 20, "us_at_16_MiB")];

pub(super) fn run(workshop: &Workshop) -> anyhow::Result<Vec<Row>> {
    let agent = Process::start(workshop.home())?;
    let (unix, tcp) = (agent.connect("unix")?, agent.connect("tcp")?);
    ensure!(unix.shares_memory() && !tcp.shares_memory(), "the transports are not what they should be");
    let mut rows = vec![in_process()?, noop("accel.noop_unix_us", Target::Below(15.0), &unix)?];
    rows.push(noop("accel.noop_tcp_us", Target::None, &tcp)?);
    rows.push(payloads("accel.payload_unix_bytes_copied", Target::AtMost(0.0), &unix)?);
    rows.push(payloads("accel.payload_tcp_bytes_copied", Target::None, &tcp)?);
    rows.push(classify("accel.classify_agent_overhead_percent", &unix, None, &native::Native::load()?)?);
    match plugin("onnxruntime") {
        Ok(plugin) => {
            let direct = native::Native::load_with(vec![plugin])?;
            let name = "accel.classify_onnxruntime_agent_overhead_percent";
            rows.push(classify(name, &unix, Some("onnxruntime"), &direct)?);
        }
        Err(why) => eprintln!("SKIPPED accel.classify_onnxruntime_agent_overhead_percent: {why}"),
    }
    rows.push(batches(&unix)?);
    rows.push(fairness(&agent)?);
    Ok(rows)
}

/// An agent; it ends when this is dropped.
struct Process {
    process: Child,
    folder: PathBuf,
}

impl Process {
    fn start(home: &Path) -> anyhow::Result<Self> {
        let folder = home.join("agent");
        std::fs::create_dir_all(&folder)?;
        let process = Command::new(std::env::current_exe()?)
            .args(["--probe", "accel-agent", "--echo"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("an agent cannot be started")?;
        let this = Self { process, folder };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !this.folder.join("tcp").exists() {
            ensure!(Instant::now() < deadline, "the agent does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(this)
    }

    fn connect(&self, transport: &str) -> anyhow::Result<Connection> {
        let address: Address = match transport {
            "unix" => Address::Unix(self.folder.join("agent.sock")),
            _ => std::fs::read_to_string(self.folder.join("tcp"))?.parse()?,
        };
        Ok(Connection::open(&address, &Options::default())?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The agent, in a process of its own, until standard input ends.
pub(super) fn serve(folder: &Path) -> anyhow::Result<()> {
    let mut plugins = default_plugins();
    plugins.insert(0, Arc::new(Sink));
    // Only for who asks for it, since it comes last and its cost is its own.
    plugins.extend(plugin("onnxruntime").ok());
    let agent = Agent::start(plugins, Limits::default(), Box::new(|_| {}))?;
    agent.listen(Listener::Unix(UnixListener::bind(folder.join("agent.sock"))?))?;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let address = format!("tcp://{}", tcp.local_addr()?);
    agent.listen(Listener::Tcp(tcp))?;
    let half = folder.join("tcp.part");
    std::fs::write(&half, address)?;
    std::fs::rename(half, folder.join("tcp"))?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

fn in_process() -> anyhow::Result<Row> {
    let session = Runtime::new(vec![Arc::new(Noop::new())]).session();
    let mut once = || {
        let (time, ()) = timed(|| (0..BATCH * 100).try_for_each(|_| session.ops().noop().map(drop)))?;
        Ok(time)
    };
    let times = alone(Plan { warm_up: 3, ..Plan::singly(Duration::from_secs(1)) }, &mut once)?;
    let nanos = times.micros().median * 1e3 / f64::from(BATCH * 100);
    Ok(Row::new("accel.noop_inprocess_ns", nanos, "ns", Target::None))
}

fn noop(name: &'static str, target: Target, connection: &Connection) -> anyhow::Result<Row> {
    let session = connection.session(None)?;
    let mut once = || timed(|| session.run(operation::NOOP, &mut [], None)).map(|(time, _)| time).map_err(Into::into);
    let plan = Plan { warm_up: 1000, calls: 100, ..Plan::singly(Duration::from_secs(3)) };
    let busy = alone(plan, &mut once)?.micros();
    // Both sides have gone to sleep.
    let mut idle = || {
        std::thread::sleep(Duration::from_millis(1));
        once()
    };
    let idle = alone(Plan { warm_up: 10, ..Plan::singly(Duration::from_secs(2)) }, &mut idle)?.micros();
    Ok(Row::new(name, busy.median, "µs", target).summary("busy_us", busy).summary("after_1_ms_of_silence_us", idle))
}

fn payloads(name: &'static str, target: Target, connection: &Connection) -> anyhow::Result<Row> {
    let session = connection.session(None)?;
    let mut copied = 0;
    let mut times = Vec::new();
    for (size, name) in SIZES {
        let shared = connection.allocate(size);
        let elsewhere = if shared.is_some() { Vec::new() } else { vec![0.0_f32; size / 4] };
        let matrix = shared.as_deref().unwrap_or_else(|| elsewhere.as_bytes());
        let mut once = || {
            let (time, bytes) = timed(|| payload(&session, matrix))?;
            copied = copied.max(bytes);
            Ok(time)
        };
        let time = alone(Plan { warm_up: 10, ..Plan::singly(Duration::from_secs(1)) }, &mut once)?;
        times.push((name, time.micros()));
    }
    // The parameters, of 56 bytes, are copied by whoever reads them, as everywhere; they are no payload.
    let copied = copied.saturating_sub(2 * size_of::<SgemmParams>() as u64);
    let row = Row::new(name, super::classify::count(copied), "bytes", target);
    Ok(times.into_iter().fold(row, |row, (name, time)| row.summary(name, time)))
}

/// A matrix of one row goes there, to be multiplied by one without columns, by a plugin that does not even do that.
fn payload(session: &RemoteSession, matrix: &[u8]) -> anyhow::Result<u64> {
    let columns = i64::try_from(matrix.len() / 4)?;
    let params = SgemmParams { m: 1, k: columns, lda: columns, alpha: 1.0, ..SgemmParams::default() };
    let float = |data| Arg::new(data, Dtype::F32, Dims::NONE);
    let (none, room): (&[u8], &mut [u8]) = (&[], &mut []);
    let mut args = [
        Arg::bytes(Data::In(params.as_bytes())),
        float(Data::In(matrix)),
        float(Data::In(none)),
        float(Data::InOut(room)),
    ];
    Ok(session.run(operation::BLAS_SGEMM, &mut args, None)?.bytes_copied)
}

/// A session that has the demo's model and labels.
struct Classifier {
    session: RemoteSession,
    params: ClassifyParams,
}

impl Classifier {
    fn open(connection: &Connection, hint: Option<&str>) -> anyhow::Result<Self> {
        let session = connection.session(hint)?;
        let register = |name: &str, file: &str| -> anyhow::Result<u32> {
            Ok(session.register(name, &Resource::from_file(model_file(file))?)?)
        };
        let model = register("model", "mobilenet_v2_fp16w.onnx")?;
        let params = ClassifyParams { model, labels: register("labels", "imagenet_classes.txt")? };
        Ok(Self { session, params })
    }

    fn classify(&self, picture: &[u8]) -> anyhow::Result<Duration> {
        let mut ranking = [(); 5].map(|()| Classification::new_zeroed());
        let mut args = [
            Arg::bytes(Data::In(self.params.as_bytes())),
            Arg::bytes(Data::In(picture)),
            Arg::bytes(Data::Out(ranking.as_mut_bytes())),
        ];
        let (time, _) = timed(|| self.session.run(operation::IMAGE_CLASSIFY, &mut args, None))?;
        ensure!(ranking[0].probability > 0.0, "the agent gave no class");
        Ok(time)
    }
}

/// An operation without work, of sixteen that go to the agent with one word.
fn batches(connection: &Connection) -> anyhow::Result<Row> {
    const AT_ONCE: u32 = 16;
    let session = connection.session(None)?;
    let mut together = || {
        let mut calls = [(); AT_ONCE as usize].map(|()| RawCall { operation: operation::NOOP, args: &mut [] });
        let (time, outcomes) = timed(|| anyhow::Ok(session.run_batch(&mut calls, None)))?;
        ensure!(outcomes.iter().all(Result::is_ok), "an operation of a batch failed");
        Ok(time / AT_ONCE)
    };
    let mut one_by_one = || {
        let (time, ()) =
            timed(|| (0..AT_ONCE).try_for_each(|_| session.run(operation::NOOP, &mut [], None).map(drop)))?;
        Ok(time / AT_ONCE)
    };
    let plan = Plan { warm_up: 100, calls: 100, ..Plan::singly(Duration::from_secs(3)) };
    let [together, one_by_one] = in_turn(plan, [&mut together, &mut one_by_one])?;
    let times = one_by_one.over(&together);
    Ok(Row::new("accel.noop_unix_batch_times", times.median, "×", Target::None)
        .summary("ratio_of_each_round", times)
        .summary("together_us", together.micros())
        .summary("one_by_one_us", one_by_one.micros()))
}

/// How long a heavy and a light client work beside each other.
const TOGETHER: Duration = Duration::from_secs(6);

/// Calls of the heavy client at a time; the light one has one.
const HEAVY: usize = 16;

/// Pictures that one client has classified in a second, with so many calls at a time.
fn rate(connection: &Connection, calls: usize, picture: &[u8]) -> anyhow::Result<f64> {
    let classifiers = (0..calls).map(|_| Classifier::open(connection, Some("rten"))).collect::<Result<Vec<_>, _>>()?;
    let begun = Instant::now();
    let work = |classifier: Classifier| {
        let mut done = 0_u32;
        while begun.elapsed() < TOGETHER {
            classifier.classify(picture)?;
            done += 1;
        }
        anyhow::Ok(done)
    };
    let done: u32 = thread::scope(|scope| {
        let threads: Vec<_> = classifiers.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, anyhow::Result<u32>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a client's thread panicked"))?
        };
        threads.into_iter().map(join).sum::<anyhow::Result<u32>>()
    })?;
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

/// A client with many calls at a time beside one with a single one: Jain's index of what each gets, 1 where both get the same
/// and 0.5 where one gets everything.
fn fairness(agent: &Process) -> anyhow::Result<Row> {
    let picture = picture()?;
    let (heavy, light) = (agent.connect("unix")?, agent.connect("unix")?);
    let alone = rate(&light, 1, &picture)?;
    let (heavy, light) = thread::scope(|scope| {
        let heavy = scope.spawn(|| rate(&heavy, HEAVY, &picture));
        let light = rate(&light, 1, &picture)?;
        let heavy = heavy.join().map_err(|_| anyhow::anyhow!("the heavy client panicked"))??;
        anyhow::Ok((heavy, light))
    })?;
    let index = (heavy + light).powi(2) / (2.0 * (heavy.powi(2) + light.powi(2)));
    Ok(Row::new("accel.fairness_index", index, "", Target::None)
        .number("light_per_second_alone", alone)
        .number("light_per_second", light)
        .number("heavy_per_second", heavy))
}

fn classify(
    name: &'static str,
    connection: &Connection,
    hint: Option<&str>,
    direct: &native::Native,
) -> anyhow::Result<Row> {
    let picture = picture()?;
    let classifier = Classifier::open(connection, Some(hint.unwrap_or("rten")))?;
    let mut file = connection.allocate(picture.len()).context("there is no room for the picture")?;
    file.copy_from_slice(&picture);
    let mut through = || classifier.classify(&file);
    let mut directly = || direct.classify(&picture);
    let plan = Plan { warm_up: 20, ..Plan::singly(Duration::from_secs(12)) };
    let [through, directly] = in_turn(plan, [&mut through, &mut directly])?;
    let ratio = through.over(&directly);
    let percent = (ratio.median - 1.0) * 100.0;
    Ok(Row::new(name, percent, "%", Target::AtMost(2.0))
        .summary("ratio_of_each_pair", ratio)
        .summary("agent_ms", through.millis())
        .summary("native_ms", directly.millis()))
}
