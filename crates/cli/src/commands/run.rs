//! `kernlet run`: one machine of an image in the foreground, for one request, with everything that can be seen of it.
//! Called by people who write functions. It needs no gateway and opens no port but the debugger's, when one is asked for.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use kernlet_image::{FunctionConfig, FunctionSpec, Isolation, Overrides, Reference, Store, StoreError};
use kernlet_monitor::{
    Backend, Crash, Debugger, Event, Hypervisor, Level, LogSink, Machine, MachineConfig, Observer, Program,
    ProgramMachine, Request, Response, Services, StopAt, Template, Usage, Used, Watchers, solo5,
};
use kernlet_watchdog::{CrashReport, Parts, TimeLimit};
use serde::Serialize;

use crate::commands::{invoke, key_value};
use crate::{Context, client, output};

/// Run one machine of an image here, for one request
///
/// Boots the function, asks it once (or more often: --repeat), prints the answer's body on stdout and what the
/// function logs on stderr, and ends. No gateway is needed. A crash is shown with registers, backtrace and the
/// last log lines.
///
/// With --trace every hypercall is a line on stderr:
///
///     0.004271 +    38.2µs find_resource("model.onnx") = 1, 13963115 bytes <2.3µs>
///
/// that is: seconds since the machine was made, time in the function before the call, the call, what the function
/// got, time in the monitor.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet run echo --body README.md
  kernlet run functions/echo/target/release/echo --path /headers -H 'Accept: */*'
  kernlet run classify --body cat.jpg --trace
  kernlet run faults --path /panic                 shows the crash report
  kernlet run echo --repeat 1000 --audit --json    proves that each rewind is complete

Exit codes:
  0  the function answered every request with a status from 200 to 399
  1  it answered with another, crashed or ran out of time; or the audit failed
  2  the command line is wrong")]
pub(crate) struct Args {
    /// An image of the store, or a unikernel's ELF file
    image: String,
    /// HTTP method [default: POST with a body, GET without]
    #[arg(long, short = 'X')]
    method: Option<Method>,
    /// Path below the function
    #[arg(long, value_name = "PATH", default_value = "/", value_parser = invoke::function_path)]
    path: String,
    /// Query parameter (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    query: Vec<(String, String)>,
    /// Request header (may be repeated)
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = invoke::request_header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// File to send; `-` is stdin [default: nothing]
    #[arg(long, short, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Environment variable of the function (may be repeated)
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = key_value)]
    env: Vec<(String, String)>,
    /// Resource beside those of the image (may be repeated)
    #[arg(long, value_name = "NAME=FILE", value_parser = key_value)]
    resource: Vec<(String, String)>,
    /// Memory of the machine, such as 64Mi [default: the image's, or 32Mi]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Longest that a request may take, such as 1.5s; 0 for no limit [default: the image's, or 30s]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<String>,
    /// Ask so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// What happens between two requests: rewind, fresh or reuse [default: the image's, or rewind]
    #[arg(long, value_name = "MODE")]
    isolation: Option<String>,
    /// After each rewind compare the machine with its template, bit for bit
    #[arg(long)]
    audit: bool,
    /// Print status and headers before the body, as `curl -i`
    #[arg(long, short)]
    include: bool,
    /// Print one JSON object instead of the body: times, answers, the crash report
    #[arg(long, conflicts_with = "include")]
    json: bool,
    /// Print every hypercall on stderr, with its times
    #[arg(long)]
    trace: bool,
    /// Wait for gdb on this port of 127.0.0.1 (0: any), and let it debug the function; lifts the time limit
    #[arg(long, value_name = "PORT")]
    gdb: Option<u16>,
    /// Where gdb is first given the function: before its first instruction, or before its first request
    #[arg(long, value_enum, value_name = "WHEN", default_value = "entry", requires = "gdb")]
    gdb_at: GdbAt,
    /// Say on stderr how long booting and each request took
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    backend: super::BackendArgs,
    #[command(flatten)]
    offload: super::OffloadArgs,
}

