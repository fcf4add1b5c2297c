//! `kernlet demo`: from a checkout to a classified photograph, through the real platform, in one command.
//! Called by people on their first day, and by the end-to-end tests. It never keeps anything, unless told to.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use kernlet_gateway::Gateway as Platform;
use kernlet_image::{Reference, Store};
use kernlet_jail::Mode;
use kernlet_monitor::{Backend, Hypervisor};
use serde::Deserialize;
use tempfile::TempDir;
use tracing_subscriber::filter::LevelFilter;

use crate::client::{self, GatewayUrl};
use crate::commands::{build, up};
use crate::credentials::Credentials;
use crate::functions::{DEFAULT_NAMESPACE, Deployment, Gateway, Invocation};
use crate::home::Home;
use crate::output::{self, Paint, Step};
use crate::signals::StopSignals;
use crate::timing::{self, StageTimes};
use crate::{Context, logging, project};

/// See it work: build two functions, run them, classify a photograph
///
/// Builds functions/echo and functions/classify, starts the platform on this machine, deploys both over
/// HTTP as faas-cli would, and sends a picture to `classify`: a unikernel in a micro-VM, whose model the
/// host runs for it. Shows the labels and where the time went.
///
/// Everything is kept in a folder that is gone at the end. With --keep the platform stays up until Ctrl-C,
/// in the home that all other subcommands use, so that they can be tried on it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kernlet demo
  kernlet demo holiday.jpg
  kernlet demo --keep")]
pub(crate) struct Args {
    /// A JPEG or PNG to classify [default: models/pictures/cat.jpg of the checkout]
    picture: Option<PathBuf>,
    /// Leave the platform up at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    jail: super::JailArgs,
    #[command(flatten)]
    backend: super::BackendArgs,
}

/// The functions that the demo shows; each is a folder below `functions/` and an image of the same name.
const FUNCTIONS: [&str; 2] = ["echo", "classify"];

/// The picture for those who brought none.
const DEFAULT_PICTURE: &str = "models/pictures/cat.jpg";

/// How long a function may take to become ready before the demo gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What `classify` answers.
#[derive(Debug, Deserialize)]
struct Classified {
    predictions: Vec<Prediction>,
}

/// One label, the likeliest first.
#[derive(Debug, Deserialize)]
struct Prediction {
    class: u32,
    label: String,
    probability: f64,
}

/// One answer of `classify`, with what it took.
#[derive(Debug)]
struct Shot {
    classified: Classified,
    stages: StageTimes,
    whole: Duration,
}

/// The picture to send.
#[derive(Debug)]
struct Picture {
    path: PathBuf,
    bytes: Bytes,
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    logging::start(LevelFilter::WARN)?;
    let hypervisor = Hypervisor::choose(args.backend.chosen);
    let hypervisor = hypervisor.context("the demo cannot run here; `kernlet doctor` says more")?;
    if let Some(warning) = hypervisor.warning() {
        output::note(&format!("functions run as confined processes, since KVM cannot be used: {warning}"));
    }
    let root = project::find_root()?;
    let picture = Picture::read(args.picture.as_deref(), &root)?;
    let temporary = if args.keep || context.home_is_named() { None } else { Some(temporary_home()?) };
    let home = temporary.as_ref().map_or_else(|| context.home(), |folder| Ok(Home::at(folder.path())))?;
    let runtime = up::runtime()?;
    let outcome = runtime.block_on(perform(args, &home, root, &picture));
    // After a second signal a build may still be at work, and must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Builds, starts the platform, shows it, and stops it again, whatever came of it.
async fn perform(args: &Args, home: &Home, root: PathBuf, picture: &Picture) -> anyhow::Result<()> {
    let mut signals = StopSignals::new()?;
    let interrupted = || anyhow::anyhow!("stopped before the demo was over");
    let work = home.clone();
    let mut build = tokio::task::spawn_blocking(move || build_images(&root, &work));
    tokio::select! {
        built = &mut build => built??,
        () = signals.next() => {
            // What still writes into the demo's folder must end before the folder goes.
            tokio::select! {
                _ = build => {}
                () = signals.next() => {}
            }
            return Err(interrupted());
        }
    }
    let platform = start_platform(home, args.backend.chosen, args.jail.mode).await?;
    let shown = tokio::select! {
        shown = show(&platform, home, picture, args.keep) => shown,
        () = signals.next() => Err(interrupted()),
    };
    if shown.is_ok() && args.keep {
        signals.next().await;
    }
    up::stop(platform, &mut signals).await;
    shown
}

fn temporary_home() -> anyhow::Result<TempDir> {
    tempfile::Builder::new()
        .prefix("kernlet-demo-")
        .tempdir()
        .context("cannot make a folder for the demo; name one with --home DIR")
}

impl Picture {
    fn read(named: Option<&Path>, root: &Path) -> anyhow::Result<Self> {
        let path = named.map_or_else(|| relative_to_here(&root.join(DEFAULT_PICTURE)), Path::to_path_buf);
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read the picture {}", path.display()))?;
        Ok(Self { path, bytes: bytes.into() })
    }
}

/// Shortens a path that lies below the current folder, for people to read and repeat.
fn relative_to_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().ok();
    here.and_then(|here| path.strip_prefix(here).ok()).unwrap_or(path).to_path_buf()
}

