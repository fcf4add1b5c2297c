//! The `/system/*` calls: functions, scale, info, logs, namespaces, as OpenFaaS's clients make them.
//! The server calls it once the credentials are checked.
//! It never answers 204, never `null` for a list, and never holds more than 1 MiB of a request.

use crate::Context;
use crate::answer::{self, chain};
use crate::body::{Body, Upload, UploadError};
use crate::deploy::Identity;
use crate::functions::{FunctionsError, Mode};
use crate::lines::Entry;
use crate::logs::{Filter, FunctionLog};
use crate::query::{LogQuery, Query, QueryError};
use crate::route::Route;
use crate::usage;
use crate::wire::{
    self, DeleteFunctionRequest, FunctionDeployment, FunctionStatus, JsonError, LogLine, PlatformInfo, ProviderInfo,
    ScaleServiceRequest, VersionInfo,
};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use kernlet_image::{NameError, Namespace};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

/// Largest request body of these calls, in bytes: far above any deployment.
const BODY_MAX: usize = 1024 * 1024;
/// How long such a body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Log lines that wait for a slow client; the rest waits in the files.
const LINES_AHEAD: usize = 64;
/// What this build is. The commit is whatever the build put into `KERNLET_COMMIT`.
const VERSION: VersionInfo = VersionInfo {
    release: env!("CARGO_PKG_VERSION"),
    sha: match option_env!("KERNLET_COMMIT") {
        Some(commit) => commit,
        None => "",
    },
};