/// When gdb is first given the function.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum GdbAt {
    Entry,
    Request,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    let spec = spec(args, context)?;
    let call = OwnedRequest::new(args)?;
    let limit = TimeLimit::of_function(spec.config.exec_timeout);
    if args.audit && spec.config.isolation != Isolation::Rewind {
        bail!("--audit compares rewound machines; it goes with --isolation rewind");
    }
    let show = Show { include: args.include, json: args.json, verbose: args.verbose || args.json };
    let backend = args.backend.chosen;
    let mut session = Session { run: Run::default(), show, audit: args.audit, backend };
    let limit = if args.gdb.is_some() { TimeLimit::of_function(Duration::ZERO) } else { limit };
    let outcome = session.run(&spec, &call, limit, args);
    if show.json {
        output::json(&session.run)?;
    }
    match outcome? {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(crash) => {
            output::print_error(&crash_error(&crash));
            if let Some(report) = CrashReport::of(&crash) {
                output::note(report.to_string().trim_end());
            }
            Ok(ExitCode::FAILURE)
        }
    }
}

/// The crash and its causes as an error.
fn crash_error(crash: &Crash) -> anyhow::Error {
    let mut causes = vec![crash.to_string()];
    let mut source = std::error::Error::source(crash.cause());
    while let Some(error) = source {
        causes.push(error.to_string());
        source = error.source();
    }
    let innermost = anyhow!(causes.pop().unwrap_or_default());
    causes.into_iter().rev().fold(innermost, anyhow::Error::context)
}

/// Which function, from which files, under which limits.
fn spec(args: &Args, context: &Context) -> anyhow::Result<FunctionSpec> {
    let path = Path::new(&args.image);
    let (digest, kernel, mut resources, blocks, config) = if path.is_file() {
        (String::new(), path.to_path_buf(), Vec::new(), Vec::new(), FunctionConfig::default())
    } else {
        let unpacked = unpack(&args.image, path, context)?;
        (unpacked.digest, unpacked.kernel, unpacked.resources, unpacked.blocks, unpacked.config)
    };
    resources.extend(args.resource.iter().map(|(name, file)| (name.clone(), PathBuf::from(file))));
    let nothing = BTreeMap::new();
    let mut annotations = BTreeMap::new();
    for (name, value) in [
        ("dev.kernlet.memory", &args.memory),
        ("dev.kernlet.limits.timeout", &args.timeout),
        ("dev.kernlet.isolation", &args.isolation),
    ] {
        if let Some(value) = value {
            annotations.insert(name.to_owned(), value.clone());
        }
    }
    let environment: BTreeMap<String, String> = args.env.iter().cloned().collect();
    let overrides = Overrides {
        labels: &nothing,
        annotations: &annotations,
        environment: &environment,
        memory_limit: None,
        cpu_limit: None,
    };
    Ok(FunctionSpec {
        name: "run".parse().context("a function cannot be called run")?,
        namespace: kernlet_image::Namespace::default(),
        replica: 0,
        image: args.image.clone(),
        digest,
        template: None,
        kernel,
        resources,
        blocks,
        config: config.overridden_by(&overrides)?,
        environment,
    })
}

fn unpack(image: &str, path: &Path, context: &Context) -> anyhow::Result<kernlet_image::Unpacked> {
    let build_first = || {
        let folder = output::shell_word(image);
        anyhow!("{image} is a folder; make an image of it with `kernlet build {folder}` and run that")
    };
    let reference: Reference = match image.parse() {
        Ok(reference) => reference,
        Err(_) if path.is_dir() => return Err(build_first()),
        Err(_) if image.starts_with(['.', '/']) => bail!("there is no file {image}; build the function first"),
        Err(error) => return Err(error.into()),
    };
    Store::open(context.home()?.path())?.unpack(&reference).map_err(|error| match error {
        StoreError::UnknownImage { .. } if path.is_dir() => build_first(),
        error => error.into(),
    })
}

