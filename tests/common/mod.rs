//! What the end-to-end tests share: a platform in a home of its own, driven through the real binary and
//! real HTTP, and the images that they deploy, built once. It never reaches into the program's insides.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "no test file uses all of it")]

pub(crate) mod gdb;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes: a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(120);

/// Whether functions can run here. Where they cannot, a test that needs them says so and passes, unless
/// `KERNLET_REQUIRE_KVM=1` makes that a failure.
pub(crate) fn kvm_is_usable() -> bool {
    let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") else {
        return true;
    };
    let required = std::env::var_os("KERNLET_REQUIRE_KVM").is_some_and(|value| value == "1");
    assert!(!required, "KERNLET_REQUIRE_KVM=1, and /dev/kvm cannot be opened: {error}");
    eprintln!("skipped: it needs /dev/kvm, which cannot be opened: {error}");
    false
}

/// The checkout.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap())
}

/// One of the demo's pictures.
pub(crate) fn picture(name: &str) -> PathBuf {
    root().join("models/pictures").join(name)
}

/// The program, without anything of the user's environment that would change what it does.
pub(crate) fn kernlet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernlet"));
    for name in [
        "KERNLET_HOME",
        "KERNLET_BACKEND",
        "KERNLET_LOG",
        "KERNLET_MAX_INFLIGHT",
        "KERNLET_ACCEL_CONFIG",
        "KERNLET_ACCEL_AGENT",
        "KERNLET_ACCEL_CA",
        "KERNLET_ACCEL_CERT",
        "KERNLET_ACCEL_KEY",
        "OPENFAAS_URL",
        "OPENFAAS_USER",
        "OPENFAAS_PASSWORD",
    ] {
        command.env_remove(name);
    }
    command.current_dir(root()).stdin(Stdio::null());
    command
}

/// What a finished program wrote to stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a finished program wrote to stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Insists that a program succeeded.
#[track_caller]
pub(crate) fn succeeded(output: Output) -> Output {
    assert!(output.status.success(), "{}\n{}{}", output.status, stdout(&output), stderr(&output));
    output
}

/// Insists that a program failed with exit code 1 and an `error:` line; gives what it wrote to stderr.
#[track_caller]
pub(crate) fn failed(output: &Output) -> String {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.lines().any(|line| line.starts_with("error: ")), "{said}");
    said
}

/// The functions whose images every home has.
const FUNCTIONS: [&str; 5] = ["echo", "classify", "faults", "sgemm", "tour"];

/// A new home whose store has the images of [`FUNCTIONS`].
pub(crate) fn home() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    copy_folder(&built_images().join("images"), &home.path().join("images"));
    home
}

/// Builds the images once per test program, into a store that all test programs share, under a lock.
fn built_images() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let shared = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernlet-home");
        fs::create_dir_all(&shared).unwrap();
        let lock = File::create(shared.join("lock")).unwrap();
        lock.lock().unwrap();
        for function in FUNCTIONS {
            let folder = root().join("functions").join(function);
            succeeded(
                kernlet().arg("build").arg(folder).args(["-t", function, "--home"]).arg(&shared).output().unwrap(),
            );
        }
        shared
    })
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A running `kernlet up`, ended with the test.
pub(crate) struct Platform {
    child: Child,
    address: SocketAddr,
    home: PathBuf,
}

impl Platform {
    /// Starts one on a free port and waits until it says that it listens.
    pub(crate) fn start(home: &Path) -> Self {
        Self::start_with(kernlet(), home)
    }

    /// Starts one with a command that ends with the program.
    pub(crate) fn start_with(mut program: Command, home: &Path) -> Self {
        let mut child =
            program.args(["up", "--listen", "127.0.0.1:0", "--home"]).arg(home).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().expect("`kernlet up` ended before it listened").unwrap();
        let address =
            line.strip_prefix("kernlet is listening on http://").unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        // Whatever else it prints must not block it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, home: home.to_path_buf() }
    }