fn build_images(root: &Path, home: &Home) -> anyhow::Result<()> {
    let store = Store::open(home.path())?;
    for function in FUNCTIONS {
        let dir = relative_to_here(&root.join("functions").join(function));
        let tag: Reference = function.parse().context("the demo's image has a bad name")?;
        build::build(&store, &dir, Some(tag), &build::BlockArgs::default(), &[])?;
    }
    Ok(())
}

/// Where OpenFaaS's clients look first, when nobody is there yet; else any free port.
async fn start_platform(home: &Home, backend: Backend, jail: Mode) -> anyhow::Result<Platform> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let listen = if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
    up::start_gateway(home, listen, None, backend, jail, super::OffloadArgs::default()).await
}

async fn show(platform: &Platform, home: &Home, picture: &Picture, keep: bool) -> anyhow::Result<()> {
    let url = GatewayUrl::from(platform.address());
    let gateway = Gateway::new(url.clone(), Credentials::in_home(home)?);
    deploy(&gateway, &url).await?;
    show_echo(&gateway).await?;
    let shots = [classify(&gateway, picture).await?, classify(&gateway, picture).await?];
    output::line(&describe_labels(picture, &shots[0].classified))?;
    output::line(&describe_times(&shots))?;
    output::line(&describe_next(&url, home, picture, keep))
}

async fn deploy(gateway: &Gateway, url: &GatewayUrl) -> anyhow::Result<()> {
    let step = Step::start(format!("deploy {} on {url}", FUNCTIONS.join(" and ")));
    for function in FUNCTIONS {
        let deployment = Deployment {
            service: function.to_owned(),
            image: format!("{function}:latest"),
            namespace: DEFAULT_NAMESPACE.to_owned(),
            ..Deployment::default()
        };
        gateway.deploy(&deployment).await?;
    }
    for function in FUNCTIONS {
        gateway.wait_ready(function, DEFAULT_NAMESPACE, PATIENCE).await?;
    }
    step.done("ready");
    Ok(())
}

async fn show_echo(gateway: &Gateway) -> anyhow::Result<()> {
    const LINE: &str = "hello, unikernel";
    let (answer, _, _) = invoke(gateway, "echo", LINE.into(), HeaderMap::new()).await?;
    let answer = String::from_utf8_lossy(&answer);
    if answer != LINE {
        bail!("echo was sent {LINE:?} and answered {answer:?}");
    }
    output::line(&format!("\necho     {LINE:?} came back as {answer:?}"))
}

async fn classify(gateway: &Gateway, picture: &Picture) -> anyhow::Result<Shot> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(timing::REQUEST_HEADER, HeaderValue::from_static("1"));
    let (answer, stages, whole) = invoke(gateway, "classify", picture.bytes.clone(), headers).await?;
    let classified = serde_json::from_slice(&answer).context("classify answered something else than its JSON")?;
    Ok(Shot { classified, stages, whole })
}