/// The request that every machine gets.
struct OwnedRequest {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl OwnedRequest {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let method = args.method.clone();
        let body = match &args.body {
            Some(file) => invoke::read_body(Some(file), &Method::POST)?,
            None => Bytes::new(),
        };
        let mut headers = HeaderMap::new();
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        for (name, value) in &args.header {
            if name == header::CONTENT_TYPE {
                headers.insert(name, value.clone());
            } else {
                headers.append(name, value.clone());
            }
        }
        let pairs = args.query.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Ok(Self {
            method: method.unwrap_or(if args.body.is_some() { Method::POST } else { Method::GET }),
            path: args.path.clone(),
            query: client::query(pairs).trim_start_matches('?').to_owned(),
            headers,
            body,
        })
    }

    fn with<R>(&self, call_id: &str, see: impl FnOnce(&Request<'_>) -> R) -> R {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        see(&Request {
            method: self.method.as_str(),
            path: &self.path,
            query: &self.query,
            headers: &headers,
            body: &self.body,
            call_id,
        })
    }
}

/// How answers are shown.
#[derive(Clone, Copy)]
struct Show {
    include: bool,
    json: bool,
    verbose: bool,
}

/// Everything that came of it, as `--json` prints it.
#[derive(Default, Serialize)]
struct Run {
    boot_us: u64,
    requests: Vec<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    crash: Option<CrashReport>,
}

/// One answer with what it took.
#[derive(Serialize)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body_bytes: usize,
    /// Nothing where it is not UTF-8.
    body: Option<String>,
    wall_us: f64,
    accel_us: f64,
    exits: u32,
    bytes_copied: u64,
    /// Rewinding, or making another machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    settle_us: Option<f64>,
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

struct Session {
    run: Run,
    show: Show,
    audit: bool,
    backend: Backend,
}

/// What a Solo5 unikernel's machine is made of.
struct Solo5 {
    hypervisor: Hypervisor,
    image: solo5::Image,
    machine: MachineConfig,
    services: Services,
    debugger: Option<Box<Debugger>>,
}

/// What the machine of a Solo5 unikernel is made of that serves by itself.
struct Serving {
    hypervisor: Hypervisor,
    server: solo5::server::Server,
    machine: MachineConfig,
    services: Services,
}

/// The outer error is ours, the inner one the function's.
type Outcome<T> = anyhow::Result<Result<T, Box<Crash>>>;

impl Session {
    fn run(&mut self, spec: &FunctionSpec, call: &OwnedRequest, limit: TimeLimit, args: &Args) -> Outcome<()> {
        let hypervisor = Hypervisor::choose(self.backend).context("no machine can run on this host")?;
        if let Some(warning) = hypervisor.warning() {
            output::note(&format!("a confined process instead of a virtual machine: {warning}"));
        }
        let accelerators = args.offload.accelerators(spec.config.agent.as_deref())?;
        let Parts { program, machine, accel } = Parts::read_with(spec, accelerators.plugins)?;
        accel.preload().context("the function's models cannot be loaded")?;
        let services = Services { accel, log: Arc::new(LogLines) };
        let unikernel = match program {
            Program::Native(unikernel) => unikernel,
            Program::Solo5(image) => {
                if args.trace {
                    bail!("--trace shows hypercalls of the guest library, and this is a Solo5 unikernel");
                }
                let debugger = args.gdb.map(|port| wait_for_gdb(port, args.gdb_at, &spec.kernel)).transpose()?;
                let solo5 = Solo5 { hypervisor, image, machine, services, debugger };
                return self.run_solo5(solo5, call, limit, args.repeat);
            }
            Program::Solo5Server(server) => {
                if args.trace || args.gdb.is_some() {
                    bail!(
                        "--trace and --gdb do not show this Solo5 unikernel, since it serves by itself: start it without the \
                         platform, on a tap of yours, with kernlet solo5-hvt --gdb --net:NAME=TAP FILE"
                    );
                }
                let solo5 = Serving { hypervisor, server, machine, services };
                return self.run_server(&solo5, call, limit, args.repeat);
            }
        };
        let watchers = Watchers {
            observer: args.trace.then(|| Box::new(TraceLines) as Box<dyn Observer>),
            debugger: args.gdb.map(|port| wait_for_gdb(port, args.gdb_at, &spec.kernel)).transpose()?,
        };
        let begun = Instant::now();
        let deadline = limit.deadline(begun);
        let booted = Template::boot_watched(&hypervisor, &unikernel, &machine, services.clone(), deadline, watchers);
        let took = begun.elapsed();
        self.run.boot_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let (template, mut machine) = match booted {
            Ok(booted) => booted,
            Err(crash) => return Ok(self.crashed(crash)),
        };
        self.say(&format!("booted in {:.1} µs", micros(took)));
        for number in 1..=args.repeat {
            let call_id = format!("run-{number}");
            let invoked = call.with(&call_id, |request| machine.invoke(request, limit.deadline(Instant::now())));
            let (used, response) = match invoked {
                Ok(invoked) => invoked,
                Err(crash) => return Ok(self.crashed(crash)),
            };
            self.answer(response)?;
            if number == args.repeat && !self.audit {
                machine = used.keep();
                break;
            }
            let next = || template.machine(&hypervisor, services.clone());
            machine = match self.settle(used, spec.config.isolation, next)? {
                Ok(machine) => machine,
                Err(crash) => return Ok(self.crashed(crash)),
            };
        }
        machine.finish();
        self.refuse_failures()
    }