/// Why a call was refused or failed.
#[derive(Debug, Error)]
enum CallError {
    #[error(
        "This path is not a call of this version. It has /system/functions, /system/function/NAME, /system/scale-function/NAME, \
         /system/info, /system/logs and /system/namespaces"
    )]
    Unknown,
    #[error("{0}")]
    Method(&'static str),
    #[error("The request body is larger than the {BODY_MAX} bytes that this call takes")]
    TooLarge,
    #[error("The request body did not come within {BODY_TIME:?}: send it again")]
    TooSlow,
    #[error("The request body broke off: send it again")]
    BrokenOff(#[source] UploadError),
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("The log query cannot be understood")]
    LogQuery(#[source] QueryError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("The path names the function {path:?} and the body's serviceName {body:?}: name the same one in both")]
    TwoNames { path: String, body: String },
    #[error(transparent)]
    Functions(#[from] FunctionsError),
    #[error("The function's log cannot be read")]
    Log(#[source] std::io::Error),
    #[error("The gateway failed at it: see its log")]
    Task(#[from] tokio::task::JoinError),
}

impl CallError {
    fn status(&self) -> StatusCode {
        match self {
            CallError::Unknown | CallError::Functions(FunctionsError::NotFound(_)) => StatusCode::NOT_FOUND,
            CallError::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            CallError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            CallError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            CallError::LogQuery(_) => StatusCode::UNPROCESSABLE_ENTITY,
            CallError::BrokenOff(_)
            | CallError::Json(_)
            | CallError::Query(_)
            | CallError::Name(_)
            | CallError::TwoNames { .. }
            | CallError::Functions(FunctionsError::Name(_) | FunctionsError::Replicas(_)) => StatusCode::BAD_REQUEST,
            CallError::Functions(FunctionsError::Deploy(error)) if error.is_the_requests() => StatusCode::BAD_REQUEST,
            CallError::Functions(_) | CallError::Log(_) | CallError::Task(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn into_answer(self) -> Response<Body<'static>> {
        if let CallError::Method(allowed) = self {
            return answer::wrong_method(allowed);
        }
        let status = self.status();
        if status.is_server_error() {
            tracing::error!(error = %chain(&self), "A call to /system failed");
        }
        answer::text(status, chain(&self))
    }
}

/// Answers a call to `/system/*`.
pub(crate) async fn handle(
    context: &Arc<Context>,
    route: Route<'_>,
    request: Request<Upload<'_>>,
) -> Response<Body<'static>> {
    run(context, route, request).await.unwrap_or_else(CallError::into_answer)
}

async fn run(
    context: &Arc<Context>,
    route: Route<'_>,
    request: Request<Upload<'_>>,
) -> Result<Response<Body<'static>>, CallError> {
    let method = request.method().clone();
    let query_text = request.uri().query().unwrap_or_default().to_owned();
    match route {
        Route::Functions => {
            let query = Query::parse(&query_text)?;
            match method {
                Method::GET => list(context, &query),
                Method::POST => deploy(context, &query, Mode::Create, request).await,
                Method::PUT => deploy(context, &query, Mode::Update, request).await,
                Method::DELETE => remove(context, &query, request).await,
                _ => Err(CallError::Method("GET, POST, PUT, DELETE")),
            }
        }
        Route::Function(name) if method == Method::GET => {
            let query = Query::parse(&query_text)?;
            let function = context.functions.find(name, query.get("namespace"))?;
            let usage = match query.get("usage") {
                Some("1" | "true") => Some(usage::of(&function).await),
                _ => None,
            };
            Ok(answer::json(&FunctionStatus { usage, ..function.status() }))
        }
        Route::Scale(name) if method == Method::POST => {
            scale(context, name, &Query::parse(&query_text)?, request).await
        }
        Route::Info if method == Method::GET => Ok(info()),
        Route::Namespaces if method == Method::GET => Ok(answer::json(&context.functions.namespaces())),
        Route::Logs if method == Method::GET => logs(context, &query_text).await,
        Route::Scale(_) => Err(CallError::Method("POST")),
        Route::Function(_) | Route::Info | Route::Namespaces | Route::Logs => Err(CallError::Method("GET")),
        _ => Err(CallError::Unknown),
    }
}

fn list(context: &Context, query: &Query) -> Result<Response<Body<'static>>, CallError> {
    let namespace = query.get("namespace").map_or_else(|| Ok(Namespace::default()), str::parse)?;
    Ok(answer::json(&context.functions.list(namespace.as_str())))
}

async fn deploy(
    context: &Arc<Context>,
    query: &Query,
    mode: Mode,
    request: Request<Upload<'_>>,
) -> Result<Response<Body<'static>>, CallError> {
    let deployment: FunctionDeployment = wire::read(&read_body(request).await?)?;
    let namespace = query.get("namespace").map(str::to_owned);
    let context = Arc::clone(context);
    to_its_end(async move { context.functions.deploy(deployment, namespace.as_deref(), mode).await }).await?;
    Ok(answer::empty(StatusCode::ACCEPTED))
}

async fn remove(
    context: &Arc<Context>,
    query: &Query,
    request: Request<Upload<'_>>,
) -> Result<Response<Body<'static>>, CallError> {
    let asked: DeleteFunctionRequest = wire::read(&read_body(request).await?)?;
    let identity = Identity::parse(&asked.function_name, asked.namespace.as_deref(), query.get("namespace"))?;
    let context = Arc::clone(context);
    to_its_end(async move { context.functions.remove(&identity).await }).await?;
    Ok(answer::empty(StatusCode::ACCEPTED))
}

async fn scale(
    context: &Arc<Context>,
    name: &str,
    query: &Query,
    request: Request<Upload<'_>>,
) -> Result<Response<Body<'static>>, CallError> {
    let asked: ScaleServiceRequest = wire::read(&read_body(request).await?)?;
    if let Some(body) = asked.service_name.filter(|body| !body.is_empty() && body != name) {
        return Err(CallError::TwoNames { path: name.to_owned(), body });
    }
    let identity = Identity::parse(name, asked.namespace.as_deref(), query.get("namespace"))?;
    let context = Arc::clone(context);
    to_its_end(async move { context.functions.scale(&identity, asked.replicas).await }).await?;
    Ok(answer::empty(StatusCode::ACCEPTED))
}

