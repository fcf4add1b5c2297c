//! The platform as its users have it: `kernlet up`, and one function's `kernlet watchdog`, as processes of their own.
//! Used by suites that measure the whole way. Both end when they are dropped.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use kernlet_image::FunctionSpec;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    census::children,
    http::{Answer, Client},
    workshop::Workshop,
};

/// How long a function may take to become ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pause before the gateway is asked again whether a function is ready.
const POLL: Duration = Duration::from_millis(5);

/// A process that is killed and waited for in the end.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A gateway, with a connection to it.
#[derive(Debug)]
pub(crate) struct Platform {
    process: Process,
    address: SocketAddr,
    client: Client,
    authorization: String,
}

impl Platform {
    /// Starts the gateway on a free port.
    pub(crate) fn start(workshop: &Workshop) -> anyhow::Result<Self> {
        let home = workshop.home();
        let child = Command::new(workshop.program()?)
            .args(["up", "--listen", "127.0.0.1:0", "--home"])
            .arg(home)
            .env("KERNLET_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("kernlet cannot be started")?;
        let mut process = Process(child);
        let stdout = process.0.stdout.take().context("kernlet has no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next().context("kernlet ended before it listened")??;
        let address = first.strip_prefix("kernlet is listening on http://").context(first.clone())?;
        let address = address.parse()?;
        let client = Client::connect(address)?;
        // Whatever else it prints must not block it.
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { process, address, client, authorization: authorization(home)? })
    }

    /// Where the gateway listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gateway's process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// The process of the one replica that runs.
    pub(crate) fn watchdog(&self) -> anyhow::Result<u32> {
        match *children(self.pid())? {
            [watchdog] => Ok(watchdog),
            ref others => bail!("one function has {} processes", others.len()),
        }
    }

    /// Deploys a function from the image of its name, and waits until it is ready.
    pub(crate) fn deploy(&mut self, name: &str) -> anyhow::Result<()> {
        self.system(Method::POST, "/system/functions", &json!({ "service": name, "image": name }))?;
        self.wait_ready(name)
    }

    /// Deploys a function from any image, with environment variables; it becomes ready by and by.
    pub(crate) fn begin_deploy(&mut self, name: &str, image: &str, environment: &Value) -> anyhow::Result<()> {
        let deployment = json!({ "service": name, "image": image, "envVars": environment });
        self.system(Method::POST, "/system/functions", &deployment).map(drop)
    }

    /// Deploys a function from any image, with an isolation; it becomes ready by and by.
    pub(crate) fn begin_deploy_isolated(&mut self, name: &str, image: &str, isolation: &str) -> anyhow::Result<()> {
        let annotations = json!({ "dev.kernlet.isolation": isolation });
        let deployment = json!({ "service": name, "image": image, "annotations": annotations });
        self.system(Method::POST, "/system/functions", &deployment).map(drop)
    }

    /// Waits until a function is ready.
    pub(crate) fn wait_ready(&mut self, name: &str) -> anyhow::Result<()> {
        let give_up = Instant::now() + PATIENCE;
        while self.available_replicas(name)? == 0 {
            ensure!(Instant::now() < give_up, "{name} is deployed and does not become ready");
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Removes a function; its process ends by and by.
    pub(crate) fn begin_remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.system(Method::DELETE, "/system/functions", &json!({ "functionName": name })).map(drop)
    }

    /// Removes a function, and waits until it is gone.
    pub(crate) fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.begin_remove(name)?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            let path = format!("/system/function/{name}");
            let answer = self.administer(Method::GET, &path, Bytes::new())?;
            if answer.status == http::StatusCode::NOT_FOUND {
                return Ok(());
            }
            ensure!(Instant::now() < give_up, "{name} is removed and does not go away");
            thread::sleep(POLL);
        }
    }

    /// Calls a function; anything but success is an error.
    pub(crate) fn call(&mut self, name: &str, headers: &[(&str, &str)], body: Bytes) -> anyhow::Result<Answer> {
        self.client.send(Method::POST, &format!("/function/{name}"), headers, body)?.ok()
    }

