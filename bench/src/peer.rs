//! What the platform is compared with over HTTP: plain hyper servers that give any body back, one by itself, one
//! by starting a program for every request. Each is this program, started again. They never log.

use std::{
    convert::Infallible,
    future::Future,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

type Answer = Response<Full<Bytes>>;

/// A peer's process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Peer {
    /// Starts this program as a peer and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(arguments)
            // Its end is the peer's sign to end.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("a peer cannot be started")?;
        let mut line = String::new();
        if let Some(stdout) = &mut process.stdout {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let Ok(address) = line.trim_end().parse() else {
            // It has said why on standard error.
            let _ = process.kill();
            bail!("the peer {arguments:?} ended before it listened ({})", process.wait()?);
        };
        Ok(Self { process, address })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Gives any body back, until standard input ends.
pub(crate) fn echo() -> anyhow::Result<()> {
    serve(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        match body.collect().await {
            Ok(body) => answer(&head.headers, body.to_bytes()),
            Err(error) => failed(error),
        }
    })
}

/// Gives any body back by way of a program that is started for it, as OpenFaaS's classic watchdog serves
/// functions, until standard input ends.
pub(crate) fn fork(program: PathBuf) -> anyhow::Result<()> {
    let program: Arc<Path> = program.into();
    serve(move |request: Request<Incoming>| {
        let program = Arc::clone(&program);
        async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else { return failed("the body broke off") };
            match through(&program, &body.to_bytes()).await {
                Ok(output) => answer(&head.headers, output.into()),
                Err(error) => failed(error),
            }
        }
    })
}

async fn through(program: &Path, body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut child = tokio::process::Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(body).await?;
    }
    Ok(child.wait_with_output().await?.stdout)
}

fn answer(request: &HeaderMap, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    let kind = request.get(CONTENT_TYPE).cloned().unwrap_or(HeaderValue::from_static("text/plain"));
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn failed(why: impl std::fmt::Display) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(why.to_string())));
    *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    answer
}

/// Serves on a free port, which it prints, as hyper's own example does: tokio's threads, one for each processor, and
/// a task a connection.
fn serve<F, S>(service: S) -> anyhow::Result<()>
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    std::thread::spawn(|| {
        // Until whoever started this process ends.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = service.clone();
            let service = service_fn(move |request| {
                let answer = service(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            // A client that hangs up ends its connection and nothing else.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    })
}
