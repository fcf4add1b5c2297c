//! Starts watchdogs and talks to them.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        OnceLock,
        mpsc::{Receiver, channel},
    },
    thread,
    time::Duration,
};

use kernlet_image::{FunctionConfig, FunctionSpec, Isolation, build::build};
use kernlet_jail::Mode;
use kernlet_monitor::{Backend, Hypervisor};
use kernlet_watchdog::Listen;
use serde_json::Value;
use tempfile::TempDir;

/// Names the specification to a test process that is to be a watchdog.
const SPEC: &str = "KERNLET_TEST_WATCHDOG_SPEC";

/// Where that watchdog listens.
const LISTEN: &str = "KERNLET_TEST_WATCHDOG_LISTEN";

/// After this long a test that waits for something has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether machines can run here.
pub(crate) fn kvm() -> bool {
    let Err(error) = Hypervisor::open() else { return true };
    assert!(env::var_os("KERNLET_REQUIRE_KVM").is_none_or(|value| value != "1"), "KVM is required: {error}");
    eprintln!("skipped, no machine can run here: {error}");
    false
}

/// The unikernel of a function in `functions/`, built when it is first needed.
fn kernel(function: &'static str, built: &'static OnceLock<Vec<u8>>) -> &'static [u8] {
    built.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../functions").join(function);
        let mut said = String::new();
        let progress = &mut |line: &str| said = format!("{said}{line}\n");
        build(&folder, progress).unwrap_or_else(|error| panic!("{error}: {said}")).parts.kernel
    })
}

/// A function to serve, in a folder of its own.
pub(crate) struct Deployment {
    pub(crate) spec: FunctionSpec,
    pub(crate) folder: TempDir,
}

impl Deployment {
    /// `functions/echo`: any body back.
    pub(crate) fn echo() -> Self {
        static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
        Self::new("echo", kernel("echo", &BUILT))
    }

    /// `functions/faults`: misbehaves as its path says.
    /// Machines keep their state, so that `/count` tells one machine from another.
    pub(crate) fn faults() -> Self {
        static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
        Self::new("faults", kernel("faults", &BUILT)).with(|config| config.isolation = Isolation::Reuse)
    }

    /// `functions/tour`: shows what the guest library gives.
    pub(crate) fn tour() -> Self {
        static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
        Self::new("tour", kernel("tour", &BUILT))
    }

    /// `functions/operations`: asks for the accelerator operation that its path names.
    pub(crate) fn operations() -> Self {
        static BUILT: OnceLock<Vec<u8>> = OnceLock::new();
        Self::new("operations", kernel("operations", &BUILT))
    }

    /// A function with this as its unikernel.
    pub(crate) fn new(name: &str, kernel: &[u8]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, kernel).unwrap();
        let spec = FunctionSpec {
            name: name.parse().unwrap(),
            namespace: "openfaas-fn".parse().unwrap(),
            replica: 0,
            image: format!("{name}:latest"),
            digest: format!("sha256:{}", "0".repeat(64)),
            kernel: path,
            resources: Vec::new(),
            blocks: Vec::new(),
            config: FunctionConfig::default(),
            environment: BTreeMap::new(),
            template: None,
        };
        Self { spec, folder }
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut FunctionConfig)) -> Self {
        change(&mut self.spec.config);
        self
    }

    pub(crate) fn fresh(self) -> Self {
        self.with(|config| config.isolation = Isolation::Fresh)
    }

    pub(crate) fn rewind(self) -> Self {
        self.with(|config| config.isolation = Isolation::Rewind)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.spec.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Starts a watchdog for it that takes over a listening socket, and waits until it is ready.
    pub(crate) fn serve(self) -> Watchdog {
        let watchdog = self.start();
        watchdog.wait_ready();
        watchdog
    }

    /// Starts a watchdog for it that takes over a listening socket.
    pub(crate) fn start(self) -> Watchdog {
        let socket = self.folder.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        self.start_on(&Listen::Stdin, socket, OwnedFd::from(listener).into())
    }

    /// Starts a watchdog for it.
    pub(crate) fn start_on(self, listen: &Listen, socket: PathBuf, stdin: Stdio) -> Watchdog {
        let spec = self.folder.path().join("spec.json");
        fs::write(&spec, serde_json::to_vec(&self.spec).unwrap()).unwrap();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "support::this_process_is_a_watchdog_when_it_is_told_so", "--nocapture"])
            .env(SPEC, &spec)
            .env(LISTEN, listen.to_string())
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The test harness prints lines of its own.
                if let Ok(line) = serde_json::from_str::<Value>(&line)
                    && lines.send(line).is_err()
                {
                    break;
                }
            }
        });
        Watchdog { child, log, socket, _deployment: self }
    }
}