    /// Process id of the gateway.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Kills the gateway as a power cut would, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        kill_process(self.pid(), Signal::KILL).unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the gateway to stop, and gives its exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }

    /// Runs a subcommand against this platform.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command().args(args).output().unwrap()
    }

    /// Runs a subcommand against this platform with something on stdin.
    pub(crate) fn run_with_input<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut child = self
            .command()
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// The program, told about this platform.
    pub(crate) fn command(&self) -> Command {
        let mut command = kernlet();
        command.env("KERNLET_HOME", &self.home).env("OPENFAAS_URL", self.url());
        command
    }

    /// Deploys a function from the image of its name and waits until it is ready.
    #[track_caller]
    pub(crate) fn deploy(&self, function: &str) {
        succeeded(self.run(["deploy", function, "--image", function]));
    }

    /// The `Authorization` header for `/system/*`.
    pub(crate) fn authorization(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.home.join("auth").join(name)).unwrap();
        let pair = format!("{}:{}", read("basic-auth-user").trim_end(), read("basic-auth-password").trim_end());
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
    }

    /// Calls the gateway as an administrator.
    pub(crate) fn system(&self, method: Method, path: &str, body: Option<&Value>) -> Reply {
        let body = body.map(|value| serde_json::to_vec(value).unwrap()).unwrap_or_default();
        let authorization = self.authorization();
        self.send(method, path, &[("authorization", &authorization), ("content-type", "application/json")], body)
    }

    /// Calls a function.
    pub(crate) fn call(&self, function: &str, body: impl Into<Bytes>) -> Reply {
        self.send(Method::POST, &format!("/function/{function}"), &[], body)
    }

    /// Sends exactly this request.
    pub(crate) fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", self.address.to_string());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let exchange = async {
            let stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Reply { status: head.status, headers: head.headers, body }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await }).expect("no answer in time")
    }

    /// Process ids of the watchdogs that the gateway has started.
    pub(crate) fn watchdogs(&self) -> Vec<Pid> {
        children_of(self.pid())
    }

    /// Insists that a function still answers: whatever came before did the platform no harm.
    #[track_caller]
    pub(crate) fn still_serves_echo(&self) {
        let reply = self.call("echo", "still there?");
        assert_eq!((reply.status, reply.text().as_str()), (StatusCode::OK, "still there?"));
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ended_meanwhile = self.child.kill();
            let _ended_meanwhile = self.child.wait();
        }
    }
}

/// A whole HTTP answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// A header's value, empty when it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// The processes whose parent is this one, from `/proc/PID/stat` (proc(5): the fourth field is the parent,
/// and the second, in parentheses, may hold anything).
pub(crate) fn children_of(parent: Pid) -> Vec<Pid> {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
    let is_child = |pid: &i32| {
        let mut stat = String::new();
        let read = File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read_to_string(&mut stat));
        let fields = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_ascii_whitespace().collect::<Vec<_>>())
            .unwrap_or_default();
        let alive = fields.first().is_some_and(|state| *state != "Z");
        read.is_ok() && alive && fields.get(1) == Some(&parent.as_raw_nonzero().to_string().as_str())
    };
    processes.filter(is_child).filter_map(Pid::from_raw).collect()
}

/// A deployment as faas-cli writes it: labels and annotations that nobody set are `null`.
pub(crate) fn deployment(name: &str, image: &str) -> Value {
    json!({
        "service": name,
        "image": image,
        "namespace": "openfaas-fn",
        "envVars": {},
        "constraints": null,
        "secrets": null,
        "labels": null,
        "annotations": null,
        "limits": null,
        "requests": null,
        "readOnlyRootFilesystem": false
    })
}

/// Between two looks at what another process may have done; nothing depends on its length.
const POLL: Duration = Duration::from_millis(10);

/// Waits for what another process brings about; fails when it never comes.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let give_up = std::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(std::time::Instant::now() < give_up, "{what} never happened");
        std::thread::park_timeout(POLL);
    }
}