    fn run_solo5(&mut self, solo5: Solo5, call: &OwnedRequest, limit: TimeLimit, repeat: u32) -> Outcome<()> {
        let Solo5 { hypervisor, image, machine, services, debugger } = solo5;
        let begun = Instant::now();
        let deadline = limit.deadline(begun);
        let booted = solo5::Template::boot_debugged(&hypervisor, &image, &machine, services, deadline, debugger);
        let booted = booted.map(|(_, machine)| ProgramMachine::Solo5(machine));
        self.repeat(booted, begun.elapsed(), call, limit, repeat)
    }

    fn run_server(&mut self, serving: &Serving, call: &OwnedRequest, limit: TimeLimit, repeat: u32) -> Outcome<()> {
        let Serving { hypervisor, server, machine, services } = serving;
        let begun = Instant::now();
        let deadline = limit.deadline(begun);
        let booted = solo5::server::Template::boot(hypervisor, server, machine, services.clone(), deadline);
        let booted = booted.map(|(_, machine)| ProgramMachine::Solo5Server(machine));
        self.repeat(booted, begun.elapsed(), call, limit, repeat)
    }

    /// Asks a Solo5 unikernel's machine so often. It is rewound after each request, whatever the isolation.
    fn repeat(
        &mut self,
        booted: Result<ProgramMachine, Box<Crash>>,
        took: Duration,
        call: &OwnedRequest,
        limit: TimeLimit,
        repeat: u32,
    ) -> Outcome<()> {
        self.run.boot_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut machine = match booted {
            Ok(machine) => machine,
            Err(crash) => return Ok(self.crashed(crash)),
        };
        self.say(&format!("booted in {:.1} µs", micros(took)));
        for number in 1..=repeat {
            let call_id = format!("run-{number}");
            let mut response = Response::default();
            let deadline = limit.deadline(Instant::now());
            let used = match call.with(&call_id, |request| machine.invoke_into(request, deadline, &mut response)) {
                Ok(used) => used,
                Err(crash) => return Ok(self.crashed(crash)),
            };
            self.answer(response)?;
            let begun = Instant::now();
            machine = match used.rewind() {
                Ok(machine) => machine,
                Err(crash) => return Ok(self.crashed(crash)),
            };
            self.settled(begun.elapsed(), Isolation::Rewind);
            if self.audit {
                self.audited(machine.audit())?;
            }
        }
        if let ProgramMachine::Solo5(machine) = machine {
            machine.finish();
        }
        self.refuse_failures()
    }

    fn settled(&mut self, took: Duration, isolation: Isolation) {
        let took = micros(took);
        if let Some(answer) = self.run.requests.last_mut() {
            answer.settle_us = Some(took);
        }
        self.say(&format!("{isolation}: {took:.1} µs"));
    }

    fn audited(&self, difference: Result<(), String>) -> anyhow::Result<()> {
        difference.map_err(|what| anyhow!("the rewound machine differs from its template: {what}"))?;
        self.say("audit: the machine equals its template");
        Ok(())
    }

