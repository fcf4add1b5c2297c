//! A process that stands in for a function's watchdog: this very test program, started by a two-line script. The
//! function's environment variable `STANDIN` says how it behaves. It exists to make faults that a real watchdog does
//! not make on demand, and to say exactly what the gateway sent.

#![allow(clippy::disallowed_methods, reason = "a stand-in that dies has nothing to put in order")]

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use kernlet_image::FunctionSpec;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::json;
use std::convert::Infallible;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

/// Lines that `/flood` writes, of more than 200 bytes each: more than the log keeps.
const FLOOD_LINES: u32 = 20_000;

type Reply = UnsyncBoxBody<Bytes, hyper::Error>;

/// Writes the script that the gateway starts as `<program> watchdog --spec FILE --listen fd:0`.
pub(crate) fn program(home: &Path) -> PathBuf {
    let path = home.join("standin");
    if path.exists() {
        return path;
    }
    let this = std::env::current_exe().unwrap();
    let script = format!(
        "#!/bin/sh\n[ \"$1 $2 $4 $5\" = 'watchdog --spec --listen fd:0' ] || exit 64\n\
         STANDIN_SPEC=\"$3\" exec '{}' --ignored --exact standin::the_process --nocapture\n",
        this.display()
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
#[ignore = "the body of the processes that other tests start"]
fn the_process() {
    let Ok(path) = std::env::var("STANDIN_SPEC") else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let spec: FunctionSpec = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(run(Arc::new(spec)));
    std::process::exit(0);
}

async fn run(spec: Arc<FunctionSpec>) {
    let mode = spec.environment.get("STANDIN").map_or("reflect", String::as_str);
    match mode {
        "dies" => {
            eprintln!("the kernel is not an ELF file");
            std::process::exit(3);
        }
        "dies once" => {
            let mark = Path::new(&spec.environment["MARK"]);
            if !mark.exists() {
                std::fs::write(mark, "").unwrap();
                std::process::exit(4);
            }
        }
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    listener.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(listener).unwrap();
    log("info", "", "the stand-in serves");
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            _ = terminate.recv() => return,
        };
        if mode == "garbage" {
            tokio::spawn(answer_garbage(stream));
            continue;
        }
        let spec = Arc::clone(&spec);
        let service = service_fn(move |request| answer(Arc::clone(&spec), request));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

/// Says things in a request's log.
fn log(level: &str, call_id: &str, text: &str) {
    let line = json!({"timestamp": "2026-01-02T03:04:05.678Z", "level": level, "source": "function", "call_id": call_id, "text": text});
    println!("{line}");
}

async fn answer_garbage(mut stream: tokio::net::UnixStream) {
    let mut head = [0; 4096];
    let length = stream.read(&mut head).await.unwrap();
    let ready = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let reply = if head[..length].starts_with(b"GET /_/ready") { ready } else { "this is not HTTP\r\n\r\n" };
    stream.write_all(reply.as_bytes()).await.unwrap();
}

async fn answer(spec: Arc<FunctionSpec>, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    let (head, body) = request.into_parts();
    let reply = |status: u16| Response::builder().status(status);
    let whole = |text: &str| Full::from(text.to_owned()).map_err(|never| match never {}).boxed_unsync();
    let empty = whole("");
    let response = match head.uri.path() {
        "/_/ready" => reply(200).body(empty),
        "/die" => {
            eprintln!("the machine is on fire");
            std::process::exit(7);
        }
        "/refuse" => reply(413).header("x-openfaas-internal", "watchdog").body(whole("too large for me")),
        "/used" => reply(200)
            .header("x-kernlet-usage", "wall=5000000, cpu=3000000, accel=1000000, exits=2, pages=3, in=4, out=5")
            .body(empty),
        "/never" => std::future::pending().await,
        "/redirect" => reply(302).header("location", "/elsewhere").body(empty),
        "/no-type" => reply(200).body(whole("x")),
        "/hop" => reply(200)
            .header("connection", "x-mine")
            .header("x-mine", "1")
            .header("keep-alive", "timeout=9")
            .body(empty),
        "/log" => {
            let call_id = head.headers["x-call-id"].to_str().unwrap().to_owned();
            log("warn", &call_id, "said in a request");
            println!("plain words");
            reply(200).body(empty)
        }
        "/flood" => {
            for number in 0..FLOOD_LINES {
                log("info", "", &format!("{number:0>200}"));
            }
            reply(200).body(empty)
        }
        "/duplex" => reply(200).body(body.boxed_unsync()),
        // Of a length that nobody states.
        "/pieces" => reply(200).body(body.map_frame(|frame| frame).boxed_unsync()),
        "/pid" => reply(200).body(whole(&std::process::id().to_string())),
        _ => {
            let headers: Vec<(&str, &str)> =
                head.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            let mut body = body;
            let mut length = 0;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { break };
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            let seen = json!({
                "method": head.method.as_str(), "uri": head.uri.to_string(), "headers": headers,
                "length": length, "replica": spec.replica, "version": spec.environment.get("VERSION"),
            });
            let mut response = reply(200).header("content-type", "application/json");
            if head.headers.contains_key("x-kernlet-timing") {
                response = response.header("server-timing", "watchdog;dur=0.1");
            }
            response.body(whole(&seen.to_string()))
        }
    };
    Ok(response.unwrap_or_else(|_| {
        let mut response = Response::new(whole(""));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    }))
}