fn info() -> Response<Body<'static>> {
    answer::json(&PlatformInfo {
        provider: ProviderInfo { provider: "kernlet", orchestration: "kvm", version: VERSION },
        version: VERSION,
        arch: std::env::consts::ARCH,
    })
}

/// Runs a change in a task of its own: a client that goes away does not leave it half done.
async fn to_its_end(
    change: impl Future<Output = Result<(), FunctionsError>> + Send + 'static,
) -> Result<(), CallError> {
    Ok(tokio::spawn(change).await??)
}

/// Reads a body that has to be small and quick.
async fn read_body(request: Request<Upload<'_>>) -> Result<Vec<u8>, CallError> {
    let mut upload = request.into_body();
    let mut content = Vec::new();
    let read = timeout(BODY_TIME, async {
        while let Some(data) = upload.data().await {
            let data = data.map_err(CallError::BrokenOff)?;
            if content.len() + data.len() > BODY_MAX {
                return Err(CallError::TooLarge);
            }
            content.extend_from_slice(&data);
        }
        Ok(())
    });
    read.await.unwrap_or(Err(CallError::TooSlow)).map(|()| content)
}

async fn logs(context: &Arc<Context>, query: &str) -> Result<Response<Body<'static>>, CallError> {
    let query = LogQuery::parse(query).map_err(CallError::LogQuery)?;
    let function = context.functions.find(&query.name, query.namespace.as_deref())?;
    let filter = Filter { instance: query.instance, since: query.since, tail: query.tail };
    let (log, wanted) = (Arc::clone(function.log()), filter.clone());
    let (lines, later) = tokio::task::spawn_blocking(move || read_log(&log, &wanted)).await?.map_err(CallError::Log)?;
    let (sender, receiver) = mpsc::channel(LINES_AHEAD);
    let later = later.filter(|_| query.follow);
    let spec = function.spec();
    let skipped = Skipped { name: spec.name.to_string(), namespace: spec.namespace.to_string() };
    let mut stopping = context.stopping.clone();
    tokio::spawn(async move {
        for line in lines {
            if sender.send(line).await.is_err() {
                return;
            }
        }
        let Some(later) = later else { return };
        tokio::select! {
            () = follow(later, &sender, &filter, &skipped) => {}
            () = sender.closed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
    });
    let mut answer = Response::new(Body::Pieces(receiver));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(answer)
}

type LogStart = (std::collections::VecDeque<Bytes>, Option<broadcast::Receiver<Bytes>>);

fn read_log(log: &FunctionLog, filter: &Filter) -> std::io::Result<LogStart> {
    let mut reading = log.open()?;
    Ok((reading.lines(filter)?, reading.later))
}

/// Words the line that stands for those which a slow follower missed.
struct Skipped {
    name: String,
    namespace: String,
}

impl Skipped {
    fn line(&self, count: u64) -> Option<Bytes> {
        let entry =
            Entry::now("warn", &format!("{count} log lines are not shown: they came faster than this client reads"));
        let line = LogLine {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            instance: String::new(),
            timestamp: entry.timestamp,
            text: entry.text,
            report: None,
        };
        let mut line = serde_json::to_vec(&line).ok()?;
        line.push(b'\n');
        Some(line.into())
    }
}

/// Sends every later line that the filter wants, until the function is removed or the client goes.
async fn follow(
    mut later: broadcast::Receiver<Bytes>,
    sender: &mpsc::Sender<Bytes>,
    filter: &Filter,
    skipped: &Skipped,
) {
    loop {
        let line = match later.recv().await {
            Ok(line) if filter.wants(&line) => Some(line),
            Ok(_) => None,
            Err(broadcast::error::RecvError::Lagged(count)) => skipped.line(count),
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if let Some(line) = line
            && sender.send(line).await.is_err()
        {
            return;
        }
    }
}