    fn crashed(&mut self, crash: Box<Crash>) -> Result<(), Box<Crash>> {
        self.run.error = Some(crash.to_string());
        self.run.crash = CrashReport::of(&crash);
        Err(crash)
    }

    /// A machine for the next request.
    fn settle(
        &mut self,
        used: Used,
        isolation: Isolation,
        next: impl FnOnce() -> Result<Machine, Box<Crash>>,
    ) -> Outcome<Machine> {
        let begun = Instant::now();
        let settled = match isolation {
            Isolation::Rewind => used.rewind(),
            Isolation::Reuse => Ok(used.keep()),
            Isolation::Fresh => {
                let watchers = used.into_watchers();
                next().map(|mut machine| {
                    machine.watch(watchers);
                    machine
                })
            }
        };
        let took = begun.elapsed();
        let mut machine = match settled {
            Ok(machine) => machine,
            Err(crash) => return Ok(Err(crash)),
        };
        self.settled(took, isolation);
        if self.audit {
            self.audited(machine.audit())?;
        }
        Ok(Ok(machine))
    }

    fn answer(&mut self, response: Response) -> anyhow::Result<()> {
        let Response { status, headers, body, usage } = response;
        let Usage { wall, accel, exits, bytes_copied, .. } = usage;
        let (wall_us, accel_us) = (micros(wall), micros(accel));
        self.say(&format!("{}: {wall_us:.1} µs, {accel_us:.1} µs in accelerators, {exits} exits", status_line(status)));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers: Vec<_> = headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        if self.show.include {
            output::line(&format!("HTTP/1.1 {}", status_line(status)))?;
            for (name, value) in &headers {
                output::line(&format!("{}: {}", output::printable(name), output::printable(value)))?;
            }
            output::line("")?;
        }
        if !self.show.json {
            output::write(&body)?;
        }
        let body_bytes = body.len();
        let body = if self.show.json { String::from_utf8(body).ok() } else { None };
        self.run.requests.push(Answer {
            status,
            headers,
            body_bytes,
            body,
            wall_us,
            accel_us,
            exits,
            bytes_copied,
            settle_us: None,
        });
        Ok(())
    }

    /// An error if the function answered anything that is not well.
    fn refuse_failures(&self) -> Outcome<()> {
        let statuses = self.run.requests.iter().map(|answer| answer.status);
        match statuses.into_iter().find(|status| !(200..400).contains(status)) {
            Some(status) => bail!("the function answered {}", status_line(status)),
            None => Ok(Ok(())),
        }
    }

    fn say(&self, text: &str) {
        if self.show.verbose && !self.show.json {
            output::note(text);
        }
    }
}

/// Waits until gdb has connected.
fn wait_for_gdb(port: u16, when: GdbAt, kernel: &Path) -> anyhow::Result<Box<Debugger>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("cannot wait for gdb on port {port} of 127.0.0.1; choose another with --gdb PORT"))?;
    let port = listener.local_addr().context("cannot tell the port that gdb is to use")?.port();
    let kernel = output::shell_word(&kernel.display().to_string());
    output::note(&format!("waiting for gdb: gdb {kernel} -ex 'target remote 127.0.0.1:{port}'"));
    let (connection, _) = listener.accept().context("gdb could not connect")?;
    let stop_at = match when {
        GdbAt::Entry => StopAt::Entry,
        GdbAt::Request => StopAt::Request,
    };
    Ok(Box::new(Debugger::new(connection, stop_at)))
}

fn status_line(status: u16) -> String {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    reason.map_or_else(|| status.to_string(), |reason| format!("{status} {reason}"))
}

/// Writes the function's log to stderr.
#[derive(Debug)]
struct LogLines;

impl LogSink for LogLines {
    fn line(&self, _call_id: &str, level: Level, text: &str) {
        output::note(&format!("[{}] {}", level.name(), output::printable(text)));
    }
}

/// Writes a trace to stderr.
#[derive(Debug)]
struct TraceLines;

impl Observer for TraceLines {
    fn event(&mut self, event: &Event) {
        output::note(&event.to_string());
    }
}
