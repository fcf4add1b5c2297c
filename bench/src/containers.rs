//! The same echo as a container: `runc run`, and `ctr run` with a containerd of this run's own. Both from a root file
//! system that lies there unpacked, without a network, so that nothing is measured but a container's start and end.
//! Used by the cold start's suite. Everything it makes is gone when it is dropped.

use std::{
    cell::Cell,
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Writes what it reads first, and ends: a container's start and end with as little as possible between them.
const ECHO: &str = "\
#include <unistd.h>
int main(void) {
    static char buffer[65536];
    ssize_t length = read(0, buffer, sizeof buffer);
    return length < 0 || write(1, buffer, length) != length;
}
";

/// How long containerd may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A folder with an OCI bundle.
#[derive(Debug)]
pub(crate) struct Containers {
    folder: TempDir,
    started: Cell<u32>,
}

/// A containerd.
#[derive(Debug)]
pub(crate) struct Containerd {
    process: Child,
    socket: PathBuf,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Containers {
    /// Makes the bundle; the error says what this host lacks for it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "containers are started as root only");
        let folder = tempfile::Builder::new().prefix("kernlet-ct-").tempdir()?;
        let root = folder.path().join("rootfs");
        fs::create_dir(&root)?;
        let source = folder.path().join("echo.c");
        fs::write(&source, ECHO)?;
        run(Command::new("gcc").args(["-O2", "-static", "-o"]).arg(root.join("echo")).arg(&source))?;
        run(Command::new("runc").arg("spec").current_dir(folder.path()))?;
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["args"] = json!(["/echo"]);
        config["process"]["terminal"] = json!(false);
        fs::write(&path, config.to_string())?;
        Ok(Self { folder, started: Cell::new(0) })
    }

    /// One `runc run`.
    pub(crate) fn runc(&self, body: &[u8]) -> anyhow::Result<Duration> {
        let folder = self.folder.path();
        let mut command = Command::new("runc");
        command.arg("--root").arg(folder.join("runc")).args(["run", "--bundle"]).arg(folder).arg(self.next_name());
        echo(&mut command, body)
    }

    /// One `ctr run`.
    pub(crate) fn ctr(&self, containerd: &Containerd, body: &[u8]) -> anyhow::Result<Duration> {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&containerd.socket).args([
            "--namespace",
            "kernlet-bench",
            "run",
            "--rm",
            "--rootfs",
        ]);
        command.arg(self.folder.path().join("rootfs")).arg(self.next_name()).arg("/echo");
        echo(&mut command, body)
    }

    /// Starts a containerd without its Kubernetes interface, in the same folder.
    pub(crate) fn containerd(&self) -> anyhow::Result<Containerd> {
        let at = |name: &str| self.folder.path().join(name);
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("sock"),
            at("ttrpc")
        );
        fs::write(at("config.toml"), config)?;
        let process = Command::new("containerd")
            .arg("--config")
            .arg(at("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("containerd cannot be started; install it (Debian: apt install containerd)")?;
        let mut containerd = Containerd { process, socket: at("sock") };
        let give_up = Instant::now() + PATIENCE;
        while UnixStream::connect(&containerd.socket).is_err() {
            if let Some(status) = containerd.process.try_wait()? {
                bail!("containerd ended before it listened ({status})");
            }
            ensure!(Instant::now() < give_up, "containerd does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(containerd)
    }

    fn next_name(&self) -> String {
        self.started.set(self.started.get() + 1);
        format!("echo-{}-{}", std::process::id(), self.started.get())
    }
}

/// Runs a command that writes what it reads; the time until it has ended.
fn echo(command: &mut Command, body: &[u8]) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("it has no standard input")?;
    stdin.write_all(body)?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let time = start.elapsed();
    ensure!(output.stdout == body, "{command:?} gave {:?}", String::from_utf8_lossy(&output.stderr));
    Ok(time)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{program} is not installed"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
