//! Keeps one replica's watchdog process running: starts it, reads its output, learns that it is ready, replaces it
//! when it dies, and ends it. A replica starts its supervisor, which reports back what happens.
//! It never hides a death: each one goes to the function's log with what the process last said.

use crate::agents::Switchboard;
use crate::answer::chain;
use crate::body::Upload;
use crate::lines::{Entry, Lines, Weight};
use crate::link::{self, Link};
use crate::logs::FunctionLog;
use crate::replica::{Failure, Launcher, Phase, Reports, StartError};
use http::StatusCode;
use kernlet_http1::AnswerHead;
use kernlet_image::FunctionSpec;
use kernlet_jail::cgroup::Cgroup;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A watchdog that lived this long did not die at once: the next death is again the first.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// The same for one that had become ready. It works, and was killed: its function is not kept from its callers. It is
/// ten times what a start takes, so that a function whose watchdogs die in every request takes little of a processor.
const STABLE_WHEN_READY: Duration = Duration::from_millis(250);
/// Pause before the third start in a row; it doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause between two starts.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a watchdog may take to end after SIGTERM before it is killed.
const TERMINATION_GRACE: Duration = Duration::from_secs(10);
/// Pause before it is asked again.
const TERMINATION_AGAIN: Duration = Duration::from_millis(200);
/// How long to wait for the rest of a dead watchdog's output.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// Pause before a watchdog that said "not ready" is asked again.
const READY_PAUSE: Duration = Duration::from_millis(100);
/// Lines of output, and bytes of each, that the cause of a failure quotes.
const RECENT_LINES: usize = 3;
const RECENT_LINE_MAX: usize = 400;

/// What keeps one replica's process running.
#[derive(Debug)]
pub(crate) struct Supervisor {
    launcher: Arc<Launcher>,
    instance: Arc<str>,
    log: Arc<FunctionLog>,
    socket: PathBuf,
    spec: PathBuf,
    listener: UnixListener,
    /// Where its process gets connections to the function's agent, if it has one, and what answers there.
    switchboard: Option<(PathBuf, Switchboard)>,
    /// Taken away with the supervisor, when its process has ended.
    cgroup: Option<Cgroup>,
    recent: Arc<Mutex<Recent>>,
}

/// What a process last said that may explain its end.
#[derive(Debug, Default)]
struct Recent {
    /// What it called an error itself, which then says it all.
    fault: Option<String>,
    others: VecDeque<String>,
}

impl Recent {
    fn remember(&mut self, entry: &Entry) {
        let text = || entry.text[..entry.text.floor_char_boundary(RECENT_LINE_MAX)].to_owned();
        match entry.weight {
            Weight::Routine => {}
            Weight::Fault => self.fault = Some(text()),
            Weight::Plain => {
                if self.others.len() == RECENT_LINES {
                    self.others.pop_front();
                }
                self.others.push_back(text());
            }
        }
    }

    fn words(&self) -> Option<String> {
        let others = || {
            let lines: Vec<&str> = self.others.iter().map(String::as_str).collect();
            (!lines.is_empty()).then(|| lines.join(" / "))
        };
        self.fault.clone().or_else(others)
    }
}

/// How attending a process ended.
enum Ended {
    /// It was told to.
    Stopped,
    /// By itself, with this cause.
    Died(String),
}

impl Supervisor {
    /// Binds the socket and writes the specification; no process yet.
    pub(crate) fn prepare(
        launcher: &Arc<Launcher>,
        spec: &FunctionSpec,
        log: &Arc<FunctionLog>,
        id: &str,
    ) -> Result<Supervisor, StartError> {
        let socket = launcher.folder.join(format!("{id}.sock"));
        let spec_path = launcher.folder.join(format!("{id}.json"));
        let encoded = serde_json::to_vec(spec).map_err(StartError::Encode)?;
        write_private(&spec_path, &encoded).map_err(|source| {
            remove(&spec_path);
            StartError::File { path: spec_path.clone(), source }
        })?;
        let listener = UnixListener::bind(&socket).map_err(|source| {
            remove(&spec_path);
            StartError::File { path: socket.clone(), source }
        })?;
        let mut supervisor = Supervisor {
            launcher: Arc::clone(launcher),
            instance: format!("{}-{id}", spec.name).into(),
            log: Arc::clone(log),
            socket,
            spec: spec_path,
            listener,
            switchboard: None,
            cgroup: None,
            recent: Arc::default(),
        };
        supervisor.switchboard = match supervisor.open_switchboard(spec, id) {
            Ok(switchboard) => switchboard,
            Err(error) => {
                supervisor.clean_up();
                return Err(error);
            }
        };
        match launcher.confinement.cgroup(id, spec) {
            Ok(cgroup) => supervisor.cgroup = cgroup,
            Err(error) => supervisor.say("warn", &format!("jailed, but without a control group: {}", chain(&error))),
        }
        Ok(supervisor)
    }