    /// Calls a function, whatever the answer.
    pub(crate) fn try_call(&mut self, name: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.client.send(Method::POST, &format!("/function/{name}"), &[], body)
    }

    fn available_replicas(&mut self, name: &str) -> anyhow::Result<u64> {
        let answer = self.administer(Method::GET, &format!("/system/function/{name}"), Bytes::new())?.ok()?;
        let status: Value = serde_json::from_slice(&answer.body)?;
        Ok(status["availableReplicas"].as_u64().unwrap_or_default())
    }

    fn system(&mut self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        self.administer(method, path, serde_json::to_vec(body)?.into())?.ok()
    }

    fn administer(&mut self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let headers = [("authorization", self.authorization.as_str()), ("content-type", "application/json")];
        self.client.send(method, path, &headers, body)
    }
}

fn authorization(home: &Path) -> anyhow::Result<String> {
    let read = |name| fs::read_to_string(home.join("auth").join(name)).with_context(|| format!("no {name}"));
    let pair = format!("{}:{}", read("basic-auth-user")?.trim_end(), read("basic-auth-password")?.trim_end());
    Ok(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// One function's watchdog without a gateway, with a connection to it.
#[derive(Debug)]
pub(crate) struct Watchdog {
    _process: Process,
    client: Client,
    _folder: TempDir,
}

impl Watchdog {
    /// Starts it, calls the function at once, and waits for its answer.
    pub(crate) fn start_and_call(program: &Path, spec: &FunctionSpec, body: Bytes) -> anyhow::Result<Self> {
        let mut watchdog = Self::launch(program, spec)?;
        watchdog.call(&[], body)?;
        Ok(watchdog)
    }

    /// Starts it on a unix socket, as the gateway does, and waits until it is ready.
    pub(crate) fn start(program: &Path, spec: &FunctionSpec) -> anyhow::Result<Self> {
        let mut watchdog = Self::launch(program, spec)?;
        let give_up = Instant::now() + PATIENCE;
        while !watchdog.client.send(Method::GET, "/_/ready", &[], Bytes::new())?.status.is_success() {
            if Instant::now() >= give_up {
                bail!("the watchdog of {} does not become ready", spec.name);
            }
            thread::sleep(POLL);
        }
        Ok(watchdog)
    }

    fn launch(program: &Path, spec: &FunctionSpec) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let (socket, file) = (folder.path().join("socket"), folder.path().join("spec.json"));
        fs::write(&file, serde_json::to_vec(spec)?)?;
        let listener = UnixListener::bind(&socket)?;
        let child = Command::new(program)
            .args(["watchdog", "--listen", "fd:0", "--spec"])
            .arg(&file)
            .stdin(OwnedFd::from(listener))
            .stdout(Stdio::null())
            .spawn()
            .context("the watchdog cannot be started")?;
        let process = Process(child);
        Ok(Self { _process: process, client: Client::connect_unix(&socket)?, _folder: folder })
    }

    /// Calls the function; anything but success is an error.
    pub(crate) fn call(&mut self, headers: &[(&str, &str)], body: Bytes) -> anyhow::Result<Answer> {
        self.client.send(Method::POST, "/", headers, body)?.ok()
    }
}

/// Self times of the stages of one invocation in milliseconds, from its `Server-Timing` headers.
pub(crate) fn stage(answer: &Answer, name: &str) -> Option<f64> {
    let values = answer.headers.get_all("server-timing").iter().filter_map(|value| value.to_str().ok());
    let mut stages = values.flat_map(|value| value.split(',')).map(str::trim);
    stages.find_map(|stage| stage.strip_prefix(name)?.strip_prefix(";dur=")?.parse().ok())
}

/// Times that the guest left the processor to the monitor in one invocation, from the same headers.
pub(crate) fn exits(answer: &Answer) -> Option<f64> {
    let values = answer.headers.get_all("server-timing").iter().filter_map(|value| value.to_str().ok());
    let mut entries = values.flat_map(|value| value.split(',')).map(str::trim);
    entries.find_map(|entry| entry.strip_prefix("exits;desc=\"")?.strip_suffix('"')?.parse().ok())
}