/// Sends one request; anything but success is an error that quotes the function.
async fn invoke(
    gateway: &Gateway,
    name: &str,
    body: Bytes,
    headers: HeaderMap,
) -> anyhow::Result<(Bytes, StageTimes, Duration)> {
    let invocation = Invocation {
        name: name.to_owned(),
        namespace: DEFAULT_NAMESPACE.to_owned(),
        method: Method::POST,
        path: String::new(),
        query: Vec::new(),
        headers,
        body,
    };
    let started = Instant::now();
    let response = gateway.invoke(invocation).await?;
    let stages = StageTimes::from_headers(response.headers());
    let (status, answer) = client::collect(response).await?;
    let whole = started.elapsed();
    if status != StatusCode::OK {
        bail!("{name} answered {status}: {}", String::from_utf8_lossy(&answer).trim_end());
    }
    Ok((answer, stages, whole))
}

fn describe_labels(picture: &Picture, classified: &Classified) -> String {
    let paint = Paint::for_stdout();
    let mut lines = vec![format!("classify {} is", picture.path.display())];
    for (rank, Prediction { class, label, probability }) in classified.predictions.iter().enumerate() {
        let line = format!("  {:6.2} %  {label}", probability * 100.0);
        let line = if rank == 0 { paint.bold(&line) } else { line.as_str().into() };
        lines.push(format!("{line} {}", paint.dim(&format!("(class {class})"))));
    }
    lines.join("\n")
}

/// The stages of a first and of a second request, in milliseconds.
fn describe_times(shots: &[Shot; 2]) -> String {
    let cell = |time: Option<f64>| time.map_or_else(|| format!("{:>10}", "?"), |time| format!("{time:>10.3}"));
    let [first, second] = shots;
    let mut lines = vec![format!("\n{:<24}{:>10}{:>10}  ms", "where the time went", "first", "again")];
    for ((stage, before), (_, after)) in first.stages.stages().into_iter().zip(second.stages.stages()) {
        lines.push(format!("  {stage:<22}{}{}", cell(before), cell(after)));
    }
    let [before, after] = [first, second].map(|shot| Some(shot.whole.as_secs_f64() * 1000.0));
    lines.push(format!("  {:<22}{}{}", "all, as the client saw", cell(before), cell(after)));
    lines.join("\n")
}

fn describe_next(url: &GatewayUrl, home: &Home, picture: &Picture, keep: bool) -> String {
    let path = output::shell_word(&picture.path.display().to_string());
    let curl = format!("curl --data-binary @{path} {url}/function/classify");
    if !keep {
        return format!(
            "\nagain, by hand: `kernlet demo --keep` first (in a checkout: cargo run --release -- demo --keep), then\n  {curl}"
        );
    }
    format!(
        "\nagain, by hand:\n  {curl}\nthe platform stays up at {url} until Ctrl-C; its home is {}\n  {}",
        home.path().display(),
        up::login_line(url, home)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(gateway: f64, whole: Duration) -> Shot {
        let stages = StageTimes { gateway: Some(gateway), ..StageTimes::default() };
        Shot { classified: Classified { predictions: Vec::new() }, stages, whole }
    }

    #[test]
    fn a_stage_that_nobody_reported_is_not_shown_as_zero() {
        let text = describe_times(&[shot(1.5, Duration::from_millis(20)), shot(0.25, Duration::from_millis(10))]);
        assert!(text.contains("gateway                    1.500     0.250"), "{text}");
        assert!(text.contains("guest                          ?         ?"), "{text}");
        assert!(text.contains("all, as the client saw    20.000    10.000"), "{text}");
    }

    #[test]
    fn the_curl_line_is_valid_where_it_is_printed() {
        let picture = Picture { path: "my pictures/cat.jpg".into(), bytes: Bytes::new() };
        let url = GatewayUrl::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)));
        let home = Home::at(Path::new("/h"));
        let kept = describe_next(&url, &home, &picture, true);
        assert!(
            kept.contains("curl --data-binary @'my pictures/cat.jpg' http://127.0.0.1:8080/function/classify"),
            "{kept}"
        );
        assert!(describe_next(&url, &home, &picture, false).contains("demo --keep"));
    }
}