    /// Where the process gets connections to the function's agent. An agent that nobody knows any more is no error here: the
    /// process says so.
    fn open_switchboard(&self, spec: &FunctionSpec, id: &str) -> Result<Option<(PathBuf, Switchboard)>, StartError> {
        let agent = &spec.config.agent;
        let Some(agents) = &self.launcher.agents else { return Ok(None) };
        if !agents.has(agent.as_deref()).unwrap_or(false) {
            return Ok(None);
        }
        let path = self.launcher.folder.join(format!("{id}.dial"));
        match Switchboard::open(&path, Arc::clone(agents), agent.clone()) {
            Ok(switchboard) => Ok(Some((path, switchboard))),
            Err(source) => Err(StartError::File { path, source }),
        }
    }

    /// Starts a process with the listening socket as its standard input.
    pub(crate) fn spawn(&self) -> io::Result<Child> {
        let listener = OwnedFd::from(self.listener.try_clone()?);
        let mut command = Command::new(&self.launcher.program);
        command
            .arg("watchdog")
            .arg("--spec")
            .arg(&self.spec)
            .args(["--listen", "fd:0"])
            .args(["--jail", &self.launcher.confinement.mode().to_string()])
            .args(&self.launcher.options)
            .args(self.switchboard.iter().flat_map(|(path, _)| [OsStr::new("--accel-dialler"), path.as_os_str()]))
            .stdin(Stdio::from(listener))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal reaches the gateway alone, which then drains before it ends its watchdogs.
            .process_group(0)
            .kill_on_drop(true);
        let child = self.launcher.confinement.spawn(&mut command)?;
        if let (Some(cgroup), Some(pid)) = (&self.cgroup, child.id())
            && let Err(error) = cgroup.add(pid)
        {
            self.say("warn", &format!("jailed, but not in its control group: {}", chain(&error)));
        }
        Ok(child)
    }

    /// The socket that clients connect to.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Keeps a process running until it is told to stop.
    pub(crate) async fn run(self, first: Child, reports: Reports, mut stop: watch::Receiver<bool>) {
        let probe = Link::new(self.socket.clone());
        let mut started = Ok(first);
        let mut deaths_in_a_row = 0;
        loop {
            let since = Instant::now();
            reports.process.send_replace(started.as_ref().ok().and_then(Child::id));
            let cause = match started {
                Ok(child) => match self.attend(child, &probe, &reports.phase, &mut stop).await {
                    Ended::Stopped => break,
                    Ended::Died(cause) => cause,
                },
                Err(error) => format!("watchdog {} cannot be started: {error}", self.launcher.program.display()),
            };
            reports.deaths.send_modify(|deaths| {
                deaths.count += 1;
                deaths.latest = cause.as_str().into();
            });
            let was_ready = matches!(*reports.phase.borrow(), Phase::Ready);
            let stable_after = if was_ready { STABLE_WHEN_READY } else { STABLE_AFTER };
            deaths_in_a_row = if since.elapsed() >= stable_after { 1 } else { deaths_in_a_row + 1 };
            let pause = pause_after(deaths_in_a_row);
            let when = if pause.is_zero() { "now" } else { "soon" };
            self.say("error", &format!("The {cause}. Another one is started {when}."));
            if !pause.is_zero() {
                let failure = Failure { cause, retry_at: Instant::now() + pause };
                reports.phase.send_replace(Phase::Failing(Arc::new(failure)));
                tokio::select! {
                    () = sleep(pause) => {}
                    () = told_to_stop(&mut stop) => break,
                }
            }
            started = self.spawn();
            if started.is_ok() {
                reports.phase.send_replace(Phase::Starting);
            }
        }
        self.clean_up();
    }

    /// Reads the process's output and asks it whether it is ready, until it ends.
    async fn attend(
        &self,
        mut child: Child,
        probe: &Link,
        phase: &watch::Sender<Phase>,
        stop: &mut watch::Receiver<bool>,
    ) -> Ended {
        *self.recent() = Recent::default();
        let stdout = child.stdout.take().map(|pipe| self.read(pipe, Entry::from_stdout));
        let stderr = child.stderr.take().map(|pipe| self.read(pipe, |line| Entry::now("stderr", line)));
        let become_ready = async {
            wait_until_ready(probe).await;
            phase.send_replace(Phase::Ready);
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            status = child.wait() => {
                let output = async {
                    for reader in [stdout, stderr].into_iter().flatten() {
                        // An error says that the reader failed; the cause then quotes less.
                        let _ = reader.await;
                    }
                };
                // A process that the watchdog left behind may hold the pipes open.
                let _ = timeout(OUTPUT_GRACE, output).await;
                Ended::Died(self.cause(status))
            }
            never = become_ready => match never {},
            () = told_to_stop(stop) => {
                terminate(&mut child).await;
                Ended::Stopped
            }
        }
    }