#[test]
fn this_process_is_a_watchdog_when_it_is_told_so() {
    let (Ok(spec), Ok(listen)) = (env::var(SPEC), env::var(LISTEN)) else { return };
    let spec: FunctionSpec = serde_json::from_slice(&fs::read(spec).unwrap()).unwrap();
    kernlet_watchdog::run(&spec, &listen.parse().unwrap(), Backend::Kvm, Mode::BestEffort).unwrap();
}

/// A running watchdog; killed when dropped.
pub(crate) struct Watchdog {
    pub(crate) child: Child,
    log: Receiver<Value>,
    socket: PathBuf,
    _deployment: Deployment,
}

impl Watchdog {
    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        Client::new(UnixStream::connect(&self.socket).unwrap())
    }

    /// One request on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
        let mut client = self.connect();
        client.request(method, path, headers, body);
        client.answer(method)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path, "", b"")
    }

    pub(crate) fn post(&self, path: &str, body: &[u8]) -> Answer {
        self.request("POST", path, "", body)
    }

    /// Connections wait in the socket until the watchdog accepts them, so no polling for its start.
    fn wait_ready(&self) {
        while self.get("/_/ready").status != 200 {
            thread::yield_now();
        }
    }

    /// The next log line that fits.
    pub(crate) fn log_line(&self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect("the log line never came");
            if fits(&line) {
                return line;
            }
        }
    }

    /// Reads no more of the log.
    pub(crate) fn close_log(&mut self) {
        self.log = channel().1;
    }

    /// The rest of the log, up to its end.
    pub(crate) fn rest_of_log(&self) -> Vec<Value> {
        self.log.iter().collect()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One HTTP/1.1 connection, byte by byte under the test's control.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    reader: BufReader<UnixStream>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// A number of the record of what an invocation used.
pub(crate) fn usage(answer: &Answer, field: &str) -> u64 {
    let record = answer.header("x-kernlet-usage").unwrap_or_else(|| panic!("no record: {answer:?}"));
    let fields = record.split(", ").filter_map(|pair| pair.split_once('='));
    let found = fields.into_iter().find(|(name, _)| *name == field);
    found.unwrap_or_else(|| panic!("{field} is not in {record}")).1.parse().unwrap()
}

impl Client {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// Sends bytes; a server that hung up shows in the answer.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: f\r\nContent-Length: {length}\r\n{headers}\r\n");
        self.send(head.as_bytes());
        self.send(body);
    }

    /// Waits until an answer has begun to come, and leaves it there.
    pub(crate) fn wait_for_answer(&mut self) {
        assert!(!self.reader.fill_buf().unwrap().is_empty(), "the server hung up");
    }

    /// The next line, with what follows it up to an empty line thrown away.
    pub(crate) fn status_line(&mut self) -> String {
        let status = self.line().unwrap();
        while !self.line().unwrap().is_empty() {}
        status
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// The next answer, to a request with this method.
    pub(crate) fn answer(&mut self, method: &str) -> Answer {
        let status = self.line().unwrap();
        let status = status.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("not an answer: {status:?}"));
        let status = status[..3].parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().unwrap();
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if status == 100 {
            return self.answer(method);
        }
        if method != "HEAD"
            && let Some(length) = answer.header("content-length")
        {
            answer.body = vec![0; length.parse().unwrap()];
            self.reader.read_exact(&mut answer.body).unwrap();
        }
        answer
    }

    /// Whether the server has closed the connection, once it has something to say about it.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.reader.read(&mut [0]) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