    fn read(&self, pipe: impl AsyncRead + Unpin + Send + 'static, word: fn(&str) -> Entry) -> JoinHandle<()> {
        let (log, instance, recent) = (Arc::clone(&self.log), Arc::clone(&self.instance), Arc::clone(&self.recent));
        tokio::spawn(async move {
            let add = |line: &str| {
                let entry = word(line);
                recent.lock().unwrap_or_else(PoisonError::into_inner).remember(&entry);
                log.add(&instance, entry);
            };
            let mut pipe = pipe;
            let mut lines = Lines::default();
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
                lines.feed(&buffer[..length], add);
            }
            lines.finish(add);
        })
    }

    /// How the process ended and what it last said, to be put after "its" or "the".
    fn cause(&self, status: io::Result<ExitStatus>) -> String {
        let ended = match status {
            Ok(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("watchdog ended with exit status {code}"),
                (None, Some(signal)) => format!("watchdog was killed by signal {signal}"),
                (None, None) => "watchdog ended".to_owned(),
            },
            Err(error) => format!("watchdog cannot be waited for: {error}"),
        };
        match self.recent().words() {
            Some(words) => format!("{ended}: {}", words.trim_end_matches('.')),
            None => format!("{ended} without saying why"),
        }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, level: &str, text: &str) {
        self.log.add(&self.instance, Entry::now(level, text));
    }

    /// Deletes the sockets and the specification.
    pub(crate) fn clean_up(&self) {
        remove(&self.socket);
        remove(&self.spec);
        if let Some((path, _)) = &self.switchboard {
            remove(path);
        }
    }
}

/// Waits until the replica is retired, or dropped with its runtime.
async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // An error says that the replica is gone.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The pause before the next start after so many deaths in a row: none, then 100 ms, 200 ms, ... 5 s.
fn pause_after(deaths: u32) -> Duration {
    match deaths {
        0 | 1 => Duration::ZERO,
        _ => PAUSE_FIRST.saturating_mul(1 << (deaths - 2).min(16)).min(PAUSE_MAX),
    }
}

/// Asks until the watchdog says that it is ready. The socket exists from the start, so the first question waits in
/// its queue until the process takes it.
async fn wait_until_ready(link: &Link) {
    let mut head = AnswerHead::default();
    loop {
        if let Ok(mut answer) = link.send(&Question, Upload::none(), &mut head, &AtomicBool::default()).await {
            // The answer is read to its end so that the connection can be used again.
            while let Some(Ok(_)) = answer.data().await {}
            if head.status() == StatusCode::OK {
                return;
            }
        }
        sleep(READY_PAUSE).await;
    }
}

/// Whether the watchdog is ready.
struct Question;

impl link::Request for Question {
    fn method(&self) -> &'static str {
        "GET"
    }

    fn write_head(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"GET /_/ready HTTP/1.1\r\nhost: kernlet\r\n");
    }
}

async fn terminate(child: &mut Child) {
    let process = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    let asked = async {
        loop {
            if let Some(process) = process
                && let Err(error) = rustix::process::kill_process(process, rustix::process::Signal::TERM)
            {
                tracing::warn!(%error, "A watchdog cannot be asked to end");
            }
            // To the first process of a pid namespace a signal is lost that it does not handle yet.
            if timeout(TERMINATION_AGAIN, child.wait()).await.is_ok() {
                return;
            }
        }
    };
    if timeout(TERMINATION_GRACE, asked).await.is_err() {
        tracing::warn!("A watchdog did not end after SIGTERM and is killed");
        if let Err(error) = child.kill().await {
            tracing::error!(%error, "A watchdog cannot be killed");
        }
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "A replica's file cannot be deleted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_is_mended_at_once_and_the_pauses_grow_to_a_limit() {
        assert_eq!(pause_after(1), Duration::ZERO);
        assert_eq!(pause_after(2), Duration::from_millis(100));
        assert_eq!(pause_after(3), Duration::from_millis(200));
        assert_eq!(pause_after(8), PAUSE_MAX);
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}
